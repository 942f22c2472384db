"""Bounds over unsafe points: no unsafe point of a subproblem lies outside them, and they do close what intervals leave."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import (
    DOUBLE,
    Draft,
    kept,
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

from verify.bounders import output_constrained
from verify.bounders.ibp import magnitudes
from verify.bounders.intermediate import IntermediateBounds
from verify.bounders.optimised_output_constrained import OptimisedOutputConstrained
from verify.bounders.output_constrained import OutputConstrained
from verify.bounders.restricted import Restricted
from verify.deadline import Deadline
from verify.lagrangian.dual import DualProblem
from verify.network.activations import Relu
from verify.network.graph import Network
from verify.state import Bounds, Objective


def constraint_values(objective: Objective, row: int, x: Tensor, y: Tensor) -> Tensor:
    """`C y + E x - d` of one box's clause at points: [points, rows]."""
    values = y @ objective.coefficients[row, 0].T - objective.thresholds[row, 0]
    if objective.input_coefficients.shape[3]:
        values = values + x @ objective.input_coefficients[row, 0].T
    return values


def partly_unsafe(network: Network, objective: Objective, points: Tensor, share: float) -> Objective:
    """The objective with thresholds that leave about this share of the points unsafe by each row."""
    ends = []
    for row in range(len(points)):
        values = constraint_values(objective, row, points[row], network.forward(points[row]))
        ends.append(objective.thresholds[row] + values.quantile(share, dim=0))
    return replace(objective, thresholds=torch.stack(ends))


@given(
    networks(), seeds, st.integers(0, 3), st.integers(1, 2), st.sampled_from([0.01, 0.1, 0.5]), st.booleans()
)
def test_no_unsafe_point_is_outside(
    network: Network, seed: int, depth: int, rows: int, share: float, climbs: bool
) -> None:
    method = (
        OptimisedOutputConstrained(weight=0.3, share=1.0)
        if climbs
        else OutputConstrained(weight=0.3, share=1.0)
    )
    box = random_box(network, 2, seed)
    bounds = IntermediateBounds().tighten(network, box, Deadline())
    splits, _ = random_splits(network, bounds, depth, seed)
    inputs = slice(0, network.inputs)
    points = samples(box.lower[:, inputs], box.upper[:, inputs], 200, seed)
    objective = partly_unsafe(network, random_objective(network, 2, 1, rows, seed), points, share)
    problem = DualProblem(network, splits.apply(bounds), objective, splits)
    state = problem.clamp(random_state(problem.initial(), seed)) if seed % 2 else problem.initial()
    state = Restricted(3).ascend(problem, state).state
    single = torch.float32
    working = DualProblem(
        network.to("cpu", single), problem.bounds.to(torch.device("cpu"), single),
        objective.to(torch.device("cpu"), single), splits,
    )  # fmt: skip
    for layer in network.layers:
        tight = method.tighten(problem, working, state, layer, magnitudes(network, bounds), Deadline())
        assert bool((tight.lower >= problem.bounds.lower[:, layer.variables]).all())
        assert bool((tight.upper <= problem.bounds.upper[:, layer.variables]).all())
        for row in range(2):
            values = variables(network, points[row])
            unsafe = (constraint_values(objective, row, points[row], network.forward(points[row])) <= 0).all(
                1
            )
            z = values[unsafe & kept(splits, row, values)][:, layer.variables]
            slack = 1e-9 * (1 + z.abs())
            assert bool((z >= tight.lower[row] - slack).all())
            assert bool((z <= tight.upper[row] + slack).all())


@given(networks(), seeds, st.integers(0, 3))
def test_sharing_the_row_changes_nothing(network: Network, seed: int, depth: int) -> None:
    """What is pulled down once and weighed gives the bounds that every objective's own sweep gives."""
    bounds = IntermediateBounds().tighten(network, random_box(network, 2, seed), Deadline())
    splits, _ = random_splits(network, bounds, depth, seed)
    problem = DualProblem(network, splits.apply(bounds), random_objective(network, 2, 1, 1, seed), splits)
    state = Restricted(3).ascend(problem, random_state(problem.initial(), seed)).state
    random = torch.Generator().manual_seed(seed)
    for layer in problem.layers:
        neurons = torch.randint(layer.size, (2, 3), generator=random)
        weights = torch.rand(2, 6, 1, generator=random, dtype=DOUBLE) * 10.0 ** (seed % 7 - 3)
        sizes = magnitudes(network, bounds)
        entries = output_constrained._entries(problem, layer, [neurons], sizes)
        assert entries is not None
        shared, own = (
            output_constrained._bound(problem, state, layer, neurons, weights, sizes, some) for some in (entries, None)
        )  # fmt: skip
        for end, expected in zip(shared, own, strict=True):
            torch.testing.assert_close(end, expected, rtol=1e-7, atol=1e-7 * float(1 + weights.max()))


@given(networks(), seeds, st.integers(1, 2))
def test_both_sweeps_agree_beside_another_objective(network: Network, seed: int, rows: int) -> None:
    """With an objective on an earlier node and free constraint weights the forward sweep finds q too."""
    bounds = IntermediateBounds().tighten(network, random_box(network, 2, seed), Deadline())
    layer = network.layers[seed % len(network.layers)]
    coefficients = torch.randn(2, 2, layer.size, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    problem = DualProblem(network, bounds, random_objective(network, 2, 2, rows, seed))
    problem = problem.beside(layer.pre_node, coefficients)
    if layer not in problem.layers:
        return
    state = problem.clamp(random_state(problem.initial(), seed))
    expected = problem.evaluate(state).bound
    found = problem.supergradient(state, problem.backward(state)).bound
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-6)


def chain_on_a_wide_box(seed: int) -> tuple[Network, Bounds]:
    """Two hidden layers of ReLUs and their intermediate bounds."""
    draft = Draft(torch.Generator().manual_seed(seed), (4,))
    value = draft.activation(draft.dense(0, 12), Relu())
    draft.dense(draft.activation(draft.dense(value, 12), Relu()), 3)
    network = draft.network()
    return network, IntermediateBounds().tighten(network, random_box(network, 1, seed, 1.0), Deadline())


def test_they_tighten_and_help() -> None:
    """On random ReLU chains near their margin: some bounds get tighter, and the clause's bound with them; more, if they climb."""
    closed: dict[str, list[float]] = {"plain": [], "climbed": []}
    for seed in range(12):
        network, bounds = chain_on_a_wide_box(seed)
        objective = random_objective(network, 1, 1, 1, 2 * seed)
        problem = DualProblem(network, bounds, objective)
        found = Restricted(50).ascend(problem, problem.initial())
        objective = replace(objective, thresholds=objective.thresholds + found.bound[..., None] + 0.05)
        problem = DualProblem(network, bounds, objective)
        layer, sizes = network.layers[-1], magnitudes(network, bounds)
        for name, method in (
            ("plain", OutputConstrained()),
            ("climbed", OptimisedOutputConstrained(share=1.0)),
        ):
            tight = method.tighten(problem, problem, found.state, layer, sizes, Deadline())
            lower, upper = bounds.lower.clone(), bounds.upper.clone()
            lower[:, layer.variables], upper[:, layer.variables] = tight.lower, tight.upper
            if bool((lower > bounds.lower).any() | (upper < bounds.upper).any()):
                child = DualProblem(network, Bounds(lower, torch.maximum(lower, upper)), objective)
                closed[name].append(
                    float(Restricted(50).ascend(child, child.clamp(found.state)).bound) + 0.05
                )
    for gains in closed.values():
        assert len(gains) >= 8
        assert max(gains) > 0.01
        assert min(gains) > -1e-6
    assert sum(closed["climbed"]) > 1.2 * sum(closed["plain"])


def test_climbed_ends_hold_where_they_cut_deep() -> None:
    """On wide boxes of ReLU chains a tenth of which is unsafe: many ends move, and every unsafe point stays inside."""
    moved = 0
    for seed in range(12):
        network, bounds = chain_on_a_wide_box(seed)
        points = samples(bounds.lower[:, :4], bounds.upper[:, :4], 4000, seed)
        objective = partly_unsafe(network, random_objective(network, 1, 1, 1, seed), points, 0.1)
        problem = DualProblem(network, bounds, objective)
        state = Restricted(20).ascend(problem, problem.initial()).state
        unsafe = (constraint_values(objective, 0, points[0], network.forward(points[0])) <= 0).all(1)
        for layer in network.layers:
            tight = OptimisedOutputConstrained(share=1.0).tighten(
                problem, problem, state, layer, magnitudes(network, bounds), Deadline()
            )
            z = variables(network, points[0])[unsafe][:, layer.variables]
            assert bool((z >= tight.lower - 1e-9).all() & (z <= tight.upper + 1e-9).all())
            moved += int((tight.lower > bounds.lower[:, layer.variables]).sum())
            moved += int((tight.upper < bounds.upper[:, layer.variables]).sum())
    assert moved >= 50


def test_refuted_subproblems_keep_what_they_have() -> None:
    network = random_network(3, "chain", [Relu(), Relu()])
    bounds = IntermediateBounds().tighten(network, random_box(network, 2, 3, 1.0), Deadline())
    objective = random_objective(network, 2, 1, 1, 2)
    problem = DualProblem(network, bounds, replace(objective, thresholds=objective.thresholds - 1e3))
    layer = network.layers[-1]
    for method in (OutputConstrained(), OptimisedOutputConstrained()):
        tight = method.tighten(
            problem, problem, problem.initial(), layer, magnitudes(network, bounds), Deadline()
        )
        assert torch.equal(tight.lower, bounds.lower[:, layer.variables])
        assert tight.upper.dtype == DOUBLE
