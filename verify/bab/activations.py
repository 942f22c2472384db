"""Splitting activations: the roots' intermediate bounds are kept, pre-activations split, dual points inherited.

Children ascend from their parent's dual point in float32; a subproblem is *refuted* only by a float64 sweep that charges its own
rounding errors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from verify.bab.effort import SPLITTING, Effort, Observation
from verify.bab.executor import Mapper
from verify.bab.root_bounds import RootBounds
from verify.bab.strategy import (
    Bounded,
    Knowledge,
    Objectives,
    Result,
    Technique,
    applied,
    reset_new_beta,
)
from verify.bab.techniques.branched_bounds import BranchedBounds
from verify.bab.techniques.cutting_planes import CuttingPlanes
from verify.bab.techniques.linear_programs import LinearPrograms
from verify.bab.techniques.output_constraints import OutputConstraints
from verify.bab.techniques.roots import Roots, RootsBounded
from verify.bounders.output_constrained import OutputConstrained
from verify.bounders.restricted import Restricted
from verify.bounders.tracing import Provable
from verify.bounders.undefined import hopeless
from verify.branching.fsb import split_at
from verify.branching.inputs import widest_effect
from verify.branching.rule import BranchingRule, Split
from verify.deadline import Deadline
from verify.lagrangian.cuts import CutShares
from verify.lagrangian.dual import DualProblem
from verify.room import fitted, times
from verify.state import Bounds, DualState, Subproblems

P = ParamSpec("P")
T = TypeVar("T")

_CHILDREN = 2_000_000  # variables of children that candidate splits are tried on at once


@dataclass(frozen=True, eq=False)
class SplitActivations:
    """Root bounds for good, splits of pre-activations, inherited dual points.

    start: what is known at the beginning. roots, cuts, branched: what is done for all subproblems at once; branched: None for never. methods: to
    tighten layers over unsafe points. programs: for what has no activation left to split, and where ascents lead nowhere. further: techniques for every batch.
    """

    start: RootBounds
    roots_technique: Roots
    child: Restricted
    brancher: BranchingRule
    cuts: CuttingPlanes
    methods: Sequence[OutputConstrained] = ()
    branched: BranchedBounds | None = None
    programs: LinearPrograms = field(default_factory=LinearPrograms)
    further: tuple[Technique[Bounded], ...] = ()

    @property
    def objectives(self) -> Objectives:
        return self.start.objectives

    def begin(self) -> Knowledge:
        return Knowledge(self.start, Effort())

    def saved(self, knowledge: Knowledge) -> dict[str, Any]:
        shared: RootBounds = knowledge.shared
        return shared.saved()

    def restored(self, saved: Mapping[str, Any]) -> RootBounds:
        return self.start.restored(saved)

    def clauses_of(self, clauses: Tensor, knowledge: Knowledge) -> list[int]:
        return sorted(set(clauses.tolist()))

    def _constraints(self, shared: RootBounds) -> list[Technique[Bounded]]:
        """A step for every layer that subproblems carry bounds of, and every method."""
        pairs = [(place, method) for place in range(len(shared.carried.layers)) for method in self.methods]
        return [
            OutputConstraints(method, self.child, place, number)
            for number, (place, method) in enumerate(pairs)
        ]

    def roots(self, knowledge: Knowledge, batch: int, deadline: Deadline) -> Iterator[Result]:
        for clauses in self.roots_technique.together(self.start.problem, batch):
            for result in self._roots_of(clauses, knowledge, batch, deadline):
                knowledge = knowledge.learned(*result.seen)
                yield result

    def _roots_of(
        self, clauses: Sequence[int], knowledge: Knowledge, batch: int, deadline: Deadline
    ) -> Iterator[Result]:
        """Stage by stage; what each stage and each ascent refutes needs no further one."""
        technique, problem = self.roots_technique, self.start.problem
        part = len(clauses) / problem.clauses
        result, roots = self._fitted(technique.started, clauses, knowledge, deadline)
        knowledge = knowledge.learned(*result.seen)
        yield result
        for number, stage in enumerate(technique.stages, start=1):
            last = number == len(technique.stages)
            if not len(roots):
                return
            result, roots = self._fitted(technique.bounded, stage, roots, knowledge, deadline, part)
            result = self._priced(result, knowledge, stage.method.ascent is not None)
            if last and part == 1 and len(roots):
                result = self._reduced(result, knowledge)
            knowledge = knowledge.learned(*result.seen)
            yield result
            left = [roots.select(slice(0))]
            for first in range(0, len(roots), batch):
                some = roots.select(slice(first, first + batch))
                result = self._fitted(technique.optimised, some, knowledge, deadline)
                knowledge, bounded, seen = knowledge.learned(*result.seen), result.bounded, result.seen
                if last:
                    # all open roots of the network at once: cuts are to hold on all of their boxes
                    together = part == 1 and len(roots) <= batch
                    result = self._fitted(self._finished, result, knowledge, deadline, together)
                    knowledge = knowledge.learned(*result.seen)
                    yield Result(result.bounded, (*seen, *result.seen))
                    continue
                some = replace(some, lower_bound=bounded.subproblems.lower_bound)
                left.append(some.select(bounded.open))
                yield Result(bounded.select(bounded.refuted), seen)
            roots = Subproblems.concatenate(left)

    def _fitted(self, work: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
        """With less at once where memory runs out, but for what a proof was told: that is not told again."""
        if self.start.tracer.writes:
            return work(*given, **named)
        return fitted(self.start.network.device, work, *given, **named)

    def _priced(self, result: Result, knowledge: Knowledge, ascended: bool) -> Result:
        """With what an ascent for every neuron tells of the price of branched bounds."""
        if self.branched is None or not ascended:
            return result
        [seen] = result.seen
        assert isinstance(seen, RootsBounded) and seen.shared is not None
        passes = self.branched.expecting(seen.shared.passes, seen.seconds)
        return replace(result, seen=(replace(seen, shared=replace(seen.shared, passes=passes)),))

    def _reduced(self, result: Result, knowledge: Knowledge) -> Result:
        """With neurons left out that are 0 on all boxes; no subproblem has been split yet."""
        [seen] = result.seen
        assert isinstance(seen, RootsBounded) and seen.shared is not None
        if not seen.shared.tracer.proves(Provable.REDUCED_NETWORK):
            return result
        return replace(result, seen=(replace(seen, shared=seen.shared.reduced()),))

    def _finished(self, result: Result, knowledge: Knowledge, deadline: Deadline, cuts: bool) -> Result:
        """Optimised roots (known to `knowledge`) with everything that is due: bounds over unsafe points, and `cuts` if wanted."""
        seconds = sum(seen.seconds for seen in result.seen)
        bounded, seen = applied(self._constraints(knowledge.shared), result.bounded, knowledge, deadline)
        if not cuts or seconds > self.cuts.affordable * deadline.remaining:
            return Result(bounded, seen)
        under = self._under_cuts(bounded, knowledge.learned(*seen), deadline)
        return Result(under.bounded, (*seen, *under.seen))

    def _under_cuts(self, bounded: Bounded, knowledge: Knowledge, deadline: Deadline) -> Result:
        """Roots left open ascend on under cutting planes, as long as more of these pay; unused ones are dropped at the end."""
        seen: list[Observation] = []
        for _ in range(self.cuts.rounds if self.cuts.possible(knowledge.shared) else 0):
            before = knowledge.shared.cuts.count
            if not len(bounded.open):
                break
            bounded, tried = self.cuts.apply(bounded, bounded.open, knowledge, deadline)
            knowledge = knowledge.learned(tried)
            seen.append(tried)
            if knowledge.shared.cuts.count == before:
                break
            bounded, more = applied(self._constraints(knowledge.shared), bounded, knowledge, deadline)
            knowledge = knowledge.learned(*more)
            seen += more
        pool = knowledge.shared.cuts
        if pool.count:
            shares = bounded.subproblems.state[CutShares.name]
            used = (shares[:, 0].amax(0) > 0).nonzero()[:, 0]
            state = bounded.subproblems.state | {CutShares.name: shares[..., used]}
            subproblems = replace(bounded.subproblems, state=state).with_cuts(CutShares.name, len(used))
            bounded = replace(bounded, subproblems=subproblems)
            none = bounded.subproblems.lower_bound[:0]
            seen.append(
                RootsBounded(
                    self.cuts.name,
                    0.0,
                    none,
                    none,
                    none.bool(),
                    shared=replace(knowledge.shared, cuts=pool.kept(used)),
                )
            )
        return Result(bounded, tuple(seen))

    def bound(self, subproblems: Subproblems, knowledge: Knowledge, deadline: Deadline) -> Result:
        if self.programs.instead(knowledge):
            return self._solved(subproblems, knowledge, deadline)
        began, shared = time.monotonic(), knowledge.shared
        subproblems = subproblems.with_cuts(CutShares.name, shared.cuts.count)
        ascent = self.child.longer(knowledge.effort.splitting.factor)
        bounded = shared.optimised(reset_new_beta(subproblems), ascent, deadline, subproblems.state)
        (before,) = bounded.brought(subproblems.lower_bound)
        known = bounded.on_host()
        split = Observation(
            SPLITTING,
            time.monotonic() - began,
            before,
            known.subproblems.lower_bound,
            known.refuted,
        )
        knowledge = knowledge.learned(split)
        bounded, seen = applied(
            (self.cuts, *self._constraints(shared), *self.further), bounded, knowledge, deadline
        )
        knowledge = knowledge.learned(*seen)
        bounded, last = applied((self.programs,), bounded, knowledge, deadline)
        return Result(bounded, (split, *seen, *last))

    def _solved(self, subproblems: Subproblems, knowledge: Knowledge, deadline: Deadline) -> Result:
        """By programs alone, which know nothing of boxes that splits leave empty."""
        shared, inputs = knowledge.shared, slice(0, knowledge.shared.network.inputs)
        box = shared.dual(subproblems, shared.working).bounds
        middle = (box.lower[:, inputs] + box.upper[:, inputs]) / 2
        bounded = Bounded(subproblems, shared.certified(subproblems, box.empty), middle)
        bounded, seen = applied((self.programs,), bounded, knowledge, deadline)
        return Result(bounded, seen)

    def due(self, seconds: float, knowledge: Knowledge, deadline: Deadline) -> bool:
        if not knowledge.shared.tracer.renewable:
            return False
        if self.programs.due_for_all(knowledge, deadline):
            return True
        return self.branched is not None and self.branched.due(
            knowledge.shared.passes, seconds, knowledge.effort.splitting, deadline
        )

    def refine_roots(
        self, waiting: Subproblems, knowledge: Knowledge, batch: int, deadline: Deadline, run: Mapper
    ) -> tuple[Subproblems, list[Result]]:
        began = time.monotonic()
        clauses = torch.tensor(self.clauses_of(waiting.clause, knowledge), device=waiting.clause.device)
        # whoever asked may have been told so a moment ago for programs alone
        if self.branched is None or self.programs.due_for_all(knowledge, deadline):
            return waiting.select(slice(0)), self._by_programs(waiting, clauses, knowledge, batch, deadline)
        before = knowledge.shared.root_bound
        shared = self.branched.apply(knowledge.shared, clauses, deadline, run)
        spent = time.monotonic() - began
        roots = self._all_optimised(clauses, replace(knowledge, shared=shared), batch, deadline)
        shared = (
            replace(knowledge, shared=shared)
            .learned(*(seen for result in roots for seen in result.seen))
            .shared
        )
        seen = self.branched.observed(spent, before[clauses], shared.root_bound[clauses])
        passes = replace(shared.passes, paid=knowledge.effort.pays(seen))
        shared = replace(shared, passes=passes)
        mean = torch.zeros_like(before).scatter_reduce(
            0, waiting.clause, waiting.lower_bound, "mean", include_self=False
        )
        # decided once: what goes on waiting is exactly what no root stands for
        anew = shared.root_bound > mean
        kept = waiting.select(~anew[waiting.clause])
        shared.tracer.abandoned(waiting.select(anew[waiting.clause]))
        if not len(kept):
            reduced = shared.reduced() if shared.tracer.proves(Provable.REDUCED_NETWORK) else shared
            shared = reduced if reduced is not shared else shared.without_cuts()
            roots = self._all_optimised(clauses, replace(knowledge, shared=shared), batch, deadline, True)
        else:
            roots = [
                replace(some, bounded=some.bounded.select(anew[some.bounded.subproblems.clause]))
                for some in roots
            ]
        seen = RootsBounded(
            seen.technique, seen.seconds, seen.before, seen.after, seen.refuted, anew=True, shared=shared
        )
        alone = not len(kept) and len(roots) == 1
        return kept, self._renewed(roots, knowledge.learned(seen), deadline, alone, seen)

    def _by_programs(
        self, waiting: Subproblems, clauses: Tensor, knowledge: Knowledge, batch: int, deadline: Deadline
    ) -> list[Result]:
        """The roots in the place of all that waits; what is split of them is solved as linear programs."""
        shared = self.programs.granted(knowledge.shared, deadline)
        none = waiting.lower_bound[:0]
        seen = RootsBounded(self.programs.name, 0.0, none, none, none.bool(), shared=shared)
        roots = self._all_optimised(clauses, replace(knowledge, shared=shared), batch, deadline)
        shared.tracer.abandoned(waiting)
        return [Result(roots[0].bounded.select(slice(0)), (seen,)), *roots]

    def _all_optimised(
        self, clauses: Tensor, knowledge: Knowledge, batch: int, deadline: Deadline, instead: bool = False
    ) -> list[Result]:
        """The roots of the clauses, as the boxes are known now; `instead` of what was split of them."""
        results = []
        for some in clauses.split(batch):
            roots = knowledge.shared.tracer.anew(knowledge.shared.roots(some.tolist()), instead)
            result = self.roots_technique.optimised(roots, knowledge, deadline)
            knowledge = knowledge.learned(*result.seen)
            results.append(result)
        return results

    def _renewed(
        self, roots: list[Result], knowledge: Knowledge, deadline: Deadline, alone: bool, first: Observation
    ) -> list[Result]:
        """Roots in the place of what was split of them, with everything that is due; `alone`: all of the network's at once."""
        results = [Result(roots[0].bounded.select(slice(0)), (first,))]
        for result in roots:
            if len(result.bounded):
                result = self._finished(result, knowledge, deadline, alone)
                knowledge = knowledge.learned(*result.seen)
                results.append(result)
        return results

    def at_once(self, knowledge: Knowledge) -> int | None:
        """Few where programs tell what to split: each learns from those before."""
        return self.programs.at_once if self.programs.instead(knowledge) else None

    def choose(self, subproblems: Subproblems, knowledge: Knowledge, deadline: Deadline) -> Split:
        shared = knowledge.shared
        problem = shared.dual(subproblems, shared.working)
        state = problem.clamp(subproblems.state.to(shared.network.device, shared.working.dtype))
        spreads = _spreads(shared, problem.bounds)
        children = partial(_children, shared, subproblems, deadline) if spreads else None
        # nobody else suggests anything, and to ask makes a GPU wait
        told = self.programs.name in knowledge.effort.ledgers
        if told and bool((subproblems.suggested >= 0).all()):
            split = split_at(problem, state, subproblems.suggested)
        else:
            split = self.brancher.choose(problem, state, children)
        if shared.network.sided:
            lost = hopeless(problem.network, problem.bounds, problem.objective)
            split = replace(split, variable=torch.where(lost, -2, split.variable))
        return _halved(problem, state, split)


def _children(
    shared: RootBounds,
    subproblems: Subproblems,
    deadline: Deadline,
    variable: Tensor,
    value: Tensor,
) -> tuple[Tensor, Tensor]:
    """Bounds of both children of candidate splits, as the search itself would first see them. Raises OutOfTimeError."""
    most = max(
        1, int(_CHILDREN * times(variable.device)) // (2 * variable.shape[1] * shared.network.variables)
    )
    parts = []
    for index in torch.arange(len(subproblems), device=variable.device).split(most):
        deadline.check()
        parts.append(_both_children(shared, subproblems.select(index), variable[index], value[index]))
    upper, lower = (torch.cat(part) for part in zip(*parts, strict=True))
    return upper, lower


def _both_children(
    shared: RootBounds, subproblems: Subproblems, variable: Tensor, value: Tensor
) -> tuple[Tensor, Tensor]:
    owners = torch.arange(len(subproblems), device=variable.device).repeat_interleave(variable.shape[1])
    none = subproblems.state["alpha"].new_zeros(len(owners), 2)
    ends = shared.network.split_ends(variable.flatten(), value.flatten())
    children = subproblems.select(owners).split(variable.flatten(), ends, none)
    problem = shared.dual(children, shared.working)
    state = problem.clamp(children.state.to(shared.network.device, shared.working.dtype))
    bounds = torch.where(problem.bounds.empty, torch.inf, problem.evaluate(state).bound[:, 0])
    upper, lower = bounds.reshape(2, *variable.shape)
    return upper, lower


def _spreads(shared: RootBounds, bounds: Bounds) -> bool:
    """Whether any split is left to make that tells much by intervals alone."""
    if shared.spreading is None:
        return False
    points = (
        layer.activation.split_point(bounds.lower[:, layer.variables], bounds.upper[:, layer.variables])
        for layer in shared.network.layers
        if bool(shared.spreading[layer.variables.start])
    )
    return any(not bool(point.isnan().all()) for point in points)


def _halved(problem: DualProblem, state: DualState, split: Split) -> Split:
    """With inputs halved where there is no other split to make (-1), and none where none will help (-2)."""
    if not bool((split.on_host == -1).any()):
        return split
    stuck = split.variable == -1
    inputs = slice(0, problem.network.inputs)
    cotangent = problem.evaluate(state).input_cotangent[:, 0]
    halves = widest_effect(cotangent, problem.bounds.lower[:, inputs], problem.bounds.upper[:, inputs])
    return Split(
        torch.where(stuck, halves.variable, split.variable),
        torch.where(stuck, halves.value, split.value),
        torch.where(stuck[:, None], 0.0, split.beta),
        None if split.above is None else torch.where(stuck, halves.value, split.above),
    )
