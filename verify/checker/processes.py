"""Processes that prove: one call each of a function of the checker, with pipes between.

They are started as fresh interpreters, which neither run the program's own beginning again (as multiprocessing's do) nor take over
threads; they end with their call, and with the process that started them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from verify.checker.errors import NotProved

# Linear algebra of several processes, with several threads each, would stand in its own way.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from verify.checker.processes import serve; serve(json.loads(sys.argv[2]))"
SUPPORTED = sys.platform != "win32"


class Ended(NotProved):
    """A process was ended before its answer came."""


class Line:
    """Both ways to another process, a pipe each: one for both would be a socket."""

    def __init__(self, incoming: Connection, outgoing: Connection) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self.recv, self.send = incoming.recv, outgoing.send

    @classmethod
    def pair(cls) -> tuple[Line, Line]:
        """The two ends."""
        (first, second), (third, fourth) = Pipe(duplex=False), Pipe(duplex=False)
        return cls(first, fourth), cls(third, second)

    @classmethod
    def of(cls, numbers: Sequence[int]) -> Line:
        """An end by its file descriptors."""
        incoming, outgoing = numbers
        return cls(Connection(incoming, writable=False), Connection(outgoing, readable=False))

    @property
    def numbers(self) -> list[int]:
        """The file descriptors."""
        return [self._incoming.fileno(), self._outgoing.fileno()]

    def close(self) -> None:
        """Closes this end."""
        self._incoming.close()
        self._outgoing.close()


class Process:
    """A process that a function runs in: `function(connection, *arguments)`. Raises OSError where it cannot be started."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.connection, theirs = Line.pair()
        path = json.dumps([os.path.abspath(entry) for entry in sys.path])
        try:
            self._popen = subprocess.Popen(
                [sys.executable or "python3", "-I", "-B", "-c", _START, path, json.dumps(theirs.numbers)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, **_ONE_THREAD},
                pass_fds=theirs.numbers,
            )
        except OSError:
            self.connection.close()
            raise
        finally:
            theirs.close()
        self.connection.send((function, arguments))

    def send(self, message: object) -> None:
        """Something more for the function; waits until there is room for it. Raises OSError where the process was ended."""
        self.connection.send(message)

    def answer(self) -> Any:
        """What the function returns, or raises. Ended where the process was."""
        try:
            found = self.connection.recv()
        except (EOFError, OSError):
            raise Ended("a process of the check was ended; memory may have run out") from None
        if isinstance(found, Exception):
            raise found
        return found

    def kill(self) -> None:
        """Ends it, whatever it is at."""
        self._popen.kill()

    def end(self) -> None:
        """Ends it and closes the pipe, which nobody may be at."""
        self.kill()
        self._popen.wait()
        self.connection.close()


@contextmanager
def elsewhere(function: Callable[..., Any], *arguments: object) -> Iterator[Process]:
    """A process that ends with the context."""
    with ExitStack() as stack:
        process = Process(function, *arguments)
        stack.callback(process.end)
        yield process


def serve(numbers: Sequence[int]) -> None:
    """The other side: one call, its answer, the end. numbers: the pipes' file descriptors."""
    # the parent's business
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    connection = Line.of(numbers)
    try:
        function, arguments = connection.recv()
        connection.send(function(connection, *arguments))
    except EOFError:  # nobody wants to know any more
        return
    except Exception as error:
        connection.send(error)


def _end_with(parent: int) -> None:
    """Ends this process soon after the one that started it."""
    while os.getppid() == parent:
        threading.Event().wait(0.5)
    os._exit(1)
