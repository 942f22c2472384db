"""Bounds in the arithmetic that it takes: float64 with its rounding errors charged first, rationals for what that leaves open.

Both tiers evaluate the same declared multipliers: those that a block holds, or CROWN's, once worked out in float64.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.checker.activations import EXACT, default_rho
from verify.checker.activations.relu import relu_slopes
from verify.checker.ball import Ball
from verify.checker.clauses import Rows
from verify.checker.cuts import InUse
from verify.checker.dual import Dual, Linear, Rho, weighed
from verify.checker.errors import NotProved
from verify.checker.multipliers import Arithmetic, Multipliers
from verify.checker.network import Network

Array = NDArray[Any]
Pair = tuple[Array, Array]


@dataclass(frozen=True)
class Objective:
    """`weights . (C y + E x - d)`, and `aside . z` on an earlier node's values beside it.

    weights: [subproblems, objectives, rows], none negative. rows: one clause's for each subproblem, one for all, or none. aside: the
    node, and coefficients [subproblems, objectives, size].
    """

    weights: Array
    rows: list[Rows]
    aside: tuple[int, Array] | None = None

    def select(self, subproblems: Array, objectives: Array) -> Objective:
        """Some objectives of some subproblems."""
        rows = self.rows if len(self.rows) < 2 else [self.rows[i] for i in subproblems.tolist()]
        aside = None if self.aside is None else (self.aside[0], self.aside[1][subproblems][:, objectives])
        return Objective(self.weights[subproblems][:, objectives], rows, aside)

    def start(self, dual: Dual, sizes: dict[int, Array]) -> tuple[dict[int, Array], Array, Array]:
        """Coefficients by node, the constant, and how far they may be off; see `Dual.sweep`."""
        arithmetic = dual.arithmetic
        start: dict[int, Array] = {}
        constant = error = arithmetic.array(np.zeros(self.weights.shape[:2]))
        if self.rows:
            start, constant, error = self._start_rows(dual, sizes)
        if self.aside is not None:
            node, coefficients = self.aside
            beside = arithmetic.array(coefficients)
            start[node] = start[node] + beside if node in start else beside
        return start, constant, error

    def _start_rows(self, dual: Dual, sizes: dict[int, Array]) -> tuple[dict[int, Array], Array, Array]:
        """That of the weighted rows."""
        arithmetic, last = dual.arithmetic, len(dual.network.nodes) - 1
        weights = arithmetic.array(self.weights)
        outputs = arithmetic.array(np.stack([rows.outputs for rows in self.rows]))
        ends = [rows.exact_thresholds if arithmetic.exact else rows.thresholds for rows in self.rows]
        thresholds = np.stack([arithmetic.array(end) for end in ends])
        start = {last: weights @ outputs}
        constant: Array = -(weights @ thresholds[:, :, None])[..., 0]
        size = weighed(outputs, sizes[last]) + np.abs(thresholds) if dual.gamma else 0 * thresholds
        if any(rows.inputs is not None for rows in self.rows):
            inputs = arithmetic.array(
                np.stack([rows.dense_inputs(dual.network.inputs) for rows in self.rows])
            )
            start[0] = weights @ inputs
            size = size + weighed(inputs, sizes[0]) if dual.gamma else size
        gamma = dual.gamma * (1 + weights.shape[2] / 64)  # which counts on 64 terms to spare
        error: Array = gamma * (weights @ size[:, :, None])[..., 0] if dual.gamma else 0 * constant
        return start, constant, error


class Bounder:
    """Bounds objectives on subproblems. With `arithmetic.exact` everything is decided in rationals, not only what float64 leaves.

    ball: that all unsafe points lie in.
    """

    def __init__(
        self, network: Network, arithmetic: Arithmetic, until: float = math.inf, ball: Ball | None = None
    ) -> None:
        self.network, self._until, self._ball = network, until, ball
        self.dual = Dual(network, replace(arithmetic, exact=False))
        self.in_rationals = 0  # bounds decided so
        self.all_exact, self._arithmetic = arithmetic.exact, replace(arithmetic, exact=True)
        self._exact: Dual | None = None
        self._can_be_exact = all(layer.kind in EXACT for layer in network.layers)

    def check_time(self) -> None:
        """NotProved once the time (`time.monotonic`) is past `until`."""
        if time.monotonic() > self._until:
            raise NotProved("time is up")

    def reach(
        self,
        bounds: Pair,
        objective: Objective,
        rho: Rho,
        sizes: dict[int, Array],
        needed: Array,
        strictly: bool,
    ) -> Pair:
        """Bounds [subproblems, objectives], and which of them are at least `needed` (-inf: not asked for), or more than that."""
        self.check_time()
        lower, upper = bounds
        declared: dict[int, Multipliers] = {}

        def declare(layer: int, t: Array) -> Multipliers:
            declared[layer] = rho(layer, t)
            return declared[layer]

        inputs = slice(0, self.network.inputs)
        linear = self.dual.sweep(lower, upper, *objective.start(self.dual, sizes), declare, sizes)
        bound, error = self._least(self.dual, linear, lower[:, None, inputs], upper[:, None, inputs])
        reached = np.asarray((bound > needed if strictly else bound >= needed) & np.isfinite(bound))
        if self._can_be_exact:
            # exact values are at most twice the errors charged above: below that there is no hope
            hopeful = self.all_exact | (~reached & ~(bound + 2.5 * error < needed))
            undecided = hopeful & (needed > -math.inf)
            for subproblem in np.flatnonzero(undecided.any(1)).tolist():
                self.check_time()
                at, left = np.array([subproblem]), np.flatnonzero(undecided[subproblem])
                multipliers = {
                    layer: found.part(reached.shape, at, left) for layer, found in declared.items()
                }
                found = self._in_rationals((lower[at], upper[at]), objective.select(at, left), multipliers)
                if found is not None:
                    least = self._arithmetic.array(needed[subproblem, left])
                    reached[subproblem, left] = found > least if strictly else found >= least
                    bound[subproblem, left] = [float(value) for value in found]
        return bound, reached

    def _in_rationals(
        self, bounds: Pair, objective: Objective, declared: dict[int, Multipliers]
    ) -> Array | None:
        """The bounds of one subproblem's objectives; None where a number that it takes is not finite."""
        needed = np.zeros(self.network.variables, dtype=bool)
        needed[: self.network.inputs] = True
        for layer in declared:
            needed[self.network.layers[layer].variables] = True
        bounds = np.where(needed, bounds[0], 0.0), np.where(needed, bounds[1], 0.0)
        if not all(np.isfinite(end).all() for end in bounds):
            return None
        if not all(multipliers.finite for multipliers in declared.values()):
            return None
        dual, inputs = self.exact, slice(0, self.network.inputs)
        low, high = (dual.arithmetic.array(end) for end in bounds)
        sizes = dual.sizes(low, high) if dual.needs_sizes else {}
        multipliers = {layer: found.in_numbers_of(dual.arithmetic) for layer, found in declared.items()}
        start = objective.start(dual, sizes)
        linear = dual.sweep(low, high, *start, lambda layer, _: multipliers[layer], sizes)
        found = self._least(dual, linear, low[:, None, inputs], high[:, None, inputs])[0][0]
        self.in_rationals += len(found)
        return np.asarray(found)

    def _least(self, dual: Dual, linear: Linear, lower: Array, upper: Array) -> Pair:
        """The least values of linear functions on input boxes, in the ball if there is one, and the errors that are charged."""
        if self._ball is None:
            return linear.bound(lower, upper), linear.error
        return self._ball.least(dual, linear, lower, upper)

    @property
    def exact(self) -> Dual:
        """The network in rational arithmetic."""
        if self._exact is None:
            self._exact = Dual(self.network, self._arithmetic)
        return self._exact

    def propagated(self, bounds: Pair) -> Pair:
        """The subproblems with what interval arithmetic makes of what is known of them."""
        inputs = slice(0, self.network.inputs)
        return self.dual.intervals(bounds[0][:, inputs], bounds[1][:, inputs], bounds)

    def default(self, bounds: Pair) -> Rho:
        """CROWN's multipliers."""
        lower, upper = bounds

        def rho(number: int, t: Array) -> Multipliers:
            layer = self.network.layers[number]
            low, high = lower[:, None, layer.variables], upper[:, None, layer.variables]
            return Multipliers(default_rho(layer.kind, layer.parameters, t, low, high))

        return rho

    def sloped(
        self,
        bounds: Pair,
        alphas: dict[int, Array],
        splits: Pair | None = None,
        shares: tuple[InUse, Array] | None = None,
    ) -> Rho:
        """Given slopes of ReLUs times cotangents, plus the multipliers of splits (variables [subproblems, depth], values the same for
        all objectives or [subproblems, objectives, depth]); first, cuts have their shares ([subproblems, cuts in use])."""
        lower, upper = bounds
        default = self.default(bounds)

        def rho(number: int, t: Array) -> Multipliers:
            layer = self.network.layers[number]
            if number not in alphas:
                return default(number, t)
            given = None
            if shares is not None and number in shares[0].layers:
                given = shares[0].layers[number].given(shares[1], t)
                t = given.rest(t)
            low, high = lower[:, None, layer.variables], upper[:, None, layer.variables]
            own = () if splits is None else (layer.variables, *splits)
            return replace(_few_bent(t, low, high, alphas[number], *own), given=given)

        return rho

    def pieces(self, count: int, chunk: int) -> list[slice]:
        """Slices of so many objectives that they fit."""
        step = max(1, chunk // max(node.size for node in self.network.nodes))
        return [slice(start, start + step) for start in range(0, count, step)]


def _few_bent(t: Array, lower: Array, upper: Array, alpha: Array, *splits: Any) -> Multipliers:
    """The multipliers of ReLUs; most are linear, and alike so in all subproblems: they take no more than a factor."""
    slope = np.where(lower >= 0, 1.0, 0.0)
    alike = ((lower >= 0) | (upper <= 0)).all((0, 1)) & (slope == slope[:1]).all((0, 1))
    if splits:
        columns, variables = splits[0], splits[1]
        cut = variables[(variables >= columns.start) & (variables < columns.stop)] - columns.start
        alike[cut] = False  # whatever they are, they have a multiplier besides
    bent = np.flatnonzero(~alike)
    found = t * slope[:1]
    some = lower[..., bent], upper[..., bent], alpha[..., bent]
    found[..., bent] = t[..., bent] * relu_slopes(t[..., bent], *some)
    if splits:
        add_splits(found, *splits)
    slope = slope[0, 0]
    slope[bent] = 0.0
    return Multipliers(found, bent, slope)


def add_splits(rho: Array, columns: slice, variables: Array, multipliers: Array) -> None:
    """Adds the multipliers of a layer's own splits to its `rho` ([subproblems, objectives, size])."""
    row, place = np.nonzero((variables >= columns.start) & (variables < columns.stop))
    neurons = variables[row, place] - columns.start
    own = multipliers if multipliers.ndim == 3 else multipliers[:, None]
    objectives = np.arange(rho.shape[1])[None]
    np.add.at(rho, (row[:, None], objectives, neurons[:, None]), own[row, :, place])
