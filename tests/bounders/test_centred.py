"""CROWN in float32 around a centre: bounds hold, roundings are within what is counted for them, and little is lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from nets import DOUBLE, EXAMPLES, FAMILIES, label, random_box, random_network, samples, variables
from test_patches import generated_images, residual_images, stretched_images
from torch import Tensor

from verify.bounders import centred, intermediate
from verify.bounders import patches as local_module
from verify.bounders.centred import Centred, CentredPasses
from verify.bounders.ibp import interval
from verify.bounders.intermediate import IntermediateBounds
from verify.bounders.patches import PatchNetwork
from verify.bounders.views import views_of
from verify.deadline import Deadline
from verify.network.activations import Activation, Relu, Sigmoid
from verify.network.graph import Network
from verify.state import Bounds, Objective


@pytest.fixture(autouse=True)
def _small_passes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intermediate, "_LARGE", 0)


SEPARATE = [activation for activation in EXAMPLES if not activation.mixes]


def boxes(network: Network, seed: int, radius: float) -> Bounds:
    """Two boxes with interval bounds of all variables."""
    box = random_box(network, 2, seed, radius)
    inputs = slice(0, network.inputs)
    return interval(network, box.lower[:, inputs], box.upper[:, inputs])[0]


def longest(network: Network) -> int:
    """The largest of a network's nodes."""
    return max(node.size for node in network.nodes)


def both(known: Centred, network: Network, number: int, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """A layer's deviations by the sweep in float32, what that may be off by, and the same in float64."""
    layer, working = network.layers[number], network.to("cpu", torch.float32)
    double = replace(
        known,
        **{
            name: {index: part.double() for index, part in getattr(known, name).items()}
            for name in ("slopes", "posts", "costs", "radius")
        },
    )
    [view], [working_view] = views_of(network, layer), views_of(working, layer)
    rows = torch.arange(len(view.by_position(torch.ones(batch, layer.size, dtype=torch.bool))))
    size = view.network.nodes[view.node].size
    neurons = torch.arange(size)[None].expand(len(rows), -1)
    start = Objective.both_ends(neurons, size, torch.zeros(0, dtype=DOUBLE)).coefficients[:, :, 0]
    exact, *_ = CentredPasses(double, view)._swept(view, rows, start)
    found, slack, _ = CentredPasses(known, working_view)._swept(working_view, rows, start.float())
    return found, slack + known.lost, exact


CASES = [(activation, FAMILIES[i % len(FAMILIES)]) for i, activation in enumerate(SEPARATE)]


@pytest.mark.parametrize("radius", [1e-5, 0.3])
@pytest.mark.parametrize(
    ("activation", "family"), [*CASES, *((Relu(), family) for family in FAMILIES)], ids=label
)
def test_bounds_hold(activation: Activation, family: str, radius: float) -> None:
    network = random_network(7, family, (activation, Relu()))
    bounds = boxes(network, 3, radius)
    known = Centred.of(network, bounds, longest(network))
    if known is None:  # infinite intervals: another precision is taken
        assert not bool(bounds.lower.isfinite().all() and bounds.upper.isfinite().all())
        return
    working = network.to("cpu", torch.float32)
    found = IntermediateBounds().tighten(network, bounds, Deadline.after(None), working)
    x = samples(bounds.lower[:, : network.inputs], bounds.upper[:, : network.inputs], 200)
    values = variables(network, x.flatten(0, 1)).reshape(2, -1, network.variables)
    slack = 1e-9 * (1 + values.abs())
    assert bool((values >= found.lower[:, None] - slack).all())
    assert bool((values <= found.upper[:, None] + slack).all())
    for number in range(len(network.layers)):
        total, counted, exact = both(known, network, number)
        assert bool(((total - exact).abs() <= counted).all())


@pytest.mark.parametrize("seed", range(6))
def test_patches_as_well(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_module, "_WORTH", float("inf"))
    network = residual_images(seed, (Relu(), Sigmoid())[seed % 2])
    bounds = boxes(network, seed, 0.1)
    known = Centred.of(network, bounds, longest(network))
    assert known is not None
    for number in range(len(network.layers)):
        total, counted, exact = both(known, network, number)
        assert bool(((total - exact).abs() <= counted).all())
    working = network.to("cpu", torch.float32)
    found = IntermediateBounds().tighten(network, bounds, Deadline.after(None), working)
    exact = IntermediateBounds().tighten(network, bounds, Deadline.after(None))
    lost = (exact.lower - found.lower).clamp(min=0) + (found.upper - exact.upper).clamp(min=0)
    assert float(lost.sum()) <= 0.002 * float((exact.upper - exact.lower).sum())


@pytest.mark.parametrize("images", [generated_images, stretched_images])
@pytest.mark.parametrize("seed", range(2))
def test_windows_that_end_early(
    images: Callable[[int, Activation], Network], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is before them is swept as a whole: no bound is wrong, and little is lost against passes through the whole network."""
    monkeypatch.setattr(local_module, "_WORTH", float("inf"))
    network = images(seed, (Relu(), Sigmoid())[seed])
    bounds = boxes(network, seed, 0.1)
    working = network.to("cpu", torch.float32)
    if images is generated_images:
        views = [views_of(working, layer, ends=True)[0] for layer in network.layers[1:]]
        assert all(view.behind is not None for view in views)
    found = IntermediateBounds().tighten(network, bounds, Deadline.after(None), working)
    with monkeypatch.context() as without:
        without.setattr(PatchNetwork, "of", lambda network, layer, ends=False: [])
        whole = IntermediateBounds().tighten(network, bounds, Deadline.after(None))
    lost = (whole.lower - found.lower).clamp(min=0) + (found.upper - whole.upper).clamp(min=0)
    assert float(lost.sum()) <= 0.002 * float((whole.upper - whole.lower).sum())
    x = samples(bounds.lower[:, : network.inputs], bounds.upper[:, : network.inputs], 300)
    values = variables(network, x.flatten(0, 1)).reshape(2, -1, network.variables)
    slack = 1e-9 * (1 + values.abs())
    assert bool(
        (values >= found.lower[:, None] - slack).all() and (values <= found.upper[:, None] + slack).all()
    )
    monkeypatch.setattr(intermediate, "_GAIN", -1.0)  # one box alone is not given up
    for box in (0, 1):
        alone = IntermediateBounds().tighten(
            network, bounds.select(torch.tensor([box])), Deadline.after(None), working
        )
        assert torch.allclose(alone.lower[0], found.lower[box], rtol=1e-3, atol=1e-3)


def test_little_is_lost_far_from_zero() -> None:
    """Sizes of values do not matter, only how far they may be from the centre's."""
    network = random_network(5, "residual", (Relu(), Relu(), Relu()))
    box = random_box(network, 1, 1, 1e-3)
    inputs = slice(0, network.inputs)
    bounds, _ = interval(network, box.lower[:, inputs] + 1000, box.upper[:, inputs] + 1000)
    known = Centred.of(network, bounds, longest(network))
    assert known is not None
    total, counted, _ = both(known, network, len(network.layers) - 1, 1)
    assert bool((counted <= 0.01 * total.abs()).all())


def test_other_ways_to_multiply_are_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network(5, "chain", (Relu(), Relu()))
    bounds = boxes(network, 3, 0.3)
    expected = IntermediateBounds().tighten(network, bounds, Deadline.after(None))
    monkeypatch.setattr(centred, "_is_plain", lambda: False)
    working = network.to("cpu", torch.float32)
    found = IntermediateBounds().tighten(network, bounds, Deadline.after(None), working)
    assert bool((found.lower == expected.lower).all() and (found.upper == expected.upper).all())


def test_shorter_formats_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sets them, and wherever: float64 bounds are taken then."""
    network = random_network(5, "chain", (Relu(), Relu()))
    bounds, working = boxes(network, 3, 0.3), network.to("cpu", torch.float32)
    expected = IntermediateBounds().tighten(network, bounds, Deadline.after(None))

    def check() -> None:
        found = IntermediateBounds().tighten(network, bounds, Deadline.after(None), working)
        assert bool((found.lower == expected.lower).all() and (found.upper == expected.upper).all())

    for kind in ("conv", "matmul"):
        before = torch._C._get_fp32_precision_getter("mkldnn", kind)
        try:
            torch._C._set_fp32_precision_setter("mkldnn", kind, "bf16")
            check()
        finally:
            torch._C._set_fp32_precision_setter("mkldnn", kind, before)
    monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "BF16")
    check()


def test_flags_are_as_they_were() -> None:
    network = random_network(5, "chain", (Relu(), Relu()))
    torch.backends.nnpack.set_flags(True)
    IntermediateBounds().tighten(
        network, boxes(network, 3, 0.3), Deadline.after(None), network.to("cpu", torch.float32)
    )
    assert torch._C._get_nnpack_enabled()


def test_one_thread_leaves_it_off_for_the_others() -> None:
    torch._C._set_nnpack_enabled(True)
    with centred._WITHOUT_NNPACK:
        with centred._WITHOUT_NNPACK:
            pass
        assert not torch._C._get_nnpack_enabled()
    assert torch._C._get_nnpack_enabled()
