"""Where sums have no rounding errors at all, because all their terms are whole multiples of one number and few bits long.

What steps give are such numbers, and so are most ends of boxes. Before a further step it matters: of a sum that is 6 exactly
Floor is 6; of one that is 6 up to rounding it may be 5.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from verify.network.affine import Affine, Combine, Dense, Reshape, Scale, tensors
from verify.network.convolution import Convolution
from verify.network.moves import NonNegative

BITS = 53  # of float64's numbers
_OF_ZERO = 1100.0  # 0 is a multiple of everything


class Units(NamedTuple):
    """The exponents of powers of two that all coefficients, and all biases, of an affine map are multiples of."""

    coefficients: float
    biases: float


def units_of(operator: Affine) -> Units | None:
    """None where a coefficient may be rounded: those count as exact that float32 has, as it has all that models hold."""
    if isinstance(operator, Reshape | Combine) or (
        isinstance(operator, NonNegative) and operator.label == "sum"
    ):
        return Units(0.0, _OF_ZERO)
    if not isinstance(operator, Dense | Scale | Convolution):
        return None
    parts = {name: part for name, part in tensors(operator).items() if part.is_floating_point()}
    rounded = any(bool((part != part.float()).any()) for part in parts.values())
    if rounded or "bias_size" in parts or parts.keys().isdisjoint(("weight", "factor")):
        return None
    of = {name: float(unit_exponent(part.reshape(1, -1))) for name, part in parts.items()}
    return Units(min(of[name] for name in of if name != "bias"), of.get("bias", _OF_ZERO))


def unit_exponent(values: Float[Tensor, "batch size"]) -> Float[Tensor, " batch"]:
    """Of the greatest power of two that all numbers of a row are multiples of; infinities and NaN are of none."""
    fraction, exponent = torch.frexp(values.double())
    whole = (fraction.nan_to_num(0.0, 0.0, 0.0) * 2.0**BITS).long()
    lowest = (whole & -whole).double().log2() + exponent - BITS
    lowest = torch.where(values == 0, _OF_ZERO, lowest)
    return torch.where(values.isfinite(), lowest, -_OF_ZERO).amin(1)
