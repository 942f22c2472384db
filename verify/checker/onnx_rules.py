"""Operations on values: arithmetic, sums and matrices, activations; and which rule an operator has."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from verify.checker.builder import (
    Builder,
    Constant,
    Tensor,
    Value,
    affordable,
    fractions,
    numbering,
    real,
    reciprocals,
    scaling,
    simplest,
    square_root,
)
from verify.checker.errors import Refused
from verify.checker.network import Array, Dense, Integers, Shape
from verify.checker.onnx_call import Call, Result, Rule
from verify.checker.onnx_schema import FLOATS
from verify.checker.onnx_windows import average_pool, convolve, max_pool

MOST_POWER = 64  # the largest exponent
ROOT_SLACK = 2.0**-189


# -- arithmetic


def several(call: Call) -> list[Tensor]:
    """The operands of Sum, Mean, Max and Min; old versions do not broadcast them."""
    operands = call.given()
    if call.since < 8 and len({operand.shape for operand in operands}) > 1:
        raise Refused("operands of several shapes, in a version that has them equal")
    return operands


def add(call: Call) -> Result:
    return call.builder.add(call.two(), [1, 1])


def total(call: Call) -> Result:
    return call.builder.add(several(call), [1] * len(call.operands))


def subtract(call: Call) -> Result:
    return call.builder.add(call.two(), [1, -1])


def average_of_operands(call: Call) -> Result:
    together = call.builder.add(several(call), [1] * len(call.operands))
    return call.builder.scale(together, np.array(Fraction(1, len(call.operands)), dtype=object))


def negate(call: Call) -> Result:
    return call.builder.scale(call.x, np.array(-1.0))


def multiply(call: Call) -> Result:
    return times(call.builder, *call.two())


def times(builder: Builder, a: Tensor, b: Tensor) -> Value:
    """a b, one of them a value."""
    if isinstance(a, Value):
        return builder.product(a, b) if isinstance(b, Value) else builder.scale(a, b)
    assert isinstance(b, Value)
    return builder.scale(b, a)


def divide(call: Call) -> Result:
    a, b = call.two()
    if isinstance(b, Value):
        return times(call.builder, a, call.builder.activation("reciprocal", b))
    assert isinstance(a, Value)
    return call.builder.scale(a, reciprocals(real(b)))


def power(call: Call) -> Result:
    exponent = call.needed(1)
    exponents = set(exponent.ravel().tolist())
    if len(exponents) != 1 or not exponents <= set(range(1, MOST_POWER + 1)):
        raise Refused(f"an exponent other than one of 1, 2, .., {MOST_POWER} for all")
    x = call.builder.expand(call.x, np.broadcast_shapes(call.x.shape, exponent.shape))
    return powered(call.builder, x, int(exponents.pop()))


def powered(builder: Builder, x: Value, exponent: int) -> Value:
    """x to an exponent >= 1, by repeated squaring."""
    if exponent == 1:
        return x
    even = builder.activation("square", powered(builder, x, exponent // 2))
    return builder.product(even, x) if exponent % 2 else even


def where(call: Call) -> Result:
    condition, *sides = call.given()
    if isinstance(condition, Value) or condition.dtype != np.bool_:
        raise Refused("the condition depends on the input, or is no truth value")
    kept: list[Tensor] = []
    for side, mask in zip(sides, (condition, ~condition), strict=True):
        if isinstance(side, Value):
            kept.append(call.builder.scale(side, mask.astype(np.float64)))
        else:
            kept.append(np.where(mask, real(side), 0.0))
    return call.builder.add(kept, [1, 1])


def cast(call: Call) -> Result:
    call.only("saturate", 1)
    call.only("round_mode", "up")
    if call.attribute("to") not in FLOATS:
        raise Refused("a cast to a type that rounds")
    return call.x


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


# -- sums and matrices


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


def reduce_sum(call: Call) -> Result:
    axes = axes_of(call, len(call.x.shape))
    call.flag("keepdims", 1)
    return call.x if axes is None else sum_over(call, axes, mean=call.proto.op_type == "ReduceMean")


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


def global_average(call: Call) -> Result:
    return sum_over(call, spatial(call), mean=True)


def global_maximum(call: Call) -> Result:
    return maximum_over(call, spatial(call))


def matmul(call: Call) -> Result:
    return matrix_product(call.builder, *call.two())


def turned(builder: Builder, x: Tensor) -> Tensor:
    """The last two axes exchanged."""
    rank = len(x.shape)
    axes = (*range(rank - 2), rank - 1, rank - 2)
    return builder.transpose(x, axes) if isinstance(x, Value) else x.transpose(axes)


def matrix_product(builder: Builder, a: Tensor, b: Tensor, bias: Array | None = None) -> Value:
    """a @ b, one of them constant, and a bias."""
    if isinstance(a, Value):
        if isinstance(b, Value):
            raise Refused("a product of two matrices that depend on the input")
        return times_matrix(builder, a, real(b), bias)
    assert isinstance(b, Value)
    rows, columns = len(a.shape) > 1, len(b.shape) > 1
    left = real(a) if rows else real(a)[None]
    right = b if columns else builder.reshape(b, (*b.shape, 1))
    matrix = left.swapaxes(-1, -2)
    x = turned(builder, right)
    assert isinstance(x, Value)
    result = turned(builder, times_matrix(builder, x, matrix))
    assert isinstance(result, Value)
    shape = result.shape if columns else result.shape[:-1]
    shape = shape if rows else (*shape[: len(shape) - 1 - columns], *shape[len(shape) - columns :])
    result = builder.reshape(result, shape)
    return result if bias is None else builder.add([result, bias], [1, 1])


def times_matrix(builder: Builder, x: Value, weight: Constant, bias: Array | None = None) -> Value:
    """x @ weight with numpy's rules, and a bias."""
    matrices = weight[:, None] if weight.ndim == 1 else weight
    shape = x.shape if len(x.shape) > 1 else (1, *x.shape)
    lead = np.broadcast_shapes(shape[:-2], matrices.shape[:-2])
    row = (shape[-2],) if len(x.shape) > 1 else ()
    column = (matrices.shape[-1],) if weight.ndim > 1 else ()
    if shape[-1] != matrices.shape[-2]:
        raise Refused("the matrices do not fit")
    if math.prod(matrices.shape[:-2]) == 1:
        groups, rows = matrices.reshape(1, *matrices.shape[-2:]), math.prod(lead) * shape[-2]
    else:
        x = builder.expand(builder.reshape(x, shape), (*lead, *shape[-2:]))
        groups = np.broadcast_to(matrices, (*lead, *matrices.shape[-2:])).reshape(-1, *matrices.shape[-2:])
        rows = shape[-2]
    return builder.affine([(Dense(groups, rows), x)], (*lead, *row, *column), bias)


def gemm(call: Call) -> Result:
    alpha, beta = call.attribute("alpha", 1.0), call.attribute("beta", 1.0)
    builder, c = call.builder, call.operand(2)
    first, second, *_ = call.operands
    assert first is not None and second is not None
    if len(first.shape) != 2 or len(second.shape) != 2:
        raise Refused("an operand is no matrix")
    a = turned(builder, first) if call.flag("transA") else first
    b = turned(builder, second) if call.flag("transB") else second
    shape = (a.shape[0], b.shape[1])
    if c is not None and np.broadcast_shapes(c.shape, shape) != shape:
        raise Refused("the third operand is larger than the product")
    if isinstance(c, Value):
        product = builder.scale(matrix_product(builder, a, b), np.array(alpha))
        return builder.add([product, builder.scale(c, np.array(beta))], [1, 1])
    bias = None if c is None else real(c) if beta == 1 else simplest(fractions(real(c)) * Fraction(beta))
    if alpha == 1:
        return matrix_product(builder, a, b, bias)
    return builder.scale(matrix_product(builder, a, b), np.array(alpha), bias)


def normalise(call: Call) -> Result:
    """BatchNormalization: (x - mean) * gamma / sqrt(variance + epsilon) + beta, along axis 1."""
    call.only("training_mode", 0)
    call.only("spatial", 1)
    call.attribute("momentum")
    epsilon = Fraction(call.attribute("epsilon", float(np.float32(1e-5))))
    gamma, beta, mean, variance = (real(call.needed(place)) for place in range(1, 5))
    if {gamma.shape, beta.shape, mean.shape, variance.shape} != {call.x.shape[1:2]}:
        raise Refused("the weights are not one number for each channel")
    factors = []
    for weight, spread in zip(fractions(gamma), fractions(variance) + epsilon, strict=True):
        factors.append(weight * square_root(1 / spread))
    along = (-1, *(1,) * (len(call.x.shape) - 2))
    x, shape = call.builder.scale(call.x, np.ones(()), -mean.reshape(along)), call.x.shape
    scale = scaling(np.array(factors, dtype=object).reshape(along), shape, 8, ROOT_SLACK)
    return call.builder.affine([(scale, x)], shape, beta.reshape(along))


# -- activations


def plain(kind: str) -> Rule:
    """The rule of an activation without parameters."""
    return lambda call: call.builder.activation(kind, call.x)


def limit(call: Call, place: int, name: str, default: float) -> float:
    """A limit of Clip: an operand, or an attribute of old versions."""
    found = call.scalar(place)
    number = float(call.attribute(name, default) if found is None else found)
    if math.isnan(number):
        raise Refused("a limit is NaN")
    return number


def clip(call: Call) -> Result:
    # without limits old versions cut at float32's largest numbers, which only float64 goes beyond
    most = float(np.finfo(np.float32).max) if call.since < 11 and call.types[0] == FLOATS[1] else math.inf
    low, high = limit(call, 1, "min", -most), limit(call, 2, "max", most)
    return clipped(call.builder, call.x, low, high)


def clipped(builder: Builder, x: Value, low: float, high: float) -> Value:
    """min(max(x, low), high)."""
    if not low < high:
        raise Refused(f"the limits {low} and {high} are not in order")
    if (low, high) == (-math.inf, math.inf):
        return x
    if (low, high) == (0, math.inf):
        return builder.activation("relu", x)
    limits = tuple(end if math.isinf(end) else Fraction(end) for end in (low, high))
    return builder.activation("clip", x, limits)


def leaky(call: Call) -> Result:
    slope = call.attribute("alpha", float(np.float32(0.01)))
    return call.builder.activation("leaky", call.x, (Fraction(slope),))


def parametric(call: Call) -> Result:
    given = real(call.needed(1))
    slopes = set(given.ravel().tolist())
    if len(slopes) != 1 or np.broadcast_shapes(given.shape, call.x.shape) != call.x.shape:
        raise Refused("several slopes, or more slopes than entries")
    return call.builder.activation("leaky", call.x, (Fraction(slopes.pop()),))


def hard_sigmoid(call: Call) -> Result:
    alpha = call.attribute("alpha", float(np.float32(0.2)))
    moved = call.builder.scale(call.x, np.array(alpha), np.array(call.attribute("beta", 0.5)))
    return clipped(call.builder, moved, 0.0, 1.0)


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


def concatenate(call: Call) -> Result:
    operands = call.given()
    (axis,) = call.axes([call.attribute("axis")], len(operands[0].shape))
    return call.builder.concatenate(operands, axis)


RULES: dict[str, Rule] = {
    "Abs": plain("abs"), "Add": add, "AveragePool": average_pool, "BatchNormalization": normalise, "Cast": cast,
    "Clip": clip, "Concat": concatenate, "Conv": convolve, "ConvTranspose": convolve, "Div": divide, "Gemm": gemm,
    "GlobalAveragePool": global_average, "GlobalMaxPool": global_maximum, "HardSigmoid": hard_sigmoid,
    "LeakyRelu": leaky, "MatMul": matmul, "Max": extreme, "MaxPool": max_pool, "Mean": average_of_operands,
    "Min": extreme, "Mul": multiply, "Neg": negate, "PRelu": parametric, "Pad": pad, "Pow": power,
    "Reciprocal": plain("reciprocal"), "ReduceMax": reduce_maximum, "ReduceMean": reduce_sum,
    "ReduceMin": reduce_maximum, "ReduceSum": reduce_sum, "Relu": plain("relu"), "Sigmoid": plain("sigmoid"),
    "Sub": subtract, "Sum": total, "Tanh": plain("tanh"), "Where": where,
}  # fmt: skip
