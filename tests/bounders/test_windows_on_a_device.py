"""Windows of images on a device that is not the CPU: patches, moved entries, pools, deconvolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from nets import DOUBLE
from pretend import DEVICE, Journal, pretended
from test_patches import generated_images, intervals, residual_images, stretched_images

from verify.bounders import intermediate as intermediate_module
from verify.bounders import patches as local_module
from verify.bounders.centred import Centred
from verify.bounders.intermediate import IntermediateBounds
from verify.bounders.patches import PatchNetwork
from verify.bounders.relevant import relevant
from verify.bounders.restricted import Restricted
from verify.deadline import Deadline
from verify.network.activations import Activation, Relu
from verify.network.graph import Network
from verify.state import Bounds

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a true device")


@pytest.fixture(autouse=True)
def _windows_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_module, "_WORTH", float("inf"))


@pytest.fixture
def journal() -> Iterator[Journal]:
    with pretended() as found:
        yield found


def tightened(network: Network, bounds: Bounds, ascent: Restricted | None) -> Bounds:
    """All layers, with a copy in float32 beside the network."""
    working = network.to(network.device, torch.float32)
    return IntermediateBounds(ascent).tighten(network, bounds, Deadline(), working)


@pytest.mark.parametrize(
    ("images", "ascent"),
    [(stretched_images, None), (generated_images, Restricted(1))],
    ids=["plain", "ascending"],
)
def test_bounds_are_those_of_the_cpu(
    images: Callable[[int, Activation], Network],
    ascent: Restricted | None,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However large: of passes in float32 whose roundings are counted there are none there."""
    network = images(1, Relu())
    bounds, there = intervals(network, 1), network.to(DEVICE, DOUBLE)
    here = tightened(network, bounds, ascent)
    monkeypatch.setattr(intermediate_module, "_LARGE", 0)
    assert Centred.of(there, bounds.to(DEVICE, DOUBLE), 1) is None
    found = tightened(there, bounds.to(DEVICE, DOUBLE), ascent).to(torch.device("cpu"), DOUBLE)
    close = {"rtol": 1e-7, "atol": 1e-9} if ascent is None else {"rtol": 1e-3, "atol": 1e-3}
    torch.testing.assert_close(found.lower, here.lower, **close)
    torch.testing.assert_close(found.upper, here.upper, **close)
    asked = torch.arange(network.outputs) < 1
    assert torch.equal(relevant(there, asked.to(DEVICE)).cpu(), relevant(network, asked))


@pytest.mark.parametrize("images", [residual_images, stretched_images])
def test_sweeps_through_windows_wait_for_nothing(
    images: Callable[[int, Activation], Network], journal: Journal
) -> None:
    """The second one of each: the first one copies what it moves by."""
    network = images(1, Relu())
    there, bounds = network.to(DEVICE, DOUBLE), intervals(network, 1).to(DEVICE, DOUBLE)
    looked_at = 0
    for layer in there.layers:
        for view in PatchNetwork.of(there, layer):
            rows = torch.arange(0, len(bounds) * view.positions, 5, device=DEVICE)
            neurons = torch.zeros(len(rows), 1, dtype=torch.int64, device=DEVICE)
            problem = view.problem(rows, neurons, bounds)
            problem.evaluate(problem.initial())
            with journal.during() as found:
                problem = view.problem(rows, neurons, bounds)
                problem.domain.__dict__["finite"] = True
                problem.evaluate(problem.initial())
            assert not found.waited, dict(found.places())
            looked_at += 1
    assert looked_at
