"""Whole folders of instances, decided by this project and by any other installed command, side by side.

All commands take an instance one after the other before the next instance begins, in an order that rotates, so that what
else the machine does falls on all of them alike. The data are written after every instance, and a run that was stopped goes
on where it was. A command counts as solving an instance where its verdict comes within the timeout and does not
contradict the expected one. Counterexamples are not checked here.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import click

from benchmarks.common import RESULTS, Case, Row, cases, machine, machine_line, read, table, write

OURS = "verify"
VERIFY = f"{shlex.quote(sys.executable)} -m verify run {{onnx}} {{vnnlib}} --timeout {{timeout}}"
_DECIDED = {"sat", "unsat"}
_VERDICTS = _DECIDED | {"unknown", "timeout"}
_HEAD = 4096  # bytes of stdout among which the first word is looked for; a counterexample may be long
_SUBPROBLEMS = re.compile(r"(\d[\d,]*) subproblems")
_POSITIVE = click.FloatRange(min=0, min_open=True)


@dataclass(frozen=True)
class Instance:
    """A row of an instances.csv with the verdict it expects; `unknown` where it expects none."""

    folder: Path
    case: Case
    expected: str

    @property
    def key(self) -> Row:
        """What the instance is called in the data: the folder's name and the files as instances.csv has them."""
        files = (_plain(path).relative_to(self.folder) for path in (self.case.model, self.case.specification))
        return {"folder": self.folder.resolve().name} | dict(
            zip(("onnx", "vnnlib"), map(str, files), strict=True)
        )


@dataclass(frozen=True)
class Command:
    """A program with its arguments, in which {onnx}, {vnnlib} and {timeout} stand for an instance's own."""

    name: str
    template: str

    def filled(self, onnx: Path, vnnlib: Path, timeout: float) -> list[str]:
        """The arguments for one instance."""
        values = {"{onnx}": str(onnx), "{vnnlib}": str(vnnlib), "{timeout}": f"{timeout:g}"}
        pattern = re.compile("|".join(map(re.escape, values)))
        return [pattern.sub(lambda m: values[m[0]], part) for part in shlex.split(self.template)]


@dataclass(frozen=True)
class Ended:
    """A process that has ended, by itself or killed at the limit."""

    code: int
    wall: float
    cpu: float  # seconds of it and of all its descendants that were waited for
    killed: bool
    stdout: str  # its beginning
    stderr: str


@dataclass(frozen=True)
class Suite:
    """What is measured, and how; data of another suite are not gone on with."""

    commands: tuple[Command, ...]
    timeout: float
    grace: float  # seconds past the timeout after which a process is killed

    @property
    def settings(self) -> Row:
        """The suite as its data hold it."""
        commands = {command.name: command.template for command in self.commands}
        return {"timeout": self.timeout, "grace": self.grace, "commands": commands}

    def rotated(self, index: int) -> tuple[Command, ...]:
        """The commands in the order in which they take the instance of an index."""
        first = index % len(self.commands)
        return self.commands[first:] + self.commands[:first]


def instances(selections: Sequence[str], limit: int | None) -> list[Instance]:
    """The instances of every `DIR` or `DIR:REGEX`, once each; a spread of at most `limit` a folder."""
    chosen: dict[str, dict[tuple[str, ...], Instance]] = {}
    folders: dict[str, Path] = {}
    for one in (instance for selection in selections for instance in _selected(selection)):
        name, home = one.key["folder"], one.folder.resolve()
        if folders.setdefault(name, home) != home:
            raise click.BadParameter(
                f"{folders[name]} and {home} have the same name", param_hint="--instances"
            )
        chosen.setdefault(name, {}).setdefault(tuple(one.key.values()), one)
    return [one for found in chosen.values() for one in spread(list(found.values()), limit)]


def _selected(selection: str) -> Iterator[Instance]:
    """All instances of one selection, in the order of their networks."""
    folder = Path(selection.partition(":")[0])
    if not (folder / "instances.csv").is_file():
        raise click.BadParameter(f"{folder} holds no instances.csv", param_hint="--instances")
    try:
        found, known = cases([selection], sys.maxsize), _expected(folder)
    except (re.error, ValueError) as error:
        raise click.BadParameter(f"{selection}: {error}", param_hint="--instances") from error
    if not found:
        raise click.BadParameter(f"{selection} selects no instance", param_hint="--instances")
    for case in found:
        for path in (case.model, case.specification):
            if not path.is_file():
                raise click.BadParameter(f"{_plain(path)} is missing, gzipped too", param_hint="--instances")
        yield Instance(folder, case, known.get((_plain(case.model), _plain(case.specification)), "unknown"))


def _expected(folder: Path) -> dict[tuple[Path, Path], str]:
    """The verdicts that the fourth column of an instances.csv expects, where it has one."""
    with (folder / "instances.csv").open(newline="") as file:
        rows = [row for row in csv.reader(file) if len(row) > 3]
    return {(_plain(folder / row[0]), _plain(folder / row[1])): row[3].strip() for row in rows}


def _plain(path: Path) -> Path:
    """The path without `.gz`."""
    return path.with_name(path.name.removesuffix(".gz"))


def spread(found: list[Instance], limit: int | None) -> list[Instance]:
    """At most `limit` of them, evenly from the first on."""
    if limit is None or limit >= len(found):
        return found
    return [found[index * len(found) // limit] for index in range(limit)]


def unpacked(path: Path, folder: Path) -> Path:
    """The file itself, or a copy in a folder if it is gzipped: not every command reads such files."""
    if path.suffix != ".gz":
        return path
    target = folder / _plain(path).name
    try:
        with gzip.open(path) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file)
    except (OSError, EOFError) as error:
        raise click.ClickException(f"{path}: {error}") from error
    return target


def execute(arguments: Sequence[str], limit: float, scratch: Path) -> Ended:
    """Runs a program in a process group of its own, of which nothing is left afterwards."""
    outputs = scratch / "stdout", scratch / "stderr"
    started = time.perf_counter()
    with outputs[0].open("wb") as out, outputs[1].open("wb") as err:
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )
    timer = threading.Timer(limit, _kill, [process.pid])
    timer.start()
    try:
        os.waitid(
            os.P_PID, process.pid, os.WEXITED | os.WNOWAIT
        )  # the group keeps its number until it is reaped
    finally:
        wall = time.perf_counter() - started
        timer.cancel()
        timer.join()
        _kill(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    with outputs[0].open("rb") as file:
        head = file.read(_HEAD).decode(errors="replace")
    text = outputs[1].read_text(errors="replace")
    return Ended(process.returncode, wall, usage.ru_utime + usage.ru_stime, wall >= limit, head, text)


def _kill(group: int) -> None:
    """Ends what is left of a process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def verdict(ended: Ended) -> str:
    """The first word of stdout where it is a verdict; otherwise `timeout` for what had to be killed, else `error`."""
    word = "".join(ended.stdout.split()[:1])
    if word in _VERDICTS:
        return word
    return "timeout" if ended.killed else "error"


def subproblems(ended: Ended) -> int | None:
    """The last "N subproblems" of stderr."""
    found = _SUBPROBLEMS.findall(ended.stderr)
    return int(found[-1].replace(",", "")) if found else None


def measure(instance: Instance, commands: Sequence[Command], suite: Suite) -> list[Row]:
    """A row for each command, run in the order given."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="suites-") as name:
        scratch = Path(name)
        onnx, vnnlib = (
            unpacked(path, scratch) for path in (instance.case.model, instance.case.specification)
        )
        for command in commands:
            arguments = command.filled(onnx, vnnlib, suite.timeout)
            ended = execute(arguments, suite.timeout + suite.grace, scratch)
            rows.append(
                instance.key | {"expected": instance.expected, "command": command.name} | _measured(ended)
            )
    return rows


def _measured(ended: Ended) -> Row:
    """What is kept of a process; the last line of stderr only where there is no verdict to go by."""
    said, last = verdict(ended), ended.stderr.strip().splitlines()[-1:]
    return {
        "verdict": said, "wall_seconds": round(ended.wall, 4), "cpu_seconds": round(ended.cpu, 4),
        "subproblems": subproblems(ended), "code": ended.code, "killed": ended.killed,
        "note": "".join(last)[:200] if said == "error" else "",
    }  # fmt: skip


def run(todo: Sequence[Instance], suite: Suite, out: Path) -> Row:
    """Measures all instances that the data at `out` lack, and returns the data with them."""
    data = _begun(suite, out)
    done = {identity(row) for row in data["rows"]}
    for index, instance in enumerate(todo):
        if identity(instance.key) in done:
            continue
        rows = measure(instance, suite.rotated(index), suite)
        data["rows"] += rows
        _replace(out, data)
        said = ", ".join(f"{row['command']} {row['verdict']} {row['wall_seconds']:.2f} s" for row in rows)
        click.echo(f"[{index + 1}/{len(todo)}] {' '.join(identity(instance.key))}: {said}", err=True)
    return data


def identity(row: Row) -> tuple[str, str, str]:
    """The instance that a row is about."""
    return row["folder"], row["onnx"], row["vnnlib"]


def _begun(suite: Suite, out: Path) -> Row:
    """The data of a run that was stopped, or data without rows."""
    if not out.exists():
        return {"machine": machine() | {"clock": "wall clock"}, "settings": suite.settings, "rows": []}
    try:
        data = read(out)
        settings, _ = data["settings"], data["rows"]
    except (ValueError, TypeError, KeyError) as error:
        raise click.ClickException(f"{out} holds no data of this script; name another file") from error
    if settings != suite.settings:
        raise click.ClickException(f"{out} was measured with other settings ({settings}); name another file")
    return data


def _replace(path: Path, data: Row) -> None:
    """Writes the data so that the file is always whole."""
    temporary = path.with_name(path.name + ".new")
    write(temporary, data)
    temporary.replace(path)


def wrong(row: Row) -> bool:
    """Whether the verdict contradicts the expected one."""
    return {row["verdict"], row["expected"]} == _DECIDED


def solved(row: Row, timeout: float) -> bool:
    """Whether there is a verdict, in time, that nothing contradicts."""
    return row["verdict"] in _DECIDED and not wrong(row) and bool(row["wall_seconds"] <= timeout)


def par2(rows: Sequence[Row], timeout: float) -> float:
    """Mean seconds, where an instance that is not solved counts twice the timeout."""
    return mean(row["wall_seconds"] if solved(row, timeout) else 2 * timeout for row in rows)


def contradictions(rows: Sequence[Row]) -> list[list[Row]]:
    """The decided rows of every instance that is sat by one command and unsat by another."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row["verdict"] in _DECIDED:
            groups.setdefault(identity(row), []).append(row)
    return [group for group in groups.values() if len({row["verdict"] for row in group}) > 1]


def report(data: Row) -> str:
    """The table, a line for each folder and command, and for all folders together where there are several."""
    rows: list[Row] = data["rows"]
    folders = list(dict.fromkeys(row["folder"] for row in rows))
    groups = [(name, [row for row in rows if row["folder"] == name]) for name in folders]
    if len(folders) > 1:
        groups.append(("all", rows))
    header = (
        "folder | command | instances | solved | wrong | PAR2, s | PAR2 to verify's | median of solved, s"
    )
    return table(header.split(" | "), [line for name, group in groups for line in _lines(name, group, data)])


def _lines(name: str, group: Sequence[Row], data: Row) -> Iterator[list[str]]:
    """The table's lines of one folder."""
    timeout, commands = data["settings"]["timeout"], data["settings"]["commands"]
    runs = {command: [row for row in group if row["command"] == command] for command in commands}
    for command, rows in runs.items():
        seconds = [row["wall_seconds"] for row in rows if solved(row, timeout)]
        yield [
            name, command, str(len(rows)), str(len(seconds)), str(sum(map(wrong, rows))), f"{par2(rows, timeout):.2f}",
            f"{par2(rows, timeout) / par2(runs[OURS], timeout):.2f}", f"{median(seconds):.2f}" if seconds else "-",
        ]  # fmt: skip


def warnings(rows: Sequence[Row]) -> Iterator[str]:
    """A line for every wrong verdict, and one for every two commands that contradict each other."""
    for row in filter(wrong, rows):
        instance = " ".join(identity(row))
        yield f"WRONG: {instance}: {row['command']} says {row['verdict']}, expected {row['expected']}"
    for group in contradictions(rows):
        said = ", ".join(f"{row['command']} says {row['verdict']}" for row in group)
        yield f"CONTRADICTION: {' '.join(identity(group[0]))}: {said}"


def curves(data: Row) -> dict[str, list[float]]:
    """For every command the seconds of all that it solved, sorted."""
    timeout = data["settings"]["timeout"]
    return {
        command: sorted(
            row["wall_seconds"] for row in data["rows"] if row["command"] == command and solved(row, timeout)
        )
        for command in data["settings"]["commands"]
    }


def cactus(data: Row, path: Path) -> None:
    """Seconds against instances solved, a line for each command."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    from benchmarks.figures import COLOURS, MARKERS, STYLE

    with mpl.rc_context(STYLE):  # type: ignore[arg-type, unused-ignore]
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        axes = figure.add_subplot()
        for index, (command, seconds) in enumerate(curves(data).items()):
            axes.semilogy(
                range(1, len(seconds) + 1), seconds, label=f"{command} ({len(seconds)})", linewidth=1.8, markersize=4,
                color=COLOURS[index % len(COLOURS)], marker=MARKERS[index % len(MARKERS)],
            )  # fmt: skip
        axes.set_xlabel("instances solved")
        axes.set_ylabel("seconds for each, sorted")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.grid(True, which="major")
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper left", ncols=4, edgecolor="white")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def parsed(text: str) -> Command:
    """The command of NAME=CMD."""
    name, _, template = text.partition("=")
    try:
        program = shlex.split(template)[:1]
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: {error}", param_hint="--command") from error
    if not name.strip() or not program:
        raise click.BadParameter(f"{text!r} is not NAME=CMD", param_hint="--command")
    if missing := [part for part in ("{onnx}", "{vnnlib}") if part not in template]:
        raise click.BadParameter(f"{text!r} lacks {' and '.join(missing)}", param_hint="--command")
    if shutil.which(program[0]) is None:
        raise click.BadParameter(f"{name}: there is no program {program[0]!r}", param_hint="--command")
    return Command(name.strip(), template.strip())


def all_commands(texts: Sequence[str]) -> tuple[Command, ...]:
    """This project's command and the others."""
    found = (Command(OURS, VERIFY), *map(parsed, texts))
    names = [command.name for command in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise click.BadParameter(f"two commands have the name {twice[0]!r}", param_hint="--command")
    return found


@click.command()
@click.option(
    "--instances",
    "selections",
    required=True,
    multiple=True,
    help="DIR or DIR:REGEX of networks; repeatable.",
)
@click.option(
    "-c",
    "--command",
    "others",
    multiple=True,
    metavar="NAME=CMD",
    help="CMD with {onnx}, {vnnlib} and {timeout}; repeatable.",
)
@click.option("-t", "--timeout", type=_POSITIVE, default=60.0, show_default=True, help="Seconds an instance.")
@click.option(
    "--grace",
    type=_POSITIVE,
    default=5.0,
    show_default=True,
    help="A process is killed that long after the timeout.",
)
@click.option("-n", "--limit", type=click.IntRange(min=1), help="A spread of so many instances a folder.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=RESULTS / "suites.json")
@click.option(
    "--figure", type=click.Path(dir_okay=False, path_type=Path), help="By default beside the data, as .svg."
)
def main(
    selections: tuple[str, ...], others: tuple[str, ...], timeout: float, grace: float, limit: int | None, out: Path,
    figure: Path | None,
) -> None:  # fmt: skip
    """Run this project and other commands on the same instances, side by side; goes on with the data of a stopped run."""
    if importlib.util.find_spec("matplotlib") is None:
        raise click.ClickException("the figure needs matplotlib; install this project's extra `bench`")
    suite = Suite(all_commands(others), timeout, grace)
    data = run(instances(selections, limit), suite, out)
    cactus(data, figure or out.with_suffix(".svg"))
    click.echo(f"{machine_line(data['machine'])}\n\n{report(data)}")
    if found := list(warnings(data["rows"])):
        click.echo("\n" + "\n".join(found))


if __name__ == "__main__":
    main()
