"""Roots: clauses that share a box share what is known of it, and points that decimals were rounded around are points."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nets import Draft, loaded, property_text, random_network, row_text, samples
from patience import PATIENCE
from test_search_verdicts import both_strategies, bounded_roots, search_for

from verify import memory
from verify.bab.inputs import SplitInputs
from verify.bab.progress import Silent
from verify.bounders.intermediate import IntermediateBounds
from verify.deadline import Deadline
from verify.formats.vnnlib import parse
from verify.network.activations import Relu
from verify.network.affine import Dense
from verify.network.graph import Network
from verify.problem import Problem
from verify.settings import build_search, preset
from verify.state import Bounds


def many_clauses(seed: int, slack: float, clauses: int = 60) -> Problem:
    """Clauses on two boxes; thresholds are above the least values of samples by the slack, every third far below."""
    network = random_network(seed, "chain", [Relu(), Relu()])
    generator = torch.Generator().manual_seed(seed)
    alternatives = []
    for _ in range(2):
        centre = torch.randn(network.inputs, generator=generator, dtype=torch.float64)
        lower, upper = centre - 0.2, centre + 0.2
        y = network.forward(samples(lower[None], upper[None], 400)[0])
        ends = zip(lower.tolist(), upper.tolist(), strict=True)
        limits = " ".join(f"(>= X_{i} {low!r}) (<= X_{i} {high!r})" for i, (low, high) in enumerate(ends))
        for clause in range(clauses):
            row = torch.randn(network.outputs, generator=generator, dtype=torch.float64).round(decimals=2)
            near = slack if clause % 3 else -3.0
            threshold = round(float((y @ row).min()) + near, 6)
            alternatives.append(f"(and {limits} {row_text(row.tolist(), threshold)})")
    wide = [100.0] * network.inputs
    text = property_text([-x for x in wide], wide, network.outputs, f"(or {' '.join(alternatives)})")
    return Problem(loaded(network), parse(text))


def violated(problem: Problem, clause: int) -> bool:
    """Whether a sample violates the clause."""
    x = samples(*problem.boxes([clause]), 400)[0]
    objective = problem.objective([clause])
    rows = problem.model.network.forward(x) @ objective.coefficients[0, 0].mT - objective.thresholds[0, 0]
    return bool((rows <= 0).all(1).any())


@both_strategies
def test_roots_count_every_clause_and_refute_no_violated_one(splits: str) -> None:
    """Whatever is refuted together or by itself: every clause once, and none that a sample violates."""
    for seed in range(3):
        problem = many_clauses(seed, 1e-3)
        strategy = search_for(problem, splits).strategy
        bounded, knowledge = bounded_roots(strategy, 7)
        refuted = {clause for one in bounded for clause in one.subproblems.clause[one.refuted].tolist()}
        left = {
            clause
            for one in bounded
            for clause in strategy.clauses_of(one.subproblems.clause[~one.refuted], knowledge)
        }
        closed = set(range(problem.clauses)) - left
        assert refuted <= closed
        assert closed and left
        assert not any(violated(problem, clause) for clause in closed)


@both_strategies
def test_many_clauses_on_a_box_are_all_refuted(splits: str) -> None:
    """Clearly unsat properties end at the roots."""
    problem = many_clauses(4, -2.0)
    outcome = search_for(problem, splits).run(Deadline.after(PATIENCE))
    assert outcome.verdict == "unsat", outcome.reason
    assert outcome.progress.waiting == 0


def test_forward_bounds_come_first_where_clauses_share_a_box(monkeypatch: pytest.MonkeyPatch) -> None:
    """CROWN sees only what they leave open."""
    problem = many_clauses(4, -2.0)
    strategy = search_for(problem, "inputs").strategy
    assert isinstance(strategy, SplitInputs)

    def never(*_: object) -> None:
        raise AssertionError("a sweep for clauses that forward bounds refute")

    monkeypatch.setattr(SplitInputs, "bound", never)
    assert sum(len(one) for one in bounded_roots(strategy, 8)[0]) == problem.clauses


def test_a_box_is_tightened_once_for_all_of_its_clauses(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = many_clauses(1, 1e-3)
    strategy = search_for(problem, "activations").strategy
    boxes: list[int] = []
    tighten = IntermediateBounds.tighten

    def counted(
        self: IntermediateBounds, network: Network, bounds: Bounds, *rest: Any, **named: Any
    ) -> Bounds:
        boxes.append(len(bounds))
        return tighten(self, network, bounds, *rest, **named)

    monkeypatch.setattr(IntermediateBounds, "tighten", counted)
    bounded_roots(strategy, 8)
    assert boxes == [1] * 4  # two stages of each of two boxes


def test_points_that_decimals_were_rounded_around_are_points() -> None:
    """0.1 is no float64: its interval is two of them, and still there is nothing to split."""
    network = random_network(2, "chain", [Relu(), Relu()])
    text = property_text(
        [0.1] * network.inputs,
        [0.1] * network.inputs,
        network.outputs,
        row_text([1.0] * network.outputs, -100.0),
    )
    problem = Problem(loaded(network), parse(text))
    lower, upper = problem.boxes([0])
    assert bool((lower < upper).all())
    assert problem.free_inputs == 0
    assert search_for(problem, "inputs").run(Deadline.after(PATIENCE)).verdict == "unsat"


def test_batches_of_large_networks_fit_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many subproblems of small networks at a time, one of the largest."""
    monkeypatch.setattr(memory, "_chosen", memory.Memory(2**40))
    sizes = []
    for width in (4, 3_000, 3_000_000):
        draft = Draft(torch.Generator().manual_seed(0), (1,))
        rows = torch.arange(1, width + 1, dtype=torch.float64)[:, None]
        wide = draft.add(Dense(rows), (0,), (width,))
        draft.add(Dense(torch.ones(1, width, dtype=torch.float64)), (draft.activation(wide, Relu()),), (1,))
        problem = Problem(
            loaded(draft.network()), parse(property_text([0.0], [1.0], 1, row_text([1.0], -1.0)))
        )
        sizes.append(build_search(problem, preset("default"), torch.device("cpu"), 0, Silent()).batch)
    assert sizes[0] == 2048 and sizes[1] == 800_000 // 3_001 and sizes[2] == 2**25 // 3_000_001
