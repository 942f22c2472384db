"""Interval arithmetic: the cheapest bounds, and the magnitudes that every rounding error is charged by.

An affine map sends centre and radius to centre and radius (the radius through the absolute coefficients). All results
are rounded outward by the a-priori bound `gamma * sum of magnitudes`, so they hold over the real numbers whatever the order
in which a library adds.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from verify.deadline import tick
from verify.network.activations import Activation
from verify.network.affine import Affine
from verify.network.graph import Network
from verify.state import Bounds, Objective

Pair = tuple[Tensor, Tensor]
_SMALL = 1e-290  # sums of larger terms lose no more to underflow than to rounding
_LARGEST32 = 2.0**127


def _underflow(network: Network, index: int, sizes: Tensor) -> Tensor:
    """What products too small for float64 may lose: something only where all terms are tiny and not all are 0."""
    return _SMALL * (sizes < _SMALL) * network.weighted[index].reshape(1, *network.nodes[index].shape)


def affine_interval(network: Network, index: int, operands: list[Pair]) -> Pair:
    """The interval of an affine node from those of its operands, rounded outward."""
    operator, absolute = network.nodes[index].operator, network.absolute[index]
    assert isinstance(operator, Affine)
    if operator.moves:
        lower, upper = (operator.forward(*ends) for ends in zip(*operands, strict=True))
    else:
        centres = [(lower + upper) / 2 for lower, upper in operands]
        radii = [torch.maximum(b - c, c - a) for (a, b), c in zip(operands, centres, strict=True)]
        centre, radius = operator.forward(*centres), absolute.forward(*radii)
        sizes = absolute.forward(*(c.abs() + r for c, r in zip(centres, radii, strict=True)))
        sizes = sizes + network.bias_sizes[index].reshape(1, *network.nodes[index].shape)
        slack = (2 * network.gamma + network.rounding32(index)) * sizes + _underflow(network, index, sizes)
        lower, upper = centre - radius - slack, centre + radius + slack
    # infinite operands give NaN: nothing is known then
    return torch.where(lower.isnan(), -torch.inf, lower), torch.where(upper.isnan(), torch.inf, upper)


def interval(
    network: Network,
    lower: Float[Tensor, "batch inputs"],
    upper: Float[Tensor, "batch inputs"],
    known: Bounds | None = None,
) -> tuple[Bounds, Pair]:
    """Bounds of all variables on input boxes, intersected with `known`, and those of the outputs ([batch, outputs]).

    Source: interval arithmetic as in Gowal et al. 2018 (IBP).
    """
    shape = network.nodes[0].shape
    intervals: list[Pair] = [(lower.reshape(-1, *shape), upper.reshape(-1, *shape))]
    found: list[Pair] = [(lower, upper)]
    for index, node in enumerate(network.nodes[1:], start=1):
        tick()
        operands = [intervals[operand] for operand in node.operands]
        if not isinstance(node.operator, Activation):
            intervals.append(affine_interval(network, index, operands))
            continue
        low, high = operands[0][0].flatten(1), operands[0][1].flatten(1)
        if known is not None:
            columns = network.layer_of_node[index].variables
            low = torch.maximum(low, known.lower[:, columns])
            high = torch.minimum(high, known.upper[:, columns])
        found.append((low, high))
        post = node.operator.interval(low, torch.maximum(low, high))
        intervals.append((post[0].reshape(-1, *node.shape), post[1].reshape(-1, *node.shape)))
    lowers, uppers = zip(*found, strict=True)
    last = intervals[-1]
    return Bounds(torch.cat(lowers, 1), torch.cat(uppers, 1)), (last[0].flatten(1), last[1].flatten(1))


def interval_bound(
    network: Network, objective: Objective, inputs: Pair, outputs: Pair
) -> Float[Tensor, " batch"]:
    """The largest row's lower bound on each box, from intervals of inputs and outputs ([batch, size]), rounded outward."""
    total, sizes = -objective.thresholds, objective.thresholds.abs()
    for coefficients, (lower, upper) in (
        (objective.coefficients, outputs),
        (objective.input_coefficients, inputs),
    ):
        if coefficients.shape[3]:
            low, high = lower[:, None, :, None], upper[:, None, :, None]
            total = total + (coefficients.clamp(min=0) @ low + coefficients.clamp(max=0) @ high)[..., 0]
            sizes = sizes + (coefficients.abs() @ torch.maximum(low.abs(), high.abs()))[..., 0]
    return (total - 4 * network.gamma * sizes).amax((1, 2))


def magnitudes(network: Network, bounds: Bounds) -> dict[int, Float[Tensor, " size"]]:
    """For every node an upper bound on the sum of absolute values of the terms that each of its entries is made of.

    Over all the boxes given, and so over every box inside them.
    """
    found: list[Tensor] = []
    for index, node in enumerate(network.nodes):
        tick()
        if index == 0:
            low, high = bounds.lower[:, : network.inputs], bounds.upper[:, : network.inputs]
            found.append(torch.maximum(low.abs(), high.abs()).amax(0).reshape(1, *node.shape))
        elif isinstance(node.operator, Activation):
            columns = network.layer_of_node[index].variables
            low, high = bounds.lower[:, columns], bounds.upper[:, columns]
            low, high = node.operator.interval(low, torch.maximum(low, high))
            found.append(torch.maximum(low.abs(), high.abs()).amax(0).reshape(1, *node.shape))
        else:
            size = network.absolute[index].forward(*(found[operand] for operand in node.operands))
            relative = 2 * network.gamma + network.rounding32(index)
            size = size + network.bias_sizes[index].reshape(1, *node.shape)
            size = size * (1 + relative) + _underflow(network, index, size)
            if network.deployed:  # beyond that float32 may overflow, and nothing is known
                size = torch.where(size < _LARGEST32, size, torch.inf)
            found.append(size)
    return {index: value.flatten() for index, value in enumerate(found)}
