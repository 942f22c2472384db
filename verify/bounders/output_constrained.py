"""Bounds of pre-activations over the unsafe points alone (Kotha et al. 2023, "Provably Bounding Neural Network Preimages").

A subproblem needs to be refuted only where the clause's rows `C y <= d` could all hold, so bounds of its pre-activations need to
hold only there. For a neuron's `+-z_i` the rows join the Lagrangian as constraints with multipliers `w >= 0`,

    min over the subproblem of  +-z_i + w . (C y - d)   <=   min over its unsafe points of  +-z_i ,

which is the dual function again, with the rows' weights free and the neuron's objective beside them. It pays where the clause's
own bound is close to 0 and the layer is near the output: there the constraint leaves little. The slopes that bound
the clause serve as they are, so each bound is one sweep; and only neurons whose relaxation costs the clause something are bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from verify.bounders.shared_constraint import Entries, bound_output_constrained, weighed
from verify.bounders.tracing import ConstrainedBounds, Observer, Provable, unobserved
from verify.deadline import Deadline
from verify.lagrangian.dual import DualProblem
from verify.network.graph import Layer
from verify.state import Bounds, DualState

LEAST = 0.01  # of an interval, that an end must cut off to count
MOST = 8_000_000  # values for one subproblem; of its neurons those that cost most, so many as fit
ELEMENTS = {
    "cpu": 1_000_000,
    "cuda": 8_000_000,
}  # of one tensor in a sweep: a processor's caches hold no more


@dataclass(frozen=True)
class OutputConstrained:
    """Tightens one layer of each subproblem, from the dual point that bounds its clause.

    weight: of the clause, in units of the neuron's interval over the clause's distance from 0 (1 would give the bound away
    again). share: of what the layer's relaxation costs, the part whose neurons are bounded.
    """

    weight: float = 0.1
    share: float = 0.85
    technique: ClassVar[Provable] = Provable.OUTPUT_CONSTRAINED

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
        """The layer's bounds, [batch, size] each, over the unsafe points of each subproblem.

        problem, working: the subproblems' clauses in float64, in which the bounds are proved, and as they are climbed on; state: their
        dual points of one objective each, in float64. Subproblems whose bound there is not below 0 keep what they have. Raises
        OutOfTimeError.
        """
        lower, upper = (
            end[:, layer.variables].clone() for end in (problem.bounds.lower, problem.bounds.upper)
        )
        working_like = working.bounds.lower
        intervals = (lower.to(working_like), upper.to(working_like))
        bound, [loss] = losses(working, state.to(working_like.device, working_like.dtype), layer, intervals)
        variables = problem.network.variables
        counts = self._counts(loss).clamp(max=max(1, MOST // (2 * variables)))
        counts[bound >= 0] = 0
        most = max(1, ELEMENTS[lower.device.type] // (2 * variables))
        batches = in_batches(loss, counts, most)
        entries = _entries(problem, layer, [neurons for _, neurons in batches], magnitudes)
        for rows, neurons in batches:
            part, point = problem.select(rows), state.select(rows)
            weights = self._weights(part.bounds, point, bound[rows], layer, neurons).repeat(1, 2, 1)
            ends = []
            for some in torch.arange(neurons.shape[1], device=neurons.device).split(most):
                deadline.check()
                own = weights[:, torch.cat([some, some + neurons.shape[1]])]
                ends.append(_bound(part, point, layer, neurons[:, some], own, magnitudes, entries))
            low, high = (torch.cat(end, 1) for end in zip(*ends, strict=True))
            low, high = _worthwhile(part.bounds, layer, neurons, low, high)
            observe(ConstrainedBounds(rows, neurons, weights, low, high))
            lower[rows] = lower[rows].scatter_reduce(1, neurons, low, "amax")
            upper[rows] = upper[rows].scatter_reduce(1, neurons, high, "amin")
        return Bounds(lower, upper)

    def _counts(self, losses: Tensor) -> Int[Tensor, " batch"]:
        """How many neurons make up the share of each subproblem's loss."""
        ranked = losses.sort(dim=1, descending=True).values.double()
        before = ranked.cumsum(1) - ranked
        return ((before < self.share * ranked.sum(1, keepdim=True)) & (ranked > 0)).sum(1)

    def _weights(
        self,
        bounds: Bounds,
        state: DualState,
        bound: Tensor,
        layer: Layer,
        neurons: Int[Tensor, "batch count"],
    ) -> Float[Tensor, "batch count rows"]:
        """The rows' weights beside an end of each neuron, as float32 holds them."""
        width = (bounds.upper - bounds.lower)[:, layer.variables].gather(1, neurons)
        weight = self.weight * width / (-bound.to(width)[:, None]).clamp(min=1e-9)
        return (weight[..., None] * state["constraint_weights"]).float().to(width)


def in_batches(losses: Tensor, counts: Int[Tensor, " batch"], most: int) -> list[tuple[Tensor, Tensor]]:
    """Subproblems, and of each the same number of columns ([rows, count]), those that cost most first: about `most` in all."""
    order = counts.argsort(descending=True)
    order = order[counts[order] > 0]
    found, start = [], 0
    while start < len(order):
        count = int(counts[order[start]])
        rows = order[start : start + max(1, most // count)]
        found.append((rows, losses[rows].topk(count, dim=1).indices))
        start += len(rows)
    return found


def _entries(
    problem: DualProblem, layer: Layer, neurons: list[Tensor], magnitudes: dict[int, Tensor]
) -> Entries | None:
    """What the neurons pull, where clauses have one row each to share."""
    if problem.constraints.moves or not neurons:
        return None
    chosen = torch.cat([some.flatten() for some in neurons]).unique()
    if not Entries.fit(problem.network, layer, len(chosen)):
        return None
    return Entries(problem.network, layer, chosen, magnitudes)


def _bound(
    problem: DualProblem,
    state: DualState,
    layer: Layer,
    neurons: Int[Tensor, "batch count"],
    weights: Tensor,
    magnitudes: dict[int, Tensor],
    entries: Entries | None,
) -> tuple[Tensor, Tensor]:
    """Both ends of each neuron, [batch, count]; infinite where nothing is known."""
    count = neurons.shape[1]
    if entries is not None:
        sides = weights.new_ones(2 * count)
        sides[count:] = -1.0
        found = bound_output_constrained(
            problem, problem.clamp(state), entries, neurons.repeat(1, 2), sides, weights[..., 0], magnitudes
        )
    else:
        sides = weights.new_ones(len(neurons), 2 * count)
        sides[:, count:] = -1.0
        point = weighed(state, weights.sum(2)) | {"constraint_weights": weights}
        beside = output_constrained_problem(problem, layer, neurons.repeat(1, 2), sides)
        found = beside.evaluate(beside.clamp(point), magnitudes).bound
    low, high = torch.where(found.isfinite(), found, -torch.inf).chunk(2, dim=1)
    return low, -high


def _worthwhile(
    bounds: Bounds, layer: Layer, neurons: Tensor, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """The ends that cut off some of what was known; others would have to be carried, and proved, for next to nothing."""
    lower, upper = (end[:, layer.variables].gather(1, neurons) for end in (bounds.lower, bounds.upper))
    least = LEAST * (upper - lower)
    slack = 1e-9 * (upper - lower)  # so that others, who round differently, find them as well
    return (
        torch.where(low > lower + least, low - slack, -torch.inf),
        torch.where(high < upper - least, high + slack, torch.inf),
    )


def losses(
    problem: DualProblem, state: DualState, layer: Layer, *intervals: tuple[Tensor, Tensor]
) -> tuple[Float[Tensor, " batch"], list[Float[Tensor, "batch size"]]]:
    """Each subproblem's bound, and what each neuron's relaxation costs it at the dual's primal point if intervals were those given.

    (0 where the relaxation is exact.)
    """
    sweep = problem.backward(state)
    found = problem.supergradient(state, sweep)
    support = sweep.supports.get(layer.node)
    if support is None or support.line is None:
        return found.bound[:, 0], [torch.zeros_like(low) for low, _ in intervals]
    t, z = support.cotangent, found.pre_activations[layer.node][:, 0]
    costs = []
    for low, high in intervals:
        hull = layer.activation.hull(low[:, None], torch.maximum(low, high)[:, None])
        line = hull.line(t, hull.clamp(state["alpha"][..., layer.alpha])).first()
        cost = layer.activation.relaxation_loss(t[:, 0], line, z, low, high)
        costs.append(cost.nan_to_num(nan=0.0).clamp(min=0))
    return found.bound[:, 0], costs


def output_constrained_problem(
    problem: DualProblem, layer: Layer, neurons: Int[Tensor, "batch ends"], sides: Float[Tensor, "batch ends"]
) -> DualProblem:
    """The clause's rows as constraints beside the objectives `side z_i` of the given neurons."""
    batch, count = neurons.shape
    rows = problem.bounds.lower.new_zeros(batch, count, layer.size)
    rows.scatter_(2, neurons[..., None], sides[..., None].to(rows))
    return problem.beside(layer.pre_node, rows)
