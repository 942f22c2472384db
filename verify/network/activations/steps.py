"""Functions that are constant between jumps: floor, ceiling, rounding, sign, and comparison with 0.

Between jumps `t sigma(z) - rho z` is linear, so it is least at l, at u or beside a jump; and since the limits at a row of jumps
lie on a line, beside the first or the last jump of `[l, u]`. A limit that is not attained is taken at the number next to
the jump, which costs no more than the rounding of `rho z`.

A split at a jump parts the numbers that have different values: the lower side ends at the last number below the jump and the
upper one begins at the jump, or just behind it, whichever way the value at the jump goes; where it goes neither way, as that
of the sign does, a second split parts the jump from what is behind it. Real numbers between neighbours have the value of the one on
their side of the jump, so that a box that ends there stands for them too: for the rounding of `rho z`, as above.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from verify.network.activations.base import Elementwise, chord

_NEAR = 0.1  # of a layer's mean distance from a step: how far away a descent still aims at it
_STEEPEST = 4.0  # lines are at most this many times as steep as the chord


class Step(Elementwise):
    """A rising function of jumps alone."""

    curved = False
    flat = True

    @abstractmethod
    def first_jump(self, z: Tensor) -> Tensor:
        """The least jump from z on; what it is where there is none does not matter."""

    @abstractmethod
    def last_jump(self, z: Tensor) -> Tensor:
        """The greatest jump up to z; what it is where there is none does not matter."""

    def minimise(self, t: Tensor, rho: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        after, before = beside(lower)[1], beside(upper)[0]
        candidates = [lower, after, before, upper]  # either end may be a jump itself
        for jump in (self.first_jump(after), self.last_jump(before)):
            candidates += [jump, *beside(jump)]
        return self.least(t, rho, [point.clamp(lower, upper) for point in candidates])

    def slopes(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Flat, the chord, and from each end to the far side of the last jump before the other, up to a steepness."""
        whole = chord(lower, upper, self.forward(lower), self.forward(upper))
        first = beside(self.first_jump(lower))[1].clamp(lower, upper)
        last = beside(self.last_jump(upper))[0].clamp(lower, upper)
        after = chord(lower, first, self.forward(lower), self.forward(first))
        before = chord(last, upper, self.forward(last), self.forward(upper))
        inner = chord(lower, last, self.forward(lower), self.forward(last))
        outer = chord(first, upper, self.forward(first), self.forward(upper))
        limited = [slope.minimum(_STEEPEST * whole) for slope in (after, before, inner, outer)]
        return torch.stack([whole, torch.zeros_like(whole), *limited])

    def split_point(self, lower: Tensor, upper: Tensor) -> Tensor:
        """A jump near the middle; the number behind it where the value at the jump was parted from those below before."""
        middle, best = (lower + upper) / 2, torch.full_like(lower, torch.nan)
        for jump in (self.first_jump(middle), self.last_jump(middle)):
            left, right = beside(jump)
            rises, goes_on = (
                self.forward(left) != self.forward(jump),
                self.forward(jump) != self.forward(right),
            )
            behind = (lower <= jump) & (jump < upper) & goes_on
            best = torch.where(behind, torch.where(rises, right, jump), best)
            best = torch.where((lower < jump) & (jump <= upper) & rises, jump, best)
        return best

    def split_ends(self, value: Tensor) -> tuple[Tensor, Tensor]:
        jump = self.last_jump(value)
        infinity = torch.full_like(jump, torch.inf)
        left, right = torch.nextafter(jump, -infinity), torch.nextafter(jump, infinity)
        rises, goes_on = self.forward(left) != self.forward(jump), self.forward(jump) != self.forward(right)
        before, behind = rises & (value == jump), goes_on & ~(rises & (value == jump))
        return (
            torch.where(before, left, torch.where(behind, jump, value)),
            torch.where(before, jump, torch.where(behind, right, value)),
        )

    def jumps(self, lower: float, upper: float, most: int = 1024) -> list[float]:
        first, last = (torch.tensor(end, dtype=torch.float64) for end in sorted((lower, upper)))
        found: list[float] = []
        jump = self.first_jump(first)
        while first <= jump <= last and len(found) <= most:
            found.append(float(jump))
            following = self.first_jump(beside(jump)[1])
            if not following > jump:
                break
            jump = following
        return found if len(found) <= most else []


def beside(jump: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers next to a jump; at 0 the smallest that every unit computes with."""
    tiny = torch.finfo(jump.dtype).tiny
    infinity = torch.full_like(jump, torch.inf)
    below, above = torch.nextafter(jump, -infinity), torch.nextafter(jump, infinity)
    return torch.where(jump == 0, -tiny, below), torch.where(jump == 0, tiny, above)


class Regular(Step):
    """A step at every whole number plus `offset`."""

    offset: ClassVar[float] = 0.0

    def surrogate_slope(self, z: Tensor) -> Tensor:
        """That of the line that the steps follow."""
        return torch.ones_like(z)

    def first_jump(self, z: Tensor) -> Tensor:
        return torch.ceil(z - self.offset) + self.offset

    def last_jump(self, z: Tensor) -> Tensor:
        return torch.floor(z - self.offset) + self.offset


class Floor(Regular):
    """The greatest whole number up to z."""

    name = "Floor"
    spellings = ("Floor", torch.floor)

    def forward(self, z: Tensor) -> Tensor:
        return z.floor()


class Ceil(Regular):
    """The least whole number from z on."""

    name = "Ceil"
    spellings = ("Ceil", torch.ceil)

    def forward(self, z: Tensor) -> Tensor:
        return z.ceil()


class Round(Regular):
    """The nearest whole number, the even one of two."""

    name = "Round"
    spellings = ("Round", torch.round)
    offset = 0.5

    def forward(self, z: Tensor) -> Tensor:
        return z.round()


class AtZero(Step):
    """A step at 0 alone."""

    def surrogate_slope(self, z: Tensor) -> Tensor:
        """Steepest at the step, in units of the layer's mean distance from it; nowhere 0.

        Narrow, so that what is about to change leads; with a long tail, so that something always does.
        """
        width = (_NEAR * z.abs().mean(-1, keepdim=True)).clamp(min=1e-12)
        return (1 + z.abs() / width).square().reciprocal() / width

    def first_jump(self, z: Tensor) -> Tensor:
        return torch.zeros_like(z)

    def last_jump(self, z: Tensor) -> Tensor:
        return torch.zeros_like(z)


class Sign(AtZero):
    """-1, 0 or 1."""

    name = "Sign"
    spellings = ("Sign", torch.sign)

    def forward(self, z: Tensor) -> Tensor:
        return z.sign()


@dataclass(frozen=True)
class Positive(AtZero):
    """1 for z > 0, 0 for z < 0; at 0 itself 1 if `or_zero`."""

    or_zero: bool
    name = "Positive"

    def forward(self, z: Tensor) -> Tensor:
        share = (z.sign() + 1) / 2  # not by comparison, which has no derivative, not even 0
        return share.ceil() if self.or_zero else share.floor()
