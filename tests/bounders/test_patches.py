"""Bounds from windows are those of the whole network: strides, padding, branches, chains of maps, images in any order."""

from __future__ import annotations

from collections.abc import Callable

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
from verify.loading import reindex
from verify.network.activations import Activation, Relu, Sigmoid
from verify.network.affine import Combine, Dense, Reshape, Scale
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


def the_same(
    network: Network, layer: Layer, patches: PatchNetwork, bounds: Bounds, sizes: dict[int, Tensor], seed: int
) -> None:
    """The bounds of the whole network at some positions."""
    rows = torch.arange(seed, len(bounds) * patches.positions, 7)
    used = patches.by_position(torch.ones(len(bounds), layer.size, dtype=torch.bool))[rows]
    every = torch.arange(used.shape[1]).expand(len(rows), -1)
    problem = patches.problem(rows, every, bounds)
    found = problem.evaluate(problem.initial(), patches.sizes(rows, sizes)).bound
    boxes, places = patches.neurons(rows, every)
    expected = whole(network, layer, bounds)[boxes, :, places].mT
    found, expected = (
        part[used[:, None].expand_as(part)] for part in (found.unflatten(1, (2, -1)), expected)
    )
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)


def stretched_images(seed: int, activation: Activation) -> Network:
    """Means of four, deconvolutions, rims and crops, channels side by side, repeated pixels, and differences of channels at the end."""
    draft = Draft(torch.Generator().manual_seed(seed), (1, 3, 9, 11))
    value = draft.add(
        NonNegative(reindex.Slice(((0, 1, 1), (1, 3, 1), (0, 9, 1), (0, 11, 1))), ((1, 3, 9, 11),)),
        (0,),
        (1, 2, 9, 11),
    )
    skip = draft.activation(convolved(draft, value, 2), activation)
    pool = reindex.AveragePool((2, 2), (2, 2), (0, 0), (-1, -1), ((2,) * 4, (2,) * 5))
    value = draft.add(NonNegative(pool, ((1, 2, 9, 11),), 4), (skip,), (1, 2, 4, 5))
    value = draft.activation(convolved(draft, value, 3), activation)
    size, stride = 2 + seed % 2, (2, 2)
    weight = draft.normal(3, 2, size, size) / 4
    deconvolution = Convolution(
        weight, draft.normal(2), stride, (seed % 2,) * 2, (1, 1), 1, (1, 3, 4, 5), True, (0, 0)
    )
    shape = deconvolution.output_shape
    value = draft.add(deconvolution, (value,), shape)
    pads = (9 - shape[2], 11 - shape[3])
    value = draft.add(NonNegative(reindex.Pad((0, pads[1], 0, pads[0])), (shape,)), (value,), (1, 2, 9, 11))
    both = ((1, 2, 9, 11), (1, 2, 9, 11))
    value = draft.add(NonNegative(reindex.Concatenate(1), both), (skip, value), (1, 4, 9, 11))
    value = draft.activation(convolved(draft, value, 2), activation)
    index = torch.arange(2 * 9 * 11).reshape(1, 2, 9, 11)
    index = index.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, [1, 0], 1:14, 2:19]
    value = draft.add(NonNegative(reindex.Gather(index), ((1, 2, 9, 11),), 4), (value,), (1, 2, 13, 17))
    value = draft.activation(convolved(draft, value, 2, 2), activation)
    shape = draft.nodes[value].shape
    value = convolved(draft, value, 2)
    value = draft.add(Permute((0, 3, 2, 1)), (value,), (1, shape[3], shape[2], 2))
    rows = (shape[3] * shape[2], 2)
    value = draft.add(Reshape((1, shape[3], shape[2], 2), rows), (value,), rows)
    parts = [
        draft.add(
            NonNegative(reindex.Slice(((0, rows[0], 1), (i, i + 1, 1))), (rows,)), (value,), (rows[0], 1)
        )
        for i in range(2)
    ]
    value = draft.activation(draft.add(Combine((1, -1)), parts, (rows[0], 1)), activation)
    draft.dense(draft.flat(value), 2)
    return draft.network()


def generated_images(seed: int, activation: Activation) -> Network:
    """Images that a few numbers are made into, and what convolutions see in these."""
    draft = Draft(torch.Generator().manual_seed(seed), (3,))
    value = draft.add(Reshape((40,), (1, 2, 4, 5)), (draft.dense(0, 40),), (1, 2, 4, 5))
    value = draft.activation(value, activation)
    deconvolution = Convolution(
        draft.normal(2, 3, 2, 2) / 2, draft.normal(3), (2, 2), (0, 0), (1, 1), 1, (1, 2, 4, 5), True, (0, 0)
    )
    value = draft.activation(draft.add(deconvolution, (value,), (1, 3, 8, 10)), activation)
    value = draft.activation(convolved(draft, value, 2), activation)
    value = draft.activation(convolved(draft, value, 2, 2), activation)
    draft.dense(draft.flat(value), 2)
    return draft.network()


@pytest.mark.parametrize("seed", range(4))
def test_windows_of_stretched_images(seed: int) -> None:
    """Those of every layer, in phases; in float32, too."""
    network = stretched_images(seed, (Relu(), Sigmoid())[seed // 2])
    bounds = intervals(network, seed)
    sizes, phases = magnitudes(network, bounds), []
    for layer in network.layers:
        views = PatchNetwork.of(network, layer)
        phases.append(len(views))
        assert torch.equal(
            torch.cat([view._neurons[view._neurons >= 0] for view in views]).sort().values,
            torch.arange(layer.size),
        )
        for patches in views:
            the_same(network, layer, patches, bounds, sizes, seed)
    assert phases[:3] == [1, 1, 4] and phases[3] in (4, 16) and phases[4] == phases[3]
    exact = IntermediateBounds().tighten(network, bounds, Deadline())
    found = IntermediateBounds().tighten(network, bounds, Deadline(), network.to("cpu", torch.float32))
    lost = (exact.lower - found.lower).clamp(min=0) + (found.upper - exact.upper).clamp(min=0)
    assert float(lost.sum()) <= 0.002 * float((exact.upper - exact.lower).sum())
    x = samples(bounds.lower[:, : network.inputs], bounds.upper[:, : network.inputs], 300)
    values = variables(network, x.flatten(0, 1)).reshape(2, -1, network.variables)
    slack = 1e-9 * (1 + values.abs())
    assert bool(
        (values >= found.lower[:, None] - slack).all() and (values <= found.upper[:, None] + slack).all()
    )


def test_means_at_the_rim_have_no_windows() -> None:
    """Where fewer entries count, positions differ."""
    draft = Draft(torch.Generator().manual_seed(0), (1, 2, 6, 6))
    pool = reindex.AveragePool((3, 3), (1, 1), (1, 1), (1, 1), ((2, 3, 3, 3, 3, 2),) * 2)
    first = draft.activation(convolved(draft, 0, 2), Relu())
    pooled = draft.add(NonNegative(pool, ((1, 2, 6, 6),), 9), (first,), (1, 2, 6, 6))
    draft.dense(draft.flat(draft.activation(convolved(draft, pooled, 2), Relu())), 2)
    network = draft.network()
    assert not PatchNetwork.of(network, network.layers[1])


@pytest.mark.parametrize("activation", ELEMENTWISE, ids=label)
def test_windows_give_the_whole_network_s_bounds(activation: Activation) -> None:
    """Of every neuron of every layer, on two boxes, at the borders and inside."""
    seen = 0
    for seed in (0, 1):
        network = residual_images(seed, activation)
        bounds = intervals(network, seed)
        sizes = magnitudes(network, bounds)
        for layer in network.layers:
            for patches in PatchNetwork.of(network, layer):
                seen += 1
                the_same(network, layer, patches, bounds, sizes, seed)
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
            without.setattr(PatchNetwork, "of", lambda network, layer, ends=False: [])
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


@pytest.mark.parametrize("images", [residual_images, stretched_images])
def test_the_supergradient_s_value_is_the_bound(images: Callable[[int, Activation], Network]) -> None:
    """Forward through windows as well: what is beyond the image stays out of it."""
    network = images(1, Relu())
    bounds = intervals(network, 1)
    for layer in network.layers[1:]:
        for patches in PatchNetwork.of(network, layer):
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
    assert PatchNetwork.of(draft.network(), before)
    assert not PatchNetwork.of(draft.network(), behind)


def test_layers_without_neurons() -> None:
    """Slices that leave nothing have no windows."""
    draft = Draft(torch.Generator().manual_seed(0), (1, 2, 6, 6))
    first = draft.activation(convolved(draft, 0, 2), Relu())
    value = convolved(draft, first, 2)
    none = reindex.Slice(((0, 1, 1), (0, 0, 1), (0, 6, 1), (0, 6, 1)))
    value = draft.add(NonNegative(none, ((1, 2, 6, 6),)), (value,), (1, 0, 6, 6))
    flat = draft.flat(draft.activation(value, Relu()))
    draft.add(Dense(torch.zeros(1, 0, dtype=DOUBLE), torch.zeros(1, dtype=DOUBLE)), (flat,), (1,))
    network = draft.network()
    assert [len(PatchNetwork.of(network, layer)) for layer in network.layers] == [1, 0]


def test_large_windows_are_not_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_module, "_WORTH", 1.0)
    network = residual_images(1, Relu())
    assert PatchNetwork.of(network, network.layers[0])
    assert not PatchNetwork.of(network, network.layers[-1])
