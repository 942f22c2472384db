"""Subproblems that were split at an input have no activation left to split: they are linear programs, solved as such if small."""

from __future__ import annotations

import time
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from verify.bab.effort import Observation
from verify.bab.strategy import Bounded, Knowledge
from verify.bounders.linear_program import LinearProgram
from verify.deadline import Deadline
from verify.lagrangian.cuts import CutShares


@dataclass(frozen=True)
class LeafPrograms:
    """At most `seconds` for the leaves of a batch, in networks of at most `variables`."""

    variables: int = 1000
    seconds: float = 2.0
    name: str = "linear programs of leaves"
    once: bool = True

    def due(self, bounded: Bounded, knowledge: Knowledge) -> Int[Tensor, " index"]:
        """The open leaves."""
        shared, index = knowledge.shared, bounded.open
        if shared.network.variables > self.variables or shared.mixes:
            return index[:0]
        return index[bounded.subproblems.split_variable[index, -1] < shared.network.inputs]

    def apply(
        self, bounded: Bounded, index: Int[Tensor, " index"], knowledge: Knowledge, deadline: Deadline
    ) -> tuple[Bounded, Observation]:
        """The subproblems with the leaves refuted that are; the others' minimisers are the programs'."""
        began, shared = time.monotonic(), knowledge.shared
        # programs know hulls alone
        leaves = bounded.subproblems.select(index).with_cuts(CutShares.name, 0)
        problem = shared.dual(leaves, shared.network)
        found = LinearProgram().ascend(
            problem, problem.initial(), 0.0, deadline, deadline.within(self.seconds)
        )
        bound = problem.evaluate(found.state, shared.magnitudes).bound[:, 0]
        refuted, minimiser = bounded.refuted.clone(), bounded.minimiser.clone()
        closed = (bound > 0) & bound.isfinite()
        chosen = closed.nonzero()[:, 0]
        shared.tracer.leaves_by_multipliers(
            leaves.select(chosen), problem.select(chosen), found.state.select(chosen)
        )
        refuted[index] = closed
        minimiser[index] = found.minimiser[:, 0].to(minimiser)
        seen = Observation(self.name, time.monotonic() - began, leaves.lower_bound, bound, closed)
        return Bounded(bounded.subproblems, refuted, minimiser), seen
