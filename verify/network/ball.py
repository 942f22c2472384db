"""Inputs that lie in a ball besides their box: the least value of a linear function over both.

For the ball `sum_i w_i^2 (x_i - c_i)^2 <= r^2` (or `sum_i w_i |x_i - c_i| <= r`) and every multiplier lambda >= 0,

    min t . x  >=  sum_i min_{l_i <= x_i <= u_i} (t_i x_i + lambda w_i^2 (x_i - c_i)^2) - lambda r^2 ,

so any lambda gives a bound; the best one is found in a few steps (squares: inputs that end up at their box's ends are fixed there, as in
projections onto a simplex, Michelot 1986) or by sorting (absolute values: a knapsack).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

_STEPS = 8
_TINY = 1e-30
_INSIDE = 1 - 2**-20  # of the way, for numbers of the model's type near there to be in the ball


@dataclass(frozen=True)
class Ball:
    """norm: 1 or 2, of the weighted differences from the centre, [inputs] each.

    outputs: from this one on, the network's outputs are there for the ball's own constraint alone, which bounds do without.
    """

    norm: int
    centre: Float[Tensor, " inputs"]
    weights: Float[Tensor, " inputs"]
    radius: float
    outputs: int

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Ball:
        """The ball with its tensors on `device`, as `dtype`."""
        return replace(self, centre=self.centre.to(device, dtype), weights=self.weights.to(device, dtype))

    def least(
        self,
        t: Float[Tensor, "batch objectives inputs"],
        lower: Float[Tensor, "batch 1 inputs"],
        upper: Float[Tensor, "batch 1 inputs"],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A lower bound of `t . x`, [batch, objectives]; a point where it is about that; and the sizes of the bound's terms together.

        The bound is less by at most a rounding of those sizes than what it would be in exact arithmetic.
        """
        low, high = lower - self.centre, upper - self.centre
        room = (self.weights * torch.where(t > 0, -low, high)).clamp(min=0)
        steep = t.abs() / self.weights
        multiplier = (self._by_squares if self.norm == 2 else self._by_sorting)(steep, room)
        multiplier = torch.maximum(multiplier, self._apart(t, low, high))[..., None]
        if self.norm == 2:
            curvature = multiplier * self.weights.square()
            # the least number beyond 0 alone: with a larger one, this would be no minimiser where slopes are smaller still
            least = torch.finfo(t.dtype).tiny
            away = torch.maximum(torch.minimum(-t / (2 * curvature).clamp(min=least), high), low)
            paid, radius = curvature * away.square(), self.radius * self.radius
        else:
            nearest = torch.maximum(torch.minimum(torch.zeros_like(low), high), low)
            end = torch.where(t > 0, low, high)
            price = multiplier * self.weights
            away = torch.where(
                t * end + price * end.abs() < t * nearest + price * nearest.abs(), end, nearest
            )
            paid, radius = price * away.abs(), self.radius
        multiplier = multiplier[..., 0]
        bound = t @ self.centre + (t * away + paid).sum(2) - multiplier * radius
        sizes = t.abs() @ self.centre.abs() + ((t * away).abs() + paid).sum(2) + multiplier * radius
        sizes = sizes + (t.abs() * torch.maximum(lower.abs(), upper.abs())).sum(2)
        return bound, self._point(t, room, steep, away, lower, upper), sizes

    def _point(
        self, t: Tensor, room: Tensor, steep: Tensor, away: Tensor, lower: Tensor, upper: Tensor
    ) -> Float[Tensor, "batch objectives inputs"]:
        """Where `t . x` is least, just inside of the ball: for absolute values the steepest inputs go to their ends, and one a part of the way."""
        if self.norm == 1:
            _, order = steep.sort(dim=2, descending=True)
            sorted_room = room.expand_as(steep).gather(2, order)
            before = sorted_room.cumsum(2) - sorted_room
            used = torch.minimum((self.radius - before).clamp(min=0), sorted_room)
            away = -t.sign() * torch.zeros_like(used).scatter_(2, order, used) / self.weights
        return torch.maximum(torch.minimum(self.centre + _INSIDE * away, upper), lower)

    def _by_squares(self, steep: Tensor, room: Tensor) -> Float[Tensor, "batch objectives"]:
        """The best multiplier of the sum of squares; from above, for fewer inputs are fixed then."""
        fixed = torch.zeros_like(steep, dtype=torch.bool)
        multiplier = steep.new_zeros(steep.shape[:2])
        for _ in range(_STEPS):
            rest = self.radius * self.radius - torch.where(fixed, room.square(), 0.0).sum(2)
            slope = torch.where(fixed, 0.0, steep.square()).sum(2)
            multiplier = (slope / rest.clamp(min=_TINY)).sqrt() / 2
            now = steep > 2 * multiplier[..., None] * room
            if torch.equal(now, fixed):
                break
            fixed = now
        return multiplier

    def _by_sorting(self, steep: Tensor, room: Tensor) -> Float[Tensor, "batch objectives"]:
        """The best multiplier of the sum of absolute values: the steepest inputs go to their ends until the radius is used up."""
        sorted_, order = steep.sort(dim=2, descending=True)
        used = room.expand_as(steep).gather(2, order).cumsum(2)
        place = (used < self.radius).sum(2, keepdim=True)
        padded = torch.cat([sorted_, torch.zeros_like(sorted_[..., :1])], 2)
        return padded.gather(2, place)[..., 0]

    def _apart(self, t: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """A multiplier that refutes boxes beyond the ball; 0 for others."""
        nearest = self.weights * torch.maximum(torch.maximum(low, -high), torch.zeros_like(low))
        distance = nearest.square().sum(2) if self.norm == 2 else nearest.sum(2)
        excess = distance - (self.radius * self.radius if self.norm == 2 else self.radius)
        farthest = torch.maximum(low.abs(), high.abs())
        needed = 2 * ((t.abs() * farthest).sum(2) + (t @ self.centre).abs()) / excess.clamp(min=_TINY)
        return torch.where(excess > 1e-6 * distance, needed, 0.0)
