"""ELU and hard swish: smooth pieces that meet in kinks; `minimise` in closed form.

The minimum over `[l, u]` is at l, at u, at a kink or where the derivative of the one curved piece is `rho / t`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from verify.network.activations.base import Elementwise, chord, ratio
from verify.network.activations.convex import widened


class Kinked(Elementwise):
    """A function of straight pieces and one curved one."""

    constant_below: ClassVar[float] = -math.inf
    corners: ClassVar[Sequence[float]]  # the kinks, and where the function itself may be extreme; increasing

    @abstractmethod
    def derivative(self, z: Tensor) -> Tensor:
        """sigma'(z), either side's at a kink."""

    @abstractmethod
    def stationary(self, slope: Tensor) -> Tensor:
        """The z of the curved piece with `sigma'(z) = slope`, or its end nearest to that; never NaN."""

    def _inside(self, lower: Tensor, upper: Tensor) -> list[Tensor]:
        return [torch.full_like(lower, corner).clamp(lower, upper) for corner in self.corners]

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper = (end.clamp(min=self.constant_below) for end in (lower, upper))
        values = torch.stack([self.forward(z) for z in (lower, *self._inside(lower, upper), upper)])
        return widened(values.amin(dim=0), values.amax(dim=0))

    def minimise(self, t: Tensor, rho: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        lower, upper = torch.broadcast_tensors(lower, upper)
        point = self.stationary(ratio(rho, t)).clamp(lower, upper)
        return self.least(t, rho, (lower, *self._inside(lower, upper), upper, point))

    def slopes(self, lower: Tensor, upper: Tensor) -> Tensor:
        places = [lower, *self._inside(lower, upper), upper]
        chords = [chord(a, b, self.forward(a), self.forward(b)) for a, b in pairwise(places)]
        return torch.cat([self.chord_and_tangents(lower, upper, self.derivative), torch.stack(chords)])


@dataclass(frozen=True)
class Elu(Kinked):
    """z for z >= 0, `alpha (exp(z) - 1)` below."""

    alpha: float
    name = "Elu"
    corners = (0.0,)

    def forward(self, z: Tensor) -> Tensor:
        return torch.where(z > 0, z, self.alpha * torch.expm1(z.clamp(max=0)))

    def derivative(self, z: Tensor) -> Tensor:
        return torch.where(z > 0, 1.0, self.alpha * z.clamp(max=0).exp())

    def stationary(self, slope: Tensor) -> Tensor:
        share = slope / self.alpha if self.alpha else slope
        return share.clamp(torch.finfo(slope.dtype).tiny, 1.0).log()


class HardSwish(Kinked):
    """z min(max(z + 3, 0), 6) / 6."""

    name = "HardSwish"
    spellings = ("HardSwish", nn.Hardswish, nn.functional.hardswish)
    constant_below = -4.0
    corners = (-3.0, -1.5, 3.0)

    def forward(self, z: Tensor) -> Tensor:
        return z * (z + 3).clamp(0, 6) / 6

    def derivative(self, z: Tensor) -> Tensor:
        return torch.where(z.abs() < 3, z / 3 + 0.5, (z > 0).to(z.dtype))

    def stationary(self, slope: Tensor) -> Tensor:
        return ((6 * slope - 3) / 2).clamp(-3, 3)
