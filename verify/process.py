"""The command's own process: how signals end it, and what becomes of text that stdout and stderr do not take.

For the command alone: in a program that uses the Python API, signals and streams are that program's own.
"""

from __future__ import annotations

import io
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any, TextIO

from verify.errors import UNDECIDED, UnwrittenError
from verify.output import clean_up

_PATIENCE = 10.0  # seconds that unwinding may take
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Signalled(SystemExit):
    """The process was told to end, by a signal other than that of Ctrl-C (which is a KeyboardInterrupt)."""

    def __init__(self, number: int) -> None:
        super().__init__(ending_code(number))
        self.number, self.name = number, signal.Signals(number).name


def ending_code(number: int) -> int:
    """The exit code of a process that this signal ends."""
    return UNDECIDED if number == signal.SIGINT else 128 + number


@contextmanager
def unwound_by_signals() -> Iterator[None]:
    """Within it, the first signal to end is an exception in the main thread. Signals that are ignored (nohup) stay so.

    A second signal, or unwinding that takes long, ends the process at once, without files in the making all the same.
    """
    wanted = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    wanted = [number for number in wanted if signal.getsignal(number) is not signal.SIG_IGN]
    if threading.current_thread() is not threading.main_thread():
        wanted = []
    told: list[int] = []

    def unwind(number: int, _frame: FrameType | None) -> None:
        told.append(number)
        if len(told) == 1:
            raise _exception(number)

    with _insisting(wanted), ExitStack() as stack:
        for number in wanted:
            stack.callback(signal.signal, number, signal.signal(number, unwind))
        try:
            yield
        except Exception as error:  # what a library makes of it
            raise (_exception(told[0]) if told else error) from None


def _exception(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else Signalled(number)


@contextmanager
def _insisting(wanted: Sequence[int]) -> Iterator[None]:
    """A thread that ends the process at the second signal, or `_PATIENCE` after the first: the main one may be stuck."""
    if not wanted:
        yield
        return
    heard, hearing = os.pipe()
    os.set_blocking(hearing, False)
    before = signal.set_wakeup_fd(hearing, warn_on_full_buffer=False)
    thread = threading.Thread(target=_insist, args=(heard, wanted), name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(hearing)
        thread.join()
        os.close(heard)


def _insist(heard: int, wanted: Sequence[int]) -> None:
    first, limit = 0, None
    while select.select([heard], [], [], limit and max(0.0, limit - time.monotonic()))[0]:
        numbers = os.read(heard, 1)
        if not numbers:
            return
        if numbers[0] in wanted:
            if first:
                break
            first, limit = numbers[0], time.monotonic() + _PATIENCE
    clean_up()
    os._exit(ending_code(first))


# -- streams


class _Stdout(io.FileIO):
    """stdout: text that it does not take is an error of its own."""

    _broken = False

    def write(self, data: Any, /) -> int:
        """Some bytes, or UnwrittenError; the rest goes nowhere then."""
        if self._broken:
            return len(data)
        try:
            while (count := super().write(data)) is None:
                select.select([], [self], [])
        except OSError as error:
            self._broken = True
            raise UnwrittenError(f"stdout: cannot be written ({error.strerror or error})") from None
        return count


class _Stderr(io.FileIO):
    """stderr: what it does not take is not worth a verdict."""

    def write(self, data: Any, /) -> int:
        """Some bytes, or nothing."""
        try:
            return super().write(data) or 0
        except OSError:
            return len(data)


def answer(text: str) -> None:
    """Text on stdout, or in an UnwrittenError, which goes to stderr."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except UnwrittenError as error:
        raise UnwrittenError(f"{error}; what belongs there:\n{text}") from None


@contextmanager
def careful_streams() -> Iterator[None]:
    """Within it, nothing that stdout does not take is lost in silence, and what stderr does not take does no harm."""
    for number in range(3):  # or the next file that is opened takes the place of a closed stream
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY), True)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _over(sys.stdout, 1, _Stdout), _over(sys.stderr, 2, _Stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _over(stream: TextIO | None, number: int, kind: type[io.FileIO]) -> TextIO:
    """The same stream by a file of this kind; one that somebody has put there (a test, say) stays."""
    if stream is not None:
        try:
            if stream.fileno() != number:
                return stream
        except OSError:  # io.UnsupportedOperation
            return stream
    encoding, errors = ("utf-8", "strict") if stream is None else (stream.encoding, stream.errors)
    if errors == "strict":  # names of files may be no text
        errors = "surrogateescape"
    file = io.BufferedWriter(kind(number, "wb", closefd=False))
    return io.TextIOWrapper(file, encoding, errors, line_buffering=True)
