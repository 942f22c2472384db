"""The dual function q of the Lagrangian decomposition, in the restricted domain, and its supergradient.

(Bunel et al. 2020; De Palma et al. 2021, "Improved Branch and Bound for Neural Network Verification via Lagrangian
Decomposition", the restricted dual domain.) With multipliers `rho_k = s_k t_k + beta_k` the decomposed problem splits into
one minimum a neuron, and

    q = sum_k [ rho_k . b_k + t_k . intercept_k - max(beta_k l_k, beta_k u_k) ] + min_{x_0} t_0 . x_0 + const ,

where `slope_k z + intercept_k` is the line that supports activation k for the sign of `t_k`. One sweep back through the
network's affine maps gives t, rho and q; one sweep forward through the same lines gives the supergradient in all slopes,
cut multipliers and row weights (method.md 3.3). No autograd graph is built. CROWN (Zhang et al. 2018) is q at the initial
slopes; alpha-beta-CROWN climbs the same function.

In float64, `evaluate(.., magnitudes)` also charges every rounding error of the sweep, so that the bound holds over the reals.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from verify.network.activations import Activation, Hull, Line
from verify.network.affine import Affine
from verify.network.graph import Layer, Network
from verify.state import Bounds, Cuts, DualState, Objective, Struct

_FIXED = 1e-9  # relative width below which an interval counts as a single value


@dataclass(frozen=True)
class Probes(Struct):
    """One hypothetical cut for each objective, to see what it would gain without making the child."""

    variable: Int[Tensor, "batch objectives"]
    value: Float[Tensor, "batch objectives"]
    side: Int[Tensor, "batch objectives"]


@dataclass(frozen=True)
class Sweep:
    """One evaluation of q: its value and what the forward sweep needs."""

    bound: Float[Tensor, "batch objectives"]
    input_cotangent: Float[Tensor, "batch objectives inputs"]
    cotangents: dict[int, Float[Tensor, "batch objectives post"]]  # t of each layer, by node
    lines: dict[int, Line]


@dataclass(frozen=True)
class Supergradient:
    """dq / d(everything), and the primal point it comes from."""

    state: DualState
    cut_scales: Float[
        Tensor, "batch objectives depth"
    ]  # the unit of each cut's multiplier: the cotangents' size there
    minimiser: Float[Tensor, "batch objectives inputs"]
    pre_activations: dict[int, Float[Tensor, "batch objectives pre"]]  # by layer's node


def spread(t: Tensor, pre_size: int) -> Tensor:
    """The outputs' cotangent beside each of the activation's operands (once for elementwise ones, twice for products)."""
    copies = pre_size // t.shape[-1]
    return t if copies == 1 else t.repeat(*(1 for _ in t.shape[1:]), copies)


def gathered(line: Line, z: Tensor, post_size: int) -> Tensor:
    """The lines' values at pre-activations `z`."""
    scaled = line.slope * z
    copies = scaled.shape[-1] // post_size
    if copies > 1:
        scaled = scaled.unflatten(-1, (copies, post_size)).sum(dim=-2)
    return scaled + line.intercept


class _Charge:
    """The rounding errors of a sweep, gathered as `sum |cotangent| magnitude`.

    A pass through an affine map W turns the cotangent c, taken as exact, into W^T c with an error of at most
    gamma |W|^T |c|; against values of magnitude m that moves the bound by at most gamma |c| . (|W| m). (Higham 2002, section 3.5.)
    """

    def __init__(self, magnitudes: dict[int, Tensor], batch: int, objectives: int) -> None:
        self.magnitudes, self.shape = magnitudes, (batch, objectives)
        self.total: Tensor | float = 0.0

    def add(self, cotangent: Tensor, node: int) -> None:
        """Charges one cotangent against its node's magnitude."""
        self.total = self.total + cotangent.reshape(*self.shape, -1).abs() @ self.magnitudes[node]


class DualProblem:
    """q for a batch of boxes (subproblems) and, on each, one or several objectives on the values of one node.

    Batch and objective axes are merged where tensors pass through affine maps; everything elementwise sees
    [batch, objectives, size], so that objectives on one box share its hulls.
    """

    def __init__(
        self, network: Network, bounds: Bounds, objective: Objective, cuts: Cuts | None = None,
        node: int | None = None,
    ) -> None:  # fmt: skip
        self.network, self.bounds, self.objective = network, bounds, objective
        self.node = len(network.nodes) - 1 if node is None else node
        self.batch, self.objectives, self.rows, _ = objective.coefficients.shape
        self.cuts = Cuts.none(self.batch, bounds.lower.device) if cuts is None else cuts
        ancestors = network.ancestors[self.node]
        self.layers = tuple(layer for layer in network.layers if layer.node in ancestors)

    def select(self, rows: Tensor) -> DualProblem:
        """The problem of the given subproblems alone."""
        return DualProblem(
            self.network,
            self.bounds.select(rows),
            self.objective.select(rows),
            self.cuts.select(rows),
            self.node,
        )

    @cached_property
    def hulls(self) -> dict[int, Hull]:
        """The layers' activations on the boxes, by node; shaped to broadcast over objectives."""
        upper = torch.maximum(self.bounds.lower, self.bounds.upper)
        return {
            layer.node: layer.activation.hull(
                self.bounds.lower[:, None, layer.variables], upper[:, None, layer.variables]
            )
            for layer in self.layers
        }

    @cached_property
    def frozen(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Layers whose pre-activations are all but fixed on every box: their outputs' intervals, [batch, 1, post].

        A sweep ends there with the interval's minimum: nothing below such a layer could make a difference. (Multipliers of
        cuts could, so with cuts of activations nothing is frozen.)
        """
        found: dict[int, tuple[Tensor, Tensor]] = {}
        if self._cut_places:
            return found
        for layer in self.layers:
            lower, upper = (
                self.bounds.lower[:, None, layer.variables],
                self.bounds.upper[:, None, layer.variables],
            )
            width = upper - lower
            fixed = (
                width <= _FIXED * torch.maximum(lower.abs(), upper.abs())
            ) & width.isfinite()  # NaN is not
            if bool(fixed.all()):
                found[layer.node] = layer.activation.interval(lower, torch.maximum(lower, upper))
        return found

    @cached_property
    def spans(self) -> Float[Tensor, "batch 1 parameters"] | None:
        """The unit of each slope parameter's steps; None where it is 1 throughout."""
        known = [(layer, self.hulls[layer.node].span) for layer in self.layers]
        if all(span is None for _, span in known):
            return None
        spans = self.bounds.lower.new_ones(self.batch, 1, self.network.parameters)
        for layer, span in known:
            if span is not None:
                spans[..., layer.parameters] = span
        return spans

    @cached_property
    def _cut_places(self) -> dict[int, tuple[Tensor, Tensor]]:
        """For each layer with cuts: their local indices and which cuts are the layer's, both [batch, 1, depth]."""
        variable = self.cuts.variable[:, None, :]
        places = {}
        for layer in self.layers:
            own = (variable >= layer.variables.start) & (variable < layer.variables.stop)
            if variable.shape[2] and bool(own.any()):
                places[layer.node] = (torch.where(own, variable - layer.variables.start, 0), own)
        return places

    @cached_property
    def _cut_bounds(self) -> tuple[Tensor, Tensor]:
        index = self.cuts.variable.clamp(min=0)
        return self.bounds.lower.gather(1, index)[:, None], self.bounds.upper.gather(1, index)[:, None]

    def initial(self) -> DualState:
        """CROWN's slopes, equal row weights, no cut multipliers."""
        like = self.bounds.lower
        parameters = like.new_zeros(self.batch, 1, self.network.parameters)
        for layer in self.layers:
            parameters[..., layer.parameters] = self.hulls[layer.node].initial()
        return DualState(
            parameters.expand(-1, self.objectives, -1),
            like.new_full((self.batch, self.objectives, self.rows), 1 / self.rows),
            like.new_zeros(self.batch, self.objectives, self.cuts.variable.shape[1]),
        )

    def clamp(self, state: DualState) -> DualState:
        """The nearest valid point: slopes within their hulls, weights on the simplex."""
        parameters = state.parameters.clone()
        for layer in self.layers:
            parameters[..., layer.parameters] = self.hulls[layer.node].clamp(
                state.parameters[..., layer.parameters]
            )
        weights = state.row_weights.clamp(min=0)
        total = weights.sum(-1, keepdim=True)
        weights = torch.where(total > 0, weights / total, 1 / self.rows)
        return DualState(parameters, weights, state.cut_multipliers)

    def _multiplied(self, layer: Layer, t: Tensor, line: Line, multipliers: Tensor) -> tuple[Tensor, Tensor]:
        """`rho` of a layer, and what the multipliers of the layer's own cuts cost: nothing else ever counts them."""
        rho = line.slope * spread(t, layer.size)
        if layer.node not in self._cut_places:
            return rho, rho.new_zeros(())
        index, own = self._cut_places[layer.node]
        lower, upper = self._cut_bounds
        used = own & (multipliers != 0)
        cost = torch.where(used, torch.maximum(multipliers * lower, multipliers * upper), 0.0)
        beta = torch.where(used, multipliers, 0.0)
        return rho.scatter_add(2, index.expand(-1, rho.shape[1], -1), beta), cost.sum(2)

    def _probed(
        self, layer: Layer, t: Tensor, line: Line, rho: Tensor, state: DualState, probes: Probes
    ) -> tuple[Tensor, Tensor]:
        """`rho` as each objective's probe would have it, and what the probe adds to the bound directly."""
        own = (probes.variable >= layer.variables.start) & (probes.variable < layer.variables.stop)
        place = torch.where(own, probes.variable - layer.variables.start, 0)
        column = place + layer.variables.start
        lower, upper = self.bounds.lower.gather(1, column), self.bounds.upper.gather(1, column)
        lower = torch.where(own & (probes.side > 0), torch.maximum(lower, probes.value), lower)
        upper = torch.where(own & (probes.side < 0), torch.minimum(upper, probes.value), upper)
        hull = layer.activation.hull(lower, torch.maximum(lower, upper))
        copies = range(layer.activation.parameters_per_neuron)
        slopes = state.parameters[:, 0, layer.parameters]
        slopes = torch.cat([slopes.gather(1, place + copy * layer.size) for copy in copies], 1)
        here = place[..., None]
        t_here, old = t.gather(2, here)[..., 0], line.intercept.gather(2, here)[..., 0]
        new = hull.line(t_here, hull.clamp(slopes))
        changed = torch.where(own, new.slope * t_here, rho.gather(2, here)[..., 0])
        return rho.scatter(2, here, changed[..., None]), torch.where(own, t_here * (new.intercept - old), 0.0)

    def evaluate(
        self, state: DualState, magnitudes: dict[int, Tensor] | None = None, probes: Probes | None = None
    ) -> Sweep:
        """q at `state` (which `clamp` has made valid); with `magnitudes`, less the rounding errors of this very sweep.

        With `probes` every objective is bounded as if its probe's cut had been made; probes of activations that join
        several variables are passed over.
        """
        charge = None if magnitudes is None else _Charge(magnitudes, self.batch, self.objectives)
        flat = self.batch * self.objectives
        start, straight = self._start(state)
        bound = start @ self.network.offsets[self.node] - (state.row_weights * self.objective.thresholds).sum(
            2
        )
        cotangents: dict[int, Tensor] = {}
        lines: dict[int, Line] = {}
        pending = {self.node: start.reshape(flat, *self.network.nodes[self.node].shape)}
        if straight is not None:
            pending[0] = straight.reshape(flat, *self.network.nodes[0].shape)
        for index in range(self.node, 0, -1):
            cotangent = pending.pop(index, None)
            if cotangent is None:
                continue
            node = self.network.nodes[index]
            if isinstance(node.operator, Affine):
                if charge is not None and node.operator.terms > 1:
                    charge.add(cotangent, index)
                for operand, part in zip(node.operands, node.operator.transpose(cotangent), strict=True):
                    pending[operand] = pending[operand] + part if operand in pending else part
                continue
            layer = self.network.layer_of_node[index]
            t = cotangent.reshape(self.batch, self.objectives, -1)
            if index in self.frozen:
                low, high = self.frozen[index]
                bound += (t.clamp(min=0) @ low.mT + t.clamp(max=0) @ high.mT)[..., 0]
                if charge is not None:
                    charge.add(t, index)
                continue
            line = self.hulls[index].line(t, state.parameters[..., layer.parameters])
            rho, cost = self._multiplied(layer, t, line, state.cut_multipliers)
            if probes is not None and t.shape[2] == layer.size:
                rho, gain = self._probed(layer, t, line, rho, state, probes)
                bound += gain
            bound += self.hulls[index].value(t, line) + rho @ self.network.offsets[layer.pre_node] - cost
            if charge is not None:
                charge.add(t, index)
                charge.add(rho, layer.pre_node)
                charge.total = charge.total + cost.abs()
            cotangents[index], lines[index] = t, line
            rho = rho.reshape(flat, *self.network.nodes[layer.pre_node].shape)
            pending[layer.pre_node] = pending[layer.pre_node] + rho if layer.pre_node in pending else rho
        t0 = pending.get(0)
        t0 = bound.new_zeros(self.batch, self.objectives, self.network.inputs) if t0 is None else t0
        t0 = t0.reshape(self.batch, self.objectives, -1)
        bound += self._input_minimum(t0)
        if charge is not None:
            charge.add(t0, 0)
            self._charge_objective(charge, state)
            bound = bound - 8 * self.network.gamma * charge.total
        return Sweep(bound, t0, cotangents, lines)

    def _start(self, state: DualState) -> tuple[Tensor, Tensor | None]:
        """The weighted objective: its coefficients on the node's values, and on the input where there are any."""
        coefficients, inputs = self.objective.coefficients, self.objective.input_coefficients
        if self.rows == 1:
            return coefficients[:, :, 0], inputs[:, :, 0] if inputs.shape[3] else None
        weights = state.row_weights[..., None]
        return (weights * coefficients).sum(2), (weights * inputs).sum(2) if inputs.shape[3] else None

    def _input_box(self) -> tuple[Tensor, Tensor]:
        inputs = slice(0, self.network.inputs)
        return self.bounds.lower[:, None, inputs], self.bounds.upper[:, None, inputs]

    def _input_minimum(self, t0: Tensor) -> Tensor:
        lower, upper = self._input_box()
        centre, radius = (lower + upper) / 2, (upper - lower) / 2
        return (t0 @ centre.mT - t0.abs() @ radius.mT)[..., 0]

    def _charge_objective(self, charge: _Charge, state: DualState) -> None:
        """The rounding of the weighted objective itself and of its thresholds."""
        if self.rows == 1:
            charge.add(self.objective.coefficients[:, :, 0], self.node)
        else:
            sizes = self.objective.coefficients.abs() @ charge.magnitudes[self.node]
            charge.total += (state.row_weights * sizes).sum(2)
        if self.objective.input_coefficients.shape[3]:
            sizes = self.objective.input_coefficients.abs() @ charge.magnitudes[0]
            charge.total += (state.row_weights * sizes).sum(2)
        charge.total += (state.row_weights * self.objective.thresholds.abs()).sum(2)

    def supergradient(self, state: DualState, sweep: Sweep) -> Supergradient:
        """The forward sweep: from the input's minimiser through the lines, in network order."""
        flat = self.batch * self.objectives
        lower, upper = self._input_box()
        minimiser = torch.where(sweep.input_cotangent > 0, lower, upper)
        values: dict[int, Tensor] = {0: minimiser.reshape(flat, *self.network.nodes[0].shape)}
        gradient = state.parameters.new_zeros(self.batch, self.objectives, self.network.parameters)
        multipliers, cut_scales = (
            torch.zeros_like(state.cut_multipliers),
            torch.zeros_like(state.cut_multipliers),
        )
        pre_activations: dict[int, Tensor] = {}
        ancestors = self.network.ancestors[self.node]
        for index in range(1, self.node + 1):
            if index not in ancestors:
                continue
            node = self.network.nodes[index]
            if not isinstance(node.operator, Activation):
                values[index] = self.network.apply(node, [values[operand] for operand in node.operands])
                continue
            layer = self.network.layer_of_node[index]
            if index not in sweep.lines:  # frozen, or only under frozen ones
                values[index] = self._middle(layer).reshape(flat, *node.shape)
                continue
            line, t = sweep.lines[index], sweep.cotangents[index]
            z = values[layer.pre_node].reshape(self.batch, self.objectives, -1)
            pre_activations[index] = z
            gradient[..., layer.parameters] = self.hulls[index].gradient(t, z - line.touch)
            if index in self._cut_places:
                place, own = self._cut_places[index]
                place = place.expand(-1, self.objectives, -1)
                slack = self._cut_slack(z.gather(2, place), state.cut_multipliers)
                multipliers = torch.where(own, slack, multipliers)
                sizes = t.abs()
                scale = torch.maximum(spread(sizes, layer.size).gather(2, place), sizes.mean(2, keepdim=True))
                cut_scales = torch.where(own, scale, cut_scales)
            values[index] = gathered(line, z, t.shape[2]).reshape(flat, *node.shape)
        output = values[self.node].reshape(self.batch, self.objectives, 1, -1)
        weights = (self.objective.coefficients * output).sum(3) - self.objective.thresholds
        if self.objective.input_coefficients.shape[3]:
            weights = weights + (self.objective.input_coefficients * minimiser[:, :, None, :]).sum(3)
        return Supergradient(
            DualState(gradient, weights, multipliers), cut_scales, minimiser, pre_activations
        )

    def _cut_slack(self, at_cuts: Tensor, multipliers: Tensor) -> Tensor:
        """How far the primal point is from where each multiplier would have it: the multiplier's supergradient."""
        lower, upper = self._cut_bounds
        wanted = torch.where(
            multipliers > 0, upper, torch.where(multipliers < 0, lower, at_cuts.clamp(lower, upper))
        )
        return at_cuts - wanted

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
