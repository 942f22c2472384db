"""QuantizeLinear and DequantizeLinear of constants, computed in float32 as ONNX Runtime does: the weights are what comes out there.

Of values they are refused: what is rounded on the way is no function of real numbers that is known here.
"""

from __future__ import annotations

from typing import Any

from onnx import TensorProto
from torch import Tensor

from verify.loading.calls import Unsupported
from verify.loading.registry import known

_BITS = {  # negative: with a sign
    TensorProto.INT2: -2, TensorProto.INT4: -4, TensorProto.INT8: -8, TensorProto.INT16: -16,
    TensorProto.UINT2: 2, TensorProto.UINT4: 4, TensorProto.UINT8: 8, TensorProto.UINT16: 16,
}  # fmt: skip


def _dequantised(module: Any, x: Tensor, scale: Tensor, zero: Tensor | None, *_: Any) -> Tensor:
    """(x - zero) * scale."""
    moved = x if zero is None else _wide(x) - _wide(_along(module, x, zero))
    return moved.float() * _along(module, x, scale).float()


def _quantised(module: Any, x: Tensor, scale: Tensor, zero: Tensor | None, *_: Any) -> Tensor:
    """round(x / scale) + zero, which stays at the ends of its type."""
    bits = _BITS.get(module.element)
    if bits is None or module.attributes.get("precision", 0):
        raise Unsupported("of this type or precision")
    least, most = (-(1 << (-bits - 1)), (1 << (-bits - 1)) - 1) if bits < 0 else (0, (1 << bits) - 1)
    found = (x.float() / _along(module, x, scale).float()).round().double()
    if zero is not None:
        found = found + _along(module, x, zero).double()
    return found.clamp(least, most).long()


def _wide(x: Tensor) -> Tensor:
    """Integers that may be subtracted; floats as they are."""
    return x if x.is_floating_point() else x.long()


def _along(module: Any, x: Tensor, given: Tensor) -> Tensor:
    """A scale or zero point for each entry of x: one for all, for each place along an axis, or for each block of places."""
    if given.numel() == 1:
        return given.reshape(())
    axis, block = int(module.attributes.get("axis", 1)) % x.dim(), int(module.attributes.get("block_size", 0))
    if block:
        return given.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return given.reshape(-1, *(1,) * (x.dim() - 1 - axis))


known("DequantizeLinear", computed=_dequantised, casts=True)
known("QuantizeLinear", computed=_quantised, casts=True)
