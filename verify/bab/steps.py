"""What workers do with a batch of subproblems: split, bound, try the minimisers. Nothing of the search is changed by it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ParamSpec, TypeVar

import torch

from verify.attack import constraint_values, replay_best
from verify.bab.effort import Observation
from verify.bab.executor import Mapper
from verify.bab.frontier import Frontier
from verify.bab.strategy import Bounded, Knowledge, Result, Strategy
from verify.bounders.undefined import without_value
from verify.deadline import Deadline
from verify.errors import is_out_of_memory
from verify.lagrangian.terms import Storage
from verify.memory import budget
from verify.network.graph import Network
from verify.problem import Problem, Witness
from verify.proof.segment import Numbers, Segment
from verify.proof.tracer import ProofTracer
from verify.room import fitted
from verify.state import Subproblems, sent

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

_LOOKED_AT = 4  # boxes that are looked at for where a network has no value
_DEEP = 64  # splits, beyond which nothing is looked for beside what is undefined


@dataclass(frozen=True)
class Done:
    """What a piece of work brought: results to keep, or a witness, or nothing."""

    results: tuple[Result, ...] = ()
    witness: Witness | None = None
    # subproblems that could be split no further
    stuck: int = 0
    # subproblems that were refuted, and that were split on, beside what is in the results
    refuted: int = 0
    split: int = 0
    # what else is open
    rest: Subproblems | None = None
    # the largest batch that memory holds, where it did not hold this one
    fits: int | None = None
    # of the search, for a subproblem
    seconds: float = 0.0
    # of an attack
    attacked: float = 0.0
    # what it tells of the proof
    segment: Segment | None = None

    def joined(self, other: Done) -> Done:
        """Both together."""
        return replace(
            self,
            results=self.results + other.results,
            witness=self.witness or other.witness,
            stuck=self.stuck + other.stuck,
            refuted=self.refuted + other.refuted,
            split=self.split + other.split,
            fits=other.fits
            if self.fits is None
            else self.fits
            if other.fits is None
            else min(self.fits, other.fits),
            seconds=max(self.seconds, other.seconds),
        )

    def proved(self, tracer: ProofTracer) -> Done:
        """The same with the numbers that its subproblems have in the proof, which now holds what it told."""
        numbers = tracer.joined(self.segment)
        if self.segment is None:
            return self
        results = (
            replace(result, bounded=_numbered(result.bounded.on_host(), numbers)) for result in self.results
        )
        rest = None if self.rest is None else _with_numbers(self.rest, numbers)
        return replace(self, results=tuple(results), rest=rest, segment=None)

    @property
    def seen(self) -> tuple[Observation, ...]:
        """What was seen of techniques, in order."""
        return tuple(seen for result in self.results for seen in result.seen)

    @property
    def light(self) -> Done:
        """The same without the data of what is refuted."""
        results, refuted = [], self.refuted
        for result in self.results:
            bounded = result.bounded.on_host()
            left = bounded.open
            refuted += len(bounded) - len(left)
            results.append(replace(result, bounded=bounded.select(left)))
        return replace(self, results=tuple(results), refuted=refuted)


@dataclass(frozen=True, eq=False)
class Steps:
    """What a step needs that stays the same for a whole search. `network` is in the precision of the model itself.

    storage: how parts of dual points wait (see frontier.py).
    """

    problem: Problem
    network: Network
    strategy: Strategy
    tracer: ProofTracer
    storage: Mapping[str, Storage] = field(default_factory=dict)

    def apart(self, work: Callable[P, Done], *given: P.args, **named: P.kwargs) -> Callable[[], Done]:
        """A job that brings with it what it tells of the proof."""
        return partial(self._told, partial(work, *given, **named), self.tracer.cuts_told)

    def _told(self, work: Callable[[], Done], cuts: int) -> Done:
        done, segment = self.tracer.apart(work, cuts)
        return replace(done, segment=segment)

    def mapped(self, run: Mapper, function: Callable[[T], R], things: Iterable[T]) -> Iterator[R]:
        """A `Mapper` whose results come when the proof has what was told of them."""
        for found, segment in run(partial(_apart, self.tracer, self.tracer.cuts_told, function), things):
            self.tracer.joined(segment)
            yield found

    def lease(
        self,
        subproblems: Subproblems,
        knowledge: Knowledge,
        deadline: Deadline,
        at_edge: bool,
        seconds: float,
        batch: int,
    ) -> Done:
        """Steps on subproblems and on what is split of them, worst first, until so many seconds have passed; what is open then comes back."""
        until, waiting = time.monotonic() + seconds, Frontier(budget().store, self.storage)
        found = self.step(subproblems, knowledge, deadline, at_edge).light
        last = found
        while found.witness is None and time.monotonic() < until:
            for result in last.results:
                waiting.push(result.bounded.subproblems)
            # these are split on, or come back as the rest
            found = replace(found, results=tuple(map(_seen_alone, found.results)))
            if not len(waiting):
                return found
            knowledge = knowledge.learned(*last.seen)
            most = min(batch, last.fits or batch, self.strategy.at_once(knowledge) or batch)
            some = waiting.pop(most, *self._place)
            last = self.step(some, knowledge, deadline, at_edge).light
            found = replace(found.joined(last), split=found.split + len(some))
        return replace(found, rest=waiting.pop(len(waiting), *self._place)) if len(waiting) else found

    @property
    def _place(self) -> tuple[torch.device, torch.dtype]:
        return self.network.device, self.network.dtype

    def without_value(self) -> str:
        """Where the network has no value, if anywhere, by a few of the property's boxes."""
        lower, upper = self.problem.specification.some_boxes(_LOOKED_AT)
        ends = (torch.from_numpy(end).to(*self._place) for end in (lower, upper))
        return without_value(self.network, *ends)

    def step(
        self, subproblems: Subproblems, knowledge: Knowledge, deadline: Deadline, at_edge: bool = False
    ) -> Done:
        """Splits subproblems and bounds their children; half of them at a time where memory does not hold them all, one with less at once.

        at_edge: some subproblems could be split no further, so unsat is out of reach already.
        """
        try:
            return self.tracer.whole(partial(self._expand, subproblems, knowledge, deadline, at_edge))
        except (MemoryError, RuntimeError) as problem:
            if not is_out_of_memory(problem):
                raise
        if len(subproblems) == 1:
            expand = partial(
                self.tracer.whole, partial(self._expand, subproblems, knowledge, deadline, at_edge)
            )
            return replace(fitted(self.network.device, expand), fits=1)
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
        splittable = (split.on_host >= 0).nonzero()[:, 0]
        if at_edge and self.network.sided and subproblems.split_variable.shape[1] >= _DEEP:
            # what is left beside what is undefined
            splittable = splittable[:0]
        stuck = count - len(splittable)
        if len(splittable) == 0:
            return Done(stuck=stuck)
        variable, value, beta = split.variable, split.value, split.beta
        above = value if split.above is None else split.above
        if stuck:
            chosen = sent(splittable, variable.device)
            subproblems = subproblems.select(chosen)
            variable, value, beta, above = (part[chosen] for part in (variable, value, beta, above))
        children = subproblems.split(variable, (value, above), beta)
        children = self.tracer.split(subproblems, children, variable, value)
        result = self.strategy.bound(children, knowledge, deadline)
        seconds = (time.monotonic() - began) / count
        return Done((result,), self.tried(result.bounded), stuck, seconds=seconds)

    @torch.no_grad()
    def tried(self, bounded: Bounded) -> Witness | None:
        """The minimisers of subproblems left open, as they are."""
        host, device = bounded.on_host(), self.network.device
        left = host.open
        if not len(left):
            return None
        clauses, there = host.subproblems.clause[left], sent(left, device)
        x = bounded.minimiser[there].to(device, self.network.dtype)
        objective = self.strategy.objectives.of(bounded.subproblems.clause[there], self.network.dtype)
        values = constraint_values(self.network, objective, x).amax(1)
        return replay_best(self.problem, clauses.tolist(), x, values.cpu())


def _with_numbers(subproblems: Subproblems, numbers: Numbers) -> Subproblems:
    return replace(subproblems, subproblem_id=numbers.of(subproblems.subproblem_id))


def _numbered(bounded: Bounded, numbers: Numbers) -> Bounded:
    return replace(bounded, subproblems=_with_numbers(bounded.subproblems, numbers))


def _apart(tracer: ProofTracer, cuts: int, function: Callable[[T], R], thing: T) -> tuple[R, Segment | None]:
    return tracer.apart(partial(function, thing), cuts)


def _seen_alone(result: Result) -> Result:
    return replace(result, bounded=result.bounded.select(slice(0)))


def timed(attack: Callable[[Deadline], Witness | None], deadline: Deadline) -> Done:
    """An attack with the seconds that it took."""
    started = time.monotonic()
    witness = attack(deadline)
    return Done(witness=witness, attacked=time.monotonic() - started)
