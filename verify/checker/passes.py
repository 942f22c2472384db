"""How boxes of the input are bounded: pre-activations by CROWN, layer by layer, and the boxes that unsafe points lie in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.checker.bounding import Bounder, Pair
from verify.checker.dual import Linear
from verify.checker.halfspaces import Halfspaces
from verify.checker.network import Affine, Input, Network

Array = NDArray[Any]


def tightened(bounder: Bounder, bounds: Pair, unsafe: Halfspaces | None = None) -> Pair:
    """Pre-activations bounded layer by layer by CROWN, those of each box whose sign (or value) is open there.

    Layers of which intervals are exact are left out; with `unsafe`, what is left of the boxes and where bounds need to hold, the first alone.
    """
    inputs = slice(0, bounder.network.inputs)
    lower, upper = bounds
    for layer in bounder.network.layers:
        columns = layer.variables
        low, high = lower[:, columns], upper[:, columns]
        open_ones = (low < 0) & (high > 0) if layer.kind == "relu" else low < high
        most = int(open_ones.sum(1).max())
        exact = _exact_by_intervals(bounder.network, layer.operand)
        if not most or (exact and (unsafe is None or layer.variables.start == inputs.stop)):
            continue
        neurons = np.argsort(~open_ones, axis=1, kind="stable")[:, :most]
        used = np.take_along_axis(open_ones, neurons, 1)
        new, sizes = (lower.copy(), upper.copy()), bounder.dual.sizes(lower, upper, each=True)
        for side, end, better in ((1.0, new[0], np.maximum), (-1.0, new[1], np.minimum)):
            linear = _functions(bounder, (lower, upper), layer.operand, side, neurons, sizes)
            found = linear.bound(lower[:, None, inputs], upper[:, None, inputs])
            found = found if unsafe is None else np.fmax(found, unsafe.least(linear))
            found = side * np.where(used & np.isfinite(found), found, -np.inf)
            places = columns.start + neurons
            np.put_along_axis(end, places, better(np.take_along_axis(end, places, 1), found), 1)
        lower, upper = bounder.propagated(new)
    return lower, upper


def _functions(
    bounder: Bounder, bounds: Pair, node: int, side: float, neurons: Array, sizes: dict[int, Array]
) -> Linear:
    """Linear functions below some of a node's values ([boxes, count]) times a side."""
    start = np.zeros((*neurons.shape, bounder.network.nodes[node].size))
    np.put_along_axis(start, neurons[..., None], side, 2)
    nothing = np.zeros(neurons.shape)
    return bounder.dual.sweep(*bounds, {node: start}, nothing, nothing, bounder.default(bounds), sizes)


def _exact_by_intervals(network: Network, index: int) -> bool:
    """Whether a node is the input or one affine map of it; through several, and where several add up, intervals lose."""
    node = network.nodes[index]
    if isinstance(node, Affine) and len(node.operands) == 1:
        node = network.nodes[node.operands[0][1]]
    return isinstance(node, Input)


def clipped(rows: Linear, box: Pair, weights: Array, gamma: float) -> tuple[Array, Array, Array]:
    """The best bound of a clause's rows and of their weighted sum on boxes, and the boxes that its unsafe points lie in.

    A function is at least its bound, where every input is at the end its coefficient asks for, and grows with the distance
    from there: beyond distance `-bound / |coefficient|` it is positive.
    """
    lower, upper = (end[:, None] for end in box)
    cotangent, bound = rows.cotangent, rows.bound(lower, upper)
    if weights.any():
        reach = np.maximum(np.abs(lower), np.abs(upper))
        size = np.abs(rows.constant) + rows.error + (np.abs(cotangent) * reach).sum(-1)
        value = (weights * (rows.constant - rows.error)).sum(1, keepdims=True)
        joint = (weights[:, :, None] * cotangent).sum(1, keepdims=True)
        error = (2 + weights.shape[1] / 32) * gamma * (weights * size).sum(1, keepdims=True)
        error = error + 2.0**-960 * (1 + reach.sum(-1))
        bound = np.concatenate([bound, Linear(joint, value, error).bound(lower, upper)], 1)
        cotangent = np.concatenate([cotangent, joint], 1)
    bound = np.where(np.isfinite(bound), bound, -np.inf)
    reach = np.maximum(-bound, 0)[..., None] / np.abs(cotangent)
    reach = np.nextafter(np.where(np.isnan(reach), np.inf, reach), np.inf)
    high = np.where(cotangent > 0, np.nextafter(lower + reach, np.inf), upper)
    low = np.where(cotangent < 0, np.nextafter(upper - reach, -np.inf), lower)
    return bound.max(1), low.max(1), high.min(1)
