"""Keeps the workers: each decides a few instances, and whatever happens to one, the suite goes on.

A single thread waits for all of them at once, on their pipes and on their ends. A worker that says nothing for the instance's
limit and a grace is killed, one that dies is replaced, and one that has decided its share makes place for a fresh one, which
gives its memory back. Workers are spawned, not forked: nothing of one instance reaches another but what a worker keeps.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Generator, Iterable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import wait

from verify.suite.instances import Instance
from verify.suite.settings import START_SECONDS, Ended, Settings
from verify.suite.worker import Answer, decider, serve


class _Slot:
    """A place for a worker, and the instance that the worker is at."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._deciders = settings.deciders or partial(
            decider, settings.jobs or 1, settings.device, settings.memory
        )
        self._process: multiprocessing.process.BaseProcess | None = None
        self._instance: Instance | None = None
        self._ready = False
        self._served = 0
        self._since = self._start_seconds = 0.0

    @property
    def busy(self) -> bool:
        return self._instance is not None

    @property
    def waited_for(self) -> list[object]:
        """What speaks up when something has happened to the worker."""
        assert self._process is not None
        return [self._answers, self._process.sentinel]

    @property
    def remaining(self) -> float:
        """Seconds until the worker is late."""
        assert self._instance is not None
        limit = self._instance.timeout + self._settings.grace if self._ready else START_SECONDS
        return self._since + limit - time.monotonic()

    def take(self, instance: Instance) -> None:
        """Begins an instance, in a fresh process where there is none."""
        self._instance, self._since, self._start_seconds = instance, time.monotonic(), 0.0
        if self._process is not None and not self._process.is_alive():
            self.stop()
        if self._process is None:
            self._start()
        else:
            self._send()

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        tasks, self._tasks = spawn.Pipe(duplex=False)  # both ways would be a socket
        self._answers, answers = spawn.Pipe(duplex=False)
        self._ready, self._served = False, 0
        self._process = spawn.Process(target=serve, args=(tasks, answers, self._deciders), daemon=True)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until it ignores Ctrl-C
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        tasks.close()
        answers.close()

    def _send(self) -> None:
        assert self._instance is not None
        self._since = time.monotonic()
        with suppress(OSError):  # a worker that has just died is found out by `poll`
            self._tasks.send(self._settings.request(self._instance))

    def poll(self) -> Ended | None:
        """The answer, if there is one by now; a worker that is dead or late has given one by that."""
        assert self._process is not None
        try:
            if self._answers.poll():
                return self._heard(self._answers.recv())
        except (EOFError, OSError):
            self._process.join(1.0)  # a closed pipe comes a moment before the end
        if not self._process.is_alive():
            return self._ended(Answer("error", _obituary(self._process.exitcode), healthy=False))
        return self._late() if self.remaining <= 0 else None

    def _late(self) -> Ended:
        if not self._ready:
            return self._ended(Answer("error", "the worker did not start", healthy=False))
        reason = f"no answer {self._settings.grace:g} s after the limit: the worker was killed"
        return self._ended(Answer("timeout", reason, healthy=False))

    def _heard(self, message: Answer | None) -> Ended | None:
        if message is not None:
            return self._ended(message)
        self._ready, self._start_seconds = True, time.monotonic() - self._since
        self._send()
        return None

    def _ended(self, answer: Answer) -> Ended:
        assert self._instance is not None
        ended = Ended(self._instance, answer, time.monotonic() - self._since, self._start_seconds)
        self._instance = None
        self._served += 1
        if not answer.healthy or self._served >= self._settings.restart:
            self.stop()
        return ended

    def stop(self) -> None:
        """Ends the worker, at once."""
        if self._process is not None:
            self._tasks.close()
            self._answers.close()
            self._process.kill()
            self._process.join()
            self._process.close()
            self._process = None


def _obituary(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None or code >= 0:
        return f"the worker ended with code {code}"
    hint = "; memory may have run out" if code == -signal.SIGKILL else ""
    return f"the worker was ended by {signal.Signals(-code).name}{hint}"


def run(instances: Iterable[Instance], settings: Settings) -> Generator[Ended, None, None]:
    """Decides all instances and yields their answers as they come. Closing the iterator ends all workers."""
    if settings.ray is not None:
        from verify.suite import cluster

        yield from cluster.run(instances, settings)
        return
    todo, slots = deque(instances), [_Slot(settings) for _ in range(settings.jobs or 1)]
    try:
        while todo or any(slot.busy for slot in slots):
            for slot in slots:
                while todo and not slot.busy:
                    slot.take(todo.popleft())
            busy = [slot for slot in slots if slot.busy]
            if busy:
                patience = max(0.0, min(slot.remaining for slot in busy))
                wait([one for slot in busy for one in slot.waited_for], patience)  # type: ignore[misc]
            for slot in busy:
                if (ended := slot.poll()) is not None:
                    yield ended
    finally:
        for slot in slots:
            slot.stop()
