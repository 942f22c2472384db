"""How much is worked on at once: on a GPU as its memory has room for and as is measured to be fast, and less where memory ran out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from nets import DOUBLE, random_network
from patience import PATIENCE
from pretend import DEVICE, pretended
from test_on_a_device import WEAK, close_problem, dense, dual_problem

import verify
from verify import room
from verify.attack import Attack, free_points
from verify.bab.pace import Pace
from verify.bab.progress import Outcome, Silent
from verify.bounders.intermediate import IntermediateBounds
from verify.deadline import Deadline
from verify.errors import ResourceError
from verify.network.activations import Relu
from verify.settings import Settings, build_search

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a true device")
CPU = torch.device("cpu")
INPUTS = replace(
    WEAK, splittable_inputs=10**6, first_attack=Attack(2, 2, 0.5), second_attack=Attack(2, 2, 0.5)
)
ACTIVATIONS = replace(INPUTS, splittable_inputs=0)


@pytest.fixture(autouse=True)
def _as_new() -> Iterator[None]:
    room._free.cache_clear()
    room._halved.clear()
    yield
    room._free.cache_clear()
    room._halved.clear()


class Small:
    """A device whose memory runs out in a place of the program, so many times."""

    def __init__(
        self, place: str, often: int, message: str = "CUDA out of memory. Tried to allocate 2.00 GiB."
    ) -> None:
        self.place, self.left, self.message = place, often, message

    def __call__(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        if self.left and any(self.place == name for name in _callers()):
            self.left -= 1
            raise torch.OutOfMemoryError(self.message)
        return operation(*args, **kwargs)


def _callers() -> Iterator[str]:
    """The functions that are being called, inner ones first."""
    frame = sys._getframe(2)
    while frame is not None:
        yield frame.f_code.co_name
        frame = frame.f_back  # type: ignore[assignment]


def decided(settings: Settings, small: Small) -> Outcome:
    with pretended(small):
        search = build_search(close_problem(dense(), 0.02), settings, DEVICE, 0, Silent())
        search.batch = 4
        return search.run(Deadline.after(PATIENCE))


@pytest.mark.parametrize(
    ("settings", "place"),
    [(INPUTS, "on_intervals"), (INPUTS, "_expand"), (INPUTS, "_starts"), (ACTIVATIONS, "_under_cuts")],
    ids=["roots", "steps", "attacks", "cuts"],
)
def test_memory_that_runs_out_a_few_times_costs_no_verdict(settings: Settings, place: str) -> None:
    """At the roots, in techniques, in steps and attacks."""
    small = Small(place, 3)
    outcome = decided(settings, small)
    assert outcome.verdict == "unsat", outcome.reason
    assert not small.left and room.times(DEVICE) < 2


def test_memory_that_is_never_enough_is_said_to_be() -> None:
    with pytest.raises(ResourceError, match="memory ran out while searching"):
        decided(INPUTS, Small("_expand", 10**9))


def test_other_errors_are_not_tried_again() -> None:
    asked: list[int] = []

    def work() -> None:
        asked.append(1)
        raise RuntimeError("shapes")

    with pytest.raises(RuntimeError, match="shapes"):
        room.fitted(CPU, work)
    assert len(asked) == 1 and room.times(CPU) == 1


def test_as_a_device_has_memory_for() -> None:
    """Of 8 GiB that are free half are taken, where a worker on a CPU gets by with 2; chunks shrink with what ran out."""
    assert room.times(CPU) == 1
    with pretended() as journal:
        assert room.times(DEVICE) == 2 and room.at_once(100, DEVICE) == 200
        network = random_network(3, "chain", [Relu(), Relu()])
        assert free_points(network.to(DEVICE, DOUBLE)) in (
            2 * free_points(network),
            2 * free_points(network) + 1,
        )
        search = build_search(close_problem(dense(), 0.02), ACTIVATIONS, DEVICE, 0, Silent())
        here = build_search(close_problem(dense(), 0.02), ACTIVATIONS, CPU, 0, Silent())
        assert here.batch == 2048 == search.pace.now < search.batch <= 2**14
        assert len(search.frontier) == 0 and journal.operations
    room._halved[DEVICE] = 3
    assert room.times(DEVICE) == 0.25


def test_few_at_once_bound_as_many_do() -> None:
    problem = dual_problem(random_network(3, "residual", [Relu(), Relu()]), 3)
    network, bounds = problem.network, problem.bounds
    many = IntermediateBounds().tighten(network, bounds, Deadline())
    room._halved[CPU] = 30
    few = IntermediateBounds().tighten(network, bounds, Deadline())
    torch.testing.assert_close(few.lower, many.lower)
    torch.testing.assert_close(few.upper, many.upper)


def taken(seconds: Callable[[int], float], steps: int = 40) -> list[float]:
    """How many at a time a search takes that begins with 64, if each takes so long."""
    pace, found = Pace(64), []
    for _ in range(steps):
        found.append(pace.now)
        pace.took(int(pace.now), seconds(int(pace.now)))
    return found


def test_more_at_a_time_as_long_as_that_is_faster() -> None:
    """A GPU that waits for the program up to 1000 at a time, one that is slower beyond 512, and one that has nothing to gain."""
    assert taken(lambda count: max(1 / count, 1e-3))[-1] in (1024, 2048)
    assert taken(lambda count: 1 / count if count <= 512 else count)[-1] == 512
    assert set(taken(lambda count: 1.0)) == {64, 128}
    pace = Pace()
    pace.took(100, 1.0)
    assert pace.now == float("inf")


def test_only_whole_batches_tell_of_the_pace() -> None:
    pace = Pace(64)
    pace.took(63, 1e-9)
    pace.took(64, 0.0)
    assert pace.now == 64


def test_the_next_run_has_all_the_room_again() -> None:
    room._halved[CPU] = 3
    model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    assert verify.verify(model, verify.LinfBall(torch.zeros(2), epsilon=0.01, label=0)).verdict
    assert room.times(CPU) == 1
