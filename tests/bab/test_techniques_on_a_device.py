"""Searches on a device that is not the CPU with all that techniques do: none meets tensors of two devices, and verdicts are the true ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import DOUBLE, Draft, examples, joined, random_network
from patience import PATIENCE
from pretend import DEVICE, Journal, pretended
from test_checkpoint import Eager, Killed
from test_linear_programs import pigeons
from test_on_a_device import WEAK, close_problem, dense
from test_search_verdicts import NO_ATTACK
from test_split_inputs import opposed
from test_step_attack import ball, high, stepped
from test_waits import BUDGET

from verify import step_attack
from verify.bab.loop import BranchAndBound
from verify.bab.progress import Outcome, Silent
from verify.bab.techniques.branched_bounds import BranchedBounds
from verify.bab.techniques.linear_programs import LinearPrograms
from verify.deadline import Deadline
from verify.network.activations import Relu
from verify.network.activations.matrix_product import MatrixProduct
from verify.network.activations.softmax import Softmax
from verify.network.graph import Network
from verify.network.moves import NonNegative
from verify.problem import Problem, prepare
from verify.settings import Settings, build_search
from verify.step_attack import StepAttack

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a true device")
QUIET = replace(WEAK, first_attack=NO_ATTACK, second_attack=NO_ATTACK, branched=BranchedBounds())
INPUTS = replace(QUIET, splittable_inputs=10**6)
ACTIVATIONS = replace(QUIET, splittable_inputs=0)


@pytest.fixture
def journal() -> Iterator[Journal]:
    with pretended() as found:
        yield found


def search_for(problem: Problem, settings: Settings) -> BranchAndBound:
    """There."""
    return build_search(problem, settings, DEVICE, 0, Silent())


def decided(problem: Problem, settings: Settings) -> Outcome:
    return search_for(problem, settings).run(Deadline.after(PATIENCE))


def test_linear_programs(journal: Journal) -> None:
    """Told of what to split, and refuted by them."""
    search = search_for(pigeons(2), ACTIVATIONS)
    granted = LinearPrograms().granted(search.knowledge.shared, Deadline.after(PATIENCE))
    search.knowledge = replace(search.knowledge, shared=granted)
    outcome = search.run(Deadline.after(PATIENCE))
    assert outcome.verdict == "unsat", outcome.reason
    assert "linear programs" in outcome.progress.techniques


def test_branched_bounds(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes over all neurons, and the roots anew after each."""
    due = iter([False, True])
    monkeypatch.setattr(BranchedBounds, "due", lambda self, passes, *_: next(due, False))
    outcome = decided(close_problem(tangle("LeakyRelu"), 0.02), ACTIVATIONS)
    assert outcome.verdict == "unsat", outcome.reason
    assert "branched bounds" in outcome.progress.techniques


@pytest.mark.parametrize(
    ("settings", "lease"),
    [(INPUTS, 0.0), (replace(ACTIVATIONS, branched=None), 0.2)],
    ids=["killed", "leased"],
)
def test_killed_and_leased(settings: Settings, lease: float, journal: Journal, tmp_path: Path) -> None:
    """What waits comes back from a journal, and from workers that go on with what they split."""
    kills = 0
    while True:
        search, checkpoint = (
            search_for(close_problem(dense(), 0.02), settings),
            Eager(tmp_path, 3 * (1 + kills)),
        )
        search.batch, search.checkpoint, search.lease = 2, checkpoint, lease
        search.workers = 2 if lease else 1
        try:
            outcome = search.run(Deadline.after(PATIENCE))
            break
        except Killed:
            kills += 1
        finally:
            checkpoint.journal.close()
    assert kills and outcome.verdict == "unsat", outcome.reason


@pytest.mark.parametrize(("gap", "verdict"), [(1e-3, "unsat"), (-0.4, "sat")])
def test_ascended_boxes(gap: float, verdict: str, journal: Journal) -> None:
    """Rows that contradict each other."""
    assert decided(opposed(3, gap), INPUTS).verdict == verdict


def attention() -> Network:
    """Softmax of products of matrices, multiplied by values."""
    draft = Draft(torch.Generator().manual_seed(0), (3,))

    def both(*parts: int) -> int:
        shapes = tuple(draft.nodes[part].shape for part in parts)
        return draft.add(
            NonNegative(joined, shapes, 1, "concatenate"), parts, (sum(shape[0] for shape in shapes),)
        )

    queries, keys, values = (draft.dense(0, 4) for _ in range(3))
    scores = draft.add(MatrixProduct(1, 2, 2, 2), (both(queries, keys),), (4,))
    shares = draft.add(Softmax(2), (draft.dense(scores, 4),), (4,))
    mixed = draft.add(MatrixProduct(1, 2, 2, 2), (both(shares, values),), (4,))
    draft.dense(draft.activation(draft.dense(mixed, 4), Relu()), 2)
    return draft.network()


def tangle(kind: str) -> Network:
    return random_network(2, "tangle", [examples(kind)[0], Relu()])


# name, network, how far its rows are from the threshold, and the box's radius
CASES = [
    ("attention", attention, 0.6, 0.2, INPUTS),
    ("attention", attention, 0.6, 0.2, ACTIVATIONS),
    ("products", partial(tangle, "Mul"), 0.05, 0.5, INPUTS),
    ("waves", partial(tangle, "Cos"), 0.05, 1.0, INPUTS),
    ("kinks", partial(tangle, "LeakyRelu"), 0.02, 1.0, INPUTS),
]


@pytest.mark.parametrize(
    ("network", "share", "radius", "settings"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_families(
    network: Callable[[], Network], share: float, radius: float, settings: Settings, journal: Journal
) -> None:
    """Concatenations, sums and products of curves; softmax."""
    outcome = decided(close_problem(network(), share, radius), settings)
    assert outcome.verdict == "unsat", outcome.reason
    assert journal.operations


def test_steps(journal: Journal) -> None:
    """Boxes in which steps are split, after descents and flips."""
    model = stepped(0, [3, 5, 2], "Floor")
    network = prepare(model, ball(3, "(<= Y_0 0)", 2)).model.network
    problem = prepare(model, ball(3, f"(>= Y_0 {2 * high(network, 3)})", 2))
    quick = StepAttack(4, 4, 0.1)
    for settings in (INPUTS, ACTIVATIONS):
        settings = replace(settings, first_attack=quick)
        assert decided(problem, settings).verdict == "unsat"


def test_attacks_through_steps_wait_once_a_step(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Descents and flips; nothing is near enough to be replayed."""
    model = stepped(0, [3, 5, 2], "Sign")
    network = prepare(model, ball(3, "(<= Y_0 0)", 2)).model.network
    problem = prepare(model, ball(3, f"(>= Y_0 {2 * high(network, 3)})", 2))
    found = []
    for steps in (3, 9):
        monkeypatch.setattr(step_attack, "_STEPS", steps)
        monkeypatch.setattr(step_attack, "_PATIENCE", steps)
        there = network.to(DEVICE, DOUBLE)
        search = step_attack._Search(problem, there, [0], np.random.default_rng(0), Deadline())
        with journal.during() as descent:
            assert search.descend(search.starts(8)) is None
        with journal.during() as flips:
            assert search.flip(8) is None
        found.append((descent.waited, flips.waited))
    budget = BUDGET["an attack through steps"]
    for fewer, more in zip(*found, strict=True):
        assert more - fewer <= 6 * budget and fewer <= 3 * budget + 4
