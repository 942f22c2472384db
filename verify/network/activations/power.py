"""Integer powers from the third on: `minimise` in closed form.

`n z^(n-1) = rho / t` has one root or two, `+-z`; the minimum over `[l, u]` is at l, at u or at one of them. (The square
has a file of its own.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verify.network.activations.base import Elementwise, ratio
from verify.network.activations.convex import widened


@dataclass(frozen=True)
class Power(Elementwise):
    """z to a whole number, at least 2."""

    exponent: int
    name = "Power"
    overflows = True

    def forward(self, z: Tensor) -> Tensor:
        return z.pow(self.exponent)

    def derivative(self, z: Tensor) -> Tensor:
        """sigma'(z)."""
        return self.exponent * z.pow(self.exponent - 1)

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self.forward(lower), self.forward(upper)
        if self.exponent % 2 == 0:
            nearest = torch.zeros_like(lower).clamp(lower, upper)
            low, high = self.forward(nearest), torch.maximum(low, high)
        return widened(low, high)

    def minimise(self, t: Tensor, rho: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        root = (ratio(rho, t).abs() / self.exponent).pow(1 / (self.exponent - 1))
        return self.least(t, rho, (lower, upper, root.clamp(lower, upper), (-root).clamp(lower, upper)))

    def slopes(self, lower: Tensor, upper: Tensor) -> Tensor:
        return self.chord_and_tangents(lower, upper, self.derivative)
