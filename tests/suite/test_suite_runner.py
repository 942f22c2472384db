"""Workers that crash, hang, exit, die at their start and grow old: the suite goes on, and nothing of them is left."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from fakes import Fakes, Unready, instance
from nets import property_text
from patience import PATIENCE

from verify.request import Request
from verify.suite import runner, worker
from verify.suite.runner import run
from verify.suite.settings import Ended, Settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def fakes(tmp_path: Path) -> Fakes:
    return Fakes(str(tmp_path / "log"))


def suite(tmp_path: Path, settings: Settings, *words: str) -> dict[str, Ended]:
    """What came out for each property, in the order in which it came."""
    todo = [instance(tmp_path / f"p{at}.{word}", word) for at, word in enumerate(words)]
    found = list(run(todo, settings))
    assert len(found) == len(todo)
    return {Path(one.instance.vnnlib).name: one for one in found}


def alive(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_crashes_are_errors_of_their_instance_alone(tmp_path: Path, fakes: Fakes) -> None:
    found = suite(tmp_path, Settings(deciders=fakes), "sat", "crash", "exit", "unsat")
    assert [one.answer.result for one in found.values()] == ["sat", "error", "error", "unsat"]
    assert "SIGKILL; memory may have run out" in found["p1.crash"].answer.reason
    assert "ended with code 7" in found["p2.exit"].answer.reason
    assert len({process for process, _ in fakes.lines()}) == 3
    assert not any(alive(process) for process, _ in fakes.lines())
    assert found["p0.sat"].start_seconds > 0 == found["p0.sat"].answer.healthy - 1


def test_what_hangs_is_killed_after_its_limit_and_the_grace(
    tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others go on beside it, while a pretended clock stands still until they are done and it hangs."""
    others_done = False

    def clock() -> float:
        return 2.0 if others_done and "hang" in [name for _, name in fakes.lines()] else 0.0

    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=clock))
    words = ("hang", "unsat", "unknown", "sat")
    todo = [instance(tmp_path / word, word, 1.5) for word in words]
    found = run(todo, Settings(jobs=2, grace=0.5, deciders=fakes))
    assert [next(found).answer.result for _ in words[1:]] == list(words[1:])
    others_done = True
    (late,) = found
    assert (late.answer.result, late.seconds) == ("timeout", 2.0) and "killed" in late.answer.reason
    assert not any(alive(process) for process, _ in fakes.lines())


def test_workers_are_replaced(tmp_path: Path, fakes: Fakes) -> None:
    """After their share, and after an error that is not the input's."""
    suite(tmp_path, Settings(restart=2, deciders=fakes), "sat", "sat", "error", "sat", "sat")
    processes = [process for process, _ in fakes.lines()]
    assert processes[0] == processes[1] and processes[3] == processes[4]
    assert len(set(processes)) == 3


def test_workers_that_do_not_start(tmp_path: Path) -> None:
    found = suite(tmp_path, Settings(deciders=Unready()), "sat")
    assert found["p0.sat"].answer.result == "error"
    assert "ended with code 5" in found["p0.sat"].answer.reason


def test_closing_ends_the_workers(tmp_path: Path, fakes: Fakes) -> None:
    todo = [instance(tmp_path / "a", "sat"), instance(tmp_path / "b", "hang")]
    found = run(todo, Settings(deciders=fakes))
    assert next(found).answer.result == "sat"
    found.close()  # or it would hang
    assert not any(alive(process) for process, _ in fakes.lines())


def test_the_real_answers(tmp_path: Path) -> None:
    """In this process: verdicts, counterexamples, and errors of the input and of ours."""
    family = ROOT / "properties" / "controller"
    model = str(family / "onnx" / "controller.onnx")

    def decided(name: str, timeout: float = PATIENCE, network: str = model) -> worker.Answer:
        return worker.decide(Request(network, str(family / "vnnlib" / name), timeout, "cpu"))

    plain = decided("ordered_thrusts.vnnlib")
    assert (plain.result, plain.vacuous) == ("unsat", False)
    (tmp_path / "empty.vnnlib").write_text(property_text([1.0] * 4, [0.0] * 4, 4, "(<= Y_0 Y_1)"))
    vacuous = decided(str(tmp_path / "empty.vnnlib"))
    assert (vacuous.result, vacuous.vacuous) == ("unsat", True)
    sat = decided("thrust_bound_tight.vnnlib")
    assert sat.result == "sat" and sat.witness is not None
    assert sat.witness.startswith("((X_0 ") and sat.witness.endswith("))\n")
    assert decided("thrust_bound.vnnlib", 1e-6).result == "timeout"
    missing = decided("none.vnnlib")
    assert missing.result == "error" and "check the path" in missing.reason and missing.healthy


@pytest.mark.parametrize(
    ("error", "reason"),
    [(MemoryError(), "out of memory"), (ZeroDivisionError("zero"), "internal error: Zero")],
)
def test_errors_of_ours_make_a_worker_unhealthy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, reason: str
) -> None:
    def fail(request: Request) -> worker.Answer:
        raise error

    monkeypatch.setattr(worker, "_verdict", fail)
    answer = worker.decide(Request("m", "p", 1.0))
    assert answer.result == "error" and answer.reason.startswith(reason) and not answer.healthy
