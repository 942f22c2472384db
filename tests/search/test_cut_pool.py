"""Cuts that subproblems share: they hold wherever a clause may be violated, close what the hulls leave, and are only ever added to."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from nets import DOUBLE, Draft, above, loaded, property_text, row_text, samples
from patience import PATIENCE
from test_search_verdicts import NO_ATTACK, Blind, search_for

from verify.deadline import Deadline
from verify.formats.vnnlib import parse
from verify.network.activations import Relu
from verify.problem import Problem
from verify.search.branch_and_bound import BranchAndBound
from verify.search.cut_pool import CutPool
from verify.search.split_activations import SplitActivations
from verify.search.strategy import Bounded
from verify.settings import preset
from verify.state import Subproblems


def dense_problem(seed: int, slack: float) -> Problem:
    """Two clauses on a box around 0, their thresholds below the least values of samples."""
    draft = Draft(torch.Generator().manual_seed(seed), (12,))
    value = 0
    for _ in range(3):
        value = draft.activation(draft.dense(value, 20), Relu())
    draft.dense(value, 2)
    network = draft.network()
    ends = torch.full((1, 12), 0.5, dtype=DOUBLE)
    y = network.forward(samples(-ends, ends, 4000)[0])
    rows = torch.tensor([[1.0, -1.0], [-1.0, 0.5]], dtype=DOUBLE)
    clauses = [row_text(row.tolist(), round(float((y @ row).min()) - slack, 6)) for row in rows]
    text = property_text(
        [-0.5] * 12, [0.5] * 12, 2, f"(or {' '.join(f'(and {clause})' for clause in clauses)})"
    )
    return Problem(loaded(network), parse(text))


def search_of(problem: Problem) -> tuple[BranchAndBound, SplitActivations]:
    """A search without attacks, without bounds over unsafe points, and without branched bounds."""
    plain = replace(
        preset("default"), first_attack=NO_ATTACK, second_attack=NO_ATTACK, unsafe=(), branched=None
    )
    search = search_for(problem, "activations", plain)
    assert isinstance(search.strategy, SplitActivations)
    return search, search.strategy


def searched(seed: int, batches: int = 8) -> SplitActivations:
    """What a search knows that splits so many batches and finds no witness, in whatever time."""
    problem = dense_problem(seed, 0.05)
    search, strategy = search_of(Blind(problem.model, problem.specification))
    bound, deadline, done = strategy.bound, Deadline(), itertools.count(1)

    def counted(subproblems: Subproblems, deadline: Deadline) -> Bounded:
        if next(done) == batches:
            deadline.called_off.set()
        return bound(subproblems, deadline)

    search.strategy.bound = counted  # type: ignore[method-assign]
    assert search.run(deadline).verdict == "timeout"
    return strategy


def test_fewer_subproblems_to_the_same_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    for cuts in (False, True):
        opened = 0
        for seed in range(4):
            search, _ = search_of(dense_problem(seed, 2.0))
            if not cuts:
                monkeypatch.setattr(CutPool, "more", lambda self, *_: self.count)
            outcome = search.run(Deadline.after(PATIENCE))
            assert outcome.verdict == "unsat"
            opened += outcome.progress.opened
        counts.append(opened)
        monkeypatch.undo()
    assert counts[1] < 0.6 * counts[0], counts


def test_no_subproblem_with_a_violation_is_refuted() -> None:
    for seed in range(6):
        search, _ = search_of(dense_problem(seed, -0.02))
        assert search.run(Deadline.after(PATIENCE)).verdict == "sat"


def test_cuts_hold_on_all_open_boxes() -> None:
    """Those of the roots, and those that are added for deeper subproblems."""
    deeper = 0
    for seed in range(6):
        strategy = searched(seed)
        cuts = strategy.cuts.of(strategy.cuts.count, strategy.network)
        if cuts is None:
            continue
        deeper += len(strategy.cuts.versions) > 1
        ends = torch.full((1, 12), 0.5, dtype=DOUBLE)
        x = samples(-ends, ends, 2000)[0]
        x = torch.cat([x, ends * x.sign()])
        assert float(above(cuts, strategy.network, x).min()) >= 0
    assert deeper >= 2


def test_subproblems_that_know_of_fewer_go_by_the_first() -> None:
    strategy = searched(0)
    counts = sorted(strategy.cuts.versions)
    assert len(counts) > 1 and counts[-1] == strategy.cuts.count
    fewer, all_of_them = (strategy.cuts.of(count, strategy.network) for count in (counts[0], counts[-1]))
    assert fewer is not None and all_of_them is not None
    assert torch.equal(fewer.offsets, all_of_them.offsets[: counts[0]])
    assert strategy.cuts.of(0, strategy.network) is None


def test_when_more_are_due() -> None:
    _, strategy = search_of(dense_problem(1, 0.05))
    network = strategy.network
    cuts = CutPool(network, network)
    with cuts.due(5) as due:
        assert not due  # the roots come first
    bounded = list(strategy.roots(64, Deadline()))
    subproblems = bounded[-1].subproblems.select(~bounded[-1].refuted)
    cuts = strategy.cuts
    assert len(subproblems) and cuts.count
    cuts.tried(4, cuts.count, paid=True)
    for depth, expected in ((6, False), (7, True)):
        with cuts.due(depth) as due:
            assert due == expected
            with cuts.due(depth) as again:
                assert not again  # one at a time
    cuts.tried(7, 10**6, paid=False)
    assert cuts.count < 10**6
    with cuts.due(16) as due:
        assert not due
    with cuts.due(17) as due:
        assert due


def test_subproblems_that_are_linear_programs_know_no_cuts() -> None:
    """What is split at an input has no activation left to split, and a program over the hulls decides it."""
    _, strategy = search_of(dense_problem(1, 0.05))
    bounded = list(strategy.roots(64, Deadline()))[-1]
    subproblems = bounded.subproblems.select(~bounded.refuted)
    assert subproblems.cut_shares.shape[1]
    zeros = torch.zeros(len(subproblems), dtype=torch.int64)
    children = subproblems.split(zeros, zeros.double(), torch.zeros(len(subproblems), 2))
    found = strategy.bound(children, Deadline())
    assert bool((found.subproblems.lower_bound >= children.lower_bound).all())


def test_no_roots_are_renewed_when_splitting_is_nearly_done(monkeypatch: pytest.MonkeyPatch) -> None:
    search, strategy = search_of(dense_problem(3, 1.0))
    asked, most = [], 0

    def due(seconds: float, deadline: Deadline) -> bool:
        nonlocal most
        still_open = len(search.frontier) + search._working
        most = max(most, still_open)
        asked.append(still_open / most)
        return False

    monkeypatch.setattr(strategy, "due", due)
    assert search.run(Deadline.after(PATIENCE)).verdict == "unsat"
    assert asked and min(asked) >= 0.5 and most > 100
