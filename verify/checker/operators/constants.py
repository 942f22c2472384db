"""What makes constants, and casts."""

from __future__ import annotations

from typing import Any

import numpy as np

from verify.checker.builder import Constant, affordable
from verify.checker.errors import Refused
from verify.checker.onnx_call import Call, Result
from verify.checker.onnx_constants import LITERALS, NUMPY, constant_of
from verify.checker.onnx_register import of_constants, rule
from verify.checker.onnx_schema import BOOL, FLOAT, FLOATS


def value_type(call: Call) -> int:
    """The element type of the tensor that an attribute holds."""
    return int(call.attributes["value"].t.data_type) if "value" in call.attributes else FLOAT


def literal_type(call: Call) -> int:
    names = set(call.attributes)
    return LITERALS[names.pop()] if len(names) == 1 and names <= LITERALS.keys() else value_type(call)


def cast_type(call: Call) -> int:
    return int(call.attributes["to"].i)


@of_constants("Constant", own_type=literal_type)
def literal(call: Call) -> Result:
    """Constant."""
    (name,) = call.attributes
    value = call.attribute(name)
    return constant_of(value) if name == "value" else np.array(value, dtype=NUMPY[LITERALS[name]])


@of_constants("ConstantOfShape", own_type=value_type)
def filled(call: Call) -> Result:
    """ConstantOfShape."""
    value = call.attribute("value")
    number = np.zeros(1) if value is None else constant_of(value)
    return np.full(affordable(call.integers(0) or []), number.reshape(()))


@of_constants("Shape")
@rule("Shape")
def shape_of(call: Call) -> Result:
    """Shape, of a value or a constant."""
    x = call.operand(0)
    if x is None:
        raise Refused("the operand is missing")
    return np.array(x.shape[call.attribute("start", 0) : call.attribute("end")], dtype=np.int64)


@rule("Cast", own_type=cast_type)
def cast(call: Call) -> Result:
    call.only("saturate", 1)
    call.only("round_mode", "up")
    if call.attribute("to") not in FLOATS:
        raise Refused("a cast to a type that rounds")
    return call.x


@of_constants("Cast")
def cast_constant(call: Call) -> Result:
    call.only("saturate", 1)
    call.only("round_mode", "up")
    array, target = call.needed(0), call.attribute("to")
    if target in FLOATS:
        return unrounded(array, np.float32 if target == FLOAT else np.float64)
    call.literal_numbers()
    if target == BOOL:
        return np.asarray(array != 0)
    return np.array([int(number) for number in array.ravel().tolist()], dtype=np.int64).reshape(array.shape)


def unrounded(array: Constant, kind: Any) -> Constant:
    """Numbers as float32 or float64 ones, refused unless they are such numbers."""
    numbers = array.ravel().tolist()
    floats = np.array(numbers).astype(kind).astype(np.float64)
    # whole numbers are compared as Python does it: exactly
    if any(near != number for near, number in zip(floats.tolist(), numbers, strict=True)):
        raise Refused("a cast that rounds a constant")
    return floats.reshape(array.shape)
