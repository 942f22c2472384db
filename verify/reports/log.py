"""A log for programs: one JSON object a line, after every step of the search and at its end."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verify.bab.progress import Progress, Reporter
from verify.errors import VerifyError
from verify.output import Growing, as_json

if TYPE_CHECKING:
    from verify.result import Result


class JsonLog:
    """Writes what it is told to a file and passes it on. A file that takes no more stops no search: `finish` tells of it."""

    def __init__(self, file: Growing, passed_on: Reporter, started: float) -> None:
        self._file, self._passed_on, self._started = file, passed_on, started
        self._failure: VerifyError | None = None

    def update(self, progress: Progress) -> None:
        """A line for each technique that was applied: to how many, its price in seconds, and its gain; and one for the progress.

        (Seconds since the start, the phase that begins, the worst bound waiting, and all counters.)
        """
        for seen in progress.latest:
            self._write({"event": "technique", **seen.summary()})
        worst = progress.worst if math.isfinite(progress.worst) else None
        self._write(
            {"event": "progress", "phase": progress.phase, "worst_bound": worst, **progress.statistics()}
        )
        self._passed_on.update(progress)

    def finish(self, result: Result) -> None:
        """The last line. Raises UnwrittenError where this or an earlier one could not be written."""
        self._write(
            {
                "event": "result",
                "verdict": result.verdict,
                "reason": result.reason,
                "vacuous": result.vacuous,
                "notes": list(result.notes),
                "extensions": list(result.extensions),
                **result.statistics,
            }
        )
        if self._failure is not None:
            raise self._failure

    def _write(self, record: dict[str, Any]) -> None:
        if self._failure is None:
            seconds = round(time.monotonic() - self._started, 4)
            try:
                self._file.append(as_json({"seconds": seconds, **record}) + "\n")
            except VerifyError as error:
                self._failure = error


@contextmanager
def json_log(path: Path, passed_on: Reporter, started: float) -> Iterator[JsonLog]:
    """A log in a new file, or in place of what a file holds. Raises InputError and UnwrittenError."""
    with closing(Growing(f"--log-json {path}", path)) as file:
        file.cut(0)
        yield JsonLog(file, passed_on, started)
