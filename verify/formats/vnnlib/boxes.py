"""The boxes of a property: intersected exactly as ranks, then rounded outward, inward or not at all.

A bound is one integer, its *code*: a lower bound 2 rank + strict (-1: none), an upper 2 rank + 1 - strict.
So intersection is a maximum or a minimum, and two bounds of an input contradict one another exactly when
lower >= upper. Every box is looked at once, on reading, to leave out the empty ones and to find inputs that
lack a bound; as many as `KEPT_BOUNDS` allows stay in memory, and the others are made again from the atoms. What is to be done with
intervals that hold no number of an input's element type is told in `gaps`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from verify.deadline import tick
from verify.formats.vnnlib.formula import EQ, GE, GT, LE, LT, Alternative, Formula, Point
from verify.formats.vnnlib.gaps import Gaps, Grid, Kinds, cast
from verify.formats.vnnlib.literals import Booleans, Floats, Integers

Codes: TypeAlias = NDArray[np.int32]

KEPT_BOUNDS = 1 << 22
SHARED_BOXES = 512
_CHUNK = 1 << 20
_NO_UPPER = np.iinfo(np.int32).max


class Boxes:
    """The boxes that are not empty, by number.

    The candidates are `base` with one alternative of each of `factors`, counted as a mixed-radix number.
    `number`: int64 [candidates], the number of each candidate's box, or -1 where it is empty.  `base_empty`
    is true when the base contradicts itself; `unbounded` is an input that lacks a bound in some box, or None.
    """

    def __init__(
        self, formula: Formula, inputs: int, base: Alternative, factors: Sequence[Sequence[Alternative]]
    ) -> None:
        self._formula, self._inputs, self._factors = formula, inputs, factors
        nothing = np.full((1, inputs), -1, dtype=np.int32), np.full((1, inputs), _NO_UPPER, dtype=np.int32)
        self._base = nothing
        self._base = self._tighten([base])
        self.base_empty = bool((self._base[0] >= self._base[1]).any())
        self.unbounded: int | None = None
        self._shared: dict[int, tuple[Floats, Floats]] = {}
        self._gaps: Gaps | None = None  # where the inputs' element types are known
        self._grids: dict[np.dtype[Any], Grid] = {}
        self._scan(math.prod(map(len, factors)))

    def _scan(self, candidates: int) -> None:
        """Find the empty boxes and the unbounded inputs, and keep the codes of the first boxes."""
        # ranges of a candidate, at most
        widest = sum(max(map(len, factor), default=1) for factor in self._factors)
        step, room = max(1, _CHUNK // max(self._inputs, widest)), KEPT_BOUNDS // self._inputs
        kept = [self._tighten([])]
        full: list[Booleans] = [np.zeros(0, dtype=np.bool_)]
        for start in range(0, candidates, step):
            tick()
            stop = min(candidates, start + step)
            lower, upper = self._tighten([self._alternative(k) for k in range(start, stop)])
            some: Booleans = np.all(lower < upper, axis=1)
            full.append(some)
            lower, upper = lower[some], upper[some]
            lacking = ((lower < 0) | (upper == _NO_UPPER)).any(axis=0)
            if self.unbounded is None and lacking.any():
                self.unbounded = int(np.argmax(lacking))
            kept.append((lower[:room], upper[:room]))
            room -= len(kept[-1][0])
        self._lower, self._upper = (np.concatenate(part) for part in zip(*kept, strict=True))
        exists = np.concatenate(full)
        self._candidate = np.flatnonzero(exists)
        self.number: Integers = np.where(exists, np.cumsum(exists) - 1, -1)

    def _alternative(self, candidate: int) -> Alternative:
        """The ranges of a candidate beyond the base."""
        picked: list[Alternative] = []
        for factor in reversed(self._factors):
            candidate, digit = divmod(candidate, len(factor))
            picked.append(factor[digit])
        return picked[0] if len(picked) == 1 else tuple(r for choice in picked for r in choice)

    def _tighten(self, choices: list[Alternative]) -> tuple[Codes, Codes]:
        """Codes [choices, inputs] of the base intersected with each of `choices`."""
        lower, upper = (np.repeat(part, len(choices), axis=0) for part in self._base)
        atoms, owner = self._bounds_of(choices)
        formula = self._formula
        operator = formula.operator[atoms]
        place = owner * self._inputs + formula.left[atoms] // 2
        code = 2 * formula.right[atoms]
        low = (operator == GE) | (operator == GT) | (operator == EQ)
        high = (operator == LE) | (operator == LT) | (operator == EQ)
        np.maximum.at(lower.reshape(-1), place[low], (code + (operator == GT))[low])
        np.minimum.at(upper.reshape(-1), place[high], (code + (operator != LT))[high])
        return lower, upper

    def _bounds_of(self, choices: list[Alternative]) -> tuple[Integers, Integers]:
        """The bounding atoms of all choices, and for each the place of its choice."""
        ranges = np.array([r for choice in choices for r in choice], dtype=np.int64).reshape(-1, 2)
        length = ranges[:, 1] - ranges[:, 0]
        before = np.cumsum(length) - length
        atoms = np.repeat(ranges[:, 0] - before, length) + np.arange(length.sum())
        owner = np.repeat(np.repeat(np.arange(len(choices)), list(map(len, choices))), length)
        keep = self._formula.bounding[atoms]
        return atoms[keep], owner[keep]

    def _code(self, number: int) -> tuple[Codes, Codes]:
        """Codes [inputs] of one box."""
        if number < len(self._lower):
            return self._lower[number], self._upper[number]
        lower, upper = self._tighten([self._alternative(int(self._candidate[number]))])
        return lower[0], upper[0]

    def _outer(self, codes: tuple[Codes, Codes]) -> tuple[Floats, Floats]:
        low, high = codes[0] >> 1, codes[1] >> 1
        lower, upper = self._formula.literals.floor[low], self._formula.literals.ceiling[high]
        if self._gaps is not None:
            places, nearest = self._gaps.of(low, high)
            lower[places] = np.minimum(lower[places], nearest)
            upper[places] = np.maximum(upper[places], nearest)
        return lower, upper

    def outer(self, numbers: Integers) -> tuple[Floats, Floats]:
        """Outward rounded float64 boxes [numbers, inputs]."""
        return self._outer(self._codes(numbers))

    def _codes(self, numbers: Integers) -> tuple[Codes, Codes]:
        """Codes [numbers, inputs] of some boxes."""
        if (numbers < len(self._lower)).all():
            return self._lower[numbers], self._upper[numbers]
        return self._tighten([self._alternative(k) for k in self._candidate[numbers].tolist()])

    def shared(self, number: int) -> tuple[Floats, Floats]:
        """One outward rounded box: read-only arrays, the same ones for the same box asked for again soon."""
        found = self._shared.get(number)
        if found is None:
            self._shared[number] = found = self._outer(self._code(number))
            found[0].flags.writeable = found[1].flags.writeable = False
            if len(self._shared) > max(1, min(SHARED_BOXES, KEPT_BOUNDS // self._inputs)):
                del self._shared[next(iter(self._shared))]
        return found

    def exact(self, number: int) -> tuple[list[Fraction], list[Fraction]]:
        """The closed decimal box."""
        low, high = (codes >> 1 for codes in self._code(number))
        value = {rank: self._formula.literals.exact(rank) for rank in {*low.tolist(), *high.tolist()}}
        lower, upper = [value[rank] for rank in low.tolist()], [value[rank] for rank in high.tolist()]
        places, nearest = self._in_gaps(low, high)
        for k, number in zip(np.flatnonzero(places).tolist(), nearest.tolist(), strict=True):
            lower[k], upper[k] = min(lower[k], Fraction(number)), max(upper[k], Fraction(number))
        return lower, upper

    def inner(self, number: int, dtype: DTypeLike) -> tuple[NDArray[Any], NDArray[Any]]:
        """Largest box of `dtype` values inside the decimal box (strict bounds respected); see Property."""
        literals = self._formula.literals
        lower, upper = self._code(number)
        low, high = lower >> 1, upper >> 1
        start, stop = literals.ceiling[low], literals.floor[high]
        open_low = (lower % 2 == 1) & (start == literals.floor[low])
        open_high = (upper % 2 == 0) & (stop == literals.ceiling[high])
        inner_low = cast(np.where(open_low, np.nextafter(start, np.inf), start), dtype, np.inf)
        inner_high = cast(np.where(open_high, np.nextafter(stop, -np.inf), stop), dtype, -np.inf)
        nothing = np.flatnonzero(inner_low > inner_high)
        if len(nothing):
            kind = np.dtype(dtype)
            grid = self._grids.setdefault(kind, self._grids.get(kind) or Grid(literals, kind))
            inner_low[nothing] = inner_high[nothing] = grid.nearest(low[nothing], high[nothing])
        return inner_low, inner_high

    def contains(self, number: int, x: Point) -> bool:
        """Whether a point is in a box, strict bounds respected: floats, and apart those that are fractions."""
        literals = self._formula.literals
        lower, upper = self._code(number)
        low, high = lower >> 1, upper >> 1
        floats, exact = x
        inside: Booleans = np.where(
            lower % 2 == 1, floats > literals.floor[low], floats >= literals.ceiling[low]
        )
        inside &= np.where(upper % 2 == 1, floats <= literals.floor[high], floats < literals.ceiling[high])
        places, nearest = self._in_gaps(low, high)
        some = floats[places]
        inside[places] = (some >= np.minimum(literals.ceiling[low[places]], nearest)) & (
            some <= np.maximum(literals.floor[high[places]], nearest)
        )
        ends = self.exact(number) if exact else ([], [])
        for k, value in exact.items():
            start, stop = ends[0][k], ends[1][k]
            closed = bool(places[k])
            inside[k] = start <= value <= stop and (
                closed or not ((lower[k] % 2 and value == start) or (upper[k] % 2 == 0 and value == stop))
            )
        return bool(inside.all())

    def _in_gaps(self, low: Codes, high: Codes) -> tuple[Booleans, Floats]:
        """The inputs of a box that hold no number of their type, where types are known, and the nearest numbers."""
        return (
            self._gaps.of(low, high)
            if self._gaps is not None
            else (np.zeros(len(low), dtype=np.bool_), np.zeros(0))
        )

    def extended(self, numbers: Integers) -> Booleans:
        """bool [numbers, inputs]: which intervals hold no number of their input's type."""
        if self._gaps is None:
            return np.zeros((len(numbers), self._inputs), dtype=np.bool_)
        lower, upper = self._codes(numbers)
        return self._gaps.of(lower >> 1, upper >> 1)[0]

    @property
    def typed(self) -> bool:
        """Whether the inputs' element types are known."""
        return self._gaps is not None

    def of_types(self, kinds: Kinds) -> Boxes:
        """The same boxes of inputs of these element types."""
        typed = copy(self)
        typed._shared, typed._gaps = {}, Gaps(self._formula.literals, kinds)
        return typed
