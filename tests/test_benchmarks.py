"""The measuring scripts: what they choose, derive and write; and the documented tables are those of the measured data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import scale, throughput, tightness
from benchmarks.common import RESULTS, ROOT, Case, cases, machine_line, read, root, write
from benchmarks.tightness import CROWN, INTERVAL, closed, measure_case, runs


def test_cases_are_the_first_rows_of_each_chosen_network(tmp_path: Path) -> None:
    """With or without a heading, gzipped or not."""
    rows = ["onnx,vnnlib,timeout_s"] + [
        f"{net}.onnx,p{i}.vnnlib,1" for net in ("big", "small") for i in range(3)
    ]
    (tmp_path / "instances.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "small.onnx").touch()
    (tmp_path / "big.onnx.gz").touch()
    found = cases([str(tmp_path)], 2)
    assert [(case.network, case.property) for case in found] == [
        ("big", "p0"), ("big", "p1"), ("small", "p0"), ("small", "p1"),
    ]  # fmt: skip
    assert (found[0].model.name, found[2].model.name) == ("big.onnx.gz", "small.onnx")
    assert {case.network for case in cases([f"{tmp_path}:^sm"], 1)} == {"small"}


@pytest.fixture(scope="module")
def case() -> Case:
    """A small shipped problem."""
    return cases([str(ROOT / "properties" / "digits_fc")], 1)[0]


def test_shares_of_the_gap(case: Case) -> None:
    """CROWN closes nothing, the best run everything, and no climb loses what it started from."""
    with torch.no_grad():
        rows = list(measure_case(case, runs([5], [20])))
    share = {row["method"]: row["closed"] for row in rows}
    assert share[CROWN] == 0
    assert max(share.values()) == 1
    assert share[INTERVAL] < 0
    assert min(value for method, value in share.items() if method != INTERVAL) > -1e-3
    assert tightness.report(rows).count("\n") == len(rows) + 1


def test_no_gap_is_no_share() -> None:
    """Where CROWN is as good as anything there is nothing to close."""
    assert closed(-1.0, -1.0, -1.0 + 1e-9) is None
    assert closed(-1.5, -2.0, -1.0) == 0.5


@pytest.mark.parametrize("lease", [0.01, 0.1])
def test_a_simulated_search_splits_its_whole_tree(lease: float) -> None:
    """As many subproblems as it has, whoever splits them; and nobody works more than all the time."""
    problem = scale.prepare(scale._MODEL, scale._PROPERTY)
    for workers in (1, 4):
        row = scale.simulated(problem, workers, scale.Asked(300, 0.01, 50, 8, lease, 0))
        assert row.efficiency * row.workers * row.makespan == pytest.approx(300 * 0.01)
        assert 0 < row.efficiency < 1 and row.messages >= 2 and row.bytes


def test_who_has_nothing_to_do_gets_of_what_others_have() -> None:
    """A lease that would go on for ever comes back when it is asked for: by the simulated clock, all work nearly all the time."""
    problem = scale.prepare(scale._MODEL, scale._PROPERTY)
    row = scale.simulated(problem, 8, scale.Asked(4000, 0.02, 50, 8, 1e6, 0))
    assert row.efficiency > 0.75 and row.full is not None


def test_throughput_of_a_batch(case: Case) -> None:
    """An iteration costs at least its maps."""
    with torch.no_grad():
        row = throughput.measure(root(case), batch=4, seconds=0.0)
    assert row["iteration_us"] > row["maps_us"] > 0


def test_data_round_trip(tmp_path: Path) -> None:
    """What is written is what is read."""
    data = {
        "machine": {"torch": "2"},
        "rows": [{"bound": 0.1, "closed": None}, {"bound": -1.0, "closed": 1.0}],
    }
    write(tmp_path / "folder" / "data.json", data)
    assert read(tmp_path / "folder" / "data.json") == data


@pytest.mark.parametrize(
    ("name", "report"), [("tightness", tightness.report), ("throughput", throughput.report)]
)
def test_documented_tables_are_the_measured_ones(name: str, report: object) -> None:
    """docs/benchmarks.md shows benchmarks/results/ as it is."""
    data = read(RESULTS / f"{name}.json")
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert machine_line(data["machine"]) in text
    assert callable(report)
    assert report(data["rows"]) in text
