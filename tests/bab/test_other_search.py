"""A search that has another one beside it, which splits otherwise."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from nets import property_text, random_layers, relu_model, row_text
from oracles import exact_minimum
from patience import PATIENCE

from verify.bab.activations import SplitActivations
from verify.bab.inputs import SplitInputs
from verify.bab.loop import BranchAndBound
from verify.bab.progress import Outcome, Progress, Silent
from verify.bab.techniques.linear_programs import LinearPrograms
from verify.bab.techniques.other_splitting import OtherSplitting
from verify.deadline import Deadline
from verify.problem import Problem, prepare
from verify.proof.tracer import NO_PROOF, ProofTracer
from verify.settings import build_search, preset

INPUTS = 20


def search_for(problem: Problem) -> BranchAndBound:
    return build_search(problem, preset("default"), torch.device("cpu"), 0, Silent())


def formula(seed: int, clauses: int) -> tuple[Problem, bool]:
    """Clauses of three literals as a network whose first output counts those that fail and whose second says how far inputs
    are from 0 and 1; and whether all can hold, which trying out all assignments tells."""
    random = np.random.default_rng(seed)
    chosen = np.stack([random.choice(INPUTS, 3, replace=False) for _ in range(clauses)])
    negated = random.random((clauses, 3)) < 0.5
    literal = np.zeros((clauses, INPUTS))
    np.put_along_axis(literal, chosen, np.where(negated, 1.0, -1.0), axis=1)
    one = np.eye(INPUTS)
    first = (
        np.concatenate([literal, one, 2 * one]),
        np.r_[1 - negated.sum(1), np.zeros(INPUTS), -np.ones(INPUTS)],
    )
    second = np.zeros((2, clauses + 2 * INPUTS))
    second[0, :clauses], second[1, clauses : clauses + INPUTS], second[1, clauses + INPUTS :] = 1, 1, -1
    layers = [
        (weight.astype(np.float32), bias.astype(np.float32))
        for weight, bias in (first, (second, np.zeros(2)))
    ]
    text = property_text([0] * INPUTS, [1] * INPUTS, 2, "(and (<= Y_0 0.01) (<= Y_1 0.01))")
    bits = (np.arange(2**INPUTS)[:, None] >> np.arange(INPUTS) & 1).astype(bool)
    holds = np.ones(len(bits), dtype=bool)
    for places, flips in zip(chosen, negated, strict=True):
        holds &= (bits[:, places] ^ flips).any(1)
    return prepare(relu_model(layers), text), bool(holds.any())


def optimum_moved(seed: int, shift: float) -> Problem:
    """A random network whose least output is moved by `shift` above its threshold."""
    model = relu_model(random_layers(seed, [INPUTS, 10, 2]))
    lower, upper = [-0.5] * INPUTS, [0.5] * INPUTS
    row, none = np.array([[1.0, -0.5]]), np.zeros(1)
    least = exact_minimum(model, lower, upper, row, none)
    return prepare(model, property_text(lower, upper, 2, row_text(row[0], least - shift)))


@dataclass
class Other:
    """Another search with its outcome known."""

    outcome: Outcome
    tracer: ProofTracer = NO_PROOF
    limits: list[float] = field(default_factory=list)

    def run(self, deadline: Deadline) -> Outcome:
        self.limits.append(deadline.remaining)
        return self.outcome


def beside(search: BranchAndBound, verdict: str, share: float) -> Other:
    other = Other(Outcome(verdict, "", progress=Progress(opened=1000, closed=500)))
    search.other = OtherSplitting(other, share)
    return other


@pytest.mark.parametrize(("seed", "clauses"), [(0, 120), (1, 120), (2, 70), (3, 70)])
def test_inputs_suit_formulas(seed: int, clauses: int) -> None:
    problem, satisfiable = formula(seed, clauses)
    search = search_for(problem)
    assert isinstance(search.strategy, SplitActivations) and search.other is not None
    other = search.other.search
    assert isinstance(other, BranchAndBound) and isinstance(other.strategy, SplitInputs)
    outcome = other.run(Deadline.after(PATIENCE))
    assert outcome.verdict == ("sat" if satisfiable else "unsat"), outcome.reason


@pytest.mark.parametrize("shift", [-1e-3, 1e-3])
@pytest.mark.parametrize("verdict", ["timeout", "unknown"])
def test_what_the_other_leaves_open_is_decided(shift: float, verdict: str) -> None:
    search = search_for(optimum_moved(5, shift))
    search.first_attack = search.second_attack = replace(
        search.first_attack, restarts=1, steps=0, seconds=0.0
    )
    other = beside(search, verdict, 0.0)
    outcome = search.run(Deadline.after(PATIENCE))
    assert outcome.verdict == ("unsat" if shift > 0 else "sat"), outcome.reason
    assert len(other.limits) == 1 and search.other is None
    assert outcome.progress.opened > 1000 and "the other way of splitting" in outcome.progress.seconds


def test_the_other_may_decide() -> None:
    problem, satisfiable = formula(0, 120)
    assert not satisfiable
    search = search_for(problem)
    search.strategy = replace(search.strategy, programs=LinearPrograms(variables=0))  # type: ignore[type-var]
    other = beside(search, "unsat", 0.01)
    outcome = search.run(Deadline.after(PATIENCE))
    assert outcome.verdict == "unsat" and other.limits and 0 < other.limits[0] <= 0.01 * PATIENCE
    assert not outcome.progress.waiting


def test_few_inputs_and_many_have_no_other() -> None:
    problem, _ = formula(0, 60)
    for settings in (
        replace(preset("default"), triable_inputs=19),
        replace(preset("default"), splittable_inputs=20),
    ):
        assert build_search(problem, settings, torch.device("cpu"), 0, Silent()).other is None
