"""When to tighten a region's last layer over its unsafe points alone, and where those bounds are kept.

Bounds over the unsafe points (`OutputConstrained`) hold for the region and all that is cut from it, so a subproblem carries
them. They are due again when splitting has brought the clause's bound a good deal closer to 0, as long as they close enough
of what is missing: that is measured while the search runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool
from torch import Tensor

from verify.bounders.dual import DualProblem
from verify.bounders.output_constrained import OutputConstrained
from verify.deadline import Deadline
from verify.network.graph import Network
from verify.state import Bounds, DualState, Subproblems

_WIDEST = 1024  # neurons of a layer whose bounds each subproblem may carry
_CLOSER = 0.5  # the bound's distance from 0, relative to where it was last time, that makes them due again
_WORTH = 0.1  # of the distance from 0: what they must close, on average, to be worth ten or twenty children
_PERIOD = 64  # calls after which they are tried again where they weren't


@dataclass
class Worth:
    """Whether tightening has closed enough of what was missing, lately."""

    share: float = 1.0  # a running average of the share closed
    since: int = 0  # calls without a trial

    def worthwhile(self) -> bool:
        """Whether to tighten now."""
        self.since += 1
        return self.share >= _WORTH or self.since > _PERIOD

    def learn(self, before: Tensor, after: Tensor) -> None:
        """From regions whose bounds were `before` < 0."""
        closed = float(((after - before) / -before).clamp(0, 1).mean())
        self.share, self.since = 0.8 * self.share + 0.2 * closed, 0


class UnsafeBounds:
    """The last layer's bounds over the unsafe points of each region."""

    def __init__(self, network: Network, method: OutputConstrained | None) -> None:
        self.method, self.worth = method, Worth()
        self.layer = network.layers[-1] if network.layers else None
        if method is None or self.layer is None or self.layer.size > _WIDEST:
            self.layer = None

    @property
    def width(self) -> int:
        """How many bounds of either side a subproblem carries."""
        return 0 if self.layer is None else self.layer.size

    def apply(self, bounds: Bounds, regions: Subproblems) -> Bounds:
        """The regions' boxes with what they carry."""
        if self.layer is None:
            return bounds
        lower, upper, columns = bounds.lower.clone(), bounds.upper.clone(), self.layer.variables
        lower[:, columns] = torch.maximum(lower[:, columns], regions.carried_lower.to(lower))
        upper[:, columns] = torch.minimum(upper[:, columns], regions.carried_upper.to(upper))
        return Bounds(lower, upper)

    def due(self, regions: Subproblems) -> Bool[Tensor, " batch"]:
        """Which open regions to tighten now."""
        if self.layer is None:
            return torch.zeros_like(regions.lower_bound, dtype=torch.bool)
        bound = regions.lower_bound
        closer = bound.isfinite() & (bound > _CLOSER * regions.tightened_at) & (bound < 0)
        return closer if bool(closer.any()) and self.worth.worthwhile() else torch.zeros_like(closer)

    def tighten(
        self, regions: Subproblems, problem: DualProblem, fast: DualProblem, state: DualState, sizes: dict[int, Tensor],
        deadline: Deadline,
    ) -> Subproblems:  # fmt: skip
        """The regions with tighter bounds of the layer, from their dual points. Raises OutOfTimeError."""
        assert self.method is not None and self.layer is not None
        tight = self.method.tighten(problem, fast, state, self.layer, sizes, deadline)
        return replace(regions, carried_lower=tight.lower, carried_upper=tight.upper)

    def learned(self, before: Subproblems, after: Subproblems) -> Subproblems:
        """The regions after a tightening and a climb; where that gained nothing they are as before, for this time."""
        gained = after.lower_bound > before.lower_bound
        self.worth.learn(before.lower_bound, after.lower_bound)
        kept = replace(before, tightened_at=after.lower_bound.clamp(max=0))
        after = replace(after, tightened_at=kept.tightened_at)
        return kept.updated(gained, after.select(gained))
