"""Ranges and tubes hold what models really give, and are as tight as their methods make them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from nets import random_layers, relu_model
from torch import nn

import verify
from verify.errors import InputError

MODEL = verify.load(relu_model(random_layers(2, (3, 12, 12, 2))))
RNG = np.random.default_rng(0)


class Loop(nn.Module):
    """A mass that a small controller brings to rest."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.inner, self.outer = nn.Linear(2, 4), nn.Linear(4, 1, bias=False)

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        force = -state[:, :1] - state[:, 1:] + 0.1 * self.outer(torch.relu(self.inner(state)))
        return torch.cat([state[:, :1] + 0.1 * state[:, 1:], 0.95 * state[:, 1:] + 0.1 * force], 1)


@pytest.mark.parametrize("method", ["interval", "crown", "restricted"])
def test_ranges_hold(method: str) -> None:
    lower = RNG.random((6, 3)) - 0.5
    upper = lower + RNG.random((6, 3))
    found = verify.output_range(MODEL, (lower, upper), method=method, layers=True)
    points = lower + (upper - lower) * RNG.random((400, 6, 3)).round(1)
    network = MODEL.network
    outputs = network.forward(torch.from_numpy(points.reshape(-1, 3))).reshape(400, 6, 2)
    low, high = found
    assert low.shape == high.shape == (6, *MODEL.output_shape) and low.dtype == torch.float64
    assert bool((outputs >= low.reshape(6, 2)).all() and (outputs <= high.reshape(6, 2)).all())
    assert [layer.lower.shape for layer in found.layers] == [(6, 12), (6, 12)] and found.layers[
        0
    ].operator == "Relu"
    one = verify.output_range(MODEL, (lower[0], upper[0]), method=method)
    assert one.lower.shape == MODEL.output_shape
    torch.testing.assert_close(one.lower.flatten(), low.reshape(6, 2)[0])


def test_methods_are_ever_tighter() -> None:
    box = (np.full(3, -0.5), np.full(3, 0.5))
    widths = [
        float((found.upper - found.lower).sum())
        for found in (verify.output_range(MODEL, box, method=m) for m in ("interval", "crown", "restricted"))
    ]
    assert widths[0] > widths[1] > widths[2]


def test_gradients_of_the_box() -> None:
    lower = torch.full((1, 3), -0.5, dtype=torch.float64, requires_grad=True)
    upper = torch.full((1, 3), 0.5, dtype=torch.float64, requires_grad=True)
    found = verify.output_range(MODEL, (lower, upper), method="interval", differentiable=True)
    found.upper.sum().backward()
    assert (
        lower.grad is not None
        and upper.grad is not None
        and bool((upper.grad >= 0).all() and upper.grad.any())
    )
    step = 1e-4
    with torch.no_grad():
        moved = verify.output_range(MODEL, (lower, upper + step * upper.grad), method="interval")
    assert moved.upper.sum().item() == pytest.approx(
        found.upper.sum().item() + step * float((upper.grad**2).sum()), rel=1e-3
    )
    assert not verify.output_range(MODEL, (lower, upper), method="interval").upper.requires_grad


def test_tubes_hold_all_trajectories() -> None:
    model, box = Loop(), ([0.8, -0.1], [1.0, 0.1])
    widths = []
    for options in ({"horizon": 1}, {"horizon": 6}, {"horizon": 6, "pieces": (2, 3)}):
        tube = verify.reach(model, box, 8, **options)
        assert (
            len(tube) == 8
            and tube.finished
            and tube.lower.shape == (9, 2)
            and tube.trajectories.shape[:2] == (9, 200)
        )
        assert bool(
            (tube.trajectories >= tube.lower[:, None] - 1e-6).all()
            and (tube.trajectories <= tube.upper[:, None] + 1e-6).all()
        )
        widths.append(float((tube.upper[-1] - tube.lower[-1]).sum()))
        assert tube.stays_within(-9, [9, 9]) and not tube.stays_within([0.9, -9], 9)
    assert widths[0] > widths[1] > widths[2]
    assert not verify.reach(model, box, 100, timeout=1e-9).finished
    with pytest.raises(InputError, match="shapes"):
        tube.stays_within([0, 0, 0], 9)


REFUSED: dict[str, tuple[Any, str]] = {
    "reversed": (lambda: verify.output_range(MODEL, ([1] * 3, [0] * 3)), "reversed"), "one end": (lambda: verify.output_range(MODEL, [[0] * 3]), "parts"),
    "shapes": (lambda: verify.output_range(MODEL, ([0] * 3, [0] * 2)), "one shape"), "other shape": (lambda: verify.output_range(MODEL, (np.zeros((2, 4)), np.ones((2, 4)))), "shape"),
    "method": (lambda: verify.output_range(MODEL, ([0] * 3, [1] * 3), method="lp"), "method"), "gradients": (lambda: verify.output_range(MODEL, ([0] * 3, [1] * 3), differentiable=True), "interval"),
    "NaN": (lambda: verify.output_range(MODEL, ([0, 0, np.nan], [1] * 3)), "nan"), "infinite": (lambda: verify.output_range(MODEL, ([0] * 3, [1, 1, np.inf])), "inf"),
    "no boxes": (lambda: verify.output_range(MODEL, (np.zeros((0, 3)), np.zeros((0, 3)))), "without entries"),
    "no loop": (lambda: verify.reach(MODEL, ([0] * 3, [1] * 3), 3), "takes.*gives"), "steps": (lambda: verify.reach(Loop(), ([0, 0], [1, 1]), 0), "steps"),
    "pieces": (lambda: verify.reach(Loop(), ([0, 0], [1, 1]), 1, pieces=[1, 2, 3]), "pieces"), "many pieces": (lambda: verify.reach(Loop(), ([0, 0], [1, 1]), 1, pieces=10_000), "100000"),
    "text pieces": (lambda: verify.reach(Loop(), ([0, 0], [1, 1]), 1, pieces="2"), "pieces"), "other state": (lambda: verify.reach(Loop(), ([0] * 3, [1] * 3), 1), ""),
    "overflow": (lambda: verify.reach(Exploding(), ([1], [2]), 9), "finite bounds"),
}  # fmt: skip


class Exploding(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x * 1e30


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(kind: str) -> None:
    make, said = REFUSED[kind]
    with pytest.raises(InputError, match=said or None):
        make()
