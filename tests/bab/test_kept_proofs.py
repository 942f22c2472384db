"""A search that writes a certificate and is killed: another goes on with both, and the whole is proved."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
import torch
from nets import property_text, random_layers, relu_model, row_text
from oracles import exact_minimum
from test_checkpoint import ID, QUIET, SPLITTING, Eager, Killed, run

from verify.bab.checkpoint import JournalCheckpoint, Standing
from verify.bab.frontier import Frontier
from verify.bab.progress import Outcome, Silent
from verify.bab.strategy import Strategy, root_subproblems
from verify.errors import InputError
from verify.journal import Journal
from verify.problem import Problem, prepare
from verify.proof.recording import recording
from verify.settings import Settings, build_search


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine is lost here, so nothing has to wait for the disk."""
    monkeypatch.setattr("os.fsync", lambda number: None)


class Question:
    """A random network whose least output is a little above its threshold, in files; inputs are split where there are few."""

    def __init__(
        self, inputs: int, folder: Path, settings: Settings = SPLITTING, opposites: bool = False
    ) -> None:
        (weight, bias), last = random_layers(5, [inputs, 10, 2])
        if opposites:
            (weight, bias), last = (
                tuple(np.round(8 * one) / 8 for one in pair) for pair in ((weight, bias), last)
            )
            weight[5:], bias[5:] = -weight[:5], -bias[:5]
        model, row = relu_model([(weight, bias), last]), np.array([[1.0, -0.5]])
        lower, upper = [-0.7] * inputs, [0.7] * inputs
        least = exact_minimum(model, lower, upper, row, np.zeros(1))
        self.paths = folder / "model.onnx", folder / "property.vnnlib"
        onnx.save(model, str(self.paths[0]))
        self.paths[1].write_text(property_text(lower, upper, 2, row_text(row[0], least - 0.02)))
        self.problem: Problem = prepare(*self.paths)
        self.kept, self.target, self.settings = folder / "kept", folder / "certificate", settings

    def decide(self, lives: int = 10**9, checkpoint: Eager | None = None) -> tuple[Outcome, str | None]:
        """How the search ends, and what is wrong with its certificate. Raises Killed after writing the journal so often."""
        with recording(self.target, *self.paths, self.problem, self.kept) as record:
            search = build_search(
                self.problem, self.settings, torch.device("cpu"), 0, Silent(), record.writer
            )
            outcome = run(search, checkpoint or Eager(self.kept, lives))
            return outcome, record.close_unsat(self.problem)


class Telling(Eager):
    """Is killed once there are blocks and splits, and says how much the journal knows of each part."""

    sizes_told: ClassVar[dict[str, int]] = {}

    def write(self, strategy: Strategy, frontier: Frontier, working: Any, standing: Standing) -> None:
        super().write(strategy, frontier, working, standing)
        files = standing.proof.saved()["files"]
        if {"stream", "split.node"} <= set(files):
            self.sizes_told.update({name: there["size"] for name, there in files.items()})
            raise Killed


@pytest.mark.parametrize(
    ("inputs", "settings", "opposites"),
    [(20, QUIET, False), (6, SPLITTING, False), (6, SPLITTING, True)],
)
def test_killed_again_and_again_the_whole_is_proved(
    inputs: int, settings: Settings, opposites: bool, tmp_path: Path
) -> None:
    question, random, kills = Question(inputs, tmp_path, settings, opposites), np.random.default_rng(1), 0
    found: tuple[Outcome, str | None] | None = None
    while found is None:
        assert kills < 1000 and not question.target.exists()
        with suppress(Killed):
            found = question.decide(int(random.integers(2, 5)))
        kills += found is None
    outcome, failure = found
    assert outcome.verdict == "unsat" and failure is None and question.target.exists()
    assert kills > 1 and outcome.progress.checkpoint["resumed"]
    first = question.target.read_bytes()
    assert (b"merged.variable" in first) == opposites
    question.target.unlink()
    # what is decided is put together and proved again
    again, failure = question.decide()
    assert again.verdict == "unsat" and failure is None and not again.progress.checkpoint["written"]
    assert question.target.read_bytes() == first


def longer(data: bytes) -> bytes:
    return data + b"of a moment that nobody knows"


def shorter(data: bytes) -> bytes:
    return data[:-1]


def other(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(("change", "right"), [(longer, True), (shorter, False), (other, False)])
@pytest.mark.parametrize("part", ["stream", "split.node"])
def test_what_was_not_kept_is_cut_off_and_what_was_is_compared(
    change: Callable[[bytes], bytes], right: bool, part: str, tmp_path: Path
) -> None:
    question = Question(6, tmp_path)
    with pytest.raises(Killed):
        question.decide(checkpoint=Telling(question.kept))
    path, size = question.kept / f"proof.{part}", Telling.sizes_told[part]
    path.write_bytes(change(path.read_bytes()[:size]))
    if right:
        assert question.decide()[1] is None
        return
    with pytest.raises(InputError, match="is not what the search had written to it; remove the folder"):
        question.decide()
    assert not question.target.exists()
    path.unlink()
    with pytest.raises(InputError, match=f"proof.{part}"):
        question.decide()


def test_roots_that_begin_anew_are_written_though_their_numbers_are_old(tmp_path: Path) -> None:
    """The journal knows what is new by its numbers, which a certificate's spare roots have had for long."""
    question = Question(20, tmp_path)
    search = build_search(question.problem, SPLITTING, torch.device("cpu"), 0, Silent())
    checkpoint = JournalCheckpoint(journal := Journal(question.kept, ID))

    def waiting(number: int) -> None:
        one = root_subproblems(1, [0], search.network.alphas, torch.device("cpu"))
        one = replace(one, subproblem_id=torch.tensor([number]))
        checkpoint.numbered(one.subproblem_id, True)
        search.frontier.push(one)

    def write() -> list[int]:
        checkpoint.write(search.strategy, search.frontier, [], Standing(search.knowledge, {}, {}))
        found = [record["columns"]["subproblem_id"] for record in journal.records() if "columns" in record]
        return sorted(torch.cat(found).tolist())

    waiting(40)
    assert write() == [40]
    waiting(41)
    assert write() == [40, 41]
    waiting(3)
    assert write() == [3, 40, 41]
    journal.close()
