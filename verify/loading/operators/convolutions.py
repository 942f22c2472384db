"""Convolutions and their adjoints.

A convolution of the network pads both sides alike, so anything else is padded beforehand or cropped afterwards.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from verify.loading import reindex
from verify.loading.builder import Builder, Value
from verify.loading.calls import Call, Unsupported, integers
from verify.loading.operators.windows import Window, onnx_window, torch_window
from verify.loading.registry import onnx, torch_call
from verify.network.affine import Convolution, NonNegative, Shape


def convolve(
    builder: Builder, x: Value, weight: Tensor, bias: Tensor | None, window: Window, groups: int
) -> Value:
    """A convolution with any padding."""
    padding = window.begin
    if window.begin != window.end:
        x, padding = _pad(builder, x, window.begin, window.end), (0,) * window.rank
    operator = Convolution(
        weight.double(),
        _double(bias),
        window.stride,
        padding,
        window.dilation,
        groups,
        x.shape,
    )
    return builder.convolution(x, operator)


def _pad(builder: Builder, x: Value, begin: Shape, end: Shape) -> Value:
    """Zeros around the spatial axes."""
    if not any((*begin, *end)):
        return x
    pads = tuple(side for pair in zip(reversed(begin), reversed(end), strict=True) for side in pair)
    return builder.affine(NonNegative(reindex.Pad(pads), (x.shape,), 1, "pad"), x)


def _double(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.double()


def deconvolve(
    builder: Builder, x: Value, weight: Tensor, bias: Tensor | None, window: Window, groups: int, extra: Shape
) -> Value:
    """The adjoint of a convolution, `extra` added at the far ends; uneven pads are cropped off."""
    symmetrical = window.begin == window.end
    padding = window.begin if symmetrical else (0,) * window.rank
    added = extra if symmetrical else tuple(max(o - e, 0) for o, e in zip(extra, window.end, strict=True))
    operator = Convolution(
        weight.double(),
        _double(bias),
        window.stride,
        padding,
        window.dilation,
        groups,
        x.shape,
        transposed=True,
        output_padding=added,
    )
    full = builder.convolution(x, operator)
    if symmetrical:
        return full
    for place, (begin, end, more) in enumerate(zip(window.begin, window.end, extra, strict=True)):
        axis = len(full.shape) - window.rank + place
        stop = full.shape[axis] - max(end - more, 0)
        full = builder.slice(full, axis, begin, stop) if (begin, stop) != (0, full.shape[axis]) else full
    return full


def onnx_convolution(builder: Builder, attributes: dict[str, Any], x: Value, weight: Any, bias: Any) -> Value:
    """ONNX Conv."""
    rank = weight.dim() - 2
    window = onnx_window(attributes, x.shape[-rank:], tuple(weight.shape[2:]))
    return convolve(builder, x, weight, bias, window, attributes.get("group", 1))


def onnx_deconvolution(
    builder: Builder, attributes: dict[str, Any], x: Value, weight: Any, bias: Any
) -> Value:
    """ONNX ConvTranspose."""
    rank = weight.dim() - 2
    extra = tuple(attributes.get("output_padding", (0,) * rank))
    auto, wanted = attributes.get("auto_pad", "NOTSET"), attributes.get("output_shape")
    given = {name: value for name, value in attributes.items() if name != "auto_pad"}
    window = onnx_window(given, x.shape[-rank:], tuple(weight.shape[2:]))
    if auto in ("SAME_UPPER", "SAME_LOWER") or wanted:
        sizes = x.shape[-rank:]
        wanted = wanted[-rank:] if wanted else tuple(n * s for n, s in zip(sizes, window.stride, strict=True))
        begin, end, missing = [], [], []
        for size, stride, reach, more, out in zip(
            sizes, window.stride, window.reach, extra, wanted, strict=True
        ):
            surplus = (size - 1) * stride + more + reach - out
            missing.append(max(-surplus, 0))
            surplus = max(surplus, 0)
            half = surplus // 2
            begin.append(half if auto == "SAME_UPPER" else surplus - half)
            end.append(surplus - half if auto == "SAME_UPPER" else half)
        window = Window(window.kernel, window.stride, window.dilation, tuple(begin), tuple(end))
        extra = tuple(more + less for more, less in zip(extra, missing, strict=True))
    return deconvolve(builder, x, weight, bias, window, attributes.get("group", 1), extra)


@onnx("Conv")
def convolution(call: Call) -> Value:
    """Conv."""
    return onnx_convolution(call.builder, call.attributes, call.x, *call.constants("bc"))


@onnx("ConvTranspose")
def deconvolution(call: Call) -> Value:
    """ConvTranspose."""
    return onnx_deconvolution(call.builder, call.attributes, call.x, *call.constants("bc"))


@torch_call(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
def convolution_module(call: Call) -> Value:
    """torch.nn.Conv1d, 2d, 3d and their transposes."""
    module, x = call.module, call.x
    if module.padding_mode != "zeros":
        raise Unsupported(f"padding mode {module.padding_mode!r}")
    rank = module.weight.dim() - 2
    window = torch_window(
        module.kernel_size, module.stride, module.padding, module.dilation, rank, x.shape[-rank:]
    )
    weight, bias = module.weight.detach(), None if module.bias is None else module.bias.detach()
    if module.transposed:
        return deconvolve(call.builder, x, weight, bias, window, module.groups, tuple(module.output_padding))
    return convolve(call.builder, x, weight, bias, window, module.groups)


@torch_call(F.conv1d, F.conv2d, F.conv3d)
def convolution_function(call: Call) -> Value:
    """torch.nn.functional.conv1d, 2d, 3d."""
    x, weight, bias = call.x, call.constant(1, "weight"), call.constant(2, "bias")
    stride, padding = call.constant(3, "stride", default=1), call.constant(4, "padding", default=0)
    dilation, groups = call.constant(5, "dilation", default=1), call.constant(6, "groups", default=1)
    rank = weight.dim() - 2
    window = torch_window(tuple(weight.shape[2:]), stride, padding, dilation, rank, x.shape[-rank:])
    return convolve(call.builder, x, weight, bias, window, groups)


@torch_call(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
def deconvolution_function(call: Call) -> Value:
    """torch.nn.functional.conv_transpose1d, 2d, 3d."""
    x, weight, bias = call.x, call.constant(1, "weight"), call.constant(2, "bias")
    stride, padding = call.constant(3, "stride", default=1), call.constant(4, "padding", default=0)
    extra, groups = call.constant(5, "output_padding", default=0), call.constant(6, "groups", default=1)
    rank = weight.dim() - 2
    dilation = call.constant(7, "dilation", default=1)
    window = torch_window(tuple(weight.shape[2:]), stride, padding, dilation, rank, x.shape[-rank:])
    return deconvolve(call.builder, x, weight, bias, window, groups, integers(extra, rank))
