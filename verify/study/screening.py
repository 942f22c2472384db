"""Many boxes at once, bounded cheaply: which of them are safe without a search.

Each box has a label of its own, and is safe where a lower bound of every difference `y_label - y_other` is above 0. Bounds come in passes, each on
what the one before left: the dual function at CROWN's slopes on interval bounds, on CROWN's intermediate bounds, and after an ascent. All that
counts is evaluated in float64 with its rounding errors charged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.bounders.ibp import interval, magnitudes
from verify.bounders.restricted import Restricted
from verify.deadline import Deadline, OutOfTimeError
from verify.lagrangian.dual import DualProblem
from verify.network.graph import Network
from verify.room import times
from verify.settings import preset
from verify.state import Bounds, Objective

_ELEMENTS = 2**22  # of one live tensor
_ASCENT = Restricted(iterations=10, step=0.3, decay=0.85)
PASSES = ("CROWN on interval bounds", "CROWN", "ascent")


@dataclass(frozen=True)
class Screening:
    """Passes over boxes of one network, float64, on the device where it is."""

    network: Network

    @cached_property
    def _working(self) -> Network:
        return self.network.to(self.network.device, torch.float32)

    def refuted(
        self,
        lower: Float[Tensor, "boxes inputs"],
        upper: Float[Tensor, "boxes inputs"],
        labels: Int[Tensor, " boxes"],
        deadline: Deadline,
    ) -> Iterator[tuple[Int[Tensor, " boxes"], str]]:
        """After each pass, the boxes that it found safe, and its name. Stops early when time is up."""
        left = torch.arange(len(lower))
        try:
            for some in left.split(self._at_once):
                for safe, name in self._passed(lower[some], upper[some], labels[some], deadline):
                    yield some[safe.cpu()], name
        except OutOfTimeError:
            return

    @property
    def _at_once(self) -> int:
        """How many boxes have few enough numbers together."""
        widest = max(node.size for node in self.network.nodes)
        return max(
            1, int(_ELEMENTS * times(self.network.device)) // (widest * max(1, self.network.outputs - 1))
        )

    def _passed(
        self, lower: Tensor, upper: Tensor, labels: Tensor, deadline: Deadline
    ) -> Iterator[tuple[Int[Tensor, " safe"], str]]:
        device = self.network.device
        index = torch.arange(len(lower), device=device)
        bounds, _ = interval(self.network, lower.to(device), upper.to(device))
        objective = _differences(labels.to(device), self.network.outputs, bounds.lower)
        for name in PASSES:
            deadline.check()
            if name == "CROWN":
                bounds = preset("default").intermediate.tighten(self.network, bounds, deadline, self._working)
            safe = (
                self._ascended(bounds, objective, deadline)
                if name == "ascent"
                else self._plain(bounds, objective)
            )
            yield index[safe], name
            if bool(safe.all()):
                return
            index, bounds, objective = index[~safe], bounds.select(~safe), objective.select(~safe)

    def _plain(self, bounds: Bounds, objective: Objective) -> Bool[Tensor, " boxes"]:
        problem = DualProblem(self.network, bounds, objective)
        return _above(problem.evaluate(problem.initial(), magnitudes(self.network, bounds)).bound)

    def _ascended(self, bounds: Bounds, objective: Objective, deadline: Deadline) -> Bool[Tensor, " boxes"]:
        """The ascent is float32's, its end is evaluated in float64."""
        like = self._working.device, torch.float32
        working = DualProblem(self._working, bounds.to(*like), objective.to(*like))
        state = _ASCENT.ascend(working, working.initial(), deadline=deadline).state
        problem = DualProblem(self.network, bounds, objective)
        state = problem.clamp(state.to(self.network.device, torch.float64))
        return _above(problem.evaluate(state, magnitudes(self.network, bounds)).bound)


def _above(bound: Float[Tensor, "boxes objectives"]) -> Bool[Tensor, " boxes"]:
    return ((bound > 0) & bound.isfinite()).all(dim=1)


def _differences(labels: Int[Tensor, " boxes"], outputs: int, like: Tensor) -> Objective:
    """For every box the label's output less each other one."""
    others = torch.arange(outputs, device=like.device).expand(len(labels), outputs)
    others = others[others != labels[:, None]].reshape(len(labels), outputs - 1)
    rows = like.new_zeros(len(labels), outputs - 1, 1, outputs)
    rows.scatter_(3, others[:, :, None, None], -1.0)
    rows.scatter_(3, labels[:, None, None, None].expand(-1, outputs - 1, 1, 1), 1.0)
    nothing = like.new_zeros(len(labels), outputs - 1, 1)
    return Objective(rows, nothing, nothing[..., None][..., :0])
