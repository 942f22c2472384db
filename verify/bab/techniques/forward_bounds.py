"""Forward bounds: linear functions of few inputs, pushed forward; for many clauses on a box at once, and for boxes left open."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from verify.bab.box_bounds import BoundedBoxes
from verify.bab.techniques.tightened_boxes import TightenedBoxes
from verify.bounders.forward import forward
from verify.bounders.ibp import interval
from verify.deadline import Deadline
from verify.proof.box_blocks import FORWARD
from verify.state import Bounds


@dataclass(frozen=True, eq=False)
class ForwardBounds(TightenedBoxes):
    """dear: rows on a box for each column of forward bounds, from which on these come first. together: clauses at once."""

    name: str = "forward bounds"
    kind: int = FORWARD
    dear: float = 2.0
    together: int = 256

    def tighten(self, before: BoundedBoxes, deadline: Deadline, soft_deadline: Deadline) -> Bounds:
        return forward(self.bounder.network, before.bounds, deadline, self.unsafe(before)).bounds

    def refuted_together(self, deadline: Deadline) -> Bool[Tensor, " clauses"]:
        """The clauses that forward bounds of their boxes refute, of boxes with a good many."""
        bounder = self.bounder
        problem, network = bounder.problem, bounder.network
        refuted = torch.zeros(problem.clauses, dtype=torch.bool)
        boxes = torch.from_numpy(problem.box_of)
        fewest = self.dear * (2 + problem.free_inputs) / problem.rows
        for box in (boxes.bincount() > fewest).nonzero()[:, 0].tolist():
            clauses = (boxes == box).nonzero()[:, 0]
            lower, upper = (end.to(network.device) for end in problem.boxes(clauses[:1].tolist()))
            bounds, _ = interval(network, lower, upper)
            known = forward(network, bounds, deadline)
            for some in clauses.split(self.together):
                deadline.check()
                bounder.objectives.prepare(some.tolist())
                bound, _ = known.crown(bounder.rows(some[None].to(network.device)))
                best = bound.reshape(len(some), -1).amax(1)
                refuted[some] = ((best > 0) & best.isfinite()).cpu()
        return refuted
