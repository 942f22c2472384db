"""What workers do with a batch of subproblems: split, bound, try the minimisers. Nothing of the search is changed by it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from verify.attack import constraint_values, replay_best
from verify.bab.strategy import Bounded, Knowledge, Result, Strategy
from verify.deadline import Deadline
from verify.errors import is_out_of_memory
from verify.network.graph import Network
from verify.problem import Problem, Witness
from verify.proof.tracer import ProofTracer
from verify.state import Subproblems

_DEEP = 64  # splits, beyond which nothing is looked for beside what is undefined


@dataclass(frozen=True)
class Done:
    """What a piece of work brought: results to keep, or a witness, or nothing."""

    results: tuple[Result, ...] = ()
    witness: Witness | None = None
    # subproblems that could be split no further
    stuck: int = 0
    # the largest batch that memory holds, where it did not hold this one
    fits: int | None = None
    # of the search, for a subproblem
    seconds: float = 0.0
    # of an attack
    attacked: float = 0.0

    def joined(self, other: Done) -> Done:
        """Both together."""
        return replace(
            self,
            results=self.results + other.results,
            witness=self.witness or other.witness,
            stuck=self.stuck + other.stuck,
            fits=other.fits
            if self.fits is None
            else self.fits
            if other.fits is None
            else min(self.fits, other.fits),
            seconds=max(self.seconds, other.seconds),
        )


@dataclass(frozen=True, eq=False)
class Steps:
    """What a step needs that stays the same for a whole search. `network` is in the precision of the model itself."""

    problem: Problem
    network: Network
    strategy: Strategy
    tracer: ProofTracer

    def step(
        self, subproblems: Subproblems, knowledge: Knowledge, deadline: Deadline, at_edge: bool = False
    ) -> Done:
        """Splits subproblems and bounds their children; half of them at a time where memory does not hold them all.

        at_edge: some subproblems could be split no further, so unsat is out of reach already.
        """
        try:
            return self._expand(subproblems, knowledge, deadline, at_edge)
        except (MemoryError, RuntimeError) as problem:
            if not is_out_of_memory(problem):
                raise
        if len(subproblems) == 1:
            raise MemoryError("the bounds of a single subproblem do not fit")
        half = len(subproblems) // 2
        first = self.step(subproblems.select(slice(0, half)), knowledge, deadline, at_edge)
        knowledge = knowledge.learned(*(seen for result in first.results for seen in result.seen))
        second = self.step(subproblems.select(slice(half, None)), knowledge, deadline, at_edge)
        both = first.joined(second)
        return replace(both, fits=half if both.fits is None else min(half, both.fits))

    def _expand(
        self, subproblems: Subproblems, knowledge: Knowledge, deadline: Deadline, at_edge: bool
    ) -> Done:
        """Splits subproblems and bounds their children."""
        deadline.check()
        began, count = time.monotonic(), len(subproblems)
        split = self.strategy.choose(subproblems, knowledge, deadline)
        splittable = split.variable >= 0
        if at_edge and self.network.sided and subproblems.split_variable.shape[1] >= _DEEP:
            # what is left beside what is undefined
            splittable = torch.zeros_like(splittable)
        stuck = int((~splittable).sum())
        subproblems = subproblems.select(splittable)
        if not len(subproblems):
            return Done(stuck=stuck)
        variable, value = split.variable[splittable], split.value[splittable]
        ends = value, value if split.above is None else split.above[splittable]
        children = subproblems.split(variable, ends, split.beta[splittable])
        children = self.tracer.split(subproblems, children, variable, value)
        result = self.strategy.bound(children, knowledge, deadline)
        seconds = (time.monotonic() - began) / count
        return Done((result,), self.tried(result.bounded), stuck, seconds=seconds)

    @torch.no_grad()
    def tried(self, bounded: Bounded) -> Witness | None:
        """The minimisers of subproblems left open, as they are."""
        left = bounded.open
        if not len(left):
            return None
        clauses = bounded.subproblems.clause[left]
        x = bounded.minimiser[left].to(self.network.device, self.network.dtype)
        objective = self.strategy.objectives.of(clauses, self.network.dtype)
        values = constraint_values(self.network, objective, x).amax(1)
        return replay_best(self.problem, clauses.tolist(), x, values)
