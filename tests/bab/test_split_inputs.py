"""Clipping and joining of rows: no point where all rows can be at most 0 is lost, and what rows say together is used."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from nets import DOUBLE, label, loaded, property_text, random_box, random_network, row_text, samples
from patience import PATIENCE
from test_search_verdicts import search_for

from verify.bab.box_bounds import BoxBounder
from verify.bab.inputs import SplitInputs
from verify.bab.strategy import Objectives, grouped
from verify.bab.techniques.clipping import Clipping
from verify.bounders.ibp import interval
from verify.deadline import Deadline
from verify.formats.vnnlib import parse
from verify.network.activations import Activation, Relu
from verify.network.activations.steps import Floor, Round, Sign
from verify.problem import Problem
from verify.state import Bounds


def linear_rows(seed: int) -> tuple[Bounds, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A box, rows' least values on it and their coefficients (2 clauses of 3 rows), and the rows at the box's lower end."""
    generator = torch.Generator().manual_seed(seed)
    lower = torch.randn(5, 4, generator=generator, dtype=DOUBLE)
    box = Bounds(lower, lower + torch.rand(5, 4, generator=generator, dtype=DOUBLE))
    cotangent = torch.randn(5, 2, 3, 4, generator=generator, dtype=DOUBLE)
    bound = -torch.rand(5, 2, 3, generator=generator, dtype=DOUBLE)
    width = (box.upper - box.lower)[:, None, None]
    return box, bound, cotangent, bound - (cotangent.clamp(max=0) * width).sum(3)


def sampled(
    box: Bounds, cotangent: torch.Tensor, start: torch.Tensor, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random points, as distances from the boxes' lower ends, and the rows' values there."""
    share = torch.rand(5, 4000, 4, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    moved = share * (box.upper - box.lower)[:, None]
    return moved, start[..., None, :] + torch.einsum("bgri,bsi->bgsr", cotangent, moved)


@pytest.mark.parametrize("seed", range(8))
def test_joined_rows_lie_below_the_largest_and_above_the_best_alone(seed: int) -> None:
    box, bound, cotangent, start = linear_rows(seed)
    joint, *_ = Clipping().joined(box, bound, cotangent)
    _, values = sampled(box, cotangent, start, seed)
    assert bool((joint[..., 0] <= values.amax(3).amin(2)).all())
    mean = (start.mean(2) + (cotangent.mean(2).clamp(max=0) * (box.upper - box.lower)[:, None]).sum(2))[
        ..., None
    ]
    assert bool((joint >= mean - 1e-9).all())


def test_conflicting_rows_refute_together() -> None:
    """x - 0.4 <= 0 and 0.6 - x <= 0 cannot both hold, though each can."""
    box = Bounds(torch.zeros(1, 1, dtype=DOUBLE), torch.ones(1, 1, dtype=DOUBLE))
    cotangent = torch.tensor([1.0, -1.0], dtype=DOUBLE).reshape(1, 1, 2, 1)
    bound = torch.tensor([-0.4, -0.4], dtype=DOUBLE).reshape(1, 1, 2)
    joint, *_ = Clipping().joined(box, bound, cotangent)
    assert 0.05 < float(joint) <= 0.1
    lower, upper = Clipping().clipped(box, bound, cotangent)
    assert bool((lower > upper).all())


@pytest.mark.parametrize("seed", range(8))
def test_clipped_boxes_hold_every_unsafe_point(seed: int) -> None:
    box, bound, cotangent, start = linear_rows(seed)
    lower, upper = Clipping().clipped(box, bound, cotangent)
    moved, values = sampled(box, cotangent, start, seed)
    x = (box.lower[:, None] + moved)[:, None]
    inside = ((x >= lower[:, :, None]) & (x <= upper[:, :, None])).all(3)
    assert bool((inside | (values > 0).any(3)).all())
    assert bool((lower > box.lower[:, None]).any() | (upper < box.upper[:, None]).any())


def test_groups_hold_every_clause_once() -> None:
    boxes = [0, 1, 0, 2] + [3] * 70 + [0]
    group_of, members = grouped(boxes, 32)
    for clause, box in enumerate(boxes):
        assert clause in members[group_of[clause]].tolist()
        assert all(boxes[other] == box for other in members[group_of[clause]].tolist())
    assert sorted(set(members.flatten().tolist())) == list(range(len(boxes)))


@pytest.mark.parametrize("activation", [Sign(), Floor(), Round()], ids=label)
def test_rows_lie_above_their_bounds_and_slopes(activation: Activation) -> None:
    """Of networks with steps, where intervals may tell more than slopes: clipped boxes and half-spaces rest on both together."""
    sloped = 0
    for seed in range(60):
        network = random_network(seed, ("chain", "tangle", "residual")[seed % 3], [activation, Relu()])
        box = random_box(network, 1, seed, 0.1)
        lower, upper = box.lower[:, : network.inputs], box.upper[:, : network.inputs]
        rows = torch.eye(network.outputs, dtype=DOUBLE).repeat(2, 1)
        rows[network.outputs :] *= -1
        texts = [row_text(row.tolist(), 0.0) for row in rows]
        text = property_text(lower[0].tolist(), upper[0].tolist(), network.outputs, f"(or {' '.join(texts)})")
        problem = Problem(loaded(network), parse(text))
        bounder = BoxBounder(problem, network, Objectives(problem, network.device), 1)
        bounder.objectives.prepare(range(problem.clauses))
        objective = bounder.rows(torch.arange(problem.clauses)[None])
        bounds, outputs = interval(network, lower, upper)
        bound, slopes = bounder._intervals_first(bounds, outputs, objective, Deadline())
        points = samples(lower, upper, 1000, seed)[0]
        values = network.forward(points) @ objective.coefficients[0, :, 0].mT - objective.thresholds[0, :, 0]
        ends = torch.where(slopes[0] > 0, lower, upper)
        found = bound[0] + ((points[:, None] - ends) * slopes[0]).sum(2)
        assert bool((values >= found - 1e-9 * (1 + found.abs())).all()), seed
        sloped += int((slopes != 0).any())
    assert sloped > 5


def opposed(seed: int, gap: float) -> Problem:
    """Two outputs each of which is to be the larger one, by a gap; together they cannot, if it is above 0."""
    network = random_network(seed, "chain", [Relu(), Relu(), Relu()])
    box = random_box(network, 1, seed, 1.0)
    lower, upper = (end[0, : network.inputs].tolist() for end in (box.lower, box.upper))
    one, other = ([sign * ((i == 0) - (i == 1)) for i in range(network.outputs)] for sign in (1.0, -1.0))
    text = property_text(
        lower, upper, network.outputs, f"(and {row_text(one, -gap)} {row_text(other, -gap)})"
    )
    return Problem(loaded(network), parse(text))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_rows_that_contradict_are_refuted_at_once(seed: int) -> None:
    problem = opposed(seed, 1e-3)
    outcome = search_for(problem, "inputs").run(Deadline.after(PATIENCE))
    assert outcome.verdict == "unsat" and outcome.progress.opened == 1


@pytest.mark.parametrize("seed", range(6))
def test_ascents_lie_below_every_point(seed: int) -> None:
    """Bounds of rows as one, and boxes that are clipped by them."""
    problem = opposed(seed, -0.4)
    strategy = search_for(problem, "inputs").strategy
    assert isinstance(strategy, SplitInputs) and strategy.ascended is not None
    bounder, knowledge = strategy.bounder, strategy.begin()
    subproblems = strategy._roots_of(knowledge.shared.members)
    subproblems = replace(subproblems, alone=torch.ones_like(subproblems.alone))
    before = bounder.on_intervals(subproblems, bounder.boxes(subproblems), knowledge.shared, Deadline())
    index = torch.arange(len(subproblems))
    after, seen = strategy.ascended.apply(before, index, knowledge, Deadline())
    assert bool((after.bound >= before.bound).all()) and len(seen) == 1
    box = bounder.boxes(subproblems)
    points = samples(box.lower, box.upper, 2000, seed)[0]
    objective = bounder.rows(after.clause[:, None])
    values = (
        bounder.network.forward(points) @ objective.coefficients[0, :, 0].mT - objective.thresholds[0, :, 0]
    )
    assert float(after.bound) <= float(values.amax(1).min()) + 1e-9
    unsafe = points[(values <= 0).all(1)]
    assert bool(((unsafe >= after.lower) & (unsafe <= after.upper)).all())
    assert not (bool(after.refuted) and len(unsafe))
