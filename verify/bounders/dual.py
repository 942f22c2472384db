"""The dual function q of the Lagrangian decomposition, and its supergradient.

(Bunel et al. 2020; De Palma et al. 2021, "Improved Branch and Bound for Neural Network Verification via Lagrangian
Decomposition".) With multipliers `rho_k` on the equality of both copies of a pre-activation the problem splits into one
minimum a neuron, and

    q = const + min_{x_0} t_0 . x_0 + sum_k [ rho_k . b_k + min_{l <= z <= u} t_k sigma(z) - rho_k z ] ,

where t_k gathers the rho of everything behind x_k. The multipliers are `rho_k = s_k t_k + multipliers_k`: slopes alone are the
restricted dual domain (2021), multipliers alone the decoupled one (2020), both together reach what either does. With slopes
alone the minimum of a neuron is `t_k * intercept`, with the line `s_k z + intercept` that supports the activation for the
sign of t_k. One sweep back through the network's affine maps gives t, rho and q; one sweep forward gives the supergradient
in everything at once (method.md 3.3). No autograd graph is built. CROWN (Zhang et al. 2018) is q at the initial slopes;
alpha-beta-CROWN climbs the same function. `post_multipliers` relax the activations' own equalities too (Dvijotham
et al. 2018).

In float64, `evaluate(.., magnitudes)` also charges every rounding error of the sweep, so that the bound holds over the reals.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.bounders.cuts import Cuts
from verify.bounders.sweep import (
    Account,
    Evaluation,
    Given,
    OutputConstraint,
    Patches,
    Probes,
    Supergradient,
    Support,
    Sweep,
    dot,
    join,
    pull,
)
from verify.deadline import tick
from verify.network.activations import Activation, Hull, LinearRelaxation
from verify.network.affine import Affine
from verify.network.graph import Layer, Network
from verify.state import Bounds, DualState, Objective, Splits

_UNDERFLOW = 1e-200  # what products too small for float64 may lose, of values up to 1e100
_FIXED = 1e-9  # relative width below which an interval counts as a single value


class DualProblem:
    """q for a batch of boxes (subproblems) and, on each, one or several objectives on the values of one node.

    Batch and objective axes are merged where tensors pass through affine maps; everything elementwise sees
    [batch, objectives, size], so that objectives on one box share its hulls.
    """

    def __init__(
        self, network: Network, bounds: Bounds, objective: Objective, splits: Splits | None = None,
        node: int | None = None, output_constraint: OutputConstraint | None = None, patches: Patches | None = None,
        cuts: Cuts | None = None,
    ) -> None:  # fmt: skip
        self.network, self.bounds, self.objective = network, bounds, objective
        self.output_constraint, self.patches, self.cuts = output_constraint, patches, cuts
        self.offsets = network.offsets if patches is None else patches.offsets
        self.node = len(network.nodes) - 1 if node is None else node
        self.batch, self.objectives, self.rows, _ = objective.coefficients.shape
        self.splits = Splits.none(self.batch, bounds.lower.device) if splits is None else splits
        ancestors = network.ancestors[self.node]
        self.layers = tuple(layer for layer in network.layers if layer.node in ancestors)

    def select(self, rows: Tensor) -> DualProblem:
        """The problem of the given subproblems alone."""
        return DualProblem(
            self.network,
            self.bounds.select(rows),
            self.objective.select(rows),
            self.splits.select(rows),
            self.node,
            None
            if self.output_constraint is None
            else replace(self.output_constraint, coefficients=self.output_constraint.coefficients[rows]),
            None if self.patches is None else self.patches.select(rows),
            self.cuts,
        )

    def asked(self, objective: Objective) -> DualProblem:
        """The same subproblems, with what is known of them, and other objectives."""
        found = copy(self)
        found.objective = objective
        _, found.objectives, found.rows, _ = objective.coefficients.shape
        return found

    def widened(self, objectives: int, output_constraint: OutputConstraint | None = None) -> DualProblem:
        """A problem of one objective a subproblem as one of so many alike, with what is known of the subproblems, and others beside them."""
        assert self.output_constraint is None
        alike = (part.expand(-1, objectives, *part.shape[2:]) for part in vars(self.objective).values())
        found = self.asked(Objective(*alike))
        found.output_constraint = output_constraint
        return found

    @cached_property
    def hulls(self) -> dict[int, Hull]:
        """The layers' activations on the boxes, by node; shaped to broadcast over objectives, and over boxes that are alike."""
        return {layer.node: self._hull(layer) for layer in self.layers}

    def _hull(self, layer: Layer) -> Hull:
        lower, upper = (end[:, None, layer.variables] for end in vars(self.bounds).values())
        if layer.activation.mixes and self.batch > 1:
            alike = bool((lower == lower[:1]).all() and (upper == upper[:1]).all())
            lower, upper = (end[:1] if alike else end for end in (lower, upper))
        return layer.activation.hull(lower, torch.maximum(lower, upper))

    @cached_property
    def frozen(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Layers whose pre-activations are all but fixed on every box: their outputs' intervals, [batch, 1, post].

        A sweep ends there with the interval's minimum: nothing below such a layer could make a difference. (Multipliers of
        splits could, so with splits of activations nothing is frozen; nor in a deployed network, where something below may overflow.)
        """
        found: dict[int, tuple[Tensor, Tensor]] = {}
        if self._split_places or self.network.deployed or self.patches is not None:
            return found
        for layer in self.layers:
            lower, upper = (
                self.bounds.lower[:, None, layer.variables],
                self.bounds.upper[:, None, layer.variables],
            )
            excess = (upper - lower) - _FIXED * torch.maximum(lower.abs(), upper.abs())
            if bool(excess.max() <= 0):  # NaN, as infinities make it, is not
                found[layer.node] = layer.activation.interval(lower, torch.maximum(lower, upper))
        return found

    @cached_property
    def spans(self) -> Float[Tensor, "batch 1 alpha"] | None:
        """The unit of each slope parameter's steps; None where it is 1 throughout."""
        known = [(layer, self.hulls[layer.node].span) for layer in self.layers]
        if all(span is None for _, span in known):
            return None
        spans = self.bounds.lower.new_ones(self.batch, 1, self.network.alphas)
        for layer, span in known:
            if span is not None:
                spans[..., layer.alpha] = span
        return spans

    def units(self, state: DualState, sweep: Sweep) -> DualState:
        """The unit of each multiplier's steps: its layer's cotangents, each neuron's own or the mean if that is more.

        (Of rows' weights beside other objectives: what they are together.)
        """
        units = DualState(*(torch.ones_like(part) for part in vars(state).values()))
        if self.output_constraint is not None:
            units.constraint_weights.mul_(state.constraint_weights.sum(2, keepdim=True))
        if not state.rho.shape[2]:
            return units
        for layer in self.layers:
            size = sweep.supports[layer.node].cotangent.abs()
            size = torch.maximum(size, size.mean(2, keepdim=True))
            units.rho[..., self.place(layer)] = layer.activation.beside(size, layer.size)
            if units.post_multipliers.shape[2]:
                units.post_multipliers[..., layer.posts] = size
        return units

    def _has_cuts(self, state: DualState) -> bool:
        """Whether cuts are in play."""
        return self.cuts is not None and state.cut_shares.shape[2] > 0

    def without_cuts(self, state: DualState, variable: Int[Tensor, "batch objectives"]) -> DualState:
        """The state with the cuts of one variable each out of play."""
        if not self._has_cuts(state):
            return state
        assert self.cuts is not None
        own = self.cuts.neurons == variable[..., None]
        return replace(state, cut_shares=state.cut_shares.masked_fill(own, 0.0))

    @cached_property
    def _idle_cuts(self) -> Bool[Tensor, "batch 1 cuts"]:
        """Cuts of outputs that are linear on the box: there they say less than the line."""
        assert self.cuts is not None
        lower, upper = (end[:, None, self.cuts.neurons] for end in vars(self.bounds).values())
        return torch.logical_or(lower >= 0, upper <= 0)

    @cached_property
    def _split_places(self) -> dict[int, tuple[Tensor, Tensor]]:
        """For each layer with splits: their local indices and which splits are the layer's, both [batch, 1, depth]."""
        variable = self.splits.variable[:, None, :]
        places = {}
        for layer in self.layers:
            own = (variable >= layer.variables.start) & (variable < layer.variables.stop)
            if variable.shape[2] and bool(own.any()):
                places[layer.node] = (torch.where(own, variable - layer.variables.start, 0), own)
        return places

    @cached_property
    def _split_bounds(self) -> tuple[Tensor, Tensor]:
        index = self.splits.variable.clamp(min=0)
        return self.bounds.lower.gather(1, index)[:, None], self.bounds.upper.gather(1, index)[:, None]

    @cached_property
    def alpha_range(self) -> tuple[Tensor, Tensor]:
        """The least and the greatest valid slope parameters, [batch, 1, parameters]."""
        ends = [like.new_zeros(self.batch, 1, self.network.alphas) for like in vars(self.bounds).values()]
        for layer in self.layers:
            for end, value in zip(ends, self.hulls[layer.node].alpha_range, strict=True):
                end[..., layer.alpha] = value
        return ends[0], ends[1]

    def initial(self) -> DualState:
        """CROWN's slopes, equal constraint weights, nothing else."""
        like = self.bounds.lower
        alpha = like.new_zeros(self.batch, 1, self.network.alphas)
        for layer in self.layers:
            alpha[..., layer.alpha] = self.hulls[layer.node].initial()
        shape = (self.batch, self.objectives)
        return DualState(
            alpha.expand(-1, self.objectives, -1), like.new_full((*shape, self.rows), 1 / self.rows),
            like.new_zeros(*shape, self.splits.variable.shape[1]), like.new_zeros(*shape, 0), like.new_zeros(*shape, 0),
            like.new_zeros(*shape, 0 if self.cuts is None else len(self.cuts)),
        )  # fmt: skip

    def clamp(self, state: DualState) -> DualState:
        """The nearest valid point: slopes within their hulls, weights on the simplex."""
        alpha = state.alpha
        if alpha.shape[2]:
            alpha = alpha.clamp(*self.alpha_range)
        weights = state.constraint_weights
        if self.output_constraint is not None:
            weights = weights.clamp(min=0)
        elif self.rows > 1:
            weights = weights.clamp(min=0)
            total = weights.sum(-1, keepdim=True)
            weights = torch.where(total > 0, weights / total, 1 / self.rows)
        else:
            weights = torch.ones_like(weights)
        cuts = state.cut_shares
        if self._has_cuts(state):
            assert self.cuts is not None
            cuts = self.cuts.shared(cuts.clamp(min=0).masked_fill(self._idle_cuts, 0.0))
        return replace(state, alpha=alpha, constraint_weights=weights, cut_shares=cuts)

    def decoupled(self, state: DualState, posts: bool = False) -> DualState:
        """The same `rho` as multipliers alone, in which q is no less; with `posts` those of activations as well.

        (Parameters of mixing activations are forgotten, so from others than the first ones q may be less.)
        """
        supports = self.backward(state).supports
        like, shape = self.bounds.lower, (self.batch, self.objectives)
        found = DualState(
            like.new_zeros(*shape, 0), state.constraint_weights, torch.zeros_like(state.beta),
            like.new_zeros(*shape, self.network.variables - self.network.inputs),
            like.new_zeros(*shape, self.network.posts if posts else 0), state.cut_shares,
        )  # fmt: skip
        for layer in self.layers:
            if layer.node in supports:
                found.rho[..., self.place(layer)] = supports[layer.node].rho
                if posts:
                    found.post_multipliers[..., layer.posts] = supports[layer.node].cotangent
        return found

    def coupled(self, state: DualState) -> DualState:
        """The same `rho` as slopes, CROWN's where the state has none, and multipliers for the rest."""
        whole = self.decoupled(state)
        if not self.network.alphas:  # lines without slopes to choose have no place beside multipliers
            return whole
        slopes = state.alpha if state.alpha.shape[2] else self.initial().alpha
        multipliers, supports = whole.rho.clone(), self.backward(whole).supports
        for layer in self.layers:
            t = supports[layer.node].cotangent
            line = self.hulls[layer.node].line(t, slopes[..., layer.alpha])
            multipliers[..., self.place(layer)] -= line.vjp(t)
        return replace(whole, alpha=slopes, rho=multipliers)

    def place(self, layer: Layer) -> slice:
        """Where the layer's multipliers are in a state that has them."""
        inputs = self.network.inputs
        return slice(layer.variables.start - inputs, layer.variables.stop - inputs)

    def _multiplied(
        self, layer: Layer, t: Tensor, state: DualState
    ) -> tuple[LinearRelaxation | None, Tensor, Tensor]:
        """The line and `rho` of a layer, and what the multipliers of the layer's own splits cost: nothing else counts them."""
        line, rho = None, None
        if self.sloped(state):
            line = self.hulls[layer.node].line(t, state.alpha[..., layer.alpha])
            rho = line.vjp(t)
        if state.rho.shape[2]:
            own = state.rho[..., self.place(layer)]
            rho = own if rho is None else rho + own
        if rho is None:
            rho = t.new_zeros(*t.shape[:2], layer.size)
        if layer.node not in self._split_places:
            return line, rho, rho.new_zeros(())
        index, own = self._split_places[layer.node]
        multipliers = state.beta
        used = own & (multipliers != 0)
        beta = torch.where(used, multipliers, 0.0)
        rho = rho.scatter_add(2, index.expand(-1, rho.shape[1], -1), beta)
        if self._exact(state):
            return line, rho, rho.new_zeros(())
        lower, upper = self._split_bounds
        cost = torch.where(used, torch.maximum(multipliers * lower, multipliers * upper), 0.0)
        return line, rho, cost.sum(2)

    def _exact(self, state: DualState) -> bool:
        """Whether each neuron's minimum is looked up at `rho`, not read off its line."""
        return state.rho.shape[2] > 0 or not self.sloped(state)

    def sloped(self, state: DualState) -> bool:
        """Whether lines are in play. A network without parameters has lines all the same, where no multipliers replace them."""
        return state.alpha.shape[2] > 0 or not (self.network.alphas or state.rho.shape[2])

    def minimum(
        self, layer: Layer, t: Tensor, rho: Tensor, line: LinearRelaxation | None = None
    ) -> tuple[Tensor, Tensor]:
        """Where `t x - rho z` has its minimum over a layer's box: z* [batch, objectives, pre] and x* [batch, objectives, post]."""
        return layer.activation.minimum_on(self.hulls[layer.node], t, rho, line)

    def _support(
        self, layer: Layer, t: Tensor, line: LinearRelaxation | None, rho: Tensor, state: DualState
    ) -> Support:
        """The minimisers of a layer."""
        if not self._exact(state):
            assert line is not None
            return Support(t, rho, line, line.minimiser)
        inner_t = t
        if state.post_multipliers.shape[2]:
            inner_t = state.post_multipliers[..., layer.posts]
        minimiser, inner = self.minimum(layer, inner_t, rho, line)
        if inner_t is t:
            return Support(t, rho, line, minimiser, inner)
        hull = self.hulls[layer.node]
        low, high = layer.activation.interval(hull.lower, hull.upper)
        return Support(t, rho, line, minimiser, torch.where(t > inner_t, low, high), inner)

    def _settle(
        self, account: Account, layer: Layer, support: Support, cost: Tensor, state: DualState
    ) -> None:
        """A layer's part of q."""
        t, rho = support.cotangent, support.rho
        account.add(dot(rho, self.offsets[layer.pre_node]) - cost)
        if support.post is None:
            assert support.line is not None
            account.add(self.hulls[layer.node].value(t, support.line))
        else:
            assert isinstance(support.minimiser, Tensor)
            account.add((t * support.post).sum(2) - (rho * support.minimiser).sum(2))
        if support.inner is not None:
            assert support.post is not None
            multipliers = state.post_multipliers[..., layer.posts]
            account.add((multipliers * (support.inner - support.post)).sum(2))
            account.charge(multipliers, layer.node)
            self._charge_sums(account, layer, multipliers)
        account.charge(t, layer.node)
        account.charge(rho, layer.pre_node)
        account.charge_size(cost.abs())
        self._charge_sums(account, layer, t)

    def _charge_sums(self, account: Account, layer: Layer, t: Tensor) -> None:
        """Charges what a layer's lines add up themselves."""
        size = None if account.magnitudes is None else self.hulls[layer.node].size(t)
        if size is not None:
            account.charge_size(size)

    def _changes(self, layer: Layer, t: Tensor, state: DualState, probes: Probes) -> tuple[Tensor, Tensor]:
        """What each objective's probe changes, if it is the layer's: `rho` at its variable, and the bound directly."""
        own = (probes.variable >= layer.variables.start) & (probes.variable < layer.variables.stop)
        place = torch.where(own, probes.variable - layer.variables.start, 0)
        column = place + layer.variables.start
        low, high = self.bounds.lower.gather(1, column), self.bounds.upper.gather(1, column)
        lower = torch.where(own & (probes.side > 0), torch.maximum(low, probes.value), low)
        upper = torch.where(own & (probes.side < 0), torch.minimum(high, probes.value), high)
        copies = range(layer.activation.alphas_per_neuron)
        slopes = state.alpha[:, 0, layer.alpha]
        slopes = torch.cat([slopes.gather(1, place + copy * layer.size) for copy in copies], 1)
        t_here = t.gather(2, place[..., None])[..., 0]
        old, new = (
            hull.line(t_here, hull.clamp(slopes))
            for hull in (
                layer.activation.hull(low, torch.maximum(low, high)),
                layer.activation.hull(lower, torch.maximum(lower, upper)),
            )
        )
        rho, gain = (new.slope - old.slope) * t_here, t_here * (new.intercept - old.intercept)
        return torch.where(own, rho, 0.0), torch.where(own, gain, 0.0)

    def _probed(
        self, layer: Layer, t: Tensor, rho: Tensor, state: DualState, probes: Probes
    ) -> tuple[Tensor, Tensor]:
        """`rho` as each objective's probe would have it, and what the probe adds to the bound directly."""
        changed, gain = self._changes(layer, t, state, probes)
        place = (probes.variable - layer.variables.start).clamp(0, layer.size - 1)
        return rho.scatter_add(2, place[..., None], changed[..., None]), gain

    def keeping(self, sweep: Sweep, state: DualState, probes: Probes) -> Float[Tensor, "batch objectives"]:
        """The multipliers of the probes' splits that leave `rho` as it is in `sweep`: children no looser than their parent."""
        kept = torch.zeros_like(probes.value).to(state.alpha)
        for layer in self.layers:
            if layer.node in sweep.supports:
                t = sweep.supports[layer.node].cotangent.expand(-1, probes.variable.shape[1], -1)
                if not layer.activation.joins:
                    kept = kept - self._changes(layer, t, state, probes)[0]
        return kept

    def evaluate(
        self, state: DualState, magnitudes: dict[int, Tensor] | None = None, probes: Probes | None = None
    ) -> Evaluation:
        """q at `state` (which `clamp` has made valid); with `magnitudes`, less the rounding errors of this very sweep.

        With `probes` (in the restricted domain) every objective is bounded as if its probe's split had been made; probes of
        activations that join several variables are passed over.
        """
        pending, account = self.start_sweep(state, magnitudes)
        supports = self.descend(pending, 1, state, account, probes)
        return self.end_sweep(pending, supports, account)

    def backward(self, state: DualState) -> Sweep:
        """The sweep without its value, which `supergradient` finds as well."""
        pending = self._start(state)
        supports = self.descend(pending, 1, state)
        return Sweep(self._arrived(pending), supports)

    def start_sweep(
        self, state: DualState, magnitudes: dict[int, Tensor] | None = None
    ) -> tuple[dict[int, Tensor], Account]:
        """A sweep's beginning: the objective's cotangents by node, [batch * objectives, *shape], and its account."""
        start, _ = self.weighted_objective(state)
        value = dot(start, self.offsets[self.node])
        if self.output_constraint is not None:
            value = (
                value
                + self.output_constraint.coefficients @ self.network.offsets[self.output_constraint.node]
            )
        account = Account(value - (state.constraint_weights * self.objective.thresholds).sum(2), magnitudes)
        if magnitudes is not None:
            self._charge_objective(account, state, magnitudes)
        return self._start(state), account

    def end_sweep(
        self, pending: dict[int, Tensor], supports: dict[int, Support], account: Account
    ) -> Evaluation:
        """A sweep's end: the input's minimum, and what rounding may have cost."""
        t0 = self._arrived(pending)
        account.add(self._input_minimum(t0))
        bound = account.bound
        if account.magnitudes is not None:
            account.charge(t0, 0)
            gamma = self.network.gamma if self.patches is None else self.patches.gamma
            bound = bound - (8 * gamma * account.charged + account.deployed + _UNDERFLOW)
        return Evaluation(t0, supports, bound)

    def _start(self, state: DualState) -> dict[int, Tensor]:
        flat = self.batch * self.objectives
        start, straight = self.weighted_objective(state)
        pending = {self.node: start.reshape(flat, *self.network.nodes[self.node].shape)}
        if straight is not None:
            pending[0] = straight.reshape(flat, *self.network.nodes[0].shape)
        if self.output_constraint is not None:
            beside = self.output_constraint.coefficients.reshape(
                flat, *self.network.nodes[self.output_constraint.node].shape
            )
            join(pending, self.output_constraint.node, beside)
        return pending

    def _arrived(self, pending: dict[int, Tensor]) -> Tensor:
        """The input's cotangent."""
        shape = self.batch, self.objectives, self.network.inputs
        t0 = pending.get(0)
        return self.bounds.lower.new_zeros(shape) if t0 is None else self._inside(0, t0).reshape(shape)

    def _inside(self, index: int, value: Tensor) -> Tensor:
        """A node's value or cotangent without what is beyond the image."""
        if self.patches is None or index not in self.patches.inside:
            return value
        inside = self.patches.inside[index][:, None]
        return (value.reshape(self.batch, self.objectives, -1) * inside).reshape(value.shape)

    def descend(
        self, pending: dict[int, Tensor], last: int, state: DualState, account: Account | None = None,
        probes: Probes | None = None,
    ) -> dict[int, Support]:  # fmt: skip
        """Pulls what is pending, in place, through all nodes from the latest down to node `last`."""
        flat = self.batch * self.objectives
        supports: dict[int, Support] = {}
        for index in range(max(pending), last - 1, -1):
            cotangent = pending.pop(index, None)
            if cotangent is None:
                continue
            tick()
            cotangent = self._inside(index, cotangent)
            node = self.network.nodes[index]
            if isinstance(node.operator, Affine):
                pull(self.network, index, cotangent, pending, account)
                continue
            layer = self.network.layer_of_node[index]
            t = cotangent.reshape(self.batch, self.objectives, -1)
            if not self._exact(state) and index in self.frozen:
                if account is not None:
                    low, high = self.frozen[index]
                    account.add((t.clamp(min=0) @ low.mT + t.clamp(max=0) @ high.mT)[..., 0])
                    account.charge(t, index)
                continue
            given = self._given(layer, t, state)
            if given is not None:
                t = self._give(layer, given, t, pending, account)
            line, rho, cost = self._multiplied(layer, t, state)
            if probes is not None and line is not None and not layer.activation.joins:
                rho, gain = self._probed(layer, t, rho, state, probes)
                cost = cost - gain
            support = self._support(layer, t, line, rho, state)
            supports[index] = support if given is None else replace(support, given=given)
            if account is not None:
                self._settle(account, layer, support, cost, state)
            join(pending, layer.pre_node, rho.reshape(flat, *self.network.nodes[layer.pre_node].shape))
        return supports

    def _given(self, layer: Layer, t: Tensor, state: DualState) -> Given | None:
        """What a layer's cuts take over of its outputs' cotangents."""
        cuts = self.cuts.on(layer) if self.cuts is not None and self._has_cuts(state) else None
        if cuts is None:
            return None
        whole = t.clamp(max=0).neg_()[..., cuts.place]
        return Given(cuts, whole, whole * state.cut_shares[..., cuts.own])

    def _give(
        self, layer: Layer, given: Given, t: Tensor, pending: dict[int, Tensor], account: Account | None
    ) -> Tensor:
        """Carries that back, past the activation; what is left of the cotangents."""
        cuts, taken, flat = given.cuts, given.taken, self.batch * self.objectives
        slopes = t.new_zeros(*t.shape[:2], layer.size).index_add(2, cuts.place, -taken * cuts.slopes)
        join(pending, layer.pre_node, slopes.reshape(flat, *self.network.nodes[layer.pre_node].shape))
        for index, part in cuts.pull(taken.flatten(0, 1)).items():
            join(pending, index, part.reshape(flat, *self.network.nodes[index].shape))
        if account is not None:
            account.add(dot(slopes, self.offsets[layer.pre_node]) - taken @ cuts.offsets)
            if account.magnitudes is not None:
                account.charge_size(taken @ cuts.sizes(account.magnitudes, layer))
        return t.index_add(2, cuts.place, taken)

    def weighted_objective(self, state: DualState) -> tuple[Tensor, Tensor | None]:
        """The weighted objective: its coefficients on the node's values, and on the input where there are any."""
        coefficients, inputs = self.objective.coefficients, self.objective.input_coefficients
        if self.rows == 1 and self.output_constraint is None:
            return coefficients[:, :, 0], inputs[:, :, 0] if inputs.shape[3] else None
        weights = state.constraint_weights[..., None]
        return (weights * coefficients).sum(2), (weights * inputs).sum(2) if inputs.shape[3] else None

    def _input_box(self) -> tuple[Tensor, Tensor]:
        inputs = slice(0, self.network.inputs)
        return self.bounds.lower[:, None, inputs], self.bounds.upper[:, None, inputs]

    @cached_property
    def _input_ball(self) -> tuple[Tensor, Tensor]:
        """Centre and radius of the input box."""
        lower, upper = self._input_box()
        return (lower + upper) / 2, (upper - lower) / 2

    def _input_minimum(self, t0: Tensor) -> Tensor:
        centre, radius = self._input_ball
        return (t0 @ centre.mT - t0.abs() @ radius.mT)[..., 0]

    def _charge_objective(self, account: Account, state: DualState, magnitudes: dict[int, Tensor]) -> None:
        """The rounding of the weighted objective itself and of its thresholds."""
        if self.output_constraint is not None:
            account.charge(self.output_constraint.coefficients, self.output_constraint.node)
        if self.rows == 1 and self.output_constraint is None:
            account.charge(self.objective.coefficients[:, :, 0], self.node)
            sizes = self.objective.thresholds.abs()
        else:
            sizes = (
                self.objective.thresholds.abs() + self.objective.coefficients.abs() @ magnitudes[self.node]
            )
        if self.objective.input_coefficients.shape[3]:
            sizes = sizes + self.objective.input_coefficients.abs() @ magnitudes[0]
        account.charge_size((1 + self.rows / 64) * (state.constraint_weights * sizes).sum(2))

    def input_minimiser(self, t0: Float[Tensor, "batch objectives inputs"]) -> Tensor:
        """The corner of the input box where its part of the Lagrangian has its minimum."""
        lower, upper = self._input_box()
        falling = t0.sign().clamp_(max=0).abs_()
        return torch.lerp(lower.expand_as(falling), upper.expand_as(falling), falling)

    def supergradient(
        self, state: DualState, sweep: Sweep, values: dict[int, Tensor] | None = None
    ) -> Supergradient:
        """The forward sweep: from the input's minimiser through the minimisers, in network order.

        Its end gives q once more: the Lagrangian at its own minimisers is the objective there, plus every multiplier
        times its supergradient. `values` is filled with those of all nodes, [batch * objectives, *shape] each.
        """
        flat = self.batch * self.objectives
        minimiser = torch.addcmul(*self._input_ball, sweep.input_cotangent.sign(), value=-1)
        values = {} if values is None else values
        values[0] = self._inside(0, minimiser).reshape(flat, *self.network.nodes[0].shape)
        whole = len(sweep.supports) == len(self.network.layers)  # then every entry is written below
        gradient = DualState(
            *(torch.empty_like(part) if whole else torch.zeros_like(part) for part in vars(state).values())
        )
        for written_in_part in (gradient.beta, gradient.post_multipliers, gradient.cut_shares):
            written_in_part.zero_()
        beta_units = torch.zeros_like(state.beta)
        pre_activations: dict[int, Tensor] = {}
        for index in sorted(self.network.ancestors[self.node] - {0}):
            tick()
            node = self.network.nodes[index]
            if not isinstance(node.operator, Activation):
                value = self.network.apply(node, [values[operand] for operand in node.operands])
                values[index] = self._inside(index, value)
                continue
            layer = self.network.layer_of_node[index]
            if index not in sweep.supports:  # frozen, or only under frozen ones
                values[index] = self._middle(layer).reshape(flat, *node.shape)
                continue
            support, t = sweep.supports[index], sweep.supports[index].cotangent
            z = values[layer.pre_node].reshape(self.batch, self.objectives, -1)
            pre_activations[index] = z
            self._differentiate(layer, support, z, gradient)
            if index in self._split_places:
                place, own = self._split_places[index]
                place = place.expand(-1, self.objectives, -1)
                slack = self._split_slack(place, z, support, state)
                gradient.beta.copy_(torch.where(own, slack, gradient.beta))
                sizes = t.abs()
                beside = layer.activation.beside(sizes, layer.size).gather(2, place)
                scale = torch.maximum(beside, sizes.mean(2, keepdim=True))
                beta_units = torch.where(own, scale, beta_units)
            post = support.forward(z)
            if support.given is not None:
                post = self._mixed(support.given, z, post, values, state, gradient)
            values[index] = self._inside(index, post).reshape(flat, *node.shape)
        gradient.constraint_weights.copy_(self.constraint_values(values[self.node], minimiser))
        bound = (state.constraint_weights * gradient.constraint_weights).sum(2)
        if self.output_constraint is not None:
            value = values[self.output_constraint.node].reshape(self.batch, self.objectives, -1)
            bound = bound + (self.output_constraint.coefficients * value).sum(2)
        for multiplier in ("beta", "rho", "post_multipliers"):
            if getattr(state, multiplier).shape[2]:
                bound = bound + (getattr(state, multiplier) * getattr(gradient, multiplier)).sum(2)
        return Supergradient(gradient, bound, beta_units, pre_activations)

    def _mixed(
        self, given: Given, z: Tensor, post: Tensor, values: dict[int, Tensor], state: DualState,
        gradient: DualState,
    ) -> Tensor:  # fmt: skip
        """A layer's outputs, part on their lines and part on cuts; writes the supergradient of the parts."""
        cuts = given.cuts
        lower = cuts.heights(z, values).reshape(given.whole.shape) - post[..., cuts.place]
        gradient.cut_shares[..., cuts.own] = -given.whole * lower
        parts = torch.where(given.whole > 0, state.cut_shares[..., cuts.own], 0.0)
        return post.index_add(2, cuts.place, parts * lower)

    def _differentiate(self, layer: Layer, support: Support, z: Tensor, gradient: DualState) -> None:
        """The supergradients of a layer's slopes and multipliers."""
        gap = z - support.minimiser if isinstance(support.minimiser, Tensor) or support.minimiser else z
        if support.line is not None:
            # What a mixing activation's cuts are at z* counts as well.
            own = z if layer.activation.mixes else gap
            self.hulls[layer.node].gradient(support.cotangent, own, gradient.alpha[..., layer.alpha])
        if gradient.rho.shape[2]:
            gradient.rho[..., self.place(layer)] = gap
        if support.inner is not None:
            assert support.post is not None
            gradient.post_multipliers[..., layer.posts] = support.inner - support.post

    def constraint_values(self, output: Tensor, minimiser: Tensor) -> Tensor:
        """`C y + E x - d` of every row."""
        output = output.reshape(self.batch, self.objectives, 1, -1)
        values = (self.objective.coefficients * output).sum(3) - self.objective.thresholds
        if self.objective.input_coefficients.shape[3]:
            values = values + (self.objective.input_coefficients * minimiser[:, :, None, :]).sum(3)
        return values

    def _split_slack(self, place: Tensor, z: Tensor, support: Support, state: DualState) -> Tensor:
        """How far the primal point is from where each split's multiplier would have it: the multiplier's supergradient."""
        at_splits, multipliers = z.gather(2, place), state.beta
        if self._exact(state):
            assert isinstance(support.minimiser, Tensor)
            return at_splits - support.minimiser.gather(2, place)
        lower, upper = self._split_bounds
        wanted = torch.where(
            multipliers > 0, upper, torch.where(multipliers < 0, lower, at_splits.clamp(lower, upper))
        )
        return at_splits - wanted

    def _middle(self, layer: Layer) -> Tensor:
        """The middle of a layer's output intervals, for every objective."""
        lower, upper = (
            self.bounds.lower[:, None, layer.variables],
            self.bounds.upper[:, None, layer.variables],
        )
        low, high = self.frozen.get(layer.node) or layer.activation.interval(
            lower, torch.maximum(lower, upper)
        )
        return ((low + high) / 2).expand(-1, self.objectives, -1)
