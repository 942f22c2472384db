"""Cutting planes: no input violates one, the dual stays sound under them, and they reach beyond the hull over each pre-activation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import (
    DOUBLE,
    Draft,
    above,
    kept,
    networks,
    random_box,
    random_objective,
    random_splits,
    random_state,
    samples,
    seeds,
    variables,
)
from torch import Tensor

from verify.bounders.ibp import magnitudes
from verify.bounders.intermediate import IntermediateBounds
from verify.bounders.linear_program import LinearProgram
from verify.bounders.restricted import Restricted
from verify.bounders.single_neuron_cuts import cuts_at, mean_point
from verify.deadline import Deadline, OutOfTimeError
from verify.lagrangian.cuts import Cuts
from verify.lagrangian.dual import DualProblem
from verify.network.activations import Relu
from verify.network.affine import Combine
from verify.network.graph import Network
from verify.state import Bounds

MANY = 10**6  # coefficients


def tightened(network: Network, box: Bounds) -> Bounds:
    return IntermediateBounds().tighten(network, box, Deadline())


def cuts_of(network: Network, bounds: Bounds, seed: int, wild: bool) -> Cuts | None:
    """Cuts on a box that cut off a climb's mean point, or one far from it."""
    problem = DualProblem(network, bounds, random_objective(network, 1, 1, 1, seed))
    state = problem.clamp(random_state(problem.initial(), seed) if wild else problem.initial())
    point = mean_point(problem, state, 12, Deadline())
    if wild:
        generator = torch.Generator().manual_seed(seed)
        point = {
            node: value + torch.randn(value.shape, generator=generator, dtype=DOUBLE)
            for node, value in point.items()
        }
    return cuts_at(problem, state, point, bounds, magnitudes(network, bounds), MANY, Deadline())


def problem_of(seed: int) -> DualProblem:
    """Two hidden layers of ReLUs, the second of which sees the input as well, around the middle of their box."""
    draft = Draft(torch.Generator().manual_seed(seed), (6,))
    first = draft.activation(draft.dense(0, 8), Relu())
    both = draft.add(Combine((1, 1)), (draft.dense(first, 8), draft.dense(0, 8)), (8,))
    draft.dense(draft.activation(both, Relu()), 2)
    network = draft.network()
    unknown = torch.full((1, network.variables - 6), torch.inf, dtype=DOUBLE)
    ends = torch.cat([torch.ones(1, 6, dtype=DOUBLE), unknown], 1)
    bounds = tightened(network, Bounds(-ends, ends))
    return DualProblem(network, bounds, random_objective(network, 1, 1, 1, seed))


def corners(bounds: Bounds, network: Network, seed: int) -> Tensor:
    """Inputs of the box: corners, and points within."""
    lower, upper = (end[:, : network.inputs] for end in (bounds.lower, bounds.upper))
    inside = samples(lower, upper, 300, seed)[0]
    return torch.cat([inside, torch.where(inside > (lower + upper) / 2, upper, lower)])


@given(networks(), seeds, st.booleans())
def test_no_input_violates_a_plane(network: Network, seed: int, wild: bool) -> None:
    bounds = tightened(network, random_box(network, 1, seed))
    cuts = cuts_of(network, bounds, seed, wild)
    if cuts is not None:
        assert bool((above(cuts, network, corners(bounds, network, seed)) >= 0).all())


def test_cuts_are_found_and_touch_the_network() -> None:
    """An offset that is larger than it need be would pass the test above."""
    found, nearest = 0, []
    for seed in range(30):
        problem = problem_of(seed)
        network, bounds = problem.network, problem.bounds
        cuts = cuts_of(network, bounds, seed, wild=False)
        if cuts is not None:
            found += len(cuts)
            nearest.append(above(cuts, network, corners(bounds, network, seed)).min())
    assert found > 50
    assert float(torch.stack(nearest).min()) < 1e-9


@given(networks(), seeds, st.integers(0, 3), st.booleans())
def test_any_multipliers_bound_from_below(network: Network, seed: int, depth: int, wild: bool) -> None:
    whole = tightened(network, random_box(network, 1, seed))
    cuts = cuts_of(network, whole, seed, wild)
    splits, keeper = random_splits(network, whole, depth, seed)
    objective = random_objective(network, 1, 2, 1 + seed % 3, seed)
    problem = DualProblem(
        network, splits.apply(whole), objective, splits, cuts=[] if cuts is None else [cuts]
    )
    x = torch.cat([corners(whole, network, seed), keeper])
    x = x[kept(splits, 0, variables(network, x))]
    sizes = magnitudes(network, problem.bounds)
    ascended = Restricted(iterations=15).ascend(problem, problem.initial()).state
    for state in (random_state(problem.initial(), seed), ascended):
        state = problem.clamp(state)
        bound = problem.evaluate(state, sizes).bound[0]
        values = network.forward(x) @ objective.coefficients[0].mT - objective.thresholds[0][:, None]
        if objective.input_coefficients.shape[3]:
            values = values + x @ objective.input_coefficients[0].mT
        least = (values * state["constraint_weights"][0][:, None]).sum(2).amin(1)
        assert bool((bound <= least + 1e-9 * (1 + least.abs())).all())


@given(seeds, st.integers(0, 3), st.booleans())
def test_the_supergradient_is_the_slope(seed: int, depth: int, decoupled: bool) -> None:
    """Of q along any direction of the cuts' shares; and its bound is q."""
    network, whole = problem_of(seed).network, problem_of(seed).bounds
    cuts = cuts_of(network, whole, seed, wild=True)
    if cuts is None:
        return
    splits, _ = random_splits(network, whole, depth, seed)
    problem = DualProblem(
        network, splits.apply(whole), random_objective(network, 1, 2, 1, seed), splits, cuts=[cuts]
    )
    random = random_state(problem.initial(), seed)
    start = problem.clamp(random | {"cut_shares": 0.1 + 0.3 * random["cut_shares"].sigmoid()})
    if decoupled:
        start = problem.decoupled(start)
        noise = random_state(start, seed + 2)["rho"]  # off the ties that slopes lead to
        start = start | {"rho": start["rho"] + noise}
    found = problem.supergradient(start, problem.backward(start))
    torch.testing.assert_close(found.bound, problem.evaluate(start).bound, rtol=1e-9, atol=1e-9)
    direction = random_state(start, seed + 1)["cut_shares"].sign() * (start["cut_shares"] > 0)
    ahead, behind = (
        problem.evaluate(start | {"cut_shares": start["cut_shares"] + side * direction}).bound
        for side in (1e-7, -1e-7)
    )
    slope = (found.state["cut_shares"] * direction).sum(2)
    torch.testing.assert_close((ahead - behind) / 2e-7, slope, rtol=1e-4, atol=1e-4)


def test_climbs_under_cuts_pass_the_relaxations_optimum() -> None:
    """The linear program over the hulls is what no climb without cuts can pass."""
    better = 0
    for seed in range(12):
        problem = problem_of(seed)
        network, bounds = problem.network, problem.bounds
        optimum = LinearProgram().ascend(problem, problem.initial())
        cuts, state = None, problem.initial()
        for _ in range(3):
            point = mean_point(problem, state, 30, Deadline())
            more = cuts_at(
                problem, problem.clamp(state), point, bounds, magnitudes(network, bounds), MANY, Deadline()
            )
            if more is None:
                break
            cuts = more if cuts is None else Cuts.joined([cuts, more])
            problem = DualProblem(network, bounds, problem.objective, cuts=[cuts])
            known = state.parts.get("cut_shares", torch.zeros(1, 1, 0, dtype=DOUBLE))
            new = known.new_zeros(1, 1, len(cuts) - known.shape[2])
            state = state | {"cut_shares": torch.cat([known, new], 2)}
            state = Restricted(iterations=60, step=0.3, decay=0.96).ascend(problem, state).state
        bound = float(problem.evaluate(problem.clamp(state)).bound)
        x = corners(bounds, network, seed)
        values = (
            network.forward(x) @ problem.objective.coefficients[0, 0, 0] - problem.objective.thresholds[0, 0]
        )
        assert bound <= float(values.min()) + 1e-12
        better += bound > float(optimum.bound) + 1e-6
    assert better >= 4


def test_cuts_of_decided_neurons_are_out_of_play() -> None:
    network, bounds = problem_of(2).network, problem_of(2).bounds
    cuts = cuts_of(network, bounds, 2, wild=True)
    assert cuts is not None
    split = bounds.lower.clone()
    split[:, cuts.neurons[0]] = 0.0
    problem = DualProblem(
        network, Bounds(split, bounds.upper), random_objective(network, 1, 1, 1, 0), cuts=[cuts]
    )
    state = problem.clamp(
        problem.initial() | {"cut_shares": torch.full((1, 1, len(cuts)), 0.25, dtype=DOUBLE)}
    )
    decided = cuts.neurons == cuts.neurons[0]
    assert torch.equal(state["cut_shares"][0, 0], 0.25 * (~decided))


def test_cuts_are_chosen_joined_and_turned() -> None:
    network, bounds = problem_of(0).network, problem_of(0).bounds
    cuts = cuts_of(network, bounds, 0, wild=True)
    assert cuts is not None and len(cuts) >= 3
    x = corners(bounds, network, 0)
    chosen = torch.tensor([2, 0])
    every = above(cuts, network, x)
    torch.testing.assert_close(above(cuts.select(chosen), network, x), every[:, chosen])
    twice = Cuts.joined([cuts, cuts.select(chosen)])
    torch.testing.assert_close(above(twice, network, x), torch.cat([every, every[:, chosen]], 1))
    for layer in network.layers:
        part = cuts.on(layer)
        if part is not None:
            taken = torch.rand(7, len(part.own), dtype=DOUBLE)
            for node, pulled in part.pull(taken).items():
                torch.testing.assert_close(pulled, -taken @ part.coefficients[node].to_dense())
    assert cuts.entries == sum(int((part.to_dense() != 0).sum()) for part in cuts.coefficients.values())


def test_no_output_is_shared_out_twice() -> None:
    network, bounds = problem_of(0).network, problem_of(0).bounds
    cuts = cuts_of(network, bounds, 0, wild=True)
    assert cuts is not None
    for some in (cuts, Cuts.joined([cuts, cuts])):
        shares = 2 * torch.rand(2, 1, len(some), dtype=DOUBLE)
        limited = some.shared(shares)
        for neuron in some.neurons.unique():
            own = some.neurons == neuron
            total = shares[..., own].sum(2)
            torch.testing.assert_close(limited[..., own].sum(2), total.clamp(max=1))


def test_as_many_coefficients_as_there_is_room_for() -> None:
    fewer = 0
    for seed in range(8):
        problem = problem_of(seed)
        state, sizes = problem.initial(), magnitudes(problem.network, problem.bounds)
        point = mean_point(problem, state, 12, Deadline())
        every = cuts_at(problem, state, point, problem.bounds, sizes, MANY, Deadline())
        if every is None:
            continue
        assert cuts_at(problem, state, point, problem.bounds, sizes, 0, Deadline()) is None
        some = cuts_at(problem, state, point, problem.bounds, sizes, every.entries, Deadline())
        fewer += some is None or len(some) < len(every)
        assert some is None or some.entries <= every.entries
    assert fewer  # a neuron is counted with all its inputs, of which its cut has some


def test_nobody_overruns_the_deadline() -> None:
    problem, over = problem_of(0), Deadline.after(0.0)
    state, sizes = problem.initial(), magnitudes(problem.network, problem.bounds)
    with pytest.raises(OutOfTimeError):
        mean_point(problem, state, 12, over)
    point = mean_point(problem, state, 12, Deadline())
    with pytest.raises(OutOfTimeError):
        cuts_at(problem, state, point, problem.bounds, sizes, MANY, over)


@pytest.mark.gpu
def test_the_same_cuts_on_a_gpu() -> None:
    network, bounds = problem_of(1).network, problem_of(1).bounds
    here = cuts_of(network, bounds, 1, wild=False)
    there = cuts_of(network.to("cuda", DOUBLE), bounds.to(torch.device("cuda"), DOUBLE), 1, wild=False)
    assert here is not None and there is not None
    torch.testing.assert_close(here.offsets, there.offsets.cpu())
