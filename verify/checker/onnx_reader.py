"""Reader of ONNX models: the content of a file in, the checker's network out.

The network is the real-number function that the file's own weights define. One walk over the nodes, in the file's order: a
tensor is a constant (an array) or a value (a node of the network). Constants are computed exactly, and must then be
float64 numbers. Whatever is not known here to be understood is refused: operators, attributes, types, unknown shapes.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import external_data_helper

from verify.checker.builder import Builder, Tensor, Value
from verify.checker.errors import Refused
from verify.checker.network import Network, Shape
from verify.checker.onnx_call import FLOATS, Call, Rule
from verify.checker.onnx_constants import CONSTANTS, constant_of, shape_of
from verify.checker.onnx_moves import MOVES, move
from verify.checker.onnx_rules import RULES

OLDEST, NEWEST = 7, 28  # versions of ONNX's operators whose definitions were read for these rules
DOMAINS = ("", "ai.onnx")


def rule_of(call: Call) -> Rule:
    """What computes an operation."""
    kind = call.proto.op_type
    if call.proto.domain not in DOMAINS:
        raise Refused(f"the domain {call.proto.domain!r} is unknown")
    if kind == "Shape":
        return shape_of
    if kind in MOVES:
        return move
    depends = any(isinstance(operand, Value) for operand in call.operands)
    rule = (RULES if depends else CONSTANTS).get(kind)
    if rule is None:
        raise Refused(
            "this operator is not understood" + ("" if depends else " where all operands are constant")
        )
    return rule


def read_model(data: bytes, folder: str | Path | None = None) -> Network:
    """The network of an ONNX model, given as the (unzipped) content of its file.

    folder: where the files are that the model may keep its weights in. Raises Refused.
    """
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:
        raise Refused(f"this is no ONNX model ({error})") from error
    graph = model.graph
    if model.functions or model.training_info or graph.sparse_initializer or not graph.output:
        raise Refused(
            "functions, training information, sparse tensors and graphs without an output are not read"
        )
    tensors = weights(model, folder)
    given = only_input(graph, tensors)
    builder = Builder(shape_of_input(given))
    tensors[given.name] = builder.input
    opset = opset_of(model)
    for proto in graph.node:
        walk(builder, proto, tensors, opset)
    output = tensors.get(graph.output[0].name)
    if not isinstance(output, Value):
        raise Refused("the output is missing, or does not depend on the input")
    return builder.network(output)


def weights(model: onnx.ModelProto, folder: str | Path | None) -> dict[str, Tensor]:
    """The file's constants by name."""
    if any(external_data_helper.uses_external_data(tensor) for tensor in model.graph.initializer):
        if folder is None:
            raise Refused("the model keeps its weights in other files")
        try:
            external_data_helper.load_external_data_for_model(model, str(folder))
        except Exception as error:
            raise Refused(f"the files with the model's weights cannot be read ({error})") from error
    tensors: dict[str, Tensor] = {}
    for tensor in model.graph.initializer:
        if tensor.name in tensors or not tensor.name:
            raise Refused(f"two tensors are called {tensor.name!r}")
        try:
            tensors[tensor.name] = constant_of(tensor)
        except Refused as error:
            raise Refused(f"{tensor.name!r}: {error}") from None
        except Exception as error:
            raise Refused(f"{tensor.name!r} cannot be read ({error})") from error
    return tensors


def only_input(graph: onnx.GraphProto, tensors: dict[str, Tensor]) -> onnx.ValueInfoProto:
    """The one input that is no constant."""
    given: list[onnx.ValueInfoProto] = [value for value in graph.input if value.name not in tensors]
    if len(given) != 1:
        raise Refused(f"the model has {len(given)} inputs, not one")
    return given[0]


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
    if len(versions) != 1 or not OLDEST <= max(versions) <= NEWEST:
        raise Refused(f"versions {sorted(versions)} of ONNX's operators; {OLDEST} to {NEWEST} are understood")
    return int(versions.pop())


def walk(builder: Builder, proto: onnx.NodeProto, tensors: dict[str, Tensor], opset: int) -> None:
    """Compute one operation, and name its results."""
    name = f"{proto.op_type} {proto.name or '/'.join(proto.output)!r}"
    try:
        operands = [tensors[operand] if operand else None for operand in proto.input]
        call = Call(builder, proto, operands, opset)
        result = rule_of(call)(call)
        if call.unread:
            raise Refused(f"the attributes {sorted(call.unread)} are not understood")
    except Refused as error:
        raise Refused(f"{name}: {error}") from None
    except Exception as error:
        raise Refused(f"{name}: it cannot be computed ({type(error).__name__}: {error})") from error
    for output, tensor in zip(proto.output, result if isinstance(result, list) else [result], strict=False):
        if output in tensors:
            raise Refused(f"{name}: two tensors are called {output!r}")
        if output:
            tensors[output] = tensor
