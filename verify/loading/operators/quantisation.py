"""QuantizeLinear and DequantizeLinear.

Of constants they are computed in float32, as ONNX Runtime does: the weights are what comes out there. Of values they are
the functions of real numbers that ONNX defines, without what floats round on the way.
"""

from __future__ import annotations

from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor

from verify.loading.builder import Value
from verify.loading.calls import Call, Unsupported, tensor
from verify.loading.registry import onnx
from verify.network.activations.piecewise import Clip
from verify.network.activations.steps import Round

_BITS = {  # negative: with a sign
    TensorProto.INT2: -2, TensorProto.INT4: -4, TensorProto.INT8: -8, TensorProto.INT16: -16,
    TensorProto.UINT2: 2, TensorProto.UINT4: 4, TensorProto.UINT8: 8, TensorProto.UINT16: 16,
}  # fmt: skip


def _dequantised(module: Any, x: Tensor, scale: Tensor, zero: Tensor | None, *_: Any) -> Tensor:
    """(x - zero) * scale."""
    moved = x if zero is None else _wide(x) - _wide(_along(module, x.shape, zero))
    return moved.float() * _along(module, x.shape, scale).float()


def _quantised(module: Any, x: Tensor, scale: Tensor, zero: Tensor | None, *_: Any) -> Tensor:
    """round(x / scale) + zero, which stays at the ends of its type."""
    least, most = _limits(module)
    found = (x.float() / _along(module, x.shape, scale).float()).round().double()
    if zero is not None:
        found = found + _along(module, x.shape, zero).double()
    return found.clamp(least, most).long()


def _limits(module: Any) -> tuple[int, int]:
    """The ends of the type that it quantises to."""
    bits = _BITS.get(module.element)
    if bits is None or module.attributes.get("precision", 0):
        raise Unsupported("of this type or precision")
    return (-(1 << (-bits - 1)), (1 << (-bits - 1)) - 1) if bits < 0 else (0, (1 << bits) - 1)


def _wide(x: Tensor) -> Tensor:
    """Integers that may be subtracted; floats as they are."""
    return x if x.is_floating_point() else x.long()


def _along(module: Any, shape: tuple[int, ...], given: Tensor) -> Tensor:
    """A scale or zero point for each entry: one for all, for each place along an axis, or for each block of places."""
    if given.numel() == 1:
        return given.reshape(())
    axis, block = (
        int(module.attributes.get("axis", 1)) % len(shape),
        int(module.attributes.get("block_size", 0)),
    )
    if block:
        return given.index_select(axis, torch.arange(shape[axis]) // block)
    return given.reshape(-1, *(1,) * (len(shape) - 1 - axis))


def _check_wide(call: Call) -> None:
    """Raises Unsupported where it computes in floats of fewer bits than float32, which are rounded to."""
    if call.module.narrow:
        raise Unsupported("of a value in floats of fewer bits than float32")


@onnx("QuantizeLinear", computed=_quantised, casts=True)
def quantise(call: Call) -> Value:
    """QuantizeLinear of a value."""
    _check_wide(call)
    scale, zero = call.constants("bc")
    builder, x, module = call.builder, call.x, call.module
    least, most = _limits(module)
    zeros = tensor(0 if zero is None else _along(module, x.shape, zero))
    if bool((zeros != zeros.flatten()[0]).any()):
        raise Unsupported("its zero points differ")
    zero = float(zeros.flatten()[0])
    steps = builder.scale(x, tensor(_along(module, x.shape, scale)).reciprocal())
    kept = builder.activation(Clip(least - zero, most - zero), steps)
    return builder.scale(builder.activation(Round(), kept), None, tensor(zero))


@onnx("DequantizeLinear", computed=_dequantised, casts=True)
def dequantise(call: Call) -> Value:
    """DequantizeLinear of a value."""
    _check_wide(call)
    scale, zero = call.constants("bc")
    builder, x, module = call.builder, call.x, call.module
    if zero is not None:
        x = builder.scale(x, None, -tensor(_along(module, x.shape, zero)))
    return builder.scale(x, tensor(_along(module, x.shape, scale)))
