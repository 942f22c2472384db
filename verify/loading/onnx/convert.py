"""How models get past onnx2torch, which converts what it converts exactly.

onnx2torch looks converters up by (domain, operator, version). Three things are done about its gaps, all through its own
`add_converter`:

* a newer or older version of an operator that differs in element types only is registered as the version it knows;
* an operator that is registered as ours (onnx2torch rounds its constants in float32, refuses uneven padding, wants weights as
  initializers, ..), or one that it does not know at all, is moved to the domain `DOMAIN`, where every operator becomes an
  `OnnxOperator`: a module that only carries the attributes, for the rules to read;
* constants never reach a rule, so an `OnnxOperator` can also be executed: as it is registered, or by ONNX's own reference
  implementation.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import onnx2torch
import torch
from onnx import helper
from onnx2torch.node_converters import get_converter
from onnx2torch.node_converters.registry import add_converter
from onnx2torch.onnx_graph import OnnxGraph
from onnx2torch.onnx_node import OnnxNode
from onnx2torch.utils.common import OperationConverterResult, onnx_mapping_from_node
from torch import fx, nn

from verify.errors import ModelError, UnsupportedOperatorError
from verify.loading.calls import Unsupported
from verify.loading.onnx.element_types import TORCH
from verify.loading.onnx.model import OnnxModel
from verify.loading.onnx.storage import widen
from verify.loading.operators import operator_of

DOMAIN = "verify"

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
        # set where the whole graph is known (onnx/graph.py): the graphs that it holds, by attribute, its first result's type, and
        # whether any tensor of it is of floats of fewer bits than float32
        self.bodies: dict[str, Any] = {}
        self.element, self.narrow = 0, False

    @property
    def target(self) -> torch.dtype | None:
        """Of a cast, the element type; None where torch has none like it."""
        return TORCH.get(self.attributes.get("to", 0))

    def forward(
        self,
        a: Any = None,
        b: Any = None,
        c: Any = None,
        d: Any = None,
        e: Any = None,
        f: Any = None,
        g: Any = None,
        h: Any = None,
        *others: Any,
    ) -> Any:
        """Executes the operator. The arguments have names: onnx2torch passes optional operands by name."""
        operands = [a, b, c, d, e, f, g, h, *others]
        computed = operator_of(self.operator).computed
        return self._by_reference(operands) if computed is None else computed(self, *operands)

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


def _prepare(model: onnx.ModelProto, opset: int) -> None:
    """Changes the model in place so that onnx2torch converts every node of it, see the head of this file."""
    moved = False
    widen(model.graph)
    _name_apart(model.graph)
    for node in model.graph.node:
        _write_out_defaults(node, opset)
        if node.domain == "" and _is_known(node.op_type, opset):
            continue
        node.domain, moved = DOMAIN, True
        _register(node.op_type, opset)
    if moved:
        model.opset_import.append(helper.make_opsetid(DOMAIN, opset))


# names that onnx2torch gives: to constants, and to one result of several
_OWN = re.compile("^onnx_initializer_|_split_output$")


def _name_apart(graph: onnx.GraphProto) -> None:
    """Names nodes so that onnx2torch, which keeps them by name, takes none for another, for an input, or for its own constants."""
    taken = {"initializers", *(value.name for value in graph.input)}
    for number, node in enumerate(graph.node):
        named = node.name or node.op_type
        while (key := OnnxGraph.generate_node_name(node)) in taken or _OWN.search(key):
            node.name = named = f"n{number}_{named}_"
        taken.add(key)


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
    known = operator_of(operator)
    if known.rule and not known.module:
        return False
    try:
        get_converter(operator, opset)
    except NotImplementedError:
        if known.alike is None:
            return False
        version = onnx.defs.get_schema(operator, max_inclusive_version=opset).since_version
        add_converter(operator, version)(get_converter(operator, known.alike))
    return True


def _register(operator: str, opset: int) -> None:
    """Registers `OnnxOperator` for an operator of `DOMAIN`, once."""
    try:
        get_converter(operator, opset, DOMAIN)
    except NotImplementedError:

        def convert(node: OnnxNode, graph: OnnxGraph) -> OperationConverterResult:
            return OperationConverterResult(OnnxOperator(node, opset), onnx_mapping_from_node(node))

        add_converter(operator, opset, DOMAIN)(convert)


def converted(model: OnnxModel) -> fx.GraphModule:
    """The model as a torch.fx graph with float64 parameters."""
    _prepare(model.proto, model.opset)
    try:
        graph_module: fx.GraphModule = onnx2torch.convert(model.proto, attach_onnx_mapping=True)
    except Exception as error:  # converters raise whatever they like
        _blame(model, error)
        raise ModelError(f"the model cannot be converted ({type(error).__name__}: {error})") from error
    return graph_module.double().eval()


def _blame(model: OnnxModel, error: Exception) -> None:
    """Raises an error that names the first node whose converter fails, if one does by itself."""
    graph = OnnxGraph(model.proto.graph)
    for node in graph.nodes.values():
        try:
            get_converter(node.operation_type, model.opset, node.domain)(node, graph)
        except Exception as reason:
            named = node.name or node.output_values[0]
            raise UnsupportedOperatorError(named, node.operation_type, model.opset, str(reason)) from error
