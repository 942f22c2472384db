"""Operations on constants alone: computed exactly, and refused where no float64 number comes out."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from verify.checker.builder import Constant, fractions, rounded
from verify.checker.errors import Refused
from verify.checker.network import Array
from verify.checker.onnx_call import FLOATS, INTEGERS, Call, Result, Rule


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
