"""Where a network has no value: the square root of a negative number, a logarithm or a quotient at its pole, a value beyond all numbers.

Nothing is known of what is behind such a place, so nothing is refuted there, and a search that ends without a verdict says
where it is.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from verify.bounders.ibp import interval
from verify.network.activations import Activation
from verify.network.graph import Network
from verify.state import Bounds, Objective

_SAMPLES = 16  # inputs at which the network is looked at
_SEED = 0


def without_value(network: Network, lower: Tensor, upper: Tensor) -> str:
    """A clause that names the first node without a value, or with a doubtful one, on some boxes [boxes, inputs]; or nothing."""
    if not network.overflows:
        return ""
    return _at_samples(network, lower, upper) or _by_intervals(network, lower, upper)


def _at_samples(network: Network, lower: Tensor, upper: Tensor) -> str:
    """The first node where some input of the boxes shows it."""
    share = torch.from_numpy(np.random.default_rng(_SEED).random((_SAMPLES, lower.shape[1]))).to(lower)
    share = torch.cat([torch.zeros_like(share[:1]), torch.ones_like(share[:1]), share])
    x = (lower[:, None] + (upper - lower)[:, None] * share).flatten(0, 1)
    values = network.values(x)
    for index, node in enumerate(network.nodes):
        if isinstance(node.operator, Activation) and not bool(values[index].isfinite().all()):
            given = values[node.operands[0]].flatten(1)
            bad = ~values[index].flatten(1).isfinite().all(1)
            said = _said(node.operator, given[bad].isfinite().all(), node.name)
            return f"at some inputs {said}"
    return ""


def _said(operator: Activation, of_numbers: Tensor | bool, name: str) -> str:
    """What is wrong with an operator's value."""
    if operator.sided and of_numbers:
        return f"the network is undefined at the node {name!r} ({operator.name})"
    return f"values are too large for float64 at the node {name!r} ({operator.name})"


def _by_intervals(network: Network, lower: Tensor, upper: Tensor) -> str:
    """The first node whose arguments' intervals leave its domain, or whose values' intervals all numbers."""
    bounds, _ = interval(network, lower, upper)
    for layer in network.layers:
        low, high = bounds.lower[:, layer.variables], bounds.upper[:, layer.variables]
        values = layer.activation.interval(low, torch.maximum(low, high))
        if not all(bool(end.isfinite().all()) for end in values):
            finite = low.isfinite().all() & high.isfinite().all()
            return (
                f"as far as intervals tell, {_said(layer.activation, finite, network.nodes[layer.node].name)}"
            )
    return ""


def hopeless(network: Network, bounds: Bounds, objective: Objective) -> Bool[Tensor, " batch"]:
    """Boxes on which an activation is defined nowhere, and no constraint of the objectives does without it.

    No split of theirs will be refuted.
    """
    found = torch.zeros(len(bounds), dtype=torch.bool, device=bounds.lower.device)
    for layer in network.layers:
        if layer.activation.sided:
            low, high = bounds.lower[:, layer.variables], bounds.upper[:, layer.variables]
            found |= layer.activation.undefined(low, torch.maximum(low, high)).any(1)
    if not bool(found.any()):
        return found
    inputs = slice(0, network.inputs)
    ends = bounds.lower[:, inputs], bounds.upper[:, inputs]
    _, outputs = interval(network, *ends, bounds)
    unknown = (objective.coefficients.abs().sign() @ _unknown(outputs))[..., 0] > 0
    return found & unknown.flatten(1).all(1)


def _unknown(outputs: tuple[Tensor, Tensor]) -> Tensor:
    """1 for outputs of which neither end is known, [batch, 1, outputs, 1]."""
    low, high = outputs
    return (~low.isfinite() & ~high.isfinite()).to(low)[:, None, :, None]
