"""Tighter bounds of split inputs are paid for while they beat splitting, tried now and then when they do not."""

from __future__ import annotations

import pytest
import torch
from nets import DOUBLE

from verify.network.activations import Relu
from verify.network.affine import Dense
from verify.network.graph import Network, Node
from verify.search.split_inputs import Effort, Found, _last_layers


def found(bound: list[float], refuted: list[bool] | None = None) -> Found:
    count = len(bound)
    nothing = torch.zeros(count, 1, dtype=DOUBLE)
    closed = torch.tensor(refuted or [False] * count)
    return Found(
        torch.zeros(count, dtype=torch.long), torch.tensor(bound, dtype=DOUBLE), closed, nothing, nothing, nothing, nothing,
        nothing,
    )  # fmt: skip


def asked(effort: Effort, *bounds: float) -> list[int]:
    """For which of the boxes it pays."""
    return sorted(effort.chosen(torch.tensor(bounds, dtype=DOUBLE)).tolist())


@pytest.mark.parametrize(
    ("before", "after", "closes", "price", "pays"),
    [
        (
            -8.0,
            -1.3,
            False,
            10.0,
            True,
        ),  # eleven times as many boxes of two dimensions would leave 8 / 11^0.75 = 1.32
        (-8.0, -1.4, False, 10.0, False),
        (
            -8.0,
            1.0,
            True,
            10.0,
            True,
        ),  # six parts leave 0.26 of what bounds are off by: from -8 to 1 they get to -1.3
        (-2.0, 1.0, True, 10.0, False),  # and from -2 to 0.2
        (-1e-3, 1.0, True, 1.0, False),  # a split closes it, for the same price
        (-8.0, -7.9, False, 0.001, True),
        (-torch.inf, -1e9, False, 100.0, True),
        (-torch.inf, -torch.inf, False, 100.0, False),
    ],
)
def test_what_pays(before: float, after: float, closes: bool, price: float, pays: bool) -> None:
    effort = Effort(2, 1.5)
    effort.came_before(3, 1 / price)
    effort.learn(found([before] * 3), found([after] * 3, [closes] * 3), 3.0)
    assert len(asked(effort, *[before] * 100)) == (16 if pays else 0)


def test_it_pays_for_some() -> None:
    """Bounds too far off stay loose, those close to 0 a split closes: in between tighter bounds pay, and are asked for."""
    effort = Effort(2, 1.5)
    effort.came_before(20, 0.1)
    before = [-float(2 ** (i / 8)) for i in range(80)]
    good = [4 < -one < 64 for one in before]
    after = [0.3 if fine else 0.9 * one for one, fine in zip(before, good, strict=True)]
    after[:16] = [1.0] * 16
    closes = [one > 0 for one in after]
    effort.learn(found(before), found(after, closes), 80.0)
    assert asked(effort, -1.2, -2.0, -8.0, -16.0, -32.0, -300.0, -1e3, -torch.inf) == [2, 3, 4]


def test_what_was_seen_long_ago_is_forgotten() -> None:
    effort = Effort(2, 1.5)
    effort.came_before(1, 0.1)
    effort.learn(found([-8.0] * 400), found([-1.0] * 400), 400.0)
    assert asked(effort, -8.0) == [0]
    effort.learn(found([-8.0] * 1000), found([-7.0] * 1000), 1000.0)
    assert asked(effort, -8.0) == []


def test_some_more_are_free() -> None:
    """Where a call takes long for any number of boxes, as many as double that come along."""
    effort = Effort(2, 1.5)
    effort.came_before(1, 0.1)
    for count in (5, 10, 20):
        effort.learn(found([-8.0] * count), found([-1.0] * count), 1.0 + 0.1 * count)
    assert asked(effort, *[-8.0] * 15) == list(range(15))
    effort.learn(found([-99.0] * 8), found([-98.0] * 8), 1.8)
    assert len(asked(effort, *[-8.0], *[-99.0] * 30)) == 9


def test_trials_are_a_share_of_the_time() -> None:
    effort = Effort(2, 1.5)
    effort.came_before(5, 0.1)
    effort.learn(found([-8.0]), found([-7.0]), 1.0)
    many = [-8.0] * 100
    assert asked(effort, *many) == []
    effort.came_before(95, 0.1)
    assert asked(effort, *many) == [0, 25, 50, 75]
    assert asked(effort, *many[:3]) == [0, 1, 2]
    effort.came_before(900, 0.1)  # a tenth of 100 seconds, less the one spent, for boxes of a second each
    assert len(asked(effort, *many)) == 9
    effort.learn(found([-8.0] * 9), found([1.0] * 9, [True] * 9), 9.0)
    assert len(asked(effort, *many)) == 36
    assert asked(effort, *many[:10]) == list(range(10))
    assert asked(effort) == []


def test_last_layers() -> None:
    def network(*sizes: int) -> Network:
        nodes: list[Node] = [Node(None, (), (2,), "input")]
        before = 2
        for size in sizes:
            nodes.append(Node(Dense(torch.ones(size, before, dtype=DOUBLE)), (len(nodes) - 1,), (size,)))
            nodes.append(Node(Relu(), (len(nodes) - 1,), (size,)))
            before = size
        return Network(tuple(nodes))

    assert _last_layers(network(100, 50, 6, 3)) == 2
    assert _last_layers(network(50, 50)) == 2
    assert _last_layers(network(50)) == 1
