"""How many starts an attack has: those asked for, more where a step takes no longer with them, all in the box."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nets import property_text, random_layers, relu_model, row_text
from patience import PATIENCE
from torch import Tensor

from verify.attack import Attack, _nearest_first, free_points
from verify.bab.attacks import Attacks
from verify.bab.progress import Silent
from verify.deadline import Deadline, OutOfTimeError
from verify.network.graph import Network
from verify.problem import Problem, Witness, prepare
from verify.settings import build_search, preset


@dataclass(frozen=True)
class Watched(Attack):
    """Writes down where descents begin, and finds nothing."""

    seen: list[tuple[list[int], Tensor]] = field(default_factory=list)

    def descend(
        self, problem: Problem, network: Network, owners: list[int], x: Tensor, limit: Deadline
    ) -> Witness | None:
        """Nothing."""
        self.seen.append((owners, x))
        return None


@pytest.mark.parametrize(("hidden", "expected"), [(4, 16 * 4), (15_000, 6), (100_000, 4)])
def test_small_networks_have_more_starts(hidden: int, expected: int) -> None:
    model = relu_model(random_layers(0, [2, hidden, 3]))
    problem = prepare(model, property_text([-1.0, 0.5], [1.0, 2.0], 3, row_text([1.0, 0.0, 0.0], -9.0)))
    attack = Watched(restarts=4, steps=3, seconds=60.0)
    network = problem.model.network
    assert attack.run(problem, network, [0], np.random.default_rng(0), Deadline()) is None
    ((owners, x),) = attack.seen
    assert free_points(network) == 200_000 // sum(node.size for node in network.nodes)
    assert len(owners) == len(x) == expected
    assert bool(((x[:, 0].abs() <= 1) & (x[:, 1] >= 0.5) & (x[:, 1] <= 2)).all())
    assert len(x.unique(dim=0)) > expected // 4  # in two dimensions there are few corners


def scored(values: list[float]) -> Problem:
    """A clause for each value, which is how far the middle of the box is from violating it."""
    model = relu_model(random_layers(0, [2, 4, 3]))
    lower, upper = [-1.0, 0.5], [1.0, 2.0]
    loaded = prepare(model, property_text(lower, upper, 3, row_text([1.0, 0.0, 0.0], 0.0)))
    (middle,) = loaded.model.evaluate(np.asarray([[0.0, 1.25]])).reshape(-1, 3)
    rows = [row_text([1.0, 0.0, 0.0], float(middle[0]) - value) for value in values]
    return prepare(model, property_text(lower, upper, 3, "(or " + " ".join(rows) + ")"))


def test_without_time_for_all_clauses_the_nearest_come_first() -> None:
    problem = scored([5.0, 2.0, 9.0, 1.0, 3.0])
    network = problem.model.network
    order, price = _nearest_first(problem, network, [0, 1, 2, 3, 4], 100, Deadline())
    assert order.tolist() == [3, 1, 4, 0, 2] and price > 0
    attack, generator = Attack(restarts=16, steps=40), np.random.default_rng(0)
    for steps in (1, 20, 100, 300, 1_000, 3_000):
        fewer, chosen = attack._fewer(steps, order, generator)
        assert chosen[: -(-len(chosen) // 2)] == order.tolist()[: -(-len(chosen) // 2)]
        assert len(set(chosen)) == len(chosen) and 1 <= fewer.restarts <= 16 and 1 <= fewer.steps <= 40
        assert len(chosen) * fewer.restarts * fewer.steps <= max(steps, 15)
    assert len(chosen) == 5 and fewer.restarts == 16


def test_roots_are_attacked_while_they_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search whose roots take long looks for counterexamples all the same."""
    model, lower, upper = relu_model(random_layers(0, [2, 20, 20, 3])), [-3.0, -3.0], [3.0, 3.0]
    loaded = prepare(model, property_text(lower, upper, 3, row_text([1.0, 0.0, 0.0], 0.0)))
    grid = np.stack(np.meshgrid(*[np.linspace(-3, 3, 300)] * 2), -1).reshape(-1, 2)
    least = float(loaded.model.evaluate(grid).reshape(-1, 3)[:, 0].min())
    problem = prepare(model, property_text(lower, upper, 3, row_text([1.0, 0.0, 0.0], least - 0.3)))
    settings = replace(preset("default"), splittable_inputs=0, triable_inputs=0)
    search = build_search(problem, settings, torch.device("cpu"), 0, Silent())
    phases, following = [], Attacks.next

    def watched(self: Attacks, *given: Any) -> Any:
        attack = following(self, *given)
        phases.append((search.progress.phase, attack is not None))
        raise OutOfTimeError

    monkeypatch.setattr(Attacks, "next", watched)
    assert search.run(Deadline.after(PATIENCE)).verdict == "timeout"
    assert phases == [("root", True)]


def test_an_attack_may_have_a_single_start() -> None:
    problem = scored([5.0])
    for restarts in (1, 2, 3):
        attack = Attack(restarts=restarts, steps=2, seconds=60.0)
        x = torch.zeros(restarts, 2)
        found = attack._diversified(
            problem, problem.model.network, [0] * restarts, x, np.random.default_rng(0), Deadline()
        )
        assert found.shape == x.shape


def test_an_attack_without_time_or_steps_or_limit_ends() -> None:
    problem = scored([5.0, 6.0])
    network, generator = problem.model.network, np.random.default_rng(0)
    for attack in (
        Attack(steps=0),
        Attack(steps=2, seconds=np.inf),
        Attack(seconds=1e-9),
        Attack(2, 0, 1e-9),
    ):
        assert attack.run(problem, network, [0, 1], generator, Deadline()) is None
    assert Attack(seconds=5.0).run(problem, network, [], generator, Deadline()) is None


def test_attacks_have_a_share_of_the_time_however_many_could_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the roots all wait for an attack: sixteen workers' tenth would be more than all of the time."""
    search = build_search(scored([5.0]), preset("default"), torch.device("cpu"), 0, Silent(), workers=16)
    search.attacks = Attacks(search.problem, search.network, search.second_attack, search.generator, 10)
    monkeypatch.setattr("verify.bab.loop.time", SimpleNamespace(monotonic=lambda: 100.0))
    search._began, search.progress.attack_seconds = 0.0, 15.0
    assert search.next_attack([0], alone=True) is None
    assert search.next_attack([0]) is not None
    search.progress.attack_seconds = 5.0
    assert search.next_attack([0], alone=True) is not None


def test_a_round_that_would_take_too_much_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds that take 9 s where 2 are meant: of 50 s another one would be more than their fifth."""
    search = build_search(scored([5.0]), preset("default"), torch.device("cpu"), 0, Silent(), workers=1)
    search.attacks = Attacks(search.problem, search.network, search.second_attack, search.generator, 10)
    now = SimpleNamespace(monotonic=lambda: 50.0)
    monkeypatch.setattr("verify.bab.loop.time", now)
    search._began, search.progress.attack_seconds = 0.0, 0.0
    assert search.next_attack([0]) is not None
    search.progress.attack_seconds = 9.0
    assert search.next_attack([0]) is None
    now.monotonic = lambda: 90.0
    assert search.next_attack([0]) is not None
