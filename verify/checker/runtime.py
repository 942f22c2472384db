"""ONNX Runtime, kept apart: models are given to a process of its own (runtime_process.py), so that one that makes it crash, hang,
eat memory or write files does no harm here.

There is one such process, started when it is first wanted or by `start`, and again when it has ended. Both sides send, in turn,
the length of a header (4 bytes), the header (JSON), and what it announces: a model, or arrays as their bytes.

    {"do": "load", "session": 1, "size": 9999, ..}       {"inputs": [[name, type, shape], ..], "outputs": [[name, type], ..]}
    {"do": "run", "session": 1, "samples": 3,            {"arrays": [["float32", [3, 1, 10]]]}
     "inputs": [["x", "float32", [3, 1, 4]]],            or {"trouble": "refused", "text": "why"}
     "outputs": ["y"], ..}

Nothing that comes back is executed or taken for more than numbers and text.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOAD_SECONDS, RUN_SECONDS = 120.0, 60.0  # after which a call is taken for hanging
_KINDS = frozenset("bool float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64".split())
_LEAST_MEMORY = 2**27  # that it can begin with
_SMALL = 2**16  # bytes
_NONSENSE = "its process answers what makes no sense"
_SCRIPT = Path(__file__).with_name("runtime_process.py")
_KEPT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH", "SYSTEMROOT")
_SET = {
    "ORT_DISABLE_TELEMETRY": "1", "HOME": os.devnull, "TMPDIR": os.devnull,
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
}  # fmt: skip
# what a process does itself; other signals come from outside
_OWN_FAULTS = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS")


class Trouble(Exception):
    """ONNX Runtime gave no result; the text says why."""


class NotInstalled(Trouble):
    """There is no ONNX Runtime."""


class NoMemory(Trouble):
    """Its memory did not suffice."""


class Late(Trouble):
    """No answer within the limit."""


class Ended(Trouble):
    """The process ended: ONNX Runtime crashed, or somebody ended it."""

    def __init__(self, code: int | None) -> None:
        name = signal.Signals(-code).name if code is not None and code < 0 else f"code {code}"
        self.crashed = name in _OWN_FAULTS
        super().__init__(f"it crashed: {name}" if self.crashed else f"its process was ended: {name}")


class _Refusal(Exception):
    """What the process answered itself: it is in step."""

    def __init__(self, trouble: Trouble) -> None:
        self.trouble = trouble


_TROUBLES = {"refused": Trouble, "missing": NotInstalled, "memory": NoMemory}


class Session:
    """A model in ONNX Runtime on the CPU, one thread, graph optimisations as by default: what is deployed.

    as_written: without what it does of its own about quantised weights: it quantises what they are multiplied with, too.
    inputs: names, types and shapes (with names for unknown sizes), outputs: names and types, as ONNX Runtime tells them.
    """

    def __init__(self, model: bytes, seconds: float = LOAD_SECONDS, as_written: bool = False) -> None:
        """Raises Trouble."""
        self._model, self._name, self._as_written = model, next(_NAMES), as_written
        self._process: _Process | None = None
        weakref.finalize(self, _DROPPED.append, self._name)
        told = self._asked(None, (), seconds)
        self.inputs: list[tuple[str, str, list[int | str | None]]] = told["inputs"]
        self.outputs: list[tuple[str, str]] = told["outputs"]

    def __getstate__(self) -> dict[str, Any]:
        """In another process, the model is loaded when it is first run."""
        return {name: value for name, value in vars(self).items() if name not in ("_name", "_process")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _name=next(_NAMES), _process=None)
        weakref.finalize(self, _DROPPED.append, self._name)

    def run(
        self, outputs: Sequence[str], fed: Mapping[str, NDArray[Any]], seconds: float = RUN_SECONDS
    ) -> list[NDArray[Any]]:
        """The outputs at samples that run one by one: the first axis of all arrays is that of samples. Raises Trouble."""
        import numpy as np

        arrays = {name: np.ascontiguousarray(array) for name, array in fed.items()}
        samples = len(next(iter(arrays.values())))
        request = {
            "do": "run",
            "samples": samples,
            "outputs": list(outputs),
            "inputs": [[name, array.dtype.name, array.shape] for name, array in arrays.items()],
        }
        told = self._asked(request, [array.reshape(-1).view(np.uint8) for array in arrays.values()], seconds)
        if len(told["arrays"]) != len(outputs) or any(shape[:1] != [samples] for _, shape in told["arrays"]):
            raise Trouble(_NONSENSE)
        return [
            np.frombuffer(data, dtype=kind).reshape(shape)
            for (kind, shape), data in zip(told["arrays"], told["data"], strict=True)
        ]

    def _asked(self, request: dict[str, Any] | None, data: Sequence[Any], seconds: float) -> Any:
        """The answer to a request (None: to loading), with the model loaded before where the process is a fresh one."""
        if seconds <= 0:
            raise Late("there is no time for it")
        for again in (False, True):
            try:
                with _LOCK:
                    process = _running()
                    told = None
                    if self._process is not process:
                        load = {
                            "do": "load",
                            "size": len(self._model),
                            "session": self._name,
                            "as_written": self._as_written,
                        }
                        limit = seconds if request is None else LOAD_SECONDS
                        told = process.ask(load, [self._model], limit)
                        self._process = process
                    return (
                        told
                        if request is None
                        else process.ask({**request, "session": self._name}, data, seconds)
                    )
            except Ended as end:
                if again or end.crashed:
                    raise
        raise AssertionError  # the second time returns or raises


def limit_memory(most: int) -> None:
    """So many bytes for processes that are started from now on, at most."""
    global _MOST_MEMORY
    _MOST_MEMORY = most


def start() -> None:
    """Starts the process, if there is none, for what will be wanted; later calls find out whether that failed."""
    with _LOCK, suppress(Trouble):
        _running()


class _Process:
    """The other process, and what goes to and fro. One thread at a time."""

    def __init__(self) -> None:
        if _memory() < _LEAST_MEMORY:
            raise NoMemory(f"it takes {_LEAST_MEMORY >> 20} MiB, {_memory() >> 20} are left for it")
        given, self._to = _pipe()
        self._back, answers = _pipe()
        main = threading.current_thread() is threading.main_thread()
        settings = {
            "path": [os.path.abspath(entry) for entry in sys.path if entry],
            "memory": _memory(),
            "dies_with": os.getpid() if main else 0,  # with this thread, to be precise
        }
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        try:
            self._popen = subprocess.Popen(
                [sys.executable or "python3", "-I", "-S", "-B", str(_SCRIPT), json.dumps(settings)],
                stdin=given,
                stdout=answers,
                stderr=subprocess.DEVNULL,
                env={**kept, **_SET},
                cwd=os.sep,
            )
        except (OSError, ValueError) as error:
            self._close()
            raise Trouble(f"no process could be started for it: {error}") from error
        finally:
            os.close(given)
            os.close(answers)
        os.set_blocking(self._to, False)

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def ask(self, header: dict[str, Any], data: Sequence[Any], seconds: float) -> Any:
        """The header of the answer, the bytes of its arrays under `data`. Raises Trouble; then the process may have ended."""
        text = json.dumps({**header, "seconds": seconds, "drop": _dropped()}).encode()
        until = time.monotonic() + seconds
        try:
            for part in _joined([struct.pack("<I", len(text)), text, *data]):
                self._write(memoryview(part), until)
            return self._answer(until)
        except OSError:
            raise Ended(self.end()) from None
        except (ValueError, KeyError, TypeError, AttributeError):
            self.end(kill=True)
            raise Trouble(_NONSENSE) from None
        except _Refusal as refusal:
            raise refusal.trouble from None
        except BaseException:  # late, or interrupted
            self.end(kill=True)
            raise

    def _answer(self, until: float) -> dict[str, Any]:
        (size,) = struct.unpack("<I", self._read(4, until))
        told = json.loads(self._read(size, until))
        if "trouble" in told:
            raise _Refusal(_TROUBLES[told["trouble"]](str(told["text"])))
        if "arrays" in told:
            told["data"] = [self._read(_bytes(kind, shape), until) for kind, shape in told["arrays"]]
            return {"arrays": told["arrays"], "data": told["data"]}
        return {
            "inputs": [(str(name), str(kind), list(shape)) for name, kind, shape in told["inputs"]],
            "outputs": [(str(name), str(kind)) for name, kind in told["outputs"]],
        }

    def _wait(self, descriptor: int, event: int, until: float) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
            raise Late("it does not come to an end")

    def _write(self, data: memoryview, until: float) -> None:
        while len(data):
            self._wait(self._to, select.POLLOUT, until)
            with suppress(BlockingIOError):
                data = data[os.write(self._to, data) :]

    def _read(self, size: int, until: float) -> bytearray:
        data = bytearray()
        while len(data) < size:
            self._wait(self._back, select.POLLIN, until)
            part = os.read(self._back, min(size - len(data), 2**20))
            if not part:
                raise BrokenPipeError
            data += part
        return data

    def end(self, kill: bool = False) -> int | None:
        """Ends the process and says how it ended; it may be at that already, if it is not to be killed."""
        self._close()
        if not kill:
            with suppress(subprocess.TimeoutExpired):
                return self._popen.wait(1.0)
        self._popen.kill()
        return self._popen.wait()

    def forget(self) -> None:
        """In a fork: the process is another one's."""
        self._close()
        self._popen.returncode = 0

    def _close(self) -> None:
        for descriptor in (self._to, self._back):
            with suppress(OSError):
                os.close(descriptor)
        self._to = self._back = -1


def _joined(parts: Sequence[Any]) -> Sequence[Any]:
    """Small parts in one, for one write wakes the other side once."""
    return [b"".join(parts)] if sum(map(len, parts)) <= _SMALL else parts


def _pipe() -> tuple[int, int]:
    """A pipe beside the standard streams, also where one of those is closed: others may write there."""
    low: list[int] = []
    ends = os.pipe()
    while min(ends) < 3:
        low += ends
        ends = os.pipe()
    for descriptor in low:
        os.close(descriptor)
    return ends


def _bytes(kind: str, shape: Sequence[int]) -> int:
    """The bytes of an array that is announced. Raises ValueError for what no array is."""
    import numpy as np

    if kind not in _KINDS or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError
    return np.dtype(kind).itemsize * math.prod(shape)


def _memory() -> int:
    """Half of what the machine, or this process's control group, has, or a limit that is set."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            found.append(int(Path(path).read_text()))
    return int(min(*found, 2 * _MOST_MEMORY)) // 2


def _dropped() -> list[int]:
    """Sessions that nobody holds any more."""
    names = []
    with suppress(IndexError):
        while True:
            names.append(_DROPPED.popleft())
    return names


def _running() -> _Process:
    """The process, a fresh one where there is none."""
    global _PROCESS
    if _PROCESS is None or not _PROCESS.alive:
        if _PROCESS is not None:
            _PROCESS.end(kill=True)
        _PROCESS = _Process()
    return _PROCESS


def _at_exit() -> None:
    if _PROCESS is not None:
        _PROCESS.end(kill=True)


def _after_fork() -> None:
    """A fork has its own process: two would mix their requests. The lock may be held by a thread that is not here."""
    global _PROCESS, _LOCK
    _LOCK = threading.RLock()
    if _PROCESS is not None:
        _PROCESS.forget()
        _PROCESS = None


_LOCK = threading.RLock()
_NAMES = count()
_DROPPED = deque[int]()
_PROCESS: _Process | None = None
_MOST_MEMORY: float = math.inf
atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork)
