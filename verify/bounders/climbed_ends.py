"""Bounds over the unsafe points, with slopes and row weights climbed for each end of a neuron by itself.

What `OutputConstrained` reads off at the slopes that bound the clause is where these climbs begin. Ends are picked one by
one: of a ReLU whose interval is mostly negative only the upper end costs the clause something. The nearer the clause's bound is to 0,
the more it gains, and tighter bounds bring the clause's bound nearer: a region that is near enough is refuted without a split.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from verify.bounders.dual import DualProblem
from verify.bounders.output_constrained import (
    ELEMENTS,
    LEAST,
    MOST,
    Observer,
    OutputConstrained,
    beside_rows,
    in_batches,
    losses,
)
from verify.bounders.restricted import Restricted
from verify.bounders.shared_row import weighed
from verify.deadline import Deadline
from verify.network.graph import Layer
from verify.state import Bounds, DualState

_NARROWER = 0.1  # of an interval, that an end is moved by to see what the clause gains


@dataclass(frozen=True)
class ClimbedEnds(OutputConstrained):
    """As `OutputConstrained`, with a climb for each end. `share` is of what narrower intervals would gain."""

    share: float = 0.9
    climb: Restricted = Restricted(iterations=3, step=0.5, decay=0.9)
    recorded: ClassVar[bool] = False

    def tighten(
        self, problem: DualProblem, fast: DualProblem, state: DualState, layer: Layer, magnitudes: dict[int, Tensor],
        deadline: Deadline, observe: Observer | None = None,
    ) -> Bounds:  # fmt: skip
        assert observe is None
        quick = fast.bounds.lower
        bound, gains = _gains(fast, state.to(quick.device, quick.dtype), layer)
        variables = problem.network.variables
        counts = self._counts(gains).clamp(max=max(1, MOST // variables))
        counts[bound >= 0] = 0
        most = max(1, ELEMENTS[quick.device.type] // variables)
        lower, upper = (end[:, layer.variables].clone() for end in vars(problem.bounds).values())
        known = torch.cat([lower, -upper], 1)
        widths = (upper - lower).repeat(1, 2)
        for rows, ends in in_batches(gains, counts, most):
            for some in ends.split(most, dim=1):
                deadline.check()
                neurons, sides = some % layer.size, torch.where(some < layer.size, 1.0, -1.0)
                point = state.select(rows)
                weights = self._weights(problem.bounds.select(rows), point, bound[rows], layer, neurons)
                start = replace(weighed(point, weights.sum(2)), row_weights=weights)
                quickly, surely = (
                    beside_rows(one.select(rows), layer, neurons, sides) for one in (fast, problem)
                )
                found = self._climbed(quickly, surely, start, magnitudes, deadline)
                before = known[rows].gather(1, some)
                better = found > before + LEAST * widths[rows].gather(1, some)
                known[rows] = known[rows].scatter(1, some, torch.where(better, found, before))
        return Bounds(known[:, : layer.size], -known[:, layer.size :])

    def _climbed(
        self, fast: DualProblem, problem: DualProblem, start: DualState, magnitudes: dict[int, Tensor],
        deadline: Deadline,
    ) -> Float[Tensor, "batch ends"]:  # fmt: skip
        """Lower bounds of the objectives beside the rows; -inf where nothing is known."""
        quick, slow = fast.bounds.lower, problem.bounds.lower
        point = fast.clamp(start.to(quick.device, quick.dtype))
        state = self.climb.ascend(fast, point, deadline=deadline).state
        found = problem.evaluate(problem.clamp(state.to(slow.device, slow.dtype)), magnitudes).bound
        return torch.where(found.isfinite(), found, -torch.inf)


def _gains(
    problem: DualProblem, state: DualState, layer: Layer
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch ends"]]:
    """Each region's bound, and what it gains at the dual's primal point if a neuron's lower, or upper, end is moved inwards."""
    lower, upper = (end[:, layer.variables] for end in vars(problem.bounds).values())
    inwards = _NARROWER * (upper - lower).clamp(min=0)
    bound, [now, *moved] = losses(
        problem, state, layer, (lower, upper), (lower + inwards, upper), (lower, upper - inwards)
    )
    return bound, torch.cat([(now - other).clamp(min=0) for other in moved], 1)
