"""Claims over the unsafe points of subproblems, proved some subproblems at a time: what a claim says is settled where it stands in the file,
when it is worked out is not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.checker.bounding import Bounder, Objective, Pair
from verify.checker.clauses import Rows
from verify.checker.cuts import Cuts, InUse
from verify.checker.dual import Dual, Pulled, join
from verify.checker.errors import NotProved
from verify.checker.network import Affine

Array = NDArray[Any]
_TOGETHER = 96  # claims at a time: more spill out of the processor's caches
_CHUNK = 6_000_000  # numbers of one tensor at a time
_KEPT = 20_000_000  # entries of a node's matrices


@dataclass(frozen=True, eq=False)
class Lemma:
    """Bounds of some neurons of a layer over the unsafe points of a node's subproblem, and all that their proof takes.

    sides: 1 for lower bounds, -1 for upper ones. weights: [claims, rows]. bounds: [1, variables] each. alphas: by layer,
    [1, 1, size]. splits: the variables split on the way, multipliers: theirs for weights that sum to 1. cuts: the numbers of those that have
    shares.
    """

    node: int
    layer: int
    neurons: Array
    sides: Array
    claims: Array
    weights: Array
    rows: Rows
    bounds: Pair
    alphas: dict[int, Array]
    splits: Array
    multipliers: Array
    sizes: dict[int, Array]
    cuts: Array
    shares: Array

    def __len__(self) -> int:
        return len(self.neurons)

    def part(self, some: slice) -> Lemma:
        """Some of the claims."""
        return replace(
            self,
            neurons=self.neurons[some],
            sides=self.sides[some],
            claims=self.claims[some],
            weights=self.weights[some],
        )


class Lemmas:
    """Collects lemmas by layer, and proves them."""

    def __init__(self, bounder: Bounder, cuts: Cuts) -> None:
        self._bounder, self._cuts, self._waiting = bounder, cuts, dict[int, list[Lemma]]()
        widest = max(node.size for node in bounder.network.nodes)
        self._most = min(_TOGETHER, max(1, _CHUNK // widest))
        self._entries: dict[int, _Entries] = {}
        self.proved = 0  # claims

    def add(self, lemma: Lemma) -> None:
        """One more; NotProved where it or one before it does not hold."""
        waiting = self._waiting.setdefault(lemma.layer, [])
        waiting += [lemma.part(slice(i, i + self._most)) for i in range(0, len(lemma), self._most)]
        held = len(waiting) * self._bounder.network.variables
        if sum(map(len, waiting)) >= 4 * self._most or held > _CHUNK:
            self._prove(self._waiting.pop(lemma.layer))

    def settle(self) -> None:
        """Proves what waits."""
        while self._waiting:
            self._prove(self._waiting.popitem()[1])

    def _prove(self, lemmas: list[Lemma]) -> None:
        """Those of about the same length together, for none is to be padded much."""
        together: list[Lemma] = []
        for lemma in sorted(lemmas, key=len):
            if (1 + len(together)) * len(lemma) > self._most:
                self._prove_group(_Group(together))
                together = []
            together.append(lemma)
        if together:
            self._prove_group(_Group(together))

    def _prove_group(self, group: _Group) -> None:
        bounder = self._bounder
        bounder.check_time()
        if not self._reached_sharing_rows(group):
            objective = group.objective(bounder.dual)
            multipliers = group.multipliers[:, None] * group.weights.sum(2, keepdims=True)
            rho = bounder.sloped(
                group.bounds, group.alphas, (group.splits, multipliers), group.shares(self._cuts)
            )
            _, reached = bounder.reach(group.bounds, objective, rho, group.sizes, group.needed, False)
            group.check(reached)
        self.proved += sum(map(len, group.lemmas))

    def _reached_sharing_rows(self, group: _Group) -> bool:
        """Whether all claims follow where each subproblem's one row is pulled down to their layer once, and claims weigh it.

        Slopes depend on signs alone, and weights are not negative, so this is the claims' own sweep but for rounding.
        """
        bounder, dual = self._bounder, self._bounder.dual
        node = bounder.network.layers[group.layer].operand
        if group.weights.shape[2] > 1 or bounder.all_exact or not _Entries.fit(dual, node):
            return False
        lower, upper = group.bounds
        inputs = slice(0, bounder.network.inputs)
        row = Objective(np.ones((len(lower), 1, 1)), group.rows).start(dual, group.sizes)
        shares = group.shares(self._cuts)
        rho = bounder.sloped(group.bounds, group.alphas, (group.splits, group.multipliers), shares)
        shared = dual.descended(lower, upper, Pulled(*row), node, rho, group.sizes)
        if node not in self._entries:
            self._entries[node] = _Entries(dual, node)
        pulled = self._entries[node].beside(shared, group.weights, group.neurons, group.sides, group.sizes)
        multipliers = group.multipliers[:, None] * group.weights
        rho = bounder.sloped(group.bounds, group.alphas, (group.splits, multipliers), shares)
        linear = dual.finished(dual.descended(lower, upper, pulled, 1, rho, group.sizes), group.sizes)
        bound = linear.bound(lower[:, None, inputs], upper[:, None, inputs])
        return bool(((bound >= group.needed) & np.isfinite(bound))[group.needed > -np.inf].all())


class _Group:
    """Lemmas of one layer as arrays: [subproblems, claims, ..], and behind the shorter ones' claims some that ask for nothing."""

    def __init__(self, lemmas: list[Lemma]) -> None:
        self.lemmas, self.layer = lemmas, lemmas[0].layer
        self.neurons = _stacked([lemma.neurons for lemma in lemmas], 0)
        self.sides = _stacked([lemma.sides for lemma in lemmas], 0.0)
        self.needed = _stacked([lemma.claims * lemma.sides for lemma in lemmas], -np.inf)
        self.weights = _stacked([lemma.weights for lemma in lemmas], 0.0)
        self.splits = _stacked([lemma.splits for lemma in lemmas], -1)
        self.multipliers = _stacked([lemma.multipliers for lemma in lemmas], 0.0)
        lower, upper = (np.concatenate([lemma.bounds[end] for lemma in lemmas]) for end in range(2))
        self.bounds = lower, upper
        self.alphas = {
            number: np.concatenate([lemma.alphas[number] for lemma in lemmas]) for number in lemmas[0].alphas
        }
        rows = [lemma.rows for lemma in lemmas]
        self.rows = rows[:1] if all(one is rows[0] for one in rows) else rows

    @cached_property
    def sizes(self) -> dict[int, Array]:
        """What values are at most in absolute value on all of the subproblems."""
        found = self.lemmas[0].sizes
        for lemma in self.lemmas[1:]:
            if lemma.sizes is not found:
                found = {i: np.maximum(found[i], value) for i, value in lemma.sizes.items()}
        return found

    def shares(self, cuts: Cuts) -> tuple[InUse, Array] | None:
        """The cuts that any of them uses, and each one's shares: [subproblems, cuts in use]."""
        numbers = np.unique(np.concatenate([lemma.cuts for lemma in self.lemmas]))
        if not len(numbers):
            return None
        found = np.zeros((len(self.lemmas), len(numbers)))
        for row, lemma in zip(found, self.lemmas, strict=True):
            np.add.at(row, np.searchsorted(numbers, lemma.cuts), lemma.shares)
        return cuts.in_use(numbers), found

    def objective(self, dual: Dual) -> Objective:
        """Each claim's neuron, with its side, beside the weighted rows of its subproblem's clause."""
        node = dual.network.layers[self.layer].operand
        coefficients = np.zeros((*self.neurons.shape, dual.network.nodes[node].size))
        np.put_along_axis(coefficients, self.neurons[..., None], self.sides[..., None], 2)
        return Objective(self.weights, self.rows, (node, coefficients))

    def check(self, reached: Array) -> None:
        """NotProved unless every claim is reached."""
        for row, lemma in zip(reached, self.lemmas, strict=True):
            if not row[: len(lemma)].all():
                neuron = int(lemma.neurons[row[: len(lemma)].argmin()])
                raise NotProved(f"lemma of node {lemma.node}: claim of neuron {neuron} of layer {self.layer}")


class _Entries:
    """What one value of an affine node pulls on its operands: a row of its matrices, worked out when it is first asked for."""

    def __init__(self, dual: Dual, node: int) -> None:
        self._dual, self._node = dual, node
        size = dual.network.nodes[node].size
        self._known = np.zeros(size, dtype=bool)
        self._rows = [(np.zeros((size, linear.sources)), operand) for linear, operand in dual.maps[node]]

    @staticmethod
    def fit(dual: Dual, node: int) -> bool:
        """Whether the node has matrices, and they are small enough to be kept."""
        if not isinstance(dual.network.nodes[node], Affine):
            return False
        return sum(linear.size * linear.sources for linear, _ in dual.maps[node]) <= _KEPT

    def beside(
        self, shared: Pulled, weights: Array, neurons: Array, sides: Array, sizes: dict[int, Array]
    ) -> Pulled:
        """`sides` times the node's values at `neurons` ([subproblems, claims]), and `weights` times what a subproblem's claims share."""
        self._know(neurons)
        own = weights[..., 0]
        constant = own * shared.constant + sides * self._dual.biases[self._node][neurons]
        error, errors = own * shared.error, self._dual.entry_errors(self._node, sizes)
        if errors is not None:
            error = error + np.abs(sides) * errors[neurons]
        pending = {index: weights * c for index, c in shared.pending.items()}
        for rows, operand in self._rows:
            join(pending, operand, sides[..., None] * rows[neurons])
        return Pulled(pending, constant, error)

    def _know(self, neurons: Array) -> None:
        new = np.unique(neurons[~self._known[neurons]])
        if len(new):
            ones = np.zeros((len(new), len(self._known)))
            ones[np.arange(len(new)), new] = 1.0
            for (rows, _), (linear, _) in zip(self._rows, self._dual.maps[self._node], strict=True):
                rows[new] = linear.transpose(ones)
            self._known[new] = True


def _stacked(parts: list[Array], filler: float) -> Array:
    """Arrays of different lengths as one, with `filler` behind the shorter ones."""
    longest = max(map(len, parts))
    found = np.full((len(parts), longest, *parts[0].shape[1:]), filler, dtype=parts[0].dtype)
    for row, part in zip(found, parts, strict=True):
        row[: len(part)] = part
    return found
