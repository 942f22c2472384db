"""From an ONNX model to the network: read, converted to a torch.fx graph, lowered, folded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import fx

from verify.errors import ModelError
from verify.loading.builder import Builder, Value
from verify.loading.fold import fold as folded
from verify.loading.loaded import LoadedModel
from verify.loading.lowering import Origin, as_value, walk
from verify.loading.onnx.element_types import element_types
from verify.loading.onnx.model import OnnxModel, fixed, read
from verify.loading.onnx.onnx2torch import import_onnx2torch
from verify.loading.operators import operator_of
from verify.loading.runner import OnnxRunner, OnnxSession


def from_onnx(source: str | Path | bytes | onnx.ModelProto, fold: bool) -> LoadedModel:
    """Loads an ONNX model of one input and one output."""
    model = read(source)
    given, output = model.only()
    shape = fixed(given.shape or ())
    model.fix([shape])
    session = OnnxSession(model.original, [(given.name, shape, given.element_type)], [output.name])
    session.check_types({output.name: output.element_type})
    builder = Builder(shape, given.name)
    result = Graph(model).at(builder, [builder.input]).value(output.name)
    network = builder.network(builder.output(result))
    return LoadedModel(
        folded(network) if fold else network,
        OnnxRunner(session),
        given.name,
        output.name,
        shape,
        result.shape,
        given.element_type,
        model.operators,
        model.opset,
    )


class Graph:
    """An ONNX model as a torch.fx graph, to be lowered as often as it is wanted."""

    def __init__(self, model: OnnxModel) -> None:
        self.model = model
        outputs = list(model.proto.graph.output)
        computed = {name for node in model.proto.graph.node for name in node.output}
        del model.proto.graph.output[:]  # onnx2torch knows outputs of nodes only
        model.proto.graph.output.extend(output for output in outputs if output.name in computed)
        import_onnx2torch()
        from verify.loading.onnx.convert import converted  # only now: it imports parts of onnx2torch

        self.module = converted(model)
        self.origins = _Origins(self.module, model)

    def at(self, builder: Builder, inputs: Sequence[Value]) -> Tensors:
        """The tensors at some inputs."""
        return Tensors(self, builder, inputs)


class Tensors:
    """The values of a model's tensors, by their ONNX names, in a network under construction."""

    def __init__(self, graph: Graph, builder: Builder, inputs: Sequence[Value]) -> None:
        self._model, self._builder = graph.model, builder
        names = (value.name for value in graph.model.proto.graph.input)
        self._values: dict[str, Any] = dict(zip(names, inputs, strict=True))
        for node, value in walk(builder, graph.module, inputs, graph.origins).items():
            results = graph.origins.results(node)
            several = isinstance(value, tuple | list) and len(results) > 1
            self._values.update(zip(results, value if several else [value], strict=False))

    def value(self, name: str) -> Value:
        """The value of a tensor. Raises ModelError."""
        if name in self._values:
            return as_value(self._builder, self._values[name])
        initializers = self._model.proto.graph.initializer
        constant = next((tensor for tensor in initializers if tensor.name == name), None)
        if constant is None:
            raise ModelError(f"{self._model.name}: there is no tensor {name!r} in the model")
        return as_value(self._builder, torch.from_numpy(numpy_helper.to_array(constant).copy()))


class _Origins:
    """Names of graph nodes by way of the ONNX tensors they compute."""

    def __init__(self, graph_module: fx.GraphModule, model: OnnxModel) -> None:
        self._graph_module, self._model = graph_module, model
        self._nodes = {name: node for node in model.proto.graph.node for name in node.output}
        self._types = element_types(model.proto.graph, model.opset)

    def __call__(self, node: fx.Node) -> Origin:
        name = self._tensor(node)
        proto = self._nodes.get(name)
        element = self._types.get(name)
        if proto is None:
            return Origin(name, name, str(node.target), self._model.opset, element)
        attributes = {attribute.name: attribute.s for attribute in proto.attribute}
        truncates = operator_of(proto.op_type).cuts(attributes)
        return Origin(name, proto.name or name, proto.op_type, self._model.opset, element, truncates)

    def results(self, node: fx.Node) -> tuple[str, ...]:
        """The names of the ONNX tensors that a node computes."""
        if node.op != "call_module":
            return ()
        mapping: Any = getattr(self._graph_module.get_submodule(str(node.target)), "onnx_mapping", None)
        return () if mapping is None else mapping.outputs

    def _tensor(self, node: fx.Node) -> str:
        """The ONNX tensor of a node, or of the picked result of a node with several."""
        if node.op == "call_function" and node.args and isinstance(node.args[0], fx.Node):
            results = self.results(node.args[0])
            place = node.args[1] if len(node.args) > 1 else None
            if results and isinstance(place, int):
                return results[place]
        results = self.results(node)
        return results[0] if results else node.name
