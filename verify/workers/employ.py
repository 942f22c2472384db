"""Who works for a run, by what is asked for: None where the threads of this process do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch

from verify.request import Request
from verify.workers.crew import Crews
from verify.workers.local import LocalProcess


@contextmanager
def employed(request: Request) -> Iterator[Crews | None]:
    """Workers, begun at once; they end with it. Raises InputError and ResourceError."""
    if request.ray is not None:
        from verify.workers.cluster import crews_of_cluster

        with crews_of_cluster(request.ray, request.workers, request.memory) as crews:
            yield crews
        return
    if request.workers is None:
        yield None
        return
    memory = None if request.memory is None else request.memory // (request.workers + 1)
    threads = max(1, torch.get_num_threads() // request.workers)
    crews = Crews(request.workers, partial(LocalProcess, threads, memory))
    try:
        crews.begin()
        yield crews
    finally:
        crews.end()
