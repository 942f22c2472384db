"""A certificate that is checked on a Ray cluster: every processor proves a share of one file's blocks, from the bytes that the driver has read.

A share that is lost is proved again by another process: nothing hangs on who proves it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.checker.checking import FAILURES, Provers, Share, prove_share
from verify.checker.container import parsed
from verify.checker.multipliers import Arithmetic
from verify.checker.processes import Ended
from verify.checker.proof import Summary
from verify.checker.question import Question
from verify.errors import InputError, ResourceError
from verify.resume import code
from verify.workers.cluster import connected

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
    ray: Any, count: int, certificate: Path, question: Question, arithmetic: Arithmetic
) -> Iterator[Summary]:
    """What all shares prove, as they come. Raises what one of them fails with."""
    data, asked = ray.put(np.fromfile(certificate, np.uint8)), ray.put((question, arithmetic))
    share = ray.remote(num_cpus=1, max_retries=_RETRIES)(_share)
    jobs = [share.remote(code(), data, asked, Share(number, count)) for number in range(count)]
    try:
        while jobs:
            (ready, *_), jobs = ray.wait(jobs)
            found = ray.get(ready)
            if isinstance(found, Exception):
                raise found
            yield found
    except ray.exceptions.RayError:
        raise Ended(f"{1 + _RETRIES} processes of the check were ended; memory may have run out") from None
    finally:
        for job in jobs:
            with suppress(Exception):  # of a cluster that is gone itself
                ray.cancel(job, force=True)


def _share(
    theirs: str, data: NDArray[np.uint8], asked: tuple[Question, Arithmetic], share: Share
) -> Summary | Exception:
    """What one share proves, or why it proves nothing, on some machine of the cluster. theirs: the driver's code."""
    if theirs != code():
        return ResourceError(
            "--ray: a machine of the cluster has another version of verify; install the same one on all of them"
        )
    try:
        return prove_share(parsed(data), *asked, share)
    except FAILURES as problem:
        return problem
