"""The fuzzing that `make fuzz` does: that it sees crashes, hangs and tracebacks, keeps what it finds, and finds nothing here."""

from __future__ import annotations

import itertools
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import fuzz, fuzz_targets
from benchmarks.fuzz import Case, Farm, drawn, orderly


def crash() -> int:
    """Dies by a signal."""
    os.kill(os.getpid(), signal.SIGSEGV)
    return 0


def hang() -> int:
    """Never ends."""
    while True:
        time.sleep(1)


def broken() -> int:
    """Raises."""
    raise RuntimeError("out of order")


def unfit() -> int:
    """Ends with a code that stands for nothing."""
    return 17


@pytest.mark.parametrize(
    ("action", "complaint"),
    [(crash, "signal SIGSEGV"), (hang, "it hangs"), (broken, "exit code 70"), (unfit, "exit code 17")],
)
def test_findings_are_kept(
    action: Callable[[], int], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the complaint, how to do it again, and the output."""
    monkeypatch.setattr(fuzz, "HANG", 0.5 if action is hang else 60.0)
    monkeypatch.setitem(fuzz_targets.TARGETS, "bad", lambda *_: Case("bad", action, orderly, "again"))
    farm = Farm(tmp_path, 1)
    farm.run(iter([("bad", 3)]), math.inf)
    assert farm.found == [f"{tmp_path / 'bad-3'}: {complaint}"]
    assert (tmp_path / "bad-3" / "complaint.txt").read_text() == f"{complaint}\nagain\n"
    assert ("out of order" in (tmp_path / "bad-3" / "output.txt").read_text()) == (action is broken)


def test_every_target_is_drawn() -> None:
    """In a run of some length."""
    assert {name for name, _ in itertools.islice(drawn(0, ()), 200)} == set(fuzz_targets.TARGETS)


@pytest.mark.parametrize("target", [name for name in fuzz_targets.TARGETS if name != "tables"])
def test_some_cases_find_nothing(target: str, tmp_path: Path) -> None:
    """As the command runs them; what passes leaves nothing behind."""
    arguments = ["--cases", "3", "--only", target, "--jobs", "1", "--out", str(tmp_path)]
    result = CliRunner().invoke(fuzz.main, arguments)
    assert result.exit_code == 0, result.output
    assert list(tmp_path.iterdir()) == []


def test_a_false_proof_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checker that accepts everything is found out."""
    monkeypatch.setattr(fuzz_targets, "command", lambda *_: lambda: 0)
    kit = next(filter(None, map(fuzz_targets._kit, range(9))))
    monkeypatch.setattr(fuzz_targets, "_kit", lambda _: kit)
    with pytest.raises(AssertionError, match="false proof"):
        fuzz_targets._forged(tmp_path, 0)
