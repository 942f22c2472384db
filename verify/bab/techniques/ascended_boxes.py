"""Ascents on boxes that are left open: slopes, and the weights with which a clause's rows are bounded as one.

Rows that contradict each other (y_0 > y_1 and y_0 < y_1) each hold somewhere on every box, and so do linear bounds of each; their sum does not.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.bab.box_bounds import BoundedBoxes
from verify.bab.effort import Observation
from verify.bab.strategy import Knowledge
from verify.bab.techniques.tightened_boxes import TightenedBoxes
from verify.bounders.ibp import magnitudes
from verify.bounders.restricted import Restricted
from verify.deadline import Deadline
from verify.lagrangian.dual import DualProblem
from verify.lagrangian.rho import Rho
from verify.proof.box_blocks import MULTIPLIERS
from verify.proof.input_boxes import WORTH_A_BLOCK
from verify.room import at_once
from verify.state import Bounds, DualState, Objective

_MOST_KEPT = 2**26  # numbers of a batch's multipliers
_MOST_ELEMENTS = 2**23  # variables, times clauses, of boxes that ascend at once


@dataclass(frozen=True, eq=False)
class AscendedBoxes(TightenedBoxes):
    """Every clause of a box as one objective; what lifts its bound above 0 refutes it."""

    name: str = "ascents"
    kind: int = MULTIPLIERS
    ascent: Restricted = Restricted(iterations=8, step=0.1, decay=0.8)

    def tighten(self, before: BoundedBoxes, deadline: Deadline, soft_deadline: Deadline) -> Bounds:
        """Pre-activations are left as they are."""
        return before.bounds

    def due(self, bounded: BoundedBoxes, knowledge: Knowledge) -> Int[Tensor, " index"]:
        """Where a proof is written, of batches alone whose multipliers fit."""
        if self.bounder.proves and bounded.members.numel() * self.bounder.network.variables > _MOST_KEPT:
            return bounded.open[:0]
        return super().due(bounded, knowledge)

    def apply(
        self, bounded: BoundedBoxes, index: Int[Tensor, " index"], knowledge: Knowledge, deadline: Deadline
    ) -> tuple[BoundedBoxes, Observation]:
        """The boxes, those of the index with ascended bounds."""
        deadline.check()
        began, before = time.monotonic(), bounded.select(index)
        members, network = before.members, self.bounder.network
        most = at_once(_MOST_ELEMENTS, network.device) // (network.variables * members.shape[1])
        rows = torch.arange(len(index), device=index.device).split(max(1, most))
        parts = [self._ascended(before.bounds.select(some), members[some], deadline) for some in rows]
        bound, cotangent, weights, rho = (torch.cat(part) for part in zip(*parts, strict=True))
        after = self._better(before, members, bound, cotangent)
        used = torch.zeros_like(members, dtype=torch.bool)
        if self.bounder.proves:
            after, used = self._worth_a_proof(before, after, bound)
            after.made[:, self.number] = used.any(1)
            after.weights[:, self.number] = torch.where(used[..., None], weights, 0.0)
        known, (inherited, refuted) = after.told(before.bound, before.refuted)
        seen = Observation(
            self.name, time.monotonic() - began, inherited, known.bound, known.refuted & ~refuted
        )
        bounded = bounded.updated(index, after)
        if self.bounder.proves and bool(used.any()):
            # others of the batch may have theirs already
            kept = (
                bounded.rho if bounded.rho.shape[2] else rho.new_zeros(*bounded.members.shape, rho.shape[2])
            )
            bounded = replace(bounded, rho=kept.index_copy(0, index, rho))
        return bounded, seen

    def _worth_a_proof(
        self, before: BoundedBoxes, after: BoundedBoxes, bound: Tensor
    ) -> tuple[BoundedBoxes, Bool[Tensor, "batch group"]]:
        """Boxes that are refuted, or a good deal smaller, and their clauses that take it; others are left as they were."""
        narrower = ((after.upper - after.lower) < WORTH_A_BLOCK * (before.upper - before.lower)).any(1)
        worth = (after.refuted & ~before.refuted) | narrower
        used = worth[:, None] & ~before.closed & ((bound > 0) | narrower[:, None])
        lower, upper = (
            torch.where(worth[:, None], new, old)
            for new, old in ((after.lower, before.lower), (after.upper, before.upper))
        )
        made, weights = after.made.clone(), after.weights.clone()
        return replace(after, lower=lower, upper=upper, made=made, weights=weights), used

    def _ascended(
        self, bounds: Bounds, members: Int[Tensor, "batch group"], deadline: Deadline
    ) -> tuple[Float[Tensor, "batch group"], Float[Tensor, "batch group inputs"], Tensor, Tensor]:
        """Bounds of clauses and their slopes: ascended in float32, bounded in float64; with weights, and the multipliers that a proof holds."""
        network, working = self.bounder.network, self.bounder.working
        clauses = self.bounder.objectives.of(members.flatten(), torch.float64)
        objective = Objective(
            *(part[:, 0].unflatten(0, members.shape) for part in (clauses.coefficients, clauses.thresholds, clauses.input_coefficients))
        )  # fmt: skip
        low = DualProblem(
            working, bounds.to(working.device, working.dtype), objective.to(working.device, working.dtype)
        )
        state = self.ascent.ascend(low, low.initial(), target=0.0, deadline=deadline).state
        problem = DualProblem(network, bounds, objective)
        point = problem.clamp(state.to(network.device, network.dtype))
        rho = bounds.lower.new_zeros(*members.shape, 0, dtype=torch.float32)
        if self.bounder.proves:
            point = _in_single_precision(problem.decoupled(_in_single_precision(point)))
            rho = point[Rho.name].float()
        found = problem.evaluate(point, magnitudes(network, bounds))
        bound = torch.where(found.bound.isfinite(), found.bound, -torch.inf)
        cotangent, inputs = found.input_cotangent.nan_to_num(nan=0.0), slice(0, network.inputs)
        bound = self.bounder.with_slack(
            bound, cotangent, Bounds(bounds.lower[:, inputs], bounds.upper[:, inputs])
        )
        return bound, cotangent, point[problem.constraints.name], rho

    def _better(
        self, before: BoundedBoxes, members: Tensor, bound: Tensor, cotangent: Tensor
    ) -> BoundedBoxes:
        """With what was found where that is more: a box is refuted once all of its clauses are.

        Where to split is left to CROWN's slopes: trees of ascended ones were four times as large on a network of ACAS Xu.
        """
        tried = torch.full_like(before.tried, self.number)
        own = (members == before.clause[:, None]).to(torch.uint8).argmax(1, keepdim=True)
        slopes = cotangent.gather(1, own[..., None].expand(-1, -1, cotangent.shape[2]))
        raised = bound.gather(1, own)[:, 0]
        closed = before.closed | (bound > 0)
        refuted: Bool[Tensor, " batch"] = before.refuted | closed.all(1)
        better, inputs = raised > before.bound, slice(0, self.bounder.network.inputs)
        box = Bounds(before.bounds.lower[:, inputs], before.bounds.upper[:, inputs])
        least = torch.where(slopes[:, 0] > 0, box.lower, box.upper)
        lower, upper = before.lower, before.upper
        if members.shape[1] == 1:
            clipped = self.bounder.clipping.clipped(box, bound[..., None], slopes[:, None])
            lower, upper = torch.maximum(lower, clipped[0][:, 0]), torch.minimum(upper, clipped[1][:, 0])
            refuted = refuted | (lower > upper).any(1)
        return replace(
            before,
            bound=torch.where(better, raised, before.bound),
            minimiser=torch.where(better[:, None], least, before.minimiser),
            refuted=refuted,
            closed=closed,
            lower=lower,
            upper=upper,
            tried=tried,
        )


def _in_single_precision(state: DualState) -> DualState:
    return state.map(lambda part: part.float().double())
