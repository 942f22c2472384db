"""Bounds carried forward as linear functions of the input, for boxes of few open inputs.

Every value of a node lies between `(C - R) (1, e) - E` and `(C + R) (1, e) + E`, where e are the box's own coordinates in [-1, 1]: centre C
and half the difference R have a column for the constant and one for each open input, the error E has one. An affine map W sends C to `W C`, R
and E to `|W| R` and `|W| E`. An activation is put between the lines of CROWN's multipliers: `sigma(z) >= rho z + min [sigma(z) - rho z]`, and
the same of `-sigma`. What rounds is charged to E.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.checker.activations import MULTIPLYING, default_rho, minimum
from verify.checker.dual import Dual, sums
from verify.checker.factors import TINY32
from verify.checker.halfspaces import Halfspaces, coordinates
from verify.checker.multipliers import Pair
from verify.checker.network import Activation, Affine

Array = NDArray[Any]
_UNIT32 = 2.0**-24
_ONE_STEP = 2.0**-23  # of its size: no wider an input is a point


@dataclass(frozen=True)
class _Enclosure:
    """centre, radius: [boxes, columns, size]; error: [boxes, size]; NaN where nothing is known."""

    centre: Array
    radius: Array
    error: Array

    @property
    def sizes(self) -> Array:
        """Of all terms together, [boxes, size]."""
        found: Array = np.abs(self.centre).sum(1) + np.abs(self.radius).sum(1) + self.error
        return found

    def ends(self, unit: float, unsafe: Halfspaces | None) -> Pair:
        """The least and the greatest value over the box, or over what half-spaces leave of it; NaN where nothing is known."""
        size = self.sizes
        slack = self.error + unit * size
        found = []
        for sign in (1.0, -1.0):
            columns = sign * self.centre - self.radius
            constant, slopes = columns[:, 0] - slack, columns[:, 1:]
            least = constant - np.abs(slopes).sum(1)
            if unsafe is not None:
                least = np.fmax(least, unsafe.least_around(constant, slopes.swapaxes(1, 2), size))
            found.append(least)
        return found[0], -found[1]


def carried_forward(dual: Dual, bounds: Pair, unsafe: Halfspaces | None = None) -> Pair:
    """Bounds [boxes, variables], intersected with what linear functions of the open inputs tell.

    unsafe: what is left of the boxes, in the coordinates of all inputs.
    """
    network, inputs = dual.network, slice(0, dual.network.inputs)
    box = bounds[0][:, inputs], bounds[1][:, inputs]
    free = _open_inputs(box)
    unit = sums(2 * len(free) + 16)
    part = None if unsafe is None else unsafe.along(free)
    lower, upper = bounds[0].copy(), bounds[1].copy()
    found = {0: _of_boxes(box, free)}
    last_use = {operand: index for index, node in enumerate(network.nodes) for operand in node.sources}
    layers = {layer.node: layer for layer in network.layers}
    for index, node in enumerate(network.nodes):
        if isinstance(node, Affine):
            found[index] = _affine(dual, index, found, len(free))
        elif isinstance(node, Activation):
            columns = layers[index].variables
            low, high = found[node.operand].ends(unit, part)
            low, high = np.fmax(low, lower[:, columns]), np.fmin(high, upper[:, columns])
            lower[:, columns], upper[:, columns] = low, high
            found[index] = _activation(dual, node, found[node.operand], (low, np.maximum(low, high)), unit)
        for operand in set(node.sources):
            if last_use[operand] == index:
                del found[operand]
    return lower, upper


def _open_inputs(box: Pair) -> Array:
    """Inputs that are open on any of the boxes."""
    size = np.maximum(np.abs(box[0]), np.abs(box[1]))
    return np.flatnonzero((box[1] - box[0] > _ONE_STEP * size).any(0))


def _of_boxes(box: Pair, free: Array) -> _Enclosure:
    """The inputs themselves: those that are open in no box are points but for an error."""
    middle, radius = coordinates(box)
    centre = np.zeros((len(middle), 1 + len(free), middle.shape[1]))
    centre[:, 0] = middle
    centre[:, 1 + np.arange(len(free)), free] = radius[:, free]
    error = radius.copy()
    error[:, free] = 0.0
    return _Enclosure(centre, np.zeros_like(centre), error)


def _affine(dual: Dual, index: int, found: dict[int, _Enclosure], free: int) -> _Enclosure:
    """All columns through the map, or through its absolute one."""
    centre: Any = 0.0
    radius: Any = 0.0
    error: Any = 0.0
    size: Any = np.abs(dual.biases[index])[None]
    sizes = []
    for (linear, operand), (absolute, _) in zip(dual.maps[index], dual.absolute[index], strict=True):
        own = found[operand]
        boxes, columns, _ = own.centre.shape
        sizes.append(own.sizes)
        centre = centre + linear.forward(own.centre.reshape(boxes * columns, -1)).reshape(boxes, columns, -1)
        radius = radius + absolute.forward(own.radius.reshape(boxes * columns, -1)).reshape(
            boxes, columns, -1
        )
        error = error + absolute.forward(own.error)
        size = size + absolute.forward(sizes[-1])
    centre[:, 0] += dual.biases[index]
    return _Enclosure(centre, radius, error + dual.lost(index, size, sizes, 2 * free + 16))


def _activation(dual: Dual, node: Activation, before: _Enclosure, ends: Pair, unit: float) -> _Enclosure:
    """Between the lines of CROWN's multipliers; in its interval where there are none."""
    first, last = dual.outputs(node, *ends)
    own, operand = np.maximum(np.abs(first), np.abs(last)), np.maximum(np.abs(ends[0]), np.abs(ends[1]))
    centre = np.zeros((*before.centre.shape[:2], node.size))
    radius = np.zeros_like(centre)
    centre[:, 0], radius[:, 0] = (first + last) / 2, (last - first) / 2
    t = np.broadcast_to(np.array([1.0, -1.0])[:, None], (len(first), 2, node.size))
    low, high = ends[0][:, None], ends[1][:, None]
    rho = default_rho(node.kind, node.parameters, t, low, high)
    least = minimum(node.kind, node.parameters, t, rho, low, high)
    beyond = unit * own + dual.gamma * own
    if dual.arithmetic.deployed and node.kind in MULTIPLYING:
        beyond = beyond + _UNIT32 * own + TINY32
    sides = []
    for side, sign in enumerate((1.0, -1.0)):
        slope = sign * rho[:, side]
        line = _along(slope[:, None] * before.centre, node) - sign * _along(
            np.abs(slope)[:, None] * before.radius, node
        )
        line[:, 0] += sign * least[:, side]
        rounded = _along(
            (np.abs(slope) * (before.error + unit * before.sizes + dual.gamma * operand))[:, None], node
        )
        sides.append((line, rounded[:, 0] + unit * np.abs(least[:, side]) + beyond))
    (below, error_below), (above, error_above) = sides
    error = np.maximum(error_below, error_above) + unit * (np.abs(below) + np.abs(above)).sum(1)
    lines = _Enclosure((below + above) / 2, (above - below) / 2, error)
    good = np.isfinite(lines.sizes)
    return _Enclosure(
        np.where(good[:, None], lines.centre, centre),
        np.where(good[:, None], lines.radius, radius),
        np.where(good, lines.error, beyond),
    )


def _along(z: Array, node: Activation) -> Array:
    """Multiples of an activation's operands, added up over those of each output: [boxes, columns, size]."""
    found: Array = z.reshape(*z.shape[:2], -1, node.size).sum(2)
    return found
