"""Softmax of rows of variables: `p_i = 1 / D_i` with `D_i = 1 + sum_{j != i} exp(z_j - z_i)`.

From below, the reciprocal's tangent and chords of the exponentials; from above, the reciprocal's chord and tangents of the
exponentials in the middle of their intervals. (Wei et al. 2023, "Convex Bounds on the Softmax Function", call it the
exponential-reciprocal decomposition.) Every constant is rounded away from the function, so lines hold as they are stored.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from verify.network.activations.base import Hull, Line, wide
from verify.network.activations.mixing import MixedLine, Mixing, MixingHull


@dataclass(frozen=True)
class Softmax(Mixing):
    """Softmax of each of `rows` rows."""

    rows: int
    name = "Softmax"

    def table(self, values: Tensor) -> Tensor:
        """[*batch, rows, size]."""
        return values.reshape(*values.shape[:-1], self.rows, -1)

    def forward(self, z: Tensor) -> Tensor:
        return self.table(z).softmax(-1).flatten(-2)

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """From the largest and the least of all other values' exponentials."""
        pairs = _Pairs(self.table(lower), self.table(upper))
        slack = 2 * pairs.eps
        low, high = pairs.most.reciprocal() * (1 - slack), pairs.least.reciprocal() * (1 + slack)
        low, high = torch.where(low.isnan(), 0.0, low), torch.where(high.isnan(), 1.0, high.clamp(max=1))
        return low.flatten(-2), high.flatten(-2)

    def hull(self, lower: Tensor, upper: Tensor) -> Hull:
        return SoftmaxHull(self, lower, upper)

    def split_point(self, lower: Tensor, upper: Tensor) -> Tensor:
        return torch.where(wide(lower, upper), (lower + upper) / 2, torch.nan)

    def relaxation_loss(self, t: Tensor, line: Line, z: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """Each output's loss, divided among the values by how far they move its line."""
        assert isinstance(line, MixedLine) and isinstance(line.hull, SoftmaxHull)
        loss = self.table((t * (self.forward(z) - line.push(z))).clamp(min=0))
        moves = line.hull.chosen(t).abs() * self.table(upper - lower).unsqueeze(-2)
        shares = moves / moves.sum(-1, keepdim=True).clamp(min=torch.finfo(moves.dtype).tiny)
        found = (loss.unsqueeze(-2) @ shares).squeeze(-2).flatten(-2)
        return torch.where(self.split_point(lower, upper).isnan(), -torch.inf, found)


class _Pairs:
    """Intervals of all differences `z_j - z_i` [*batch, rows, i, j] and of the denominators D [*batch, rows, i]."""

    def __init__(self, lower: Tensor, upper: Tensor) -> None:
        """lower, upper: [*batch, rows, size]."""
        self.eps = 2 * torch.finfo(lower.dtype).eps
        self.others = 1 - torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
        slack = self.eps * (
            torch.maximum(lower.abs(), upper.abs())[..., None, :]
            + torch.maximum(lower.abs(), upper.abs())[..., None]
        )
        self.low = lower[..., None, :] - upper[..., None] - slack
        self.high = upper[..., None, :] - lower[..., None] + slack
        relative = 8 * self.eps
        self.exp_low = self.low.exp() * (1 - relative) * self.others
        self.exp_high = (self.high.exp() * (1 + relative) + torch.finfo(lower.dtype).tiny) * self.others
        rounding = (lower.shape[-1] + 4) * self.eps
        self.least = (1 + self.exp_low.sum(-1)) * (1 - rounding)
        self.most = (1 + self.exp_high.sum(-1)) * (1 + rounding)


class SoftmaxHull(MixingHull):
    """Softmax on a box: for each sign of an output's cotangent the line's matrix [*batch, rows, i, j] and constant [*batch, rows, i]."""

    def __init__(self, activation: Softmax, lower: Tensor, upper: Tensor) -> None:
        self.activation, self.lower, self.upper = activation, lower, upper
        low, high = activation.interval(lower, upper)
        pairs, largest = _Pairs(activation.table(lower), activation.table(upper)), self._largest()
        self.below = self._unless_infinite(*self._below(pairs, largest), activation.table(low))
        self.above = self._unless_infinite(*self._above(pairs, largest), activation.table(high))
        self.sizes = [
            (matrix.abs() @ largest.unsqueeze(-1)).squeeze(-1) + constant.abs()
            for matrix, constant in (self.below, self.above)
        ]

    def _largest(self) -> Tensor:
        return self.activation.table(torch.maximum(self.lower.abs(), self.upper.abs()))

    def _below(self, pairs: _Pairs, largest: Tensor) -> tuple[Tensor, Tensor]:
        """`1/D >= 2 r - r^2 D` for any r > 0, and D no more than the sum of chords; r is best in the middle of the box."""
        width = (pairs.high - pairs.low).clamp(min=torch.finfo(largest.dtype).tiny)
        chords = torch.minimum((pairs.exp_high - pairs.exp_low) / width * (1 + 4 * pairs.eps), pairs.exp_high)
        start = pairs.exp_low * (1 + 32 * pairs.eps)  # above the function, where exp_low is below
        middle = 1 + (start + chords * (width / 2)).sum(-1)
        root = middle.reciprocal().clamp(
            min=8 * torch.finfo(middle.dtype).tiny ** 0.5
        )  # its square is no underflow
        square = root.square()
        weights = square.unsqueeze(-1) * chords
        terms = square.unsqueeze(-1) * (start + chords * pairs.low.abs())
        constant = 2 * root - square - (square.unsqueeze(-1) * (start - chords * pairs.low)).sum(-1)
        size = 2 * root + square + terms.sum(-1)
        return self._matrix(-weights), constant - self._slack(pairs, weights, size, largest)

    def _above(self, pairs: _Pairs, largest: Tensor) -> tuple[Tensor, Tensor]:
        """`1/D <= h - k D` between D's ends, and D no less than the sum of tangents."""
        slope = (pairs.least * pairs.most).reciprocal()
        height = torch.maximum(
            pairs.least.reciprocal() + slope * pairs.least, pairs.most.reciprocal() + slope * pairs.most
        )
        middle = (pairs.low + pairs.high) / 2
        tangents = middle.exp() * pairs.others
        weights = slope.unsqueeze(-1) * tangents
        constant = height - slope - (weights * (1 - middle)).sum(-1)
        size = height + slope + (weights * (1 + middle.abs())).sum(-1)
        return self._matrix(-weights), constant + self._slack(pairs, weights, size, largest)

    def _matrix(self, weights: Tensor) -> Tensor:
        """Coefficients of the differences `z_j - z_i` as those of z."""
        return weights - torch.diag_embed(weights.sum(-1))

    def _slack(self, pairs: _Pairs, weights: Tensor, size: Tensor, largest: Tensor) -> Tensor:
        """What rounding may have cost in a line whose constant is a sum of terms of that size in all."""
        moved = (weights * (largest.unsqueeze(-2) + largest.unsqueeze(-1))).sum(-1)
        return (4 * weights.shape[-1] + 64) * pairs.eps * (size + moved)

    def _unless_infinite(self, matrix: Tensor, constant: Tensor, end: Tensor) -> list[Tensor]:
        """The line's matrix and constant; the interval's end where there is no line."""
        good = constant.isfinite() & matrix.isfinite().all(-1)
        return [torch.where(good.unsqueeze(-1), matrix, 0.0), torch.where(good, constant, end)]

    def first(self) -> SoftmaxHull:
        one = copy(self)
        one.lower, one.upper = self.lower[:, 0], self.upper[:, 0]
        one.below, one.above, one.sizes = (
            [part[:, 0] for part in own] for own in (self.below, self.above, self.sizes)
        )
        return one

    def chosen(self, t: Tensor) -> Tensor:
        """The matrices of the lines for t's signs."""
        falling = self.activation.table(t).unsqueeze(-1) < 0
        return torch.where(falling, self.above[0], self.below[0])

    def pull(self, t: Tensor) -> Tensor:
        table = self.activation.table(t)
        return (
            _apply(table.clamp(min=0), self.below[0]) + _apply(table.clamp(max=0), self.above[0])
        ).flatten(-2)

    def along(self, t: Tensor, z: Tensor) -> Tensor:
        table = self.activation.table(z)
        above, below = (_apply(table, part[0].mT) for part in (self.above, self.below))
        return torch.where(self.activation.table(t) < 0, above, below).flatten(-2)

    def intercept(self, t: Tensor) -> Tensor:
        return torch.where(self.activation.table(t) < 0, self.above[1], self.below[1]).flatten(-2)

    def size(self, t: Tensor) -> Tensor:
        """Terms of the cotangent and of the intercept."""
        return 2 * (self.activation.table(t).abs() * torch.maximum(*self.sizes)).sum((-2, -1))


def _apply(rows: Tensor, matrix: Tensor) -> Tensor:
    """[*batch, objectives, rows, i] times [*batch, 1, rows, i, j]."""
    if rows.dim() < 4 or matrix.shape[-4] != 1:
        return (rows.unsqueeze(-2) @ matrix).squeeze(-2)
    return (rows.movedim(-2, -3) @ matrix.squeeze(-4)).movedim(-3, -2)
