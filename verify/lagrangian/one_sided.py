"""Bounds that rest on the finite ends of values whose other end is infinite.

Over an output x in [l, inf) of an activation, `t x` is least at l if t >= 0, and -inf else. But t is the sum of a sweep, rounded, and
what rounds a 0 to less would cost everything: the charge for it, rounding times the size of x, is infinite. So where it is
certain that the exact t has the sign that it should, rounding is charged by the size of the finite end, and where it is not, the
bound is -inf.

That is certain where t is larger than all that it may be off by, which is so much of the sizes of its terms: they come by a sweep of
their own through the maps' absolute values.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from verify.lagrangian.domain import Domain
from verify.lagrangian.supports import Support, join
from verify.network.activations.one_sided import OneSidedHull
from verify.network.affine import Affine

# Of cotangents that underflow.
_TINY = 1e-250


class Sizes(dict[int, Tensor]):
    """How large the values of a network's nodes get, infinite ones included. finite: by finite ends alone, where others are infinite."""

    finite: dict[int, Tensor] | None = None


def doubtful(
    domain: Domain, sizes: dict[int, Tensor], supports: dict[int, Support]
) -> Bool[Tensor, "batch objectives"]:
    """Which objectives' bounds may rest on an infinite end.

    sizes: of the terms of what a sweep began with, by node, [batch, objectives, size]; is used up. supports: what it has found.
    """
    network = domain.network
    unit = 4 * len(network.nodes) * network.gamma
    batch, objectives, _ = next(iter(sizes.values())).shape
    found = torch.zeros(batch, objectives, dtype=torch.bool, device=domain.like.device)
    pending = {node: size.reshape(-1, *network.nodes[node].shape) for node, size in sizes.items()}
    for index in range(max(pending), 0, -1):
        size = pending.pop(index, None)
        if size is None:
            continue
        node = network.nodes[index]
        if isinstance(node.operator, Affine):
            for operand, part in zip(node.operands, network.absolute[index].transpose(size), strict=True):
                join(pending, operand, part)
            continue
        support = supports.get(index)
        # Below a frozen layer, whose outputs are finite, nothing counts.
        if support is None:
            continue
        hull, size = domain.hulls[index], size.reshape(batch, objectives, -1)
        if isinstance(hull, OneSidedHull) or support.layer.activation.mixes:
            ends = support.layer.activation.interval(hull.lower, hull.upper)
            slack = torch.where(size > 0, unit * size + _TINY, 0.0)
            found |= _rests_on_infinity(support.whole, slack, *ends)
        rho = support.rho.abs()
        join(pending, support.layer.pre_node, rho.reshape(-1, *network.nodes[support.layer.pre_node].shape))
    return found


def _rests_on_infinity(
    t: Tensor, slack: Tensor, low: Tensor, high: Tensor
) -> Bool[Tensor, "batch objectives"]:
    """Whether cotangents that are off by at most `slack` may need an end of the outputs that is no number."""
    rising, falling = t + slack > 0, t - slack < 0
    return ((rising & ~low.isfinite()) | (falling & ~high.isfinite())).any(-1)
