"""A live line on a terminal: time, phase, subproblems open and closed, worst bound, rate. Silent elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from verify.bab.progress import Progress, Reporter, Silent

if TYPE_CHECKING:
    from verify.study.records import Row


class _Live(Silent):
    """Rewrites one line of stderr, a few times a second."""

    def __init__(self) -> None:
        from rich.console import Console

        self._status = Console(stderr=True).status("loading")
        self._started = self._shown = time.monotonic()

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
        worst = f"worst {progress.worst:.4g}  " if progress.waiting else ""
        self._status.update(
            f"{seconds:.1f} s  {progress.phase}  open {progress.waiting}  closed {progress.closed}  {worst}"
            f"depth {progress.depth}  {progress.opened / seconds:.0f}/s"
        )


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
