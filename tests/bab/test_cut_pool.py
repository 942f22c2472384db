"""Cuts that subproblems share: they hold wherever a clause may be violated, close what the hulls leave, and are only ever added to."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache

import pytest
import torch
from nets import DOUBLE, Draft, above, loaded, property_text, row_text, samples
from patience import PATIENCE
from test_search_verdicts import NO_ATTACK, Blind, bounded_roots, search_for

from verify.bab.activations import SplitActivations
from verify.bab.effort import SPLITTING
from verify.bab.loop import BranchAndBound
from verify.bab.root_bounds import RootBounds
from verify.bab.steps import Done
from verify.bab.strategy import Knowledge
from verify.bab.techniques.cutting_planes import CuttingPlanes
from verify.deadline import Deadline, OutOfTimeError
from verify.formats.vnnlib import parse
from verify.network.activations import Relu
from verify.problem import Problem
from verify.settings import preset


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
        preset("default"),
        first_attack=NO_ATTACK,
        second_attack=NO_ATTACK,
        output_constrained=(),
        branched=None,
    )
    search = search_for(problem, "activations", plain)
    assert isinstance(search.strategy, SplitActivations)
    return search, search.strategy


@cache
def searched(seed: int, batches: int = 8) -> RootBounds:
    """What a search knows that splits so many batches and finds no witness, in whatever time."""
    problem = dense_problem(seed, 0.05)
    search, _ = search_of(Blind(problem.model, problem.specification))
    done, take = itertools.count(1), search.take

    def counted(finished: Done) -> None:
        take(finished)
        if any(one.technique == SPLITTING for one in finished.seen) and next(done) == batches:
            raise OutOfTimeError

    search.take = counted  # type: ignore[method-assign, assignment]
    assert search.run(Deadline()).verdict == "timeout"
    found: RootBounds = search.knowledge.shared
    return found


def test_fewer_subproblems_to_the_same_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    for cuts in (False, True):
        opened = 0
        for seed in range(4):
            search, _ = search_of(dense_problem(seed, 2.0))
            if not cuts:
                monkeypatch.setattr(CuttingPlanes, "possible", lambda *_: False)
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
        shared = searched(seed)
        cuts = shared.cuts.of(shared.cuts.count, shared.network)
        if not cuts:
            continue
        deeper += len(shared.cuts.versions) > 1
        ends = torch.full((1, 12), 0.5, dtype=DOUBLE)
        x = samples(-ends, ends, 2000)[0]
        x = torch.cat([x, ends * x.sign()])
        assert float(above(cuts[0], shared.network, x).min()) >= 0
    assert deeper >= 2


def test_subproblems_that_know_of_fewer_go_by_the_first() -> None:
    shared = searched(0)
    counts = sorted(shared.cuts.versions)
    assert len(counts) > 1 and counts[-1] == shared.cuts.count
    fewer, all_of_them = (shared.cuts.of(count, shared.network)[0] for count in (counts[0], counts[-1]))
    assert fewer is not None and all_of_them is not None
    assert torch.equal(fewer.offsets, all_of_them.offsets[: counts[0]])
    assert shared.cuts.of(0, shared.network) == ()


def test_when_more_are_due() -> None:
    """Where the holder of what is known alone may add to it, for open subproblems that are a good deal deeper than before."""
    _, strategy = search_of(dense_problem(1, 0.05))
    technique = strategy.cuts
    bounded, knowledge = bounded_roots(strategy)
    roots, sole = bounded[-1], replace(knowledge, sole=True)
    pool = knowledge.shared.cuts
    assert len(roots.open) and pool.count and pool.box is not None

    def due(depth: int, next_depth: int, known: Knowledge = sole) -> bool:
        shared = replace(known.shared, cuts=replace(known.shared.cuts, next_depth=next_depth))
        columns = torch.zeros(len(roots), depth, dtype=torch.int64)
        deeper = replace(roots, subproblems=replace(roots.subproblems, split_variable=columns))
        return bool(len(technique.due(deeper, replace(known, shared=shared))))

    assert due(7, 7) and not due(6, 7) and not due(7, 7, knowledge)
    assert not technique.due(roots, strategy.begin()).numel()
    found, tried = technique.apply(roots, roots.open, sole, Deadline())
    after = tried.update(knowledge.shared).cuts
    assert after.next_depth == technique.deeper
    assert found.subproblems.state["cut_shares"].shape[2] == after.count


def test_subproblems_that_are_linear_programs_know_no_cuts() -> None:
    """What is split at an input has no activation left to split, and a program over the hulls decides it."""
    _, strategy = search_of(dense_problem(1, 0.05))
    bounded, knowledge = bounded_roots(strategy)
    subproblems = bounded[-1].subproblems.select(bounded[-1].open)
    assert subproblems.state["cut_shares"].shape[2]
    zeros = torch.zeros(len(subproblems), dtype=torch.int64)
    children = subproblems.split(zeros, (zeros.double(), zeros.double()), torch.zeros(len(subproblems), 2))
    found = strategy.bound(children, knowledge, Deadline()).bounded
    assert bool((found.subproblems.lower_bound >= children.lower_bound).all())


def test_no_roots_are_renewed_when_splitting_is_nearly_done(monkeypatch: pytest.MonkeyPatch) -> None:
    search, _ = search_of(dense_problem(3, 1.0))
    asked, most = [], 0

    def due(*_: object) -> bool:
        nonlocal most
        still_open = len(search.frontier) + search._working
        most = max(most, still_open)
        asked.append(still_open / most)
        return False

    monkeypatch.setattr(SplitActivations, "due", due)
    assert search.run(Deadline.after(PATIENCE)).verdict == "unsat"
    assert asked and min(asked) >= 0.5 and most > 100
