"""What a search has handed out: steps and leases on subproblems, and attacks."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from verify.bab.bundles import Batch
from verify.bab.executor import Executor
from verify.deadline import Deadline

R = TypeVar("R")

# leases a second that come back because their time is over: an owner takes up a few times as many
_RETURNS = 256
# seconds of an owner that a lease takes, at least
_EACH = 1e-4
# workers that keep their owner busy, where each is given so many times as many subproblems in a lease
_PER_SUBPROBLEM = 64
# subproblems for each worker that should wait, and how many a lease may bring back: where fewer wait, some are asked for
_STOCK, _BROUGHT = 2, 32


class Jobs(Generic[R]):
    """Jobs that an executor is at. A lease that takes long may be asked for: it ends soon then."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.steps: dict[Future[R], Batch] = {}
        self.trees: dict[Future[R], float] = {}  # what they work on, of the tree
        self.attacks: set[Future[R]] = set()
        # the step that may add to what is shared
        self.sole: Future[R] | None = None
        self.working = 0  # subproblems that are worked on
        # leases, and those of them that are asked for
        self._leases: set[Future[R]] = set()
        self._recalled: set[Future[R]] = set()

    @property
    def idle(self) -> int:
        """How many workers have nothing to do."""
        return self._executor.workers - len(self.steps) - len(self.attacks)

    def seconds(self, lease: float, waiting: int) -> float:
        """For how long who is given something now goes on: so many seconds, or longer where so many come back together.

        While there is not enough for all, and few leases to ask for, what is split comes back as soon as the owner could give it to others.
        """
        if not lease:
            return 0.0
        if waiting < self.idle and not self._many:
            return self.idle * _EACH
        return max(lease, self._executor.workers / _RETURNS)

    @property
    def least(self) -> int:
        """How many subproblems a lease is worth: among many workers, those who wait are better given what is asked for."""
        return max(1, self._executor.workers // _PER_SUBPROBLEM) if self._many else 1

    @property
    def _many(self) -> bool:
        """Whether half of the workers or more have leases."""
        return 2 * len(self._leases) >= self._executor.workers

    def attack(self, work: Callable[[], R]) -> None:
        """Hands out an attack."""
        self.attacks.add(self._executor.submit(work))

    def step(self, work: Callable[[], R], batch: Batch, tree: float, lease: bool) -> None:
        """Hands out work on a batch, which is so much of the tree."""
        job = self._executor.submit(work)
        self.sole = self.sole or job
        self.steps[job], self.trees[job] = batch, tree
        self.working += len(batch)
        if lease:
            self._leases.add(job)

    def wait(self, deadline: Deadline) -> set[Future[R]]:
        """What has ended, once anything has."""
        return self._executor.wait({*self.steps, *self.attacks}, deadline)

    def ended(self, job: Future[R]) -> Batch | None:
        """One that has ended: what it worked on, if it was no attack."""
        for some in (self.attacks, self._leases, self._recalled):
            some.discard(job)
        self.trees.pop(job, None)
        self.sole = None if job is self.sole else self.sole
        batch = self.steps.pop(job, None)
        self.working -= 0 if batch is None else len(batch)
        return batch

    def replenish(self, waiting: int) -> None:
        """Asks for leases where workers are idle, or will be soon, since no more than so many subproblems wait."""
        lacking = _STOCK * self._executor.workers - waiting
        self.recall(max((self.idle + 1) // 2, lacking // _BROUGHT))

    def recall(self, count: int) -> None:
        """Asks for leases, those that have most of the tree first, until so many are asked for."""
        wanted, others = count - len(self._recalled), self._leases - self._recalled
        for job in heapq.nlargest(wanted, others, key=self.trees.__getitem__):
            self._executor.recall(job)
            self._recalled.add(job)
