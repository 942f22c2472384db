"""A search that is killed goes on: whatever moment it ends at, what the journal has as open holds every input that is not refuted."""

from __future__ import annotations

import errno
import io
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import property_text, random_layers, random_network, relu_model, row_text, variables
from oracles import exact_minimum
from patience import PATIENCE
from test_search_verdicts import NO_ATTACK, both_strategies, bounded_roots, planted, search_for
from torch import Tensor

import verify
import verify.bab.checkpoint as checkpoint_module
from verify.bab.bundles import Batch
from verify.bab.checkpoint import JournalCheckpoint, Standing
from verify.bab.frontier import Frontier
from verify.bab.loop import BranchAndBound
from verify.bab.progress import Outcome
from verify.bab.root_bounds import Programs, RootBounds
from verify.bab.strategy import Strategy
from verify.deadline import Deadline, OutOfTimeError
from verify.errors import InputError
from verify.journal import Journal
from verify.network.activations import Relu
from verify.problem import Problem, prepare
from verify.proof.tracer import NO_PROOF
from verify.settings import Settings, preset

ID = {"what": "a test"}
QUIET = replace(preset("default"), first_attack=NO_ATTACK, second_attack=NO_ATTACK, output_constrained=())
SPLITTING = replace(QUIET, branched=None)


class Killed(BaseException):
    """The process is gone, as far as the search can tell."""


class Eager(JournalCheckpoint):
    """Writes before every step, and is killed after so many times. sizes: how many subproblems were open each time."""

    def __init__(self, folder: Path, lives: int = 10**9) -> None:
        self.journal, self.lives, self.sizes = Journal(folder, ID), lives, list[int]()
        super().__init__(self.journal)

    @property
    def due(self) -> bool:
        return True

    def write(
        self, strategy: Strategy, frontier: Frontier, working: Sequence[Batch], standing: Standing
    ) -> None:
        if self.lives == 0:
            raise Killed
        self.lives -= 1
        super().write(strategy, frontier, working, standing)
        self.sizes.append(len(frontier) + sum(map(len, working)))


def run(search: BranchAndBound, checkpoint: Eager, seconds: float = PATIENCE, lease: float = 0.0) -> Outcome:
    """In small steps, with a journal."""
    search.batch, search.workers, search.checkpoint, search.lease = 4, 1, checkpoint, lease
    try:
        return search.run(Deadline.after(seconds))
    finally:
        checkpoint.journal.close()


def moved(splits: str, shift: float) -> Problem:
    """A random network whose least output is moved by `shift` above its threshold: a few dozen steps to decide."""
    inputs = 20 if splits == "activations" else 6
    model, row = relu_model(random_layers(5, [inputs, 10, 2])), np.array([[1.0, -0.5]])
    lower, upper = [-0.7] * inputs, [0.7] * inputs
    least = exact_minimum(model, lower, upper, row, np.zeros(1))
    return prepare(model, property_text(lower, upper, 2, row_text(row[0], least - shift)))


def decided(problem: Problem, splits: str, folder: Path, random: np.random.Generator) -> tuple[Outcome, int]:
    """How a search ends that is killed again and again, and how often it was."""
    for kills in range(1000):
        try:
            return run(
                search_for(problem, splits, SPLITTING), Eager(folder, int(random.integers(2, 9)))
            ), kills
        except Killed:
            continue
    raise AssertionError("it never came to an end")


@both_strategies
@pytest.mark.parametrize("shift", [0.02, -0.01])
def test_killed_again_and_again_it_ends_right(shift: float, splits: str, tmp_path: Path) -> None:
    outcome, kills = decided(moved(splits, shift), splits, tmp_path, np.random.default_rng(1))
    assert outcome.verdict == ("unsat" if shift > 0 else "sat"), outcome.reason
    assert kills or shift < 0, "it was never killed"


def restored(problem: Problem, splits: str, folder: Path, settings: Settings = SPLITTING) -> BranchAndBound:
    """A search as another process would find it; the folder may be in use."""
    copy = folder.with_name(f"{folder.name}-copy")
    shutil.copytree(folder, copy)
    search, journal = search_for(problem, splits, settings), Journal(copy, ID)
    try:
        standing = JournalCheckpoint(journal).restored(search.strategy, problem, search.frontier, NO_PROOF)
    finally:
        journal.close()
        shutil.rmtree(copy)
    assert standing is not None
    search.knowledge = standing.knowledge
    return search


def holding(search: BranchAndBound, x: Tensor) -> int:
    """How many of the subproblems that wait hold an input."""
    shared: Any = search.knowledge.shared
    network = getattr(shared, "network", None) or search.strategy.bounder.network  # type: ignore[attr-defined]
    found = search.frontier.pop(len(search.frontier), torch.device("cpu"), torch.float32)
    values = variables(network, x[None])[0]
    keeps = (values[found.split_variable.clamp(min=0)] - found.split_value) * found.split_side >= 0
    return int((keeps | (found.split_variable < 0)).all(1).sum())


class Looking(Eager):
    """Looks, each time, at what another process would find."""

    def __init__(self, folder: Path, look: Callable[[int], None]) -> None:
        super().__init__(folder)
        self.look = look

    def write(self, *args: Any) -> None:
        super().write(*args)
        self.look(self.sizes[-1])


@both_strategies
@pytest.mark.parametrize(("seed", "settings"), [(1, SPLITTING), (3, QUIET)])
def test_every_state_holds_a_planted_counterexample(
    seed: int, settings: Settings, splits: str, tmp_path: Path
) -> None:
    network = random_network(seed, "chain", [Relu(), Relu()])
    problem, x = planted(network, seed, 1e-5)

    def look(size: int) -> None:
        found = restored(problem, splits, tmp_path / "kept", settings)
        assert len(found.frontier) == size
        assert holding(found, x), "a subproblem with the counterexample is lost"

    checkpoint = Looking(tmp_path / "kept", look)
    checkpoint.lives = 8
    with pytest.raises(Killed):
        run(search_for(problem, splits, settings), checkpoint, lease=0.01 * (3 - seed))
    assert len(checkpoint.sizes) == 8


def with_dead_neurons() -> Problem:
    """Some neurons are 0 on the whole box."""
    layers = [(weight, bias.copy()) for weight, bias in random_layers(5, [20, 10, 8, 2])]
    layers[0][1][:3], layers[1][1][:2] = -50, -50
    model, row, ends = relu_model(layers), np.array([[1.0, -0.5]]), [0.7] * 20
    lower = [-end for end in ends]
    least = exact_minimum(model, lower, ends, row, np.zeros(1))
    return prepare(model, property_text(lower, ends, 2, row_text(row[0], least - 0.05)))


@pytest.mark.parametrize("kind", ["inputs", "cuts", "reduced"])
def test_what_is_known_comes_back_as_it_was(kind: str, tmp_path: Path) -> None:
    """Bounds, groups, cuts, networks and what techniques cost: the saved forms of both are the same."""
    splits = "inputs" if kind == "inputs" else "activations"
    problem = with_dead_neurons() if kind == "reduced" else moved(splits, 0.02)
    known = list[Any]()

    class Remembering(Eager):
        def write(self, strategy: Strategy, *args: Any) -> None:
            super().write(strategy, *args)
            known.append((strategy.saved(args[-1].knowledge), args[-1].knowledge))

    with suppress(Killed):
        run(search_for(problem, splits, QUIET), Remembering(tmp_path / "kept", 5))
    search = restored(problem, splits, tmp_path / "kept", QUIET)
    saved, knowledge = known[-1]
    assert same(search.strategy.saved(search.knowledge), saved)
    assert search.knowledge.effort.splitting == knowledge.effort.splitting
    assert search.knowledge.effort.ledgers.keys() == knowledge.effort.ledgers.keys()
    if kind == "cuts":
        assert knowledge.shared.cuts.count
    if kind == "reduced":
        assert knowledge.shared.reductions


def test_what_is_known_of_linear_programs_comes_back(tmp_path: Path) -> None:
    """By way of a file."""
    problem = moved("activations", 0.02)
    search = search_for(problem, "activations", QUIET)
    knowledge = bounded_roots(search.strategy)[1]
    involved = torch.arange(knowledge.shared.network.variables, dtype=torch.float64)
    programs = Programs(flat=True, seconds=1.5, involved=involved)
    knowledge = replace(knowledge, shared=replace(knowledge.shared, programs=programs))
    checkpoint = JournalCheckpoint(journal := Journal(tmp_path / "kept", ID))
    checkpoint.write(search.strategy, search.frontier, [], Standing(knowledge, {}, {}))
    journal.close()
    found = restored(problem, "activations", tmp_path / "kept", QUIET).knowledge.shared.programs
    assert (found.flat, found.seconds) == (True, 1.5) and torch.equal(found.involved, involved)


def test_all_that_roots_know_is_kept_or_made_by_the_search() -> None:
    """Who adds a field says which: one that is neither would be lost in silence."""
    made = {"problem", "objectives", "tracer", "network", "working", "carried", "steps", "rigorous"}
    kept = {"cuts", "index_of_box", "bounds", "root_bound", "passes", "reductions", "programs"}
    assert {field.name for field in fields(RootBounds)} == made | kept


def same(one: Any, other: Any) -> bool:
    """Whether two nests hold the same."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def test_a_torn_journal_is_cut_at_its_last_whole_group(tmp_path: Path) -> None:
    problem, folder = moved("activations", 0.02), tmp_path / "kept"
    ends = [0]

    def look(size: int) -> None:
        ends.append((folder / "journal").stat().st_size)

    checkpoint = Looking(folder, look)
    checkpoint.lives = 6
    with pytest.raises(Killed):
        run(search_for(problem, "activations", SPLITTING), checkpoint)
    whole, random = (folder / "journal").read_bytes(), np.random.default_rng(0)
    assert ends[1:] == sorted(ends[1:]) and len(ends) == 7
    for length in random.integers(ends[1], len(whole), 20).tolist():
        (folder / "journal").write_bytes(whole[:length])
        kept = max(end for end in ends if end <= length)
        journal = Journal(folder, ID)
        journal.close()
        assert journal.size == kept == (folder / "journal").stat().st_size
        assert (journal.note is None) == (length == kept) and (
            journal.note is None or "cut off" in journal.note
        )
        expected = checkpoint.sizes[ends.index(kept) - 1]
        assert len(restored(problem, "activations", folder).frontier) == expected
    for place in random.integers(ends[1], ends[-1], 20).tolist():
        (folder / "journal").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        journal = Journal(folder, ID)
        journal.close()
        assert journal.size == max(end for end in ends if end <= place)


@pytest.mark.parametrize("content", [b"", b"verifyJ1", b"something else" * 20])
def test_what_is_no_journal_is_refused_or_new(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "journal").write_bytes(content)
    if content:
        with pytest.raises(InputError, match="no journal of verify"):
            Journal(tmp_path, ID)
        assert (tmp_path / "journal").read_bytes() == content
    else:
        Journal(tmp_path, ID).close()


def test_another_search_is_refused_and_so_is_a_second_writer(tmp_path: Path) -> None:
    journal = Journal(tmp_path, ID)
    journal.append([{"some": torch.arange(3)}])
    with pytest.raises(InputError, match="another process"):
        Journal(tmp_path, ID)
    journal.close()
    with pytest.raises(
        InputError, match=r"holds another search: what differs is what \(a test there, other here\)"
    ):
        Journal(tmp_path, {"what": "other"})
    again = Journal(tmp_path, ID)
    assert [record["some"].tolist() for record in again.records()] == [[0, 1, 2]]
    again.close()


def test_a_journal_runs_no_code(tmp_path: Path) -> None:
    """What a stranger has put there may be refused; it is never run."""
    journal = Journal(tmp_path, ID)
    journal.append([{"harmless": 1}])
    buffer = io.BytesIO()
    torch.save({"verdict": Harm(tmp_path / "harm")}, buffer)
    with (tmp_path / "journal").open("ab") as file:
        journal._write(file, [{"raw": buffer.getvalue()}])  # its digest is right
    journal._places[-1] = (0, 0)
    journal.close()
    with pytest.raises(InputError, match="cannot be read"):
        Journal(tmp_path, ID)._decoded(buffer.getvalue())
    assert not (tmp_path / "harm").exists()


class Harm:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@both_strategies
def test_time_that_ran_out_is_gone_on_from(splits: str, tmp_path: Path) -> None:
    """By its own clock, which has not come to a first time yet: the end of the time is kept in any case."""
    problem, folder = moved(splits, 0.02), tmp_path / "kept"
    search = search_for(problem, splits, SPLITTING)

    class Once(JournalCheckpoint):
        """As it is, and the time is over after the first step."""

        def gone(self, numbers: Tensor) -> None:
            super().gone(numbers)
            raise OutOfTimeError

    search.batch, search.workers = 4, 1
    search.checkpoint = Once(journal := Journal(folder, ID))
    outcome = search.run(Deadline.after(PATIENCE))
    journal.close()
    assert outcome.verdict == "timeout" and outcome.progress.checkpoint["written"]
    again = search_for(problem, splits, SPLITTING)
    second = run(again, Eager(folder))
    assert second.verdict == "unsat" and second.progress.checkpoint["resumed"]
    assert second.progress.opened > outcome.progress.opened
    assert again.progress.seconds["root"] == outcome.progress.seconds["root"], "roots were bounded again"


@pytest.mark.parametrize("shift", [0.02, -0.01])
def test_a_finished_search_is_not_made_again(shift: float, tmp_path: Path) -> None:
    problem = moved("inputs", shift)
    first = run(search_for(problem, "inputs", SPLITTING), Eager(tmp_path))
    search = search_for(problem, "inputs", SPLITTING)
    second = run(search, Eager(tmp_path))
    assert second.verdict == first.verdict == ("unsat" if shift > 0 else "sat")
    assert second.reason == first.reason and second.progress.opened == first.progress.opened
    if first.witness is not None:
        assert second.witness is not None
        assert np.array_equal(first.witness.inputs, second.witness.inputs)
        liar = replace(problem, specification=moved("inputs", 0.02).specification)
        with pytest.raises(InputError, match="counterexample"):
            run(search_for(liar, "inputs", SPLITTING), Eager(tmp_path))


def test_a_full_disk_costs_the_journal_and_not_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    checkpoint = Eager(tmp_path)
    monkeypatch.setattr(Journal, "_put", full)
    outcome = run(search_for(moved("activations", 0.02), "activations", SPLITTING), checkpoint)
    assert outcome.verdict == "unsat"
    assert "No space left" in outcome.progress.checkpoint["trouble"]
    assert not outcome.progress.checkpoint["written"]
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_disk_that_is_full_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be appended comes with the next group."""
    problem, folder = moved("activations", 0.02), tmp_path / "kept"
    put, calls = Journal._put, [0]

    def sometimes(*args: Any) -> None:
        calls[0] += 1
        if calls[0] % 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        put(*args)

    first = Eager(folder, 2)
    with pytest.raises(Killed):
        run(search_for(problem, "activations", SPLITTING), first)
    monkeypatch.setattr(Journal, "_put", sometimes)
    second = Eager(folder, 9)
    with pytest.raises(Killed):
        run(search_for(problem, "activations", SPLITTING), second)
    monkeypatch.undo()
    outcome = run(search_for(problem, "activations", SPLITTING), Eager(folder))
    assert outcome.verdict == "unsat"


def test_the_clock_keeps_to_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(checkpoint_module.time, "monotonic", lambda: now[0])
    checkpoint = JournalCheckpoint(journal := Journal(tmp_path, ID))
    times, costs = [], 0.0
    for tick in range(4000):
        now[0] = tick / 10
        if checkpoint.due:
            times.append(now[0])
            cost = 0.05 if len(times) < 10 else 0.8
            costs, checkpoint._spent, checkpoint._cost, checkpoint._last = (
                costs + cost,
                costs + cost,
                cost,
                now[0],
            )
    journal.close()
    assert costs <= 0.03 * now[0] + 0.8 and len(times) > 10
    assert min(after - before for before, after in pairwise(times)) >= 0.99


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"certificate": "proof"}, "lies in the folder of --checkpoint"),
        ({"model": torch.nn.Linear(1, 1)}, "the path or the bytes of an ONNX file"),
    ],
)
def test_what_cannot_be_kept_is_refused(asked: dict[str, Any], words: str, tmp_path: Path) -> None:
    given = {"model": "model.onnx", "specification": "p.vnnlib", "checkpoint": tmp_path, **asked}
    if "certificate" in given:
        given["certificate"] = tmp_path / "below" / given["certificate"]
    with pytest.raises(InputError, match=words):
        verify.verify(**given)
    assert not list(tmp_path.iterdir())
