"""Branch and bound: attack, bound the roots, then split and bound in batches until nothing is open.

The loop knows neither networks nor duals: a `Strategy` bounds and splits subproblems, a `Frontier` stores them, an `Attack` and
the bounds' own minimisers look for witnesses, a `Reporter` is told. It ends with a verdict and a reason in words: `unsat` when
every subproblem of every clause is refuted, `sat` with a replayed witness, else `unknown` or `timeout` saying why.

Batches are worked on by several threads, one for each core (torch lets go of the interpreter's lock in every operation, and
two cores get further with a batch each than with one between them). Only the main thread touches frontier and counters.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Event
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from verify.attack import Attack, free_points, replay_best, rows
from verify.deadline import Deadline, OutOfTimeError
from verify.errors import ResourceError, UnwrittenError, is_out_of_memory, memory_kept
from verify.network.graph import Network
from verify.problem import Problem, Witness
from verify.proof.tracer import NO_PROOF, ProofTracer
from verify.search.frontier import Frontier
from verify.search.strategy import Bounded, Strategy
from verify.state import Subproblems

_FIRST_SHARE = 0.2  # of the time, for attacks, in the first half of the rounds of random starts
_ATTACK_SHARE = 0.1  # later, and for descents from open subproblems' minimisers
_DESCENTS = 64  # at once, at least
_FEW = 16  # subproblems that are not worth dividing among workers
_ENDING = (
    0.5  # of the most subproblems that were open at once: when so few are left, splitting will soon be done
)
_OTHER_SHARE = 0.05  # of the time, after which another search gets as much
_STEP_SECONDS = 2.0  # that a step may take: others have nothing to do meanwhile if what is left is in it


@dataclass
class Progress:
    """Counters of a running search."""

    phase: str = "start"
    closed: int = 0
    opened: int = 0
    waiting: int = 0
    worst: float = float("-inf")
    depth: int = 0
    batches: int = 0
    largest_batch: int = 0  # subproblems bounded at once
    attack_seconds: float = 0.0  # of all threads, while branching
    seconds: dict[str, float] = field(default_factory=dict)  # by phase

    def statistics(self) -> dict[str, Any]:
        """What a result and a log say of it."""
        return {
            "subproblems": self.opened, "closed": self.closed, "waiting": self.waiting, "depth": self.depth,
            "batches": self.batches, "largest_batch": self.largest_batch,
            "attack_seconds_while_branching": round(self.attack_seconds, 4),
            "seconds_by_phase": {phase: round(seconds, 4) for phase, seconds in self.seconds.items()},
        }  # fmt: skip


class Reporter(Protocol):
    """Is told how the search goes."""

    def update(self, progress: Progress) -> None:
        """Called after every step."""


class Silent:
    """A reporter that says nothing."""

    def update(self, progress: Progress) -> None:
        """Ignores the progress."""


@dataclass(frozen=True)
class Outcome:
    """How a search ended."""

    verdict: str  # sat | unsat | unknown | timeout
    reason: str
    witness: Witness | None = None
    progress: Progress = field(default_factory=Progress)


@dataclass(frozen=True)
class _Done:
    """What a piece of work brought: subproblems to keep, or a witness, or nothing."""

    witness: Witness | None = None
    bounded: Bounded | None = None
    stuck: int = 0  # subproblems that could be split no further
    attacked: float = 0.0  # seconds

    def joined(self, other: _Done) -> _Done:
        """Both together."""
        parts = [done.bounded for done in (self, other) if done.bounded is not None]
        return _Done(
            self.witness or other.witness,
            Bounded.concatenate(parts) if parts else None,
            self.stuck + other.stuck,
        )


@dataclass
class BranchAndBound:
    """One search. `batch` subproblems are split at a time by each of the `workers`, as many clauses bounded at a time.

    other: a search of the same problem that splits otherwise; where this one is not done soon, it is tried for as long. Which
    way suits a problem with a middling number of inputs shows in that alone: the right one may be thousands of times faster.
    """

    problem: Problem
    network: Network
    strategy: Strategy
    first_attack: Attack
    second_attack: Attack
    reporter: Reporter
    generator: np.random.Generator
    batch: int
    workers: int = 1
    tracer: ProofTracer = NO_PROOF
    frontier: Frontier = field(default_factory=Frontier)
    other: BranchAndBound | None = None
    progress: Progress = field(default_factory=Progress)
    stuck: int = 0
    _began: float = 0.0
    _phase_began: float = 0.0
    _working: int = 0  # subproblems that threads work on
    _seconds: float = 0.0  # that a subproblem took in the last step
    _rounds: int = 0  # of the second attack, left
    _suspects: tuple[Tensor, Tensor] | None = (
        None  # clauses of subproblems lately left open, and their minimisers
    )

    def run(self, deadline: Deadline) -> Outcome:
        """Decides the problem, or says why not."""
        self._began, self._rounds = time.monotonic(), self.second_attack.rounds
        try:
            with deadline.ticking(), memory_kept("searching"):
                witness = self._search(deadline)
        except OutOfTimeError:
            return self._outcome("timeout", self._interrupted())
        if witness is not None:
            return self._outcome("sat", "a counterexample was found and replayed in ONNX Runtime", witness)
        if self.stuck:
            return self._outcome(
                "unknown",
                f"numerical floor: {self.stuck} subproblems can be split no further and are not refuted",
            )
        if not self.problem.clauses:
            return self._outcome("unsat", "no input can violate the property as it is written")
        return self._outcome("unsat", f"every subproblem of all {self.problem.clauses} clauses is refuted")

    def _interrupted(self) -> str:
        """What the time ran out in."""
        if self.progress.phase in ("start", "attack"):
            return "time ran out in the first attack; nothing has been bounded yet"
        waiting = len(self.frontier) + self._working
        if self.progress.phase == "root":
            return f"time ran out while the roots were bounded; {self.progress.opened} were, {waiting} of them are open"
        return f"time ran out with {waiting} subproblems waiting"

    def _outcome(self, verdict: str, reason: str, witness: Witness | None = None) -> Outcome:
        self._report("end", self._working)
        return Outcome(verdict, reason, witness, self.progress)

    def _search(self, deadline: Deadline) -> Witness | None:
        clauses = list(range(self.problem.clauses))
        soon = deadline.share(_OTHER_SHARE)
        self._report("attack")
        witness = self.first_attack.run(self.problem, self.network, clauses, self.generator, deadline)
        if witness is not None:
            return witness
        deadline.check()
        self._report("root")
        witness = self._roots(deadline)
        if witness is not None or not len(self.frontier):
            return witness
        deadline = replace(deadline, called_off=Event())
        with _threads(self.workers, deadline, self.tracer.writes) as pool:
            return self._branch(pool, self.strategy.clauses_of(self.frontier.clauses), deadline, soon)

    def _roots(self, deadline: Deadline) -> Witness | None:
        """Bounds every clause's whole box."""
        for bounded in self.strategy.roots(self.batch, deadline):
            witness = self._absorb(_Done(self._try(bounded), bounded))
            self._report("root")
            if witness is not None:
                return witness
        return None

    def _branch(
        self, pool: ThreadPoolExecutor, clauses: list[int], deadline: Deadline, soon: Deadline
    ) -> Witness | None:
        """Hands out work until nothing waits and no subproblem is worked on; the other search has its turn once `soon` has passed."""
        steps: dict[Future[_Done], int] = {}  # each with the number of its subproblems
        attacks: set[Future[_Done]] = set()
        began, most = time.monotonic(), 0  # subproblems open at once since then
        while len(self.frontier) or steps:
            deadline.check()
            still_open = len(self.frontier) + sum(steps.values())
            most = max(most, still_open)
            ending = _ENDING * most > still_open
            others_turn = self.other is not None and soon.remaining <= 0
            due = others_turn or (
                not (ending or self.frontier.crowded)
                and self.strategy.due(time.monotonic() - began, deadline)
            )
            if due and not steps:
                take_turn = self._try_other if others_turn else partial(self._renew, pool)
                witness, began, most = take_turn(deadline), time.monotonic(), 0
                if witness is not None:
                    return witness
                continue
            if not attacks and (job := self._next_attack(clauses)) is not None:
                attacks.add(pool.submit(job, deadline))
            for idle in () if due else range(self.workers - len(steps) - len(attacks), 0, -1):
                if len(self.frontier):
                    subproblems = self._pop(idle)
                    steps[pool.submit(self._step, subproblems, deadline)] = len(subproblems)
            self._working = sum(steps.values())
            self._report("branch and bound", self._working)
            patience = None if deadline.at == float("inf") else max(0.0, deadline.remaining)
            done, _ = wait({*steps, *attacks}, patience, FIRST_COMPLETED)
            for job_done in done:
                result = job_done.result()
                self._working -= steps.pop(job_done, 0)
                attacks.discard(job_done)
                witness = self._absorb(result)
                if witness is not None:
                    return witness
        return None

    def _try_other(self, deadline: Deadline) -> Witness | None:
        """The other search, for a while; where it decides the problem, nothing waits any longer."""
        assert self.other is not None
        other, self.other = self.other, None
        self._report("the other way of splitting")
        try:
            outcome, mine = other.run(deadline.share(_OTHER_SHARE)), self.progress
        except UnwrittenError:
            raise
        except ResourceError:  # it needs more than this one
            return None
        mine.opened, mine.closed = (
            mine.opened + outcome.progress.opened,
            mine.closed + outcome.progress.closed,
        )
        if outcome.verdict == "unsat":
            self.frontier, self.stuck = Frontier(), 0
        return outcome.witness

    def _renew(self, pool: ThreadPoolExecutor, deadline: Deadline) -> Witness | None:
        """Bounds the roots of open clauses with more effort; where that beats what was split of them, it starts anew."""
        self._working = len(self.frontier)
        self._report("roots again")
        waiting = self.frontier.pop(self._working, self.network.device, self.network.dtype)
        kept, roots = self.strategy.refine_roots(waiting, self.batch, deadline, pool.map)
        self._working = 0
        self.frontier.push(kept)
        for bounded in roots:
            witness = self._absorb(_Done(self._try(bounded), bounded))
            if witness is not None:
                return witness
        return None

    def _pop(self, idle: int) -> Subproblems:
        """The next batch: this worker's share of what waits."""
        share = max(-(-len(self.frontier) // idle), _FEW)
        soon_done = max(int(_STEP_SECONDS / max(self._seconds, 1e-9)), _FEW)
        return self.frontier.pop(min(self.batch, share, soon_done), self.network.device, self.network.dtype)

    def _step(self, subproblems: Subproblems, deadline: Deadline) -> _Done:
        """Splits subproblems and bounds their children; half of them at a time, from then on, where memory does not hold them all."""
        try:
            return self._expand(subproblems, deadline)
        except (MemoryError, RuntimeError) as problem:
            if not is_out_of_memory(problem):
                raise
        if len(subproblems) == 1:
            raise MemoryError("the bounds of a single subproblem do not fit")
        half = len(subproblems) // 2
        self.batch = min(self.batch, half)
        order = torch.arange(len(subproblems), device=subproblems.clause.device)
        first, second = (
            self._step(subproblems.select(rows), deadline) for rows in (order[:half], order[half:])
        )
        return first.joined(second)

    def _expand(self, subproblems: Subproblems, deadline: Deadline) -> _Done:
        """Splits subproblems and bounds their children."""
        deadline.check()
        began, count = time.monotonic(), len(subproblems)
        split = self.strategy.choose(subproblems, deadline)
        splittable = split.variable >= 0
        stuck = int((~splittable).sum())
        subproblems = subproblems.select(splittable)
        if not len(subproblems):
            return _Done(stuck=stuck)
        variable, value = split.variable[splittable], split.value[splittable]
        children = subproblems.split(variable, value, split.beta[splittable])
        children = self.tracer.split(subproblems, children, variable, value)
        bounded = self.strategy.bound(children, deadline)
        self._seconds = (time.monotonic() - began) / count
        return _Done(self._try(bounded), bounded, stuck)

    @torch.no_grad()
    def _try(self, bounded: Bounded) -> Witness | None:
        """The minimisers of subproblems left open, as they are."""
        left = (~bounded.refuted).nonzero()[:, 0]
        if not len(left):
            return None
        clauses, x = (
            bounded.subproblems.clause[left],
            bounded.minimiser[left].to(self.network.device, self.network.dtype),
        )
        objective = self.strategy.objectives.of(clauses, self.network.dtype)
        return replay_best(self.problem, clauses.tolist(), x, rows(self.network, objective, x).amax(1))

    def _absorb(self, done: _Done) -> Witness | None:
        """Counts what was done and lets what is open wait."""
        self.stuck += done.stuck
        self.progress.attack_seconds += done.attacked
        if done.witness is None and done.bounded is not None:
            bounded = done.bounded
            left = ~bounded.refuted
            subproblems = bounded.subproblems.select(left)
            if len(subproblems):
                self._suspects = subproblems.clause, bounded.minimiser[left]
            self.frontier.push(subproblems)
            self.progress.opened += len(bounded.refuted)
            self.progress.closed += int(bounded.refuted.sum())
            self.progress.batches += 1
            self.progress.largest_batch = max(self.progress.largest_batch, len(bounded.refuted))
            self.progress.depth = max(self.progress.depth, bounded.subproblems.split_variable.shape[1])
        return done.witness

    def _next_attack(self, clauses: list[int]) -> Callable[[Deadline], _Done] | None:
        """Rounds on the clauses open after the root while there are any, then descents from minimisers; each now and then."""
        share = self.progress.attack_seconds / (self.workers * (time.monotonic() - self._began))
        early = 2 * self._rounds > self.second_attack.rounds
        if self._rounds and share < (_FIRST_SHARE if early else _ATTACK_SHARE):
            self._rounds -= 1
            return self._timed(partial(self._round, clauses))
        if not self._rounds and share < _ATTACK_SHARE and self._suspects is not None:
            return self._timed(partial(self._descend, *self._suspects))
        return None

    def _timed(self, attack: Callable[[Deadline], Witness | None]) -> Callable[[Deadline], _Done]:
        def run(deadline: Deadline) -> _Done:
            started = time.monotonic()
            witness = attack(deadline)
            return _Done(witness, attacked=time.monotonic() - started)

        return run

    def _round(self, clauses: list[int], deadline: Deadline) -> Witness | None:
        return self.second_attack.run(self.problem, self.network, clauses, self.generator, deadline)

    def _descend(self, clauses: Tensor, points: Tensor, deadline: Deadline) -> Witness | None:
        count = max(_DESCENTS, free_points(self.network))
        chosen = torch.from_numpy(self.generator.permutation(len(clauses))[:count])
        owners = clauses[chosen].tolist()
        return self.second_attack.descend(
            self.problem, self.network, owners, points[chosen], deadline.within(self.second_attack.seconds)
        )

    def _report(self, phase: str, working: int = 0) -> None:
        """Tells the reporter; `phase` is what comes now."""
        progress, now = self.progress, time.monotonic()
        if progress.phase != "start":
            progress.seconds[progress.phase] = (
                progress.seconds.get(progress.phase, 0.0) + now - self._phase_began
            )
        self._phase_began = now
        progress.phase, progress.worst = phase, self.frontier.worst
        progress.waiting = len(self.frontier) + working
        self.reporter.update(progress)


@contextmanager
def _threads(count: int, deadline: Deadline, writing: bool) -> Iterator[ThreadPoolExecutor]:
    """Threads in each of which torch works alone, as many as it had before; they stop once the deadline has passed.

    It is called off at the end. Only for threads that write is waited then: others may stop behind a long call.
    """
    before = torch.get_num_threads()
    own = max(1, before // count)

    def begin() -> None:
        torch.set_num_threads(own)
        deadline.tick_here()

    torch.set_num_threads(own)
    pool = ThreadPoolExecutor(count, "verify", begin)
    try:
        yield pool
    finally:
        deadline.called_off.set()
        pool.shutdown(wait=writing, cancel_futures=True)
        torch.set_num_threads(before)
