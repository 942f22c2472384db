"""The steps of loading in order: read, convert to torch.fx, lower, fold."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from verify.errors import ModelError, UnsupportedOperatorError
from verify.loading.builder import Builder, Value
from verify.loading.calls import NO_RULE
from verify.loading.fold import fold as folded
from verify.loading.integers import TRUNCATING
from verify.loading.loaded import LoadedModel
from verify.loading.lowering import Origin, as_value, lower, walk
from verify.loading.modules import ELEMENT_TYPES, admitted, blaming, check_arguments, check_traceable
from verify.loading.onnx2torch_import import import_onnx2torch
from verify.loading.runner import OnnxRunner, OnnxSession

if TYPE_CHECKING:
    import onnx

    from verify.loading.onnx_model import OnnxModel
    from verify.network.graph import Network


def from_onnx(source: str | Path | bytes | onnx.ModelProto, fold: bool) -> LoadedModel:
    """Loads an ONNX model of one input and one output."""
    from verify.loading.onnx_model import fixed, read

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
        folded(network) if fold else network, OnnxRunner(session), given.name, output.name, shape, result.shape,
        given.element_type, model.operators, model.opset,
    )  # fmt: skip


class Graph:
    """An ONNX model as a torch.fx graph, to be lowered as often as it is wanted."""

    def __init__(self, model: OnnxModel) -> None:
        self.model = model
        outputs = list(model.proto.graph.output)
        computed = {name for node in model.proto.graph.node for name in node.output}
        del model.proto.graph.output[:]  # onnx2torch knows outputs of nodes only
        model.proto.graph.output.extend(output for output in outputs if output.name in computed)
        self.module = _converted(model)
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
        from onnx import numpy_helper  # loaded by now; not needed for a torch module

        return as_value(self._builder, torch.from_numpy(numpy_helper.to_array(constant).copy()))


def from_module(module: nn.Module, example_input: Tensor | None, fold: bool) -> LoadedModel:
    """Loads a torch.nn.Module by tracing it with torch.fx."""
    original, example, runner = admitted(module, example_input)
    with blaming("torch.fx cannot trace the module", "export it to ONNX instead"):
        graph_module = fx.symbolic_trace(copy.deepcopy(original))
        check_arguments(graph_module)
        check_traceable(copy.deepcopy(original), example)
    shape, kind = tuple(example.shape), ELEMENT_TYPES[example.dtype]
    try:
        origins = _ModuleOrigins(graph_module, example)
        network, output_shape = lower(graph_module.double(), shape, "input", origins)
    except UnsupportedOperatorError as problem:
        if problem.reason != NO_RULE:  # a rule that refuses has its reasons
            raise
        network, output_shape = _by_export(original, example, problem)
    network = folded(network) if fold else network
    return LoadedModel(network, runner, "input", "output", shape, output_shape, kind, Counter(), None)


def _by_export(
    module: nn.Module, example_input: Tensor, problem: UnsupportedOperatorError
) -> tuple[Network, tuple[int, ...]]:
    """A module that there is no rule for, as ONNX has it. Raises `problem` where there is none for that either."""
    from verify.loading.export import exported  # slow to import, and seldom needed

    model = exported(module, example_input)
    if model is None:
        raise problem
    builder = Builder(tuple(example_input.shape), "input")
    try:
        result = Graph(model).at(builder, [builder.input]).value(model.only()[1].name)
    except ModelError:
        raise problem from None
    return builder.network(builder.output(result)), result.shape


class _ModuleOrigins(fx.Interpreter):
    """Names of a traced module's nodes, and the element types that they have at an example."""

    def __init__(self, graph_module: fx.GraphModule, example: Tensor) -> None:
        super().__init__(graph_module)
        self._elements: dict[fx.Node, torch.dtype] = {}
        with (
            blaming("the module cannot be run at the example_input", "give one that it is for"),
            torch.no_grad(),
        ):
            self.run(example)

    def run_node(self, n: fx.Node) -> Any:
        """Runs a node as torch does, and remembers the type of what comes out."""
        result = super().run_node(n)
        first = result[0] if isinstance(result, tuple | list) and result else result
        if isinstance(first, Tensor):
            self._elements[n] = first.dtype
        return result

    def __call__(self, node: fx.Node) -> Origin:
        target = (
            node.target
            if isinstance(node.target, str)
            else getattr(node.target, "__name__", str(node.target))
        )
        operator = target
        if node.op == "call_module":
            operator = type(self.module.get_submodule(target)).__name__
        return Origin(node.name, node.name, operator, element=self._elements.get(node))


def _converted(model: OnnxModel) -> fx.GraphModule:
    """The model as a torch.fx graph with float64 parameters."""
    onnx2torch = import_onnx2torch()
    from verify.loading.operators import prepare  # after onnx2torch: it imports parts of it

    prepare(model.proto, model.opset)
    try:
        graph_module: fx.GraphModule = onnx2torch.convert(model.proto, attach_onnx_mapping=True)
    except Exception as error:  # converters raise whatever they like
        _blame(model, error)
        raise ModelError(f"the model cannot be converted ({type(error).__name__}: {error})") from error
    return graph_module.double().eval()


def _blame(model: OnnxModel, error: Exception) -> None:
    """Raises an error that names the first node whose converter fails, if one does by itself."""
    from onnx2torch.node_converters import get_converter
    from onnx2torch.onnx_graph import OnnxGraph

    graph = OnnxGraph(model.proto.graph)
    for node in graph.nodes.values():
        try:
            get_converter(node.operation_type, model.opset, node.domain)(node, graph)
        except Exception as reason:
            named = node.name or node.output_values[0]
            raise UnsupportedOperatorError(named, node.operation_type, model.opset, str(reason)) from error


_RESIZING = ("Resize", "Upsample")  # they cut their results where they take integers and interpolate


class _Origins:
    """Names of graph nodes by way of the ONNX tensors they compute."""

    def __init__(self, graph_module: fx.GraphModule, model: OnnxModel) -> None:
        self._graph_module, self._model = graph_module, model
        self._nodes = {name: node for node in model.proto.graph.node for name in node.output}
        from verify.loading.element_types import element_types  # with onnx, which a torch module does without

        self._types = element_types(model.proto.graph, model.opset)

    def __call__(self, node: fx.Node) -> Origin:
        name = self._tensor(node)
        proto = self._nodes.get(name)
        element = self._types.get(name)
        if proto is None:
            return Origin(name, name, str(node.target), self._model.opset, element)
        return Origin(
            name, proto.name or name, proto.op_type, self._model.opset, element, _truncates(proto)
        )  # fmt: skip

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


def _truncates(proto: Any) -> bool:
    """Whether a node would cut its results, had it integers."""
    between = any(attribute.name == "mode" and attribute.s != b"nearest" for attribute in proto.attribute)
    return proto.op_type in TRUNCATING or (proto.op_type in _RESIZING and between)
