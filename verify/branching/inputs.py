"""Input splitting, for networks with few inputs: split the input that the bound depends on most.

The bound is linear in the input with coefficients `t_0`, so halving input j frees at most `|t_0j| (u_j - l_j) / 2` of it: the
smart-branching score of an input (Bunel et al. 2020b, section on input domains). A small share of the
largest coefficient goes to every input, so that none is starved.

Halves do not part the values of a step whose jump goes through a box, however small that is. Where few steps of a layer have several
values left, these are split themselves: behind them the network is then the same on all of the box.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from verify.branching.rule import Split
from verify.network.graph import Network
from verify.state import Bounds


def widest_effect(cotangent: Tensor, lower: Tensor, upper: Tensor) -> Split:
    """The input to halve in each box: all arguments [batch, inputs]; variable -1 where every input is a single value."""
    width = upper - lower
    magnitude = cotangent.abs()
    score = (magnitude + 0.02 * magnitude.amax(1, keepdim=True) + 1e-30) * width
    middle = lower + width / 2
    splittable = (middle > lower) & (middle < upper)
    best, variable = torch.where(splittable, score, -torch.inf).max(1)
    value = middle.gather(1, variable[:, None])[:, 0]
    return Split(
        torch.where(best.isneginf(), -1, variable), value, torch.zeros_like(cotangent[:, :1]).expand(-1, 2)
    )


def step_if_few(network: Network, bounds: Bounds, split: Split, most: int) -> Split:
    """The split, or one of a step where at most `most` of the first layer with such have several values left, or where there is none."""
    variable, value = split.variable, split.value.double()
    undecided = torch.ones_like(variable, dtype=torch.bool)
    for layer in network.layers:
        if not layer.activation.flat:
            continue
        points = layer.activation.split_point(
            bounds.lower[:, layer.variables], bounds.upper[:, layer.variables]
        )
        left = ~points.isnan()
        count, place = left.sum(1), left.to(torch.uint8).argmax(1)
        chosen = undecided & (count > 0) & ((count <= most) | (split.variable < 0))
        variable = torch.where(chosen, layer.variables.start + place, variable)
        value = torch.where(chosen, points.gather(1, place[:, None])[:, 0], value)
        undecided &= count == 0
    below, above = network.split_ends(variable, value)
    return Split(variable, below, split.beta, above)


def input_steps_open(network: Network, bounds: Bounds) -> Bool[Tensor, " batch"]:
    """Boxes on which a step of an affine function of the inputs has several values left."""
    found = torch.zeros(len(bounds), dtype=torch.bool, device=bounds.lower.device)
    for layer in network.layers:
        if layer.activation.flat and network.affine_from(layer.pre_node) == 1:
            points = layer.activation.split_point(
                bounds.lower[:, layer.variables], bounds.upper[:, layer.variables]
            )
            found |= ~points.isnan().all(1)
    return found
