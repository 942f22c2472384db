"""Lowering rules for activations, and for what is made of ReLUs: maxima, minima, PReLU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from verify.loading.builder import Builder, Value, broadcast_shape
from verify.loading.calls import Call, Rule, Unsupported, axes_of, tensor
from verify.loading.lower_compositions import log_sum_exp, product_along, root_of_sum
from verify.network.activations.base import Activation
from verify.network.activations.convex import Log
from verify.network.activations.piecewise import Abs, Clip, LeakyRelu
from verify.network.activations.relu import Relu
from verify.network.activations.s_shaped import Sigmoid, Tanh
from verify.network.activations.square import Square


def plain(activation: Activation) -> Rule:
    """The rule of an activation without settings."""
    return lambda call: call.builder.activation(activation, call.x)


relu, sigmoid, tanh, absolute = (plain(kind()) for kind in (Relu, Sigmoid, Tanh, Abs))


def clip(builder: Builder, x: Value, low: Any, high: Any) -> Value:
    """min(max(x, low), high); None stands for no limit."""
    minimum = -float("inf") if low is None or _is_end(low, "min") else float(tensor(low))
    maximum = float("inf") if high is None or _is_end(high, "max") else float(tensor(high))
    if minimum == -float("inf") and maximum == float("inf"):
        return x
    if not minimum < maximum:
        raise Unsupported(f"the limits {minimum} and {maximum} are not in order")
    if (minimum, maximum) == (0.0, float("inf")):
        return builder.activation(Relu(), x)
    return builder.activation(Clip(minimum, maximum), x)


def _is_end(limit: Any, end: str) -> bool:
    """Whether a limit of integers is the end of its type, which is none."""
    whole = isinstance(limit, Tensor) and not limit.is_floating_point() and limit.dtype != torch.bool
    return whole and bool((limit == getattr(torch.iinfo(limit.dtype), end)).all())


def clamp(call: Call) -> Value:
    """torch.clamp and clip."""
    return clip(call.builder, call.x, call.constant(1, "min"), call.constant(2, "max"))


def relu6(call: Call) -> Value:
    """min(max(x, 0), 6)."""
    return clip(call.builder, call.x, 0.0, 6.0)


def hardtanh(call: Call) -> Value:
    """torch.nn.Hardtanh."""
    if call.module is not None:
        return clip(call.builder, call.x, call.module.min_val, call.module.max_val)
    low, high = call.constant(1, "min_val", default=-1.0), call.constant(2, "max_val", default=1.0)
    return clip(call.builder, call.x, low, high)


def onnx_hard_sigmoid(call: Call) -> Value:
    """Clip(alpha x + beta, 0, 1)."""
    moved = call.builder.scale(call.x, tensor(call.module.alpha), tensor(call.module.beta))
    return clip(call.builder, moved, 0.0, 1.0)


def hard_sigmoid(call: Call) -> Value:
    """torch's: Clip(x / 6 + 1 / 2, 0, 1)."""
    return clip(call.builder, call.builder.scale(call.x, tensor(1 / 6), tensor(0.5)), 0.0, 1.0)


def leaky_relu(call: Call) -> Value:
    """torch.nn.LeakyReLU."""
    slope = (
        call.constant(1, "negative_slope", default=0.01)
        if call.module is None
        else call.module.negative_slope
    )
    return call.builder.activation(LeakyRelu(float(slope)), call.x)


def prelu(call: Call) -> Value:
    """Torch's PReLU: slopes are one for all, or one for each channel, on axis 1."""
    slope = tensor(call.constant(1, "weight") if call.module is None else call.module.weight.detach())
    if len(slope) > 1:
        slope = slope.reshape(-1, *(1,) * (len(call.x.shape) - 2))
    return _sloped(call, slope)


def onnx_prelu(call: Call) -> Value:
    """ONNX's PRelu: slopes are an operand that broadcasts to the other one, from the last axis on."""
    slope = tensor(call.constant(1, "slope"))
    if broadcast_shape(call.x.shape, tuple(slope.shape)) != call.x.shape:
        raise Unsupported(
            f"slopes of shape {list(slope.shape)} are more than its operand {list(call.x.shape)} has"
        )
    return _sloped(call, slope)


def _sloped(call: Call, slope: Tensor) -> Value:
    """One slope for all is LeakyReLU, else `s x + (1 - s) relu(x)`."""
    if bool((slope == slope.flatten()[0]).all()):
        return call.builder.activation(LeakyRelu(float(slope.flatten()[0])), call.x)
    builder, active = call.builder, call.builder.activation(Relu(), call.x)
    return builder.combine((1, 1), builder.scale(call.x, slope), builder.scale(active, 1 - slope))


# maxima


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


def torch_maximum(call: Call) -> Value:
    """torch.maximum, and torch.max of two tensors."""
    return maximum(call.builder, [call.argument(0, "input"), call.argument(1, "other")])


def torch_minimum(call: Call) -> Value:
    """torch.minimum, and torch.min of two tensors."""
    return maximum(call.builder, [call.argument(0, "input"), call.argument(1, "other")], -1)


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


def torch_amax(call: Call) -> Value:
    """torch.amax."""
    keepdim = bool(call.constant(2, "keepdim", default=False))
    return reduce_maximum(call.builder, call.x, call.constant(1, "dim"), keepdim)


def torch_amin(call: Call) -> Value:
    """torch.amin."""
    keepdim = bool(call.constant(2, "keepdim", default=False))
    return reduce_maximum(call.builder, call.x, call.constant(1, "dim"), keepdim, -1)


# reductions


def torch_reduced(fold: Callable[[Builder, Value], Value]) -> Rule:
    """The rule of a torch function that makes one entry of each row along `dim`."""

    def rule(call: Call) -> Value:
        axes = axes_of(call.constant(1, "dim"), len(call.x.shape))
        return reduced(call.builder, call.x, axes, bool(call.constant(2, "keepdim", default=False)), fold)

    return rule


def onnx_reduce(builder: Builder, operator: str, x: Value, axes: Any, keepdim: bool) -> Value:
    """ReduceSum, Mean, Max, Min, L1, L2, SumSquare, LogSum, LogSumExp, Prod."""
    places = axes_of(axes, len(x.shape))
    if operator in ("ReduceLogSumExp", "ReduceProd"):
        return reduced(
            builder, x, places, keepdim, log_sum_exp if operator == "ReduceLogSumExp" else product_along
        )
    if operator in ("ReduceMax", "ReduceMin"):
        return reduce_maximum(builder, x, places, keepdim, 1 if operator == "ReduceMax" else -1)
    if operator == "ReduceL1":
        x = builder.activation(Abs(), x)
    if operator in ("ReduceL2", "ReduceSumSquare"):
        x = builder.activation(Square(), x)
    total = builder.sum(x, places, keepdim, mean=operator == "ReduceMean")
    if operator == "ReduceLogSum":
        return builder.activation(Log(), total)
    return root_of_sum(builder, total) if operator == "ReduceL2" else total


def reduced(
    builder: Builder, x: Value, axes: tuple[int, ...], keepdim: bool, fold: Callable[[Builder, Value], Value]
) -> Value:
    """What `fold` makes of some axes, put together as the last one, of which it leaves one entry."""
    kept = [axis for axis in range(len(x.shape)) if axis not in axes]
    last = builder.permute(x, (*kept, *axes))
    rows = builder.reshape(
        last, (*(x.shape[axis] for axis in kept), math.prod(x.shape[axis] for axis in axes))
    )
    shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape) if keepdim or i not in axes)
    return builder.reshape(fold(builder, rows), shape)
