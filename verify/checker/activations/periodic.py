"""Sine and cosine, which have no rational values.

`t sigma(z) - rho z` is stationary where `sigma'(z) = rho / t`, at two points of each period. From one period to the next its value
there changes by the same amount, so of each kind the first and the last in the interval are enough, and the ends. Where rounding moves
such a point, or takes one near an end for one outside, the value moves by the second order of that.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import numpy as np

from verify.checker.activations.base import SMALL, TANGENTS, ULPS, Elementwise, within
from verify.checker.errors import Refused
from verify.checker.rationals import Array

_TURN = 2 * math.pi
# beyond it a number's place in the period is off by more than 2^-31, and only `|sigma| <= 1` is used
_FAR = 2.0**20


class Periodic(Elementwise):
    """sin(z + phase)."""

    exact = False
    phase: ClassVar[float]

    @abstractmethod
    def derivative(self, z: Array) -> Array:
        """cos(z + phase)."""

    def interval(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        ends = self.value(lower), self.value(upper)
        low, high = np.minimum(*ends) - ULPS, np.maximum(*ends) + ULPS
        far = _far(lower, upper)
        bottom, top = (far | self._passes(place, lower, upper) for place in (-math.pi / 2, math.pi / 2))
        return np.where(bottom, -1.0, np.maximum(low, -1.0)), np.where(top, 1.0, np.minimum(high, 1.0))

    def _passes(self, place: float, lower: Array, upper: Array) -> Array:
        """Whether `z + phase` comes by `place`, up to whole turns and rounding."""
        start, slack = place - self.phase, 2.0**-30
        first, last = (lower - start) / _TURN - slack, (upper - start) / _TURN + slack
        return np.asarray(np.floor(last) >= np.ceil(first))

    def minimum(self, t: Array, rho: Array, lower: Array, upper: Array) -> Array:
        found = super().minimum(t, rho, lower, upper) - ULPS * np.abs(t)
        least = -np.abs(t) - np.maximum(rho * lower, rho * upper) - SMALL
        return np.where(_far(lower, upper), least, found)

    def candidates(self, t: Array, rho: Array, lower: Array, upper: Array) -> list[Array]:
        angle = np.arccos(np.clip(rho / np.where(t == 0, 1.0, t), -1.0, 1.0))
        found = [lower, upper]
        for start in (angle - self.phase, -angle - self.phase):
            for turns in (np.ceil((lower - start) / _TURN), np.floor((upper - start) / _TURN)):
                found.append(within(start + _TURN * turns, lower, upper))
        return found

    def slopes(self, lower: Array, upper: Array) -> list[Array]:
        points = [lower + (upper - lower) * (i / (TANGENTS - 1)) for i in range(TANGENTS)]
        return [self.chord(lower, upper), *(self.derivative(z) for z in points), np.zeros_like(lower)]


class Sine(Periodic):
    """sin(z)."""

    kind = "sin"
    phase = 0.0

    def value(self, z: Array) -> Array:
        return np.asarray(np.sin(_real(z)))

    def derivative(self, z: Array) -> Array:
        return np.asarray(np.cos(z))


class Cosine(Periodic):
    """cos(z)."""

    kind = "cos"
    phase = math.pi / 2

    def value(self, z: Array) -> Array:
        return np.asarray(np.cos(_real(z)))

    def derivative(self, z: Array) -> Array:
        return np.asarray(-np.sin(z))


def _far(lower: Array, upper: Array) -> Array:
    """Where an end is too large for its place in the period to be known, or is no number."""
    return np.asarray(~(np.maximum(np.abs(lower), np.abs(upper)) < _FAR))


def _real(z: Array) -> Array:
    if z.dtype == object:
        raise Refused("sine and cosine have no exact values")
    return z
