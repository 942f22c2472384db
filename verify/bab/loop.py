"""Branch and bound: attack, bound the roots, then split and bound in batches until nothing is open.

The loop knows neither networks nor duals: a `Strategy` bounds and splits subproblems, a `Frontier` stores them, an `Attack` and
the bounds' own minimisers look for witnesses, a `Reporter` is told. It ends with a verdict and a reason in words: `unsat` when
every subproblem of every clause is refuted, `sat` with a replayed witness, else `unknown` or `timeout` saying why.

Whoever runs the loop owns the search: it alone touches frontier, counters and `Knowledge`. An `Executor` works on batches; each piece
of work is handed the knowledge there is, and brings back bounded subproblems with what it saw.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Event
from typing import Any

import numpy as np
import torch

from verify.attack import Attack
from verify.bab.attacks import EARLY, SHARE, Attacks
from verify.bab.bundles import Batch, numbers_of
from verify.bab.checkpoint import NO_CHECKPOINT, Checkpoint, Standing, restore_progress, saved_progress
from verify.bab.effort import Observation, condensed
from verify.bab.executor import Executor, Executors, threads
from verify.bab.frontier import Frontier
from verify.bab.jobs import Jobs
from verify.bab.pace import Pace
from verify.bab.progress import Outcome, Progress, Reporter
from verify.bab.steps import Done, Steps, timed
from verify.bab.strategy import Bounded, Knowledge, Strategy
from verify.bab.techniques.other_splitting import OtherSplitting
from verify.deadline import Deadline, OutOfTimeError
from verify.errors import InputError, memory_kept
from verify.network.graph import Network
from verify.problem import Problem, Witness
from verify.proof.tracer import NO_PROOF, ProofTracer
from verify.room import fitted
from verify.state import Subproblems

_FEW = 16  # subproblems that are not worth dividing between two workers; among more of them that take leases, fewer are
_TURN = 32.0  # seconds that a step of a lease takes at most, of all workers together: only after it the lease may end
# of the most subproblems that were open at once: when so few are left, splitting will soon be done
_ENDING = 0.5
_STEP_SECONDS = 2.0  # that a step may take: others have nothing to do meanwhile if what is left is in it


@dataclass
class BranchAndBound:
    """One search. `batch` subproblems are split at a time by each of the `workers`, as many clauses bounded at a time.

    other: another way of splitting, with a search of its own that is tried for a while. executors: who works on batches. checkpoint: what
    keeps the search for the case that it is killed.
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
    other: OtherSplitting | None = None
    executors: Executors = threads
    checkpoint: Checkpoint = NO_CHECKPOINT
    # seconds for which a worker goes on with what it splits, once enough waits for others; 0: it makes single steps
    lease: float = 0.0
    pace: Pace = field(default_factory=Pace)
    progress: Progress = field(default_factory=Progress)
    stuck: int = 0
    _began: float = 0.0
    _phase_began: float = 0.0
    # subproblems that are worked on, and the seconds that one took in the last step
    _working: int = 0
    _seconds: float = 0.0
    # how often it went on after its end, seconds of splitting by then, and the largest batch that memory held
    _resumed: int = 0
    _split: float = 0.0
    _fits: int | None = None
    # whether some subproblems that are open are neither waiting nor worked on
    _between: bool = False

    def __post_init__(self) -> None:
        self.knowledge: Knowledge = self.strategy.begin()

    def run(self, deadline: Deadline) -> Outcome:
        """Decides the problem, or says why not."""
        if (ended := self.checkpoint.ended(self.tracer)) is not None:
            return self._again(ended)
        self._began, attack = time.monotonic(), self.second_attack
        self.attacks = Attacks(self.problem, self.network, attack, self.generator, attack.rounds)
        self.steps = Steps(self.problem, self.network, self.strategy, self.tracer, self.frontier.storage)
        outcome = self._found(deadline)
        self.checkpoint.end(outcome, self.tracer)
        self.progress.checkpoint = self.checkpoint.statistics()
        return outcome

    def _again(self, ended: dict[str, Any]) -> Outcome:
        """How an earlier run ended. Its witness is replayed."""
        restore_progress(self.progress, ended["progress"])
        self.progress.checkpoint = self.checkpoint.statistics()
        witness = None
        if ended["verdict"] == "sat":
            witness = self.problem.replay(ended["clause"], ended["inputs"])
            if witness is None:
                raise InputError(
                    f"--checkpoint: the counterexample that was found is none in {self.problem.model.runtime} here; choose another folder"
                )
        self._report("end")
        return Outcome(ended["verdict"], ended["reason"], witness, self.progress)

    def _found(self, deadline: Deadline) -> Outcome:
        try:
            with deadline.ticking(), memory_kept("searching"):
                witness = self._search(deadline)
        except OutOfTimeError:
            return self._outcome("timeout", self._interrupted())
        if witness is not None:
            told = f"a counterexample was found and replayed in {self.problem.model.runtime}"
            return self._outcome("sat", told, witness)
        if self.stuck:
            told = f"numerical floor: {self.stuck} subproblems can be split no further and are not refuted"
            return self._outcome("unknown", told)
        if not self.problem.clauses:
            told = "no clause is left to search: intervals of the outputs, or the property as written, exclude all"
            return self._outcome("unsat", told)
        of_all = "" if self.problem.clauses == 1 else f" of all {self.problem.clauses} clauses"
        return self._outcome("unsat", f"every subproblem{of_all} is refuted")

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
        if verdict in ("unknown", "timeout"):
            reason = "; ".join(filter(None, (reason, self.steps.without_value())))
        return Outcome(verdict, reason, witness, self.progress)

    def _search(self, deadline: Deadline) -> Witness | None:
        others_turn = deadline if self.other is None else self.other.turn(deadline)
        standing = self.checkpoint.restored(self.strategy, self.problem, self.frontier, self.tracer)
        witness = None
        if standing is not None:
            self._go_on(standing)
        else:
            witness = self._begin(deadline)
        if witness is not None or not len(self.frontier):
            return witness
        deadline = replace(deadline, called_off=Event())
        with self.executors(self.workers, deadline, self.tracer.writes) as executor:
            clauses = self.strategy.clauses_of(self.frontier.clauses, self.knowledge)
            return _Branching(self, executor, clauses, deadline, others_turn).run()

    def _begin(self, deadline: Deadline) -> Witness | None:
        """An attack, then the roots."""
        self._report("attack")
        given = self.problem, self.network, list(range(self.problem.clauses)), self.generator, deadline
        witness = fitted(self.network.device, self.first_attack.run, *given)
        if witness is not None:
            return witness
        deadline.check()
        self._report("root")
        return self._roots(deadline)

    def _go_on(self, standing: Standing) -> None:
        """From where an earlier run was; random starts are others than it had."""
        self.knowledge, counters = standing.knowledge, standing.counters
        restore_progress(self.progress, standing.progress)
        self.stuck, self.attacks.left = counters["stuck"], counters["rounds"]
        self._resumed = counters["resumed"] + 1
        self._seconds, self._split = counters["seconds"], counters["split"]
        self.batch = min(self.batch, counters["fits"] or self.batch)
        self.other = self.other if counters["other"] else None
        self.attacks.generator = self.generator.spawn(self._resumed)[-1]

    def keep(self, working: Sequence[Batch], split: float) -> None:
        """For the case that the process is killed: all that is open, and what is known. split: seconds of splitting since the roots."""
        if self._between:
            return
        counters = {
            "stuck": self.stuck,
            "rounds": self.attacks.left,
            "resumed": self._resumed,
            "seconds": self._seconds,
            "split": split,
            "fits": self._fits,
            "other": self.other is not None,
        }
        standing = Standing(self.knowledge, counters, saved_progress(self.progress), self.tracer)
        self.checkpoint.write(self.strategy, self.frontier, working, standing)

    def _roots(self, deadline: Deadline) -> Witness | None:
        """Bounds every clause's whole box, with attacks on those that are not refuted now and then."""
        clauses = dict.fromkeys(range(self.problem.clauses))
        for result in self.strategy.roots(self.knowledge, self.batch, deadline):
            witness = self.absorb(Done((result,), self.steps.tried(result.bounded)))
            host = result.bounded.on_host()
            for clause in host.subproblems.clause[host.refuted].tolist():
                clauses.pop(clause, None)
            if witness is None and clauses and (attack := self.next_attack(list(clauses), alone=True)):
                witness = self.absorb(timed(attack, deadline))
            self._report("root")
            if witness is not None:
                return witness
        return None

    def absorb(self, done: Done) -> Witness | None:
        """Learns from what was done, and takes it up."""
        self.learn(done.seen)
        return self.take(done)

    def learn(self, seen: Sequence[Observation]) -> None:
        """From what was seen of techniques."""
        self.knowledge = self.knowledge.learned(*seen)
        for one in seen:
            self.progress.observe(one)

    def take(self, done: Done) -> Witness | None:
        """Counts what was done, and lets what is open wait, once the proof has what was told of it."""
        if done.witness is None:
            done = done.proved(self.tracer)
        self.stuck += done.stuck
        self.progress.attack_seconds += done.attacked
        self._seconds = done.seconds or self._seconds
        if done.fits:
            self.batch = min(self.batch, done.fits)
            self._fits = self.batch
        if done.witness is None:
            for result in done.results:
                self._keep(result.bounded)
            self._keep_rest(done)
        return done.witness

    def _keep_rest(self, done: Done) -> None:
        """What a lease brought back."""
        self.progress.count(done.bounded, done.refuted, done.batches, done.largest, done.depth)
        self.attacks.suspects = done.suspects or self.attacks.suspects
        if (rest := done.rest) is not None:
            self.frontier.push(rest.numbered(self.checkpoint.numbered(numbers_of(rest), self.tracer.writes)))

    def _keep(self, bounded: Bounded) -> None:
        bounded = bounded.on_host()
        count, left = len(bounded), bounded.open
        if not count:
            return
        subproblems = bounded.subproblems.select(left)
        if len(left):
            self.attacks.suspects = subproblems.clause, bounded.minimiser[left]
        numbers = self.checkpoint.numbered(subproblems.subproblem_id, self.tracer.writes)
        self.frontier.push(replace(subproblems, subproblem_id=numbers))
        self.progress.count(count, count - len(left), 1, count, bounded.subproblems.split_variable.shape[1])

    def popped(self, idle: int, least: int) -> Batch:
        """The next batch: this worker's share of what waits. least: of many who take leases."""
        few = max(least, 2 * _FEW // max(self.workers, 2)) if self.lease else _FEW
        share = max(-(-len(self.frontier) // idle), few)
        soon_done = max(int(_STEP_SECONDS / max(self._seconds, 1e-9)), few)
        most = min(self.strategy.at_once(self.knowledge) or self.batch, self.batch, self.pace.now)
        count, place = min(share, soon_done, int(most)), (self.network.device, self.network.dtype)
        return self.frontier.lease(count) if self.lease else self.frontier.pop(count, *place)

    def job(
        self, batch: Batch, knowledge: Knowledge, deadline: Deadline, seconds: float
    ) -> Callable[[], Done]:
        """What a worker is to do with a batch: a step, or a lease of so many seconds."""
        if isinstance(batch, Subproblems):
            return self.steps.apart(self.steps.step, batch, knowledge, deadline, self.stuck > 0)
        turn = min(self.lease, _TURN / self.workers) / max(self._seconds, 1e-9)
        most = min(self.batch, max(int(turn), _FEW))
        return self.steps.apart(self.steps.lease, batch, knowledge, deadline, self.stuck > 0, seconds, most)

    def next_attack(
        self, clauses: list[int], alone: bool = False
    ) -> Callable[[Deadline], Witness | None] | None:
        """See `Attacks.next`. alone: all workers wait for it, not one of them."""
        workers, early = (1, SHARE) if alone else (self.workers, EARLY)
        seconds = self.progress.attack_seconds
        spent = (seconds + self.attacks.beyond(seconds)) / (workers * (time.monotonic() - self._began))
        return self.attacks.next(clauses, spent, early)

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
        progress.latest.clear()

    def try_other(self, deadline: Deadline) -> Witness | None:
        """The other way of splitting, for a while; where it decides the problem, nothing waits any longer."""
        assert self.other is not None
        other, self.other = self.other, None
        self._report(other.name)
        outcome = other.run(deadline)
        if outcome is None:
            return None
        self.progress.opened += outcome.progress.opened
        self.progress.closed += outcome.progress.closed
        if outcome.verdict == "unsat":
            self.frontier, self.stuck = Frontier(), 0
            self.tracer.give_way(other.search.tracer)
        return outcome.witness

    def renew(self, executor: Executor, deadline: Deadline) -> Witness | None:
        """Bounds the roots of open clauses with more effort; where that beats what was split of them, it starts anew."""
        self._working, self._between = len(self.frontier), True
        self._report("roots again")
        waiting = self.frontier.pop(self._working, self.network.device, self.network.dtype)
        run = partial(self.steps.mapped, executor.map)
        kept, roots = self.strategy.refine_roots(waiting, self.knowledge, self.batch, deadline, run)
        self._working = 0
        left = torch.isin(waiting.subproblem_id, kept.subproblem_id)
        self.checkpoint.gone(waiting.subproblem_id[~left])
        self.frontier.push(kept)
        for result in roots:
            witness = self.absorb(Done((result,), self.steps.tried(result.bounded)))
            if witness is not None:
                return witness
        self._between = False
        return None

    def working_on(self, subproblems: int, tree: float) -> None:
        """So many subproblems are worked on now. tree: what they are of it, in roots."""
        self._working, self.progress.open_tree = subproblems, self.frontier.tree + tree
        self._report("branch and bound", subproblems)


class _Branching:
    """Splitting until nothing waits and no subproblem is worked on; other things have their turn meanwhile."""

    def __init__(
        self,
        search: BranchAndBound,
        executor: Executor,
        clauses: list[int],
        deadline: Deadline,
        others_turn: Deadline,
    ) -> None:
        self.search, self.executor, self.clauses = search, executor, clauses
        self.deadline, self.others_turn = deadline, others_turn
        self.jobs: Jobs[Done] = Jobs(executor)
        # whether a step began or ended since the last attack, which may take no time at all
        self.stepped = True
        # since when subproblems are split, and the most that were open at once since then
        self.began, self.most = time.monotonic() - search._split, 0

    def run(self) -> Witness | None:
        """The witness, or None once nothing is open."""
        try:
            return self._run()
        except OutOfTimeError:
            if self.search.checkpoint.brief:
                self._keep()
            raise

    def _keep(self) -> None:
        self.search.keep(list(self.jobs.steps.values()), time.monotonic() - self.began)

    def _run(self) -> Witness | None:
        search = self.search
        while len(search.frontier) or self.jobs.steps:
            if search.checkpoint.due:
                self._keep()
            self.deadline.check()
            turn = self._turn()
            if turn is not None and not self.jobs.steps:
                witness = turn(self.deadline)
                self.began, self.most = time.monotonic(), 0
            else:
                self._hand_out(turn is not None)
                witness = self._collect()
            if witness is not None:
                return witness
        return None

    def _turn(self) -> Callable[[Deadline], Witness | None] | None:
        """What is to be done next that nothing else may go on beside, if anything is."""
        search = self.search
        still_open = len(search.frontier) + self.jobs.working
        self.most = max(self.most, still_open)
        if search.other is not None and self.others_turn.remaining <= 0:
            return search.try_other
        if _ENDING * self.most > still_open or search.frontier.crowded:
            return None
        due = search.strategy.due(time.monotonic() - self.began, search.knowledge, self.deadline)
        return partial(search.renew, self.executor) if due else None

    def _hand_out(self, draining: bool) -> None:
        """An attack now and then, and batches for all who are idle, unless steps are to come to their end."""
        search, jobs = self.search, self.jobs
        if self.stepped and not jobs.attacks and (attack := search.next_attack(self.clauses)) is not None:
            jobs.attack(partial(timed, attack, self.deadline))
            self.stepped = False
        if draining:
            jobs.recall(jobs.working)
        else:
            self._share_out(jobs.idle)
        search.working_on(jobs.working, sum(jobs.trees.values()))

    def _share_out(self, idle: int) -> None:
        """What waits, among those who are idle. Where less waits than all need, leases are asked for."""
        search, jobs = self.search, self.jobs
        seconds = jobs.seconds(search.lease, len(search.frontier))
        for share in range(idle, 0, -1):
            if not len(search.frontier):
                break
            tree, batch = search.frontier.tree, search.popped(share, jobs.least)
            knowledge = replace(search.knowledge, sole=jobs.sole is None)
            work = search.job(batch, knowledge, self.deadline, seconds)
            jobs.step(work, batch, tree - search.frontier.tree, seconds >= search.lease > 0)
            self.stepped = True
        jobs.replenish(len(search.frontier))

    def _collect(self) -> Witness | None:
        """Waits for something to end, and learns from it. Raises what a job raised, once what others found is taken up."""
        ended = self.jobs.wait(self.deadline)
        found = {job: job.result() for job in ended if job.exception() is None}
        seen = [one for done in found.values() for one in done.seen]
        self.search.learn(condensed(seen) if self.search.lease else seen)
        for job, done in sorted(found.items(), key=lambda one: one[1].witness is None):
            witness = self.search.take(done)
            if witness is not None:
                return witness
            # not before: until its children wait, a subproblem is open
            if (worked_on := self.jobs.ended(job)) is not None:
                self.stepped = True
                self.search._working = self.jobs.working
                self.search.pace.took(len(worked_on), done.seconds)
                self.search.checkpoint.gone(numbers_of(worked_on))
        for job in ended - found.keys():
            job.result()
        return None
