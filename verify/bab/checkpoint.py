"""What a search keeps so that a killed one goes on: its open subproblems, what is known, and its counters, in a journal.

Soundness hangs on one rule: what the journal says is open contains every input that is not refuted. Only the search's owner writes,
and only between two steps, when each open subproblem waits or is worked on; what is worked on is open like the others. A subproblem is
dropped in the group of records that holds its children (or that they are stuck), which counts as a whole or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from verify.bab.bundles import Batch, columns, of_columns, since
from verify.bab.effort import Effort, Ledger, Splitting
from verify.bab.frontier import Frontier
from verify.bab.progress import Outcome, Progress, Spent
from verify.bab.strategy import Knowledge, Strategy
from verify.errors import InputError, VerifyError
from verify.journal import Journal
from verify.problem import Problem
from verify.proof.tracer import NO_PROOF, ProofTracer
from verify.state import Subproblems

T = TypeVar("T")
Numbers = Int[Tensor, " batch"]

_SHARE = 0.03  # of the time, for writing
_APART = 1.0  # seconds between two groups of records, at least
_BRIEF = 0.3  # seconds that the last one may take, when the time is over
_OLD = 2  # times what a whole new journal takes: then one is written
_SLACK = 2**24  # bytes that do not count there


@dataclass(frozen=True)
class Standing:
    """Where a search stands, beside the subproblems that wait. counters: plain values, by name. proof: who is told of it."""

    knowledge: Knowledge
    counters: dict[str, Any]
    progress: dict[str, Any]
    proof: ProofTracer = NO_PROOF


class Checkpoint:
    """Keeps nothing. A search tells it of its subproblems in any case."""

    def ended(self, proof: ProofTracer) -> dict[str, Any] | None:
        """How the search has ended already, its proof as it was then."""
        return None

    def restored(
        self, strategy: Strategy, problem: Problem, frontier: Frontier, proof: ProofTracer
    ) -> Standing | None:
        """Where an earlier run stood, its open subproblems put into the frontier, its proof as it was; None where there was none."""
        return None

    def numbered(self, numbers: Numbers, given: bool) -> Numbers:
        """Numbers of new subproblems, which none had before. given: these are such already, in a proof."""
        return numbers

    def gone(self, numbers: Numbers) -> None:
        """These are open no longer: refuted, stuck, or split, with their children in the frontier."""

    @property
    def due(self) -> bool:
        """Whether to write now."""
        return False

    @property
    def brief(self) -> bool:
        """Whether to write once more where the time has run out."""
        return False

    def write(
        self, strategy: Strategy, frontier: Frontier, working: Sequence[Batch], standing: Standing
    ) -> None:
        """Keeps all that is open, `working` and what waits, and the rest. Never raises for what cannot be written."""

    def end(self, outcome: Outcome, proof: ProofTracer) -> None:
        """The search has a verdict."""

    def statistics(self) -> dict[str, Any]:
        """What a result tells of it."""
        return {}


NO_CHECKPOINT = Checkpoint()


class JournalCheckpoint(Checkpoint):
    """In a journal, by a clock: at most `_SHARE` of the time, so it may lose what came after the last time."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._began = self._last = time.monotonic()
        self._spent = self._cost = 0.0
        self._written, self._resumed, self._trouble = 0, False, ""
        # that were written
        self._bytes = 0
        # the next subproblem's number, and the first that the journal knows nothing of
        self._next = self._known = 1
        # whether some that are newer have smaller numbers
        self._mixed = False
        # subproblems that the journal has as open and that are not
        self._gone: list[Tensor] = []
        # what is shared, as the journal has it
        self._parts: dict[str, Tensor] = {}

    # -- what was

    def ended(self, proof: ProofTracer) -> dict[str, Any] | None:
        for record in self._journal.records():
            if "verdict" in record:
                self._fitting(partial(proof.restore, record["proof"]))
                return record
        return None

    def restored(
        self, strategy: Strategy, problem: Problem, frontier: Frontier, proof: ProofTracer
    ) -> Standing | None:
        if self._journal.empty:
            return None
        return self._fitting(lambda: self._restored(strategy, problem, frontier, proof))

    def _fitting(self, read: Callable[[], T]) -> T:
        """What is read of the journal. Raises InputError where it does not fit."""
        try:
            return read()
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
            raise InputError(
                f"--checkpoint {self._journal.path}: what it holds does not fit this search ({error}); remove it to start anew"
            ) from error

    def _restored(
        self, strategy: Strategy, problem: Problem, frontier: Frontier, proof: ProofTracer
    ) -> Standing:
        gone, last = [torch.zeros(0, dtype=torch.int64)], dict[str, Any]()
        for record in self._journal.records():
            if "counters" in record:
                last = record
                gone.append(record["gone"])
                self._parts.update(record["parts"])
        closed, known = torch.cat(gone), strategy.begin()
        saved = _joined(last["shared"], self._parts)
        proof.restore(saved["proof"])
        shared = strategy.restored(saved["search"])
        effort = _effort(known.effort, last["effort"])
        variables = int(saved["search"]["variables"])
        for record in self._journal.records():
            if "columns" in record:
                subproblems = of_columns(record["columns"])
                left = subproblems.select(~torch.isin(subproblems.subproblem_id, closed))
                _check(left, problem.clauses, variables)
                frontier.push(left)
        self._next = self._known = int(last["next"])
        self._resumed = True
        return Standing(
            replace(known, shared=shared, effort=effort), last["counters"], last["progress"], proof
        )

    # -- what is

    def numbered(self, numbers: Numbers, given: bool) -> Numbers:
        if given:
            self._mixed |= bool((numbers < self._known).any())
            self._next = max(self._next, int(numbers.max()) + 1) if len(numbers) else self._next
            return numbers
        first, self._next = self._next, self._next + len(numbers)
        return torch.arange(first, self._next, device=numbers.device)

    def gone(self, numbers: Numbers) -> None:
        numbers = numbers.cpu()
        self._gone.append(numbers[numbers < self._known])

    @property
    def due(self) -> bool:
        now = time.monotonic()
        affordable = self._spent + self._expected <= _SHARE * (now - self._began)
        return affordable and now - self._last >= _APART

    @property
    def brief(self) -> bool:
        return self._expected <= _BRIEF

    @property
    def _expected(self) -> float:
        """Seconds that the next time will take: as the last one, or as what is there took, where all of it is to be written again."""
        if not self._whole:
            return self._cost
        return max(self._cost, self._spent * self._journal.size / max(1, self._bytes))

    @property
    def _whole(self) -> bool:
        """Whether a new journal is to take the place of this one."""
        journal = self._journal
        return journal.empty or self._mixed or journal.size > _OLD * journal.base + _SLACK

    def write(
        self, strategy: Strategy, frontier: Frontier, working: Sequence[Batch], standing: Standing
    ) -> None:
        began = time.monotonic()
        gone = torch.cat([torch.zeros(0, dtype=torch.int64), *self._gone])
        journal = self._journal
        whole, before = self._whole, 0 if self._whole else journal.size
        state = {
            "next": self._next,
            "gone": gone[:0] if whole else gone,
            "effort": _saved_effort(standing.knowledge.effort),
            "counters": standing.counters,
            "progress": standing.progress,
        }

        def written() -> dict[str, Tensor]:
            proof = standing.proof.saved()  # on the disk before the journal speaks of it
            shared, parts = _parted({"search": strategy.saved(standing.knowledge), "proof": proof})
            new = {
                name: part for name, part in parts.items() if whole or not _same(part, self._parts.get(name))
            }
            records = _records(
                frontier, working, 0 if whole else self._known, state | {"shared": shared, "parts": new}
            )
            (journal.replace if whole else journal.append)(records)
            return parts

        if (parts := self._kept(written)) is not None:
            self._known, self._gone, self._parts, self._mixed = self._next, [], parts, False
            self._bytes += journal.size - before
        self._last = time.monotonic()
        self._cost = self._last - began
        self._spent += self._cost

    def end(self, outcome: Outcome, proof: ProofTracer) -> None:
        if outcome.verdict == "timeout":
            return
        record: dict[str, Any] = {"verdict": outcome.verdict, "reason": outcome.reason}
        if outcome.witness is not None:
            inputs = torch.from_numpy(outcome.witness.inputs.astype("float64").reshape(-1))
            record |= {"clause": outcome.witness.clause, "inputs": inputs}
        record["progress"] = saved_progress(outcome.progress)
        self._kept(lambda: self._journal.replace([record | {"proof": proof.saved()}]))

    def _kept(self, write: Callable[[], T]) -> T | None:
        """What writing gives; None where nothing could be written: the journal is what it was, and the search goes on without."""
        try:
            found = write()
        except VerifyError as error:
            self._trouble = str(error)
            return None
        self._trouble, self._written = "", self._written + 1
        return found

    def statistics(self) -> dict[str, Any]:
        return {
            "resumed": self._resumed,
            "written": self._written,
            "seconds": round(self._spent, 4),
            "bytes": self._journal.size,
            **({"cut": self._journal.note} if self._journal.note else {}),
            **({"trouble": self._trouble} if self._trouble else {}),
        }


def _records(
    frontier: Frontier, working: Sequence[Batch], known: int, state: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """All that is open and has a number from `known` on, then the rest."""
    for some in chain(*(since(batch, known) for batch in working), frontier.since(known)):
        yield {"columns": some}
    yield state


def _check(subproblems: Subproblems, clauses: int, variables: int) -> None:
    """ValueError for subproblems that are none of this problem."""
    clause, variable = subproblems.clause, subproblems.split_variable
    side, value = subproblems.split_side, subproblems.split_value
    rows = {len(part) for part in columns(subproblems).values()}
    good = (
        len(rows) == 1
        and bool(((clause >= 0) & (clause < clauses)).all())
        and bool(((variable >= -1) & (variable < variables)).all())
        and bool((side.abs() <= 1).all())
        and not any(bool(part.isnan().any()) for part in (value, subproblems.lower_bound))
        and not bool(
            subproblems.constrained_lower.isnan().any() | subproblems.constrained_upper.isnan().any()
        )
    )
    if not good:
        raise ValueError("subproblems of another problem")


def _parted(value: Any, name: str = "") -> tuple[Any, dict[str, Tensor]]:
    """A nest of plain values, and the tensors that were in it by their places."""
    if isinstance(value, Tensor):
        return {"tensor": name}, {name: value.detach().cpu()}
    if isinstance(value, dict):
        found = {key: _parted(part, f"{name}.{key}") for key, part in value.items()}
        plain: Any = {"dict": {key: part for key, (part, _) in found.items()}}
        each = [tensors for _, tensors in found.values()]
    elif isinstance(value, list):
        several = [_parted(part, f"{name}.{index}") for index, part in enumerate(value)]
        plain, each = [part for part, _ in several], [tensors for _, tensors in several]
    else:
        return value, {}
    return plain, {key: tensor for tensors in each for key, tensor in tensors.items()}


def _joined(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `_parted` made them of."""
    if isinstance(plain, list):
        return [_joined(part, tensors) for part in plain]
    if not isinstance(plain, dict):
        return plain
    if "tensor" in plain:
        return tensors[plain["tensor"]]
    return {key: _joined(part, tensors) for key, part in plain["dict"].items()}


def _same(new: Tensor, old: Tensor | None) -> bool:
    """Whether the journal has it. (None of these is ever changed in place.)"""
    return old is not None and new.dtype == old.dtype and new.shape == old.shape and torch.equal(new, old)


def _saved_effort(effort: Effort) -> dict[str, Any]:
    return {
        "splitting": _plain_fields(effort.splitting),
        "ledgers": {name: _plain_fields(ledger) for name, ledger in effort.ledgers.items()},
    }


def _plain_fields(one: Splitting | Ledger) -> dict[str, Any]:
    """By their names; arrays as lists."""
    found = {field.name: getattr(one, field.name) for field in fields(one)}
    return {
        name: value
        if isinstance(value, Tensor)
        else value.tolist()
        if isinstance(value, np.ndarray)
        else _scalar(value)
        for name, value in found.items()
    }


def _scalar(value: Any) -> float | int | bool:
    return value if isinstance(value, bool | int) else float(value)


def _effort(begun: Effort, saved: Mapping[str, Any]) -> Effort:
    ledgers = {name: _ledger(one) for name, one in saved["ledgers"].items()}
    splitting: Splitting = replace(begun.splitting, **saved["splitting"])
    return Effort(splitting, ledgers)


def _ledger(saved: Mapping[str, Any]) -> Ledger:
    given: dict[str, Any] = {
        name: np.array(value) if isinstance(value, list) else value for name, value in saved.items()
    }
    return Ledger(**given)


_COUNTERS = ("closed", "opened", "depth", "batches", "largest_batch", "attack_seconds")


def saved_progress(progress: Progress) -> dict[str, Any]:
    """Its counters as plain values."""
    return {
        **{name: _scalar(getattr(progress, name)) for name in _COUNTERS},
        "seconds": dict(progress.seconds),
        "techniques": {name: asdict(spent) for name, spent in progress.techniques.items()},
    }


def restore_progress(progress: Progress, saved: Mapping[str, Any]) -> None:
    """The counters go on from where they were."""
    for name in _COUNTERS:
        setattr(progress, name, saved[name])
    progress.seconds.update(saved["seconds"])
    known = {field.name for field in fields(Spent)}
    for name, spent in saved["techniques"].items():
        progress.techniques[name] = Spent(**{key: value for key, value in spent.items() if key in known})
