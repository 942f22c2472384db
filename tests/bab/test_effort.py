"""Techniques are paid for while they beat splitting, tried now and then when they do not; to learn changes nothing in place."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import reduce

import pytest
import torch
from torch import Tensor

from verify.bab.effort import SPLITTING, Effort, Halving, Observation, Splitting
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
    beside: float = 0.0,
) -> Observation:
    """An observation; what ends above 0 is refuted."""
    ends = torch.as_tensor(before).double(), torch.as_tensor(after).double()
    return Observation(name, seconds, *ends, ends[1] > 0, beside)


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
    ("before", "after", "price", "pays"),
    [
        # eleven times as many boxes of two dimensions would leave 8 / 11^0.75 = 1.32
        (-8.0, -1.3, 10.0, True),
        (-8.0, -1.4, 10.0, False),
        # from -8 to 1, of which 8 / 9 were needed: 1 / 9 is left
        (-8.0, 1.0, 10.0, True),
        (-2.0, 1.0, 10.0, False),
        # a split closes it, for the same price
        (-1e-3, 1.0, 1.0, False),
        (-8.0, -7.9, 0.001, True),
        (-torch.inf, -1e9, 100.0, True),
        (-torch.inf, -torch.inf, 100.0, False),
    ],
)
def test_what_pays_where_boxes_are_bounded_afresh(
    before: float, after: float, price: float, pays: bool
) -> None:
    effort = Effort(Halving(dimensions=2)).learned(seen([before] * 3, [after] * 3, 3.0, beside=1 / price))
    assert len(chosen(effort, [before] * 100, techniques=10**9)) == (16 if pays else 0)


def test_it_pays_for_some() -> None:
    """Bounds too far off stay loose, those close to 0 a split closes: in between tighter bounds pay, and are asked for."""
    before = [-float(2 ** (i / 8)) for i in range(80)]
    good = [4 < -one < 64 for one in before]
    after = [0.3 if fine else 0.9 * one for one, fine in zip(before, good, strict=True)]
    after[:16] = [1.0] * 16
    effort = Effort(Halving(dimensions=2)).learned(seen(before, after, 80.0, beside=0.1))
    asked = chosen(effort, [-1.2, -2.0, -8.0, -16.0, -32.0, -300.0, -1e3, -torch.inf])
    assert sorted(asked) == [2, 3, 4]


def test_what_was_seen_long_ago_is_forgotten() -> None:
    effort = Effort(Halving(dimensions=2)).learned(seen([-8.0] * 400, [-1.0] * 400, 400.0, beside=0.1))
    assert chosen(effort, [-8.0]) == [0]
    effort = effort.learned(seen([-8.0] * 1000, [-7.0] * 1000, 1000.0, beside=0.1))
    assert chosen(effort, [-8.0]) == []


def test_some_more_are_free() -> None:
    """Where a call takes long for any number of boxes, as many as double that come along."""
    effort = Effort(Halving(dimensions=2))
    for count in (5, 10, 20):
        effort = effort.learned(seen([-8.0] * count, [-1.0] * count, 1.0 + 0.1 * count, beside=0.02))
    assert sorted(chosen(effort, [-8.0] * 15)) == list(range(15))
    effort = effort.learned(seen([-99.0] * 8, [-98.0] * 8, 1.8, beside=0.02))
    assert len(chosen(effort, [-7.9] + [-99.0] * 30)) > 4


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


def test_trials_are_a_share_of_the_time() -> None:
    """A tenth of the time that splitting took, where three techniques share it."""
    effort = splitting(0.01, seconds=100.0)
    effort = effort.learned(seen([-1.0] * 2, [-1.0] * 2, 39.0))
    assert len(chosen(effort, [-1.0] * 10, techniques=3)) == 4
    effort = effort.learned(seen([-1.0] * 2, [-1.0] * 2, 2.0))
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
