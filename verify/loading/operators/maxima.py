"""Maxima and minima, which are made of ReLUs."""

from __future__ import annotations

from typing import Any

import torch

from verify.loading.builder import Builder, Value
from verify.loading.calls import Call, axes_of, tensor
from verify.loading.registry import converted, onnx, torch_call
from verify.network.activations.relu import Relu


def maximum(builder: Builder, operands: Any, sign: int = 1) -> Value:
    """The maximum of values and constants, or with `sign` -1 the minimum: min(a, b) = -max(-a, -b)."""
    constants = [tensor(operand) for operand in operands if not isinstance(operand, Value)]
    values = [operand for operand in operands if isinstance(operand, Value)]
    values = [builder.scale(value, tensor(float(sign))) for value in values]
    while len(values) > 1:
        values = [*values[2:], builder.maximum(values[0], values[1])]
    result = values[0]
    for constant in constants:
        limit = sign * constant  # max(x, c) = c + relu(x - c)
        result = builder.scale(builder.activation(Relu(), builder.scale(result, None, -limit)), None, limit)
    return builder.scale(result, tensor(float(sign)))


@torch_call(torch.maximum)
def torch_maximum(call: Call) -> Value:
    """torch.maximum, and torch.max of two tensors."""
    return maximum(call.builder, [call.argument(0, "input"), call.argument(1, "other")])


@torch_call(torch.minimum)
def torch_minimum(call: Call) -> Value:
    """torch.minimum, and torch.min of two tensors."""
    return maximum(call.builder, [call.argument(0, "input"), call.argument(1, "other")], -1)


@converted("OnnxMinMax", "Max", "Min", chooses=True)
def onnx_min_max(call: Call) -> Value:
    """ONNX Max and Min of any number of operands."""
    return maximum(call.builder, call.args, 1 if call.module._operator is torch.amax else -1)


def reduce_maximum(builder: Builder, x: Value, axes: Any, keepdim: bool, sign: int = 1) -> Value:
    """The maximum over axes, or with `sign` -1 the minimum."""
    rank = len(x.shape)
    gone = axes_of(axes, rank)
    kept = tuple(axis for axis in range(rank) if axis not in gone)
    shape = tuple(x.shape[axis] for axis in kept)
    front = builder.permute(builder.scale(x, tensor(float(sign))), (*gone, *kept))
    largest = builder.maximum_along_first(
        builder.reshape(front, (-1 if not x.size else x.size // _size(shape), *shape))
    )
    final = tuple(1 if axis in gone else size for axis, size in enumerate(x.shape)) if keepdim else shape
    return builder.reshape(builder.scale(largest, tensor(float(sign))), final)


def _size(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


@torch_call(torch.amax, "amax")
def torch_amax(call: Call) -> Value:
    """torch.amax."""
    keepdim = bool(call.constant(2, "keepdim", default=False))
    return reduce_maximum(call.builder, call.x, call.constant(1, "dim"), keepdim)


@torch_call(torch.amin, "amin")
def torch_amin(call: Call) -> Value:
    """torch.amin."""
    keepdim = bool(call.constant(2, "keepdim", default=False))
    return reduce_maximum(call.builder, call.x, call.constant(1, "dim"), keepdim, -1)


@onnx("GlobalMaxPool", chooses=True)
def global_max_pool(call: Call) -> Value:
    """GlobalMaxPool."""
    return reduce_maximum(call.builder, call.x, tuple(range(2, len(call.x.shape))), keepdim=True)
