"""Blocks about boxes of the input: a sequence of passes that bound them, and what their halves may then rest on.

Every pass but the first tightens pre-activations, or brings multipliers of its own; then each clause's rows are bounded from below by linear
functions of the input. They refute a clause where one of them, or a weighted sum, is positive on the whole box; else its unsafe points lie
where none of them is positive. What a node knows is stored and proved, so its descendants begin with the same numbers as the search did.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.checker.bounding import Objective
from verify.checker.clauses import Rows
from verify.checker.dual import Linear
from verify.checker.errors import NotProved, Refused
from verify.checker.forward import carried_forward
from verify.checker.halfspaces import Halfspaces
from verify.checker.multipliers import Multipliers, Pair
from verify.checker.passes import clipped, tightened
from verify.checker.proof import CHUNK, Proof
from verify.checker.rules import Rule, register
from verify.checker.stream import Cursor

Array = NDArray[Any]
# nothing is stored of what passes find of boxes on the way
_EFFORT = 32
# how a pass tightens what is known, as they are stored; the first does nothing
_NOTHING, _FORWARD, _BACKWARD, _MULTIPLIERS = range(4)


@register(17, "box_leaves")
class BoxLeaves(Rule):
    """Nodes all of whose clauses are refuted on their boxes."""

    closes = True
    effort = _EFFORT

    @classmethod
    def take_in(cls, proof: Proof, cursor: Cursor, prove: bool) -> None:
        nodes = proof.nodes(cursor)
        if not prove:
            return cursor.skip()
        stated = _Stated.read(proof, cursor, nodes)
        for rows, found in stated.bounded(proof):
            bound = np.where(found.refuted & ~(found.best > 0), np.inf, found.best).min(1)
            proof.closed(nodes[rows], bound, np.all(found.refuted, axis=1), found.bounds)
        return None


@register(16, "boxes")
class Boxes(Rule):
    """What is known of nodes: boxes that hold all unsafe points, bounds on these, and which clauses are left."""

    effort = _EFFORT

    @classmethod
    def take_in(cls, proof: Proof, cursor: Cursor, prove: bool) -> None:
        nodes = np.array(cursor.counted("<i8"))
        proof.tree.check_nodes(nodes)
        stated = _Stated.read(proof, cursor, nodes)
        known = _Known.read(proof, cursor, stated)
        for rows, found in stated.bounded(proof) if prove else ():
            known.prove(rows, found)
            proof.summary.claims += len(nodes[rows])
        for i, node in enumerate(nodes.tolist()):
            left = stated.clauses[i][known.left[i]].tolist()
            proof.tree.know(node, known.lower[i], known.upper[i], left)


@dataclass(frozen=True)
class _Pass:
    """rows: places of its nodes in the block, in order. weights: [rows, clauses, rows of each].

    rho: of a pass with multipliers, these, [rows, pre-activations]; its rows are those of the nodes' clauses, and weights [rows, rows of each].
    """

    kind: int
    rows: Array
    weights: Array
    rho: Array | None

    def part(self, chosen: slice, clauses: int) -> _Pass:
        """The pass of some of the block's nodes, which are numbered anew."""
        each = 1 if self.rho is None else clauses
        own = slice(*np.searchsorted(self.rows, (chosen.start * each, chosen.stop * each)).tolist())
        rows = self.rows[own] - chosen.start * each
        return _Pass(self.kind, rows, self.weights[own], None if self.rho is None else self.rho[own])


@dataclass(frozen=True)
class _Stated:
    """How the nodes of a block are bounded: the clauses of each ([nodes, clauses], perhaps repeated), and the passes in order."""

    nodes: Array
    clauses: Array
    passes: list[_Pass]

    @staticmethod
    def read(proof: Proof, cursor: Cursor, nodes: Array) -> _Stated:
        """What stands behind the nodes. Refused where not all clauses are there that are left of a node."""
        count = cursor.integer()
        if count < 1 or not len(nodes):
            raise Refused("no clauses, or no nodes")
        places = cursor.take("<i4", len(nodes) * count).reshape(len(nodes), count).tolist()
        clauses = [_clauses_of(proof, *one) for one in zip(nodes.tolist(), places, strict=True)]
        passes = [_read_pass(proof, cursor, _NOTHING, np.arange(len(nodes)), count)]
        for kind in np.array(cursor.counted("<u1")).tolist():
            if kind not in (_FORWARD, _BACKWARD, _MULTIPLIERS):
                raise Refused("a pass that is not known")
            rows = cursor.counted("<i4").astype(np.int64)
            most = len(nodes) * (count if kind == _MULTIPLIERS else 1)
            if not (np.diff(rows) > 0).all() or ((rows < 0) | (rows >= most)).any():
                raise Refused("a pass's nodes are not in order, or not there")
            passes.append(_read_pass(proof, cursor, kind, rows, count))
        return _Stated(nodes, np.array(clauses, dtype=np.int64), passes)

    def bounded(self, proof: Proof) -> Iterator[tuple[slice, _Bounded]]:
        """The nodes, not too many at once, and what comes of them."""
        objectives = self.clauses.shape[1] * proof.clauses.most_rows
        widest = max(node.size for node in proof.network.nodes)
        step = max(1, CHUNK // (4 * proof.network.variables * max(objectives, min(widest, 64))))
        for start in range(0, len(self.nodes), step):
            rows = slice(start, min(start + step, len(self.nodes)))
            found = _Bounded(proof, self.nodes[rows], self.clauses[rows])
            for one in self.passes:
                part = one.part(rows, self.clauses.shape[1])
                if len(part.rows):
                    proof.bounder.check_time()
                    found.make(part)
            yield rows, found


def _clauses_of(proof: Proof, node: int, places: list[int]) -> list[int]:
    """The clauses at those places among a root's. Refused unless all that are left of the node are there."""
    every, left = proof.clauses.of_root(int(proof.tree.root_of[node])), proof.tree.left(node)
    if not all(0 <= place < len(every) for place in places):
        raise Refused("a clause that the root does not stand for")
    found = [every[place] for place in places]
    if not set(every if left is None else left) <= set(found):
        raise Refused(f"not all clauses that are left of node {node}")
    return found


def _read_pass(proof: Proof, cursor: Cursor, kind: int, rows: Array, clauses: int) -> _Pass:
    one_row, each = proof.clauses.most_rows == 1, proof.clauses.most_rows
    if kind == _MULTIPLIERS:
        weights = np.ones((len(rows), 1)) if one_row else proof.weights(cursor, "<f4", len(rows), each)
        count = proof.network.variables - proof.network.inputs
        return _Pass(kind, rows, weights, cursor.take("<f4", len(rows) * count).reshape(len(rows), count))
    shape = len(rows), clauses, each
    return _Pass(kind, rows, np.zeros(shape) if one_row else proof.weights(cursor, "<f4", *shape), None)


class _Bounded:
    """Boxes on the way through the passes.

    best: the best bound of each clause. lower, upper: where its unsafe points lie, [nodes, clauses, inputs]. bounds: of all variables.
    """

    def __init__(self, proof: Proof, nodes: Array, clauses: Array) -> None:
        self._proof, self._count, self._clauses = proof, proof.clauses.most_rows, clauses
        self.bounds: Pair = proof.bounder.propagated(proof.tree.subproblems(nodes))
        inputs = slice(0, proof.network.inputs)
        self._box = self.bounds[0][:, inputs].copy(), self.bounds[1][:, inputs].copy()
        self.best: Array = np.full(clauses.shape, -np.inf)
        self.lower, self.upper = (np.repeat(end[:, None], clauses.shape[1], 1) for end in self._box)
        alike = (clauses == clauses[:1]).all()
        self._rows = [self._rows_of(own) for own in (clauses[:1] if alike else clauses).tolist()]
        numbers = [proof.clauses.row_numbers(clause) for clause in clauses.ravel().tolist()]
        self._numbers = np.array(numbers, dtype=np.int64).reshape(*clauses.shape, self._count)
        self._unsafe: Halfspaces | None = None

    def _rows_of(self, clauses: list[int]) -> Rows:
        """Every row of some clauses."""
        return Rows.concatenated([self._proof.clauses.rows(clause).padded(self._count) for clause in clauses])

    @property
    def refuted(self) -> Array:
        """Which clauses of which nodes have no unsafe point."""
        empty = np.any(self.bounds[0] > self.bounds[1], axis=1)
        return np.asarray((self.best > 0) | np.any(self.lower > self.upper, axis=2) | empty[:, None])

    @property
    def box(self) -> tuple[Array, Array]:
        """Where the unsafe points of all clauses lie."""
        refuted = self.refuted[..., None]
        return np.where(refuted, np.inf, self.lower).min(1), np.where(refuted, -np.inf, self.upper).max(1)

    def make(self, one: _Pass) -> None:
        """A pass on some of the boxes."""
        if one.rho is not None:
            return self._make_by_multipliers(one, one.rho)
        members = one.rows
        bounds = self.bounds[0][members], self.bounds[1][members]
        unsafe = None if self._unsafe is None else self._unsafe.select(members)
        if one.kind == _FORWARD:
            bounds = carried_forward(self._proof.dual, bounds, unsafe)
        if one.kind == _BACKWARD:
            bounds = tightened(self._proof.bounder, self._proof.bounder.propagated(bounds), unsafe)
        self.bounds[0][members], self.bounds[1][members] = bounds
        functions = self._functions(bounds, members)
        for k in range(self.best.shape[1]):
            rows = slice(k * self._count, (k + 1) * self._count)
            parts = functions.cotangent, functions.constant, functions.error
            own = Linear(*(part[:, rows] for part in parts))
            self._take(members, np.full_like(members, k), own, one.weights[:, k])
        self._narrow(members, functions)
        return None

    def _functions(self, bounds: Pair, members: Array) -> Linear:
        """Every row of every clause as a linear function below it."""
        rows = self._rows if len(self._rows) == 1 else [self._rows[i] for i in members.tolist()]
        weights = np.broadcast_to(np.eye(len(rows[0])), (len(members), len(rows[0]), len(rows[0])))
        dual, sizes = self._proof.dual, self._proof.dual.sizes(*bounds, each=True)
        start, constant, error = Objective(weights, rows).start(dual, sizes)
        return dual.sweep(*bounds, start, constant, error, self._proof.bounder.default(bounds), sizes)

    def _make_by_multipliers(self, one: _Pass, rho: Array) -> None:
        """The weighted sum of a clause's rows as a linear function below it, by given multipliers."""
        members, which = np.divmod(one.rows, self.best.shape[1])
        bounds, inputs = (self.bounds[0][members], self.bounds[1][members]), self._proof.network.inputs
        rows = [self._rows_of([clause]) for clause in self._clauses[members, which].tolist()]
        dual, sizes = self._proof.dual, self._proof.dual.sizes(*bounds, each=True)

        def declared(number: int, _: Array) -> Multipliers:
            columns = self._proof.network.layers[number].variables
            return Multipliers(
                rho[:, None, columns.start - inputs : columns.stop - inputs].astype(np.float64)
            )

        start, constant, error = Objective(one.weights[:, None], rows).start(dual, sizes)
        functions = dual.sweep(*bounds, start, constant, error, declared, sizes)
        self._take(members, which, functions, np.zeros((len(members), 1)))

    def _take(self, members: Array, which: Array, functions: Linear, weights: Array) -> None:
        """What functions below a clause's rows, one clause of each box, and their weighted sum tell of it."""
        at = members, which
        value, lower, upper = clipped(
            functions, (self._box[0][members], self._box[1][members]), weights, self._proof.dual.gamma
        )
        self.best[at] = np.maximum(self.best[at], value)
        self.lower[at] = np.maximum(self.lower[at], lower)
        self.upper[at] = np.minimum(self.upper[at], upper)

    def _narrow(self, members: Array, functions: Linear) -> None:
        """What is left of the boxes by the rows that all their open clauses have."""
        refuted, numbers = self.refuted[members], self._numbers[members]
        every, first = np.arange(len(members)), (~refuted).argmax(1)
        asked = numbers[every, first]
        has = (numbers[..., None] == asked[:, None, None]).any(2)
        shared = (has | refuted[..., None]).all(1)
        columns = first[:, None] * self._count + np.arange(self._count)
        parts = functions.cotangent, functions.constant, functions.error
        own = Linear(*(part[every[:, None], columns] for part in parts))
        found = Halfspaces.of((self._box[0][members], self._box[1][members]), own, shared)
        self._unsafe = found if self._unsafe is None else self._unsafe.updated(members, found)


@dataclass(frozen=True)
class _Known:
    """What a block says of its nodes: bounds of all variables (infinite where nothing is said), and which of the clauses are left."""

    lower: Array
    upper: Array
    left: Array

    @staticmethod
    def read(proof: Proof, cursor: Cursor, stated: _Stated) -> _Known:
        """What stands behind the passes. Refused where a bound is not a number."""
        nodes, inputs, variables = len(stated.nodes), proof.network.inputs, proof.network.variables
        count = variables - inputs
        boxes = [cursor.take("<f8", nodes * inputs).reshape(nodes, inputs) for _ in range(2)]
        left = cursor.take("<u1", stated.clauses.size).reshape(stated.clauses.shape)
        rows = cursor.counted("<i4").astype(np.int64)
        if ((rows < 0) | (rows >= nodes)).any() or (left > 1).any():
            raise Refused("bounds of a node that is not there, or a flag that is none")
        ends = []
        for box, none in zip(boxes, (-np.inf, np.inf), strict=True):
            end = np.full((nodes, variables), none)
            end[:, :inputs] = box
            end[rows, inputs:] = cursor.take("<f4", len(rows) * count).reshape(len(rows), count)
            if np.isnan(end).any():
                raise Refused("a claim is not a number")
            ends.append(end)
        return _Known(ends[0], ends[1], left == 1)

    def prove(self, rows: slice, found: _Bounded) -> None:
        """NotProved unless what was found of some nodes is no less."""
        if not (self.left[rows] | found.refuted).all():
            raise NotProved("a clause is left out that is not refuted")
        inputs = slice(0, found.lower.shape[2])
        lower, upper = (end.copy() for end in found.bounds)
        lower[:, inputs], upper[:, inputs] = found.box
        if not ((self.lower[rows] <= lower).all() and (self.upper[rows] >= upper).all()):
            raise NotProved("a box, or a bound, that unsafe points may lie outside of")
