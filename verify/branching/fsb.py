"""Filtered smart branching (De Palma et al. 2021, section 5): score all, bound a few, choose one.

Every open variable gets two cheap scores in closed form: the activation's own estimate of what a split gains (for ReLU the SR
score of Bunel et al. 2020b) and, complementary to it, what the relaxation loses at the dual's primal point. The best
few by either are candidates; both children of each are bounded by one backward sweep with the parent's dual variables (as
probes: hulls are shared, no child is built), and the split whose worse child improves most is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from verify.branching.rule import Children, Split
from verify.lagrangian.dual import DualProblem
from verify.lagrangian.probes import Probes
from verify.lagrangian.sweeps import Supergradient
from verify.lagrangian.terms import Sweep
from verify.state import DualState


@dataclass(frozen=True)
class FilteredSmartBranching:
    """`candidates` by each of the two scores are bounded; 0 trusts the first score alone."""

    candidates: int = 3

    def choose(self, problem: DualProblem, state: DualState, children: Children | None = None) -> Split:
        """The split for each subproblem of `problem` (one objective each) at its dual point.

        `children` bounds both children of candidate splits where probes would not tell what a split gains.
        """
        sweep = problem.evaluate(state)
        gradient = problem.supergradient(state, sweep)
        scores, losses, points = _scores(problem, sweep, gradient)
        best, variable = scores.max(1)
        value = points.gather(1, variable[:, None])[:, 0]
        if self.candidates:
            per_layer = (
                _best_of_layers(problem, losses) if children else losses.new_zeros(len(losses), 0).long()
            )
            children = children or partial(probed, problem, state)
            variable = self._filter(scores, losses, points, children, per_layer)
            best = scores.gather(1, variable[:, None])[:, 0]
            value = points.gather(1, variable[:, None])[:, 0]
        return _split(problem, state, sweep, torch.where(best.isneginf(), -1, variable), value)

    def _filter(
        self, scores: Tensor, losses: Tensor, points: Tensor, children: Children, more: Tensor
    ) -> Int[Tensor, " batch"]:
        count = min(self.candidates, scores.shape[1])
        shortlist = torch.cat([scores.topk(count).indices, losses.topk(count).indices, more], 1)
        upper, lower = children(shortlist, points.gather(1, shortlist).nan_to_num(nan=0.0))
        low, high = torch.minimum(upper, lower).clamp(max=0), torch.maximum(upper, lower).clamp(max=0)
        gain = low + 1e-3 * high
        gain = torch.where(scores.gather(1, shortlist).isneginf(), -torch.inf, gain.nan_to_num(nan=-1e30))
        return shortlist.gather(1, gain.argmax(1, keepdim=True))[:, 0]


def split_at(problem: DualProblem, state: DualState, variable: Int[Tensor, " batch"]) -> Split:
    """Splits at the given variables, each where its activation says; none (-1) where that gains nothing."""
    sweep, value = problem.evaluate(state), torch.full_like(problem.bounds.lower[:, 0], torch.nan)
    for layer in problem.layers:
        own = (layer.variables.start <= variable) & (variable < layer.variables.stop)
        place = (variable - layer.variables.start).clamp(0, layer.size - 1)[:, None]
        ends = (
            end[:, layer.variables].gather(1, place) for end in (problem.bounds.lower, problem.bounds.upper)
        )
        value = torch.where(own, layer.activation.split_point(*ends)[:, 0], value)
    return _split(problem, state, sweep, torch.where(value.isnan(), -1, variable), value)


def _split(problem: DualProblem, state: DualState, sweep: Sweep, variable: Tensor, value: Tensor) -> Split:
    """The splits with the multipliers that leave both children no looser."""
    known = variable.clamp(min=0)
    kept = _both_sides(problem, state, known[:, None], value[:, None]).keeping(sweep)
    below, above = problem.network.split_ends(known, value)
    return Split(variable, below, kept.nan_to_num(nan=0.0), above)


def _best_of_layers(problem: DualProblem, losses: Tensor) -> Int[Tensor, "batch layers"]:
    """The variable of each curved layer that loses most: a split there may help many layers behind it.

    (The sum under a quotient loses little itself, but every product with its reciprocal is relaxed over its range.)
    """
    found = [torch.zeros(len(losses), 0, dtype=torch.int64, device=losses.device)]
    for layer in problem.layers:
        if layer.activation.curved:
            found.append(losses[:, layer.variables].argmax(1, keepdim=True) + layer.variables.start)
    return torch.cat(found, 1)


def probed(problem: DualProblem, state: DualState, variable: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of both children of each candidate split, [batch, candidates] each, by one sweep over the parent's hulls."""
    count = 2 * variable.shape[1]
    probes, repeated = _both_sides(problem, state, variable, value), problem.widened(count)
    # All objectives share the slopes.
    shared = state.map(lambda part: part.expand(-1, count, -1)) | {"alpha": state["alpha"]}
    bounds = repeated.evaluate(repeated.without(shared, probes.variable), probes=probes).bound
    upper, lower = bounds.chunk(2, dim=1)
    return upper, lower


def _both_sides(problem: DualProblem, state: DualState, variable: Tensor, value: Tensor) -> Probes:
    """Upper sides first."""
    side, alpha = torch.ones_like(variable), state["alpha"][:, 0]
    below, above = problem.network.split_ends(variable, value)
    both = variable.repeat(1, 2), torch.cat([above, below], 1).to(value), torch.cat([side, -side], 1)
    return Probes(problem.domain, alpha, *both)


def _scores(problem: DualProblem, sweep: Sweep, gradient: Supergradient) -> tuple[Tensor, Tensor, Tensor]:
    """Both scores and the split point of every variable, [batch, variables]; -inf where no split helps."""
    lower, upper = problem.bounds.lower, problem.bounds.upper
    scores = torch.full_like(lower, -torch.inf)
    losses, points = scores.clone(), torch.full_like(lower, torch.nan)
    for layer in problem.layers:
        if layer.node not in sweep.supports:
            continue
        columns = layer.variables
        low, high = lower[:, columns], upper[:, columns]
        # What cut families took over is the neurons' own because it costs most.
        line, t = sweep.supports[layer.node].line, sweep.supports[layer.node].whole[:, 0]
        assert line is not None
        own = line.first()
        z = gradient.pre_activations[layer.node][:, 0]
        bias = problem.network.offsets[layer.pre_node]
        scores[:, columns] = layer.activation.split_scores(t, own, z, bias, low, high)
        losses[:, columns] = layer.activation.relaxation_loss(t, own, z, low, high)
        points[:, columns] = layer.activation.split_point(low, high)
    return scores, losses, points
