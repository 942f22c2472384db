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


@pytest.mark.parametrize(
    ("before", "after", "closes", "price", "pays"),
    [
        (-8.0, -0.5, False, 10.0, True),  # splitting in two dimensions would leave 8 / 10^0.75 = 1.4
        (-8.0, -2.0, False, 10.0, False),
        (-8.0, 1.0, True, 10.0, True),  # from -8 to 1 splitting gets to -0.6
        (-2.0, 1.0, True, 10.0, False),  # and from -2 to 0.5
        (-2.0, -1.9, False, 2.0, True),  # so cheap that nobody asks
        (-torch.inf, -1e9, False, 100.0, True),
    ],
)
def test_what_pays(before: float, after: float, closes: bool, price: float, pays: bool) -> None:
    effort = Effort(2)
    assert effort.learn(found([before] * 3), found([after] * 3, [closes] * 3), price, 1.0) == pays
    assert effort.how_many(100) == (16 if pays else 0)


def test_trials_are_a_share_of_the_time() -> None:
    effort = Effort(2)
    effort.learn(found([-8.0]), found([-7.0]), 10.0, 1.0)
    effort.came_before(5.0)
    assert effort.how_many(100) == 0
    effort.came_before(5.0)
    assert effort.how_many(100) == 4
    effort.came_before(90.0)  # a tenth of 100 seconds, less the one spent, for boxes of a second each
    assert effort.how_many(100) == 9
    effort.learn(found([-8.0] * 4), found([1.0] * 4, [True] * 4), 10.0, 1.0)
    assert effort.how_many(100) == 16
    assert effort.how_many(10) == 10
    assert effort.how_many(0) == 0


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
