"""What a sweep adds up: q, and what rounding may have cost it. Both have a neutral form that counts nothing."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from verify.lagrangian.domain import Domain

# What products too small for float64 may lose, of values up to 1e100.
_UNDERFLOW = 1e-200


class NoRounding:
    """No rounding errors are counted: the bound is what the sweep's own precision makes of it."""

    # What was counted, in units of rounding; and what a deployed network may be off by.
    total: Tensor | float = 0.0
    deployed: Tensor | float = 0.0

    def add(self, cotangent: Tensor, node: int, rounding32: float = 0.0) -> None:
        """Counts what rounding one cotangent may cost, given the size of its node's values."""

    def add_size(self, size: Tensor) -> None:
        """Counts what rounding a sum may cost, given the sizes of its terms together."""

    def charge(self, part: Part) -> None:
        """Counts what a part's own sums may cost."""

    def below(self, bound: Tensor) -> Tensor:
        """The bound less all that rounding may have cost."""
        return bound


class RoundingError(NoRounding):
    """Adds up `sum |cotangent| magnitude` over a sweep.

    A pass through an affine map W turns the cotangent c, taken as exact, into W^T c with an error of at most
    gamma |W|^T |c|; against values of magnitude m that moves the bound by at most gamma |c| . (|W| m). (Higham 2002, section 3.5.)
    """

    def __init__(self, magnitudes: dict[int, Tensor], gamma: float, like: Tensor) -> None:
        """magnitudes: the sizes of every node's values, by node; like: a bound for each objective."""
        self.magnitudes, self.gamma = magnitudes, gamma
        self.shape = like.shape
        self.total: Tensor = torch.zeros_like(like)
        self.deployed: Tensor = torch.zeros_like(like)

    def add(self, cotangent: Tensor, node: int, rounding32: float = 0.0) -> None:
        """rounding32: what a deployed network may be off by there, relative to the sizes."""
        size = dot(cotangent.reshape(*self.shape, -1).abs(), self.magnitudes[node])
        self.add_size(size)
        if rounding32:
            self.deployed = self.deployed + rounding32 * size

    def add_size(self, size: Tensor) -> None:
        self.total = self.total + size

    def charge(self, part: Part) -> None:
        part.charge(self)

    def below(self, bound: Tensor) -> Tensor:
        return bound - (8 * self.gamma * self.total + self.deployed + _UNDERFLOW)


class Part(Protocol):
    """A part of q that a sweep comes by: a layer's minimum, or what a cut family makes of a layer."""

    def count(self, value: Value) -> None:
        """Adds it to q."""

    def charge(self, rounding: RoundingError) -> None:
        """Counts what rounding may have cost it."""


class NoValue:
    """Nobody asks for q: the sweep is made for its cotangents."""

    # q so far, of a `Value`.
    bound: Float[Tensor, "batch objectives"]
    rounding = NoRounding()

    def count(self, *parts: Part) -> None:
        """Adds parts to q."""

    def frozen(self, node: int, t: Tensor, low: Tensor, high: Tensor) -> None:
        """Adds the least value of `t . x` over a frozen layer's outputs."""


class Value(NoValue):
    """Adds up q."""

    def __init__(
        self, domain: Domain, bound: Float[Tensor, "batch objectives"], rounding: NoRounding
    ) -> None:
        """bound: q's constant, where the sweep begins."""
        self.domain, self.bound, self.rounding = domain, bound, rounding

    def add(self, amount: Tensor) -> None:
        """Adds to q."""
        self.bound = self.bound + amount

    def count(self, *parts: Part) -> None:
        for part in parts:
            part.count(self)
            self.rounding.charge(part)

    def frozen(self, node: int, t: Tensor, low: Tensor, high: Tensor) -> None:
        self.add((t.clamp(min=0) @ low.mT + t.clamp(max=0) @ high.mT)[..., 0])
        self.rounding.add(t, node)

    def closed(self, t: Float[Tensor, "batch objectives inputs"]) -> Float[Tensor, "batch objectives"]:
        """q, once a sweep has arrived at the input with the cotangent `t`."""
        self.add(self.domain.input_minimum(t))
        self.rounding.add(t, 0)
        if (size := self.domain.input_size(t)) is not None:
            self.rounding.add_size(size)
        bound = self.rounding.below(self.bound)
        # NaN, or beyond all numbers: nothing is known.
        return torch.where(bound < torch.inf, bound, -torch.inf)


def dot(
    cotangent: Float[Tensor, "batch objectives size"], values: Tensor
) -> Float[Tensor, "batch objectives"]:
    """Products with [size] values, or with each subproblem's own, [batch, size]."""
    return cotangent @ values if values.dim() == 1 else (cotangent @ values[:, :, None])[..., 0]
