"""The least value of a linear function over a ball and a box: never above what points there give, and reached by one."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import random_layers, relu_model

import verify
from verify.bounders.ibp import interval
from verify.bounders.intermediate import IntermediateBounds
from verify.deadline import Deadline
from verify.network.ball import Ball
from verify.problem import prepare


def made(seed: int, norm: int, inputs: int = 6) -> tuple[Ball, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A ball, some linear functions on two boxes, and the boxes; some inputs are fixed, some at the boxes' ends."""
    random = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=random, dtype=torch.float64)

    centre = uniform(inputs) - 0.5
    reach = uniform(2, 1, inputs) * (uniform(2, 1, inputs) > 0.2)
    lower, upper = centre - reach, centre + uniform(2, 1, inputs)
    t = (uniform(2, 5, inputs) - 0.5) * (uniform(2, 5, inputs) > 0.1)
    return Ball(norm, centre, 0.25 + 2 * uniform(inputs), 0.1 + float(uniform(1)), 3), t, lower, upper


def size_of(ball: Ball, x: torch.Tensor) -> torch.Tensor:
    away = ball.weights * (x - ball.centre).abs()
    return away.square().sum(-1).sqrt() if ball.norm == 2 else away.sum(-1)


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("seed", range(20))
def test_bounds_hold_and_are_reached(norm: int, seed: int) -> None:
    ball, t, lower, upper = made(seed, norm)
    bound, minimiser, sizes = ball.least(t, lower, upper)
    noise = torch.from_numpy(np.random.default_rng(seed).normal(size=(3000, 2, 1, 6)))
    points = (ball.centre + noise).clamp(lower, upper)
    ratio = (ball.radius / size_of(ball, points)).clamp(max=1.0)
    points = ball.centre + (points - ball.centre) * ratio[..., None]
    assert bool((size_of(ball, points) <= ball.radius + 1e-9).all())
    values = (points * t[None]).sum(-1)
    assert bool((values >= bound - 1e-12 * sizes).all())
    assert bool((minimiser >= lower).all() and (minimiser <= upper).all())
    assert bool((size_of(ball, minimiser) <= ball.radius).all())
    torch.testing.assert_close((minimiser * t).sum(-1), bound, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", [1, 2])
def test_boxes_beyond_the_ball(norm: int) -> None:
    """Boxes that a split made: nothing is in both where they are apart, and the bound says so; else it still holds."""
    ball = Ball(norm, torch.zeros(2).double(), torch.ones(2).double(), 1.0, 0)
    t = torch.tensor([[[1.0, -2.0], [-3.0, 0.5]]]).double()
    for low, apart in ((0.8, True), (0.45, False), (0.75, norm == 2 or True)):
        lower, upper = torch.full((1, 1, 2), low).double(), torch.full((1, 1, 2), 2.0).double()
        bound = ball.least(t, lower, upper)[0]
        inside = 2 * low**2 <= 1 if norm == 2 else 2 * low <= 1
        assert bool((bound > 1.0).all()) == (apart and not inside)
        if inside:
            grid = torch.cartesian_prod(*[torch.linspace(low, 1, 200).double()] * 2)
            grid = grid[size_of(ball, grid) <= 1]
            assert bool(((grid @ t[0].mT).amin(0) >= bound[0] - 1e-9).all())


@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), st.floats(0, 1e3), st.sampled_from([1, 2]))
def test_any_numbers(t: list[float], radius: float, norm: int) -> None:
    """With what is charged for rounding the bound holds exactly, at the centre and where the ball is left."""
    centre = torch.tensor([1e6, -1e-6, 0.1], dtype=torch.float64)
    ball = Ball(norm, centre, torch.tensor([1.0, 1e-3, 7.0], dtype=torch.float64), radius, 0)
    slope, ends = torch.tensor([[t]], dtype=torch.float64), torch.full((1, 1, 3), 2e6, dtype=torch.float64)
    bound, _, sizes = ball.least(slope, -ends, ends)
    charged = Fraction(float(bound)) - Fraction(float(sizes)) / 10**12
    step = [min(Fraction(radius) / Fraction(w), Fraction(10**6)) for w in (1.0, 1e-3, 7.0)]
    for i in range(3):
        for sign in (-1, 0, 1):
            point = [Fraction(float(c)) for c in centre]
            point[i] += sign * step[i]
            assert sum(Fraction(a) * b for a, b in zip(t, point, strict=True)) >= charged


@pytest.mark.parametrize("kind", ["L1Ball", "L2Ball"])
def test_intermediate_bounds_use_the_ball(kind: str) -> None:
    """They are tighter than those of its box, and hold at its points."""
    model = verify.load(relu_model(random_layers(4, (20, 12, 8, 3))))
    x = np.full(20, 0.5)
    problem = prepare(model, getattr(verify, kind)(x, 0.2, 0))
    assert problem.ball is not None
    network = replace(problem.model.network, ball=problem.ball)
    lower, upper = problem.boxes([0])
    plain, _ = interval(network, lower, upper)
    tight = IntermediateBounds().tighten(network, plain, Deadline())
    boxed = IntermediateBounds().tighten(problem.model.network, plain, Deadline())
    first = network.layers[0].variables
    own, around = ((part.upper - part.lower)[:, first] for part in (tight, boxed))
    assert bool((own <= around).all()) and float(own.sum()) < 0.5 * float(around.sum())
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(4000, 20)))
    points = problem.ball.centre + noise * (0.2 / size_of(problem.ball, problem.ball.centre + noise))[:, None]
    values = network.values(points)
    for layer in network.layers:
        pre = values[layer.pre_node].flatten(1)
        assert bool(
            (pre >= tight.lower[:, layer.variables] - 1e-9).all()
            and (pre <= tight.upper[:, layer.variables] + 1e-9).all()
        )


@pytest.mark.parametrize("kind", ["L1Ball", "L2Ball"])
def test_balls_of_many_inputs_are_decided(kind: str) -> None:
    """More inputs than are split: the label of a linear function changes at a distance that is known."""
    layer = torch.nn.Linear(30, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([torch.zeros(30), torch.linspace(0.1, 1, 30)]))
        layer.bias.copy_(torch.tensor([0.5 * layer.weight.sum().item() + 1.0, 0.0]))
    model = verify.load(torch.nn.Sequential(layer, torch.nn.ReLU()), torch.zeros(1, 30))
    reach = 1.0 if kind == "L1Ball" else 1 / layer.weight[1].norm().item()
    x = torch.full((1, 30), 0.5)
    found = {}
    for share in (0.5, 0.98, 1.02):
        ball = getattr(verify, kind)(x, share * reach, 0, clip=None)
        result = verify.verify(model, ball, timeout=60)
        found[share] = result.verdict
    assert found == {0.5: "unsat", 0.98: "unsat", 1.02: "sat"}


def test_a_ball_is_of_its_problem_alone() -> None:
    """The model that a ball's problem made is no smaller for other properties."""
    problem = prepare(
        verify.load(relu_model(random_layers(4, (20, 12, 3)))), verify.L2Ball(np.full(20, 0.5), 0.01, 0)
    )
    assert problem.model.network.ball is None
