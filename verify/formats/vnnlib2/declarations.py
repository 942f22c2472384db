"""What a query declares: networks, and their input, hidden and output variables."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

INPUT, HIDDEN, OUTPUT = "input", "hidden", "output"
INITIALIZED = "initialized"  # an input whose value is the one that the model's file gives it
EQUAL, ISOMORPHIC = "equal-to", "isomorphic-to"
REAL = "real"
FLOATS = frozenset({"float16", "float32", "float64", "bfloat16", "float8e4m3fn", "float8e4m3fnuz", "float8e5m2",
                    "float8e5m2fnuz", "float8e8m0", "float4e2m1", REAL})  # fmt: skip
INTEGERS = frozenset({"int2", "int4", "int8", "int16", "int32", "int64", "uint2", "uint4", "uint8", "uint16", "uint32",
                      "uint64"})  # fmt: skip
ELEMENT_TYPES = FLOATS | INTEGERS | {"bool", "string", "complex64", "complex128"}


@dataclass(frozen=True)
class Variable:
    """A tensor. `tensor` is the ONNX name of a hidden one; `place` is where in the text its name stands."""

    name: str
    kind: str
    element_type: str
    shape: tuple[int, ...]
    tensor: str = ""
    place: int = 0

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Declaration:
    """A network's interface. `relation` is `equal-to`, `isomorphic-to` or empty, and `target` the network it names.

    `given`: inputs that are declared initialized; `inputs` are the others.
    """

    name: str
    relation: str
    target: str
    inputs: tuple[Variable, ...]
    hidden: tuple[Variable, ...]
    outputs: tuple[Variable, ...]
    given: tuple[Variable, ...] = ()

    @property
    def all_inputs(self) -> tuple[Variable, ...]:
        """The inputs, initialized or not, in order of declaration."""
        return tuple(sorted((*self.inputs, *self.given), key=lambda variable: variable.place))

    @property
    def variables(self) -> Iterator[Variable]:
        """All variables, in order of declaration."""
        yield from (*self.all_inputs, *self.hidden, *self.outputs)


def disagreement(one: Declaration, other: Declaration) -> str | None:
    """Why a network cannot be equal (or isomorphic) to another one by their declarations, or None.

    Inputs and outputs must have the same shapes, and so must hidden variables of the same ONNX tensor; equal networks
    have the same element types too.
    """
    pairs: list[tuple[Variable, Variable]] = []
    for kind, ours, others in (
        (INPUT, one.all_inputs, other.all_inputs),
        (OUTPUT, one.outputs, other.outputs),
    ):
        if len(ours) != len(others):
            return f"{one.name} has {len(ours)} {kind}s, {other.name} {len(others)}"
        pairs += zip(ours, others, strict=True)
    for mine, theirs in pairs:
        if mine.kind != theirs.kind:
            return f"{mine.name} is {mine.kind}, {theirs.name} {theirs.kind}"
    tensors: dict[
        str, dict[tuple[object, ...], Variable]
    ] = {}  # one of each kind that a tensor is declared as
    for theirs in other.hidden:
        tensors.setdefault(theirs.tensor, {})[theirs.shape, theirs.element_type] = theirs
    pairs += [(mine, theirs) for mine in one.hidden for theirs in tensors.get(mine.tensor, {}).values()]
    for mine, theirs in pairs:
        if mine.shape != theirs.shape:
            return f"{mine.name} has shape {list(mine.shape)}, {theirs.name} {list(theirs.shape)}"
        if one.relation == EQUAL and mine.element_type != theirs.element_type:
            return f"{mine.name} is {mine.element_type}, {theirs.name} {theirs.element_type}"
    return None
