"""Falsification: batched projected gradient descent, and what the bounds' own minimisers suggest.

PGD (Madry et al. 2018) with signed steps from random points, on the loss `max_j (C_j y + E_j x - d_j)` of a clause, whose
value at or below zero is a violation; restarts and clauses share one batch. A candidate is only a proposal: `Problem.replay`
decides.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from verify.deadline import Deadline
from verify.network.graph import Network
from verify.problem import Problem, Witness
from verify.state import Objective

_REPLAYS = 8  # the best candidates of a batch that are run in ONNX Runtime


def violation(network: Network, objective: Objective, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, " batch"]:
    """The loss of each row's clause at `x`: the largest of its rows, violated where <= 0."""
    y = network.forward(x)
    value = (objective.coefficients[:, 0] @ y[:, :, None])[..., 0] - objective.thresholds[:, 0]
    if objective.input_coefficients.shape[3]:
        value = value + (objective.input_coefficients[:, 0] @ x[:, :, None])[..., 0]
    return value.amax(1)


@dataclass(frozen=True)
class Attack:
    """`restarts` random starts for each clause, `steps` signed steps that shrink geometrically."""

    restarts: int = 16
    steps: int = 40
    seconds: float = 5.0
    batch: int = 256

    def run(
        self, problem: Problem, network: Network, clauses: list[int], generator: torch.Generator, deadline: Deadline
    ) -> Witness | None:
        """A replayed witness of one of the clauses, or None. Stops early after `seconds`; never raises for time."""
        limit = deadline.within(self.seconds)
        at_once = max(1, self.batch // self.restarts)
        for start in range(0, len(clauses), at_once):
            if limit.remaining <= 0:
                return None
            witness = self._batch(problem, network, clauses[start : start + at_once], generator, limit)
            if witness is not None:
                return witness
        return None

    def _batch(
        self, problem: Problem, network: Network, clauses: list[int], generator: torch.Generator, limit: Deadline
    ) -> Witness | None:
        repeated = torch.arange(len(clauses)).repeat_interleave(self.restarts)
        lower, upper = (end[repeated].to(network.device, network.dtype) for end in problem.boxes(clauses))
        objective = problem.objective(clauses).select(repeated).to(network.device, network.dtype)
        noise = torch.rand(lower.shape, generator=generator).to(network.device, network.dtype)
        noise[:: self.restarts] = 0.5
        noise[1 :: self.restarts] = noise[1 :: self.restarts].round()
        x = lower + (upper - lower) * noise
        owners = [clauses[int(i)] for i in repeated]
        for step in range(self.steps):
            x = x.requires_grad_(True)
            loss = violation(network, objective, x)
            if bool((loss <= 0).any()):
                witness = replay_best(problem, owners, x.detach(), loss.detach())
                if witness is not None:
                    return witness
            if limit.remaining <= 0:
                return None
            (gradient,) = torch.autograd.grad(loss.sum(), x)
            size = (upper - lower) * (0.25 * 0.9**step)
            x = (x.detach() - size * gradient.sign()).clamp(lower, upper)
        with torch.no_grad():
            return replay_best(problem, owners, x, violation(network, objective, x))


def replay_best(problem: Problem, clauses: list[int], x: Tensor, loss: Tensor) -> Witness | None:
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
