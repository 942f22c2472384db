"""From a request to a result: load, search, and, where a certificate is asked for, write it and have it proved."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from verify.account import Timeline, account
from verify.bab.checkpoint import NO_CHECKPOINT, Checkpoint
from verify.bab.progress import Reporter, Silent
from verify.deadline import Deadline, OutOfTimeError
from verify.errors import InputError, UnwrittenError, memory_kept
from verify.extensions import loaded
from verify.neutral import neutral
from verify.problem import Problem, prepare
from verify.proof.writer import CertificateWriter
from verify.request import Request
from verify.result import Result, late
from verify.resume import digest_of_model, kept
from verify.room import forget
from verify.settings import Settings, build_search, choose_device, preset
from verify.workers.employ import Staff, employed

if TYPE_CHECKING:
    from verify.checker.question import Models
    from verify.proof.recording import Recording

# of the time that is left, where a check is to come: most of that is done while the search goes on
_SEARCH_SHARE = 0.9
# seconds for which a process works before it tells what it found
_LEASE = 0.5


@neutral()
def run(
    request: Request,
    reporter: Callable[[], Reporter] = Silent,
    started: float | None = None,
    accounted: bool = False,
) -> Result:
    """Decides what is asked for.

    reporter: makes who is told of the search, once the inputs are read. started: where the clock began, now by default. Raises InputError
    for bad input, ResourceError where the machine is too small, and, of these, UnwrittenError where the certificate cannot be written,
    with what the search has found as its `result`. accounted: the result has an `account`, for a report.
    """
    started = time.monotonic() if started is None else started
    deadline, many = request.deadline(started), request.workers is not None or request.ray is not None
    device = choose_device("cpu" if many else request.device)
    problem: Problem | None = None
    model = digest_of_model(request)
    with suppress(OutOfTimeError):
        problem = prepare(
            request.model,
            request.specification,
            request.example_input,
            deadline,
            request.output,
            as_file=request.certificate is not None,
        )
    settings = preset(request.preset)
    told = reporter()
    if problem is None:
        return late(started)
    timeline = Timeline(told, started)
    with (
        _in_files(request, problem) as in_files,
        kept(request, problem, model) as checkpoint,
        employed(request) as staff,
    ):
        told = timeline if accounted else told
        work = _Work(in_files, problem, settings, device, deadline, started, told, staff, checkpoint)
        if request.certificate is not None:
            found = work.certified(request.certificate)
        else:
            found = work.searched(deadline)
        if accounted:
            record = account(problem, request, device, in_files)
            found = replace(found, account=replace(record, moments=tuple(timeline.moments)))
    return replace(found, extensions=tuple(map(str, loaded())), export=problem.model.export)


@contextmanager
def _in_files(request: Request, problem: Problem) -> Iterator[Request]:
    """The request, where a certificate is asked for with what is no file in files beside it. Raises InputError, and UnwrittenError."""
    if request.certificate is None:
        yield request
        return
    from verify.proof.beside import files_beside

    asked = request.certificate, request.model, request.specification
    with files_beside(*asked, problem) as (models, path):
        yield replace(request, model=models, specification=path)


@dataclass(frozen=True)
class _Work:
    """A request whose inputs are read."""

    request: Request
    problem: Problem
    settings: Settings
    device: torch.device
    deadline: Deadline
    started: float
    reporter: Reporter
    staff: Staff
    checkpoint: Checkpoint = NO_CHECKPOINT

    def searched(self, deadline: Deadline, writer: CertificateWriter | None = None) -> Result:
        """What the search finds in the time given."""
        forget()
        problem, request = self.problem, self.request
        settings = replace(self.settings, semantics=request.semantics, rigorous=request.rigorous)
        crews = self.staff.crews
        workers = None if crews is None else crews.count
        try:
            with deadline.ticking(), memory_kept("the search was built"):
                deadline.check()
                search = build_search(
                    problem, settings, self.device, request.seed, self.reporter, writer, workers
                )
        except OutOfTimeError:
            return replace(late(self.started), warning=problem.vacuous, notes=problem.notes)
        search.checkpoint, search.executors = self.checkpoint, crews or search.executors
        if crews is not None:
            search.lease, search.progress.workers = _LEASE, crews.tally.statistics
        found = search.run(deadline)
        if crews is not None:
            crews.end()
        statistics = {"clauses": problem.clauses, "snapped": problem.snapped, **found.progress.statistics()}
        reason = found.reason
        if found.verdict == "unsat" and not request.rigorous:
            reason += ", by float32 bounds that nothing has proved (--no-rigorous)"
        warning = problem.vacuous
        return Result(
            found.verdict,
            warning or reason,
            self._seconds,
            found.witness,
            statistics,
            warning=warning,
            notes=problem.notes,
        )

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self.started

    def certified(self, target: Path) -> Result:
        """Decides and writes a certificate, which the checker has proved, or changes the verdict to `unknown`.

        The search has most of the time, the check the rest; trimming ends with it, and leaves the certificate as it is.
        """
        from verify.proof.recording import recording  # with the checker, which others do not need

        # both in files, where a certificate is asked for
        models, specification = (
            cast("Models", self.request.model),
            cast("Path", self.request.specification),
        )
        found: Result | None = None
        try:
            with (
                memory_kept("the certificate was made"),
                recording(target, models, specification, self.problem, self.request.checkpoint) as record,
                record.followed(
                    self.problem, self.request.semantics, self.staff.checkers(), self.deadline.at
                ),
            ):
                found = self.searched(self._search_deadline, record.writer)
                failure = self._closed(record, found)
            return self._published(found, failure, record)
        except (InputError, UnwrittenError) as error:
            if found is None:
                raise
            unwritten = UnwrittenError(str(error))
            unwritten.result = found  # what the search has found is not lost
            raise unwritten from None

    @property
    def _search_deadline(self) -> Deadline:
        return self.deadline.share(_SEARCH_SHARE) if self.deadline.at < float("inf") else self.deadline

    def _closed(self, record: Recording, found: Result) -> str | None:
        """Finishes the certificate of a verdict; what is wrong with it, or None."""
        if found.verdict == "unsat":
            return record.close_unsat(self.problem, self.request.semantics, self.deadline.at)
        return None if found.witness is None else record.close_sat(self.problem, found.witness)

    def _published(self, found: Result, failure: str | None, record: Recording) -> Result:
        """The result with its certificate; without its verdict where that is not proved."""
        seconds = self._seconds
        if failure is not None and found.verdict == "unsat":
            verdict = "timeout" if time.monotonic() > self.deadline.at else "unknown"
            return replace(found, verdict=verdict, reason=f"the certificate is {failure}", seconds=seconds)
        written = record.path if failure is None and found.verdict in ("sat", "unsat") else None
        if self.request.trim and written is not None and found.verdict == "unsat":
            self._trim(record)
            seconds = self._seconds
        return replace(found, seconds=seconds, certificate=written)

    def _trim(self, record: Recording) -> None:
        """Drops what a certificate can do without, if there is time."""
        from verify.checker.errors import NotProved
        from verify.proof.trimming import trim

        with suppress(NotProved):  # then it stays as it is, which is proved
            trim(record.path, record.models, record.specification, record.path, self.deadline.at)
