"""The process that ONNX Runtime runs in: a script, started by runtime.py, which says what is sent and answered.

It writes no file, not even a core: a model that takes this process over gets little. It ends with its input, and at the latest
when a call takes longer than allowed, or where the system offers that, with the process that started it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import sys
from typing import Any, BinaryIO

Request = dict[str, Any]
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl
_GRACE = 5.0  # seconds past a call's limit: by then the other side has ended this process
# of arrays that are sent
KINDS = frozenset("bool float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64".split())


class _Trouble(Exception):
    """What is answered instead: a word for the kind of trouble, and a text."""

    def __init__(self, kind: str, text: str) -> None:
        self.kind, self.text = kind, text


def main() -> None:
    """Serves until the input ends."""
    settings = json.loads(sys.argv[1])
    _confine(settings["memory"])
    if settings["dies_with"]:
        _die_with(settings["dies_with"])
    sys.path[:] = settings["path"]
    requests, answers = os.fdopen(0, "rb", 2**16), os.fdopen(os.dup(1), "wb", 2**16)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print is no answer
    runtime = _imported()
    sessions: dict[int, Any] = {}
    while (header := requests.read(4)) and len(header) == 4:
        request = json.loads(requests.read(*struct.unpack("<I", header)))
        for name in request["drop"]:
            sessions.pop(name, None)
        _answer(answers, request, requests, runtime, sessions)
    os._exit(0)


def _confine(memory: int) -> None:
    """Limits that the system keeps."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the other side decides what ends
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        import resource
    except ImportError:
        return
    # address space is more than data: libraries, stacks
    for name, limit in (("CORE", 0), ("FSIZE", 0), ("DATA", memory), ("AS", memory + 2**32)):
        with contextlib.suppress(ValueError, OSError):  # where there is no such limit, or a lower one
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))


def _die_with(parent: int) -> None:
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(1)


def _imported() -> Any:
    try:
        import numpy  # noqa: F401
        import onnxruntime
    except ImportError:
        return None
    return onnxruntime


def _answer(
    answers: BinaryIO, request: Request, requests: BinaryIO, runtime: Any, sessions: dict[int, Any]
) -> None:
    """Answers one request, within its limit."""
    signal.setitimer(signal.ITIMER_REAL, request["seconds"] + _GRACE)
    arrays: list[Any] = []
    try:
        if request["do"] == "load":
            told = _load(requests.read(request["size"]), request, runtime, sessions)
        else:
            told, arrays = _run(request, requests, sessions)
    except _Trouble as trouble:
        told, arrays = {"trouble": trouble.kind, "text": trouble.text}, []
    except MemoryError as error:
        told, arrays = {"trouble": "memory", "text": str(error)}, []
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        text = str(error)
        full = any(words in text for words in ("bad_alloc", "bad allocation", "Failed to allocate memory"))
        told, arrays = {"trouble": "memory" if full else "refused", "text": text}, []
    signal.setitimer(signal.ITIMER_REAL, 0)
    header = json.dumps(told).encode()
    for part in (struct.pack("<I", len(header)), header, *arrays):
        answers.write(part)
    answers.flush()


def _load(model: bytes, request: Request, runtime: Any, sessions: dict[int, Any]) -> Request:
    if runtime is None:
        raise _Trouble("missing", "ONNX Runtime is not installed")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if request["as_written"]:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    sessions[request["session"]] = session
    return {
        "inputs": [[one.name, one.type, one.shape] for one in session.get_inputs()],
        "outputs": [[one.name, one.type] for one in session.get_outputs()],
    }


def _run(request: Request, requests: BinaryIO, sessions: dict[int, Any]) -> tuple[Request, list[Any]]:
    """One sample after another; results of one shape side by side."""
    import numpy as np

    fed = {}
    for name, kind, shape in request["inputs"]:
        size = np.dtype(kind).itemsize * int(np.prod(shape, dtype=np.int64))
        fed[name] = np.frombuffer(requests.read(size), dtype=kind).reshape(shape)
    session, found = sessions[request["session"]], []
    for place in range(request["samples"]):
        found.append(session.run(request["outputs"], {name: array[place] for name, array in fed.items()}))
    results = []
    for name, parts in zip(request["outputs"], zip(*found, strict=True), strict=True):
        if any(getattr(part, "dtype", None) is None or part.dtype.name not in KINDS for part in parts):
            raise _Trouble("refused", f"{name!r} is no tensor of numbers")
        if len({(part.dtype.name, part.shape) for part in parts}) != 1:
            raise _Trouble("refused", f"the shape of {name!r} changes from input to input")
        results.append(np.ascontiguousarray(np.stack(parts)))
    told = {"arrays": [[result.dtype.name, list(result.shape)] for result in results]}
    return told, [result.reshape(-1).view(np.uint8) for result in results]


if __name__ == "__main__":
    main()
