"""Lowering rules for the operators that reach us as ONNX has them (`OnnxOperator`): they read its attributes.

Each hands over to the rule it shares with torch; what is here is only ONNX's own way of saying things.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verify.loading import lower_activations as act
from verify.loading import lower_affine as aff
from verify.loading import lower_compositions as compositions
from verify.loading import lower_windows as win
from verify.loading.builder import Builder, Value
from verify.loading.calls import Call, Unsupported, integer, integers, tensor
from verify.loading.products import side_by_side
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


def dropout(call: Call) -> Value:
    """Dropout, unless it is told to drop."""
    training = call.constant(2, "training_mode")
    if training is not None and bool(training):
        raise Unsupported("training mode")
    return call.x


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


def group_norm(call: Call) -> Value:
    """GroupNormalization; before opset 21 factor and shift are each group's, since then each channel's."""
    groups, attributes = int(call.module.attributes["num_groups"]), call.module.attributes
    parts = [tensor(part) for part in _constants(call, "b", "c")]
    if call.module.opset < 21:
        parts = [part.repeat_interleave(call.x.shape[1] // groups) for part in parts]
    epsilon = attributes.get("epsilon", 1e-5)
    return compositions.group_norm(call.builder, call.x, groups, (parts[0], parts[1]), epsilon)


def rms_norm(call: Call) -> Value:
    """RMSNormalization."""
    (factor,) = _constants(call, "b")
    attributes = call.module.attributes
    axis, epsilon = attributes.get("axis", -1), attributes.get("epsilon", 1e-5)
    return compositions.rms_norm(call.builder, call.x, axis, factor, epsilon)


def attention(call: Call) -> Value:
    """Attention without masks of -inf, caches and shared heads: `softmax(scale Q K^T + mask) V` of each head."""
    attributes, builder = call.module.attributes, call.builder
    query, key, value, mask = (call.argument(place, name) for place, name in enumerate("abcd"))
    for name in ("is_causal", "softcap", "qk_matmul_output_mode"):
        if attributes.get(name, 0):
            raise Unsupported(name)
    if call.module.results > 1 or any(
        call.argument("abcdefg".index(name), name) is not None for name in "efg"
    ):
        raise Unsupported("a cache of keys and values")
    if isinstance(mask, Value):
        raise Unsupported("a mask that depends on the network's input")
    flat = len(query.shape) == 3
    if flat:
        heads = [attributes["q_num_heads"], *[attributes["kv_num_heads"]] * 2]
        query, key, value = (
            _in_heads(builder, x, n) for x, n in zip((query, key, value), heads, strict=True)
        )
    if query.shape[1] != key.shape[1]:
        raise Unsupported("heads that share keys")
    turned = aff.moved(builder, key, (0, 1, 3, 2))
    scores = aff.product(builder, query, turned)
    scores = builder.scale(scores, tensor(attributes.get("scale", 1 / math.sqrt(query.shape[-1]))))
    if mask is not None:
        if mask.dtype == torch.bool or not bool(mask.isfinite().all()):
            raise Unsupported("a mask that leaves out keys")
        scores = aff.add(builder, scores, mask)
    found = aff.product(builder, compositions.softmax(builder, scores, -1), value)
    if not flat:
        return found
    apart = builder.permute(found, (0, 2, 1, 3))
    return builder.reshape(apart, (*apart.shape[:2], apart.shape[2] * apart.shape[3]))


def _in_heads(builder: Builder, x: Any, heads: int) -> Any:
    """[batch, places, heads * size] as [batch, heads, places, size]."""
    shape = (*x.shape[:2], heads, x.shape[2] // heads)
    cut = builder.reshape(x, shape) if isinstance(x, Value) else x.reshape(shape)
    return aff.moved(builder, cut, (0, 2, 1, 3))


def scatter(call: Call) -> Value:
    """ScatterElements and ScatterND to constant places, found by scattering numbers (see `aff.reindex`)."""
    if call.module.attributes.get("reduction", "none") != "none":
        raise Unsupported("a reduction")
    given = [call.argument(place, name) for place, name in ((0, "a"), (2, "c"))]
    parts = [part if isinstance(part, Value) else call.builder.constant(tensor(part)) for part in given]
    total = sum(part.size for part in parts)
    split = torch.arange(1, total + 1, dtype=torch.float64).split([part.size for part in parts])
    data, updates = (numbers.reshape(part.shape) for numbers, part in zip(split, parts, strict=True))
    moved = call.function(data, call.constant(1, "b"), updates)
    return call.builder.gather(side_by_side(call.builder, parts), moved.long() - 1)


def cumulative_sum(call: Call) -> Value:
    """CumSum."""
    attributes = call.module.attributes
    return aff.cumulative_sum(
        call.builder, call.x, integer(call.constant(1, "b")),
        bool(attributes.get("exclusive", 0)), bool(attributes.get("reverse", 0)),
    )  # fmt: skip


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
    number = float(tensor(attributes.get("value", 0.0) if value is None else value))
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
