"""The reciprocal, of which nothing is known on an interval that holds 0."""

from __future__ import annotations

import numpy as np

from verify.checker.activations.base import Curved
from verify.checker.rationals import Array, rational


class Reciprocal(Curved):
    """1 / z."""

    kind = "reciprocal"

    def value(self, z: Array) -> Array:
        return np.asarray((rational(1) if z.dtype == object else 1.0) / z)

    def outputs(self, lower: Array, upper: Array) -> Array:
        return np.stack([self.value(_unless_zero(end, lower, upper)) for end in (lower, upper)])

    def candidates(self, t: Array, rho: Array, lower: Array, upper: Array) -> list[Array]:
        return [_unless_zero(z, lower, upper) for z in super().candidates(t, rho, lower, upper)]

    def root(self, ratio: Array) -> Array:
        return np.sqrt(np.maximum(-1 / np.where(ratio == 0, 1.0, ratio), 0.0))

    def slope_of(self, value: Array) -> Array:
        return -value * value


def _unless_zero(point: Array, lower: Array, upper: Array) -> Array:
    """The points; NaN (in exact arithmetic: an error) where the interval holds 0."""
    holds = (lower <= 0) & (upper >= 0)
    if point.dtype == object:
        if holds.any():
            raise ZeroDivisionError("a reciprocal's interval holds 0")
        return point
    return np.where(holds, np.nan, point)
