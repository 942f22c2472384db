"""The network's values, with gradients that lead through steps.

A step's derivative is 0 wherever it has one, so no gradient passes it. A straight-through gradient (Bengio et al. 2013) takes
another derivative in its place, which the activation itself gives (`Activation.surrogate_slope`); values stay what they are.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from verify.deadline import tick
from verify.network.activations.base import Activation
from verify.network.graph import Network, Node


class _StraightThrough(torch.autograd.Function):
    """`value`, whose derivative with respect to `z` is said to be `slope`."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return gradients[0] * slope, None, None


def straight_through(network: Network, x: Float[Tensor, "batch inputs"]) -> list[Tensor]:
    """The values of all nodes, as `Network.values`."""
    values = [x.reshape(x.shape[0], *network.nodes[0].shape)]
    for node in network.nodes[1:]:
        tick()
        values.append(_apply(network, node, [values[operand] for operand in node.operands]))
    return values


def _apply(network: Network, node: Node, operands: list[Tensor]) -> Tensor:
    if not isinstance(node.operator, Activation):
        return network.apply(node, operands)
    z = operands[0].detach()
    slope = node.operator.surrogate_slope(z.flatten(1))
    if slope is None:
        return network.apply(node, operands)
    return _StraightThrough.apply(operands[0], network.apply(node, [z]), slope.reshape(z.shape))  # type: ignore[no-any-return]
