"""The checker's numbers: float64, or exact rationals.

Arrays of dtype float64 are computed with as they are; arrays of dtype object hold rational numbers, and everything done with them
is exact. The rationals are `fractions.Fraction`, or python-flint's `fmpq` where that is installed.
"""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]  # float64, or object with rational numbers
Integers: TypeAlias = NDArray[np.int64]
Shape: TypeAlias = tuple[int, ...]

fmpq: Any = None
with suppress(ImportError):
    fmpq = import_module("flint").fmpq


def rational(number: Any) -> Any:
    """A number (int, float, Fraction, rational) as the rational type in use, exactly."""
    if fmpq is None:
        return Fraction(number)
    if isinstance(number, fmpq):
        return number
    fraction = Fraction(number)
    return fmpq(fraction.numerator, fraction.denominator)


def rationals(array: Array) -> Array:
    """An array of numbers as rational numbers, of dtype object."""
    numbers = [rational(number) for number in array.ravel().tolist()]
    return np.array(numbers, dtype=object).reshape(array.shape)


def zeros(shape: Shape, kind: np.dtype[Any]) -> Array:
    """Zeros of float64, or rational ones."""
    return np.full(shape, rational(0) if kind.hasobject else 0.0, dtype=kind)
