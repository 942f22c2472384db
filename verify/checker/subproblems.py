"""Blocks about subproblems of the input alone: everything is bounded afresh on each box, and nothing is stored but weights.

A clause's rows are bounded from below by linear functions of the input, by CROWN; in a second pass with pre-activations
bounded by CROWN as well. They refute a clause where one of them, or a weighted sum, is positive on the whole box; else its
unsafe points lie where none of them is positive, which is in a smaller box.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.checker.bounding import Objective, Pair
from verify.checker.clauses import Rows
from verify.checker.dual import Linear
from verify.checker.errors import NotProved, Refused
from verify.checker.passes import clipped, tightened
from verify.checker.proof import CHUNK, Proof
from verify.checker.rules import Rule, register
from verify.checker.stream import Cursor

Array = NDArray[Any]
_FIRST, _BOTH = 1, 3  # passes, as they are stored


@register(8, "input_leaves")
class InputLeaves(Rule):
    """Nodes all of whose root's clauses are refuted on their boxes."""

    closes = True

    @classmethod
    def take_in(cls, proof: Proof, cursor: Cursor, prove: bool) -> None:
        nodes = proof.nodes(cursor)
        passes = cursor.take("<u1", len(nodes))
        weights = _joining(proof, cursor, len(nodes))
        for rows, root in _by_root(proof, nodes, passes) if prove else []:
            bound, refuted, lower, upper = _afresh(
                proof, nodes[rows], root, int(passes[rows[0]]), weights[rows]
            )
            proof.closed(
                nodes[rows], np.where(refuted & (bound <= 0), np.inf, bound), refuted, (lower, upper)
            )


@register(9, "clip")
class Clip(Rule):
    """Input boxes that hold all unsafe points of their nodes' subproblems."""

    @classmethod
    def take_in(cls, proof: Proof, cursor: Cursor, prove: bool) -> None:
        nodes = np.array(cursor.counted("<i8"))
        proof.tree.check_nodes(nodes)
        passes = cursor.take("<u1", len(nodes))
        weights = _joining(proof, cursor, len(nodes))
        inputs = proof.network.inputs
        claimed = [np.array(cursor.take("<f8", len(nodes) * inputs)).reshape(-1, inputs) for _ in range(2)]
        if any(np.isnan(end).any() for end in claimed):
            raise Refused("a claim is not a number")
        for rows, root in _by_root(proof, nodes, passes) if prove else []:
            _, _, lower, upper = _afresh(proof, nodes[rows], root, int(passes[rows[0]]), weights[rows])
            if not ((claimed[0][rows] <= lower).all() and (claimed[1][rows] >= upper).all()):
                raise NotProved("a clipped box that unsafe points may lie outside of")
            proof.summary.claims += len(rows)
        variables = np.arange(inputs)
        for i, node in enumerate(nodes.tolist()):
            proof.tree.claim(node, variables, claimed[0][i], claimed[1][i])


def _joining(proof: Proof, cursor: Cursor, count: int) -> Array:
    """Weights that join the rows of each clause: [nodes, passes, clauses, rows]; of one row there is nothing to join."""
    shape = (count, 2, proof.clauses.most_of_root, proof.clauses.most_rows)
    return np.zeros(shape) if shape[3] == 1 else proof.weights(cursor, "<f4", *shape)


def _by_root(proof: Proof, nodes: Array, passes: Array) -> list[tuple[Array, int]]:
    """Rows of nodes of the same root and with the same passes, not too many at once."""
    if not np.isin(passes, (_FIRST, _BOTH)).all():
        raise Refused("a pass that is not known")
    found = []
    roots = proof.tree.root_of[nodes]
    for root in np.unique(roots).tolist():
        objectives = len(proof.clauses.of_root(root)) * proof.clauses.most_rows
        widest = max(node.size for node in proof.network.nodes)
        step = max(1, CHUNK // (4 * proof.network.variables * max(objectives, min(widest, 64))))
        for kind in (_FIRST, _BOTH):
            rows = np.flatnonzero((roots == root) & (passes == kind))
            found += [(rows[i : i + step], root) for i in range(0, len(rows), step)]
    return found


def _afresh(
    proof: Proof, nodes: Array, root: int, passes: int, weights: Array
) -> tuple[Array, Array, Array, Array]:
    """The worst clause's bound, whether all clauses are refuted, and the boxes of all unsafe points."""
    proof.bounder.check_time()
    inputs, count = slice(0, proof.network.inputs), proof.clauses.most_rows
    lower, upper = (end[:, inputs] for end in proof.tree.subproblems(nodes))
    clauses = [proof.clauses.rows(clause).padded(count) for clause in proof.clauses.of_root(root)]
    best = np.full((len(nodes), len(clauses)), -np.inf)
    low, high = (np.repeat(end[:, None], len(clauses), 1) for end in (lower, upper))
    bounds = proof.dual.intervals(lower, upper)
    for number in range(1 if passes == _FIRST else 2):
        if number == 1:
            bounds = tightened(proof.bounder, bounds)
        linear = _row_functions(proof, bounds, clauses)
        for k in range(len(clauses)):
            rows = slice(k * count, (k + 1) * count)
            own = Linear(*(part[:, rows] for part in (linear.cotangent, linear.constant, linear.error)))
            value, low_k, high_k = clipped(own, (lower, upper), weights[:, number, k], proof.dual.gamma)
            best[:, k] = np.maximum(best[:, k], value)
            low[:, k], high[:, k] = np.maximum(low[:, k], low_k), np.minimum(high[:, k], high_k)
    refuted = (best > 0) | np.any(low > high, axis=2)
    low = np.where(refuted[..., None], np.inf, low).min(1)
    high = np.where(refuted[..., None], -np.inf, high).max(1)
    return best.min(1), np.all(refuted, axis=1), low, high


def _row_functions(proof: Proof, bounds: Pair, clauses: list[Rows]) -> Linear:
    """Every row of every clause as a linear function below it."""
    together = Rows.concatenated(clauses)
    weights = np.broadcast_to(np.eye(len(together)), (len(bounds[0]), len(together), len(together)))
    sizes = proof.dual.sizes(*bounds)
    start, constant, error = Objective(weights, [together]).start(proof.dual, sizes)
    return proof.dual.sweep(*bounds, start, constant, error, proof.bounder.default(bounds), sizes)
