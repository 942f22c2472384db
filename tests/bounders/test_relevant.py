"""What an output depends on is all found, and little else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from nets import DOUBLE, EXAMPLES, FAMILIES, label, random_network
from test_patches import residual_images, stretched_images

from verify.bounders.relevant import relevant
from verify.network.activations import Activation, Relu
from verify.network.graph import Network


def moved(network: Network, output: int) -> torch.Tensor:
    """The variables whose values another input changes by way of nothing but what the output depends on: by gradients at some inputs."""
    found = torch.zeros(network.variables, dtype=torch.bool)
    x = torch.randn(40, network.inputs, dtype=DOUBLE, generator=torch.Generator().manual_seed(output))
    values: list[torch.Tensor] = []
    shaped = x.reshape(-1, *network.nodes[0].shape)
    for index, node in enumerate(network.nodes):
        value = shaped if index == 0 else network.apply(node, [values[i] for i in node.operands])
        values.append(value.detach().requires_grad_() if value.grad_fn is None else value)
    asked = values[-1].flatten(1)[:, output].sum()
    for layer in network.layers:
        [slope] = torch.autograd.grad(asked, values[layer.pre_node], retain_graph=True, allow_unused=True)
        if slope is not None:
            found[layer.variables] = (slope.flatten(1) != 0).any(0)
    return found


@pytest.mark.parametrize("activation", EXAMPLES, ids=label)
def test_all_that_an_output_depends_on(activation: Activation) -> None:
    for seed, family in enumerate(FAMILIES):
        network = random_network(seed, family, (activation, Relu()))
        for output in range(min(2, network.outputs)):
            asked = torch.zeros(network.outputs, dtype=torch.bool)
            asked[output] = True
            assert not bool((moved(network, output) & ~relevant(network, asked)).any())


@pytest.mark.parametrize("images", [residual_images, stretched_images])
def test_one_pixel_asks_for_few(images: Callable[[int, Activation], Network]) -> None:
    """Behind convolutions alone an entry depends on its surroundings."""
    network = images(0, Relu())
    last = network.layers[-1]
    small = Network(network.nodes[: last.node + 1])
    asked = torch.zeros(small.outputs, dtype=torch.bool)
    assert not bool(relevant(small, asked)[small.inputs :].any())
    asked[0] = True
    found = relevant(small, asked)
    assert not bool((moved(small, 0) & ~found).any())
    assert int(found[last.variables].sum()) == 1
    assert bool(found.any()) and not bool(found.all())
