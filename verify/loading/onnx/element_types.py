"""The element type of every tensor of an ONNX model, by the operators' own schemas: no shapes, no data, no time."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import onnx
import torch
from onnx import TensorProto
from onnx.defs import OpSchema

from verify.loading.onnx.bodies import bodies

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


NARROW = frozenset(
    code
    for name, code in TensorProto.DataType.items()
    if name.startswith(("FLOAT16", "BFLOAT16", "FLOAT8", "FLOAT4"))
)  # floats of fewer bits than float32
_ML = "ai.onnx.ml."  # its operators' full names begin with
# what they give are the elements of what they take, or a sequence of them, or such a sequence's
_OF_ELEMENTS = frozenset(
    "ConcatFromSequence Optional OptionalGetElement SequenceAt SequenceConstruct SplitToSequence".split()
)

_USUAL = {"QuantizeLinear": TensorProto.UINT8, "SequenceEmpty": TensorProto.FLOAT}


def element_types(codes: Mapping[str, int]) -> dict[str, torch.dtype]:
    """torch's types by name. A tensor whose type is not known, or that torch has no type for, is left out."""
    return {name: TORCH[code] for name, code in codes.items() if code in TORCH}


def codes_of(
    graph: onnx.GraphProto,
    opset: int,
    given: Sequence[int] = (),
    around: MutableMapping[str, int] | None = None,
) -> MutableMapping[str, int]:
    """ONNX's element types by name, of sequences those of their tensors.

    given: of the inputs, where the graph says none. around: of the tensors of the graphs that this one is inside of.
    """
    codes = ChainMap(
        {value.name: value.type.tensor_type.elem_type for value in graph.input},
        {} if around is None else around,
    )
    codes |= {value.name: code for value, code in zip(graph.input, given, strict=False) if code}
    codes |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        if held := bodies(node):
            results = _of_body(node, held[0], opset, codes)
            codes.update(zip(node.output, results, strict=False))
            continue
        schema = _schema(node.op_type, opset)
        if schema is not None:
            codes |= {name: _output(node, schema, place, codes) for place, name in enumerate(node.output)}
    return codes


def body_types(node: onnx.NodeProto, codes: Mapping[str, int]) -> list[int]:
    """The types of what a node's bodies take."""
    types = [codes.get(name, TensorProto.UNDEFINED) for name in node.input]
    return types[1:] if node.op_type == "If" else types


def _of_body(
    node: onnx.NodeProto, body: onnx.GraphProto, opset: int, codes: MutableMapping[str, int]
) -> list[int]:
    """The types of a node's results: those of a body of it."""
    inner = codes_of(body, opset, body_types(node, codes), codes)
    results = [inner.get(value.name, TensorProto.UNDEFINED) for value in body.output]
    return results[1:] if node.op_type == "Loop" else results


def _schema(operator: str, opset: int) -> OpSchema | None:
    try:
        if operator.startswith(_ML):
            return onnx.defs.get_schema(operator.removeprefix(_ML), domain=_ML.rstrip("."))
        return onnx.defs.get_schema(operator, opset, "")
    except onnx.defs.SchemaError:
        return None


def _output(node: onnx.NodeProto, schema: OpSchema, place: int, codes: Mapping[str, int]) -> int:
    """The type of an output: the one that its formal name stands for among the inputs, or the only one, or a given one."""
    kind = schema.outputs[min(place, len(schema.outputs) - 1)].type_str
    if node.op_type in _OF_ELEMENTS and node.input:
        return codes.get(node.input[0], TensorProto.UNDEFINED)
    for number, name in enumerate(node.input):
        formal = schema.inputs[min(number, len(schema.inputs) - 1)]
        if name and formal.type_str == kind:
            return codes.get(name, TensorProto.UNDEFINED)
    if node.op_type == "DequantizeLinear" and not any(one.name == "output_dtype" for one in node.attribute):
        return codes.get(node.input[1], TensorProto.UNDEFINED)
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
    if node.op_type.startswith(_ML):
        return _of_labels(said)
    found = said.get("output_dtype") or said.get("dtype")
    return int(_USUAL.get(node.op_type, TensorProto.UNDEFINED) if found is None else found)


def _of_labels(said: dict[str, Any]) -> int:
    """The type of what a classifier or an encoder names."""
    if "values_tensor" in said:
        return int(said["values_tensor"].data_type)
    if "values_floats" in said:
        return TensorProto.FLOAT
    text = said.get("classlabels_strings") or said.get("values_strings")
    return TensorProto.STRING if text else TensorProto.INT64


def _of_constant(said: dict[str, Any]) -> int:
    """The type of a Constant of numbers."""
    if "value_int" in said or "value_ints" in said:
        return TensorProto.INT64
    return TensorProto.FLOAT if "value_float" in said or "value_floats" in said else TensorProto.UNDEFINED
