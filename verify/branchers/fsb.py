"""Filtered smart branching (De Palma et al. 2021, section 5): score all, bound a few, choose one.

Every open variable gets two cheap scores in closed form: the activation's own estimate of what a cut gains (for ReLU the SR
score of Bunel et al. 2020b) and, complementary to it, what the relaxation loses at the dual's primal point. The best
few by either are candidates; both children of each are bounded by one backward sweep with the parent's dual variables (as
probes: hulls are shared, no child is built), and the cut whose worse child improves most is made.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from verify.bounders.dual import DualProblem, Probes, Supergradient, Sweep
from verify.network.activations import Line
from verify.state import DualState


@dataclass(frozen=True)
class Split:
    """The chosen cut of each region; variable -1 where there is none to make."""

    variable: Int[Tensor, " batch"]
    value: Float[Tensor, " batch"]


@dataclass(frozen=True)
class FilteredSmartBranching:
    """`candidates` by each of the two scores are bounded; 0 trusts the first score alone."""

    candidates: int = 3

    def choose(self, problem: DualProblem, state: DualState) -> Split:
        """The cut for each region of `problem` (one objective each) at its dual point."""
        sweep = problem.evaluate(state)
        gradient = problem.supergradient(state, sweep)
        scores, losses, points = _scores(problem, sweep, gradient)
        best, variable = scores.max(1)
        if self.candidates:
            variable = self._filter(problem, state, scores, losses, points)
            best = scores.gather(1, variable[:, None])[:, 0]
        value = points.gather(1, variable[:, None])[:, 0]
        return Split(torch.where(best.isneginf(), -1, variable), value)

    def _filter(
        self, problem: DualProblem, state: DualState, scores: Tensor, losses: Tensor, points: Tensor
    ) -> Int[Tensor, " batch"]:
        count = min(self.candidates, scores.shape[1])
        shortlist = torch.cat([scores.topk(count).indices, losses.topk(count).indices], 1)
        value = points.gather(1, shortlist).nan_to_num(nan=0.0)
        side = torch.ones_like(shortlist)
        probes = Probes(shortlist.repeat(1, 2), value.repeat(1, 2), torch.cat([side, -side], 1))
        children = _repeated(problem, 4 * count).evaluate(_shared(state, 4 * count), probes=probes).bound
        upper, lower = children.clamp(max=0).chunk(2, dim=1)
        worse, better = torch.minimum(upper, lower), torch.maximum(upper, lower)
        gain = worse + 1e-3 * better
        gain = torch.where(scores.gather(1, shortlist).isneginf(), -torch.inf, gain)
        return shortlist.gather(1, gain.argmax(1, keepdim=True))[:, 0]


def _scores(problem: DualProblem, sweep: Sweep, gradient: Supergradient) -> tuple[Tensor, Tensor, Tensor]:
    """Both scores and the split point of every variable, [batch, variables]; -inf where no cut helps."""
    lower, upper = problem.bounds.lower, problem.bounds.upper
    scores = torch.full_like(lower, -torch.inf)
    losses, points = scores.clone(), torch.full_like(lower, torch.nan)
    for layer in problem.layers:
        if layer.node not in sweep.lines:
            continue
        columns = layer.variables
        low, high = lower[:, columns], upper[:, columns]
        line, t = sweep.lines[layer.node], sweep.cotangents[layer.node][:, 0]
        touch = line.touch[:, 0] if isinstance(line.touch, Tensor) else line.touch
        own = Line(line.slope[:, 0], line.intercept[:, 0], touch)
        z = gradient.pre_activations[layer.node][:, 0]
        bias = problem.network.offsets[layer.pre_node]
        scores[:, columns] = layer.activation.split_scores(t, own, z, bias, low, high)
        losses[:, columns] = layer.activation.relaxation_loss(t, own, z, low, high)
        points[:, columns] = layer.activation.split_point(low, high)
    return scores, losses, points


def _repeated(problem: DualProblem, count: int) -> DualProblem:
    """The same boxes with each region's one objective repeated."""
    objective = problem.objective
    wide = type(objective)(
        objective.coefficients.expand(-1, count, -1, -1), objective.thresholds.expand(-1, count, -1),
        objective.input_coefficients.expand(-1, count, -1, -1),
    )  # fmt: skip
    repeated = DualProblem(problem.network, problem.bounds, wide, problem.cuts, problem.node)
    repeated.__dict__["hulls"] = problem.hulls
    return repeated


def _shared(state: DualState, count: int) -> DualState:
    return DualState(
        state.parameters, state.row_weights.expand(-1, count, -1), state.cut_multipliers.expand(-1, count, -1)
    )
