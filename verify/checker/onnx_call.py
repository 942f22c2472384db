"""One operation of an ONNX file, as rules see it: operands and attributes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper

from verify.checker.builder import Builder, Constant, Tensor, Value
from verify.checker.errors import Refused

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE)
INTEGERS = (TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL)


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
