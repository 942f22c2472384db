"""Certificates that are proved on a Ray cluster: a finished one by all processors, each a share of the bytes that the driver has read, and
one in the making by processes that take idle moments of the workers' machines.

A share that is lost is proved again by another process: nothing hangs on who proves it.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from verify.checker.checking import Provers, Share
from verify.checker.multipliers import Arithmetic
from verify.checker.processes import Ended
from verify.checker.proof import Summary
from verify.checker.query_formula import check_time
from verify.checker.question import Question
from verify.errors import InputError
from verify.own_code import code
from verify.proof.provers import Asked, Prover
from verify.workers.cluster import PATIENCE, SILENCE, connected
from verify.workers.proving import AHEAD, CALLS, Seat, called, following, of_bytes

_RETRIES = 3  # processes that a share may cost


@contextmanager
def provers_of_cluster(address: str, jobs: int | None) -> Iterator[Provers]:
    """Who proves shares: all processors of a cluster, or so many. Raises InputError, and ResourceError where a machine has other code."""
    with connected(address, jobs) as (ray, there):
        count = jobs or there
        if not 0 < count <= there:
            raise InputError(
                f"--ray {address}: the cluster has {there} processors free for {count} jobs; ask for fewer by --jobs"
            )
        yield partial(_proved, ray, count)


def _proved(
    ray: Any, count: int, certificate: Path, question: Question, arithmetic: Arithmetic, until: float
) -> Iterator[Summary]:
    """What all shares prove, as they come, until some time (of `time.monotonic`). Raises what one of them fails with."""
    data, asked = ray.put(np.fromfile(certificate, np.uint8)), ray.put(question)
    share = ray.remote(num_cpus=1, max_retries=_RETRIES)(called)
    given = code(), of_bytes, None, data, asked, arithmetic
    jobs = [share.remote(*given, Share(number, count)) for number in range(count)]
    try:
        while jobs:
            check_time(until)
            ready, jobs = ray.wait(jobs, timeout=PATIENCE)
            for found in ray.get(ready):
                if isinstance(found, Exception):
                    raise found
                yield found
    except ray.exceptions.RayError:
        raise Ended(f"{1 + _RETRIES} processes of the check were ended; memory may have run out") from None
    finally:
        for job in jobs:
            with suppress(Exception):  # of a cluster that is gone itself
                ray.cancel(job, force=True)


@dataclass(frozen=True)
class ClusterCheckers:
    """Who follows a search, and shares what is left at its end. nodes: where its workers are, each as often as it has some."""

    ray: Any
    count: int
    nodes: Sequence[str]

    @property
    def provers(self) -> Provers:
        """Those who prove a finished certificate."""
        return partial(_proved, self.ray, self.count)

    def following(self, asked: Asked, shares: Sequence[Share]) -> Iterator[Prover]:
        """Beside workers, to which they leave the precedence: they take no processor of the cluster's count."""
        question = self.ray.put(asked.question())
        for share in shares:
            place = {"num_cpus": 0, "scheduling_strategy": self._beside(share.number)}
            given = following, question, asked.arithmetic, asked.rows, share
            yield ClusterProver(self.ray, place, asked.until, given)

    def _beside(self, number: int) -> Any:
        """Where some worker is; anywhere as long as none has been met."""
        if not self.nodes:
            return "SPREAD"
        on = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        return on(self.nodes[number % len(self.nodes)], soft=True)

    def proving(self, asked: Asked, certificate: Path, shares: Sequence[Share]) -> Iterator[Prover]:
        """On processors that workers had."""
        data, question = self.ray.put(np.fromfile(certificate, np.uint8)), self.ray.put(asked.question())
        for share in shares:
            given = of_bytes, data, question, asked.arithmetic, share
            yield ClusterProver(self.ray, {"num_cpus": 1}, asked.until, given)


class ClusterProver:
    """A function of the checker at work in an actor. until: the time (of `time.monotonic`) at which its answer is given up."""

    def __init__(self, ray: Any, place: dict[str, Any], until: float, given: Sequence[object]) -> None:
        self._ray, self._until = ray, until
        kind = ray.remote(max_restarts=0, max_task_retries=0, max_concurrency=CALLS, **place)
        self._actor = kind(Seat).remote()
        self._found = self._actor.run.remote(code(), *given)
        self._sent, self._untaken = itertools.count(), deque[Any]()

    def send(self, message: object) -> None:
        """It takes this up next; waits until what was sent some time before was taken. Raises Ended and NotProved."""
        self._untaken.append(self._actor.hear.remote(next(self._sent), message))
        if len(self._untaken) > AHEAD:
            self._came(self._untaken.popleft())

    def answer(self) -> Summary:
        """What it proves. Raises what the function raises, Ended, and NotProved past the time."""
        found = self._came(self._found)
        if isinstance(found, Exception):
            raise found
        summary: Summary = found
        return summary

    def _came(self, call: Any) -> Any:
        """What a call gives, if it comes before the function's end."""
        try:
            while not (ready := self._ray.wait([*{call, self._found}], timeout=PATIENCE)[0]):
                check_time(self._until)
                self._ray.get(self._actor.alive.remote(), timeout=SILENCE)
            found = self._ray.get(ready[0])
        except self._ray.exceptions.RayError:
            raise Ended("a process of the check was ended; memory may have run out") from None
        if ready[0] != call:
            raise Ended(f"a process of the check has come to its end early ({found})")
        return found

    def kill(self) -> None:
        """Ends it, whatever it is at."""
        with suppress(Exception):  # of a cluster that is gone itself
            self._ray.kill(self._actor, no_restart=True)

    end = kill
