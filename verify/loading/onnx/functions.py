"""Functions that a model brings along: every call of one becomes the nodes that it stands for.

`onnx.inliner` does that too, but neither bounds what functions that call one another grow to nor says which one is at fault.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import onnx

from verify.deadline import tick
from verify.errors import ModelError
from verify.loading.onnx.bodies import all_nodes, bodies, defined

MOST_NODES = 200_000  # that calls may become in all
ONNX_DOMAINS = ("", "ai.onnx")
_Key = tuple[str, str, str]


def inline(proto: onnx.ModelProto, opset: int, name: str) -> None:
    """Replaces all calls, in place. Raises ModelError for functions that call themselves, or are not what is called."""
    if proto.functions:
        _Inliner(proto, opset, name).expand(proto.graph, ())
        del proto.functions[:]


class _Inliner:
    """A model's functions, and how many calls of them there were."""

    def __init__(self, proto: onnx.ModelProto, opset: int, name: str) -> None:
        self._opset, self._name, self._calls, self._nodes = opset, name, 0, 0
        self._functions: dict[_Key, onnx.FunctionProto] = {}
        for function in proto.functions:
            key = (function.domain, function.name, function.overload)
            if key in self._functions:
                raise ModelError(f"{name}: there are two functions {function.name!r}")
            if function.domain in ONNX_DOMAINS:
                raise ModelError(
                    f"{name}: its function {function.name!r} is in the domain of ONNX's operators"
                )
            self._check_versions(function)
            self._functions[key] = function
        self._stem = "inlined"
        names = defined(proto.graph).union(*(_inner(node) for node in all_nodes(proto.graph.node)))
        while any(one.startswith(self._stem) for one in names):
            self._stem += "_"

    def expand(self, graph: onnx.GraphProto, within: tuple[_Key, ...]) -> None:
        """Replaces the calls of a graph and of its bodies; `within`: the functions that it has come from."""
        copies = onnx.GraphProto(node=self._expanded(graph.node, within))
        del graph.node[:]
        graph.node.extend(copies.node)

    def _expanded(
        self, nodes: Iterable[onnx.NodeProto], within: tuple[_Key, ...]
    ) -> Iterator[onnx.NodeProto]:
        for node in nodes:
            key = (node.domain, node.op_type, node.overload)
            function = self._functions.get(key)
            if function is None:
                for body in bodies(node):
                    self.expand(body, within)
                yield node
                continue
            if key in within:
                raise ModelError(f"{self._name}: the function {function.name!r} calls itself")
            yield from self._expanded(self._called(function, node), (*within, key))

    def _called(self, function: onnx.FunctionProto, call: onnx.NodeProto) -> list[onnx.NodeProto]:
        """A function's nodes with a call's operands, results and attributes."""
        tick()
        self._calls, self._nodes = self._calls + 1, self._nodes + len(function.node)
        if self._nodes > MOST_NODES:
            raise ModelError(f"{self._name}: its functions stand for more than {MOST_NODES} nodes")
        label = call.name or next(iter(call.output), "")
        if len(call.input) > len(function.input) or len(call.output) > len(function.output):
            raise ModelError(
                f"{self._name}: node {label!r} has more operands or results than its function {function.name!r}"
            )
        operands = [*call.input, *[""] * len(function.input)]
        names = dict(zip(function.input, operands, strict=False))
        names |= {
            formal: actual for formal, actual in zip(function.output, call.output, strict=False) if actual
        }
        defaults = {attribute.name: attribute for attribute in function.attribute_proto}
        given = {attribute.name: attribute for attribute in call.attribute}
        renaming = _Renaming(f"{self._stem}{self._calls}/{label}/", names, {**defaults, **given})
        return list(map(renaming.node, function.node))

    def _check_versions(self, function: onnx.FunctionProto) -> None:
        """Raises ModelError where an operator of ONNX is not the same in the function's version and in the model's."""
        for entry in function.opset_import:
            used = {node.op_type for node in all_nodes(function.node) if node.domain in ONNX_DOMAINS}
            for operator in used if entry.domain in ONNX_DOMAINS else ():
                if _signature(operator, entry.version) != _signature(operator, self._opset):
                    raise ModelError(
                        f"{self._name}: its function {function.name!r} is written for opset {entry.version}, whose "
                        f"{operator} is not that of opset {self._opset}, the model's"
                    )


def _inner(node: onnx.NodeProto) -> set[str]:
    """The names of tensors that a node's bodies define."""
    return set[str]().union(*map(defined, bodies(node)))


def _signature(operator: str, opset: int) -> Any:
    """What a version of an operator takes, its element types aside."""
    try:
        schema = onnx.defs.get_schema(operator, opset, "")
    except onnx.defs.SchemaError:
        return None
    attributes = {
        name: (one.type, one.default_value.SerializeToString()) for name, one in schema.attributes.items()
    }
    return attributes, [(one.name, one.option) for one in (*schema.inputs, *schema.outputs)]


@dataclass(frozen=True)
class _Renaming:
    """What becomes of a function's nodes in a call: names by formal ones, others behind a prefix; attributes by name."""

    prefix: str
    names: Mapping[str, str]
    attributes: Mapping[str, onnx.AttributeProto]

    def name(self, one: str) -> str:
        """The name of a tensor."""
        return self.names.get(one, self.prefix + one if one else "")

    def node(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """A node, and what its bodies hold."""
        made = onnx.NodeProto()
        made.CopyFrom(node)
        made.name = self.prefix + node.name if node.name else ""
        for names in (made.input, made.output):
            names[:] = [self.name(one) for one in names]
        del made.attribute[:]
        for attribute in node.attribute:
            meant = self.attributes.get(attribute.ref_attr_name) if attribute.ref_attr_name else attribute
            if meant is not None:
                copy = made.attribute.add()
                copy.CopyFrom(meant)
                copy.name = attribute.name
                if meant is attribute:
                    for body in [copy.g] if copy.HasField("g") else copy.graphs:
                        self._graph(body)
        return made

    def _graph(self, graph: onnx.GraphProto) -> None:
        """Renames what a body speaks of, in place; its own tensors are none of the function's operands and results."""
        own = defined(graph)
        inner = replace(
            self, names={formal: name for formal, name in self.names.items() if formal not in own}
        )
        inner._rename(graph)

    def _rename(self, graph: onnx.GraphProto) -> None:
        for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
            value.name = self.name(value.name)
        for tensor in graph.sparse_initializer:
            tensor.values.name = self.name(tensor.values.name)
        copies = onnx.GraphProto(node=map(self.node, graph.node))
        del graph.node[:]
        graph.node.extend(copies.node)
