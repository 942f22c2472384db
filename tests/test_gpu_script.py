"""`make gpu` runs where there is no GPU, tiny, so that nothing in it is untried where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from pretend import pretended

from benchmarks import gpu
from benchmarks.common import ROOT, read
from benchmarks.gpu import Report, Task, main
from verify.network import rounding_model

# libraries choose by a batch's size, which here none does
SMALL = 2
PARTS = ("rounding", "waits", "throughput", "store", "agreement", "certificates", "soundness", "problems")


def run(folder: Path, *options: str) -> tuple[int, str, dict[str, Any]]:
    """The exit status, what it printed, and its data."""
    found = CliRunner().invoke(main, ["--tiny", "--output", str(folder), *options], catch_exceptions=False)
    data = read(folder / "gpu.json") if (folder / "gpu.json").exists() else {}
    return found.exit_code, found.output, data


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding_model, "_BATCH", SMALL)


def test_everything_on_a_cpu(tmp_path: Path) -> None:
    code, page, data = run(
        tmp_path, "--device", "cpu", "--instances", f"{ROOT / 'properties' / 'controller'}"
    )
    assert data["failures"] == []
    assert code == 0
    assert (tmp_path / "gpu.md").read_text() in page
    for part in PARTS:
        assert data[part], part
        assert f"## {part}" in page
        assert data["seconds"][part] >= 0
    assert all(row["error"] <= 1 for row in data["rounding"])
    assert all(row["verdict"] == row["expected"] == row["cpu"] for row in data["agreement"])
    for row in data["throughput"]:
        assert row["iteration_us"] > 0 and row["children_a_second"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a true device")
def test_everything_on_a_pretended_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing takes its true time, but no tensors of two devices meet."""
    for name in ("agreement", "certificates", "soundness"):  # searches are tried there by others
        monkeypatch.setattr(gpu, name, lambda *_: iter([{"wrong": False}]))
    with pretended() as journal:
        code, page, data = run(tmp_path, "--device", "cuda")
    assert data["failures"] == []
    assert code == 0
    assert journal.operations
    assert "# verify on cuda:0 (pretended)" in page
    assert data["waits"] == [
        {"network": "tiny", "maps": 0, "iteration": 0, "choose": 0, "prove": 0, "step": 0}
    ]


def test_what_is_wrong_or_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And stops no other part."""
    monkeypatch.setattr(gpu, "excess", lambda *_: 2.0)
    monkeypatch.setattr(gpu, "parts", lambda task: {
        "rounding": (0.5, lambda: gpu.rounding(task)), "broken": (0.5, lambda: 1 / 0), "last": (0.1, lambda: iter([{"x": 1}])),
    })  # fmt: skip
    code, page, data = run(tmp_path, "--device", "cpu")
    assert code == 1
    assert "**rounding: {'map': 'dense 10x100', 'error': 2.0, 'wrong': True}**" in page
    assert "**broken: ZeroDivisionError: division by zero**" in page
    assert data["last"] == [{"x": 1}]


def test_time_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part has its share, and at least a row; what is late in a row ends everything, with what there is."""
    many = lambda: ({"x": i} for i in range(10**9))  # noqa: E731
    monkeypatch.setattr(gpu, "parts", lambda task: {"first": (1.0, many), "second": (1.0, many)})
    report = Report(Task(torch.device("cpu"), True, 0.2), tmp_path)
    report.run()
    assert 1 <= len(report.data["first"]) < 10**8 and report.data["second"]
    monkeypatch.setattr("os._exit", lambda code: (_ for _ in ()).throw(SystemExit(code)))
    with pytest.raises(SystemExit):
        gpu._late(report)
    assert read(tmp_path / "gpu.json")["failures"] == ["time ran out before everything was done"]


def test_there_is_no_such_device(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        code, said, data = run(tmp_path / "none", "--device", "cuda")
        assert (code, data) == (2, {})
        assert "torch sees no CUDA devices" in said
