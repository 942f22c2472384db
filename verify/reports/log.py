"""A log for programs: one JSON object a line, after every step of the search and at its end."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from verify.errors import InputError
from verify.search.branch_and_bound import Progress, Reporter


class JsonLog:
    """Writes what it is told to a file and passes it on."""

    def __init__(self, file: TextIO, passed_on: Reporter, started: float) -> None:
        self._file, self._passed_on, self._started = file, passed_on, started

    def update(self, progress: Progress) -> None:
        """One line: seconds since the start, the phase that begins, the worst bound waiting, and all counters."""
        worst = progress.worst if math.isfinite(progress.worst) else None
        self.write(
            {"event": "progress", "phase": progress.phase, "worst_bound": worst, **progress.statistics()}
        )
        self._passed_on.update(progress)

    def write(self, record: dict[str, Any]) -> None:
        """One line, at once."""
        seconds = round(time.monotonic() - self._started, 4)
        self._file.write(json.dumps({"seconds": seconds, **record}) + "\n")
        self._file.flush()


@contextmanager
def json_log(path: Path, passed_on: Reporter, started: float) -> Iterator[JsonLog]:
    """A log in a new file. Raises InputError where it cannot be written."""
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as problem:
        raise InputError(
            f"--log-json {path}: {problem.strerror}; choose a place that can be written to"
        ) from None
    with file:
        yield JsonLog(file, passed_on, started)
