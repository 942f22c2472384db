"""Sigmoid and tanh, which have no rational values."""

from __future__ import annotations

import numpy as np

from verify.checker.activations.base import FLATTEST, Curved
from verify.checker.rationals import Array


class Sigmoid(Curved):
    """1 / (1 + exp(-z))."""

    kind = "sigmoid"
    exact = False

    def value(self, z: Array) -> Array:
        small = np.exp(-np.abs(self.real(z)))
        return np.where(z >= 0, 1 / (1 + small), small / (1 + small))

    def root(self, ratio: Array) -> Array:
        slope = np.clip(ratio, FLATTEST, 0.25)
        small = 2 * slope / (1 + np.sqrt(np.maximum(1 - 4 * slope, 0.0)))
        return np.asarray(np.log1p(-small) - np.log(small))

    def slope_of(self, value: Array) -> Array:
        return np.asarray(value * (1 - value))


class Tanh(Curved):
    """The hyperbolic tangent."""

    kind = "tanh"
    exact = False

    def value(self, z: Array) -> Array:
        return np.asarray(np.tanh(self.real(z)))

    def root(self, ratio: Array) -> Array:
        slope = np.clip(ratio, FLATTEST, 1.0)
        value = np.sqrt(1 - slope)
        return np.asarray(0.5 * (np.log1p(value) - np.log(slope / (1 + value))))

    def slope_of(self, value: Array) -> Array:
        return 1 - value * value
