"""Operations that move entries: they say which entry goes where, for values and constants alike."""

from __future__ import annotations

import math
from itertools import accumulate

import numpy as np

from verify.checker.builder import affordable, numbering, real
from verify.checker.errors import Refused
from verify.checker.onnx_call import Call, Result
from verify.checker.onnx_register import move, of_constants, rule
from verify.checker.rationals import Integers


@move("Reshape")
def reshape(call: Call, numbers: Integers) -> Integers:
    sizes = call.integers(1)
    if sizes is None or min(sizes, default=0) < -1:
        raise Refused("the shape is missing, or has a size below -1")
    if not call.flag("allowzero"):
        sizes = [numbers.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    elif 0 in sizes:
        raise Refused("a size of 0")
    return numbers.reshape(sizes)


@move("Flatten")
def flatten(call: Call, numbers: Integers) -> Integers:
    axis = call.attribute("axis", 1)
    if not (0 if call.since < 11 else -numbers.ndim) <= axis <= numbers.ndim:
        raise Refused("the axis is out of range")
    before = numbers.shape[: axis if axis >= 0 else axis + numbers.ndim]
    return numbers.reshape(math.prod(before), -1)


@move("Transpose")
def transpose(call: Call, numbers: Integers) -> Integers:
    axes = call.attribute("perm", list(reversed(range(numbers.ndim))))
    if sorted(axes) != list(range(numbers.ndim)):
        raise Refused("perm is no order of the axes")
    moved: Integers = numbers.transpose(axes)
    return moved


@move("Squeeze")
def squeeze(call: Call, numbers: Integers) -> Integers:
    axes = call.integers(1, "axes")
    if axes is None:
        return numbers.squeeze()
    if not axes:
        raise Refused("no axes")
    return np.squeeze(numbers, tuple(call.axes(axes, numbers.ndim)))


@move("Unsqueeze")
def unsqueeze(call: Call, numbers: Integers) -> Integers:
    axes = call.integers(1, "axes")
    if not axes:
        raise Refused("the axes are missing")
    return np.expand_dims(numbers, tuple(call.axes(axes, numbers.ndim + len(axes))))


@move("Identity")
def identity(call: Call, numbers: Integers) -> Integers:
    return numbers


@move("Dropout", unread_results=1)
def dropout(call: Call, numbers: Integers) -> Integers:
    call.attribute("seed")
    ratio, training = call.scalar(1), call.scalar(2)
    if training or not 0 <= (call.attribute("ratio", 0.5) if ratio is None else ratio) < 1:
        raise Refused("training mode, or a ratio that is none")
    return numbers


@move("Gather")
def take(call: Call, numbers: Integers) -> Integers:
    (axis,) = call.axes([call.attribute("axis", 0)], numbers.ndim)
    taken: Integers = np.take(numbers, call.needed(1), axis=axis)
    return taken


@move("Expand")
def expand(call: Call, numbers: Integers) -> Integers:
    sizes = call.integers(1)
    return np.broadcast_to(numbers, affordable(np.broadcast_shapes(numbers.shape, tuple(sizes or ()))))


@move("Tile")
def tile(call: Call, numbers: Integers) -> Integers:
    repeats = call.integers(1) or []
    if len(repeats) != numbers.ndim or min(repeats, default=1) < 1:
        raise Refused("not one number of repetitions, 1 or more, for each axis")
    affordable([size * times for size, times in zip(numbers.shape, repeats, strict=True)])
    return np.tile(numbers, repeats)


@move("Slice")
def cut(call: Call, numbers: Integers) -> Integers:
    """Slice: ends beyond an axis stand for its own ends."""
    starts, ends = call.integers(1, "starts"), call.integers(2, "ends")
    if starts is None or ends is None or len(starts) != len(ends):
        raise Refused("the starts and ends are missing, or differ in number")
    given, strides = call.integers(3, "axes"), call.integers(4)
    axes = call.axes(list(range(len(starts))) if given is None else given, numbers.ndim)
    steps = [1] * len(starts) if strides is None else strides
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if step == 0:
            raise Refused("a step of 0")
        along = positions(start, end, step, numbers.shape[axis])
        numbers = np.take(numbers, along, axis=axis)
    return numbers


def positions(start: int, end: int, step: int, size: int) -> list[int]:
    """Those of a slice of an axis; both ends count from the axis's end where they are negative."""
    least, most = (0, size) if step > 0 else (-1, size - 1)
    first, last = (min(max(end + size if end < 0 else end, least), most) for end in (start, end))
    return list(range(max(first, 0), last, step))


@move("Split")
def split(call: Call, numbers: Integers) -> list[Integers]:
    (axis,) = call.axes([call.attribute("axis", 0)], numbers.ndim)
    sizes, size, count = call.integers(1, "split"), numbers.shape[axis], call.attribute("num_outputs")
    results = len(call.proto.output)
    if sizes is None:
        step = -(-size // results)
        sizes = [step] * (results - 1) + [size - step * (results - 1)]
        if count is None and (size % results or call.since >= 18):
            raise Refused("the parts' sizes are missing, or unequal in a version that has them equal")
    elif count is not None:
        raise Refused("the parts' sizes and their number are given")
    if count not in (None, results) or len(sizes) != results or sum(sizes) != size or min(sizes) < 1:
        raise Refused("the parts do not fit the operand, or the results")
    return np.split(numbers, list(accumulate(sizes))[:-1], axis)


@move("DepthToSpace")
def depth_to_space(call: Call, numbers: Integers) -> Integers:
    batch, depth, height, width = numbers.shape
    block, mode = call.attribute("blocksize"), call.attribute("mode", "DCR")
    if block < 1 or depth % block**2 or mode not in ("DCR", "CRD"):
        raise Refused("the blocks do not fit the operand, or the mode is unknown")
    if mode == "DCR":
        parts = numbers.reshape(batch, block, block, -1, height, width).transpose(0, 3, 4, 1, 5, 2)
    else:
        parts = numbers.reshape(batch, -1, block, block, height, width).transpose(0, 1, 4, 2, 5, 3)
    image: Integers = parts.reshape(batch, -1, height * block, width * block)
    return image


@move("SpaceToDepth")
def space_to_depth(call: Call, numbers: Integers) -> Integers:
    batch, depth, height, width = numbers.shape
    block = call.attribute("blocksize")
    if block < 1 or height % block or width % block:
        raise Refused("the blocks do not fit the operand")
    parts = numbers.reshape(batch, depth, height // block, block, width // block, block)
    image: Integers = parts.transpose(0, 3, 5, 1, 2, 4).reshape(batch, -1, height // block, width // block)
    return image


# beside constants


@rule("Pad")
def pad(call: Call) -> Result:
    call.only("mode", "constant")
    widths, shape = call.integers(1, "pads"), call.x.shape
    given = call.integers(3)
    axes = list(range(len(shape))) if given is None else call.axes(given, len(shape))
    if widths is None or min(widths, default=0) < 0 or len(widths) != 2 * len(axes):
        raise Refused("the widths are missing or negative, or there are not two for each axis")
    sides = [(0, 0)] * len(shape)
    for place, axis in enumerate(axes):
        sides[axis] = (widths[place], widths[place + len(axes)])
    affordable([size + sum(side) for size, side in zip(shape, sides, strict=True)])
    index = np.pad(numbering(shape), sides, constant_values=-1)
    value = call.constant(2)
    number = float(call.attribute("value", 0.0)) if value is None else real(value).item()
    padded = call.builder.gather(call.x, index)
    return call.builder.scale(padded, np.ones(()), np.where(index < 0, number, 0.0)) if number else padded


@rule("Concat")
def concatenate(call: Call) -> Result:
    operands = call.given()
    (axis,) = call.axes([call.attribute("axis")], len(operands[0].shape))
    return call.builder.concatenate(operands, axis)


@of_constants("Concat")
def concatenate_constants(call: Call) -> Result:
    constants = call.constants()
    (axis,) = call.axes([call.attribute("axis")], constants[0].ndim)
    return np.concatenate(constants, axis)
