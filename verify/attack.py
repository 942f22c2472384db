"""Falsification: batched projected gradient descent, from random points and from what the bounds' minimisers suggest.

PGD (Madry et al. 2018) with shrinking steps. A clause is violated where all its rows `C_j y + E_j x - d_j` are <= 0. Every
other point descends the largest row by signed steps with momentum (MI-FGSM, Dong et al. 2018), which cross wide boxes
fastest; the others descend the sum of the rows' positive parts by Adam's steps, which find thin subproblems that signed steps
zigzag past. Restarts and clauses share one batch. A candidate is only a proposal: `Problem.replay` decides.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from verify.deadline import Deadline
from verify.network.graph import Network
from verify.problem import Problem, Witness
from verify.room import times
from verify.state import Objective

_SAMPLES = 4096  # random points of a clause, at most
_SPREADING = 8  # steps towards random outputs
_MORE = 16  # times as many starts, at most, where a step takes hardly longer with them
_FREE_ELEMENTS = 200_000  # network values: a step takes hardly longer for so many than for few
_CLAUSES = 1024  # that are looked at together
_DEAR = 3  # times as long as outputs take: a step of a descent, with its gradient
_LEAST_STEPS, _FEW_STARTS = 15, 4  # of a descent, and of a clause, where there is not time for all
_REPLAYS = 8  # the best candidates of a batch that are run in ONNX Runtime


def free_points(network: Network) -> int:
    """How many points a descent takes about as long for as for one."""
    return _points(_FREE_ELEMENTS, network)


def _points(elements: int, network: Network) -> int:
    """How many points have so many network values together, more on a GPU."""
    return int(elements * times(network.device)) // sum(node.size for node in network.nodes)


def constraint_values(
    network: Network, objective: Objective, x: Float[Tensor, "batch inputs"]
) -> Float[Tensor, "batch rows"]:
    """`C y + E x - d` of each point's clause; a clause is violated where all of its rows are <= 0."""
    return _values(objective, x, network.forward(x))


def _values(objective: Objective, x: Tensor, y: Tensor) -> Tensor:
    value = (objective.coefficients[:, 0] @ y[:, :, None])[..., 0] - objective.thresholds[:, 0]
    if objective.input_coefficients.shape[3]:
        value = value + (objective.input_coefficients[:, 0] @ x[:, :, None])[..., 0]
    return value


@dataclass(frozen=True)
class Attack:
    """`restarts` starts for each clause, more where the network is small, and `steps` steps from there; as often as `rounds` while a search goes on.

    Half of the starts are the best of random points, as many as a batch holds; the others are the middle, a corner and random.
    Half of either kind is spread over the network's outputs first. Where `seconds` are not enough for all that, starts and steps are
    fewer, and clauses as many as there is time for: half of them those that are nearest to being violated in the middle of their box.
    """

    restarts: int = 16
    steps: int = 40
    seconds: float = 5.0  # of one round
    rounds: int = 1
    batch_elements: int = 2_000_000  # network values in one batch of points

    def run(
        self,
        problem: Problem,
        network: Network,
        clauses: Sequence[int],
        generator: np.random.Generator,
        deadline: Deadline,
    ) -> Witness | None:
        """One round: a replayed witness of one of the clauses, or None. Stops early when time is up; never raises for it."""
        limit = deadline.within(self.seconds)
        if limit.remaining <= 0:
            return None
        points = max(1, _points(self.batch_elements, network))
        order, price = _nearest_first(problem, network, clauses, points, limit)
        # steps of single points that there is time for
        steps = max(0.0, limit.remaining / (_DEAR * price))
        if steps < self.restarts * self.steps * len(clauses):
            fewer, clauses = self._fewer(int(steps), order, generator)
            return fewer._rounds(problem, network, clauses, generator, limit)
        return self._rounds(problem, network, clauses, generator, limit)

    def _fewer(
        self, steps: int, order: Int[np.ndarray, " clauses"], generator: np.random.Generator
    ) -> tuple[Attack, list[int]]:
        """What so many steps of a point are enough for. order: the clauses, nearest first."""
        each = min(self.steps, max(_LEAST_STEPS, steps // (self.restarts * len(order))))
        starts = max(1, steps // each)
        count = min(len(order), max(1, starts // min(self.restarts, _FEW_STARTS)))
        nearest, others = np.split(order, [-(-count // 2)])
        chosen = [*nearest.tolist(), *generator.permutation(others)[: count - len(nearest)].tolist()]
        return replace(self, restarts=min(self.restarts, max(1, starts // count)), steps=each), chosen

    def _rounds(
        self,
        problem: Problem,
        network: Network,
        clauses: Sequence[int],
        generator: np.random.Generator,
        limit: Deadline,
    ) -> Witness | None:
        """As many clauses at a time as a batch holds."""
        points = max(self.restarts, _points(self.batch_elements, network))
        at_once = max(1, points // self.restarts)
        for start in range(0, len(clauses), at_once):
            if limit.remaining <= 0:
                return None
            some = clauses[start : start + at_once]
            restarts = max(self.restarts, min(_MORE * self.restarts, free_points(network) // len(some)))
            x = self._starts(problem, network, some, generator, restarts, min(points // len(some), _SAMPLES))
            owners = [clause for clause in some for _ in range(restarts)]
            x = self._diversified(problem, network, owners, x, generator, limit)
            witness = self.descend(problem, network, owners, x, limit)
            if witness is not None:
                return witness
        return None

    @torch.no_grad()
    def _starts(
        self,
        problem: Problem,
        network: Network,
        clauses: Sequence[int],
        generator: np.random.Generator,
        restarts: int,
        samples: int,
    ) -> Float[Tensor, "batch inputs"]:
        """`restarts` points of each clause's box: its middle, a corner, random ones and the best of `samples`."""
        lower, upper = (end[:, None] for end in problem.boxes(clauses))
        count = max(samples, restarts)
        noise = torch.from_numpy(generator.random((len(clauses), count, lower.shape[2])))
        noise[:, 0] = 0.5
        noise[:, 1::8] = noise[:, 1::8].round()
        x = lower + (upper - lower) * noise
        if count > restarts:
            owners = torch.arange(len(clauses)).repeat_interleave(count)
            objective = problem.objective(clauses).select(owners).to(network.device, network.dtype)
            loss = constraint_values(
                network, objective, x.flatten(0, 1).to(network.device, network.dtype)
            ).amax(1)
            half = restarts // 2
            best = loss.reshape(len(clauses), count).argsort(1)[:, :half, None].to(x.device)
            x[:, restarts - half : restarts] = x.gather(1, best.expand(-1, -1, x.shape[2]))
        return x[:, :restarts].flatten(0, 1)

    def _diversified(
        self,
        problem: Problem,
        network: Network,
        owners: list[int],
        x: Tensor,
        generator: np.random.Generator,
        limit: Deadline,
    ) -> Float[Tensor, "batch inputs"]:
        """Two starts of four after some steps along random directions of the output (Tashiro et al. 2020).

        They spread over what the network can do, where random inputs mostly have the same few outputs.
        """
        lower, upper = (end.to(network.device, network.dtype) for end in problem.boxes(owners))
        x = x.to(lower).clamp(lower, upper)
        chosen = (torch.arange(len(x), device=x.device) % 4 >= 2).nonzero()[:, 0]
        if not len(chosen):
            return x
        noise = generator.uniform(-1.0, 1.0, (len(chosen), network.outputs))
        directions, some = torch.from_numpy(noise).to(x), x[chosen]
        for _ in range(_SPREADING):
            if limit.remaining <= 0:
                break
            some = some.detach().requires_grad_(True)
            value = (network.forward(some) * directions).sum()
            if not value.requires_grad:
                break
            (gradient,) = torch.autograd.grad(value, some)
            move = 0.25 * (upper - lower)[chosen] * gradient.sign()
            some = (some.detach() + move).clamp(lower[chosen], upper[chosen])
        return x.index_copy(0, chosen, some.detach())

    def descend(
        self,
        problem: Problem,
        network: Network,
        owners: list[int],
        x: Float[Tensor, "batch inputs"],
        deadline: Deadline,
    ) -> Witness | None:
        """PGD from given points, each on the clause that owns it, for as long as a round takes at most."""
        limit = deadline.within(self.seconds)
        lower, upper = (end.to(network.device, network.dtype) for end in problem.boxes(owners))
        width = upper - lower
        objective = problem.objective(owners).to(network.device, network.dtype)
        x = x.to(lower).clamp(lower, upper)
        signed = (torch.arange(len(x), device=x.device) % 2 == 0)[:, None]
        momentum, mean, square = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)
        for step in range(1, self.steps + 1):
            x = x.requires_grad_(True)
            values = constraint_values(network, objective, x)
            loss = values.detach().amax(1)
            if bool((loss <= 0).any()):
                witness = replay_best(problem, owners, x.detach(), loss)
                if witness is not None:
                    return witness
            if limit.remaining <= 0 or not values.requires_grad:  # of constants there is no descent
                return None
            target = torch.where(signed[:, 0], values.amax(1), values.clamp(min=0).sum(1))
            (gradient,) = torch.autograd.grad(target.sum(), x)
            momentum = 0.75 * momentum + gradient / gradient.abs().mean(1, keepdim=True).clamp(min=1e-30)
            mean.lerp_(gradient, 0.2)
            square.lerp_(gradient.square(), 0.1)
            scale = (1 - 0.9**step) ** 0.5 / (1 - 0.8**step)
            adam = mean / (square.sqrt() + 1e-30) * scale
            move = torch.where(signed, momentum.sign() * 0.95 ** (step - 1), adam * 0.9 ** (step - 1))
            x = (x.detach() - 0.1 * width * move).clamp(lower, upper)
        with torch.no_grad():
            return replay_best(problem, owners, x, constraint_values(network, objective, x).amax(1))


@torch.no_grad()
def _nearest_first(
    problem: Problem, network: Network, clauses: Sequence[int], points: int, limit: Deadline
) -> tuple[Int[np.ndarray, " clauses"], float]:
    """The clauses by how near they are to being violated in the middle of their box, and the seconds that a point's outputs take."""
    order, seconds = np.asarray(clauses), []
    found = np.full(len(order), np.inf)
    for start in range(0, len(order), _CLAUSES):
        if limit.remaining <= 0:
            break
        some = slice(start, start + _CLAUSES)
        _, first, of_box = np.unique(problem.box_of[order[some]], return_index=True, return_inverse=True)
        lower, upper = problem.boxes(order[some][first].tolist())
        middle = ((lower + upper) / 2).to(network.device, network.dtype)
        began = time.monotonic()
        y = torch.cat([network.forward(part) for part in middle.split(points)])
        objective = problem.objective(order[some].tolist()).to(network.device, network.dtype)
        box = torch.from_numpy(of_box).to(network.device)
        found[some] = _values(objective, middle[box], y[box]).amax(1).cpu().numpy()
        seconds.append((time.monotonic() - began) / max(len(middle), free_points(network)))
    return order[found.argsort(kind="stable")], max(1e-9, min(seconds, default=1e-9))


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
