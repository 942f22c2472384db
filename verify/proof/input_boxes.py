"""Boxes of the input that were bounded pass by pass: what a search found of them, and what is written of that."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.proof.blocks import Array, Block, stored
from verify.proof.box_blocks import MULTIPLIERS, Boxes, BoxLeaves, Pass
from verify.state import Bounds, Struct, Subproblems, outward

# of an interval: a clipped box that keeps more of all of them is not worth a proof
WORTH_A_BLOCK = 0.9
# of an interval, by which boxes and bounds are told wider, for who rounds in another way
_SLACK = 1e-6


@dataclass(frozen=True)
class Turn:
    """A pass that a batch was given: its column in `InputBoxes`, and its kind (of `box_blocks`)."""

    column: int
    kind: int


@dataclass(frozen=True)
class InputBoxes(Struct):
    """Boxes after passes: which are refuted, and where all unsafe points of the others lie.

    clauses, left: those that each stood for (by their places in its root, perhaps repeated), and which are not known to be refuted. made: the passes that each
    had, the first always. weights: with which each pass joined the rows. rho: the multipliers of a pass that has them, of clauses that have
    weights in it. bounds: on all variables.
    """

    refuted: Bool[Tensor, " batch"]
    clauses: Int[Tensor, "batch group"]
    left: Bool[Tensor, "batch group"]
    made: Bool[Tensor, "batch passes"]
    weights: Float[Tensor, "batch passes group rows"]
    rho: Float[Tensor, "batch group multipliers"]
    lower: Float[Tensor, "batch inputs"]
    upper: Float[Tensor, "batch inputs"]
    bounds: Bounds

    def inherited(self, subproblems: Subproblems) -> Bounds:
        """What is handed on where nothing is written: the boxes, and bounds of as many variables behind them as subproblems have."""
        behind = slice(self.lower.shape[1], subproblems.constrained_lower.shape[1])
        return Bounds(
            torch.cat([self.lower, self.bounds.lower[:, behind]], 1),
            torch.cat([self.upper, self.bounds.upper[:, behind]], 1),
        )


def written(
    found: InputBoxes, turns: tuple[Turn, ...], subproblems: Subproblems, whole: Bounds
) -> tuple[list[Block], Bounds]:
    """The blocks, and what is handed on: of the boxes left open no more than blocks say, and nothing new where that is not worth one.

    whole: the boxes as they were.
    """
    before = Bounds(
        torch.cat([whole.lower, subproblems.constrained_lower[:, whole.lower.shape[1] :]], 1),
        torch.cat([whole.upper, subproblems.constrained_upper[:, whole.lower.shape[1] :]], 1),
    )
    found = _roomier(found, whole)
    everything = before.lower.shape[1] == found.bounds.lower.shape[1]
    tightening = [turn.column for turn in turns if turn.kind != MULTIPLIERS]
    tightened = found.made[:, tightening].any(1) & everything
    narrower = ((found.upper - found.lower) < WORTH_A_BLOCK * (whole.upper - whole.lower)).any(1)
    told = (narrower | tightened | ~found.left.all(1)) & ~found.refuted
    blocks: list[Block] = []
    if bool(found.refuted.any()):
        blocks.append(BoxLeaves(*_head(found.select(found.refuted), turns, subproblems, found.refuted)))
    if bool(told.any()):
        blocks.append(_boxes(found.select(told), tightened[told], turns, subproblems, told))
    after = found.inherited(subproblems)
    inputs = slice(0, whole.lower.shape[1])
    kept = told[:, None].expand_as(after.lower).clone()
    kept[:, inputs.stop :] &= tightened[:, None]
    return blocks, Bounds(
        torch.where(kept, torch.maximum(after.lower, before.lower), before.lower),
        torch.where(kept, torch.minimum(after.upper, before.upper), before.upper),
    )


def _roomier(found: InputBoxes, whole: Bounds) -> InputBoxes:
    """With boxes a little larger, inside of the whole ones, and bounds on float32's grid."""
    slack = _SLACK * (whole.upper - whole.lower)
    inputs, bounds = found.lower.shape[1], found.bounds
    margin = _SLACK * (bounds.upper - bounds.lower).nan_to_num(nan=0.0, posinf=0.0)
    lower = outward(bounds.lower - margin, -torch.inf).to(bounds.lower)
    upper = outward(bounds.upper + margin, torch.inf).to(bounds.upper)
    lower[:, :inputs], upper[:, :inputs] = bounds.lower[:, :inputs], bounds.upper[:, :inputs]
    return replace(
        found,
        lower=torch.maximum(found.lower - slack, whole.lower),
        upper=torch.minimum(found.upper + slack, whole.upper),
        bounds=Bounds(lower, upper),
    )


def _head(
    found: InputBoxes, turns: tuple[Turn, ...], subproblems: Subproblems, rows: Tensor
) -> tuple[Tensor, Tensor, Array, tuple[Pass, ...]]:
    """Nodes, clauses and passes of some boxes."""
    passes = []
    for turn in turns:
        weights, rho = found.weights[:, turn.column], None
        made = found.made[:, turn.column]
        if turn.kind == MULTIPLIERS:
            weights, made = weights.flatten(0, 1), weights.any(2).flatten()
            rho = found.rho.flatten(0, 1)[made] if bool(made.any()) else None
        if bool(made.any()):
            passes.append(Pass(turn.kind, made.nonzero()[:, 0], _weights(weights[made]), rho))
    return subproblems.subproblem_id[rows], found.clauses, _weights(found.weights[:, 0]), tuple(passes)


def _weights(weights: Tensor) -> Array:
    """Weights of joined rows; none where a clause is one row."""
    return stored(weights if weights.shape[-1] > 1 else weights[:0], "<f4")


def _boxes(
    found: InputBoxes, tightened: Tensor, turns: tuple[Turn, ...], subproblems: Subproblems, rows: Tensor
) -> Boxes:
    """What is known of boxes that are left open."""
    inputs = found.lower.shape[1]
    known = tightened.nonzero()[:, 0]
    ends = (end[known, inputs:] for end in (found.bounds.lower, found.bounds.upper))
    return Boxes(*_head(found, turns, subproblems, rows), found.lower, found.upper, found.left, known, *ends)
