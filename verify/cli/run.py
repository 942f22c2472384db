"""`verify run`: decides, and shows the verdict."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from verify.cli import options
from verify.errors import DECIDED, UNDECIDED, UnwrittenError
from verify.output import as_json
from verify.process import answer
from verify.request import Request

if TYPE_CHECKING:
    from verify.bab.progress import Reporter
    from verify.reports.log import JsonLog
    from verify.result import Result


@click.command(
    epilog=options.codes(
        "verify run model.onnx property.vnnlib --timeout 60 --report run.html",
        "verify run model.onnx property.vnnlib --certificate proof.cert",
    )
)
@options.MODEL
@options.PROPERTY
@options.FURTHER
@options.TIMEOUT
@options.MEMORY
@options.DEVICE
@options.PRESET
@options.SEED
@options.OUTPUT
@options.FORMAT
@click.option("--quiet", is_flag=True, help="Nothing on stderr but errors and warnings.")
@click.option("--explain", is_flag=True, help="On stderr, where the time went and what it bought.")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="An HTML page of the run.")
@click.option("--log-json", type=options.FILE, help="A file for progress, one JSON object a line.")
@click.option(
    "--certificate",
    type=options.FILE,
    help="A file for the proof of unsat (or the evidence of sat), as `verify check` reads it.",
)
@click.option(
    "--trim", is_flag=True, help="Drop what the certificate does not need, which takes about two checks."
)
@options.SEMANTICS
@click.option(
    "--checkpoint",
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder that keeps the search: after the process was killed, the same command goes on from there.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Search in so many processes of this machine.")
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="Search on a Ray cluster: HOST:PORT, auto, or local for one of this machine that ends with the command.",
)
@click.option("--no-rigorous", is_flag=True, help="For timing alone: take float32's word for refutations.")
def run(
    model: Path,
    specification: Path,
    form: str,
    quiet: bool,
    explain: bool,
    log_json: Path | None,
    report: Path | None,
    no_rigorous: bool,
    **asked: Any,
) -> int:
    """Decide PROPERTY for MODEL.

    The first word on stdout is the verdict: sat, unsat, unknown or timeout. For sat the counterexample follows, as each
    tensor's name, type and shape and then one value a line, as ONNX Runtime reproduced it.
    """
    further: dict[str, Path] = asked.pop("further")
    request = Request(options.models_of(model, further), specification, rigorous=not no_rigorous, **asked)
    return _Command(
        request, (model, specification, *further.values()), form, quiet, explain, log_json, report
    ).run()


@dataclass
class _Command:
    """A request, and how its result is shown."""

    request: Request
    inputs: tuple[Path, ...]
    form: str
    quiet: bool
    explain: bool
    log_file: Path | None
    report: Path | None
    started: float = field(default_factory=options.begun)
    log: JsonLog | None = None

    def run(self) -> int:
        """Decides and shows; the exit code."""
        with options.at_work(self.request, self.started, self._late) as watchdog, ExitStack() as stack:
            from verify.reports.terminal import terminal
            from verify.run import run

            live: Reporter = stack.enter_context(terminal(self.quiet))
            result: Result | None = None
            try:
                result = run(
                    self.request, lambda: self._ready(live, stack), self.started, self.report is not None
                )
                watchdog.claim()
                self._record(result)
            except UnwrittenError as error:
                if (found := result or error.result) is None:
                    raise
                raise UnwrittenError(
                    f"{error}; the search's answer was:\n{_answer(found, self.form)}"
                ) from None
        options.warn(result.warnings)
        return self._show(result)

    def _ready(self, live: Reporter, stack: ExitStack) -> Reporter:
        """Refuses files that may not be written, before anything is done, and opens the log."""
        from verify.reports.log import json_log

        options.admitted(
            self.inputs,
            {"--certificate": self.request.certificate, "--log-json": self.log_file, "--report": self.report},
        )
        if self.log_file is None:
            return live
        self.log = stack.enter_context(json_log(self.log_file, live, self.started))
        return self.log

    def _record(self, result: Result) -> None:
        """The last line of the log, and the page. Raises UnwrittenError."""
        if self.log is not None:
            self.log.finish(result)
        if self.report is not None:
            from verify.reports.run_report import write_run

            write_run(self.report, result)

    def _late(self, result: Result) -> int:
        """In place of a main thread that is stuck."""
        with suppress(UnwrittenError):
            self._record(result)
        return self._show(result)

    def _show(self, result: Result) -> int:
        """Says the verdict; its exit code."""
        answer(_answer(result, self.form))
        if not self.quiet:
            _tell(result)
        if self.explain:
            from verify.reports.explanation import explanation

            click.echo(explanation(result.statistics), err=True)
        return DECIDED if result.verdict in ("sat", "unsat") else UNDECIDED


def _answer(result: Result, form: str) -> str:
    """What stdout gets."""
    from verify.formats.witness import format_assignment

    if form == "json":
        return as_json(_as_json(result)) + "\n"
    witness = result.witness
    return f"{result.verdict}\n" + (format_assignment(witness.variables, witness.types) if witness else "")


def _tell(result: Result) -> None:
    counts = result.statistics
    found = ", {clauses} clauses, {subproblems} subproblems, depth {depth}".format(**counts) if counts else ""
    click.echo(f"{result.verdict}: {result.reason} ({result.seconds:.2f} s{found})", err=True)
    options.tell_extensions()
    for said in _of_checkpoint(counts.get("checkpoint", {})):
        click.echo(f"note: the checkpoint {said}", err=True)
    snapped = result.witness.snapped if result.witness is not None else counts.get("snapped", 0)
    if snapped:
        click.echo(
            f"note: {snapped} inputs lie in intervals that hold no value of the network's element type "
            "(a point such as 0.1); these are extended to the nearest value",
            err=True,
        )


def _of_checkpoint(told: dict[str, Any]) -> Iterator[str]:
    """What its user should know of the search that is kept."""
    if told.get("resumed"):
        yield "held an earlier run, which this one went on from"
    if "cut" in told:
        yield f"was torn: {told['cut']}"
    if "trouble" in told:
        yield f"is not up to date: {told['trouble']}"


def _as_json(result: Result) -> dict[str, Any]:
    record: dict[str, Any] = {
        "verdict": result.verdict,
        "reason": result.reason,
        "seconds": round(result.seconds, 4),
        "vacuous": result.vacuous,
        "notes": list(result.notes),
        "extensions": list(result.extensions),
        "statistics": result.statistics,
        "witness": None,
        "certificate": None if result.certificate is None else str(result.certificate),
    }
    if result.witness is not None:
        tensors = result.witness.variables
        record["witness"] = {
            name: {"type": values.dtype.name, "shape": list(values.shape), "values": values.ravel().tolist()}
            for name, values in tensors.items()
        }
        record["witness"]["snapped"] = result.witness.snapped
    return record
