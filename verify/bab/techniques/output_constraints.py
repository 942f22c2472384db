"""Bounds of one layer over the unsafe points of each subproblem (INVPROP), by one of the methods.

They hold for the subproblem and all that is split off, so subproblems carry them. A layer's are due where it never was tightened, and
again when the clause's bound has come a good deal closer to 0, or some splits have been made since.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from verify.bab.effort import Observation
from verify.bab.strategy import Bounded, Knowledge
from verify.bounders.output_constrained import OutputConstrained
from verify.bounders.restricted import Restricted
from verify.deadline import Deadline
from verify.state import CLOSER, Subproblems


@dataclass(frozen=True)
class OutputConstraints:
    """Tightens the layer at a place (0: the last one), then optimises on.

    number: the step's column in what subproblems remember.
    """

    method: OutputConstrained
    ascent: Restricted
    place: int
    number: int
    once: bool = False

    @property
    def name(self) -> str:
        return f"{self.method.technique.value}, layer {-1 - self.place}"

    def due(self, bounded: Bounded, knowledge: Knowledge) -> Int[Tensor, " index"]:
        """Open subproblems whose bounds have come closer since the step was made, where it pays."""
        index = bounded.open
        bound = bounded.subproblems.lower_bound[index]
        before = bounded.subproblems.tightened_at[index, self.number]
        due = bound.isfinite() & (bound > CLOSER * before) & (bound < 0)
        index = index[due]
        if not len(index):
            return index
        return index[knowledge.effort.chosen(self.name, bound[due], knowledge.shared.steps)]

    def apply(
        self, bounded: Bounded, index: Int[Tensor, " index"], knowledge: Knowledge, deadline: Deadline
    ) -> tuple[Bounded, Observation]:
        """The subproblems with the layer bounded over their unsafe points, from their dual points."""
        began, shared, before = time.monotonic(), knowledge.shared, bounded.subproblems.select(index)
        layer = shared.carried.layers[self.place]
        problem = shared.dual(before, shared.network)
        state = problem.clamp(before.state.to(shared.network.device, torch.float64))
        state = shared.tracer.rounded(state)
        observe = shared.tracer.lemmas(before, layer, problem, state)
        working = shared.dual(before, shared.working)
        tight = self.method.tighten(problem, working, state, layer, shared.magnitudes, deadline, observe)
        found = shared.optimised(shared.carried.tightened(before, self.place, tight), self.ascent, deadline)
        seen = Observation(
            self.name,
            time.monotonic() - began,
            before.lower_bound,
            found.subproblems.lower_bound,
            found.refuted,
        )
        found = replace(found, subproblems=self._remembered(before, found.subproblems))
        return bounded.updated(index, found), seen

    def _remembered(self, before: Subproblems, after: Subproblems) -> Subproblems:
        """The subproblems after the step; where that gained nothing their dual points are as before."""
        tightened_at = before.tightened_at.clone()
        tightened_at[:, self.number] = before.lower_bound
        gained = after.lower_bound > before.lower_bound
        after = replace(after, tightened_at=tightened_at)
        before = replace(
            before,
            tightened_at=tightened_at,
            constrained_lower=after.constrained_lower,
            constrained_upper=after.constrained_upper,
        )
        return before.updated(gained, after.select(gained))
