"""One operation of an ONNX file, as rules see it: operands and attributes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import onnx

from verify.checker.builder import Builder, Constant, Tensor, Value
from verify.checker.errors import Refused
from verify.checker.onnx_schema import FLOATS, schema_of, value_of


class Call:
    """An operation: its operands (None where one is left out) and its attributes, each of which must be read.

    types: the operands' element types, in the order of operands.
    """

    def __init__(
        self,
        builder: Builder,
        proto: onnx.NodeProto,
        operands: list[Tensor | None],
        types: list[int | None],
        opset: int,
    ) -> None:
        self.builder, self.proto, self.operands, self.types = builder, proto, operands, types
        self.schema = schema_of(proto, opset)
        self.attributes = {attribute.name: attribute for attribute in proto.attribute}
        self.unread = set(self.attributes)

    @property
    def since(self) -> int:
        """The version of ONNX's operators that brought this definition of the operation."""
        return int(self.schema.since_version)

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute; a number of type float is that of float32."""
        self.unread.discard(name)
        return value_of(self.attributes[name]) if name in self.attributes else default

    def flag(self, name: str, default: int = 0) -> bool:
        """An attribute that says yes (1) or no (0)."""
        value = self.attribute(name, default)
        if value not in (0, 1):
            raise Refused(f"{name} = {value!r}")
        return bool(value)

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

    def constants(self) -> list[Constant]:
        """All operands, none of which may be left out or depend on the input."""
        return [self.needed(place) for place in range(len(self.operands))]

    def scalar(self, place: int) -> Any:
        """A constant operand that is a single number or truth value; None if left out."""
        found = self.constant(place)
        if found is not None and found.ndim:
            raise Refused(f"operand {place} is no scalar")
        return None if found is None else found.item()

    def integers(self, place: int, name: str = "") -> list[int] | None:
        """A constant operand of integers, or the attribute that older versions have for it; None if left out."""
        found = self.constant(place)
        if found is None:
            return list(self.attribute(name)) if name in self.attributes else None
        if found.dtype != np.int64 or found.ndim != 1:
            raise Refused(f"operand {place} is no list of integers")
        return [int(number) for number in found]

    def literal_numbers(self) -> None:
        """Refuse to decide by numbers that were computed: in floats they are near by, and the decision may be another."""
        if self.builder.folded and self.types[0] in FLOATS:
            raise Refused("a decision by numbers that the model computes from others")

    def axes(self, given: list[int], rank: int) -> list[int]:
        """Axes as numbers from 0 on; none may be given twice."""
        axes = [axis % rank for axis in given if -rank <= axis < rank]
        if len(set(axes)) < len(given):
            raise Refused("an axis is out of range, or given twice")
        return axes


Result: TypeAlias = Tensor | list[Tensor]
Rule: TypeAlias = Callable[[Call], Result]
