"""Splitting inputs: halved boxes, bounded in float64; what is inherited are the box and bounds that hold on it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from verify.bab.box_bounds import BoundedBoxes, BoxBounder, Groups
from verify.bab.effort import SPLITTING, Effort, Halving, Observation
from verify.bab.executor import Mapper
from verify.bab.frontier import FEWEST
from verify.bab.strategy import (
    Bounded,
    Knowledge,
    Objectives,
    Result,
    all_refuted,
    applied,
    root_subproblems,
)
from verify.bab.techniques.ascended_boxes import AscendedBoxes
from verify.bab.techniques.forward_bounds import ForwardBounds
from verify.bab.techniques.tightened_boxes import AllLayers, LastLayers, TightenedBoxes, last_layers
from verify.bounders.intermediate import IntermediateBounds
from verify.bounders.tracing import Provable
from verify.bounders.undefined import hopeless
from verify.branching.inputs import step_if_few, widest_effect
from verify.branching.rule import Split
from verify.deadline import Deadline
from verify.lagrangian.alpha import Alpha
from verify.memory import budget
from verify.network.graph import Network
from verify.problem import Problem
from verify.proof.input_boxes import InputBoxes, Turn
from verify.proof.tracer import ProofTracer
from verify.room import fitted
from verify.state import Bounds, Subproblems, outward, sent

_FEW_STEPS, _LEVELS = 2, 4  # steps that are parted by themselves, and the levels of the tree for each more


@dataclass(frozen=True)
class Regrouped(Observation):
    """Clauses were refuted; the others are in these groups."""

    groups: Groups | None = None

    def update(self, shared: Groups) -> Groups:
        return shared if self.groups is None else self.groups


@dataclass(frozen=True, eq=False)
class SplitInputs:
    """Halves and clips input boxes, and bounds each for all clauses that it stands for; tighter where that pays."""

    bounder: BoxBounder
    tighter: tuple[TightenedBoxes, ...]
    forward: ForwardBounds | None
    ascended: AscendedBoxes | None
    tracer: ProofTracer

    @classmethod
    def of(
        cls, problem: Problem, network: Network, intermediate: IntermediateBounds, tracer: ProofTracer
    ) -> SplitInputs:
        """With all that a proof can hold: forward bounds, those of the last layers, those of all, ascents, dearer each."""
        first, proves = last_layers(network), tracer.writes
        last = first < len(network.layers) and tracer.proves(Provable.LAST_LAYERS)
        forward = tracer.proves(Provable.FORWARD)
        # what is proved again is made in the same way
        intermediate = replace(intermediate, forward=forward and not proves, alike=proves)
        ascents = tracer.proves(Provable.ASCENDED_BOXES)
        every, clips = 1 + last + forward, tracer.proves(Provable.INHERITED_BOUNDS)
        count = every + ascents
        bounder = BoxBounder(problem, network, Objectives(problem, network.device), count + 1, proves)
        tighter: list[TightenedBoxes] = [
            AllLayers(bounder, every, count, clips=clips, intermediate=intermediate)
        ]
        if last:
            tighter.insert(0, LastLayers(bounder, every - 1, count, intermediate=intermediate, first=first))
        before = ForwardBounds(bounder, 1, count, clips=clips) if forward else None
        last_of_all = AscendedBoxes(bounder, count, count) if ascents else None
        # a proof has no forward bounds of outputs
        together = None if proves else before
        return cls(bounder, (*([before] if before else []), *tighter), together, last_of_all, tracer)

    @property
    def objectives(self) -> Objectives:
        return self.bounder.objectives

    def begin(self) -> Knowledge:
        problem = self.bounder.problem
        groups = Groups.of(problem, torch.arange(problem.clauses), self.bounder.network.device)
        return Knowledge(groups, Effort(Halving.of(problem.free_inputs)))

    def saved(self, knowledge: Knowledge) -> dict[str, Any]:
        groups: Groups = knowledge.shared
        return {
            "variables": self.bounder.network.variables,
            "clauses": self.objectives.known,
            "of_clause": groups.of_clause,
            "members": groups.members,
        }

    def restored(self, saved: Mapping[str, Any]) -> Groups:
        device, clauses = self.bounder.network.device, self.bounder.problem.clauses
        of_clause, members = (saved[name].to(device) for name in ("of_clause", "members"))
        if (
            of_clause.shape != (clauses,)
            or int(of_clause.max()) >= len(members)
            or int(members.max()) >= clauses
        ):
            raise ValueError("groups of other clauses")
        self.objectives.prepare(saved["clauses"].tolist())
        self.objectives.number_rows()
        return Groups(of_clause, members)

    def clauses_of(self, clauses: Tensor, knowledge: Knowledge) -> list[int]:
        table: Groups = knowledge.shared
        groups = table.of_clause[clauses.to(table.of_clause.device)].unique()
        return sorted(table.members[groups].unique().tolist())

    def roots(self, knowledge: Knowledge, batch: int, deadline: Deadline) -> Iterator[Result]:
        """Groups of clauses on their whole boxes; before that, where so many share a box that forward bounds are cheaper, those."""
        if self.forward is not None:
            result = self._together(self.forward, deadline)
            knowledge = knowledge.learned(*result.seen)
            yield result
        members = knowledge.shared.members
        for groups in members.split(batch) if len(members) else ():
            bound = partial(self.bound, self._roots_of(groups), knowledge, deadline)
            # what a proof was told is not told again
            result = bound() if self.tracer.writes else fitted(self.bounder.network.device, bound)
            knowledge = knowledge.learned(*result.seen)
            yield result

    def _together(self, forward: ForwardBounds, deadline: Deadline) -> Result:
        """The clauses that forward bounds refute together."""
        began, problem, network = time.monotonic(), self.bounder.problem, self.bounder.network
        refuted = forward.refuted_together(deadline)
        closed = root_subproblems(problem.rows, refuted.nonzero()[:, 0].tolist(), 0, network.device)
        groups = Groups.of(problem, (~refuted).nonzero()[:, 0], network.device)
        bounded = all_refuted(closed)
        before = closed.lower_bound
        name, seconds = f"{forward.name} of roots", time.monotonic() - began
        return Result(bounded, (Regrouped(name, seconds, before, before, bounded.refuted, groups=groups),))

    def _roots_of(self, groups: Int[Tensor, "batch group"]) -> Subproblems:
        self.objectives.prepare(groups.unique().tolist())
        self.objectives.number_rows()
        network, rows = self.bounder.network, self.bounder.problem.rows
        inherits = self._freely and FEWEST * 16 * network.variables <= budget().store
        inherited = network.variables if inherits else network.inputs
        subproblems = root_subproblems(
            rows,
            groups[:, 0].tolist(),
            0,
            network.device,
            inherited,
            torch.float64,
            slopes=network.inputs,
        )
        return self.tracer.roots(subproblems, groups)

    def bound(self, subproblems: Subproblems, knowledge: Knowledge, deadline: Deadline) -> Result:
        """CROWN on intervals first; what that leaves open gets tighter bounds where they pay."""
        alone = subproblems.alone.cpu()
        if not bool(alone.any()) or bool(alone.all()):
            return self._bound(subproblems, knowledge, deadline)
        alone = sent(alone, subproblems.alone.device)
        first = self._bound(subproblems.select(alone), knowledge, deadline)
        knowledge = knowledge.learned(*first.seen)
        second = self._bound(subproblems.select(~alone), knowledge, deadline)
        both = Bounded.concatenate([first.bounded, second.bounded])
        return Result(both, first.seen + second.seen)

    def _bound(self, subproblems: Subproblems, knowledge: Knowledge, deadline: Deadline) -> Result:
        """Subproblems that stand for one clause each, or for all of a group's."""
        whole = self.bounder.boxes(subproblems)
        began = time.monotonic()
        found = self.bounder.on_intervals(subproblems, whole, knowledge.shared, deadline)
        known = found.in_brief
        split = Observation(
            SPLITTING, time.monotonic() - began, known.before, known.bound.float(), known.refuted
        )
        seen, knowledge = [split], knowledge.learned(split)
        techniques = self._in_turn(knowledge.effort, int((~known.refuted).sum()))
        for technique in techniques:
            found, more = applied((technique,), found, knowledge, deadline)
            knowledge = knowledge.learned(*more)
            seen += more
        turns = tuple(Turn(technique.number, technique.kind) for technique in techniques)
        box = self.tracer.input_boxes(subproblems, whole, self._boxes(found, knowledge.shared), turns)
        if self.bounder.network.has_steps:
            # ends of few bits: sums of such are exact, which steps may depend on
            box = Bounds(outward(box.lower, -torch.inf).double(), outward(box.upper, torch.inf).double())
        scale = found.cotangent.abs().amax(1, keepdim=True).clamp(min=1e-300)
        lower_bound = torch.where(found.refuted, found.bound, found.bound.clamp(max=0)).float()
        subproblems = replace(
            subproblems,
            clause=found.clause,
            alone=found.alone & self._freely,
            lower_bound=torch.maximum(lower_bound, subproblems.lower_bound),
            slopes=(found.cotangent / scale).float().to(self._slopes_dtype),
            constrained_lower=box.lower,
            constrained_upper=box.upper,
        )
        return Result(Bounded(subproblems, found.refuted, found.minimiser), tuple(seen))

    def _boxes(self, found: BoundedBoxes, groups: Groups) -> InputBoxes:
        """What is told of them: once a single clause is left of a subproblem, that."""
        members, alone = found.members, (found.alone & self._freely)[:, None]
        every = groups.members[groups.of_clause[found.clause]]
        places = (members[..., None] == every[:, None]).to(torch.uint8).argmax(2)
        left = ~alone | (members == found.clause[:, None])
        passes = found.made, found.weights, found.rho
        return InputBoxes(found.refuted, places, left, *passes, found.lower, found.upper, found.bounds)

    def _in_turn(self, effort: Effort, count: int) -> list[TightenedBoxes]:
        """Cheaper ones first, but for those that save too little of what a dearer one takes; ascents on what they leave."""
        turns: list[TightenedBoxes] = []
        for technique in self.tighter:
            before = (effort.sooner(technique.name, other.name, count) for other in turns)
            turns.insert(next((i for i, sooner in enumerate(before) if sooner), len(turns)), technique)
        return turns if self.ascended is None else [*turns, self.ascended]

    @property
    def _freely(self) -> bool:
        """Whether subproblems may rest on what was found for those that they were split from."""
        return self.tracer.proves(Provable.INHERITED_BOUNDS)

    @property
    def _slopes_dtype(self) -> torch.dtype:
        """In which slopes wait: as alpha does."""
        return Alpha.storage(self.bounder.network).dtype or torch.float32

    def due(self, seconds: float, knowledge: Knowledge, deadline: Deadline) -> bool:
        # every box is bounded afresh
        return False

    def refine_roots(
        self, waiting: Subproblems, knowledge: Knowledge, batch: int, deadline: Deadline, run: Mapper
    ) -> tuple[Subproblems, list[Result]]:
        return waiting, []

    def at_once(self, knowledge: Knowledge) -> int | None:
        """As many as there is room for."""
        return None

    def choose(self, subproblems: Subproblems, knowledge: Knowledge, deadline: Deadline) -> Split:
        """The input that the bound depends on most; steps instead, where few of a layer are left to part."""
        box = self.bounder.boxes(subproblems)
        split = widest_effect(subproblems.slopes.double(), box.lower, box.upper)
        network = self.bounder.network
        if not network.sided and not network.has_steps:
            return split
        bounds = self.bounder.intervals(subproblems, box)
        if network.has_steps:
            most = _FEW_STEPS + subproblems.split_variable.shape[1] // _LEVELS
            split = step_if_few(network, bounds, split, most)
        if not network.sided:
            return split
        members = knowledge.shared.members[knowledge.shared.of_clause[subproblems.clause]]
        lost = hopeless(network, bounds, self.bounder.rows(members))
        return replace(split, variable=torch.where(lost, -1, split.variable))
