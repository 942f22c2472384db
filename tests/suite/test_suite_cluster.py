"""Suites on a cluster, its machines pretended: what is lost, late or refused is so for one instance alone."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fakes import instance

from verify.deadline import Deadline, OutOfTimeError
from verify.errors import InputError, ResourceError
from verify.request import Request
from verify.suite.cluster import decided, everywhere
from verify.suite.settings import Ended, Settings
from verify.suite.worker import Answer, Decide
from verify.workers.parcels import Receiver
from verify.workers.wire import LostError
from verify.workers.worker import Found


@dataclass(frozen=True)
class Words:
    """Decides as the property's text says."""

    def __call__(self) -> Decide:
        return self.decide

    def decide(self, request: Request) -> Answer:
        word = Path(request.specification).read_text()
        if word == "lost":
            raise LostError("gone")
        if word == "late":
            raise OutOfTimeError
        return Answer(word, f"because of {word}", healthy=word != "error")


class Elsewhere:
    """A worker of another machine, as far as anybody can tell. made: all of them; asked: by each, in order."""

    made: list[Elsewhere]

    def __init__(self) -> None:
        self.receiver, self.asked, self.ended = Receiver(), list[str](), False
        self.made.append(self)

    def meet(self, deadline: Deadline) -> None:
        """It is ready."""
        assert 0 < deadline.remaining <= 300

    def ask(self, parcel: Any, deadline: Deadline) -> list[bytearray]:
        job = self.receiver.unpacked([bytes(piece) for piece in parcel])
        [request] = job.args  # type: ignore[attr-defined]
        assert request.specification.is_absolute() and request.model.is_absolute()
        assert request.timeout < deadline.remaining <= request.timeout + 7.0
        self.asked.append(request.specification.read_text())
        return [bytearray(piece) for piece in self.receiver.packed(Found(job()))]

    def end(self) -> None:
        self.ended = True


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Elsewhere]:
    monkeypatch.setattr(Elsewhere, "made", [], raising=False)
    return Elsewhere.made


def results(tmp_path: Path, settings: Settings, count: int, *words: str) -> list[Ended]:
    """What came out, in the order of the instances."""
    todo = [instance(tmp_path / f"p{at}.{word}", word) for at, word in enumerate(words)]
    found = {id(one.instance): one for one in decided(todo, settings, count, Elsewhere)}
    return [found[id(one)] for one in todo]


def test_each_is_decided_whatever_becomes_of_others(tmp_path: Path, made: list[Elsewhere]) -> None:
    settings = Settings(grace=7.0, deciders=Words())
    found = results(tmp_path, settings, 1, "sat", "lost", "unsat", "late", "error", "unknown")
    assert [one.answer.result for one in found] == ["sat", "error", "unsat", "timeout", "error", "unknown"]
    assert "2 workers were lost over it" in found[1].answer.reason
    assert "no answer 7 s after the limit" in found[3].answer.reason
    asked = [["sat", "lost"], ["lost"], ["unsat", "late"], ["error"], ["unknown"]]
    assert [worker.asked for worker in made] == asked and all(worker.ended for worker in made)


def test_a_lost_worker_costs_a_second_try(
    tmp_path: Path, made: list[Elsewhere], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, lost = Elsewhere.ask, list[str]()

    def once(worker: Elsewhere, parcel: Any, deadline: Deadline) -> list[bytearray]:
        if not lost:
            lost.append("one")
            raise LostError("a machine was taken away")
        return ask(worker, parcel, deadline)

    monkeypatch.setattr(Elsewhere, "ask", once)
    found = results(tmp_path, Settings(grace=7.0, deciders=Words()), 1, "sat", "unsat")
    assert [one.answer.result for one in found] == ["sat", "unsat"] and len(made) == 2


def test_they_work_beside_one_another_and_are_replaced_after_their_share(
    tmp_path: Path, made: list[Elsewhere], monkeypatch: pytest.MonkeyPatch
) -> None:
    both, ask = threading.Barrier(2), Elsewhere.ask

    def together(worker: Elsewhere, parcel: Any, deadline: Deadline) -> list[bytearray]:
        both.wait(60)
        return ask(worker, parcel, deadline)

    monkeypatch.setattr(Elsewhere, "ask", together)
    results(tmp_path, Settings(grace=7.0, restart=1, deciders=Words()), 2, *["unsat"] * 4)
    assert [worker.asked for worker in made] == [["unsat"]] * 4


def test_another_version_on_a_machine_ends_the_suite(
    tmp_path: Path, made: list[Elsewhere], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(worker: Elsewhere, deadline: Deadline) -> None:
        raise ResourceError("another version of verify")

    monkeypatch.setattr(Elsewhere, "meet", refused)
    with pytest.raises(ResourceError, match="another version"):
        results(tmp_path, Settings(deciders=Words()), 1, "unsat")
    assert all(worker.ended for worker in made)


def test_what_is_asked_is_checked_and_shared(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="use HOST:PORT, auto, or local"):
        Settings(ray="nowhere")
    one = instance(tmp_path / "p", "unsat")
    asked = Settings(
        jobs=4, memory=4000, workers=3, checkpoint=Path("kept"), certificates={one.key: Path("c")}
    ).request(one)
    assert (asked.memory, asked.workers) == (1000, 3)
    assert everywhere(asked).certificate == Path("c").absolute() and asked.certificate == Path("c")
    assert everywhere(asked).checkpoint == (Path.cwd() / asked.checkpoint if asked.checkpoint else None)
