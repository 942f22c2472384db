"""Whether a network's factors stay within float32's range, whatever a runtime makes of them before the values come in."""

from __future__ import annotations

import numpy as np

from verify.checker.errors import Refused
from verify.checker.maps import Convolution, Dense, Map, Scale
from verify.checker.network import Affine, Network

LARGEST32 = 2.0**127
# what a product or sum that underflows may lose
TINY32 = 2.0**-126


def check_factors(network: Network) -> None:
    """Refuse factors that leave float32's range where a runtime multiplies them before the values come in.

    Factors that follow one another without an activation between may be joined (a convolution's weights and those of the
    normalisation behind it are), and what overflows or loses digits there no bound on values tells.
    """
    # of affine nodes: the least and the largest of all products that end with their own factors
    ranges: dict[int, tuple[float, float]] = {}
    for index, node in enumerate(network.nodes):
        for linear, operand in node.operands if isinstance(node, Affine) else ():
            least, most = _factors(linear)
            before = ranges.get(operand, (1.0, 1.0))
            joined = least * min(1.0, before[0]), most * max(1.0, before[1])
            changes = (least, most) != (1.0, 1.0) and (before != (1.0, 1.0) or _computed(linear))
            if changes and not TINY32 <= joined[0] <= joined[1] < LARGEST32:
                raise Refused("a factor computed from the weights is too large or too small for float32")
            found = ranges.get(index, joined)
            ranges[index] = min(found[0], joined[0]), max(found[1], joined[1])


def _factors(linear: Map) -> tuple[float, float]:
    """The least and the largest coefficient of a map in absolute value, of those that are not 0."""
    if not isinstance(linear, Scale | Dense | Convolution):
        return 1.0, 1.0
    numbers = np.abs(linear.coefficients if isinstance(linear, Scale) else linear.weight)
    numbers = numbers[numbers > 0]
    return (float(numbers.min()), float(numbers.max())) if numbers.size else (1.0, 1.0)


def _computed(linear: Map) -> bool:
    """Whether a map has factors that are no float32 numbers, so no numbers of the model's own."""
    if not isinstance(linear, Scale):
        return False
    with np.errstate(over="ignore"):
        own = linear.coefficients.astype(np.float32) == linear.coefficients
    return linear.precise is not None or not own.all()
