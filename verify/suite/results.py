"""The file of results: VNN-COMP's columns without a header, a row for each instance, written as soon as it is known.

    benchmark, onnx, vnnlib, seconds of preparation, result, seconds of running

A suite that is started again with the same file goes on with the instances that the file lacks.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from verify.errors import InputError, UnwrittenError, VerifyError
from verify.output import Growing, reported
from verify.suite.instances import Instance

DECIDED = ("sat", "unsat")


@dataclass(frozen=True)
class Row:
    """A result."""

    benchmark: str
    onnx: str
    vnnlib: str
    prepare: float
    result: str
    seconds: float

    @property
    def word(self) -> str:
        """The result; what is none of VNN-COMP's words is an error."""
        return self.result if self.result in (*DECIDED, "unknown", "timeout") else "error"

    @property
    def key(self) -> tuple[str, str, str]:
        """The instance that it is of."""
        return self.benchmark, self.onnx, self.vnnlib

    def line(self) -> str:
        """The row as text, with its end of line."""
        text = io.StringIO()
        times = f"{self.prepare:.3f}", f"{self.seconds:.3f}"
        csv.writer(text, lineterminator="\n").writerow([*self.key, times[0], self.result, times[1]])
        return text.getvalue()


@dataclass(frozen=True)
class Judged:
    """An instance with its result, if there is one yet."""

    instance: Instance
    row: Row | None = None
    reason: str = ""
    before: Row | None = None  # of an earlier run that this one is compared with

    @property
    def result(self) -> str:
        """The result in a word."""
        return "not run" if self.row is None else self.row.word

    @property
    def decided(self) -> bool:
        return self.result in DECIDED

    @property
    def contradiction(self) -> bool:
        """Whether the verdict is the opposite of the expected one."""
        return {self.result, self.instance.expected} == set(DECIDED)

    def complaint(self) -> str:
        """A contradiction, loudly."""
        one = self.instance
        return (
            f"CONTRADICTION: {one.benchmark} {one.onnx} {one.vnnlib}: the verdict is {self.result}, "
            f"expected is {one.expected}"
        )


class Results:
    """Results in a file, or nowhere: then they are only remembered. The file is locked until they are closed.

    A last line without an end was cut off and is taken away. A new file is made. Raises InputError and UnwrittenError where the
    file cannot be used.
    """

    def __init__(self, path: Path | None) -> None:
        self.rows: list[Row] = []
        self._file = None if path is None else _opened(path)
        if path is not None and self._file is not None:
            try:
                self.rows = _read(path, self._file)
            except BaseException:
                self.close()
                raise

    @property
    def unlocked(self) -> bool:
        """Whether nothing keeps another suite from writing to the file."""
        return self._file is not None and not self._file.locked

    def append(self, row: Row) -> None:
        """Keeps a row; it is in the file, and on the disk, when this returns. Raises UnwrittenError with the row in it."""
        self.rows.append(row)
        if self._file is not None:
            try:
                self._file.append(row.line(), kept=True)
            except VerifyError as error:
                raise UnwrittenError(f"{error}; the row was: {row.line().rstrip()}") from None

    def close(self) -> None:
        """Lets go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _opened(path: Path) -> Growing:
    with reported(f"--out {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
    return Growing(f"--out {path}", path)


def _read(path: Path, file: Growing) -> list[Row]:
    """The rows of an earlier run, after which the file ends."""
    data = file.read()
    rows = _rows(path, data)
    file.cut(data.rfind(b"\n") + 1)
    return rows


def earlier(path: Path) -> list[Row]:
    """The rows of a run to compare with. Raises InputError."""
    try:
        return _rows(path, path.read_bytes())
    except OSError as error:
        raise InputError(f"--compare {path}: cannot be read ({error.strerror or error})") from error


def _rows(path: Path, data: bytes) -> list[Row]:
    """The rows of a file, but for a last line without an end."""
    whole = data[: data.rfind(b"\n") + 1]
    try:
        rows = [_row(path, number, line) for number, line in enumerate(_lines(whole), 1)]
    except csv.Error as error:
        raise _foreign(f"{path}: {error}") from None
    if data and not whole:
        raise _foreign(f"{path}:1")
    return rows


def _lines(data: bytes) -> Iterable[list[str]]:
    return csv.reader(io.StringIO(data.decode("utf-8", "surrogateescape"), newline=""), strict=True)


def _row(path: Path, number: int, cells: Sequence[str]) -> Row:
    try:
        benchmark, onnx, vnnlib, prepare, result, seconds = cells
        return Row(benchmark, onnx, vnnlib, float(prepare), result, float(seconds))
    except ValueError:
        raise _foreign(f"{path}:{number}") from None


def _foreign(place: str) -> InputError:
    return InputError(
        f"{place}: not a row of results (benchmark,onnx,vnnlib,seconds,result,seconds); choose another file or remove this one"
    )


def judged(
    instances: Sequence[Instance],
    rows: Iterable[Row],
    reasons: dict[Row, str] | None = None,
    before: Iterable[Row] = (),
) -> list[Judged]:
    """Every instance with its row, and with that of an earlier run; of instances that are listed twice each takes its own."""
    known, old = _by_instance(rows), _by_instance(before)
    found = []
    for one in instances:
        row, was = (some[one.key].popleft() if some[one.key] else None for some in (known, old))
        reason = "" if row is None else (reasons or {}).get(row, "")
        found.append(Judged(one, row, reason, was))
    return found


def _by_instance(rows: Iterable[Row]) -> dict[tuple[str, str, str], deque[Row]]:
    known: dict[tuple[str, str, str], deque[Row]] = defaultdict(deque)
    for row in rows:
        known[row.key].append(row)
    return known


@dataclass(frozen=True)
class Summary:
    """A folder in numbers."""

    benchmark: str
    counts: dict[str, int]  # by result
    contradictions: int
    seconds: float  # of all instances together
    par2: float  # mean seconds, an undecided or wrong instance counting as twice its limit

    @property
    def instances(self) -> int:
        return sum(self.counts.values())

    @property
    def decided(self) -> int:
        return sum(self.counts.get(word, 0) for word in DECIDED)


RESULTS = ("sat", "unsat", "unknown", "timeout", "error", "not run")


def summary(benchmark: str, found: Sequence[Judged]) -> Summary:
    """The numbers of some instances under a name."""
    penalised = [
        one.row.seconds if one.row and one.decided and not one.contradiction else 2 * one.instance.timeout
        for one in found
    ]
    return Summary(
        benchmark,
        {word: sum(one.result == word for one in found) for word in RESULTS},
        sum(one.contradiction for one in found),
        sum(one.row.seconds for one in found if one.row),
        sum(penalised) / max(1, len(found)),
    )


def summaries(found: Sequence[Judged]) -> list[Summary]:
    """A summary for each folder, and one of everything where there are several."""
    folders: dict[str, list[Judged]] = {}
    for one in found:
        folders.setdefault(one.instance.benchmark, []).append(one)
    each = [summary(name, part) for name, part in folders.items()]
    return each if len(each) < 2 else [*each, summary("all", found)]
