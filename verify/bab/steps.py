"""What workers do with a batch of subproblems: split, bound, try the minimisers. Nothing of the search is changed by it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Event
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from verify.attack import constraint_values, replay_best
from verify.bab.bundles import Bundles, numbers_of
from verify.bab.effort import Observation, condensed
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
# Of this process, which works on one lease at a time: it is to bring back what it has, since others have nothing to do.
RECALLED = Event()


@dataclass(frozen=True)
class Done:
    """What a piece of work brought: results to keep, or a witness, or nothing."""

    results: tuple[Result, ...] = ()
    witness: Witness | None = None
    # subproblems that could be split no further
    stuck: int = 0
    # of a lease: what was seen, how many subproblems were bounded and refuted, the batches and the depth that they had, and what is open
    observed: tuple[Observation, ...] = ()
    bounded: int = 0
    refuted: int = 0
    batches: int = 0
    largest: int = 0
    depth: int = 0
    rest: Bundles | None = None
    # clauses of some that were left open, and their minimisers
    suspects: tuple[Tensor, Tensor] | None = None
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
            observed=self.observed + other.observed,
            bounded=self.bounded + other.bounded,
            refuted=self.refuted + other.refuted,
            batches=self.batches + other.batches,
            largest=max(self.largest, other.largest),
            depth=max(self.depth, other.depth),
            suspects=other.suspects or self.suspects,
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
        rest = self.rest
        if rest is not None:
            rest = rest.numbered(numbers.of(numbers_of(rest)))
        return replace(self, results=tuple(results), rest=rest, segment=None)

    @property
    def seen(self) -> tuple[Observation, ...]:
        """What was seen of techniques, in order."""
        return (*self.observed, *(seen for result in self.results for seen in result.seen))


class Held:
    """What a worker has of a lease: it goes on with what it splits, worst first, until it brings back what is open."""

    def __init__(self, bundles: Bundles, storage: Mapping[str, Storage]) -> None:
        self._waiting = Frontier(budget().store, storage)
        self._waiting.push(bundles)
        self._found = Done()

    def __len__(self) -> int:
        return len(self._waiting)

    def next(self, count: int, device: torch.device, dtype: torch.dtype) -> Subproblems:
        """What to split next, of what waits."""
        return self._waiting.pop(count, device, dtype)

    def learn(self, done: Done) -> None:
        """Takes up what a step found."""
        found, own = self._found, replace(done, results=())
        for result in done.results:
            bounded = result.bounded.on_host()
            left = bounded.open
            subproblems = bounded.subproblems.select(left)
            self._waiting.push(subproblems)
            own = replace(
                own,
                observed=(*own.observed, *result.seen),
                bounded=own.bounded + len(bounded),
                refuted=own.refuted + len(bounded) - len(left),
                batches=own.batches + 1,
                largest=max(own.largest, len(bounded)),
                depth=max(own.depth, subproblems.split_variable.shape[1]),
                suspects=(subproblems.clause, bounded.minimiser[left]) if len(left) else own.suspects,
            )
        self._found = found.joined(own)

    def done(self) -> Done:
        """All together."""
        rest = self._waiting.bundles() if len(self) and self._found.witness is None else None
        return replace(self._found, observed=condensed(self._found.observed), rest=rest)


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
        bundles: Bundles,
        knowledge: Knowledge,
        deadline: Deadline,
        at_edge: bool,
        seconds: float,
        batch: int,
    ) -> Done:
        """Steps on subproblems and on what is split of them, at most a `batch` at a time, worst first, until so many seconds have passed.

        It ends sooner where it is recalled, and where nothing is left. What is open then comes back.
        """
        until, held, most = time.monotonic() + seconds, Held(bundles, self.storage), batch
        while True:
            most = min(most, self.strategy.at_once(knowledge) or most)
            done = self.step(held.next(most, *self._place), knowledge, deadline, at_edge)
            held.learn(done)
            late = RECALLED.is_set() or time.monotonic() >= until
            if late or not len(held) or done.witness is not None:
                return held.done()
            knowledge, most = knowledge.learned(*done.seen), min(batch, done.fits or batch)

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


def timed(attack: Callable[[Deadline], Witness | None], deadline: Deadline) -> Done:
    """An attack with the seconds that it took."""
    started = time.monotonic()
    witness = attack(deadline)
    return Done(witness=witness, attacked=time.monotonic() - started)
