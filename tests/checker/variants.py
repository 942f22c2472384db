"""Variants of ONNX models: everything that one node may have more, less or otherwise, one thing at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, defs, helper, numpy_helper

FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE
OPSETS = range(7, 27)
OTHERS: dict[int, list[Any]] = {
    AttributeProto.INT: [-3, -2, -1, 0, 1, 2, 3, 2**31, 2**63 - 1], AttributeProto.FLOAT: [-1.0, 0.0, 0.3, 1.0, float("nan"), float("inf")],
    AttributeProto.STRING: ["", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID", "edge", "CRD"],
}  # fmt: skip
TYPES = (np.float32, np.float64, np.int32, np.int64, np.bool_, np.uint8, np.float16)
Change = Callable[[onnx.ModelProto], Any]


def variants(data: bytes) -> Iterator[tuple[str, bytes]]:
    """A model's variants, each with what it is."""
    model = onnx.load_model_from_string(data)
    for name, change in changes(model):
        variant = onnx.ModelProto()
        variant.CopyFrom(model)
        change(variant)
        yield name, variant.SerializeToString()


def changes(model: onnx.ModelProto) -> Iterator[tuple[str, Change]]:
    yield "itself", lambda m: None
    yield "in float64", in_float64
    versions = {node.op_type: history(node.op_type) for node in model.graph.node}
    for version in OPSETS:
        if any(version in since for since in versions.values()) or version == OPSETS[0]:
            yield f"opset {version}", lambda m, v=version: setattr(m.opset_import[0], "version", v)
    for place, node in enumerate(model.graph.node):
        for name, change in node_changes(node):
            yield f"{node.op_type}: {name}", lambda m, c=change, p=place: c(m.graph.node[p])
    for place, tensor in enumerate(model.graph.initializer):
        for name, other in weight_changes(numpy_helper.to_array(tensor)):
            made = numpy_helper.from_array(np.asarray(other), tensor.name)
            yield f"{tensor.name}: {name}", lambda m, t=made, p=place: m.graph.initializer[p].CopyFrom(t)
        yield f"{tensor.name}: a node", lambda m, p=place: as_node(m, p)
    yield "another input's shape", lambda m: m.graph.input[0].type.tensor_type.shape.dim.add(dim_value=2)
    yield "an input's shape with less", lambda m: m.graph.input[0].type.tensor_type.shape.dim.pop()


def history(kind: str) -> set[int]:
    """The versions that changed an operator."""
    return {
        schema.since_version
        for schema in defs.get_all_schemas_with_history()
        if schema.name == kind and schema.domain == ""
    }


def in_float64(model: onnx.ModelProto) -> None:
    """Everything that is float32 is float64."""
    for tensor in model.graph.initializer:
        if tensor.data_type == FLOAT:
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name)
            )
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.elem_type = DOUBLE
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == FLOAT:
                attribute.i = DOUBLE


def as_node(model: onnx.ModelProto, place: int) -> None:
    """A constant is made by a node."""
    tensor = model.graph.initializer.pop(place)
    model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))


def node_changes(node: onnx.NodeProto) -> Iterator[tuple[str, Callable[[onnx.NodeProto], Any]]]:
    for place in range(len(node.input)):
        yield f"operand {place} left out", lambda n, p=place: n.input.__setitem__(p, "")
        yield f"operand {place} is x", lambda n, p=place: n.input.__setitem__(p, "x")
    if node.input:
        yield "one operand less", lambda n: n.input.pop()
    yield "an empty operand more", lambda n: n.input.append("")
    yield "an operand more", lambda n: n.input.append("x")
    for extra in ([""], ["more"], ["more", "", "most"], ["m1", "m2"], ["m1", "m2", "m3", "m4"]):
        yield f"results {extra}", lambda n, e=extra: n.output.extend(e)
    yield "domain", lambda n: setattr(n, "domain", "ai.onnx")
    for place, attribute in enumerate(node.attribute):
        yield f"without {attribute.name}", lambda n, p=place: n.attribute.pop(p)
        for value in others(attribute):
            made = helper.make_attribute(attribute.name, value, attr_type=attribute.type)
            yield f"{attribute.name} = {value}", lambda n, a=made, p=place: n.attribute[p].CopyFrom(a)
            yield f"{attribute.name} = {value} too", lambda n, a=made: n.attribute.append(a)
    for made in foreign(node):
        yield (
            f"with {made.name} = {helper.get_attribute_value(made)}",
            lambda n, a=made: n.attribute.append(a),
        )


def others(attribute: onnx.AttributeProto) -> list[Any]:
    """Other values of an attribute."""
    if attribute.type != AttributeProto.INTS:
        return OTHERS.get(attribute.type, [])
    own = list(attribute.ints)
    changed = [[*own[:k], own[k] + step, *own[k + 1 :]] for k in range(len(own)) for step in (-1, 1)]
    return [*changed, own[::-1], own[:-1], [*own, 1], [-1 - size for size in own]]


def foreign(node: onnx.NodeProto) -> Iterator[onnx.AttributeProto]:
    """Attributes that some version of the operator has and the node has not."""
    known: dict[str, int] = {}
    for schema in defs.get_all_schemas_with_history():
        if schema.name == node.op_type and schema.domain == "":
            known |= {name: entry.type.value for name, entry in schema.attributes.items()}
    for name in sorted(known.keys() - {attribute.name for attribute in node.attribute}):
        values = OTHERS.get(known[name], [])[2:6]
        if known[name] == AttributeProto.INTS:
            values = [[0], [1], [-1], [1, 1], [2, 2], [0, 1], [0, 0, 0, 0], [1, 0, 0, 1], [1, 1, 1, 1]]
        for value in values:
            yield helper.make_attribute(name, value, attr_type=known[name])


def weight_changes(array: Any) -> Iterator[tuple[str, Any]]:
    """Another type, shape or entry of a constant."""
    for kind in TYPES:
        with np.errstate(all="ignore"):
            yield f"as {kind.__name__}", array.astype(kind)
    yield "an axis more", array[None]
    yield "an axis more behind", array[..., None]
    yield "flat", array.reshape(-1)
    if array.size:
        yield "one entry", array.reshape(-1)[:1]
        yield "a scalar", array.reshape(-1)[0]
        yield "none", array.reshape(-1)[:0]
        yield "twice along the first axis", np.concatenate([np.atleast_1d(array)] * 2)
    for step in (-4, -1, 1, 1000) if array.size and array.dtype.kind != "b" else ():
        other = array.copy()
        with np.errstate(all="ignore"):
            other.reshape(-1)[0] += other.dtype.type(step)
        yield f"{step:+} somewhere", other
