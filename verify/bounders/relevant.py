"""Which pre-activations a question is about: those that something of what is asked of depends on."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from verify.network.activations.base import spread
from verify.network.affine import Affine
from verify.network.graph import Network


def relevant(network: Network, asked: Bool[Tensor, " outputs"]) -> Bool[Tensor, " variables"]:
    """The variables (inputs first, all of them) that the outputs asked of depend on, by the graph and by weights other than 0."""
    found = torch.zeros(network.variables, dtype=torch.bool, device=asked.device)
    found[: network.inputs] = True
    last = len(network.nodes) - 1
    pending = {last: asked.to(network.dtype)[None]}
    for index in range(last, 0, -1):
        if index not in pending:
            continue
        node, wanted = network.nodes[index], (pending.pop(index) > 0).to(network.dtype)
        if isinstance(node.operator, Affine):
            parts = network.absolute[index].transpose(wanted.reshape(1, *node.shape))
        else:
            layer = network.layer_of_node[index]
            pre = _operands(network, index, wanted)
            found[layer.variables] |= pre[0] > 0
            parts = (pre,)
        for operand, part in zip(node.operands, parts, strict=True):
            part = part.flatten(1)
            pending[operand] = pending[operand] + part if operand in pending else part
    return found


def _operands(network: Network, index: int, wanted: Tensor) -> Tensor:
    """The entries of an activation's operand that wanted outputs depend on, [1, size]: all of them where they mix."""
    activation, size = network.layer_of_node[index].activation, network.layer_of_node[index].size
    if activation.mixes or activation.sums_to_one or size % wanted.shape[1]:
        return torch.full((1, size), float(wanted.any()), dtype=wanted.dtype, device=wanted.device)
    return spread(wanted, size // wanted.shape[1])
