"""A whole number in an integer type: itself where the type holds it, and whatever the type holds elsewhere.

Sums and products wrap round the ends of their type, and a cast of what a type cannot hold gives what the machine gives. So
where a box proves that the number fits, this is the identity; elsewhere all that is known is the type's range.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from verify.network.activations.base import (
    Elementwise,
    ElementwiseHull,
    Hull,
    LinearRelaxation,
    strictly_inside,
)

LARGEST_EXACT = 2**53  # float64 has all integers up to it
_NARROW = 24  # bits of a type whose integers float32 has all
_SHORT = 1 - 2.0**-20  # of a wider type's range, what a rounded number may be in and be sure to fit


@dataclass(frozen=True)
class Integer(Elementwise):
    """z in [minimum, maximum], of `bits` bits.

    wraps: z wraps round the ends; else it was a float, and what becomes of too much is not said. within: a size up to which it has
    to be for what it is put through.
    """

    minimum: int
    maximum: int
    bits: int
    wraps: bool = True
    within: int = LARGEST_EXACT
    name = "Integer"
    listed = False
    curved = False

    @property
    def limits(self) -> tuple[float, float]:
        """Where z is sure to be held. Being whole, it may come half a unit near the next whole number."""
        if not self.wraps and self.bits > _NARROW:
            low, high = self.minimum * _SHORT, self.maximum * _SHORT
        else:
            low, high = self.minimum - 0.5, self.maximum + 0.5
        return max(low, -float(self.within)), min(high, float(self.within))

    @property
    def ends(self) -> tuple[float, float]:
        """What lies around all that the type holds, and around float32's roundings of it."""
        return float(self.minimum), float(self.maximum + (self.bits > _NARROW))

    def holds(self, lower: Tensor, upper: Tensor) -> Bool[Tensor, "*batch pre"]:
        """Whether all of an interval fits; in float64, for float32 takes the end of a type for the number behind it."""
        low, high = self.limits
        return (lower.double() >= low) & (upper.double() <= high)

    def known(self, z: Tensor) -> Bool[Tensor, "*batch pre"]:
        """Where `forward` is sure to be what processors compute."""
        if not self.wraps:
            return self.holds(z, z)
        return z.abs().double() <= self.within

    def forward(self, z: Tensor) -> Tensor:
        """Wrapped round the ends; a cast of too much to 32 bits and more gives the least number, as most processors do."""
        turn = 2.0**self.bits
        beyond = z - turn * ((z - self.minimum) / turn).floor()
        if not self.wraps and self.bits > _NARROW:
            beyond = torch.where((z < self.minimum) | (z > self.maximum), float(self.minimum), z)
        return torch.where(self.holds(z, z), z, beyond).nan_to_num(float(self.minimum))

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        fits = self.holds(lower, upper)
        least, most = self.ends
        return (
            torch.where(fits, lower, least).clamp(min=least),
            torch.where(fits, upper, most).clamp(max=most),
        )

    def hull(self, lower: Tensor, upper: Tensor) -> Hull:
        return IntegerHull(self, lower, upper)

    def minimise(self, t: Tensor, rho: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """Where `t z - rho z` is least, or where -rho z is, the value being any; there is no better end for rho 0."""
        slope = torch.where(self.holds(lower, upper), t - rho, -rho)
        end = torch.where(slope < 0, upper, lower)
        return torch.where(slope == 0, torch.zeros_like(end).clamp(lower, upper), end)

    def least_value(self, t: Tensor, z: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """The value at z of an interval for which t times it is least."""
        least, most = self.ends
        end = torch.where(t < 0, z.new_tensor(most), z.new_tensor(least))
        return torch.where(self.holds(lower, upper), z, end)

    def minimum_on(
        self, hull: Hull, t: Tensor, rho: Tensor, line: LinearRelaxation | None = None
    ) -> tuple[Tensor, Tensor]:
        lower, upper, _ = torch.broadcast_tensors(hull.lower, hull.upper, rho)
        z = self.minimise(t, rho, lower, upper)
        return z, self.least_value(t, z, lower, upper)

    def slopes(self, lower: Tensor, upper: Tensor) -> Tensor:
        return self.holds(lower, upper).to(lower)[None]

    def split_point(self, lower: Tensor, upper: Tensor) -> Tensor:
        """The limit inside the interval that lies nearer to its middle."""
        best, middle = torch.full_like(lower, torch.nan), (lower + upper) / 2
        for limit in self.limits:
            nearer = best.isnan() | ((middle - limit).abs() < (middle - best).abs())
            best = torch.where(strictly_inside(limit, lower, upper) & nearer, limit, best)
        return best


class IntegerHull(ElementwiseHull):
    """The identity, or the range of the type on both sides."""

    def __init__(self, activation: Integer, lower: Tensor, upper: Tensor) -> None:
        super().__init__(activation, lower, upper)
        self.integer = activation

    def _intercept(self, sign: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper, slope = torch.broadcast_tensors(self.lower, self.upper, slope)
        z = self.integer.minimise(sign, sign * slope, lower, upper)
        tilt = torch.where(slope == 0, 0.0, slope * z)
        return self.integer.least_value(sign, z, lower, upper) - tilt, z
