"""The boxes that unsafe points lie in, from linear bounds of a clause's rows (Clip-and-Verify, Zhou et al. 2025).

Bounds are linear functions of the input, so no sweep is needed: neither to clip boxes, nor to join a clause's rows as one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from verify.state import Bounds


@dataclass(frozen=True)
class Clipping:
    """steps: of the weights with which a clause's rows are joined."""

    steps: int = 16

    def joined(
        self,
        box: Bounds,
        bound: Float[Tensor, "batch group rows"],
        cotangent: Float[Tensor, "batch group rows inputs"],
    ) -> tuple[Float[Tensor, "batch group 1"], Float[Tensor, "batch group 1 inputs"], Tensor]:
        """Each clause's rows as one: a weighted sum whose least value on the box is as large as some steps make it.

        Its bound, its slope, and the weights, which float32 holds exactly.

        The rows' bounds are linear functions of the input, so no sweep is needed: with values `v` at the box's centre, radius `r`
        and weights w >= 0 of sum 1 it is `w . v - |w . cotangent| . r`. Multiplicative weights climb it (Arora et al. 2012).
        """
        low, high = box.lower[:, None, None], box.upper[:, None, None]
        centre, radius = (low + high) / 2, (high - low) / 2
        bound = bound.clamp(min=-1e30)
        middle = bound + (cotangent.abs() * radius).sum(3)
        sizes = bound.abs() + (cotangent.abs() * (centre.abs() + 2 * radius)).sum(3)
        error = 8 * (cotangent.shape[2] + cotangent.shape[3] + 8) * torch.finfo(bound.dtype).eps * sizes
        weights = torch.full_like(bound, 1 / bound.shape[2]).float().to(bound)
        best = torch.full_like(bound[..., 0], -torch.inf)
        chosen, best_weights = cotangent[..., 0, :], weights
        for step in range(self.steps):
            direction = (weights[..., None] * cotangent).sum(2)
            value = (weights * (middle - error)).sum(2) - (direction.abs() * radius[:, 0]).sum(2)
            better = value > best
            best = torch.where(better, value, best)
            chosen = torch.where(better[..., None], direction, chosen)
            best_weights = torch.where(better[..., None], weights, best_weights)
            rows = middle - (cotangent * (radius * direction.sign()[:, :, None])).sum(3)
            size = (rows - rows.mean(2, keepdim=True)).abs().amax(2, keepdim=True).clamp(min=1e-300)
            weights = torch.softmax(weights.log() + 2 * 0.85**step * rows / size, 2).float().to(bound)
        return best[..., None], chosen[:, :, None], best_weights

    def clipped(
        self,
        box: Bounds,
        bound: Float[Tensor, "batch group rows"],
        cotangent: Float[Tensor, "batch group rows inputs"],
    ) -> tuple[Float[Tensor, "batch group inputs"], Float[Tensor, "batch group inputs"]]:
        """The boxes that each clause's unsafe points lie in.

        A row is at least its `bound`, where every input is at the end that its coefficient asks for, and grows by the
        coefficient's size with the distance from there; beyond distance `-bound / |coefficient|` it is positive.
        """
        reach = (-bound.clamp(max=0))[..., None] / cotangent.abs()
        reach = _next(torch.where(reach.isnan(), torch.inf, reach), torch.inf)
        low, high = box.lower[:, None, None], box.upper[:, None, None]
        upper = torch.where(cotangent > 0, _next(low + reach, torch.inf), high)
        lower = torch.where(cotangent < 0, _next(high - reach, -torch.inf), low)
        return torch.maximum(lower.amax(2), box.lower[:, None]), torch.minimum(
            upper.amin(2), box.upper[:, None]
        )


def _next(value: Tensor, towards: float) -> Tensor:
    """The next number in that direction: rounding to nearest has moved no further."""
    return torch.nextafter(value, value.new_full((), towards))
