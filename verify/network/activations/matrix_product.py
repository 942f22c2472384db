"""The product of two matrices of variables: `C = A B`, several of them side by side.

The flat axis holds all entries of A [groups, rows, inner], then those of B [groups, inner, columns]; the outputs are those of C
[groups, rows, columns]. With middles and radii, `a b = a' b' + b' (a - a') + a' (b - b') + (a - a') (b - b')`, and the last term
stays within the product of the radii: parallel planes, the mean of McCormick's two on either side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from verify.network.activations.base import Hull, LinearRelaxation, wide
from verify.network.activations.mixing import MixedLine, Mixing, MixingHull


@dataclass(frozen=True)
class MatrixProduct(Mixing):
    """`C = A B` for `groups` pairs of matrices."""

    groups: int
    rows: int
    inner: int
    columns: int
    name = "MatMul"
    alphas_per_neuron = 1

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

    def relaxation_loss(
        self, t: Tensor, line: LinearRelaxation, z: Tensor, lower: Tensor, upper: Tensor
    ) -> Tensor:
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
    """A product of matrices on a box.

    With radii r, d = a - a', e = b - b', any u in [-1, 1] and s the cotangent's sign, `s d e >= u (r_b d + s r_a e) - r_a r_b`:
    McCormick's planes at u = -1 and 1. All products' u would be many; here `u = x_a + s x_b` with a shift x in [-1/2, 1/2], the
    parameter less 1/2, of each variable: planes stay products of matrices.
    """

    def __init__(self, activation: MatrixProduct, lower: Tensor, upper: Tensor) -> None:
        self.activation, self.lower, self.upper = activation, lower, upper
        self.middle = (lower + upper) / 2
        limits = torch.finfo(lower.dtype)
        radius = torch.maximum(upper - self.middle, self.middle - lower) * (1 + 2 * limits.eps)
        self.a, self.b = activation.factors(self.middle)
        self.radius_a, self.radius_b = activation.factors(radius)

    def initial(self) -> Tensor:
        return torch.full_like(self.lower, 0.5)

    @property
    def alpha_range(self) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(self.lower), torch.ones_like(self.lower)

    def first(self) -> MatrixProductHull:
        return MatrixProductHull(self.activation, self.lower[:, 0], self.upper[:, 0])

    def line(self, t: Tensor, alpha: Tensor) -> LinearRelaxation:
        if alpha.stride(-2) == 0:  # all objectives have the same, mostly none
            alpha = alpha[..., :1, :]
            if bool((alpha == 0.5).all()):
                return MixedLine(self, t)
        return MixedLine(self, t, alpha - 0.5)

    def vjp(self, t: Tensor, shifts: Tensor | None) -> Tensor:
        t = self.activation.outputs(t)
        if shifts is None:
            to_a, to_b = _times(t, self.b.mT), _times(t.mT, self.a).mT
        else:
            (a, b), sizes = self.activation.factors(shifts), t.abs()
            to_a = _times(t, (self.b + b * self.radius_b).mT) + a * _times(sizes, self.radius_b.mT)
            to_b = _times(t.mT, self.a + a * self.radius_a).mT + b * _times(sizes.mT, self.radius_a).mT
        return torch.cat([to_a.flatten(-3), to_b.flatten(-3)], dim=-1)

    def along(self, t: Tensor, z: Tensor, shifts: Tensor | None) -> Tensor:
        a, b = self.activation.factors(z)
        if shifts is None:
            return (_times(a, self.b) + _times(b.mT, self.a.mT).mT).flatten(-3)
        shift_a, shift_b = self.activation.factors(shifts)
        straight = a @ (self.b + shift_b * self.radius_b) + (self.a + shift_a * self.radius_a) @ b
        bent = _times(a * shift_a, self.radius_b) + _times((b * shift_b).mT, self.radius_a.mT).mT
        falling = self.activation.outputs(t) < 0
        return torch.where(falling, straight - bent, straight + bent).flatten(-3)

    def intercept(self, t: Tensor, shifts: Tensor | None) -> Tensor:
        return self.apply(t, torch.zeros_like(self.middle), shifts)

    def apply(self, t: Tensor, z: Tensor, shifts: Tensor | None) -> Tensor:
        low, high = self._there
        return torch.where(t < 0, high, low) + self.along(t, z - self.middle, shifts)

    @cached_property
    def _there(self) -> tuple[Tensor, Tensor]:
        """What the planes of both signs are in the middle."""
        slack, middle = (self.radius_a @ self.radius_b).flatten(-3), (self.a @ self.b).flatten(-3)
        return middle - slack, middle + slack

    def gradient(self, t: Tensor, gap: Tensor, out: Tensor) -> None:
        t = self.activation.outputs(t)
        sizes, (a, b) = t.abs(), self.activation.factors(gap - self.middle)
        to_a = a * _times(sizes, self.radius_b.mT) + self.radius_a * (t @ b.mT)
        to_b = b * _times(sizes.mT, self.radius_a).mT + self.radius_b * (a.mT @ t)
        out.copy_(torch.cat([to_a.flatten(-3), to_b.flatten(-3)], dim=-1))

    def size(self, t: Tensor) -> Tensor:
        """Terms of both cotangents and of the intercept: each at most |t| |a| |b|."""
        largest = (self.a.abs() + self.radius_a) @ (self.b.abs() + self.radius_b)
        return 8 * (t.abs() * largest.flatten(-3)).sum(-1)


def _times(left: Tensor, right: Tensor) -> Tensor:
    """[*lead, groups, m, k] @ [*lead, groups, k, n]; along the last leading axes in which the right is one, the left has more rows."""
    lead, shared = left.shape[:-3], list(right.shape[:-3])
    while shared and shared[-1] == 1:
        shared.pop()
    first = len(shared)
    if left.dim() != right.dim() or math.prod(lead[first:]) == 1:
        return left @ right
    rows = left.flatten(first, -4).movedim(first, -3).flatten(-3, -2)
    product = rows @ right.reshape(*shared, *right.shape[-3:])
    apart = product.unflatten(-2, (-1, left.shape[-2]))
    found: Tensor = apart.movedim(-3, first).unflatten(first, lead[first:])
    return found
