"""Supergradient ascent on free multipliers: Bunel et al. 2020, and the older relaxation of Dvijotham et al. 2018.

Every pre-activation has its own multiplier, tied to no cotangent, so all layers' supergradients are independent. That dual
is worse conditioned than the restricted domain, where a slope moves everything before it in proportion, and takes
some hundred iterations where that takes five; its optimum is the relaxation's own.

Steps are in units of the cotangents at the start (each neuron's, at least the layer's mean), because their sizes differ by
orders of magnitude between networks and layers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verify.bounders.ascent import Bounder, Climber, Moments
from verify.bounders.dual import DualProblem, Supergradient, Sweep, spread
from verify.network.graph import Layer
from verify.state import DualState


@dataclass(frozen=True)
class SupergradientAscent(Bounder):
    """Adam on `rho`; the step falls geometrically from `first` to `last`.

    A hundred or two of iterations want `last` = 0.001; a few thousand, from 1 to 1e-5, come to the optimum.
    """

    iterations: int = 200
    first: float = 0.5
    last: float = 0.001

    def start(self, problem: DualProblem, state: DualState) -> Climber:
        return DecoupledClimber.begin(self, problem, problem.decoupled(state))


@dataclass(frozen=True)
class Dvijotham(SupergradientAscent):
    """The same steps on the relaxation with multipliers on both equalities of a layer, z = A(x) and x = sigma(z).

    Its optimum is the same, its bounds on the way are looser: a layer's outputs range over their whole box.
    """

    def start(self, problem: DualProblem, state: DualState) -> Climber:
        return DecoupledClimber.begin(self, problem, problem.decoupled(state, posts=True))


def place(problem: DualProblem, layer: Layer) -> slice:
    """Where a state with multipliers of all pre-activations has the layer's."""
    inputs = problem.network.inputs
    return slice(layer.variables.start - inputs, layer.variables.stop - inputs)


def unit_of(cotangent: Tensor) -> Tensor:
    """The unit of a layer's steps: each neuron's cotangent, the layer's mean if that is more."""
    size = cotangent.abs()
    return torch.maximum(size, size.mean(2, keepdim=True))


def weight_direction(weights: Tensor, direction: Tensor) -> Tensor:
    """The supergradient of row weights that are divided by their sum: rows of the optimum's face agree there."""
    return direction - (weights * direction).sum(2, keepdim=True)


@dataclass
class DecoupledClimber(Climber):
    """Adam on multipliers, in units of the cotangents at the start, and on row weights."""

    method: SupergradientAscent
    problem: DualProblem
    state: DualState
    moments: dict[str, Moments]  # by the state's field
    units: DualState | None = None  # from the first sweep
    found: Supergradient | None = None

    @classmethod
    def begin(cls, method: SupergradientAscent, problem: DualProblem, state: DualState) -> DecoupledClimber:
        """A climb from a state that has multipliers alone."""
        return cls(method, problem, state, {name: Moments.like(part) for name, part in vars(state).items()})

    def look(self) -> Tensor:
        sweep = self.problem.backward(self.state)
        if self.units is None:
            self.units = self._units(sweep)
        self.found = self.problem.supergradient(self.state, sweep)
        return self.found.bound

    def _units(self, sweep: Sweep) -> DualState:
        units = DualState(*(torch.ones_like(part) for part in vars(self.state).values()))
        for layer in self.problem.layers:
            unit = unit_of(sweep.supports[layer.node].cotangent)
            units.multipliers[..., place(self.problem, layer)] = spread(unit, layer.size)
            if units.post_multipliers.shape[2]:
                units.post_multipliers[..., layer.posts] = unit
        return units

    def advance(self, count: int) -> None:
        assert self.found is not None and self.units is not None
        method, direction, state, units = self.method, self.found.state, self.state, self.units
        size = method.first * (method.last / method.first) ** ((count - 1) / max(1, method.iterations - 1))

        def moved(name: str, direction: Tensor, unit: Tensor | None) -> Tensor:
            return self.moments[name].step(getattr(state, name), direction, count, size, unit)

        weights = state.row_weights
        if self.problem.rows > 1:
            weights = moved("row_weights", weight_direction(weights, direction.row_weights), None)
        self.state = self.problem.clamp(
            replace(
                state, row_weights=weights, multipliers=moved("multipliers", direction.multipliers, units.multipliers),
                post_multipliers=moved("post_multipliers", direction.post_multipliers, units.post_multipliers),
            )
        )  # fmt: skip

    def select(self, rows: Tensor) -> DecoupledClimber:
        found = self.found
        if found is not None:
            found = replace(
                found, state=found.state.select(rows), bound=found.bound[rows], cut_scales=found.cut_scales[rows],
                pre_activations={},
            )  # fmt: skip
        return DecoupledClimber(
            self.method, self.problem.select(rows), self.state.select(rows),
            {name: part.select(rows) for name, part in self.moments.items()},
            None if self.units is None else self.units.select(rows), found,
        )  # fmt: skip
