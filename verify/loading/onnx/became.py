"""What became of every node of an ONNX file."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from verify.loading.onnx.order import operands
from verify.network.activations import Activation

if TYPE_CHECKING:
    from onnx import NodeProto

    from verify.loading.onnx.model import OnnxModel
    from verify.network.graph import Network, Node


def onnx_nodes(model: OnnxModel, network: Network, outputs: Collection[str]) -> list[dict[str, Any]]:
    """All nodes of a file but its constants, in the order in which they are computed, by the first tensor that each computes.

    network: what was read of it, whose nodes have the names of the file's tensors. outputs: the tensors that are wanted of the file.
    A node has `read_as`, how many of each of the network's operators it is (then also the shape of its value, its weights and its
    neurons), or it is `folded` into the node of another tensor, or `nothing` is left of it, for the reason said there.
    """
    nodes = list(model.proto.graph.node)
    made = _by_tensor(network, {name for node in nodes for name in node.output})
    varying, needed = _varying(nodes, {value.name for value in model.inputs}), _needed(nodes, outputs)
    users: dict[str, list[NodeProto]] = defaultdict(list)
    for node in nodes:
        for name in operands(node):
            users[name].append(node)
    found = []
    for node in nodes:
        parts = [part for tensor in node.output for part in made.get(tensor, ())]
        if parts:
            what = _read_as(network, parts)
        elif needed.isdisjoint(node.output):
            what = {"nothing": "not needed"}
        elif varying.isdisjoint(node.output):
            what = {"nothing": "constant"}
        else:
            into = _behind(node, users, made)
            what = {"nothing": "changes nothing"} if into is None else {"folded": into}
        found.append({"name": next(iter(node.output), ""), "operator": node.op_type, **what})
    return found


def _read_as(network: Network, parts: Sequence[Node]) -> dict[str, Any]:
    """A node that these nodes of the network were made of."""
    activations = [part for part in parts if isinstance(part.operator, Activation)]
    return {
        "read_as": dict(Counter(type(part.operator).__name__ for part in parts)),
        "shape": list(parts[-1].shape),
        "weights": sum(part.weights for part in parts),
        "neurons": sum(network.nodes[part.operands[0]].size for part in activations),
    }


def _by_tensor(network: Network, tensors: Collection[str]) -> Mapping[str, list[Node]]:
    """The network's nodes by the tensor whose name they have, before a `#` where it takes several."""
    found: dict[str, list[Node]] = defaultdict(list)
    for node in network.nodes[1:]:
        name = node.name
        while name not in tensors and "#" in name:
            name = name.rpartition("#")[0]
        found[name].append(node)
    return found


def _varying(nodes: Sequence[NodeProto], inputs: Collection[str]) -> set[str]:
    """The tensors that depend on the inputs' numbers, not on their shapes alone."""
    found = set(inputs)
    for node in nodes:
        if node.op_type not in ("Shape", "Size") and not found.isdisjoint(operands(node)):
            found.update(node.output)
    return found


def _needed(nodes: Sequence[NodeProto], outputs: Collection[str]) -> set[str]:
    """The tensors that the outputs depend on."""
    found = set(outputs)
    for node in reversed(nodes):
        if not found.isdisjoint(node.output):
            found.update(operands(node))
    return found


def _behind(
    node: NodeProto, users: Mapping[str, Sequence[NodeProto]], made: Mapping[str, Sequence[Node]]
) -> str | None:
    """The first tensor behind a node that the network has."""
    waiting, seen = list(node.output), set(node.output)
    for name in waiting:
        if name in made:
            return str(name)
        results = [result for user in users.get(name, ()) for result in user.output if result not in seen]
        waiting += results
        seen.update(results)
    return None
