"""What onnx2torch does not convert, or does not convert exactly enough, and how it gets past it.

onnx2torch looks converters up by (domain, operator, version). Three things are done about its gaps, all
through its own `add_converter`:

* a newer or older version of an operator that differs in element types only is registered as the version it
  knows;
* an operator in `OWN` (it rounds constants in float32, refuses uneven padding, wants weights as
  initializers, ...) or one that it does not know at all is moved to the domain `DOMAIN`, where every
  operator becomes an `OnnxOperator`: a module that only carries the attributes, for the lowering rules to
  read;
* constants never reach a lowering rule, so an `OnnxOperator` can also be executed: by the functions of
  `EXECUTED`, or by ONNX's own reference implementation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper
from onnx2torch.node_converters import get_converter
from onnx2torch.node_converters.registry import add_converter
from onnx2torch.onnx_graph import OnnxGraph
from onnx2torch.onnx_node import OnnxNode
from onnx2torch.utils.common import OperationConverterResult, onnx_mapping_from_node
from torch import Tensor, nn

from verify.loading.calls import Unsupported, integers
from verify.loading.element_types import TORCH
from verify.loading.integers import converted

DOMAIN = "verify"

OWN = frozenset(
    "And ArgMax ArgMin Atan AveragePool BatchNormalization Cast Ceil Celu Clip Conv ConvTranspose Cos CumSum "
    "Einsum Elu Equal Erf Exp Flatten Floor Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual "
    "GRU HardSwish InstanceNormalization LayerNormalization Less LessOrEqual Log LogSoftmax LSTM MaxPool Mish "
    "Not OneHot Or Pad ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin "
    "ReduceProd ReduceSum ReduceSumSquare Reshape Resize RNN Round ScatterElements ScatterND Selu Sign Sin "
    "Slice Softmax Softplus Softsign Split Sqrt Swish Trilu Upsample".split()
)

# Operators whose versions differ in element types and devices only, with a version that onnx2torch registers.
ALIKE = {
    "Constant": 13, "ConstantOfShape": 9, "Dropout": 10, "HardSigmoid": 6,
    "Identity": 16, "Shape": 15, "Squeeze": 13, "Transpose": 13, "Unsqueeze": 13,
}  # fmt: skip


RANDOM = frozenset(
    "Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split()
)


class OnnxOperator(nn.Module):
    """An ONNX operator as it stands in the file."""

    def __init__(self, node: OnnxNode, opset: int) -> None:
        super().__init__()
        self.proto = node.proto
        self.operator = node.operation_type
        self.opset = opset
        self.attributes: dict[str, Any] = dict(node.attributes)
        self.results = len(node.output_values)

    @property
    def target(self) -> torch.dtype | None:
        """Of a cast, the element type; None where torch has none like it."""
        return TORCH.get(self.attributes.get("to", 0))

    def forward(
        self,
        a: Any = None, b: Any = None, c: Any = None, d: Any = None,
        e: Any = None, f: Any = None, g: Any = None, h: Any = None,
    ) -> Any:  # fmt: skip
        """Executes the operator. The arguments have names: onnx2torch passes optional operands by name."""
        operands = [a, b, c, d, e, f, g, h]
        if self.operator in EXECUTED:
            return EXECUTED[self.operator](self, *operands)
        return self._by_reference(operands)

    def _by_reference(self, operands: list[Any]) -> Any:
        if self.operator in RANDOM:
            raise Unsupported("its results are random")
        from onnx.reference import ReferenceEvaluator  # imported late: slow, and constants rarely need it

        node = onnx.NodeProto()
        node.CopyFrom(self.proto)
        node.domain = ""
        used = [name for name in node.input if name]
        inputs = [helper.make_tensor_value_info(name, onnx.TensorProto.UNDEFINED, None) for name in used]
        outputs = [
            helper.make_tensor_value_info(name, onnx.TensorProto.UNDEFINED, None) for name in node.output
        ]
        graph = helper.make_graph([node], "constant", inputs, outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        feed = {name: operand.numpy() for name, operand in zip(node.input, operands, strict=False) if name}
        results = [
            torch.from_numpy(np.asarray(result)) for result in ReferenceEvaluator(model).run(None, feed)
        ]
        return results[0] if len(results) == 1 else tuple(results)


def _slice(module: OnnxOperator, x: Tensor, starts: Any, ends: Any, axes: Any, steps: Any, *_: Any) -> Tensor:
    """Slice of all versions: the old ones hold the bounds as attributes."""
    given = module.attributes
    first = integers(given["starts"] if starts is None else starts)
    last = integers(given["ends"] if ends is None else ends)
    chosen = given.get("axes", range(len(first))) if axes is None else axes
    strides = (1,) * len(first) if steps is None else integers(steps)
    for start, end, axis, step in zip(first, last, integers(chosen), strides, strict=True):
        size = x.shape[axis]
        start, end = (bound + size if bound < 0 else bound for bound in (start, end))
        if step > 0:
            kept = torch.arange(max(start, 0), max(min(end, size), min(max(start, 0), size)), step)
        else:
            kept = torch.arange(min(start, size - 1), min(max(end, -1), min(start, size - 1)), step)
        x = x.index_select(axis, kept)
    return x


def _split(module: OnnxOperator, x: Tensor, split: Any, *_: Any) -> Tensor | tuple[Tensor, ...]:
    """Split of all versions: sizes as an attribute or operand, or equal parts, one for each result."""
    axis = module.attributes.get("axis", 0)
    sizes = module.attributes.get("split") if split is None else integers(split)
    if sizes is None:
        sizes = -(-x.shape[axis] // module.results)
    parts = torch.split(x, sizes if isinstance(sizes, int) else list(sizes), dim=axis)
    return parts if module.results > 1 else parts[0]


def _flatten(module: OnnxOperator, x: Tensor, *_: Any) -> Tensor:
    axis = module.attributes.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


def _reshape(module: OnnxOperator, x: Tensor, shape: Any, *_: Any) -> Tensor:
    """Reshape of all versions: a 0 copies a size, unless it is allowed to be meant."""
    sizes = integers(shape)
    if not module.attributes.get("allowzero", 0):
        sizes = tuple(x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes))
    return x.reshape(sizes)


def _trilu(module: OnnxOperator, x: Tensor, diagonal: Any, *_: Any) -> Tensor:
    place = 0 if diagonal is None else int(diagonal)
    return torch.triu(x, place) if module.attributes.get("upper", 1) else torch.tril(x, place)


def _cast(module: OnnxOperator, x: Tensor, *_: Any) -> Tensor:
    if module.target is None:
        raise Unsupported(f"a cast to ONNX's element type {module.attributes.get('to')}")
    return converted(x, module.target)


def _plain(function: Callable[..., Tensor], operands: int = 1) -> Callable[..., Tensor]:
    """An operator without attributes."""
    return lambda _, *given: function(*given[:operands])


EXECUTED: dict[str, Callable[..., Any]] = {
    "Cast": _cast, "Slice": _slice, "Split": _split, "Flatten": _flatten, "Reshape": _reshape, "Trilu": _trilu,
    "Ceil": _plain(torch.ceil), "Cos": _plain(torch.cos), "Erf": _plain(torch.erf), "Exp": _plain(torch.exp),
    "Floor": _plain(torch.floor), "Log": _plain(torch.log), "Not": _plain(torch.logical_not),
    "Round": _plain(torch.round), "Sign": _plain(torch.sign), "Sin": _plain(torch.sin),
    "Sqrt": _plain(torch.sqrt),
    "And": _plain(torch.logical_and, 2), "Equal": _plain(torch.eq, 2), "Greater": _plain(torch.gt, 2),
    "GreaterOrEqual": _plain(torch.ge, 2), "Less": _plain(torch.lt, 2), "LessOrEqual": _plain(torch.le, 2),
    "Or": _plain(torch.logical_or, 2),
}  # fmt: skip


def prepare(model: onnx.ModelProto, opset: int) -> None:
    """Changes the model in place so that onnx2torch converts every node of it, see the head of this file."""
    moved = False
    for node in model.graph.node:
        _write_out_defaults(node, opset)
        if node.domain == "" and _is_known(node.op_type, opset):
            continue
        node.domain, moved = DOMAIN, True
        _register(node.op_type, opset)
    if moved:
        model.opset_import.append(helper.make_opsetid(DOMAIN, opset))


def _write_out_defaults(node: onnx.NodeProto, opset: int) -> None:
    """Adds omitted float attributes. ONNX's defaults are float32: 0.01 there is not Python's 0.01."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return
    given = {attribute.name for attribute in node.attribute}
    for name, attribute in schema.attributes.items():
        if name not in given and attribute.default_value.type == onnx.AttributeProto.FLOAT:
            node.attribute.append(attribute.default_value)


def _is_known(operator: str, opset: int) -> bool:
    """Whether onnx2torch is to convert the operator."""
    if operator in OWN:
        return False
    try:
        get_converter(operator, opset)
    except NotImplementedError:
        if operator not in ALIKE:
            return False
        version = onnx.defs.get_schema(operator, max_inclusive_version=opset).since_version
        add_converter(operator, version)(get_converter(operator, ALIKE[operator]))
    return True


def _register(operator: str, opset: int) -> None:
    """Registers `OnnxOperator` for an operator of `DOMAIN`, once."""
    try:
        get_converter(operator, opset, DOMAIN)
    except NotImplementedError:

        def convert(node: OnnxNode, graph: OnnxGraph) -> OperationConverterResult:
            return OperationConverterResult(OnnxOperator(node, opset), onnx_mapping_from_node(node))

        add_converter(operator, opset, DOMAIN)(convert)
