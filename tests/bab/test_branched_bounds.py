"""Bounds of neurons by branch and bound: sound, no looser than what was known, exact in the end; and when they are due."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from nets import (
    DOUBLE,
    examples,
    loaded,
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
from test_search_verdicts import MARGIN, NO_ATTACK, bounded_roots, planted, search_for, watched

from verify.bab.activations import SplitActivations
from verify.bab.effort import SPLITTING, Effort, Observation, Splitting
from verify.bab.neuron_trees import _TRIAL, Ends, NeuronTrees, _Trees, open_behind, places_behind
from verify.bab.root_bounds import Passes, RootBounds
from verify.bab.strategy import Knowledge, Result
from verify.bab.techniques.branched_bounds import BranchedBounds
from verify.bab.techniques.roots import RootsBounded
from verify.bounders.intermediate import IntermediateBounds, still_open
from verify.bounders.restricted import Restricted
from verify.branching.fsb import FilteredSmartBranching
from verify.deadline import Deadline, OutOfTimeError
from verify.formats.vnnlib import parse
from verify.lagrangian.dual import DualProblem
from verify.network.activations import ACTIVATIONS, Relu
from verify.network.graph import Network
from verify.problem import Problem, prepare
from verify.proof.tracer import NO_PROOF
from verify.settings import preset
from verify.state import Bounds, Subproblems

METHOD = NeuronTrees()
PLAIN = [kind for kind in ACTIVATIONS if not examples(kind)[0].mixes]


def known(network: Network, seed: int, boxes: int = 2, radius: float = 0.4) -> Bounds:
    """What CROWN knows of some random boxes."""
    return IntermediateBounds().tighten(network, random_box(network, boxes, seed, radius), Deadline())


def tightened(network: Network, bounds: Bounds, rounds: int = 4) -> Bounds:
    return METHOD.tighten(network, bounds, rounds, Deadline(), Deadline(), torch.float32)


@pytest.mark.parametrize("family", ["chain", "convolution", "tangle"])
@pytest.mark.parametrize("kind", PLAIN)
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
    method = NeuronTrees(child=Restricted(iterations=30, step=0.3, decay=0.9))
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
    """The same bounds from threads. Ends share subproblems with those of their own chunk: single neurons gain, too."""
    network = random_network(0, "convolution", [Relu(), Relu(), Relu()])
    bounds = known(network, 0, 2, 0.8)
    alone = tightened(network, bounds)
    with ThreadPoolExecutor(2) as pool:
        beside = METHOD.tighten(network, bounds, 4, Deadline(), Deadline(), torch.float32, pool.map)
    assert torch.equal(alone.lower, beside.lower) and torch.equal(alone.upper, beside.upper)
    monkeypatch.setitem(METHOD.tighten.__globals__, "_ELEMENTS", 1)
    small = tightened(network, bounds)
    widths = [float((box.upper - box.lower).sum()) for box in (bounds, small, alone)]
    assert widths[0] - widths[1] > 0.8 * (widths[0] - widths[2]) > 0


def lopsided(seed: int) -> tuple[Network, Bounds]:
    """A dense network and a box: one layer's neurons are open by nine tenths of their intervals on one side, to as much on the other."""
    layers, text = (
        random_layers(seed, [8, 24, 24, 4]),
        property_text([-0.5] * 8, [0.5] * 8, 4, row_text([1.0, 0, 0, 0], -9.0)),
    )
    network = prepare(relu_model(layers), text).model.network
    ends = torch.full((1, network.variables), torch.inf, dtype=DOUBLE)
    ends[0, :8] = 0.5
    bounds = IntermediateBounds().tighten(network, Bounds(-ends, ends), Deadline())
    lower, upper = (end[0, network.layers[1].variables] for end in (bounds.lower, bounds.upper))
    shift = torch.linspace(-0.9, 0.9, 24, dtype=DOUBLE) * (upper - lower) / 2 - (lower + upper) / 2
    layers[1] = (layers[1][0], layers[1][1] + shift.numpy())
    network = prepare(relu_model(layers), text).model.network
    return network, IntermediateBounds().tighten(network, Bounds(-ends, ends), Deadline())


@pytest.mark.parametrize("seed", range(3))
def test_subproblems_go_where_they_pay(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triangles are lower than with as many for every open end, with fewer of them."""
    network, bounds = lopsided(seed)
    split, choose = [0], FilteredSmartBranching.choose

    def counting(self: FilteredSmartBranching, problem: DualProblem, *more: Any) -> Any:
        split[-1] += len(problem.bounds.lower)
        return choose(self, problem, *more)

    monkeypatch.setattr(FilteredSmartBranching, "choose", counting)
    paying = tightened(network, bounds, 6)
    split.append(0)
    monkeypatch.setattr(
        _Trees,
        "_due",
        lambda self, ends, counts, began, found, mean: (counts < mean) & self._open(ends, found),
    )
    alike = tightened(network, bounds, 7)
    assert split[0] < split[1]
    assert heights(network, paying) < 0.95 * heights(network, alike)


def heights(network: Network, box: Bounds) -> float:
    """Of the triangles of all open neurons behind others, together."""
    total = 0.0
    for place in places_behind(network):
        layer = network.layers[place]
        lower, upper = box.lower[:, layer.variables], box.upper[:, layer.variables]
        total += float((-lower * upper / (upper - lower))[still_open(layer, box)].sum())
    return total


def test_layers_whose_first_neurons_gain_nothing_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every layer a few ends are tried, and no others."""
    network = random_network(1, "wide_convolution", [Relu(), Relu(), Relu()])
    bounds, asked = known(network, 1, 2, 0.8), list[int]()

    def bounded(self: _Trees, ends: Ends, mean: float) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(len(ends))
        return torch.full((len(ends),), -torch.inf, dtype=DOUBLE), torch.zeros(len(ends), dtype=DOUBLE)

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


def children(count: int, refuted: bool, seconds: float) -> Observation:
    """Children of subproblems at distance 1, of which none has come nearer, or all are refuted."""
    one = torch.full((count,), -1.0)
    return Observation(SPLITTING, seconds, one, one, torch.full((count,), refuted))


def test_a_pass_is_due_once_splitting_took_as_long() -> None:
    """Sooner after one that paid, at once where next to nothing is refuted, later after one that did not pay."""
    technique, effort = BranchedBounds(), Effort().learned(children(2, False, 0.002))
    passes = technique.expecting(technique.begin(), 0.5)
    first, none = passes.seconds, Deadline()

    def due(
        seconds: float, known: Effort = effort, after: Passes = passes, deadline: Deadline = none
    ) -> bool:
        return technique.due(after, seconds, known.splitting, deadline)

    assert not due(0.1 * first) and due(first)
    # which it cannot end by
    assert not due(first, deadline=Deadline.after(0.5 * first))
    before = torch.tensor([-1.0, -2.0])
    assert effort.pays(technique.observed(1.0, before, torch.tensor([-0.5, 0.1])))
    assert not effort.pays(technique.observed(1.0, before, before))
    hopeless = effort.learned(children(100, False, 0.1))
    assert due(0.0, hopeless)
    assert not due(0.0, hopeless.learned(children(100, True, 0.1)))
    assert not due(0.0, hopeless.learned(technique.observed(1.0, before, before)))
    unpaid = replace(passes, paid=False)
    assert not due(first, hopeless, unpaid) and due(10 * first, hopeless, unpaid)


def shared_bounds(network: Network, bounds: Bounds) -> RootBounds:
    """What a search of one clause on one box knows of it."""
    lower, upper = (end[0, : network.inputs].tolist() for end in (bounds.lower, bounds.upper))
    text = property_text(lower, upper, network.outputs, row_text([1.0] + [0.0] * (network.outputs - 1), -1e9))
    start = RootBounds.begin(Problem(loaded(network), parse(text)), network, torch.float32, 0, NO_PROOF, True)
    return replace(start.added(torch.tensor([0]), bounds), passes=BranchedBounds().begin())


def test_passes_become_dearer_with_rounds_and_cheaper_with_closed_neurons() -> None:
    """And there is an end to rounds."""
    network = random_network(1, "wide_convolution", [Relu(), Relu(), Relu()])
    bounds, technique = known(network, 1, 1, 0.8), BranchedBounds()
    shared = shared_bounds(network, bounds)
    began = time.monotonic()
    found = technique.apply(shared, torch.tensor([0]), Deadline(), map)
    spent = time.monotonic() - began
    assert bool((found.bounds.lower > bounds.lower).any())
    more = METHOD.subproblems(found.passes.rounds) / METHOD.subproblems(shared.passes.rounds)
    assert found.passes.rounds > shared.passes.rounds and found.passes.seconds <= spent * more + 1e-9
    assert not technique.due(replace(found.passes, rounds=1000), 1e9, Splitting(), Deadline())


def open_roots(monkeypatch: pytest.MonkeyPatch) -> tuple[SplitActivations, Subproblems, Knowledge]:
    """A strategy, its open roots, and what it knows: of a network as large as it was."""
    strategy = search_for(many_clauses(3, 1e-3, 12), "activations").strategy
    assert isinstance(strategy, SplitActivations)
    with monkeypatch.context() as whole:
        whole.setattr(RootBounds, "reduced", lambda self: self)
        bounded, knowledge = bounded_roots(strategy)
    left = [one.subproblems.select(one.open) for one in bounded if len(one.open)]
    return strategy, Subproblems.concatenate(left), knowledge


def test_a_pass_that_memory_ends_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds stay as they are and the search goes on; other errors are errors."""
    network = random_network(0, "convolution", [Relu(), Relu()])
    bounds, technique = known(network, 0, 1), BranchedBounds()
    shared, index = shared_bounds(network, bounds), torch.tensor([0])

    def fails(*_: object) -> Bounds:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(NeuronTrees, "tighten", fails)
    assert technique.due(shared.passes, 1e9, Splitting(), Deadline())
    found = technique.apply(shared, index, Deadline(), map)
    assert torch.equal(found.bounds.lower, bounds.lower) and torch.equal(found.bounds.upper, bounds.upper)
    assert not technique.due(found.passes, 1e9, Splitting(), Deadline())

    def breaks(*_: object) -> Bounds:
        raise RuntimeError("shapes")

    monkeypatch.setattr(NeuronTrees, "tighten", breaks)
    with pytest.raises(RuntimeError, match="shapes"):
        technique.apply(shared, index, Deadline(), map)


@pytest.mark.parametrize("some_are_better", [False, True])
def test_the_network_stays_while_subproblems_of_it_wait(
    some_are_better: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Subproblems better than their root go on waiting, in the network that they were split in; roots take the others' place."""
    strategy, waiting, knowledge = open_roots(monkeypatch)
    assert len(waiting) > 2
    better = (torch.arange(len(waiting)) % 2 == 0) & some_are_better
    waiting = replace(waiting, lower_bound=torch.where(better, -1e-30, -1e9))
    network = knowledge.shared.network
    kept, roots = strategy.refine_roots(waiting, knowledge, 100, Deadline(), map)
    after = knowledge.learned(*(seen for result in roots for seen in result.seen)).shared.network
    assert kept.clause.tolist() == waiting.clause[better].tolist()
    found = {clause for one in roots for clause in one.bounded.subproblems.clause.tolist()}
    assert found == set(waiting.clause[~better].tolist())
    if some_are_better:
        assert after is network
    else:
        assert after.variables < network.variables


@pytest.mark.parametrize(
    "bounds", [(float("nan"), float("nan")), (-0.5, -2.0), (-0.5, float("nan")), (-2.0, -0.5)]
)
def test_no_clause_is_lost(bounds: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each goes on waiting or has its root in its place, whatever the roots' bounds are, also in the smaller network."""
    strategy, waiting, knowledge = open_roots(monkeypatch)
    waiting = replace(waiting, lower_bound=torch.full((len(waiting),), -1.0))
    ascend, given = SplitActivations._all_optimised, list(bounds)

    def ascended(self: SplitActivations, clauses: torch.Tensor, *rest: Any) -> list[Result]:
        results = ascend(self, clauses, *rest)
        [*_, last] = results[-1].seen
        assert isinstance(last, RootsBounded) and last.shared is not None
        bound = last.shared.root_bound.index_fill(0, clauses, given.pop(0))
        seen = replace(last, shared=replace(last.shared, root_bound=bound))
        return [*results[:-1], replace(results[-1], seen=(seen,))]

    monkeypatch.setattr(SplitActivations, "_all_optimised", ascended)
    kept, roots = strategy.refine_roots(waiting, knowledge, 100, Deadline(), map)
    found = {clause for one in roots for clause in one.bounded.subproblems.clause.tolist()}
    assert set(kept.clause.tolist()) | found == set(waiting.clause.tolist())


@pytest.fixture
def every_time(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Some passes that are due at once."""
    asked = list[bool]()

    def due(self: BranchedBounds, passes: Passes, *_: object) -> bool:
        asked.append(len(asked) % 3 == 1 and passes.rounds <= 8)
        return asked[-1]

    monkeypatch.setattr(BranchedBounds, "due", due)
    return asked


@pytest.mark.parametrize("kind", PLAIN)
def test_planted_counterexamples_survive_passes(kind: str, every_time: list[bool]) -> None:
    """No subproblem that holds it is refuted, and one such always waits: in the smaller network, with tighter bounds, anew."""
    family = ("chain", "tangle")[PLAIN.index(kind) % 2]
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
