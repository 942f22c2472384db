"""The kinds of blocks that close nodes, or say where their unsafe points lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from verify.proof.blocks import (
    LEVELS,
    Array,
    Leaf,
    Moved,
    OfNodes,
    Source,
    Trimmed,
    Values,
    counted_bytes,
    in_bytes,
    nodes_of,
    register,
    stored,
)


@dataclass(frozen=True)
class SlopedLeaves(OfNodes):
    """Leaves by the slopes of unstable ReLUs (one after the other, in the order of nodes) and the multipliers of splits."""

    shows = "each node's subproblem is refuted"

    nodes: Values
    weights: Values
    multipliers: Values
    slopes: Values

    multiplier_type: ClassVar[str]
    slope_type: ClassVar[str]

    def parts(self) -> list[Array]:
        slopes = in_bytes(self.slopes) if self.slope_type == "<u1" else stored(self.slopes, self.slope_type)
        multipliers = stored(self.multipliers, self.multiplier_type)
        return [counted_bytes(self.nodes), stored(self.weights, "<f4"), multipliers, slopes]

    @classmethod
    def leaves(cls, source: Source, trimmed: Trimmed) -> dict[int, Leaf]:
        nodes = source.counted("<i8")
        weights = source.take("<f4", len(nodes) * trimmed.rows).reshape(-1, trimmed.rows).astype("<f8")
        depths = trimmed.depths(nodes)
        multipliers = np.split(source.take(cls.multiplier_type, int(depths.sum())), np.cumsum(depths)[:-1])
        mask = trimmed.unstable(nodes)
        found = np.zeros(mask.shape, dtype=cls.slope_type)
        found[mask] = source.take(cls.slope_type, int(mask.sum()))
        slopes = found / LEVELS if cls.slope_type == "<u1" else found
        return {node: Leaf(weights[i], multipliers[i], slopes[i]) for i, node in enumerate(nodes.tolist())}

    @classmethod
    def renamed(cls, data: Array, trimmed: Trimmed) -> list[Array]:
        kept = {node: trimmed.kept[node] for node in nodes_of(data) if node in trimmed.kept}
        return cls.of(kept, trimmed).parts() if kept else []

    @classmethod
    def of(cls, leaves: Mapping[int, Leaf], trimmed: Trimmed) -> SlopedLeaves:
        """The block that closes nodes of what is left."""
        nodes, found = np.array(list(leaves), dtype=np.int64), list(leaves.values())
        return cls(
            np.array([trimmed.number[node] for node in leaves]),
            np.stack([leaf.weights for leaf in found]),
            np.concatenate([leaf.multipliers for leaf in found]),
            np.stack([leaf.slopes for leaf in found])[trimmed.unstable(nodes)],
        )


@register(3, "leaves8")
class Leaves8(SlopedLeaves):
    """Slopes in a byte, multipliers in half precision."""

    content = "counted I64 nodes, F32 weights [nodes, rows], F16 multipliers of each node's splits, U8 slopes"
    multiplier_type, slope_type = "<f2", "<u1"


@register(4, "leaves32")
class Leaves32(SlopedLeaves):
    """Both in single precision."""

    content = "the same with F32 multipliers and F32 slopes"
    shows = "the same"
    multiplier_type, slope_type = "<f4", "<f4"


@dataclass(frozen=True)
class UnderCuts(OfNodes):
    """Leaves by slopes, multipliers of splits, and shares of cuts: cuts are by their numbers, shares [nodes, cuts]."""

    shows = "the same, below cutting planes"

    nodes: Values
    weights: Values
    multipliers: Values
    cuts: Values
    shares: Values
    slopes: Values

    multiplier_type: ClassVar[str]
    slope_type: ClassVar[str]

    def parts(self) -> list[Array]:
        found = []
        for slopes in (self.shares, self.slopes):
            found.append(in_bytes(slopes) if self.slope_type == "<u1" else stored(slopes, self.slope_type))
        head = [
            counted_bytes(self.nodes),
            stored(self.weights, "<f4"),
            stored(self.multipliers, self.multiplier_type),
        ]
        return [*head, counted_bytes(self.cuts), found[0].reshape(-1), found[1]]

    @classmethod
    def moved(cls, data: Array, moved: Moved) -> list[Array]:
        nodes = nodes_of(data)
        head, rest = super().moved(data, moved)
        size = np.dtype(cls.multiplier_type).itemsize
        before = 4 * len(nodes) * moved.rows + size * int(moved.depths(np.array(nodes, dtype=np.int64)).sum())
        return [head, *moved.with_cuts(rest, before)]


@register(12, "leaves8_cuts")
class Leaves8Cuts(UnderCuts):
    """Slopes and shares in a byte, multipliers in half precision."""

    content = "counted I64 nodes, F32 weights [nodes, rows], F16 multipliers of each node's splits, counted I64 cuts, U8 shares [nodes, cuts], U8 slopes"
    multiplier_type, slope_type = "<f2", "<u1"


@register(13, "leaves32_cuts")
class Leaves32Cuts(UnderCuts):
    """All in single precision."""

    content = "the same with F32 multipliers, F32 shares and F32 slopes"
    multiplier_type, slope_type = "<f4", "<f4"


@register(5, "leaves_rho")
@dataclass(frozen=True)
class LeavesRho(OfNodes):
    """Leaves by multipliers of all pre-activations."""

    content = "counted I64 nodes, F64 weights [nodes, rows], F64 rho [nodes, P]"
    shows = "the same, after interval arithmetic on the subproblem"

    nodes: Values
    weights: Values
    rho: Values

    def parts(self) -> list[Array]:
        return [counted_bytes(self.nodes), stored(self.weights, "<f8"), stored(self.rho, "<f8")]


@register(6, "leaves_default")
@dataclass(frozen=True)
class LeavesDefault(OfNodes):
    """Leaves by CROWN's multipliers."""

    content = "counted I64 nodes, F32 weights [nodes, rows]"
    shows = "the same by CROWN, after interval arithmetic"

    nodes: Values
    weights: Values

    def parts(self) -> list[Array]:
        return [counted_bytes(self.nodes), stored(self.weights, "<f4")]


@register(7, "empty")
@dataclass(frozen=True)
class Empty(OfNodes):
    """Leaves whose bounds contradict one another."""

    content = "counted I64 nodes"
    shows = "some l > u"

    nodes: Values

    def parts(self) -> list[Array]:
        return [counted_bytes(self.nodes)]


@register(10, "covered")
@dataclass(frozen=True)
class Covered(OfNodes):
    """Leaves inside of nodes that earlier blocks refute; of other roots mostly, where certificates were merged."""

    content = "counted I64 nodes, I64 other nodes [nodes]"
    shows = "each lies inside the other node, which all earlier blocks together refute"

    nodes: Values
    others: Values

    def parts(self) -> list[Array]:
        return [counted_bytes(self.nodes), stored(self.others, "<i8")]

    @classmethod
    def renamed(cls, data: Array, trimmed: Trimmed) -> list[Array]:
        nodes = nodes_of(data)
        others = np.frombuffer(data[8 + 8 * len(nodes) :].tobytes(), "<i8").tolist()
        renamed = [trimmed.number[node] for node in nodes], [trimmed.above(other) for other in others]
        return cls(*map(np.array, renamed)).parts()

    @classmethod
    def moved(cls, data: Array, moved: Moved) -> list[Array]:
        nodes = nodes_of(data)
        others = np.frombuffer(data[8 + 8 * len(nodes) :].tobytes(), "<i8")
        return cls(moved.number[nodes], moved.number[others]).parts()


# -- subproblems of the input


class WithJoining(OfNodes):
    """A block with weights that join the rows of each of a root's clauses: nodes, their passes, the weights, the rest."""

    @classmethod
    def moved(cls, data: Array, moved: Moved) -> list[Array]:
        head, rest = super().moved(data, moved)
        old, new = moved.most_of_root
        if moved.rows == 1 or old == new:
            return [head, rest]
        count = len(nodes_of(data))
        size = 4 * count * 2 * old * moved.rows
        weights = np.zeros((count, 2, new, moved.rows), dtype="<f4")
        weights[:, :, :old] = np.frombuffer(rest[count : count + size].tobytes(), "<f4").reshape(
            count, 2, old, moved.rows
        )
        return [head, rest[:count], weights, rest[count + size :]]


@register(8, "input_leaves")
@dataclass(frozen=True)
class InputLeaves(WithJoining):
    """Leaves by bounds made afresh on their boxes."""

    content = "counted I64 nodes, U8 passes, joining weights"
    shows = "all clauses of the root are refuted on each node's input box"

    nodes: Values
    passes: Values
    weights: Values

    def parts(self) -> list[Array]:
        return [counted_bytes(self.nodes), stored(self.passes, "<u1"), stored(self.weights, "<f4")]


@register(9, "clip")
@dataclass(frozen=True)
class Clip(WithJoining):
    """Input boxes that hold all unsafe points of nodes' subproblems."""

    content = "counted I64 nodes, U8 passes, joining weights, F64 lower [nodes, I], F64 upper [nodes, I]"
    shows = "all unsafe points of all the root's clauses lie in these boxes"

    nodes: Values
    passes: Values
    weights: Values
    lower: Values
    upper: Values

    def parts(self) -> list[Array]:
        head = [counted_bytes(self.nodes), stored(self.passes, "<u1"), stored(self.weights, "<f4")]
        return [*head, stored(self.lower, "<f8"), stored(self.upper, "<f8")]
