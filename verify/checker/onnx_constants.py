"""Constants that an ONNX file holds, as the checker computes with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, numpy_helper

from verify.checker.builder import Constant
from verify.checker.errors import Refused
from verify.checker.onnx_schema import type_name

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
    array = content_of(tensor, FIELDS[tensor.data_type])
    if array.dtype.kind == "b" and (array.view(np.uint8) > 1).any():
        raise Refused("a truth value other than 0 and 1")
    kind = np.float64 if array.dtype.kind == "f" else np.bool_ if array.dtype.kind == "b" else np.int64
    found: Constant = array.astype(kind)
    return found


def content_of(tensor: onnx.TensorProto, field: str) -> Any:
    """A tensor of the file as it is; its numbers are in a field of that name, or raw."""
    held = {entry.name for entry, _ in tensor.ListFields()} - DESCRIPTION
    if len(held) > 1 or not held <= {field, "raw_data"} or external_data_helper.uses_external_data(tensor):
        raise Refused("the constant's numbers are not in the file, or not in one place")
    return numpy_helper.to_array(tensor)
