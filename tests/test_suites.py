"""Side-by-side runs, with shell scripts in the place of verifiers: they print what a file of the instance says, or hang."""

from __future__ import annotations

import gzip
import os
import shlex
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from patience import PATIENCE

from benchmarks import suites
from benchmarks.common import Row, read
from benchmarks.suites import OURS, Command, Ended, Suite, execute, instances, run

ECHO = "cat {vnnlib}"  # the "property" is what the command prints
SAT = "sh -c 'echo sat # {onnx} {vnnlib}'"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six instances of two networks, one of them gzipped; properties hold verdicts, the second one not the expected."""
    home = tmp_path / "family"
    home.mkdir()
    (home / "a.onnx").touch()
    (home / "b.onnx.gz").write_bytes(gzip.compress(b""))
    for index, word in enumerate(("sat", "unsat", "unknown")):
        (home / f"p{index}.vnnlib.gz").write_bytes(gzip.compress(word.encode()))
    rows = [
        f"{net}.onnx,p{index}.vnnlib,60,{'unknown' if index else 'sat'}" for net in "ab" for index in range(3)
    ]
    rows[1] = rows[1].replace("unknown", "sat")
    (home / "instances.csv").write_text("\n".join(["onnx,vnnlib,timeout_s,expected", *rows]) + "\n")
    return home


def suite(**templates: str) -> Suite:
    """A suite of fake commands with short limits, the first of them in this project's place."""
    return Suite(tuple(Command(name, template) for name, template in templates.items()), 5.0, 1.0)


def row(verdict: str, expected: str, wall: float = 1.0, command: str = OURS, onnx: str = "a") -> Row:
    """A measured row."""
    return {"folder": "f", "onnx": onnx, "vnnlib": "p", "command": command, "verdict": verdict, "expected": expected,
            "wall_seconds": wall}  # fmt: skip


def ended(stdout: str, killed: bool = False, stderr: str = "") -> Ended:
    """A process that printed that."""
    return Ended(0, 1.0, 1.0, killed, stdout, stderr)


@pytest.mark.parametrize(
    ("stdout", "killed", "expected"),
    [
        ("sat\nX float32 [1]\n0.5\n", False, "sat"), ("unsat", False, "unsat"), (" unknown ", False, "unknown"),
        ("timeout\n", False, "timeout"), ("violated\n", False, "error"), ("", False, "error"), ("", True, "timeout"),
        ("saturated", False, "error"), ("sat", True, "sat"),
    ],
)  # fmt: skip
def test_the_first_word_is_the_verdict(stdout: str, killed: bool, expected: str) -> None:
    assert suites.verdict(ended(stdout, killed)) == expected


def test_subproblems_are_read_where_they_are_told() -> None:
    told = "12 subproblems so far\nunsat: all closed (1 s, 9 clauses, 1,234 subproblems, depth 3)\n"
    assert suites.subproblems(ended("unsat", stderr=told)) == 1234
    assert suites.subproblems(ended("unsat", stderr="done\n")) is None


def test_instances_are_selected_once_and_spread(folder: Path) -> None:
    everything = instances([str(folder), f"{folder}:^a"], None)
    names = [(one.key["onnx"], one.key["vnnlib"]) for one in everything]
    assert names == [(f"{net}.onnx", f"p{index}.vnnlib") for net in "ab" for index in range(3)]
    assert [one.expected for one in everything] == ["sat", "sat", "unknown", "sat", "unknown", "unknown"]
    assert [one.key["vnnlib"] for one in instances([str(folder)], 3)] == [f"p{i}.vnnlib" for i in (0, 2, 1)]
    assert {one.case.network for one in instances([f"{folder}:b"], None)} == {"b"}


def test_selections_that_cannot_be(folder: Path, tmp_path: Path) -> None:
    for selection, message in (
        (str(tmp_path / "none"), "holds no instances.csv"), (f"{folder}:c", "selects no instance"), (f"{folder}:(", "("),
    ):  # fmt: skip
        with pytest.raises(click.BadParameter) as caught:
            instances([selection], None)
        assert message in caught.value.message
    (folder / "p1.vnnlib.gz").unlink()
    with pytest.raises(click.BadParameter, match=r"p1\.vnnlib is missing"):
        instances([str(folder)], None)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["cat {onnx} {vnnlib}"], "not NAME=CMD"),
        (["other="], "not NAME=CMD"),
        (["other=cat {onnx}"], "lacks {vnnlib}"),
        (["other=no-such-program {onnx} {vnnlib}"], "there is no program"),
        (["other=cat '{onnx} {vnnlib}"], "No closing quotation"),
        ([f"verify={SAT}"], "two commands have the name 'verify'"),
    ],
)
def test_commands_that_cannot_be(texts: list[str], message: str) -> None:
    with pytest.raises(click.BadParameter) as caught:
        suites.all_commands(texts)
    assert message in caught.value.message


def test_a_command_is_filled() -> None:
    """Values are put in once, whatever they hold, and stay single arguments; other braces are left alone."""
    command = suites.parsed("other=sh run.sh {onnx} {vnnlib} --limit={timeout} {}")
    filled = command.filled(Path("a {timeout}"), Path("p"), 60.0)
    assert filled == ["sh", "run.sh", "a {timeout}", "p", "--limit=60", "{}"]


def test_wrong_verdicts_are_never_solved() -> None:
    assert suites.wrong(row("sat", "unsat")) and not suites.solved(row("sat", "unsat"), 5)
    assert not suites.wrong(row("timeout", "unsat")) and not suites.solved(row("timeout", "unsat"), 5)
    assert suites.solved(row("sat", "unknown"), 5)
    assert not suites.solved(row("sat", "sat", wall=5.5), 5)  # too late


def test_par2() -> None:
    """Unsolved, wrong and late ones count twice the timeout."""
    rows = [
        row("sat", "sat", 1.0),
        row("unknown", "sat", 2.0),
        row("unsat", "sat", 3.0),
        row("sat", "sat", 6.0),
    ]
    assert suites.par2(rows, 5.0) == (1 + 10 + 10 + 10) / 4


def test_contradictions_are_found_within_an_instance() -> None:
    rows = [
        row("sat", "unknown"), row("unsat", "unknown", command="other"), row("unsat", "unknown", onnx="b"),
        row("timeout", "unknown", onnx="b", command="other"),
    ]  # fmt: skip
    assert suites.contradictions(rows) == [rows[:2]]
    (line,) = suites.warnings(rows)
    assert line == "CONTRADICTION: f a p: verify says sat, other says unsat"


def test_the_order_rotates(folder: Path, tmp_path: Path) -> None:
    """Every command comes first in turn, in a run that is gone on with as well."""
    todo, three = instances([str(folder)], None), suite(verify=ECHO, second=SAT, third=SAT)
    run(todo[:2], three, tmp_path / "results.json")
    data = run(todo, three, tmp_path / "results.json")
    first = [rows["command"] for rows in data["rows"][::3]]
    assert first == ["verify", "second", "third"] * 2
    assert [one["command"] for one in data["rows"][3:6]] == ["second", "third", "verify"]


def test_a_run_goes_on_where_it_stopped(folder: Path, tmp_path: Path) -> None:
    """What is there is not run again, and what was measured otherwise is not mixed in."""
    out, log = tmp_path / "results.json", tmp_path / "log"
    counted = suite(verify=f"sh -c 'echo $0 >> {log}; cat $1' {{onnx}} {{vnnlib}}")
    todo = instances([str(folder)], None)
    before = run(todo[:2], counted, out)["rows"]
    after = run(todo, counted, out)["rows"]
    assert after[:2] == before and read(out)["rows"] == after
    assert [one["verdict"] for one in after] == ["sat", "unsat", "unknown"] * 2
    assert len(log.read_text().splitlines()) == len(after) == len(todo)
    assert {path.name for path in tmp_path.iterdir()} == {"family", "results.json", "log"}
    with pytest.raises(click.ClickException, match="other settings"):
        run(todo, suite(verify=SAT), out)
    out.write_text("[]")
    with pytest.raises(click.ClickException, match="no data of this script"):
        run(todo, counted, out)


def test_processes_are_killed_at_the_limit_with_all_their_children(tmp_path: Path) -> None:
    """What the first process started ends with it, whether it was killed or not."""
    found = execute(["sh", "-c", "sleep 10000 & echo $!; wait"], 0.5, tmp_path)
    assert found.killed and found.code == -9 and found.wall >= 0.5
    left = execute(["sh", "-c", "sleep 10000 & echo $!"], PATIENCE, tmp_path)
    assert not left.killed and left.code == 0
    started = [one.stdout for one in (found, left) if one.stdout]  # a busy machine may kill before it starts
    assert not any(running(int(process)) for process in started) and left.stdout in started


def running(process: int) -> bool:
    """Whether a process is still there after a moment (it may wait to be reaped by whoever inherited it)."""
    for _ in range(500):
        try:
            os.kill(process, 0)
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return False
        except (ProcessLookupError, FileNotFoundError):
            return False
        time.sleep(0.02)
    return True


def test_cpu_seconds_are_the_commands_own(tmp_path: Path) -> None:
    asleep = execute(["sleep", "1"], PATIENCE, tmp_path)
    assert asleep.cpu < 0.5 <= 0.5 * asleep.wall
    busy = "i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done"
    assert execute(["sh", "-c", f"sh -c '{busy}'; exit 3"], PATIENCE, tmp_path).cpu > 0.02


def test_from_the_command_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables, warnings and the figure; the data tell why there was no verdict."""
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(suites, "VERIFY", ECHO + " {onnx}")
    out, fails = tmp_path / "out" / "results.json", "sh -c 'echo no licence >&2; exit 2' {onnx} {vnnlib}"
    options = [
        "--instances",
        str(folder),
        "--timeout",
        "5",
        "--out",
        str(out),
        "--figure",
        str(tmp_path / "f.svg"),
    ]
    for text in (f"liar={SAT}", f"fails={fails}"):
        options += ["--command", text]
    done = CliRunner().invoke(suites.main, options, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if "|" in line
    ]
    assert [line[:5] for line in cells[2:]] == [
        ["family", "verify", "6", "3", "1"], ["family", "liar", "6", "6", "0"], ["family", "fails", "6", "0", "0"],
    ]  # fmt: skip
    assert cells[2][6] == "1.00" and cells[4][5] == "10.00" and cells[4][7] == "-"
    assert "WRONG: family a.onnx p1.vnnlib: verify says unsat, expected sat" in done.stdout
    assert done.stdout.count("CONTRADICTION") == 2
    assert {one["note"] for one in read(out)["rows"] if one["command"] == "fails"} == {"no licence"}
    drawn = (tmp_path / "f.svg").read_text()
    assert "liar (6)" in drawn and "verify (3)" in drawn and "fails (0)" in drawn


def test_this_project_is_always_there() -> None:
    """Its command is this interpreter's."""
    (ours,) = suites.all_commands([])
    filled = ours.filled(Path("a"), Path("p"), 2.5)
    assert filled == [*shlex.split(suites.VERIFY)[:4], "a", "p", "--timeout", "2.5"]
    assert Path(filled[0]).name.startswith("python")
