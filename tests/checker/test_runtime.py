"""ONNX Runtime's own process: whatever a model does there, here it is an exception, and the next model runs."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from patience import PATIENCE

from verify.checker import runtime, runtime_process
from verify.checker.runtime import Ended, Late, NoMemory, NotInstalled, Session, Trouble

ROOT = Path(__file__).parents[2]


def model(
    nodes: list[onnx.NodeProto], constants: dict[str, Any] | None = None, kind: int = TensorProto.FLOAT
) -> bytes:
    """Bytes of a model from `x`, [1, 2], to `y`."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", 13)]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return data


def node(operator: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [output], **attributes)


def endless() -> bytes:
    """A loop that would take years."""
    body = helper.make_graph(
        [node("Identity", ["go"], "on"), node("Sin", ["v"], "w")],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [1, 2]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [1, 2]),
        ],
    )
    constants = {"n": np.array(2**62), "yes": np.array(True)}
    return model([node("Loop", ["n", "yes", "x"], "y", body=body)], constants)


DOUBLE = model([node("Add", ["x", "x"], "y")])
HUGE = model(
    [node("Expand", ["x", "s"], "b"), node("Sin", ["b"], "c"), node("ReduceMax", ["c"], "y", keepdims=0)],
    {"s": np.array([2**20, 2**20, 2])},
)
X = np.arange(6, dtype=np.float32).reshape(3, 1, 2)


@pytest.fixture
def fresh() -> Iterator[None]:
    """A process that no other test sees, before and after."""
    runtime._at_exit()
    yield
    runtime._at_exit()


def doubles(session: Session, x: NDArray[Any] = X) -> None:
    np.testing.assert_array_equal(session.run(["y"], {"x": x})[0], 2 * x)


def process() -> int:
    """The number of the process that runs."""
    assert runtime._PROCESS is not None
    return runtime._PROCESS._popen.pid


def gone(pid: int) -> bool:
    """Whether a process ends, sooner or later."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_samples_run_one_by_one() -> None:
    session = Session(DOUBLE)
    assert session.inputs == [("x", "tensor(float)", [1, 2])]
    assert session.outputs == [("y", "tensor(float)")]
    doubles(session)
    doubles(session, np.zeros((100_000, 1, 2), dtype=np.float32))
    doubles(session, X[:, :, ::-1])


@pytest.mark.parametrize("kind", sorted(runtime_process.KINDS))
def test_types_come_back_as_they_are(kind: str) -> None:
    code = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    session = Session(model([node("Cast", ["x"], "y", to=code)], kind=code))
    (found,) = session.run(["y"], {"x": X})
    assert found.dtype.name == kind
    np.testing.assert_array_equal(found, X.astype(kind))


def test_both_sides_know_the_same_types() -> None:
    assert runtime._KINDS == runtime_process.KINDS


def test_refusals() -> None:
    with pytest.raises(Trouble):
        Session(b"no model")
    with pytest.raises(Trouble, match="Frob"):
        Session(model([node("Frob", ["x"], "y")]))
    session = Session(DOUBLE)
    with pytest.raises(Trouble, match="Got: 3"):
        session.run(["y"], {"x": np.zeros((1, 1, 3), dtype=np.float32)})
    with pytest.raises(Trouble, match="z"):
        session.run(["z"], {"x": X})
    doubles(session)


def test_outputs_that_are_no_tensors_of_one_shape() -> None:
    session = Session(model([node("NonZero", ["x"], "n"), node("Cast", ["n"], "y", to=1)]))
    with pytest.raises(Trouble, match="changes from input to input"):
        session.run(["y"], {"x": X})
    session = Session(model([node("Cast", ["x"], "y", to=TensorProto.STRING)], kind=TensorProto.STRING))
    with pytest.raises(Trouble, match="no tensor of numbers"):
        session.run(["y"], {"x": X})


def test_a_crash_is_an_exception_and_the_next_model_runs(fresh: None) -> None:
    """The maximum of x and nothing, as ONNX Runtime 1.32 ends with a segmentation fault; later ones may refuse it."""
    good, bad = Session(DOUBLE), Session(model([node("Max", ["x", ""], "y")]))
    with pytest.raises(Trouble):
        bad.run(["y"], {"x": X})
    doubles(good)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_crashes_are_told_from_ends(number: int, fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that crashes by itself is not started again for the same; one that is ended is, once."""
    session, asked = Session(DOUBLE), runtime._Process.ask

    def ending(number: int) -> Any:
        def ask(self: Any, *request: Any) -> Any:
            os.kill(self._popen.pid, number)
            self._popen.wait()
            return asked(self, *request)

        return ask

    monkeypatch.setattr(runtime._Process, "ask", ending(number))
    pid = process()
    with pytest.raises(Ended, match="it crashed: SIG"):
        session.run(["y"], {"x": X})
    assert process() == pid
    monkeypatch.setattr(runtime._Process, "ask", ending(signal.SIGKILL))
    with pytest.raises(Ended, match="its process was ended: SIGKILL"):
        session.run(["y"], {"x": X})
    monkeypatch.undo()
    doubles(session)
    os.kill(process(), signal.SIGKILL)
    doubles(session)


def test_a_hang_ends(fresh: None) -> None:
    good, bad = Session(DOUBLE), Session(endless())
    pid = process()
    with pytest.raises(Late):
        bad.run(["y"], {"x": X}, seconds=0.5)
    assert gone(pid)
    doubles(good)


def test_no_time_at_all(fresh: None) -> None:
    """The process is not asked, nor harmed."""
    session = Session(DOUBLE)
    pid = process()
    for seconds in (0.0, -1e9):
        with pytest.raises(Late):
            session.run(["y"], {"x": X}, seconds)
    doubles(session)
    assert process() == pid


def test_memory_ends(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_memory", lambda: 2**30)
    with pytest.raises(NoMemory):
        Session(HUGE).run(["y"], {"x": X})
    doubles(Session(DOUBLE))


def test_too_little_memory_to_begin_with(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_memory", lambda: 2**27 - 1)
    runtime.start()
    with pytest.raises(NoMemory, match="128 MiB, 127 are left"):
        Session(DOUBLE)
    monkeypatch.setattr(runtime, "_memory", lambda: 2**27)
    doubles(Session(DOUBLE))


def test_sessions_that_nobody_holds_are_dropped(fresh: None) -> None:
    """So that what decides many instances keeps one model at a time."""
    kept = Session(DOUBLE)
    name = Session(DOUBLE)._name
    gc.collect()
    assert name in runtime._DROPPED
    doubles(kept)
    assert name not in runtime._DROPPED


def test_answers_that_make_no_sense(fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is no more trusted than the model that runs there."""
    for told in (
        b"[]",
        b"{",
        b"{}",
        b'{"arrays": [["object", [1]]]}',
        b'{"inputs": [1], "outputs": []}',
        b'{"trouble": "?"}',
    ):
        script = tmp_path / "script.py"
        script.write_text(
            f"import os, struct\ntold = {told!r}\nos.write(1, struct.pack('<I', len(told)) + told)\nos.read(0, 2**20)"
        )
        monkeypatch.setattr(runtime, "_SCRIPT", script)
        with pytest.raises(Trouble, match="no sense"):
            Session(DOUBLE)


def test_no_process_at_all(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    runtime.start()
    with pytest.raises(Trouble, match="no process could be started"):
        Session(DOUBLE)


def test_no_runtime_at_all(fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('not here')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(NotInstalled):
        Session(DOUBLE)


def test_threads_share_it(fresh: None) -> None:
    sessions = [Session(DOUBLE) for _ in range(4)]
    failed = []

    def work(session: Session, number: int) -> None:
        try:
            for _ in range(20):
                doubles(session, X + number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(one, place)) for place, one in enumerate(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_a_process_that_a_thread_started_outlives_it(fresh: None) -> None:
    thread = threading.Thread(target=runtime.start)
    thread.start()
    thread.join()
    pid = process()
    doubles(Session(DOUBLE))
    assert process() == pid


def _in_a_fork(session: Session, pid: int, pipe: Any) -> None:
    doubles(session)
    pipe.send(process() != pid)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_has_its_own(fresh: None) -> None:
    session = Session(DOUBLE)
    pid, context = process(), multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_in_a_fork, args=(session, pid, theirs))
    child.start()
    assert ours.poll(60) and ours.recv()
    child.join()
    doubles(session)
    assert process() == pid


ALONE = """
import os, sys, time
from verify.checker import runtime
session = runtime.Session(bytes.fromhex(sys.argv[1]))
os.write(int(sys.argv[2]), b"%d\\n" % runtime._PROCESS._popen.pid)
"""
BUSY = (
    ALONE
    + "\nimport numpy\nos.write(int(sys.argv[2]), b'.')\nsession.run(['y'], {'x': numpy.zeros((1, 1, 2), 'f4')})"
)


def started(code: str, data: bytes, **settings: Any) -> tuple[subprocess.Popen[bytes], int, Any]:
    """A program that runs a model; the number of its process, and what else it tells."""
    ours, theirs = os.pipe()
    program = subprocess.Popen(
        [sys.executable, "-c", code, data.hex(), str(theirs)], cwd=ROOT, pass_fds=[theirs], **settings
    )
    os.close(theirs)
    told = os.fdopen(ours, "rb")
    return program, int(told.readline()), told


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_alone(number: int) -> None:
    """Neither one that waits nor one that is busy."""
    program, pid, told = started(ALONE + "\ntime.sleep(600)", DOUBLE)
    with program, told:
        program.send_signal(number)
        program.wait()
        assert gone(pid)
    program, pid, told = started(BUSY, endless())
    with program, told:
        told.read(1)
        program.send_signal(number)
        program.wait()
        assert gone(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
def test_streams_that_are_closed() -> None:
    """Pipes that took their places would get what is printed."""
    program, pid, told = started(
        "import os\nfor stream in 0, 1, 2: os.close(stream)\n" + ALONE + "\nos.write(1, b'printed')", DOUBLE
    )
    with program, told:
        program.wait()
        assert gone(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
def test_the_process_is_confined() -> None:
    """No environment but what it needs, no files, no sockets, no core."""
    program, pid, told = started(
        ALONE + "\ntime.sleep(600)", DOUBLE, env={**os.environ, "SECRET": "1", "HOME": str(Path.home())}
    )
    with program, told:
        there = Path(f"/proc/{pid}")
        environment = dict(part.split("=", 1) for part in (there / "environ").read_text().split("\0") if part)
        limits = {
            line[:26].strip(): line[26:].split()[0] for line in (there / "limits").read_text().splitlines()
        }
        opened = [os.readlink(one) for one in (there / "fd").iterdir()]
        program.kill()
    assert environment["ORT_DISABLE_TELEMETRY"] == "1" and environment["HOME"] == os.devnull
    assert "SECRET" not in environment
    assert limits["Max core file size"] == limits["Max file size"] == "0"
    assert limits["Max data size"] != "unlimited"
    assert all(name.startswith(("pipe:", os.devnull)) for name in opened), opened
