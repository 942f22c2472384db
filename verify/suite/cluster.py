"""Suites on a Ray cluster: each instance is a piece of work with its own limits, for a worker that has its processors to itself.

A thread stands for each worker. One that is late is killed, one that is lost costs a second try (a machine may have been taken away), and
one that has decided its share makes place for a fresh one, as on one machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any

from verify.deadline import Deadline, OutOfTimeError
from verify.errors import InputError
from verify.request import Request
from verify.suite.instances import Instance
from verify.suite.settings import START_SECONDS, Ended, Settings
from verify.suite.worker import Answer, decide
from verify.workers.cluster import RayWorker, connected
from verify.workers.crew import Remote
from verify.workers.parcels import Catalogue, Sender
from verify.workers.wire import LostError
from verify.workers.worker import Found

_TRIES = 2  # workers that an instance may cost


def run(instances: Iterable[Instance], settings: Settings) -> Generator[Ended, None, None]:
    """Decides all instances on the cluster of the settings. Raises InputError, and ResourceError."""
    assert settings.ray is not None
    each = settings.workers or 1
    here = None if settings.jobs is None else settings.jobs * each
    with connected(settings.ray, here) as (ray, there):
        count = settings.jobs or there // each
        if not 0 < count * each <= there:
            raise InputError(
                f"--ray {settings.ray}: the cluster has {there} processors free, for {max(count, 1)} instances on {each} each; ask for "
                "fewer by --jobs or --workers"
            )
        memory = None if settings.memory is None else settings.memory // count
        start = partial(RayWorker, ray, memory, each)
        yield from decided(instances, replace(settings, jobs=count), count, start)


def decided(
    instances: Iterable[Instance], settings: Settings, count: int, start: Callable[[], Remote]
) -> Generator[Ended, None, None]:
    """Decides all instances by so many workers and yields their answers as they come. Closing the iterator ends all workers."""
    over, places = Event(), SimpleQueue[_Place]()
    every = [_Place(settings, start, over) for _ in range(count)]
    for place in every:
        places.put(place)

    def work(instance: Instance) -> Ended:
        place = places.get()
        try:
            return place.decided(instance)
        finally:
            places.put(place)

    pool = ThreadPoolExecutor(count, "instance")
    try:
        for job in as_completed([pool.submit(work, instance) for instance in instances]):
            yield job.result()
    finally:
        over.set()
        pool.shutdown(wait=False, cancel_futures=True)
        for place in every:
            place.end()
        pool.shutdown()


class _Place:
    """A place for a worker."""

    def __init__(self, settings: Settings, start: Callable[[], Remote], over: Event) -> None:
        self._settings, self._start, self._over = settings, start, over
        self._decide = decide if settings.deciders is None else settings.deciders()
        self._worker: Remote | None = None
        self._sender = Sender(Catalogue())
        self._served = 0

    def decided(self, instance: Instance) -> Ended:
        """The answer for an instance, whatever becomes of workers. Raises OutOfTimeError where the suite is over."""
        began = time.monotonic()
        for _ in range(_TRIES):
            try:
                return self._tried(instance)
            except LostError:
                self.end()
                if self._over.is_set():
                    raise OutOfTimeError from None
        reason = f"{_TRIES} workers were lost over it; memory may have run out"
        return Ended(instance, Answer("error", reason, healthy=False), time.monotonic() - began)

    def _tried(self, instance: Instance) -> Ended:
        began, fresh = time.monotonic(), self._worker is None
        try:
            worker = self._begun()
        except OutOfTimeError:
            self.end()
            return Ended(instance, Answer("error", "the worker did not start", healthy=False), 0.0)
        sent = time.monotonic()
        limit = Deadline(sent + instance.timeout + self._settings.grace, self._over)
        job = partial(self._decide, everywhere(self._settings.request(instance)))
        try:
            found: Found = self._sender.unpacked(worker.ask(self._sender.packed(job), limit))
            answer = found.value if found.error is None else Answer("error", str(found.error), healthy=False)
        except OutOfTimeError:
            reason = f"no answer {self._settings.grace:g} s after the limit: the worker was killed"
            answer = Answer("timeout", reason, healthy=False)
        self._served += 1
        if not answer.healthy or self._served >= self._settings.restart:
            self.end()
        return Ended(instance, answer, time.monotonic() - sent, sent - began if fresh else 0.0)

    def _begun(self) -> Remote:
        """The worker, once it is ready. Raises OutOfTimeError where it does not get so, and LostError."""
        if self._worker is None:
            self._worker, self._sender, self._served = self._start(), Sender(Catalogue()), 0
            self._worker.meet(Deadline(time.monotonic() + START_SECONDS, self._over))
        return self._worker

    def end(self) -> None:
        """It is needed no longer."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.end()


def everywhere(request: Request) -> Request:
    """The request with paths that do not hang on where a process works."""
    model: Any = request.model
    if isinstance(model, dict):
        model = {name: Path(path).absolute() for name, path in model.items()}
    elif isinstance(model, Path):
        model = model.absolute()
    kept, proof = (
        None if path is None else path.absolute() for path in (request.checkpoint, request.certificate)
    )
    assert isinstance(request.specification, Path)
    paths: dict[str, Any] = {"specification": request.specification.absolute(), "checkpoint": kept}
    return replace(request, model=model, certificate=proof, **paths)
