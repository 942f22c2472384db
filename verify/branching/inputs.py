"""Input splitting, for networks with few inputs: split the input that the bound depends on most.

The bound is linear in the input with coefficients `t_0`, so halving input j frees at most `|t_0j| (u_j - l_j) / 2` of it: the
smart-branching score of an input (Bunel et al. 2020b, section on input domains). A small share of the
largest coefficient goes to every input, so that none is starved.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verify.branching.rule import Split


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
