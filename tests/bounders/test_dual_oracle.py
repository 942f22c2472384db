"""The dual function against linear programs, against its own differences, and against itself in other arrangements."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import (
    DOUBLE,
    EXAMPLES,
    FAMILIES,
    Draft,
    label,
    networks,
    random_box,
    random_network,
    random_objective,
    random_splits,
    random_state,
    samples,
    seeds,
)
from oracles import Planet
from torch import Tensor

from verify.bounders.ibp import interval, magnitudes
from verify.bounders.intermediate import IntermediateBounds
from verify.bounders.restricted import Restricted
from verify.deadline import Deadline
from verify.lagrangian.dual import DualProblem
from verify.lagrangian.terms import Sweep
from verify.network.activations import Activation, Product, Relu
from verify.network.graph import Network
from verify.state import Bounds, DualState, Objective


def relu_problem(seed: int, family: str, depth: int, rows: int) -> tuple[DualProblem, Bounds]:
    """A ReLU network's problem on two boxes with splits that some point keeps."""
    network = random_network(seed, family, [Relu(), Relu()])
    bounds = IntermediateBounds().tighten(network, random_box(network, 2, seed), Deadline())
    splits, _ = random_splits(network, bounds, depth, seed)
    split = splits.apply(bounds)
    return DualProblem(network, split, random_objective(network, 2, 2, rows, seed), splits), split


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "wide_convolution"])
@given(seed=seeds, depth=st.integers(0, 3), rows=st.integers(1, 3))
def test_never_above_the_linear_program(family: str, seed: int, depth: int, rows: int) -> None:
    """q is at most the Planet optimum with the same bounds and splits, at random points, initially, and after a long climb."""
    problem, split = relu_problem(seed, family, depth, rows)
    if problem.network.variables > 60:
        return
    states = [problem.initial(), random_state(problem.initial(), seed)]
    ascended = Restricted(iterations=60, decay=0.97).ascend(problem, problem.initial())
    bounds = [problem.evaluate(problem.clamp(state)).bound for state in [*states, ascended.state]] + [
        ascended.bound
    ]
    for row in range(2):
        planet = Planet(problem.network, split, row)
        for which in range(2):
            optimum = planet.minimise(problem.objective, row, which)
            assert all(float(bound[row, which]) <= optimum + 1e-7 * (1 + abs(optimum)) for bound in bounds)


def chain(seed: int, sizes: tuple[int, ...]) -> Network:
    """A fully connected ReLU network."""
    draft = Draft(torch.Generator().manual_seed(seed), (sizes[0],))
    value = 0
    for size in sizes[1:-1]:
        value = draft.activation(draft.dense(value, size), Relu())
    draft.dense(value, sizes[-1])
    return draft.network()


def rounding(bound: Tensor) -> Tensor:
    """How far two evaluations of one dual point may differ that add in different orders."""
    return 1e-12 * (1 + bound.abs())


def single(network: Network, batch: int, rows: int, seed: int) -> Objective:
    """One objective for each box, on the outputs alone."""
    return random_objective(network, batch, 1, rows, 2 * seed)


@pytest.mark.parametrize("rows", [1, 3])
def test_ascent_closes_the_gap_to_the_linear_program(rows: int) -> None:
    """From CROWN's bound at least 80 % of the way to the Planet optimum, on average over fixed networks."""
    shares, strict = [], 0
    for seed in range(10):
        network = chain(seed, (4, 12, 12, 3))
        bounds = IntermediateBounds().tighten(network, random_box(network, 1, seed, 0.8), Deadline())
        problem = DualProblem(network, bounds, single(network, 1, rows, seed))
        start = float(problem.evaluate(problem.initial()).bound)
        reached = float(Restricted(iterations=300, decay=0.985).ascend(problem, problem.initial()).bound)
        optimum = Planet(network, bounds).minimise(problem.objective)
        assert start <= reached <= optimum + 1e-7
        if optimum - start > 1e-6:
            shares.append((reached - start) / (optimum - start))
            strict += reached > start
    assert len(shares) >= 7
    assert strict == len(shares)
    assert sum(shares) / len(shares) >= 0.8, shares


def test_split_multipliers_close_the_gap_that_splits_open() -> None:
    """With splits of every unstable neuron at 0 the relaxation is a polytope; multipliers must find most of its optimum."""
    shares = []
    for seed in range(12):
        network = chain(seed, (3, 6, 1))
        bounds = IntermediateBounds().tighten(network, random_box(network, 1, seed, 1.0), Deadline())
        splits, _ = random_splits(network, bounds, 0, seed)
        generator = torch.Generator().manual_seed(seed)
        for layer in network.layers:
            for variable in range(layer.variables.start, layer.variables.stop):
                if bool(bounds.lower[0, variable] < 0 < bounds.upper[0, variable]):
                    side = int(torch.randint(2, (1,), generator=generator)) * 2 - 1
                    splits = splits.extend(
                        torch.tensor([variable]), torch.zeros(1, dtype=DOUBLE), torch.tensor([side])
                    )
        split = splits.apply(bounds)
        objective = single(network, 1, 1, seed)
        free, problem = DualProblem(network, split, objective), DualProblem(network, split, objective, splits)
        optimum = Planet(network, split).minimise(objective)
        start = float(free.evaluate(free.initial()).bound)
        reached = float(Restricted(iterations=400, decay=0.985).ascend(problem, problem.initial()).bound)
        assert reached <= optimum + 1e-7 or optimum == float("inf")
        if start + 1e-6 < optimum < float("inf"):
            shares.append((reached - start) / (optimum - start))
    assert len(shares) >= 4
    assert sum(shares) / len(shares) >= 0.8, shares


@given(networks(("chain", "residual")), seeds)
def test_bounds_are_ordered(network: Network, seed: int) -> None:
    """interval <= CROWN' <= restricted <= samples, where CROWN' is the better of both (as boxes are intersected)."""
    box = random_box(network, 2, seed)
    inputs = slice(0, network.inputs)
    _, (low, high) = interval(network, box.lower[:, inputs], box.upper[:, inputs])
    bounds = IntermediateBounds().tighten(network, box, Deadline())
    objective = random_objective(network, 2, 2, 1, 2 * seed)
    problem = DualProblem(network, bounds, objective)
    crown = problem.evaluate(problem.initial()).bound
    ascended = Restricted(iterations=20).ascend(problem, problem.initial()).bound
    row = objective.coefficients[:, :, 0]
    least = row.clamp(min=0) @ low[:, :, None] + row.clamp(max=0) @ high[:, :, None]
    assert bool((crown <= ascended + rounding(crown)).all())
    y = network.forward(samples(box.lower[:, inputs], box.upper[:, inputs], 100).flatten(0, 1)).unflatten(
        0, (2, 100)
    )
    exact = (row @ y.mT).amin(2) - objective.thresholds[:, :, 0]
    assert bool((ascended <= exact + 1e-9 * (1 + exact.abs())).all())
    assert bool((least[..., 0] - objective.thresholds[:, :, 0] <= exact + 1e-9 * (1 + exact.abs())).all())


def test_duals_beat_intervals_on_relu_chains() -> None:
    """CROWN on average by far (on single networks its first slopes may lose); the climb always, as the optimum must."""
    gained = []
    for seed in range(20):
        network = chain(seed, (3, 8, 8, 1))
        box = random_box(network, 1, seed)
        inputs = slice(0, network.inputs)
        _, (low, _) = interval(network, box.lower[:, inputs], box.upper[:, inputs])
        bounds = IntermediateBounds().tighten(network, box, Deadline())
        objective = Objective(
            torch.ones(1, 1, 1, 1, dtype=DOUBLE),
            torch.zeros(1, 1, 1, dtype=DOUBLE),
            torch.zeros(1, 1, 1, 0, dtype=DOUBLE),
        )
        problem = DualProblem(network, bounds, objective)
        gained.append(float(problem.evaluate(problem.initial()).bound - low))
        assert float(Restricted(iterations=60).ascend(problem, problem.initial()).bound - low) >= -1e-3
    assert sum(gained) > 1


@given(networks(), seeds, st.integers(0, 3))
def test_best_bound_grows_with_iterations(network: Network, seed: int, depth: int) -> None:
    bounds = IntermediateBounds().tighten(network, random_box(network, 2, seed), Deadline())
    splits, _ = random_splits(network, bounds, depth, seed)
    problem = DualProblem(network, splits.apply(bounds), random_objective(network, 2, 2, 2, seed), splits)
    start = problem.evaluate(problem.clamp(problem.initial())).bound
    found = [Restricted(iterations=count).ascend(problem, problem.initial()).bound for count in (0, 1, 3, 9)]
    assert bool((found[0] >= start - rounding(start)).all())
    assert all(bool((later >= sooner - rounding(sooner)).all()) for sooner, later in pairwise(found))


def rows_of(problem: DualProblem, state: DualState) -> list[Tensor]:
    """Every row's bounds, evaluated alone."""
    singles = [torch.tensor([row]) for row in range(problem.batch)]
    return [problem.select(row).evaluate(state.select(row)).bound for row in singles]


@given(networks(), seeds, st.integers(0, 3))
def test_batch_equals_one_by_one(network: Network, seed: int, depth: int) -> None:
    """A subproblem's bounds do not depend on its neighbours in the batch, nor does what its ascent has found."""
    box = random_box(network, 4, seed)
    bounds = IntermediateBounds().tighten(network, box, Deadline())
    for row in range(4):
        alone = IntermediateBounds().tighten(network, box.select(torch.tensor([row])), Deadline())
        torch.testing.assert_close(alone.lower[0], bounds.lower[row], rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(alone.upper[0], bounds.upper[row], rtol=1e-7, atol=1e-7)
    splits, _ = random_splits(network, bounds, depth, seed)
    problem = DualProblem(network, splits.apply(bounds), random_objective(network, 4, 2, 2, seed), splits)
    state = problem.clamp(random_state(problem.initial(), seed))
    ascended = Restricted(iterations=3).ascend(problem, state)
    for at, bound in ((state, problem.evaluate(state).bound), (ascended.state, ascended.bound)):
        torch.testing.assert_close(torch.cat(rows_of(problem, at)), bound, rtol=1e-9, atol=1e-9)


@given(networks(), seeds)
def test_objectives_equal_one_by_one(network: Network, seed: int) -> None:
    """Objectives that share a box and its hulls are bounded as if alone."""
    bounds = IntermediateBounds().tighten(network, random_box(network, 2, seed), Deadline())
    objective = random_objective(network, 2, 3, 2, seed)
    problem = DualProblem(network, bounds, objective)
    state = problem.clamp(random_state(problem.initial(), seed))
    together = problem.evaluate(state).bound
    for which in range(3):
        part = slice(which, which + 1)
        own = objective.map(lambda value, part=part: value[:, part])
        at = state.map(lambda value, part=part: value[:, part])
        alone = DualProblem(network, bounds, own).evaluate(at).bound
        torch.testing.assert_close(alone[:, 0], together[:, which], rtol=1e-9, atol=1e-9)


def moved(state: DualState, direction: DualState, size: float) -> DualState:
    """A step."""
    return DualState({name: state[name] + size * part for name, part in direction.items()})


def difference(
    problem: DualProblem, state: DualState, direction: DualState, size: float
) -> tuple[Tensor, Tensor]:
    """The change of q between two valid points around `state`, and what the supergradient there predicts."""
    ahead, behind = (problem.clamp(moved(state, direction, sign * size)) for sign in (1, -1))
    found = problem.evaluate(ahead).bound - problem.evaluate(behind).bound
    gradient = problem.supergradient(state, problem.evaluate(state)).state
    expected = sum((gradient[name] * (ahead[name] - behind[name])).sum(2) for name in state.parts)
    assert isinstance(expected, Tensor)
    return found, expected


def interior(problem: DualProblem, state: DualState, seed: int) -> DualState:
    """The state with all slopes strictly between their limits, where piecewise-linear operators have their kinks."""
    low, high = (
        problem.clamp(state | {"alpha": torch.full_like(state["alpha"], end)}) for end in (-1e9, 1e9)
    )
    share = 0.1 + 0.8 * torch.rand(
        state["alpha"].shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE
    )
    return low | {"alpha": low["alpha"] + share * (high["alpha"] - low["alpha"])}


@pytest.mark.parametrize("activation", EXAMPLES, ids=label)
@pytest.mark.parametrize("family", FAMILIES)
def test_supergradient_against_differences(family: str, activation: Activation) -> None:
    """dq along random directions in slopes, constraint weights and split multipliers; q has kinks, so most, not all, must agree."""
    agreeing = total = 0
    for seed in range(3):
        network = random_network(seed, family, [activation, Relu()])
        bounds = IntermediateBounds().tighten(network, random_box(network, 2, seed, 0.4), Deadline())
        splits, _ = random_splits(network, bounds, 2, seed)
        problem = DualProblem(network, splits.apply(bounds), random_objective(network, 2, 2, 3, seed), splits)
        state = interior(problem, random_state(problem.initial(), seed), seed)
        direction = random_state(state.map(torch.zeros_like), seed + 9)
        weights = direction["constraint_weights"] - direction["constraint_weights"].mean(2, keepdim=True)
        direction = direction | {"constraint_weights": 0.1 * weights}
        found, expected = difference(problem, state, direction, 1e-7)
        scale = 1e-7 * (1 + problem.evaluate(state).bound.abs())
        agreeing += int(((found - expected).abs() <= 1e-4 * (found.abs() + scale)).sum())
        total += found.numel()
    assert agreeing >= 0.9 * total, (agreeing, total)


def cotangents(sweep: Sweep) -> dict[int, Tensor]:
    """t of every layer that the sweep reached."""
    return {node: support.cotangent for node, support in sweep.supports.items()}


@given(networks(("chain", "residual", "convolution")), seeds)
def test_supergradient_lies_above_on_weights(network: Network, seed: int) -> None:
    """q is concave in constraint weights and split multipliers at fixed slopes where no cotangent changes its sign; with one layer
    after the last activation it is so in the constraint weights near any point: q(new) <= q(old) + g . (new - old)."""
    bounds = IntermediateBounds().tighten(network, random_box(network, 2, seed), Deadline())
    problem = DualProblem(network, bounds, random_objective(network, 2, 2, 3, seed))
    state = problem.clamp(random_state(problem.initial(), seed))
    sweep = problem.evaluate(state)
    gradient = problem.supergradient(state, sweep).state["constraint_weights"]
    noise = torch.randn(
        state["constraint_weights"].shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE
    )
    new = problem.clamp(state | {"constraint_weights": state["constraint_weights"] + 0.05 * noise})
    again = problem.evaluate(new)
    predicted = sweep.bound + (gradient * (new["constraint_weights"] - state["constraint_weights"])).sum(2)
    same = torch.stack([
        ((cotangents(again)[node] >= 0) == (t >= 0)).all(2) for node, t in cotangents(sweep).items()
    ]).all(0) if sweep.supports else torch.ones_like(sweep.bound, dtype=torch.bool)  # fmt: skip
    excess = torch.where(same, again.bound - predicted, 0.0)
    assert bool((excess <= 1e-9 * (1 + predicted.abs())).all())


@pytest.mark.parametrize("activation", [a for a in EXAMPLES if not isinstance(a, Product)], ids=label)
def test_probes_bound_the_children_they_stand_for(activation: Activation) -> None:
    """A probe's bound is the child's own bound at the parent's dual point, with the split's multiplier at 0."""
    from verify.lagrangian.probes import Probes

    for seed in range(4):
        network = random_network(seed, "chain", [activation, activation])
        bounds = IntermediateBounds().tighten(network, random_box(network, 2, seed), Deadline())
        objective = single(network, 2, 1, seed)
        problem = DualProblem(network, bounds, objective)
        state = problem.clamp(random_state(problem.initial(), seed))
        for layer in network.layers:
            variable = torch.full((2, 1), layer.variables.start)
            middle = ((bounds.lower + bounds.upper) / 2).gather(1, variable)
            for side in (1, -1):
                probes = Probes(
                    problem.domain, state["alpha"][:, 0], variable, middle, torch.full_like(variable, side)
                )
                probed = problem.evaluate(state, probes=probes).bound
                end = [bounds.lower.clone(), bounds.upper.clone()]
                end[0 if side > 0 else 1][:, layer.variables.start] = middle[:, 0]
                child = DualProblem(network, Bounds(end[0], end[1]), objective)
                expected = child.evaluate(child.clamp(state)).bound
                torch.testing.assert_close(probed, expected, rtol=1e-9, atol=1e-9)


def test_magnitudes_dominate_values() -> None:
    for family in FAMILIES:
        for seed, activation in enumerate(EXAMPLES):
            network = random_network(seed, family, [activation])
            box = random_box(network, 3, seed)
            bounds = IntermediateBounds().tighten(network, box, Deadline())
            sizes = magnitudes(network, bounds)
            points = samples(box.lower[:, : network.inputs], box.upper[:, : network.inputs], 20).flatten(0, 1)
            for index, value in enumerate(network.values(points)):
                largest = value.abs().amax(0).flatten()
                assert bool((largest <= sizes[index].flatten() * (1 + 1e-9)).all())
