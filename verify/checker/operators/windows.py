"""Convolutions and pools: what each window of a value holds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from verify.checker.builder import affordable, numbering, real, reciprocals
from verify.checker.errors import Refused
from verify.checker.maps import Convolution
from verify.checker.onnx_call import Call, Result
from verify.checker.onnx_register import rule
from verify.checker.rationals import Integers, Shape


@dataclass(frozen=True)
class Window:
    """The geometry of a sliding window, one number for each spatial axis."""

    kernel: Shape
    strides: Shape
    dilations: Shape
    begins: Shape
    ends: Shape
    ceil: bool = False

    def positions(self, sizes: Shape) -> Shape:
        """How many windows there are; one that would start behind the last entry is left out."""
        counts = []
        for axis, size in enumerate(sizes):
            reach = (self.kernel[axis] - 1) * self.dilations[axis] + 1
            room, stride = size + self.begins[axis] + self.ends[axis] - reach, self.strides[axis]
            count = (-(-room // stride) if self.ceil else room // stride) + 1
            late = self.ceil and (count - 1) * stride >= size + self.begins[axis]
            counts.append(count - 1 if late else count)
        if min(counts) < 1:
            raise Refused("the window is larger than the operand")
        return tuple(counts)

    def entries(self, sizes: Shape) -> list[Integers]:
        """For every axis [windows, kernel]: where the window's entries are, also beyond the operand's."""
        affordable([*self.positions(sizes), *self.kernel])
        return [
            np.arange(count)[:, None] * self.strides[axis]
            - self.begins[axis]
            + np.arange(self.kernel[axis]) * self.dilations[axis]
            for axis, count in enumerate(self.positions(sizes))
        ]


def window(call: Call, sizes: Shape, kernel: Shape) -> Window:
    """The window of an operation on an operand of the given spatial sizes."""
    rank = len(kernel)
    strides = tuple(call.attribute("strides", (1,) * rank))
    dilations = tuple(call.attribute("dilations", (1,) * rank))
    pads = tuple(call.attribute("pads", (0,) * 2 * rank))
    pool = call.proto.op_type.endswith("Pool")
    ceil = pool and call.flag("ceil_mode")
    auto = call.attribute("auto_pad", "NOTSET")
    lengths = (2 * len(sizes), 2 * len(strides), 2 * len(dilations), len(pads))
    if set(lengths) != {2 * rank} or min(*strides, *dilations, *kernel) < 1 or min(pads) < 0 or rank < 1:
        raise Refused("the window's numbers do not fit")
    if pool and any(width >= kernel[place % rank] for place, width in enumerate(pads)):
        raise Refused("a window that holds nothing but padding")
    if auto == "NOTSET":
        return Window(kernel, strides, dilations, pads[:rank], pads[rank:], ceil)
    if auto not in ("VALID", "SAME_UPPER", "SAME_LOWER") or any(pads) or ceil:
        raise Refused(f"auto_pad = {auto!r} here")
    if auto != "VALID" and set(dilations) != {1}:  # runtimes and ONNX's definition count them differently
        raise Refused(f"auto_pad = {auto!r} with dilations")
    begins, ends = [0] * rank, [0] * rank
    for axis, size in enumerate(sizes if auto != "VALID" else ()):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        missing = max(0, (-(-size // strides[axis]) - 1) * strides[axis] + reach - size)
        half = missing // 2 if auto == "SAME_UPPER" else missing - missing // 2
        begins[axis], ends[axis] = half, missing - half
    return Window(kernel, strides, dilations, tuple(begins), tuple(ends))


@rule("Conv", "ConvTranspose")
def convolve(call: Call) -> Result:
    x, weight, bias = call.x, real(call.needed(1)), call.constant(2)
    groups, kernel = call.attribute("group", 1), tuple(weight.shape[2:])
    if groups < 1:
        raise Refused(f"group = {groups}")
    call.only("kernel_shape", list(kernel))
    transposed = call.proto.op_type == "ConvTranspose"
    if transposed:
        call.only("auto_pad", "NOTSET", "VALID")
    sizes = x.shape[2:]
    at = window(call, sizes, kernel)
    if transposed:
        channels, places = weight.shape[1] * groups, deconvolved(call, at, sizes)
    else:
        channels, places = weight.shape[0], at.positions(sizes)
    given, made = tuple(x.shape[1:]), (channels, *places)
    large, small = (made, given) if transposed else (given, made)
    if weight.shape[:2] != (small[0], large[0] // groups) or large[0] % groups or small[0] % groups:
        raise Refused("the weights do not fit the operand")
    if bias is not None and bias.shape != (channels,):
        raise Refused("the bias is not one number for each channel")
    convolution = Convolution(
        weight, x.shape[0], large, small, groups, at.strides, at.dilations, at.begins, transposed
    )
    shift = None if bias is None else bias.reshape(-1, *(1,) * len(kernel))
    return call.builder.affine([(convolution, x)], (x.shape[0], *made), shift)


def deconvolved(call: Call, at: Window, sizes: Shape) -> Shape:
    """The spatial sizes of a transposed convolution's result."""
    extra = call.attribute("output_padding", (0,) * len(sizes))
    made = tuple(
        (size - 1) * stride + (kernel - 1) * dilation + 1 - begin - end + more
        for size, stride, kernel, dilation, begin, end, more in zip(
            sizes, at.strides, at.kernel, at.dilations, at.begins, at.ends, extra, strict=True
        )
    )
    if min(made) < 1 or min(extra) < 0:
        raise Refused("the result would be empty")
    if any(more >= max(at.strides[axis], at.dilations[axis]) for axis, more in enumerate(extra)):
        raise Refused("output_padding is as large as the stride")
    return made


def window_index(shape: Shape, entries: list[Integers]) -> Integers:
    """The flat entries of all windows of a value [lead.., *spatial]: [lead, windows, kernel]; -1 for what is outside."""
    sizes = shape[len(shape) - len(entries) :]
    places = numbering(sizes)
    inside = [(along >= 0) & (along < size) for along, size in zip(entries, sizes, strict=True)]
    # axes: windows along each spatial axis, then kernel along each
    rank = len(sizes)
    index: Any = 0
    real: Any = True
    for axis, (along, here) in enumerate(zip(entries, inside, strict=True)):
        spread = [1] * 2 * rank
        spread[axis], spread[axis + rank] = along.shape
        index = index + np.where(here, along, 0).reshape(spread) * math.prod(sizes[axis + 1 :])
        real = real & here.reshape(spread)
    windows = math.prod(along.shape[0] for along in entries)
    flat, real = index.reshape(windows, -1), real.reshape(windows, -1)
    lead = np.arange(math.prod(shape[: len(shape) - rank]))[:, None, None] * places.size
    return np.where(real, flat + lead, -1)


@rule("AveragePool")
def average_pool(call: Call) -> Result:
    kernel = tuple(call.attribute("kernel_shape"))
    x, rank, counted = call.x, len(kernel), call.flag("count_include_pad")
    sizes = x.shape[2:]
    at = window(call, sizes, kernel)
    if set(at.dilations) != {1}:
        raise Refused("an average pool with dilations")
    entries = at.entries(sizes)
    divisors = np.ones((1,) * rank, dtype=np.int64)
    for axis, along in enumerate(entries):
        first, last = (-at.begins[axis], sizes[axis] + at.ends[axis]) if counted else (0, sizes[axis])
        number = ((along >= first) & (along < last)).sum(1)
        divisors = divisors * number.reshape(-1, *(1,) * (rank - axis - 1))
    index = window_index(x.shape, entries)
    total = call.builder.sums(x, index.reshape(-1, index.shape[2]), (*x.shape[:2], *divisors.shape))
    return call.builder.scale(total, reciprocals(divisors))


@rule("MaxPool", unread_results=1)
def max_pool(call: Call) -> Result:
    kernel = tuple(call.attribute("kernel_shape"))
    call.only("storage_order", 0)
    x, sizes = call.x, call.x.shape[2:]
    entries = []
    for along, size in zip(window(call, sizes, kernel).entries(sizes), sizes, strict=True):
        inside = (along >= 0) & (along < size)
        if not inside.any(1).all():
            raise Refused("a window that holds nothing but padding")
        first = np.take_along_axis(along, inside.argmax(1)[:, None], 1)
        entries.append(np.where(inside, along, first))
    index = window_index(x.shape, entries)
    shape = (*x.shape[:2], *(along.shape[0] for along in entries))
    first_axis = np.moveaxis(index, 2, 0).reshape(-1, *shape)
    return call.builder.maximum_along_first(call.builder.gather(x, first_axis))
