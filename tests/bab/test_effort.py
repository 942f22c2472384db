"""Techniques are paid for while they beat splitting, tried now and then when they do not; to learn changes nothing in place."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import reduce

import numpy as np
import pytest
import torch
from torch import Tensor

from verify.bab.effort import SPLITTING, Effort, Halving, Ledger, Observation, Splitting, condensed
from verify.bab.progress import Progress
from verify.bab.techniques.tightened_boxes import last_layers
from verify.network.activations import Relu
from verify.network.affine import Dense
from verify.network.graph import Network, Node

NAME = "a technique"


def seen(
    before: Tensor | list[float],
    after: Tensor | list[float],
    seconds: float,
    name: str = NAME,
) -> Observation:
    """An observation; what ends above 0 is refuted."""
    ends = torch.as_tensor(before).double(), torch.as_tensor(after).double()
    return Observation(name, seconds, *ends, ends[1] > 0)


def splitting(level: float, seconds: float = 1.0) -> Effort:
    """Children that took so long each, and came nearer by a level each."""
    parents = torch.full((4,), -8.0)
    return Effort().learned(seen(parents, parents + level, 4 * seconds, SPLITTING))


def chosen(effort: Effort, bounds: Tensor | list[float], techniques: int = 1) -> list[int]:
    return effort.chosen(NAME, torch.as_tensor(bounds).double(), techniques).tolist()


def test_levels_are_weighed_by_distance() -> None:
    """Subproblems next to 0 have not far to go, and say little of the others."""
    found = Splitting().learned(seen([-10.0, -0.01], [-9.0, 5.0], 1.0))
    assert found.level == pytest.approx((10 * 1.0 + 0.01 * 0.01) / 10.01)
    found = found.learned(seen([-torch.inf], [-1.0], 1.0))
    assert found.level == pytest.approx((10 * 1.0 + 0.01 * 0.01) / 10.01)


@pytest.mark.parametrize(
    ("bound", "share", "price", "pays"),
    [
        # of 10 levels 10 * 10 / 13 for log2(1 + 60 / 2^3) = 3.1
        (-4.0, 1.0, 60.0, True),
        # of one level 1 / 1.3 for log2(1 + 2 / 2^0.3) = 1.4
        (-0.4, 1.0, 2.0, False),
        (-0.4, 1.0, 0.5, True),
        # 10 / 4 for 1.8
        (-4.0, 0.1, 20.0, True),
        # for 3.1
        (-4.0, 0.1, 60.0, False),
        (-400.0, 0.5, 1e6, True),
        # as little as splitting gains for the price
        (-400.0, 0.01, 20.0, False),
        (-400.0, 0.03, 20.0, True),
        (-400.0, 0.0, 1e-9, False),
    ],
)
def test_what_pays_where_bounds_are_inherited(bound: float, share: float, price: float, pays: bool) -> None:
    before = torch.full((8,), bound)
    effort = splitting(1.0).learned(seen(before, before * (1 - share), 8 * price))
    assert len(chosen(effort, before, techniques=10**9)) == (8 if pays else 0)


@pytest.mark.parametrize(
    ("before", "after", "width", "price", "pays"),
    [
        # ten children are log2(1 + 10 / 2) = 2.6 levels, which close 0.2 each
        (-8.0, -3.8, 2.0, 10.0, True),
        (-8.0, -3.9, 2.0, 10.0, False),
        # 4.9 levels, and 5.1
        (-8.0, 0.1, 2.0, 58.0, True),
        (-8.0, 0.1, 2.0, 66.0, False),
        # of a chain that does not widen two children are a level
        (-8.0, 0.1, 1.0, 9.9, True),
        (-8.0, 0.1, 1.0, 10.1, False),
        # a tree that halves with every level ends by itself after four children
        (-8.0, 0.1, 0.5, 3.8, True),
        (-8.0, 0.1, 0.5, 4.0, False),
        (-torch.inf, -1e9, 2.0, 50.0, True),
        (-torch.inf, -torch.inf, 2.0, 0.1, False),
    ],
)
def test_what_pays_where_inputs_are_split(
    before: float, after: float, width: float, price: float, pays: bool
) -> None:
    effort = Effort(Halving(rate=0.2, width=width, seconds=1.0))
    effort = effort.learned(seen([before] * 3, [after] * 3, 3.0 * price))
    assert len(chosen(effort, [before] * 100, techniques=10**9)) == (16 if pays else 0)


def test_what_splitting_of_inputs_gains_is_measured() -> None:
    """How fast children that stay open come nearer, and how many there are."""
    found = Halving.of(5)
    assert found.rate == pytest.approx(1 - 2**-0.3)
    for _ in range(50):
        found = found.learned(seen([-1.0] * 8, [-0.9, -0.7, 1, 1, 1, 1, 1, 1], 8.0, SPLITTING))
    assert found.rate == pytest.approx(0.2, abs=0.01)
    assert found.width == pytest.approx(0.5, abs=0.01)
    assert found.seconds == pytest.approx(1.0)
    one = Halving.of(5).learned(seen([-1.0] * 4, [1.0] * 4, 1.0, SPLITTING))
    assert one.rate == Halving.of(5).rate and one.width < 2
    one = Halving.of(5).learned(seen([-torch.inf] * 4, [-1.0] * 4, 1.0, SPLITTING))
    assert one.rate == Halving.of(5).rate


def test_it_pays_for_some() -> None:
    """Bounds too far off stay loose: nearer ones are closed, and are asked for."""
    before = [-float(2 ** (i / 8)) for i in range(80)]
    after = [0.3 if one > -64 else 0.9 * one for one in before]
    effort = Effort(Halving(seconds=0.1, rate=0.2)).learned(seen(before, after, 80.0))
    assert sorted(chosen(effort, [-1.2, -8.0, -16.0, -32.0, -300.0, -1e3, -torch.inf])) == [0, 1, 2, 3]


def test_what_was_seen_long_ago_is_forgotten() -> None:
    effort = Effort(Halving(seconds=0.1, rate=0.2)).learned(seen([-8.0] * 400, [1.0] * 400, 400.0))
    assert chosen(effort, [-8.0]) == [0]
    for _ in range(4):
        effort = effort.learned(seen([-8.0] * 1000, [-7.0] * 1000, 1000.0))
    assert chosen(effort, [-8.0]) == []


def test_the_price_is_that_of_the_batch() -> None:
    """Where a call takes long for any number of boxes, more of them are cheaper each; and as many as double it come along."""
    effort = Effort(Halving(seconds=0.005, rate=0.2))
    for count in (4, 16):
        effort = effort.learned(seen([-8.0] * count, [1.0] * count, 1.0 + 0.1 * count))
    ledger = effort.ledger(NAME)
    assert ledger.seconds_of(64) == pytest.approx(1.0 + 0.1 * 64)
    assert ledger.at_no_cost == 10
    assert len(chosen(effort, [-8.0] * 100, techniques=10**9)) == 64
    assert len(chosen(effort, [-8.0] * 3, techniques=10**9)) == 0
    effort = effort.learned(seen([-99.0] * 8, [-98.0] * 8, 1.8))
    assert len(chosen(effort, [-7.9] * 8 + [-99.0] * 30)) > 8


def test_in_proportion_where_all_calls_are_alike() -> None:
    effort = Effort(Halving(seconds=0.02, rate=0.2))
    for _ in range(3):
        effort = effort.learned(seen([-8.0] * 4, [1.0] * 4, 2.0))
    assert effort.ledger(NAME).seconds_of(16) == pytest.approx(8.0)
    assert effort.ledger(NAME).at_no_cost == 0


def test_trials_grow_while_there_is_time() -> None:
    """What has a price of its own looks dear on few boxes: it is tried on more where the time for trials holds another call."""
    start = Effort(Halving(seconds=0.001, rate=0.2, total=1.0))
    effort = start.learned(seen([-8.0] * 4, [-7.9] * 4, 0.1))
    assert len(chosen(effort, [-8.0] * 100)) == 16
    effort = effort.learned(seen([-8.0] * 16, [-7.9] * 16, 0.15))
    assert len(chosen(effort, [-8.0] * 100)) == 0
    effort = start.learned(seen([-8.0] * 4, [-7.9] * 4, 0.2))
    assert len(chosen(effort, [-8.0] * 100)) == 0


def test_nothing_pays_before_a_child_is_known() -> None:
    far = torch.full((5,), -1e6)
    effort = Effort()
    assert len(chosen(effort, far)) == 4
    effort = effort.learned(seen(far[:2], torch.zeros(2), 1.0))
    assert len(chosen(effort, far)) == 0
    observation = seen(far[:1], far[:1], 0.0, "roots")
    effort = effort.learned(Observation(*list(vars(observation).values())[:5], child=1e-3))
    assert len(chosen(effort, far)) == 5


def test_subproblems_are_judged_by_the_nearest() -> None:
    """Where near ones are closed and far ones are left as they are, near ones are paid for, nearest first."""
    near, far = -torch.linspace(1, 2, 20), -torch.linspace(4, 5, 20)
    effort = splitting(0.01).learned(seen(near, torch.zeros(20), 20.0)).learned(seen(far, far, 20.0))
    assert chosen(effort, [-4.7, -1.8, -1.2, -4.5, -1.5, -9.0], techniques=10**9) == [2, 4, 1]


def test_what_is_new_is_tried_on_few() -> None:
    """Neither many more subproblems than last time nor much further ones."""
    effort = splitting(0.01).learned(seen([-1.0] * 3, [0.0] * 3, 3.0))
    assert len(chosen(effort, [-1.0] * 100)) == 16
    assert chosen(effort, [-1.5, -1.2, -1.0]) == [2, 1]


def test_a_cheap_technique_that_saves_little_is_left_out() -> None:
    """It comes first where it refutes so many that the dear one's time is saved that it takes itself."""
    dear = seen([-1.0] * 8, [1.0] * 8, 8.0, "dear")
    for refuted, sooner in ((0, True), (2, True), (6, False)):
        cheap = seen([-1.0] * 8, [1.0] * refuted + [-0.5] * (8 - refuted), 4.0, "cheap")
        assert Effort().learned(dear).learned(cheap).sooner("dear", "cheap", 8) == sooner
    assert not Effort().learned(dear).sooner("dear", "cheap", 8)


def test_trials_are_a_share_of_the_time() -> None:
    """A tenth of the time that splitting took, where three techniques share it."""
    effort = splitting(0.01, seconds=100.0)
    effort = effort.learned(seen([-1.0] * 2, [-1.0] * 2, 16.0))
    assert len(chosen(effort, [-1.0] * 10, techniques=3)) == 3
    effort = effort.learned(seen([-1.0] * 2, [-1.0] * 2, 16.0))
    assert len(chosen(effort, [-1.0] * 10, techniques=3)) == 0
    assert chosen(effort, []) == []


def test_many_threads_lose_nothing() -> None:
    """Workers learn for themselves and change nothing; what they bring back is counted by one owner, in full."""
    start = splitting(1.0)

    def work(number: int) -> list[Observation]:
        mine, brought = start, []
        for i in range(50):
            one = seen([-1.0 - i] * 2, [-0.5 - i] * 2, 0.5, SPLITTING if i % 2 else NAME)
            mine = mine.learned(one)
            brought.append(one)
        assert mine.splitting.children == 4 + 50 and start.splitting.children == 4
        return brought

    with ThreadPoolExecutor(16) as pool:
        together = [one for brought in pool.map(work, range(64)) for one in brought]
    found = reduce(Effort.learned, together, start)
    assert found.splitting.children == 4 + 64 * 50
    assert found.splitting.total == pytest.approx(4 + 64 * 25 * 0.5)
    assert start.ledgers == {} and len(found.ledger(NAME).seen) == 512


def test_last_layers() -> None:
    def network(*sizes: int) -> Network:
        nodes: list[Node] = [Node(None, (), (2,), "input")]
        before = 2
        for size in sizes:
            nodes.append(
                Node(Dense(torch.ones(size, before, dtype=torch.float64)), (len(nodes) - 1,), (size,))
            )
            nodes.append(Node(Relu(), (len(nodes) - 1,), (size,)))
            before = size
        return Network(tuple(nodes))

    assert last_layers(network(100, 50, 6, 3)) == 2
    assert last_layers(network(50, 50)) == 2
    assert last_layers(network(50)) == 1


def test_as_many_as_there_is_time_for() -> None:
    """Portions that can be done whole; one at least, and all where nothing is known."""
    nothing = Ledger()
    assert nothing.within(1.0, 7) == 7
    none = torch.zeros(0, 2, dtype=torch.float64)
    known = Ledger(none, calls=np.array([1.0, 4.0, 8.0, 16.0, 32.0]))  # four took 8 s
    assert known.within(100.0, 7) == 7
    assert known.within(5.0, 7) == 2
    assert known.within(0.1, 7) == 1
    assert known.within(0.1, 0) == 0


def test_batches_that_are_told_together_count_as_so_many() -> None:
    """Of splitting alone; what it comes to is what they come to one after the other, where they are alike."""
    before, after = torch.full((8,), -4.0), torch.tensor([-3.0, 1.0] * 4)
    batch, other = seen(before, after, 0.8, SPLITTING), seen(before, after, 0.1)
    several = Effort().learned(batch).learned(batch).learned(batch).splitting
    other_first, together = condensed([batch, other, batch, batch])
    assert other_first is other and together.batches == 3 and len(together) == 24
    found = Effort().learned(together).splitting
    for name in ("seconds", "total", "level", "growth", "factor", "children", "closed"):
        assert getattr(found, name) == pytest.approx(getattr(several, name)), name
    progress = Progress()
    progress.observe(together)
    assert progress.techniques[SPLITTING].calls == 3
