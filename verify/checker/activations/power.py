"""Whole powers from the third on. (The square has a file of its own.)"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from verify.checker.activations.base import TANGENTS, Elementwise
from verify.checker.rationals import Array


class Power(Elementwise):
    """z to the exponent that is its parameter, where `t sigma(z) - rho z` has at most one stationary point of either sign."""

    kind = "power"
    settings = 1

    @property
    def exponent(self) -> int:
        """The parameter, at least 3."""
        return int(self.parameters[0])

    def value(self, z: Array) -> Array:
        return np.asarray(z**self.exponent)

    def turns(self) -> tuple[Any, ...]:
        return (Fraction(0),)

    def stationary(self, t: Array, rho: Array) -> list[Array]:
        """`n z^(n-1) = rho / t`."""
        if t.dtype == object:
            raise ArithmeticError("a power has no exact minimum")
        with np.errstate(all="ignore"):
            root = (np.abs(rho / np.where(t == 0, 1.0, t)) / self.exponent) ** (1 / (self.exponent - 1))
        return [root, -root]

    def slopes(self, lower: Array, upper: Array) -> list[Array]:
        points = [lower + (upper - lower) * (i / (TANGENTS - 1)) for i in range(TANGENTS)]
        return [self.chord(lower, upper), *(self.exponent * z ** (self.exponent - 1) for z in points)]
