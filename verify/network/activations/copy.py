"""The identity, as a layer of its own for values that many products share.

A product of matrices meets every entry of a factor many times. As the pre-activation of a `Copy` it is one variable: its
bounds are found once and reach all its products by interval arithmetic, and a split of it reaches them all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verify.network.activations.base import Elementwise, LinearRelaxation

# of what a copy's interval moves the bound by, what a split may be worth to the products behind it
_SHARE = 0.05


class Copy(Elementwise):
    """z."""

    name = "Copy"

    def forward(self, z: Tensor) -> Tensor:
        return z

    def minimise(self, t: Tensor, rho: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        return torch.where(t < rho, upper, lower)

    def slopes(self, lower: Tensor, upper: Tensor) -> Tensor:
        return torch.ones_like(torch.broadcast_tensors(lower, upper)[0])[None]

    def relaxation_loss(
        self, t: Tensor, line: LinearRelaxation, z: Tensor, lower: Tensor, upper: Tensor
    ) -> Tensor:
        """Nothing is lost here; the products behind lose in proportion to the interval."""
        effect = _SHARE * t.abs() * (upper - lower)
        return torch.where(self.split_point(lower, upper).isnan(), -torch.inf, effect)
