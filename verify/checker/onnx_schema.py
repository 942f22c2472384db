"""What ONNX's own definition of an operation allows: how many operands and results, which attributes, which types.

An operation that differs from its definition in anything is refused before a rule sees it: runtimes read such things in ways
of their own (five results of BatchNormalization once meant training, of two attributes of one name one counts).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import onnx
from onnx import AttributeProto, TensorProto, defs, helper

from verify.checker.errors import Refused

DOMAINS = ("", "ai.onnx")
FIELDS = {"input", "output", "name", "op_type", "domain", "attribute", "doc_string", "metadata_props"}
TYPES = {
    "tensor(float)": TensorProto.FLOAT, "tensor(double)": TensorProto.DOUBLE, "tensor(int32)": TensorProto.INT32,
    "tensor(int64)": TensorProto.INT64, "tensor(bool)": TensorProto.BOOL,
}  # fmt: skip
FLOAT, BOOL = TensorProto.FLOAT, TensorProto.BOOL
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE)
# by type, the field of an attribute that holds its value
ATTRIBUTES: dict[int, str] = {
    AttributeProto.FLOAT: "f", AttributeProto.INT: "i", AttributeProto.STRING: "s", AttributeProto.TENSOR: "t",
    AttributeProto.FLOATS: "floats", AttributeProto.INTS: "ints",
}  # fmt: skip
Schema = Any  # onnx.defs.OpSchema, which has no types of its own


def schema_of(proto: onnx.NodeProto, opset: int) -> Schema:
    """The definition of an operation whose operands' number, results' number and attributes are as defined."""
    if proto.domain not in DOMAINS:
        raise Refused(f"the domain {proto.domain!r} is unknown")
    odd = {field.name for field, _ in proto.ListFields()} - FIELDS
    if odd:
        raise Refused(f"{sorted(odd)} is not understood")
    schema = definition(proto.op_type, opset)
    if schema is None:
        raise Refused("this operator is not understood")
    most = schema.max_input
    if not schema.min_input <= len(proto.input) <= most:
        raise Refused(f"{len(proto.input)} operands where {schema.min_input} to {most} are defined")
    for place, name in enumerate(proto.input):
        if not name and parameter(schema.inputs, place).option.name != "Optional":
            raise Refused(f"operand {place} is missing")
    if not 1 <= len(proto.output) <= schema.max_output or not proto.output[0]:
        raise Refused(f"{len(proto.output)} results, or one without a name")
    check_attributes(proto, schema)
    return schema


@cache
def definition(kind: str, opset: int) -> Schema | None:
    """ONNX's definition of an operator, as of a version; None if there is none."""
    try:
        schema = defs.get_schema(kind, opset, "")
    except defs.SchemaError:
        return None
    return None if schema.deprecated else schema


def parameter(parameters: Sequence[Any], place: int) -> Any:
    """The formal parameter of an operand or a result; a variadic last one goes on."""
    return parameters[min(place, len(parameters) - 1)]


def check_attributes(proto: onnx.NodeProto, schema: Schema) -> None:
    """Refuse attributes that are not defined, given twice, of another type, NaN, or missing where they must be given."""
    names = [attribute.name for attribute in proto.attribute]
    if len(set(names)) < len(names):
        raise Refused("an attribute is given twice")
    unknown = set(names) - set(schema.attributes)
    if unknown:
        raise Refused(f"the attributes {sorted(unknown)} are not understood")
    for name, defined in schema.attributes.items():
        if defined.required and name not in names:
            raise Refused(f"the attribute {name!r} is missing")
    for attribute in proto.attribute:
        check_attribute(attribute, schema.attributes[attribute.name].type.value)


def check_attribute(attribute: onnx.AttributeProto, kind: int) -> None:
    """Refuse an attribute of another type than its definition's, or one that holds more than a value of that type."""
    if kind == AttributeProto.GRAPH:
        raise Refused("a graph inside of a node is not read")
    value = ATTRIBUTES.get(kind, "")
    held = {field.name for field, _ in attribute.ListFields()} - {"name", "type", "doc_string"}
    if attribute.type != kind or not value or held - {value}:
        raise Refused(f"the attribute {attribute.name!r} has a wrong type")
    numbers = {"f": [attribute.f], "floats": attribute.floats}.get(value, ())
    if any(math.isnan(number) for number in numbers):
        raise Refused(f"the attribute {attribute.name!r} is NaN")


def types_of(
    schema: Schema, operands: Sequence[int | None], own: int | None, results: int, mixes_floats: bool
) -> list[int]:
    """The element types of so many results, from those of the operands (None where one is left out).

    own: the type that the operation itself chooses, where it does. mixes_floats: operands may be of float32 and float64. Refuses
    operands of types that are not defined, and types that differ where the definition has one letter for them.
    """
    allowed = {entry.type_param_str: entry.allowed_type_strs for entry in schema.type_constraints}
    bound: dict[str, int] = {}
    for place, kind in enumerate(operands):
        letter = parameter(schema.inputs, place).type_str
        if kind is None:
            continue
        if kind not in {TYPES.get(text) for text in allowed.get(letter, [letter])}:
            raise Refused(f"operand {place} has the type {type_name(kind)}")
        if bound.setdefault(letter, kind) != kind:
            raise Refused(
                f"operand {place} has the type {type_name(kind)}, another {type_name(bound[letter])}"
            )
    if len({kind for kind in bound.values() if kind in FLOATS}) > 1 and not mixes_floats:
        raise Refused("operands of float32 and of float64")
    letters = [parameter(schema.outputs, place).type_str for place in range(results)]
    return [result_type(letter, bound, allowed, own) for letter in letters]


def result_type(letter: str, bound: dict[str, int], allowed: dict[str, Any], own: int | None) -> int:
    """The type of a result: that of operands, the only one that is allowed, or the operation's own."""
    choice = [TYPES.get(text) for text in allowed.get(letter, [letter])]
    kind = bound[letter] if letter in bound else choice[0] if len(choice) == 1 else own
    if kind is None or kind not in choice:
        raise Refused("the result's type is not understood")
    return kind


def type_name(kind: int) -> str:
    """The name of an element type."""
    known: dict[int, str] = {number: name for name, number in TensorProto.DataType.items()}
    return known.get(kind, f"number {kind}")


def value_of(attribute: onnx.AttributeProto) -> Any:
    """The value of an attribute; a number of type float is that of float32."""
    value = helper.get_attribute_value(attribute)
    return value.decode() if isinstance(value, bytes) else value
