"""Outputs that add up to 1, as those of a softmax do: `t . x = c + (t - c) . x` for any number c.

So a layer's minimum may be looked for with the cotangent t - c: c is the multiplier of `sum x = 1`. Where outputs are only known to lie
in intervals, the best c is that of a continuous knapsack (Dantzig 1957): outputs take what they can in the order of t, and c is the t
of the one with which 1 is reached. It is also the middle of all t, weighted by how much the outputs are open, so that what lines lose
between is least.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float, Int
from torch import Tensor

from verify.lagrangian.value import RoundingError, Value

if TYPE_CHECKING:
    from verify.lagrangian.supports import Support

UNIT_SUMS = "unit_sums"


class UnitSums:
    """What the sums of a layer's outputs add to q; its cotangents are those that are left."""

    def __init__(self, at: Support, low: Tensor, high: Tensor) -> None:
        """low, high: the outputs' intervals, [.., groups, size]."""
        self.groups = at.layer.activation.sums_to_one
        t = self._grouped(at.cotangent)
        self.last = _last(t, low, high)
        self.amount: Float[Tensor, "batch objectives groups"] = t.gather(-1, self.last)[..., 0]
        self._sizes = 1 + high.sum(-1)
        at.cotangent = at.whole = (t - self.amount[..., None]).flatten(-2)

    def _grouped(self, values: Tensor) -> Tensor:
        """[.., groups, size]."""
        found: Tensor = values.unflatten(-1, (self.groups, -1))
        return found

    def count(self, value: Value) -> None:
        value.add(self.amount.sum(-1))

    def charge(self, rounding: RoundingError) -> None:
        rounding.add_size((self.amount.abs() * self._sizes).sum(-1))

    def completed(self, post: Float[Tensor, "batch objectives post"]) -> Tensor:
        """The primal point's outputs, whose sums are 1: those with which it is reached make up for the others."""
        outputs = self._grouped(post)
        rest = 1 - outputs.sum(-1, keepdim=True)
        return outputs.scatter_add(-1, self.last, rest).flatten(-2)


def _last(
    t: Float[Tensor, "batch objectives groups size"], low: Tensor, high: Tensor
) -> Int[Tensor, "batch objectives groups 1"]:
    """The output of each group with which 1 is reached, where `t . x` is least over the outputs' intervals."""
    order = t.argsort(-1)
    room = (high - low).expand_as(t).gather(-1, order).cumsum(-1)
    place = (room < 1 - low.sum(-1, keepdim=True)).sum(-1, keepdim=True)
    return order.gather(-1, place.clamp(max=t.shape[-1] - 1))


def apart(at: Support) -> None:
    """Takes what a layer's outputs add up to out of its cotangents, if that is known."""
    ends = at.domain.shares(at.layer)
    if ends is not None:
        at.parts = {**at.parts, UNIT_SUMS: UnitSums(at, *ends)}
