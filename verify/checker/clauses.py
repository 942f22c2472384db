"""The clauses of a query as the proof needs them: rows as arrays, boxes as float64 rounded outward, roots and their clauses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.checker.container import Container
from verify.checker.errors import Refused
from verify.checker.query import Query

Array = NDArray[Any]
# the tensors of roots, with their types
ROOTS = {"root.clause": "<i8", "root.count": "<i8"}


@dataclass(frozen=True, eq=False)
class Rows:
    """A clause is unsafe where `outputs . y + inputs . x <= thresholds` in every row. Coefficients are exact."""

    outputs: Array  # [rows, outputs]
    inputs: dict[tuple[int, int], float] | None  # by row and input; None: no row mentions an input
    exact_thresholds: list[Fraction]
    thresholds: Array  # [rows], rounded up

    def __len__(self) -> int:
        return len(self.thresholds)

    @staticmethod
    def none(outputs: int) -> Rows:
        """One row that says nothing."""
        return Rows(np.zeros((1, outputs)), None, [Fraction(0)], np.zeros(1))

    def padded(self, count: int) -> Rows:
        """With its first row repeated behind its own."""
        missing = count - len(self)
        if not missing:
            return self
        repeated = [*range(len(self)), *[0] * missing]
        inputs = {
            (new, place[1]): value
            for new, old in enumerate(repeated)
            for place, value in (self.inputs or {}).items()
            if place[0] == old
        }
        return Rows(
            self.outputs[repeated],
            inputs or None,
            [self.exact_thresholds[row] for row in repeated],
            self.thresholds[repeated],
        )

    def dense_inputs(self, count: int) -> Array:
        """The coefficients of inputs, [rows, count]."""
        found = np.zeros((len(self), count))
        for place, value in (self.inputs or {}).items():
            found[place] = value
        return found

    @staticmethod
    def concatenated(parts: Sequence[Rows]) -> Rows:
        """All rows of some clauses."""
        inputs: dict[tuple[int, int], float] = {}
        at = 0
        for part in parts:
            inputs |= {(at + row, column): value for (row, column), value in (part.inputs or {}).items()}
            at += len(part)
        return Rows(
            np.concatenate([part.outputs for part in parts]),
            inputs or None,
            [value for part in parts for value in part.exact_thresholds],
            np.concatenate([part.thresholds for part in parts]),
        )


class Clauses:
    """A query's clauses, and which of them each root of a certificate stands for."""

    def __init__(self, query: Query, clause: Array, count: Array, rows: str) -> None:
        self.query = query
        if ((count < 1) | (count > len(clause))).any() or sum(count.tolist()) != len(clause):
            raise Refused("the roots' tables do not fit each other")
        if not np.array_equal(np.unique(clause), np.arange(len(query.clauses))):
            raise Refused(
                f"the roots do not stand for clauses 0 to {len(query.clauses) - 1}, each and no other"
            )
        if not rows.isdecimal() or not 1 <= int(rows) <= 1_000_000:
            raise Refused("the header's 'rows' is no sensible number")
        self._last: tuple[Any, tuple[Array, Array]] | None = None
        self._clause, self._end = np.array(clause), np.cumsum(count)
        self._row_numbers: dict[Any, int] = {}
        self.roots = len(count)
        self.most_of_root = int(count.max(initial=1))
        self.most_rows = int(rows)

    @staticmethod
    def read(query: Query, container: Container) -> Clauses:
        """Those of a file."""
        clause, count = (container.tensor(name, kind) for name, kind in ROOTS.items())
        return Clauses(query, clause, count, container.text("rows"))

    def of_root(self, root: int) -> list[int]:
        """The clauses that a root stands for."""
        start = int(self._end[root - 1]) if root else 0
        return [int(clause) for clause in self._clause[start : int(self._end[root])]]

    def box(self, root: int) -> tuple[Array, Array]:
        """The box that holds those of all the root's clauses, float64 rounded outward."""
        boxes = [self._box(clause) for clause in self.of_root(root)]
        lower, upper = (np.stack(ends) for ends in zip(*boxes, strict=True))
        return lower.min(0), upper.max(0)

    def _box(self, clause: int) -> tuple[Array, Array]:
        found = self.query.clauses[clause]
        ends = found.lower, found.upper
        if self._last is None or self._last[0] != ends:  # neighbours mostly share their box
            lower, upper = (
                [_down(value) for value in found.lower],
                [-_down(-value) for value in found.upper],
            )
            self._last = ends, (np.array(lower), np.array(upper))
        return self._last[1]

    @lru_cache(maxsize=4096)  # noqa: B019 - one object for a run
    def row_numbers(self, clause: int) -> tuple[int, ...]:
        """Numbers of a clause's rows, its first repeated behind them: the same numbers are the same rows."""
        rows = self.rows(clause).padded(self.most_rows)
        keys: list[Any] = [(rows.outputs[i].tobytes(), rows.exact_thresholds[i]) for i in range(len(rows))]
        for (row, column), value in sorted((rows.inputs or {}).items()):
            keys[row] = *keys[row], column, value
        return tuple(self._row_numbers.setdefault(key, len(self._row_numbers)) for key in keys)

    @lru_cache(maxsize=4096)  # noqa: B019 - one object for a run
    def rows(self, clause: int) -> Rows:
        """A clause's rows; one that always holds where it has none."""
        rows = self.query.clauses[clause].rows
        if not rows:
            return Rows.none(self.query.outputs)
        if len(rows) > self.most_rows:
            raise Refused(f"clause {clause} has {len(rows)} rows, more than the header says")
        outputs = np.zeros((len(rows), self.query.outputs))
        inputs: dict[tuple[int, int], float] = {}
        for number, row in enumerate(rows):
            for column, value in row.outputs.items():
                outputs[number, column] = _exactly(value)
            inputs |= {(number, column): _exactly(value) for column, value in row.inputs.items()}
        exact = [row.threshold for row in rows]
        return Rows(outputs, inputs or None, exact, -np.array([_down(-value) for value in exact]))


def _exactly(value: Fraction) -> float:
    if Fraction(float(value)) != value:
        raise Refused("a row's coefficient is no float64 number")
    return float(value)


def _down(value: Fraction) -> float:
    """The greatest float64 that is no more."""
    try:
        near = float(value)
    except OverflowError:
        return -math.inf if value < 0 else float(np.finfo(np.float64).max)
    return near if Fraction(near) <= value else math.nextafter(near, -math.inf)
