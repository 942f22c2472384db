"""The nodes of an ONNX graph in an order in which they can be computed: the standard asks for one, ONNX Runtime makes its own."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator, Sequence

import onnx

from verify.errors import ModelError
from verify.loading.onnx.bodies import bodies, taken


def sort(graph: onnx.GraphProto, name: str) -> None:
    """Sorts the nodes, those that are in order already as they are. Raises ModelError for cycles and names with two meanings."""
    makers = _makers(graph, name)
    needs = [{makers[name] for name in operands(node) if name in makers} for node in graph.node]
    if all(need < place for place, found in enumerate(needs) for need in found):
        return
    order = _order(needs)
    if len(order) < len(needs):
        stuck = graph.node[min(set(range(len(needs))) - set(order))]
        label = stuck.name or next(iter(stuck.output), "")
        raise ModelError(f"{name}: node {label!r} ({stuck.op_type}) depends on its own result")
    nodes = [graph.node[place] for place in order]
    copies = onnx.GraphProto(node=nodes)
    del graph.node[:]
    graph.node.extend(copies.node)


def _makers(graph: onnx.GraphProto, name: str) -> dict[str, int]:
    """The place of the node that computes each tensor."""
    given = [tensor.name for tensor in graph.initializer]
    given += [tensor.values.name for tensor in graph.sparse_initializer]
    weights = set(given)
    given += [value.name for value in graph.input if value.name not in weights]
    if len(set(given)) < len(given) or "" in given:
        raise ModelError(f"{name}: two of its inputs and initializers have one name, or one has none")
    taken, makers = set(given), dict[str, int]()
    for place, node in enumerate(graph.node):
        for tensor in filter(None, node.output):
            if tensor in taken:
                raise ModelError(f"{name}: there are two tensors of the name {tensor!r}")
            taken.add(tensor)
            makers[tensor] = place
    return makers


def operands(node: onnx.NodeProto) -> Iterator[str]:
    """The tensors that a node takes, those that only its subgraphs speak of included."""
    yield from node.input
    for body in bodies(node):
        yield from taken(body)


def _order(needs: Sequence[set[int]]) -> list[int]:
    """Places so that needs come first, otherwise in order; those of cycles, and behind them, are left out."""
    users, waiting = defaultdict[int, list[int]](list), [len(found) for found in needs]
    for place, found in enumerate(needs):
        for need in found:
            users[need].append(place)
    ready = [place for place, count in enumerate(waiting) if not count]
    order = []
    while ready:
        order.append(heapq.heappop(ready))
        for user in users[order[-1]]:
            waiting[user] -= 1
            if not waiting[user]:
                heapq.heappush(ready, user)
    return order
