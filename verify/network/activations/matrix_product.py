"""The product of two matrices of variables: `C = A B`, several of them side by side.

The flat axis holds all entries of A [groups, rows, inner], then those of B [groups, inner, columns]; the outputs are those of C
[groups, rows, columns]. With middles and radii, `a b = a' b' + b' (a - a') + a' (b - b') + (a - a') (b - b')`, and the last term
stays within the product of the radii: parallel planes, the mean of McCormick's two on either side.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verify.network.activations.base import Hull, Line, wide
from verify.network.activations.mixing import Mixing, MixingHull


@dataclass(frozen=True)
class MatrixProduct(Mixing):
    """`C = A B` for `groups` pairs of matrices."""

    groups: int
    rows: int
    inner: int
    columns: int
    name = "MatMul"

    def post_size(self, pre_size: int) -> int:
        return self.groups * self.rows * self.columns

    def factors(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """A [*batch, groups, rows, inner] and B [*batch, groups, inner, columns]."""
        sizes = self.groups * self.rows * self.inner, self.groups * self.inner * self.columns
        a, b = z.split(sizes, dim=-1)
        return (
            a.unflatten(-1, (self.groups, self.rows, self.inner)),
            b.unflatten(-1, (self.groups, self.inner, self.columns)),
        )

    def outputs(self, t: Tensor) -> Tensor:
        """[*batch, groups, rows, columns]."""
        return t.reshape(*t.shape[:-1], self.groups, self.rows, self.columns)

    def forward(self, z: Tensor) -> Tensor:
        a, b = self.factors(z)
        return (a @ b).flatten(-3)

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        (a_low, b_low), (a_high, b_high) = self.factors(lower), self.factors(upper)
        low, high, size = (a_low.new_zeros(*a_low.shape[:-1], self.columns) for _ in range(3))
        for i in range(self.inner):
            ends = [
                a[..., i : i + 1] * b[..., i : i + 1, :] for a in (a_low, a_high) for b in (b_low, b_high)
            ]
            corners = torch.stack(ends)
            low, high = low + corners.amin(0), high + corners.amax(0)
            size = size + corners.abs().amax(0)
        limits = torch.finfo(lower.dtype)
        slack = (2 * self.inner + 4) * limits.eps * size + limits.tiny * self._nonzero(lower, upper)
        low, high = (low - slack).flatten(-3), (high + slack).flatten(-3)
        return torch.where(low.isnan(), -torch.inf, low), torch.where(high.isnan(), torch.inf, high)

    def _nonzero(self, lower: Tensor, upper: Tensor) -> Tensor:
        """How many of each output's products are not 0 throughout: as many may underflow."""
        a, b = self.factors(torch.maximum(lower.abs(), upper.abs()).sign())
        return a @ b

    def hull(self, lower: Tensor, upper: Tensor) -> Hull:
        return MatrixProductHull(self, lower, upper)

    def split_point(self, lower: Tensor, upper: Tensor) -> Tensor:
        """The middle of a factor, unless all that it is multiplied by is constant."""
        open_a, open_b = self.factors(wide(lower, upper))
        bends_a = open_a & open_b.any(-1, keepdim=True).mT
        bends_b = open_b & open_a.any(-2, keepdim=True).mT
        bends = torch.cat([bends_a.flatten(-3), bends_b.flatten(-3)], dim=-1)
        return torch.where(bends, (lower + upper) / 2, torch.nan)

    def relaxation_loss(self, t: Tensor, line: Line, z: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """What the products that a factor takes part in lose together."""
        (a, b), (radius_a, radius_b) = (
            self.factors(z - (lower + upper) / 2),
            self.factors((upper - lower) / 2),
        )
        t = self.outputs(t)
        loss_a = t.abs() @ radius_b.mT * radius_a + a * (t @ b.mT)
        loss_b = radius_a.mT @ t.abs() * radius_b + b * (a.mT @ t)
        loss = torch.cat([loss_a.flatten(-3), loss_b.flatten(-3)], dim=-1).clamp(min=0)
        return torch.where(self.split_point(lower, upper).isnan(), -torch.inf, loss)


class MatrixProductHull(MixingHull):
    """A product of matrices on a box."""

    def __init__(self, activation: MatrixProduct, lower: Tensor, upper: Tensor) -> None:
        self.activation, self.lower, self.upper = activation, lower, upper
        middle = (lower + upper) / 2
        limits = torch.finfo(lower.dtype)
        radius = torch.maximum(upper - middle, middle - lower) * (1 + 2 * limits.eps)
        self.a, self.b = activation.factors(middle)
        self.radius_a, self.radius_b = activation.factors(radius)

    def first(self) -> MatrixProductHull:
        return MatrixProductHull(self.activation, self.lower[:, 0], self.upper[:, 0])

    def pull(self, t: Tensor) -> Tensor:
        t = self.activation.outputs(t)
        return torch.cat([_times(t, self.b.mT).flatten(-3), _times(t.mT, self.a).mT.flatten(-3)], dim=-1)

    def along(self, t: Tensor, z: Tensor) -> Tensor:
        a, b = self.activation.factors(z)
        return (_times(a, self.b) + _times(b.mT, self.a.mT).mT).flatten(-3)

    def intercept(self, t: Tensor) -> Tensor:
        slack = (self.radius_a @ self.radius_b).flatten(-3)
        return torch.where(t < 0, slack, -slack) - (self.a @ self.b).flatten(-3)

    def size(self, t: Tensor) -> Tensor:
        """Terms of both cotangents and of the intercept: each at most |t| |a| |b|."""
        largest = (self.a.abs() + self.radius_a) @ (self.b.abs() + self.radius_b)
        return 4 * (t.abs() * largest.flatten(-3)).sum(-1)


def _times(left: Tensor, right: Tensor) -> Tensor:
    """[.., objectives, groups, m, k] @ [.., 1, groups, k, n]: objectives are rows like others."""
    if left.dim() < 5 or left.shape[-4] == 1:
        return left @ right
    objectives, _, rows, _ = left.shape[-4:]
    joined = left.movedim(-4, -3).flatten(-3, -2) @ right.squeeze(-4)
    return joined.reshape(*joined.shape[:-2], objectives, rows, -1).movedim(-3, -4)
