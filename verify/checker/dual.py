"""The dual bound: for any multipliers `rho` at all, a lower bound of an objective on every subproblem.

With `t` the objective's pull on an activation's outputs, `rho` any multipliers of its inputs, and `c = W^T (..)` what they pull
on everything before, every input of a subproblem satisfies

    objective  >=  constant + sum_i c_i . b_i + sum_layers min_{l <= z <= u} [ t sigma(z) - rho z ] + min_x c_0 . x ,

(Bunel et al. 2020; docs/certificate-format.md). The multipliers are *declared*: whatever floating-point numbers they are, they are
exact. What rounds is each product with a matrix and each sum. The two tiers share this code: in float64 every rounding
error is charged, in exact arithmetic (object arrays of rationals) there is none.

A product `W^T c` of k terms is off by at most `gamma_k |W|^T |c|` (Higham 2002, section 3.1; any order, fused or not), which
moves the bound by at most `gamma_k |c| . s`, where s bounds the sum of sizes that `W x + b` is made of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.checker.activations import MULTIPLYING, PIECEWISE, interval, minimum
from verify.checker.errors import NotProved, Refused
from verify.checker.factors import LARGEST32, TINY32, check_factors
from verify.checker.maps import Gather, Identity
from verify.checker.multipliers import Arithmetic, Given, Multipliers, Pair, add_at
from verify.checker.network import Activation, Affine, Input, Network
from verify.checker.rationals import rational, zeros

Array = NDArray[Any]
Rho = Callable[[int, Array], Multipliers]  # from the layer's number and t
_UNIT, _UNIT32 = 2.0**-53, 2.0**-24
UNDERFLOW = 2.0**-1000  # what all float64 products that underflow may lose, of values of size 1
_SMALL = 2.0**-960  # sums of larger terms lose no more to underflow than to rounding


@dataclass(frozen=True)
class Pulled:
    """A sweep on its way: `objective >= sum of pending . nodes' values + constant - error`.

    pending: by node, [subproblems, objectives, size]. constant, error: [subproblems, objectives].
    """

    pending: dict[int, Array]
    constant: Array
    error: Array


@dataclass(frozen=True)
class Linear:
    """`objective >= cotangent . x + constant - error` on a subproblem: [subproblems, objectives, ..]."""

    cotangent: Array
    constant: Array
    error: Array

    def bound(self, lower: Array, upper: Array) -> Array:
        """The least value on input boxes [subproblems, 1, inputs], rounded down."""
        at_lower = np.maximum(self.cotangent, 0) @ lower.swapaxes(-1, -2)
        at_upper = np.minimum(self.cotangent, 0) @ upper.swapaxes(-1, -2)
        return np.asarray((at_lower + at_upper)[..., 0] + self.constant - self.error)


class Dual:
    """A network with what bounding it in one arithmetic needs."""

    def __init__(self, network: Network, arithmetic: Arithmetic) -> None:
        self.network, self.arithmetic = network, arithmetic
        self._number: Callable[[float], Any] = rational if arithmetic.exact else float
        if arithmetic.deployed and network.undeployed:
            raise Refused(network.undeployed)
        if arithmetic.deployed:
            check_factors(network)
        self.maps, self.absolute, self.biases = {}, {}, {}
        for index, node in enumerate(network.nodes):
            if isinstance(node, Affine):
                maps = [(linear.exact() if arithmetic.exact else linear, i) for linear, i in node.operands]
                self.maps[index] = maps
                self.absolute[index] = [(linear.absolute(), i) for linear, i in maps]
                self.biases[index] = arithmetic.array(node.bias)
            elif isinstance(node, Activation) and arithmetic.deployed and node.kind not in PIECEWISE:
                raise Refused(f"how float32 libraries compute {node.kind} is not standardised")
        terms = [sum(linear.terms + 1 for linear, _ in maps) for maps in self.maps.values()]
        count = max(terms, default=1) + network.variables + network.outputs + len(network.nodes) + 64
        self._moves: dict[int, bool] = {}  # of affine nodes
        self.gamma = 0.0 if arithmetic.exact else sums(count)
        self._layer_of = {layer.node: number for number, layer in enumerate(network.layers)}

    @property
    def needs_sizes(self) -> bool:
        """Whether anything is charged for."""
        return any(self._errors(index) != (0, 0) for index in self.maps)

    def _errors(self, index: int, gamma: float | None = None) -> tuple[Any, Any]:
        """What may be off at an affine node, relative to its sizes and absolutely.

        The sums made here (`gamma`, of a whole sweep unless given), its coefficients, and what the deployed network rounds.
        """
        slack = max((linear.slack for linear, _ in self.maps[index]), default=0.0)
        relative = (self.gamma if gamma is None else gamma) + slack
        if not self.arithmetic.deployed or self._only_moves(index):
            return self._number(relative), self._number(0.0)
        count = self._terms(index)
        return self._number(relative + _gamma(count, _UNIT32)), self._number(count * TINY32)

    def _terms(self, index: int) -> int:
        """How many terms an affine node's values are sums of, and some to spare."""
        return sum(linear.terms + 1 for linear, _ in self.maps[index]) + 8

    def _only_moves(self, index: int) -> bool:
        """Whether each of an affine node's values is a value of an operand, in another place."""
        if index not in self._moves:
            maps = self.maps[index]
            alike = all(
                isinstance(linear, Identity) or (isinstance(linear, Gather) and linear.index.shape[1] == 1)
                for linear, _ in maps
            )
            uses = np.array([linear.forward(np.ones((1, linear.sources)))[0] for linear, _ in maps])
            self._moves[index] = alike and not self.biases[index].any() and bool((uses.sum(0) <= 1).all())
        return self._moves[index]

    # intervals

    def intervals(
        self, lower: Array, upper: Array, known: tuple[Array, Array] | None = None
    ) -> tuple[Array, Array]:
        """Bounds of all variables by interval arithmetic on boxes [subproblems, inputs], intersected with `known` ones."""
        return self.node_intervals(lower, upper, known)[0]

    def node_intervals(
        self, lower: Array, upper: Array, known: tuple[Array, Array] | None = None
    ) -> tuple[tuple[Array, Array], list[tuple[Array, Array]]]:
        """Those, and the bounds of every node's values."""
        found = [(lower, upper)]
        values: list[tuple[Array, Array]] = []
        for index, node in enumerate(self.network.nodes):
            if isinstance(node, Input):
                values.append((lower, upper))
            elif isinstance(node, Affine):
                values.append(self.affine_interval(index, values))
            else:
                low, high = values[node.operand]
                if known is not None:
                    columns = self.network.layers[self._layer_of[index]].variables
                    low = np.maximum(low, known[0][:, columns])
                    high = np.minimum(high, known[1][:, columns])
                found.append((low, high))
                values.append(self.outputs(node, low, np.maximum(low, high)))
        lowers, uppers = zip(*found, strict=True)
        return (np.concatenate(lowers, 1), np.concatenate(uppers, 1)), values

    def values(self, index: int, lower: Array, upper: Array) -> Pair:
        """The values of the input or of an activation on boxes [subproblems, variables]."""
        node = self.network.nodes[index]
        if isinstance(node, Input):
            return lower[:, : self.network.inputs], upper[:, : self.network.inputs]
        assert isinstance(node, Activation)
        columns = self.network.layers[self._layer_of[index]].variables
        return self.outputs(node, lower[:, columns], np.maximum(lower[:, columns], upper[:, columns]))

    def _underflow(self, index: int, size: Array, operands: list[Array]) -> Any:
        """What products too small for float64 may lose: something only where all terms are tiny and not all are 0."""
        tiny = size < _SMALL
        if self.arithmetic.exact or not tiny.any():
            return 0
        some: Any = np.abs(self.biases[index])[None]
        for (linear, _), operand in zip(self.absolute[index], operands, strict=True):
            some = some + linear.forward(np.where(operand > 0, 1.0, 0.0))
        return np.where(tiny & (some > 0), _SMALL, 0.0)

    def outputs(self, node: Activation, low: Array, high: Array) -> tuple[Array, Array]:
        """An activation's outputs on boxes; the deployed one's may round a product."""
        low, high = interval(node.kind, node.parameters, low, high)
        if self.arithmetic.deployed and node.kind in MULTIPLYING:
            unit, tiny = self._number(_UNIT32), self._number(TINY32)
            low, high = low - unit * np.abs(low) - tiny, high + unit * np.abs(high) + tiny
            large = np.maximum(np.abs(low), np.abs(high)) >= LARGEST32
            if self.arithmetic.exact and large.any():
                raise NotProved("values behind a steep slope may overflow float32")
            low, high = np.where(large, -np.inf, low), np.where(large, np.inf, high)
        return low, high

    def affine_interval(self, index: int, values: list[tuple[Array, Array]]) -> tuple[Array, Array]:
        """The interval of an affine node from those of its operands, rounded outward; infinite where nothing is known."""
        if self._only_moves(index):
            parts = [[linear.forward(end) for end in values[i]] for linear, i in self.maps[index]]
            lows, highs = zip(*parts, strict=True)
            return sum(lows[1:], lows[0]), sum(highs[1:], highs[0])
        centre: Any = self.biases[index][None]
        radius: Any = 0 * centre
        size: Any = np.abs(centre)
        half, sizes = self._number(0.5), []
        with np.errstate(invalid="ignore"):
            for (linear, operand), (absolute, _) in zip(self.maps[index], self.absolute[index], strict=True):
                low, high = values[operand]
                middle = (low + high) * half
                spread = np.maximum(high - middle, middle - low)
                sizes.append(np.abs(middle) + spread)
                centre = centre + linear.forward(middle)
                radius = radius + absolute.forward(spread)
                size = size + absolute.forward(sizes[-1])
            slack = self.lost(index, size, sizes)
            low, high = centre - radius - slack, centre + radius + slack
        if self.arithmetic.exact:
            return low, high
        return np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high)

    def lost(self, index: int, size: Array, operands: list[Array], more: int = 0) -> Array:
        """By how much an affine node's values may be off, as sums of terms of these sizes (`more`: besides its own), made of the operands'."""
        own = 0.0 if self.arithmetic.exact else sums(self._terms(index) + more)
        relative, least = self._errors(index, own)
        slack = relative * size + least + self._underflow(index, size, operands)
        if self.arithmetic.deployed:  # beyond that float32 may overflow, and nothing is known
            slack = np.where(size < LARGEST32, slack, np.inf)
        return np.asarray(slack)

    def sizes(self, lower: Array, upper: Array, each: bool = False) -> dict[int, Array]:
        """For every node [size]: what its values, and the terms they are sums of, are at most in absolute value.

        Over all subproblems given ([subproblems, variables] bounds), and so over every part of them; or over `each`, [subproblems, size].
        """
        found: dict[int, Array] = {}
        for index, node in enumerate(self.network.nodes):
            if isinstance(node, Affine):
                size: Any = np.abs(self.biases[index])[None]
                operands = [found[operand] for _, operand in self.absolute[index]]
                for (linear, _), operand in zip(self.absolute[index], operands, strict=True):
                    size = size + linear.forward(operand)
                relative, least = self._errors(index)
                found[index] = size * (1 + relative) + least + self._underflow(index, size, operands)
                if self.arithmetic.deployed:
                    found[index] = np.where(found[index] < LARGEST32, found[index], np.inf)
                continue
            columns = slice(0, self.network.inputs)
            if isinstance(node, Activation):
                columns = self.network.layers[self._layer_of[index]].variables
            low, high = lower[:, columns], np.maximum(lower[:, columns], upper[:, columns])
            if isinstance(node, Activation):
                low, high = self.outputs(node, low, high)
            values = np.maximum(np.abs(low), np.abs(high))
            found[index] = values if each else values.max(0, keepdims=True)
        return found if each else {index: size[0] for index, size in found.items()}

    # the sweep

    def sweep(
        self,
        lower: Array,
        upper: Array,
        start: dict[int, Array],
        constant: Array,
        error: Array,
        rho: Rho,
        sizes: dict[int, Array],
    ) -> Linear:
        """The objective as a linear function of the input.

        lower, upper: [subproblems, variables], for all objectives of a subproblem. start: the objective's coefficients on nodes' values,
        [subproblems, objectives, size] each; constant, error: [subproblems, objectives], what it has besides and how far that is off.
        """
        every = Pulled(dict(start), constant, error)
        return self.finished(self.descended(lower, upper, every, 1, rho, sizes), sizes)

    def descended(
        self, lower: Array, upper: Array, pulled: Pulled, last: int, rho: Rho, sizes: dict[int, Array]
    ) -> Pulled:
        """The part of a sweep that ends with node `last`: what is left pulls on nodes before it."""
        pending, constant, error = dict(pulled.pending), pulled.constant, pulled.error
        for index in range(max(pending), last - 1, -1):
            c = pending.pop(index, None)
            if c is None:
                continue
            node = self.network.nodes[index]
            if isinstance(node, Affine):
                constant = constant + c @ self.biases[index]
                error = error + self.affine_error(index, c, sizes)
                for linear, operand in self.maps[index]:
                    join(pending, operand, transposed(linear.transpose, c))
                continue
            assert isinstance(node, Activation)
            number = self._layer_of[index]
            columns = self.network.layers[number].variables
            low, high = lower[:, None, columns], upper[:, None, columns]
            multipliers = rho(number, c)
            values = multipliers.values
            if multipliers.given is not None:
                constant, error = self._give(multipliers.given, index, c, pending, (constant, error), sizes)
                c = multipliers.given.rest(c)
            few: Any = slice(None) if multipliers.bent is None else multipliers.bent
            least = minimum(node.kind, node.parameters, *(part[..., few] for part in (c, values, low, high)))
            constant = constant + least.sum(-1)
            error = error + self._activation_error(index, node, c, multipliers, sizes)
            join(pending, node.operand, values)
        return Pulled(pending, constant, error)

    def _give(
        self,
        given: Given,
        index: int,
        t: Array,
        pending: dict[int, Array],
        found: Pair,
        sizes: dict[int, Array],
    ) -> Pair:
        """The constant and the error once amounts are pulled on through functions above an activation's outputs."""
        node, above, amounts = self.network.nodes[index], given.above, given.amounts
        assert isinstance(node, Activation)
        constant, error = found[0] - amounts @ above.offsets, found[1]
        own = zeros((*t.shape[:2], self.network.nodes[node.operand].size), t.dtype)
        add_at(own, above.places, -amounts * above.slopes)
        join(pending, node.operand, own)
        for source, (columns, coefficients) in above.parts.items():
            size = self.network.nodes[source].size
            part = zeros((*t.shape[:2], size), t.dtype)
            part[..., columns] = -(amounts @ coefficients)
            join(pending, source, part)
        if self.gamma:
            size = sizes[index][above.places] + np.abs(above.slopes) * sizes[node.operand][above.places]
            size = size + np.abs(above.offsets)
            for source, (columns, coefficients) in above.parts.items():
                size = size + np.abs(coefficients) @ sizes[source][columns]
            error = error + self.gamma * (
                2 * (amounts @ size) + np.abs(t)[..., above.places] @ sizes[index][above.places]
            )
        return constant, error

    def finished(self, pulled: Pulled, sizes: dict[int, Array]) -> Linear:
        """The end of a sweep, where nothing is left to pull on but the input."""
        shape = (*pulled.constant.shape, self.network.inputs)
        c = pulled.pending.get(0)
        c = np.full(shape, self._number(0.0)) if c is None else np.broadcast_to(c, shape)
        error = pulled.error
        if self.gamma:
            lost = UNDERFLOW * sum(float(size.sum()) for size in sizes.values())
            error = (error + self.gamma * weighed(c, sizes[0])) * (1 + 1e-9) + (lost + UNDERFLOW)
        return Linear(c, pulled.constant, error)

    def affine_error(self, index: int, c: Array, sizes: dict[int, Array]) -> Any:
        """How far a sweep may be off that pulls an affine node's `c` on to its operands."""
        errors = self.entry_errors(index, sizes)
        return 0 if errors is None else weighed(c, errors)

    def entry_errors(self, index: int, sizes: dict[int, Array]) -> Array | None:
        """That for each of an affine node's values, where `c` is 1; None where there is none."""
        relative, absolute = self._errors(index)
        return relative * sizes[index] + absolute if relative or absolute else None

    def _activation_error(
        self, index: int, node: Activation, t: Array, rho: Multipliers, sizes: dict[int, Array]
    ) -> Any:
        error: Any = 0
        if self.gamma:
            own, operand = sizes[index], sizes[node.operand]
            if rho.bent is None or rho.slope is None:
                error = weighed(t, own) + weighed(rho.values, operand)
            else:
                error = weighed(t, own + rho.slope * operand)
                error = error + weighed(rho.values[..., rho.bent], operand[..., rho.bent])
            error = self.gamma * error
        if self.arithmetic.deployed and node.kind in MULTIPLYING:
            unit, tiny = self._number(_UNIT32), self._number(TINY32)
            error = error + weighed(t, unit * sizes[index] + tiny)
        return error


def weighed(c: Array, sizes: Array) -> Array:
    """The sums of `|c|` ([subproblems, objectives, size]) times sizes: [size] of all subproblems, or [subproblems, size]."""
    if sizes.ndim == 1:
        return np.asarray(np.abs(c) @ sizes)
    return np.asarray((np.abs(c) @ sizes[..., None])[..., 0])


def sums(terms: int) -> float:
    """What a sum of so many terms may be off by in float64, of the sum of their sizes, four times over."""
    return 4 * _gamma(terms, _UNIT)


def _gamma(count: int, unit: float) -> float:
    if count * unit >= 0.5:
        raise Refused("the network is too wide for the rounding errors of this arithmetic to be bounded")
    return count * unit / (1 - count * unit)


def transposed(transpose: Callable[[Array], Array], c: Array) -> Array:
    """A map's transpose on [subproblems, objectives, size]."""
    flat = transpose(c.reshape(-1, c.shape[-1]))
    return flat.reshape(*c.shape[:-1], flat.shape[-1])


def join(pending: dict[int, Array], node: int, cotangent: Array) -> None:
    """Adds what pulls on a node."""
    pending[node] = pending[node] + cotangent if node in pending else cotangent
