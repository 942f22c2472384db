"""Cuts that go deeper than the hull over a pre-activation: what a single ReLU and the box of its inputs tell together.

For `y = relu(z)`, `z = w . x + b`, with x in a box, any s, k and m give a cut

    y <= s z + m . x + d ,    d = max(d_0, d_1),

where `d_0` and `d_1` are what `- s z - m . x` and `(1 - s) z - m . x` can be at most over the box: y is 0 or z. The facets of
the convex hull are among them (Anderson et al. 2020, "Strong mixed-integer programming formulations for trained neural
networks"): some inputs are left to the cut (`m_j = k w_j`), the others to their intervals, and s and k follow from which.
There are exponentially many. The one that cuts most off a point is found in closed form (De Palma et al. 2021, "Scaling the Convex Barrier
with Active Sets"), and the mean of a climb's primal points, which goes to the relaxation's optimum, is where to split.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.bounders.ascent import GradientOptimiser
from verify.deadline import Deadline
from verify.lagrangian.cuts import Cuts, compressed
from verify.lagrangian.dual import DualProblem
from verify.lagrangian.sweeps import sources
from verify.lagrangian.terms import Sweep
from verify.network.activations.relu import Relu
from verify.network.affine import Affine
from verify.network.graph import Layer, Network
from verify.state import Bounds, DualState

_ELEMENTS = 16_000_000  # weights that are read off at once
_GRID = 16  # shares of being active, tried for each neuron, and again around the best of them
_SHARE = 0.98  # of what the cuts gain: those that make it up
_STEP, _DECAY = 0.1, 0.97  # of the climb whose points are averaged


def mean_point(
    problem: DualProblem, state: DualState, iterations: int, deadline: Deadline
) -> dict[int, Float[Tensor, "batch size"]]:
    """The mean primal point of a climb from `state` (of one objective each), by node. Raises OutOfTimeError."""
    optimiser = GradientOptimiser.begin(problem, problem.clamp(state), _STEP, _DECAY)
    total: dict[int, Tensor] = {}
    for count in range(1, iterations + 1):
        deadline.check()
        values: dict[int, Tensor] = {}
        optimiser.evaluate(values)
        for node, value in values.items():
            total[node] = total[node] + value if node in total else value
        optimiser.step(count)
    return {node: value.flatten(1) / iterations for node, value in total.items()}


def cuts_at(
    problem: DualProblem,
    state: DualState,
    point: dict[int, Float[Tensor, "batch size"]],
    box: Bounds,
    magnitudes: dict[int, Float[Tensor, " size"]],
    most: int,
    deadline: Deadline,
) -> Cuts | None:
    """Cuts that hold on `box` (one row) and cut off the points, one for each row of `problem`; None if there are none.

    state: of one objective each, whose cotangents tell what outputs are worth at the points; most: coefficients, of all cuts
    together. Everything but the points in float64, the magnitudes those of the box. Raises OutOfTimeError.
    """
    sweep, found = problem.backward(state), []
    for row in range(problem.batch):
        here = {node: value[row].to(box.lower) for node, value in point.items()}
        searches = _searches(problem, sweep, row, here, box, magnitudes, deadline)
        if searches:
            chosen = _best(searches, most // problem.batch)
            found += [search.made(some) for search, some in zip(searches, chosen, strict=True) if len(some)]
    return Cuts.joined(found) if found else None


def _searches(
    problem: DualProblem,
    sweep: Sweep,
    row: int,
    point: dict[int, Tensor],
    box: Bounds,
    magnitudes: dict[int, Tensor],
    deadline: Deadline,
) -> list[_Search]:
    """Of each layer the neurons whose outputs are beyond their ReLUs: those where that costs most, as far as there is room left."""
    network, room, found = problem.network, _ELEMENTS, list[_Search]()
    for layer in problem.layers:
        deadline.check()
        before = _sources_of(network, layer.pre_node)
        if (
            not isinstance(layer.activation, Relu)
            or layer.node not in sweep.supports
            or layer.pre_node in before
        ):
            continue
        worth = sweep.supports[layer.node].cotangent[row, 0].clamp(max=0).neg()
        low, high = (end[0, layer.variables] for end in (box.lower, box.upper))
        unstable = (low < 0) & (high > 0) & (high - low).isfinite()
        gap = worth * unstable * (point[layer.node] - point[layer.pre_node].relu()).clamp(min=0)
        widest = max(network.nodes[node].size for node in network.ancestors[layer.pre_node])
        width = max(widest, sum(network.nodes[node].size for node in before))
        neurons = gap.argsort(descending=True)
        neurons = neurons[gap[neurons] > 0][: room // width]
        room -= len(neurons) * width
        if len(neurons):
            found.append(_Search(network, layer, neurons, worth[neurons], point, box, magnitudes))
    return found


def _sources_of(network: Network, node: int) -> set[int]:
    """The activations, or the input, that a node is an affine map of."""
    operator = network.nodes[node].operator
    if not isinstance(operator, Affine):
        return {node}
    return set().union(*(_sources_of(network, operand) for operand in network.nodes[node].operands))


def _best(searches: list[_Search], most: int) -> list[Int[Tensor, " chosen"]]:
    """Of each search the neurons whose cuts gain most, of all together as many as `most` coefficients allow."""
    gain, size = (
        torch.cat(part) for part in zip(*((search.gain, search.entries) for search in searches), strict=True)
    )
    order = gain.argsort(descending=True)
    before = gain[order].cumsum(0) - gain[order]
    kept = torch.zeros_like(gain, dtype=torch.bool)
    kept[order] = (before < _SHARE * gain.sum()) & (gain[order] > 0) & (size[order].cumsum(0) <= most)
    return [part.nonzero()[:, 0] for part in kept.split([len(search.gain) for search in searches])]


@dataclass(frozen=True)
class _Inputs:
    """The values before a layer's neurons at one point, side by side, and their box."""

    nodes: dict[int, int]  # the place of each node's first value
    x: Float[Tensor, " columns"]
    lower: Float[Tensor, " columns"]
    upper: Float[Tensor, " columns"]

    @classmethod
    def of(cls, network: Network, nodes: list[int], point: dict[int, Tensor], box: Bounds) -> _Inputs:
        """Those of the given nodes, the input or activations."""
        places, ends, start = {}, [], 0
        for node in nodes:
            places[node] = start
            start += network.nodes[node].size
            layer = network.layer_of_node.get(node)
            span = slice(0, network.inputs) if layer is None else layer.variables
            own = box.lower[0, span], box.upper[0, span]
            ends.append(own if layer is None else layer.activation.interval(*own))
        lower, upper = (torch.cat(end) for end in zip(*ends, strict=True))
        return cls(places, torch.cat([point[node] for node in nodes]), lower, upper)


class _Search:
    """The cut of each neuron that cuts most off a point's output, and what that gains.

    If the output is active a share of the time, each of its inputs adds at most what is left of it when it is not, and at most
    what its interval allows when it is: the less of both. The share at which all of it is most is where the hull is touched.
    """

    def __init__(
        self,
        network: Network,
        layer: Layer,
        neurons: Int[Tensor, " n"],
        worth: Float[Tensor, " n"],
        point: dict[int, Tensor],
        box: Bounds,
        magnitudes: dict[int, Tensor],
    ) -> None:
        self.network, self.layer, self.neurons = network, layer, neurons
        unit = torch.zeros(len(neurons), layer.size, dtype=network.dtype, device=network.device)
        parts = sources(network, layer.pre_node, unit.scatter_(1, neurons[:, None], 1.0))
        inputs = _Inputs.of(network, list(parts), point, box)
        self.nodes = inputs.nodes
        self.columns, self.weights = _packed(torch.cat(list(parts.values()), 1))
        self.lower, self.upper = inputs.lower[self.columns], inputs.upper[self.columns]
        self.low, self.high = (end[0, layer.variables][neurons] for end in (box.lower, box.upper))
        self.bias = network.offsets[layer.pre_node][neurons]
        self.size = magnitudes[layer.pre_node][neurons]
        ends = self.weights * self.lower, self.weights * self.upper
        self.least, self.most = torch.minimum(*ends), torch.maximum(*ends)
        self.terms = self.weights * inputs.x[self.columns]
        self.share, limit = self._highest()
        self.gain = worth * (point[layer.node][neurons] - limit).clamp(min=0)
        self.entries = (self.weights != 0).sum(1)

    def _limit(self, share: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """What the output can be at most if it is active that share of the time."""
        chord = torch.minimum(share * self.high, self.terms.sum(1) + self.bias - self.low * (1 - share))
        each = torch.minimum(self.terms - (1 - share[:, None]) * self.least, share[:, None] * self.most)
        return torch.minimum(each.sum(1) + share * self.bias, chord)

    def _highest(self) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Where that, a concave function, is most, and what it is there."""
        low, high = torch.zeros_like(self.bias), torch.ones_like(self.bias)
        steps = torch.linspace(0, 1, _GRID + 1, dtype=low.dtype, device=low.device)[:, None]
        for _ in range(2):
            shares = low + (high - low) * steps
            limit, best = torch.stack([self._limit(share) for share in shares]).max(0)
            share, width = shares.gather(0, best[None])[0], (high - low) / _GRID
            low, high = (share - width).clamp(min=0), (share + width).clamp(max=1)
        return share, limit

    def made(self, chosen: Int[Tensor, " chosen"]) -> Cuts:
        """The cuts of some neurons."""
        share = self.share[chosen, None]
        weights, least, most = (part[chosen] for part in (self.weights, self.least, self.most))
        low, high = self.low[chosen], self.high[chosen]
        inside = self.terms[chosen] < (1 - share) * least + share * most
        level = torch.where(inside, least, most).sum(1) + self.bias[chosen]
        s = (level / (level - low)).clamp(min=0)
        k = torch.where(level >= 0, -low / (level - low), high / (high - level))
        m = torch.where(inside, k[:, None] * weights, 0.0)
        return self._placed(chosen, s, k, m, self._offsets(chosen, s, k, m))

    def _offsets(self, chosen: Tensor, s: Tensor, k: Tensor, m: Tensor) -> Float[Tensor, " chosen"]:
        """What `y - s z - m . x` is at most, whatever s, k and m are, rounded up."""
        lower, upper, low, high = (part[chosen] for part in (self.lower, self.upper, self.low, self.high))

        def greatest(coefficients: Tensor) -> Tensor:
            return torch.maximum(coefficients * lower, coefficients * upper).sum(1)

        inactive = greatest(-m) + torch.maximum(-s * low, -s * high)
        rest = 1 - s - k
        active = greatest(k[:, None] * self.weights[chosen] - m) + k * self.bias[chosen]
        active = active + torch.maximum(rest * low, rest * high)
        terms = (m.abs() * torch.maximum(lower.abs(), upper.abs())).sum(1) + high - low
        return torch.maximum(inactive, active) + 16 * self.network.gamma * (terms + self.size[chosen])

    def _placed(self, chosen: Tensor, s: Tensor, k: Tensor, m: Tensor, offsets: Tensor) -> Cuts:
        """The cuts with these coefficients."""
        columns, found = self.columns[chosen], {}
        for node, start in self.nodes.items():
            size = self.network.nodes[node].size
            inside: Bool[Tensor, "chosen width"] = (columns >= start) & (columns < start + size) & (m != 0)
            row, place = inside.nonzero(as_tuple=True)
            places = torch.stack([row, columns[row, place] - start])
            found[node] = compressed(places, m[row, place], (len(chosen), size))
        neurons = self.neurons[chosen] + self.layer.variables.start
        return Cuts(neurons, s, offsets, found, k, torch.full_like(neurons, -1))


def _packed(weights: Float[Tensor, "n columns"]) -> tuple[Int[Tensor, "n width"], Float[Tensor, "n width"]]:
    """Each row's entries other than 0 and their columns, side by side; 0 where there are no more."""
    row, column = weights.nonzero(as_tuple=True)
    counts = row.bincount(minlength=len(weights))
    place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    columns = row.new_zeros(len(weights), int(counts.max()))
    values = weights.new_zeros(columns.shape)
    columns[row, place], values[row, place] = column, weights[row, column]
    return columns, values
