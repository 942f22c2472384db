"""The product of two variables, z = (a, b): bilinear, so `t a b - rho . z` has its minimum at a corner of the box.

The first half of the last axis holds the factors a, the second half the factors b. McCormick's planes are the lines: for t > 0
a mixture of `b_l a + a_l b - a_l b_l` and `b_u a + a_u b - a_u b_u`, for t < 0 the same with the b's ends exchanged; the
mixing weight p in [0, 1] is the free parameter of each sign. With one factor constant the planes are exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verify.network.activations.base import Activation, Hull, LinearRelaxation, wide


def _halves(tensor: Tensor) -> tuple[Tensor, Tensor]:
    first, second = tensor.chunk(2, dim=-1)
    return first, second


class ProductHull(Hull):
    """A product on a box: McCormick's envelopes."""

    def __init__(self, lower: Tensor, upper: Tensor) -> None:
        self.lower, self.upper = lower, upper
        self.a_lower, self.b_lower = _halves(lower)
        self.a_upper, self.b_upper = _halves(upper)
        self.middle = (
            lower + upper
        ) / 2  # where the planes of both signs change with their weight as if they touched

    def initial(self) -> Tensor:
        return torch.full_like(self.lower, 0.5)

    @property
    def alpha_range(self) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(self.lower), torch.ones_like(self.lower)

    def line(self, t: Tensor, alpha: Tensor) -> LinearRelaxation:
        positive, negative = _halves(alpha)
        falling = t < 0
        weight = torch.where(falling, negative, positive)
        near = torch.where(falling, self.b_upper, self.b_lower)
        far = torch.where(falling, self.b_lower, self.b_upper)
        slope_a, slope_b = far + weight * (near - far), self.a_upper + weight * (self.a_lower - self.a_upper)
        intercept = (weight - 1) * (self.a_upper * far) - weight * (self.a_lower * near)
        return LinearRelaxation(torch.cat([slope_a, slope_b], dim=-1), intercept, self.middle, copies=2)

    def gradient(self, t: Tensor, gap: Tensor, out: Tensor) -> None:
        gap_a, gap_b = _halves(gap)
        along = gap_b * (self.a_lower - self.a_upper)
        rising = t.clamp(min=0) * (along + gap_a * (self.b_lower - self.b_upper))
        falling = t.clamp(max=0) * (along + gap_a * (self.b_upper - self.b_lower))
        first, second = _halves(out)
        first.copy_(rising)
        second.copy_(falling)


@dataclass(frozen=True)
class Product(Activation):
    """a * b. `shared`: bounded and split by its factors before (see copy.py), if at all."""

    shared: bool = False
    name = "Mul"
    overflows = True
    alphas_per_neuron = 1  # two for each output, and an output has two variables
    unit_alpha = True
    joins = True

    def post_size(self, pre_size: int) -> int:
        return pre_size // 2

    def forward(self, z: Tensor) -> Tensor:
        a, b = _halves(z)
        return a * b

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        (a_low, b_low), (a_high, b_high) = _halves(lower), _halves(upper)
        corners = torch.stack([a_low * b_low, a_low * b_high, a_high * b_low, a_high * b_high])
        unknown = torch.logical_or(*_halves(lower.isnan() | upper.isnan()))
        # 0 times infinity: one factor is exactly 0
        corners = torch.where(corners.isnan() & ~unknown, 0.0, corners)
        limits = torch.finfo(lower.dtype)
        possible = ((a_low != 0) | (a_high != 0)) & ((b_low != 0) | (b_high != 0))  # it may underflow
        tiny = possible.to(lower) * limits.tiny
        # what is too large is no infinity
        low, high = corners.amin(dim=0).clamp(max=limits.max), corners.amax(dim=0).clamp(min=limits.min)
        return low - 2 * limits.eps * low.abs() - tiny, high + 2 * limits.eps * high.abs() + tiny

    def hull(self, lower: Tensor, upper: Tensor) -> Hull:
        return ProductHull(lower, upper)

    def minimise(self, t: Tensor, rho: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        (a_low, b_low), (a_high, b_high) = _halves(lower), _halves(upper)
        rho_a, rho_b = _halves(rho)
        best_a, best_b, least = a_low, b_low, t * a_low * b_low - rho_a * a_low - rho_b * b_low
        for a, b in ((a_low, b_high), (a_high, b_low), (a_high, b_high)):
            value = t * a * b - rho_a * a - rho_b * b
            better = value < least
            best_a, best_b = torch.where(better, a, best_a), torch.where(better, b, best_b)
            least = torch.minimum(value, least)
        return torch.cat([best_a, best_b], dim=-1)

    def split_point(self, lower: Tensor, upper: Tensor) -> Tensor:
        """The middle of both factors' intervals, unless either is constant (then the product is linear) or shared."""
        if self.shared:
            return torch.full_like(lower, torch.nan)
        wide_a, wide_b = _halves(wide(lower, upper))
        bilinear = wide_a & wide_b
        return torch.where(torch.cat([bilinear, bilinear], dim=-1), (lower + upper) / 2, torch.nan)

    def relaxation_loss(
        self, t: Tensor, line: LinearRelaxation, z: Tensor, lower: Tensor, upper: Tensor
    ) -> Tensor:
        slope_a, slope_b = _halves(line.slope)
        a, b = _halves(z.clamp(lower, upper))
        gap = (t * (a * b - slope_a * a - slope_b * b - line.intercept)).clamp(min=0)
        return torch.where(self.split_point(lower, upper).isnan(), -torch.inf, torch.cat([gap, gap], dim=-1))
