"""Proximal ascent (Bunel et al. 2020, section 4.2): the method of multipliers on the decomposition.

The Lagrangian is augmented by `sum_k w_k |r_k|^2 / 2`, where `r_k = A_k(x) + b_k - z_k` is how far the two copies of layer
k's pre-activations are apart. Its primal, over the input box and every activation's convex hull, is minimised a block
(a layer) at a time by Frank-Wolfe steps: the oracle gives the vertex, and along a line the objective is a parabola, so the
step is known in closed form. Then `rho_k += w_k r_k`, with momentum.

Stepping backwards through the layers, one sweep of transposed maps serves all vertices. On a network that branches a
vertex may be chosen by a cotangent that an earlier block of the same sweep has changed; the step along it is exact all the
same, because it is measured on the current residuals.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verify.bounders.ascent import Iterative, Moments, Optimiser
from verify.extensions import register
from verify.lagrangian.dual import DualProblem
from verify.lagrangian.rho import Rho
from verify.lagrangian.supports import join
from verify.lagrangian.sweeps import pull
from verify.lagrangian.terms import Sweep
from verify.network.affine import Affine
from verify.network.graph import Layer
from verify.state import DualState

Values = dict[int, Tensor]  # by node, [batch, objectives, size]
_INPUT = 0
_FIRST_WEIGHT_STEP, _LAST_WEIGHT_STEP = 0.1, 1e-4  # Adam's, of constraint weights


@register("bounder", "proximal")
@dataclass(frozen=True)
class Proximal(Iterative):
    """`iterations` updates of the multipliers, with `inner` rounds of Frank-Wolfe before each.

    `first` to `last`: the proximal weight's schedule, in units of the cotangents' size over the intervals' width.
    """

    iterations: int = 200
    inner: int = 2
    first: float = 3.0
    last: float = 0.005
    momentum: float = 0.3

    def start(self, problem: DualProblem, state: DualState) -> Optimiser:
        return ProximalOptimiser.begin(self, problem, problem.decoupled(state))


class _Maps:
    """Which affine nodes each value reaches without passing an activation, and what each maps zeros to."""

    def __init__(self, problem: DualProblem) -> None:
        network, wanted = problem.network, sorted(problem.network.ancestors[problem.node])
        self.zeros: Values = {}
        self.reached: dict[int, list[int]] = {}
        for index in wanted:
            operator = network.nodes[index].operator
            if isinstance(operator, Affine):
                shapes = (network.nodes[operand].shape for operand in network.nodes[index].operands)
                self.zeros[index] = operator.forward(
                    *(problem.bounds.lower.new_zeros(1, *shape) for shape in shapes)
                )
        for source in (_INPUT, *(layer.node for layer in problem.layers)):
            found: list[int] = []
            for index in self.zeros:
                if not {source, *found}.isdisjoint(network.nodes[index].operands):
                    found.append(index)
            self.reached[source] = found


class ProximalOptimiser(Optimiser):
    """Multipliers, and the primal point that goes with them: outputs by node, pre-activations and residuals by layer."""

    def __init__(
        self,
        method: Proximal,
        problem: DualProblem,
        state: DualState,
        maps: _Maps,
        velocity: Tensor,
        weights: Moments,
        values: tuple[Values, Values, Values, Values],
    ) -> None:
        """values: the units of residuals, outputs, pre-activations, and residuals."""
        self.method, self.problem, self.state, self.maps = method, problem, state, maps
        self.velocity, self.weights = velocity, weights
        self.scales, self.posts, self.pres, self.residuals = values
        self.weight = method.first

    @classmethod
    def begin(cls, method: Proximal, problem: DualProblem, state: DualState) -> ProximalOptimiser:
        """From the Lagrangian's own minimisers at `state`, which has multipliers alone."""
        sweep = problem.backward(state)
        posts = {_INPUT: problem.domain.input_minimiser(sweep.input_cotangent)}
        pres: Values = {}
        for node, support in sweep.supports.items():
            assert isinstance(support.minimiser, Tensor)
            posts[node], pres[node] = support.post, support.minimiser
        made = cls(
            method,
            problem,
            state,
            _Maps(problem),
            torch.zeros_like(state["rho"]),
            Moments.like(state["constraint_weights"]),
            (_scales(problem, state, sweep), posts, pres, {}),
        )
        reached = made._values(posts)
        made.residuals = {
            layer.node: reached[layer.pre_node].reshape(pres[layer.node].shape) - pres[layer.node]
            for layer in problem.layers
        }
        return made

    def evaluate(self) -> Tensor:
        return self.problem.evaluate(self.state).bound

    def step(self, count: int) -> None:
        method, state = self.method, self.state
        share = (count - 1) / max(1, method.iterations - 1)
        self.weight = method.first * (method.last / method.first) ** share
        for _ in range(method.inner):
            self._round()
        self.velocity = self.velocity * method.momentum
        for layer in self.problem.layers:
            scaled = self.weight * self.scales[layer.node] * self.residuals[layer.node]
            self.velocity[..., self.place(layer)] += scaled
        weights, constraints = state["constraint_weights"], self.problem.constraints
        if constraints.moves:
            output = self._values(self.posts)[self.problem.node]
            along = constraints.direction(weights, constraints.values(output, self.posts[_INPUT]))
            size = _FIRST_WEIGHT_STEP * (_LAST_WEIGHT_STEP / _FIRST_WEIGHT_STEP) ** share
            weights = self.weights.step(weights, along, count, size)
        self.state = self.problem.clamp(
            state | {"rho": state["rho"] + self.velocity, "constraint_weights": weights}
        )

    def _round(self) -> None:
        """One Frank-Wolfe step for every block, from the last layer to the input."""
        problem, network = self.problem, self.problem.network
        flat = problem.batch * problem.objectives
        pending = {i: t.reshape(flat, *network.nodes[i].shape) for i, t in self._cotangents().items()}
        for index in range(problem.node, -1, -1):
            cotangent = pending.pop(index, None)
            if cotangent is None:
                continue
            node, t = network.nodes[index], cotangent.reshape(problem.batch, problem.objectives, -1)
            if index == _INPUT:
                self._step(_INPUT, problem.domain.input_minimiser(t), None)
            elif isinstance(node.operator, Affine):
                pull(problem.network, index, cotangent, pending)
            else:
                layer = network.layer_of_node[index]
                minimiser, post = problem.domain.minimum(layer, t, self._augmented(layer))
                self._step(index, post, minimiser)
                rho = self._augmented(layer)
                join(pending, layer.pre_node, rho.reshape(flat, *network.nodes[layer.pre_node].shape))

    def _cotangents(self) -> Values:
        """The weighted objective's coefficients."""
        return self.problem.constraints.cotangents(self.state["constraint_weights"])

    def place(self, layer: Layer) -> slice:
        """A layer's columns of rho."""
        return self.problem.term(Rho).place(layer)

    def _augmented(self, layer: Layer) -> Tensor:
        """The augmented Lagrangian's multipliers: `rho_k + w_k r_k`."""
        rho = self.state["rho"][..., self.place(layer)]
        return rho + self.weight * self.scales[layer.node] * self.residuals[layer.node]

    def _step(self, node: int, post: Tensor, minimiser: Tensor | None) -> None:
        """The best step of one block towards a vertex: the minimum of a parabola."""
        change = post - self.posts[node]
        shifts, slope = self._shifts(node, change)
        move = None if minimiser is None else minimiser - self.pres[node]
        if move is not None:
            shifts[node] = -move
        curvature = torch.zeros_like(slope)
        for layer in self.problem.layers:
            if layer.node in shifts:
                shift = shifts[layer.node]
                slope = slope + (self._augmented(layer) * shift).sum(2)
                curvature += self.weight * self.scales[layer.node][..., 0] * shift.square().sum(2)
        size = (-slope / curvature.clamp(min=1e-30)).nan_to_num(nan=0.0).clamp(0, 1)[..., None]
        self.posts[node] = self.posts[node] + size * change
        if move is not None:
            self.pres[node] = self.pres[node] + size * move
        for other, shift in shifts.items():
            self.residuals[other] = self.residuals[other] + size * shift

    def _shifts(self, node: int, change: Tensor) -> tuple[Values, Tensor]:
        """How a change of a node's output moves the residuals behind it, and the objective."""
        reached = self._moves(node, change)
        shifts = {
            layer.node: reached[layer.pre_node].reshape(*change.shape[:2], -1)
            for layer in self.problem.layers
            if layer.pre_node in reached
        }
        slope = change.new_zeros(change.shape[:2])
        for index, cotangent in self._cotangents().items():
            if index in reached:
                slope = slope + (cotangent * reached[index].reshape(cotangent.shape)).sum(2)
        return shifts, slope

    def _values(self, sources: Values) -> Values:
        """The values of all affine nodes, given those of the input and of all activations."""
        network, flat = self.problem.network, self.problem.batch * self.problem.objectives
        values = {i: value.reshape(flat, *network.nodes[i].shape) for i, value in sources.items()}
        for index in sorted(network.ancestors[self.problem.node] - values.keys()):
            node = network.nodes[index]
            values[index] = network.apply(node, [values[operand] for operand in node.operands])
        return values

    def _moves(self, source: int, change: Tensor) -> Values:
        """The changes of all affine nodes that a change of one value reaches without passing an activation."""
        network = self.problem.network
        moves = {source: change.reshape(-1, *network.nodes[source].shape)}
        for index in self.maps.reached[source]:
            node = network.nodes[index]
            operands = [
                moves[i] if i in moves else change.new_zeros(len(moves[source]), *network.nodes[i].shape)
                for i in node.operands
            ]
            assert isinstance(node.operator, Affine)
            moves[index] = node.operator.forward(*operands) - self.maps.zeros[index]
        return moves

    def select(self, rows: Tensor) -> ProximalOptimiser:
        def chosen(part: Values) -> Values:
            return {node: value[rows] for node, value in part.items()}

        return ProximalOptimiser(
            self.method,
            self.problem.select(rows),
            self.state.select(rows),
            self.maps,
            self.velocity[rows],
            self.weights.select(rows),
            (chosen(self.scales), chosen(self.posts), chosen(self.pres), chosen(self.residuals)),
        )


def _scales(problem: DualProblem, state: DualState, sweep: Sweep) -> Values:
    """Per layer [batch, objectives, 1]: a multiplier's size over a residual's, the unit of the proximal weight."""
    own = problem.term(Rho)
    scales, units = {}, own.unit(state["rho"], sweep)
    for layer in problem.layers:
        width = (problem.bounds.upper - problem.bounds.lower)[:, None, layer.variables]
        scale = _norm(units[..., own.place(layer)]) / _norm(width)
        scales[layer.node] = scale.nan_to_num(nan=0.0, posinf=0.0)
    return scales


def _norm(values: Tensor) -> Tensor:
    """The root of the mean square."""
    return values.square().mean(2, keepdim=True).sqrt()
