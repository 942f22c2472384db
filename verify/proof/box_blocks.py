"""The kinds of blocks of boxes of the input that are bounded pass by pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from verify.proof.blocks import Array, OfNodes, Values, counted_bytes, register, stored

# how a pass tightens what is known of a box; before the first there is one that does nothing
FORWARD, BACKWARD, MULTIPLIERS = 1, 2, 3


@dataclass(frozen=True)
class Pass:
    """rows: of a block's nodes those that it is made on, in order. weights: [rows, clauses, rows of each], none where a clause is one row.

    rho: of a pass with multipliers, these, [rows, pre-activations]. Its rows are of nodes' clauses, one after the other: weights are [rows,
    rows of each].
    """

    kind: int
    rows: Values
    weights: Values
    rho: Values | None = None

    def parts(self) -> list[Array]:
        """As blocks have it, behind its kind."""
        head = [counted_bytes(self.rows, "<i4"), stored(self.weights, "<f4")]
        return head if self.rho is None else [*head, stored(self.rho, "<f4")]


@register(17, "box_leaves")
@dataclass(frozen=True)
class BoxLeaves(OfNodes):
    """Leaves by passes on their boxes; first: the weights of the first pass.

    clauses: those of each node that are left, by their places among its root's, perhaps repeated: [nodes, clauses].
    """

    content = "counted I64 nodes, clauses, passes"
    shows = "all clauses that are left of each node are refuted on its box"

    nodes: Values
    clauses: Values
    first: Values
    passes: tuple[Pass, ...]

    def parts(self) -> list[Array]:
        clauses = stored(self.clauses, "<i4")
        head = [counted_bytes(self.nodes), np.array([clauses.shape[1]], "<i8"), clauses]
        kinds = counted_bytes(np.array([one.kind for one in self.passes]), "<u1")
        passes = [part for one in self.passes for part in one.parts()]
        return [*head, stored(self.first, "<f4"), kinds, *passes]


@register(16, "boxes")
@dataclass(frozen=True)
class Boxes(BoxLeaves):
    """What is known of nodes. left: which of the clauses are not refuted. known: rows of the nodes of which more than the box is said."""

    content = (
        "counted I64 nodes, clauses, passes, F64 lower [nodes, I], F64 upper [nodes, I], U8 left [nodes, clauses], counted I32 rows, "
        "F32 lower [rows, P], F32 upper [rows, P]"
    )
    shows = (
        "all unsafe points lie in these boxes and within these bounds; clauses that are not left have none"
    )

    lower: Values
    upper: Values
    left: Values
    known: Values
    known_lower: Values
    known_upper: Values

    def parts(self) -> list[Array]:
        box = [stored(self.lower, "<f8"), stored(self.upper, "<f8"), stored(self.left, "<u1")]
        ends = [stored(self.known_lower, "<f4"), stored(self.known_upper, "<f4")]
        return [*super().parts(), *box, counted_bytes(self.known, "<i4"), *ends]
