"""Complete clipping: never above the linear program, equal to it for one half-space; bounds hold at all unsafe points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import DOUBLE, EXAMPLES, FAMILIES, label, random_box, random_network, samples, variables
from scipy.optimize import linprog
from torch import Tensor

from verify.bounders import centred, intermediate
from verify.bounders.forward import forward
from verify.bounders.halfspaces import Halfspaces
from verify.bounders.ibp import interval, magnitudes
from verify.bounders.intermediate import IntermediateBounds
from verify.deadline import Deadline
from verify.lagrangian.dual import DualProblem
from verify.network.activations import Activation, Relu
from verify.network.graph import Network
from verify.state import Bounds, Objective


def least(box: Bounds, slopes: Tensor, constants: Tensor) -> Tensor:
    """Of linear functions over boxes, [batch, functions]."""
    ends = torch.where(slopes > 0, box.lower[:, None], box.upper[:, None])
    return (slopes * ends).sum(2) + constants


@pytest.mark.parametrize("seed", range(40))
def test_against_the_linear_program(seed: int) -> None:
    """With one half-space its value; with several no more than that, and mostly a good part of it."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=DOUBLE, generator=generator)

    inputs, rows = 1 + seed % 6, 1 + seed % 3
    lower = random(1, inputs)
    box = Bounds(lower, lower + random(1, inputs).clamp(min=0) + (seed % 2) * 0.1)
    normals = random(1, rows, inputs) * (random(1, rows, inputs) > -0.5)
    inside = lower + (box.upper - lower) * torch.rand(1, inputs, dtype=DOUBLE, generator=generator)
    offsets = -(normals @ inside[0]) - 0.1
    slopes, constants = random(1, 6, inputs), random(1, 6)
    unsafe = Halfspaces.of(box, least(box, normals, offsets), normals, torch.ones(1, rows, dtype=torch.bool))
    plain = least(box, slopes, constants)
    found = unsafe.least(plain, slopes)
    assert bool((found >= plain).all())
    for function in range(6):
        exact = linprog(
            slopes[0, function].numpy(),
            A_ub=normals[0].numpy(),
            b_ub=-offsets[0].numpy(),
            bounds=np.stack([box.lower[0].numpy(), box.upper[0].numpy()], 1),
        )
        assert exact.status == 0
        optimum = exact.fun + float(constants[0, function])
        room = 1e-8 * (1 + abs(optimum))
        assert float(found[0, function]) <= optimum + room
        assert rows > 1 or float(found[0, function]) >= optimum - room


def test_what_says_nothing_changes_nothing() -> None:
    """Rows not used, without slope, infinite or NaN; and none at all."""
    box = Bounds(-torch.ones(1, 2, dtype=DOUBLE), torch.ones(1, 2, dtype=DOUBLE))
    bound = torch.tensor([[-1.0, 0.0, -torch.inf, torch.nan, -0.5]], dtype=DOUBLE)
    slopes = torch.tensor([[[1.0, 1], [0, 0], [1, 1], [1, 1], [torch.inf, 0]]], dtype=DOUBLE)
    used = torch.tensor([[False, True, True, True, True]])
    asked = torch.tensor([[[1.0, -1.0], [torch.nan, 0.0]]], dtype=DOUBLE)
    plain = torch.tensor([[-2.0, -torch.inf]], dtype=DOUBLE)
    for rows in (slice(None), slice(0, 0)):
        unsafe = Halfspaces.of(box, bound[:, rows], slopes[:, rows], used[:, rows])
        assert torch.equal(unsafe.least(plain, asked), plain)
    of_none = unsafe.along(torch.zeros(0, dtype=torch.int64))
    found = of_none.least_around(plain, asked[..., :0], plain.abs())
    assert bool((found <= plain).all()) and float(found[0, 0]) > -2.01


def rows_of(network: Network, bounds: Bounds, objective: Objective) -> Halfspaces:
    """What CROWN tells of rows on bounds."""
    problem = DualProblem(network, bounds, objective)
    found = problem.evaluate(problem.initial(), magnitudes(network, bounds))
    box = Bounds(bounds.lower[:, : network.inputs], bounds.upper[:, : network.inputs])
    cotangent = found.input_cotangent.reshape(len(bounds), objective.thresholds.shape[1], -1)
    return Halfspaces.of(box, found.bound, cotangent, torch.ones_like(found.bound, dtype=torch.bool))


def assert_no_unsafe_point_outside(network: Network, objective: Objective, tight: Bounds) -> int:
    """Of many samples, those where no row is positive; how many there were."""
    inputs, count = slice(0, network.inputs), 0
    points = samples(tight.lower[:, inputs], tight.upper[:, inputs], 2000)
    for row in range(len(tight)):
        outputs = network.forward(points[row])
        values = outputs @ objective.coefficients[row, :, 0].mT - objective.thresholds[row, :, 0]
        unsafe = points[row][(values <= 0).all(1)]
        count += len(unsafe)
        seen = variables(network, unsafe)
        room = 1e-12 * (1 + seen.abs())
        assert bool((seen >= tight.lower[row] - room).all() and (seen <= tight.upper[row] + room).all())
    return count


@pytest.mark.parametrize("activation", EXAMPLES, ids=label)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_unsafe_point_is_outside(family: str, activation: Activation) -> None:
    """Forward bounds and CROWN for all layers, clipped by two rows that hold at about a tenth of all points."""
    seed = EXAMPLES.index(activation) + len(EXAMPLES) * FAMILIES.index(family)
    network = random_network(seed, family, [activation, Relu()])
    box = random_box(network, 2, seed, 0.5)
    inputs = slice(0, network.inputs)
    plain, _ = interval(network, box.lower[:, inputs], box.upper[:, inputs])
    outputs = network.nodes[-1].size
    generator = torch.Generator().manual_seed(seed)
    coefficients = torch.randn(2, 2, 1, outputs, dtype=DOUBLE, generator=generator)
    points = samples(plain.lower[:, inputs], plain.upper[:, inputs], 500)
    values = torch.stack(
        [network.forward(points[row]) @ coefficients[row, :, 0].mT for row in range(2)]
    ).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    objective = Objective(coefficients, values.quantile(0.3, dim=1)[..., None], coefficients[..., :0])
    unsafe = rows_of(network, plain, objective)
    clipped = forward(network, plain, Deadline(), unsafe).bounds
    assert_no_unsafe_point_outside(network, objective, clipped)
    tight = IntermediateBounds().tighten(
        network, plain, Deadline(), unsafe=rows_of(network, plain, objective)
    )
    assert_no_unsafe_point_outside(network, objective, tight)


def test_it_clips_in_both_precisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ReLU network's bounds are tighter over its unsafe points, in float64 and in float32; and hold there."""
    network = random_network(28, "chain", [Relu(), Relu(), Relu()])
    box = random_box(network, 2, 28, 1.0)
    inputs = slice(0, network.inputs)
    plain, _ = interval(network, box.lower[:, inputs], box.upper[:, inputs])
    points = samples(plain.lower[:, inputs], plain.upper[:, inputs], 2000)
    coefficients = torch.zeros(2, 1, 1, network.nodes[-1].size, dtype=DOUBLE)
    coefficients[..., 0] = 1.0
    values = torch.stack([network.forward(points[row])[:, :1] for row in range(2)])
    objective = Objective(coefficients, values.quantile(0.1, dim=1)[..., None], coefficients[..., :0])
    whole = IntermediateBounds().tighten(network, plain, Deadline())
    monkeypatch.setattr(intermediate, "_LARGE", 0)
    passes = centred.CentredPasses.bounds
    asked = []
    monkeypatch.setattr(centred.CentredPasses, "bounds", lambda *a: asked.append(a[0].unsafe) or passes(*a))
    for working in (network, network.to(network.device, torch.float32)):
        unsafe = rows_of(network, whole, objective)
        tight = IntermediateBounds().tighten(network, whole, Deadline(), working, unsafe=unsafe)
        assert assert_no_unsafe_point_outside(network, objective, tight) > 100
        assert float((tight.upper - tight.lower).sum()) < 0.9 * float((whole.upper - whole.lower).sum())
    assert asked and all(one is not None for one in asked)
