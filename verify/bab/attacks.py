"""When a search looks for counterexamples beside bounding: rounds from random starts, then descents from bounds' minimisers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from verify.attack import Attack, free_points
from verify.deadline import Deadline
from verify.network.graph import Network
from verify.problem import Problem, Witness
from verify.room import fitted

EARLY = 0.2  # of the time, in the first half of the rounds
SHARE = 0.1  # later, for descents, and while roots are bounded
_DESCENTS = 64  # at once, at least


@dataclass
class Attacks:
    """Attacks on what is open, one after the other. left: rounds that are still to come."""

    problem: Problem
    network: Network
    attack: Attack
    generator: np.random.Generator
    left: int
    # clauses of subproblems lately left open, and their minimisers
    suspects: tuple[Tensor, Tensor] | None = None

    def beyond(self, seconds: float) -> float:
        """By how much the next round will take longer than it is meant to, by what those before took together."""
        before = self.attack.rounds - self.left
        return max(0.0, seconds / before - self.attack.seconds) if before else 0.0

    def next(
        self, clauses: list[int], spent: float, early: float
    ) -> Callable[[Deadline], Witness | None] | None:
        """A round on these clauses or, once there have been all, a descent; None where attacks have had their share.

        spent: the share of the time that they had so far. early: what they may have in the first half of the rounds.
        """
        if self.left and spent < (early if 2 * self.left > self.attack.rounds else SHARE):
            self.left -= 1
            own = self.generator.spawn(1)[0]
            run = partial(self.attack.run, self.problem, self.network, clauses, own)
            return partial(fitted, self.network.device, run)
        if not self.left and spent < SHARE and self.suspects is not None:
            return self._descent(*self.suspects)
        return None

    def _descent(self, clauses: Tensor, points: Tensor) -> Callable[[Deadline], Witness | None]:
        count = max(_DESCENTS, free_points(self.network))
        chosen = torch.from_numpy(self.generator.permutation(len(clauses))[:count])
        owners, points = clauses[chosen].tolist(), points[chosen]
        descend = partial(self.attack.descend, self.problem, self.network, owners, points)
        return partial(fitted, self.network.device, descend)
