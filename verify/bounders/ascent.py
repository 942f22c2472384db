"""The driver that all iterative bounders share: climb, remember the best, let go of what is refuted.

A bounder brings any dual state into its own domain (where q is no less) and makes steps; the driver evaluates, keeps the
best point of every objective, so that the result is never worse than the start, and drops subproblems as soon as all
of their objectives exceed the target. What it returns is a dual state: evaluating it gives the bound again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.optim.adam import adam

from verify.deadline import Deadline
from verify.lagrangian.dual import DualProblem
from verify.lagrangian.sweeps import Supergradient
from verify.state import DualState

Observer = Callable[[int, Tensor], None]  # is told the best bounds after every iteration


@dataclass(frozen=True)
class Ascended:
    """The best dual point found for every objective, its value, and the input's minimiser where the climb ended.

    (A corner of the box for subproblems that were dropped because all their objectives exceeded the target.)
    """

    bound: Float[Tensor, "batch objectives"]
    state: DualState
    minimiser: Float[Tensor, "batch objectives inputs"]
    iterations: int = 0


class Optimiser(ABC):
    """A climb in progress: the problem of the rows still climbing and their current point."""

    problem: DualProblem
    state: DualState

    @abstractmethod
    def evaluate(self) -> Float[Tensor, "batch objectives"]:
        """q at the current point."""

    @abstractmethod
    def step(self, count: int) -> None:
        """The `count`-th step, from the point last looked at."""

    @abstractmethod
    def select(self, rows: Tensor) -> Optimiser:
        """The climb of the given subproblems alone, from the point last looked at."""


class Bounder(ABC):
    """What brings a dual point to a better one. Subclasses are frozen dataclasses of their settings."""

    @abstractmethod
    def ascend(
        self,
        problem: DualProblem,
        state: DualState,
        target: float = torch.inf,
        deadline: Deadline | None = None,
        soft_deadline: Deadline | None = None,
        observe: Observer | None = None,
    ) -> Ascended:
        """The best point found before every objective's bound exceeds `target` or `soft_deadline` has passed.

        Raises OutOfTimeError when the deadline passes.
        """


class Iterative(Bounder):
    """A bounder that makes steps: at most `iterations`."""

    iterations: int

    @abstractmethod
    def start(self, problem: DualProblem, state: DualState) -> Optimiser:
        """A climb from a valid state, whose own domain's point there is no looser."""

    def ascend(
        self,
        problem: DualProblem,
        state: DualState,
        target: float = torch.inf,
        deadline: Deadline | None = None,
        soft_deadline: Deadline | None = None,
        observe: Observer | None = None,
    ) -> Ascended:
        optimiser = self.start(problem, problem.clamp(state))
        run = _Run(optimiser, target, deadline or Deadline(), soft_deadline or Deadline(), observe)
        return run.optimise(self.iterations)


class _Run:
    """One climb of a batch: the best points, and the rows that still climb."""

    def __init__(
        self,
        optimiser: Optimiser,
        target: float,
        deadline: Deadline,
        soft_deadline: Deadline,
        observe: Observer | None,
    ) -> None:
        self.optimiser, self.target, self.observe = optimiser, target, observe
        self.deadline, self.soft_deadline = deadline, soft_deadline
        problem, state = optimiser.problem, optimiser.state
        shape, like = (problem.batch, problem.objectives), problem.bounds.lower
        self.bound = like.new_full(shape, -torch.inf)
        self.best = state.map(Tensor.clone)
        self.minimiser = problem.domain.input_minimiser(like.new_zeros(*shape, problem.network.inputs))
        self.rows = torch.arange(problem.batch, device=like.device)
        # Elsewhere the program would stand still at every look.
        self.looks = like.device.type == "cpu"

    def optimise(self, iterations: int) -> Ascended:
        """Alternates looks and steps; after the last step only q is evaluated."""
        count = 0
        while count < iterations and self.soft_deadline.remaining > 0:
            self.deadline.check()
            self.keep(self.optimiser.evaluate())
            self.tell(count)
            if self.looks and self.drop_refuted():
                break
            count += 1
            self.optimiser.step(count)
        if len(self.rows):
            found = self.optimiser.problem.evaluate(self.optimiser.state)
            self.keep(found.bound)
            self.minimiser[self.rows] = self.optimiser.problem.domain.input_minimiser(found.input_cotangent)
            self.tell(count)
        return Ascended(self.bound, self.best, self.minimiser, count)

    def tell(self, count: int) -> None:
        """Reports to whoever watches."""
        if self.observe is not None:
            self.observe(count, self.bound)

    def keep(self, bound: Tensor) -> None:
        """Remembers the points that are better than anything before, row by row."""
        state = self.optimiser.state
        if len(self.rows) == self.bound.shape[0]:
            better = bound > self.bound
            self.best = _better(better, state, self.best)
            self.bound = torch.where(better, bound, self.bound)
            return
        before = self.best.select(self.rows)
        better = bound > self.bound[self.rows]
        self.bound[self.rows] = torch.where(better, bound, self.bound[self.rows])
        for name, part in _better(better, state, before).items():
            self.best[name][self.rows] = part

    def drop_refuted(self) -> bool:
        """Lets refuted rows go once they are worth a smaller batch; whether none is left."""
        done = (self.bound[self.rows] > self.target).all(dim=1)
        finished = int(done.sum())
        if finished < len(self.rows) and finished <= 0.25 * len(self.rows):
            return False
        # What climbs on must not share memory with the best points, which are written row by row from now on.
        self.best = self.best.map(Tensor.clone)
        kept = (~done).nonzero()[:, 0]
        self.rows = self.rows[kept]
        if len(kept):
            self.optimiser = self.optimiser.select(kept)
        return not len(kept)


def _better(better: Bool[Tensor, "batch objectives"], new: DualState, old: DualState) -> DualState:
    """Each objective's better state. (On a CPU a look at the mask is free, and mostly all rows climb.)"""
    if better.device.type == "cpu":
        if bool(better.all()):
            return new
        if not bool(better.any()):
            return old
    mask = better[..., None]
    return new.map(lambda part, other: torch.where(mask, part, other), old)


class Moments:
    """Adam's running averages of one tensor (Kingma and Ba 2015), stepped by torch's fused kernel."""

    def __init__(self, mean: Tensor, square: Tensor) -> None:
        self.mean, self.square = mean, square

    @classmethod
    def like(cls, tensor: Tensor) -> Moments:
        return cls(torch.zeros_like(tensor), torch.zeros_like(tensor))

    def step(
        self, start: Tensor, gradient: Tensor, count: int, size: float, unit: Tensor | None = None
    ) -> Tensor:
        """`start` after the `count`-th step of an ascent: normalised, times `size` and `unit`."""
        return stepped([Move(self, start, gradient, unit)], count, size)[0]

    def select(self, rows: Tensor) -> Moments:
        return Moments(self.mean[rows], self.square[rows])


class Move(NamedTuple):
    """A tensor on its way: where it is, and where to; unit: of its entries' steps, None where all are 1."""

    moments: Moments
    start: Tensor
    gradient: Tensor
    unit: Tensor | None = None


def stepped(moves: Sequence[Move], count: int, size: float) -> list[Tensor]:
    """All of them after their `count`-th step of that size, together."""
    some = [move for move in moves if move.start.numel()]
    steps = [
        move.start.clone(memory_format=torch.contiguous_format)
        if move.unit is None
        else torch.zeros_like(move.gradient)
        for move in some
    ]
    if some:
        before = torch.full((len(some),), float(count - 1), device=some[0].gradient.device)
        adam(
            steps,
            [move.gradient for move in some],
            [move.moments.mean for move in some],
            [move.moments.square for move in some],
            [],
            list(before.unbind()),
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.99,
            lr=size,
            weight_decay=0.0,
            eps=1e-12,
            maximize=True,
        )
    moved = iter(
        step if move.unit is None else step.mul_(move.unit).add_(move.start)
        for step, move in zip(steps, some, strict=True)
    )
    return [next(moved) if move.start.numel() else move.start for move in moves]


@dataclass
class GradientOptimiser(Optimiser):
    """Adam on every free variable of the state, each in its own unit.

    Slopes step in the units of their ranges; multipliers in units of the cotangents beside them.
    """

    problem: DualProblem
    state: DualState
    # By the term's name.
    moments: dict[str, Moments]
    step_size: float
    decay: float
    rho_step: float
    # Of each term's steps, as of the last evaluation.
    units: dict[str, Tensor | None] = field(default_factory=dict)
    found: Supergradient | None = None

    @classmethod
    def begin(
        cls, problem: DualProblem, state: DualState, step: float, decay: float, rho_step: float = 0.0
    ) -> GradientOptimiser:
        """A climb from `state`; free multipliers start at `rho_step` units."""
        moments = {name: Moments.like(part) for name, part in state.items()}
        return cls(problem, state, moments, step, decay, rho_step)

    def evaluate(self, values: dict[int, Tensor] | None = None) -> Tensor:
        """As for any optimiser; `values` is filled with the primal point, by node."""
        sweep = self.problem.backward(self.state)
        for term in self.problem.in_play(self.state).terms:
            if not (term.unit_lasts and term.name in self.units):
                self.units[term.name] = term.unit(self.state[term.name], sweep)
        self.found = self.problem.supergradient(self.state, sweep, values)
        return self.found.bound

    def step(self, count: int) -> None:
        assert self.found is not None
        shrunk = self.decay ** (count - 1)
        moved = dict(self.state.parts)
        for free in (False, True):
            moves = {
                term.name: Move(
                    self.moments[term.name],
                    moved[term.name],
                    term.direction(moved[term.name], self.found.state[term.name]),
                    self.units[term.name],
                )
                for term in self.problem.in_play(self.state).terms
                if term.moves and term.free == free
            }
            size = self.rho_step if free else self.step_size
            moved |= zip(moves, stepped(list(moves.values()), count, size * shrunk), strict=True)
        self.state = self.problem.clamp(DualState(moved))

    def select(self, rows: Tensor) -> GradientOptimiser:
        found = self.found
        if found is not None:
            found = replace(
                found, state=found.state.select(rows), bound=found.bound[rows], pre_activations={}
            )
        moments = {name: part.select(rows) for name, part in self.moments.items()}
        units = {name: unit if unit is None else unit[rows] for name, unit in self.units.items()}
        return GradientOptimiser(
            self.problem.select(rows),
            self.state.select(rows),
            moments,
            self.step_size,
            self.decay,
            self.rho_step,
            units,
            found,
        )
