"""Ascent in the restricted dual domain (De Palma et al. 2021), the default bounder.

The free variables are the slopes of the supporting lines, one multiplier for each cut, and the row weights of
conjunctions. Adam's normalised steps on slopes (whose natural scale is 1) reach 90 % of what there is to gain in five
iterations; multipliers have the scale of the cotangents and step relative to it; row weights move multiplicatively on the
simplex.

The optimum of the relaxation also needs multipliers on the other pre-activations, because its polytope holds
`l <= z <= u` as well: `everywhere` frees them, at twice the price of an iteration's elementwise work.
"""

from __future__ import annotations

from dataclasses import dataclass

from verify.bounders.ascent import Climber, GradientClimber, Iterative
from verify.bounders.dual import DualProblem
from verify.state import DualState


@dataclass(frozen=True)
class Restricted(Iterative):
    """`iterations` steps from any dual state; the step size of slopes starts at `step` and decays geometrically."""

    iterations: int = 20
    step: float = 0.5
    decay: float = 0.95
    everywhere: bool = False

    def start(self, problem: DualProblem, state: DualState) -> Climber:
        if self.everywhere or not state.parameters.shape[2]:
            state = problem.coupled(state)
        own = 0.03 * self.step if state.multipliers.shape[2] else 0.0
        return GradientClimber.begin(problem, state, self.step, self.decay, own)
