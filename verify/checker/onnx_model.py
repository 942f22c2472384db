"""An ONNX model as one of several: its inputs and outputs, and its tensors at any values of its inputs."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from verify.checker.builder import Builder, Value
from verify.checker.errors import Refused
from verify.checker.onnx_reader import Names, inputs_of, model_of, shape_of_input, type_of_input, walked
from verify.checker.onnx_schema import type_name
from verify.checker.rationals import Shape

TYPES = {"FLOAT": "float32", "DOUBLE": "float64"}


class Tensors:
    """The tensors of a model at some inputs."""

    def __init__(self, names: Names) -> None:
        self._names = names

    def value(self, name: str) -> Value:
        """The tensor of that name. Refused where there is none that depends on the inputs."""
        return self._names.value(name)

    def kind(self, name: str) -> str:
        """The element type of one of them."""
        found = type_name(self._names.types[name])
        return TYPES.get(found, found)


class Model:
    """A model, of the content of its file. Raises Refused.

    shapes, kinds: of its inputs, in order. outputs: their names, in order.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._proto = data, model_of(data)
        given = inputs_of(self._proto.graph)
        self.shapes: list[Shape] = [shape_of_input(entry) for entry in given]
        self.kinds = [type_of_input(entry) for entry in given]
        self.outputs = [str(entry.name) for entry in self._proto.graph.output]

    def at(self, builder: Builder, given: Sequence[Value]) -> Tensors:
        """All tensors of the model at the given values of its inputs."""
        return Tensors(walked(builder, self._proto, given))

    def tensor_name(self, name: str) -> str:
        """The tensor of that name, or the one output of the node of that name. Refused where these are not one."""
        graph = self._proto.graph
        of_nodes = [list(node.output) for node in graph.node if node.name == name]
        known = {entry.name for entry in graph.input} | {out for node in graph.node for out in node.output}
        found = {output for outputs in of_nodes for output in outputs} | ({name} & known)
        if len(found) != 1 or len(of_nodes) > 1:
            raise Refused(f"there is no tensor {name!r} in the model, or more than one")
        return str(found.pop())

    def with_outputs(self, names: Sequence[str]) -> bytes:
        """The file's content with these tensors among the outputs."""
        new = [name for name in dict.fromkeys(names) if name not in self.outputs]
        if not new:
            return self._data
        proto = model_of(self._data)
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in new)
        return bytes(proto.SerializeToString())
