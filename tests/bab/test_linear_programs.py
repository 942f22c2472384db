"""Linear programs in a search that splits activations: where no ascent tells anything, they refute, and say what to split."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from nets import property_text, relu_model
from patience import PATIENCE
from test_other_search import formula

from verify.bab.loop import BranchAndBound
from verify.bab.progress import Outcome, Silent
from verify.bab.techniques.linear_programs import LinearPrograms
from verify.deadline import Deadline
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


def test_a_contradiction_that_no_ascent_sees() -> None:
    """All clauses of six literals: bounds are 0 until nearly everything is split, and nothing is refuted before."""
    signs = 1 - 2 * (np.arange(64)[:, None] >> np.arange(6) & 1)
    one = np.eye(6)
    first = (
        np.concatenate([-signs, one, 2 * one]),
        np.r_[(signs < 0).sum(1) * -1.0 + 1, np.zeros(6), -np.ones(6)],
    )
    second = np.zeros((2, 76))
    second[0, :64], second[1, 64:70], second[1, 70:] = 1, 1, -1
    pairs = first, (second, np.zeros(2))
    model = relu_model([(weight.astype(np.float32), bias.astype(np.float32)) for weight, bias in pairs])
    text = property_text([0] * 6, [1] * 6, 2, "(and (<= Y_0 0) (<= Y_1 0))")
    outcome = decided(prepare(model, text))
    assert outcome.verdict == "unsat", outcome.reason


def test_they_are_not_tried_where_ascents_refute() -> None:
    """On an easy network splitting closes what it opens."""
    eye = np.eye(4, dtype=np.float32)
    layers = [(np.concatenate([eye, -eye]), np.zeros(8)), (np.ones((1, 8)), np.zeros(1))]
    model = relu_model([(weight.astype(np.float32), bias.astype(np.float32)) for weight, bias in layers])
    problem = prepare(model, property_text([-1] * 4, [1] * 4, 1, "(<= Y_0 -0.1)"))
    outcome = decided(problem)
    assert outcome.verdict == "unsat" and "linear programs" not in outcome.progress.techniques
