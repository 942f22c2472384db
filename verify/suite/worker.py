"""What runs in a process of its own: requests in, answers out, over two pipes.

An error of verification is an answer too, so a process ends only for what it cannot catch: a crash, or the kernel that kills it
for its memory.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from verify.errors import UNDECIDED, InputError, VerifyError, is_out_of_memory
from verify.memory import budget
from verify.output import clean_up
from verify.request import Request
from verify.startup import import_torch
from verify.watchdog import REASON, Watchdog

if TYPE_CHECKING:
    from verify.problem import Witness


@dataclass(frozen=True)
class Answer:
    """A verdict (or `error`) and why, with the counterexample's text for `sat`."""

    result: str
    reason: str
    witness: str | None = None
    healthy: bool = True  # whether the process can be trusted with another one
    vacuous: bool = False  # whether the property holds as it is written
    notes: tuple[
        str, ...
    ] = ()  # how it was read where it is not as the standard has it, and whose code took part


Decide = Callable[[Request], Answer]


def decider(jobs: int, device: str, memory: int | None) -> Decide:
    """What decides in a worker, made there; imports everything heavy. `jobs` workers share the machine's cores and the memory."""
    import_torch((memory or budget().bytes) // jobs)
    import torch

    import verify.run  # noqa: F401
    from verify.settings import keep_memory

    keep_memory(memory, device)
    torch.set_num_threads(max(1, torch.get_num_threads() // jobs))
    return decide


def decide(request: Request) -> Answer:
    """Decides one instance; never raises."""
    try:
        return _verdict(request)
    except InputError as error:
        return Answer("error", str(error))
    except VerifyError as error:
        return Answer("error", str(error), healthy=False)
    except Exception as error:
        if is_out_of_memory(error):
            return Answer("error", "out of memory", healthy=False)
        traceback.print_exc()
        return Answer("error", f"internal error: {type(error).__name__}: {error}", healthy=False)


def _verdict(request: Request) -> Answer:
    from verify.run import run

    found = run(request)
    witness = None if found.witness is None else _text(found.witness)
    notes = (*found.notes, *(f"{one}, which is not part of verify, took part" for one in found.extensions))
    return Answer(found.verdict, found.reason, witness, vacuous=found.vacuous, notes=notes)


def _text(witness: Witness) -> str:
    """VNN-COMP's form: its own for VNN-LIB 1.0, the standard's for 2.0."""
    from verify.formats.witness import format_assignment, format_competition

    if witness.of_query:
        return format_assignment(witness.variables, witness.types)
    return format_competition(witness.inputs, witness.outputs)


def _end_with_parent() -> None:
    """Ends this process once the one that started it is gone, however that went."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        clean_up()
        os._exit(1)


def serve(tasks: Connection, answers: Connection, deciders: Callable[[], Decide]) -> None:
    """Sends None once ready, then an answer for each request, until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ending a suite is the runner's business
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.dup2(2, 1)  # stdout is for results
    decide = deciders()

    def too_late() -> int:
        answers.send(Answer("timeout", REASON, healthy=False))
        return UNDECIDED

    try:
        answers.send(None)
        while True:
            request: Request = tasks.recv()
            with Watchdog(request.deadline(time.monotonic()), too_late):
                answer = decide(request)
            answers.send(answer)
    except (EOFError, BrokenPipeError):
        return
