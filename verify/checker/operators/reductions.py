"""Sums and maxima: over axes, of several operands."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from verify.checker.builder import Value, computed_exactly, fractions, numbering, real
from verify.checker.errors import Refused
from verify.checker.onnx_call import Call, Result
from verify.checker.onnx_register import of_constants, rule
from verify.checker.operators.arithmetic import several
from verify.checker.rationals import Integers, Shape


def axes_of(call: Call, rank: int) -> tuple[int, ...] | None:
    """The axes that a reduction is over, in increasing order; None if it changes nothing."""
    axes, nothing = call.integers(1, "axes"), call.flag("noop_with_empty_axes")
    if not axes:
        return None if nothing else tuple(range(rank))
    return tuple(sorted(call.axes(axes, rank)))


def reduced(call: Call, axes: tuple[int, ...]) -> tuple[Integers, Shape]:
    """The entries that each entry of a reduction's result is made of ([size, k]), and the result's shape."""
    shape = call.x.shape
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    entries = numbering(shape).transpose(*kept, *axes)
    index = entries.reshape(math.prod(shape[axis] for axis in kept), -1)
    if call.flag("keepdims", 1):
        return index, tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    return index, tuple(shape[axis] for axis in kept)


def sum_over(call: Call, axes: tuple[int, ...], mean: bool) -> Value:
    index, shape = reduced(call, axes)
    total = call.builder.sums(call.x, index, shape)
    return call.builder.scale(total, np.array(Fraction(1, index.shape[1]), dtype=object)) if mean else total


@rule("ReduceSum", "ReduceMean")
def reduce_sum(call: Call) -> Result:
    axes = axes_of(call, len(call.x.shape))
    call.flag("keepdims", 1)
    return call.x if axes is None else sum_over(call, axes, mean=call.proto.op_type == "ReduceMean")


@of_constants("ReduceSum", takes_fractions=True)
def sum_of_constants(call: Call) -> Result:
    """Exactly, of real numbers."""
    numbers = real(call.needed(0))
    axes, kept = axes_of(call, numbers.ndim), call.flag("keepdims", 1)
    if axes is None:
        return numbers
    call.builder.folded = True
    return computed_exactly(np.asarray(fractions(numbers).sum(axis=axes, keepdims=kept), dtype=object))


@rule("ReduceMax", "ReduceMin")
def reduce_maximum(call: Call) -> Result:
    axes = axes_of(call, len(call.x.shape))
    call.flag("keepdims", 1)
    return (
        call.x
        if axes is None
        else maximum_over(call, axes, -1.0 if call.proto.op_type == "ReduceMin" else 1.0)
    )


def maximum_over(call: Call, axes: tuple[int, ...], sign: float = 1.0) -> Value:
    """The maximum over axes, or with sign -1 the minimum."""
    index, shape = reduced(call, axes)
    builder = call.builder
    x = builder.scale(call.x, np.array(sign))
    largest = builder.maximum_along_first(builder.gather(x, index.T))
    return builder.scale(builder.reshape(largest, shape), np.array(sign))


def spatial(call: Call) -> tuple[int, ...]:
    if len(call.x.shape) < 3:
        raise Refused("an operand without a spatial axis")
    return tuple(range(2, len(call.x.shape)))


@rule("GlobalAveragePool")
def global_average(call: Call) -> Result:
    return sum_over(call, spatial(call), mean=True)


@rule("GlobalMaxPool")
def global_maximum(call: Call) -> Result:
    return maximum_over(call, spatial(call))


@rule("Max", "Min")
def extreme(call: Call) -> Result:
    """Max and Min (of negated operands, negated) of several operands: values in turn, then constants."""
    builder, sign = call.builder, 1.0 if call.proto.op_type == "Max" else -1.0
    operands = several(call)
    values = [builder.scale(x, np.array(sign)) for x in operands if isinstance(x, Value)]
    while len(values) > 1:
        values = [*values[2:], builder.maximum(values[0], values[1])]
    result = values[0]
    for constant in operands:
        if not isinstance(constant, Value):
            limits = sign * real(constant)  # max(x, c) = c + relu(x - c)
            above = builder.activation("relu", builder.scale(result, np.ones(()), -limits))
            result = builder.scale(above, np.ones(()), limits)
    return builder.scale(result, np.array(sign))
