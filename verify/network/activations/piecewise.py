"""Piecewise-linear activations: LeakyReLU, Clip and Abs, and any other given by breakpoints.

`t sigma(z) - rho z` is linear between breakpoints, so its minimum over `[l, u]` is at l, at u or at a breakpoint inside.
A subclass says where it bends and how it maps; nothing else.
"""

from __future__ import annotations

import operator
from abc import abstractmethod
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from verify.network.activations.base import Elementwise, chord, strictly_inside


class PiecewiseLinear(Elementwise):
    """An elementwise activation with finitely many breakpoints."""

    curved = False

    @property
    @abstractmethod
    def breakpoints(self) -> tuple[float, ...]:
        """Where the slope changes, increasing."""

    def _corners(self, lower: Tensor, upper: Tensor) -> list[Tensor]:
        inner = (torch.full_like(lower, point).clamp(lower, upper) for point in self.breakpoints)
        return [lower, *inner, upper]

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        values = torch.stack([self.forward(corner) for corner in self._corners(lower, upper)])
        low, high = values.amin(dim=0), values.amax(dim=0)
        slack = 2 * torch.finfo(lower.dtype).eps
        return low - low.abs() * slack, high + high.abs() * slack

    def minimise(self, t: Tensor, rho: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        corners = self._corners(*torch.broadcast_tensors(lower, upper))
        return self.least(t, rho, corners)

    def slopes(self, lower: Tensor, upper: Tensor) -> Tensor:
        corners = self._corners(lower, upper)
        ends = [
            *pairwise(corners),
            *((corners[0], c) for c in corners[2:]),
            *((c, upper) for c in corners[1:-2]),
        ]
        return torch.stack([chord(a, b, self.forward(a), self.forward(b)) for a, b in ends])

    def split_point(self, lower: Tensor, upper: Tensor) -> Tensor:
        """The breakpoint inside the interval that lies nearest to its middle."""
        best = torch.full_like(lower, torch.nan)
        middle = (lower + upper) / 2
        for point in self.breakpoints:
            nearer = best.isnan() | ((middle - point).abs() < (middle - best).abs())
            best = torch.where(strictly_inside(point, lower, upper) & nearer, point, best)
        return best


@dataclass(frozen=True)
class LeakyRelu(PiecewiseLinear):
    """z for z >= 0, `negative_slope * z` below."""

    negative_slope: float
    name = "LeakyRelu"
    breakpoints = (0.0,)

    def forward(self, z: Tensor) -> Tensor:
        return torch.where(z < 0, self.negative_slope * z, z)


@dataclass(frozen=True)
class Clip(PiecewiseLinear):
    """z cut to `[minimum, maximum]`; an end may be infinite."""

    minimum: float
    maximum: float
    name = "Clip"

    @property
    def breakpoints(self) -> tuple[float, ...]:
        if self.minimum == self.maximum:
            return ()  # a constant bends nowhere
        return tuple(end for end in (self.minimum, self.maximum) if abs(end) != float("inf"))

    def forward(self, z: Tensor) -> Tensor:
        return z.clamp(self.minimum, self.maximum)


@dataclass(frozen=True)
class Abs(PiecewiseLinear):
    """|z|."""

    name = "Abs"
    spellings = (torch.abs, operator.abs)
    breakpoints = (0.0,)

    def forward(self, z: Tensor) -> Tensor:
        return z.abs()
