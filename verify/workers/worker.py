"""What a worker does: jobs in, what was found (or what went wrong) out. It begins knowing nothing, and keeps what it is sent."""

from __future__ import annotations

import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from verify.deadline import Deadline, OutOfTimeError
from verify.errors import InternalError, VerifyError, is_out_of_memory
from verify.workers.wire import LostError, Wire

_PULSE = 1.0  # seconds between two signs of life


@dataclass(frozen=True)
class Found:
    """What a job brought: a value, or what it raised."""

    value: Any = None
    error: BaseException | None = None


def under(deadline: Deadline, job: Callable[[], Any]) -> Any:
    """What a job brings, in the time that is left here, too."""
    with deadline.ticking():
        return job()


class Bench:
    """Where jobs are done, one at a time. threads: of torch; memory: bytes that this process is kept to."""

    def __init__(self, threads: int, memory: int | None) -> None:
        import torch

        from verify.memory import choose, enforce
        from verify.workers.parcels import Receiver

        torch.set_num_threads(threads)
        choose(memory)
        if memory is not None:
            enforce()
        self._receiver = Receiver()

    def done(self, parcel: list[bytearray]) -> list[Any]:
        """What a job brought, packed."""
        try:
            found = Found(self._receiver.unpacked(parcel)())
        except (VerifyError, OutOfTimeError) as error:
            found = Found(error=error)
        except Exception as error:
            found = Found(error=_told(error))
        return self._receiver.packed(found)


def _told(error: Exception) -> BaseException:
    """An error that can travel."""
    if is_out_of_memory(error):
        return MemoryError(str(error))
    return InternalError("".join(traceback.format_exception(error)))


def serve(descriptor: int, threads: int, memory: int | None) -> None:
    """Serves over a socket until its other end is gone, however that went."""
    for name in ("SIGINT", "SIGHUP"):  # ending a search is its owner's business
        with suppress(ValueError, AttributeError):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    wire = Wire(socket.socket(fileno=descriptor), None)
    threading.Thread(target=_pulse, args=(wire,), daemon=True).start()
    bench, parcels = Bench(threads, memory), queue.SimpleQueue[list[bytearray]]()
    threading.Thread(target=_hear, args=(wire, parcels), daemon=True).start()
    try:
        while True:
            wire.send(bench.done(parcels.get()))
    except LostError:
        leave()


def _hear(wire: Wire, parcels: queue.SimpleQueue[list[bytearray]]) -> None:
    """What the owner sends, while a job is done, too; and the end once it is gone."""
    from verify.bab.steps import RECALLED

    try:
        while True:
            parcel = wire.receive(RECALLED.set)
            RECALLED.clear()  # here, so that what is said of this job comes after it
            parcels.put(parcel)
    except LostError:
        leave()


def _pulse(wire: Wire) -> None:
    """Signs of life, and the end once nobody hears them."""
    try:
        while True:
            wire.alive()
            time.sleep(_PULSE)
    except LostError:
        leave()


def leave() -> None:
    """Ends the process."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(0)
