"""Sigmoid, tanh, erf, arctangent and softsign: `minimise` in closed form.

`t sigma(z) - rho z` is stationary where `sigma'(z) = rho / t`. All of them have a derivative that is even and falls
from its top at 0 towards 0, so there are at most two such points, `+-z`, and the minimum over `[l, u]` is at l, at u or at
one of them clamped into the interval. An error d of a stationary point costs only the second order in d.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from verify.network.activations.base import Elementwise, ratio

_CANDIDATES = 9  # tangents considered for the first line; optimisation refines it


def _flattest(slope: Tensor) -> float:
    """The least slope to look for: where it is less, the function moves by next to nothing."""
    return 1e-300 if slope.dtype == torch.float64 else 1e-30


class SShaped(Elementwise):
    """An increasing function with an even, unimodal derivative."""

    @abstractmethod
    def derivative(self, z: Tensor) -> Tensor:
        """sigma'(z)."""

    @abstractmethod
    def stationary(self, slope: Tensor) -> Tensor:
        """The z >= 0 with `sigma'(z) = slope`; 0 where the slope is above the top, large where it is not positive."""

    limits: ClassVar[tuple[float, float]] = (-1.0, 1.0)  # of its values

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        slack = 8 * torch.finfo(lower.dtype).eps
        least, most = self.limits
        return (self.forward(lower) - slack).clamp(min=least), (self.forward(upper) + slack).clamp(max=most)

    def minimise(self, t: Tensor, rho: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        point = self.stationary(ratio(rho, t))
        return self.least(t, rho, (lower, upper, point.clamp(lower, upper), (-point).clamp(lower, upper)))

    def slopes(self, lower: Tensor, upper: Tensor) -> Tensor:
        return self.chord_and_tangents(lower, upper, self.derivative, _CANDIDATES)


class Sigmoid(SShaped):
    """1 / (1 + exp(-z))."""

    name = "Sigmoid"
    spellings = (nn.Sigmoid, nn.functional.sigmoid, torch.sigmoid)
    limits = (0.0, 1.0)

    def forward(self, z: Tensor) -> Tensor:
        return z.sigmoid()

    def derivative(self, z: Tensor) -> Tensor:
        value = z.sigmoid()
        return value * (1 - value)

    def stationary(self, slope: Tensor) -> Tensor:
        safe = slope.clamp(_flattest(slope), 0.25)
        small = 2 * safe / (1 + (1 - 4 * safe).clamp(min=0).sqrt())  # the root s <= 1/2 of s (1 - s) = slope
        return torch.log1p(-small) - small.log()


class Tanh(SShaped):
    """tanh(z)."""

    name = "Tanh"
    spellings = (nn.Tanh, nn.functional.tanh, torch.tanh)

    def forward(self, z: Tensor) -> Tensor:
        return z.tanh()

    def derivative(self, z: Tensor) -> Tensor:
        return 1 - z.tanh().square()

    def stationary(self, slope: Tensor) -> Tensor:
        safe = slope.clamp(_flattest(slope), 1.0)
        root = (1 - safe).sqrt()  # tanh z; 1 - root = safe / (1 + root) without cancellation
        return 0.5 * (torch.log1p(root) - (safe / (1 + root)).log())


class Erf(SShaped):
    """erf(z), the normal distribution's integral from -z to z at variance 1/2."""

    name = "Erf"
    spellings = ("Erf", torch.erf)

    def forward(self, z: Tensor) -> Tensor:
        return z.erf()

    def derivative(self, z: Tensor) -> Tensor:
        return (2 / math.sqrt(math.pi)) * (-z.square()).exp()

    def stationary(self, slope: Tensor) -> Tensor:
        share = slope * (math.sqrt(math.pi) / 2)
        return (-share.clamp(torch.finfo(slope.dtype).tiny, 1.0).log()).sqrt()


class Atan(SShaped):
    """The arctangent."""

    name = "Atan"
    spellings = ("Atan", torch.atan)
    limits = (-1.5707963267948968, 1.5707963267948968)

    def forward(self, z: Tensor) -> Tensor:
        return z.atan()

    def derivative(self, z: Tensor) -> Tensor:
        return (1 + z.square()).reciprocal()

    def stationary(self, slope: Tensor) -> Tensor:
        safe = slope.clamp(torch.finfo(slope.dtype).tiny, 1.0)
        return ((1 - safe) / safe).sqrt()


class Softsign(SShaped):
    """z / (1 + |z|)."""

    name = "Softsign"
    spellings = ("Softsign", nn.Softsign, nn.functional.softsign)

    def forward(self, z: Tensor) -> Tensor:
        size = z.abs().clamp(max=torch.finfo(z.dtype).max)
        return z.clamp(-size, size) / (1 + size)

    def derivative(self, z: Tensor) -> Tensor:
        return (1 + z.abs()).square().reciprocal()

    def stationary(self, slope: Tensor) -> Tensor:
        return slope.clamp(torch.finfo(slope.dtype).tiny, 1.0).rsqrt() - 1
