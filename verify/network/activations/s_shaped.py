"""Sigmoid and tanh: `minimise` in closed form.

`t sigma(z) - rho z` is stationary where `sigma'(z) = rho / t`. Both functions have a derivative that is even and falls
from its top at 0 towards 0, so there are at most two such points, `+-z`, and the minimum over `[l, u]` is at l, at u or at
one of them clamped into the interval. An error d of a stationary point costs only the second order in d.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from verify.network.activations.base import Elementwise, chord, wide

_CANDIDATES = 9  # tangents considered for the first line; optimisation refines it


class SShaped(Elementwise):
    """An increasing function with an even, unimodal derivative."""

    @abstractmethod
    def derivative(self, z: Tensor) -> Tensor:
        """sigma'(z)."""

    @abstractmethod
    def stationary(self, slope: Tensor) -> Tensor:
        """The z >= 0 with `sigma'(z) = slope`; 0 where the slope is above the top, large where it is not positive."""

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        slack = 8 * torch.finfo(lower.dtype).eps
        return self.forward(lower) - slack, self.forward(upper) + slack

    def minimise(self, t: Tensor, rho: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        point = self.stationary(rho / torch.where(t == 0, 1.0, t))
        best, least = lower, t * self.forward(lower) - rho * lower
        for candidate in (upper, point.clamp(lower, upper), (-point).clamp(lower, upper)):
            value = t * self.forward(candidate) - rho * candidate
            best = torch.where(value < least, candidate, best)
            least = torch.minimum(value, least)
        return best

    def slopes(self, lower: Tensor, upper: Tensor) -> Tensor:
        tangents = [
            self.derivative(lower + (upper - lower) * (i / (_CANDIDATES - 1))) for i in range(_CANDIDATES)
        ]
        return torch.stack([chord(lower, upper, self.forward(lower), self.forward(upper)), *tangents])

    def split_point(self, lower: Tensor, upper: Tensor) -> Tensor:
        return torch.where(wide(lower, upper), (lower + upper) / 2, torch.nan)


class Sigmoid(SShaped):
    """1 / (1 + exp(-z))."""

    name = "Sigmoid"

    def forward(self, z: Tensor) -> Tensor:
        return z.sigmoid()

    def derivative(self, z: Tensor) -> Tensor:
        value = z.sigmoid()
        return value * (1 - value)

    def stationary(self, slope: Tensor) -> Tensor:
        safe = slope.clamp(1e-30, 0.25)
        small = 2 * safe / (1 + (1 - 4 * safe).clamp(min=0).sqrt())  # the root s <= 1/2 of s (1 - s) = slope
        return torch.log1p(-small) - small.log()


class Tanh(SShaped):
    """tanh(z)."""

    name = "Tanh"

    def forward(self, z: Tensor) -> Tensor:
        return z.tanh()

    def derivative(self, z: Tensor) -> Tensor:
        return 1 - z.tanh().square()

    def stationary(self, slope: Tensor) -> Tensor:
        safe = slope.clamp(1e-30, 1.0)
        root = (1 - safe).sqrt()  # tanh z; 1 - root = safe / (1 + root) without cancellation
        return 0.5 * (torch.log1p(root) - (safe / (1 + root)).log())
