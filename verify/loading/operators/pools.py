"""Average and maximum pools.

A maximum pool becomes ReLUs: the entries of each window are brought side by side by one gather and reduced by a balanced tree of
max(a, b) = b + relu(a - b). A padded entry (-inf) never is the maximum, so it is replaced by a real entry of the same window, which
changes nothing and keeps every number finite.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verify.loading import reindex
from verify.loading.builder import Builder, Value
from verify.loading.calls import Call, Rule, Unsupported
from verify.loading.operators.windows import Window, onnx_window, torch_window
from verify.loading.registry import onnx, torch_call
from verify.network.affine import NonNegative, Shape


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


@onnx("AveragePool")
def average_pool(call: Call) -> Value:
    """AveragePool."""
    return onnx_average_pool(call.builder, call.attributes, call.x)


@onnx("MaxPool", chooses=True)
def max_pool(call: Call) -> Value:
    """MaxPool."""
    if call.module.results > 1:
        raise Unsupported("its indices are a result")
    return onnx_max_pool(call.builder, call.attributes, call.x)


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


def torch_average_pool(rank: int) -> Rule:
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


def torch_max_pool(rank: int) -> Rule:
    """torch.nn.MaxPool and max_pool of `rank` axes."""

    def rule(call: Call) -> Value:
        source = call.module
        if call.kwargs.get("return_indices") or getattr(source, "return_indices", False):
            raise Unsupported("its indices are a result")
        dilation = call.constant(4, "dilation", default=1) if source is None else source.dilation
        ceil = call.constant(5, "ceil_mode", default=False) if source is None else source.ceil_mode
        return maximum(call.builder, call.x, _pool_window(call, rank, dilation, ceil))

    return rule


def adaptive_average_pool(rank: int) -> Rule:
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


for _rank, _average, _maximum, _adaptive in (
    (
        1,
        (nn.AvgPool1d, F.avg_pool1d, torch.avg_pool1d),
        (nn.MaxPool1d, F.max_pool1d, torch.max_pool1d),
        (nn.AdaptiveAvgPool1d,),
    ),
    (
        2,
        (nn.AvgPool2d, F.avg_pool2d),
        (nn.MaxPool2d, F.max_pool2d, torch.max_pool2d),
        (nn.AdaptiveAvgPool2d, F.adaptive_avg_pool2d),
    ),
    (3, (nn.AvgPool3d,), (nn.MaxPool3d,), (nn.AdaptiveAvgPool3d,)),
):
    torch_call(*_average)(torch_average_pool(_rank))
    torch_call(*_maximum)(torch_max_pool(_rank))
    torch_call(*_adaptive)(adaptive_average_pool(_rank))
