"""Convolutions and their adjoints.

A convolution of the network pads both sides alike, so anything else is padded beforehand or cropped afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn
from torch.nn import functional as F

from verify.loading import reindex
from verify.loading.builder import Builder, Value
from verify.loading.calls import Call, Unsupported, integers
from verify.loading.operators.windows import Window, onnx_window, torch_window
from verify.loading.registry import onnx, torch_call
from verify.network.affine import Shape
from verify.network.convolution import Convolution
from verify.network.moves import NonNegative


def convolve(
    builder: Builder, x: Value, weight: Tensor, bias: Tensor | None, window: Window, groups: int
) -> Value:
    """A convolution with any padding."""
    padding = window.begin
    if window.begin != window.end:
        x, padding = _pad(builder, x, window.begin, window.end), (0,) * window.rank
    operator = Convolution(
        weight.double(), _double(bias), window.stride, padding, window.dilation, groups, x.shape
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
    geometry = (window.stride, padding, window.dilation, groups, x.shape, True, added)
    operator = Convolution(weight.double(), _double(bias), *geometry)
    full = builder.convolution(x, operator)
    if symmetrical:
        return full
    for place, (begin, end, more) in enumerate(zip(window.begin, window.end, extra, strict=True)):
        axis = len(full.shape) - window.rank + place
        stop = full.shape[axis] - max(end - more, 0)
        full = builder.slice(full, axis, begin, stop) if (begin, stop) != (0, full.shape[axis]) else full
    return full


@onnx("Conv")
def convolution(call: Call) -> Value:
    """Conv."""
    x, (weight, bias) = call.x, call.constants("bc")
    window = onnx_window(call.attributes, x.shape[2 - weight.dim() :], tuple(weight.shape[2:]))
    return convolve(call.builder, x, weight, bias, window, call.attributes.get("group", 1))


@onnx("ConvTranspose")
def deconvolution(call: Call) -> Value:
    """ConvTranspose."""
    attributes, x, (weight, bias) = call.attributes, call.x, call.constants("bc")
    sizes = x.shape[2 - weight.dim() :]
    extra = tuple(attributes.get("output_padding", (0,) * len(sizes)))
    auto, wanted = attributes.get("auto_pad", "NOTSET"), attributes.get("output_shape")
    given = {name: value for name, value in attributes.items() if name != "auto_pad"}
    window = onnx_window(given, sizes, tuple(weight.shape[2:]))
    if auto in ("SAME_UPPER", "SAME_LOWER") or wanted:
        wanted = wanted[-len(sizes) :] if wanted else None
        window, extra = _cropped(window, sizes, extra, wanted, auto == "SAME_UPPER")
    return deconvolve(call.builder, x, weight, bias, window, attributes.get("group", 1), extra)


def _cropped(
    window: Window, sizes: Shape, extra: Shape, wanted: Sequence[int] | None, more_at_end: bool
) -> tuple[Window, Shape]:
    """The pads, and what is added, that make a result of the wanted sizes; without any, `stride` times the operand's."""
    wanted = [n * s for n, s in zip(sizes, window.stride, strict=True)] if wanted is None else wanted
    begin, end, missing = [], [], []
    for size, stride, reach, more, out in zip(sizes, window.stride, window.reach, extra, wanted, strict=True):
        surplus = (size - 1) * stride + more + reach - out
        missing.append(max(-surplus, 0))
        surplus = max(surplus, 0)
        half = surplus // 2
        begin.append(half if more_at_end else surplus - half)
        end.append(surplus - half if more_at_end else half)
    added = tuple(more + less for more, less in zip(extra, missing, strict=True))
    return replace(window, begin=tuple(begin), end=tuple(end)), added


@torch_call(nn.Conv1d, nn.Conv2d, nn.Conv3d, F.conv1d, F.conv2d, F.conv3d)
def torch_convolution(call: Call) -> Value:
    """torch.nn.Conv1d, 2d, 3d and their functional forms."""
    x, weight, bias, window = _torch_parts(call, 5)
    return convolve(call.builder, x, weight, bias, window, call.setting(6, "groups", 1))


@torch_call(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
@torch_call(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
def torch_deconvolution(call: Call) -> Value:
    """torch.nn.ConvTranspose1d, 2d, 3d and their functional forms."""
    x, weight, bias, window = _torch_parts(call, 7)
    extra = integers(call.setting(5, "output_padding", 0), window.rank)
    return deconvolve(call.builder, x, weight, bias, window, call.setting(6, "groups", 1), extra)


def _torch_parts(call: Call, place: int) -> tuple[Value, Tensor, Tensor | None, Window]:
    """Operand, weight, bias and window; `place`: of the argument `dilation`."""
    x, mode = call.x, getattr(call.module, "padding_mode", "zeros")
    if mode != "zeros":
        raise Unsupported(f"padding mode {mode!r}")
    weight, bias = call.setting(1, "weight"), call.setting(2, "bias")
    stride, padding = call.setting(3, "stride", 1), call.setting(4, "padding", 0)
    kernel, rank = tuple(weight.shape[2:]), weight.dim() - 2
    window = torch_window(kernel, stride, padding, call.setting(place, "dilation", 1), rank, x.shape[-rank:])
    return x, weight, bias, window
