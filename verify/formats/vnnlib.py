"""Reader of VNN-LIB 1.0: text in, a disjunction of boxes with linear rows out.

**What a property is.** A file states when a network is *unsafe*: a formula over its inputs `X_i` and outputs
`Y_j`. Verification wants that formula as a disjunction of clauses "x in a box, and C y + E x <= d". The
result, `Property`, offers the clauses as a lazy sequence, since the largest files have thousands of them
over hundreds of inputs each and nobody needs all of them as float matrices at once.

**Exact first, rounded last.** Literals are decimals, and most decimals are no binary floats. Rounding at the
tokenizer would move bounds in both directions, so a proof could be about a smaller box than the file's. Here
a literal stays text until its two float64 neighbours are wanted: `below`, the largest float64 <= it, and
`above`, the smallest >= it (equal when the literal is a float64). From these two everything else follows
exactly:

* a lower bound becomes `below`, an upper one `above`, a threshold rounds up: the unsafe region only grows,
  so a proof of its emptiness holds for the file's region. Strict comparisons are read as non-strict ones for
  the same reason (a `strict` flag per row stays for those who look for witnesses).
* a float v obeys v <= literal exactly when v <= below, v < literal exactly when v < above, and so on:
  `violated` judges float points against exact decimals with plain vectorised float comparisons, and no
  rounding at all.
* the exact order of all literals is the lexicographic order of (below, above), save for literals inside the
  same gap between floats, which are compared as fractions. So each literal gets an integer *rank*, and
  intersecting boxes is a maximum and minimum over small integers; strictness is the last bit of the doubled
  rank.

Coefficients that are no float64 cannot be rounded soundly (the direction depends on the sign of the
variable). A row with such a coefficient is multiplied by the common denominator, which is exact and changes
nothing; if the integers are too large for float64 even then, the row is refused.

**Storage.** The smallest pieces of the formula are *atoms*, kept in three flat arrays: operator, left
variable, right side (a literal, another variable, or a general linear row). The formula is a tree over
ranges of atoms. Asserts at the top are intersected into one base; every disjunction is a *factor* with its
alternatives as tuples of ranges, and clause number k is a choice of one alternative per factor (a
mixed-radix number), made only on access.

**Speed.** Nearly all text consists of long runs of one shape (`(assert (<= X_0 0.5))`, or such atoms within
`and`). One compiled regular expression checks a whole run; then splitting at white space and dictionary
lookups do the rest in C. Whatever does not fit goes through a small recursive reader, which is also the one
that writes error messages: if a run holds an undeclared name, the run is taken back and read slowly up to
the exact place.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from itertools import product
from operator import eq as same
from operator import gt, lt
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from verify.errors import SpecificationError, UnboundedInputError

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]
Number: TypeAlias = float | Fraction
Range: TypeAlias = tuple[int, int]
Alternative: TypeAlias = tuple[Range, ...]
Linear: TypeAlias = tuple[dict[int, Fraction], Fraction]

MAXIMUM_CLAUSES = 1_000_000
MAXIMUM_DEPTH = 200
MAXIMUM_MAGNITUDE = 1e300
MAXIMUM_EXPONENT = 4_000
MAXIMUM_DIGITS = 4_000
CACHED_BOXES = 512
_CHUNK = 1 << 20
_BATCH = 1 << 13
_SIDES = 1 << 14

_LE, _LT, _GE, _GT, _EQ = range(5)
_OPERATORS = {"<=": _LE, "<": _LT, ">=": _GE, ">": _GT, "=": _EQ, "==": _EQ}
_MIRRORED = (_GE, _GT, _LE, _LT, _EQ)
_NO_UPPER = np.iinfo(np.int64).max
_IGNORED = frozenset({"set-logic", "set-info", "set-option", "check-sat", "get-model"})

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_ATOM = r"\(\s*[<>=]+\s+[^\s()]+\s+[^\s()]+\s*\)\s*"
_IS_NUMBER = re.compile(_NUMBER + r"\Z", re.ASCII)
_IS_VARIABLE = re.compile(r"[XY]_(?:0|[1-9]\d{0,8})\Z", re.ASCII)
_SPACE = re.compile(r"\s*", re.ASCII)
_WORD = re.compile(r"[^\s()]+", re.ASCII)
_STATEMENT = re.compile(r"\(\s*(?:assert|declare-const)(?![^\s()])", re.ASCII)
_COMMENT = re.compile(r";[^\n]*")
_ATOM_RUN = re.compile(rf"(?:{_ATOM}){{1,20000}}", re.ASCII)
_CONJUNCTION = re.compile(rf"\(\s*and\s*((?:{_ATOM}){{1,20000}})\)\s*", re.ASCII)
_ASSERT_RUN = re.compile(rf"(?:\(\s*assert\s*{_ATOM}\)\s*){{1,20000}}", re.ASCII)
_DECLARE_RUN = re.compile(r"(?:\(\s*declare-const\s+[XY]_\d+\s+Real\s*\)\s*){1,20000}", re.ASCII)


# ----------------------------------------------------------------------------------------------------------
# Literals


class _TooExtreme(ValueError):
    """A number beyond what is kept exact (internal; the reader turns it into an error with a place)."""


def _check_extent(text: str) -> None:
    """Refuse numbers whose exact value would be needlessly huge to hold, or beyond the float64 range."""
    mantissa, _, exponent = text.lower().partition("e")
    digits = exponent.lstrip("+-").lstrip("0")
    if len(mantissa) > MAXIMUM_DIGITS or len(digits) > 6 or (digits and int(digits) > MAXIMUM_EXPONENT):
        raise _TooExtreme(text)
    if abs(float(text)) > MAXIMUM_MAGNITUDE:
        raise _TooExtreme(text)


class _Right(dict[str, int]):
    """Right sides of atoms by text: -1 - code for a declared variable, a number given on sight for a literal.

    Being a dictionary with `__missing__` it can be mapped over tokens without a line of Python per token.
    """

    def __init__(self) -> None:
        super().__init__()
        self.values_: list[str | Fraction] = []

    def __missing__(self, text: str) -> int:
        if not _IS_NUMBER.match(text):
            raise KeyError(text)
        if len(text) > 40 or "e" in text or "E" in text:
            _check_extent(text)
        self[text] = number = len(self.values_)
        self.values_.append(text)
        return number

    def add(self, value: Fraction) -> int:
        """The number of a computed literal."""
        if abs(value) > MAXIMUM_MAGNITUDE:
            raise _TooExtreme(str(value))
        self.values_.append(value)
        return len(self.values_) - 1


def _sides(values: list[str | Fraction], near: Floats) -> NDArray[np.int8]:
    """Signs of (exact value - near), int8 [values]; Decimal comparisons are exact, and loop in C."""
    sides = np.zeros(len(values), dtype=np.int8)
    for start in range(0, len(values), _SIDES):
        part, floats = values[start : start + _SIDES], near[start : start + _SIDES].tolist()
        texts = [value if isinstance(value, str) else "0" for value in part]
        exact, other = list(map(Decimal, texts)), list(map(Decimal, floats))
        sides[start : start + _SIDES] = np.array(list(map(gt, exact, other)), dtype=np.int8)
        sides[start : start + _SIDES] -= np.array(list(map(lt, exact, other)), dtype=np.int8)
    for k, value in enumerate(values):
        if not isinstance(value, str):
            rounded = Fraction(float(near[k]))
            sides[k] = int(value > rounded) - int(value < rounded)
    return sides


class _Literals:
    """All literals of a file with their float64 neighbours and their exact order.

    `below`, `above` (float64 [literals]) enclose each literal as tightly as float64 can; `rank` (int64
    [literals]) is the position of its value in increasing order, equal for equal values; `at_rank` gives one
    literal per rank.
    """

    def __init__(self, values: list[str | Fraction]) -> None:
        self.values = values
        near = np.array([float(value) for value in values], dtype=np.float64) + 0.0
        side = _sides(values, near)
        self.below = np.where(side < 0, np.nextafter(near, -np.inf), near)
        self.above = np.where(side > 0, np.nextafter(near, np.inf), near)
        self.rank, self.at_rank = self._order()

    def exact(self, number: int) -> Fraction:
        """The literal's value."""
        return Fraction(self.values[number])

    def _order(self) -> tuple[Integers, Integers]:
        order = np.lexsort((self.above, self.below))
        below, above = self.below[order], self.above[order]
        new = np.ones(len(order), dtype=np.bool_)
        new[1:] = (below[1:] != below[:-1]) | (above[1:] != above[:-1])
        inexact = below != above
        self._order_within_gaps(order, new, inexact)
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.cumsum(new) - 1
        return rank, order[new].astype(np.int64)

    def _order_within_gaps(self, order: Integers, new: NDArray[np.bool_], inexact: NDArray[np.bool_]) -> None:
        """Sort, in place, the literals that lie strictly between the same two floats."""
        if not len(order):
            return
        starts = np.flatnonzero(new)
        stops = np.append(starts[1:], len(order))
        for start, stop in zip(starts[stops - starts > 1], stops[stops - starts > 1], strict=True):
            if not inexact[start]:
                continue
            group = sorted((self.exact(int(k)), int(k)) for k in order[start:stop])
            order[start:stop] = [k for _, k in group]
            new[start + 1 : stop] = [a[0] != b[0] for a, b in zip(group[1:], group, strict=False)]


def round_up(value: Fraction) -> float:
    """The smallest float64 >= value; the value must lie within the float64 range."""
    near = float(value)
    return (near if Fraction(near) >= value else math.nextafter(near, math.inf)) + 0.0


# ----------------------------------------------------------------------------------------------------------
# The formula


@dataclass(frozen=True, slots=True)
class _Atoms:
    """The conjunction of the atoms start .. stop - 1."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _All:
    """A conjunction; true when empty."""

    parts: tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _Any:
    """A disjunction; false when empty."""

    parts: tuple[_Node, ...]


_Node: TypeAlias = _Atoms | _All | _Any


@dataclass(frozen=True, slots=True)
class _Row:
    """A general linear atom: sum of coefficients * variables (op) constant."""

    coefficients: dict[int, Fraction]
    constant: Fraction


class _Point:
    """Coordinates as floats, and apart those that only a Fraction holds exactly.

    `floats`: float64 [n] (0 in the place of a Fraction); `exact`: position to Fraction.
    """

    def __init__(self, values: Sequence[Number] | NDArray[Any]) -> None:
        self.exact: dict[int, Fraction] = {}
        given = np.asarray(values).ravel()
        wide = given.dtype.kind != "f" or given.dtype.itemsize > 8
        if wide or (not isinstance(values, np.ndarray) and bool((np.abs(given) >= 2.0**53).any())):
            given = self._separate(given.tolist() if isinstance(values, np.ndarray) else list(values))
        self.floats: Floats = given.astype(np.float64)

    def _separate(self, values: list[Any]) -> NDArray[Any]:
        self.exact = {k: Fraction(v) for k, v in enumerate(values) if isinstance(v, Fraction | int)}
        return np.array([0.0 if k in self.exact else float(v) for k, v in enumerate(values)])


@dataclass(frozen=True)
class _Formula:
    """The whole formula as written: atoms, the tree over them, and exact evaluation.

    Variables are coded 2 i for X_i and 2 j + 1 for Y_j.  Atom k compares `left[k]` by `operator[k]` with
    `right[k]`, which is a literal (>= 0) or a variable (-1 - code); a negative `left[k]` is row -1 - left[k].
    """

    operator: NDArray[np.int8]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    rows: list[_Row]
    literals: _Literals
    tree: _Node

    def holds(self, inputs: _Point, outputs: _Point) -> bool:
        """Exact truth at a point; false at points with infinite or undefined coordinates."""
        size = 2 * max(len(inputs.floats), len(outputs.floats))
        floats = np.zeros(size)
        floats[0:size:2][: len(inputs.floats)] = inputs.floats
        floats[1:size:2][: len(outputs.floats)] = outputs.floats
        if not np.isfinite(floats).all():
            return False
        exact = {2 * k: v for k, v in inputs.exact.items()} | {2 * k + 1: v for k, v in outputs.exact.items()}
        return self._evaluate(self.tree, self._truth(floats, exact))

    def _evaluate(self, node: _Node, truth: NDArray[np.bool_]) -> bool:
        if isinstance(node, _Atoms):
            return bool(truth[node.start : node.stop].all())
        results = (self._evaluate(part, truth) for part in node.parts)
        return all(results) if isinstance(node, _All) else any(results)

    def _truth(self, floats: Floats, exact: dict[int, Fraction]) -> NDArray[np.bool_]:
        truth = np.empty(len(self.left), dtype=np.bool_)
        rational = np.zeros(len(floats), dtype=np.bool_)
        rational[list(exact)] = True
        for start in range(0, len(truth), _CHUNK):
            part = slice(start, start + _CHUNK)
            left, right = self.left[part], self.right[part]
            truth[part] = self._float_truth(self.operator[part], left, right, floats)
            slow = (left < 0) | rational[np.maximum(left, 0)]
            slow |= (right < 0) & rational[np.maximum(-1 - right, 0)]
            for k in np.flatnonzero(slow).tolist():
                truth[start + k] = self._exact_truth(start + k, floats, exact)
        return truth

    def _float_truth(
        self, operator: NDArray[np.int8], left: NDArray[np.int32], right: NDArray[np.int32], floats: Floats
    ) -> NDArray[np.bool_]:
        value = floats[np.maximum(left, 0)]
        other = floats[np.maximum(-1 - right, 0)]
        below, above = other, other
        if len(self.literals.values):
            number = np.maximum(right, 0)
            below = np.where(right < 0, other, self.literals.below[number])
            above = np.where(right < 0, other, self.literals.above[number])
        tests = [
            value <= below,
            value < above,
            value >= above,
            value > below,
            (value == below) & (value == above),
        ]
        return np.select([operator == code for code in range(5)], tests, False)

    def _exact_truth(self, k: int, floats: Floats, exact: dict[int, Fraction]) -> bool:
        coefficients, constant = self.linear(k)
        values = {v: exact[v] if v in exact else Fraction(float(floats[v])) for v in coefficients}
        total = sum((c * values[v] for v, c in coefficients.items()), Fraction(0))
        return _compare(int(self.operator[k]), total, constant)

    def linear(self, k: int) -> Linear:
        """Atom k as (coefficients by variable, constant): coefficients * variables (op) constant."""
        left, right = int(self.left[k]), int(self.right[k])
        if left < 0:
            return self.rows[-1 - left].coefficients, self.rows[-1 - left].constant
        if right >= 0:
            return {left: Fraction(1)}, self.literals.exact(right)
        return {left: Fraction(1), -1 - right: Fraction(-1)}, Fraction(0)


def _compare(operator: int, a: Fraction, b: Fraction) -> bool:
    """Exact comparison by operator code."""
    return (a <= b, a < b, a >= b, a > b, a == b)[operator]


# ----------------------------------------------------------------------------------------------------------
# Clauses


@dataclass(frozen=True, eq=False)
class Clause:
    """One conjunction: unsafe where lower <= x <= upper and C y + E x <= d.

    `lower`, `upper`: float64 [inputs], rounded outward (read-only, shared among clauses with the same box).
    `output_coefficients`: C, float64 [rows, outputs], exact.  `input_coefficients`: E, float64 [rows,
    inputs], exact, or None when no row mentions an input.  `thresholds`: d, float64 [rows], rounded up.
    `strict`: bool [rows], true where the file says `<` (the row is nevertheless to be read as `<=` in
    proofs).
    """

    lower: Floats
    upper: Floats
    output_coefficients: Floats
    input_coefficients: Floats | None
    thresholds: Floats
    strict: NDArray[np.bool_]


@dataclass(frozen=True)
class _Factor:
    """One disjunction at the top: its alternatives, and for each the number of its box.

    Alternatives with the same input bounds have the same box number; `representatives` holds one for each.
    """

    alternatives: list[Alternative]
    box_of: Integers
    representatives: list[Alternative]


class _Clauses(Sequence[Clause]):
    """The clauses of a property, made on access; clause k chooses one alternative of every factor.

    `product_index`: int64 [clauses], the choice as a mixed-radix number; choices whose box is exactly
    empty are left out.  `box_ids`: int64 [clauses], equal for clauses with the same box.
    """

    def __init__(
        self, formula: _Formula, inputs: int, outputs: int, base: list[Range], factors: list[_Factor]
    ) -> None:
        self.formula, self.inputs, self.outputs = formula, inputs, outputs
        self.base, self.factors = base, factors
        self._bounding = (formula.left >= 0) & (formula.left % 2 == 0) & (formula.right >= 0)
        self._base_codes = self._tighten([tuple(base)], None)
        self._cache: OrderedDict[int, tuple[Floats, Floats]] = OrderedDict()
        sizes = [len(factor.alternatives) for factor in factors]
        box_sizes = [len(factor.representatives) for factor in factors]
        self._sizes, self._box_sizes = sizes, box_sizes
        boxes = np.zeros(1, dtype=np.int64)
        for factor, size in zip(factors, box_sizes, strict=True):
            boxes = (boxes[:, None] * size + factor.box_of[None, :]).ravel()
        self.box_ids, self._product_index = boxes, np.arange(len(boxes), dtype=np.int64)

    # -- exact boxes as rank codes: lower 2 rank + strict (-1: none), upper 2 rank + 1 - strict;
    # -- a pair of bounds allows no value exactly when lower >= upper

    def _tighten(
        self, choices: list[Alternative], start: tuple[Integers, Integers] | None
    ) -> tuple[Integers, Integers]:
        """Codes [choices, inputs] of the boxes of `choices`, each intersected with `start` [1, inputs]."""
        shape = (len(choices), self.inputs)
        lower = (
            np.full(shape, -1, dtype=np.int64) if start is None else np.repeat(start[0], len(choices), axis=0)
        )
        upper = np.full(shape, _NO_UPPER) if start is None else np.repeat(start[1], len(choices), axis=0)
        atoms, owner = self._atoms_of(choices)
        formula = self.formula
        operator = formula.operator[atoms]
        place = owner * self.inputs + formula.left[atoms] // 2
        rank = 2 * formula.literals.rank[formula.right[atoms]]
        low = (operator == _GE) | (operator == _GT) | (operator == _EQ)
        high = (operator == _LE) | (operator == _LT) | (operator == _EQ)
        np.maximum.at(lower.reshape(-1), place[low], (rank + (operator == _GT))[low])
        np.minimum.at(upper.reshape(-1), place[high], (rank + (operator != _LT))[high])
        return lower, upper

    def _atoms_of(self, choices: list[Alternative]) -> tuple[Integers, Integers]:
        """The bounding atoms of all choices, and for each the number of its choice."""
        ranges = [(k, a, b) for k, choice in enumerate(choices) for a, b in choice if b > a]
        if not ranges:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        atoms = np.concatenate([np.arange(a, b) for _, a, b in ranges])
        owner = np.repeat(np.array([k for k, _, _ in ranges]), [b - a for _, a, b in ranges])
        keep = self._bounding[atoms]
        return atoms[keep], owner[keep]

    def _box_choice(self, box: int) -> Alternative:
        """The ranges that make up box number `box` beyond the base."""
        picked: list[Range] = []
        for factor, size in zip(reversed(self.factors), reversed(self._box_sizes), strict=True):
            box, digit = divmod(box, size)
            picked.extend(factor.representatives[digit])
        return tuple(picked)

    def _codes(self, clause: int) -> tuple[Integers, Integers]:
        """Codes [inputs] of the box of a clause."""
        lower, upper = self._tighten([self._box_choice(int(self.box_ids[clause]))], self._base_codes)
        return lower[0], upper[0]

    def base_is_empty(self) -> bool:
        """Whether the bounds at the top alone contradict one another."""
        lower, upper = self._base_codes
        return bool((lower >= upper).any())

    def drop_empty(self) -> int | None:
        """Leave out clauses with an empty box; return an input that lacks a bound in the rest, or None."""
        boxes = np.unique(self.box_ids)
        step = max(1, _CHUNK // max(1, self.inputs))
        empty: list[Integers] = []
        missing: int | None = None
        for start in range(0, len(boxes), step):
            part = boxes[start : start + step]
            lower, upper = self._tighten([self._box_choice(int(b)) for b in part], self._base_codes)
            gone: NDArray[np.bool_] = np.logical_or.reduce(lower >= upper, axis=1)
            lacking = ((lower < 0) | (upper == _NO_UPPER)) & ~gone[:, None]
            if missing is None and lacking.any():
                missing = int(np.argwhere(lacking)[0, 1])
            empty.append(part[gone])
        bad = np.concatenate(empty) if empty else boxes
        if len(bad):
            keep = ~np.isin(self.box_ids, bad)
            self.box_ids, self._product_index = self.box_ids[keep], self._product_index[keep]
        return missing

    # -- float boxes

    def boxes(self, clauses: Sequence[int]) -> tuple[Floats, Floats]:
        """Outward rounded float64 boxes [clauses, inputs]."""
        choices = [self._box_choice(int(self.box_ids[k])) for k in clauses]
        lower, upper = self._tighten(choices, self._base_codes)
        literals = self.formula.literals
        return literals.below[literals.at_rank[lower >> 1]], literals.above[literals.at_rank[upper >> 1]]

    def box(self, clause: int) -> tuple[Floats, Floats]:
        """Outward rounded float64 box of a clause, shared with other clauses of the same box."""
        key = int(self.box_ids[clause])
        if key not in self._cache:
            self._fill(range(clause, min(len(self), clause + max(1, _BATCH // self.inputs))))
        return self._cache[key]

    def _fill(self, clauses: range) -> None:
        """Put the boxes of some clauses into the cache, together since that is faster by far."""
        while len(self._cache) > CACHED_BOXES:
            self._cache.popitem(last=False)
        fresh = {int(self.box_ids[k]): k for k in clauses if int(self.box_ids[k]) not in self._cache}
        for key, lower, upper in zip(fresh, *self.boxes(list(fresh.values())), strict=True):
            lower.flags.writeable = upper.flags.writeable = False
            self._cache[key] = lower, upper

    def exact_box(self, clause: int) -> tuple[list[Fraction], list[Fraction]]:
        """The closed decimal box of a clause."""
        literals = self.formula.literals
        lower, upper = self._codes(clause)
        exact = {
            c: literals.exact(int(literals.at_rank[c]))
            for c in set((lower >> 1).tolist() + (upper >> 1).tolist())
        }
        return [exact[c] for c in (lower >> 1).tolist()], [exact[c] for c in (upper >> 1).tolist()]

    def inner_box(self, clause: int, dtype: DTypeLike) -> tuple[NDArray[Any], NDArray[Any]]:
        """Largest box of `dtype` values inside the decimal box (strict bounds respected); see Property."""
        literals = self.formula.literals
        lower, upper = self._codes(clause)
        low, high = literals.at_rank[lower >> 1], literals.at_rank[upper >> 1]
        start, stop = literals.above[low], literals.below[high]
        start = np.where(
            (lower % 2 == 1) & (start == literals.below[low]), np.nextafter(start, np.inf), start
        )
        stop = np.where((upper % 2 == 0) & (stop == literals.above[high]), np.nextafter(stop, -np.inf), stop)
        inner_low, inner_high = _cast(start, dtype, up=True), _cast(stop, dtype, up=False)
        for k in np.flatnonzero(inner_low > inner_high).tolist():
            middle = (literals.exact(int(low[k])) + literals.exact(int(high[k]))) / 2
            inner_low[k] = inner_high[k] = _nearest(middle, inner_high[k], inner_low[k])
        return inner_low, inner_high

    # -- clauses

    def _choice(self, clause: int) -> Alternative:
        """All ranges of a clause, in the order of the file's factors."""
        number = int(self._product_index[clause])
        picked: list[Alternative] = []
        for factor, size in zip(reversed(self.factors), reversed(self._sizes), strict=True):
            number, digit = divmod(number, size)
            picked.append(factor.alternatives[digit])
        return (*self.base, *(r for choice in reversed(picked) for r in choice))

    def _rows(self, clause: int) -> list[tuple[Linear, bool]]:
        """The rows of a clause as (linear <= constant, strict)."""
        rows: list[tuple[Linear, bool]] = []
        for start, stop in self._choice(clause):
            for k in (np.flatnonzero(~self._bounding[start:stop]) + start).tolist():
                rows.extend(_as_rows(self.formula.linear(k), int(self.formula.operator[k])))
        return rows

    def __len__(self) -> int:
        return len(self._product_index)

    @overload
    def __getitem__(self, index: int) -> Clause: ...
    @overload
    def __getitem__(self, index: slice) -> list[Clause]: ...
    def __getitem__(self, index: int | slice) -> Clause | list[Clause]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        k = range(len(self))[index]
        lower, upper = self.box(k)
        rows = self._rows(k)
        outputs = np.zeros((len(rows), self.outputs))
        inputs = np.zeros((len(rows), self.inputs)) if self._mentions_inputs(rows) else None
        for row, ((coefficients, _), _) in enumerate(rows):
            for variable, value in coefficients.items():
                if variable % 2:
                    outputs[row, variable // 2] = float(value)
                elif inputs is not None:
                    inputs[row, variable // 2] = float(value)
        thresholds = np.array([round_up(constant) for (_, constant), _ in rows], dtype=np.float64)
        strict = np.array([flag for _, flag in rows], dtype=np.bool_)
        return Clause(lower, upper, outputs, inputs, thresholds, strict)

    @staticmethod
    def _mentions_inputs(rows: list[tuple[Linear, bool]]) -> bool:
        return any(variable % 2 == 0 for (coefficients, _), _ in rows for variable in coefficients)

    def __iter__(self) -> Iterator[Clause]:
        return (self[k] for k in range(len(self)))


def _as_rows(linear: Linear, operator: int) -> list[tuple[Linear, bool]]:
    """An atom as one row "<= constant", or two for an equality."""
    coefficients, constant = linear
    negated: Linear = {v: -c for v, c in coefficients.items()}, -constant
    if operator == _EQ:
        return [(linear, False), (negated, False)]
    return [(linear if operator in (_LE, _LT) else negated, operator in (_LT, _GT))]


def _cast(values: Floats, dtype: DTypeLike, up: bool) -> NDArray[Any]:
    """The nearest `dtype` values >= (up) or <= (down) float64 values."""
    kind = np.dtype(dtype)
    with np.errstate(over="ignore"):
        cast: NDArray[Any] = values.astype(kind)
    away: NDArray[Any] = np.array(np.inf if up else -np.inf, dtype=kind)
    wide = cast.astype(np.float64)
    wrong = wide < values if up else wide > values
    cast[wrong] = np.nextafter(cast[wrong], away)
    return cast


def _nearest(value: Fraction, below: Any, above: Any) -> Any:
    """Whichever of two neighbouring values is nearer (the finite one if only one is)."""
    if not np.isfinite(below) or not np.isfinite(above):
        return above if np.isfinite(above) else below
    return below if value - Fraction(float(below)) <= Fraction(float(above)) - value else above


@dataclass(frozen=True, eq=False)
class Property:
    """What a specification says: the network is unsafe where any clause holds.

    `clauses` is a sequence that makes each `Clause` on access (iterate rather than copy); neighbouring
    clauses with the same box share its arrays, and `box_ids[k]` tells which ones do.  `empty_box` is true
    when the bounds outside all disjunctions contradict one another: there are no clauses then, and the
    property holds trivially. `source` is the file it was read from.
    """

    inputs: int
    outputs: int
    clauses: Sequence[Clause]
    source: str | None
    empty_box: bool
    _formula: _Formula = field(repr=False)
    _lazy: _Clauses = field(repr=False)

    @property
    def box_ids(self) -> Integers:
        """int64 [clauses]: equal numbers mean equal boxes."""
        return self._lazy.box_ids

    def violated(self, x: Sequence[Number] | NDArray[Any], y: Sequence[Number] | NDArray[Any]) -> bool:
        """Whether the file's formula, strictness included, holds at inputs x and outputs y, decided exactly.

        x: [inputs] and y: [outputs], flat, floats (taken at their exact binary value) or Fractions; arrays of
        any shape are read in row-major order.  A point with an infinite or undefined coordinate never counts.
        Raises ValueError when a length is wrong.
        """
        inputs, outputs = _Point(x), _Point(y)
        given = len(inputs.floats), len(outputs.floats)
        if given != (self.inputs, self.outputs):
            raise ValueError(
                f"expected {self.inputs} inputs and {self.outputs} outputs, got {given[0]} and {given[1]}"
            )
        return self._formula.holds(inputs, outputs)

    def bounds(self, clauses: Sequence[int]) -> tuple[Floats, Floats]:
        """The boxes of several clauses, rounded outward: two float64 arrays [len(clauses), inputs]."""
        return self._lazy.boxes([range(len(self.clauses))[k] for k in clauses])

    def exact_bounds(self, clause: int) -> tuple[list[Fraction], list[Fraction]]:
        """The decimal box of a clause, exactly: (lower [inputs], upper [inputs]); IndexError past the end."""
        return self._lazy.exact_box(range(len(self.clauses))[clause])

    def inner_bounds(self, clause: int, dtype: DTypeLike) -> tuple[NDArray[Any], NDArray[Any]]:
        """The largest box of `dtype` values (float16, float32 or float64) within a clause's decimal box.

        Returns (lower [inputs], upper [inputs]) of that dtype: clamping a witness to them puts it inside the
        decimal box exactly (strict bounds included).  Where no such value exists (a point such as 0.1), both
        are the value nearest to the middle.  Raises IndexError past the end.
        """
        return self._lazy.inner_box(range(len(self.clauses))[clause], dtype)


# ----------------------------------------------------------------------------------------------------------
# Reading text


class _Reader:
    """One pass over the text; `at` is the position of the next unread character.

    Comments are blanked beforehand by spaces of the same length, so every position is one of the original
    text.
    """

    def __init__(self, text: str, source: str) -> None:
        self.source = source
        self.text = _COMMENT.sub(lambda m: " " * len(m.group()), text) if ";" in text else text
        self.at = 0
        self.names: dict[str, int] = {}
        self.right = _Right()
        self.operator, self.left, self.rights = array("b"), array("i"), array("i")
        self.rows: list[_Row] = []
        self.parts: list[_Node] = []

    # -- errors and characters

    def fail(self, place: int, reason: str, remedy: str) -> NoReturn:
        """Raise a SpecificationError at a position."""
        line, column = self.position(place)
        raise SpecificationError(self.source, line, column, reason, remedy)

    def position(self, place: int) -> tuple[int, int]:
        """Line and column, from 1, of a position."""
        return self.text.count("\n", 0, place) + 1, place - self.text.rfind("\n", 0, place)

    def skip(self) -> None:
        """Move past white space."""
        match = _SPACE.match(self.text, self.at)
        self.at = match.end() if match else self.at

    def peek(self) -> str:
        """The next character that is no white space, or an empty string."""
        self.skip()
        return self.text[self.at : self.at + 1]

    def word(self, wanted: str) -> str:
        """The next word; fails if there is a parenthesis or nothing."""
        self.skip()
        match = _WORD.match(self.text, self.at)
        if match is None:
            self.fail(
                self.at,
                f"found {self.peek() or 'the end of the file'!r}, expected {wanted}",
                f"write {wanted}",
            )
        self.at = match.end()
        return match.group()

    def close(self, opened: int, wanted: str) -> None:
        """Read the closing parenthesis of the one at `opened`."""
        self.not_closed(opened)
        if self.peek() != ")":
            self.fail(self.at, f"found {self._found()} after {wanted}", "write ')' after " + wanted)
        self.at += 1

    def _found(self) -> str:
        """What comes next, for messages."""
        self.skip()
        if self.at >= len(self.text):
            return "the end of the file"
        match = _WORD.match(self.text, self.at)
        if match:
            return repr(match.group()[:60])
        line, column = self.position(self.at)
        return f"{self.text[self.at]} at line {line}, column {column}"

    def not_closed(self, opened: int) -> None:
        """Fail if the text ends here, or the next statement begins."""
        if not self.peek() or _STATEMENT.match(self.text, self.at):
            self.fail(
                opened, f"this parenthesis is not closed before {self._found()}", "write the missing ')'"
            )

    # -- statements

    def read(self) -> None:
        """Read all statements."""
        while self.peek():
            if not (self._declare_run() or self._assert_run()):
                self._statement()

    def _declare_run(self) -> bool:
        match = _DECLARE_RUN.match(self.text, self.at)
        if match is None:
            return False
        names = _tokens(match.group())[1::3]
        fresh = set(names)
        if (
            len(fresh) != len(names)
            or not fresh.isdisjoint(self.names)
            or not all(map(_IS_VARIABLE.match, names))
        ):
            return False
        for name in names:
            self._declare(name)
        self.at = match.end()
        return True

    def _declare(self, name: str) -> None:
        code = 2 * int(name[2:]) + (name[0] == "Y")
        self.names[name] = code
        self.right[name] = -1 - code

    def _assert_run(self) -> bool:
        match = _ASSERT_RUN.match(self.text, self.at)
        if match is None:
            return False
        tokens = _tokens(match.group())
        del tokens[::4]
        node = self._add(tokens)
        if node is None:
            return False
        self.parts.append(node)
        self.at = match.end()
        return True

    def _add(self, tokens: list[str]) -> _Atoms | None:
        """Add atoms given as operator, variable, right side, ...; None, with nothing kept, if that fails."""
        start = len(self.left)
        if any(map(same, tokens[1::3], tokens[2::3])):
            return None  # a variable compared with itself is a constant: the slow way evaluates it
        try:
            self.left.extend(map(self.names.__getitem__, tokens[1::3]))
            self.rights.extend(map(self.right.__getitem__, tokens[2::3]))
            self.operator.extend(map(_OPERATORS.__getitem__, tokens[0::3]))
        except (KeyError, _TooExtreme):
            del self.left[start:], self.rights[start:], self.operator[start:]
            return None
        return _Atoms(start, len(self.left))

    def _statement(self) -> None:
        opened = self.at
        if self.text[opened] == ")":
            self.fail(opened, "this closing parenthesis has no opening one", "remove it")
        if self.text[opened] != "(":
            self.fail(
                opened, f"found {self._found()}, expected '('", "write (declare-const ...) or (assert ...)"
            )
        self.at += 1
        self.not_closed(opened)
        place = self.at
        head = self.word("'declare-const' or 'assert'")
        if head == "declare-const":
            self._declare_statement(opened)
        elif head == "assert":
            self.not_closed(opened)
            self.parts.append(self._formula(0))
            self.close(opened, "the formula of assert")
        elif head in _IGNORED:
            self._ignore(opened)
        else:
            self._unknown_statement(place, head)

    def _unknown_statement(self, place: int, head: str) -> NoReturn:
        if head in ("vnnlib-version", "declare-network"):
            self.fail(
                place,
                f"this is a VNN-LIB 2.0 file ({head}), which is not supported yet",
                "give the property as VNN-LIB 1.0 text",
            )
        self.fail(place, f"unknown statement {head!r}", "use declare-const and assert only")

    def _ignore(self, opened: int) -> None:
        depth = 1
        while depth:
            self.not_closed(opened)
            if self.text[self.at] in "()":
                depth += 1 if self.text[self.at] == "(" else -1
                self.at += 1
            else:
                self.word("a word")

    def _declare_statement(self, opened: int) -> None:
        self.not_closed(opened)
        place = self.at
        name = self.word("a variable")
        if not _IS_VARIABLE.match(name):
            self.fail(
                place,
                f"{name!r} is no variable of VNN-LIB 1.0",
                "name inputs X_0, X_1, ... and outputs Y_0, ...",
            )
        if name in self.names:
            self.fail(place, f"{name} is declared twice", "remove one of the declarations")
        self.not_closed(opened)
        place = self.at
        sort = self.word("Real")
        if sort != "Real":
            self.fail(place, f"unknown type {sort!r} of {name}", "declare it as Real")
        self._declare(name)
        self.close(opened, "the declaration")

    # -- formulas

    def _formula(self, depth: int) -> _Node:
        self.skip()
        opened = self.at
        if depth > MAXIMUM_DEPTH:
            self.fail(opened, f"formula nested deeper than {MAXIMUM_DEPTH}", "flatten it")
        if self.peek() != "(":
            self.fail(
                opened, f"found {self._found()}, expected a formula", "write (<= ...), (and ...) or (or ...)"
            )
        conjunction = _CONJUNCTION.match(self.text, opened)
        if conjunction is not None:
            node = self._add(_tokens(conjunction.group(1)))
            if node is not None:
                self.at = conjunction.end()
                return node
        self.at += 1
        self.not_closed(opened)
        place = self.at
        head = self.word("an operator")
        if head in ("and", "or"):
            return self._connective(head, opened, depth)
        if head not in _OPERATORS:
            self._unknown_operator(place, head)
        return self._comparison(_OPERATORS[head], head, opened)

    def _unknown_operator(self, place: int, head: str) -> NoReturn:
        self.fail(
            place, f"unknown operator {head!r}", "use and, or, <=, >=, <, >, = (and +, -, * within terms)"
        )

    def _connective(self, head: str, opened: int, depth: int) -> _Node:
        parts: list[_Node] = []
        while self.peek() != ")":
            self.not_closed(opened)
            run = _ATOM_RUN.match(self.text, self.at)
            node = self._add(_tokens(run.group())) if run else None
            if run is None or node is None:
                parts.append(self._formula(depth + 1))
                continue
            self.at = run.end()
            if head == "and":
                parts.append(node)
            else:
                parts.extend(_Atoms(k, k + 1) for k in range(node.start, node.stop))
        self.at += 1
        return _All(tuple(parts)) if head == "and" else _Any(tuple(parts))

    def _comparison(self, operator: int, name: str, opened: int) -> _Node:
        sides: list[Linear] = []
        while self.peek() != ")":
            self.not_closed(opened)
            if len(sides) == 2:
                self.fail(
                    self.at,
                    f"{name!r} has more than two arguments",
                    "compare two terms, or close the parenthesis",
                )
            sides.append(self._term(0))
        if len(sides) < 2:
            self.fail(opened, f"{name!r} has {len(sides)} of its two arguments", "compare two terms")
        self.at += 1
        try:
            return self._relate(operator, sides[0], sides[1])
        except _TooExtreme:
            self.fail(
                opened, "this comparison has a coefficient that no float64 can hold", "scale it or round it"
            )

    def _relate(self, operator: int, left: Linear, right: Linear) -> _Node:
        """The atom `left operator right`, in the simplest form that says the same."""
        coefficients = _sum([left, _scaled(right, Fraction(-1))])[0]
        constant = right[1] - left[1]
        if not coefficients:
            return _All(()) if _compare(operator, Fraction(0), constant) else _Any(())
        if len(coefficients) == 1:
            ((variable, factor),) = coefficients.items()
            code = operator if factor > 0 else _MIRRORED[operator]
            return self._append(code, variable, self.right.add(constant / factor))
        self.rows.append(_representable(coefficients, constant))
        return self._append(operator, -len(self.rows), 0)

    def _append(self, operator: int, left: int, right: int) -> _Atoms:
        self.operator.append(operator)
        self.left.append(left)
        self.rights.append(right)
        return _Atoms(len(self.left) - 1, len(self.left))

    # -- terms

    def _term(self, depth: int) -> Linear:
        self.skip()
        if depth > MAXIMUM_DEPTH:
            self.fail(self.at, f"term nested deeper than {MAXIMUM_DEPTH}", "flatten it")
        if self.peek() == "(":
            return self._operation(depth)
        place = self.at
        text = self.word("a number or a variable")
        if text in self.names:
            return {self.names[text]: Fraction(1)}, Fraction(0)
        if _IS_NUMBER.match(text):
            return {}, self._number(text, place)
        self._bad_word(text, place)

    def _number(self, text: str, place: int) -> Fraction:
        try:
            _check_extent(text)
        except _TooExtreme:
            remedy = (
                f"stay within {MAXIMUM_MAGNITUDE:g}, {MAXIMUM_DIGITS} digits, exponent {MAXIMUM_EXPONENT}"
            )
            self.fail(place, f"the number {text[:60]} is too extreme", remedy)
        return Fraction(text)

    def _bad_word(self, text: str, place: int) -> NoReturn:
        if _IS_VARIABLE.match(text):
            self.fail(
                place, f"{text} is not declared", f"add (declare-const {text} Real) before its first use"
            )
        if text[0] in "+-.0123456789":
            self.fail(place, f"{text[:60]!r} is no number", "write a decimal such as -1.5 or 2e-3")
        self.fail(place, f"unknown symbol {text[:60]!r}", "use declared variables X_i, Y_j and decimals")

    def _operation(self, depth: int) -> Linear:
        opened = self.at
        self.at += 1
        self.not_closed(opened)
        place = self.at
        head = self.word("+, - or *")
        if head not in ("+", "-", "*", "/"):
            if head in _OPERATORS or head in ("and", "or"):
                self.fail(
                    place,
                    f"{head!r} stands where a number or a term is expected",
                    "compare terms, not formulas",
                )
            self._unknown_operator(place, head)
        arguments: list[Linear] = []
        while self.peek() != ")":
            self.not_closed(opened)
            arguments.append(self._term(depth + 1))
        self.at += 1
        if not arguments:
            self.fail(opened, f"{head!r} has no arguments", "give it at least one")
        return self._apply(head, arguments, opened)

    def _apply(self, head: str, arguments: list[Linear], opened: int) -> Linear:
        if head == "+":
            return _sum(arguments)
        if head == "-":
            rest = [_scaled(argument, Fraction(-1)) for argument in arguments[1:]]
            return _sum([arguments[0], *rest]) if rest else _scaled(arguments[0], Fraction(-1))
        result = arguments[0]
        for argument in arguments[1:]:
            if head == "/":
                if argument[0] or not argument[1]:
                    self.fail(
                        opened,
                        "division by something other than a non-zero constant",
                        "divide by constants only",
                    )
                result = _scaled(result, 1 / argument[1])
            elif result[0] and argument[0]:
                self.fail(opened, "a product of two variables is not linear", "multiply by constants only")
            else:
                result = _scaled(result, argument[1]) if result[0] else _scaled(argument, result[1])
        return result


def _tokens(text: str) -> list[str]:
    """The words of a checked run, parentheses left out."""
    return text.replace("(", " ").replace(")", " ").split()


def _sum(terms: Iterable[Linear]) -> Linear:
    total: dict[int, Fraction] = {}
    constant = Fraction(0)
    for coefficients, value in terms:
        constant += value
        for variable, factor in coefficients.items():
            total[variable] = total.get(variable, Fraction(0)) + factor
    return {variable: factor for variable, factor in total.items() if factor}, constant


def _scaled(term: Linear, factor: Fraction) -> Linear:
    coefficients = {variable: value * factor for variable, value in term[0].items()} if factor else {}
    return coefficients, term[1] * factor


def _is_float(value: Fraction) -> bool:
    return abs(value) <= MAXIMUM_MAGNITUDE and Fraction(float(value)) == value


def _representable(coefficients: dict[int, Fraction], constant: Fraction) -> _Row:
    """A row that says the same with float64 coefficients, if need be scaled by a positive number."""
    if not all(map(_is_float, coefficients.values())):
        denominator = math.lcm(*(c.denominator for c in coefficients.values()))
        divisor = math.gcd(*(c.numerator * (denominator // c.denominator) for c in coefficients.values()))
        factor = Fraction(denominator, divisor)
        coefficients = {variable: c * factor for variable, c in coefficients.items()}
        constant *= factor
    if abs(constant) > MAXIMUM_MAGNITUDE or not all(map(_is_float, coefficients.values())):
        raise _TooExtreme
    return _Row(coefficients, constant)


# ----------------------------------------------------------------------------------------------------------
# From the tree to factors


def _count(node: _Node) -> int:
    """The number of alternatives of a node's disjunctive normal form."""
    if isinstance(node, _Atoms):
        return 1
    counts = (_count(part) for part in node.parts)
    return math.prod(counts) if isinstance(node, _All) else sum(counts)


def _alternatives(node: _Node) -> list[Alternative]:
    """The disjunctive normal form of a node, by distribution."""
    if isinstance(node, _Atoms):
        return [((node.start, node.stop),)]
    if not _count(node):
        return []
    lists = [_alternatives(part) for part in node.parts]
    if isinstance(node, _Any):
        return [choice for part in lists for choice in part]
    return [tuple(r for choice in choices for r in choice) for choices in product(*lists)]


def _split(node: _Node) -> tuple[list[Range], list[_Node]]:
    """The atoms that hold in every clause, and the disjunctions."""
    if isinstance(node, _Atoms):
        return [(node.start, node.stop)], []
    if isinstance(node, _Any):
        return _split(node.parts[0]) if len(node.parts) == 1 else ([], [node])
    base: list[Range] = []
    factors: list[_Node] = []
    for part in node.parts:
        more, others = _split(part)
        base.extend(more)
        factors.extend(others)
    return base, factors


def _factor(node: _Node, formula: _Formula, bounding: NDArray[np.bool_]) -> _Factor:
    """List the alternatives of a disjunction and find those with the same input bounds."""
    alternatives = _alternatives(node)
    known: dict[bytes, int] = {}
    representatives: list[Alternative] = []
    box_of = np.zeros(len(alternatives), dtype=np.int64)
    packed = np.stack([formula.left, formula.right, formula.operator.astype(np.int32)], axis=1)
    for k, choice in enumerate(alternatives):
        key = b"".join(packed[a:b][bounding[a:b]].tobytes() for a, b in choice)
        number = known.setdefault(key, len(representatives))
        if number == len(representatives):
            representatives.append(choice)
        box_of[k] = number
    return _Factor(alternatives, box_of, representatives)


def _check_declarations(reader: _Reader) -> tuple[int, int]:
    """Numbers of inputs and outputs; fails when a kind is missing or the numbering has a gap."""
    counts: list[int] = []
    for letter, kind in (("X", "inputs"), ("Y", "outputs")):
        numbers = sorted(int(name[2:]) for name in reader.names if name[0] == letter)
        if not numbers:
            raise SpecificationError(
                reader.source, None, None, f"no {kind} are declared", f"add (declare-const {letter}_0 Real)"
            )
        if numbers[-1] != len(numbers) - 1:
            gap = next(k for k, number in enumerate(numbers) if k != number)
            place = _declaration(reader, f"{letter}_{numbers[gap]}")
            reason = f"{letter}_{numbers[gap]} is declared but {letter}_{gap} is not"
            reader.fail(place, reason, f"declare {letter}_0, {letter}_1, ... without gaps")
        counts.append(len(numbers))
    return counts[0], counts[1]


def _declaration(reader: _Reader, name: str) -> int:
    """Position of a variable's name in its declaration."""
    match = re.search(rf"\(\s*declare-const\s+({name})\s", reader.text)
    return match.start(1) if match else 0


def _build(reader: _Reader) -> Property:
    inputs, outputs = _check_declarations(reader)
    tree = _All(tuple(reader.parts))
    formula = _Formula(
        np.frombuffer(reader.operator, dtype=np.int8) if reader.left else np.zeros(0, dtype=np.int8),
        np.frombuffer(reader.left, dtype=np.int32) if reader.left else np.zeros(0, dtype=np.int32),
        np.frombuffer(reader.rights, dtype=np.int32) if reader.left else np.zeros(0, dtype=np.int32),
        reader.rows,
        _Literals(reader.right.values_),
        tree,
    )
    base, disjunctions = _split(tree)
    total = max([_count(tree), *map(_count, disjunctions)])
    if total > MAXIMUM_CLAUSES:
        reason = f"the disjunctions multiply to {total} clauses, more than {MAXIMUM_CLAUSES}"
        raise SpecificationError(reader.source, None, None, reason, "split the property into several files")
    bounding = (formula.left >= 0) & (formula.left % 2 == 0) & (formula.right >= 0)
    factors = [_factor(node, formula, bounding) for node in disjunctions]
    clauses = _Clauses(formula, inputs, outputs, base, factors)
    empty = clauses.base_is_empty()
    missing = clauses.drop_empty()
    if missing is not None:
        _unbounded(reader, missing)
    return Property(inputs, outputs, clauses, reader.source, empty, formula, clauses)


def _unbounded(reader: _Reader, index: int) -> NoReturn:
    name = f"X_{index}"
    line, column = reader.position(_declaration(reader, name))
    reason = f"the input {name} lacks a lower or an upper bound in some clause"
    remedy = f"add (assert (>= {name} ...)) and (assert (<= {name} ...))"
    raise UnboundedInputError(reader.source, line, column, name, reason, remedy)


def parse(text: str, source: str = "<text>") -> Property:
    """Read a property from VNN-LIB 1.0 text.

    Raises SpecificationError, with the place, the finding and the remedy, for text that is malformed,
    nonlinear, too extreme to be kept exact, or of version 2.0; UnboundedInputError for an input without both
    bounds.
    """
    if not text.strip():
        raise SpecificationError(source, None, None, "the file is empty", "give a VNN-LIB 1.0 file")
    if "\0" in text:
        _binary(source)
    reader = _Reader(text, source)
    reader.read()
    return _build(reader)


def _binary(source: str) -> NoReturn:
    raise SpecificationError(
        source, None, None, "this is a binary file, not text", "give a VNN-LIB file, plain or gzip"
    )


def read(path: str | Path) -> Property:
    """Read a property from a VNN-LIB 1.0 file, plain or gzip (told apart by content, not by name).

    Raises SpecificationError for a missing, unreadable, damaged or binary file, and whatever `parse` raises.
    """
    source = str(path)
    try:
        data = Path(path).read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise SpecificationError(source, None, None, "there is no such file", "check the path") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SpecificationError(
            source, None, None, f"damaged gzip file ({error})", "compress it again"
        ) from None
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error})"
        raise SpecificationError(source, None, None, reason, "check the path and its permissions") from None
    except UnicodeDecodeError:
        _binary(source)
    del data
    return parse(text, source)
