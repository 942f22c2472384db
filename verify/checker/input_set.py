"""The input set of a clause: what an interval stands for that holds no number of the input's element type.

A model takes numbers of its element type alone, and most decimals are none. So an interval (with its ends) that holds no such number
stands for its hull with the nearest one: ties to even, and beyond the greatest number that one. All others are as written.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from verify.checker.errors import Refused

FORMATS = {
    "float32": (24, -149, 128),
    "float64": (53, -1074, 1024),
}  # digits, least exponent, the first that is too large
NUMBERS = {"float32": np.float32, "float64": np.float64}


def digits(kind: str) -> tuple[int, int, int]:
    """A type's digits, least exponent and the first exponent that is too large. Raises Refused."""
    if kind not in FORMATS:
        raise Refused(f"element type {kind!r} is not known")
    return FORMATS[kind]


def spacing(value: Fraction, kind: str) -> Fraction:
    """The distance of the type's numbers about a value."""
    count, least, _ = digits(kind)
    exponent = abs(value.numerator).bit_length() - value.denominator.bit_length()
    if exponent > least and Fraction(2) ** exponent > abs(value):
        exponent -= 1  # now 2^exponent is the greatest power of two that is no more
    return Fraction(2) ** max(exponent - count + 1, least)


def below(value: Fraction, kind: str) -> Fraction | None:
    """The greatest number of the type that is no more."""
    count, _, end = digits(kind)
    greatest = Fraction((2**count - 1) * 2 ** (end - count))
    if value < -greatest:
        return None
    if value > greatest:
        return greatest
    # rounding to float64 first keeps the order, so this is one of the two numbers next to the value
    near = NUMBERS[kind](float(value))
    found = Fraction(float(near))
    return found if found <= value else Fraction(float(np.nextafter(near, -NUMBERS[kind](np.inf))))


def is_number(value: Fraction, kind: str) -> bool:
    """Whether a value is a number of the type."""
    return below(value, kind) == value


def interval(low: Fraction, high: Fraction, kind: str) -> tuple[Fraction, Fraction]:
    """What the interval from low to high stands for; itself where it holds a number of the type."""
    under = below(high, kind)
    if under is not None and under >= low:
        return low, high
    minus = below(-low, kind)
    if under is None or minus is None:
        nearest = -minus if minus is not None else under
        assert nearest is not None  # a value is not beyond both ends
    else:
        over = -minus
        to_under, to_over = low - under, over - high
        even = under / spacing((low + high) / 2, kind) % 2 == 0
        nearest = under if to_under < to_over or (to_under == to_over and even) else over
    return min(low, nearest), max(high, nearest)
