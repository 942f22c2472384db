"""Who works for a run, by what is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from verify.errors import InputError
from verify.request import Request
from verify.workers.crew import Crews
from verify.workers.local import LocalProcess

if TYPE_CHECKING:
    from verify.proof.provers import Checkers


@dataclass(frozen=True)
class Staff:
    """crews: who search; None where the threads of this process do. checkers: makes those who check a certificate, where they are."""

    crews: Crews | None
    checkers: Callable[[], Checkers]


@contextmanager
def employed(request: Request) -> Iterator[Staff]:
    """Workers, begun at once; they end with it. Raises InputError and ResourceError."""
    if request.ray is not None:
        with _of_cluster(request.ray, request.workers, request.memory) as staff:
            yield staff
        return
    threads = torch.get_num_threads()
    if request.workers is None:
        yield Staff(None, partial(_here, threads))
        return
    memory = None if request.memory is None else request.memory // (request.workers + 1)
    start = partial(LocalProcess, max(1, threads // request.workers), memory)
    with _begun(Crews(request.workers, start)) as crews:
        yield Staff(crews, partial(_here, max(threads, request.workers)))


@contextmanager
def _of_cluster(address: str, workers: int | None, memory: int | None) -> Iterator[Staff]:
    """Those of a cluster: as many as it has processors, or so many of them. Raises InputError and ResourceError."""
    from verify.workers.checkers import ClusterCheckers
    from verify.workers.cluster import RayWorker, connected

    with connected(address, workers) as (ray, there):
        count = workers or there
        if not 0 < count <= there:
            raise InputError(
                f"--ray {address}: the cluster has {there} processors free for {count} workers; ask for fewer by --workers"
            )
        share, nodes = None if memory is None else memory // (count + 1), list[str]()
        with _begun(Crews(count, partial(RayWorker, ray, share, nodes=nodes))) as crews:
            yield Staff(crews, partial(ClusterCheckers, ray, count, nodes))


@contextmanager
def _begun(crews: Crews) -> Iterator[Crews]:
    """Workers at once."""
    try:
        crews.begin()
        yield crews
    finally:
        crews.end()


def _here(count: int) -> Checkers:
    """So many processes of this machine."""
    from verify.proof.provers import Here

    return Here(count)
