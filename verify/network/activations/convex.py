"""Functions that bend one way only: exp, softplus, 1/sqrt (convex), log and the square root (concave).

`t sigma(z) - rho z` is stationary at one point at most, where `sigma'(z) = rho / t`, so the minimum over `[l, u]` is at l,
at u or at that point clamped into the interval. At the pole of a logarithm the value is infinite, and the other end stays what
it is; where an interval leaves the domain, nothing is known of the value, and both ends are infinite.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from verify.network.activations.base import Elementwise, ratio

_STEEPEST = 1e6  # tangents of the root are taken no nearer to 0 than where its slope is this


def widened(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """An interval with room for values that are some units in the last place off."""
    limits = torch.finfo(low.dtype)
    low, high = low.clamp(max=limits.max), high.clamp(min=limits.min)  # what is larger is no infinity
    return (low - 8 * limits.eps * low.abs() - limits.tiny, high + 8 * limits.eps * high.abs() + limits.tiny)


class Bent(Elementwise):
    """A function with a monotone derivative."""

    @abstractmethod
    def derivative(self, z: Tensor) -> Tensor:
        """sigma'(z)."""

    @abstractmethod
    def stationary(self, slope: Tensor) -> Tensor:
        """The z with `sigma'(z) = slope`, a far one where there is none; never NaN."""

    def minimise(self, t: Tensor, rho: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        return self.least(t, rho, (lower, upper, self.stationary(ratio(rho, t)).clamp(lower, upper)))

    def slopes(self, lower: Tensor, upper: Tensor) -> Tensor:
        return self.chord_and_tangents(lower, upper, self.derivative)


class Exp(Bent):
    """exp(z)."""

    name = "Exp"
    overflows = True
    spellings = ("Exp", torch.exp)

    def forward(self, z: Tensor) -> Tensor:
        return z.exp()

    def derivative(self, z: Tensor) -> Tensor:
        return z.exp()

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        low, high = widened(lower.exp(), upper.exp())
        return low.clamp(min=0), high

    def stationary(self, slope: Tensor) -> Tensor:
        return slope.clamp(min=torch.finfo(slope.dtype).tiny).log()


class Softplus(Bent):
    """log(1 + exp(z))."""

    name = "Softplus"
    spellings = ("Softplus",)

    def forward(self, z: Tensor) -> Tensor:
        return torch.logaddexp(z, torch.zeros_like(z))

    def derivative(self, z: Tensor) -> Tensor:
        return z.sigmoid()

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        low, high = widened(self.forward(lower), self.forward(upper))
        return low.clamp(min=0), high

    def stationary(self, slope: Tensor) -> Tensor:
        limits = torch.finfo(slope.dtype)
        safe = slope.clamp(limits.tiny, 1 - limits.eps / 2)
        return safe.log() - torch.log1p(-safe)


class Log(Bent):
    """The natural logarithm, of positive numbers."""

    name = "Log"
    overflows = sided = True
    domain = (0.0, math.inf)
    spellings = ("Log", torch.log)

    def forward(self, z: Tensor) -> Tensor:
        return z.log()

    def derivative(self, z: Tensor) -> Tensor:
        return z.reciprocal()

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        low, high = widened(lower.log(), upper.log())
        return torch.where(lower > 0, low, -torch.inf), torch.where(lower >= 0, high, torch.inf)

    def stationary(self, slope: Tensor) -> Tensor:
        return slope.clamp(min=torch.finfo(slope.dtype).tiny).reciprocal()


class Sqrt(Bent):
    """The square root, of numbers that are not negative."""

    name = "Sqrt"
    overflows = sided = True
    domain = (0.0, math.inf)
    spellings = ("Sqrt", torch.sqrt)

    def forward(self, z: Tensor) -> Tensor:
        return z.sqrt()

    def derivative(self, z: Tensor) -> Tensor:
        return z.clamp(min=0.25 / _STEEPEST**2).rsqrt() / 2

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        low, high = widened(lower.sqrt(), upper.sqrt())
        return (
            torch.where(lower >= 0, low.clamp(min=0), -torch.inf),
            torch.where(lower >= 0, high, torch.inf),
        )

    def stationary(self, slope: Tensor) -> Tensor:
        return (2 * slope.clamp(min=torch.finfo(slope.dtype).tiny ** 0.5)).square().reciprocal()


class Rsqrt(Bent):
    """1 / sqrt(z), of positive numbers."""

    name = "Rsqrt"
    overflows = sided = True
    domain = (0.0, math.inf)
    spellings = (torch.rsqrt,)

    def forward(self, z: Tensor) -> Tensor:
        return z.sqrt().reciprocal()

    def derivative(self, z: Tensor) -> Tensor:
        return z.pow(-1.5) / -2

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        low, high = widened(self.forward(upper), self.forward(lower))
        return torch.where(lower >= 0, low.clamp(min=0), -torch.inf), torch.where(lower > 0, high, torch.inf)

    def stationary(self, slope: Tensor) -> Tensor:
        return (-2 * slope).clamp(min=torch.finfo(slope.dtype).tiny).pow(-2 / 3)
