"""Graphs inside of nodes: the branches of If, the bodies of Loop and Scan. They may take tensors of the graphs around them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

from verify.errors import ModelError

CAPTURED = "captured"  # the attribute of a node that says how many of its operands, the last, are for its bodies alone
_UNBOUNDED = 2**62  # the trip count of a Loop that has none


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs that a node holds."""
    return [graph for _, graph in named_bodies(node)]


def named_bodies(node: onnx.NodeProto) -> list[tuple[str, onnx.GraphProto]]:
    """Those, with the names of the attributes that they are."""
    return [
        (attribute.name, graph)
        for attribute in node.attribute
        for graph in ([attribute.g] if attribute.HasField("g") else attribute.graphs)
    ]


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes, and those in their bodies."""
    for node in nodes:
        yield node
        for body in bodies(node):
            yield from all_nodes(body.node)


def defined(graph: onnx.GraphProto) -> set[str]:
    """The names of a graph's own tensors."""
    names = {value.name for value in (*graph.input, *graph.initializer)}
    names.update(tensor.values.name for tensor in graph.sparse_initializer)
    return names.union(*(node.output for node in graph.node)) - {""}


def taken(graph: onnx.GraphProto) -> list[str]:
    """The tensors of graphs around it that a body takes, in order."""
    used = dict.fromkeys(value.name for value in graph.output)
    for node in graph.node:
        used.update(dict.fromkeys(node.input))
        for body in bodies(node):
            used.update(dict.fromkeys(taken(body)))
    own = defined(graph) | {""}
    return [name for name in used if name not in own]


def check_scopes(graph: onnx.GraphProto, name: str, outside: frozenset[str] = frozenset()) -> None:
    """Raises ModelError where a body calls a constant of its own as a tensor around it is called: ONNX Runtime takes either.

    Of other tensors of one name the innermost counts.
    """
    constants = {tensor.name for tensor in graph.initializer}
    constants.update(tensor.values.name for tensor in graph.sparse_initializer)
    constants.update(output for node in graph.node if node.op_type == "Constant" for output in node.output)
    if twice := constants & outside:
        raise ModelError(f"{name}: there are two tensors of the name {min(twice)!r}, one inside a body")
    inside = outside | defined(graph)
    for node in graph.node:
        for body in bodies(node):
            check_scopes(body, name, inside)


def close(graph: onnx.GraphProto) -> None:
    """Makes what bodies take of this graph operands of their nodes, behind the others, and inputs of theirs; constants are copied."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if not bodies(node):
            continue
        if node.op_type == "Loop":
            _write_out_omitted(graph, node)
        wanted = dict.fromkeys(name for body in bodies(node) for name in taken(body))
        operands = [name for name in wanted if name not in weights]
        node.input.extend(operands)
        node.attribute.append(helper.make_attribute(CAPTURED, len(operands)))
        for body in bodies(node):
            body.initializer.extend(weights[name] for name in taken(body) if name in weights)
            body.input.extend(onnx.ValueInfoProto(name=name) for name in operands)


def _write_out_omitted(graph: onnx.GraphProto, loop: onnx.NodeProto) -> None:
    """Gives a Loop the trip count and the condition that it leaves out."""
    meant = (np.array(_UNBOUNDED), np.array(True))
    loop.input.extend([""] * (2 - len(loop.input)))
    for place, value in enumerate(meant):
        if not loop.input[place]:
            loop.input[place] = f"{next(iter(loop.output), '')}/{('trips', 'condition')[place]}"
            graph.initializer.append(numpy_helper.from_array(value, loop.input[place]))
