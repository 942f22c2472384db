"""Falsification: batched projected gradient descent, from random points and from what the bounds' minimisers suggest.

PGD (Madry et al. 2018) with signed, shrinking steps. The loss of a clause is `max_j (C_j y + E_j x - d_j)`, at or below zero
where it is violated; its gradient is that of a soft maximum, so that all rows of a conjunction that are still in the way pull
at once. Restarts and clauses share one batch. A candidate is only a proposal: `Problem.replay` decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from verify.deadline import Deadline
from verify.network.graph import Network
from verify.problem import Problem, Witness
from verify.state import Objective

_REPLAYS = 8  # the best candidates of a batch that are run in ONNX Runtime


def rows(network: Network, objective: Objective, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch rows"]:
    """`C y + E x - d` of each point's clause; a clause is violated where all of its rows are <= 0."""
    y = network.forward(x)
    value = (objective.coefficients[:, 0] @ y[:, :, None])[..., 0] - objective.thresholds[:, 0]
    if objective.input_coefficients.shape[3]:
        value = value + (objective.input_coefficients[:, 0] @ x[:, :, None])[..., 0]
    return value


@dataclass(frozen=True)
class Attack:
    """Rounds of `restarts` random starts for each clause and `steps` steps, until `seconds` or `rounds` are used up."""

    restarts: int = 16
    steps: int = 40
    seconds: float = 5.0
    rounds: int = 1
    batch_elements: int = 2_000_000  # network values in one batch of points

    def run(
        self, problem: Problem, network: Network, clauses: Sequence[int], generator: torch.Generator, deadline: Deadline
    ) -> Witness | None:
        """A replayed witness of one of the clauses, or None. Stops early when time is up; never raises for it."""
        limit = deadline.within(self.seconds)
        points = max(self.restarts, self.batch_elements // sum(node.size for node in network.nodes))
        at_once = max(1, points // self.restarts)
        for _ in range(self.rounds):
            for start in range(0, len(clauses), at_once):
                if limit.remaining <= 0:
                    return None
                owners = [clause for clause in clauses[start : start + at_once] for _ in range(self.restarts)]
                lower, upper = problem.boxes(owners)
                noise = torch.rand(lower.shape, generator=generator, dtype=lower.dtype)
                noise[:: self.restarts] = 0.5
                noise[1 :: self.restarts] = noise[1 :: self.restarts].round()
                witness = self.descend(problem, network, owners, lower + (upper - lower) * noise, limit)
                if witness is not None:
                    return witness
        return None

    def descend(
        self, problem: Problem, network: Network, owners: list[int], x: Float[Tensor, "batch inputs"], limit: Deadline
    ) -> Witness | None:
        """PGD from given points, each on the clause that owns it."""
        lower, upper = (end.to(network.device, network.dtype) for end in problem.boxes(owners))
        objective = problem.objective(owners).to(network.device, network.dtype)
        x = x.to(lower).clamp(lower, upper)
        for step in range(self.steps):
            x = x.requires_grad_(True)
            values = rows(network, objective, x)
            loss = values.detach().amax(1)
            if bool((loss <= 0).any()):
                witness = replay_best(problem, owners, x.detach(), loss)
                if witness is not None:
                    return witness
            if limit.remaining <= 0:
                return None
            spread = (values.detach().amax(1) - values.detach().amin(1)).clamp(min=1e-6)[:, None]
            soft = torch.logsumexp(values * (8 / spread), dim=1)
            (gradient,) = torch.autograd.grad(soft.sum(), x)
            x = (x.detach() - (upper - lower) * (0.25 * 0.9**step) * gradient.sign()).clamp(lower, upper)
        with torch.no_grad():
            return replay_best(problem, owners, x, rows(network, objective, x).amax(1))


def replay_best(problem: Problem, clauses: Sequence[int], x: Tensor, loss: Tensor) -> Witness | None:
    """Replays the most promising candidates; those just above zero too, since rounding may favour them."""
    order = torch.argsort(loss)[:_REPLAYS]
    slack = 1e-6 * (1 + loss.abs().median())
    for index in order.tolist():
        if not bool(loss[index] <= slack):
            return None
        witness = problem.replay(clauses[index], x[index])
        if witness is not None:
            return witness
    return None
