"""Bounds from windows are those of the whole network: strides, padding, branches, chains of maps, images in any order."""

from __future__ import annotations

import pytest
import torch
from nets import DOUBLE, EXAMPLES, Draft, label, random_box, samples, variables
from torch import Tensor

from verify.bounders import patches as local_module
from verify.bounders.ibp import interval, magnitudes
from verify.bounders.intermediate import IntermediateBounds
from verify.bounders.patches import PatchNetwork
from verify.bounders.restricted import Restricted
from verify.deadline import Deadline
from verify.lagrangian.dual import DualProblem
from verify.network.activations import Activation, Relu, Sigmoid
from verify.network.affine import Combine, Reshape, Scale
from verify.network.convolution import Convolution
from verify.network.graph import Layer, Network
from verify.network.moves import NonNegative, Permute
from verify.state import Bounds, Objective

ELEMENTWISE = [activation for activation in EXAMPLES if not (activation.joins or activation.mixes)]


@pytest.fixture(autouse=True)
def _windows_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small images have windows larger than themselves: take them all the same."""
    monkeypatch.setattr(local_module, "_WORTH", float("inf"))


def convolved(draft: Draft, source: int, channels: int, stride: int = 1) -> int:
    """A convolution that pads, and dilates where it does not stride; sizes are halved by strides of 2."""
    depth = draft.nodes[source].shape[1]
    kernel, dilation = (3, 1 + draft.pick(2)) if stride == 1 else (2 + draft.pick(2), 1)
    padding = dilation if kernel == 3 else 0
    weight = draft.normal(channels, depth, kernel, kernel) / (depth * kernel * kernel) ** 0.5
    shape = draft.nodes[source].shape
    operator = Convolution(
        weight, 0.3 * draft.normal(channels), (stride,) * 2, (padding,) * 2, (dilation,) * 2, 1, shape
    )
    return draft.add(
        operator, (source,), tuple(operator.forward(torch.zeros(1, *shape, dtype=DOUBLE)).shape[1:])
    )


def residual_images(seed: int, activation: Activation) -> Network:
    """Two residual blocks, the second behind a stride; the input comes flat, or with its channels last."""
    draft = Draft(torch.Generator().manual_seed(seed), (128,) if seed % 3 == 0 else (1, 8, 8, 2))
    image = (1, 2, 8, 8)
    if seed % 3 == 0:
        value = draft.add(Reshape((128,), image), (0,), image)
    else:
        value = draft.add(Permute((0, 3, 1, 2)), (0,), image)
    if seed % 2:  # means and deviations of channels
        factor, shift = draft.normal(1, 2, 1, 1).abs() + 0.5, draft.normal(1, 2, 1, 1)
        value = draft.add(Scale(factor, shift), (value,), image)
    for stride in (1, 2):
        value = draft.activation(convolved(draft, value, 2), activation)
        branch = draft.activation(convolved(draft, value, 3, stride), activation)
        branch = convolved(draft, convolved(draft, branch, 2), 3)  # padded twice with nothing between
        shape = draft.nodes[branch].shape
        value = draft.add(Combine((1, -1)), (branch, convolved(draft, value, 3, stride)), shape)
    value = draft.activation(value, activation)
    draft.dense(draft.flat(draft.activation(convolved(draft, value, 2), activation)), 3)
    return draft.network()


def intervals(network: Network, seed: int, batch: int = 2) -> Bounds:
    """Several boxes and what intervals tell of them."""
    box = random_box(network, batch, seed, 0.2)
    inputs = slice(0, network.inputs)
    return interval(network, box.lower[:, inputs], box.upper[:, inputs])[0]


def whole(network: Network, layer: Layer, bounds: Bounds) -> Tensor:
    """CROWN's lower bounds of all neurons and of their negatives, through the whole network."""
    neurons = torch.arange(layer.size).expand(len(bounds), -1)
    objective = Objective.both_ends(neurons, layer.size, bounds.lower)
    problem = DualProblem(network, bounds, objective, node=layer.pre_node)
    problem.domain.__dict__["frozen"] = {}
    return problem.evaluate(problem.initial(), magnitudes(network, bounds)).bound.unflatten(
        1, (2, layer.size)
    )


@pytest.mark.parametrize("activation", ELEMENTWISE, ids=label)
def test_windows_give_the_whole_network_s_bounds(activation: Activation) -> None:
    """Of every neuron of every layer, on two boxes, at the borders and inside."""
    seen = 0
    for seed in (0, 1):
        network = residual_images(seed, activation)
        bounds = intervals(network, seed)
        sizes = magnitudes(network, bounds)
        for layer in network.layers:
            patches = PatchNetwork.of(network, layer)
            if patches is None:
                continue
            seen += 1
            channels = layer.size // patches.positions
            rows = torch.arange(seed, len(bounds) * patches.positions, 7)
            every = torch.arange(channels).expand(len(rows), -1)
            problem = patches.problem(rows, every, bounds)
            found = problem.evaluate(problem.initial(), patches.sizes(rows, sizes)).bound.unflatten(
                1, (2, channels)
            )
            boxes, places = patches.neurons(rows, every)
            expected = whole(network, layer, bounds)[boxes, :, places].mT
            assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)
    assert seen >= 4 or activation.name in ("Reciprocal",)


@pytest.mark.parametrize("activation", [Relu(), Sigmoid()], ids=label)
@pytest.mark.parametrize("ascent", [None, Restricted(iterations=4)], ids=["crown", "ascent"])
def test_bounds_by_windows_hold_and_are_no_looser(
    activation: Activation, ascent: Restricted | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All layers in turn, each on those before it."""
    for seed in range(2):
        network = residual_images(seed, activation)
        bounds = intervals(network, seed)
        tight = IntermediateBounds(ascent).tighten(network, bounds, Deadline())
        with monkeypatch.context() as without:
            without.setattr(PatchNetwork, "of", lambda network, layer: None)
            expected = IntermediateBounds(ascent).tighten(network, bounds, Deadline())
        near = 1e-9 if ascent is None else 1e-3  # rounding turns Adam's steps where gradients vanish
        assert torch.allclose(tight.lower, expected.lower, rtol=near, atol=near)
        assert torch.allclose(tight.upper, expected.upper, rtol=near, atol=near)
        assert bool((tight.upper - tight.lower).mean() < 0.99 * (bounds.upper - bounds.lower).mean())
        for row, x in enumerate(
            samples(bounds.lower[:, : network.inputs], bounds.upper[:, : network.inputs], 500)
        ):
            values = variables(network, x)
            assert bool(
                (values >= tight.lower[row] - 1e-9).all() and (values <= tight.upper[row] + 1e-9).all()
            )


def test_the_supergradient_s_value_is_the_bound() -> None:
    """Forward through windows as well: what is beyond the image stays out of it."""
    network = residual_images(1, Relu())
    bounds = intervals(network, 1)
    for layer in network.layers[1:]:
        patches = PatchNetwork.of(network, layer)
        if patches is None:
            continue
        rows = torch.arange(2 * patches.positions)
        problem = patches.problem(rows, torch.zeros(len(rows), 1, dtype=torch.int64), bounds)
        some = problem.select(torch.arange(0, len(rows), 3))
        state = some.initial()
        bound = some.supergradient(state, some.backward(state)).bound
        assert torch.allclose(bound, some.evaluate(state).bound, rtol=1e-9, atol=1e-9)


def summed(x: Tensor) -> Tensor:
    """Every place becomes the sum of its row: positions are mixed."""
    return x.cumsum(-1)


def test_other_maps_between_positions_have_no_windows() -> None:
    draft = Draft(torch.Generator().manual_seed(0), (1, 2, 6, 6))
    first = draft.activation(convolved(draft, 0, 2), Relu())
    mixed = draft.add(NonNegative(summed, (draft.nodes[first].shape,), 6), (first,), draft.nodes[first].shape)
    last = draft.activation(convolved(draft, mixed, 2), Relu())
    draft.dense(draft.flat(last), 2)
    before, behind = draft.network().layers
    assert PatchNetwork.of(draft.network(), before) is not None
    assert PatchNetwork.of(draft.network(), behind) is None


def test_large_windows_are_not_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_module, "_WORTH", 1.0)
    network = residual_images(1, Relu())
    assert PatchNetwork.of(network, network.layers[0]) is not None
    assert PatchNetwork.of(network, network.layers[-1]) is None
