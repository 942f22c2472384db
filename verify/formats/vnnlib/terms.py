"""Linear terms in exact arithmetic: coefficients by variable, and a constant."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import TypeAlias

from verify.formats.vnnlib.literals import MAXIMUM_BITS, MAXIMUM_MAGNITUDE, TooExtreme, kept

Linear: TypeAlias = tuple[dict[int, Fraction], Fraction]


def total(terms: Iterable[Linear]) -> Linear:
    """The sum of some terms, without zero coefficients. Raises TooExtreme."""
    coefficients: dict[int, Fraction] = {}
    constant = Fraction(0)
    for part, value in terms:
        constant = kept(constant + value) if value else constant
        for variable, factor in part.items():
            known = coefficients.get(variable)
            coefficients[variable] = factor if known is None else kept(known + factor)
    return {variable: factor for variable, factor in coefficients.items() if factor}, constant


def scaled(term: Linear, factor: Fraction) -> Linear:
    """A term times a number. Raises TooExtreme."""
    coefficients = {variable: kept(value * factor) for variable, value in term[0].items()} if factor else {}
    return coefficients, kept(term[1] * factor)


def representable(row: Linear) -> Linear:
    """A row "coefficients (op) constant" that says the same with float64 coefficients.

    Rounding a coefficient is unsound, since the direction depends on the sign of its variable. If one is no
    float64, the row is multiplied by the positive number that makes all of them the smallest integers; raises
    TooExtreme where that does not help.
    """
    if not all(map(_is_float, row[0].values())):
        values = row[0].values()
        denominator = 1
        for value in values:
            denominator = math.lcm(denominator, value.denominator)
            if denominator.bit_length() > MAXIMUM_BITS:
                raise TooExtreme("a common denominator of too many digits")
        divisor = math.gcd(*(value.numerator * (denominator // value.denominator) for value in values))
        row = scaled(row, Fraction(denominator, divisor))
    if abs(row[1]) > MAXIMUM_MAGNITUDE or not all(map(_is_float, row[0].values())):
        raise TooExtreme
    return row


def _is_float(value: Fraction) -> bool:
    return abs(value) <= MAXIMUM_MAGNITUDE and float(value) == value
