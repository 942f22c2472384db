"""Bounds carried forward as linear functions of few inputs: for boxes of few dimensions hardly dearer than interval arithmetic.

Every value lies between two affine functions of the box's own coordinates `e` in [-1, 1]^d, `(C - R) (1, e) - E` and
`(C + R) (1, e) + E`: centre C and half the difference R have d + 1 columns, the rounding errors E one. An affine map W sends C to `W C`
and R to `|W| R` (with W+ and W- written out that is what each side's own better function gives), an activation's lines to itself. (Zhang
et al. 2018 and Xu et al. 2020, "Automatic Perturbation Analysis", call it forward mode.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from verify.bounders.halfspaces import Halfspaces
from verify.bounders.ibp import magnitudes
from verify.deadline import Deadline
from verify.lagrangian.dual import DualProblem
from verify.lagrangian.value import dot
from verify.network.activations import LinearRelaxation
from verify.network.affine import Affine
from verify.network.graph import Layer, Network
from verify.state import Bounds, DualState, Objective, is_wide

# Of their size, between float32 numbers: a decimal and the number nearest to it are one input's point.
_ONE_STEP = 2.0**-23
_SAFETY = 8  # times the error constant: a sum, its bias, and the elementwise steps around it


@dataclass(frozen=True)
class _Enclosure:
    """A node's values on every box."""

    centre: Float[Tensor, "batch columns size"]
    radius: Float[Tensor, "batch columns size"]
    error: Float[Tensor, "batch size"]

    @property
    def sizes(self) -> Float[Tensor, "batch size"]:
        """Of all terms together."""
        return self.centre.abs().sum(1) + self.radius.abs().sum(1) + self.error

    def ends(self, unit: float) -> tuple[Tensor, Tensor]:
        """The least and the greatest value, [batch, size], rounded outward; NaN where nothing is known."""
        low, high = self.centre - self.radius, self.centre + self.radius
        slack = self.error + unit * self.sizes
        return low[:, 0] - low[:, 1:].abs().sum(1) - slack, high[:, 0] + high[:, 1:].abs().sum(1) + slack

    def clipped(self, low: Tensor, high: Tensor, unsafe: Halfspaces, unit: float) -> tuple[Tensor, Tensor]:
        """The ends over the unsafe points, no looser than the given ones."""
        slack, size = self.error + unit * self.sizes, self.sizes
        found = []
        for sign in (1.0, -1.0):
            columns = sign * self.centre - self.radius
            found.append(unsafe.least_around(columns[:, 0] - slack, columns[:, 1:].mT, size))
        return torch.fmax(low, found[0]), torch.fmin(high, -found[1])


@dataclass(frozen=True)
class Forward:
    """Bounds carried forward, and what it takes to bound functions of the outputs with them."""

    network: Network
    bounds: Bounds
    free: Int[Tensor, " free"]  # the inputs that have a column
    _enclosures: dict[int, _Enclosure]  # of the input, and of the values that outputs are affine functions of

    def crown(self, objective: Objective) -> tuple[Tensor, Tensor]:
        """Lower bounds of the objectives (of one row each) and their slopes, as CROWN gives them.

        [batch, objectives] and [batch, objectives, inputs]: where an input is not at the end that its slope asks for, the objective
        is more by the slope's size times the distance. The sweep goes back to the last activations alone and ends in
        what is known of these as functions of the input: it costs next to nothing, and loses a little.
        """
        network, unit = self.network, _SAFETY * self.network.gamma
        problem = DualProblem(network, self.bounds, objective)
        state = DualState({"constraint_weights": torch.ones_like(objective.thresholds)})
        descent = problem.start_sweep(state, magnitudes(network, self.bounds))
        descent.down_to(network.affine_from(problem.node))
        rounding, like = descent.value.rounding, objective.thresholds
        columns, slack = like.new_zeros(()), _SAFETY * network.gamma * rounding.total + rounding.deployed
        for index, cotangent in descent.pending.items():
            t, one = cotangent.reshape(problem.batch, problem.objectives, -1), self._enclosures[index]
            columns = columns + (t @ one.centre.mT - t.abs() @ one.radius.mT)
            slack = slack + (1 + unit) * dot(t.abs(), one.error) + unit * dot(t.abs(), one.sizes)
        slack = slack + torch.finfo(like.dtype).tiny ** 0.5
        bound = descent.value.bound + columns[..., 0] - columns[..., 1:].abs().sum(2) - slack
        radius = self._radius
        slopes = like.new_zeros(problem.batch, problem.objectives, network.inputs)
        slopes[..., self.free] = torch.where(radius > 0, columns[..., 1:] / radius, 0.0)
        return bound, slopes

    @property
    def _radius(self) -> Float[Tensor, "batch 1 free"]:
        """The radii of the boxes along inputs that have a column."""
        columns = self._enclosures[0].centre[:, 1:]
        return columns[:, torch.arange(len(self.free), device=self.free.device), self.free][:, None]


def forward(
    network: Network, bounds: Bounds, deadline: Deadline, unsafe: Halfspaces | None = None
) -> Forward:
    """`bounds` (whose input columns are the boxes), intersected with what linear functions of the open inputs tell.

    unsafe: the parts of the boxes that bounds need to hold on. Raises OutOfTimeError.
    """
    unit = _SAFETY * network.gamma
    free = _open_inputs(network, bounds)
    enclosures = {0: _boxes(network, bounds, free)}
    part = None if unsafe is None else unsafe.along(free)
    last_use = {operand: i for i, node in enumerate(network.nodes) for operand in node.operands}
    final = len(network.nodes) - 1
    last = network.affine_from(final)
    ends = {operand for node in network.nodes[last:] for operand in node.operands if operand < last}
    kept = ends | {0, min(final, last - 1)}
    lower, upper = bounds.lower.clone(), bounds.upper.clone()
    for index, node in enumerate(network.nodes[1:], start=1):
        deadline.check()
        operands = [enclosures[operand] for operand in node.operands]
        for operand in set(node.operands):
            if last_use[operand] == index and operand not in kept:
                del enclosures[operand]
        if isinstance(node.operator, Affine):
            enclosures[index] = _affine(network, index, operands, unit)
            continue
        layer = network.layer_of_node[index]
        low, high = operands[0].ends(unit)
        if part is not None:
            low, high = operands[0].clipped(low, high, part, unit)
        low = torch.fmax(low, lower[:, layer.variables])
        high = torch.fmin(high, upper[:, layer.variables])
        lower[:, layer.variables], upper[:, layer.variables] = low, high
        enclosures[index] = _activation(layer, operands[0], low, torch.maximum(low, high), unit)
    return Forward(network, Bounds(lower, upper), free, {index: enclosures[index] for index in kept})


def _open_inputs(network: Network, bounds: Bounds) -> Int[Tensor, " free"]:
    """Inputs that are open on any of the boxes."""
    lower, upper = (end[:, : network.inputs] for end in (bounds.lower, bounds.upper))
    return is_wide(lower, upper, _ONE_STEP).any(0).nonzero()[:, 0]


def _boxes(network: Network, bounds: Bounds, free: Int[Tensor, " free"]) -> _Enclosure:
    """The inputs themselves: one column for each that is open on any of the boxes, the others are points but for rounding."""
    lower, upper = (end[:, : network.inputs] for end in (bounds.lower, bounds.upper))
    middle = (lower + upper) / 2
    radius = torch.maximum(upper - middle, middle - lower) * (1 + 4 * torch.finfo(lower.dtype).eps)
    centre = lower.new_zeros(len(lower), 1 + len(free), network.inputs)
    centre[:, 0] = middle
    centre[:, torch.arange(1, 1 + len(free), device=free.device), free] = radius[:, free]
    error = radius.index_fill(1, free, 0.0)
    return _Enclosure(centre, torch.zeros_like(centre), error)


def _affine(network: Network, index: int, operands: list[_Enclosure], unit: float) -> _Enclosure:
    """All columns through the map and its absolute one; its bias belongs to the first column alone."""
    node, absolute = network.nodes[index], network.absolute[index]
    assert isinstance(node.operator, Affine)
    batch, columns = operands[0].centre.shape[:2]
    shapes = [network.nodes[operand].shape for operand in node.operands]

    def rows(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        return tensor.reshape(-1, *shape)

    zeros = [one.centre.new_zeros(1, *shape) for one, shape in zip(operands, shapes, strict=True)]
    centres = [
        torch.cat([rows(one.centre, shape), zero])
        for one, shape, zero in zip(operands, shapes, zeros, strict=True)
    ]
    found = node.operator.forward(*centres).flatten(1)
    centre, bias = found[:-1].reshape(batch, columns, -1), found[-1]
    centre = torch.cat([centre[:, :1], centre[:, 1:] - bias], 1)
    own = unit + network.rounding32(index)
    spread = [
        rows(torch.cat([one.radius, (one.error + own * one.sizes)[:, None]], 1), shape)
        for one, shape in zip(operands, shapes, strict=True)
    ]
    carried = absolute.forward(*spread).reshape(batch, columns + 1, -1)
    error = carried[:, -1] * (1 + unit) + own * network.bias_sizes[index]
    tiny = torch.finfo(error.dtype).tiny ** 0.5  # more than what underflows, and its sum
    return _Enclosure(centre, carried[:, :-1], error + tiny * network.weighted[index])


def _activation(layer: Layer, before: _Enclosure, low: Tensor, high: Tensor, unit: float) -> _Enclosure:
    """The activation's lines over the enclosure; its interval where it has none."""
    activation = layer.activation
    first, last = activation.interval(low, high)
    constant = torch.stack([(first + last) / 2, (last - first) / 2])
    centre = before.centre.new_zeros(*before.centre.shape[:2], constant.shape[-1])
    radius = torch.zeros_like(centre)
    size = torch.maximum(first.abs(), last.abs())
    error = unit * size
    centre[:, 0], radius[:, 0] = constant[0], constant[1]
    if activation.mixes:
        return _Enclosure(centre, radius, error)
    hull = activation.hull(low[:, None], high[:, None])
    sides = []
    for sign in (1.0, -1.0):
        line = hull.line(torch.full_like(first[:, None], sign), hull.initial())
        along = line.along(before.centre) - sign * _sized(line, before.radius)
        along[:, :1] += line.intercept
        terms = _sized(line, (before.error + unit * before.sizes)[:, None]) + unit * line.intercept.abs()
        sides.append((along, terms[:, 0]))
    (below, error_below), (above, error_above) = sides
    lines = _Enclosure(
        (below + above) / 2, (above - below) / 2, torch.maximum(error_below, error_above) + 2 * error
    )
    good = lines.sizes.isfinite()
    return _Enclosure(
        torch.where(good[:, None], lines.centre, centre),
        torch.where(good[:, None], lines.radius, radius),
        torch.where(good, lines.error, error),
    )


def _sized(line: LinearRelaxation, z: Tensor) -> Tensor:
    """`|slope| z`, added up over each output's operands."""
    return LinearRelaxation(line.slope.abs(), line.intercept, 0.0, line.copies).along(z)
