"""Bounds of neurons by branch and bound: sound, no looser than what was known, exact in the end; and when they are due."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from nets import (
    DOUBLE,
    examples,
    property_text,
    random_box,
    random_layers,
    random_network,
    relu_model,
    row_text,
    samples,
    variables,
)
from oracles import exact_minimum
from patience import PATIENCE
from test_roots import many_clauses
from test_search_verdicts import MARGIN, NO_ATTACK, planted, search_for, watched

from verify.bounders.intermediate import IntermediateBounds, still_open
from verify.bounders.restricted import Restricted
from verify.deadline import Deadline, OutOfTimeError
from verify.network.activations import ACTIVATIONS, Relu
from verify.network.graph import Network
from verify.problem import prepare
from verify.search.branched_bounds import _TRIAL, BranchedBounds, Ends, _Trees, open_behind, places_behind
from verify.search.output_constraints import Splitting
from verify.search.refinement import Refinement
from verify.search.split_activations import SplitActivations
from verify.search.strategy import Bounded
from verify.settings import preset
from verify.state import Bounds, Subproblems

METHOD = BranchedBounds()


def known(network: Network, seed: int, boxes: int = 2, radius: float = 0.4) -> Bounds:
    """What CROWN knows of some random boxes."""
    return IntermediateBounds().tighten(network, random_box(network, boxes, seed, radius), Deadline())


def tightened(network: Network, bounds: Bounds, rounds: int = 4) -> Bounds:
    return METHOD.tighten(network, bounds, rounds, Deadline(), Deadline(), torch.float32)


@pytest.mark.parametrize("family", ["chain", "convolution", "tangle"])
@pytest.mark.parametrize("kind", [kind for kind in ACTIVATIONS if not examples(kind)[0].mixes])
def test_bounds_hold_and_are_no_looser(kind: str, family: str) -> None:
    """All samples of all boxes are within, with every activation."""
    network = random_network(1, family, [examples(kind)[0], Relu(), Relu()])
    bounds = known(network, 1)
    tight = tightened(network, bounds)
    assert bool((tight.lower >= bounds.lower).all()) and bool((tight.upper <= bounds.upper).all())
    inputs = slice(0, network.inputs)
    for row, points in enumerate(samples(bounds.lower[:, inputs], bounds.upper[:, inputs], 300, 1)):
        values = variables(network, points)
        assert bool(((values >= tight.lower[row]) | values.isnan()).all())
        assert bool(((values <= tight.upper[row]) | values.isnan()).all())


def test_bounds_end_at_the_exact_ones() -> None:
    """With rounds enough, both ends of every neuron are those of mixed-integer programs on the network split there."""
    layers = random_layers(3, [3, 6, 6, 5])
    lower, upper = [-0.4, -0.3, 0.1], [0.5, 0.6, 0.7]
    problem = prepare(relu_model(layers), property_text(lower, upper, 5, row_text([1.0, 0, 0, 0, 0], -9.0)))
    network = problem.model.network
    box = random_box(network, 1, 0)
    box = Bounds(box.lower.clone(), box.upper.clone())
    box.lower[0, :3], box.upper[0, :3] = (torch.tensor(end, dtype=DOUBLE) for end in (lower, upper))
    bounds = IntermediateBounds().tighten(network, box, Deadline())
    last = network.layers[-1]
    open_before = still_open(last, bounds)[0].nonzero()[:, 0]
    assert len(open_before) > 1
    looser = (bounds.upper - bounds.lower)[0, last.variables]
    method = BranchedBounds(child=Restricted(iterations=30, step=0.3, decay=0.9))
    for _ in range(2):
        bounds = method.tighten(network, bounds, 18, Deadline(), Deadline(), torch.float32)
    front = relu_model(layers[: len(network.layers)])
    found = []
    for neuron in open_before.tolist():
        column = last.variables.start + neuron
        for side, end in ((1.0, bounds.lower[0, column]), (-1.0, -bounds.upper[0, column])):
            row = np.zeros((1, last.size))
            row[0, neuron] = side
            exact = exact_minimum(front, lower, upper, row, np.zeros(1))
            assert float(end) <= exact + 1e-5
            if bool(still_open(last, bounds)[0, neuron]):  # others need not be any tighter
                found.append((exact - float(end)) / float(looser[neuron]))
    assert found and max(found) < 0.02


def test_more_rounds_are_tighter() -> None:
    """Width falls from pass to pass."""
    network = random_network(1, "wide_convolution", [Relu(), Relu(), Relu()])
    bounds = known(network, 1, 1, 0.8)
    behind = torch.cat(
        [torch.arange(network.variables)[network.layers[i].variables] for i in places_behind(network)]
    )
    widths = [
        float((tight.upper - tight.lower)[:, behind].sum())
        for tight in (bounds, tightened(network, bounds, 2), tightened(network, bounds, 8))
    ]
    assert widths[0] > widths[1] > widths[2]


def test_side_by_side_or_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bounds from threads, and from chunks of any size."""
    network = random_network(0, "convolution", [Relu(), Relu(), Relu()])
    bounds = known(network, 0, 2, 0.8)
    alone = tightened(network, bounds)
    with ThreadPoolExecutor(2) as pool:
        beside = METHOD.tighten(network, bounds, 4, Deadline(), Deadline(), torch.float32, pool.map)
    assert torch.equal(alone.lower, beside.lower) and torch.equal(alone.upper, beside.upper)
    monkeypatch.setitem(METHOD.tighten.__globals__["_ELEMENTS"], "cpu", 1)
    small = tightened(network, bounds)
    assert torch.allclose(small.lower, alone.lower, atol=1e-3) and torch.allclose(
        small.upper, alone.upper, atol=1e-3
    )


def test_layers_whose_first_neurons_gain_nothing_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every layer a few ends are tried, and no others."""
    network = random_network(1, "wide_convolution", [Relu(), Relu(), Relu()])
    bounds, asked = known(network, 1, 2, 0.8), list[int]()

    def bounded(self: _Trees, ends: Ends) -> torch.Tensor:
        asked.append(len(ends))
        return torch.full((len(ends),), -torch.inf, dtype=DOUBLE)

    monkeypatch.setattr(_Trees, "_bounded", bounded)
    tight = tightened(network, bounds)
    assert torch.equal(tight.lower, bounds.lower)
    assert 0 < sum(asked) <= 2 * _TRIAL * len(places_behind(network)) < 2 * open_behind(network, bounds)


def test_time() -> None:
    """A deadline that has passed is raised; enough time that has passed leaves bounds as they are."""
    network = random_network(0, "wide_convolution", [Relu(), Relu()])
    bounds = known(network, 0)
    with pytest.raises(OutOfTimeError):
        METHOD.tighten(network, bounds, 2, Deadline.after(-1), Deadline(), torch.float32)
    late = METHOD.tighten(network, bounds, 2, Deadline(), Deadline.after(-1), torch.float32)
    assert torch.equal(late.lower, bounds.lower)


def test_a_pass_is_due_once_splitting_took_as_long() -> None:
    """Sooner after one that paid, at once where next to nothing is refuted, later after one that did not pay."""
    splitting = Splitting()
    one, many = torch.full((2,), -1.0), torch.full((100,), -1.0)
    splitting.learn(one, one, torch.tensor([False, False]), 0.002)
    refinement = Refinement(METHOD, splitting)
    refinement.expect(0.5)
    first = refinement.seconds
    assert not refinement.due(0.1 * first, Deadline()) and refinement.due(first, Deadline())
    assert not refinement.due(first, Deadline.after(0.5 * first))  # which it cannot end by
    refinement.spent, before = 1.0, torch.tensor([-1.0, -2.0])
    refinement.learn(before, torch.tensor([-0.5, 0.1]))
    assert not refinement.due(0.1 * first, Deadline()) and refinement.due(first, Deadline())
    splitting.learn(many, many, torch.zeros(100, dtype=torch.bool), 0.1)
    assert refinement.due(0.0, Deadline())
    splitting.learn(many, many, torch.ones(100, dtype=torch.bool), 0.1)
    assert not refinement.due(0.0, Deadline())
    refinement.learn(before, before)
    splitting.learn(many, many, torch.zeros(100, dtype=torch.bool), 0.1)
    assert not refinement.due(first, Deadline()) and refinement.due(10 * first, Deadline())


def test_passes_become_dearer_with_rounds_and_cheaper_with_closed_neurons() -> None:
    """And there is an end to rounds."""
    network = random_network(1, "wide_convolution", [Relu(), Relu(), Relu()])
    bounds, refinement = known(network, 1, 1, 0.8), Refinement(METHOD, Splitting())
    rounds = refinement.rounds
    tight = refinement.tighten(network, bounds, torch.float32, Deadline(), map)
    assert bool((tight.lower > bounds.lower).any())
    more = METHOD.subproblems(refinement.rounds) / METHOD.subproblems(rounds)
    assert refinement.rounds > rounds and refinement.seconds <= refinement.spent * more + 1e-9
    refinement.rounds = 1000
    assert not refinement.due(1e9, Deadline())


def open_roots(monkeypatch: pytest.MonkeyPatch) -> tuple[SplitActivations, Subproblems]:
    """A strategy whose network is as large as it was, and its open roots."""
    strategy = search_for(many_clauses(3, 1e-3, 12), "activations").strategy
    assert isinstance(strategy, SplitActivations)
    with monkeypatch.context() as whole:
        whole.setattr(SplitActivations, "_reduced", lambda _: False)
        bounded = list(strategy.roots(100, Deadline()))
    left = [one.subproblems.select(~one.refuted) for one in bounded if not bool(one.refuted.all())]
    return strategy, Subproblems.concatenate(left)


def test_a_pass_that_memory_ends_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds stay as they are and the search goes on; other errors are errors."""
    network = random_network(0, "convolution", [Relu(), Relu()])
    bounds, refinement = known(network, 0), Refinement(METHOD, Splitting())

    def fails(*_: object) -> Bounds:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(BranchedBounds, "tighten", fails)
    assert refinement.due(1e9, Deadline())
    assert refinement.tighten(network, bounds, torch.float32, Deadline(), map) is bounds
    assert not refinement.due(1e9, Deadline())

    def breaks(*_: object) -> Bounds:
        raise RuntimeError("shapes")

    monkeypatch.setattr(BranchedBounds, "tighten", breaks)
    with pytest.raises(RuntimeError, match="shapes"):
        refinement.tighten(network, bounds, torch.float32, Deadline(), map)


@pytest.mark.parametrize("some_are_better", [False, True])
def test_the_network_stays_while_subproblems_of_it_wait(
    some_are_better: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Subproblems better than their root go on waiting, in the network that they were split in; roots take the others' place."""
    strategy, waiting = open_roots(monkeypatch)
    assert len(waiting) > 2
    better = (torch.arange(len(waiting)) % 2 == 0) & some_are_better
    waiting = replace(waiting, lower_bound=torch.where(better, -1e-30, -1e9))
    network = strategy.network
    kept, roots = strategy.refine_roots(waiting, 100, Deadline(), map)
    assert kept.clause.tolist() == waiting.clause[better].tolist()
    found = {clause for one in roots for clause in one.subproblems.clause.tolist()}
    assert found == set(waiting.clause[~better].tolist())
    if some_are_better:
        assert strategy.network is network
    else:
        assert strategy.network.variables < network.variables


@pytest.mark.parametrize(
    "bounds", [(float("nan"), float("nan")), (-0.5, -2.0), (-0.5, float("nan")), (-2.0, -0.5)]
)
def test_no_clause_is_lost(bounds: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each goes on waiting or has its root in its place, whatever the roots' bounds are, also in the smaller network."""
    strategy, waiting = open_roots(monkeypatch)
    waiting = replace(waiting, lower_bound=torch.full((len(waiting),), -1.0))
    climb, given = SplitActivations._optimised_all, list(bounds)

    def ascended(
        self: SplitActivations, clauses: torch.Tensor, batch: int, deadline: Deadline
    ) -> list[Bounded]:
        roots = climb(self, clauses, batch, deadline)
        self._root_bound[clauses] = given.pop(0)
        return roots

    monkeypatch.setattr(SplitActivations, "_optimised_all", ascended)
    kept, roots = strategy.refine_roots(waiting, 100, Deadline(), map)
    left = set(kept.clause.tolist()) | {clause for one in roots for clause in one.subproblems.clause.tolist()}
    assert left == set(waiting.clause.tolist())


@pytest.fixture
def every_time(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Some passes that are due at once."""
    asked = list[bool]()

    def due(self: Refinement, seconds: float, deadline: Deadline) -> bool:
        asked.append(len(asked) % 3 == 1 and self.rounds <= 8)
        return asked[-1]

    monkeypatch.setattr(Refinement, "due", due)
    return asked


@pytest.mark.parametrize("family", ["chain", "tangle"])
@pytest.mark.parametrize("kind", [kind for kind in ACTIVATIONS if not examples(kind)[0].mixes])
def test_planted_counterexamples_survive_passes(kind: str, family: str, every_time: list[bool]) -> None:
    """No subproblem that holds it is refuted, and one such always waits: in the smaller network, with tighter bounds, anew."""
    network = random_network(3, family, [examples(kind)[0], Relu(), Relu()])
    problem, x = planted(network, 3, 1e-5)
    outcome = watched(problem, network, x, "activations", 6)
    assert outcome.verdict in ("timeout", "unknown"), outcome.reason


def test_verdicts_on_both_sides_of_the_optimum_with_passes(every_time: list[bool]) -> None:
    """They are those of mixed-integer programs."""
    settings = replace(preset("default"), first_attack=NO_ATTACK, second_attack=NO_ATTACK)
    for seed in range(3):
        layers = random_layers(seed, [4, 6, 6, 3])
        model, row = relu_model(layers), np.round(np.random.default_rng(seed).standard_normal((1, 3)), 2)
        lower, upper = [-0.6] * 4, [0.7] * 4
        optimum = exact_minimum(model, lower, upper, row, np.zeros(1))
        for shift, expected in ((-MARGIN, "unsat"), (MARGIN, "sat")):
            text = property_text(lower, upper, 3, row_text(row[0].tolist(), optimum + shift))
            outcome = search_for(prepare(model, text), "activations", settings).run(Deadline.after(PATIENCE))
            assert outcome.verdict == expected, (seed, shift, outcome.reason)
    assert any(every_time)
