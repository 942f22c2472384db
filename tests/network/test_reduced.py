"""Networks without the neurons that are zero on a box: the same function there, fewer variables."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import Draft, networks, random_box, random_network, samples, variables

from verify.bounders.ibp import interval
from verify.network.activations import Relu, Sigmoid
from verify.network.affine import Combine, Dense
from verify.network.graph import Network
from verify.network.reduced import Reduced
from verify.state import Bounds


def on(network: Network, box: Bounds) -> Reduced:
    """The network on some boxes, as intervals know them."""
    bounds, _ = interval(network, box.lower[:, : network.inputs], box.upper[:, : network.inputs])
    return Reduced.of(network, bounds.lower, bounds.upper)


@given(networks(), st.integers(0, 10**6))
def test_the_same_function_on_the_boxes(network: Network, seed: int) -> None:
    """Of every family and activation: outputs, and the variables that are left."""
    box = random_box(network, 2, seed, 0.1)
    reduced = on(network, box)
    lower, upper = box.lower[:, : network.inputs], box.upper[:, : network.inputs]
    for points in samples(lower, upper, 40, seed):
        whole, small = network.forward(points), reduced.network.forward(points)
        assert torch.allclose(whole, small, rtol=1e-9, atol=1e-9, equal_nan=True)
        kept = variables(network, points)[:, reduced.variables]
        assert torch.allclose(kept, variables(reduced.network, points), rtol=1e-9, atol=1e-9, equal_nan=True)


def test_neurons_that_are_zero_are_left_out() -> None:
    """In every layer of a chain: as many rows and columns as there are neurons left."""
    network = random_network(2, "chain", [Relu(), Relu(), Relu()])
    box = random_box(network, 1, 5, 0.05)
    bounds, _ = interval(network, box.lower[:, : network.inputs], box.upper[:, : network.inputs])
    reduced = Reduced.of(network, bounds.lower, bounds.upper)
    assert reduced.network.variables < network.variables
    for before, after in zip(network.layers, reduced.network.layers, strict=True):
        alive = int((bounds.upper[0, before.variables] > 0).sum())
        assert after.size == max(alive, 1)
        assert reduced.network.nodes[after.pre_node].shape == (after.size,)


def test_boxes_are_taken_together() -> None:
    """What is zero on one box alone stays."""
    network = random_network(7, "chain", [Relu(), Relu(), Relu()])
    box = random_box(network, 6, 5, 0.05)
    alone = [on(network, box.select(slice(row, row + 1))).variables.tolist() for row in range(6)]
    together = on(network, box).variables.tolist()
    assert set().union(*alone) <= set(together) and any(len(one) < len(together) for one in alone)


def test_what_others_read_stays() -> None:
    """Neurons that a sum reads, or that are no rows of a dense map; activations that are never 0; the output."""
    draft = Draft(torch.Generator().manual_seed(0), (3,))
    one = draft.add(Relu(), (draft.dense(0, 8),), (8,))
    two = draft.add(Relu(), (draft.scale(one, 1.0, -50.0),), (8,))
    three = draft.add(Sigmoid(), (draft.dense(two, 8),), (8,))
    draft.add(Relu(), (draft.dense(three, 8),), (8,))
    network = draft.network()
    reduced = on(network, random_box(network, 1, 0, 0.1))
    assert reduced.network.outputs == network.outputs
    assert [layer.size for layer in reduced.network.layers] == [layer.size for layer in network.layers]


def test_pre_activations_that_others_read_stay() -> None:
    """A map that an activation and something else read keeps all its rows."""
    draft = Draft(torch.Generator().manual_seed(0), (3,))
    shared = draft.dense(0, 8)
    low = draft.dense(draft.add(Relu(), (draft.scale(shared, 1.0, -50.0),), (8,)), 4)
    draft.add(Combine((1, 1)), (low, draft.dense(draft.add(Relu(), (shared,), (8,)), 4)), (4,))
    network = draft.network()
    box = random_box(network, 1, 0, 0.1)
    reduced = on(network, box)
    x = samples(box.lower[:, :3], box.upper[:, :3], 20)[0]
    assert torch.allclose(reduced.network.forward(x), network.forward(x))
    assert [layer.size for layer in reduced.network.layers] == [8, 8]


def test_a_layer_of_zeros_keeps_a_neuron() -> None:
    """No layer is empty, and the output is the bias."""
    eye = torch.eye(4, dtype=torch.float64)
    draft = Draft(torch.Generator().manual_seed(0), (4,))
    first = draft.add(Dense(eye, -100 * eye[0].new_ones(4)), (0,), (4,))
    draft.dense(draft.add(Relu(), (first,), (4,)), 2)
    network = draft.network()
    reduced = on(network, random_box(network, 1, 0, 0.1))
    assert next(layer.size for layer in reduced.network.layers) == 1
    x = torch.zeros(1, 4, dtype=torch.float64)
    assert torch.equal(reduced.network.forward(x), network.forward(x))


def test_deployed_networks_are_left_alone() -> None:
    """What float32 makes of their sums is said of the maps as they are."""
    network = replace(random_network(2, "chain", [Relu(), Relu()]), deployed=True)
    assert on(network, random_box(network, 1, 5, 0.01)).network is network
