"""An executor whose jobs are done in other processes.

A thread of the owner's stands for each worker: it hands it a job, as a lease, and waits for the answer. A worker that ends, or is silent
for too long, costs what it was at: it is ended, another takes its place, and the job is handed out again, to whoever is free. Of a
lease whose answer did not come whole nothing is known, so nothing follows from it. What workers see, the owner alone learns from.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

from verify.deadline import Deadline, OutOfTimeError
from verify.errors import ResourceError
from verify.workers.parcels import Catalogue, Parcel, Sender
from verify.workers.wire import LostError
from verify.workers.worker import Found, under

T = TypeVar("T")
R = TypeVar("R")

TOGETHER = 16  # jobs that have ended and are told of at a time: whoever did them is to have something to do before others are heard
_TRIES = 8  # workers that a job may cost: more than bad luck would


class Remote(Protocol):
    """A process that does jobs. It may be begun long before it is needed."""

    def meet(self, deadline: Deadline) -> None:
        """Waits until it is ready. Raises LostError and OutOfTimeError, and ResourceError where it is not one of ours."""

    def ask(self, parcel: Parcel, deadline: Deadline) -> list[bytearray]:
        """The answer to a job. Raises LostError, and OutOfTimeError once the deadline is called off or long passed."""

    def recall(self) -> None:
        """The answer to what it is at is awaited soon; never waits itself. It may be in vain."""

    def end(self) -> None:
        """It is needed no longer, whatever it is at."""


@dataclass
class Tally:
    """What workers did."""

    workers: int
    jobs: int = 0
    lost: int = 0
    busy: float = 0.0  # seconds, of all
    bytes: int = 0
    began: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, seconds: float, size: int, lost: bool) -> None:
        """A lease is over."""
        with self._lock:
            self.jobs, self.lost = self.jobs + (not lost), self.lost + lost
            self.busy, self.bytes = self.busy + seconds, self.bytes + size

    def statistics(self) -> dict[str, Any]:
        """For a result."""
        all_seconds = self.workers * (time.monotonic() - self.began)
        return {
            "workers": self.workers,
            "jobs": self.jobs,
            "lost": self.lost,
            "idle": round(max(0.0, 1 - self.busy / max(all_seconds, 1e-9)), 4),
            "bytes": self.bytes,
        }


class _Worker:
    """A remote process and what it has been sent."""

    def __init__(self, remote: Remote, catalogue: Catalogue) -> None:
        self.remote, self.sender = remote, Sender(catalogue)


@dataclass
class _Turn:
    """Who does a job now."""

    worker: _Worker | None = None


@dataclass(frozen=True)
class Crew:
    """So many workers."""

    pool: ThreadPoolExecutor
    workers: int
    free: queue.SimpleQueue[_Worker]
    begin: Callable[[], _Worker]
    deadline: Deadline
    tally: Tally
    # of jobs that were handed in and not waited for yet, and those of them that have ended
    turns: dict[Future[Any], _Turn] = field(default_factory=dict)
    ended: queue.SimpleQueue[Future[Any]] = field(default_factory=queue.SimpleQueue)

    def submit(self, job: Callable[[], R]) -> Future[R]:
        future = self.pool.submit(self._done, job, turn := _Turn())
        self.turns[future] = turn
        future.add_done_callback(self.ended.put)
        return future

    def recall(self, job: Future[R]) -> None:
        if (turn := self.turns.get(job)) is not None and (worker := turn.worker) is not None:
            worker.remote.recall()

    def map(self, function: Callable[[T], R], things: Iterable[T], /) -> Iterable[R]:
        return self.pool.map(lambda thing: self._done(partial(function, thing), _Turn()), things)

    def wait(self, jobs: Iterable[Future[R]], deadline: Deadline) -> set[Future[R]]:
        """Some of those that have ended; each is told of once. (It costs nothing for those that go on.)"""
        asked, done = set(jobs), set[Future[R]]()
        with suppress(queue.Empty):
            while not done:
                patience = None if deadline.at == float("inf") else max(0.0, deadline.remaining)
                done |= asked & {self.ended.get(timeout=patience)}
            while len(done) < TOGETHER:
                done |= asked & {self.ended.get_nowait()}
        for job in done:
            del self.turns[job]
        return done

    def _done(self, job: Callable[[], R], turn: _Turn) -> R:
        """What a job brings, whoever does it in the end."""
        for _ in range(_TRIES):
            worker = turn.worker = self.free.get()
            try:
                found = self._lease(worker, job)
            except LostError:
                worker.remote.end()
                self.deadline.check()
                worker = self.begin()
                continue
            finally:
                turn.worker = None
                self.free.put(worker)
            if found.error is not None:
                raise found.error
            value: R = found.value
            return value
        raise ResourceError(
            f"{_TRIES} workers were lost over one piece of work: they were ended from outside, by the system perhaps for their memory; "
            "use fewer workers, or give them more by --memory"
        )

    def _lease(self, worker: _Worker, job: Callable[[], Any]) -> Found:
        began, size = time.monotonic(), 0
        lost = False
        try:
            parcel = worker.sender.packed(partial(under, self.deadline, job))
            size += sum(map(len, parcel))
            answer = worker.remote.ask(parcel, self.deadline)
            size += sum(map(len, answer))
            found: Found = worker.sender.unpacked(answer)
            return found
        except LostError:
            lost = True
            raise
        finally:
            self.tally.add(time.monotonic() - began, size, lost)


@dataclass
class Crews:
    """Makes crews for searches, of remote processes that `start` makes; the first of them at once, before a search needs them."""

    count: int
    start: Callable[[], Remote]
    tally: Tally = field(init=False)
    _early: list[Remote] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tally = Tally(self.count)

    def begin(self) -> None:
        """Begins the first ones."""
        self._early = [self.start() for _ in range(self.count)]

    def end(self) -> None:
        """Those that no search has taken are ended."""
        while self._early:
            self._early.pop().end()

    @contextmanager
    def __call__(self, workers: int, deadline: Deadline, writing: bool) -> Iterator[Crew]:
        """An executor; `workers` is what a search of its own would have, and the count is ours."""
        catalogue, all_workers = Catalogue(), list[_Worker]()

        def begin() -> _Worker:
            remote = self._early.pop() if self._early else self.start()
            worker = _Worker(remote, catalogue)
            all_workers.append(worker)
            return worker

        free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for _ in range(self.count):
            free.put(begin())
        pool = ThreadPoolExecutor(self.count, "lease", deadline.tick_here)
        self.tally.began = time.monotonic()
        try:
            yield Crew(pool, self.count, free, begin, deadline, self.tally)
        finally:
            deadline.called_off.set()
            for worker in all_workers:
                worker.remote.end()
            with suppress(OutOfTimeError):
                pool.shutdown(wait=True, cancel_futures=True)
