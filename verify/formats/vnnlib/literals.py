"""Decimals as float64 neighbours and ranks: what lets float and integer arrays stand for exact numbers.

A literal stays text (or a Fraction, where it was computed) until all of a file's literals are known. Then
each distinct value gets its *rank*, its place in increasing order, and two float64 neighbours: `floor`, the
largest float64 <= it, and `ceiling`, the smallest >= it (equal when it is a float64). That is enough:

* a float v obeys v <= literal exactly when v <= floor, v < literal exactly when v < ceiling, and so on;
* rounding outward is taking one of the two;
* the order of (floor, ceiling) is the order of the values, save for literals inside the same gap between
  floats: those few are sorted as fractions.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from fractions import Fraction
from operator import gt, lt
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from verify.deadline import tick

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]
Booleans: TypeAlias = NDArray[np.bool_]

MAXIMUM_MAGNITUDE = 1e300
MAXIMUM_EXPONENT = 4_000
MAXIMUM_DIGITS = 4_000
MAXIMUM_BITS = 40_000  # of numerator and denominator of computed numbers
_CHUNK = 1 << 14

is_number = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\Z", re.ASCII).match


class TooExtreme(ValueError):
    """A number beyond what is kept exact (internal; the reader turns it into an error with a place)."""


def check_extent(text: str) -> None:
    """Refuse numbers whose exact value would be needlessly huge to hold, or beyond the float64 range."""
    mantissa, _, exponent = text.lower().partition("e")
    digits = exponent.lstrip("+-").lstrip("0")
    if len(mantissa) > MAXIMUM_DIGITS or len(digits) > 6 or (digits and int(digits) > MAXIMUM_EXPONENT):
        raise TooExtreme(text)
    if abs(float(text)) > MAXIMUM_MAGNITUDE:
        raise TooExtreme(text)


def kept(value: Fraction) -> Fraction:
    """A computed number, unless it has grown too long to compute with."""
    if value.numerator.bit_length() > MAXIMUM_BITS or value.denominator.bit_length() > MAXIMUM_BITS:
        raise TooExtreme("a number of too many digits")
    return value


class RightSides(dict[str, int]):
    """Right sides of atoms by text: -1 - code for a declared variable, a number given on sight for a literal.

    Being a dictionary with `__missing__` it can be mapped over tokens without a line of Python per token.
    `literals` lists the literals by number; number 0 is always zero.
    """

    def __init__(self) -> None:
        super().__init__()
        self.literals: list[str | Fraction] = ["0"]

    def __missing__(self, text: str) -> int:
        if not is_number(text):
            raise KeyError(text)
        if len(text) > 40 or "e" in text or "E" in text:
            check_extent(text)
        self[text] = number = len(self.literals)
        self.literals.append(text)
        return number

    def add(self, value: Fraction) -> int:
        """The number of a computed literal."""
        if abs(value) > MAXIMUM_MAGNITUDE:
            raise TooExtreme("a number that is too large")
        self.literals.append(value)
        return len(self.literals) - 1


class Literals:
    """The distinct values among some literals, by rank.

    `floor`, `ceiling`: float64 [ranks], the neighbours of each value, increasing.  `rank`: int64 [given], the
    rank of each literal given.
    """

    def __init__(self, given: list[str | Fraction]) -> None:
        near = np.array([float(value) for value in given], dtype=np.float64) + 0.0
        side = _sides(given, near)
        below = np.where(side < 0, np.nextafter(near, -np.inf), near)
        above = np.where(side > 0, np.nextafter(near, np.inf), near)
        order = np.lexsort((above, below))
        new = np.ones(len(order), dtype=np.bool_)
        new[1:] = (np.diff(below[order]) > 0) | (np.diff(above[order]) > 0)
        _order_within_gaps(given, order, new, side != 0)
        self.rank: Integers = np.empty(len(order), dtype=np.int64)
        self.rank[order] = np.cumsum(new) - 1
        one = order[new]
        self.floor, self.ceiling = below[one], above[one]
        self._values = [given[k] for k in one.tolist()]

    def exact(self, rank: int) -> Fraction:
        """The value of a rank."""
        return Fraction(self._values[rank])


def _sides(values: list[str | Fraction], near: Floats) -> NDArray[np.int8]:
    """Signs of (exact value - near), int8 [values]; Decimal comparisons are exact, and loop in C."""
    sides = np.empty(len(values), dtype=np.int8)
    for start in range(0, len(values), _CHUNK):
        tick()
        part = slice(start, start + _CHUNK)
        kinds: list[type[Any]] = [Decimal if isinstance(value, str) else Fraction for value in values[part]]
        exact = [kind(value) for kind, value in zip(kinds, values[part], strict=True)]
        other = [kind(value) for kind, value in zip(kinds, near[part].tolist(), strict=True)]
        above = np.array(list(map(gt, exact, other)), dtype=np.int8)
        sides[part] = above - np.array(list(map(lt, exact, other)), dtype=np.int8)
    return sides


def _order_within_gaps(
    given: list[str | Fraction], order: Integers, new: Booleans, inexact: Booleans
) -> None:
    """Sort, in place, the literals that lie strictly between the same two floats."""
    starts = np.flatnonzero(new)
    stops = np.append(starts[1:], len(order))
    several = (stops - starts > 1) & inexact[order[starts]]
    for start, stop in zip(starts[several], stops[several], strict=True):
        group = sorted((Fraction(given[k]), k) for k in order[start:stop].tolist())
        order[start:stop] = [k for _, k in group]
        new[start + 1 : stop] = [a[0] != b[0] for a, b in zip(group[1:], group, strict=False)]


def round_up(value: Fraction) -> float:
    """The smallest float64 >= value; the value must lie within the float64 range."""
    near = float(value)
    return (near if near >= value else math.nextafter(near, math.inf)) + 0.0
