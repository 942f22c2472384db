"""Blocks that close nodes: their clause's dual bound is above 0 on the node's subproblem, or the subproblem is empty."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.checker.bounding import Objective, Pair
from verify.checker.claims import read_alphas, read_shares
from verify.checker.dual import Rho
from verify.checker.errors import NotProved, Refused
from verify.checker.multipliers import Multipliers
from verify.checker.proof import Proof
from verify.checker.rules import Rule, register
from verify.checker.stream import Cursor

Array = NDArray[Any]


@register(3, "leaves8")
class Leaves8(Rule):
    """By slopes in a byte and multipliers of splits in half precision."""

    closes = True

    @classmethod
    def take_in(cls, proof: Proof, cursor: Cursor, prove: bool) -> None:
        _sloped(proof, cursor, prove, "<u1", "<f2")


@register(4, "leaves32")
class Leaves32(Rule):
    """By both in single precision."""

    closes = True

    @classmethod
    def take_in(cls, proof: Proof, cursor: Cursor, prove: bool) -> None:
        _sloped(proof, cursor, prove, "<f4", "<f4")


@register(12, "leaves8_cuts")
class Leaves8Cuts(Rule):
    """The same as `leaves8`, with shares of cuts in a byte."""

    closes = True

    @classmethod
    def take_in(cls, proof: Proof, cursor: Cursor, prove: bool) -> None:
        _sloped(proof, cursor, prove, "<u1", "<f2", "<u1")


@register(13, "leaves32_cuts")
class Leaves32Cuts(Rule):
    """The same as `leaves32`, with shares of cuts in single precision."""

    closes = True

    @classmethod
    def take_in(cls, proof: Proof, cursor: Cursor, prove: bool) -> None:
        _sloped(proof, cursor, prove, "<f4", "<f4", "<f4")


def _sloped(
    proof: Proof, cursor: Cursor, prove: bool, slopes: str, multipliers: str, shares: str | None = None
) -> None:
    """By the slopes of unstable ReLUs and the multipliers of splits; with `shares`, by those of cuts too."""
    if any(layer.kind != "relu" for layer in proof.network.layers):
        raise Refused("slopes are stored of networks with no activation but ReLU")
    nodes = proof.nodes(cursor)
    if not prove:
        return cursor.skip()
    weights = proof.weights(cursor, "<f4", len(nodes), proof.clauses.most_rows)
    variables, counts = proof.tree.splits(nodes)
    values = np.zeros(variables.shape)
    values[variables >= 0] = cursor.take(multipliers, int(counts.sum()))
    lower, upper = proof.tree.subproblems(nodes)
    cuts = None if shares is None else read_shares(proof, cursor, shares, len(nodes))
    if cuts is not None:
        cuts[0].check_inside(lower, upper, nodes)
    layers = list(range(len(proof.network.layers)))
    for rows in proof.rows_at_once(len(nodes)):
        bounds = lower[rows], upper[rows]
        alphas = read_alphas(proof, cursor, bounds, 1, slopes, layers)
        own = cuts and (cuts[0], cuts[1][rows])
        rho = proof.bounder.sloped(bounds, alphas, (variables[rows], values[rows]), own)
        _prove(proof, nodes[rows], bounds, weights[rows], rho, proof.sizes_of(nodes[rows]))


@register(5, "leaves_rho")
class LeavesRho(Rule):
    """By multipliers of all pre-activations."""

    closes = True

    @classmethod
    def take_in(cls, proof: Proof, cursor: Cursor, prove: bool) -> None:
        nodes = proof.nodes(cursor)
        if not prove:
            return cursor.skip()
        weights = proof.weights(cursor, "<f8", len(nodes), proof.clauses.most_rows)
        inputs, count = proof.network.inputs, proof.network.variables - proof.network.inputs
        stored = np.array(cursor.take("<f8", len(nodes) * count)).reshape(len(nodes), 1, count)
        columns = [
            slice(one.variables.start - inputs, one.variables.stop - inputs) for one in proof.network.layers
        ]
        for rows in proof.rows_at_once(len(nodes)):
            bounds = proof.bounder.propagated(proof.tree.subproblems(nodes[rows]))

            def rho(number: int, _: Array, own: Array = stored[rows]) -> Multipliers:
                return Multipliers(own[..., columns[number]])

            _prove(proof, nodes[rows], bounds, weights[rows], rho, proof.sizes_of(nodes[rows]))
        return None


@register(6, "leaves_default")
class LeavesDefault(Rule):
    """By interval arithmetic on what is known, and CROWN's multipliers."""

    closes = True

    @classmethod
    def take_in(cls, proof: Proof, cursor: Cursor, prove: bool) -> None:
        nodes = proof.nodes(cursor)
        weights = proof.weights(cursor, "<f4", len(nodes), proof.clauses.most_rows)
        for rows in proof.rows_at_once(len(nodes) if prove else 0):
            bounds = proof.bounder.propagated(proof.tree.subproblems(nodes[rows]))
            sizes = proof.dual.sizes(*bounds, each=True)
            _prove(proof, nodes[rows], bounds, weights[rows], proof.bounder.default(bounds), sizes)


@register(7, "empty")
class Empty(Rule):
    """Nothing is left of them: their bounds contradict one another."""

    closes = True

    @classmethod
    def take_in(cls, proof: Proof, cursor: Cursor, prove: bool) -> None:
        nodes = proof.nodes(cursor)
        for rows in proof.rows_at_once(len(nodes) if prove else 0):
            nothing = np.full(len(nodes[rows]), -np.inf)
            bounds = proof.tree.subproblems(nodes[rows])
            if not np.any(bounds[0] > bounds[1], axis=1).all():
                bounds = proof.bounder.propagated(bounds)
            proof.closed(nodes[rows], nothing, nothing > 0, bounds)


@register(10, "covered")
class Covered(Rule):
    """Their unsafe points would be others', which blocks before this one have refuted."""

    closes = True

    @classmethod
    def take_in(cls, proof: Proof, cursor: Cursor, prove: bool) -> None:
        nodes = np.array(cursor.counted("<i8"))
        others = cursor.take("<i8", len(nodes))
        proof.tree.check_nodes(nodes)
        proof.tree.check_nodes(others)
        # before the nodes are closed: none covers itself
        for other in others.tolist():
            if not proof.tree.done(other):
                raise Refused(f"node {other} is to cover others, and is not refuted yet")
        for rows in proof.rows_at_once(len(nodes) if prove else 0):
            ends = proof.tree.subproblems(nodes[rows])
            for node, other, lower, upper in zip(
                nodes[rows].tolist(), others[rows].tolist(), *ends, strict=True
            ):
                if not _inside(proof, node, other, lower, upper):
                    raise NotProved(f"node {node} is not inside node {other}")
        proof.tree.close(nodes)


def _inside(proof: Proof, node: int, other: int, lower: Array, upper: Array) -> bool:
    """Whether all unsafe points of a node, whose bounds are given, are among another's: of its clauses (so on its box), by its splits."""
    own, theirs = (proof.clauses.of_root(int(proof.tree.root_of[one])) for one in (node, other))
    return set(own) <= set(theirs) and all(
        lower[variable] >= value if higher else upper[variable] <= value
        for variable, value, higher in proof.tree.half_spaces(other)
    )


def _prove(
    proof: Proof, nodes: Array, bounds: Pair, weights: Array, rho: Rho, sizes: dict[int, Array]
) -> None:
    clauses = [proof.clause(node) for node in nodes.tolist()]
    if len(np.unique(proof.tree.root_of[nodes])) == 1:
        clauses = clauses[:1]
    needed = np.zeros((len(nodes), 1))
    bound, reached = proof.bounder.reach(
        bounds, Objective(weights[:, None], clauses), rho, sizes, needed, True
    )
    proof.closed(nodes, bound[:, 0], reached[:, 0], bounds)
