"""GELU and swish: convex in the middle, concave outside, with one least value.

Both have two inflection points, so `t sigma'(z) - rho` rises along the middle piece where t > 0 and along each outer one where
t < 0; its zero there is found by bisection. (On the other pieces `t sigma(z) - rho z` is concave, so least at an end.) Beyond
`reach` both are straight but for less than the smallest numbers.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from verify.network.activations.base import Elementwise
from verify.network.activations.convex import widened

_CANDIDATES = 9
_HALVINGS = 34


class Gated(Elementwise):
    """z times a sigmoid-like function of z."""

    inflection: ClassVar[float]  # at plus and minus this
    bottom: ClassVar[float]  # where the function is least; falling before, rising after
    reach: ClassVar[float]

    @abstractmethod
    def derivative(self, z: Tensor) -> Tensor:
        """sigma'(z)."""

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Values far below 0 err by `exp(-z^2 / 2)`'s argument; beyond -16 their interval, all charges' measure, grows."""
        lower, upper = (end.clamp(min=torch.finfo(end.dtype).min) for end in (lower, upper))
        nearest = torch.full_like(lower, self.bottom).clamp(lower, upper)
        low, high = widened(self.forward(nearest), torch.maximum(self.forward(lower), self.forward(upper)))
        size = lower.clamp(-self.reach, 0).square()
        slack = torch.finfo(lower.dtype).eps * (1 + size)
        far = torch.where(upper < 0, (size - 256).clamp(min=0) / 64, 0.0)
        return low - (slack + far) * low.abs(), high + slack * high.abs()

    def minimise(self, t: Tensor, rho: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        falling = t < 0
        first = torch.where(falling, -self.reach, -self.inflection)
        second = torch.where(falling, -self.inflection, self.inflection)
        left = self._rising_zero(t, rho, first.clamp(lower, upper), second.clamp(lower, upper))
        third = torch.where(falling, self.inflection, self.reach).clamp(lower, upper)
        right = self._rising_zero(t, rho, third, torch.full_like(t, self.reach).clamp(lower, upper))
        return self.least(t, rho, (lower, upper, left, right))

    def _rising_zero(self, t: Tensor, rho: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Where `t sigma'(z) - rho`, rising from `low` to `high`, is 0; the nearer end if it is nowhere."""
        t, rho, low, high = torch.broadcast_tensors(t, rho, low, high)
        # most pieces are a point: one search of those that are not costs less than the wait that it takes on a GPU
        rows, found = ~(low >= high), low.clone()
        t, rho, low, high = (each[rows] for each in (t, rho, low, high))
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            before = t * self.derivative(middle) < rho
            low, high = torch.where(before, middle, low), torch.where(before, high, middle)
        found[rows] = (low + high) / 2
        return found

    def slopes(self, lower: Tensor, upper: Tensor) -> Tensor:
        return self.chord_and_tangents(lower, upper, self.derivative, _CANDIDATES)


class Gelu(Gated):
    """z times the normal distribution's share below z."""

    name = "Gelu"
    inflection = math.sqrt(2)
    bottom = -0.7517915246935645
    reach = 40.0

    def forward(self, z: Tensor) -> Tensor:
        return z * _share_below(z)

    def derivative(self, z: Tensor) -> Tensor:
        density = (-z.square() / 2).exp() / math.sqrt(2 * math.pi)
        return _share_below(z) + z * density


def _share_below(z: Tensor) -> Tensor:
    """The normal distribution's share below z, with small errors of small shares."""
    doubled: Tensor = torch.erfc(z * -math.sqrt(0.5))
    return doubled / 2


class Swish(Gated):
    """z sigmoid(z)."""

    name = "Swish"
    spellings = (nn.SiLU, nn.functional.silu)
    inflection = 2.3993572805154
    bottom = -1.2784645427610738
    reach = 750.0

    def forward(self, z: Tensor) -> Tensor:
        return z * z.sigmoid()

    def derivative(self, z: Tensor) -> Tensor:
        value = z.sigmoid()
        return value * (1 + z * (1 - value))
