"""Who does the work: threads today. The loop hands out jobs and waits for what comes back, and knows nothing else of it.

One thread for each core: torch lets go of the interpreter's lock in every operation, and two cores get further with a batch each than
with one between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from verify.deadline import Deadline

T = TypeVar("T")
R = TypeVar("R")


class Mapper(Protocol):
    """Applies a function to everything given, one after the other or side by side; the results are in order."""

    def __call__(self, function: Callable[[T], R], things: Iterable[T], /) -> Iterable[R]: ...


class Executor(Protocol):
    """Runs jobs beside one another."""

    @property
    def workers(self) -> int:
        """How many jobs run at once."""

    def submit(self, job: Callable[[], R]) -> Future[R]:
        """Begins a job, or lets it wait for its turn."""

    def recall(self, job: Future[R]) -> None:
        """Asks that a lease ends soon and brings back what is open. It may be in vain."""

    def map(self, function: Callable[[T], R], things: Iterable[T], /) -> Iterable[R]:
        """A `Mapper`."""

    def wait(self, jobs: Iterable[Future[R]], deadline: Deadline) -> set[Future[R]]:
        """Jobs that have ended, all or some, once there are any or the deadline has passed."""


class Executors(Protocol):
    """Makes an executor for a search."""

    def __call__(
        self, workers: int, deadline: Deadline, writing: bool, /
    ) -> AbstractContextManager[Executor]:
        """So many workers, who stop once the deadline has passed. writing: what they tell must be whole at the end."""


@dataclass(frozen=True)
class Threads:
    """Threads of this process, in each of which torch works alone."""

    pool: ThreadPoolExecutor
    workers: int

    def submit(self, job: Callable[[], R]) -> Future[R]:
        return self.pool.submit(job)

    def recall(self, job: Future[R]) -> None:
        """Threads take steps alone, which end by themselves."""

    def map(self, function: Callable[[T], R], things: Iterable[T], /) -> Iterable[R]:
        return self.pool.map(function, things)

    def wait(self, jobs: Iterable[Future[R]], deadline: Deadline) -> set[Future[R]]:
        patience = None if deadline.at == float("inf") else max(0.0, deadline.remaining)
        done, _ = wait(set(jobs), patience, FIRST_COMPLETED)
        return done


@contextmanager
def threads(count: int, deadline: Deadline, writing: bool) -> Iterator[Threads]:
    """So many threads, which share torch's between them; they stop once the deadline has passed.

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
        yield Threads(pool, count)
    finally:
        deadline.called_off.set()
        pool.shutdown(wait=writing, cancel_futures=True)
        torch.set_num_threads(before)
