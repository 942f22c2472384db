"""Workers in processes of their own: what they bring is what threads bring, and what becomes of those that are lost."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import property_text, random_layers, relu_model, row_text
from oracles import exact_minimum
from patience import PATIENCE
from torch import Tensor

import verify
from verify.attack import Attack
from verify.bab.executor import Executor
from verify.bab.progress import Silent
from verify.bab.steps import RECALLED
from verify.deadline import Deadline, OutOfTimeError
from verify.errors import InputError, InternalError, ResourceError
from verify.lagrangian.cuts import compressed
from verify.problem import Problem, prepare
from verify.settings import build_search, preset
from verify.workers.crew import Crew, Crews
from verify.workers.local import LocalProcess
from verify.workers.parcels import Catalogue, Receiver, Sender
from verify.workers.wire import LostError, Wire

NO_ATTACK = Attack(restarts=1, steps=0, seconds=0.0)


MADE: list[LocalProcess] = []


def made() -> LocalProcess:
    """A process, noted."""
    MADE.append(LocalProcess(1, None))
    return MADE[-1]


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    """Two workers for all tests of this file; those that are lost are replaced."""
    crews = Crews(2, made)
    with crews(2, Deadline(), False) as found:
        yield found


def moved(inputs: int, shift: float) -> Problem:
    """A random network whose least output is moved by `shift` above its threshold."""
    model, row = relu_model(random_layers(5, [inputs, 10, 2])), np.array([[1.0, -0.5]])
    lower, upper = [-0.7] * inputs, [0.7] * inputs
    least = exact_minimum(model, lower, upper, row, np.zeros(1))
    return prepare(model, property_text(lower, upper, 2, row_text(row[0], least - shift)))


@pytest.mark.parametrize(("inputs", "shift"), [(20, 0.02), (6, 0.02), (6, -0.01)])
def test_workers_find_what_threads_find(inputs: int, shift: float, crew: Crew) -> None:
    """The very same tree, where one works at a time."""
    problem, found = moved(inputs, shift), []
    for executors in (None, crew):
        settings = replace(
            preset("default"), first_attack=NO_ATTACK, second_attack=NO_ATTACK, triable_inputs=0
        )
        search = build_search(problem, settings, torch.device("cpu"), 0, Silent())
        search.batch, search.workers = 4, 1
        if executors is not None:
            search.executors = partial(_borrowed, executors)
        outcome = search.run(Deadline.after(PATIENCE))
        assert outcome.verdict == ("unsat" if shift > 0 else "sat"), outcome.reason
        found.append(outcome)
    assert found[0].progress.batches > 3
    assert found[0].reason == found[1].reason
    if shift > 0:  # techniques are applied by what they cost, so trees differ a little
        assert found[1].progress.closed - found[1].progress.opened / 2 == pytest.approx(0.5)


class _borrowed:  # noqa: N801
    """A crew that goes on after the search."""

    def __init__(self, crew: Crew, *_: Any) -> None:
        self.crew = crew

    def __enter__(self) -> Executor:
        return self.crew

    def __exit__(self, *_: object) -> None:
        return None


def raising(kind: type[Exception]) -> None:
    raise kind("on purpose")


@pytest.mark.parametrize(
    ("raised", "arrives"),
    [
        (InputError, InputError),
        (ResourceError, ResourceError),
        (OutOfTimeError, OutOfTimeError),
        (MemoryError, MemoryError),
        (ZeroDivisionError, InternalError),
    ],
)
def test_errors_travel(raised: type[Exception], arrives: type[Exception], crew: Crew) -> None:
    with pytest.raises(arrives, match="on purpose"):
        crew.submit(partial(raising, raised)).result(PATIENCE)


def test_a_map_is_in_order(crew: Crew) -> None:
    assert list(crew.map(abs, range(-5, 5))) == [abs(number) for number in range(-5, 5)]


def test_what_cannot_travel_is_refused(crew: Crew) -> None:
    with pytest.raises(InputError, match="leave --workers and --ray out"):
        crew.submit(lambda: 1).result(PATIENCE)
    assert crew.submit(partial(abs, -1)).result(PATIENCE) == 1, "the worker is in step afterwards"


def once(mark: Path, number: int) -> str:
    """Sends a signal to its own process, the first time."""
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), number)
        time.sleep(PATIENCE)
    return "done"


def test_a_lost_worker_costs_its_lease_alone(crew: Crew, tmp_path: Path) -> None:
    """One is killed and one is stopped: each time another one does the job."""
    before, jobs = crew.tally.lost, crew.tally.jobs
    for worker in MADE:
        worker._wire._end.settimeout(4.0)  # it says every second that it lives
    signals = {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}
    done = [crew.submit(partial(once, tmp_path / name, number)) for name, number in signals.items()]
    assert [job.result(PATIENCE) for job in done] == ["done", "done"]
    assert crew.tally.lost >= before + 2 and crew.tally.jobs == jobs + 2
    assert len(MADE) == 2 + crew.tally.lost


def recalled() -> bool:
    """Goes on until others have nothing to do."""
    return RECALLED.wait(PATIENCE)


def is_recalled() -> bool:
    return RECALLED.is_set()


def test_a_lease_is_recalled_and_the_next_one_is_not(crew: Crew) -> None:
    job = crew.submit(recalled)
    until = time.monotonic() + PATIENCE
    while not job.done() and time.monotonic() < until:  # it may not have begun the first time
        crew.recall(job)
        time.sleep(0.05)
    assert crew.wait([job], Deadline()) == {job} and job.result()
    crew.recall(job)  # which has ended
    after = [crew.submit(is_recalled) for _ in range(4)]
    assert not any(one.result(PATIENCE) for one in after)


class Doomed:
    """A worker that is lost whatever it is asked."""

    ended = 0

    def meet(self, deadline: Deadline) -> None:
        """It takes anything."""

    def recall(self) -> None:
        """In vain."""

    def ask(self, parcel: Any, deadline: Deadline) -> list[bytearray]:
        raise LostError("it has ended")

    def end(self) -> None:
        type(self).ended += 1


def test_a_job_that_ends_every_worker_is_given_up() -> None:
    crews = Crews(1, Doomed)
    with (
        crews(1, Deadline(), False) as crew,
        pytest.raises(ResourceError, match="8 workers were lost over one piece of work"),
    ):
        crew.submit(partial(abs, 1)).result(PATIENCE)
    assert crews.tally.lost == 8 and Doomed.ended == 8 + 9  # each when it was lost, and all at the end


def test_they_end_with_the_search_whatever_they_are_at() -> None:
    made: list[LocalProcess] = []

    def start() -> LocalProcess:
        made.append(LocalProcess(1, None))
        return made[-1]

    with Crews(2, start)(2, Deadline(), False) as crew:
        job = crew.submit(partial(time.sleep, PATIENCE))
        time.sleep(0.2)
    assert len(made) == 2 and all(worker.process.poll() is not None for worker in made)
    with pytest.raises(OutOfTimeError):
        job.result(PATIENCE)


# -- parcels


def travelled(thing: Any, sender: Sender, receiver: Receiver) -> Any:
    """What a worker makes of it."""
    parcel = [bytes(piece) for piece in sender.packed(partial(_itself, thing))]
    return receiver.unpacked(parcel)()


def _itself(thing: Any) -> Any:
    return thing


TENSORS = [
    torch.arange(6).reshape(2, 3),
    torch.randn(4, 3, 5).permute(2, 0, 1),
    torch.randn(3, 1).expand(3, 4),
    torch.zeros(0, 7),
    torch.tensor(2.5),
    torch.randn(3).half(),
    torch.tensor([True, False]),
    compressed(torch.tensor([[0, 2], [1, 0]]), torch.tensor([1.0, 2.0]), (3, 2)),
]


@pytest.mark.parametrize("tensor", TENSORS, ids=lambda tensor: f"{tensor.dtype}-{list(tensor.shape)}")
def test_tensors_travel_as_they_are(tensor: Tensor) -> None:
    found = travelled(tensor, Sender(Catalogue()), Receiver())
    assert found.dtype == tensor.dtype and found.layout == tensor.layout
    assert torch.equal(found.to_dense(), tensor.to_dense())


def test_what_lasts_is_sent_once_and_is_the_same_thing_then() -> None:
    problem = moved(6, 0.02)
    sender, receiver = Sender(Catalogue()), Receiver()
    first = sum(map(len, sender.packed(partial(_itself, problem))))
    sender = Sender(Catalogue())
    once_, twice = (travelled((problem, problem.model.network), sender, receiver) for _ in range(2))
    assert once_[0] is twice[0] and once_[1] is twice[1] is once_[0].model.network
    again = sum(map(len, sender.packed(partial(_itself, problem))))
    assert again < first / 10
    # and back: what comes from there is ours again
    assert sender.unpacked(receiver.packed(once_[0])) is problem
    # the model is run there as well
    x = np.zeros(6, dtype=np.float32)
    assert np.array_equal(once_[0].model.evaluate(x), problem.model.evaluate(x))


def test_what_nobody_has_any_longer_is_forgotten() -> None:
    catalogue, receiver = Catalogue(), Receiver()
    sender, problem = Sender(catalogue), moved(6, 0.02)
    travelled(problem, sender, receiver)
    assert receiver._things
    del problem
    travelled(1, sender, receiver)
    assert not receiver._things and not receiver._numbers and not catalogue._numbers


# -- wires


@pytest.mark.parametrize("length", [0, 3, 4, 10, 30])
def test_a_torn_parcel_is_none(length: int) -> None:
    ours, theirs = socket.socketpair()
    Wire(theirs, None).send([b"some", b"thing" * 4])
    data = ours.recv(1000)
    theirs.close(), ours.close()
    back, other = socket.socketpair()
    other.sendall(data[:length])
    other.close()
    with back, pytest.raises(LostError, match="it has ended"):
        Wire(back, PATIENCE).receive()


def test_a_recall_waits_for_nobody() -> None:
    """It is heard beside parcels; while one is on its way, and where nobody is left, it is in vain."""
    ours, theirs = socket.socketpair()
    wire, other, heard = Wire(ours, PATIENCE), Wire(theirs, PATIENCE), list[bool]()
    wire.recall()
    wire.send([b"thing"])
    assert other.receive(lambda: heard.append(True)) == [b"thing"] and heard == [True]
    with wire._lock:
        wire.recall()
    other.close()
    wire.recall()
    wire.close()


def test_silence_is_heard() -> None:
    ours, theirs = socket.socketpair()
    wire, other = Wire(ours, 0.2), Wire(theirs, None)
    with pytest.raises(LostError, match="timed out"):
        wire.receive()
    other.alive()
    other.send([b"late"])
    assert wire.receive() == [b"late"]
    wire.close(), other.close()


# -- what is asked for


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"workers": 0}, "give an integer from 1"),
        ({"workers": 2, "device": "cuda"}, "workers search on processors yet"),
        ({"ray": "no address"}, "use HOST:PORT, auto, or local"),
    ],
)
def test_what_workers_cannot_do_is_refused(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        verify.verify("model.onnx", "property.vnnlib", **asked)
