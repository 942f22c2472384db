"""Lowering rules for the operators that reach us as ONNX has them (`OnnxOperator`): they read its attributes.

Each hands over to the rule it shares with torch; what is here is only ONNX's own way of saying things.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verify.loading import lower_activations as act
from verify.loading import lower_affine as aff
from verify.loading import lower_compositions as compositions
from verify.loading import lower_windows as win
from verify.loading.builder import Value
from verify.loading.calls import Call, Unsupported, integers
from verify.network.activations.elu import Elu
from verify.network.activations.gated import Swish
from verify.network.activations.piecewise import Abs
from verify.network.activations.s_shaped import Tanh


def convolution(call: Call) -> Value:
    """Conv."""
    return win.onnx_convolution(call.builder, call.module.attributes, call.x, *_constants(call, "b", "c"))


def deconvolution(call: Call) -> Value:
    """ConvTranspose."""
    return win.onnx_deconvolution(call.builder, call.module.attributes, call.x, *_constants(call, "b", "c"))


def _constants(call: Call, *names: str) -> list[Any]:
    return [call.constant("abcdef".index(name), name) for name in names]


def average_pool(call: Call) -> Value:
    """AveragePool."""
    return win.onnx_average_pool(call.builder, call.module.attributes, call.x)


def max_pool(call: Call) -> Value:
    """MaxPool."""
    if call.module.results > 1:
        raise Unsupported("its indices are a result")
    return win.onnx_max_pool(call.builder, call.module.attributes, call.x)


def global_max_pool(call: Call) -> Value:
    """GlobalMaxPool."""
    return act.reduce_maximum(call.builder, call.x, tuple(range(2, len(call.x.shape))), keepdim=True)


def batch_norm(call: Call) -> Value:
    """BatchNormalization."""
    if call.module.attributes.get("training_mode", 0) or call.module.results > 1:
        raise Unsupported("training mode")
    epsilon = call.module.attributes.get("epsilon", 1e-5)
    return aff.batch_norm(call.builder, call.x, _constants(call, "b", "c", "d", "e"), epsilon)


def gemm(call: Call) -> Value:
    """Gemm."""
    operands = (call.argument(place, name) for place, name in enumerate("abc"))
    return aff.gemm(call.builder, call.module.attributes, *operands)


def clip(call: Call) -> Value:
    """Clip: the limits are attributes up to opset 10, then operands."""
    low, high = _constants(call, "b", "c")
    attributes = call.module.attributes
    low = attributes.get("min") if low is None else low
    return act.clip(call.builder, call.x, low, attributes.get("max") if high is None else high)


def reduce(call: Call) -> Value:
    """ReduceSum and its kin: the axes are an attribute in old versions, an operand in new ones."""
    attributes = call.module.attributes
    (axes,) = _constants(call, "b")
    axes = attributes.get("axes") if axes is None else integers(axes)
    if not axes:
        if attributes.get("noop_with_empty_axes", 0):
            if call.module.operator in ("ReduceL1", "ReduceL2", "ReduceSumSquare"):
                raise Unsupported("no axes to reduce")
            return call.x
        axes = None
    keepdim = bool(attributes.get("keepdims", 1))
    return act.onnx_reduce(call.builder, call.module.operator, call.x, axes, keepdim)


def softmax(call: Call) -> Value:
    """Softmax and LogSoftmax; up to opset 12 all axes from the given one on are flattened."""
    log, attributes = call.module.operator == "LogSoftmax", call.module.attributes
    if call.module.opset < 13:
        return compositions.softmax_of_rows(call.builder, call.x, attributes.get("axis", 1), log)
    return compositions.softmax(call.builder, call.x, attributes.get("axis", -1), log)


def layer_norm(call: Call) -> Value:
    """LayerNormalization."""
    if call.module.results > 1:
        raise Unsupported("mean and deviation are results")
    factor, shift = _constants(call, "b", "c")
    attributes = call.module.attributes
    axis, epsilon = attributes.get("axis", -1), attributes.get("epsilon", 1e-5)
    return compositions.layer_norm(call.builder, call.x, axis, (factor, shift), epsilon)


def instance_norm(call: Call) -> Value:
    """InstanceNormalization."""
    factor, shift = _constants(call, "b", "c")
    epsilon = call.module.attributes.get("epsilon", 1e-5)
    return compositions.instance_norm(call.builder, call.x, (factor, shift), epsilon)


def elu(call: Call) -> Value:
    """Elu."""
    return call.builder.activation(Elu(float(call.module.attributes.get("alpha", 1.0))), call.x)


def celu(call: Call) -> Value:
    """Celu."""
    return compositions.celu(call.builder, call.x, float(call.module.attributes.get("alpha", 1.0)))


def selu(call: Call) -> Value:
    """Selu; its attributes have been written out (operators.py)."""
    attributes = call.module.attributes
    return compositions.selu(call.builder, call.x, float(attributes["alpha"]), float(attributes["gamma"]))


def gelu(call: Call) -> Value:
    """Gelu, exact or approximate."""
    kind = call.module.attributes.get("approximate", "none")
    return compositions.gelu(call.builder, call.x, kind.decode() if isinstance(kind, bytes) else kind)


def swish(call: Call) -> Value:
    """Swish: x sigmoid(alpha x)."""
    alpha = float(call.module.attributes.get("alpha", 1.0))
    return compositions.scaled_argument(call.builder, Swish(), call.x, alpha)


def compare(call: Call) -> Value:
    """Equal, Greater, GreaterOrEqual, Less, LessOrEqual."""
    operands = (call.argument(place, name) for place, name in enumerate("ab"))
    return compositions.compare(call.builder, call.module.operator, *operands)


def logical(call: Call) -> Value:
    """And, Or."""
    operands = (call.argument(place, name) for place, name in enumerate("ab"))
    return compositions.logical(call.builder, call.module.operator, *operands)


def pad(call: Call) -> Value:
    """Pad, in all modes."""
    attributes, x = call.module.attributes, call.x
    pads, value, axes = _constants(call, "b", "c", "d")
    widths = integers(attributes.get("pads", attributes.get("paddings")) if pads is None else pads)
    chosen = range(len(x.shape)) if axes is None else [axis % len(x.shape) for axis in integers(axes)]
    sides = [(0, 0)] * len(x.shape)
    for place, axis in enumerate(chosen):
        sides[axis] = (widths[place], widths[place + len(widths) // 2])
    number = float(attributes.get("value", 0.0) if value is None else value)
    index = padded_index(x.shape, sides, attributes.get("mode", "constant"))
    return aff.pad(call.builder, x, index, number)


def padded_index(shape: tuple[int, ...], sides: list[tuple[int, int]], mode: str) -> Tensor:
    """The entry that each place of the padded tensor holds, -1 for the constant."""
    numbers = np.arange(math.prod(shape)).reshape(shape)
    crop = tuple(
        slice(max(-begin, 0), size - max(-end, 0)) for size, (begin, end) in zip(shape, sides, strict=True)
    )
    grown = [(max(begin, 0), max(end, 0)) for begin, end in sides]
    kinds: dict[str, Any] = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    if mode == "constant":
        padded = np.pad(numbers[crop], grown, constant_values=-1)
    elif mode in kinds:
        padded = np.pad(numbers[crop], grown, mode=kinds[mode])
    else:
        raise Unsupported(f"mode {mode!r}")
    return torch.from_numpy(padded)


def shape(call: Call) -> Any:
    """Shape of a value: a constant."""
    return torch.tensor(call.x.shape[call.module._start : call.module._end])


def function(call: Call) -> Value:
    """onnx2torch's module for Abs, Tanh and functions that have no rule yet."""
    rules = {torch.abs: Abs, torch.tanh: Tanh}
    if call.module.function not in rules:
        raise Unsupported("no relaxation of it is known here yet")
    return call.builder.activation(rules[call.module.function](), call.x)


# Resize


def resize(call: Call) -> Value:
    """Resize and Upsample to the nearest entry, all ways of rounding."""
    attributes, x = call.module.attributes, call.x
    if attributes.get("mode", "nearest") != "nearest":
        raise Unsupported(f"mode {attributes['mode']!r}; only nearest is supported yet")
    scales, sizes = _resize_targets(call)
    old_opset = call.module.operator == "Upsample" or call.module.opset < 11
    transform = "asymmetric" if old_opset else attributes.get("coordinate_transformation_mode", "half_pixel")
    rounding = "floor" if old_opset else attributes.get("nearest_mode", "round_prefer_floor")
    numbers = torch.arange(x.size).reshape(x.shape)
    for axis, size in enumerate(x.shape):
        out = int(sizes[axis]) if sizes is not None else math.floor(size * scales[axis])
        if out != size:
            scale = out / size if sizes is not None else scales[axis]
            numbers = numbers.index_select(axis, _nearest(size, out, scale, transform, rounding))
    return call.builder.gather(x, numbers)


def _resize_targets(call: Call) -> tuple[Any, Any]:
    """(scales, sizes) for all axes, one of them None."""
    attributes, rank = call.module.attributes, len(call.x.shape)
    if call.module.operator == "Upsample" or call.module.opset < 11:
        (scales,), sizes = _constants(call, "b"), None
        scales = attributes.get("scales") if scales is None else scales.flatten().tolist()
    else:
        _, scales, sizes = _constants(call, "b", "c", "d")
        scales = None if scales is None or scales.numel() == 0 else scales.flatten().tolist()
        sizes = None if sizes is None or sizes.numel() == 0 else integers(sizes)
        if attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
            raise Unsupported("keep_aspect_ratio_policy")
    axes = attributes.get("axes")
    if axes is not None:
        places = {axis % rank: place for place, axis in enumerate(axes)}
        if scales is not None:
            scales = [scales[places[axis]] if axis in places else 1.0 for axis in range(rank)]
        if sizes is not None:
            sizes = [sizes[places[axis]] if axis in places else call.x.shape[axis] for axis in range(rank)]
    return scales, sizes


def _nearest(size: int, out: int, scale: float, transform: str, rounding: str) -> Tensor:
    """For each of `out` places the entry of `size` it shows."""
    places = torch.arange(out, dtype=torch.float64)
    if transform == "asymmetric":
        source = places / scale
    elif transform == "half_pixel" or (transform == "pytorch_half_pixel" and out > 1):
        source = (places + 0.5) / scale - 0.5
    elif transform == "align_corners":
        source = places * (size - 1) / (out - 1) if out > 1 else torch.zeros_like(places)
    elif transform == "pytorch_half_pixel":
        source = torch.zeros_like(places)
    else:
        raise Unsupported(f"coordinate transformation {transform!r}")
    roundings: dict[str, Callable[[Tensor], Tensor]] = {
        "floor": torch.floor, "ceil": torch.ceil, "round_prefer_floor": lambda x: torch.ceil(x - 0.5),
        "round_prefer_ceil": lambda x: torch.floor(x + 0.5),
    }  # fmt: skip
    return roundings[rounding](source).long().clamp(0, size - 1)
