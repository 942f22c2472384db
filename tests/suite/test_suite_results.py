"""The file of results: columns, rows that are cut off, and what is counted."""

from __future__ import annotations

import csv
from contextlib import closing
from pathlib import Path

import pytest

from verify.errors import InputError
from verify.suite.instances import Instance
from verify.suite.results import Judged, Results, Row, judged, summaries


def instance(name: str, expected: str = "", benchmark: str = "f") -> Instance:
    return Instance(benchmark, "net.onnx", name, 10.0, expected, Path("net.onnx"), Path(name))


def row(name: str, result: str, seconds: float = 1.0, benchmark: str = "f") -> Row:
    return Row(benchmark, "net.onnx", name, 0.0, result, seconds)


def rows(path: Path) -> list[Row]:
    with closing(Results(path)) as results:
        return results.rows


def test_columns_and_order(tmp_path: Path) -> None:
    """VNN-COMP's, without a header, in the file at once."""
    path = tmp_path / "new" / "results.csv"
    with closing(Results(path)) as results:
        results.append(Row("f", "a, b.onnx", "p.vnnlib", 1.25, "unsat", 2.5))
        assert list(csv.reader(path.read_text().splitlines())) == [
            ["f", "a, b.onnx", "p.vnnlib", "1.250", "unsat", "2.500"]
        ]
        results.append(row("q", "sat"))
    assert rows(path) == results.rows and len(results.rows) == 2


def test_a_line_that_was_cut_off_is_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text(row("p", "sat").line() + row("q", "unsat").line()[:-5])
    with closing(Results(path)) as results:
        assert results.rows == [row("p", "sat")]
        results.append(row("q", "sat"))
    assert rows(path) == [row("p", "sat"), row("q", "sat")]


@pytest.mark.parametrize("text", ["notes", "a,b\n", "f,n,p,0,sat,soon\n", 'f,n,p,0,"sat\n', "\xff\n"])
def test_other_files_are_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.csv"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"results\.csv.*not a row of results.*choose another file"):
        Results(path)
    assert path.read_text(encoding="latin-1") == text


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="choose a file that can be written to"):
        Results(tmp_path / "file" / "results.csv")


def test_instances_that_are_listed_twice_have_a_row_each() -> None:
    found = judged([instance("p"), instance("p"), instance("q")], [row("p", "sat"), row("z", "sat")])
    assert [one.result for one in found] == ["sat", "not run", "not run"]


@pytest.mark.parametrize(
    ("result", "expected", "contradiction"),
    [("sat", "unsat", True), ("unsat", "sat", True), ("sat", "sat", False), ("sat", "", False), ("timeout", "sat", False)],
)  # fmt: skip
def test_contradictions(result: str, expected: str, contradiction: bool) -> None:
    assert Judged(instance("p", expected), row("p", result)).contradiction == contradiction


def test_summaries() -> None:
    """Words that are none of VNN-COMP's count as errors; undecided and contradicted ones cost twice their limit."""
    instances = [instance("a", "sat"), instance("b", "sat"), instance("c"), instance("d"),
                 instance("e", benchmark="g")]  # fmt: skip
    rows = [row("a", "sat", 1), row("b", "unsat", 2), row("c", "run_instance_timeout", 3),
            row("e", "unsat", 4, "g")]  # fmt: skip
    first, second, everything = summaries(judged(instances, rows))
    assert first.counts == {"sat": 1, "unsat": 1, "unknown": 0, "timeout": 0, "error": 1, "not run": 1}
    assert (first.benchmark, first.instances, first.decided, first.contradictions) == ("f", 4, 2, 1)
    assert (first.seconds, first.par2) == (6.0, (1 + 20 + 20 + 20) / 4)
    assert (second.benchmark, second.par2) == ("g", 4.0)
    assert (everything.benchmark, everything.instances) == ("all", 5)
