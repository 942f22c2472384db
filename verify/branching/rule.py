"""Where to split: the decision as data, and what a rule has to say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from jaxtyping import Float, Int
from torch import Tensor

from verify.lagrangian.dual import DualProblem
from verify.state import DualState

# Bounds of the upper and the lower child of candidate splits (variable, value), all [batch, candidates].
Children = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Split:
    """The chosen split of each subproblem; variable -1 where there is none to make."""

    variable: Int[Tensor, " batch"]
    value: Float[Tensor, " batch"]
    beta: Float[Tensor, "batch 2"]  # of the new split that leave the upper and the lower child no looser
    above: Float[Tensor, " batch"] | None = (
        None  # where the upper side begins; None: where the lower one ends
    )

    @cached_property
    def on_host(self) -> Int[Tensor, " batch"]:
        """The variables on the CPU, brought there once."""
        return self.variable.cpu()


class BranchingRule(Protocol):
    """Chooses a split for each subproblem."""

    def choose(self, problem: DualProblem, state: DualState, children: Children | None = None) -> Split:
        """The split for each subproblem of `problem` (one objective each) at its dual point.

        `children` bounds both children of candidate splits where probes would not tell what a split gains.
        """
