"""A live line on a terminal: time, phase, worst bound, open subproblems, rate, and how long it may take. Silent elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from verify.bab.progress import Progress, Reporter, Silent

if TYPE_CHECKING:
    from verify.study.records import Row


_FIRST = 2.0  # seconds before something is said of what is left
_LONG = 99 * 3600.0
_NOTHING = 1e-9  # of a tree, by rounding


class Pace:
    """How much of the tree is done, and what the rest takes at the pace of the latter half of the time.

    Halves of halves are counted as such: a guess, since some parts of a tree are far deeper than others.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[float, float]] = []

    def told(self, seconds: float, progress: Progress) -> str:
        """In words, at a time; nothing where there is nothing to go by."""
        if progress.phase != "branch and bound":
            return ""
        now = progress.open_tree
        if self._seen and now > self._seen[-1][1] + _NOTHING:  # it has begun anew
            self._seen.clear()
        self._seen.append((seconds, now))
        first, middle = self._seen[0], self._seen[(len(self._seen) - 1) // 2]
        if seconds - first[0] < _FIRST or now >= middle[1]:
            return ""
        left = now * (seconds - middle[0]) / (middle[1] - now)
        done = f"{math.floor(100 * (1 - now / first[1]))} % done"
        return f"{done}, ~{_span(left)} left" if left < _LONG else done


def _span(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{math.ceil(seconds)} s"


class _Live(Silent):
    """Rewrites one line of stderr, a few times a second."""

    def __init__(self) -> None:
        from rich.console import Console

        self._status = Console(stderr=True).status("loading")
        self._started = self._shown = time.monotonic()
        self._pace, self._bound = Pace(), -math.inf

    def __enter__(self) -> _Live:
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def update(self, progress: Progress) -> None:
        """Shows the progress, unless it was shown just now."""
        now = time.monotonic()
        if now - self._shown < 0.2:
            return
        self._shown, seconds = now, now - self._started
        self._bound = progress.worst if math.isfinite(progress.worst) else self._bound
        self._status.update(line(seconds, progress, self._bound, self._pace.told(seconds, progress)))


def line(seconds: float, progress: Progress, worst: float, pace: str) -> str:
    """What a terminal shows of a search, so many seconds after its beginning. worst: the lowest bound that was waiting last."""
    bound = f"bound {worst:.4g}" if math.isfinite(worst) else ""
    rate = f"{progress.opened / max(seconds, 1e-9):,.0f}/s"
    waiting = f"open {progress.waiting:,}"
    crew = "" if progress.workers is None else _crew(**progress.workers())
    return "  ".join(filter(None, (f"{seconds:.1f} s", progress.phase, bound, waiting, rate, crew, pace)))


def _crew(workers: int, idle: float, lost: int, **_: object) -> str:
    """What is to be known of workers."""
    return f"{workers} workers, {idle:.0%} idle" + (f", {lost} lost" if lost else "")


@contextmanager
def study_progress(quiet: bool) -> Iterator[Callable[[int, int, Row], None]]:
    """A bar on stderr of how many rows of a study are there, with what is found; nothing where it is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    counts: Counter[str] = Counter()
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=None)

        def observe(done: int, total: int, row: Row) -> None:
            counts[row.verdict] += 1
            told = "  ".join(f"{number} {verdict}" for verdict, number in counts.items())
            bars.update(task, completed=done, total=total, description=told)

        yield observe


@contextmanager
def terminal(quiet: bool) -> Iterator[Reporter]:
    """The reporter that suits stderr."""
    if quiet or not sys.stderr.isatty():
        yield Silent()
    else:
        with _Live() as live:
            yield live
