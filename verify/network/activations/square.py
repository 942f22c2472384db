"""The square: convex, so below it lie its tangents and above it its chord."""

from __future__ import annotations

import torch
from torch import Tensor

from verify.network.activations.base import Elementwise, wide


class Square(Elementwise):
    """z * z."""

    name = "Square"

    def forward(self, z: Tensor) -> Tensor:
        return z.square()

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        nearest = torch.zeros_like(lower).clamp(lower, upper)
        slack = 1 + 4 * torch.finfo(lower.dtype).eps
        return nearest.square() / slack, torch.maximum(lower.square(), upper.square()) * slack

    def minimise(self, t: Tensor, rho: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        vertex = (rho / torch.where(t == 0, 1.0, 2 * t)).clamp(lower, upper)
        best, least = lower, t * lower.square() - rho * lower
        for candidate in (upper, vertex):
            value = t * candidate.square() - rho * candidate
            best = torch.where(value < least, candidate, best)
            least = torch.minimum(value, least)
        return best

    def slopes(self, lower: Tensor, upper: Tensor) -> Tensor:
        return torch.stack([lower + upper, 2 * lower, 2 * upper])

    def split_point(self, lower: Tensor, upper: Tensor) -> Tensor:
        return torch.where(wide(lower, upper), (lower + upper) / 2, torch.nan)
