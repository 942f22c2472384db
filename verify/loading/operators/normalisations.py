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


def layer_norm(builder: Builder, x: Value, axis: int, parts: tuple[Any, Any], epsilon: float) -> Value:
    """Layer normalisation over the axes from `axis` on; `parts`: factor and shift, or None."""
    found = normalised(builder, x, axis % len(x.shape), epsilon)
    factor, shift = (None if part is None else tensor(part).detach() for part in parts)
    return builder.scale(found, factor, shift)


@onnx("LayerNormalization")
def onnx_layer_norm(call: Call) -> Value:
    """LayerNormalization."""
    if call.module.results > 1:
        raise Unsupported("mean and deviation are results")
    factor, shift = call.constants("bc")
    attributes = call.attributes
    axis, epsilon = attributes.get("axis", -1), attributes.get("epsilon", 1e-5)
    return layer_norm(call.builder, call.x, axis, (factor, shift), epsilon)


@torch_call(nn.LayerNorm, F.layer_norm, torch.layer_norm)
def torch_layer_norm(call: Call) -> Value:
    """torch.nn.LayerNorm and its functional form."""
    if call.module is not None:
        module = call.module
        shape, parts, epsilon = module.normalized_shape, (module.weight, module.bias), module.eps
    else:
        shape = call.constant(1, "normalized_shape")
        parts = (call.constant(2, "weight"), call.constant(3, "bias"))
        epsilon = call.constant(4, "eps", default=1e-5)
    return layer_norm(call.builder, call.x, len(call.x.shape) - len(tuple(shape)), parts, epsilon)


def instance_norm(builder: Builder, x: Value, parts: tuple[Any, Any], epsilon: float) -> Value:
    """Instance normalisation over the axes from 2 on; `parts`: factor and shift of each channel, or None."""
    found = normalised(builder, x, 2, epsilon)
    shape = (-1, *(1,) * (len(x.shape) - 2))
    factor, shift = (None if part is None else tensor(part).detach().reshape(shape) for part in parts)
    return builder.scale(found, factor, shift)


@onnx("InstanceNormalization")
def onnx_instance_norm(call: Call) -> Value:
    """InstanceNormalization."""
    factor, shift = call.constants("bc")
    epsilon = call.attributes.get("epsilon", 1e-5)
    return instance_norm(call.builder, call.x, (factor, shift), epsilon)


@torch_call(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
def torch_instance_norm(call: Call) -> Value:
    """torch.nn.InstanceNorm without running statistics."""
    module = call.module
    if module.track_running_stats:
        raise Unsupported("running statistics")
    return instance_norm(call.builder, call.x, (module.weight, module.bias), module.eps)


def group_norm(builder: Builder, x: Value, groups: int, parts: tuple[Any, Any], epsilon: float) -> Value:
    """Normalisation over groups of channels; `parts`: factor and shift of each channel, or None."""
    cut = builder.reshape(x, (x.shape[0], groups, x.size // (x.shape[0] * groups)))
    found = builder.reshape(normalised(builder, cut, 2, epsilon), x.shape)
    shape = (-1, *(1,) * (len(x.shape) - 2))
    factor, shift = (None if part is None else tensor(part).detach().reshape(shape) for part in parts)
    return builder.scale(found, factor, shift)


@onnx("GroupNormalization")
def onnx_group_norm(call: Call) -> Value:
    """GroupNormalization; before opset 21 factor and shift are each group's, since then each channel's."""
    groups, attributes = int(call.attributes["num_groups"]), call.attributes
    parts = [tensor(part) for part in call.constants("bc")]
    if call.module.opset < 21:
        parts = [part.repeat_interleave(call.x.shape[1] // groups) for part in parts]
    epsilon = attributes.get("epsilon", 1e-5)
    return group_norm(call.builder, call.x, groups, (parts[0], parts[1]), epsilon)


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
