"""Ascent in the restricted dual domain (De Palma et al. 2021), the default bounder.

The free variables are the slopes of the supporting lines, one multiplier for each split, and the constraint weights of
conjunctions. Adam's normalised steps on slopes (whose natural scale is 1) reach 90 % of what there is to gain in five
iterations; multipliers have the scale of the cotangents and step relative to it; constraint weights move multiplicatively on the
simplex.

The optimum of the relaxation also needs multipliers on the other pre-activations, because its polytope holds
`l <= z <= u` as well: `everywhere` frees them, at twice the price of an iteration's elementwise work.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from verify.bounders.ascent import GradientOptimiser, Iterative, Optimiser
from verify.extensions import register
from verify.lagrangian.dual import DualProblem
from verify.state import DualState

_LARGEST = 0.3  # first step of a longer climb


@dataclass(frozen=True)
class Restricted(Iterative):
    """`iterations` steps from any dual state; the step size of slopes starts at `step` and decays geometrically."""

    iterations: int = 20
    step: float = 0.5
    decay: float = 0.95
    everywhere: bool = False

    def start(self, problem: DualProblem, state: DualState) -> Optimiser:
        if self.everywhere or "alpha" not in state:
            state = problem.coupled(state)
        own = 0.03 * self.step if "rho" in state else 0.0
        return GradientOptimiser.begin(problem, state, self.step, self.decay, own)

    def longer(self, factor: int) -> Restricted:
        """As many times the iterations, with steps that start larger and end at the same fraction of that."""
        return replace(
            self,
            iterations=factor * self.iterations,
            step=min(factor * self.step, _LARGEST),
            decay=self.decay ** (1 / factor),
        )


@register("bounder", "restricted")
def by_itself() -> Restricted:
    """Without branching, which would go on where it ends, it takes longer."""
    return Restricted(100)
