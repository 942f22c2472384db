"""Interval arithmetic: the cheapest bounds, and the magnitudes that every rounding error is charged by.

An affine map sends centre and radius to centre and radius (the radius through the absolute coefficients). All results
are rounded outward by the a-priori bound `gamma * sum of magnitudes`, so they hold over the real numbers whatever the order
in which a library adds.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from verify.deadline import tick
from verify.lagrangian.one_sided import Sizes
from verify.network.activations import Activation
from verify.network.affine import Affine
from verify.network.exactness import BITS, unit_exponent
from verify.network.graph import Network
from verify.state import Bounds, Objective

Pair = tuple[Tensor, Tensor]
_SMALL = 1e-290  # sums of larger terms lose no more to underflow than to rounding
_LARGEST32 = 2.0**127


def _underflow(network: Network, index: int, sizes: Tensor) -> Tensor:
    """What products too small for float64 may lose: something only where all terms are tiny and not all are 0."""
    return _SMALL * (sizes < _SMALL) * network.weighted[index].reshape(1, *network.nodes[index].shape)


def _free_of_rounding(
    network: Network, index: int, operands: list[Pair], sizes: Tensor
) -> Bool[Tensor, " batch"] | None:
    """For which boxes the centres and radii of an affine node are exact sums of exact terms; None if for none.

    All terms are multiples of one power of two, and no partial sum is too large for a number to hold that.
    """
    units = network.units[index]
    if units is None:
        return None
    ends = [end.flatten(1) for operand in operands for end in operand]
    # centres and radii are multiples of half of what the ends are
    unit = torch.stack([unit_exponent(end) for end in ends]).amin(0) - 1
    largest = torch.stack([end.abs().amax(1) for end in ends]).amax(0)
    of_terms = (unit + units.coefficients).clamp(max=units.biases)
    small = sizes.flatten(1).amax(1) < (BITS - 2 + of_terms).exp2()
    return small & (largest < (BITS - 2 + unit).exp2())


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
        free = _free_of_rounding(network, index, operands, sizes)
        slack = (
            slack if free is None else torch.where(free.reshape(-1, *(1,) * (slack.dim() - 1)), 0.0, slack)
        )
        lower, upper = centre - radius - slack, centre + radius + slack
        alone = network.plain or network.deployed or not network.overflows
        if not alone and _worth_signs(network, lower, upper, slack):
            return _by_sign(network, index, operands, (lower, upper))
    # infinite operands give NaN: nothing is known then
    return torch.where(lower.isnan(), -torch.inf, lower), torch.where(upper.isnan(), torch.inf, upper)


def _of_extremum(network: Network, index: int, own: Pair, known: list[Pair]) -> Pair:
    """An affine node's interval, where the node is a maximum or a minimum of two others: it is then that of their ends."""
    if network.plain or network.deployed or index not in network.extrema:
        return own
    sign, *two = network.extrema[index]
    choose = torch.maximum if sign > 0 else torch.minimum
    lower, upper = (choose(*ends) for ends in zip(*(known[one] for one in two), strict=True))
    return torch.maximum(own[0], lower), torch.minimum(own[1], upper)


def _worth_signs(network: Network, lower: Tensor, upper: Tensor, slack: Tensor) -> bool:
    """Whether ends are unknown, or may lie beyond 0 for rounding alone where that matters."""
    if not bool((lower.sum() + upper.sum()).isfinite()):
        return True
    if not network.sided:
        return False
    return bool((((lower < 0) & (lower >= -2 * slack)) | ((upper > 0) & (upper <= 2 * slack))).any())


def _by_sign(network: Network, index: int, operands: list[Pair], known: Pair) -> Pair:
    """The interval of an affine node whose operands may have infinite ends, or signs that are known, made better by both.

    An end adds up the operands' ends that matter for it, and is infinite only where one of these is. Where all its terms have one
    sign, so has it: what rounding might take away beyond 0 is given back.
    """
    operator = network.nodes[index].operator
    assert isinstance(operator, Affine)
    bias = operator.forward(*(torch.zeros_like(lower[:1]) for lower, _ in operands))
    low = _end(network, index, bias, operands)
    high = _end(network, index, -bias, [(-upper, -lower) for lower, upper in operands])
    return torch.fmax(known[0], low), torch.fmin(known[1], -high)


def _end(network: Network, index: int, bias: Tensor, operands: list[Pair]) -> Tensor:
    """The lower end of an affine node; for the upper one everything is negated."""
    plus, minus = network.signed[index]
    lower, upper = zip(*operands, strict=True)
    at = [end.nan_to_num(0.0, 0.0, 0.0) for end in (*lower, *upper)]
    lows, highs = at[: len(lower)], at[len(lower) :]

    def total(of_lower: list[Tensor], of_upper: list[Tensor]) -> Tensor:
        found = torch.zeros_like(bias).expand(len(of_lower[0]), *bias.shape[1:])
        for part, ends in ((plus, of_lower), (minus, of_upper)):
            found = found if part is None else found + part.forward(*(one.to(bias) for one in ends))
        return found

    shape = (1, *network.nodes[index].shape)
    bias_sizes = network.bias_sizes[index].reshape(shape)
    sizes = total([low.abs() for low in lows], [high.abs() for high in highs]) + bias_sizes
    slack = 2 * network.gamma * sizes + _underflow(network, index, sizes)
    end = total(lows, [-high for high in highs]) + bias - slack
    negative = total([low < 0 for low in lows], [high > 0 for high in highs])
    negative = negative + (bias - 2 * network.gamma * bias_sizes < 0).to(negative)
    end = torch.where(negative == 0, torch.fmax(end, torch.zeros_like(end)), end)
    unknown = total([~low.isfinite() for low in lower], [~high.isfinite() for high in upper])
    # what is too large is NaN by now, for its slack is infinite
    return torch.where((unknown == 0) & ~end.isnan(), end, -torch.inf)


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
            intervals.append(
                _of_extremum(network, index, affine_interval(network, index, operands), intervals)
            )
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
    """The largest row's lower bound on each box."""
    return interval_rows(network, objective, inputs, outputs).amax((1, 2))


def interval_rows(
    network: Network, objective: Objective, inputs: Pair, outputs: Pair
) -> Float[Tensor, "batch objectives rows"]:
    """Every row's lower bound on each box, from intervals of inputs and outputs ([batch, size]), rounded outward."""
    total, sizes = -objective.thresholds, objective.thresholds.abs()
    unknown = torch.zeros_like(total)
    for coefficients, (lower, upper) in (
        (objective.coefficients, outputs),
        (objective.input_coefficients, inputs),
    ):
        if coefficients.shape[3]:
            for part, end in ((coefficients.clamp(min=0), lower), (coefficients.clamp(max=0), upper)):
                ends = end.nan_to_num(0.0, 0.0, 0.0)[:, None, :, None]
                total = total + (part @ ends)[..., 0]
                sizes = sizes + (part.abs() @ ends.abs())[..., 0]
                unknown = unknown + (part.abs().sign() @ (~end.isfinite()).to(ends)[:, None, :, None])[..., 0]
    return torch.where(unknown == 0, total - 4 * network.gamma * sizes, -torch.inf)


def magnitudes(network: Network, bounds: Bounds) -> Sizes:
    """For every node an upper bound on the sum of absolute values of the terms that each of its entries is made of.

    Over all the boxes given, and so over every box inside them.
    """
    found = Sizes(_magnitudes(network, bounds, _largest))
    # one sweep for them looks for signs; see verify/lagrangian/one_sided.py
    alone = network.plain or network.deployed or not network.overflows
    if not alone and not all(bool(value.sum().isfinite()) for value in found.values()):
        found.finite = _magnitudes(network, bounds, _largest_finite)
    return found


def _largest(low: Tensor, high: Tensor) -> Tensor:
    """The size of values between two ends."""
    return torch.maximum(low.abs(), high.abs())


def _largest_finite(low: Tensor, high: Tensor) -> Tensor:
    """As that, of ends that are finite alone."""
    return torch.maximum(*(end.nan_to_num(0.0, 0.0, 0.0).abs() for end in (low, high)))


def _magnitudes(
    network: Network, bounds: Bounds, largest: Callable[[Tensor, Tensor], Tensor]
) -> dict[int, Float[Tensor, " size"]]:
    found: list[Tensor] = []
    for index, node in enumerate(network.nodes):
        tick()
        if index == 0:
            low, high = bounds.lower[:, : network.inputs], bounds.upper[:, : network.inputs]
            found.append(largest(low, high).amax(0).reshape(1, *node.shape))
        elif isinstance(node.operator, Activation):
            columns = network.layer_of_node[index].variables
            low, high = bounds.lower[:, columns], bounds.upper[:, columns]
            low, high = node.operator.interval(low, torch.maximum(low, high))
            found.append(largest(low, high).amax(0).reshape(1, *node.shape))
        else:
            size = network.absolute[index].forward(*(found[operand] for operand in node.operands))
            relative = 2 * network.gamma + network.rounding32(index)
            size = size + network.bias_sizes[index].reshape(1, *node.shape)
            size = size * (1 + relative) + _underflow(network, index, size)
            if network.deployed:  # beyond that float32 may overflow, and nothing is known
                size = torch.where(size < _LARGEST32, size, torch.inf)
            found.append(size)
    return {index: value.flatten() for index, value in enumerate(found)}
