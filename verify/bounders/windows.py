"""What one position of an image sees of the nodes before it: windows that move with it, and operators between windows.

Positions are taken in phases, `p = period t + phase` along each axis with t = 0, 1, ..: behind maps that stretch images (deconvolutions,
repeated pixels) neighbours see windows of different shapes, but those a period apart see the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional

from verify.network.activations import Activation
from verify.network.affine import Affine, Combine, Scale, Shape
from verify.network.convolution import Convolution
from verify.network.graph import Network, Node
from verify.network.moves import NonNegative

# of places that see alike: of an axis's, and of an image's, which are parted into its power of networks
LONGEST_PERIOD = 8


@dataclass(frozen=True)
class Window:
    """What is seen of a node's image: along axis i the places from `t_i stride_i + first_i` to `t_i stride_i + last_i`."""

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

    def under(self, kernel: Shape, stride: Shape, padding: Shape, dilation: Shape) -> Window:
        """What a convolution or a pool needs of its operand."""
        geometry = list(zip(kernel, stride, padding, dilation, strict=True))
        return Window(
            tuple(own * s for own, (_, s, *_) in zip(self.stride, geometry, strict=True)),
            tuple(end * s - p for end, (_, s, p, _) in zip(self.first, geometry, strict=True)),
            tuple(end * s - p + d * (k - 1) for end, (k, s, p, d) in zip(self.last, geometry, strict=True)),
        )

    def over(self, operator: Convolution) -> Window | None:
        """What a deconvolution needs of its operand; None where its stride does not divide this window's."""
        kernel, parts = operator.weight.shape[2:], []
        geometry = zip(kernel, operator.stride, operator.padding, operator.dilation, strict=True)
        for own, low, high, (k, s, p, d) in zip(self.stride, self.first, self.last, geometry, strict=True):
            if own % s:
                return None
            first = -((d * (k - 1) - low - p) // s)
            parts.append((own // s, first, max(first, (high + p) // s)))
        return Window(*(tuple(part) for part in zip(*parts, strict=True)))

    def margins(self, inner: Window) -> tuple[int, ...]:
        """What is left of this window around an inner one, as torch.nn.functional.pad wants it."""
        ends = zip(self.first, self.last, inner.first, inner.last, strict=True)
        return tuple(n for a, b, c, d in reversed(list(ends)) for n in (c - a, b - d))


@dataclass(frozen=True)
class _Within(Affine):
    """An affine map of parts of its operands' windows, and a part of its value: margins are what is not seen."""

    operator: Affine
    margins: tuple[tuple[int, ...], ...]
    beyond: tuple[int, ...] = ()

    def forward(self, *operands: Tensor) -> Tensor:
        seen = [
            functional.pad(x, [-n for n in margin]) for x, margin in zip(operands, self.margins, strict=True)
        ]
        return functional.pad(self.operator.forward(*seen), [-n for n in self.beyond])

    def transpose(self, cotangent: Tensor) -> tuple[Tensor, ...]:
        if any(self.beyond):
            cotangent = functional.pad(cotangent, self.beyond)
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
class _Moved(Affine):
    """Entries of windows, moved: an index of each axis (None: all in order), and of the operands' channels one behind the other.

    filled: which channels these go to (None: to all, in order); nothing is in the others. All indices are where the operands are.
    """

    places: tuple[Int[Tensor, " size"] | None, ...]
    channels: Int[Tensor, " some"]
    filled: Int[Tensor, " some"] | None
    input_shapes: tuple[Shape, ...]
    output_shape: Shape
    summed: int

    @property
    def _split(self) -> list[int]:
        rank = len(self.places)
        return [math.prod(shape[:-rank]) for shape in self.input_shapes]

    def forward(self, *operands: Tensor) -> Tensor:
        rank = len(self.places)
        value = torch.cat([x.reshape(len(x), -1, *x.shape[-rank:]) for x in operands], 1)
        for axis, index in enumerate(self.places):
            value = value if index is None else value.index_select(2 + axis, index)
        value = value.index_select(1, self.channels)
        if self.filled is not None:
            value = _added(value, 1, self.filled, math.prod(self.output_shape[:-rank]))
        return value.reshape(len(value), *self.output_shape)

    def transpose(self, cotangent: Tensor) -> tuple[Tensor, ...]:
        rank = len(self.places)
        value = cotangent.reshape(len(cotangent), -1, *self.output_shape[-rank:])
        for axis, index in enumerate(self.places):
            if index is not None:
                size = self.input_shapes[0][axis - rank]
                value = _added(value, 2 + axis, index, size)
        value = value if self.filled is None else value.index_select(1, self.filled)
        value = _added(value, 1, self.channels, sum(self._split))
        parts = value.split(self._split, 1)
        return tuple(
            part.reshape(len(part), *shape) for part, shape in zip(parts, self.input_shapes, strict=True)
        )

    def absolute(self) -> _Moved:
        return self

    @property
    def terms(self) -> int:
        return self.summed


def _added(value: Tensor, axis: int, index: Int[Tensor, " entries"], size: int) -> Tensor:
    """Entries of an axis added up at other places."""
    shape = (*value.shape[:axis], size, *value.shape[axis + 1 :])
    return value.new_zeros(shape).index_add_(axis, index, value)


@dataclass(frozen=True)
class _Steps:
    """Where along an axis the entry at p comes from: `source[p mod every] + by (p div every)`."""

    source: tuple[int, ...]
    by: int

    @property
    def every(self) -> int:
        return len(self.source)

    def __call__(self, place: int) -> int:
        return self.source[place % self.every] + self.by * (place // self.every)

    @classmethod
    def of(cls, table: list[int], size: int) -> _Steps | None:
        """The rule that a table of sources obeys (-1: none), within an axis of that size; None where there is none."""
        for every in range(1, LONGEST_PERIOD + 1):
            pairs = list(zip(table, table[every:], strict=False))
            steps = {b - a for a, b in pairs if a >= 0 and b >= 0}
            if len(steps) > 1 or (steps and min(steps) < 1):
                continue
            by = next(iter(steps), every)
            starts: dict[int, int] = {}
            for place, source in enumerate(table):
                if source >= 0:
                    starts.setdefault(place % every, source - by * (place // every))
            if len(starts) < every:
                continue
            found = cls(tuple(starts[rest] for rest in range(every)), by)
            if all(
                own == (found(place) if 0 <= found(place) < size else -1) for place, own in enumerate(table)
            ):
                return found
        return None


@dataclass(frozen=True)
class _Moves:
    """How a node's image is made of its operands' images, if it is so at all positions alike."""

    steps: tuple[_Steps, ...]
    channels: Int[Tensor, " channels"]

    @classmethod
    def of(cls, network: Network, node: Node, rank: int) -> _Moves | None:
        """None where entries change between channels and positions."""
        shapes = [network.nodes[operand].shape for operand in node.operands]
        if min(map(len, [*shapes, node.shape])) < rank or len({shape[-rank:] for shape in shapes}) > 1:
            return None
        if not all(map(math.prod, [*shapes, node.shape])):
            return None
        assert isinstance(node.operator, Affine)
        image, first, numbers = shapes[0][-rank:], 1, []
        for shape in shapes:
            size = math.prod(shape)
            numbers.append(torch.arange(first, first + size, dtype=torch.float64).reshape(1, *shape))
            first += size
        found = node.operator.forward(*numbers)[0].long().cpu() - 1
        found = found.reshape(-1, *node.shape[-rank:])
        there = found >= 0
        channels = _agreed(found // math.prod(image), there, 0)
        if channels is None:
            return None
        expected, steps = (channels >= 0).reshape(-1, *(1,) * rank), []
        for axis, size in enumerate(image):
            inner = math.prod(image[axis + 1 :])
            table = _agreed(found // inner % size, there, 1 + axis)
            rule = None if table is None else _Steps.of(table.tolist(), size)
            if rule is None or table is None:
                return None
            steps.append(rule)
            expected = expected & (table >= 0).reshape(-1, *(1,) * (rank - 1 - axis))
        return cls(tuple(steps), channels) if torch.equal(expected.expand_as(there), there) else None

    def under(self, window: Window) -> Window | None:
        """What is needed of the operands; None where the window's steps are not whole numbers of periods."""
        parts = []
        for own, low, high, rule in zip(window.stride, window.first, window.last, self.steps, strict=True):
            if own % rule.every:
                return None
            places = [rule(place) for place in range(low, high + 1)]
            parts.append((own // rule.every * rule.by, min(places), max(places)))
        return Window(*(tuple(part) for part in zip(*parts, strict=True)))

    def within(
        self,
        window: Window,
        needed: Window,
        shapes: list[Shape],
        shape: Shape,
        summed: int,
        device: torch.device,
    ) -> _Moved:
        """Between windows of these sample shapes, of values on a device."""
        ends = zip(window.first, window.last, needed.first, self.steps, strict=True)
        lines = [[rule(place) - start for place in range(low, high + 1)] for low, high, start, rule in ends]
        pairs = zip(lines, needed.sizes, strict=True)
        places = tuple(
            None if line == list(range(size)) else torch.tensor(line, device=device) for line, size in pairs
        )
        filled = (self.channels >= 0).nonzero()[:, 0]
        channels = self.channels[filled].to(device)
        all_filled = len(filled) == len(self.channels)
        return _Moved(
            places, channels, None if all_filled else filled.to(device), tuple(shapes), shape, summed
        )


def _agreed(values: Tensor, there: Tensor, axis: int) -> Tensor | None:
    """What all entries that are there say at each place of an axis (-1: none is there); None where they differ."""
    values, there = (part.movedim(axis, 0).flatten(1) for part in (values, there))
    least = torch.where(there, values, torch.iinfo(values.dtype).max).amin(1)
    most = torch.where(there, values, -1).amax(1)
    return most if bool(((least == most) | (most < 0)).all()) else None


@dataclass(frozen=True)
class Sight:
    """What positions of a target see of a network whose images have `rank` axes."""

    network: Network
    target: int
    rank: int
    _moves: dict[int, _Moves | None] = field(default_factory=dict)

    def windows(self, period: int, phase: Shape, ends: bool = False) -> dict[int, Window] | None:
        """The window of every node that the positions of a phase depend on; None where something mixes positions.

        All maps that only move the input's entries are left out but the last. ends: windows may end at one node that mixes positions.
        """
        network = self.network
        first = set[int]()
        found: dict[int, Window | None] = {self.target: Window((period,) * self.rank, phase, phase)}
        moving = _moving(network)
        for index in sorted(network.ancestors[self.target], reverse=True):
            window = found.get(index)
            if index in found and window is None:
                return None
            if window is None:
                continue
            under = None if index in moving else self._needed(index, window)
            if under is None:
                if index not in moving and (not ends or index == self.target):
                    return None
                first.add(index)
                continue
            for operand in network.nodes[index].operands:
                known = found.get(operand, under)
                found[operand] = None if known is None else under.joined(known)
        if len(first) != 1:
            return None
        return {index: window for index, window in sorted(found.items()) if window is not None}

    def _needed(self, index: int, window: Window) -> Window | None:
        """What one position of a node needs of its operands."""
        node, operator = self.network.nodes[index], self.network.nodes[index].operator
        if isinstance(operator, Convolution):
            if operator.weight.dim() - 2 != self.rank:
                return None
            if operator.transposed:
                return window.over(operator)
            return window.under(
                operator.weight.shape[2:], operator.stride, operator.padding, operator.dilation
            )
        if _elementwise(self.network, node, self.rank):
            return window
        if isinstance(operator, Affine) and operator.moves:
            moves = self._moved(index)
            return None if moves is None else moves.under(window)
        pool = getattr(operator, "function", None)
        if isinstance(operator, NonNegative) and pool is not None and getattr(pool, "regular", False):
            none = (1,) * self.rank
            return (
                window.under(pool.kernel, pool.stride, pool.begin, none)
                if len(pool.kernel) == self.rank
                else None
            )
        return None

    def _moved(self, index: int) -> _Moves | None:
        if index not in self._moves:
            self._moves[index] = _Moves.of(self.network, self.network.nodes[index], self.rank)
        return self._moves[index]

    def localised(self, index: int, windows: dict[int, Window]) -> Affine | Activation | None:
        """A node's operator between windows."""
        node, operator, window = self.network.nodes[index], self.network.nodes[index].operator, windows[index]
        if not isinstance(operator, Affine):
            return operator
        needed = self._needed(index, window)
        assert needed is not None
        shapes = [cropped(self.network.nodes[operand].shape, needed.sizes) for operand in node.operands]
        beyond: tuple[int, ...] = ()
        if isinstance(operator, Convolution):
            beyond = _beyond(operator, window, needed) if operator.transposed else ()
            none = (0,) * self.rank
            operator = replace(operator, padding=none, input_shape=shapes[0], output_padding=none)
        elif operator.moves and not _elementwise(self.network, node, self.rank):
            moves, own = self._moved(index), cropped(node.shape, window.sizes)
            assert moves is not None
            operator = moves.within(window, needed, shapes, own, operator.terms, self.network.device)
        elif isinstance(operator, NonNegative):
            local = operator.function.of_windows(window.sizes)  # type: ignore[attr-defined]
            operator = replace(operator, function=local, input_shapes=tuple(shapes))
        margins = tuple(windows[operand].margins(needed) for operand in node.operands)
        some = any(any(margin) for margin in margins) or any(beyond)
        return _Within(operator, margins, beyond) if some else operator


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


def cropped(shape: Shape, sizes: Shape) -> Shape:
    """A sample shape with other sizes of its image."""
    return (*shape[: len(shape) - len(sizes)], *sizes)


def _beyond(operator: Convolution, window: Window, needed: Window) -> tuple[int, ...]:
    """What a deconvolution of its operand's window makes around its own, as torch.nn.functional.pad wants it."""
    found: list[int] = []
    geometry = zip(
        operator.weight.shape[2:], operator.stride, operator.padding, operator.dilation, strict=True
    )
    for low, high, first, last, (k, s, p, d) in zip(
        window.first, window.last, needed.first, needed.last, geometry, strict=True
    ):
        found[:0] = [low - (first * s - p), last * s - p + d * (k - 1) - high]
    return tuple(found)
