"""The dual function q of the Lagrangian decomposition, and its supergradient.

(Bunel et al. 2020; De Palma et al. 2021, "Improved Branch and Bound for Neural Network Verification via Lagrangian
Decomposition".) With multipliers `rho_k` on the equality of both copies of a pre-activation the problem splits into one
minimum a neuron, and

    q = const + min_{x_0} t_0 . x_0 + sum_k [ rho_k . b_k + min_{l <= z <= u} t_k sigma(z) - rho_k z ] ,

where t_k gathers the rho of everything behind x_k. Where `rho_k` comes from is up to the terms: `alpha` gives `slope_k t_k`, `rho` is
added to that or stands alone, `beta` adds the multipliers of splits, cut families take a part of t_k elsewhere. One sweep back
through the network's affine maps gives t, rho and q; one sweep forward gives the supergradient in everything at once
(method.md 3.3). No autograd graph is built. CROWN (Zhang et al. 2018) is q at the initial slopes; alpha-beta-CROWN climbs
the same function.

In float64, `evaluate(.., magnitudes)` also counts every rounding error of the sweep, so that the bound holds over the reals.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from verify.lagrangian.alpha import Alpha
from verify.lagrangian.beta import Beta
from verify.lagrangian.constraints import Cotangents, OutputConstrained, Simplex, constraints
from verify.lagrangian.domain import Domain, Patches, Whole
from verify.lagrangian.one_sided import Sizes, doubtful
from verify.lagrangian.probes import NoProbes
from verify.lagrangian.rho import PostMultipliers, Rho
from verify.lagrangian.sweeps import Descent, Evaluation, InPlay, Rise, Supergradient
from verify.lagrangian.terms import CutFamily, Storage, Sweep, Term
from verify.lagrangian.value import NoRounding, NoValue, RoundingError, Value
from verify.network.graph import Layer, Network
from verify.state import Bounds, DualState, Objective, Splits

T = TypeVar("T", bound=Term)
_UNCOUNTED, _NO_PROBES = NoValue(), NoProbes()


def storage(network: Network) -> dict[str, Storage]:
    """How the parts of dual states wait in the frontier, by term; others wait as they come."""
    return {term.name: term.storage(network) for term in (Alpha, Beta, Simplex)}


class DualProblem:
    """q for a batch of boxes (subproblems) and, on each, one or several objectives on the values of one node.

    Batch and objective axes are merged where tensors pass through affine maps; everything elementwise sees
    [batch, objectives, size], so that objectives on one box share its hulls.
    """

    def __init__(
        self,
        network: Network,
        bounds: Bounds,
        objective: Objective,
        splits: Splits | None = None,
        node: int | None = None,
        cuts: Sequence[CutFamily] = (),
        view: Whole | Patches | None = None,
        finite: bool = False,
    ) -> None:
        """node: whose values are bounded, by default the output; cuts: families that hold on all boxes. finite: all bounds are known to be."""
        domain = Domain(network, bounds, node, view, finite)
        if splits is None:
            splits = Splits.none(len(bounds), bounds.lower.device)
        self._set(
            domain,
            (
                *(family.term(domain) for family in cuts),
                PostMultipliers(domain),
                Alpha(domain),
                Rho(domain),
                Beta(domain, splits),
                constraints(domain, objective),
            ),
        )

    def _set(self, domain: Domain, terms: Sequence[Term]) -> None:
        self.domain, self.terms = domain, tuple(terms)
        self._in_play: dict[tuple[str, ...], InPlay] = {}

    def select(self, index: Tensor) -> DualProblem:
        """The problem of the given subproblems alone."""
        found, domain = copy(self), self.domain.select(index)
        found._set(domain, [term.select(index, domain) for term in self.terms])
        return found

    def _asked(self, weights: Simplex) -> DualProblem:
        found = copy(self)
        found._set(self.domain, [*self.terms[:-1], weights])
        return found

    def asked(self, objective: Objective) -> DualProblem:
        """The same subproblems, with what is known of them, and other objectives."""
        return self._asked(constraints(self.domain, objective))

    def widened(self, objectives: int) -> DualProblem:
        """A problem of one objective a subproblem as one of so many alike, with what is known of the subproblems."""
        return self.asked(self.objective.map(lambda part: part.expand(-1, objectives, *part.shape[2:])))

    def beside(self, node: int, coefficients: Float[Tensor, "batch objectives size"]) -> DualProblem:
        """Objectives `coefficients . z` on the values z of an earlier node over the points where the constraints hold."""
        wide = self.widened(coefficients.shape[1]) if self.objectives != coefficients.shape[1] else self
        return self._asked(OutputConstrained(self.domain, wide.objective, node, coefficients))

    @property
    def network(self) -> Network:
        return self.domain.network

    @property
    def bounds(self) -> Bounds:
        return self.domain.bounds

    @property
    def node(self) -> int:
        """Whose values are bounded."""
        return self.domain.node

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Those that the node depends on."""
        return self.domain.layers

    @property
    def splits(self) -> Splits:
        """Those on the way to each subproblem."""
        return self.term(Beta).splits

    @property
    def batch(self) -> int:
        return self.domain.batch

    @property
    def constraints(self) -> Simplex:
        """The term of the constraints' weights."""
        weights = self.terms[-1]
        assert isinstance(weights, Simplex)
        return weights

    @property
    def objective(self) -> Objective:
        return self.constraints.objective

    @property
    def objectives(self) -> int:
        """How many each subproblem has."""
        return self.objective.coefficients.shape[1]

    def term(self, kind: type[T]) -> T:
        """The term of a kind."""
        return next(term for term in self.terms if isinstance(term, kind))

    def in_play(self, state: DualState) -> InPlay:
        """The terms that a state has."""
        names = tuple(state.parts)
        if names not in self._in_play:
            self._in_play[names] = InPlay(self.domain, tuple(t for t in self.terms if t.name in names))
        return self._in_play[names]

    # points of the dual domain

    def initial(self) -> DualState:
        """CROWN's slopes, equal weights, nothing else."""
        return DualState({term.name: term.init(self.objectives) for term in self.terms if not term.free})

    def clamp(self, state: DualState) -> DualState:
        """The nearest valid point, of the terms that the problem has."""
        return DualState({term.name: term.project(state[term.name]) for term in self.in_play(state).terms})

    def without(self, state: DualState, variable: Int[Tensor, "batch objectives"]) -> DualState:
        """The state with what rests on the interval of one variable each out of play."""
        return DualState({t.name: t.without(state[t.name], variable) for t in self.in_play(state).terms})

    def decoupled(self, state: DualState, posts: bool = False) -> DualState:
        """The same cotangents by `rho` alone, in which q is no less; with `posts` by post multipliers as well.

        (Slopes of mixing activations are forgotten, so from others than the first ones q may be less.)
        """
        supports, own, post = self.backward(state).supports, self.term(Rho), self.term(PostMultipliers)
        rho, multipliers = own.init(self.objectives), post.init(self.objectives if posts else 0)
        for layer in self.layers:
            if layer.node in supports:
                rho[..., own.place(layer)] = supports[layer.node].rho
                if posts:
                    multipliers[..., layer.posts] = supports[layer.node].cotangent
        kept = {t.name: state[t.name] for t in self.in_play(state).terms if not t.within_rho}
        found = DualState({**kept, Beta.name: torch.zeros_like(state[Beta.name]), Rho.name: rho})
        return found | {PostMultipliers.name: multipliers} if posts else found

    def coupled(self, state: DualState) -> DualState:
        """The same cotangents by slopes, CROWN's where the state has none, and `rho` for the rest."""
        apart = self.decoupled(state)
        # Lines without slopes to choose have no place beside rho.
        if not self.network.alphas:
            return apart
        own = self.term(Rho)
        alpha = state[Alpha.name] if Alpha.name in state else self.term(Alpha).init(self.objectives)
        rho, supports = apart[Rho.name].clone(), self.backward(apart).supports
        for layer in self.layers:
            t = supports[layer.node].cotangent
            line = self.domain.hulls[layer.node].line(t, alpha[..., layer.alpha])
            rho[..., own.place(layer)] -= line.vjp(t)
        return apart | {Alpha.name: alpha, Rho.name: rho}

    # sweeps

    def start_sweep(
        self, state: DualState, magnitudes: dict[int, Tensor] | None = None, probes: NoProbes = _NO_PROBES
    ) -> Descent:
        """A sweep back that adds up q, where it begins."""
        weights = state[self.constraints.name]
        cotangents = self.constraints.cotangents(weights)
        constant = self.constraints.constant(weights, cotangents)
        rounding = NoRounding()
        if magnitudes is not None:
            rounding = RoundingError(magnitudes, self.domain.view.gamma, constant)
            self.constraints.charge(weights, rounding)
        return self.descent(state, self._flat(cotangents), Value(self.domain, constant, rounding), probes)

    def descent(
        self,
        state: DualState,
        pending: dict[int, Tensor],
        value: NoValue = _UNCOUNTED,
        probes: NoProbes = _NO_PROBES,
    ) -> Descent:
        """A sweep back of what is pending, by node, [batch * objectives, *shape] each."""
        return Descent(self.in_play(state), state, self.objectives, pending, value, probes)

    def _flat(self, cotangents: Cotangents) -> dict[int, Tensor]:
        flat, nodes = self.batch * self.objectives, self.network.nodes
        return {node: part.reshape(flat, *nodes[node].shape) for node, part in cotangents.items()}

    def evaluate(
        self, state: DualState, magnitudes: dict[int, Tensor] | None = None, probes: NoProbes = _NO_PROBES
    ) -> Evaluation:
        """q at `state` (which `clamp` has made valid); with `magnitudes`, less the rounding errors of this very sweep.

        `probes` go with a state of alpha, beta and weights alone.
        """
        if isinstance(magnitudes, Sizes) and magnitudes.finite is not None and self._plain(state):
            return self._on_finite_ends(state, magnitudes.finite)
        return end_sweep(self.start_sweep(state, magnitudes, probes).down_to(1))

    def _plain(self, state: DualState) -> bool:
        """Whether all multipliers in play go from layer to layer."""
        names = {Alpha.name, Beta.name, Rho.name, self.constraints.name}
        return set(state.parts) <= names and not isinstance(self.constraints, OutputConstrained)

    def _on_finite_ends(self, state: DualState, magnitudes: dict[int, Tensor]) -> Evaluation:
        """q where some values have an infinite end, which it may not rest on."""
        found = end_sweep(self.start_sweep(state, magnitudes).down_to(1))
        sizes = self.constraints.sizes(state[self.constraints.name])
        doubt = doubtful(self.domain, sizes, found.supports)
        return replace(found, bound=torch.where(doubt, -torch.inf, found.bound))

    def backward(self, state: DualState) -> Sweep:
        """The sweep without its value, which `supergradient` finds as well."""
        pending = self._flat(self.constraints.cotangents(state[self.constraints.name]))
        descent = self.descent(state, pending).down_to(1)
        return Sweep(descent.arrived, descent.supports)

    def supergradient(
        self, state: DualState, sweep: Sweep, values: dict[int, Tensor] | None = None
    ) -> Supergradient:
        """The forward sweep. Its end gives q once more: the Lagrangian at its own minimisers is the objective there, plus every
        linear multiplier times its supergradient.

        `values` is filled with the primal point, by node, [batch * objectives, *shape] each.
        """
        values = {} if values is None else values
        x = self.domain.central_minimiser(sweep.input_cotangent)
        values[0] = self._flat({0: self.domain.view.inside(0, x)})[0]
        play, weights = self.in_play(state), self.constraints
        rise = Rise(play, state, sweep, self.objectives, values)
        rise.through()
        gradient = {
            term.name: term.finished(state[term.name], rise.gradient[term.name], play.support.exact)
            for term in play.terms
        }
        gradient[weights.name] = weights.values(values[self.node], x)
        bound = weights.lagrangian(state[weights.name], gradient[weights.name], values)
        for term in reversed(play.terms):
            if term.linear and state[term.name].shape[2]:
                bound = bound + (state[term.name] * gradient[term.name]).sum(2)
        return Supergradient(DualState(gradient), bound, rise.pre_activations)


def end_sweep(descent: Descent) -> Evaluation:
    """A sweep that has arrived at the input, with its value."""
    assert isinstance(descent.value, Value)
    t = descent.arrived
    return Evaluation(t, descent.supports, descent.value.closed(t))
