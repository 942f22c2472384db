"""What is found of each sample and radius, and the file that keeps it: a line of JSON for each, so that a study goes on where it ended."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from verify.errors import InputError
from verify.output import Growing, as_json, reported

NAME = "rows.jsonl"
UNDECIDED = ("unknown", "timeout")
VERDICTS = ("unsat", "sat", "misclassified", *UNDECIDED)


@dataclass(frozen=True)
class Row:
    """One sample and one radius.

    verdict: `unsat` (certified), `sat` (a counterexample), `misclassified` (as it is), `unknown` or `timeout`. how: what decided it. witness: the changed
    sample as the model is given it, flat, and `given` the label that it is given; None where there is none. certificate: its file, in the study's folder.
    """

    image: int
    epsilon: float
    label: int
    predicted: int
    verdict: str
    how: str
    seconds: float
    limit: float | None = None
    witness: tuple[float, ...] | None = None
    given: int | None = None
    certificate: str | None = None

    @property
    def key(self) -> tuple[int, float]:
        return self.image, self.epsilon

    def line(self) -> str:
        """For the file."""
        return as_json({**asdict(self), "seconds": round(self.seconds, 5)}) + "\n"


class Records:
    """Rows in a folder, or nowhere: then they are only remembered. Raises InputError and UnwrittenError.

    question: what the study asks; a folder with the rows of another question is refused.
    """

    def __init__(self, folder: Path | None, question: Mapping[str, Any]) -> None:
        self.rows: dict[tuple[int, float], Row] = {}
        self._file: Growing | None = None
        if folder is None:
            return
        with reported(f"--out {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
        self._file = Growing(f"--out {folder / NAME}", folder / NAME)
        try:
            self._resume(folder / NAME, json.loads(as_json(dict(question))))
        except BaseException:
            self.close()
            raise

    def _resume(self, path: Path, question: dict[str, Any]) -> None:
        assert self._file is not None
        data = self._file.read()
        whole = data[: data.rfind(b"\n") + 1]
        lines = whole.decode("utf-8", "replace").splitlines()
        if not lines:
            if data:
                raise _foreign(f"{path}:1")
            self._file.append(as_json(question) + "\n", kept=True)
            return
        self._check(path, lines[0], question)
        for number, line in enumerate(lines[1:], 2):
            row = _row(line)
            if row is None:
                raise _foreign(f"{path}:{number}")
            self.rows[row.key] = row
        self._file.cut(len(whole))

    def _check(self, path: Path, line: str, question: dict[str, Any]) -> None:
        known: Any = None
        with suppress(ValueError):
            known = json.loads(line)
        if not isinstance(known, dict):
            raise _foreign(f"{path}:1")
        other = [key for key in question if known.get(key) != question[key]]
        if other:
            raise InputError(
                f"{path}: holds a study of another question (its {', '.join(other)} differ); choose another folder, or remove it"
            )

    def keep(self, row: Row) -> None:
        """One more row, in the file when this returns; instead of another of the same sample and radius."""
        self.rows[row.key] = row
        if self._file is not None:
            self._file.append(row.line())

    def close(self) -> None:
        """Lets go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _row(line: str) -> Row | None:
    """A row of the file; None for what is none."""
    try:
        found = json.loads(line)
        witness = found.pop("witness")
        row = Row(**found, witness=None if witness is None else tuple(float(value) for value in witness))
    except (ValueError, TypeError, AttributeError, KeyError):
        return None
    numbers = (row.image, row.label, row.predicted, row.epsilon, row.seconds)
    good = all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)
    return row if good and row.verdict in VERDICTS else None


def _foreign(place: str) -> InputError:
    return InputError(f"{place}: not a row of a study; choose another folder, or remove this file")
