"""Softmax of rows of variables: `p_i = exp(z_i) / S` with `S = sum_j exp(z_j)`.

Lines through the logarithm of S (Wei et al. 2023, "Convex Bounds on the Softmax Function", section 4). From below, S is no more than
the sum of its exponentials' chords, a linear function C, and `exp(z_i - log C(z))` is convex: its tangent. From above,
`p_i = exp(z_i - log S)` is no more than its chord between the logarithms of its ends, in which `log S`, convex, has a tangent.
Both have one form, `h_i (z_i - sum_j w_j z_j) + c_i`, with weights w that all outputs of a row share. Every constant is rounded away from
the function, so lines hold as they are stored.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from verify.network.activations.base import Hull, LinearRelaxation, wide
from verify.network.activations.mixing import MixedLine, Mixing, MixingHull


@dataclass(frozen=True)
class Softmax(Mixing):
    """Softmax of each of `rows` rows."""

    rows: int
    name = "Softmax"

    @property
    def sums_to_one(self) -> int:  # type: ignore[override]
        return self.rows

    def table(self, values: Tensor) -> Tensor:
        """[*batch, rows, size]."""
        return values.reshape(*values.shape[:-1], self.rows, -1)

    def forward(self, z: Tensor) -> Tensor:
        return self.table(z).softmax(-1).flatten(-2)

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """From the largest and the least of all other values' exponentials: `1 / (1 + sum_{j != i} exp(z_j - z_i))`."""
        low, high = self.table(lower), self.table(upper)
        limits, count = torch.finfo(low.dtype), low.shape[-1]
        eps, size = 2 * limits.eps, torch.maximum(low.abs(), high.abs())
        slack = eps * (size[..., None, :] + size[..., None])
        others = 1 - torch.eye(count, dtype=low.dtype, device=low.device)
        least = (low[..., None, :] - high[..., None] - slack).exp() * (1 - 8 * eps) * others
        most = ((high[..., None, :] - low[..., None] + slack).exp() * (1 + 8 * eps) + limits.tiny) * others
        rounding = (count + 4) * eps
        first = ((1 + most.sum(-1)) * (1 + rounding)).reciprocal() * (1 - 2 * eps)
        last = ((1 + least.sum(-1)) * (1 - rounding)).reciprocal() * (1 + 2 * eps)
        first, last = (
            torch.where(first.isnan(), 0.0, first),
            torch.where(last.isnan(), 1.0, last.clamp(max=1)),
        )
        return first.flatten(-2), last.flatten(-2)

    def hull(self, lower: Tensor, upper: Tensor) -> Hull:
        return SoftmaxHull(self, lower, upper)

    def split_point(self, lower: Tensor, upper: Tensor) -> Tensor:
        return torch.where(wide(lower, upper), (lower + upper) / 2, torch.nan)

    def relaxation_loss(
        self, t: Tensor, line: LinearRelaxation, z: Tensor, lower: Tensor, upper: Tensor
    ) -> Tensor:
        """Each output's loss, divided among the values by how far they move its line."""
        assert isinstance(line, MixedLine) and isinstance(line.hull, SoftmaxHull)
        loss, widths, falling = (
            self.table((t * (self.forward(z) - line.apply(z))).clamp(min=0)),
            self.table(upper - lower),
            self.table(t) < 0,
        )
        found = torch.zeros_like(loss)
        for side, lines in ((falling, line.hull.above), (~falling, line.hull.below)):
            own = (1 - lines.weights).abs() - lines.weights
            moves = (lines.weights * widths).sum(-1, keepdim=True) + own * widths
            shares = torch.where(side, loss, 0.0) / moves.clamp(min=torch.finfo(moves.dtype).tiny)
            found = found + widths * (lines.weights * shares.sum(-1, keepdim=True) + own * shares)
        return torch.where(self.split_point(lower, upper).isnan(), -torch.inf, found.flatten(-2))


@dataclass(frozen=True)
class _Lines:
    """`h_i (z_i - sum_j w_j z_j) + c_i`, all [*batch, rows, size]."""

    heights: Tensor
    weights: Tensor
    constants: Tensor

    def unless_infinite(self, ends: Tensor) -> _Lines:
        """These lines; the intervals' ends where there are none."""
        weighted = self.weights.isfinite().all(-1, keepdim=True)
        good = self.heights.isfinite() & self.constants.isfinite() & weighted
        return _Lines(
            torch.where(good, self.heights, 0.0),
            torch.where(weighted, self.weights, 0.0),
            torch.where(good, self.constants, ends),
        )

    def terms(self, largest: Tensor) -> Tensor:
        """Of the terms of each line."""
        moved = self.heights * (largest + (self.weights * largest).sum(-1, keepdim=True))
        return torch.where(self.heights == 0, 0.0, moved) + self.constants.abs()

    def centred(self, z: Tensor) -> Tensor:
        """`z_i - sum_j w_j z_j`."""
        return z - (self.weights * z).sum(-1, keepdim=True)

    def vjp(self, t: Tensor) -> Tensor:
        """The outputs' cotangent carried back."""
        moved = t * self.heights
        return moved - self.weights * moved.sum(-1, keepdim=True)


class SoftmaxHull(MixingHull):
    """Softmax on a box: the lines for positive and for negative cotangents."""

    def __init__(self, activation: Softmax, lower: Tensor, upper: Tensor) -> None:
        self.activation, self.lower, self.upper = activation, lower, upper
        low, high = (activation.table(end) for end in activation.interval(lower, upper))
        box = _Box(activation.table(lower), activation.table(upper))
        self.below, self.above = (
            _below(box).unless_infinite(low),
            _above(box, low, high).unless_infinite(high),
        )
        self._sizes = torch.maximum(self.below.terms(box.largest), self.above.terms(box.largest))

    def first(self) -> SoftmaxHull:
        one = copy(self)
        one.lower, one.upper, one._sizes = self.lower[:, 0], self.upper[:, 0], self._sizes[:, 0]
        one.below, one.above = (
            _Lines(*(part[:, 0] for part in vars(own).values())) for own in (self.below, self.above)
        )
        return one

    def vjp(self, t: Tensor, shifts: Tensor | None = None) -> Tensor:
        table = self.activation.table(t)
        return (self.below.vjp(table.clamp(min=0)) + self.above.vjp(table.clamp(max=0))).flatten(-2)

    def along(self, t: Tensor, z: Tensor, shifts: Tensor | None = None) -> Tensor:
        table = self.activation.table(z)
        above, below = (lines.heights * lines.centred(table) for lines in (self.above, self.below))
        return torch.where(self.activation.table(t) < 0, above, below).flatten(-2)

    def intercept(self, t: Tensor, shifts: Tensor | None = None) -> Tensor:
        falling = self.activation.table(t) < 0
        return torch.where(falling, self.above.constants, self.below.constants).flatten(-2)

    def size(self, t: Tensor) -> Tensor:
        """Terms of the cotangent and of the intercept."""
        return 2 * (self.activation.table(t).abs() * self._sizes).sum((-2, -1))


class _Box:
    """A box of rows [*batch, rows, size] and a point of it."""

    def __init__(self, lower: Tensor, upper: Tensor) -> None:
        self.lower, self.upper = lower, upper
        self.middle, self.widths = (lower + upper) / 2, upper - lower
        self.largest = torch.maximum(lower.abs(), upper.abs())
        self.most = upper.amax(-1, keepdim=True)  # exponentials are taken relative to this
        limits = torch.finfo(lower.dtype)
        self.tiny, self.eps = limits.tiny, 2 * limits.eps
        self.unit = (lower.shape[-1] + 32) * self.eps  # of what some sums and exponentials may be off by
        # and how that grows with the values
        self.scale = 1 + self.largest.amax(-1, keepdim=True) + self.most.abs()

    def exponential(self, z: Tensor, direction: int) -> Tensor:
        """`exp(z - most)`, rounded in that direction."""
        shifted = z - self.most + direction * self.eps * (z.abs() + self.most.abs())
        return shifted.exp() * (1 + direction * 8 * self.eps) + (self.tiny if direction > 0 else 0.0)


def _below(box: _Box) -> _Lines:
    """The tangent of `exp(z_i - log C(z))` in the middle, C being the sum of the exponentials' chords."""
    start, last = box.exponential(box.lower, 1), box.exponential(box.upper, 1)
    slope = (last - box.exponential(box.lower, -1)) / box.widths.clamp(min=box.tiny) * (1 + 4 * box.eps)
    slope = torch.minimum(slope, last)
    total = (start + slope * (box.middle - box.lower)).sum(-1, keepdim=True)
    heights, weights = (box.middle - box.most).exp() / total, slope / total
    moved = 1 + box.widths + (weights * box.widths).sum(-1, keepdim=True)
    middle = (weights * box.middle).sum(-1, keepdim=True)
    slack = box.unit * heights * (box.scale * moved + (weights * box.middle.abs()).sum(-1, keepdim=True))
    return _Lines(heights, weights, heights * (1 - box.middle + middle) - slack)


def _above(box: _Box, low: Tensor, high: Tensor) -> _Lines:
    """`A + B log p_i`, the chord between p's ends, with a tangent of the logarithm of S in the middle."""
    first, last = low.log(), high.log()
    slope = (high - low) / (last - first).clamp(min=box.tiny)
    slope = torch.minimum(torch.maximum(slope, low), high)
    height = torch.maximum(low - slope * first, high - slope * last)
    weights = box.middle.softmax(-1)
    moved = 1 + (weights * box.widths).sum(-1, keepdim=True)
    centre = (weights * box.middle).sum(-1, keepdim=True) - box.middle.logsumexp(-1, keepdim=True)
    slack = box.unit * (slope * (2 * box.scale * moved + first.abs() + last.abs()) + high)
    return _Lines(slope, weights, height + slope * centre + slack)
