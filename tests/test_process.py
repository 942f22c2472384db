"""The command's process: signals that end it, text that nobody takes, files that are kept through it all.

What waits, waits for events: a line in a log, a file that appears. Nothing here depends on how fast the machine is.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE
from test_cli import Command, Ran, hard

ROOT = Path(__file__).resolve().parents[1]
CONTROLLER = ROOT / "properties" / "controller"
MODEL = CONTROLLER / "onnx" / "controller.onnx"
SAT, UNSAT = (CONTROLLER / "vnnlib" / f"{name}.vnnlib" for name in ("thrust_bound_tight", "ordered_thrusts"))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """`verify` in this process, its output captured."""
    return Command(monkeypatch, capfd)


def listing(folder: Path) -> set[str]:
    """All names, hidden ones too."""
    return set(os.listdir(folder))


def until(condition: Callable[[], object]) -> None:
    """Waits for it, at most two minutes."""
    limit = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < limit, "it never came"
        time.sleep(0.02)


@contextmanager
def started(*arguments: object, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process of Python that is gone afterwards."""
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)], env=ENVIRONMENT, cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, **options,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> Ran:
    out, err = process.communicate(timeout=PATIENCE)
    return Ran(process.returncode, out, err)


# -- streams


def shell(script: str, *arguments: object) -> Ran:
    """A script in which `verify` is the command, and its code is what the shell ends with."""
    verify = f'{sys.executable} -m verify "$@"'
    done = subprocess.run(
        ["bash", "-c", script.replace("VERIFY", verify), "bash", *map(str, arguments)], env=ENVIRONMENT, cwd=ROOT,
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("script", "reason"),
    [("VERIFY >/dev/full", "No space left"), ("VERIFY | false; exit ${PIPESTATUS[0]}", "Broken pipe"),
     ("VERIFY >&- <&-", "Bad file descriptor")],
)  # fmt: skip
def test_an_answer_that_stdout_does_not_take(script: str, reason: str) -> None:
    """Code 3, and the whole answer on stderr."""
    ran = shell(script, "run", MODEL, SAT, "--device", "cpu", "--quiet")
    assert (ran.code, ran.out) == (3, ""), ran.err
    assert f"stdout: cannot be written ({reason}" in ran.err and "Traceback" not in ran.err
    answer = ran.err.partition("what belongs there:\n")[2].splitlines()
    assert answer[0] == "sat" and answer[1].startswith("X float32 [1,4]") and len(answer) >= 10


@pytest.mark.parametrize("script", ["VERIFY >/dev/full", "VERIFY >&-"])
@pytest.mark.parametrize("arguments", [["--help"], ["supports", "--vnnlib-versions"], ["--version"]])
def test_other_text(script: str, arguments: Sequence[str]) -> None:
    ran = shell(script, *arguments)
    assert ran.code == 3 and ran.err.startswith("verify: stdout: cannot be written"), ran.err


@pytest.mark.parametrize("redirection", ["2>/dev/full", "0<&- 2>&-"])
def test_a_verdict_does_without_stderr(redirection: str) -> None:
    ran = shell(f"VERIFY {redirection}", "run", MODEL, UNSAT, "--device", "cpu")
    assert (ran.code, ran.out, ran.err) == (0, "unsat\n", "")
    assert shell(f"VERIFY {redirection}", "suite", "nowhere").code == 2


def test_partial_writes_are_gone_on_with(tmp_path: Path) -> None:
    """Where Python is told not to buffer, it forgets what a single write does not take; a limit on sizes makes it so."""
    script = (
        "from verify.process import answer, careful_streams\nwith careful_streams():\n    answer('x' * 20000)"
    )
    for unbuffered in ("", "1"):
        environment = {**ENVIRONMENT, "PYTHONUNBUFFERED": unbuffered}
        limited = f'trap "" XFSZ; ulimit -f 12; exec {sys.executable} -c "$0" >{tmp_path}/out'
        done = subprocess.run(["bash", "-c", limited, script], env=environment, capture_output=True, cwd=ROOT)
        assert done.returncode == 1 and b"UnwrittenError: stdout" in done.stderr


# -- signals

SCRIPT = """
import sys, time, pathlib
from verify.process import unwound_by_signals
from verify.output import Partial
with unwound_by_signals(), Partial("file", pathlib.Path(sys.argv[1])) as partial:
    try:
        print("ready", flush=True)
        exec(sys.argv[2])
    finally:
        print("unwinding", flush=True)
        exec(sys.argv[3])
"""
WAIT = "time.sleep(1000)"


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("kind", ENDING[:3])
def test_signals_unwind(kind: signal.Signals, tmp_path: Path) -> None:
    with started("-c", SCRIPT, tmp_path / "file", WAIT, "") as process:
        assert line(process) == "ready" and listing(tmp_path)
        process.send_signal(kind)
        ran = ended(process)
    assert ran.out == "unwinding\n" and not listing(tmp_path)
    assert ran.code == (
        -kind if kind == signal.SIGINT else 128 + kind
    )  # the interpreter's own way with Ctrl-C


@pytest.mark.parametrize("kind", ENDING[:3])
def test_a_second_signal_ends_at_once(kind: signal.Signals, tmp_path: Path) -> None:
    """Where unwinding hangs; no file in the making is left all the same."""
    with started("-c", SCRIPT, tmp_path / "file", WAIT, WAIT) as process:
        assert line(process) == "ready"
        process.send_signal(kind)
        assert line(process) == "unwinding"
        process.send_signal(kind)
        ran = ended(process)
    assert ran.code == (1 if kind == signal.SIGINT else 128 + kind) and not listing(tmp_path)


def test_what_swallows_a_signal_is_ended(tmp_path: Path) -> None:
    """After some seconds, without a second one."""
    patient = "import verify.process as p; p._PATIENCE = 0.1\n" + SCRIPT
    deaf = "while True:\n try: time.sleep(1000)\n except BaseException: pass"
    with started("-c", patient, tmp_path / "file", deaf, "") as process:
        assert line(process) == "ready"
        process.send_signal(signal.SIGTERM)
        assert ended(process).code == 143 and not listing(tmp_path)


def test_an_error_after_a_signal_is_the_signal(tmp_path: Path) -> None:
    """What a library makes of an exception that it did not expect."""
    turned = "try: time.sleep(1000)\nexcept BaseException: raise ImportError"
    with started("-c", SCRIPT, tmp_path / "file", turned, "") as process:
        assert line(process) == "ready"
        process.send_signal(signal.SIGTERM)
        ran = ended(process)
    assert ran.code == 143 and "ImportError" not in ran.err


@pytest.mark.parametrize("ignored", [signal.SIGHUP, signal.SIGINT])
def test_ignored_signals_stay_ignored(ignored: signal.Signals, tmp_path: Path) -> None:
    """As under nohup, or in the background of a script."""

    def ignore() -> None:
        signal.signal(ignored, signal.SIG_IGN)

    with started("-c", SCRIPT, tmp_path / "file", "sys.stdin.readline()", "", preexec_fn=ignore, stdin=subprocess.PIPE) as process:  # fmt: skip
        assert line(process) == "ready"
        process.send_signal(ignored)
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert ended(process).code == 0


def test_handlers_are_put_back() -> None:
    """The API's caller keeps its own."""
    from verify.process import unwound_by_signals

    before = [signal.getsignal(kind) for kind in ENDING[:3]]
    with unwound_by_signals():
        assert [signal.getsignal(kind) for kind in ENDING[:3]] != before
    assert [signal.getsignal(kind) for kind in ENDING[:3]] == before


# -- files of `verify run`


@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("kind", ENDING)
def test_a_search_that_is_ended(kind: signal.Signals, steps: int, tmp_path: Path) -> None:
    """After some steps: the old certificate is there, the log has whole lines; what SIGKILL leaves, the next run removes."""
    if steps == 4 and kind in (signal.SIGTERM, signal.SIGHUP):
        pytest.skip("as SIGINT")
    model, property_ = hard(tmp_path)
    log, proof = tmp_path / "log", tmp_path / "proof"
    proof.write_text("old")
    outputs = ["--certificate", proof, "--log-json", log]
    with started("-m", "verify", "run", model, property_, "--device", "cpu", *outputs) as process:
        until(lambda: (tmp_path / ".proof.verify-partial").exists())
        until(lambda: log.read_text().count("\n") >= steps)
        process.send_signal(kind)
        ran = ended(process)
    left = {".proof.verify-partial"} if kind == signal.SIGKILL else set()
    assert listing(tmp_path) == {"hard.onnx", "hard.vnnlib", "log", "proof"} | left
    assert proof.read_text() == "old" and ran.out == ""
    assert all(json.loads(one) for one in log.read_text().splitlines())
    if kind == signal.SIGKILL:
        assert shell("VERIFY", "run", MODEL, UNSAT, "--device", "cpu", *outputs).code == 0
        assert listing(tmp_path) == {"hard.onnx", "hard.vnnlib", "log", "proof"}
    else:
        assert ran.code == (1 if kind == signal.SIGINT else 128 + kind)
        assert "verify: interrupted" in ran.err if ran.code == 1 else f"ended by {kind.name}" in ran.err
        assert "Traceback" not in ran.err


@pytest.mark.parametrize("option", ["--certificate", "--log-json"])
def test_inputs_and_devices_are_refused(option: str, command: Command, tmp_path: Path) -> None:
    """Before the search, with nothing changed."""
    model, property_ = tmp_path / "model.onnx", tmp_path / "property.vnnlib"
    model.write_bytes(MODEL.read_bytes())
    property_.write_bytes(UNSAT.read_bytes())
    (tmp_path / "hard").hardlink_to(model)
    (tmp_path / "soft").symlink_to(property_)
    before = listing(tmp_path)
    for target in (
        model,
        property_,
        tmp_path / "hard",
        tmp_path / "soft",
        tmp_path,
        "/dev/null",
        "/dev/stdout",
    ):
        ran = command("run", model, property_, "--device", "cpu", option, target)
        assert (ran.code, ran.out) == (2, "") and option in ran.err and "choose" in ran.err, ran.err
    assert listing(tmp_path) == before
    assert (model.read_bytes(), property_.read_bytes()) == (MODEL.read_bytes(), UNSAT.read_bytes())


def test_one_file_for_two(command: Command, tmp_path: Path) -> None:
    ran = command("run", MODEL, UNSAT, "--log-json", tmp_path / "a", "--certificate", tmp_path / "a")
    assert (ran.code, ran.out) == (2, "") and "is that of --certificate too" in ran.err
    assert not listing(tmp_path)


def test_a_certificate_is_not_trimmed_over_an_input(command: Command, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    assert command("run", MODEL, UNSAT, "--device", "cpu", "--certificate", proof).code == 0
    before = proof.read_bytes()
    for target in (proof, MODEL, UNSAT):
        ran = command("certificate", "trim", proof, MODEL, UNSAT, target)
        assert ran.code == 2 and "which is read" in ran.err
    assert proof.read_bytes() == before and listing(tmp_path) == {"proof"}
    assert command("certificate", "trim", proof, MODEL, UNSAT, tmp_path / "thin").code == 0


def test_a_log_is_opened_after_the_inputs_are_read(command: Command, tmp_path: Path) -> None:
    """What cannot be read leaves an old log as it is."""
    log = tmp_path / "log"
    log.write_text("old")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    for model in (tmp_path / "bad.onnx", tmp_path / "none.onnx"):
        assert command("run", model, UNSAT, "--log-json", log).code == 2
    assert log.read_text() == "old"


LIMITED = "trap '' XFSZ; ulimit -f {blocks}; VERIFY"


@pytest.mark.parametrize(("property_", "answer"), [(UNSAT, "unsat\n"), (SAT, "sat\nX float32 [1,4]\n")])
def test_a_certificate_that_does_not_fit(property_: Path, answer: str, tmp_path: Path) -> None:
    """A limit on files' sizes, as a full disk: code 3, no file, and what the search found is on stderr."""
    options = ["--device", "cpu", "--certificate", tmp_path / "proof"]
    ran = shell(LIMITED.format(blocks=0), "run", MODEL, property_, *options)
    assert (ran.code, ran.out) == (3, "") and "File too large" in ran.err and "Traceback" not in ran.err
    assert "the search's answer was:\n" + answer in ran.err
    assert not listing(tmp_path)


def test_a_log_that_does_not_fit(tmp_path: Path) -> None:
    """The search goes on; its answer is on stderr, with code 3."""
    ran = shell(
        LIMITED.format(blocks=0), "run", MODEL, UNSAT, "--device", "cpu", "--log-json", tmp_path / "log"
    )
    assert (ran.code, ran.out) == (3, "")
    assert "--log-json" in ran.err and "the search's answer was:\nunsat\n" in ran.err
    assert (tmp_path / "log").read_text() == ""


@pytest.mark.parametrize("target", ["file", "new"])
@pytest.mark.parametrize("option", ["--certificate", "--log-json"])
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_what_is_read_only(option: str, target: str, command: Command, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "file").write_text("old")
    (closed / "file").chmod(0o400)
    closed.chmod(0o500)
    ran = command("run", MODEL, UNSAT, "--device", "cpu", option, closed / target)
    closed.chmod(0o700)
    assert (ran.code, ran.out) == (3, "") and "Permission denied" in ran.err
    assert listing(closed) == {"file"} and (closed / "file").read_text() == "old"


def test_a_check_takes_its_processes_along(tmp_path: Path) -> None:
    """When it is ended, and when it is killed."""
    proof = tmp_path / "proof"
    assert shell("VERIFY", "run", MODEL, UNSAT, "--device", "cpu", "--certificate", proof).code == 0
    for kind in (signal.SIGTERM, signal.SIGKILL):
        arguments = ["check", "--exact", "--jobs", "2", proof, MODEL, UNSAT]
        with started("-m", "verify", *arguments) as process:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            until(lambda children=children: len(children.read_text().split()) >= 2)
            pids = children.read_text().split()
            process.send_signal(kind)
            process.wait()
            until(lambda pids=pids: not any(map(running, pids)))


def running(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
