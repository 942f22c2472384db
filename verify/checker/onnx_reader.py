"""Reader of ONNX models: the content of a file in, the checker's network out.

The network is the real-number function that the file's own weights define. One walk over the nodes, in the file's order: a
tensor is a constant (an array) or a value (a node of the network). Constants are computed exactly, and must then be
float64 numbers. Whatever is not known here to be understood is refused: operators, attributes, types, unknown shapes.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from verify.checker.builder import (
    Builder,
    Constant,
    Tensor,
    Value,
    fractions,
    numbering,
    real,
    rounded,
    scaling,
    simplest,
    square_root,
)
from verify.checker.errors import Refused
from verify.checker.network import (
    Array,
    Convolution,
    Dense,
    Integers,
    Network,
    Shape,
)

OLDEST, NEWEST = 7, 28  # versions of ONNX's operators whose definitions were read for this file
DOMAINS = ("", "ai.onnx")
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE)
INTEGERS = (TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL)
MOST_POWER = 64  # the largest exponent
ROOT_SLACK = 2.0**-189


# -- one operation of the file


class Call:
    """An operation: its operands (None where one is left out) and its attributes, each of which must be read."""

    def __init__(
        self, builder: Builder, proto: onnx.NodeProto, operands: list[Tensor | None], opset: int
    ) -> None:
        self.builder, self.proto, self.operands, self.opset = builder, proto, operands, opset
        self.attributes = {attribute.name: attribute for attribute in proto.attribute}
        self.unread = set(self.attributes)

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute; a number of type float is that of float32."""
        self.unread.discard(name)
        if name not in self.attributes:
            return default
        value = helper.get_attribute_value(self.attributes[name])
        return value.decode() if isinstance(value, bytes) else value

    def only(self, name: str, *allowed: Any) -> None:
        """Refuse an attribute whose value is not among those allowed; the first is the default."""
        value = self.attribute(name, allowed[0])
        if value not in allowed:
            raise Refused(f"{name} = {value!r}")

    def operand(self, place: int) -> Tensor | None:
        """An operand, or None."""
        return self.operands[place] if place < len(self.operands) else None

    def given(self) -> list[Tensor]:
        """All operands, none of which may be left out."""
        if not self.operands or any(operand is None for operand in self.operands):
            raise Refused("an operand is missing")
        return [operand for operand in self.operands if operand is not None]

    def two(self) -> tuple[Tensor, Tensor]:
        """Both operands of two."""
        first, second = self.given()
        return first, second

    @property
    def x(self) -> Value:
        """The first operand, which depends on the input."""
        first = self.operand(0)
        if not isinstance(first, Value):
            raise Refused("the first operand does not depend on the input")
        return first

    def constant(self, place: int) -> Constant | None:
        """A constant operand, or None where it is left out; infinity is refused where it is used as a weight."""
        found = self.operand(place)
        if isinstance(found, Value):
            raise Refused(f"operand {place} depends on the input")
        return found

    def needed(self, place: int) -> Constant:
        """A constant operand that may not be left out."""
        found = self.constant(place)
        if found is None:
            raise Refused(f"operand {place} is missing")
        return found

    def integers(self, place: int, name: str = "") -> list[int] | None:
        """A constant operand of integers, or the attribute that older versions have for it; None if left out."""
        found = self.constant(place)
        if found is None:
            return list(self.attribute(name)) if name in self.attributes else None
        if found.dtype != np.int64:
            raise Refused(f"operand {place} has a wrong type")
        return [int(number) for number in found.ravel()]


Result: TypeAlias = Tensor | list[Tensor]
Rule: TypeAlias = Callable[[Call], Result]


# -- operations that move entries: they say which entry goes where, for values and constants alike


def reshape(call: Call, numbers: Integers) -> Integers:
    sizes = call.integers(1)
    if sizes is None:
        raise Refused("the shape is missing")
    if call.attribute("allowzero", 0) == 0:
        sizes = [numbers.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return numbers.reshape(sizes)


def flatten(call: Call, numbers: Integers) -> Integers:
    axis = call.attribute("axis", 1)
    if not -numbers.ndim <= axis <= numbers.ndim:
        raise Refused("the axis is out of range")
    before = numbers.shape[: axis if axis >= 0 else axis + numbers.ndim]
    return numbers.reshape(math.prod(before), -1)


def transpose(call: Call, numbers: Integers) -> Integers:
    moved: Integers = numbers.transpose(call.attribute("perm"))
    return moved


def squeeze(call: Call, numbers: Integers) -> Integers:
    axes = call.integers(1, "axes")
    return np.squeeze(numbers, None if axes is None else tuple(axes))


def unsqueeze(call: Call, numbers: Integers) -> Integers:
    axes = call.integers(1, "axes")
    if axes is None:
        raise Refused("the axes are missing")
    return np.expand_dims(numbers, tuple(axes))


def identity(call: Call, numbers: Integers) -> Integers:
    return numbers


def dropout(call: Call, numbers: Integers) -> Integers:
    call.attribute("ratio"), call.attribute("seed")
    training = call.constant(2)
    if training is not None and training.any():
        raise Refused("training mode")
    return numbers


def take(call: Call, numbers: Integers) -> Integers:
    index = call.needed(1)
    if index.dtype != np.int64:
        raise Refused("the indices have a wrong type")
    taken: Integers = np.take(numbers, index, axis=call.attribute("axis", 0))
    return taken


def expand(call: Call, numbers: Integers) -> Integers:
    shape = np.broadcast_shapes(numbers.shape, tuple(call.integers(1) or ()))
    return np.broadcast_to(numbers, shape)


def tile(call: Call, numbers: Integers) -> Integers:
    repeats = call.integers(1) or []
    if len(repeats) != numbers.ndim:
        raise Refused("not one number of repetitions for each axis")
    return np.tile(numbers, repeats)


def by_reference(*attributes: str) -> Callable[[Call, Integers], Any]:
    """The rule of an operator that ONNX's own reference implementation is run for, on the numbers of the entries."""

    def rule(call: Call, numbers: Integers) -> Any:
        for name in attributes:
            call.attribute(name)
        results = referred(call, [numbers.astype(np.float64), *call.operands[1:]])
        return results[0] if len(results) == 1 else results

    return rule


def referred(call: Call, operands: Sequence[Any]) -> list[Integers]:
    """The results of ONNX's reference implementation of the operation, which must be whole numbers."""
    from onnx.reference import ReferenceEvaluator  # imported late: it is slow to import

    node = onnx.NodeProto()
    node.CopyFrom(call.proto)
    node.domain = ""
    del node.input[:]
    node.input.extend("" if operand is None else f"in{k}" for k, operand in enumerate(operands))
    unknown = [
        helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None)
        for name in (*node.input, *node.output)
        if name
    ]
    count = sum(operand is not None for operand in operands)
    graph = helper.make_graph([node], "one", unknown[:count], unknown[count:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", call.opset)])
    feed = {f"in{k}": operand for k, operand in enumerate(operands) if operand is not None}
    results = [np.asarray(result) for result in ReferenceEvaluator(model).run(None, feed)]
    whole = [result.astype(np.int64) for result in results]
    if any((number != result).any() for number, result in zip(whole, results, strict=True)):
        raise Refused("the entries were not moved, but changed")
    return whole


MOVES: dict[str, Callable[[Call, Integers], Any]] = {
    "DepthToSpace": by_reference("blocksize", "mode"), "Dropout": dropout, "Expand": expand, "Flatten": flatten,
    "Gather": take, "Identity": identity, "Reshape": reshape, "Slice": by_reference("axes", "ends", "starts"),
    "Split": by_reference("axis", "split", "num_outputs"), "Squeeze": squeeze, "Tile": tile, "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}  # fmt: skip


def move(call: Call) -> Result:
    """The entries of the first operand where the operation puts them."""
    x = call.operand(0)
    if x is None:
        raise Refused("the operand is missing")
    moved = MOVES[call.proto.op_type](call, numbering(x.shape))
    results: list[Tensor] = []
    for index in moved if isinstance(moved, list) else [moved]:
        if index.size and (index.min() < 0 or index.max() >= math.prod(x.shape)):
            raise Refused("an index is out of range")
        results.append(call.builder.gather(x, index) if isinstance(x, Value) else x.ravel()[index])
    return results


# -- arithmetic


def add(call: Call) -> Result:
    return call.builder.add(call.given(), [1] * len(call.operands))


def subtract(call: Call) -> Result:
    return call.builder.add(call.two(), [1, -1])


def average_of_operands(call: Call) -> Result:
    total = call.builder.add(call.given(), [1] * len(call.operands))
    return call.builder.scale(total, np.array(Fraction(1, len(call.operands)), dtype=object))


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


def reciprocals(numbers: Constant) -> Array:
    """1 / numbers, as Fractions."""
    known = {number: 1 / Fraction(number) for number in set(numbers.ravel().tolist())}
    return np.array([known[number] for number in numbers.ravel().tolist()], dtype=object).reshape(
        numbers.shape
    )


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
    if call.attribute("to") not in FLOATS or not isinstance(call.operand(0), Value):
        raise Refused("a cast to a type that rounds")
    return call.x


def pad(call: Call) -> Result:
    call.only("mode", "constant")
    widths, shape = call.integers(1, "pads"), call.x.shape
    axes = call.integers(3) or list(range(len(shape)))
    if widths is None or min(widths, default=0) < 0 or len(widths) != 2 * len(axes):
        raise Refused("the widths are missing or negative, or there are not two for each axis")
    sides = [(0, 0)] * len(shape)
    for place, axis in enumerate(axes):
        sides[axis] = (widths[place], widths[place + len(axes)])
    index = np.pad(numbering(shape), sides, constant_values=-1)
    value = call.constant(2)
    number = float(call.attribute("value", 0.0)) if value is None else float(real(value).reshape(()))
    padded = call.builder.gather(call.x, index)
    return call.builder.scale(padded, np.ones(()), np.where(index < 0, number, 0.0)) if number else padded


# -- sums and matrices


def axes_of(call: Call, rank: int) -> tuple[int, ...] | None:
    """The axes that a reduction is over, in increasing order; None if it changes nothing."""
    axes = call.integers(1, "axes")
    if not axes:
        return None if call.attribute("noop_with_empty_axes", 0) else tuple(range(rank))
    call.only("noop_with_empty_axes", 0, 1)
    if any(not -rank <= axis < rank for axis in axes):
        raise Refused("an axis is out of range")
    return tuple(sorted({axis % rank for axis in axes}))


def reduced(call: Call, axes: tuple[int, ...]) -> tuple[Integers, Shape]:
    """The entries that each entry of a reduction's result is made of ([size, k]), and the result's shape."""
    shape = call.x.shape
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    entries = numbering(shape).transpose(*kept, *axes)
    index = entries.reshape(math.prod(shape[axis] for axis in kept), -1)
    if call.attribute("keepdims", 1):
        return index, tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    return index, tuple(shape[axis] for axis in kept)


def sum_over(call: Call, axes: tuple[int, ...], mean: bool) -> Value:
    index, shape = reduced(call, axes)
    total = call.builder.sums(call.x, index, shape)
    return call.builder.scale(total, np.array(Fraction(1, index.shape[1]), dtype=object)) if mean else total


def reduce_sum(call: Call) -> Result:
    axes = axes_of(call, len(call.x.shape))
    call.attribute("keepdims")
    return call.x if axes is None else sum_over(call, axes, mean=call.proto.op_type == "ReduceMean")


def reduce_maximum(call: Call) -> Result:
    axes = axes_of(call, len(call.x.shape))
    call.attribute("keepdims")
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
    flags = call.attribute("transA", 0), call.attribute("transB", 0)
    builder, c = call.builder, call.operand(2)
    first, second = call.given()[:2]
    a, b = turned(builder, first) if flags[0] else first, turned(builder, second) if flags[1] else second
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
    factors = []
    for weight, spread in zip(fractions(gamma), fractions(variance) + epsilon, strict=True):
        factors.append(weight * square_root(1 / spread))
    along = (-1, *(1,) * (len(call.x.shape) - 2))
    x, shape = call.builder.scale(call.x, np.ones(()), -mean.reshape(along)), call.x.shape
    scale = scaling(np.array(factors, dtype=object).reshape(along), shape, 8, ROOT_SLACK)
    return call.builder.affine([(scale, x)], shape, beta.reshape(along))


# -- windows


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
        return [
            np.arange(count)[:, None] * self.strides[axis] - self.begins[axis]
            + np.arange(self.kernel[axis]) * self.dilations[axis]
            for axis, count in enumerate(self.positions(sizes))
        ]  # fmt: skip


def window(call: Call, sizes: Shape, kernel: Shape) -> Window:
    """The window of an operation on an operand of the given spatial sizes."""
    rank = len(kernel)
    strides = tuple(call.attribute("strides", (1,) * rank))
    dilations = tuple(call.attribute("dilations", (1,) * rank))
    pads = tuple(call.attribute("pads", (0,) * 2 * rank))
    ceil = call.proto.op_type.endswith("Pool") and bool(call.attribute("ceil_mode", 0))
    auto = call.attribute("auto_pad", "NOTSET")
    lengths = (2 * len(sizes), 2 * len(strides), 2 * len(dilations), len(pads))
    if set(lengths) != {2 * rank} or min(*strides, *dilations, *kernel) < 1 or min(pads) < 0 or rank < 1:
        raise Refused("the window's numbers do not fit")
    if auto == "NOTSET":
        return Window(kernel, strides, dilations, pads[:rank], pads[rank:], ceil)
    if auto not in ("VALID", "SAME_UPPER", "SAME_LOWER") or any(pads) or ceil:
        raise Refused(f"auto_pad = {auto!r} here")
    begins, ends = [0] * rank, [0] * rank
    for axis, size in enumerate(sizes if auto != "VALID" else ()):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        missing = max(0, (-(-size // strides[axis]) - 1) * strides[axis] + reach - size)
        half = missing // 2 if auto == "SAME_UPPER" else missing - missing // 2
        begins[axis], ends[axis] = half, missing - half
    return Window(kernel, strides, dilations, tuple(begins), tuple(ends))


def convolve(call: Call) -> Result:
    x, weight, bias = call.x, real(call.needed(1)), call.constant(2)
    groups, kernel = call.attribute("group", 1), tuple(weight.shape[2:])
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
    convolution = Convolution(
        weight, x.shape[0], large, small, groups, at.strides, at.dilations, at.begins, transposed
    )  # fmt: skip
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


def average_pool(call: Call) -> Result:
    kernel = tuple(call.attribute("kernel_shape"))
    x, rank, counted = call.x, len(kernel), bool(call.attribute("count_include_pad", 0))
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


# -- activations


def plain(kind: str) -> Rule:
    """The rule of an activation without parameters."""
    return lambda call: call.builder.activation(kind, call.x)


def limit(call: Call, place: int, name: str, default: float) -> float:
    """A limit of Clip: an operand, or an attribute of old versions."""
    found = call.constant(place)
    number = float(call.attribute(name, default)) if found is None else float(found.reshape(()))
    if math.isnan(number):
        raise Refused("a limit is NaN")
    return number


def clip(call: Call) -> Result:
    low, high = limit(call, 1, "min", -math.inf), limit(call, 2, "max", math.inf)
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
    slopes = set(real(call.needed(1)).ravel().tolist())
    if len(slopes) != 1:
        raise Refused("several slopes")
    return call.builder.activation("leaky", call.x, (Fraction(slopes.pop()),))


def hard_sigmoid(call: Call) -> Result:
    alpha = call.attribute("alpha", float(np.float32(0.2)))
    moved = call.builder.scale(call.x, np.array(alpha), np.array(call.attribute("beta", 0.5)))
    return clipped(call.builder, moved, 0.0, 1.0)


def extreme(call: Call) -> Result:
    """Max and Min (of negated operands, negated) of several operands: values in turn, then constants."""
    builder, sign = call.builder, 1.0 if call.proto.op_type == "Max" else -1.0
    operands = call.given()
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
    return call.builder.concatenate(call.given(), call.attribute("axis"))


RULES: dict[str, Rule] = {
    "Abs": plain("abs"), "Add": add, "AveragePool": average_pool, "BatchNormalization": normalise, "Cast": cast,
    "Clip": clip, "Concat": concatenate, "Conv": convolve, "ConvTranspose": convolve, "Div": divide, "Gemm": gemm,
    "GlobalAveragePool": global_average, "GlobalMaxPool": global_maximum, "HardSigmoid": hard_sigmoid,
    "LeakyRelu": leaky, "MatMul": matmul, "Max": extreme, "MaxPool": max_pool, "Mean": average_of_operands,
    "Min": extreme, "Mul": multiply, "Neg": negate, "PRelu": parametric, "Pad": pad, "Pow": power,
    "Reciprocal": plain("reciprocal"), "ReduceMax": reduce_maximum, "ReduceMean": reduce_sum,
    "ReduceMin": reduce_maximum, "ReduceSum": reduce_sum, "Relu": plain("relu"), "Sigmoid": plain("sigmoid"),
    "Sub": subtract, "Sum": add, "Tanh": plain("tanh"), "Where": where,
}  # fmt: skip


# -- operations on constants alone


def constant_of(tensor: onnx.TensorProto) -> Constant:
    """A tensor of the file as float64, int64 or bool."""
    if tensor.data_type not in (*FLOATS, *INTEGERS):
        raise Refused(f"a constant of type {TensorProto.DataType.Name(tensor.data_type)}")
    array = numpy_helper.to_array(tensor)
    kind = np.float64 if array.dtype.kind == "f" else np.bool_ if array.dtype.kind == "b" else np.int64
    return array.astype(kind)


def literal(call: Call) -> Result:
    """Constant."""
    (name,) = call.attributes
    value = call.attribute(name)
    if name == "value":
        return constant_of(value)
    if name not in ("value_float", "value_floats", "value_int", "value_ints"):
        raise Refused(f"{name} is not understood")
    return np.array(value, dtype=np.float64 if "float" in name else np.int64)


def filled(call: Call) -> Result:
    """ConstantOfShape."""
    value = call.attribute("value")
    number = np.zeros(1) if value is None else constant_of(value)
    return np.full(call.integers(0) or [], number.reshape(()))


def shape_of(call: Call) -> Result:
    """Shape, of a value or a constant."""
    x = call.operand(0)
    if x is None:
        raise Refused("the operand is missing")
    return np.array(x.shape[call.attribute("start", 0) : call.attribute("end")], dtype=np.int64)


def quotient(a: Any, b: Any) -> Any:
    return a / b


def computed(call: Call) -> Result:
    """Add, Sub, Mul, Div, Neg: exact, of integers as ONNX has them (a quotient loses its fraction)."""
    operands = [call.needed(place) for place in range(len(call.operands))]
    function: Any = ARITHMETIC[call.proto.op_type]
    result = np.asarray(function(*map(fractions, operands)), dtype=object)
    if all(operand.dtype == np.int64 for operand in operands):
        return np.array([math.trunc(number) for number in result.ravel()], dtype=np.int64).reshape(
            result.shape
        )
    if any(operand.dtype != np.float64 for operand in operands):
        raise Refused("arithmetic with truth values")
    call.builder.folded = True
    return exactly(result)


ARITHMETIC = {
    "Add": operator.add,
    "Div": quotient,
    "Mul": operator.mul,
    "Neg": operator.neg,
    "Sub": operator.sub,
}


def exactly(numbers: Array) -> Constant:
    """Fractions as float64, refused if they are none."""
    floats, same = rounded(numbers)
    if not same:
        raise Refused("a constant is computed from others, and is no float64 number")
    return floats


def cast_constant(call: Call) -> Result:
    call.only("saturate", 1)
    call.only("round_mode", "up")
    array, target = call.needed(0), call.attribute("to")
    if target == TensorProto.BOOL:
        return np.asarray(array != 0)
    kinds: dict[int, Any] = {TensorProto.FLOAT: np.float32, TensorProto.DOUBLE: np.float64}
    kinds |= {TensorProto.INT32: np.int32, TensorProto.INT64: np.int64}
    if target not in kinds:
        raise Refused("a cast to a type that is not understood")
    numbers = np.trunc(array) if target in INTEGERS else array
    result = numbers.astype(kinds[target])
    if (result != numbers).any():
        raise Refused("a cast that rounds a constant")
    return result.astype(np.int64 if target in INTEGERS else np.float64)


def equal(call: Call) -> Result:
    return np.asarray(call.needed(0) == call.needed(1))


def where_constant(call: Call) -> Result:
    condition, a, b = (call.needed(place) for place in range(3))
    if condition.dtype != np.bool_ or a.dtype != b.dtype:
        raise Refused("the operands have wrong types")
    return np.where(condition, a, b)


def concatenate_constants(call: Call) -> Result:
    return np.concatenate([call.needed(place) for place in range(len(call.operands))], call.attribute("axis"))


CONSTANTS: dict[str, Rule] = {
    **dict.fromkeys(ARITHMETIC, computed), "Cast": cast_constant, "Concat": concatenate_constants,
    "Constant": literal, "ConstantOfShape": filled, "Equal": equal, "Where": where_constant,
}  # fmt: skip


# -- the walk


def rule_of(call: Call) -> Rule:
    """What computes an operation."""
    kind = call.proto.op_type
    if call.proto.domain not in DOMAINS:
        raise Refused(f"the domain {call.proto.domain!r} is unknown")
    if kind == "Shape":
        return shape_of
    if kind in MOVES:
        return move
    depends = any(isinstance(operand, Value) for operand in call.operands)
    rule = (RULES if depends else CONSTANTS).get(kind)
    if rule is None:
        raise Refused(
            "this operator is not understood" + ("" if depends else " where all operands are constant")
        )
    return rule


def read_model(data: bytes, folder: str | Path | None = None) -> Network:
    """The network of an ONNX model, given as the (unzipped) content of its file.

    folder: where the files are that the model may keep its weights in. Raises Refused.
    """
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:
        raise Refused(f"this is no ONNX model ({error})") from error
    graph = model.graph
    if model.functions or model.training_info or graph.sparse_initializer or not graph.output:
        raise Refused(
            "functions, training information, sparse tensors and graphs without an output are not read"
        )
    tensors = weights(model, folder)
    given = only_input(graph, tensors)
    builder = Builder(shape_of_input(given))
    tensors[given.name] = builder.input
    opset = opset_of(model)
    for proto in graph.node:
        walk(builder, proto, tensors, opset)
    output = tensors.get(graph.output[0].name)
    if not isinstance(output, Value):
        raise Refused("the output is missing, or does not depend on the input")
    return builder.network(output)


def weights(model: onnx.ModelProto, folder: str | Path | None) -> dict[str, Tensor]:
    """The file's constants by name."""
    if any(external_data_helper.uses_external_data(tensor) for tensor in model.graph.initializer):
        if folder is None:
            raise Refused("the model keeps its weights in other files")
        try:
            external_data_helper.load_external_data_for_model(model, str(folder))
        except Exception as error:
            raise Refused(f"the files with the model's weights cannot be read ({error})") from error
    tensors: dict[str, Tensor] = {}
    for tensor in model.graph.initializer:
        if tensor.name in tensors or not tensor.name:
            raise Refused(f"two tensors are called {tensor.name!r}")
        try:
            tensors[tensor.name] = constant_of(tensor)
        except Refused as error:
            raise Refused(f"{tensor.name!r}: {error}") from None
        except Exception as error:
            raise Refused(f"{tensor.name!r} cannot be read ({error})") from error
    return tensors


def only_input(graph: onnx.GraphProto, tensors: dict[str, Tensor]) -> onnx.ValueInfoProto:
    """The one input that is no constant."""
    given: list[onnx.ValueInfoProto] = [value for value in graph.input if value.name not in tensors]
    if len(given) != 1:
        raise Refused(f"the model has {len(given)} inputs, not one")
    return given[0]


def shape_of_input(given: onnx.ValueInfoProto) -> Shape:
    """The input's shape; an unknown first size is that of a batch, which is 1."""
    kind = given.type.tensor_type
    if kind.elem_type not in FLOATS or not kind.HasField("shape"):
        raise Refused("the input is neither float32 nor float64, or has no shape")
    sizes = [entry.dim_value if entry.HasField("dim_value") else -1 for entry in kind.shape.dim]
    if sizes and sizes[0] < 1:
        sizes[0] = 1
    if any(size < 1 for size in sizes):
        raise Refused("a size of the input other than the batch's is unknown")
    return tuple(sizes)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's operators."""
    versions = {entry.version for entry in model.opset_import if entry.domain in DOMAINS}
    if len(versions) != 1 or not OLDEST <= max(versions) <= NEWEST:
        raise Refused(f"versions {sorted(versions)} of ONNX's operators; {OLDEST} to {NEWEST} are understood")
    return int(versions.pop())


def walk(builder: Builder, proto: onnx.NodeProto, tensors: dict[str, Tensor], opset: int) -> None:
    """Compute one operation, and name its results."""
    name = f"{proto.op_type} {proto.name or '/'.join(proto.output)!r}"
    try:
        operands = [tensors[operand] if operand else None for operand in proto.input]
        call = Call(builder, proto, operands, opset)
        result = rule_of(call)(call)
        if call.unread:
            raise Refused(f"the attributes {sorted(call.unread)} are not understood")
    except Refused as error:
        raise Refused(f"{name}: {error}") from None
    except Exception as error:
        raise Refused(f"{name}: it cannot be computed ({type(error).__name__}: {error})") from error
    for output, tensor in zip(proto.output, result if isinstance(result, list) else [result], strict=False):
        if output in tensors:
            raise Refused(f"{name}: two tensors are called {output!r}")
        if output:
            tensors[output] = tensor
