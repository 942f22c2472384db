"""No sample lies below a bound: for any network, box, slopes, split multipliers and constraint weights, in both precisions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import (
    DOUBLE,
    EXAMPLES,
    FAMILIES,
    kept,
    label,
    networks,
    random_box,
    random_network,
    random_objective,
    random_splits,
    random_state,
    samples,
    seeds,
    variables,
)
from torch import Tensor

from verify.bounders.ibp import interval, magnitudes
from verify.bounders.intermediate import IntermediateBounds
from verify.bounders.restricted import Restricted
from verify.deadline import Deadline
from verify.lagrangian.dual import DualProblem
from verify.network.activations import Relu
from verify.network.affine import Dense
from verify.network.graph import Network, Node
from verify.state import Bounds, DualState, Objective, Splits

SAMPLES = 400
Setting = tuple[Network, Bounds, int]


def tightened(network: Network, box: Bounds, ascent: Restricted | None = None) -> Bounds:
    """Intermediate bounds of the boxes."""
    return IntermediateBounds(ascent).tighten(network, box, Deadline())


def weighted(objective: Objective, state: DualState, row: int, x: Tensor, y: Tensor) -> Tensor:
    """Each objective's rows, weighted by the state, at samples: [objectives, samples]."""
    values = objective.coefficients[row] @ y.T - objective.thresholds[row][..., None]
    if objective.input_coefficients.shape[3]:
        values = values + objective.input_coefficients[row] @ x.T
    return (state["constraint_weights"][row][..., None] * values).sum(1)


def assert_below(
    problem: DualProblem, state: DualState, bound: Tensor, network: Network, slack: float
) -> None:
    """`bound` [batch, objectives] is at most every sample that keeps the problem's splits."""
    inputs = network.inputs
    points = samples(
        problem.bounds.lower[:, :inputs].double(), problem.bounds.upper[:, :inputs].double(), SAMPLES
    )
    objective = problem.objective.to(torch.device("cpu"), DOUBLE)
    for row in range(problem.batch):
        x = points[row]
        x = x[kept(problem.splits, row, variables(network, x))]
        if len(x):
            value = weighted(objective, state.to(torch.device("cpu"), DOUBLE), row, x, network.forward(x))
            excess = value.amin(1) - bound[row].double()
            allowed = slack * (1 + value.abs().amax(1))
            assert bool((excess >= -allowed).all()), (row, excess.tolist())


def dual_problem(network: Network, box: Bounds, seed: int, depth: int) -> tuple[DualProblem, Tensor]:
    """A problem with random splits, and a point of each box that keeps them."""
    bounds = tightened(network, box)
    splits, keeper = random_splits(network, bounds, depth, seed)
    objective = random_objective(network, len(box), 2, 1 + seed % 3, seed)
    return DualProblem(network, splits.apply(bounds), objective, splits), keeper


def assert_keepers_above(
    problem: DualProblem, state: DualState, bound: Tensor, keeper: Tensor, slack: float
) -> None:
    """The points that are known to keep the splits lie above the bound."""
    y = problem.network.forward(keeper)
    for row in range(problem.batch):
        value = weighted(problem.objective, state, row, keeper[row : row + 1], y[row : row + 1])[:, 0]
        assert bool((bound[row] <= value + slack * (1 + value.abs())).all()), (
            row,
            (bound[row] - value).tolist(),
        )


@given(networks(), seeds, st.integers(0, 4))
def test_any_dual_point_bounds_from_below(network: Network, seed: int, depth: int) -> None:
    problem, keeper = dual_problem(network, random_box(network, 3, seed), seed, depth)
    sizes = magnitudes(network, problem.bounds)
    for trial in range(4):
        state = problem.initial() if trial == 0 else random_state(problem.initial(), seed + trial)
        state = problem.clamp(state)
        plain, certified = problem.evaluate(state).bound, problem.evaluate(state, sizes).bound
        assert bool((certified <= plain).all())
        assert bool(
            (certified >= plain - 1e-6 * (1 + plain.abs()) - 1e-5 * (1 + state["beta"].abs().sum(2))).all()
        )
        assert_below(problem, state, certified, network, 1e-12)
        assert_keepers_above(problem, state, certified, keeper, 1e-12)


@given(networks(), seeds, st.integers(0, 4))
def test_ascended_points_bound_from_below(network: Network, seed: int, depth: int) -> None:
    """Ascent looks for the highest value of q, so it finds what is wrong with q where random points do not."""
    problem, keeper = dual_problem(network, random_box(network, 2, seed), seed, depth)
    found = Restricted(iterations=25, step=0.5, decay=0.97).ascend(problem, problem.initial())
    again = problem.evaluate(problem.clamp(found.state)).bound
    torch.testing.assert_close(again, found.bound, rtol=1e-9, atol=1e-9)
    assert_below(problem, problem.clamp(found.state), found.bound, network, 1e-9)
    assert_keepers_above(problem, problem.clamp(found.state), found.bound, keeper, 1e-9)


@pytest.mark.parametrize("activation", EXAMPLES, ids=label)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_activation_in_every_family(family: str, activation: object) -> None:
    """What hypothesis may not reach: each activation twice in a row, with splits, ascended and certified."""
    for seed in range(2):
        network = random_network(seed, family, [activation, activation])  # type: ignore[list-item]
        problem, keeper = dual_problem(network, random_box(network, 2, seed, 0.4), seed, 3)
        state = problem.clamp(Restricted(iterations=10).ascend(problem, problem.initial()).state)
        certified = problem.evaluate(state, magnitudes(network, problem.bounds)).bound
        assert_below(problem, state, certified, network, 1e-12)
        assert_keepers_above(problem, state, certified, keeper, 1e-12)


@given(networks(), seeds, st.integers(0, 3))
def test_single_precision_bounds_up_to_rounding(network: Network, seed: int, depth: int) -> None:
    problem, _ = dual_problem(network, random_box(network, 2, seed, 0.4), seed, depth)
    cpu, single = torch.device("cpu"), torch.float32
    narrow = DualProblem(
        network.to(cpu, single),
        problem.bounds.to(cpu, single),
        problem.objective.to(cpu, single),
        problem.splits,
    )
    state = narrow.clamp(random_state(problem.initial(), seed).to(cpu, single))
    bound = narrow.evaluate(state).bound
    exact = problem.evaluate(problem.clamp(state.to(cpu, DOUBLE))).bound
    size = 1 + exact.abs() + state["beta"].abs().sum(2)
    assert bool(((bound.double() - exact) <= 2e-3 * size).all())
    assert_below(narrow, state, bound - 1e-3 * size.float(), network, 1e-4)


@given(networks(), seeds, st.booleans())
def test_intermediate_bounds_enclose_samples(network: Network, seed: int, optimised: bool) -> None:
    box = random_box(network, 3, seed)
    bounds = tightened(network, box, Restricted(iterations=4) if optimised else None)
    plain, _ = interval(network, box.lower[:, : network.inputs], box.upper[:, : network.inputs])
    points = samples(box.lower[:, : network.inputs], box.upper[:, : network.inputs], SAMPLES)
    for row in range(len(box)):
        values = variables(network, points[row])
        assert bool((values >= bounds.lower[row] - 1e-12).all())
        assert bool((values <= bounds.upper[row] + 1e-12).all())
    assert bool((bounds.lower >= plain.lower).all() and (bounds.upper <= plain.upper).all())
    assert torch.equal(bounds.lower[:, : network.inputs], box.lower[:, : network.inputs])


@given(networks(), seeds)
def test_interval_encloses_samples(network: Network, seed: int) -> None:
    box = random_box(network, 3, seed)
    inputs = slice(0, network.inputs)
    bounds, (low, high) = interval(network, box.lower[:, inputs], box.upper[:, inputs])
    points = samples(box.lower[:, inputs], box.upper[:, inputs], SAMPLES)
    for row in range(len(box)):
        values, y = variables(network, points[row]), network.forward(points[row])
        assert bool(((values >= bounds.lower[row]) & (values <= bounds.upper[row])).all())
        assert bool(((y >= low[row]) & (y <= high[row])).all())


@given(networks(), seeds)
def test_points_are_bounded_exactly(network: Network, seed: int) -> None:
    """On a box of one point every bound is the value there."""
    box = random_box(network, 2, seed, radius=0.0)
    bounds = tightened(network, box)
    values = variables(network, box.lower[:, : network.inputs])
    torch.testing.assert_close(bounds.lower, values, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(bounds.upper, values, rtol=1e-6, atol=1e-6)
    objective = random_objective(network, 2, 1, 1, 2 * seed)
    problem = DualProblem(network, bounds, objective)
    y = network.forward(box.lower[:, : network.inputs])
    value = (objective.coefficients[:, :, 0] * y[:, None]).sum(2) - objective.thresholds[:, :, 0]
    state = problem.initial()
    assert bool((problem.evaluate(state, magnitudes(network, bounds)).bound <= value).all())
    torch.testing.assert_close(problem.evaluate(state).bound, value, rtol=1e-5, atol=1e-5)


def relu_network(layers: list[tuple[Tensor, Tensor]]) -> Network:
    """Dense layers with ReLUs between them."""
    nodes = [Node(None, (), (layers[0][0].shape[1],))]
    for i, (weight, bias) in enumerate(layers):
        nodes.append(Node(Dense(weight, bias), (len(nodes) - 1,), (weight.shape[0],)))
        if i < len(layers) - 1:
            nodes.append(Node(Relu(), (len(nodes) - 1,), (weight.shape[0],)))
    return Network(tuple(nodes))


@pytest.mark.parametrize("shift", [-50.0, 0.0, 50.0], ids=["dead", "unstable", "active"])
@pytest.mark.parametrize("scale", [0.0, 1.0], ids=["zero-weights", "weights"])
@pytest.mark.parametrize("width", [1, 4])
def test_degenerate_layers(width: int, scale: float, shift: float) -> None:
    """One neuron, all weights zero, all neurons dead or active: bounds are below samples, and exact without unstable ones."""
    generator = torch.Generator().manual_seed(width)
    first = torch.randn(width, 2, generator=generator, dtype=DOUBLE) * scale
    last = torch.randn(1, width, generator=generator, dtype=DOUBLE)
    bias = torch.full((width,), shift, dtype=DOUBLE)
    network = relu_network([(first, bias), (last, torch.zeros(1, dtype=DOUBLE))])
    bounds = tightened(network, random_box(network, 1, 3))
    objective = Objective(
        torch.ones(1, 1, 1, 1, dtype=DOUBLE),
        torch.zeros(1, 1, 1, dtype=DOUBLE),
        torch.zeros(1, 1, 1, 0, dtype=DOUBLE),
    )
    problem = DualProblem(network, bounds, objective)
    bound = Restricted(30).ascend(problem, problem.initial()).bound
    least = network.forward(samples(bounds.lower[:, :2], bounds.upper[:, :2], 500)[0]).min()
    assert float(bound) <= float(least) + 1e-9
    if shift or not scale:
        torch.testing.assert_close(bound[0, 0], least, rtol=1e-9, atol=1e-9)


def exactly(layers: list[tuple[Tensor, Tensor]], x: list[Fraction]) -> tuple[list[Fraction], list[Fraction]]:
    """All pre-activations, and the outputs, in rational arithmetic."""
    values, seen = x, []
    for i, (weight, bias) in enumerate(layers):
        values = [
            sum((Fraction(w) * v for w, v in zip(row, values, strict=True)), Fraction(b))
            for row, b in zip(weight.tolist(), bias.tolist(), strict=True)
        ]
        if i < len(layers) - 1:
            seen += values
            values = [max(value, Fraction(0)) for value in values]
    return seen, values


def absorbing(seed: int, power: int) -> list[tuple[Tensor, Tensor]]:
    """Layers whose biases are huge and cancel in the next one, so that float64 loses the digits that matter."""
    random = np.random.default_rng(seed)
    width = int(random.integers(1, 5))
    huge = np.ldexp(random.choice([-1.0, 1.0], width), power)
    first = random.standard_normal((width, 2))
    second = np.where(random.random((width, width)) < 0.3, 0.0, random.choice([-1.0, 1.0], (width, width)))
    cancel = -(second @ np.maximum(huge, 0)) + random.standard_normal(width)
    last = random.standard_normal((1, width))
    parts = [(first, huge), (second, cancel), (last, np.zeros(1))]
    return [(torch.from_numpy(weight), torch.from_numpy(bias)) for weight, bias in parts]


@pytest.mark.parametrize("power", [0, 10, 30, 45, 52, 54, 60, 90])
def test_certified_bounds_hold_over_the_reals(power: int) -> None:
    """Judged in rational arithmetic, with cancellations that float64 evaluation gets wrong."""
    for seed in range(12):
        layers = absorbing(seed, power)
        network = relu_network(layers)
        bounds = tightened(network, random_box(network, 1, seed))
        objective = Objective(
            torch.tensor([1.0, -1.0], dtype=DOUBLE).reshape(1, 2, 1, 1), torch.zeros(1, 2, 1, dtype=DOUBLE),
            torch.zeros(1, 2, 1, 0, dtype=DOUBLE),
        )  # fmt: skip
        problem = DualProblem(network, bounds, objective)
        state = problem.clamp(Restricted(15).ascend(problem, problem.initial()).state)
        low, high = (float(b) for b in problem.evaluate(state, magnitudes(network, bounds)).bound[0])
        for x in samples(bounds.lower[:, :2], bounds.upper[:, :2], 12, seed)[0].tolist():
            z, (y,) = exactly(layers, [Fraction(value) for value in x])
            lower, upper = bounds.lower[0, 2:].tolist(), bounds.upper[0, 2:].tolist()
            assert all(
                Fraction(a) <= value <= Fraction(b) for a, value, b in zip(lower, z, upper, strict=True)
            )
            assert Fraction(low) <= y <= -Fraction(high)


@pytest.mark.parametrize("variable", [-1, 0, 1])
@pytest.mark.parametrize("far", [-7.0, 7.0])
def test_multipliers_without_a_layer_gain_nothing(variable: int, far: float) -> None:
    """Padding and splits of inputs are in no layer's rho: their multipliers must not move the bound (they once did)."""
    network = random_network(1, "chain", [Relu(), Relu()])
    box = random_box(network, 1, 1)
    box = Bounds(box.lower + far, box.upper + far)
    bounds = tightened(network, box)
    splits = Splits(
        torch.tensor([[variable]]),
        torch.tensor([[far - 100.0]], dtype=DOUBLE),
        torch.ones(1, 1, dtype=torch.int64),
    )
    objective = random_objective(network, 1, 1, 1, 2)
    with_split, without = (
        DualProblem(network, bounds, objective, splits),
        DualProblem(network, bounds, objective),
    )
    expected = without.evaluate(without.initial()).bound
    state = with_split.initial()
    for multiplier in (-5.0, 0.0, 5.0):
        shifted = state | {"beta": torch.full_like(state["beta"], multiplier)}
        assert bool((with_split.evaluate(shifted).bound <= expected + 1e-9).all())
    ascended = Restricted(40).ascend(with_split, with_split.initial()).bound
    alone = Restricted(40).ascend(without, without.initial()).bound
    torch.testing.assert_close(ascended, alone, rtol=1e-6, atol=1e-6)
