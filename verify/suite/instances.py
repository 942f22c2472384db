"""Tables of instances as VNN-COMP has them: `onnx,vnnlib,timeout` with files relative to the table's folder.

A header is optional. With one, columns go by name, and a column `expected` may hold verdicts; without one, a fourth column
does. Files may be there gzipped. A cell may name several networks, as a Python literal: `[('f', 'a.onnx'), ('g', 'b.onnx')]`.
"""

from __future__ import annotations

import ast
import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from verify.errors import InputError

_NAMES = {
    "onnx": ("onnx", "network", "model"),
    "vnnlib": ("vnnlib", "property", "specification"),
    "timeout": ("timeout", "timeout_s"),
    "expected": ("expected", "verdict", "result"),
}
_EXPECTED = {
    "sat": "sat", "violated": "sat", "unsat": "unsat", "holds": "unsat",
    "unknown": "", "timeout": "", "-": "", "": "",
}  # fmt: skip
_VERSIONS = ("1.0", "2.0")  # VNN-COMP 2026: benchmarks/NAME/VERSION/instances.csv


@dataclass(frozen=True)
class Instance:
    """A row. `onnx` and `vnnlib` are paths without `.gz`, as results name them; `model` and `specification` the files.

    Of several networks `onnx` is the cell as it stands, and `model` has their files by name.
    """

    benchmark: str
    onnx: str
    vnnlib: str
    timeout: float
    expected: str  # sat, unsat, or empty where nothing is known
    model: Path | dict[str, Path]
    specification: Path

    @property
    def key(self) -> tuple[str, str, str]:
        """What a row of results is recognised by."""
        return self.benchmark, self.onnx, self.vnnlib


def read_instances(tables: Sequence[Path], timeout: float | None = None) -> list[Instance]:
    """The instances of all tables (or of folders that hold one, `instances.csv`), in order; `timeout` for all, if given.

    Raises InputError, naming file, line and remedy, for what is missing or malformed.
    """
    return [one for table in tables for one in _Table(table).instances(timeout)]


class _Table:
    """One csv file."""

    def __init__(self, path: Path) -> None:
        self.path = path / "instances.csv" if path.is_dir() else path
        self.folder = self.path.parent
        home = self.path.resolve().parent
        self.benchmark = home.parent.name if home.name in _VERSIONS else home.name

    def instances(self, timeout: float | None) -> Iterator[Instance]:
        """All rows."""
        rows = list(self._rows())
        columns = {"onnx": 0, "vnnlib": 1, "timeout": 2, "expected": 3}
        if rows and (named := self._header(*rows[0])) is not None:
            columns = named
            del rows[0]
        if not rows:
            raise InputError(f"{self.path}: there are no instances in it; write onnx,vnnlib,timeout lines")
        for line, row in rows:
            cells = {name: _cell(row, columns.get(name)) for name in _NAMES}
            yield self._instance(line, cells, timeout)

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Rows that hold anything, with their line numbers."""
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.reader(file, strict=True)
                for row in reader:
                    cells = [cell.strip() for cell in row]
                    if any(cells):
                        yield reader.line_num, cells
        except OSError as error:
            raise InputError(f"{self.path}: {error.strerror or error}; check the path") from None
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(
                f"{self.path}: not a csv file ({error}); write onnx,vnnlib,timeout lines"
            ) from None

    def _header(self, line: int, row: Sequence[str]) -> dict[str, int] | None:
        """Where the columns are, if the first row tells it."""
        words = [cell.lower() for cell in row]
        if not set(words) & set(_NAMES["onnx"]):
            return None
        found = {
            name: words.index(alias) for name, known in _NAMES.items() for alias in known if alias in words
        }
        for name in ("onnx", "vnnlib", "timeout"):
            if name not in found:
                raise self._error(line, f"the header has no column {name}", "name it so")
        return found

    def _instance(self, line: int, cells: dict[str, str], timeout: float | None) -> Instance:
        for name in ("onnx", "vnnlib"):
            if not cells[name]:
                raise self._error(line, f"no {name} file is named", "write onnx,vnnlib,timeout")
        limit = self._limit(line, cells["timeout"]) if timeout is None else timeout
        word = cells["expected"].lower()
        if word not in _EXPECTED:
            raise self._error(line, f"the expected verdict is {word!r}", "write sat, unsat or unknown")
        vnnlib, specification = self._file(line, cells["vnnlib"])
        model: Path | dict[str, Path]
        if cells["onnx"].startswith("["):
            onnx, model = cells["onnx"], self._networks(line, cells["onnx"])
        else:
            onnx, model = self._file(line, cells["onnx"])
        return Instance(self.benchmark, onnx, vnnlib, limit, _EXPECTED[word], model, specification)

    def _networks(self, line: int, cell: str) -> dict[str, Path]:
        """The files of several networks by name."""
        try:
            pairs = [(str(name), str(file)) for name, file in ast.literal_eval(cell)]
        except (ValueError, SyntaxError, TypeError):
            pairs = []
        if not pairs or len(dict(pairs)) < len(pairs):
            raise self._error(line, f"{cell} names no networks", "write [('f', 'a.onnx'), ('g', 'b.onnx')]")
        return {name: self._file(line, file)[1] for name, file in pairs}

    def _limit(self, line: int, text: str) -> float:
        try:
            seconds = float(text)
        except ValueError:
            seconds = 0.0
        if not isfinite(seconds) or seconds <= 0:
            raise self._error(
                line, f"the timeout is {text!r}", "write seconds above 0, or give --timeout for all"
            )
        return seconds

    def _file(self, line: int, name: str) -> tuple[str, Path]:
        """A file's path without `.gz`, and where it is."""
        plain = self.folder / name.removesuffix(".gz")
        for path in (self.folder / name, plain, plain.with_name(plain.name + ".gz")):
            if path.is_file():
                return str(plain), path
        raise self._error(line, f"there is no file {plain}, gzipped neither", "check the path")

    def _error(self, line: int, reason: str, remedy: str) -> InputError:
        return InputError(f"{self.path}:{line}: {reason}; {remedy}")


def _cell(row: Sequence[str], at: int | None) -> str:
    return row[at] if at is not None and at < len(row) else ""


def benchmarks(instances: Iterable[Instance]) -> list[str]:
    """The names of the folders, once each, in order."""
    return list(dict.fromkeys(one.benchmark for one in instances))
