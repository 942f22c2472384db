"""Affine maps that move entries, or add them up: all coefficients are non-negative, and there is no bias."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from verify.network.affine import Affine, Shape


@dataclass(frozen=True)
class NonNegative(Affine):
    """Any linear map with coefficients >= 0, given by a torch function of batch-first tensors.

    Slices, permutations, padding with zeros, concatenation, gathers, sums, means and pools all fit. The function must
    be linear, without bias, and treat the batch axis elementwise; the adjoint is its vector-Jacobian product, or what
    the function's own `transpose(cotangent, input_shapes)` gives where it has one (for speed). A function that only
    moves entries says so by `moves`.
    `input_shapes`: the operands' sample shapes; `summed`: how many entries one sum adds, in either direction.
    """

    function: Callable[..., Tensor]
    input_shapes: tuple[Shape, ...]
    summed: int = 1
    label: str = field(default="reindex", compare=False)

    def forward(self, *operands: Tensor) -> Tensor:
        return self.function(*operands)

    def transpose(self, cotangent: Tensor) -> tuple[Tensor, ...]:
        own = getattr(self.function, "transpose", None)
        if own is not None:
            return tuple(own(cotangent, self.input_shapes))
        batch = cotangent.shape[0]
        with torch.enable_grad():
            zeros = [cotangent.new_zeros(batch, *shape).requires_grad_() for shape in self.input_shapes]
            # of a number: for tensors torch imports a computer algebra system first, which takes longer than most searches
            return torch.autograd.grad((self.function(*zeros) * cotangent).sum(), zeros)

    def absolute(self) -> NonNegative:
        return self

    @property
    def moves(self) -> bool:
        return getattr(self.function, "moves", False)

    @property
    def terms(self) -> int:
        return self.summed


@dataclass(frozen=True)
class Permute(Affine):
    """Permutes the sample axes: `axes[i]` is the operand's sample axis that becomes axis `i`."""

    axes: Shape

    def forward(self, *operands: Tensor) -> Tensor:
        return operands[0].permute(0, *(axis + 1 for axis in self.axes))

    @cached_property
    def _inverse(self) -> Shape:
        return tuple(self.axes.index(axis) + 1 for axis in range(len(self.axes)))

    def transpose(self, cotangent: Tensor) -> tuple[Tensor, ...]:
        return (cotangent.permute(0, *self._inverse),)

    def absolute(self) -> Permute:
        return self

    @property
    def moves(self) -> bool:
        return True

    @property
    def terms(self) -> int:
        return 1
