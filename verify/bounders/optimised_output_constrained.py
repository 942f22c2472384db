"""Bounds over the unsafe points, with slopes and constraint weights climbed for each end of a neuron by itself.

What `OutputConstrained` reads off at the slopes that bound the clause is where these climbs begin. Ends are picked one by
one: of a ReLU whose interval is mostly negative only the upper end costs the clause something. The nearer the clause's bound is to 0,
the more it gains, and tighter bounds bring the clause's bound nearer: a subproblem that is near enough is refuted without a split.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from verify.bounders.output_constrained import (
    ELEMENTS,
    LEAST,
    MOST,
    OutputConstrained,
    in_batches,
    losses,
    output_constrained_problem,
)
from verify.bounders.restricted import Restricted
from verify.bounders.shared_constraint import weighed
from verify.bounders.tracing import Observer, Provable, unobserved
from verify.deadline import Deadline
from verify.lagrangian.dual import DualProblem
from verify.network.graph import Layer
from verify.state import Bounds, DualState

_NARROWER = 0.1  # of an interval, that an end is moved by to see what the clause gains


@dataclass(frozen=True)
class OptimisedOutputConstrained(OutputConstrained):
    """As `OutputConstrained`, with a climb for each end. `share` is of what narrower intervals would gain."""

    share: float = 0.9
    ascent: Restricted = Restricted(iterations=3, step=0.5, decay=0.9)
    technique: ClassVar[Provable] = Provable.OPTIMISED_OUTPUT_CONSTRAINED

    def tighten(
        self,
        problem: DualProblem,
        working: DualProblem,
        state: DualState,
        layer: Layer,
        magnitudes: dict[int, Tensor],
        deadline: Deadline,
        observe: Observer = unobserved,
    ) -> Bounds:
        working_like = working.bounds.lower
        bound, gains = _gains(working, state.to(working_like.device, working_like.dtype), layer)
        variables = problem.network.variables
        counts = self._counts(gains).clamp(max=max(1, MOST // variables))
        counts[bound >= 0] = 0
        most = max(1, ELEMENTS[working_like.device.type] // variables)
        lower, upper = (
            end[:, layer.variables].clone() for end in (problem.bounds.lower, problem.bounds.upper)
        )
        known = torch.cat([lower, -upper], 1)
        widths = (upper - lower).repeat(1, 2)
        for rows, ends in in_batches(gains, counts, most):
            for some in ends.split(most, dim=1):
                deadline.check()
                neurons, sides = some % layer.size, torch.where(some < layer.size, 1.0, -1.0)
                point = state.select(rows)
                weights = self._weights(problem.bounds.select(rows), point, bound[rows], layer, neurons)
                start = weighed(point, weights.sum(2)) | {"constraint_weights": weights}
                working_problem, rigorous_problem = (
                    output_constrained_problem(one.select(rows), layer, neurons, sides)
                    for one in (working, problem)
                )
                found = self._optimised(working_problem, rigorous_problem, start, magnitudes, deadline)
                before = known[rows].gather(1, some)
                better = found > before + LEAST * widths[rows].gather(1, some)
                known[rows] = known[rows].scatter(1, some, torch.where(better, found, before))
        return Bounds(known[:, : layer.size], -known[:, layer.size :])

    def _optimised(
        self,
        working: DualProblem,
        problem: DualProblem,
        start: DualState,
        magnitudes: dict[int, Tensor],
        deadline: Deadline,
    ) -> Float[Tensor, "batch ends"]:
        """Lower bounds of the objectives beside the rows; -inf where nothing is known."""
        working_like, rigorous_like = working.bounds.lower, problem.bounds.lower
        point = working.clamp(start.to(working_like.device, working_like.dtype))
        state = self.ascent.ascend(working, point, deadline=deadline).state
        found = problem.evaluate(
            problem.clamp(state.to(rigorous_like.device, rigorous_like.dtype)), magnitudes
        ).bound
        return torch.where(found.isfinite(), found, -torch.inf)


def _gains(
    problem: DualProblem, state: DualState, layer: Layer
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch ends"]]:
    """Each subproblem's bound, and what it gains at the dual's primal point if a neuron's lower, or upper, end is moved inwards."""
    lower, upper = (end[:, layer.variables] for end in (problem.bounds.lower, problem.bounds.upper))
    inwards = _NARROWER * (upper - lower).clamp(min=0)
    bound, [now, *moved] = losses(
        problem, state, layer, (lower, upper), (lower + inwards, upper), (lower, upper - inwards)
    )
    return bound, torch.cat([(now - other).clamp(min=0) for other in moved], 1)
