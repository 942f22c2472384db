"""The three scripts in the organisers' loop: `timeout` around each, the result file read back, witnesses replayed strictly.

Whether limits, kills and errors end as they should is tried with shell scripts in the place of `verify`.
"""

from __future__ import annotations

import gzip
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from patience import PATIENCE, until

from properties.spec import violated

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "benchmarks" / "vnncomp"
INSTANCES = ROOT.parent / "shared" / "instances"
CONTROLLER = ROOT / "properties" / "controller"
ONNX, VNNLIB = CONTROLLER / "onnx" / "controller.onnx", CONTROLLER / "vnnlib" / "thrust_bound_tight.vnnlib"
TENSORS = "X float32 [1,2]\n0.5\n-1e-05\nY float32 [1,1]\n3.0\n"
PAIRS = "((X_0 0.5)\n (X_1 -1e-05)\n (Y_0 3.0))\n"


@dataclass(frozen=True)
class Recorded:
    """What the organisers keep of an instance."""

    result: str
    ended: bool  # by itself, before the organisers ended it
    witness: str
    messages: str


class Loop:
    """The organisers' loop, for one tool."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.out = folder, folder / "out.txt"
        self.environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "VERIFY_RUNS": str(folder / "runs"),
            **environment,
        }

    def script(
        self, name: str, *arguments: object, limit: float = PATIENCE
    ) -> subprocess.CompletedProcess[str]:
        """A script under a limit, after which it is sent SIGTERM (and the exit code is 124)."""
        return subprocess.run(
            ["timeout", str(limit), str(SCRIPTS / name), *map(str, arguments)], cwd=self.folder, env=self.environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip

    def __call__(
        self, onnx: object, vnnlib: object, timeout: object = PATIENCE, prepare: bool = True
    ) -> Recorded:
        """One instance."""
        if prepare:
            prepared = self.script("prepare_instance.sh", "v1", "category", onnx, vnnlib)
            assert prepared.returncode == 0, prepared.stderr
        self.out.write_text("no_result_in_file\n")
        ran = self.script("run_instance.sh", "v1", "category", onnx, vnnlib, "out.txt", timeout)
        assert ran.returncode in (0, 124), ran.stderr
        first, _, rest = self.out.read_text().partition("\n")
        return Recorded(first, ran.returncode == 0, rest, ran.stderr)


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    """The loop with this interpreter's own installation."""
    return Loop(tmp_path, {"VERIFY_VENV": sys.prefix})


@pytest.fixture
def stub(tmp_path: Path) -> Callable[[str], Loop]:
    """The loop with a shell script as `verify`."""

    def install(script: str) -> Loop:
        programs = tmp_path / "venv" / "bin"
        programs.mkdir(parents=True)
        (programs / "verify").write_text(f"#!/bin/sh\n[ $1 = run ] || exit 0\n{script}\n")
        (programs / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        for program in programs.iterdir():
            program.chmod(0o755)
        return Loop(tmp_path, {"VERIFY_VENV": str(tmp_path / "venv"), "TMPDIR": str(tmp_path)})

    return install


def unpacked(path: Path) -> bytes:
    """A file's content, gzipped or not."""
    data = (path if path.exists() else Path(f"{path}.gz")).read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def strict(onnx: Path, vnnlib: Path, text: str) -> bool:
    """As the scorer of 2026: inputs from the text, outputs from ONNX Runtime on the CPU, no slack on either."""
    content = text.replace("\n", " ").strip()
    assert content[0] == "(" and content[-1] == ")"
    values: dict[str, list[float]] = {"X": [], "Y": []}
    for part in filter(None, map(str.strip, content[1:-1].split(")"))):
        assert part[0] == "("
        name, number = part[1:].split(" ")
        assert int(name[2:]) == len(values[name[0]])
        values[name[0]].append(float(number))
    session = onnxruntime.InferenceSession(unpacked(onnx), providers=["CPUExecutionProvider"])
    (inputs,) = session.get_inputs()
    shape = [size if isinstance(size, int) and size > 0 else 1 for size in inputs.shape]
    point = np.array(values["X"], dtype=np.float32).reshape(shape)
    outputs = session.run(None, {inputs.name: point})[0].ravel()
    assert len(outputs) == len(values["Y"])
    return violated(unpacked(vnnlib).decode(), point.ravel().tolist(), outputs.tolist())


def check(loop: Loop, folder: Path, onnx: str, vnnlib: str, expected: str, prepare: bool) -> None:
    """An instance has the expected result, and its witness convinces. It is prepared where no other of its kind is: that starts `verify` once more."""
    paths = folder / "onnx" / onnx, folder / "vnnlib" / vnnlib
    found = loop(*paths, prepare=prepare)
    assert found.result == expected and found.ended, found.messages
    if expected == "sat":
        assert strict(*paths, found.witness)
    else:
        assert not found.witness
    assert not list((loop.folder / "runs").iterdir())


@pytest.mark.skipif(not INSTANCES.exists(), reason="the public instances are not here")
@pytest.mark.parametrize(
    ("family", "onnx", "vnnlib", "expected"),
    [
        ("test", "test_nano.onnx", "test_nano.vnnlib", "unsat"),
        ("test", "test_sat.onnx", "test_prop.vnnlib", "sat"),
        ("test", "test_unsat.onnx", "test_prop.vnnlib", "unsat"),
        ("acasxu", "ACASXU_run2a_1_7_batch_2000.onnx", "prop_3.vnnlib", "sat"),
    ],
)
def test_public_instances(loop: Loop, family: str, onnx: str, vnnlib: str, expected: str) -> None:
    """Named without the `.gz` that their files have."""
    check(loop, INSTANCES / family, onnx, vnnlib, expected, family == "acasxu")


@pytest.mark.parametrize(("name", "expected"), [("thrust_bound_tight", "sat"), ("ordered_thrusts", "unsat")])
def test_shipped_instances(loop: Loop, name: str, expected: str) -> None:
    check(loop, CONTROLLER, "controller.onnx", f"{name}.vnnlib", expected, expected == "sat")


def test_gzipped_files_named_as_they_are(loop: Loop, tmp_path: Path) -> None:
    """In the way that the organisers name them: relative to where they run the script."""
    for path in (ONNX, VNNLIB):
        (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    found = loop("./controller.onnx.gz", "./thrust_bound_tight.vnnlib.gz", "60.0\r", prepare=False)
    assert found.result == "sat" and strict(ONNX, VNNLIB, found.witness)


@pytest.mark.parametrize(
    ("script", "result", "witness"),
    [
        ("echo unsat", "unsat", ""),
        ("echo unknown; exit 1", "unknown", ""),
        ("echo timeout; exit 1", "timeout", ""),
        (f"printf 'sat\\n{TENSORS}'", "sat", PAIRS),
        ("echo sat", "error", ""),
        ("printf 'sat\\nX float32 [1,2]\\n0.5\\n'", "error", ""),
        ("echo out of memory >&2; exit 3", "error", ""),
        ("exit 70", "error", ""),
        ("echo unsat; exit 70", "error", ""),
        ("kill -KILL $$", "error", ""),
        ("echo maybe", "error", ""),
        ("true", "error", ""),
    ],
)
def test_what_verify_does_is_what_is_recorded(
    stub: Callable[[str], Loop], script: str, result: str, witness: str
) -> None:
    found = stub(script.replace("\n", "\\n"))(ONNX, VNNLIB, prepare=False)
    assert (found.result, found.witness) == (result, witness), found.messages


def test_witnesses_of_2_0_stay_as_they_are(stub: Callable[[str], Loop], tmp_path: Path) -> None:
    text = "; (a comment)\n(vnnlib-version <2.0>)\n"
    printed = TENSORS.replace("\n", "\\n")
    loop = stub(f"printf 'sat\\n{printed}'")
    (tmp_path / "p.vnnlib").write_text(text)
    (tmp_path / "q.vnnlib.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "r.vnnlib").write_text(";" + text[text.index("(vnnlib") :])
    assert [loop(ONNX, name, prepare=False).witness for name in ("p.vnnlib", "q.vnnlib", "r.vnnlib")] == [
        TENSORS, TENSORS, PAIRS,
    ]  # fmt: skip


@pytest.mark.parametrize("place", ["controller.onnx", "link", "/dev/full", "nowhere/out.txt"])
def test_the_result_file_is_nothing_else(stub: Callable[[str], Loop], tmp_path: Path, place: str) -> None:
    """No input, under another name either, and no device."""
    model = tmp_path / "controller.onnx"
    model.write_bytes(ONNX.read_bytes())
    (tmp_path / "link").hardlink_to(model)
    done = stub("echo unsat").script("run_instance.sh", "v1", "c", model, VNNLIB, place, 60)
    assert done.returncode == 1 and place in done.stderr
    assert model.read_bytes() == ONNX.read_bytes()
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize(
    ("size", "message"), [(12288, "(Y_0 3.0))"), (12289, "the counterexample cannot be read")]
)
def test_a_result_is_whole_or_on_stderr(
    stub: Callable[[str], Loop], tmp_path: Path, size: int, message: str
) -> None:
    """A limit on files' sizes (12 KiB), as a full disk: what does not fit is not taken for the whole."""
    values = ["0.5"] * 900
    rest = size - len("(" + "".join(f"(X_{at} 0.5)\n " for at in range(900)) + "(Y_0 3.0))\n")
    values[:rest] = ["0.25"] * rest  # a letter more each
    (tmp_path / "printed").write_text(
        "\n".join(["sat", "X float32 [1,900]", *values, "Y float32 [1,1]", "3.0", ""])
    )
    loop = stub("cat printed")
    script = f"trap '' XFSZ; ulimit -f 12; exec {SCRIPTS}/run_instance.sh v1 c {ONNX} {VNNLIB} out.txt 60"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=loop.environment, capture_output=True, text=True
    )
    assert message in done.stderr, done.stderr
    assert done.returncode == (size == 12288) and (tmp_path / "out.txt").read_text() == "error\n"


HANGS = "echo $$ >>pids; sleep 1000 & echo $! >>pids; wait"


@pytest.mark.parametrize("script", [HANGS, f"trap '' TERM; {HANGS}"], ids=["listens", "does-not"])
def test_the_script_ends_what_hangs(script: str, stub: Callable[[str], Loop], tmp_path: Path) -> None:
    """By its own limit, and whatever the process does with SIGTERM."""
    found = stub(script)(ONNX, VNNLIB, timeout=2, prepare=False)
    assert found.result == "timeout" and found.ended
    until(lambda: not any(map(running, pids(tmp_path))))


def test_limits_are_inside_one_another(stub: Callable[[str], Loop], tmp_path: Path) -> None:
    """The organisers', the script's own and that of `verify`, read off the commands: a busy machine may be late with all."""
    loop = stub('[ "$2" = --timeout ] && echo "$3" >soft; echo unsat')
    (tmp_path / "programs").mkdir()
    program = tmp_path / "programs" / "timeout"
    program.write_text('#!/bin/sh\necho "$2" >hard\nshift 2\nexec "$@"\n')
    program.chmod(0o755)
    loop.environment["PATH"] = f"{program.parent}:{os.environ['PATH']}"
    limits = {}
    for timeout in (0.5, 1, 30, "116", "300.0"):
        arguments = ["run_instance.sh", "v1", "c", ONNX, VNNLIB, "out.txt", timeout]
        done = subprocess.run(
            [SCRIPTS / arguments[0], *map(str, arguments[1:])], cwd=tmp_path, env=loop.environment,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0 and loop.out.read_text() == "unsat\n"
        limits[float(timeout)] = tuple(float((tmp_path / name).read_text()) for name in ("soft", "hard"))
    assert limits == {
        0.5: (0.25, 0.417), 1: (0.5, 0.833), 30: (28.5, 29.5), 116: (113, 115), 300: (297, 299),
    }  # fmt: skip


def test_killed_by_the_organisers(stub: Callable[[str], Loop], tmp_path: Path) -> None:
    """SIGTERM, as `timeout` sends it: the file says so, and nothing goes on."""
    loop = stub(HANGS)
    command = [SCRIPTS / "run_instance.sh", "v1", "c", ONNX, VNNLIB, "out.txt", "6000"]
    script = subprocess.Popen(command, cwd=tmp_path, env=loop.environment)
    until(lambda: len(pids(tmp_path)) == 2)
    script.terminate()
    assert script.wait(PATIENCE) == 0 and loop.out.read_text() == "timeout\n"
    until(lambda: not any(map(running, pids(tmp_path))))
    assert not list((tmp_path / "runs").iterdir())


def test_leftovers_are_ended_and_others_are_not(stub: Callable[[str], Loop], tmp_path: Path) -> None:
    """Of a script that was killed outright, by the next preparation; a run whose script is there is let be."""
    loop = stub(HANGS)
    commands = [
        [SCRIPTS / "run_instance.sh", "v1", "c", ONNX, VNNLIB, name, "600"] for name in ("dead", "alive")
    ]
    dead, alive = (
        subprocess.Popen(command, cwd=tmp_path, env=loop.environment, stderr=subprocess.DEVNULL)
        for command in commands
    )
    until(lambda: len(pids(tmp_path)) == 4)
    until(lambda: len(list((tmp_path / "runs").glob("*/processes"))) == 2)
    dead.send_signal(signal.SIGKILL)
    dead.wait()
    assert (tmp_path / "dead").read_text() == "error\n"
    assert sum(map(running, pids(tmp_path))) == 4
    assert "ending a leftover" in loop.script("prepare_instance.sh", "v1", "c", ONNX, VNNLIB).stderr
    until(lambda: sum(map(running, pids(tmp_path))) == 2)
    assert alive.poll() is None
    alive.terminate()
    assert alive.wait(PATIENCE) == 0 and (tmp_path / "alive").read_text() == "timeout\n"
    until(lambda: not any(map(running, pids(tmp_path))))


def test_numbers_of_processes_that_are_somebody_elses_now(
    stub: Callable[[str], Loop], tmp_path: Path
) -> None:
    """A note whose process was born at another time is only a note."""
    loop = stub("true")
    other = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    try:
        note = tmp_path / "runs" / "999999999"
        note.mkdir(parents=True)
        (note / "processes").write_text(f"12345 {other.pid} 12345\n")
        assert loop.script("prepare_instance.sh", "v1", "c", ONNX, VNNLIB).returncode == 0
        assert not note.exists() and other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize(
    ("onnx", "vnnlib", "timeout", "message"),
    [
        ("none.onnx", VNNLIB, 60, "none.onnx: there is no such file"),
        (ONNX, "none.vnnlib", 60, "none.vnnlib: there is no such file"),
        ("[('f', 'a.onnx'), ('g', 'b.onnx')]", VNNLIB, 60, "a.onnx: there is no such file"),
        ("[1, 2]", VNNLIB, 60, "[1, 2]: write several networks as [('f', 'a.onnx'), ('g', 'b.onnx')]"),
        (ONNX, VNNLIB, "soon", "TIMEOUT is 'soon'"),
        (ONNX, VNNLIB, 0, "TIMEOUT is '0'"),
        (ONNX, VNNLIB, "", "TIMEOUT is ''"),
    ],
)
def test_what_cannot_be_run_is_an_error_of_the_instance(
    stub: Callable[[str], Loop], onnx: object, vnnlib: object, timeout: object, message: str
) -> None:
    """Preparation does not fail, or the category would be skipped."""
    found = stub("echo unsat")(onnx, vnnlib, timeout)
    assert found.result == "error" and message in found.messages


@pytest.mark.parametrize("name", ["install_tool.sh", "prepare_instance.sh", "run_instance.sh"])
def test_usage(stub: Callable[[str], Loop], name: str) -> None:
    """Another version of the interface, and missing arguments."""
    loop = stub("true")
    for arguments in (["v2", "c", ONNX, VNNLIB, "out.txt", 60], ["v1", "c", "d"], []):
        done = loop.script(name, *arguments)
        assert done.returncode == 1 and done.stderr.startswith(f"{name}: usage: {name} v1"), done.stderr


def test_not_installed(tmp_path: Path) -> None:
    loop = Loop(tmp_path, {"VERIFY_VENV": str(tmp_path)})
    done = loop.script("prepare_instance.sh", "v1", "c", ONNX, VNNLIB)
    assert done.returncode == 1 and "run install_tool.sh v1 first" in done.stderr
    assert loop(ONNX, VNNLIB, prepare=False).result == "error"


def pids(folder: Path) -> list[int]:
    notes = folder / "pids"
    return [int(word) for word in re.findall(r"\d+", notes.read_text())] if notes.exists() else []


def running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_several_networks(loop: Loop, tmp_path: Path) -> None:
    """Twice the larger of x and 0 is no less than the larger of x and 0; nor is it always more."""
    for name, factor in (("f", 1.0), ("g", 2.0)):
        nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Mul", ["r", "c"], ["y"])]
        ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, [1]) for end in "xy"]
        constant = helper.make_tensor("c", TensorProto.FLOAT, [1], [factor])
        graph = helper.make_graph(nodes, name, ends[:1], ends[1:], [constant])
        opsets = [helper.make_opsetid("", 13)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / f"{name}.onnx")
    declared = "(vnnlib-version <2.0>)" + "".join(
        f"(declare-network {name} (declare-input {x} float32 [1]) (declare-output {y} float32 [1]))"
        for name, x, y in (("f", "X", "Y"), ("g", "U", "W"))
    )
    box = "(assert (and (>= X[0] -1.0) (<= X[0] 1.0) (>= U[0] -1.0) (<= U[0] 1.0) (== X[0] U[0])))"
    for comparison, expected in (("(<= W[0] (+ Y[0] -0.01))", "unsat"), ("(<= W[0] Y[0])", "sat")):
        (tmp_path / "q.vnnlib").write_text(f"{declared}{box}(assert {comparison})")
        found = loop("[('f', 'f.onnx'), ('g', 'g.onnx')]", "q.vnnlib", prepare=expected == "unsat")
        assert found.result == expected, found.messages
        assert (found.witness.split("\n")[0] == "X float32 [1]") == (expected == "sat")
