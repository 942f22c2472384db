"""Which subproblems get bounds over their unsafe points, and what a search learns of its splits."""

from __future__ import annotations

import pytest
import torch

from verify.search.output_constraints import Splitting, Worth


def splitting(level: float, seconds: float = 1.0) -> Splitting:
    """Children that took so long each, and came nearer by a level each."""
    found = Splitting()
    parents = torch.full((4,), -8.0)
    found.learn(parents, parents + level, torch.zeros(4, dtype=torch.bool), 4 * seconds)
    return found


def test_levels_are_weighed_by_distance() -> None:
    """Subproblems next to 0 have not far to go, and say little of the others."""
    found = Splitting()
    before, after = torch.tensor([-10.0, -0.01]), torch.tensor([-9.0, 5.0])
    found.learn(before, after, torch.tensor([False, True]), 1.0)
    assert found.level == pytest.approx((10 * 1.0 + 0.01 * 0.01) / 10.01)
    found.learn(torch.tensor([-torch.inf]), torch.tensor([-1.0]), torch.tensor([False]), 1.0)
    assert found.level == pytest.approx((10 * 1.0 + 0.01 * 0.01) / 10.01)


@pytest.mark.parametrize(
    ("bound", "share", "price", "pays"),
    [
        (-4.0, 1.0, 60.0, True),  # of 10 levels 10 * 10 / 13 for log2(1 + 60 / 2^3) = 3.1
        (-0.4, 1.0, 2.0, False),  # of one level 1 / 1.3 for log2(1 + 2 / 2^0.3) = 1.4
        (-0.4, 1.0, 0.5, True),  # for 0.5
        (-4.0, 0.1, 20.0, True),  # 10 / 4 for 1.8
        (-4.0, 0.1, 60.0, False),  # for 3.1
        (-400.0, 0.5, 1e6, True),
        (-400.0, 0.01, 20.0, False),  # as little as splitting gains for the price
        (-400.0, 0.03, 20.0, True),
        (-400.0, 0.0, 1e-9, False),
    ],
)
def test_what_pays(bound: float, share: float, price: float, pays: bool) -> None:
    worth, splits = Worth(), splitting(1.0)
    before = torch.full((8,), bound)
    worth.learn(before, before * (1 - share), 8 * price, splits)
    count = 8 if pays else 0
    assert len(worth.chosen(before, splits, trials=0.0)) == count


def test_nothing_pays_before_a_child_is_known() -> None:
    worth, none = Worth(), Splitting()
    far = torch.full((5,), -1e6)
    assert len(worth.chosen(far, none)) == 2  # the first trial
    worth.learn(far[:2], torch.zeros(2), 1.0, none)
    assert len(worth.chosen(far, none)) == 0
    none.expect(1e-3)
    assert len(worth.chosen(far, none)) == 5


def test_subproblems_are_judged_by_the_nearest() -> None:
    """Where near subproblems are closed and far ones are left as they are, near ones are paid for, nearest first."""
    worth, splits = Worth(), splitting(0.01)
    near, far = -torch.linspace(1, 2, 20), -torch.linspace(4, 5, 20)
    worth.learn(near, torch.zeros(20), 20.0, splits)
    worth.learn(far, far, 20.0, splits)
    asked = torch.tensor([-4.7, -1.8, -1.2, -4.5, -1.5, -9.0])
    assert worth.chosen(asked, splits, trials=0.0).tolist() == [2, 4, 1]


def test_what_is_new_is_tried_on_few() -> None:
    """Neither many more subproblems than last time nor much further ones."""
    worth, splits = Worth(), splitting(0.01)
    worth.learn(torch.full((3,), -1.0), torch.zeros(3), 3.0, splits)
    assert len(worth.chosen(torch.full((100,), -1.0), splits)) == 12
    assert worth.chosen(torch.tensor([-1.5, -1.2, -1.0]), splits).tolist() == [2, 1]


def test_trials_are_a_share_of_the_time() -> None:
    worth, splits = Worth(), splitting(0.01, seconds=100.0)  # 400 in all
    far = torch.full((10,), -1.0)
    worth.learn(far[:2], far[:2], 39.0, splits)
    assert len(worth.chosen(far, splits, trials=0.1)) == 2
    worth.learn(far[:2], far[:2], 2.0, splits)
    assert len(worth.chosen(far, splits, trials=0.1)) == 0
