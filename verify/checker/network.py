"""The checker's network: linear maps and activations on flat values, in float64 and over the rationals.

Node 0 is the input, the last node the output. Every other node is affine (a sum of linear maps of earlier nodes, and a
bias) or an activation of one earlier node. A value is a matrix [batch, size], each row a tensor in row-major order.
Arrays of dtype float64 are computed with as they are; arrays of dtype object hold rational numbers, and everything done
with them is exact. The rationals are `fractions.Fraction`, or python-flint's `fmpq` where that is installed.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from importlib import import_module
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from verify.checker.errors import Refused

Array: TypeAlias = NDArray[Any]  # float64, or object with rational numbers
Integers: TypeAlias = NDArray[np.int64]
Shape: TypeAlias = tuple[int, ...]

_SPREAD_OUT = 400_000  # numbers that a convolution spreads its operand out to, at a time
fmpq: Any = None
with suppress(ImportError):
    fmpq = import_module("flint").fmpq


def rational(number: Any) -> Any:
    """A number (int, float, Fraction, rational) as the rational type in use, exactly."""
    if fmpq is None:
        return Fraction(number)
    if isinstance(number, fmpq):
        return number
    fraction = Fraction(number)
    return fmpq(fraction.numerator, fraction.denominator)


def rationals(array: Array) -> Array:
    """An array of numbers as rational numbers, of dtype object."""
    numbers = [rational(number) for number in array.ravel().tolist()]
    return np.array(numbers, dtype=object).reshape(array.shape)


def zeros(shape: Shape, kind: np.dtype[Any]) -> Array:
    """Zeros of float64, or rational ones."""
    return np.full(shape, rational(0) if kind.hasobject else 0.0, dtype=kind)


class Map(ABC):
    """A linear map between flat values."""

    @property
    @abstractmethod
    def sources(self) -> int:
        """The size n of the operand."""

    @property
    @abstractmethod
    def size(self) -> int:
        """The size m of the result."""

    @property
    @abstractmethod
    def terms(self) -> int:
        """The most products that one entry of `forward` or of `transpose` is the sum of."""

    @property
    def slack(self) -> float:
        """A bound on the relative error of the coefficients of `exact()`."""
        return 0.0

    @abstractmethod
    def forward(self, x: Array) -> Array:
        """The map's value: [batch, n] to [batch, m]."""

    @abstractmethod
    def transpose(self, c: Array) -> Array:
        """The transposed map's value: [batch, m] to [batch, n]."""

    @abstractmethod
    def absolute(self) -> Map:
        """The map with the absolute values of all coefficients."""

    @abstractmethod
    def exact(self) -> Map:
        """The map with rational coefficients, for operands of dtype object."""


@dataclass(frozen=True, eq=False)
class Identity(Map):
    """Every value to itself. Maps and their operands are never written to, so nothing is copied."""

    count: int
    terms = 1

    @property
    def sources(self) -> int:
        return self.count

    @property
    def size(self) -> int:
        return self.count

    def forward(self, x: Array) -> Array:
        return x

    def transpose(self, c: Array) -> Array:
        return c

    def absolute(self) -> Map:
        return self

    def exact(self) -> Map:
        return self


@dataclass(frozen=True, eq=False)
class Scale(Map):
    """Every entry times its own coefficient ([count]), or all times one ([]).

    Where the coefficients are rounded, `precise` holds them as rationals (of relative error at most `error`), and
    `extra` terms make up for the rounding of the float64 ones.
    """

    coefficients: Array
    count: int
    precise: Array | None = None
    extra: int = 0
    error: float = 0.0

    @property
    def sources(self) -> int:
        return self.count

    @property
    def size(self) -> int:
        return self.count

    @property
    def terms(self) -> int:
        return 1 + self.extra

    @property
    def slack(self) -> float:
        return self.error

    def forward(self, x: Array) -> Array:
        result: Array = x * self.coefficients
        return result

    def transpose(self, c: Array) -> Array:
        return self.forward(c)

    def absolute(self) -> Map:
        precise = None if self.precise is None else np.abs(self.precise)
        return replace(self, coefficients=np.abs(self.coefficients), precise=precise)

    def exact(self) -> Map:
        numbers = self.coefficients if self.precise is None else self.precise
        return replace(self, coefficients=rationals(numbers), precise=None)


@dataclass(frozen=True, eq=False)
class Dense(Map):
    """x W, where x is cut into matrices [rows, k], and `weight` [groups, k, m] holds one W for each, in turn."""

    weight: Array
    rows: int

    @property
    def sources(self) -> int:
        return self.rows * math.prod(self.weight.shape[:2])

    @property
    def size(self) -> int:
        return self.rows * math.prod(self.weight.shape[::2])

    @property
    def terms(self) -> int:
        return max(map(int, self.weight.shape[1:]))

    def _times(self, x: Array, weight: Array) -> Array:
        groups, width, _ = weight.shape
        product: Array
        if groups == 1:
            product = x.reshape(-1, width) @ weight[0]
        else:
            product = x.reshape(-1, groups, self.rows, width) @ weight
        return product.reshape(len(x), -1)

    def forward(self, x: Array) -> Array:
        return self._times(x, self.weight)

    def transpose(self, c: Array) -> Array:
        return self._times(c, self.weight.swapaxes(1, 2))

    def absolute(self) -> Map:
        return replace(self, weight=np.abs(self.weight))

    def exact(self) -> Map:
        return replace(self, weight=rationals(self.weight))


@dataclass(frozen=True, eq=False)
class Convolution(Map):
    """A convolution of values [lead, *large] to [lead, *small], or with `transposed` its transpose.

    `large` and `small` are shapes [channels, *spatial]; `weight` is [small channels, large channels / groups, *kernel].
    Entry o of the kernel joins position p of the small value to position `stride p + dilation o - begin` of the large
    one, on every spatial axis; what falls outside it is 0.
    """

    weight: Array
    lead: int
    large: Shape
    small: Shape
    groups: int
    strides: Shape
    dilations: Shape
    begins: Shape
    transposed: bool = False

    @property
    def sources(self) -> int:
        return self.lead * math.prod(self.small if self.transposed else self.large)

    @property
    def size(self) -> int:
        return self.lead * math.prod(self.large if self.transposed else self.small)

    @property
    def terms(self) -> int:
        channels = max(self.weight.shape[0] // self.groups, self.weight.shape[1])
        return int(channels * math.prod(self.weight.shape[2:]))

    def forward(self, x: Array) -> Array:
        return self._spread(x) if self.transposed else self._collect(x)

    def transpose(self, c: Array) -> Array:
        return self._collect(c) if self.transposed else self._spread(c)

    def _collect(self, x: Array) -> Array:
        """The convolution, from large to small."""
        return self._in_pieces(x, self._collect_piece)

    def _collect_piece(self, x: Array) -> Array:
        image = x.reshape(len(x) * self.lead, self.groups, -1, *self.large[1:])
        columns = zeros((*image.shape[:2], self._taps, image.shape[2], *self.small[1:]), x.dtype)
        for tap, places, targets in self._joins:
            columns[:, :, tap][places] = image[targets]
        return self._matrix_times(self._matrix, columns).reshape(len(x), -1)

    def _spread(self, c: Array) -> Array:
        """Its transpose, from small to large."""
        return self._in_pieces(c, self._spread_piece)

    def _spread_piece(self, c: Array) -> Array:
        image = c.reshape(len(c) * self.lead, self.groups, -1, *self.small[1:])
        flat = self._matrix_times(self._matrix.swapaxes(1, 2), image)
        columns = flat.reshape(*image.shape[:2], self._taps, -1, *self.small[1:])
        result = zeros((*image.shape[:2], columns.shape[3], *self.large[1:]), c.dtype)
        for tap, places, targets in self._joins:
            result[targets] += columns[:, :, tap][places]
        return result.reshape(len(c), -1)

    @property
    def _taps(self) -> int:
        """The entries of the kernel."""
        return math.prod(self.weight.shape[2:])

    @cached_property
    def _matrix(self) -> Array:
        """The weight as [groups, small channels, taps * large channels] (of one group)."""
        weight = self.weight.reshape(self.groups, -1, self.weight.shape[1], self._taps).swapaxes(2, 3)
        return np.ascontiguousarray(weight.reshape(*weight.shape[:2], -1))

    def _matrix_times(self, matrix: Array, image: Array) -> Array:
        """A matrix for each group times [batch, groups, .., positions]."""
        product: Array = matrix @ image.reshape(*image.shape[:2], matrix.shape[2], -1)
        return product

    def _in_pieces(self, x: Array, action: Callable[[Array], Array]) -> Array:
        """So many rows at a time that what is spread out for the kernel stays small."""
        row = self.lead * self._taps * self.groups * self.weight.shape[1] * math.prod(self.small[1:])
        step = max(1, _SPREAD_OUT // row)
        if len(x) <= step:
            return action(x)
        return np.concatenate([action(x[start : start + step]) for start in range(0, len(x), step)])

    @cached_property
    def _joins(self) -> list[tuple[int, tuple[slice, ...], tuple[slice, ...]]]:
        """For every entry of the kernel its number, and what it joins of the small value and of the large one, both
        [batch, groups, channels, *spatial]."""
        found = []
        for tap, offset in enumerate(itertools.product(*map(range, self.weight.shape[2:]))):
            places, targets = [slice(None)] * 3, [slice(None)] * 3
            for axis, entry in enumerate(offset):
                stride, shift = self.strides[axis], entry * self.dilations[axis] - self.begins[axis]
                first = max(0, -(shift // stride))
                stop = min(self.small[1 + axis], (self.large[1 + axis] - 1 - shift) // stride + 1)
                stop = max(first, stop)
                start = first * stride + shift
                places.append(slice(first, stop))
                targets.append(slice(start, start + (stop - first) * stride, stride))
            found.append((tap, tuple(places), tuple(targets)))
        return found

    def absolute(self) -> Map:
        return replace(self, weight=np.abs(self.weight))

    def exact(self) -> Map:
        return replace(self, weight=rationals(self.weight))


@dataclass(frozen=True, eq=False)
class Gather(Map):
    """Entry i of the result is the sum of the operand's entries `index[i]` ([size, k]; -1 stands for nothing)."""

    index: Integers
    count: int  # entries of the operand

    @property
    def sources(self) -> int:
        return self.count

    @property
    def size(self) -> int:
        return len(self.index)

    @property
    def terms(self) -> int:
        return max(int(self.index.shape[1]), len(self._rounds))

    @cached_property
    def _rounds(self) -> list[tuple[Integers, Integers]]:
        """All pairs (results, operands' entries), in rounds that use no entry of the operand twice."""
        results, columns = np.nonzero(self.index >= 0)
        entries = self.index[results, columns]
        order = np.argsort(entries, kind="stable")
        results, entries = results[order], entries[order]
        earlier = np.arange(len(entries)) - np.searchsorted(entries, entries)  # uses of the same entry before
        order = np.argsort(earlier, kind="stable")
        cuts = np.cumsum(np.bincount(earlier))[:-1]
        return list(zip(np.split(results[order], cuts), np.split(entries[order], cuts), strict=True))

    def forward(self, x: Array) -> Array:
        result = zeros((len(x), self.size), x.dtype)
        for column in range(self.index.shape[1]):
            entries = self.index[:, column]
            if entries.min() >= 0:
                result = result + x[:, entries] if column else x[:, entries]
            else:
                places = np.flatnonzero(entries >= 0)
                result[:, places] += x[:, entries[places]]
        return result

    def transpose(self, c: Array) -> Array:
        result = zeros((len(c), self.count), c.dtype)
        if len(self._rounds) == 1:
            ((results, entries),) = self._rounds
            result[:, entries] = c[:, results]
            return result
        for results, entries in self._rounds:
            result[:, entries] += c[:, results]
        return result

    def absolute(self) -> Map:
        return self

    def exact(self) -> Map:
        return self


# -- activations

KINDS = {"leaky": 1, "clip": 2}  # by kind, how many parameters it has
KINDS |= dict.fromkeys(("relu", "abs", "sigmoid", "tanh", "product", "square", "reciprocal"), 0)


def apply(kind: str, parameters: tuple[Any, ...], z: Array) -> Array:
    """The activation of values z ([.., size]); a product halves the size, its factors being the halves of z."""
    if kind not in KINDS or len(parameters) != KINDS[kind]:
        raise Refused(f"there is no activation {kind!r} with {len(parameters)} parameters")
    exact = z.dtype == object
    if kind in ("sigmoid", "tanh"):
        if exact:
            raise Refused(f"{kind} has no exact value")
        return np.tanh(z) if kind == "tanh" else _sigmoid(z)
    numbers = [rational(p) if exact and math.isfinite(p) else float(p) for p in parameters]
    return _algebraic(kind, numbers, z)


def _sigmoid(z: Array) -> Array:
    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1 / (1 + small), small / (1 + small))


def _algebraic(kind: str, numbers: list[Any], z: Array) -> Array:
    """The activations that rational numbers suffice for."""
    result: Array
    if kind == "relu":
        result = np.maximum(z, rational(0) if z.dtype == object else 0.0)
    elif kind == "leaky":
        result = np.where(z < 0, z * numbers[0], z)
    elif kind == "clip":
        result = z if numbers[0] == -math.inf else np.maximum(z, numbers[0])
        result = result if numbers[1] == math.inf else np.minimum(result, numbers[1])
    elif kind == "abs":
        result = np.abs(z)
    elif kind == "square":
        result = z * z
    elif kind == "reciprocal":
        result = (rational(1) if z.dtype == object else 1.0) / z
    else:  # a product
        first, second = np.split(z, 2, -1)
        result = first * second
    return result


# -- the network


@dataclass(frozen=True, eq=False)
class Input:
    """The network's input."""

    size: int
    shape: Shape


@dataclass(frozen=True, eq=False)
class Affine:
    """The sum of maps of earlier nodes, and a bias [size] (float64, or of dtype object with Fractions)."""

    operands: tuple[tuple[Map, int], ...]
    bias: Array
    shape: Shape

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def exact(self) -> Affine:
        """The node with rational coefficients and bias."""
        return Affine(tuple((m.exact(), k) for m, k in self.operands), rationals(self.bias), self.shape)


@dataclass(frozen=True, eq=False)
class Activation:
    """An activation of an earlier node; `parameters` are Fractions (a limit of "clip" may be an infinite float)."""

    kind: str
    parameters: tuple[Any, ...]
    operand: int
    shape: Shape

    @property
    def size(self) -> int:
        return math.prod(self.shape)


Node: TypeAlias = Input | Affine | Activation


class Layer(NamedTuple):
    """An activation's node, its operand, and the operand's entries on the axis of variables."""

    node: int
    operand: int
    variables: slice
    kind: str
    parameters: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Network:
    """The nodes in an order in which operands come first; sizes are checked."""

    nodes: tuple[Node, ...]
    undeployed: str = ""  # why nothing is known of what runtimes compute in float32; empty where something is
    element_type: str = ""  # of the model's input, where it was read from a file

    def __post_init__(self) -> None:
        for place, node in enumerate(self.nodes):
            if isinstance(node, Input) != (place == 0) or node.size != math.prod(node.shape) or node.size < 1:
                raise Refused(f"node {place} is no input where there must be one, or has a wrong size")
            self._check(place, node)

    def _check(self, place: int, node: Node) -> None:
        """Refuse a node that does not fit its operands."""
        if isinstance(node, Activation):
            fits = 0 <= node.operand < place
            times = 2 if node.kind == "product" else 1
            fits = fits and self.nodes[node.operand].size == times * node.size
        elif isinstance(node, Affine):
            fits = node.bias.shape == (node.size,) and len(node.operands) > 0
            for mapping, operand in node.operands:
                fits = fits and 0 <= operand < place and mapping.size == node.size
                fits = fits and mapping.sources == self.nodes[operand].size
        else:
            fits = True
        if not fits:
            raise Refused(f"node {place} does not fit its operands")

    @property
    def inputs(self) -> int:
        """How many inputs there are."""
        return self.nodes[0].size

    @property
    def outputs(self) -> int:
        """How many outputs there are."""
        return self.nodes[-1].size

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The activations in the order of the nodes."""
        layers, start = [], self.inputs
        for place, node in enumerate(self.nodes):
            if isinstance(node, Activation):
                stop = start + self.nodes[node.operand].size
                layers.append(Layer(place, node.operand, slice(start, stop), node.kind, node.parameters))
                start = stop
        return tuple(layers)

    @property
    def variables(self) -> int:
        """How many variables there are: the inputs, then the operands of all activations."""
        return self.layers[-1].variables.stop if self.layers else self.inputs

    @cached_property
    def exact(self) -> Network:
        """The network with rational coefficients."""
        return Network(
            tuple(node.exact() if isinstance(node, Affine) else node for node in self.nodes), self.undeployed
        )

    def values(self, x: Array) -> list[Array]:
        """The values of all nodes at inputs x ([batch, inputs]): exact where x is of dtype object, else in float64."""
        if x.ndim != 2 or x.shape[1] != self.inputs:
            raise Refused(f"the inputs must be [batch, {self.inputs}], not {list(x.shape)}")
        if x.dtype == object:
            return self.exact._values(rationals(x))
        return self._values(x.astype(np.float64))

    def _values(self, x: Array) -> list[Array]:
        values = [x]
        for node in self.nodes[1:]:
            if isinstance(node, Activation):
                values.append(apply(node.kind, node.parameters, values[node.operand]))
            elif isinstance(node, Affine):
                total = node.bias.astype(x.dtype)
                for mapping, operand in node.operands:
                    total = total + mapping.forward(values[operand])
                values.append(total)
        return values
