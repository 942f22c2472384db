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
from verify.network.activations.convex import Sqrt
from verify.network.activations.piecewise import Abs
from verify.network.activations.relu import Relu
from verify.network.activations.square import Square
from verify.network.affine import Shape
from verify.network.moves import NonNegative


def average(builder: Builder, x: Value, window: Window, count_padding: bool) -> Value:
    """An average pool: sums divided by the number of entries in the window (padded ones only if counted)."""
    divisors = []
    for size, starts, axis in _windows(x, window):
        first, last = (-window.begin[axis], size + window.end[axis]) if count_padding else (0, size)
        entries = [
            [start + k * window.dilation[axis] for k in range(window.kernel[axis])] for start in starts
        ]
        divisors.append(tuple(sum(first <= entry < last for entry in places) for places in entries))
    return _sums(builder, x, window, divisors)


def _windows(x: Value, window: Window) -> list[tuple[int, list[int], int]]:
    """Of each axis of windows the size, where they start, and its number."""
    sizes = x.shape[-window.rank :]
    found = []
    for axis, (size, count) in enumerate(zip(sizes, window.positions(sizes), strict=True)):
        starts = [place * window.stride[axis] - window.begin[axis] for place in range(count)]
        found.append((size, starts, axis))
    return found


def _sums(builder: Builder, x: Value, window: Window, divisors: list[tuple[int, ...]]) -> Value:
    """Sums over windows, divided by the product of divisors of the place along each axis."""
    if any(d != 1 for d in window.dilation):
        x, window = _apart(builder, x, window), Window(window.kernel, window.kernel, *_plain(window.rank))
    ends, counts = [], window.positions(x.shape[-window.rank :])
    for size, starts, axis in _windows(x, window):
        ends.append(starts[-1] + window.kernel[axis] - size)
    pool = reindex.AveragePool(window.kernel, window.stride, window.begin, tuple(ends), tuple(divisors))
    operator = NonNegative(pool, (x.shape,), math.prod(window.kernel), "average pool")
    return builder.affine(operator, x, shape=(*x.shape[: -window.rank], *counts))


def _apart(builder: Builder, x: Value, window: Window) -> Value:
    """The entries of all windows, whose entries are not neighbours, one window behind the other; zeros in the padding."""
    index = torch.arange(x.size).reshape(x.shape)
    for size, starts, axis in _windows(x, window):
        steps = torch.arange(window.kernel[axis]) * window.dilation[axis]
        entries = (torch.tensor(starts)[:, None] + steps).flatten()
        real, place = (entries >= 0) & (entries < size), axis - window.rank
        shape = (-1, *(1,) * (-place - 1))
        chosen = index.index_select(place, entries.clamp(0, size - 1))
        index = torch.where(real.reshape(shape), chosen, -1)
    return builder.gather(x, index)


def _plain(rank: int) -> tuple[Shape, Shape, Shape]:
    """No dilation and no padding."""
    return (1,) * rank, (0,) * rank, (0,) * rank


def norm(builder: Builder, x: Value, window: Window, order: int) -> Value:
    """A pool of norms: the root of the sum of powers of sizes."""
    if order not in (1, 2):
        raise Unsupported(f"p = {order}; 1 and 2 are supported")
    sizes = builder.activation(Abs() if order == 1 else Square(), x)
    counts = window.positions(x.shape[-window.rank :])
    total = _sums(builder, sizes, window, [(1,) * count for count in counts])
    # the ReLU takes what rounding leaves below 0 out of the root's interval
    return total if order == 1 else builder.activation(Sqrt(), builder.activation(Relu(), total))


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
    return average(
        call.builder, call.x, _onnx_window(call), bool(call.attributes.get("count_include_pad", 0))
    )


@onnx("LpPool")
def lp_pool(call: Call) -> Value:
    """LpPool."""
    return norm(call.builder, call.x, _onnx_window(call), int(call.attributes.get("p", 2)))


@onnx("GlobalLpPool")
def global_lp_pool(call: Call) -> Value:
    """GlobalLpPool."""
    kernel = call.x.shape[2:]
    window = Window(kernel, kernel, *_plain(len(kernel)))
    return norm(call.builder, call.x, window, int(call.attributes.get("p", 2)))


@onnx("MaxPool", chooses=True)
def max_pool(call: Call) -> Value:
    """MaxPool."""
    if call.module.results > 1:
        raise Unsupported("its indices are a result")
    return maximum(call.builder, call.x, _onnx_window(call))


def _onnx_window(call: Call) -> Window:
    kernel = tuple(call.attributes["kernel_shape"])
    return onnx_window(call.attributes, call.x.shape[-len(kernel) :], kernel)


def _torch_window(call: Call, rank: int, dilation: Any, ceil: Any) -> Window:
    kernel, stride, padding = (
        call.setting(place, name, default)
        for place, name, default in ((1, "kernel_size", None), (2, "stride", None), (3, "padding", 0))
    )
    return torch_window(kernel, stride, padding, dilation, rank, call.x.shape[-rank:], bool(ceil))


def torch_average_pool(rank: int) -> Rule:
    """torch.nn.AvgPool and avg_pool of `rank` axes."""

    def rule(call: Call) -> Value:
        ceil, counted = call.setting(4, "ceil_mode", False), call.setting(5, "count_include_pad", True)
        if call.setting(6, "divisor_override") is not None:
            raise Unsupported("divisor_override")
        return average(call.builder, call.x, _torch_window(call, rank, 1, ceil), bool(counted))

    return rule


def torch_max_pool(rank: int) -> Rule:
    """torch.nn.MaxPool and max_pool of `rank` axes."""

    def rule(call: Call) -> Value:
        if call.kwargs.get("return_indices") or getattr(call.module, "return_indices", False):
            raise Unsupported("its indices are a result")
        dilation, ceil = call.setting(4, "dilation", 1), call.setting(5, "ceil_mode", False)
        return maximum(call.builder, call.x, _torch_window(call, rank, dilation, ceil))

    return rule


def adaptive_average_pool(rank: int) -> Rule:
    """torch.nn.AdaptiveAvgPool where the output divides the operand evenly."""

    def rule(call: Call) -> Value:
        wanted = call.setting(1, "output_size")
        sizes = call.x.shape[-rank:]
        given = (wanted,) * rank if isinstance(wanted, int) else tuple(wanted)
        outputs = tuple(size if out is None else out for size, out in zip(sizes, given, strict=True))
        if any(size % out for size, out in zip(sizes, outputs, strict=True)):
            raise Unsupported(f"adaptive pooling of {sizes} to {outputs}: windows of unequal size")
        kernel = tuple(size // out for size, out in zip(sizes, outputs, strict=True))
        zeros, ones = (0,) * rank, (1,) * rank
        return average(call.builder, call.x, Window(kernel, kernel, ones, zeros, zeros), True)

    return rule


for _rank, _average in (
    (1, (nn.AvgPool1d, F.avg_pool1d, torch.avg_pool1d)),
    (2, (nn.AvgPool2d, F.avg_pool2d)),
    (3, (nn.AvgPool3d,)),
):
    torch_call(*_average)(torch_average_pool(_rank))
for _rank, _maximum in (
    (1, (nn.MaxPool1d, F.max_pool1d, torch.max_pool1d)),
    (2, (nn.MaxPool2d, F.max_pool2d, torch.max_pool2d)),
    (3, (nn.MaxPool3d,)),
):
    torch_call(*_maximum)(torch_max_pool(_rank))
torch_call(nn.AdaptiveAvgPool1d)(adaptive_average_pool(1))
torch_call(nn.AdaptiveAvgPool2d, F.adaptive_avg_pool2d)(adaptive_average_pool(2))
torch_call(nn.AdaptiveAvgPool3d)(adaptive_average_pool(3))
