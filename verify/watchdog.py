"""Ends a command that is late in a step which cannot be stopped: an import, or a long call of a library.

The search itself looks at its deadline between steps and says `timeout` with a reason. The watchdog is there for when a single
step takes longer than the limit may be overrun: it says `timeout` in the main thread's place and ends the process. Only commands
have one, since it ends the process. Python calls that never let go of the interpreter's lock hold it up as well.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import NoReturn

from verify.deadline import Deadline
from verify.errors import UNDECIDED, VerifyError
from verify.output import clean_up

GRACE = 0.7  # seconds past the deadline: what stops at its own next step has stopped by then
REASON = "time ran out in a step that could not be stopped"


class Watchdog:
    """Within it, the process ends soon after the deadline; `late` says the verdict and gives the exit code.

    Either the main thread speaks or the watchdog does: whoever comes first. The main thread calls `claim` before it does; an
    error that leaves the context has claimed as well.
    """

    def __init__(self, deadline: Deadline, late: Callable[[], int]) -> None:
        self._deadline, self._late = deadline, late
        self._claimed, self._speaking = threading.Event(), threading.Lock()

    def __enter__(self) -> Watchdog:
        if self._deadline.at < float("inf"):
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.claim()

    def claim(self) -> None:
        """From now on the watchdog keeps quiet. Does not return where it has begun to speak: then the process is about to end."""
        with self._speaking:
            self._claimed.set()

    def _watch(self) -> None:
        while (left := self._deadline.remaining + GRACE) > 0:
            if self._claimed.wait(min(left, threading.TIMEOUT_MAX)):
                return
        with self._speaking:
            if self._claimed.is_set():
                return
            code = UNDECIDED
            try:
                code = self._late()
            except VerifyError as error:  # stdout does not take it
                code = error.exit_code
                sys.stderr.write(f"verify: {error}\n")
            finally:
                leave(code)


def end(code: int) -> NoReturn:
    """Ends the process: at once where threads of a search that is over are still in a long call."""
    others = (thread for thread in threading.enumerate() if thread is not threading.main_thread())
    if any(not thread.daemon for thread in others):
        leave(code)
    sys.exit(code)


def leave(code: int) -> None:
    """Ends the process with everything said, and without unwinding; files in the making are removed."""
    clean_up()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
