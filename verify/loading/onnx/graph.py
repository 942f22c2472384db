"""From an ONNX model to the network: read, converted to a torch.fx graph, lowered, folded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import fx

from verify.errors import ModelError
from verify.loading.builder import Builder, Hull, Value
from verify.loading.calls import Unsupported
from verify.loading.fold import fold as folded
from verify.loading.loaded import LoadedModel
from verify.loading.lowering import Origin, as_value, walk
from verify.loading.onnx.bodies import close, named_bodies
from verify.loading.onnx.element_types import NARROW, body_types, codes_of, element_types
from verify.loading.onnx.model import OnnxModel, read
from verify.loading.onnx.onnx2torch import import_onnx2torch
from verify.loading.onnx.shapes import Tensor, settled
from verify.loading.operators import operator_of
from verify.loading.runner import OnnxRunner, OnnxSession


def from_onnx(
    source: str | Path | bytes | onnx.ModelProto,
    fold: bool,
    chosen: str | None = None,
    hint: Sequence[int] = (),
    hull: Hull | None = None,
) -> LoadedModel:
    """Loads an ONNX model of one input and one output, or of a chosen one.

    hint: of the input's shape (see `settled`). hull: gives the least box that all inputs in question lie in.
    """
    model = read(source)
    given, output = model.only(chosen)
    shape = settled(given, hint)
    model.fix([shape])
    model.keep([output.name])
    inputs = [(given.name, shape, given.element_type)]
    session = OnnxSession(model.original, inputs, [output.name])
    session.check_types({output.name: output.element_type})
    plain = OnnxSession(model.original, inputs, [output.name], as_written=True) if model.quantised else None
    builder = Builder(shape, given.name, hull)
    with nullcontext() if hint else _sizes_told(given, shape):
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
        as_written=None if plain is None else OnnxRunner(plain),
        within=builder.within,
    )


@contextmanager
def _sizes_told(given: Tensor, shape: tuple[int, ...]) -> Iterator[None]:
    """Says of an error that sizes were taken as 1, which it may come from, where the file leaves some open beside the batch's."""
    try:
        yield
    except ModelError as error:
        if None in (given.shape or ())[1:]:
            told = f"; its input {given.name!r}, of open sizes, was taken as {list(shape)}: a property says how many inputs there are"
            error.args = (f"{error}{told}",)
        raise


class Graph:
    """An ONNX model as a torch.fx graph, to be lowered as often as it is wanted.

    given: the element types of its inputs (ONNX's numbers), where it is a body that says none.
    """

    def __init__(self, model: OnnxModel, given: Sequence[int] = ()) -> None:
        self.model = model
        graph = model.proto.graph
        close(graph)
        codes = codes_of(graph, model.opset, given)
        _write_out_types(graph, codes)
        outputs = list(graph.output)
        computed = {name for node in graph.node for name in node.output}
        del graph.output[:]  # onnx2torch knows outputs of nodes only
        graph.output.extend(output for output in outputs if output.name in computed)
        import_onnx2torch()
        from verify.loading.onnx.convert import (  # only now: it imports parts of onnx2torch
            OnnxOperator,
            converted,
        )

        self.module = converted(model)
        self.origins = _Origins(self.module, model, codes)
        for module in self.module.modules():
            if isinstance(module, OnnxOperator):
                types = body_types(module.proto, codes)
                module.narrow = self.origins.is_narrow(module.proto)
                module.element = codes.get(next(iter(module.proto.output), ""), 0)
                module.bodies = {name: Body(model, body, types) for name, body in named_bodies(module.proto)}

    def at(self, builder: Builder, inputs: Sequence[Value]) -> Tensors:
        """The tensors at some inputs."""
        return Tensors(self, builder, inputs)


def _write_out_types(graph: onnx.GraphProto, codes: Mapping[str, int]) -> None:
    """Makes casts to the type of another tensor casts to a type."""
    for node in graph.node:
        kind = codes.get(node.output[0] if node.output else "", onnx.TensorProto.UNDEFINED)
        if node.op_type == "CastLike" and kind:
            node.CopyFrom(onnx.helper.make_node("Cast", node.input[:1], node.output, node.name, to=kind))


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
        return as_value(self._builder, self.found(name))

    def found(self, name: str) -> Any:
        """A tensor's value, or the constant that it is, or a sequence of such. Raises ModelError."""
        if name in self._values:
            return self._values[name]
        initializers = self._model.proto.graph.initializer
        constant = next((tensor for tensor in initializers if tensor.name == name), None)
        if constant is None:
            raise ModelError(f"{self._model.name}: there is no tensor {name!r} in the model")
        return torch.from_numpy(numpy_helper.to_array(constant).copy())


class Body:
    """A graph inside of a node. Its inputs are its own, and then the tensors around it that it takes (see `close`)."""

    def __init__(self, outer: OnnxModel, graph: onnx.GraphProto, types: Sequence[int]) -> None:
        self._outer, self._proto, self._types = outer, graph, types
        self._outputs = [value.name for value in graph.output]

    @cached_property
    def _graph(self) -> Graph:
        opset = onnx.helper.make_opsetid("", self._outer.opset)
        version = self._outer.proto.ir_version
        proto = onnx.ModelProto(ir_version=version, graph=self._proto, opset_import=[opset])
        return Graph(replace(self._outer, proto=proto, inputs=(), outputs=()), self._types)

    def at(self, builder: Builder, inputs: Sequence[Any]) -> list[Any]:
        """Its results at some inputs, which may be constants or sequences, as they may."""
        if len(inputs) != len(self._proto.input):
            raise Unsupported(f"a body of it takes {len(self._proto.input)} tensors and gets {len(inputs)}")
        tensors = self._graph.at(builder, inputs)
        return [tensors.found(name) for name in self._outputs]


class _Origins:
    """Names of graph nodes by way of the ONNX tensors they compute."""

    def __init__(self, graph_module: fx.GraphModule, model: OnnxModel, codes: Mapping[str, int]) -> None:
        self._graph_module, self._model = graph_module, model
        self._nodes = {name: node for node in model.proto.graph.node for name in node.output}
        self._types = element_types(codes)
        self._narrow = {name for name, code in codes.items() if code in NARROW}

    def __call__(self, node: fx.Node) -> Origin:
        name = self._tensor(node)
        proto = self._nodes.get(name)
        element = self._types.get(name)
        if proto is None:
            return Origin(name, name, str(node.target), self._model.opset, element)
        attributes = {attribute.name: attribute.s for attribute in proto.attribute}
        truncates = operator_of(proto.op_type).cuts(attributes)
        narrow = self.is_narrow(proto)
        return Origin(name, proto.name or name, proto.op_type, self._model.opset, element, truncates, narrow)

    def is_narrow(self, node: onnx.NodeProto) -> bool:
        """Whether a node takes or gives floats of fewer bits than float32."""
        return not self._narrow.isdisjoint((*node.input, *node.output))

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
