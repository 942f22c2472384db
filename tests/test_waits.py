"""The program waits for a device no more often than docs/gpu.md says."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import random_network
from pretend import DEVICE, Journal, pretended
from test_on_a_device import BOUNDERS, DOUBLE, close_problem, dense, dual_problem, moved, searched

from verify.attack import Attack
from verify.bab.activations import SplitActivations
from verify.bab.inputs import SplitInputs
from verify.bab.loop import BranchAndBound
from verify.bab.steps import Steps
from verify.bab.techniques.ascended_boxes import AscendedBoxes
from verify.bab.techniques.cutting_planes import CuttingPlanes
from verify.bab.techniques.forward_bounds import ForwardBounds
from verify.bab.techniques.tightened_boxes import AllLayers, TightenedBoxes
from verify.bounders.ascent import Iterative
from verify.bounders.restricted import Restricted
from verify.deadline import Deadline
from verify.network.activations import Relu

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a true device")
PAGE = Path(__file__).resolve().parents[1] / "docs" / "gpu.md"
BUDGET = {
    part: int(most)
    for part, most in re.findall(r"^\| ([^|]+) \| (\d+) \| ", PAGE.read_text(encoding="utf-8"), re.M)
}

OPERATIONS = int(re.findall(r"three dense layers to (\d+) operations", PAGE.read_text(encoding="utf-8"))[0])


@pytest.fixture
def journal() -> Iterator[Journal]:
    with pretended() as found:
        yield found


class Watch:
    """Waits of every call of some methods, by name."""

    def __init__(self, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
        self.journal, self.monkeypatch = journal, monkeypatch
        self.calls: dict[str, list[Journal]] = defaultdict(list)

    def on(self, owner: type, *names: str) -> None:
        for name in names:
            self.monkeypatch.setattr(owner, name, self._watched(getattr(owner, name), name))

    def _watched(self, method: Callable[..., Any], name: str) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            with self.journal.during() as found:
                result = method(*args, **kwargs)
            self.calls[name].append(found)
            return result

        return watched

    def check(self, name: str, part: str, skipped: int = 0) -> None:
        """No call but the first ones, in which something new is looked up, waits more often than the page says."""
        calls = self.calls[name][skipped:]
        assert calls, name
        for one in calls:
            assert one.waited <= BUDGET[part], (part, dict(one.places()))


def test_the_page_has_all_parts() -> None:
    assert len(BUDGET) == 14
    assert sum(BUDGET.values()) < 80


@pytest.mark.parametrize(
    "method", BOUNDERS, ids=lambda method: type(method).__name__ + "+" * getattr(method, "everywhere", False)
)
def test_iterations(method: Iterative, journal: Journal) -> None:
    """However many there are, and whatever has been refuted: what is known to be finite is not asked about again."""
    problem = moved(dual_problem(random_network(3, "chain", [Relu(), Relu()]), 3))
    state = method.ascend(problem, problem.initial()).state
    with journal.during() as found:
        method.ascend(problem, state, target=-1e30)
    assert found.operations
    assert found.waited <= BUDGET["an iteration, of any ascent"], dict(found.places())


def test_steps(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Splits of activations, with what they inherit known before."""
    watch = Watch(journal, monkeypatch)
    watch.on(BranchAndBound, "popped", "absorb")
    watch.on(Steps, "tried")
    watch.on(SplitActivations, "choose", "bound")
    monkeypatch.setattr(CuttingPlanes, "possible", lambda *_: False)
    outcome, _ = searched(close_problem(dense(), 0.02), "activations", DEVICE, attacks=False)
    assert outcome.verdict == "unsat"
    assert len(watch.calls["choose"]) > 2
    watch.check("popped", "handing out a batch")
    watch.check("choose", "choosing splits", 1)
    watch.check("bound", "bounding children", 1)
    roots = len(watch.calls["tried"]) - len(watch.calls["bound"])
    watch.check("tried", "trying minimisers of open children", roots)
    watch.check("absorb", "taking results in", roots)


def test_boxes(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which techniques tighten boxes further hangs on what they take, so none does."""
    monkeypatch.setattr(SplitInputs, "_in_turn", lambda *_: [])
    watch = Watch(journal, monkeypatch)
    watch.on(BranchAndBound, "popped")
    watch.on(Steps, "step")
    outcome, _ = searched(close_problem(dense(), 0.02), "inputs", DEVICE, attacks=False)
    assert outcome.verdict == "unsat"
    watch.check("step", "splitting inputs: a batch of boxes")
    watch.check("popped", "handing out a batch")


def test_techniques_on_boxes(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each where it is due."""
    waits = defaultdict[str, list[int]](list)
    for owner in (TightenedBoxes, AscendedBoxes):

        def apply(self: TightenedBoxes, *args: Any, method: Callable[..., Any] = owner.apply) -> Any:
            with journal.during() as found:
                result = method(self, *args)
            waits[self.name].append(found.waited)
            return result

        monkeypatch.setattr(owner, "apply", apply)
    outcome, search = searched(close_problem(dense(), 0.02), "inputs", DEVICE, attacks=False)
    assert outcome.verdict == "unsat"
    layers = len(search.network.layers)
    every = BUDGET["CROWN on boxes: beside its layers"] + layers * BUDGET["CROWN on boxes: a layer"]
    assert max(waits[ForwardBounds.name]) <= BUDGET["forward bounds of boxes"]
    assert max(waits[AllLayers.name]) <= every
    assert max(waits[AscendedBoxes.name]) <= BUDGET["ascents on boxes"]


def test_attacks(journal: Journal) -> None:
    problem = close_problem(dense(), 0.05)
    there = problem.model.network.to(DEVICE, DOUBLE)
    counts = []
    for steps in (4, 24):
        with journal.during() as found:
            assert Attack(8, steps).run(problem, there, [0], np.random.default_rng(0), Deadline()) is None
        counts.append(found)
        assert (
            found.waited <= BUDGET["an attack's beginning and end"] + steps * BUDGET["an attack's descent"]
        ), dict(found.places())
    assert counts[1].waited - counts[0].waited <= 20 * BUDGET["an attack's descent"]


def test_operations_of_an_iteration(journal: Journal) -> None:
    """Each is a kernel: what ten more iterations take."""
    there = moved(dual_problem(random_network(3, "chain", [Relu(), Relu(), Relu()]), 3))
    state, made = there.initial(), []
    for iterations in (2, 2, 12):
        with journal.during() as found:
            Restricted(iterations).ascend(there, state)
        made.append(sum(found.operations.values()))
    assert 0 < made[2] - made[1] <= 10 * OPERATIONS
