"""Complete clipping: least values over what half-spaces leave of a box (Zhou et al. 2025, "Clip-and-Verify").

A clause's rows are bounded from below by linear functions of the input, so its unsafe points lie where none of these is positive. Over
that part of the box a linear function `F + T . e` of the coordinates `e` in [-1, 1]^d is at least, for a half-space `G . e <= H`,

    max over lambda >= 0 of  F - lambda H - |T + lambda G| . 1 ,

which is concave in lambda and linear between the d values at which an entry of `T + lambda G` is 0. Several half-spaces are taken one
after the other: a step of coordinate ascent each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.state import Bounds, Struct, plainly_all


@dataclass(frozen=True)
class Halfspaces(Struct):
    """Parts of boxes, in coordinates that are -1 and 1 at a box's ends: where `normal . e <= offset` for every one of some rows.

    centre, radius: of the boxes. A row without normal says nothing.
    """

    centre: Float[Tensor, "batch inputs"]
    radius: Float[Tensor, "batch inputs"]
    normal: Float[Tensor, "batch rows inputs"]
    offset: Float[Tensor, "batch rows"]

    @classmethod
    def of(
        cls,
        box: Bounds,
        bound: Float[Tensor, "batch rows"],
        cotangent: Float[Tensor, "batch rows inputs"],
        used: Bool[Tensor, "batch rows"],
    ) -> Halfspaces:
        """Where none of the rows is positive that are `used`; of each its bound over the box, and its slopes there."""
        centre = (box.lower + box.upper) / 2
        radius = torch.maximum(box.upper - centre, centre - box.lower)
        radius = radius * (1 + 4 * torch.finfo(radius.dtype).eps)
        none = torch.zeros_like(bound)
        whole = cls(centre, radius, none[..., None] * radius[:, None], none)
        constant, normal, size = whole._around(bound, cotangent)
        offset = -constant + _error(size, cotangent.shape[-1])
        used = used & offset.isfinite() & normal.isfinite().all(2)
        return cls(
            centre, radius, torch.where(used[..., None], normal, 0.0), torch.where(used, offset, torch.inf)
        )

    def along(self, inputs: Int[Tensor, " some"]) -> Halfspaces:
        """In the coordinates of some inputs alone, whatever the others are."""
        free = self.normal.index_fill(2, inputs, 0.0).abs().sum(2)
        offset = self.offset + free + _error(free, self.normal.shape[2])
        return Halfspaces(self.centre[:, inputs], self.radius[:, inputs], self.normal[:, :, inputs], offset)

    def _around(self, bound: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Linear functions by their values at the centre and their slopes there, and what rounding them is charged by."""
        slope = cotangent * self.radius[:, None]
        constant = bound + slope.abs().sum(2)
        size = bound.abs() + (cotangent.abs() * (self.centre.abs() + 2 * self.radius)[:, None]).sum(2)
        return constant, slope, size

    def least(
        self, bound: Float[Tensor, "batch functions"], cotangent: Float[Tensor, "batch functions inputs"]
    ) -> Float[Tensor, "batch functions"]:
        """Lower bounds over the unsafe points, no less than those over the boxes that are given with their slopes."""
        constant, slope, size = self._around(bound, cotangent)
        found = self.least_around(constant, slope, size)
        return torch.where(found > bound, found, bound)

    def least_around(
        self,
        constant: Float[Tensor, "batch functions"],
        slope: Float[Tensor, "batch functions inputs"],
        size: Float[Tensor, "batch functions"],
    ) -> Float[Tensor, "batch functions"]:
        """Lower bounds of `constant + slope . e`; `size`: of the terms that the two were made of. -inf where nothing is known."""
        for row in range(self.offset.shape[1] if slope.shape[2] else 0):
            normal, offset = self.normal[:, row, None], self.offset[:, row, None]
            if plainly_all(offset.isinf()):
                continue
            weight = _weight(slope, normal, offset)
            moved = weight * torch.where(weight > 0, offset, 0.0)
            constant, slope = constant - moved, slope + weight[..., None] * normal
            size = size + moved.abs() + weight * normal.abs().sum(2)
        found = constant - slope.abs().sum(2) - _error(size, slope.shape[2] + self.offset.shape[1])
        return found.nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)


def _error(size: Tensor, terms: int) -> Tensor:
    """What rounding may have moved a sum by, over the inputs and over as many rows as were added to it."""
    return 8 * (terms + 12) * torch.finfo(size.dtype).eps * size


def _weight(slope: Tensor, normal: Tensor, offset: Tensor) -> Float[Tensor, "batch functions"]:
    """The best lambda of each function, or the last at which something bends where the box has no point in the half-space.

    To the right of a lambda the slope of what is maximised is `-H - sum of G sign(T + lambda G)`; each entry of another sign than G turns
    at `-T / G`, which takes `2 |G|` from it.
    """
    turn = -slope / normal
    turns = (turn > 0) & turn.isfinite()
    rise = -offset - torch.where(turns, -normal.abs(), normal.abs() * (normal != 0)).sum(2)
    turn, order = torch.where(turns, turn, torch.inf).sort(dim=2)
    fall = 2 * torch.where(turns, normal.abs().expand_as(slope), 0.0).gather(2, order).cumsum(2)
    at = (fall < rise[..., None]).sum(2).clamp(max=slope.shape[2] - 1)
    last = (turns.sum(2) - 1).clamp(min=0)
    best = turn.gather(2, torch.minimum(at, last)[..., None])[..., 0]
    return torch.where((rise > 0) & best.isfinite(), best, 0.0)
