"""Intermediate bounds of convolutional layers from what a neuron sees of the network before it, a small window of each layer.

All neurons at one position see the same windows, and windows of different positions have the same shape (`verify.bounders.windows`), so
one small network stands for all of them: its batch are positions (of one or several boxes), its objectives the channels. Where a window
reaches beyond the image there is nothing: cotangents are zero there. The bounds are those of the whole network up to rounding, the work
is less by what a window is smaller than its layer. (auto_LiRPA keeps a whole layer's cotangents as such patches: Xu et al. 2021, "Fast and
Complete".)

Where pre-activations are sums of a convolution's entries at one position each (differences of two channels, in any order), these sums are
the objectives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.bounders.windows import LONGEST_PERIOD, Sight, Window, cropped
from verify.lagrangian.domain import Patches
from verify.lagrangian.dual import DualProblem
from verify.network.affine import Affine, Combine, Scale, Shape
from verify.network.convolution import Convolution
from verify.network.graph import Layer, Network, Node
from verify.state import Bounds, Objective, plainly_all

_WORTH = 1.0  # of all entries that a pass goes through: larger windows are not worth it
_CHUNK = 2**22  # entries of sums that are looked at at once


@dataclass(frozen=True)
class _Sums:
    """Pre-activations as sums of entries of one node, each of them at one position: which there are, and their coefficients (-1 and 0: none)."""

    node: int
    neurons: Int[Tensor, "positions count"]
    coefficients: Float[Tensor, "positions count channels"]

    @classmethod
    def of(cls, network: Network, layer: Layer) -> _Sums | None:
        """Of the last convolution's entries; None where they are something else."""
        node = _behind(network, layer.pre_node)
        if node is None:
            return None
        rank, size = _rank(network, node), network.nodes[node].size
        positions = math.prod(network.nodes[node].shape[-rank:])
        if not layer.size or not size:
            return None
        owners, columns, values = [], [], []
        for first in range(0, layer.size, step := max(1, _CHUNK // size)):
            count = min(step, layer.size - first)
            unit = torch.zeros(count, layer.size, dtype=network.dtype, device=network.device)
            unit.diagonal(first).fill_(1.0)
            part = _onto(network, layer.pre_node, node, unit)
            owner, column = part.nonzero(as_tuple=True)
            owners.append(owner + first)
            columns.append(column)
            values.append(part[owner, column])
        column = torch.cat(columns)
        return cls._grouped(
            node,
            torch.cat(owners),
            column % positions,
            column // positions,
            torch.cat(values),
            (positions, size // positions),
        )

    @classmethod
    def _grouped(
        cls, node: int, owner: Tensor, place: Tensor, channel: Tensor, value: Tensor, sizes: tuple[int, int]
    ) -> _Sums | None:
        """Entries of sums (owner, position, channel, coefficient) by position; None where one sum has several positions."""
        neurons, inverse = owner.unique(return_inverse=True)
        last = place.new_zeros(len(neurons)).scatter_reduce_(0, inverse, place, "amax")
        if not torch.equal(last[inverse], place):
            return None
        counts = last.bincount(minlength=sizes[0])
        order = torch.argsort(last, stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[last[order]]
        table = place.new_full((sizes[0], max(1, int(counts.max()))), -1)
        table[last, rank] = neurons
        coefficients = value.new_zeros(*table.shape, sizes[1])
        coefficients[place, rank[inverse], channel] = value
        return cls(node, table, coefficients)


@dataclass(frozen=True)
class PatchNetwork:
    """The windows that a layer's pre-activations see at the positions of a phase, as a network of its own: of one position at a time."""

    whole: Network
    layer: Layer
    windows: dict[int, Window]  # by the whole network's nodes, in its order
    network: Network  # their nodes in the same order
    sums: _Sums | None = None
    _latest: dict[int, tuple[Tensor, dict[int, tuple[Tensor, Tensor]]]] = field(
        default_factory=dict, compare=False, repr=False
    )
    sees_all: ClassVar[bool] = False

    @classmethod
    def of(cls, network: Network, layer: Layer, ends: bool = False) -> list[PatchNetwork]:
        """The windows of a layer behind convolutions, for each phase; none where they are not a good deal smaller than the layers.

        ends: windows may end at a node that is something else; what is before it is left to whom they are for.
        """
        sums = None if _rank(network, layer.pre_node) else _Sums.of(network, layer)
        target = layer.pre_node if sums is None else sums.node
        rank = _rank(network, target)
        if not rank:
            return []
        sight, image = Sight(network, target, rank), network.nodes[target].shape[-rank:]
        for period in range(1, LONGEST_PERIOD + 1):
            phases = product(*(range(min(period, size)) for size in image))
            found = []
            for phase in phases:
                windows = sight.windows(period, phase, ends)
                if windows is None:
                    break
                found.append(cls._made(sight, layer, windows, sums))
            else:
                total = sum(network.nodes[i].size for i in network.ancestors[target])
                return found if sum(one.seen for one in found) <= _WORTH * total * len(found) else []
        return []

    @classmethod
    def _made(
        cls, sight: Sight, layer: Layer, windows: dict[int, Window], sums: _Sums | None
    ) -> PatchNetwork:
        network = sight.network
        place = {index: i for i, index in enumerate(windows)}
        nodes: list[Node] = []
        for index, window in windows.items():
            node = network.nodes[index]
            shape = cropped(node.shape, window.sizes)
            if not nodes:
                nodes.append(Node(None, (), shape, node.name))
                continue
            operator = sight.localised(index, windows)
            operands = tuple(place[operand] for operand in node.operands)
            nodes.append(Node(operator, operands, shape, node.name))
        return cls(network, layer, windows, Network(tuple(nodes), network.deployed, network.plain), sums)

    @property
    def node(self) -> int:
        """The pre-activations, or what they are sums of, in `network`."""
        return len(self.network.nodes) - 1

    @cached_property
    def behind(self) -> int | None:
        """The node that windows end at, with a whole network before it; None where that is the input, moved."""
        alike = all(
            isinstance(operator, Affine) and operator.moves
            for operator in (self.whole.nodes[i].operator for i in self.whole.ancestors[self.source] - {0})
        )
        return None if alike else self.source

    @cached_property
    def widest(self) -> int:
        """The largest value that a sweep comes by."""
        return max(max(node.size for node in self.network.nodes), *self._before)

    @cached_property
    def seen(self) -> int:
        """How many values a neuron's sweep comes by."""
        return sum(node.size for node in self.network.nodes) + sum(self._before)

    @property
    def _before(self) -> list[int]:
        """The sizes of the values before the windows."""
        known = () if self.behind is None else self.whole.ancestors[self.behind]
        return [0, *(self.whole.nodes[i].size for i in known)]

    def put(self, rows: Int[Tensor, " rows"], cotangent: Float[Tensor, "rows objectives size"]) -> Tensor:
        """A cotangent of the first windows as one of the whole node that they are of."""
        places, within = self._at(self.source, rows)
        whole = cotangent.new_zeros(*cotangent.shape[:2], self.whole.nodes[self.source].size)
        index = places[:, None].expand_as(cotangent)
        return whole.scatter_add_(2, index, cotangent * within[:, None])

    @property
    def _target(self) -> int:
        """That in the whole network."""
        return next(reversed(self.windows))

    @cached_property
    def _image(self) -> Shape:
        """How many places of the phase there are along each axis."""
        window = self.windows[self._target]
        sizes = self.whole.nodes[self._target].shape[-len(window.stride) :]
        ends = zip(sizes, window.first, window.stride, strict=True)
        return tuple(-((phase - size) // period) for size, phase, period in ends)

    @property
    def positions(self) -> int:
        return math.prod(self._image)

    @cached_property
    def _neurons(self) -> Int[Tensor, "positions count"]:
        """The layer's neurons at each position, -1 where there are fewer."""
        device = self.whole.device
        places, _ = self._places(self._target, torch.arange(self.positions, device=device))
        if self.sums is None:
            return places
        return self.sums.neurons[self._places_of_sums]

    @cached_property
    def _places_of_sums(self) -> Int[Tensor, " positions"]:
        places, _ = self._places(self._target, torch.arange(self.positions, device=self.whole.device))
        return places[:, 0]

    def by_position(self, open_neurons: Bool[Tensor, "batch size"]) -> Bool[Tensor, "places count"]:
        """A layer's neurons with a row for each box and position."""
        return (open_neurons[:, self._neurons.clamp(min=0)] & (self._neurons >= 0)).flatten(0, 1)

    def neurons(
        self, rows: Int[Tensor, " rows"], which: Int[Tensor, "rows count"]
    ) -> tuple[Int[Tensor, "rows 1"], Int[Tensor, "rows count"]]:
        """The boxes and the places within the layer that rows and columns of `by_position` stand for."""
        return (rows // self.positions)[:, None], self._neurons[rows % self.positions].gather(1, which)

    def objective(
        self, rows: Int[Tensor, " rows"], which: Int[Tensor, "rows count"], like: Tensor
    ) -> Float[Tensor, "rows 2*count channels"]:
        """Both ends of some neurons, a row and a column of `by_position` each, as sums of entries of `node`."""
        if self.sums is None:
            return Objective.both_ends(which, self.network.nodes[-1].size, like).coefficients[:, :, 0]
        known = self.sums.coefficients[self._places_of_sums[rows % self.positions]].to(like)
        chosen = known.gather(1, which[..., None].expand(-1, -1, known.shape[2]))
        return torch.cat([chosen, -chosen], 1)

    def problem(
        self, rows: Int[Tensor, " rows"], which: Int[Tensor, "rows count"], bounds: Bounds
    ) -> DualProblem:
        """Both ends of some neurons, a row and a column of `by_position` each."""
        boxes, seen = rows // self.positions, self._seen(rows)
        base = next(iter(self.windows))
        ends = []
        for end in (bounds.lower, bounds.upper):
            first = self._moved(base, end[:, : self.whole.inputs])
            parts = [first[boxes[:, None], seen[base][0]]]
            for layer in self._layers:
                parts.append(end[boxes[:, None], layer.variables.start + seen[layer.pre_node][0]])
            ends.append(torch.cat(parts, 1))
        offsets, inside = {}, {}
        for i, (index, (places, within)) in enumerate(seen.items()):
            offsets[i] = self.whole.offsets[index][places]
            if not plainly_all(within):
                inside[i] = within.to(offsets[i])
        coefficients = self.objective(rows, which, bounds.lower)[:, :, None]
        none = coefficients.new_zeros(*coefficients.shape[:3], 0)
        objective = Objective(coefficients, torch.zeros_like(coefficients[..., 0]), none)
        view = Patches(offsets, inside, self.whole.gamma)
        return DualProblem(self.network, Bounds(*ends), objective, view=view)

    def sizes(self, rows: Int[Tensor, " rows"], sizes: dict[int, Tensor]) -> dict[int, Tensor]:
        """The magnitudes that rounding is charged by, of the windows."""
        return {i: sizes[index][places] for i, (index, (places, _)) in enumerate(self._seen(rows).items())}

    @property
    def source(self) -> int:
        """The whole network's node that the patches begin with."""
        return next(iter(self.windows))

    def gathered(
        self,
        rows: Int[Tensor, " rows"],
        values: Mapping[int, Float[Tensor, "boxes kinds size"]],
        pre: bool = False,
    ) -> dict[int, Float[Tensor, "rows kinds size"]]:
        """Values of the whole network's nodes by this one's, 0 beyond the image; `pre`: activations' are of their operands' entries."""
        boxes, found = rows // self.positions, {}
        for i, index in enumerate(self.windows):
            if index in values:
                at = self.whole.nodes[index].operands[0] if pre else index
                places, within = self._at(at, rows)
                kinds = torch.arange(values[index].shape[1], device=rows.device)[None, :, None]
                found[i] = values[index][boxes[:, None, None], kinds, places[:, None]] * within[:, None]
        return found

    def inside(self, node: int, rows: Int[Tensor, " rows"], cotangent: Tensor) -> Tensor:
        """A cotangent of one of this network's nodes, 0 beyond the image."""
        _, within = self._at(list(self.windows)[node], rows)
        if plainly_all(within):
            return cotangent
        return (cotangent.reshape(len(rows), -1, within.shape[1]) * within[:, None]).reshape(cotangent.shape)

    def _seen(self, rows: Int[Tensor, " rows"]) -> dict[int, tuple[Tensor, Tensor]]:
        return {index: self._at(index, rows) for index in self.windows}

    @cached_property
    def _layers(self) -> list[Layer]:
        """The whole network's layers that are seen."""
        return [layer for layer in self.whole.layers if layer.node in self.windows]

    def _moved(self, base: int, values: Tensor) -> Tensor:
        """Input values where the windows start, which is behind maps that only move entries."""
        known = {0: values.reshape(-1, *self.whole.nodes[0].shape)}
        for index in sorted(self.whole.ancestors[base] - {0}):
            node = self.whole.nodes[index]
            known[index] = self.whole.apply(node, [known[operand] for operand in node.operands])
        return known[base].flatten(1)

    def _at(self, index: int, rows: Int[Tensor, " rows"]) -> tuple[Tensor, Tensor]:
        """`_places` of rows; those of the latest rows are kept, which a sweep asks for again and again."""
        latest = self._latest.get(0)
        if latest is None or latest[0] is not rows:
            self._latest[0] = latest = rows, {}
        if index not in latest[1]:
            latest[1][index] = self._places(index, rows % self.positions)
        return latest[1][index]

    def _places(self, index: int, position: Int[Tensor, " rows"]) -> tuple[Tensor, Tensor]:
        """A window's entries within its node's value, [rows, size], and which of them lie in the image."""
        window, shape = self.windows[index], self.whole.nodes[index].shape
        rank, rows = len(window.stride), len(position)
        lead, image = math.prod(shape[:-rank]), shape[-rank:]
        place = position.new_zeros(rows, 1)
        within = torch.ones_like(place, dtype=torch.bool)
        for axis in range(rank):
            inner = math.prod(self._image[axis + 1 :])
            own = position // inner % self._image[axis]
            steps = torch.arange(window.first[axis], window.last[axis] + 1, device=position.device)
            line = own[:, None] * window.stride[axis] + steps
            valid = (line >= 0) & (line < image[axis])
            line = line.clamp(0, image[axis] - 1)
            place = (place[:, :, None] * image[axis] + line[:, None]).flatten(1)
            within = (within[:, :, None] & valid[:, None]).flatten(1)
        channels = torch.arange(lead, device=position.device)[:, None] * math.prod(image)
        places = (channels + place[:, None]).flatten(1)
        return places, within[:, None].expand(-1, lead, -1).flatten(1)


def _rank(network: Network, target: int) -> int:
    """How many axes the image has that the convolutions before a node work on; 0 if there are none."""
    for index in sorted(network.ancestors[target], reverse=True):
        operator = network.nodes[index].operator
        if isinstance(operator, Convolution):
            return operator.weight.dim() - 2
        if not isinstance(operator, Combine | Scale):
            return 0
    return 0


def _behind(network: Network, target: int) -> int | None:
    """The convolution whose entries a node moves, adds and subtracts, and nothing else."""
    waiting, seen = [target], set()
    if network.deployed:  # these sums round
        return None
    while waiting:
        index = max(waiting)
        waiting = [other for other in waiting if other != index]
        operator = network.nodes[index].operator
        if isinstance(operator, Convolution):
            return index if not waiting and index != target else None
        if not (isinstance(operator, Combine) or (isinstance(operator, Affine) and operator.moves)):
            return None
        seen.add(index)
        waiting += network.nodes[index].operands
    return None


def _onto(network: Network, target: int, node: int, cotangent: Tensor) -> Tensor:
    """Sums of a target's entries as sums of a node's that is all it depends on."""
    pending = {target: cotangent.reshape(-1, *network.nodes[target].shape)}
    for index in range(target, node, -1):
        if index in pending:
            operator = network.nodes[index].operator
            assert isinstance(operator, Affine)
            parts = operator.transpose(pending.pop(index))
            for operand, part in zip(network.nodes[index].operands, parts, strict=True):
                pending[operand] = pending[operand] + part if operand in pending else part
    return pending[node].flatten(1)
