"""The frontier against a sorted list: what goes in comes out, worst bound first, through growth and crowding."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import verify.bab.frontier as frontier_module
from verify.bab.bundles import Bundles, of_columns
from verify.bab.frontier import Frontier
from verify.errors import ResourceError
from verify.state import DualState, Subproblems

CPU = torch.device("cpu")


def subproblems(bounds: list[float], depth: int, first: int = 0) -> Subproblems:
    """Subproblems whose every field tells which one it is; `clause` is its number."""
    count = len(bounds)
    number = torch.arange(first, first + count)
    level = torch.arange(depth)[None]
    state = DualState(
        {
            "beta": (number[:, None, None] + level).float() / 3,
            "constraint_weights": torch.stack([number, number + 1], 1)[:, None].float() / 3,
            "alpha": number[:, None, None].float() % 8 / 8,
            "cut_shares": number[:, None, None].float() / 5,
        }
    )
    return Subproblems(
        clause=number, lower_bound=torch.tensor(bounds, dtype=torch.float32),
        split_variable=number[:, None] * 100 + level, split_value=number[:, None].double() + level.double() / 7 + 1 / 3,
        split_side=(number[:, None] + level) % 2 * 2 - 1, state=state, slopes=number[:, None].float() / 9,
        constrained_lower=-number[:, None].double() / 3, constrained_upper=number[:, None].double() / 7,
        tightened_at=-number[:, None].float() / 3, alone=number % 2 == 0, suggested=number + 5, subproblem_id=number + 7,
    )  # fmt: skip


def assert_whole(popped: Subproblems, depths: dict[int, int]) -> None:
    """Every popped subproblem is what was pushed; deeper columns are padding that splits nothing."""
    for row in range(len(popped)):
        one = popped.select(torch.tensor([row]))
        number = int(one.clause)
        depth = depths[number]
        want = subproblems([float(one.lower_bound)], depth, number)
        beta = one.state["beta"]
        assert torch.equal(beta[..., :depth], want.state["beta"])
        for name in ("split_variable", "split_value", "split_side"):
            assert torch.equal(getattr(one, name)[:, :depth], getattr(want, name)), name
        assert bool((one.split_variable[:, depth:] == -1).all())
        assert bool((beta[..., depth:] == 0).all())
        for name in (
            "constrained_lower",
            "constrained_upper",
            "tightened_at",
            "subproblem_id",
            "slopes",
        ):
            assert torch.equal(getattr(one, name), getattr(want, name)), name
        for name in ("constraint_weights", "alpha", "cut_shares"):
            assert torch.equal(one.state[name], want.state[name]), name


def popped(frontier: Frontier, count: int) -> Subproblems:
    """On the CPU in float32."""
    return frontier.pop(count, CPU, torch.float32)


def test_pops_worst_first() -> None:
    frontier = Frontier()
    frontier.push(subproblems([0.5, -3.0, -1.0, -2.0, 0.0], 2))
    assert frontier.worst == -3.0
    assert popped(frontier, 2).lower_bound.tolist() == [-3.0, -2.0]
    assert frontier.worst == -1.0
    assert sorted(popped(frontier, 9).lower_bound.tolist()) == [-1.0, 0.0, 0.5]
    assert len(frontier) == 0
    assert frontier.worst == float("inf")
    assert len(popped(frontier, 3)) == 0


def test_survives_growth() -> None:
    """Thousands of subproblems of growing depth, in many pushes, all come back whole."""
    frontier, depths, first = Frontier(), {}, 0
    for depth in range(0, 40, 3):
        frontier.push(subproblems([-float(first + i) for i in range(150)], depth, first))
        depths.update(dict.fromkeys(range(first, first + 150), depth))
        first += 150
    everything = popped(frontier, first)
    assert everything.clause.tolist() == list(range(first))[::-1]
    assert_whole(everything.select(torch.arange(0, first, 37)), depths)


@settings(max_examples=200)
@given(st.lists(st.one_of(
    st.tuples(st.just("push"), st.lists(st.integers(-50, 50), max_size=40), st.integers(0, 12)),
    st.tuples(st.just("pop"), st.integers(0, 60), st.just(0)),
), min_size=4, max_size=25), st.booleans())  # fmt: skip
def test_random_traces_against_a_sorted_list(
    trace: list[tuple[str, list[int] | int, int]], crowded: bool
) -> None:
    """In memory, worst bound first, or all of it on disk, best bound first."""
    frontier, model, depths = Frontier(1 if crowded else 2**30), [(0.0, 0)], {0: 1}
    frontier.push(subproblems([0.0], 1))
    number = 1
    for action, argument, depth in trace:
        if action == "push":
            assert isinstance(argument, list)
            frontier.push(subproblems([value / 4 for value in argument], depth, number))
            for value in argument:
                model.append((value / 4, number))
                depths[number] = depth
                number += 1
        else:
            assert isinstance(argument, int)
            got = popped(frontier, argument)
            model.sort(reverse=crowded)
            assert sorted(got.lower_bound.tolist(), reverse=crowded) == [
                bound for bound, _ in model[:argument]
            ]
            assert_whole(got, depths)
            known = {n: bound for bound, n in model}
            taken = {
                int(clause): float(bound) for clause, bound in zip(got.clause, got.lower_bound, strict=True)
            }
            assert len(taken) == len(got)
            assert all(known[clause] == bound for clause, bound in taken.items())
            model = [(bound, n) for bound, n in model if n not in taken]
        assert len(frontier) == len(model)
        assert frontier.worst == min((bound for bound, _ in model), default=float("inf"))
        assert frontier.tree == pytest.approx(sum(2.0 ** -depths[number] for _, number in model))


def bundled(batch: Subproblems) -> Bundles:
    """As a worker brings them."""
    frontier = Frontier()
    frontier.push(batch)
    return frontier.bundles()


def opened(bundles: Bundles) -> Subproblems:
    """What a worker makes of them."""
    frontier = Frontier()
    frontier.push(bundles)
    return popped(frontier, len(bundles))


@settings(max_examples=100)
@given(st.lists(st.one_of(
    st.tuples(st.sampled_from(["push", "bring"]), st.integers(1, 60), st.integers(0, 12)),
    st.tuples(st.sampled_from(["pop", "lease"]), st.integers(1, 60), st.just(0)),
), min_size=4, max_size=25), st.sampled_from([1, 40_000, 2**30]))  # fmt: skip
def test_bundles_wait_beside_others_and_all_come_back(trace: list[tuple[str, int, int]], room: int) -> None:
    """Whoever brings them and however they are taken, whether there is room for them as they are or not."""
    frontier, depths, waiting, first = Frontier(room), dict[int, int](), dict[int, float](), 0
    for action, count, depth in trace:
        if action in ("push", "bring"):
            bounds = [-float((7 * number) % 23) for number in range(first, first + count)]
            batch = subproblems(bounds, depth, first)
            frontier.push(batch if action == "push" else bundled(batch))
            depths.update(dict.fromkeys(range(first, first + count), depth))
            waiting.update(zip(range(first, first + count), bounds, strict=True))
            first += count
        elif waiting:
            got = popped(frontier, count) if action == "pop" else opened(frontier.lease(count))
            assert len(got) >= min(count, len(waiting))
            assert_whole(got, depths)
            for clause, bound in zip(got.clause.tolist(), got.lower_bound.tolist(), strict=True):
                assert waiting.pop(clause) == bound
        assert len(frontier) == len(waiting)
        assert sorted(frontier.clauses.tolist()) == sorted(waiting)
        assert frontier.worst == min(waiting.values(), default=float("inf"))
        assert frontier.tree == pytest.approx(sum(2.0 ** -depths[number] for number in waiting), abs=1e-12)
        half = [of_columns(some) for some in frontier.since(first // 2 + 7)]
        found = [number for some in half for number in some.clause.tolist()]
        assert sorted(found) == sorted(number for number in waiting if number >= first // 2)


def test_bundles_are_alike_and_the_worst_is_leased_first() -> None:
    """Each has some of the worst subproblems that came with it."""
    frontier = Frontier()
    frontier.push(bundled(subproblems([float(bound) for bound in range(-20, 0)], 1)))
    frontier.push(bundled(subproblems([-50.0, -1.0], 1, 20)))
    assert opened(frontier.lease(1)).lower_bound.tolist() == [-50.0]
    each = [opened(frontier.lease(1)) for _ in range(5)]
    assert [sorted(one.lower_bound.tolist())[0] for one in each] == [-20.0, -19.0, -18.0, -17.0, -16.0]
    assert all(len(one) == 2 for one in each)


def test_order_turns_round_when_crowded() -> None:
    """Best bound first, which ends subtrees."""
    probe = Frontier()
    probe.push(subproblems([-1.0], 2))
    assert not probe.crowded
    frontier = Frontier(capacity_bytes=probe.bytes // 2)
    frontier.push(subproblems([-3.0, -1.0, -2.0], 2))
    assert frontier.crowded
    assert popped(frontier, 2).lower_bound.tolist() == [-1.0, -2.0]
    assert popped(frontier, 9).lower_bound.tolist() == [-3.0]


@pytest.mark.skipif(sys.platform != "linux", reason="which files a process has mapped is asked of /proc")
def test_what_memory_does_not_hold_waits_on_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All of it comes back whole, from files that nobody sees and that are gone with the pool."""
    sizes: list[int] = []
    on_disk = frontier_module._on_disk
    monkeypatch.setattr(frontier_module, "_on_disk", lambda size: (sizes.append(size), on_disk(size))[1])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    frontier, depths = Frontier(capacity_bytes=100_000), {}
    for first in range(0, 3000, 150):
        depth = first // 300
        frontier.push(subproblems([float(first + i) for i in range(150)], depth, first))
        depths.update(dict.fromkeys(range(first, first + 150), depth))
    assert sum(sizes) > 100_000
    assert sorted(frontier.clauses.tolist()) == list(range(3000))
    assert _mapped(tmp_path) > 0
    assert not list(tmp_path.iterdir())
    everything = popped(frontier, 3000)
    assert everything.clause.tolist() == list(range(3000))[::-1]
    assert_whole(everything.select(torch.arange(0, 3000, 37)), depths)
    frontier.push(subproblems([1.0], 1))
    assert not frontier.crowded
    assert _mapped(tmp_path) == 0


def _mapped(folder: Path) -> int:
    """Files of a folder that are mapped into this process."""
    return sum(f"{folder}/" in line for line in Path("/proc/self/maps").read_text().splitlines())


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_full_disk_is_said(by_hand: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clear error instead of a full machine, and nothing of it on disk."""
    if by_hand:
        monkeypatch.setattr(frontier_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    else:
        monkeypatch.setattr(frontier_module.os, "posix_fallocate", _no_space)
    frontier = Frontier(capacity_bytes=1000)
    with pytest.raises(ResourceError, match=r"open subproblems.*no room for.*No space left.*TMPDIR"):
        frontier.push(subproblems([-1.0] * 100, 2))


def _no_space(*_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("bound", [float("nan"), float("-inf")])
def test_undefined_bounds_are_worst(bound: float) -> None:
    frontier = Frontier()
    frontier.push(subproblems([-5.0, bound, -7.0], 1))
    assert popped(frontier, 1).clause.tolist() == [1]
    assert popped(frontier, 2).clause.tolist() == [2, 0]


def test_splits_behind_padding_are_kept() -> None:
    """A shallow subproblem split beside deep ones has its new split behind padding; popped alone it must still have it."""
    frontier = Frontier()
    frontier.push(subproblems([-1.0], 6, 0))
    frontier.push(subproblems([-2.0], 1, 1))
    both = popped(frontier, 2)
    assert both.split_variable.shape[1] == 6
    splits = torch.tensor([0.25, 0.5], dtype=torch.float64)
    children = both.split(torch.tensor([7, 8]), (splits, splits), torch.zeros(2, 2))
    frontier.push(children)
    shallow = [one for one in (popped(frontier, 1) for _ in range(4)) if int(one.clause) == 1]
    assert len(shallow) == 2
    for one in shallow:
        used = one.split_variable[0] >= 0
        assert one.split_variable[0, used].tolist() == [100, 7]
        assert one.split_value[0, used].tolist() == [1 + 1 / 3, 0.25]
        assert one.split_variable.shape[1] == 2
    assert sorted(int(one.split_side[0, 1]) for one in shallow) == [-1, 1]
