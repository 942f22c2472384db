"""The linear program's dual points: as high as an independent program's optimum, above every climb, below every sample."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import (
    DOUBLE,
    EXAMPLES,
    FAMILIES,
    Draft,
    kept,
    label,
    random_box,
    random_network,
    random_objective,
    random_splits,
    samples,
    seeds,
    variables,
)
from oracles import Planet
from torch import Tensor

from verify.bounders.intermediate import IntermediateBounds
from verify.bounders.linear_program import LinearProgram
from verify.bounders.restricted import Restricted
from verify.deadline import Deadline, OutOfTimeError
from verify.errors import ResourceError
from verify.lagrangian.dual import DualProblem
from verify.network.activations import Activation, Clip, LeakyRelu, Relu
from verify.network.affine import Dense
from verify.network.graph import Network, Node
from verify.state import Bounds, Objective, Splits


def problem_of(network: Network, seed: int, depth: int, rows: int, radius: float = 0.7) -> DualProblem:
    """Two boxes with splits that some point keeps, and two objectives on each."""
    bounds = IntermediateBounds().tighten(network, random_box(network, 2, seed, radius), Deadline())
    splits, _ = random_splits(network, bounds, depth, seed)
    return DualProblem(network, splits.apply(bounds), random_objective(network, 2, 2, rows, seed), splits)


def assert_reaches_planet(problem: DualProblem) -> None:
    """The optimum itself; where nothing depends on some layer, whose splits that program knows all the same, at most that."""
    found = LinearProgram().ascend(problem, problem.initial())
    assert torch.equal(problem.evaluate(problem.clamp(found.state)).bound, found.bound)
    for row in range(problem.batch):
        planet = Planet(problem.network, problem.bounds, row)
        for which in range(problem.objectives):
            optimum, bound = planet.minimise(problem.objective, row, which), float(found.bound[row, which])
            slack = 1e-6 * (1 + abs(optimum))
            assert bound <= optimum + slack
            if problem.layers == problem.network.layers:
                assert bound >= min(optimum - slack, 1e3)  # infinity where the relaxation is empty


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "wide_convolution"])
@settings(max_examples=10)
@given(seed=seeds, depth=st.integers(0, 3), rows=st.integers(1, 3))
def test_reaches_the_planet_optimum(family: str, seed: int, depth: int, rows: int) -> None:
    network = random_network(seed, family, [Relu(), Relu()])
    if network.variables <= 60:
        assert_reaches_planet(problem_of(network, seed, depth, rows))


@pytest.mark.parametrize("family", ["convolution", "wide_convolution"])
def test_reaches_the_planet_optimum_of_convolutions(family: str) -> None:
    """Too large for many examples."""
    assert_reaches_planet(problem_of(random_network(2, family, [Relu()]), 2, 2, 2))


def sampled_minima(problem: DualProblem) -> Tensor:
    """The least of `max_j C_j y + E_j x - d_j` over samples that keep the splits, [batch, objectives]."""
    network, bounds, objective = problem.network, problem.bounds, problem.objective
    minima = torch.full((problem.batch, problem.objectives), torch.inf, dtype=DOUBLE)
    inputs = slice(0, network.inputs)
    points = samples(bounds.lower[:, inputs], bounds.upper[:, inputs], 300)
    for row, x in enumerate(points):
        inside = x[kept(problem.splits, row, variables(network, x))]
        if len(inside):
            values = objective.coefficients[row] @ network.forward(inside).T
            values = values - objective.thresholds[row][..., None]
            if objective.input_coefficients.shape[3]:
                values = values + objective.input_coefficients[row] @ inside.T
            minima[row] = values.amax(1).amin(1)
    return minima


@pytest.mark.parametrize("activation", EXAMPLES, ids=label)
@pytest.mark.parametrize("family", ["chain", "tangle", "convolution"])
def test_above_every_climb_and_below_every_sample(family: str, activation: Activation) -> None:
    """Curved activations need lines that are found on the way; the dual point's own bound is what counts."""
    seed = len(family) % 2
    problem = problem_of(random_network(seed, family, [activation] * 2), seed, 2, 1 + seed, 0.4)
    found = LinearProgram().ascend(problem, problem.initial())
    ascended = Restricted(iterations=100).ascend(problem, problem.initial()).bound
    slack = 1e-7 * (1 + found.bound.abs())
    assert torch.equal(problem.evaluate(problem.clamp(found.state)).bound, found.bound)
    assert bool((found.bound >= ascended - slack).all())
    assert bool((found.bound <= sampled_minima(problem) + slack).all())


def contradictory() -> DualProblem:
    """x in [-1, 1], z = (x, x), cut to z_0 >= 0.5 and z_1 <= -0.5: no interval is empty, but the relaxation is."""
    draft = Draft(torch.Generator().manual_seed(0), (1,))
    twice = draft.dense(0, 2)
    draft.nodes[twice].operator.weight.fill_(1.0)  # type: ignore[union-attr]
    draft.nodes[twice].operator.bias.zero_()  # type: ignore[union-attr]
    draft.dense(draft.activation(twice, Relu()), 1)
    bounds = Bounds(torch.full((1, 3), -1.0, dtype=DOUBLE), torch.full((1, 3), 1.0, dtype=DOUBLE))
    splits = Splits(
        torch.tensor([[1, 2]]), torch.tensor([[0.5, -0.5]], dtype=DOUBLE), torch.tensor([[1, -1]])
    )
    network = draft.network()
    return DualProblem(network, splits.apply(bounds), random_objective(network, 1, 1, 2, 2), splits)


def test_empty_relaxations_are_refuted() -> None:
    """A ray of the dual makes the bound as large as anyone likes."""
    problem = contradictory()
    found = LinearProgram().ascend(problem, problem.initial())
    assert float(found.bound) > 1e4
    assert Planet(problem.network, problem.bounds).minimise(problem.objective) == float("inf")


def test_one_program_is_enough_for_piecewise_linear_networks() -> None:
    problem = problem_of(random_network(3, "chain", [Relu(), Relu()]), 3, 0, 1)
    assert LinearProgram().ascend(problem, problem.initial()).iterations == 4


def test_networks_without_activations() -> None:
    draft = Draft(torch.Generator().manual_seed(1), (3,))
    draft.dense(0, 2)
    problem = problem_of(draft.network(), 1, 0, 2)
    assert_reaches_planet(problem)


def test_unbounded_neurons_stay_free() -> None:
    """Without bounds of the pre-activations nothing is known, and nothing breaks."""
    network = random_network(4, "chain", [Relu(), Relu()])
    box = random_box(network, 2, 4)
    problem = DualProblem(network, box, random_objective(network, 2, 1, 1, 4))
    start = problem.evaluate(problem.initial()).bound
    found = LinearProgram().ascend(problem, problem.initial()).bound
    assert bool((found.isnan() | (found <= sampled_minima(problem) + 1e-9)).all())
    assert bool((found >= start).logical_or(~start.isfinite()).all())


def test_observers_see_bounds_that_never_fall() -> None:
    network = random_network(5, "chain", [EXAMPLES[-1], EXAMPLES[-1]])
    problem = problem_of(network, 5, 0, 1)
    seen: list[tuple[int, Tensor]] = []
    found = LinearProgram().ascend(
        problem, problem.initial(), observe=lambda i, bound: seen.append((i, bound.clone()))
    )
    assert [count for count, _ in seen] == list(range(found.iterations + 1))
    assert all(bool((later >= sooner).all()) for (_, sooner), (_, later) in pairwise(seen))
    torch.testing.assert_close(seen[-1][1], found.bound, rtol=1e-12, atol=1e-12)


def test_targets_and_time() -> None:
    problem = problem_of(random_network(6, "chain", [Relu(), Relu()]), 6, 0, 1)
    start = problem.evaluate(problem.initial()).bound
    method = LinearProgram()
    assert method.ascend(problem, problem.initial(), target=float(start.min()) - 1).iterations == 0
    late = Deadline.after(0)
    stopped = method.ascend(problem, problem.initial(), soft_deadline=late)
    assert stopped.iterations == 0
    assert bool((stopped.bound >= start - 1e-12 * (1 + start.abs())).all())
    with pytest.raises(OutOfTimeError):
        method.ascend(problem, problem.initial(), deadline=late)


def test_large_networks_are_refused() -> None:
    problem = problem_of(random_network(6, "chain", [Relu()]), 6, 0, 1)
    with pytest.raises(ResourceError, match="restricted"):
        LinearProgram(most_variables=3).ascend(problem, problem.initial())


def test_objectives_are_those_of_their_own_box() -> None:
    """Each of several boxes and objectives gets what it would get alone."""
    problem = problem_of(random_network(7, "residual", [Relu(), Relu()]), 7, 1, 2)
    together = LinearProgram().ascend(problem, problem.initial()).bound
    for row in range(2):
        part = problem.select(torch.tensor([row]))
        own = part.objective.map(lambda value: value.flip(1))
        alone = DualProblem(part.network, part.bounds, own, part.splits)
        found = LinearProgram().ascend(alone, alone.initial()).bound.flip(1)
        torch.testing.assert_close(found[0], together[row], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("scales", [(0.5, 1.0), (1.0, 0.5)])
def test_gaps_of_the_optimum_are_told(scales: tuple[float, float]) -> None:
    """max(1.5 - y_0 - y_1, 1.5 x) is least at x = 1/3 over chords, each of which is a third of its scale above its ReLU."""
    weight = torch.tensor(scales, dtype=DOUBLE)[:, None]
    network = Network(
        (
            Node(None, (), (1,), "x"),
            Node(Dense(weight, torch.zeros(2, dtype=DOUBLE)), (0,), (2,), "z"),
            Node(Relu(), (1,), (2,), "y"),
        )
    )
    ends = torch.cat([torch.ones(1, dtype=DOUBLE), weight[:, 0]])
    below = torch.tensor([[[-1.0, -1.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]], dtype=DOUBLE)
    objective = Objective(
        below[None],
        torch.tensor([[[-1.5, 0.0], [0.0, 0.0]]], dtype=DOUBLE),
        torch.tensor([[[[0.0], [1.5]], [[0.0], [0.0]]]], dtype=DOUBLE),
    )
    problem = DualProblem(network, Bounds(-ends[None], ends[None]), objective)
    found = LinearProgram().ascend(problem, problem.initial())
    assert found.bound[0].tolist() == pytest.approx([0.5, 0.0], abs=1e-6)
    assert found.gaps()[0].tolist() == pytest.approx([0.0, scales[0] / 3, scales[1] / 3], abs=1e-6)
    swapped = problem.asked(objective.map(lambda part: part.flip(1)))
    # y_0 + y_1 is least where nothing is relaxed
    assert LinearProgram().ascend(swapped, problem.initial()).gaps()[0].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("activation", [Relu(), LeakyRelu(-0.4), Clip(-0.5, 0.8)], ids=label)
def test_programs_of_one_objective_are_made_of_each_other(activation: Activation) -> None:
    """Boxes with different splits, one after the other or each alone: the same optimum."""
    network = random_network(8, "chain", [activation, activation])
    bounds = IntermediateBounds().tighten(network, random_box(network, 1, 8, 0.7), Deadline())
    several = Bounds.concatenate([bounds] * 6)
    splits, _ = random_splits(network, several, 2, 8)
    objective = random_objective(network, 1, 1, 2, 8).select(torch.zeros(6, dtype=torch.int64))
    problem = DualProblem(network, splits.apply(several), objective, splits)
    method = LinearProgram(rounds=1)
    together = method.ascend(problem, problem.initial())
    for row in range(6):
        alone = problem.select(torch.tensor([row]))
        single = method.ascend(alone, alone.initial())
        torch.testing.assert_close(together.bound[row], single.bound[0], rtol=1e-6, atol=1e-6)
