"""Straight pieces: LeakyReLU, Clip and the absolute value."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

from verify.checker.activations.base import Elementwise, like, within
from verify.checker.rationals import Array


class Piecewise(Elementwise):
    """One that bends at its turns and nowhere else."""

    piecewise = True

    def turns(self) -> tuple[Any, ...]:
        return (Fraction(0),)

    def slopes(self, lower: Array, upper: Array) -> list[Array]:
        """Those of all chords between ends and bends."""
        points = [lower, *(within(float(z), lower, upper) for z in self.turns()), upper]
        return [self.chord(a, b) for i, a in enumerate(points) for b in points[i + 1 :]]


class Leaky(Piecewise):
    """z, below 0 times a slope."""

    kind = "leaky"
    settings = 1
    multiplies = True

    def value(self, z: Array) -> Array:
        return np.where(z < 0, z * like(self.parameters[0], z), z)


class Clip(Piecewise):
    """The nearest number between two limits, either of which may be infinite."""

    kind = "clip"
    settings = 2
    rounds = False

    def turns(self) -> tuple[Any, ...]:
        return tuple(end for end in self.parameters if not math.isinf(end))

    def value(self, z: Array) -> Array:
        low, high = (like(end, z) for end in self.parameters)
        result = z if low == -math.inf else np.maximum(z, low)
        return result if high == math.inf else np.minimum(result, high)


class Abs(Piecewise):
    """|z|."""

    kind = "abs"
    rounds = False

    def value(self, z: Array) -> Array:
        return np.abs(z)
