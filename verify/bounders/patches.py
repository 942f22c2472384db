"""Intermediate bounds of convolutional layers from what a neuron sees of the network before it, a small window of each layer.

All neurons at one position see the same windows, and windows of different positions have the same shape, so one small network stands
for all of them: its batch are positions (of one or several boxes), its objectives the channels. Where a window reaches beyond the
image there is nothing: cotangents are zero there. The bounds are those of the whole network up to rounding, the work is less by
what a window is smaller than its layer. (auto_LiRPA keeps a whole layer's cotangents as such patches: Xu et al. 2021, "Fast and
Complete".)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from verify.lagrangian.domain import Patches
from verify.lagrangian.dual import DualProblem
from verify.network.activations import Activation
from verify.network.affine import Affine, Combine, Scale, Shape
from verify.network.convolution import Convolution
from verify.network.graph import Layer, Network, Node
from verify.state import Bounds, Objective

_WORTH = 1.0  # of all entries that a pass goes through: larger windows are not worth it


@dataclass(frozen=True)
class Window:
    """What is seen of a node's image: along axis i the places from `p_i stride_i + first_i` to `p_i stride_i + last_i`."""

    stride: Shape
    first: Shape
    last: Shape

    @property
    def sizes(self) -> Shape:
        return tuple(last - first + 1 for first, last in zip(self.first, self.last, strict=True))

    def joined(self, other: Window) -> Window | None:
        """One that holds both; None where they move at different paces."""
        if other.stride != self.stride:
            return None
        first = tuple(min(ends) for ends in zip(self.first, other.first, strict=True))
        last = tuple(max(ends) for ends in zip(self.last, other.last, strict=True))
        return Window(self.stride, first, last)

    def under(self, operator: Convolution) -> Window:
        """What a convolution needs of its operand."""
        kernel = operator.weight.shape[2:]
        geometry = list(zip(operator.stride, operator.padding, operator.dilation, kernel, strict=True))
        return Window(
            tuple(own * s for own, (s, *_) in zip(self.stride, geometry, strict=True)),
            tuple(end * s - p for end, (s, p, *_) in zip(self.first, geometry, strict=True)),
            tuple(end * s - p + d * (k - 1) for end, (s, p, d, k) in zip(self.last, geometry, strict=True)),
        )

    def margins(self, inner: Window) -> tuple[int, ...]:
        """What is left of this window around an inner one, as torch.nn.functional.pad wants it."""
        ends = zip(self.first, self.last, inner.first, inner.last, strict=True)
        return tuple(n for a, b, c, d in reversed(list(ends)) for n in (c - a, b - d))


@dataclass(frozen=True)
class _Within(Affine):
    """An affine map of parts of its operands' windows: `margins` are what it does not see."""

    operator: Affine
    margins: tuple[tuple[int, ...], ...]

    def forward(self, *operands: Tensor) -> Tensor:
        seen = [
            functional.pad(x, [-n for n in margin]) for x, margin in zip(operands, self.margins, strict=True)
        ]
        return self.operator.forward(*seen)

    def transpose(self, cotangent: Tensor) -> tuple[Tensor, ...]:
        parts = self.operator.transpose(cotangent)
        return tuple(
            functional.pad(part, margin) if any(margin) else part
            for part, margin in zip(parts, self.margins, strict=True)
        )

    def absolute(self) -> Affine:
        return replace(self, operator=self.operator.absolute())

    @property
    def terms(self) -> int:
        return self.operator.terms

    @property
    def terms_back(self) -> int:
        return self.operator.terms_back


@dataclass(frozen=True)
class PatchNetwork:
    """The windows that a layer's pre-activations see, as a network of its own: of one position at a time."""

    whole: Network
    layer: Layer
    windows: dict[int, Window]  # by the whole network's nodes, in its order
    network: Network  # their nodes in the same order
    sees_all: ClassVar[bool] = False

    @classmethod
    def of(cls, network: Network, layer: Layer) -> PatchNetwork | None:
        """The windows of a layer behind convolutions, where they are a good deal smaller than the layers."""
        rank = _rank(network, layer)
        if not rank:
            return None
        windows = _windows(network, layer.pre_node, rank)
        if windows is None:
            return None
        shapes = {i: _cropped(network.nodes[i].shape, windows[i].sizes) for i in windows}
        seen = sum(math.prod(shape) for shape in shapes.values())
        if seen > _WORTH * sum(network.nodes[i].size for i in network.ancestors[layer.pre_node]):
            return None
        place = {index: i for i, index in enumerate(windows)}
        nodes: list[Node] = []
        for index, window in windows.items():
            node = network.nodes[index]
            if not nodes:
                nodes.append(Node(None, (), shapes[index], node.name))
                continue
            operator = _localised(node, window, windows, shapes)
            operands = tuple(place[operand] for operand in node.operands)
            nodes.append(Node(operator, operands, shapes[index], node.name))
        return cls(network, layer, windows, Network(tuple(nodes), network.deployed, network.plain))

    @property
    def node(self) -> int:
        """The pre-activations in `network`."""
        return len(self.network.nodes) - 1

    @cached_property
    def _image(self) -> Shape:
        """The layer's places along each axis."""
        rank = len(self.windows[self.layer.pre_node].stride)
        return self.whole.nodes[self.layer.pre_node].shape[-rank:]

    @property
    def positions(self) -> int:
        return math.prod(self._image)

    def by_position(self, open_neurons: Bool[Tensor, "batch size"]) -> Bool[Tensor, "places channels"]:
        """A layer's neurons with a row for each box and position."""
        return open_neurons.reshape(len(open_neurons), -1, self.positions).mT.flatten(0, 1)

    def neurons(
        self, rows: Int[Tensor, " rows"], channels: Int[Tensor, "rows count"]
    ) -> tuple[Int[Tensor, "rows 1"], Int[Tensor, "rows count"]]:
        """The boxes and the places within the layer that rows and channels of `by_position` stand for."""
        return (rows // self.positions)[:, None], channels * self.positions + (rows % self.positions)[:, None]

    def problem(
        self, rows: Int[Tensor, " rows"], channels: Int[Tensor, "rows count"], bounds: Bounds
    ) -> DualProblem:
        """Both ends of some neurons, a row and a channel of `by_position` each."""
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
            if not bool(within.all()):
                inside[i] = within.to(offsets[i])
        objective = Objective.both_ends(channels, self.network.nodes[-1].size, bounds.lower)
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
                places, within = self._places(at, rows % self.positions)
                kinds = torch.arange(values[index].shape[1], device=rows.device)[None, :, None]
                found[i] = values[index][boxes[:, None, None], kinds, places[:, None]] * within[:, None]
        return found

    def inside(self, node: int, rows: Int[Tensor, " rows"], cotangent: Tensor) -> Tensor:
        """A cotangent of one of this network's nodes, 0 beyond the image."""
        _, within = self._places(list(self.windows)[node], rows % self.positions)
        if bool(within.all()):
            return cotangent
        return (cotangent.reshape(len(rows), -1, within.shape[1]) * within[:, None]).reshape(cotangent.shape)

    def _seen(self, rows: Int[Tensor, " rows"]) -> dict[int, tuple[Tensor, Tensor]]:
        return {index: self._places(index, rows % self.positions) for index in self.windows}

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


def _rank(network: Network, layer: Layer) -> int:
    """How many axes the image has that a layer's convolutions work on; 0 if there are none."""
    for index in sorted(network.ancestors[layer.pre_node], reverse=True):
        operator = network.nodes[index].operator
        if isinstance(operator, Convolution):
            return operator.weight.dim() - 2
        if not isinstance(operator, Combine | Scale):
            return 0
    return 0


def _windows(network: Network, target: int, rank: int) -> dict[int, Window] | None:
    """The window of every node that one position of the target depends on; None where something else mixes positions."""
    one, zero = (1,) * rank, (0,) * rank
    found: dict[int, Window | None] = {target: Window(one, zero, zero)}
    moves = _moving(network)
    for index in sorted(network.ancestors[target], reverse=True):
        window, node = found.get(index), network.nodes[index]
        if index in found and window is None:
            return None
        if window is None or index in moves:  # what is before these is the input in another order
            continue
        operator = node.operator
        if isinstance(operator, Convolution):
            if operator.transposed or operator.weight.dim() - 2 != rank:
                return None
            under = window.under(operator)
        elif _elementwise(network, node, rank):
            under = window
        else:
            return None
        for operand in node.operands:
            known = found.get(operand, under)
            found[operand] = None if known is None else under.joined(known)
    if sum(index in moves for index in found) != 1:
        return None
    return {index: window for index, window in sorted(found.items()) if window is not None}


def _moving(network: Network) -> set[int]:
    """The input, and nodes that hold its entries moved."""
    moving = {0}
    for index, node in enumerate(network.nodes[1:], start=1):
        operator = node.operator
        if isinstance(operator, Affine) and operator.moves and set(node.operands) <= moving:
            moving.add(index)
    return moving


def _elementwise(network: Network, node: Node, rank: int) -> bool:
    """Whether every entry of a node is made of the same entry of its operands, alike at all positions."""
    if any(network.nodes[operand].shape != node.shape for operand in node.operands):
        return False
    operator = node.operator
    if isinstance(operator, Scale):
        return all(
            value is None or value.dim() < 1 or set(value.shape[-rank:]) == {1}
            for value in (operator.factor, operator.bias)
        )
    if isinstance(operator, Activation):
        return not (operator.joins or operator.mixes or operator.sums_to_one)
    return isinstance(operator, Combine)


def _cropped(shape: Shape, sizes: Shape) -> Shape:
    return (*shape[: len(shape) - len(sizes)], *sizes)


def _localised(
    node: Node, window: Window, windows: dict[int, Window], shapes: dict[int, Shape]
) -> Affine | Activation | None:
    """A node's operator between windows."""
    operator = node.operator
    if not isinstance(operator, Affine):
        return operator
    needed = window
    if isinstance(operator, Convolution):
        needed = window.under(operator)
        shape = _cropped(shapes[node.operands[0]], needed.sizes)
        operator = replace(operator, padding=(0,) * len(needed.stride), input_shape=shape)
    margins = tuple(windows[operand].margins(needed) for operand in node.operands)
    return _Within(operator, margins) if any(any(margin) for margin in margins) else operator
