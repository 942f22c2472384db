"""The example of docs/adding-a-cut.md: a cut family in one file, which ascents, certification and the frontier take as it is."""

from __future__ import annotations

from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import DOUBLE, Draft, random_objective, random_splits, samples
from pair_cuts import PairCuts
from torch import Tensor

from verify.bab.frontier import Frontier
from verify.bab.strategy import root_subproblems
from verify.bounders.ibp import magnitudes
from verify.bounders.intermediate import IntermediateBounds
from verify.bounders.linear_program import LinearProgram
from verify.bounders.restricted import Restricted
from verify.branching.fsb import FilteredSmartBranching
from verify.deadline import Deadline
from verify.lagrangian.dual import DualProblem
from verify.network.activations import Relu
from verify.network.affine import Dense
from verify.network.graph import Network
from verify.state import Bounds

seeds = st.integers(0, 10**6)
NAME = "pair_multipliers"


def related(seed: int) -> tuple[Network, Bounds, PairCuts]:
    """Two hidden layers; the neurons of the second are the sums and the differences of four pairs of values."""
    draft = Draft(torch.Generator().manual_seed(seed), (4,))
    first = draft.activation(draft.dense(0, 6), Relu())
    one, other = draft.normal(4, 6), draft.normal(4, 6)
    weight = torch.cat([one + other, one - other])
    both = draft.add(Dense(weight, 0.3 * draft.normal(8)), (first,), (8,))
    after = draft.activation(both, Relu())
    draft.add(Dense(-draft.normal(2, 8).abs(), None), (after,), (2,))
    network = draft.network()
    unknown = torch.full((1, network.variables - 4), torch.inf, dtype=DOUBLE)
    ends = torch.cat([torch.ones(1, 4, dtype=DOUBLE), unknown], 1)
    bounds = IntermediateBounds().tighten(network, Bounds(-ends, ends), Deadline())
    pairs = torch.tensor([[i, i + 4] for i in range(4)])
    return network, bounds, PairCuts.of(network, network.layers[-1], bounds, pairs)


def least(problem: DualProblem, network: Network, bounds: Bounds, seed: int) -> Tensor:
    """The least values of the objectives on many points."""
    x = samples(bounds.lower[:, :4], bounds.upper[:, :4], 2000, seed)[0]
    objective = problem.objective
    values = network.forward(x) @ objective.coefficients[0, :, 0].T - objective.thresholds[0, :, 0]
    if objective.input_coefficients.shape[3]:
        values = values + x @ objective.input_coefficients[0, :, 0].T
    return values.amin(0)


@given(seeds)
def test_no_input_violates_a_cut_and_any_multipliers_are_sound(seed: int) -> None:
    network, bounds, cuts = related(seed)
    x = samples(bounds.lower[:, :4], bounds.upper[:, :4], 2000, seed)[0]
    outputs = network.values(x)[network.layers[-1].node]
    assert bool((outputs[:, cuts.pairs].sum(2) <= cuts.most + 1e-12).all())
    problem = DualProblem(network, bounds, random_objective(network, 1, 2, 1, seed), cuts=[cuts])
    noise = torch.randn(1, 2, 4, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    for state in (
        problem.clamp(problem.initial() | {NAME: 3 * noise}),
        Restricted(iterations=15).ascend(problem, problem.initial()).state,
    ):
        bound = problem.evaluate(state, magnitudes(network, bounds)).bound[0]
        assert bool((bound <= least(problem, network, bounds, seed) + 1e-9).all())


@given(seeds, st.booleans())
def test_the_supergradient_is_the_slope_and_finds_q(seed: int, decoupled: bool) -> None:
    network, bounds, cuts = related(seed)
    problem = DualProblem(network, bounds, random_objective(network, 1, 2, 1, seed), cuts=[cuts])
    noise = torch.rand(1, 2, 4, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    state = problem.clamp(problem.initial() | {NAME: 0.1 + noise})
    if decoupled:
        state = problem.decoupled(state)
    found = problem.supergradient(state, problem.backward(state))
    torch.testing.assert_close(found.bound, problem.evaluate(state).bound, rtol=1e-9, atol=1e-9)


def test_ascents_go_beyond_the_hulls() -> None:
    """The linear program over the hulls is what no ascent without cuts can pass."""
    better = 0
    for seed in range(12):
        network, bounds, cuts = related(seed)
        objective = random_objective(network, 1, 1, 1, 2 * seed).map(Tensor.abs)
        plain = DualProblem(network, bounds, objective)
        optimum = LinearProgram().ascend(plain, plain.initial()).bound
        problem = DualProblem(network, bounds, objective, cuts=[cuts])
        method = Restricted(iterations=80, step=0.2, decay=0.96)
        better += float(method.ascend(problem, problem.initial()).bound) > float(optimum) + 1e-6
    assert better >= 6


def test_the_search_carries_them_along() -> None:
    """Splits, branching, a change of precision and the frontier, without a word about the family anywhere."""
    network, bounds, cuts = related(3)
    splits, _ = random_splits(network, bounds, 2, 3)
    problem = DualProblem(
        network, splits.apply(bounds), random_objective(network, 1, 1, 1, 3), splits, cuts=[cuts]
    )
    ascended = Restricted(iterations=5).ascend(problem, problem.initial())
    assert NAME in ascended.state
    split = FilteredSmartBranching().choose(problem, ascended.state)
    roots = root_subproblems(1, [0], network.alphas, network.device).with_state(
        ascended.bound[:, 0], ascended.state
    )
    children = roots.split(split.variable, (split.value, split.value), split.beta)
    frontier = Frontier()
    frontier.push(children)
    popped = frontier.pop(2, network.device, DOUBLE)
    assert torch.equal(popped.state[NAME], children.state[NAME])


def test_the_page_shows_this_file() -> None:
    """Word for word."""
    here = Path(__file__).parent
    page = (here.parent.parent / "docs" / "adding-a-cut.md").read_text(encoding="utf-8")
    source = (here / "pair_cuts.py").read_text(encoding="utf-8")
    assert source[source.index("from __future__") :] in page
