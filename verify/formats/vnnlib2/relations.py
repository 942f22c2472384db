"""What a query's assertions outside all disjunctions say of its inputs: which are equal, and which bounds follow.

Two networks are often given the same input (`(== X_f[0] X_g[0])`). As two inputs with a relation, boxes would know nothing of
it and no attack would ever meet it exactly; so they become one input of the joint network. And an input that lacks a
bound may have one by such a relation (`(<= X_g[0] X_f[0])`): then the bound is written out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from fractions import Fraction
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from verify.deadline import tick
from verify.formats.vnnlib.formula import EQ, GE, GT, LE, LT, All, AnyOf, Atoms, Node, split
from verify.formats.vnnlib.literals import MAXIMUM_BITS, Integers
from verify.formats.vnnlib.terms import Linear
from verify.formats.vnnlib2.reader import QueryReader

Ends: TypeAlias = tuple[dict[int, Fraction], dict[int, Fraction]]  # lower and upper ends by code

_FLOAT32 = Fraction(2**24 - 1) * 2**104  # the greatest number
_ROUNDS = 50  # of bounds that follow from bounds that follow


def merge_equal_inputs(reader: QueryReader) -> Integers:
    """Make inputs that must be equal one; int64 [declared inputs], the number of each one's input afterwards."""
    number = np.arange(reader.elements.inputs)
    at_most = set(_ordered_pairs(reader))
    for a, b in at_most:
        if (b, a) in at_most and a < b:
            one, other = sorted((_root(number, a), _root(number, b)))
            number[other] = one
    roots = np.array([_root(number, i) for i in range(len(number))]) if at_most else number
    kept, places = np.unique(roots, return_inverse=True)
    merged: Integers = places.astype(np.int64)
    if len(kept) < len(roots):
        _Renaming(reader, merged).apply()
    return merged


def _root(number: Integers, place: int) -> int:
    while number[place] != place:
        number[place] = number[number[place]]  # so that the next way is half as long
        place = int(number[place])
    return place


def _base(reader: QueryReader) -> Iterator[int]:
    """The atoms that hold in every clause."""
    for start, stop in split(All(tuple(reader.parts)))[0]:
        yield from range(start, stop)


def _ordered_pairs(reader: QueryReader) -> Iterator[tuple[int, int]]:
    """Pairs of inputs (a, b) with a <= b outside all disjunctions; an equality is two of them."""
    for k in _base(reader):
        if reader.left[k] >= 0 and (reader.left[k] % 2 or reader.right[k] >= 0):
            continue
        coefficients, constant = linear(reader, k)
        if (
            len(coefficients) != 2
            or constant
            or sum(coefficients.values())
            or any(v % 2 for v in coefficients)
        ):
            continue
        (a, factor), (b, _) = coefficients.items()
        operator = reader.operator[k]
        if operator == EQ or (operator in (LE, LT)) == (factor > 0):
            yield a // 2, b // 2
        if operator == EQ or (operator in (LE, LT)) == (factor < 0):
            yield b // 2, a // 2


def linear(reader: QueryReader, k: int) -> Linear:
    """Atom k's coefficients and the constant that it compares their sum with."""
    left, right = reader.left[k], reader.right[k]
    if left < 0:
        return reader.rows[-1 - left]
    if right < 0:
        return {left: Fraction(1), -1 - right: Fraction(-1)}, Fraction(0)
    return {left: Fraction(1)}, Fraction(reader.right_sides.literals[right])


class _Renaming:
    """Inputs by their new numbers, in atoms, rows and products."""

    def __init__(self, reader: QueryReader, number: Integers) -> None:
        self.reader, self.number = reader, number
        self.changed: dict[int, Node] = {}  # atoms that have become something else

    def _code(self, code: int) -> int:
        return code if code % 2 else 2 * int(self.number[code // 2])

    def apply(self) -> None:
        """Rename everything that the reader holds."""
        reader = self.reader
        reader.factors = {
            code: tuple(sorted(map(self._code, factors))) for code, factors in reader.factors.items()
        }
        for k in range(len(reader.left)):
            self._rename(k)
        if self.changed:
            places = sorted(self.changed)
            reader.parts = [self._replaced(part, places) for part in reader.parts]

    def _rename(self, k: int) -> None:
        reader = self.reader
        left, right = reader.left[k], reader.right[k]
        if left < 0:
            self._rename_row(k, -1 - left)
            return
        reader.left[k] = self._code(left)
        if right < 0:
            reader.right[k] = -1 - self._code(-1 - right)
            if reader.right[k] == -1 - reader.left[k]:
                self.changed[k] = All(()) if reader.operator[k] in (LE, GE, EQ) else AnyOf(())

    def _rename_row(self, k: int, row: int) -> None:
        reader = self.reader
        coefficients, constant = reader.rows[row]
        renamed: dict[int, Fraction] = {}
        for code, factor in coefficients.items():
            renamed[self._code(code)] = renamed.get(self._code(code), Fraction(0)) + factor
        renamed = {code: factor for code, factor in renamed.items() if factor}
        reader.rows[row] = renamed, constant
        if len(renamed) < len(coefficients):
            self.changed[k] = reader.compared(reader.operator[k], (renamed, -constant))

    def _replaced(self, node: Node, places: list[int]) -> Node:
        """A node with the changed atoms in place of what they were."""
        if not isinstance(node, Atoms):
            parts = tuple(self._replaced(part, places) for part in node.parts)
            return All(parts) if isinstance(node, All) else AnyOf(parts)
        pieces: list[Node] = []
        start = node.start
        for k in places[bisect_left(places, node.start) : bisect_left(places, node.stop)]:
            pieces += [Atoms(start, k), self.changed[k]] if start < k else [self.changed[k]]
            start = k + 1
        if not pieces:
            return node
        return All((*pieces, Atoms(start, node.stop)) if start < node.stop else tuple(pieces))


def drop_unused_products(reader: QueryReader) -> None:
    """Leave out the products that were only steps to others, or that cancelled out."""
    first = 2 * reader.elements.outputs + 1
    rows = [reader.rows[-1 - left][0] for left in reader.left if left < 0] if reader.factors else []
    used = {code for row in rows for code in row} | {left for left in reader.left if left in reader.factors}
    kept = sorted(code for code in reader.factors if code in used)
    number = {code: first + 2 * place for place, code in enumerate(kept)}
    if len(kept) == len(reader.factors):
        return
    for k, left in enumerate(reader.left):
        reader.left[k] = number.get(left, left)
    reader.rows = [({number.get(c, c): factor for c, factor in row.items()}, end) for row, end in reader.rows]
    reader.factors = {number[code]: reader.factors[code] for code in kept}


def derive_bounds(reader: QueryReader, number: Integers) -> None:
    """Write out bounds of inputs that have none outside the disjunctions: those that follow from relations to others, then
    those of float32 itself, which all values of an input of that type obey."""
    inputs = int(number.max()) + 1
    base = np.fromiter(_base(reader), dtype=np.int64)
    operator, left, right = (np.array(part)[base] for part in (reader.operator, reader.left, reader.right))
    bounding = (left >= 0) & (left % 2 == 0) & (right >= 0)
    lacking = np.ones((2, inputs), dtype=bool)
    for side, operators in enumerate(((GE, GT, EQ), (LE, LT, EQ))):
        lacking[side, left[bounding & np.isin(operator, operators)] // 2] = False
    if not lacking.any():
        return
    rows = [(int(k), linear(reader, int(k))) for k in base[~bounding]]
    rows = [(k, row) for k, row in rows if not any(code % 2 for code in row[0])]
    mentioned = {code for _, row in rows for code in row[0]}
    ends: Ends = {}, {}
    for k in base[bounding & np.isin(left, list(mentioned))].tolist():
        literal = reader.right_sides.literals[reader.right[k]]
        _tighten(ends, reader.operator[k], reader.left[k], Fraction(literal))
    for _ in range(_ROUNDS):
        if not [None for k, row in rows if _follow(ends, reader.operator[k], row)]:
            break
    floats = _of_float32(reader, number)
    for side, operation, last in ((0, GE, -_FLOAT32), (1, LE, _FLOAT32)):
        for i in np.flatnonzero(lacking[side]).tolist():
            end = ends[side].get(2 * i, last if floats[i] else None)
            if end is not None:
                reader.parts.append(reader.compared(operation, ({2 * i: Fraction(1)}, -end)))


def _of_float32(reader: QueryReader, number: Integers) -> NDArray[np.bool_]:
    """bool [joint inputs]: which ones are float32 by some declaration."""
    kinds = [v.element_type == "float32" for n in reader.networks for v in n.inputs for _ in range(v.size)]
    found = np.zeros(int(number.max()) + 1, dtype=bool)
    found[number[np.array(kinds)]] = True
    return found


def _tighten(ends: Ends, operator: int, code: int, value: Fraction) -> None:
    lower, upper = ends
    if operator in (GE, GT, EQ):
        lower[code] = max(lower.get(code, value), value)
    if operator in (LE, LT, EQ):
        upper[code] = min(upper.get(code, value), value)


def _follow(ends: Ends, operator: int, row: Linear) -> bool:
    """Add the missing bounds that follow from one row; whether there were any."""
    tick()
    found = False
    for sign in (1, -1):
        if (sign > 0 and operator in (GE, GT)) or (sign < 0 and operator in (LE, LT)):
            continue
        coefficients = {code: sign * factor for code, factor in row[0].items()}
        known = {code: ends[0 if factor > 0 else 1].get(code) for code, factor in coefficients.items()}
        least = {code: coefficients[code] * end for code, end in known.items() if end is not None}
        missing = [code for code in coefficients if code not in least]
        if len(missing) > 1:
            continue
        rest = sign * row[1] - sum(least.values(), Fraction(0))
        for code in missing or coefficients:
            factor = coefficients[code]
            side = 1 if factor > 0 else 0
            if code not in ends[side] and _short(rest):
                ends[side][code] = (rest + least.get(code, 0)) / factor
                found = True
    return found


def _short(value: Fraction) -> bool:
    """Whether a number is not too long to compute with."""
    return max(value.numerator.bit_length(), value.denominator.bit_length()) <= MAXIMUM_BITS // 2
