"""One certificate from many workers: whatever becomes of a lease and its answer, the checker proves the whole, or says what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import pytest
import torch
from nets import property_text, random_layers, relu_model, row_text
from oracles import exact_minimum
from patience import PATIENCE

from verify.attack import Attack
from verify.bab.progress import Outcome, Silent
from verify.bab.steps import Steps
from verify.deadline import Deadline
from verify.errors import InternalError
from verify.problem import Problem, prepare
from verify.proof.blocks import CuttingPlanes
from verify.proof.certificate import CertificateTracer
from verify.proof.recording import recording
from verify.proof.segment import OWN, Segment
from verify.settings import build_search, preset
from verify.state import Subproblems
from verify.workers.parcels import Catalogue, Receiver, Sender

R = TypeVar("R")
T = TypeVar("T")
NO_ATTACK = Attack(restarts=1, steps=0, seconds=0.0)
SETTINGS = replace(preset("default"), first_attack=NO_ATTACK, second_attack=NO_ATTACK, triable_inputs=0)


LEAVES = {3, 4, 5, 8, 12, 13, 17}  # kinds of blocks that close nodes


class Clumsy:
    """Workers as if they were elsewhere: answers come in any order, every other one gets lost, and a new worker does its job again."""

    workers = 3

    def __init__(self) -> None:
        self.random, self.jobs, self.lost = np.random.default_rng(0), 0, 0
        self.waiting: dict[Future[Any], Callable[[], Any]] = {}
        self.catalogue = Catalogue()
        self.crew = [self.hired() for _ in range(self.workers)]

    def hired(self) -> tuple[Sender, Receiver]:
        return Sender(self.catalogue), Receiver()

    @contextmanager
    def __call__(self, workers: int, deadline: Deadline, writing: bool) -> Iterator[Clumsy]:
        yield self

    def submit(self, job: Callable[[], R]) -> Future[R]:
        ended: Future[R] = Future()
        self.waiting[ended] = job
        return ended

    def recall(self, job: Future[R]) -> None:
        """In vain."""

    def map(self, function: Callable[[T], R], things: Iterable[T], /) -> list[R]:
        return [self.done(lambda thing=thing: function(thing)) for thing in things]  # type: ignore[misc]

    def wait(self, jobs: Iterable[Future[R]], deadline: Deadline) -> set[Future[R]]:
        ended = list(self.waiting)[self.random.integers(len(self.waiting))]
        ended.set_result(self.done(self.waiting.pop(ended)))
        return {ended}

    def done(self, job: Callable[[], Any]) -> Any:
        place, self.jobs = int(self.random.integers(self.workers)), self.jobs + 1
        if self.jobs % 2:
            self.answer(place, job)
            self.crew[place], self.lost = self.hired(), self.lost + 1
        return self.crew[place][0].unpacked(self.answer(place, job))

    def answer(self, place: int, job: Callable[[], Any]) -> list[bytes]:
        sender, receiver = self.crew[place]
        found = receiver.unpacked([bytes(piece) for piece in sender.packed(job)])()
        return [bytes(piece) for piece in receiver.packed(found)]


def asked(inputs: int, folder: Path) -> tuple[Path, Path, Problem]:
    """A random network whose least output is a little above its threshold: inputs are split where there are few."""
    model, row = relu_model(random_layers(5, [inputs, 10, 2])), np.array([[1.0, -0.5]])
    lower, upper = [-0.7] * inputs, [0.7] * inputs
    least = exact_minimum(model, lower, upper, row, np.zeros(1))
    paths = folder / "model.onnx", folder / "property.vnnlib"
    onnx.save(model, str(paths[0]))
    paths[1].write_text(property_text(lower, upper, 2, row_text(row[0], least - 0.02)))
    return *paths, prepare(*paths)


def decided(inputs: int, folder: Path, workers: Clumsy, lease: float = 0.0) -> tuple[Outcome, str | None]:
    """How a search ends, and what is wrong with its certificate. lease: seconds; 0: jobs are single steps."""
    model, specification, problem = asked(inputs, folder)
    with recording(folder / "certificate", model, specification, problem) as record:
        search = build_search(problem, SETTINGS, torch.device("cpu"), 0, Silent(), record.writer)
        search.batch, search.executors, search.lease = 4, workers, lease
        outcome = search.run(Deadline.after(PATIENCE))
        assert outcome.verdict == "unsat", outcome.reason
        return outcome, record.close_unsat(problem)


@pytest.mark.parametrize("inputs", [20, 6])
def test_answers_that_are_lost_or_late_leave_it_whole(inputs: int, tmp_path: Path) -> None:
    workers = Clumsy()
    outcome, failure = decided(inputs, tmp_path, workers, 0.02)
    assert failure is None and (tmp_path / "certificate").exists()
    assert workers.lost and outcome.progress.opened > 10


@pytest.mark.parametrize("inputs", [20, 6])
def test_steps_that_memory_ends_leave_nothing(
    inputs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are made again, a half at a time, of what had been split and bounded already."""
    expand = Steps._expand

    def ending(steps: Steps, subproblems: Subproblems, *rest: Any) -> Any:
        found = expand(steps, subproblems, *rest)
        if len(subproblems) > 2:
            raise MemoryError
        return found

    monkeypatch.setattr(Steps, "_expand", ending)
    outcome, failure = decided(inputs, tmp_path, Clumsy())
    assert failure is None and outcome.progress.largest_batch <= 4


def without_blocks(segment: Segment) -> Segment:
    return replace(segment, kinds=segment.kinds[:0], ends=segment.ends[:0], stream=segment.stream[:0], places=segment.places[:0], counts=segment.counts[:0])  # fmt: skip


def without_splits(segment: Segment) -> Segment:
    return replace(segment, nodes=segment.nodes[:0], variables=segment.variables[:0], values=segment.values[:0])  # fmt: skip


@pytest.mark.parametrize("inputs", [20, 6])
@pytest.mark.parametrize("what", ["twice", "blocks", "splits", "all"])
def test_a_part_that_is_missing_or_doubled_is_never_proved(
    what: str, inputs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one answer among many."""
    joined, count = CertificateTracer.joined, [0]

    def tampered(tracer: CertificateTracer, segment: Segment | None) -> Any:
        if segment is None or len(set(segment.cuts)) > 1 or not LEAVES & set(segment.kinds.tolist()):
            return joined(tracer, segment)
        count[0] += 1
        if count[0] > 1:
            return joined(tracer, segment)
        if what == "twice":
            joined(tracer, segment)
        lacking = {"blocks": without_blocks, "splits": without_splits}.get(what, lambda it: it)(segment)
        if what == "all":
            lacking = without_blocks(without_splits(segment))
        return joined(tracer, lacking)

    monkeypatch.setattr(CertificateTracer, "joined", tampered)
    _, failure = decided(inputs, tmp_path, Clumsy())
    assert count[0]
    assert failure is not None and "not proved" in failure
    assert not (tmp_path / "certificate").exists()


def test_cuts_of_two_at_once_are_an_error(tmp_path: Path) -> None:
    """Their numbers would be the same."""
    model, specification, problem = asked(6, tmp_path)
    ends, none = np.zeros(6), np.zeros(0)
    block = CuttingPlanes(ends, ends, *[none] * 7)
    with recording(tmp_path / "certificate", model, specification, problem) as record:
        tracer = CertificateTracer(problem.model.network, 1, record.writer)

        def told() -> None:
            draft = tracer._draft
            assert draft is not None
            draft.cuts(block, 2)

        first, second = (tracer.apart(told, tracer.cuts_told)[1] for _ in range(2))
        tracer.joined(first)
        with pytest.raises(InternalError, match="numbers cuts"):
            tracer.joined(second)


def test_nodes_of_its_own_are_numbered_when_it_is_joined(tmp_path: Path) -> None:
    """Two pieces of work make the same numbers, and have others in the certificate."""
    model, specification, problem = asked(6, tmp_path)
    with recording(tmp_path / "certificate", model, specification, problem) as record:
        search = build_search(problem, SETTINGS, torch.device("cpu"), 0, Silent(), record.writer)
        tracer = search.tracer
        root = next(iter(search.strategy.roots(search.knowledge, 4, Deadline()))).bounded.subproblems
        node, begun = int(root.subproblem_id[0]), record.writer.sizes().get("stream", 0)

        def work() -> torch.Tensor:
            one = torch.zeros(1)
            children = tracer.split(root, root.select(torch.tensor([0, 0])), one, one)
            tracer.leaves_by_default(children)
            return children.subproblem_id

        (found, segment), (again, other) = (tracer.apart(work, 0) for _ in range(2))
        assert found.tolist() == again.tolist() == [OWN, OWN + 1]
        first, second = (tracer.joined(part).of(found).tolist() for part in (segment, other))
        assert first == [node + 1, node + 2] and second == [node + 3, node + 4]
        stream = record.writer._read("stream", begun, record.writer.sizes()["stream"])
        size = len(stream) // 2
        told = [np.frombuffer(stream[start + 8 : start + 24], "<i8").tolist() for start in (0, size)]
        assert told == [first, second]
