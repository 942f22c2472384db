"""Ascent in the restricted dual domain (De Palma et al. 2021), the default bounder.

The free variables are the slopes of the supporting lines, one multiplier for each cut, and the row weights of
conjunctions. Adam's normalised steps on slopes (whose natural scale is 1) reach 90 % of what there is to gain in five
iterations; multipliers have the scale of the cotangents and step relative to it; row weights move multiplicatively on the
simplex. The driver keeps the best point of each objective, so the result is never worse than the start, and drops
subproblems as soon as they are refuted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from verify.bounders.dual import DualProblem, Supergradient
from verify.deadline import Deadline
from verify.state import DualState


@dataclass(frozen=True)
class Ascended:
    """The best dual point found for every objective, its value, and the primal minimiser of the last sweep."""

    bound: Float[Tensor, "batch objectives"]
    state: DualState
    minimiser: Float[Tensor, "batch objectives inputs"]


@dataclass
class _Moments:
    """Adam's running averages of one tensor."""

    mean: Tensor
    square: Tensor

    @classmethod
    def like(cls, tensor: Tensor) -> _Moments:
        return cls(torch.zeros_like(tensor), torch.zeros_like(tensor))

    def step(self, gradient: Tensor, count: int) -> Tensor:
        """The normalised direction of the `count`-th step; consumes `gradient`."""
        self.mean.lerp_(gradient, 0.1)
        self.square.mul_(0.99).addcmul_(gradient, gradient, value=0.01)
        scale = (1 - 0.99**count) ** 0.5 / (1 - 0.9**count)
        return torch.div(self.mean, self.square.sqrt().add_(1e-12)).mul_(scale)

    def select(self, rows: Tensor) -> _Moments:
        return _Moments(self.mean[rows], self.square[rows])


@dataclass(frozen=True)
class Restricted:
    """`iterations` steps from any dual state; the step size of slopes starts at `step` and decays geometrically."""

    iterations: int = 20
    step: float = 0.5
    decay: float = 0.95

    def ascend(
        self,
        problem: DualProblem,
        state: DualState,
        target: float = torch.inf,
        deadline: Deadline | None = None,
    ) -> Ascended:
        """Climbs until every objective's bound exceeds `target` or the iterations are used up.

        Raises OutOfTimeError when the deadline passes.
        """
        run = _Run(self, problem, problem.clamp(state))
        run.climb(target, deadline or Deadline())
        return Ascended(run.bound, run.best, run.minimiser)


class _Run:
    """One ascent: the rows still climbing, and the best point of all rows."""

    def __init__(self, method: Restricted, problem: DualProblem, state: DualState) -> None:
        self.method, self.problem, self.state = method, problem, state
        self.rows = torch.arange(problem.batch, device=state.parameters.device)
        shape = state.parameters.shape[:2]
        self.bound = state.parameters.new_full(shape, -torch.inf)
        self.best = DualState(*(field.clone() for field in vars(state).values()))
        self.minimiser = state.parameters.new_zeros(*shape, problem.network.inputs)
        self.slopes = _Moments.like(state.parameters)
        self.multipliers = _Moments.like(state.cut_multipliers)
        self.unit = torch.zeros_like(state.cut_multipliers)

    def climb(self, target: float, deadline: Deadline) -> None:
        """Sweeps and steps until the rows or the iterations run out."""
        for count in range(1, self.method.iterations + 1):
            deadline.check()
            sweep = self.problem.evaluate(self.state)
            gradient = self.problem.supergradient(self.state, sweep)
            self.keep(sweep.bound, gradient)
            self.unit = gradient.cut_scales
            direction = self.drop_above(target, gradient.state)
            if not len(self.rows):
                return
            self.advance(direction, count)
        self.keep(self.problem.evaluate(self.state).bound, None)

    def keep(self, bound: Tensor, gradient: Supergradient | None) -> None:
        """Remembers the points that are better than anything before, row by row."""
        everything = len(self.rows) == self.bound.shape[0]
        before = self.bound if everything else self.bound[self.rows]
        better = bound > before
        self.bound[self.rows] = torch.where(better, bound, before)
        for name, best in vars(self.best).items():
            current = getattr(self.state, name)
            if everything:
                torch.where(better[..., None], current, best, out=best)
            else:
                best[self.rows] = torch.where(better[..., None], current, best[self.rows])
        if gradient is not None:
            self.minimiser[self.rows] = gradient.minimiser

    def drop_above(self, target: float, direction: DualState) -> DualState:
        """Lets refuted rows go once they are worth a smaller batch; returns the direction of those that climb on."""
        done = (self.bound[self.rows] > target).all(dim=1)
        finished = int(done.sum())
        if finished < len(self.rows) and finished <= 0.25 * len(self.rows):
            return direction
        kept = (~done).nonzero()[:, 0]
        self.rows = self.rows[kept]
        self.problem, self.state = self.problem.select(kept), self.state.select(kept)
        self.slopes, self.multipliers = self.slopes.select(kept), self.multipliers.select(kept)
        self.unit = self.unit[kept]
        return direction.select(kept)

    def advance(self, direction: DualState, count: int) -> None:
        """One step of all free variables."""
        state = self.state
        size = self.method.step * self.method.decay ** (count - 1)
        step = self.slopes.step(direction.parameters, count).mul_(size)
        if self.problem.spans is not None:
            step.mul_(self.problem.spans)
        parameters = step.add_(state.parameters)
        multipliers, weights = state.cut_multipliers, state.row_weights
        if multipliers.shape[2]:
            step = self.multipliers.step(direction.cut_multipliers, count)
            multipliers = multipliers + step.mul_(self.unit).mul_(size)
        if weights.shape[2] > 1:
            spread = direction.row_weights - direction.row_weights.mean(2, keepdim=True)
            spread = spread / spread.abs().amax(2, keepdim=True).clamp(min=1e-12)
            weights = (weights + 1e-6) * torch.exp(2 * size * spread)
        self.state = self.problem.clamp(DualState(parameters, weights, multipliers))
