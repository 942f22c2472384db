"""Softmax, its logarithm, and the logarithm of a sum of exponentials."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from verify.loading import calls
from verify.loading.builder import Builder, Value
from verify.loading.calls import Call, Unsupported, limit, tensor
from verify.loading.registry import onnx, torch_call
from verify.network.activations.convex import Exp, Log
from verify.network.activations.piecewise import Clip
from verify.network.activations.reciprocal import Share
from verify.network.activations.s_shaped import Sigmoid
from verify.network.activations.softmax import Softmax


@onnx("LogSoftmax", "Softmax")
def onnx_softmax(call: Call) -> Value:
    """Softmax and LogSoftmax; up to opset 12 all axes from the given one on are flattened."""
    log, attributes = call.module.operator == "LogSoftmax", call.attributes
    if call.module.opset >= 13:
        return softmax(call.builder, call.x, attributes.get("axis", -1), log)
    x, axis = call.x, attributes.get("axis", 1)
    axis = axis % len(x.shape) if x.shape else 0
    flat = call.builder.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))
    return call.builder.reshape(softmax(call.builder, flat, 1, log), x.shape)


@torch_call(nn.Softmax, torch.softmax, F.softmax, "softmax")
def torch_softmax(call: Call, log: bool = False) -> Value:
    """torch.softmax and log_softmax, functions, methods and modules."""
    axis = call.setting(1, "dim")
    if axis is None:
        raise Unsupported("its dim is not given")
    return softmax(call.builder, call.x, axis, log)


@torch_call(nn.LogSoftmax, torch.log_softmax, F.log_softmax, "log_softmax")
def torch_log_softmax(call: Call) -> Value:
    """torch.log_softmax."""
    return torch_softmax(call, log=True)


def softmax(builder: Builder, x: Value, axis: int, log: bool = False) -> Value:
    """`1 / (1 + sum_{j != i} exp(x_j - x_i))` along an axis: tighter than a quotient, and never outside [0, 1]."""
    axis %= len(x.shape)
    size = x.shape[axis]
    limit(x.size * (size - 1), "exponentials")
    last = (*(i for i in range(len(x.shape)) if i != axis), axis)
    moved = builder.permute(x, last)
    rows = builder.reshape(moved, (x.size // size, size))
    if log:
        found = builder.scale(builder.activation(Log(), _other_exponentials(builder, rows)), tensor(-1.0))
    elif size == 2:
        found = _pairs(builder, rows)
    elif x.size * (size - 1) > calls.MOST_BOUNDED:
        found = builder.activation(Softmax(rows.shape[0]), rows)
    else:
        found = builder.activation(Share(rows.shape[0]), _other_exponentials(builder, rows))
    back = builder.reshape(found, moved.shape)
    return builder.permute(back, tuple(last.index(i) for i in range(len(last))))


def _pairs(builder: Builder, rows: Value) -> Value:
    """Softmax of two is one sigmoid: each value is 1 less the other, which the clip keeps in [0, 1] in spite of rounding."""
    first, second = builder.slice(rows, 1, 0, 1), builder.slice(rows, 1, 1, 2)
    one = builder.activation(Sigmoid(), builder.combine((1, -1), first, second))
    other = builder.activation(Clip(0.0, 1.0), builder.scale(one, tensor(-1.0), tensor(1.0)))
    return builder.concatenate([one, other], 1)


def _other_exponentials(builder: Builder, rows: Value) -> Value:
    """`1 + sum_{j != i} exp(x_j - x_i)` of rows [n, size].

    It is never below 1, but the interval of a sum of very different numbers is: rounding is charged by the largest.
    """
    count, size = rows.shape
    if size == 1:
        return builder.scale(rows, tensor(0.0), tensor(1.0))
    places = torch.arange(rows.size).reshape(count, size)
    others = torch.stack([torch.cat([places[:, :i], places[:, i + 1 :]], 1) for i in range(size)], 1)
    own = places[:, :, None].expand_as(others)
    differences = builder.combine((1, -1), builder.gather(rows, others), builder.gather(rows, own))
    total = builder.sum(builder.activation(Exp(), differences), (2,), keepdim=False)
    return builder.activation(Clip(1.0, math.inf), builder.scale(total, None, tensor(1.0)))


def log_sum_exp(builder: Builder, x: Value) -> Value:
    """The logarithm of the sum of exponentials over the last axis: `x_1 + log(1 + sum_{j > 1} exp(x_j - x_1))`."""
    axis = len(x.shape) - 1
    first, others = builder.slice(x, axis, 0, 1), builder.slice(x, axis, 1, x.shape[axis])
    if not others.size:
        return x
    total = builder.sum(
        builder.activation(Exp(), builder.combine((1, -1), others, first)), (axis,), keepdim=True
    )
    rest = builder.activation(Clip(1.0, math.inf), builder.scale(total, None, tensor(1.0)))
    return builder.combine((1, 1), first, builder.activation(Log(), rest))
