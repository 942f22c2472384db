"""Sine and cosine: `minimise` in closed form.

`t sigma(z) - rho z` is stationary where `sigma'(z) = rho / t`: at two points of each period. From one period to the next its
value there changes by the same amount, so of each kind the first and the last one in `[l, u]` are enough, and the ends. A
point that rounding puts outside is clamped into the interval, which costs only the second order of the rounding.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from verify.network.activations.base import Elementwise, ratio

_TURN = 2 * math.pi
_CANDIDATES = 9


def _far(lower: Tensor, upper: Tensor) -> Tensor:
    """Where an interval's numbers are too large for their place in the period to be told well enough."""
    size = torch.maximum(lower.abs(), upper.abs())
    return (size < 1 / math.sqrt(torch.finfo(lower.dtype).eps)).logical_not()


class Periodic(Elementwise):
    """sin(z + phase)."""

    phase: ClassVar[float]

    @abstractmethod
    def derivative(self, z: Tensor) -> Tensor:
        """sigma'(z) = cos(z + phase)."""

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        slack, far = 8 * torch.finfo(lower.dtype).eps, _far(lower, upper)
        values = self.forward(lower), self.forward(upper)
        low, high = torch.minimum(*values) - slack, torch.maximum(*values) + slack
        top, bottom = (far | self._holds(place, lower, upper) for place in (math.pi / 2, -math.pi / 2))
        return torch.where(bottom, -1.0, low.clamp(min=-1)), torch.where(top, 1.0, high.clamp(max=1))

    def coarse(self, lower: Tensor, upper: Tensor) -> Tensor:
        return _far(lower, upper)

    def _holds(self, place: float, lower: Tensor, upper: Tensor) -> Tensor:
        """Whether `z + phase` passes `place`, up to whole turns."""
        start = place - self.phase
        return torch.floor((upper - start) / _TURN) >= torch.ceil((lower - start) / _TURN)

    def minimise(self, t: Tensor, rho: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        angle = ratio(rho, t).clamp(-1, 1).acos()
        candidates = [lower, upper]
        for start in (angle - self.phase, -angle - self.phase):
            for turns in (torch.ceil((lower - start) / _TURN), torch.floor((upper - start) / _TURN)):
                candidates.append((start + _TURN * turns).clamp(lower, upper))
        return torch.where(_far(lower, upper), torch.nan, self.least(t, rho, candidates))

    def slopes(self, lower: Tensor, upper: Tensor) -> Tensor:
        found = self.chord_and_tangents(lower, upper, self.derivative, _CANDIDATES)
        return torch.cat([found, torch.zeros_like(found[:1])])


class Sin(Periodic):
    """The sine."""

    name = "Sin"
    spellings = ("Sin", torch.sin)
    phase = 0.0

    def forward(self, z: Tensor) -> Tensor:
        return z.sin()

    def derivative(self, z: Tensor) -> Tensor:
        return z.cos()


class Cos(Periodic):
    """The cosine."""

    name = "Cos"
    spellings = ("Cos", torch.cos)
    phase = math.pi / 2

    def forward(self, z: Tensor) -> Tensor:
        return z.cos()

    def derivative(self, z: Tensor) -> Tensor:
        return -z.sin()
