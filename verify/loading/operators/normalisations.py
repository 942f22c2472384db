"""Normalisations, by numbers of the model or of the operand itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from verify.loading.builder import Builder, Value
from verify.loading.calls import Call, Unsupported, tensor
from verify.loading.registry import onnx, torch_call
from verify.network.activations.convex import Rsqrt
from verify.network.activations.square import Square

_MOST_CENTRED = 512  # entries that are centred by a matrix


def batch_norm(builder: Builder, x: Value, parts: Sequence[Any], epsilon: float) -> Value:
    """Batch normalisation of axis 1 in evaluation mode; `parts`: weight, bias, mean, variance."""
    weight, bias, mean, variance = parts
    factor = (1.0 if weight is None else tensor(weight)) / (tensor(variance) + epsilon).sqrt()
    shift = -tensor(mean) * factor if bias is None else tensor(bias) - tensor(mean) * factor
    shape = (-1, *(1,) * (len(x.shape) - 2)) if len(x.shape) > 1 else (-1,)
    size = (tensor(mean) * factor).abs() + (0.0 if bias is None else tensor(bias).abs())
    return builder.scale(
        x, factor.detach().reshape(shape), shift.detach().reshape(shape), size.detach().reshape(shape)
    )


@onnx("BatchNormalization")
def onnx_batch_norm(call: Call) -> Value:
    """BatchNormalization."""
    if call.attributes.get("training_mode", 0) or call.module.results > 1:
        raise Unsupported("training mode")
    epsilon = call.attributes.get("epsilon", 1e-5)
    return batch_norm(call.builder, call.x, call.constants("bcde"), epsilon)


@torch_call(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
def batch_norm_module(call: Call) -> Value:
    """torch.nn.BatchNorm1d, 2d, 3d."""
    module = call.module
    if module.running_mean is None:
        raise Unsupported("batch normalisation without running statistics depends on the batch")
    parts = (module.weight, module.bias, module.running_mean, module.running_var)
    return batch_norm(call.builder, call.x, parts, module.eps)


def normalised(builder: Builder, x: Value, lead: int, epsilon: float) -> Value:
    """`(x - mean) / sqrt(variance + epsilon)` over all axes from `lead` on."""
    size = math.prod(x.shape[lead:])
    rows = builder.reshape(x, (x.size // size, size))
    if size <= _MOST_CENTRED:
        centred = builder.dense(rows, torch.eye(size, dtype=torch.float64) - 1 / size)
    else:
        centred = builder.combine((1, -1), rows, builder.sum(rows, (1,), keepdim=True, mean=True))
    variance = builder.sum(builder.activation(Square(), centred), (1,), keepdim=True, mean=True)
    inverse = builder.activation(Rsqrt(), builder.scale(variance, None, tensor(epsilon)))
    return builder.reshape(builder.product(builder.copy(centred), inverse, shared=True), x.shape)


def _scaled(builder: Builder, x: Value, parts: Sequence[Any], shape: tuple[int, ...] | None = None) -> Value:
    """`factor x + shift`, either of which may be None; they are of this shape."""
    given = [None if part is None else tensor(part).detach() for part in parts]
    factor, shift = (part if part is None or shape is None else part.reshape(shape) for part in given)
    return builder.scale(x, factor, shift)


def _along_channels(x: Value) -> tuple[int, ...]:
    return (-1, *(1,) * (len(x.shape) - 2))


@onnx("LayerNormalization")
def layer_norm(call: Call) -> Value:
    """LayerNormalization."""
    if call.module.results > 1:
        raise Unsupported("mean and deviation are results")
    parts, attributes = call.constants("bc"), call.attributes
    lead = attributes.get("axis", -1) % len(call.x.shape)
    return _scaled(
        call.builder, normalised(call.builder, call.x, lead, attributes.get("epsilon", 1e-5)), parts
    )


@torch_call(nn.LayerNorm, F.layer_norm, torch.layer_norm)
def torch_layer_norm(call: Call) -> Value:
    """torch.nn.LayerNorm and its functional form."""
    shape, parts = call.setting(1, "normalized_shape"), (call.setting(2, "weight"), call.setting(3, "bias"))
    lead = (len(call.x.shape) - len(tuple(shape))) % len(call.x.shape)
    return _scaled(call.builder, normalised(call.builder, call.x, lead, call.setting(4, "eps", 1e-5)), parts)


@onnx("InstanceNormalization")
def instance_norm(call: Call) -> Value:
    """InstanceNormalization: over the axes from 2 on, with a factor and a shift of each channel."""
    parts, epsilon = call.constants("bc"), call.attributes.get("epsilon", 1e-5)
    return _scaled(call.builder, normalised(call.builder, call.x, 2, epsilon), parts, _along_channels(call.x))


@torch_call(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
def torch_instance_norm(call: Call) -> Value:
    """torch.nn.InstanceNorm without running statistics."""
    module, x = call.module, call.x
    if module.track_running_stats:
        raise Unsupported("running statistics")
    found = normalised(call.builder, x, 2, module.eps)
    return _scaled(call.builder, found, (module.weight, module.bias), _along_channels(x))


def group_norm(builder: Builder, x: Value, groups: int, parts: Sequence[Any], epsilon: float) -> Value:
    """Normalisation over groups of channels; `parts`: factor and shift of each channel, or None."""
    cut = builder.reshape(x, (x.shape[0], groups, x.size // (x.shape[0] * groups)))
    found = builder.reshape(normalised(builder, cut, 2, epsilon), x.shape)
    return _scaled(builder, found, parts, _along_channels(x))


@onnx("GroupNormalization")
def onnx_group_norm(call: Call) -> Value:
    """GroupNormalization; before opset 21 factor and shift are each group's, since then each channel's."""
    groups = int(call.attributes["num_groups"])
    parts = [tensor(part) for part in call.constants("bc")]
    if call.module.opset < 21:
        parts = [part.repeat_interleave(call.x.shape[1] // groups) for part in parts]
    return group_norm(call.builder, call.x, groups, parts, call.attributes.get("epsilon", 1e-5))


@torch_call(nn.GroupNorm)
def torch_group_norm(call: Call) -> Value:
    """torch.nn.GroupNorm."""
    module = call.module
    return group_norm(call.builder, call.x, module.num_groups, (module.weight, module.bias), module.eps)


def rms_norm(builder: Builder, x: Value, axis: int, factor: Any, epsilon: float) -> Value:
    """`x / sqrt(mean of x^2 + epsilon)` over the axes from `axis` on, times a factor."""
    lead = axis % len(x.shape)
    rows = builder.reshape(x, (*x.shape[:lead], math.prod(x.shape[lead:])))
    squares = builder.sum(builder.activation(Square(), rows), (lead,), keepdim=True, mean=True)
    inverse = builder.activation(Rsqrt(), builder.scale(squares, None, tensor(epsilon)))
    found = builder.reshape(builder.product(builder.copy(rows), inverse, shared=True), x.shape)
    return builder.scale(found, None if factor is None else tensor(factor).detach())


@onnx("RMSNormalization")
def onnx_rms_norm(call: Call) -> Value:
    """RMSNormalization."""
    (factor,) = call.constants("b")
    attributes = call.attributes
    axis, epsilon = attributes.get("axis", -1), attributes.get("epsilon", 1e-5)
    return rms_norm(call.builder, call.x, axis, factor, epsilon)


@torch_call(nn.RMSNorm)
def torch_rms_norm(call: Call) -> Value:
    """torch.nn.RMSNorm."""
    module = call.module
    if module.eps is None:
        raise Unsupported(
            "its eps is that of an element type; give it a number, or export the module to ONNX"
        )
    axis = len(call.x.shape) - len(module.normalized_shape)
    return rms_norm(call.builder, call.x, axis, module.weight, module.eps)
