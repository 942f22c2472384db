"""Whether a device multiplies as rounding errors are charged: every entry of a float64 map is a sum of its own products, in some order.

Libraries know other ways: Fourier and Winograd transforms, doubles made of shorter formats. Their errors are small beside the largest
entries, not beside each entry's own terms, so a bound may be wrong by more than was charged. None of these is asked for here, and convolutions on
a GPU do without the library that has them; that it is so is tried, too, once for every geometry that a library may choose its way by.

The numbers are laid out to tell: one entry is far larger than those around it, or one channel than the others, and the weights of one channel and
of a kernel's middle are as much smaller. What a sum of products hears of the large entry is of the size of all else then. (Higham 2002,
section 3.5 and chapter 24.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from verify.errors import InputError
from verify.network.affine import Affine, Dense, Shape
from verify.network.convolution import Convolution
from verify.network.graph import Network

_LARGE = 1e10  # times as large as others: more than float64 forgets of a sum, less than its square root
_SAMPLES = 8
_ENTRIES = 2**24  # of a batch, at most
_BATCH = 64
_UNIT = 2.0**-53
_TINY = 1e-290


@dataclass(frozen=True)
class Geometry:
    """What a library may choose its way by: the shape of a map's weights, and, of a convolution, all else."""

    weight: Shape
    convolution: tuple[Shape, Shape, Shape, int, Shape, bool, Shape] | None = None

    @classmethod
    def of(cls, operator: Affine | None) -> Geometry | None:
        """That of an affine map, if it multiplies by a matrix."""
        if isinstance(operator, Dense):
            return cls(tuple(operator.weight.shape))
        if not isinstance(operator, Convolution):
            return None
        windows = operator.stride, operator.padding, operator.dilation, operator.groups
        shapes = operator.input_shape, operator.transposed, operator.output_padding
        return cls(tuple(operator.weight.shape), (*windows, *shapes))

    def operator(self, weight: Tensor) -> Affine:
        """The map with these weights."""
        return Dense(weight) if self.convolution is None else Convolution(weight, None, *self.convolution)

    def shapes(self) -> tuple[Shape, Shape]:
        """Of what goes in, and of what comes out."""
        if self.convolution is None:
            return self.weight[1:], self.weight[:1]
        operator = self.operator(torch.empty(self.weight, device="meta"))
        assert isinstance(operator, Convolution)
        return operator.input_shape, operator.output_shape


def check(network: Network) -> None:
    """Tries all maps of a network on a device that is not the CPU. Raises InputError where one is not computed as it should be."""
    if network.device.type == "cpu":
        return
    for node in network.nodes:
        geometry = Geometry.of(node.operator if isinstance(node.operator, Affine) else None)
        if geometry is not None:
            _refuse_beyond(excess(geometry, network.device), network.device, f"node {node.name!r}")
    _refuse_beyond(excess_of_rows(network.variables, network.device), network.device, "products of rows")


def _refuse_beyond(error: float, device: torch.device, what: str) -> None:
    if not error <= 1:
        raise InputError(
            f"--device {device}: {what}: an entry of a float64 product is off by {error:.3g} times what a sum of products may be, in any "
            "order, so no bound would be proved; use --device cpu"
        )


@cache
def excess(geometry: Geometry, device: torch.device) -> float:
    """How far a device's products are off, as a multiple of what may be: forward and back, entry by entry, beside the CPU's."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(geometry.weight, generator=generator, dtype=torch.float64)
    for axis in range(2):
        if weight.shape[axis] > 1:
            weight.select(axis, 0).div_(_LARGE)
    taps = weight.flatten(2) if weight.dim() > 2 else weight[..., None]
    if taps.shape[2] > 1:
        taps[..., taps.shape[2] // 2] /= _LARGE
    here, there = geometry.operator(weight), geometry.operator(weight.to(device))
    sizes = here.absolute()
    inner, outer = geometry.shapes()
    found = [0.0]
    for shape, back in ((inner, False), (outer, True)):
        x = _uneven(shape, len(geometry.weight) - 2, generator)
        copies = max(1, min(_BATCH, _ENTRIES // max(math.prod(inner), math.prod(outer))))
        many = _applied(there, x.to(device).repeat(copies, *(1,) * len(shape)), back).cpu()
        own, size = _applied(here, x, back), _applied(sizes, x.abs(), back)
        found.append(_excess(many.reshape(copies, *own.shape), own, size, here.terms))
    return max(found)


@cache
def excess_of_rows(width: int, device: torch.device) -> float:
    """As that, of rows multiplied by vectors, one for all of a batch and one each."""
    generator = torch.Generator().manual_seed(0)
    rows, vectors = (_uneven((width,), 0, generator) for _ in range(2))
    vectors[0, 0] /= _LARGE**2
    pairs = rows[:, None], vectors[..., None]
    found, one = ((a.to(device) @ b.to(device)).cpu() for a, b in (pairs, (rows, vectors[0])))
    together, sizes = pairs[0] @ pairs[1], pairs[0].abs() @ pairs[1].abs()
    alone = _excess(one, rows @ vectors[0], rows.abs() @ vectors[0].abs(), width)
    return max(alone, _excess(found, together, sizes, width))


def _excess(found: Tensor, own: Tensor, sizes: Tensor, terms: int) -> float:
    """By how many times two sums of the same products, of these sizes, differ by more than their own rounding errors."""
    rounding = terms * _UNIT
    off = (found - own).abs() / (2 * rounding / (1 - rounding) * sizes + _TINY)
    return float(off.nan_to_num(nan=torch.inf).max())


def _applied(operator: Affine, x: Tensor, back: bool) -> Tensor:
    return operator.transpose(x)[0] if back else operator.forward(x)


def _uneven(shape: Shape, rank: int, generator: torch.Generator) -> Tensor:
    """Samples with one channel, or one entry, that is far larger than all others. rank: of the places behind the channels."""
    x = torch.randn(_SAMPLES, *shape, generator=generator, dtype=torch.float64)
    x.select(len(shape) - rank, 0)[0].mul_(_LARGE)
    for flat in x.flatten(1)[1:]:
        flat[torch.randint(len(flat), (1,), generator=generator)] *= _LARGE
    return x
