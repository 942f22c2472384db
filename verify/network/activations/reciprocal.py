"""The reciprocal on an interval that does not hold 0: convex above it, concave below.

Where the interval touches 0 the function is unbounded; its interval is then infinite and every bound through it -inf,
which refutes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verify.network.activations.base import Elementwise


class Reciprocal(Elementwise):
    """1 / z."""

    name = "Reciprocal"

    def forward(self, z: Tensor) -> Tensor:
        return z.reciprocal()

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        slack = 4 * torch.finfo(lower.dtype).eps
        low, high = upper.reciprocal(), lower.reciprocal()
        holds_zero = (lower <= 0) & (upper >= 0)
        return (
            torch.where(holds_zero, -torch.inf, low - low.abs() * slack),
            torch.where(holds_zero, torch.inf, high + high.abs() * slack),
        )

    def minimise(self, t: Tensor, rho: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        # t/z - rho z is stationary at z^2 = -t/rho
        inner = (-t / torch.where(rho == 0, 1.0, rho)).clamp(min=0).sqrt()
        return self.least(t, rho, (lower, upper, inner.clamp(lower, upper), (-inner).clamp(lower, upper)))

    def slopes(self, lower: Tensor, upper: Tensor) -> Tensor:
        return self.chord_and_tangents(lower, upper, lambda z: -z.square().reciprocal(), 3)
