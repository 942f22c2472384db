"""The roots: CROWN on interval bounds, then intermediate bounds and an ascent, plain first and optimised for what is still open.

Boxes are bounded once for all of their clauses.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from verify.bab.effort import Observation
from verify.bab.root_bounds import RootBounds
from verify.bab.strategy import Knowledge, Result, all_refuted, grouped, root_subproblems
from verify.bounders.ibp import magnitudes
from verify.bounders.intermediate import IntermediateBounds
from verify.bounders.restricted import Restricted
from verify.bounders.tracing import Provable
from verify.deadline import Deadline
from verify.lagrangian.constraints import first_weights
from verify.problem import Problem
from verify.room import times
from verify.state import Bounds, Subproblems

_AT_ONCE = 2_000_000  # variables of roots that are bounded at once


@dataclass(frozen=True)
class RootsBounded(Observation):
    """Roots were bounded; what subproblems inherit is as that left it."""

    shared: RootBounds | None = None

    def update(self, shared: RootBounds) -> RootBounds:
        return shared if self.shared is None else self.shared


@dataclass(frozen=True)
class Stage:
    """A way to bound the roots' pre-activations, and the share of the time left that it may take."""

    name: str
    method: IntermediateBounds
    share: float


@dataclass(frozen=True)
class Roots:
    """The stages in order, and the ascent of each clause after them; `child` is for telling what children will take."""

    stages: tuple[Stage, ...]
    ascent: Restricted
    child: Restricted
    name: str = "roots"

    def together(self, problem: Problem, batch: int) -> Iterator[list[int]]:
        """All clauses, those on one box together: of several boxes up to a batch."""
        numbers, together = problem.box_of, list[int]()
        order = np.argsort(numbers, kind="stable")
        for box in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1):
            if together and len(together) + len(box) > batch:
                yield together
                together = []
            together += box.tolist()
        if together:
            yield together

    def started(
        self, clauses: Sequence[int], knowledge: Knowledge, deadline: Deadline
    ) -> tuple[Result, Subproblems]:
        """What CROWN on interval bounds refutes, and the roots that are left, whose boxes are known then."""
        began, shared = time.monotonic(), knowledge.shared
        shared.objectives.prepare(clauses)
        # in full once they are optimised
        roots = root_subproblems(shared.problem.rows, clauses, 0, shared.network.device)
        if shared.network.ball is not None:
            objective = shared.objectives.of(roots.clause, roots.state["constraint_weights"].dtype)
            weights = first_weights(objective, shared.network.ball)
            roots = replace(roots, state=roots.state | {"constraint_weights": weights})
        roots = shared.tracer.roots(roots, roots.clause[:, None])
        boxes, bounds, owner = shared.intervals(clauses)
        refuted = self._crown(shared, roots, bounds, owner, magnitudes(shared.network, bounds), deadline)
        closed, left = roots.select(refuted), roots.select(~refuted)
        shared.tracer.leaves_by_default(closed)
        kept = owner[~refuted].unique()
        shared = shared.added(boxes[kept.cpu()], bounds.select(kept))
        seen = self._observed("CROWN", began, roots, refuted, shared)
        return Result(all_refuted(closed), (seen,)), left

    def bounded(
        self, stage: Stage, roots: Subproblems, knowledge: Knowledge, deadline: Deadline, part: float
    ) -> tuple[Result, Subproblems]:
        """What CROWN refutes on the intermediate bounds of a stage, and the roots that are left. part: of the time."""
        began, shared = time.monotonic(), knowledge.shared
        index, owner = shared.index(roots.clause).unique(return_inverse=True)
        soft_deadline = deadline.share(stage.share * part)
        tight = stage.method.tighten(
            shared.network,
            shared.bounds.select(index),
            deadline,
            shared.working,
            soft_deadline,
            shared.tracer.boxes(roots.clause, owner, len(index)),
            relevant=shared.objectives.relevant(shared.network),
        )
        shared = shared.tightened(index, tight)
        refuted = torch.zeros_like(roots.clause, dtype=torch.bool)
        if shared.tracer.proves(Provable.CROWN_ROOTS):
            index = shared.index(roots.clause)
            refuted = self._crown(shared, roots, shared.bounds, index, shared.magnitudes, deadline)
        seen = self._observed(stage.name, began, roots, refuted, shared)
        return Result(all_refuted(roots.select(refuted)), (seen,)), roots.select(~refuted)

    def optimised(self, roots: Subproblems, knowledge: Knowledge, deadline: Deadline) -> Result:
        """Some roots after an ascent from CROWN's dual point."""
        began, shared = time.monotonic(), knowledge.shared
        subproblems = replace(shared.roots(roots.clause.tolist()), subproblem_id=roots.subproblem_id)
        start = shared.dual(subproblems, shared.working).initial()
        subproblems = subproblems.with_state(roots.lower_bound, start)
        bounded = shared.optimised(subproblems, self.ascent, deadline)
        after, seconds = bounded.subproblems.lower_bound, time.monotonic() - began
        shared = replace(
            shared, root_bound=shared.root_bound.index_copy(0, roots.clause, after.to(shared.root_bound))
        )
        child = seconds * self.child.iterations / (self.ascent.iterations * max(1, len(roots)))
        seen = RootsBounded(
            self.name, seconds, roots.lower_bound, after, bounded.refuted, child=child, shared=shared
        )
        return Result(bounded, (seen,))

    def _observed(
        self, name: str, began: float, roots: Subproblems, refuted: Bool[Tensor, " batch"], shared: RootBounds
    ) -> Observation:
        """Roots of which some are refuted; the others' bounds are not known before their ascent."""
        before = roots.lower_bound
        return RootsBounded(name, time.monotonic() - began, before, before, refuted, shared=shared)

    def _crown(
        self,
        shared: RootBounds,
        roots: Subproblems,
        bounds: Bounds,
        owner: Int[Tensor, " batch"],
        sizes: dict[int, Tensor],
        deadline: Deadline,
    ) -> Bool[Tensor, " batch"]:
        """Which roots CROWN refutes, each on the row of `bounds` that `owner` tells."""
        refuted = torch.zeros_like(roots.clause, dtype=torch.bool)
        if not len(roots):
            return refuted
        most = max(1, int(_AT_ONCE * times(bounds.lower.device)) // shared.network.variables)
        _, members = grouped(owner.tolist(), most)
        for some in members.to(owner.device).split(max(1, most // members.shape[1])):
            deadline.check()
            refuted[some] = shared.crown(roots.clause[some], bounds.select(owner[some[:, 0]]), sizes)
        return refuted
