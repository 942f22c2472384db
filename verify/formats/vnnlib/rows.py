"""The linear rows of a property: every atom that bounds no input, as "coefficients <= threshold".

All rows of a formula lie in one table in the order of their atoms, so the rows of a range of atoms are a
range of the table, and a clause's matrix is filled from a few slices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from verify.formats.vnnlib.formula import EQ, GE, GT, LT, Alternative, Formula, Range
from verify.formats.vnnlib.literals import Booleans, Floats, Integers, round_up


class Sparse:
    """A matrix by its entries (row, column, value), of which no two share row and column."""

    def __init__(self, rows: int, row: Integers, column: Integers, value: Floats) -> None:
        order = np.argsort(row, kind="stable")
        self._row, self._column, self._value = row[order], column[order], value[order]
        self._first = np.searchsorted(self._row, np.arange(rows + 1))

    def mentioned(self, ranges: list[Range]) -> bool:
        """Whether any of these rows has an entry."""
        return len(self._row) > 0 and any(self._first.item(a) < self._first.item(b) for a, b in ranges)

    @property
    def empty(self) -> bool:
        """Whether there is no entry."""
        return not len(self._row)

    def some(self, rows: Integers, columns: int) -> Floats:
        """Some rows by number, float64 [len(rows), columns]."""
        matrix = np.zeros((len(rows), columns))
        owner, places = spread(self._first[rows], self._first[rows + 1] - self._first[rows])
        matrix[owner, self._column[places]] = self._value[places]
        return matrix

    def dense(self, ranges: list[Range], columns: int) -> Floats:
        """The rows of some ranges, float64 [rows, columns]."""
        matrix = np.zeros((sum(b - a for a, b in ranges), columns))
        at = 0
        for a, b in ranges:
            part = slice(self._first.item(a), self._first.item(b))
            matrix[self._row[part] + (at - a), self._column[part]] = self._value[part]
            at += b - a
        return matrix


def spread(start: Integers, length: Integers) -> tuple[Integers, Integers]:
    """The numbers of some ranges, one range after the other, and for each the place of its range."""
    owner = np.repeat(np.arange(len(start)), length)
    return owner, np.arange(len(owner)) - (np.cumsum(length) - length - start)[owner]


class RangesOf:
    """The ranges of rows of some alternatives. `sizes`: int64 [alternatives], how many rows each has."""

    def __init__(self, alternatives: Sequence[Alternative], first: Integers) -> None:
        count = np.fromiter(map(len, alternatives), dtype=np.int64, count=len(alternatives))
        flat = (end for choice in alternatives for part in choice for end in part)
        ends = first[np.fromiter(flat, dtype=np.int64).reshape(-1, 2)]
        self._start, self._length = ends[:, 0], ends[:, 1] - ends[:, 0]
        self._count, self._first = count, np.cumsum(count) - count
        before = np.concatenate([[0], np.cumsum(self._length)])
        self.sizes: Integers = before[self._first + count] - before[self._first]

    def of(self, chosen: Integers) -> tuple[Integers, Integers, Integers]:
        """Of some alternatives: starts and lengths of their ranges, and for each the place of its alternative."""
        owner, places = spread(self._first[chosen], self._count[chosen])
        return self._start[places], self._length[places], owner


class Rows:
    """All rows of a formula: one for each atom that bounds no input, two for each equality among them.

    `first`: int64 [atoms + 1], the rows before each atom.  `thresholds` (float64, rounded up) and `strict`
    (bool): [rows].  `outputs`, `inputs`: coefficients, exact, by row and by number of the variable.
    """

    def __init__(self, formula: Formula) -> None:
        atoms = np.flatnonzero(~formula.bounding)
        times = 1 + (formula.operator[atoms] == EQ)
        self.first: Integers = np.zeros(len(formula.left) + 1, dtype=np.int64)
        self.first[atoms + 1] = times
        np.cumsum(self.first, out=self.first)
        atom = np.repeat(atoms, times)
        operator, left, right = formula.operator[atom], formula.left[atom], formula.right[atom]
        self.strict: Booleans = (operator == LT) | (operator == GT)
        negative = (operator == GE) | (operator == GT)
        negative[1:] |= atom[1:] == atom[:-1]
        sign = np.where(negative, -1.0, 1.0)
        literals, rank = formula.literals, np.maximum(right, 0)
        rounded = np.where(negative, -literals.floor[rank], literals.ceiling[rank])
        self.thresholds: Floats = np.where(right < 0, 0.0, rounded) + 0.0

        simple, double = np.flatnonzero(left >= 0), np.flatnonzero(right < 0)
        row, code = [simple, double], [left[simple], -1 - right[double]]
        value = [sign[simple], -sign[double]]
        for k in np.flatnonzero(left < 0).tolist():
            coefficients, constant = formula.rows[-1 - left[k]]
            self.thresholds[k] = round_up(-constant if negative[k] else constant)
            row.append(np.full(len(coefficients), k))
            code.append(np.array(list(coefficients), dtype=np.int32))
            value.append(sign[k] * np.array(list(map(float, coefficients.values()))))
        numbers, codes, values = np.concatenate(row), np.concatenate(code), np.concatenate(value)
        of_input = codes % 2 == 0
        self.inputs, self.outputs = (
            Sparse(len(atom), numbers[mine], codes[mine] // 2, values[mine]) for mine in (of_input, ~of_input)
        )
