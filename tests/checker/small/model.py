"""Models of dense maps and ReLUs: their pre-activations and outputs as sums of inputs and of outputs of ReLUs."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import reduce
from itertools import pairwise
from typing import Any

from small.sums import ONE, Sum, demand, plus


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Of a message of protocol buffers: numbers and values."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            value |= (data[at] & 127) << shift
            at, shift = at + 1, shift + 7
            if data[at - 1] < 128:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(key & 7) or varint()
        yield key >> 3, data[at : at + size]
        at += size


def all_of(data: bytes, number: int) -> list[Any]:
    return [value for key, value in fields(data) if key == number]


def only(data: bytes, number: int, default: Any = b"") -> Any:
    return next(iter(all_of(data, number)), default)


def matrix(tensor: bytes) -> list[list[Fraction]]:
    """A constant of float32, a vector as one row."""
    demand(only(tensor, 2) == 1 and only(tensor, 9, None) is not None, "only float32, stored as bytes")
    shape = all_of(tensor, 1)
    demand(1 <= len(shape) <= 2, "only vectors and matrices")
    values = [Fraction(value) for (value,) in struct.iter_unpack("<f", only(tensor, 9))]
    demand(len(values) == math.prod(shape), "a constant's size")
    return [values[i : i + shape[-1]] for i in range(0, len(values), shape[-1])]


@dataclass
class Net:
    """Pre-activations, and outputs, as sums; where each layer begins and ends. Of some variables of the model others take the place."""

    inputs: int
    merged: Sequence[int] = ()
    walked: int = 0  # variables of the model so far
    z: dict[int, Sum] = field(default_factory=dict)
    layers: list[tuple[int, int]] = field(default_factory=list)
    outputs: list[Sum] = field(default_factory=list)

    @property
    def size(self) -> int:
        return self.inputs + len(self.z)

    def relu(self, operand: list[Sum]) -> list[Sum]:
        first, start = self.inputs + self.walked, self.size
        self.walked += len(operand)
        staying = [i for i in range(len(operand)) if first + i not in self.merged]
        demand(staying, "a layer of which nothing is left")
        place = {i: start + new for new, i in enumerate(staying)}
        self.z |= {variable: operand[i] for i, variable in place.items()}
        self.layers.append((start, self.size))
        kinds = [(self.z[variable], variable) for variable in place.values()]
        return [
            {place[i]: Fraction(1)} if i in place else like(value, kinds, ONE - 1 - first - i)
            for i, value in enumerate(operand)
        ]

    def check_merged(self) -> None:
        """What is left out is of this model, and nothing is a sum of what nothing stands for."""
        numbers = [self.inputs - 1, *self.merged, self.inputs + self.walked]
        demand(all(a < b for a, b in pairwise(numbers)), "what is left out")
        demand(
            all(variable >= ONE for one in (*self.z.values(), *self.outputs) for variable in one),
            "a ReLU that is read",
        )


def like(value: Sum, kinds: list[tuple[Sum, int]], spare: int) -> Sum:
    """The ReLU of a value, by that of one which is equal or opposite; or else a spare variable stands for its kind."""
    for other, variable in kinds:
        if value == other:
            return {variable: Fraction(1)}
        if value == plus({}, other, -1):
            return plus({variable: Fraction(1)}, other, -1)
    kinds.append((value, spare))
    return {spare: Fraction(1)}


def read_model(data: bytes, merged: Sequence[int] = ()) -> Net:
    """Gemm, MatMul, Add, Sub, Relu and Flatten, of values [1, n]."""
    graph = only(data, 7)
    constants = {only(tensor, 8): matrix(tensor) for tensor in all_of(graph, 5)}
    (given,) = (one for one in all_of(graph, 11) if only(one, 1) not in constants)
    (result,) = (only(one, 1) for one in all_of(graph, 12))
    sizes = [only(size, 1, 0) for size in all_of(only(only(only(given, 2), 1), 2), 1)]
    net = Net(math.prod(sizes), merged)
    values = {only(given, 1): [{i: Fraction(1)} for i in range(net.inputs)]}
    nodes, needed = all_of(graph, 1), {result}
    for node in reversed(nodes):
        if needed & set(all_of(node, 2)):
            needed |= set(all_of(node, 1))
    for node in nodes:
        (name,) = all_of(node, 2)
        if name in needed:
            demand(name not in values and name not in constants, "a name used twice")
            values[name] = computed(net, node, values, constants)
    net.outputs = values[result]
    net.check_merged()
    return net


def computed(net: Net, node: bytes, values: Mapping[bytes, list[Sum]], constants: Mapping[bytes, Any]) -> list[Sum]:  # fmt: skip
    """The result of a node."""
    operands, what = all_of(node, 1), only(node, 4).decode()
    attributes = {only(one, 1).decode(): only(one, 3, None) for one in all_of(node, 5)}
    demand(not attributes or attributes in ({"transB": 1}, {"axis": 1}), "an attribute")
    if what in ("Gemm", "MatMul"):
        weight = constants[operands[1]]
        x = values[operands[0]]
        rows = weight if attributes else list(zip(*weight, strict=True))
        found = [reduce(lambda s, term: plus(s, *term), zip(x, row, strict=True), Sum()) for row in rows]
        bias = constants[operands[2]][0] if len(operands) == 3 else [0] * len(rows)
        return [plus(one, {ONE: Fraction(b)}) for one, b in zip(found, bias, strict=True)]
    if what in ("Add", "Sub"):
        first, second = (
            values[name] if name in values else [{ONE: value} for row in constants[name] for value in row]
            for name in operands
        )
        sign = 1 if what == "Add" else -1
        return [plus(a, b, sign) for a, b in zip(first, second, strict=True)]
    demand(what in ("Relu", "Flatten"), f"operator {what}")
    return net.relu(values[operands[0]]) if what == "Relu" else values[operands[0]]
