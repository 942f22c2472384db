"""Linear programs in a search that splits activations: where no ascent tells anything, they refute, and say what to split."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from nets import property_text, relu_model
from patience import PATIENCE
from test_other_search import formula, optimum_moved

from verify.bab.loop import BranchAndBound
from verify.bab.progress import Outcome, Silent
from verify.bab.techniques.linear_programs import LinearPrograms
from verify.deadline import Deadline
from verify.lagrangian.cuts import CutShares
from verify.problem import Problem, prepare
from verify.settings import build_search, preset


def decided(problem: Problem, granted: bool = False) -> Outcome:
    """By splitting activations alone, without attacks; `granted`: by programs from the beginning."""
    settings = preset("default")
    none = replace(settings.first_attack, restarts=1, steps=0, seconds=0.0)
    settings = replace(settings, first_attack=none, second_attack=none, triable_inputs=0)
    search = build_search(problem, settings, torch.device("cpu"), 0, Silent())
    assert isinstance(search, BranchAndBound)
    if granted:
        shared = LinearPrograms().granted(search.knowledge.shared, Deadline.after(PATIENCE))
        search.knowledge = replace(search.knowledge, shared=shared)
    return search.run(Deadline.after(PATIENCE))


@pytest.mark.parametrize(("seed", "clauses"), [(0, 120), (2, 100), (3, 70), (4, 70)])
def test_formulas_are_decided(seed: int, clauses: int) -> None:
    problem, satisfiable = formula(seed, clauses)
    outcome = decided(problem, granted=True)
    assert outcome.verdict == ("sat" if satisfiable else "unsat"), outcome.reason
    assert "linear programs" in outcome.progress.techniques and outcome.progress.opened < 3000


def pigeons(holes: int, scale: float = 1.0) -> Problem:
    """One pigeon more than there are holes, each in a hole and no two in one: outputs that both are 0 where that is so, in some unit."""
    inputs = (holes + 1) * holes
    place = np.arange(inputs).reshape(holes + 1, holes)
    somewhere = np.stack([np.isin(np.arange(inputs), row).astype(float) for row in place])
    pairs = [(place[i, k], place[j, k]) for k in range(holes) for i in range(holes + 1) for j in range(i)]
    both = np.stack([np.isin(np.arange(inputs), pair).astype(float) for pair in pairs])
    one, clauses = np.eye(inputs), holes + 1 + len(pairs)
    first = np.concatenate([-somewhere, both, one, 2 * one])
    bias = np.r_[np.ones(holes + 1), -np.ones(len(pairs)), np.zeros(inputs), -np.ones(inputs)]
    second = np.zeros((2, len(first)))
    second[0, :clauses], second[1, clauses : clauses + inputs], second[1, clauses + inputs :] = 1, 1, -1
    layers = [(first, bias), (scale * second, np.zeros(2))]
    model = relu_model([(weight.astype(np.float32), one.astype(np.float32)) for weight, one in layers])
    return prepare(model, property_text([0] * inputs, [1] * inputs, 2, "(and (<= Y_0 0) (<= Y_1 0))"))


@pytest.mark.parametrize("scale", [1.0, 1e4, 1e-4])
def test_a_contradiction_that_no_ascent_sees(scale: float) -> None:
    outcome = decided(pigeons(4, scale))
    assert outcome.verdict == "unsat", outcome.reason
    assert outcome.progress.techniques["linear programs"].refuted > 10


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("shift", "verdict"), [(1e-3, "unsat"), (-1e-3, "sat")])
def test_both_sides_of_the_optimum(seed: int, shift: float, verdict: str) -> None:
    """A program's optimum is tried as a counterexample: on a subproblem without anything relaxed it is one."""
    outcome = decided(optimum_moved(seed, shift), granted=True)
    assert outcome.verdict == verdict, outcome.reason


def test_boxes_that_splits_leave_empty_are_refuted() -> None:
    """A pre-activation that is 1 at least and -1 at most: a program that takes it as 1 says nothing."""
    search = build_search(pigeons(4), preset("default"), torch.device("cpu"), 0, Silent())
    for result in search.strategy.roots(search.knowledge, 8, Deadline()):
        search.knowledge = search.knowledge.learned(*result.seen)
        roots = result.bounded.subproblems
    shared = LinearPrograms().granted(search.knowledge.shared, Deadline.after(PATIENCE))
    knowledge = replace(search.knowledge, shared=shared)
    variable = torch.tensor([shared.network.variables - 1])
    subproblems = roots.select(slice(0, 1)).with_cuts(CutShares.name, 0)
    for side, value in ((0, 1.0), (1, -1.0)):
        ends, none = torch.tensor([value], dtype=torch.float64), torch.zeros(1, 2)
        subproblems = subproblems.split(variable, (ends, ends), none).select(slice(side, side + 1))
    result = search.strategy.bound(subproblems, knowledge, Deadline.after(PATIENCE))
    assert bool(result.bounded.refuted.all())


def test_they_are_not_tried_where_ascents_refute() -> None:
    """On an easy network splitting closes what it opens."""
    eye = np.eye(4, dtype=np.float32)
    layers = [(np.concatenate([eye, -eye]), np.zeros(8)), (np.ones((1, 8)), np.zeros(1))]
    model = relu_model([(weight.astype(np.float32), bias.astype(np.float32)) for weight, bias in layers])
    problem = prepare(model, property_text([-1] * 4, [1] * 4, 1, "(<= Y_0 -0.1)"))
    outcome = decided(problem)
    assert outcome.verdict == "unsat" and "linear programs" not in outcome.progress.techniques
