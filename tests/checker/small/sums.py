"""Sums of variables in rational numbers, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

Number = Any  # a fraction, or an infinity where a bound is not known
Sum = dict[int, Number]  # coefficients of inputs and of outputs of ReLUs, by variables; and the constant
ONE = -1
INFINITY = math.inf
GRID = 1 << 80


class Refused(Exception):
    """No proof, or not understood."""


def demand(condition: object, what: str) -> None:
    """What has to be so."""
    if not condition:
        raise Refused(what)


def down(value: Number) -> Number:
    """A number of few digits that is hardly smaller: fractions of fractions would grow without end."""
    return value if math.isinf(value) else Fraction(math.floor(value * GRID), GRID)


def plus(one: Mapping[int, Number], other: Mapping[int, Number], factor: Number = 1) -> Sum:
    """One sum and a multiple of another."""
    found = dict(one)
    for key, value in other.items() if factor else ():
        found[key] = found.get(key, 0) + factor * value
        if found[key] == 0:
            del found[key]
    return found


def least(sum_: Mapping[int, Number], lower: Mapping[int, Number], upper: Mapping[int, Number]) -> Number:
    """Of a sum on a box."""
    return sum((v if k == ONE else v * (lower if v > 0 else upper)[k] for k, v in sum_.items()), Fraction(0))
