"""max(z, 0), whose slopes certificates store."""

from __future__ import annotations

import numpy as np

from verify.checker.activations.base import like
from verify.checker.activations.piecewise import Piecewise
from verify.checker.rationals import Array

# CROWN's slope is 0 where ends are as far from 0 as each other, whatever rounding did to them
TIES = 1 + 2.0**-20


class Relu(Piecewise):
    """max(z, 0)."""

    kind = "relu"
    rounds = False

    def value(self, z: Array) -> Array:
        return np.asarray(np.maximum(z, like(0, z)))

    def minimum(self, t: Array, rho: Array, lower: Array, upper: Array) -> Array:
        """At an end, or at the kink where it is inside."""
        zero = like(0, lower)
        ends = np.minimum(
            t * np.maximum(lower, zero) - rho * lower, t * np.maximum(upper, zero) - rho * upper
        )
        return np.asarray(np.where((lower < 0) & (upper > 0), np.minimum(ends, zero), ends))

    def default_rho(self, t: Array, lower: Array, upper: Array) -> Array:
        return t * relu_slopes(t, lower, upper, np.where(upper > -lower * TIES, 1.0, 0.0))


def relu_slopes(t: Array, lower: Array, upper: Array, alpha: Array) -> Array:
    """The slopes of ReLU's lines: `alpha` below where it is unstable, the chord above, and its own where it is linear."""
    unstable, own = (lower < 0) & (upper > 0), np.where(lower >= 0, 1.0, 0.0)
    chord = np.divide(upper, upper - lower, out=np.zeros_like(upper), where=unstable)
    return np.where(t < 0, np.where(unstable, chord, own), np.where(unstable, alpha, own))
