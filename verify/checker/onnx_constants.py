"""Operations on constants alone: computed exactly, and refused where no float64 number comes out."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, numpy_helper

from verify.checker.builder import Constant, affordable, fractions, rounded
from verify.checker.errors import Refused
from verify.checker.network import Array
from verify.checker.onnx_call import Call, Result, Rule
from verify.checker.onnx_schema import FLOATS, type_name

# by element type the field of a tensor that holds its numbers, and what they are computed with
FIELDS: dict[int, str] = {
    TensorProto.FLOAT: "float_data", TensorProto.DOUBLE: "double_data", TensorProto.INT32: "int32_data",
    TensorProto.INT64: "int64_data", TensorProto.BOOL: "int32_data",
}  # fmt: skip
NUMPY: dict[int, Any] = {
    TensorProto.FLOAT: np.float64, TensorProto.DOUBLE: np.float64, TensorProto.INT32: np.int64,
    TensorProto.INT64: np.int64, TensorProto.BOOL: np.bool_,
}  # fmt: skip
DESCRIPTION = {"dims", "data_type", "name", "doc_string", "data_location", "metadata_props"}
LITERALS: dict[str, int] = {
    "value_float": TensorProto.FLOAT, "value_floats": TensorProto.FLOAT, "value_int": TensorProto.INT64,
    "value_ints": TensorProto.INT64,
}  # fmt: skip


def constant_of(tensor: onnx.TensorProto) -> Constant:
    """A tensor of the file as float64, int64 or bool."""
    if tensor.data_type not in FIELDS:
        raise Refused(f"a constant of type {type_name(tensor.data_type)}")
    held = {entry.name for entry, _ in tensor.ListFields()} - DESCRIPTION
    if (
        len(held) > 1
        or not held <= {FIELDS[tensor.data_type], "raw_data"}
        or external_data_helper.uses_external_data(tensor)
    ):
        raise Refused("the constant's numbers are not in the file, or not in one place")
    array = numpy_helper.to_array(tensor)
    if array.dtype.kind == "b" and (array.view(np.uint8) > 1).any():
        raise Refused("a truth value other than 0 and 1")
    kind = np.float64 if array.dtype.kind == "f" else np.bool_ if array.dtype.kind == "b" else np.int64
    return array.astype(kind)


def literal(call: Call) -> Result:
    """Constant."""
    (name,) = call.attributes
    value = call.attribute(name)
    return constant_of(value) if name == "value" else np.array(value, dtype=NUMPY[LITERALS[name]])


def filled(call: Call) -> Result:
    """ConstantOfShape."""
    value = call.attribute("value")
    number = np.zeros(1) if value is None else constant_of(value)
    return np.full(affordable(call.integers(0) or []), number.reshape(()))


def own_type(call: Call) -> int | None:
    """The element type that an operation chooses for its result; None if it does not."""
    kind, attributes = call.proto.op_type, call.attributes
    if kind == "Cast":
        return int(attributes["to"].i)
    if kind == "Constant" and set(attributes) <= LITERALS.keys() and len(attributes) == 1:
        return LITERALS[next(iter(attributes))]
    if kind in ("Constant", "ConstantOfShape"):
        return int(attributes["value"].t.data_type) if "value" in attributes else TensorProto.FLOAT
    return None


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
    function: Any = ARITHMETIC[call.proto.op_type]
    result = np.asarray(function(*map(fractions, call.constants())), dtype=object)
    if call.types[0] in FLOATS:
        call.builder.folded = True
        return exactly(result)
    return np.array([math.trunc(number) for number in result.ravel()], dtype=np.int64).reshape(result.shape)


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
    if target in FLOATS:
        return unrounded(array, np.float32 if target == TensorProto.FLOAT else np.float64)
    literal_numbers(call)
    if target == TensorProto.BOOL:
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


def literal_numbers(call: Call) -> None:
    """Refuse to decide by numbers that were computed: in floats they are near by, and the decision may be another."""
    if call.builder.folded and call.types[0] in FLOATS:
        raise Refused("a decision by numbers that the model computes from others")


def equal(call: Call) -> Result:
    literal_numbers(call)
    return np.asarray(np.equal(*call.constants()))


def where_constant(call: Call) -> Result:
    return np.where(*call.constants())


def concatenate_constants(call: Call) -> Result:
    constants = call.constants()
    (axis,) = call.axes([call.attribute("axis")], constants[0].ndim)
    return np.concatenate(constants, axis)


CONSTANTS: dict[str, Rule] = {
    **dict.fromkeys(ARITHMETIC, computed), "Cast": cast_constant, "Concat": concatenate_constants,
    "Constant": literal, "ConstantOfShape": filled, "Equal": equal, "Where": where_constant,
}  # fmt: skip
