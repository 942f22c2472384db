"""Cutting planes: what an activation's output is at most by the values before its layer, on a declared box.

    y_i  <=  s z_i + sum_j m_j x_j + d

for all points of the box. A ReLU's output is 0 or z, and both are shown over intervals alone: `- s z - m . x <= d`, and, with
`z = w . x + b` put in for a part `k` of z, `k (w . x + b) - m . x + (1 - s - k) z <= d`. Any k will do.
A bound that goes on from a pull `t` of the outputs may give any amount `a >= 0` to a cut: `t y >= (t + a) y - a (s z + m . x + d)`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.checker.dual import Dual, join, transposed
from verify.checker.errors import NotProved, Refused
from verify.checker.multipliers import Arithmetic, Given, Pair
from verify.checker.network import Activation, Affine, Layer, Network

Array = NDArray[Any]


@dataclass(frozen=True)
class Planes:
    """Some cuts of one layer's outputs. `own`: which of the cuts in use they are. parts: by node, columns and [own, columns]."""

    own: Array
    places: Array
    slopes: Array
    offsets: Array
    parts: dict[int, tuple[Array, Array]]

    def in_numbers_of(self, arithmetic: Arithmetic) -> Planes:
        """The same, as an arithmetic has numbers."""
        array = arithmetic.array
        parts = {node: (columns, array(values)) for node, (columns, values) in self.parts.items()}
        return Planes(self.own, self.places, array(self.slopes), array(self.offsets), parts)

    def given(self, shares: Array, t: Array) -> Given:
        """What shares ([subproblems, cuts in use]) of the outputs' pull give to them: of what is negative alone."""
        amounts = shares[:, None, self.own] * np.maximum(-t[..., self.places], 0.0)
        return Given(self, amounts)


@dataclass(frozen=True)
class InUse:
    """Cuts that some subproblems use, by layer, and the boxes that they hold on."""

    layers: dict[int, Planes]
    boxes: list[Pair]

    def check_inside(self, lower: Array, upper: Array, nodes: Array) -> None:
        """NotProved unless all subproblems lie in all boxes."""
        for low, high in self.boxes:
            inside = ((lower >= low) & (upper <= high)).all(1)
            if not inside.all():
                raise NotProved(f"node {int(nodes[inside.argmin()])} is not inside the box of its cuts")


@dataclass(frozen=True)
class _Cut:
    """One cut: its variable, s, k, d, the nodes, places and values of m, and the number of its box."""

    variable: int
    slope: float
    factor: float
    offset: float
    nodes: Array
    places: Array
    values: Array
    box: int


@dataclass
class Cuts:
    """All cuts of a certificate that have been proved, or are proved elsewhere."""

    network: Network
    _all: list[_Cut] = field(default_factory=list)
    _boxes: list[Pair] = field(default_factory=list)
    _known: dict[bytes, InUse] = field(default_factory=dict)

    def add(
        self, box: Pair, variables: Array, numbers: tuple[Array, Array, Array], counts: Array, entries: Pair
    ) -> list[_Cut]:
        """Some more on one box: s, k and d of each, and how many coefficients it has; of all these variables (of outputs, or inputs) and values.

        Refused where they are no cuts of ReLUs by values before them.
        """
        if (counts < 0).any() or int(counts.sum()) != len(entries[0]):
            raise Refused("the cuts' coefficients do not fit their counts")
        if not all(np.isfinite(part).all() for part in (*box, *numbers, entries[1])):
            raise Refused("a cut's number is not finite")
        self._boxes.append(box)
        owners, _ = self._located(variables)
        nodes, places = self._located(entries[0])
        ends = np.cumsum(counts)
        found = []
        for i, variable in enumerate(variables.tolist()):
            part = slice(int(ends[i] - counts[i]), int(ends[i]))
            node = self.network.nodes[int(owners[i])]
            if not isinstance(node, Activation) or node.kind != "relu":
                raise Refused(f"a cut of variable {variable}, which is before no ReLU")
            # what is pulled on a node that a sweep has passed would be lost
            if (nodes[part] >= node.operand).any():
                raise Refused(f"a cut of variable {variable} by values that are not before it")
            if len(np.unique(entries[0][part])) < int(counts[i]):
                raise Refused(f"a cut of variable {variable} has two coefficients of one value")
            s, k, d = (float(column[i]) for column in numbers)
            found.append(
                _Cut(variable, s, k, d, nodes[part], places[part], entries[1][part], len(self._boxes) - 1)
            )
        self._all += found
        return found

    def _located(self, variables: Array) -> Pair:
        """The nodes whose values are an input, or behind a pre-activation, and the places within them."""
        starts = [0, *(layer.variables.start for layer in self.network.layers)]
        nodes = np.array([0, *(layer.node for layer in self.network.layers)])
        if ((variables < 0) | (variables >= self.network.variables)).any():
            raise Refused("a cut of an unknown variable")
        owner = np.searchsorted(starts, variables, "right") - 1
        return nodes[owner], variables - np.array(starts)[owner]

    def in_use(self, numbers: Array) -> InUse:
        """Those of the numbers. Refused where there are none such."""
        key = numbers.tobytes()
        if key not in self._known:
            if ((numbers < 0) | (numbers >= len(self._all))).any():
                raise Refused("a cut that is not there yet")
            chosen = [self._all[number] for number in numbers.tolist()]
            layers = {
                number: _planes(layer.variables, chosen)
                for number, layer in enumerate(self.network.layers)
                if any(layer.variables.start <= cut.variable < layer.variables.stop for cut in chosen)
            }
            boxes = [self._boxes[number] for number in sorted({cut.box for cut in chosen})]
            self._known = {key: InUse(layers, boxes)}
        return self._known[key]


def _planes(columns: slice, cuts: list[_Cut]) -> Planes:
    """Those of one layer's variables."""
    own = np.array([i for i, cut in enumerate(cuts) if columns.start <= cut.variable < columns.stop])
    chosen = [cuts[i] for i in own.tolist()]
    parts = {}
    for node in sorted({int(node) for cut in chosen for node in np.unique(cut.nodes)}):
        inside = [cut.nodes == node for cut in chosen]
        used = np.unique(np.concatenate([cut.places[some] for cut, some in zip(chosen, inside, strict=True)]))
        matrix = np.zeros((len(chosen), len(used)))
        for row, cut, some in zip(matrix, chosen, inside, strict=True):
            row[np.searchsorted(used, cut.places[some])] = cut.values[some]
        parts[node] = used, matrix
    places = np.array([cut.variable - columns.start for cut in chosen])
    slopes, offsets = (np.array([getattr(cut, name) for cut in chosen]) for name in ("slope", "offset"))
    return Planes(own, places, slopes, offsets, parts)


def spare(dual: Dual, box: Pair, cuts: list[_Cut]) -> Array:
    """By how much each of some cuts on one box is at least above the outputs, by intervals; those hold that are not negative."""
    lower, upper = (dual.arithmetic.array(end)[None] for end in box)
    sizes, found = dual.sizes(lower, upper), dual.arithmetic.array(np.full(len(cuts), -1.0))
    for layer in dual.network.layers:
        rows = [
            i for i, cut in enumerate(cuts) if layer.variables.start <= cut.variable < layer.variables.stop
        ]
        if rows:
            found[rows] = _spare(dual, layer, (lower, upper), [cuts[i] for i in rows], sizes)
    return found


def _spare(dual: Dual, layer: Layer, box: Pair, cuts: list[_Cut], sizes: dict[int, Array]) -> Array:
    """Those of one layer."""
    array, network = dual.arithmetic.array, dual.network
    every = np.arange(len(cuts))
    variables = np.array([cut.variable for cut in cuts])
    s, k, d = (
        array(np.array([getattr(cut, name) for cut in cuts])) for name in ("slope", "factor", "offset")
    )
    low, high = (end[0, variables] for end in box)
    coefficients: dict[int, Array] = {}
    for node in sorted({int(node) for cut in cuts for node in np.unique(cut.nodes)}):
        matrix = np.zeros((len(cuts), network.nodes[node].size))
        for row, cut in zip(matrix, cuts, strict=True):
            row[cut.places[cut.nodes == node]] = cut.values[cut.nodes == node]
        coefficients[node] = array(matrix)
    # inactive: s z + m . x + d >= 0
    inactive = _least(dual, box, coefficients) + np.minimum(s * low, s * high)
    # active: s z + m . x + d - z >= 0, with w . x + b for a part k of z
    start = np.zeros((len(cuts), network.nodes[layer.operand].size))
    start[every, variables - layer.variables.start] = 1.0
    pending, constant, error = _to_sources(dual, layer.operand, -k[:, None] * array(start), sizes)
    for node, part in coefficients.items():
        join(pending, node, part)
    rest = s + k - 1
    active = constant + _least(dual, box, pending) + np.minimum(rest * low, rest * high)
    if dual.gamma:
        reach = np.maximum(np.abs(low), np.abs(high))
        size = np.abs(d) + (np.abs(s) + np.abs(k) + 1) * reach + np.abs(constant)
        size = size + sum(
            np.abs(part) @ sizes[node] for node, part in (*pending.items(), *coefficients.items())
        )
        error = error + 4 * dual.gamma * size + 2.0**-960
    return np.asarray(np.minimum(inactive, active) + d - error)


def _to_sources(
    dual: Dual, operand: int, c: Array, sizes: dict[int, Array]
) -> tuple[dict[int, Array], Any, Any]:
    """A functional of a node's values as one of the input and of activations' outputs, a constant, and how far that may be off."""
    pending, arrived = {operand: c}, dict[int, Array]()
    constant: Any = 0
    error: Any = 0
    for index in range(operand, -1, -1):
        part = pending.pop(index, None)
        if part is None:
            continue
        if not isinstance(dual.network.nodes[index], Affine):
            arrived[index] = part
            continue
        constant = constant + part @ dual.biases[index]
        error = error + dual.affine_error(index, part, sizes)
        for linear, before in dual.maps[index]:
            join(pending, before, transposed(linear.transpose, part))
    return arrived, constant, error


def _least(dual: Dual, box: Pair, functional: dict[int, Array]) -> Any:
    """The least value of a functional of values on their intervals; its rounding is its caller's to charge."""
    total: Any = 0
    for node, c in functional.items():
        low, high = dual.values(node, *box)
        total = total + np.minimum(c * low, c * high).sum(-1)
    return total
