"""Supergradient ascent on free multipliers: Bunel et al. 2020, and the older relaxation of Dvijotham et al. 2018.

Every pre-activation has its own multiplier, tied to no cotangent, so all layers' supergradients are independent. That dual
is worse conditioned than the restricted domain, where a slope moves everything before it in proportion, and takes
some hundred iterations where that takes five; its optimum is the relaxation's own.

Steps are in units of the cotangents at the start (each neuron's, at least the layer's mean), because their sizes differ by
orders of magnitude between networks and layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from verify.bounders.ascent import GradientOptimiser, Iterative, Optimiser
from verify.extensions import register
from verify.lagrangian.dual import DualProblem
from verify.state import DualState


@register("bounder", "supergradient")
@dataclass(frozen=True)
class SupergradientAscent(Iterative):
    """Adam on `rho`; the step falls geometrically from `first` to `last`, by default to 10 / iterations^2.

    Big steps lose what the start has, and small ones get nowhere: only a long schedule can afford to end small, but where
    the gap is small it has to.
    """

    iterations: int = 200
    first: float = 0.1
    last: float | None = None

    def start(self, problem: DualProblem, state: DualState) -> Optimiser:
        return self._optimiser(problem, problem.decoupled(state))

    def _optimiser(self, problem: DualProblem, state: DualState) -> Optimiser:
        last = min(self.first, 10 / max(1, self.iterations) ** 2) if self.last is None else self.last
        decay = (last / self.first) ** (1 / max(1, self.iterations - 1))
        return GradientOptimiser.begin(problem, state, self.first, decay, self.first)


@register("bounder", "dsg")
@dataclass(frozen=True)
class Dvijotham(SupergradientAscent):
    """The same steps on the relaxation with multipliers on both equalities of a layer, z = A(x) and x = sigma(z).

    Its optimum is the same, its bounds on the way are looser: a layer's outputs range over their whole box.
    """

    def start(self, problem: DualProblem, state: DualState) -> Optimiser:
        return self._optimiser(problem, problem.decoupled(state, posts=True))
