"""The network on a box, without the neurons that are zero on all of it.

Where a dense map feeds an activation and dense maps alone read it, rows and columns of neurons whose outputs are
0 throughout the box are left out. Trained networks are sparse: on the boxes of robustness properties often four
neurons of five are, and what remains costs as much less.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.network.affine import Dense
from verify.network.graph import Layer, Network, Node


@dataclass(frozen=True)
class Reduced:
    """The same function on the given boxes, and which of the network's variables are left."""

    network: Network
    variables: Int[Tensor, " left"]

    @classmethod
    def of(
        cls,
        network: Network,
        lower: Float[Tensor, "batch variables"],
        upper: Float[Tensor, "batch variables"],
    ) -> Reduced:
        """The network on the boxes given, whose bounds hold. One and the same where nothing can be left out."""
        if network.deployed:  # what float32 makes of it is said of the maps as they are
            return cls(network, torch.arange(network.variables, device=network.device))
        nodes, variables = list(network.nodes), torch.ones(network.variables, dtype=torch.bool)
        readers = readers_of(network)
        for layer in network.layers:
            if not _between_dense(network, layer, readers):
                continue
            kept = ~_zero(layer, lower[:, layer.variables], upper[:, layer.variables])
            if bool(kept.all()):
                continue
            kept[0] |= ~kept.any()  # no layer is empty
            variables[layer.variables] = kept.cpu()
            rows = kept.nonzero()[:, 0]
            nodes[layer.pre_node] = _with_outputs(nodes[layer.pre_node], rows)
            nodes[layer.node] = _of_size(nodes[layer.node], len(rows))
            for reader in readers[layer.node]:
                nodes[reader] = _with_inputs(nodes[reader], rows)
        if bool(variables.all()):
            return cls(network, torch.arange(network.variables, device=network.device))
        return cls(replace(network, nodes=tuple(nodes)), variables.nonzero()[:, 0].to(network.device))


def readers_of(network: Network) -> list[list[int]]:
    """The nodes that read each node."""
    readers: list[list[int]] = [[] for _ in network.nodes]
    for index, node in enumerate(network.nodes):
        for operand in node.operands:
            readers[operand].append(index)
    return readers


def _between_dense(network: Network, layer: Layer, readers: list[list[int]]) -> bool:
    """Whether a layer's neurons are rows of one dense map and columns of others, and nothing else."""
    activation = layer.activation
    return (
        not (activation.mixes or activation.joins or activation.sums_to_one)
        and isinstance(network.nodes[layer.pre_node].operator, Dense)
        and network.nodes[layer.pre_node].size == network.nodes[layer.pre_node].shape[-1]
        and readers[layer.pre_node] == [layer.node]
        and bool(readers[layer.node])
        and all(isinstance(network.nodes[reader].operator, Dense) for reader in readers[layer.node])
    )


def _zero(layer: Layer, lower: Tensor, upper: Tensor) -> Bool[Tensor, " size"]:
    """The neurons that are 0 on all boxes."""
    low, high = layer.activation.interval(lower, torch.maximum(lower, upper))
    return ((low == 0) & (high == 0)).all(0)


def _with_outputs(node: Node, rows: Tensor) -> Node:
    dense = node.operator
    assert isinstance(dense, Dense)
    bias, size = (None if part is None else part[rows] for part in (dense.bias, dense.bias_size))
    return _of_size(replace(node, operator=Dense(dense.weight[rows], bias, size)), len(rows))


def _of_size(node: Node, size: int) -> Node:
    return replace(node, shape=(*node.shape[:-1], size))


def _with_inputs(node: Node, columns: Tensor) -> Node:
    dense = node.operator
    assert isinstance(dense, Dense)
    return replace(node, operator=replace(dense, weight=dense.weight[:, columns]))
