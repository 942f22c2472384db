"""Lowering rules for what slides a window: convolutions, their adjoints, average and maximum pools.

ONNX pads each side by its own width and may leave the widths to be worked out (`auto_pad`); `Window` holds
them explicitly. A convolution of the IR pads both sides alike, so anything else is padded beforehand or
cropped afterwards.

A maximum pool becomes ReLUs: the entries of each window are brought side by side by one gather and reduced by
a balanced tree of max(a, b) = b + relu(a - b). A padded entry (-inf) never is the maximum, so it is replaced
by a real entry of the same window, which changes nothing and keeps every number finite.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from verify.loading import reindex
from verify.loading.builder import Builder, Value
from verify.loading.calls import Call, Unsupported, integers
from verify.network.affine import Convolution, NonNegative, Shape


@dataclass(frozen=True)
class Window:
    """A window's geometry, one number for each spatial axis."""

    kernel: Shape
    stride: Shape
    dilation: Shape
    begin: Shape
    end: Shape
    ceil: bool = False

    @property
    def rank(self) -> int:
        return len(self.kernel)

    @property
    def reach(self) -> Shape:
        """How many entries a window spans."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    def positions(self, sizes: Shape) -> Shape:
        """How many windows there are along each axis; one that would start beyond the entries is dropped."""
        counts = []
        geometry = zip(sizes, self.stride, self.begin, self.end, self.reach, strict=True)
        for size, stride, begin, end, reach in geometry:
            room = size + begin + end - reach
            count = (-(-room // stride) if self.ceil else room // stride) + 1
            if self.ceil and (count - 1) * stride >= size + begin:
                count -= 1
            counts.append(count)
        return tuple(counts)


def onnx_window(attributes: Mapping[str, Any], sizes: Shape, kernel: Shape) -> Window:
    """The window of an ONNX operator on an operand of the given spatial sizes."""
    rank = len(kernel)
    stride = tuple(attributes.get("strides", (1,) * rank))
    dilation = tuple(attributes.get("dilations", (1,) * rank))
    pads = tuple(attributes.get("pads", (0,) * 2 * rank))
    ceil = bool(attributes.get("ceil_mode", 0))
    auto = attributes.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        return Window(kernel, stride, dilation, pads[:rank], pads[rank:], ceil)
    zeros = (0,) * rank
    window = Window(kernel, stride, dilation, zeros, zeros)
    if auto == "VALID":
        return window
    begin, end = [], []
    for size, step, reach in zip(sizes, stride, window.reach, strict=True):
        needed = max((-(-size // step) - 1) * step + reach - size, 0)
        smaller, larger = needed // 2, needed - needed // 2
        begin.append(smaller if auto == "SAME_UPPER" else larger)
        end.append(larger if auto == "SAME_UPPER" else smaller)
    return Window(kernel, stride, dilation, tuple(begin), tuple(end))


def torch_window(
    kernel: Any, stride: Any, padding: Any, dilation: Any, rank: int, sizes: Shape, ceil: bool = False
) -> Window:
    """The window of a torch operator."""
    kernel = integers(kernel, rank)
    stride = kernel if stride is None or stride == [] else integers(stride, rank)
    if isinstance(padding, str):
        attributes = {"strides": stride, "dilations": integers(dilation, rank)}
        # torch puts the odd zero of `same` at the end, as SAME_UPPER does
        auto = {"same": "SAME_UPPER", "valid": "VALID"}[padding]
        return onnx_window({**attributes, "auto_pad": auto}, sizes, kernel)
    sides = integers(padding, rank)
    return Window(kernel, stride, integers(dilation, rank), sides, sides, ceil)


def _pad(builder: Builder, x: Value, begin: Shape, end: Shape) -> Value:
    """Zeros around the spatial axes."""
    if not any((*begin, *end)):
        return x
    pads = tuple(side for pair in zip(reversed(begin), reversed(end), strict=True) for side in pair)
    return builder.affine(NonNegative(reindex.Pad(pads), (x.shape,), 1, "pad"), x)


# convolutions


def _double(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.double()


def convolve(
    builder: Builder, x: Value, weight: Tensor, bias: Tensor | None, window: Window, groups: int
) -> Value:
    """A convolution with any padding."""
    padding = window.begin
    if window.begin != window.end:
        x, padding = _pad(builder, x, window.begin, window.end), (0,) * window.rank
    operator = Convolution(
        weight.double(), _double(bias), window.stride, padding, window.dilation, groups, x.shape,
    )  # fmt: skip
    return builder.convolution(x, operator)


def deconvolve(
    builder: Builder, x: Value, weight: Tensor, bias: Tensor | None, window: Window, groups: int, extra: Shape
) -> Value:
    """The adjoint of a convolution, `extra` added at the far ends; uneven pads are cropped off."""
    symmetrical = window.begin == window.end
    padding = window.begin if symmetrical else (0,) * window.rank
    added = extra if symmetrical else tuple(max(o - e, 0) for o, e in zip(extra, window.end, strict=True))
    operator = Convolution(
        weight.double(), _double(bias), window.stride, padding, window.dilation, groups, x.shape,
        transposed=True, output_padding=added,
    )  # fmt: skip
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


def convolution_function(call: Call) -> Value:
    """torch.nn.functional.conv1d, 2d, 3d."""
    x, weight, bias = call.x, call.constant(1, "weight"), call.constant(2, "bias")
    stride, padding = call.constant(3, "stride", default=1), call.constant(4, "padding", default=0)
    dilation, groups = call.constant(5, "dilation", default=1), call.constant(6, "groups", default=1)
    rank = weight.dim() - 2
    window = torch_window(tuple(weight.shape[2:]), stride, padding, dilation, rank, x.shape[-rank:])
    return convolve(call.builder, x, weight, bias, window, groups)


def deconvolution_function(call: Call) -> Value:
    """torch.nn.functional.conv_transpose1d, 2d, 3d."""
    x, weight, bias = call.x, call.constant(1, "weight"), call.constant(2, "bias")
    stride, padding = call.constant(3, "stride", default=1), call.constant(4, "padding", default=0)
    extra, groups = call.constant(5, "output_padding", default=0), call.constant(6, "groups", default=1)
    rank = weight.dim() - 2
    dilation = call.constant(7, "dilation", default=1)
    window = torch_window(tuple(weight.shape[2:]), stride, padding, dilation, rank, x.shape[-rank:])
    return deconvolve(call.builder, x, weight, bias, window, groups, integers(extra, rank))


# pools


def average(builder: Builder, x: Value, window: Window, count_padding: bool) -> Value:
    """An average pool: sums divided by the number of entries in the window (padded ones only if counted)."""
    if any(d != 1 for d in window.dilation):
        raise Unsupported("an average pool with dilation")
    sizes = x.shape[-window.rank :]
    counts = window.positions(sizes)
    divisors, ends = [], []
    for axis, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        kernel, stride, begin = window.kernel[axis], window.stride[axis], window.begin[axis]
        first, last = (-begin, size + window.end[axis]) if count_padding else (0, size)
        starts = [place * stride - begin for place in range(count)]
        divisors.append(tuple(min(start + kernel, last) - max(start, first) for start in starts))
        ends.append((count - 1) * stride + kernel - size - begin)
    pool = reindex.AveragePool(window.kernel, window.stride, window.begin, tuple(ends), tuple(divisors))
    operator = NonNegative(pool, (x.shape,), math.prod(window.kernel), "average pool")
    return builder.affine(operator, x, shape=(*x.shape[: -window.rank], *counts))


def maximum(builder: Builder, x: Value, window: Window) -> Value:
    """A maximum pool; see the head of this file."""
    rank = window.rank
    sizes = x.shape[-rank:]
    choices = []
    for axis, (size, count) in enumerate(zip(sizes, window.positions(sizes), strict=True)):
        starts = torch.arange(count) * window.stride[axis] - window.begin[axis]
        entries = starts + (torch.arange(window.kernel[axis]) * window.dilation[axis])[:, None]
        real = (entries >= 0) & (entries < size)
        if not bool(real.any(dim=0).all()):
            raise Unsupported("a window that holds nothing but padding")
        a_real_one = entries.gather(0, real.long().argmax(dim=0, keepdim=True))
        choices.append(torch.where(real, entries, a_real_one))
    index = torch.stack([_cell(offsets, choices, x.shape) for offsets in _offsets(window.kernel)])
    return builder.maximum_along_first(builder.gather(x, index))


def _offsets(kernel: Shape) -> Any:
    return itertools.product(*(range(size) for size in kernel))


def _cell(offsets: tuple[int, ...], choices: list[Tensor], shape: Shape) -> Tensor:
    """The flat index, for every window, of the entry at `offsets` in it."""
    numbers = torch.arange(math.prod(shape)).reshape(shape)
    for place, (offset, choice) in enumerate(zip(offsets, choices, strict=True)):
        numbers = numbers.index_select(len(shape) - len(choices) + place, choice[offset])
    return numbers


def onnx_average_pool(builder: Builder, attributes: dict[str, Any], x: Value) -> Value:
    """ONNX AveragePool."""
    kernel = tuple(attributes["kernel_shape"])
    window = onnx_window(attributes, x.shape[-len(kernel) :], kernel)
    return average(builder, x, window, bool(attributes.get("count_include_pad", 0)))


def onnx_max_pool(builder: Builder, attributes: dict[str, Any], x: Value) -> Value:
    """ONNX MaxPool (its values; the indices are not supported)."""
    kernel = tuple(attributes["kernel_shape"])
    return maximum(builder, x, onnx_window(attributes, x.shape[-len(kernel) :], kernel))


_POOL_ARGUMENTS = ("kernel_size", "stride", "padding")


def _pool_window(call: Call, rank: int, dilation: Any, ceil: Any) -> Window:
    def setting(place: int, name: str, default: Any) -> Any:
        if call.module is not None:
            return getattr(call.module, name)
        return call.constant(place, name, default=default)

    kernel, stride, padding = (
        setting(i, name, (None, None, 0)[i - 1]) for i, name in enumerate(_POOL_ARGUMENTS, 1)
    )
    return torch_window(kernel, stride, padding, dilation, rank, call.x.shape[-rank:], bool(ceil))


def torch_average_pool(rank: int) -> Any:
    """torch.nn.AvgPool and avg_pool of `rank` axes."""

    def rule(call: Call) -> Value:
        source = call.module
        ceil = call.constant(4, "ceil_mode", default=False) if source is None else source.ceil_mode
        counted = (
            call.constant(5, "count_include_pad", default=True)
            if source is None
            else source.count_include_pad
        )
        divisor = (
            call.constant(6, "divisor_override")
            if source is None
            else getattr(source, "divisor_override", None)
        )
        if divisor is not None:
            raise Unsupported("divisor_override")
        return average(call.builder, call.x, _pool_window(call, rank, 1, ceil), bool(counted))

    return rule


def torch_max_pool(rank: int) -> Any:
    """torch.nn.MaxPool and max_pool of `rank` axes."""

    def rule(call: Call) -> Value:
        source = call.module
        if call.kwargs.get("return_indices") or getattr(source, "return_indices", False):
            raise Unsupported("its indices are a result")
        dilation = call.constant(4, "dilation", default=1) if source is None else source.dilation
        ceil = call.constant(5, "ceil_mode", default=False) if source is None else source.ceil_mode
        return maximum(call.builder, call.x, _pool_window(call, rank, dilation, ceil))

    return rule


def adaptive_average_pool(rank: int) -> Any:
    """torch.nn.AdaptiveAvgPool where the output divides the operand evenly."""

    def rule(call: Call) -> Value:
        wanted = call.module.output_size if call.module is not None else call.constant(1, "output_size")
        sizes = call.x.shape[-rank:]
        given = (wanted,) * rank if isinstance(wanted, int) else tuple(wanted)
        outputs = tuple(size if out is None else out for size, out in zip(sizes, given, strict=True))
        if any(size % out for size, out in zip(sizes, outputs, strict=True)):
            raise Unsupported(f"adaptive pooling of {sizes} to {outputs}: windows of unequal size")
        kernel = tuple(size // out for size, out in zip(sizes, outputs, strict=True))
        zeros, ones = (0,) * rank, (1,) * rank
        return average(call.builder, call.x, Window(kernel, kernel, ones, zeros, zeros), True)

    return rule
