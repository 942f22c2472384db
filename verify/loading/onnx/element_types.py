"""The element type of every tensor of an ONNX model, by the operators' own schemas: no shapes, no data, no time."""

from __future__ import annotations

from typing import Any

import onnx
import torch
from onnx import TensorProto
from onnx.defs import OpSchema

TORCH: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32, TensorProto.DOUBLE: torch.float64, TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16, TensorProto.BOOL: torch.bool,
    TensorProto.INT8: torch.int8, TensorProto.INT16: torch.int16, TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64, TensorProto.UINT8: torch.uint8, TensorProto.UINT16: torch.uint16,
    TensorProto.UINT32: torch.uint32, TensorProto.UINT64: torch.uint64,
}  # fmt: skip


def _name(dtype: torch.dtype) -> str:
    """An element type as schemas call it."""
    return str(dtype).removeprefix("torch.").replace("float32", "float").replace("float64", "double")


_CODES = {f"tensor({_name(dtype)})": code for code, dtype in TORCH.items()}


def element_types(graph: onnx.GraphProto, opset: int) -> dict[str, torch.dtype]:
    """Types by name. A tensor whose type is not known, or that torch has no type for, is left out."""
    values = (*graph.input, *graph.initializer)
    codes = {
        value.name: value.data_type if isinstance(value, TensorProto) else value.type.tensor_type.elem_type
        for value in values
    }
    for node in graph.node:
        try:
            schema = onnx.defs.get_schema(node.op_type, opset, "")
        except onnx.defs.SchemaError:
            continue
        for place, name in enumerate(node.output):
            codes[name] = _output(node, schema, place, codes)
    return {name: TORCH[code] for name, code in codes.items() if code in TORCH}


def _output(node: onnx.NodeProto, schema: OpSchema, place: int, codes: dict[str, int]) -> int:
    """The type of an output: the one that its formal name stands for among the inputs, or the only one, or a given one."""
    kind = schema.outputs[min(place, len(schema.outputs) - 1)].type_str
    for number, name in enumerate(node.input):
        formal = schema.inputs[min(number, len(schema.inputs) - 1)]
        if name and formal.type_str == kind:
            return codes.get(name, TensorProto.UNDEFINED)
    allowed = [one.allowed_type_strs for one in schema.type_constraints if one.type_param_str == kind]
    only = allowed[0] if allowed else [kind]
    return _CODES.get(only[0], TensorProto.UNDEFINED) if len(only) == 1 else _given(node)


def _given(node: onnx.NodeProto) -> int:
    """A type that an attribute says."""
    said: dict[str, Any] = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    if node.op_type == "Cast":
        return int(said["to"])
    if node.op_type in ("Constant", "ConstantOfShape"):
        usual = TensorProto.FLOAT if node.op_type == "ConstantOfShape" else _of_constant(said)
        return int(said["value"].data_type) if "value" in said else usual
    return int(said.get("dtype", TensorProto.UNDEFINED))


def _of_constant(said: dict[str, Any]) -> int:
    """The type of a Constant of numbers."""
    if "value_int" in said or "value_ints" in said:
        return TensorProto.INT64
    return TensorProto.FLOAT if "value_float" in said or "value_floats" in said else TensorProto.UNDEFINED
