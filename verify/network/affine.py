"""Affine maps: the one place where the network's weights live.

Every map knows four things, and the whole system asks for nothing else:

* `forward(x_1, .., x_p)`: its value, bias included;
* `transpose(y)`: the adjoint of its linear part, one cotangent for each operand;
* `absolute()`: the linear map with the absolute values of its coefficients, which carries both interval arithmetic
  (centre and radius) and the analysis of rounding errors (sums of magnitudes);
* `terms`: how many products any one of its sums has, in either direction (for the error constant gamma).

All tensors are batch first; the sample shape behind the batch is the ONNX tensor's own shape, its leading 1 included.
A map whose coefficients are all non-negative (pad, concatenate, mean, ..) is its own `absolute()`, and its adjoint comes from
autograd's vector-Jacobian product: nobody has to write it (`moves.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from verify.network.few import Few

Shape = tuple[int, ...]


class Affine(ABC):
    """An affine map of one or several operands."""

    @abstractmethod
    def forward(self, *operands: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """The map's value, bias included."""

    @abstractmethod
    def transpose(self, cotangent: Float[Tensor, "batch ..."]) -> tuple[Float[Tensor, "batch ..."], ...]:
        """The adjoint of the linear part: one cotangent for each operand."""

    @abstractmethod
    def absolute(self) -> Affine:
        """The linear map with the absolute values of all coefficients, without bias."""

    def signed(self, sign: int) -> Affine | None:
        """The linear map of the coefficients of that sign (1 or -1) alone, as absolute values, without bias; None: it has none."""
        assert self.absolute() is self  # others have their own
        return self if sign > 0 else None

    @property
    @abstractmethod
    def terms(self) -> int:
        """The most products that one sum of `forward` or `transpose` adds up."""

    @property
    def terms_back(self) -> int:
        """The most products that one sum of `transpose` adds up."""
        return self.terms

    @property
    def moves(self) -> bool:
        """Whether `forward` only moves entries (and puts zeros beside them), so that nothing is rounded."""
        return False

    def bias_terms(self) -> Affine:
        """The map with the sizes of the terms that its bias was rounded from in the bias's place.

        These are the bias's own sizes unless the map was folded from several (`bias_size`).
        """
        size = getattr(self, "bias_size", None)
        return self if size is None else replace(self, bias=size)  # type: ignore[type-var]

    def to(self, device: torch.device, dtype: torch.dtype) -> Affine:
        """The map with its tensors on `device`, as `dtype`."""
        changes = {
            name: value.to(device, dtype)
            for name, value in tensors(self).items()
            if value.is_floating_point()
        }
        return replace(self, **changes) if changes else self  # type: ignore[type-var]


def tensors(operator: Affine) -> dict[str, Tensor]:
    """The tensors an affine map is made of (without what it caches)."""
    values = {f.name: getattr(operator, f.name) for f in fields(operator)}  # type: ignore[arg-type]
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


@dataclass(frozen=True)
class Dense(Affine):
    """`y = x W^T + b` over the last axis. `weight`: [out, in]; `bias`: [out] or None."""

    weight: Float[Tensor, "outputs inputs"]
    bias: Float[Tensor, " outputs"] | None = None
    bias_size: Float[Tensor, " outputs"] | None = None  # where folding made the bias: see `bias_terms`

    def forward(self, *operands: Tensor) -> Tensor:
        if self._rows is None:
            return functional.linear(operands[0], self.weight, self.bias)
        value = self._rows.times(operands[0])
        return value if self.bias is None else value + self.bias

    def transpose(self, cotangent: Tensor) -> tuple[Tensor, ...]:
        return (cotangent @ self.weight if self._columns is None else self._columns.times(cotangent),)

    @cached_property
    def _rows(self) -> Few | None:
        return Few.of(self.weight)

    @cached_property
    def _columns(self) -> Few | None:
        return Few.of(self.weight.mT)

    def absolute(self) -> Dense:
        return Dense(self.weight.abs())

    def signed(self, sign: int) -> Dense:
        return Dense((sign * self.weight).clamp(min=0))

    @property
    def terms(self) -> int:
        return max(self.weight.shape) + 1


@dataclass(frozen=True)
class Scale(Affine):
    """`y = factor * x + bias`, elementwise; `factor` and `bias` broadcast against the sample shape."""

    factor: Tensor
    bias: Tensor | None = None
    bias_size: Tensor | None = None  # where folding made the bias: see `bias_terms`

    def forward(self, *operands: Tensor) -> Tensor:
        scaled = operands[0] * self.factor
        return scaled if self.bias is None else scaled + self.bias

    def transpose(self, cotangent: Tensor) -> tuple[Tensor, ...]:
        return (cotangent * self.factor,)

    def absolute(self) -> Scale:
        return Scale(self.factor.abs())

    def signed(self, sign: int) -> Scale:
        return Scale((sign * self.factor).clamp(min=0))

    @property
    def terms(self) -> int:
        return 2


@dataclass(frozen=True)
class Combine(Affine):
    """`y = sum_i signs_i x_i` of operands of one shape: addition and subtraction of branches. signs: 1, -1, or 0 for none."""

    signs: tuple[int, ...]

    def forward(self, *operands: Tensor) -> Tensor:
        total = operands[0] if self.signs[0] == 1 else self.signs[0] * operands[0]
        for sign, operand in zip(self.signs[1:], operands[1:], strict=True):
            total = torch.add(total, operand, alpha=sign)
        return total

    def transpose(self, cotangent: Tensor) -> tuple[Tensor, ...]:
        return tuple(cotangent if sign == 1 else sign * cotangent for sign in self.signs)

    def absolute(self) -> Combine:
        return Combine(tuple(map(abs, self.signs)))

    def signed(self, sign: int) -> Combine:
        return Combine(tuple(int(own == sign) for own in self.signs))

    @property
    def terms(self) -> int:
        return len(self.signs)


@dataclass(frozen=True)
class Reshape(Affine):
    """The same entries in the same order under another sample shape."""

    input_shape: Shape
    output_shape: Shape

    def forward(self, *operands: Tensor) -> Tensor:
        return operands[0].reshape(operands[0].shape[0], *self.output_shape)

    def transpose(self, cotangent: Tensor) -> tuple[Tensor, ...]:
        return (cotangent.reshape(cotangent.shape[0], *self.input_shape),)

    def absolute(self) -> Reshape:
        return self

    @property
    def moves(self) -> bool:
        return True

    @property
    def terms(self) -> int:
        return 1


@dataclass(frozen=True)
class Constant(Affine):
    """A value that does not depend on its operand, for graphs whose output or branch is constant."""

    value: Tensor
    input_shape: Shape

    def forward(self, *operands: Tensor) -> Tensor:
        return self.value.expand(operands[0].shape[0], *self.value.shape)

    def transpose(self, cotangent: Tensor) -> tuple[Tensor, ...]:
        return (cotangent.new_zeros(cotangent.shape[0], *self.input_shape),)

    def absolute(self) -> Constant:
        return replace(self, value=torch.zeros_like(self.value))

    def signed(self, sign: int) -> Constant:
        return self.absolute()

    @property
    def terms(self) -> int:
        return 1
