"""The product of two variables: bilinear, so `t a b - rho z` is least at a corner of the box."""

from __future__ import annotations

import numpy as np

from verify.checker.activations.base import Function, least
from verify.checker.rationals import Array


class Product(Function):
    """a b, where z holds all a and then all b."""

    kind = "product"
    operands = 2

    def value(self, z: Array) -> Array:
        first, second = np.split(z, 2, -1)
        return np.asarray(first * second)

    def outputs(self, lower: Array, upper: Array) -> Array:
        (a_low, b_low), (a_high, b_high) = np.split(lower, 2, -1), np.split(upper, 2, -1)
        return np.stack([a * b for a in (a_low, a_high) for b in (b_low, b_high)])

    def minimum(self, t: Array, rho: Array, lower: Array, upper: Array) -> Array:
        """Summed over both factors' multipliers."""
        (a_low, b_low), (a_high, b_high) = np.split(lower, 2, -1), np.split(upper, 2, -1)
        rho_a, rho_b = np.split(rho, 2, -1)
        return least(t * a * b - rho_a * a - rho_b * b for a in (a_low, a_high) for b in (b_low, b_high))

    def default_rho(self, t: Array, lower: Array, upper: Array) -> Array:
        a, b = np.split((lower + upper) / 2, 2, -1)
        return np.concatenate([t * b, t * a], -1)
