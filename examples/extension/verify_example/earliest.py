"""A branching rule: the first neuron that is not decided, from the inputs on."""

from dataclasses import dataclass

import torch

from verify.branching.rule import Children, Split
from verify.lagrangian.dual import DualProblem
from verify.state import DualState


@dataclass(frozen=True)
class Earliest:
    """Splits what all later bounds hang on."""

    def choose(self, problem: DualProblem, state: DualState, children: Children | None = None) -> Split:
        lower, upper = problem.bounds.lower, problem.bounds.upper
        points = torch.full_like(lower, torch.nan)
        for layer in problem.layers:
            own = layer.variables
            points[:, own] = layer.activation.split_point(lower[:, own], upper[:, own])
        found = ~points.isnan()
        variable = found.to(torch.uint8).argmax(1)
        value = points.gather(1, variable[:, None])[:, 0]
        return Split(
            torch.where(found.any(1), variable, -1), value, torch.zeros_like(lower[:, :1]).expand(-1, 2)
        )
