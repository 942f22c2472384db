"""The command: rows, counterexamples, report, exit codes, and a suite that is killed and started again."""

from __future__ import annotations

import csv
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fakes import WITNESS, Fakes, folder
from patience import PATIENCE, until

from verify import output
from verify.checker.checking import check
from verify.cli.suite import named_path, suite
from verify.errors import InputError, UnwrittenError
from verify.suite import settings as suite_settings
from verify.suite.instances import read_instances

ROOT = Path(__file__).resolve().parents[2]


def table_of(path: Path) -> list[list[str]]:
    """The rows of a csv file."""
    return list(csv.reader(path.read_text().splitlines()))


def call(*arguments: object) -> Result:
    """The command in this process; `return_value` is what main() exits with."""
    return CliRunner().invoke(suite, list(map(str, arguments)), standalone_mode=False)


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """Workers that do as told instead of verifying."""
    fakes = Fakes(str(tmp_path / "log"))
    monkeypatch.setattr(suite_settings, "Settings", partial(suite_settings.Settings, deciders=fakes))
    return fakes


def test_searches_are_kept_until_they_are_done(tmp_path: Path) -> None:
    """A folder for each instance, which is gone once its verdict is kept."""
    kept = tmp_path / "kept"
    settings = suite_settings.Settings(checkpoint=kept)
    table = folder(tmp_path / "family", ["unsat", "unsat"], ["unsat", "unsat"])
    first, second = (settings.request(one).checkpoint for one in read_instances([table]))
    assert first is not None and first.parent == kept and first != second
    assert suite_settings.Settings().request(read_instances([table])[0]).checkpoint is None
    problems = ROOT / "properties" / "controller"
    lines = (problems / "instances.csv").read_text().splitlines()
    table = tmp_path / "instances.csv"
    cells = [line.split(",") for line in lines[1:2]]
    table.write_text("".join(f"{problems / onnx},{problems / vnnlib},60\n" for onnx, vnnlib, *_ in cells))
    done = call(table, "--out", tmp_path / "r.csv", "--checkpoint", kept)
    assert done.return_value == 0, done.output
    assert table_of(tmp_path / "r.csv")[0][4] in ("sat", "unsat")
    assert kept.is_dir() and not list(kept.iterdir())


def test_results_report_and_counterexamples(tmp_path: Path, fakes: Fakes) -> None:
    table = folder(tmp_path / "family", ["unsat", "sat", "unknown", "crash"], ["unsat", "sat", "", "sat"])
    out, report, found = tmp_path / "r.csv", tmp_path / "r.html", tmp_path / "found"
    done = call(table, "--out", out, "--report", report, "--witnesses", found)
    assert done.return_value == 0, done.output
    rows = table_of(out)
    assert [row[4] for row in rows] == ["unsat", "sat", "unknown", "error"]
    assert rows[0][:3] == [
        "family",
        str(table.parent / "net.onnx"),
        str(table.parent / "vnnlib" / "p0.vnnlib"),
    ]
    assert float(rows[0][3]) > 0 == float(rows[1][3]) and all(float(row[5]) >= 0 for row in rows)
    assert {path.relative_to(found).as_posix(): path.read_text() for path in found.rglob("*.*")} == {
        "family/net_p1.counterexample": WITNESS
    }
    assert "because of unknown" in report.read_text() and "memory may have run out" in report.read_text()
    assert not done.stdout and "[4/4] family" in done.stderr and "│ family │" in done.stderr


def test_an_earlier_run_is_shown_beside(tmp_path: Path, fakes: Fakes) -> None:
    table, before, report = (
        folder(tmp_path / "family", ["unsat", "unknown"]),
        tmp_path / "b.csv",
        tmp_path / "r",
    )
    assert call(table, "--out", before).return_value == 0
    before.write_text(before.read_text().replace(",unsat,", ",timeout,"))
    done = call(table, "--out", tmp_path / "n.csv", "--compare", before, "--report", report)
    assert done.return_value == 0 and "on 2 instances: 1 more decided, 0 fewer\n" in done.stderr
    assert "unsat, timeout before" in report.read_text()
    for file, words in ((tmp_path / "absent", "--compare"), (table, "not a row of results")):
        error = call(table, "--compare", file).exception
        assert isinstance(error, InputError) and words in str(error)
    error = call(table, "--compare", before, "--out", before).exception
    assert isinstance(error, InputError) and "is read" in str(error)


def test_vacuous_properties_are_said_to_be(tmp_path: Path, fakes: Fakes) -> None:
    """In their lines; the columns are VNN-COMP's."""
    done = call(folder(tmp_path / "family", ["vacuous", "unsat"]), "--out", tmp_path / "r.csv")
    assert [row[4] for row in table_of(tmp_path / "r.csv")] == ["unsat", "unsat"]
    assert done.stderr.count("(the property is vacuous)") == 1


def test_contradictions_are_loud(tmp_path: Path, fakes: Fakes) -> None:
    """In the run that finds them and in one that finds them in the file."""
    table = folder(tmp_path / "family", ["unsat", "unsat"], ["sat", "unsat"])
    for _ in range(2):
        done = call(table, "--out", tmp_path / "r.csv")
        assert done.return_value == 1
        assert "CONTRADICTION: family" in done.stderr
    assert len(fakes.lines()) == 2


def test_rows_go_to_stdout_without_a_file(tmp_path: Path, fakes: Fakes) -> None:
    done = call(folder(tmp_path / "family", ["unsat"]).parent, "--timeout", 5)
    assert [row[4] for row in csv.reader(done.stdout.splitlines())] == ["unsat"]


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)


@contextmanager
def suite_at(table: Path, out: Path, log: Path, begun: int) -> Iterator[subprocess.Popen[str]]:
    """A suite in a process of its own, that has begun so many instances."""
    script = Path(__file__).parent / "fakes.py"
    process = subprocess.Popen([sys.executable, script, table, out, log], env={**os.environ, "PYTHONPATH": str(ROOT)},
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    try:
        until(lambda: log.exists() and len(log.read_text().splitlines()) == begun)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("kind", ENDING)
def test_a_suite_that_is_ended_goes_on(kind: signal.Signals, tmp_path: Path) -> None:
    """With the instance that it was at, each row once; its worker is gone soon after it, and nothing else is left."""
    table = folder(tmp_path / "family", ["sat", "unsat", "hang", "unknown"], timeout=600)
    out, log = tmp_path / "r.csv", tmp_path / "log"
    with suite_at(table, out, log, 3) as process:
        process.send_signal(kind)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == (128 + kind if kind in ENDING[1:3] else -kind)
    assert ("│ family │" in err) == (kind != signal.SIGKILL)
    worker = log.read_text().split()[-2]
    until(lambda: not running(worker))
    assert [row[4] for row in table_of(out)] == ["sat", "unsat"]
    assert set(os.listdir(tmp_path)) == {"family", "log", "r.csv"}
    with out.open("a") as file:
        file.write("family,torn")
    (table.parent / "vnnlib" / "p2.vnnlib").write_text("unsat")
    from fakes import main

    main(str(table), str(out), str(log))
    assert [row[4] for row in table_of(out)] == ["sat", "unsat", "unsat", "unknown"]
    assert [line.split()[1] for line in log.read_text().splitlines()] == [
        f"p{at}.vnnlib" for at in (0, 1, 2, 2, 3)
    ]


def test_two_suites_do_not_write_to_one_file(tmp_path: Path, fakes: Fakes) -> None:
    """The second is refused before it has begun; it may go on once the first was killed."""
    table = folder(tmp_path / "family", ["sat", "hang"], timeout=600)
    out, log = tmp_path / "r.csv", tmp_path / "first"
    (tmp_path / "link.csv").symlink_to(out)
    with suite_at(table, out, log, 2):
        for name in (out, tmp_path / "link.csv"):
            done = call(table, "--out", name)
            assert isinstance(done.exception, InputError) and "another process" in str(done.exception)
        assert not Path(fakes.log).exists()
    (table.parent / "vnnlib" / "p1.vnnlib").write_text("unsat")
    assert call(table, "--out", out).return_value == 0
    assert [row[4] for row in table_of(out)] == ["sat", "unsat"]


def test_a_suite_says_where_it_cannot_lock(
    tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(output.fcntl, "flock", no_locks)
    done = call(folder(tmp_path / "family", ["sat"]), "--out", tmp_path / "r.csv")
    assert done.return_value == 0 and "cannot be locked" in done.stderr


@pytest.mark.parametrize("option", ["--out", "--report"])
def test_inputs_and_devices_are_not_written(option: str, tmp_path: Path, fakes: Fakes) -> None:
    table = folder(tmp_path / "family", ["sat"])
    (tmp_path / "soft").symlink_to(table)
    (tmp_path / "hard").hardlink_to(table.parent / "net.onnx")
    os.mkfifo(tmp_path / "pipe")
    property_ = table.parent / "vnnlib" / "p0.vnnlib"
    names = ["soft", "hard", "pipe", table, property_, "/dev/null", "/dev/full"]
    for target in names:
        done = call(table, option, tmp_path / target)
        assert isinstance(done.exception, InputError) and option in str(done.exception), target
    done = call(table, "--out", tmp_path / "r", "--report", tmp_path / "r")
    assert isinstance(done.exception, InputError) and "--out too" in str(done.exception)
    assert not Path(fakes.log).exists() and not (tmp_path / "r").exists() and property_.read_text() == "sat"


class Full:
    """A disk that takes no more, from some file on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.name, self.sync = name, os.fsync
        monkeypatch.setattr(output.os, "fsync", self)

    def __call__(self, number: int) -> None:
        if self.name in os.readlink(f"/proc/self/fd/{number}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        self.sync(number)


@pytest.mark.parametrize(
    ("name", "rows", "said"),
    [("r.csv", [], "the row was: family,"), ("counterexample", ["sat"], "the counterexample was:\n" + WITNESS),
     ("r.html", ["sat", "unsat"], "--report")],
)  # fmt: skip
def test_a_full_disk_loses_nothing(
    name: str, rows: list[str], said: str, tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code 3; what is in no file is in the message."""
    table = folder(tmp_path / "family", ["sat", "unsat"])
    out, report, found = tmp_path / "r.csv", tmp_path / "r.html", tmp_path / "found"
    Full(monkeypatch, name)
    done = call(table, "--out", out, "--report", report, "--witnesses", found)
    assert isinstance(done.exception, UnwrittenError) and done.exception.exit_code == 3
    assert said in str(done.exception) and "No space left" in str(done.exception)
    if rows:
        assert [row[4] for row in table_of(out)] == rows
    assert not list(tmp_path.rglob(".*"))


def running(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("option", [["--timeout", "0"], ["--jobs", "0"], ["--restart", "0"], []])
def test_usage(option: list[str]) -> None:
    done = CliRunner().invoke(suite, option + ["x"] * bool(option))
    assert done.exit_code == 2


def test_bad_input(tmp_path: Path, fakes: Fakes) -> None:
    """Is found before anything is decided."""
    table = folder(tmp_path / "family", ["sat"])
    for arguments, message in (
        ([tmp_path / "none.csv"], "check the path"),
        ([table, "--out", table / "r.csv"], "choose a file that can be written to"),
        ([table, "--out", table], "choose another file"),
    ):
        done = call(*arguments)
        assert isinstance(done.exception, InputError) and message in str(done.exception)
    assert not Path(fakes.log).exists()


def test_counterexamples_are_named_as_the_organisers_do(tmp_path: Path) -> None:
    home = tmp_path / "safenlp" / "1.0"
    (home / "vnnlib" / "medical").mkdir(parents=True)
    (home / "onnx" / "medical").mkdir(parents=True)
    (home / "onnx" / "medical" / "net_0.onnx").touch()
    (home / "vnnlib" / "medical" / "prop_1.vnnlib").touch()
    (home / "instances.csv").write_text("onnx/medical/net_0.onnx,vnnlib/medical/prop_1.vnnlib,20\n")
    (one,) = read_instances([home])
    assert named_path(Path("d"), one) == Path("d/safenlp/medical_net_0_prop_1.counterexample")


def test_counterexamples_of_one_name_are_all_kept(tmp_path: Path, fakes: Fakes) -> None:
    """Of tables in folders of the same name."""
    tables = [folder(tmp_path / place / "family", ["sat"]) for place in ("a", "b", "c")]
    assert call(*tables, "--out", tmp_path / "r.csv", "--witnesses", tmp_path / "found").return_value == 0
    assert {path.name for path in (tmp_path / "found").rglob("*.counterexample")} == {
        "net_p0.counterexample", "net_p0_2.counterexample", "net_p0_3.counterexample",
    }  # fmt: skip


def test_shipped_problems(tmp_path: Path) -> None:
    """Really decided, by two workers, one of which is replaced."""
    out, found, proofs = tmp_path / "r.csv", tmp_path / "found", tmp_path / "proofs"
    family = ROOT / "properties" / "controller"
    files = "--out", out, "--witnesses", found, "--certificates", proofs, "--report", tmp_path / "page"
    done = call(family, *files, "--jobs", 2, "--restart", 6, "--device", "cpu")
    assert done.return_value == 0, done.output
    verdicts = {Path(row[2]).name: row[4] for row in table_of(out)}
    expected = {Path(row[1]).name: row[3] for row in table_of(family / "instances.csv")[1:]}
    assert verdicts == expected
    assert len(list(found.rglob("*.counterexample"))) == list(expected.values()).count("sat")
    for one in read_instances([family]):
        proof = proofs / "controller" / f"controller_{one.specification.stem}.cert"
        assert isinstance(one.model, Path) and check(proof, one.model, one.specification).proved
        assert f'<a href="proofs/controller/{proof.name}">certificate</a>' in (tmp_path / "page").read_text()
