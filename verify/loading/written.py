"""Networks that a property puts beside a model, or before it, as ONNX files: what a certificate is of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from verify.network.affine import Shape
    from verify.specification import Front

OPSET, IR = 13, 8
TYPES = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}
PREFIX = "property/"  # of all names before the model


def distance_model(name: str, element_type: str, shape: Shape, centre: NDArray[np.float64]) -> bytes:
    """The distances of inputs, as a model takes them, from a point, entry by entry: exact over the reals."""
    double = TensorProto.DOUBLE
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["U"], ["exact"], to=double),
            helper.make_node("Sub", ["exact", "centre"], ["difference"]),
            helper.make_node("Abs", ["difference"], ["D"]),
        ],
        name,
        [helper.make_tensor_value_info("U", TYPES[element_type], list(shape))],
        [helper.make_tensor_value_info("D", double, list(shape))],
        [numpy_helper.from_array(centre.reshape(shape), "centre")],
    )
    opset = [helper.make_opsetid("", OPSET)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=IR).SerializeToString())


def fronted_model(data: bytes, front: Front, element_type: str, shape: Shape) -> bytes:
    """A model of one input behind a front, of the content of its file; `element_type` and `shape` are those of its input.

    The front is in float64, and what it makes is cast to the model's type: over the reals, nothing is rounded.
    """
    proto = onnx.load_model_from_string(data)
    weights = {tensor.name for tensor in proto.graph.initializer}
    (given,) = [entry for entry in proto.graph.input if entry.name not in weights]
    nodes, tensors, size = [], list[onnx.TensorProto](), front.weight.shape[1]

    def constant(name: str, values: NDArray[np.generic]) -> str:
        tensors.append(numpy_helper.from_array(values, PREFIX + name))
        return PREFIX + name

    def node(kind: str, operands: list[str], name: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, operands, [PREFIX + name], **attributes))
        return PREFIX + name

    start = front.offset - front.lower if front.cuts else front.offset
    weight, bias = constant("weight", front.weight), constant("offset", start)
    made = node("Cast", [PREFIX + "X"], "exact", to=TensorProto.DOUBLE)
    made = node("Gemm", [made, weight, bias], "made", transB=1)
    if front.cuts:  # high - relu(high - (relu(made - low) + low))
        low, high = constant("low", front.lower), constant("high", front.upper)
        made = node("Add", [node("Relu", [made], "above"), low], "least")
        made = node("Relu", [node("Sub", [high, made], "turned")], "below")
        made = node("Sub", [high, made], "cut")
    made = node("Reshape", [made, constant("shape", np.array(shape, dtype=np.int64))], "shaped")
    nodes.append(helper.make_node("Cast", [made], [given.name], to=TYPES[element_type]))
    rest = [entry for entry in proto.graph.input if entry.name != given.name]
    own = helper.make_tensor_value_info(PREFIX + "X", TYPES[element_type], [1, size])
    for field, new in (("input", [own, *rest]), ("node", [*nodes, *proto.graph.node])):
        proto.graph.ClearField(field)
        getattr(proto.graph, field).extend(new)
    proto.graph.initializer.extend(tensors)
    return bytes(proto.SerializeToString())
