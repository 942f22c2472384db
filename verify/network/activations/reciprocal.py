"""The reciprocal on an interval that does not hold 0: convex above it, concave below.

Where the interval ends at 0 the function is unbounded on one side, and where it holds 0 within on both; that end of its interval is
then infinite, and a bound that rests on it -inf, which refutes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verify.network.activations.base import Elementwise
from verify.network.activations.convex import widened


class Reciprocal(Elementwise):
    """1 / z."""

    name = "Reciprocal"
    overflows = sided = True

    def forward(self, z: Tensor) -> Tensor:
        return z.reciprocal()

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        low, high = widened(upper.reciprocal(), lower.reciprocal())
        # what is as large as infinity, but on this side of 0
        low, high = (
            torch.where(lower >= 0, low.clamp(min=0), low),
            torch.where(upper <= 0, high.clamp(max=0), high),
        )
        holds_zero = (lower <= 0) & (upper >= 0)
        return (
            torch.where(holds_zero & ((lower < 0) | (upper == 0)), -torch.inf, low),
            torch.where(holds_zero & ((upper > 0) | (lower == 0)), torch.inf, high),
        )

    def undefined(self, lower: Tensor, upper: Tensor) -> Tensor:
        return (lower == 0) & (upper == 0)

    def minimise(self, t: Tensor, rho: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        # t/z - rho z is stationary at z^2 = -t/rho
        inner = (-t / torch.where(rho == 0, 1.0, rho)).clamp(min=0).sqrt()
        return self.least(t, rho, (lower, upper, inner.clamp(lower, upper), (-inner).clamp(lower, upper)))

    def slopes(self, lower: Tensor, upper: Tensor) -> Tensor:
        return self.chord_and_tangents(lower, upper, lambda z: -z.square().reciprocal(), 3)


@dataclass(frozen=True)
class Share(Reciprocal):
    """1 / z of totals relative to a part each, which are the parts' shares: in each of `sums_to_one` groups they add up to 1."""

    sums_to_one: int = 1
    listed = False
