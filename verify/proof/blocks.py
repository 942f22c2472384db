"""The kinds of blocks that a proof is made of, one registered class each.

A class says how a block is written (`parts`), how it is read again by who thins a certificate out (`leaves`), what is left of it
then (`renamed`), and what stands in docs/certificate-format.md (`content`, `shows`). The checker has a class of its own for each. Those that
close nodes are in `leaf_blocks.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]
Values = Tensor | Array
# of a slope in a byte
LEVELS = 255
BLOCKS: dict[int, type[Block]] = {}
B = TypeVar("B", bound="type[Block]")


class Source(Protocol):
    """Numbers taken off a block in order."""

    def take(self, kind: str, count: int) -> Array:
        """The next `count` numbers of numpy type `kind`."""

    def counted(self, kind: str) -> Array:
        """Numbers that their count precedes."""


@dataclass(frozen=True)
class Leaf:
    """What closes one node: rows' weights, its splits' multipliers, slopes of all pre-activations (0 where there is none)."""

    weights: Array
    multipliers: Array
    slopes: Array


class Trimmed(Protocol):
    """A certificate that is thinned out.

    rows: the most of a clause. number: the nodes that stay, with their new numbers. kept: those whose leaves stay as they were.
    """

    rows: int
    number: dict[int, int]
    kept: dict[int, Leaf]

    def depths(self, nodes: Array) -> Array:
        """How many splits are above each node."""

    def above(self, node: int) -> int:
        """The new number of a node, or of the nearest above it that stays."""

    def unstable(self, nodes: Array) -> Array:
        """Which pre-activations have a slope to store, [nodes, pre-activations]."""


@dataclass(frozen=True)
class Moved:
    """A certificate that becomes part of another.

    number: the new number of each node. rows: the most of a clause. most_of_root: the clauses of the largest root, here and there. cuts: how
    many there are before. depths: how many splits are above each of some nodes.
    """

    number: Array
    rows: int
    most_of_root: tuple[int, int]
    cuts: int
    depths: Callable[[Array], Array]

    def with_cuts(self, data: Array, start: int) -> list[Array]:
        """Bytes in which the numbers of cuts begin there, with their count before them."""
        count = int(np.frombuffer(data[start : start + 8].tobytes(), "<i8")[0])
        end = start + 8 + 8 * count
        numbers = np.frombuffer(data[start + 8 : end].tobytes(), "<i8")
        return [data[:start], counted_bytes(numbers + self.cuts), data[end:]]


class Block:
    """One block. `code` is its kind in a file."""

    code: ClassVar[int]
    name: ClassVar[str]
    content: ClassVar[str]
    shows: ClassVar[str]

    def parts(self) -> list[Array]:
        """Its numbers, in order, each in the type it is stored in."""
        raise NotImplementedError

    def numbers(self) -> tuple[int, int]:
        """Where in its bytes the numbers of nodes are that have been split, and how many; of roots alone there are none."""
        return 0, 0

    @classmethod
    def leaves(cls, source: Source, trimmed: Trimmed) -> dict[int, Leaf]:
        """The leaves of a block whose parents may do with what closes them."""
        return {}

    @classmethod
    def renamed(cls, data: Array, trimmed: Trimmed) -> list[Array]:
        """A block's bytes with the new numbers of its nodes; none where nothing is left of it."""
        return [data]

    @classmethod
    def moved(cls, data: Array, moved: Moved) -> list[Array]:
        """A block's bytes in another certificate: here, with other numbers of the nodes or roots that it begins with."""
        nodes = nodes_of(data)
        return [counted_bytes(moved.number[nodes]), data[8 + 8 * len(nodes) :]]


def register(code: int, name: str) -> Callable[[B], B]:
    """Makes a class the kind of blocks with the number `code`."""

    def registered(kind: B) -> B:
        if code in BLOCKS:
            raise ValueError(f"blocks {code} are {BLOCKS[code].name}")
        kind.code, kind.name = code, name
        BLOCKS[code] = kind
        return kind

    return registered


def stored(values: Values, kind: str) -> Array:
    """Numbers in the type that they are stored in."""
    found: Array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    return found.astype(kind)


def in_bytes(slopes: Values) -> Array:
    """Slopes within [0, 1] as whole numbers from 0 to 255."""
    return stored(np.clip(np.rint(stored(slopes, "<f8") * LEVELS), 0, LEVELS), "<u1")


def _integer(value: int) -> Array:
    return np.array([value], dtype="<i8")


def counted_bytes(values: Values, kind: str = "<i8") -> Array:
    """Numbers with their count before them, as bytes."""
    data = stored(values, kind)
    return np.frombuffer(_integer(len(data)).tobytes() + data.tobytes(), np.uint8)


class OfNodes(Block):
    """A block that begins with the nodes it speaks of, all of which stay."""

    nodes: Values

    def numbers(self) -> tuple[int, int]:
        return 8, len(self.nodes)

    @classmethod
    def renamed(cls, data: Array, trimmed: Trimmed) -> list[Array]:
        nodes = nodes_of(data)
        renamed = np.array([trimmed.number[node] for node in nodes], dtype="<i8")
        return [counted_bytes(renamed), data[8 + 8 * len(nodes) :]]


def nodes_of(data: Array) -> list[int]:
    """The nodes that a block begins with."""
    count = int(np.frombuffer(data[:8].tobytes(), "<i8")[0])
    nodes: list[int] = np.frombuffer(data[8 : 8 + 8 * count].tobytes(), "<i8").tolist()
    return nodes


@dataclass(frozen=True)
class Claims:
    """Bounds of some variables: sides are 1 for lower bounds and -1 for upper ones."""

    variables: Array
    sides: Array
    values: Array

    def parts(self, kind: str) -> list[Array]:
        """As blocks have them, with values of the given type."""
        return [counted_bytes(self.variables, "<i4"), stored(self.sides, "i1"), stored(self.values, kind)]


# -- bounds on the boxes of roots, and over the unsafe points of nodes


@register(0, "box")
@dataclass(frozen=True)
class Box(Block):
    """What is known of the box of some roots."""

    content = "counted I64 roots, P*F64 lower, P*F64 upper"
    shows = "bounds on these roots' box (which they share) by intervals or CROWN"

    roots: Values
    lower: Values
    upper: Values

    def parts(self) -> list[Array]:
        return [counted_bytes(self.roots), stored(self.lower, "<f8"), stored(self.upper, "<f8")]


@register(1, "slopes")
@dataclass(frozen=True)
class Slopes(Block):
    """Bounds of some neurons of a layer on the box of some roots; slopes: [claims, unstable neurons below]."""

    content = "counted I64 roots, I64 layer, claims as F64, for each claim U8 slopes of the layers below"
    shows = "bounds on the box, each neuron with slopes of its own"

    roots: Values
    layer: int
    claims: Claims
    slopes: Values

    def parts(self) -> list[Array]:
        return [
            counted_bytes(self.roots),
            _integer(self.layer),
            *self.claims.parts("<f8"),
            in_bytes(self.slopes),
        ]


@register(18, "multipliers")
@dataclass(frozen=True)
class OwnMultipliers(Block):
    """The same of networks with any activations; rho: [claims, pre-activations of the layers below]."""

    content = "counted I64 roots, I64 layer, claims as F64, layer by layer of those below F32 rho [claims, the layer]"
    shows = "bounds on the box after interval arithmetic, each neuron by multipliers of its own"

    roots: Values
    layer: int
    claims: Claims
    rho: Sequence[Values]

    def parts(self) -> list[Array]:
        head = [counted_bytes(self.roots), _integer(self.layer), *self.claims.parts("<f8")]
        return [*head, *(stored(part, "<f4") for part in self.rho)]


@register(15, "trees")
@dataclass(frozen=True)
class Trees(Block):
    """Bounds of some neurons of a layer on the box of some roots, each by a tree.

    nodes, variables, values: of the splits. multipliers: of the splits above each leaf, leaf by leaf; slopes: of the unstable neurons of the
    layers below in each leaf.
    """

    content = (
        "counted I64 roots, I64 layer, claims as F64, counted I64 nodes, I32 variables, F64 values of splits, F16 multipliers of each leaf's splits, "
        "for each leaf U8 slopes of the layers below"
    )
    shows = "bounds on the box, each neuron by a tree of its own"

    roots: Values
    layer: int
    claims: Claims
    nodes: Values
    variables: Values
    values: Values
    multipliers: Values
    slopes: Values

    def parts(self) -> list[Array]:
        head = [
            counted_bytes(self.roots),
            _integer(self.layer),
            *self.claims.parts("<f8"),
            counted_bytes(self.nodes),
        ]
        splits = [stored(self.variables, "<i4"), stored(self.values, "<f8")]
        return [*head, *splits, stored(self.multipliers, "<f2"), in_bytes(self.slopes)]


@register(2, "lemma")
@dataclass(frozen=True)
class Lemma(Block):
    """Bounds of some neurons of a layer over the unsafe points of a node's subproblem."""

    content = (
        "I64 node, I64 layer, claims as F32, F32 weights [claims, rows], depth*F16 multipliers (times the sum of a claim's "
        "weights), U8 slopes"
    )
    shows = "bounds over the unsafe points of the node's subproblem, all neurons by the same slopes"

    node: int
    layer: int
    claims: Claims
    weights: Values
    multipliers: Values
    slopes: Values

    def parts(self) -> list[Array]:
        return [
            np.array([self.node, self.layer], dtype="<i8"),
            *self.claims.parts("<f4"),
            stored(self.weights, "<f4"),
            stored(self.multipliers, "<f2"),
            in_bytes(self.slopes),
        ]

    def numbers(self) -> tuple[int, int]:
        return 0, 1

    @classmethod
    def renamed(cls, data: Array, trimmed: Trimmed) -> list[Array]:
        node = int(np.frombuffer(data[:8].tobytes(), "<i8")[0])
        return [_integer(trimmed.number[node]), data[8:]] if node in trimmed.number else []

    @classmethod
    def moved(cls, data: Array, moved: Moved) -> list[Array]:
        node = int(np.frombuffer(data[:8].tobytes(), "<i8")[0])
        return [_integer(int(moved.number[node])), data[8:]]


@register(11, "cuts")
@dataclass(frozen=True)
class CuttingPlanes(Block):
    """Affine functions of a pre-activation and of values before it that lie above the output, on a box (of one row).

    counts: coefficients of each; columns: the variables (inputs, or those before an output) of all of them.
    """

    content = (
        "counted I32 variables, V*F64 lower, V*F64 upper, F64 slopes, F64 factors, F64 offsets, I32 counts of coefficients; I32 variables and "
        "F64 values of these"
    )
    shows = "cutting planes above the ReLUs of these variables on the box, which whoever uses them has to be inside of"

    lower: Values
    upper: Values
    variables: Values
    slopes: Values
    factors: Values
    offsets: Values
    counts: Values
    columns: Values
    values: Values

    def parts(self) -> list[Array]:
        box = [stored(end.reshape(-1), "<f8") for end in (self.lower, self.upper)]
        numbers = [stored(part, "<f8") for part in (self.slopes, self.factors, self.offsets)]
        head = [counted_bytes(self.variables, "<i4"), *box, *numbers, stored(self.counts, "<i4")]
        return [*head, stored(self.columns, "<i4"), stored(self.values, "<f8")]

    @classmethod
    def moved(cls, data: Array, moved: Moved) -> list[Array]:
        return [data]


@register(14, "lemma_cuts")
@dataclass(frozen=True)
class LemmaUnderCuts(Lemma):
    """The same with shares of cuts; these by their numbers."""

    content = "as `lemma`, and before the slopes counted I64 cuts, U8 shares [cuts]"
    shows = "the same, below cutting planes"

    cuts: Values
    shares: Values

    def parts(self) -> list[Array]:
        *head, slopes = super().parts()
        return [*head, counted_bytes(self.cuts), in_bytes(self.shares), slopes]

    @classmethod
    def moved(cls, data: Array, moved: Moved) -> list[Array]:
        node, _, claims = np.frombuffer(data[:24].tobytes(), "<i8").tolist()
        head, rest = super().moved(data, moved)
        # the layer and the count; variables, sides, values, weights; multipliers
        before = 16 + claims * (4 + 1 + 4 + 4 * moved.rows) + 2 * int(moved.depths(np.array([node]))[0])
        return [head, *moved.with_cuts(rest, before)]
