"""The square: convex, so below it lie its tangents and above it its chord."""

from __future__ import annotations

import torch
from torch import Tensor

from verify.network.activations.base import Elementwise, ratio


class Square(Elementwise):
    """z * z."""

    name = "Square"
    overflows = True
    spellings = (torch.square,)

    def forward(self, z: Tensor) -> Tensor:
        return z.square()

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        nearest = torch.zeros_like(lower).clamp(lower, upper)
        limits = torch.finfo(lower.dtype)
        slack = 1 + 4 * limits.eps
        least = nearest.square().clamp(max=limits.max)
        return least / slack, torch.maximum(lower.square(), upper.square()) * slack

    def minimise(self, t: Tensor, rho: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        vertex = (ratio(rho, t) / 2).clamp(lower, upper)
        return self.least(t, rho, (lower, upper, vertex))

    def slopes(self, lower: Tensor, upper: Tensor) -> Tensor:
        return torch.stack([lower + upper, 2 * lower, 2 * upper])
