"""What the reader of ONNX models builds its network with: exact numbers, and a builder that appends nodes.

Maxima are made of ReLUs: max(a, b) = b + relu(a - b), many of them by halves (`maximum_along_first`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from verify.checker.errors import Refused
from verify.checker.maps import Gather, Identity, Map, Scale
from verify.checker.network import Activation, Affine, Input, Network, Node
from verify.checker.rationals import Array, Integers, Shape

MOST_NUMBERS = 2**28  # of one tensor
MOST_BITS = 2**12  # of a number that is computed from others
MOST_PARTS = 4  # float64 numbers that one is the sum of
ROOT_BITS = 200  # of a square root that is no rational number


# -- exact numbers


def fractions(array: NDArray[Any]) -> Array:
    """Numbers as Fractions, in an array of dtype object."""
    numbers = [Fraction(number) for number in array.ravel().tolist()]
    return np.array(numbers, dtype=object).reshape(array.shape)


def rounded(numbers: Array) -> tuple[NDArray[np.float64], bool]:
    """Fractions as the nearest float64 numbers, and whether those are the same numbers."""
    floats = np.array([float(number) for number in numbers.ravel()], dtype=np.float64).reshape(numbers.shape)
    pairs = list(zip(floats.ravel().tolist(), numbers.ravel(), strict=True))
    if any(number and abs(near) < 2.0**-1000 for near, number in pairs):
        raise Refused("a number that is computed from the weights is too small for float64")
    return floats, all(Fraction(near) == number for near, number in pairs)


def simplest(numbers: Array) -> Array:
    """Fractions as float64 if they all are float64 numbers, else as they are."""
    floats, same = rounded(numbers)
    return floats if same else numbers


def computed_exactly(numbers: Array) -> Array:
    """Fractions as `simplest` has them. Refused where they have become too long to compute with."""
    parts = [part for number in numbers.ravel() for part in (number.numerator, number.denominator)]
    if any(part.bit_length() > MOST_BITS for part in parts):
        raise Refused("a constant is computed from others, and too long to be computed exactly")
    return simplest(numbers)


def floats_of(numbers: Array) -> list[NDArray[np.float64]]:
    """Arrays of float64 whose sum the numbers are exactly; itself, where it is of float64. Refused where it takes too many."""
    if numbers.dtype != object:
        return [numbers]
    found: list[NDArray[np.float64]] = []
    rest, same = numbers, False
    while not same:
        if len(found) == MOST_PARTS:
            raise Refused("a constant is computed from others, and has too many digits")
        floats, same = rounded(rest)
        found.append(floats)
        rest = rest - fractions(floats)
    return found


def square_root(number: Fraction) -> Fraction:
    """The square root of a positive number, of relative error below 2^-190."""
    shift = ROOT_BITS + max(0, number.denominator.bit_length() - number.numerator.bit_length())
    return Fraction(math.isqrt(math.floor(number * 4**shift)), 2**shift)


def real(array: NDArray[Any]) -> Array:
    """The same array, refused unless it holds finite real numbers (float64 or Fractions)."""
    if array.dtype != object and (array.dtype != np.float64 or not np.isfinite(array).all()):
        raise Refused("a constant holds NaN or infinity, or no real numbers")
    return array


# -- building the network


@dataclass(frozen=True)
class Value:
    """A tensor that depends on the input: a node of the network, and the tensor's shape."""

    node: int
    shape: Shape

    @property
    def size(self) -> int:
        return math.prod(self.shape)


Constant: TypeAlias = NDArray[Any]  # float64, int64, bool, or Fractions where an operator takes those
Tensor: TypeAlias = Value | Constant


def holds_fractions(tensor: Tensor | None) -> bool:
    """Whether it is a constant of numbers that are no float64 numbers."""
    return tensor is not None and not isinstance(tensor, Value) and tensor.dtype == object


def affordable(shape: Sequence[int]) -> Shape:
    """The same shape, refused where a tensor of it would hold too many numbers."""
    if math.prod(map(int, shape)) > MOST_NUMBERS:
        raise Refused(f"a tensor of the shape {list(shape)} is too large")
    return tuple(shape)


def numbering(shape: Shape) -> Integers:
    """0, 1, 2, ... in the given shape."""
    return np.arange(math.prod(affordable(shape))).reshape(shape)


class Builder:
    """Appends nodes."""

    def __init__(self, shape: Shape) -> None:
        self.nodes: list[Node] = [Input(math.prod(shape), shape)]
        self.folded = False  # whether numbers of the model were computed with, exactly
        self.float32 = True  # whether all numbers of the model are of that type
        self.input = Value(0, shape)

    def affine(self, parts: Sequence[tuple[Map, Value]], shape: Shape, bias: Array | None = None) -> Value:
        """The sum of maps of values, and of a bias that is broadcast to `shape`."""
        size = math.prod(affordable(shape))
        full = np.zeros(size) if bias is None else np.broadcast_to(real(bias), shape).reshape(size)
        self.nodes.append(Affine(tuple((part, x.node) for part, x in parts), full, shape))
        return Value(len(self.nodes) - 1, shape)

    def activation(
        self, kind: str, x: Value, parameters: tuple[Any, ...] = (), shape: Shape | None = None
    ) -> Value:
        """An activation of a value."""
        self.nodes.append(Activation(kind, parameters, x.node, x.shape if shape is None else shape))
        return Value(len(self.nodes) - 1, x.shape if shape is None else shape)

    def reshape(self, x: Value, shape: Shape) -> Value:
        """The same entries in another shape."""
        return x if x.shape == shape else self.affine([(Identity(x.size), x)], shape)

    def gather(self, x: Value, index: Integers) -> Value:
        """The entries `index` of the flat value (-1: zero), in the index's shape."""
        if index.size == x.size and np.array_equal(index.ravel(), np.arange(x.size)):
            return self.reshape(x, index.shape)
        return self.sums(x, index.reshape(-1, 1), index.shape)

    def sums(self, x: Value, index: Integers, shape: Shape) -> Value:
        """Sums of the entries `index` ([size, k]; -1: none) of the flat value."""
        if index.size == 0 or index.min() < -1 or index.max() >= x.size:
            raise Refused("an index is out of range, or a tensor is empty")
        return self.affine([(Gather(index.astype(np.int64), x.size), x)], shape)

    def transpose(self, x: Value, axes: Sequence[int]) -> Value:
        """The value with its axes in another order."""
        return self.gather(x, numbering(x.shape).transpose(tuple(axes)))

    def expand(self, x: Value, shape: Shape) -> Value:
        """The value broadcast to a shape."""
        return self.gather(x, np.broadcast_to(numbering(x.shape), affordable(shape)))

    def scale(self, x: Value, factor: Array, shift: Array | None = None) -> Value:
        """factor * x + shift, with broadcasting; both may hold Fractions."""
        shift = np.zeros(()) if shift is None else shift
        shape = np.broadcast_shapes(x.shape, factor.shape, shift.shape)
        x = self.expand(x, shape)
        if (factor == 1).all() and (shift == 0).all():
            return x
        return self.affine([(scaling(real(factor), shape), x)], shape, shift)

    def add(self, operands: Sequence[Tensor], signs: Sequence[int]) -> Value:
        """The sum of values and constants with signs, with broadcasting."""
        shape = np.broadcast_shapes(*(operand.shape for operand in operands))
        parts: list[tuple[Map, Value]] = []
        bias: Array = np.zeros(())
        for operand, sign in zip(operands, signs, strict=True):
            if isinstance(operand, Value):
                x = self.expand(operand, shape)
                parts.append((Identity(x.size) if sign == 1 else scaling(np.array(-1.0), shape), x))
            elif (bias == 0).all():
                bias = np.asarray(sign * real(operand))
            else:
                self.folded = True
                both = fractions(bias) + sign * fractions(real(operand))
                bias = simplest(np.asarray(both, dtype=object))
        if len(parts) == 1 and isinstance(parts[0][0], Identity) and (bias == 0).all():
            return parts[0][1]
        return self.affine(parts, shape, bias)

    def concatenate(self, operands: Sequence[Tensor], axis: int) -> Value:
        """Values and constants one after the other along an axis."""
        if len(operands) == 1 and isinstance(operands[0], Value):
            return operands[0]
        rank = len(operands[0].shape)
        if not -rank <= axis < rank:
            raise Refused("the axis is out of range")
        nowhere = [np.full(operand.shape, -1) for operand in operands]
        parts: list[tuple[Map, Value]] = []
        bias: Any = 0.0
        for place, operand in enumerate(operands):
            here = numbering(operand.shape)
            index = np.concatenate([*nowhere[:place], here, *nowhere[place + 1 :]], axis)
            if isinstance(operand, Value):
                parts.append((Gather(index.reshape(-1, 1), operand.size), operand))
            elif operand.size:
                bias = bias + np.where(index < 0, 0.0, real(operand).ravel()[index])
        return self.affine(parts, index.shape, np.asarray(bias))

    def product(self, a: Value, b: Value) -> Value:
        """The product of two values, with broadcasting."""
        if a == b:
            return self.activation("square", a)
        shape = np.broadcast_shapes(a.shape, b.shape)
        size = math.prod(shape)
        factors = [self.reshape(self.expand(factor, shape), (size,)) for factor in (a, b)]
        return self.activation("product", self.concatenate(factors, 0), shape=shape)

    def maximum(self, a: Value, b: Value) -> Value:
        """max(a, b) = b + relu(a - b), with broadcasting."""
        shape = np.broadcast_shapes(a.shape, b.shape)
        a, b = self.expand(a, shape), self.expand(b, shape)
        return self.add([b, self.activation("relu", self.add([a, b], [1, -1]))], [1, 1])

    def maximum_along_first(self, x: Value) -> Value:
        """The maximum along the first axis, which disappears."""
        while x.shape[0] > 1:
            entries = numbering(x.shape)
            half = x.shape[0] // 2
            a, b = self.gather(x, entries[:half]), self.gather(x, entries[half : 2 * half])
            larger = self.maximum(a, b)
            rest = [self.gather(x, entries[2 * half :])] if x.shape[0] % 2 else []
            x = self.concatenate([larger, *rest], 0)
        return self.reshape(x, x.shape[1:])

    @property
    def undeployed(self) -> str:
        """Why nothing is known of what a runtime computes in float32; empty where something is."""
        if not self.float32:
            return "the model has tensors of float64: only what is float32 throughout is covered"
        if self.folded:
            return "the model computes constants from constants, and float32 may round there"
        return ""

    def network(self, output: Value) -> Network:
        """The network that ends in a value, without the nodes that it does not need."""
        if output.node == 0:
            output = self.affine([(Identity(output.size), output)], output.shape)
        needed = {0, output.node}
        for place in range(output.node, 0, -1):
            if place in needed:
                needed.update(operands_of(self.nodes[place]))
        number = {old: new for new, old in enumerate(sorted(needed))}
        return Network(tuple(renumbered(self.nodes[place], number) for place in number), self.undeployed)


def operands_of(node: Node) -> list[int]:
    """The nodes that a node is computed from."""
    if isinstance(node, Affine):
        return [operand for _, operand in node.operands]
    return [node.operand] if isinstance(node, Activation) else []


def renumbered(node: Node, number: dict[int, int]) -> Node:
    """The node with new numbers of its operands."""
    if isinstance(node, Affine):
        return replace(node, operands=tuple((part, number[operand]) for part, operand in node.operands))
    return replace(node, operand=number[node.operand]) if isinstance(node, Activation) else node


def scaling(factor: Array, shape: Shape, extra: int = 2, error: float = 0.0) -> Scale:
    """The map of elementwise factors; Fractions that are no float64 numbers are rounded, and `extra` terms charged."""
    size = math.prod(shape)

    def spread(numbers: Array) -> Array:
        return numbers.reshape(()) if numbers.size == 1 else np.broadcast_to(numbers, shape).reshape(size)

    if factor.dtype != object:
        return Scale(spread(factor), size)
    floats, same = rounded(factor)
    if same and not error:
        return Scale(spread(floats), size)
    return Scale(spread(floats), size, spread(factor), extra, error)


def reciprocals(numbers: Constant) -> Array:
    """1 / numbers, as Fractions."""
    known = {number: 1 / Fraction(number) for number in set(numbers.ravel().tolist())}
    return np.array([known[number] for number in numbers.ravel().tolist()], dtype=object).reshape(
        numbers.shape
    )
