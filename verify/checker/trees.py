"""Blocks of bounds on the boxes of roots that a small tree of splits proves, one for each claim."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.checker.bounding import Objective, Pair
from verify.checker.claims import OnBox, read_alphas
from verify.checker.errors import NotProved
from verify.checker.proof import Proof
from verify.checker.rules import register
from verify.checker.stream import Cursor
from verify.checker.tree import Tree

Array = NDArray[Any]


@register(15, "trees")
class Trees(OnBox):
    """Each claim is the root of a tree, all of whose leaves reach it."""

    @classmethod
    def take_rest(
        cls, proof: Proof, cursor: Cursor, prove: bool, number: int, old: Pair, stated: tuple[Array, Array, Array],
    ) -> None:  # fmt: skip
        if prove:
            _prove(proof, cursor, number, old, stated)
            proof.summary.claims += len(stated[0])
        else:
            cursor.skip()


def _prove(proof: Proof, cursor: Cursor, number: int, base: Pair, stated: tuple[Array, Array, Array]) -> None:
    """With the rest of the block: the splits, and for each leaf multipliers of its splits and slopes."""
    neurons, sides, claims = stated
    forest = Tree(len(neurons), proof.network.variables, lambda _: base)
    for tree in range(len(neurons)):
        forest.set_base(tree, *base)
    nodes = cursor.counted("<i8")
    forest.grow(nodes, cursor.take("<i4", len(nodes)), cursor.take("<f8", len(nodes)))
    # both halves of each split are there, so the leaves are all of the box
    leaves = forest.left_open
    variables, counts = forest.splits(leaves)
    multipliers = np.zeros(variables.shape)
    multipliers[variables >= 0] = cursor.take("<f2", int(counts.sum()))
    layer = proof.network.layers[number]
    below, size = proof.network.layers_below(layer.operand), proof.network.nodes[layer.operand].size
    sizes = proof.dual.sizes(*proof.bounder.propagated((base[0][None], base[1][None])))
    for rows in proof.rows_at_once(len(leaves)):
        bounds, owner = forest.subproblems(leaves[rows]), forest.root_of[leaves[rows]]
        alphas = read_alphas(proof, cursor, bounds, 1, "<u1", below)
        coefficients = np.zeros((len(owner), 1, size))
        coefficients[np.arange(len(owner)), 0, neurons[owner]] = sides[owner]
        objective = Objective(np.zeros((len(owner), 1, 0)), [], (layer.operand, coefficients))
        # nothing is to be shown of what is empty; NaN is not
        empty = np.any(bounds[0] > bounds[1], axis=1)
        needed = np.where(empty, -np.inf, (claims * sides)[owner])
        rho = proof.bounder.sloped(bounds, alphas, (variables[rows], multipliers[rows]))
        _, reached = proof.bounder.reach(bounds, objective, rho, sizes, needed[:, None], False)
        left = np.flatnonzero(~(reached[:, 0] | empty))
        if len(left):
            neuron = int(neurons[owner[left[0]]])
            raise NotProved(
                f"claim of neuron {neuron} of layer {number}, at node {int(leaves[rows][left[0]])} of its trees"
            )
