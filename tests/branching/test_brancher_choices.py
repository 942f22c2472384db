"""Branching: only splits that make both sides smaller, only of what is open, and none where nothing is."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import (
    DOUBLE,
    EXAMPLES,
    examples,
    label,
    networks,
    random_box,
    random_network,
    random_objective,
    random_splits,
    random_state,
    seeds,
)

from verify.bounders.intermediate import IntermediateBounds
from verify.branching.fsb import FilteredSmartBranching
from verify.branching.inputs import widest_effect
from verify.deadline import Deadline
from verify.lagrangian.dual import DualProblem
from verify.network.activations import Activation, Product
from verify.network.graph import Network


def problem_of(network: Network, seed: int, depth: int, rows: int = 1) -> DualProblem:
    """Three boxes with one objective each."""
    bounds = IntermediateBounds().tighten(network, random_box(network, 3, seed), Deadline())
    splits, _ = random_splits(network, bounds, depth, seed)
    return DualProblem(network, splits.apply(bounds), random_objective(network, 3, 1, rows, seed), splits)


def assert_real_splits(problem: DualProblem, candidates: int, seed: int) -> None:
    """Each split leaves something on both sides of its variable's split point; -1 only where all is linear."""
    network = problem.network
    state = problem.clamp(random_state(problem.initial(), seed))
    split = FilteredSmartBranching(candidates).choose(problem, state)
    for row in range(problem.batch):
        lower, upper = problem.bounds.lower[row], problem.bounds.upper[row]
        offered = torch.cat([
            layer.activation.split_point(lower[layer.variables], upper[layer.variables]) for layer in network.layers
        ])  # fmt: skip
        variable = int(split.variable[row])
        if variable < 0:
            assert bool(offered.isnan().all())
        else:
            assert variable >= network.inputs
            assert split.above is not None
            below, above = float(split.value[row]), float(split.above[row])
            assert float(lower[variable]) <= below < float(upper[variable])
            assert float(lower[variable]) < above <= float(upper[variable])
            point = offered[variable - network.inputs]
            assert (below, above) == tuple(map(float, network.split_ends(split.variable[row], point)))


@given(networks(), seeds, st.integers(0, 3), st.sampled_from([0, 1, 3]))
def test_filtered_smart_branching_splits_what_is_open(
    network: Network, seed: int, depth: int, candidates: int
) -> None:
    if any(isinstance(layer.activation, Product) for layer in network.layers):
        candidates = 0  # probes are for elementwise activations
    assert_real_splits(problem_of(network, seed, depth, 1 + seed % 2), candidates, seed)


@pytest.mark.parametrize("activation", EXAMPLES, ids=label)
def test_every_activation_with_the_default_brancher(activation: Activation) -> None:
    for seed in range(6):
        problem = problem_of(random_network(seed, "chain", [activation, activation]), seed, 1)
        assert_real_splits(problem, FilteredSmartBranching().candidates, seed)


def test_children_cover_their_parent() -> None:
    """Both sides share the split's very value, so no point falls between them."""
    network = random_network(2, "residual", list(EXAMPLES[-3:]))
    problem = problem_of(network, 2, 0)
    split = FilteredSmartBranching().choose(problem, problem.clamp(problem.initial()))
    sides = [
        problem.splits.extend(
            split.variable, split.value.double(), torch.full_like(split.variable, side)
        ).apply(problem.bounds)
        for side in (1, -1)
    ]
    column = split.variable[:, None]
    assert torch.equal(sides[0].lower.gather(1, column), sides[1].upper.gather(1, column))
    assert torch.equal(sides[0].upper, problem.bounds.upper)
    assert torch.equal(sides[1].lower, problem.bounds.lower)


@given(seeds, st.integers(1, 6))
def test_input_halving(seed: int, inputs: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    lower = torch.randn(5, inputs, generator=generator, dtype=DOUBLE)
    width = torch.rand(5, inputs, generator=generator, dtype=DOUBLE)
    width[torch.rand(5, inputs, generator=generator) < 0.3] = 0
    upper = lower + width
    cotangent = torch.randn(5, inputs, generator=generator, dtype=DOUBLE) * (seed % 3)
    split = widest_effect(cotangent, lower, upper)
    for row in range(5):
        variable = int(split.variable[row])
        assert (variable < 0) == bool((upper[row] == lower[row]).all())
        if variable >= 0:
            assert float(lower[row, variable]) < float(split.value[row]) < float(upper[row, variable])


def test_adjacent_floats_are_not_halved() -> None:
    lower = torch.tensor([[1.0]], dtype=DOUBLE)
    upper = torch.nextafter(lower, lower + 1)
    assert int(widest_effect(torch.ones_like(lower), lower, upper).variable) == -1


@pytest.mark.parametrize("kind", ["Sin", "Tanh", "Sigmoid", "Gelu", "Mul"])
def test_what_is_narrow_loses_little(kind: str) -> None:
    """Wherever the primal point is: it knows nothing of splits, and a variable would be split again and again."""
    activation = examples(kind)[0]
    size = 2 if activation.joins else 1
    lower, z = torch.full((1, size), 0.5, dtype=DOUBLE), torch.full((1, size), -2.0, dtype=DOUBLE)
    upper, t = lower + 1e-3, torch.ones(1, 1, dtype=DOUBLE)
    for sign in (1, -1):
        hull = activation.hull(lower, upper)
        line = hull.line(sign * t, hull.initial())
        loss = activation.relaxation_loss(sign * t, line, z, lower, upper)
        assert bool(((loss >= 0) & (loss < 1e-5)).all())
