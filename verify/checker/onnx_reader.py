"""Reader of ONNX models: the content of a file in, the checker's network out.

The network is the real-number function that the file's own weights define. One walk over the nodes, in the file's order: a
tensor is a constant (an array) or a value (a node of the network). Constants are computed exactly; those that are no float64
numbers go into sums and products alone. Whatever is not known here to be understood is refused: operators, attributes, types, unknown shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, defs, external_data_helper

from verify.checker.builder import Builder, Tensor, Value, holds_fractions
from verify.checker.errors import Refused
from verify.checker.network import Network
from verify.checker.onnx_call import Call, Rule
from verify.checker.onnx_constants import NUMPY, constant_of
from verify.checker.onnx_schema import DOMAINS, FLOAT, FLOATS, type_name, types_of
from verify.checker.onnx_stored import STORED, Stored, stored_of, unpacked
from verify.checker.operators import CONSTANTS, RULES, facts_of
from verify.checker.rationals import Shape

OLDEST, NEWEST = 7, 26  # versions of ONNX's operators that these rules were compared with ONNX Runtime for


def rule_of(call: Call) -> Rule:
    """What computes an operation."""
    depends = any(isinstance(operand, Value) for operand in call.operands)
    rule = (RULES if depends else CONSTANTS).get(call.proto.op_type)
    if rule is None:
        raise Refused(
            "this operator is not understood" + ("" if depends else " where all operands are constant")
        )
    return rule


def read_model(data: bytes, folder: str | Path | None = None) -> Network:
    """The network of an ONNX model of one input and one output, given as the (unzipped) content of its file.

    folder: where the files are that the model may keep its weights in. Raises Refused.
    """
    model = model_of(data)
    inputs = inputs_of(model.graph)
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise Refused(
            f"the model has {len(inputs)} inputs and {len(model.graph.output)} outputs, and is not read: not one input and one output"
        )
    builder = Builder(shape_of_input(inputs[0]))
    names = walked(builder, model, [builder.input], folder)
    output = names.value(model.graph.output[0].name)
    return replace(builder.network(output), element_type=type_of_input(inputs[0]))


def model_of(data: bytes) -> onnx.ModelProto:
    """A model file's content. Raises Refused."""
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:
        raise Refused(f"this is no ONNX model ({error})") from error
    if model.functions or model.training_info or model.graph.sparse_initializer:
        raise Refused("functions, training information and sparse tensors are not read")
    return model


def walked(
    builder: Builder, model: onnx.ModelProto, given: Sequence[Value], folder: str | Path | None = None
) -> Names:
    """All tensors of a model at the given values of its inputs, in the order of these. Raises Refused."""
    names = Names(declared_types(model.graph))
    read_weights(model, folder, names)
    names.weights = frozenset(names.tensors)
    for entry, value in zip(inputs_of(model.graph), given, strict=True):
        names.define(entry.name, value, entry.type.tensor_type.elem_type)
    opset = opset_of(model)
    for proto in model.graph.node:
        walk(builder, proto, names, opset)
    builder.float32 = builder.float32 and TensorProto.DOUBLE not in names.types.values()
    return names


class Names:
    """The tensors of a graph and their element types, by name."""

    def __init__(self, declared: dict[str, int]) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.types: dict[str, int] = {}
        self.stored: dict[str, Stored] = {}  # weights in small types, which are not in `tensors`
        self.weights: frozenset[str] = frozenset()  # of the file itself
        self._declared, self._taken = declared, {""}

    def value(self, name: str) -> Value:
        """The tensor of that name. Refused where there is none, or it does not depend on the input."""
        found = self.tensors.get(name)
        if not isinstance(found, Value):
            raise Refused(f"there is no output or tensor {name!r} that depends on the input")
        return found

    def take(self, name: str) -> None:
        """Refuse a name that there is already."""
        if not isinstance(name, str):  # protobuf gives bytes where a name is no UTF-8
            raise Refused(f"the name {name!r} is no text")
        if name in self._taken:
            raise Refused(f"two tensors are called {name!r}, or one has no name")
        self._taken.add(name)

    def store(self, name: str, weight: Stored) -> None:
        """Name a weight in a small type."""
        self.take(name)
        if self._declared.get(name, weight.kind) != weight.kind:
            raise Refused(f"{name!r} is declared with another type than it has")
        self.stored[name] = weight

    def define(self, name: str, tensor: Tensor, kind: int) -> None:
        """Name a tensor. Whole numbers beyond int32 would wrap there, and are refused."""
        self.take(name)
        if self._declared.get(name, kind) != kind:
            raise Refused(f"{name!r} is declared with another type than it has")
        if not isinstance(tensor, Value):
            if tensor.dtype != NUMPY[kind] and not (kind in FLOATS and holds_fractions(tensor)):
                raise Refused(f"{name!r} is not of the type {type_name(kind)}")
            if kind == TensorProto.INT32 and (tensor != tensor.astype(np.int32)).any():
                raise Refused("a whole number is too large for int32, and would wrap")
        self.tensors[name], self.types[name] = tensor, kind


def declared_types(graph: onnx.GraphProto) -> dict[str, int]:
    """The element types that the graph says its tensors have."""
    entries = [*graph.input, *graph.output, *graph.value_info]
    types: dict[str, int] = {}
    for entry in entries:
        if entry.type.WhichOneof("value") not in (None, "tensor_type"):
            raise Refused(f"{entry.name!r} is declared as no tensor")
        if entry.type.HasField("tensor_type"):
            kind = int(entry.type.tensor_type.elem_type)
            if types.setdefault(entry.name, kind) != kind:
                raise Refused(f"{entry.name!r} is declared with two types")
    return types


def read_weights(model: onnx.ModelProto, folder: str | Path | None, names: Names) -> None:
    """The file's constants."""
    if any(external_data_helper.uses_external_data(tensor) for tensor in model.graph.initializer):
        if folder is None:
            raise Refused("the model keeps its weights in other files")
        try:
            external_data_helper.load_external_data_for_model(model, str(folder))
        except Exception as error:
            raise Refused(f"the files with the model's weights cannot be read ({error})") from error
    for tensor in model.graph.initializer:
        try:
            if tensor.data_type in STORED:
                names.store(tensor.name, stored_of(tensor))
            else:
                names.define(tensor.name, constant_of(tensor), tensor.data_type)
        except Refused as error:
            raise Refused(f"{tensor.name!r}: {error}") from None
        except Exception as error:
            raise Refused(f"{tensor.name!r} cannot be read ({error})") from error


def inputs_of(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs that are no constants."""
    constants = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in constants]


def type_of_input(given: onnx.ValueInfoProto) -> str:
    """An input's element type, one of those that `shape_of_input` takes."""
    return "float32" if given.type.tensor_type.elem_type == TensorProto.FLOAT else "float64"


def shape_of_input(given: onnx.ValueInfoProto) -> Shape:
    """The input's shape; an unknown first size is that of a batch, which is 1."""
    kind = given.type.tensor_type
    if kind.elem_type not in FLOATS or not kind.HasField("shape"):
        raise Refused("the input is neither float32 nor float64, or has no shape")
    sizes = [entry.dim_value if entry.HasField("dim_value") else -1 for entry in kind.shape.dim]
    if sizes and sizes[0] < 1:
        sizes[0] = 1
    if any(size < 1 for size in sizes):
        raise Refused("a size of the input other than the batch's is unknown")
    return tuple(sizes)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's operators."""
    versions = {entry.version for entry in model.opset_import if entry.domain in DOMAINS}
    newest = min(NEWEST, defs.onnx_opset_version())
    if len(versions) != 1 or not OLDEST <= max(versions) <= newest:
        raise Refused(f"versions {sorted(versions)} of ONNX's operators; {OLDEST} to {newest} are understood")
    return int(versions.pop())


def unpack(builder: Builder, proto: onnx.NodeProto, names: Names, opset: int) -> None:
    """Name what an operation makes of a weight that is stored in a small type."""
    if proto.input[0] not in names.stored or len(proto.output) != 1:
        kind = next(names.stored[operand].kind for operand in proto.input if operand in names.stored)
        raise Refused(
            f"a constant of type {type_name(kind)}, which is read where it is cast or dequantised alone"
        )
    scales = {
        name: names.tensors[name]
        for name in proto.input
        if name in names.weights and names.types[name] == FLOAT
    }
    found, kind = unpacked(proto, opset, names.stored, scales)
    # a runtime may quantise what such weights are multiplied with
    builder.folded = builder.folded or proto.op_type == "DequantizeLinear"
    names.define(proto.output[0], found, kind)


def walk(builder: Builder, proto: onnx.NodeProto, names: Names, opset: int) -> None:
    """Compute one operation, and name its results."""
    name = f"{proto.op_type} {proto.name or '/'.join(map(str, proto.output))!r}"
    try:
        compute(builder, proto, names, opset)
    except Refused as error:
        raise Refused(f"{name}: {error}") from None
    except Exception as error:
        raise Refused(f"{name}: it cannot be computed ({type(error).__name__}: {error})") from error


def compute(builder: Builder, proto: onnx.NodeProto, names: Names, opset: int) -> None:
    """Every operand, attribute and result of the operation has to be accounted for."""
    if any(operand in names.stored for operand in proto.input):
        unpack(builder, proto, names, opset)
        return
    operands = [names.tensors[operand] if operand else None for operand in proto.input]
    types = [names.types[operand] if operand else None for operand in proto.input]
    facts = facts_of(proto.op_type)
    if not facts.takes_fractions and any(map(holds_fractions, operands)):
        raise Refused("a constant that is computed from others, and is no float64 number")
    call = Call(builder, proto, operands, types, opset)
    result = rule_of(call)(call)
    if call.unread:
        raise Refused(f"the attributes {sorted(call.unread)} are not understood")
    results = result if isinstance(result, list) else [result]
    beyond = len(proto.output) - len(results)
    if not 0 <= beyond <= facts.unread_results:
        raise Refused(f"{len(proto.output)} results, of which {len(results)} are understood")
    own = None if facts.own_type is None else facts.own_type(call)
    kinds = types_of(call.schema, types, own, len(results), facts.mixes_floats)
    for output, tensor, kind in zip(proto.output, results, kinds, strict=False):
        names.define(output, tensor, kind)
    for output in proto.output[len(results) :]:
        if output:
            names.take(output)
