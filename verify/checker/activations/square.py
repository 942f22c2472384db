"""The square."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from verify.checker.activations.base import Elementwise
from verify.checker.rationals import Array, rational


class Square(Elementwise):
    """z * z: its tangents lie below it, its chord above."""

    kind = "square"

    def value(self, z: Array) -> Array:
        return np.asarray(z * z)

    def turns(self) -> tuple[Any, ...]:
        return (Fraction(0),)

    def stationary(self, t: Array, rho: Array) -> list[Array]:
        """z = rho / (2 t), which is rational."""
        if t.dtype == object:
            return [rho / np.where(t == 0, rational(1), 2 * t)]
        with np.errstate(all="ignore"):
            return [rho / np.where(t == 0, 1.0, t) / 2]

    def slopes(self, lower: Array, upper: Array) -> list[Array]:
        return [lower + upper, 2 * lower, 2 * upper]
