"""Hostile input in bulk: nothing but the documented answers may come of it. Run ``make fuzz``.

A target (`benchmarks/fuzz_targets.py`) makes a case from a seed: files, what is done with them, and what may come of it. Each case
runs in a process of its own, forked from one that has imported everything, so that crashes, hangs and `os._exit` are seen for
what they are. What is found is kept in a folder: the files, the command, its output and the complaint.

The exit status is 1 where anything was found.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click

HANG = 60.0  # seconds: every command of a case has a limit of a few
INTERNAL = 70
DOCUMENTED = (0, 1, 2, 3)


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (negative: the signal), and all that it wrote on stdout and stderr."""

    code: int
    output: str
    seconds: float


@dataclass(frozen=True)
class Case:
    """`action` is run in a process of its own, in the case's folder; `judge` says what is wrong with its end, or None."""

    name: str
    action: Callable[[], int]
    judge: Callable[[Ended], str | None]
    told: str  # how to do it again


def orderly(ended: Ended) -> str | None:
    """A complaint about anything but a documented exit code without a traceback."""
    if ended.seconds > HANG:
        return "it hangs"
    if ended.code < 0:
        return f"signal {signal.Signals(-ended.code).name}"
    if ended.code not in DOCUMENTED:
        return f"exit code {ended.code}"
    return "a traceback" if "Traceback (most recent call last)" in ended.output else None


def command(*arguments: str) -> Callable[[], int]:
    """`verify` with some arguments, as the shell calls it."""

    def action() -> int:
        from verify.cli import main

        sys.argv = ["verify", *arguments]
        try:
            main()
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else int(stop.code is not None)

    return action


@dataclass
class Running:
    """A case at work."""

    case: Case
    folder: Path
    pid: int
    began: float

    def poll(self) -> Ended | None:
        """Its end, if it has come; a process that takes too long is killed with all that it started."""
        late = time.monotonic() - self.began > HANG
        if late:
            _kill(self.pid)
        pid, status = os.waitpid(self.pid, 0 if late else os.WNOHANG)
        if not pid:
            return None
        _kill(self.pid)  # what it may have left running
        output = (self.folder / "output.txt").read_text(encoding="utf-8", errors="replace")
        return Ended(os.waitstatus_to_exitcode(status), output, time.monotonic() - self.began)


def _kill(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def start(case: Case, folder: Path) -> Running:
    """Forks a process that does what the case says."""
    began = time.monotonic()
    pid = os.fork()
    if pid:
        return Running(case, folder, pid, began)
    code = INTERNAL
    try:
        os.setpgrp()
        target = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(target, 1)
        os.dup2(target, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        os.chdir(folder)
        code = case.action()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Farm:
    """Runs cases side by side, and keeps what they find."""

    def __init__(self, folder: Path, jobs: int) -> None:
        self.folder, self.jobs = folder, jobs
        self.running: list[Running] = []
        self.done: Counter[str] = Counter()
        self.found: list[str] = []

    def run(self, make: Iterator[tuple[str, int]], until: float) -> None:
        """Takes cases from `make` until it ends or time is up."""
        from benchmarks.fuzz_targets import TARGETS

        while True:
            while len(self.running) < self.jobs and time.monotonic() < until:
                chosen = next(make, None)
                if chosen is None:
                    break
                target, seed = chosen
                folder = self.folder / f"{target}-{seed}"
                folder.mkdir(parents=True, exist_ok=True)
                self.running.append(start(TARGETS[target](folder, seed), folder))
            if not self.running:
                return
            self.running = [one for one in self.running if not self._ended(one)]
            time.sleep(0.005)

    def _ended(self, one: Running) -> bool:
        ended = one.poll()
        if ended is None:
            return False
        self.done[one.folder.name.rpartition("-")[0]] += 1
        complaint = one.case.judge(ended)
        if complaint is None:
            shutil.rmtree(one.folder)
        else:
            (one.folder / "complaint.txt").write_text(f"{complaint}\n{one.case.told}\n")
            self.found.append(f"{one.folder}: {complaint}")
            click.echo(self.found[-1])
        return True


def drawn(first_seed: int, only: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Targets in proportion to their weights, each with seeds of its own."""
    from benchmarks.fuzz_targets import WEIGHTS

    names = only or tuple(itertools.chain.from_iterable([name] * weight for name, weight in WEIGHTS.items()))
    for seed in itertools.count(first_seed):
        yield names[seed * 7919 % len(names)], seed


@click.command()
@click.option("--minutes", default=20.0, show_default=True, help="No case is begun later.")
@click.option("--cases", type=click.IntRange(min=1), help="At most so many.")
@click.option("--first-seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--only", multiple=True, help="These targets alone; repeatable.")
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("build/fuzz"), show_default=True)
def main(
    minutes: float, cases: int | None, first_seed: int, only: tuple[str, ...], jobs: int, out: Path
) -> None:
    """Feed hostile files and command lines to every command."""
    began = time.monotonic()
    farm = Farm(out.resolve(), jobs)
    farm.run(itertools.islice(drawn(first_seed, only), cases), began + 60 * minutes)
    for name, count in sorted(farm.done.items()):
        click.echo(f"{name}: {count} cases")
    total = sum(farm.done.values())
    click.echo(f"{total} cases, {len(farm.found)} findings, {time.monotonic() - began:.0f} s")
    sys.exit(1 if farm.found or not total else 0)


if __name__ == "__main__":
    main()
