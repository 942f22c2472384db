"""Workers on a Ray cluster, or on one of this machine that is started and ended with a run. Ray is an extra: it is imported here alone.

State never lives in an actor: one that is lost takes its lease with it, and another takes its place. There is no dashboard and no
usage statistics, and a cluster of this machine's own listens on the loopback alone.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.deadline import Deadline, OutOfTimeError
from verify.errors import InputError, ResourceError
from verify.own_code import code
from verify.workers.parcels import Parcel
from verify.workers.wire import LostError

SILENCE = 60.0  # seconds after which an actor that does not say that it lives counts as lost
PATIENCE = 2.0  # seconds between two looks at a job
_REACH = 5.0  # seconds for a cluster to answer
_LOCAL = "127.0.0.1"
_EXTRA = 'pip install "nn-verify[distributed]"'


@contextmanager
def connected(address: str, processors: int | None) -> Iterator[tuple[Any, int]]:
    """Ray, as a driver of a cluster, and how many processors there are; of one that is started here so many. Raises InputError."""
    ray = _ray(address)
    with _connected(ray, address, processors):
        yield ray, int(ray.cluster_resources().get("CPU", 0))


def _ray(address: str) -> Any:
    """The library, set up before it is imported. Raises InputError where it is not installed."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if (
        address == "local"
    ):  # as Ray has it on systems with firewalls that ask: all of it listens on the loopback
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        import ray
    except ImportError as error:
        raise InputError(f"--ray: Ray is not installed here ({error}); {_EXTRA}") from error
    return ray


@contextmanager
def _connected(ray: Any, address: str, processors: int | None) -> Iterator[None]:
    """Within it, this process is a cluster's driver. Signals are left to whoever had them."""
    if ray.is_initialized():  # by the program that calls us
        yield
        return
    _check_answers(address)
    logging.getLogger("ray").setLevel(logging.ERROR)
    ours: dict[str, Any] = {"address": address}
    if address == "local":
        ours |= {"num_cpus": processors, "include_dashboard": False}
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**ours, configure_logging=False, log_to_driver=False, namespace="verify")
    except (ConnectionError, ValueError, RuntimeError, TimeoutError, OSError) as error:
        raise InputError(f"--ray {address}: no cluster is reached ({error})") from error
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
    try:
        if address == "local" and ray.util.get_node_ip_address() != _LOCAL:
            raise InputError(
                "--ray local: this program imported Ray before, so the cluster would listen on the network; start one with ray.init, or "
                "import Ray later"
            )
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """InputError where nothing answers at HOST:PORT: Ray itself goes on asking for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host:
        return
    try:
        socket.create_connection((host, int(port)), _REACH).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--ray {address}: no cluster is reached ({error}); give the address that ray start --head has told"
        ) from error


def _array(piece: Any) -> NDArray[np.uint8]:
    """Bytes as Ray takes them fastest."""
    return np.frombuffer(piece, np.uint8) if len(piece) else np.zeros(0, np.uint8)


class _Actor:
    """What runs on the cluster: a bench, and signs of life beside it."""

    def __init__(self, threads: int, memory: int | None) -> None:
        from verify.workers.worker import Bench

        self._bench = Bench(threads, memory)

    def place(self) -> tuple[str, str]:
        """Which code it has, and the node that it is on."""
        import ray

        return code(), ray.get_runtime_context().get_node_id()

    def done(self, parcel: list[Any]) -> list[Any]:
        """What a job brought. (Memory of the object store may not be written to.)"""
        from verify.bab.steps import RECALLED

        RECALLED.clear()
        found = self._bench.done([bytearray(piece) for piece in parcel])
        return [_array(piece) for piece in found]

    def recall(self) -> None:
        """The answer is awaited soon. (What comes before its job is in vain.)"""
        from verify.bab.steps import RECALLED

        RECALLED.set()

    def alive(self) -> bool:
        """It lives."""
        return True


class RayWorker:
    """An actor with processors of its own. nodes: where its node is noted once it is met."""

    def __init__(
        self, ray: Any, memory: int | None, processors: int = 1, nodes: list[str] | None = None
    ) -> None:
        self._ray, self._nodes = ray, [] if nodes is None else nodes
        kind = ray.remote(num_cpus=processors, max_restarts=0, max_task_retries=0, max_concurrency=3)(_Actor)
        self.actor, self._met = kind.remote(processors, memory), False

    def ask(self, parcel: Parcel, deadline: Deadline) -> list[bytearray]:
        self.meet(deadline)
        with self._lost(deadline):
            job = self.actor.done.remote([_array(piece) for piece in parcel])
            answer = self._answer(job, deadline)
        return [bytearray(piece) for piece in answer]

    @contextmanager
    def _lost(self, deadline: Deadline) -> Iterator[None]:
        """Within it, an actor that is gone is a LostError, or no error of its own where it is needed no longer."""
        try:
            yield
        except self._ray.exceptions.RayError as error:
            if deadline.called_off.is_set():
                raise OutOfTimeError from None
            raise LostError(str(error)) from None

    def meet(self, deadline: Deadline) -> None:
        if self._met:
            return
        with self._lost(deadline):
            theirs, node = self._answer(self.actor.place.remote(), deadline)
        if theirs != code():
            raise ResourceError(
                "--ray: a machine of the cluster has another version of verify; install the same one on all of them"
            )
        self._nodes.append(node)
        self._met = True

    def _answer(self, job: Any, deadline: Deadline) -> Any:
        """What a call gives. Raises RayError where the actor is gone, or silent."""
        while True:
            ready, _ = self._ray.wait([job], timeout=PATIENCE)
            if ready:
                return self._ray.get(job)
            deadline.check()
            self._ray.get(self.actor.alive.remote(), timeout=SILENCE)

    def recall(self) -> None:
        with suppress(Exception):  # of an actor that is lost: whoever waits for its answer learns of it
            self.actor.recall.remote()

    def end(self) -> None:
        with suppress(Exception):  # of a cluster that is gone itself
            self._ray.kill(self.actor, no_restart=True)
