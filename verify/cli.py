"""The command line. Verdicts and data go to stdout, everything else to stderr; heavy imports wait for the commands."""

from __future__ import annotations

import json
import os
import signal
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from verify.cli_options import DEVICE, MEMORY, SECONDS, SEED, TIMEOUT, warn_of_vacuity
from verify.cli_standard import global_options, supports_command, verify_command
from verify.cli_suite import data_files, suite
from verify.deadline import Deadline, OutOfTimeError
from verify.errors import (
    BAD_INPUT,
    DECIDED,
    INTERNAL,
    RESOURCES,
    UNDECIDED,
    InputError,
    UnwrittenError,
    VerifyError,
    is_out_of_memory,
)
from verify.output import Outputs, clean_up
from verify.process import Signalled, answer, careful_streams, ending_code, unwound_by_signals
from verify.result import late
from verify.startup import import_torch
from verify.watchdog import REASON, Watchdog, end

if TYPE_CHECKING:
    from verify.api import ClauseBounds, Step
    from verify.problem import Problem
    from verify.reports.log import JsonLog
    from verify.result import Result
    from verify.search.branch_and_bound import Reporter

_STARTED = time.monotonic()
_EXIT_CODES = """
\b
Exit codes:
  0   decided (sat or unsat)
  1   undecided (unknown or timeout)
  2   bad input or usage
  3   resources (memory, disk)
  70  internal error
"""
_METHODS = ("interval", "crown", "dsg", "supergradient", "proximal", "restricted", "lp")
_MODEL = click.argument("model", type=click.Path(path_type=Path))
_PROPERTY = click.argument("property_", metavar="PROPERTY", type=click.Path(path_type=Path))
_SEMANTICS = click.option(
    "--semantics", type=click.Choice(["real", "ieee32-any-order"]), default="real", show_default=True,
    help="Of what: the model's real-valued function, or what any library computes of it in float32.",
)  # fmt: skip
_FORMAT = click.option(
    "--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True
)


@click.group(epilog=_EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Decides whether a neural network (ONNX) has a property (VNN-LIB): unsat - it holds; sat - here is a counterexample."""


@cli.command(epilog=_EXIT_CODES)
@_MODEL
@_PROPERTY
@TIMEOUT
@MEMORY
@DEVICE
@click.option(
    "--preset", type=click.Choice(["fast", "default", "thorough"]), default="default", show_default=True
)
@SEED
@_FORMAT
@click.option("--quiet", is_flag=True, help="Nothing on stderr but errors and warnings.")
@click.option(
    "--log-json", type=click.Path(path_type=Path), help="A file for progress, one JSON object a line."
)
@click.option(
    "--certificate",
    type=click.Path(path_type=Path),
    help="A file for the proof of unsat (or the evidence of sat), as `verify check` reads it.",
)
@click.option(
    "--trim", is_flag=True, help="Drop what the certificate does not need, which takes about two checks."
)
@_SEMANTICS
@click.option("--no-rigorous", is_flag=True, help="For timing alone: take float32's word for refutations.")
def run(
    model: Path,
    property_: Path,
    timeout: float | None,
    memory: int | None,
    device: str,
    preset: str,
    seed: int,
    form: str,
    quiet: bool,
    log_json: Path | None,
    certificate: Path | None,
    trim: bool,
    semantics: str,
    no_rigorous: bool,
) -> int:
    """Decide PROPERTY for MODEL.

    The first word on stdout is the verdict: sat, unsat, unknown or timeout. For sat the counterexample follows, as each
    tensor's name, type and shape and then one value a line, as ONNX Runtime reproduced it.
    """
    started: float = click.get_current_context().obj or time.monotonic()
    deadline = Deadline() if timeout is None else Deadline(started + timeout)
    log: JsonLog | None = None

    def too_late() -> int:
        result = late(started, REASON)
        if log is not None:
            with suppress(UnwrittenError):
                log.finish(result)
        return _end(result, form, quiet)

    with Watchdog(deadline, too_late) as watchdog, ExitStack() as stack:
        import_torch(memory)
        from verify.api import certified, check_certificate_options, decide, prepare
        from verify.reports.log import json_log
        from verify.reports.terminal import terminal
        from verify.settings import keep_memory
        from verify.settings import preset as choose_preset

        keep_memory(memory, device)
        reporter: Reporter = stack.enter_context(terminal(quiet))
        settings = replace(choose_preset(preset), semantics=semantics, rigorous=not no_rigorous)
        problem: Problem | None = None
        with suppress(OutOfTimeError):
            problem = prepare(model, property_, deadline=deadline)
        check_certificate_options(settings, certificate, trim)
        _admit([model, property_], {"--certificate": certificate, "--log-json": log_json})
        log = stack.enter_context(json_log(log_json, reporter, started)) if log_json else None
        options = (deadline, started, settings, device, seed, log or reporter)
        result: Result | None = None
        try:
            if problem is None:
                result = late(started)
            elif certificate is None:
                result = decide(problem, *options)
            else:
                result = certified(problem, certificate, model, property_, *options, trim=trim)
            watchdog.claim()
            if log is not None:
                log.finish(result)
        except UnwrittenError as error:
            if (found := result or error.result) is None:
                raise
            raise UnwrittenError(f"{error}; the search's answer was:\n{_answer(found, form)}") from None
    if problem is not None:
        warn_of_vacuity(problem)
    return _end(result, form, quiet)


def _end(result: Result, form: str, quiet: bool) -> int:
    """Says the verdict; its exit code."""
    answer(_answer(result, form))
    if not quiet:
        _explain(result)
    return DECIDED if result.verdict in ("sat", "unsat") else UNDECIDED


def _admit(inputs: Sequence[Path], outputs: Mapping[str, Path | None]) -> None:
    """Refuses outputs that are inputs, devices or one another, before anything is done."""
    files = Outputs(inputs, data_files)
    for option, path in outputs.items():
        files.admit(option, path)


def _answer(result: Result, form: str) -> str:
    """What stdout gets."""
    from verify.formats.witness import format_assignment

    if form == "json":
        return json.dumps(_as_json(result)) + "\n"
    witness = result.witness
    return f"{result.verdict}\n" + (format_assignment(witness.variables, witness.types) if witness else "")


def _explain(result: Result) -> None:
    counts = result.statistics
    found = ", {clauses} clauses, {subproblems} subproblems, depth {depth}".format(**counts) if counts else ""
    click.echo(f"{result.verdict}: {result.reason} ({result.seconds:.2f} s{found})", err=True)
    snapped = result.witness.snapped if result.witness is not None else counts.get("snapped", 0)
    if snapped:
        click.echo(
            f"note: {snapped} inputs lie in intervals that hold no value of the network's element type "
            "(a point such as 0.1); these are extended to the nearest value",
            err=True,
        )


def _as_json(result: Result) -> dict[str, Any]:
    record: dict[str, Any] = {
        "verdict": result.verdict, "reason": result.reason, "seconds": round(result.seconds, 4),
        "vacuous": result.vacuous, "statistics": result.statistics, "witness": None,
        "certificate": None if result.certificate is None else str(result.certificate),
    }  # fmt: skip
    if result.witness is not None:
        tensors = result.witness.variables
        record["witness"] = {
            name: {"type": values.dtype.name, "shape": list(values.shape), "values": values.ravel().tolist()}
            for name, values in tensors.items()
        }
        record["witness"]["snapped"] = result.witness.snapped
    return record


@cli.command()
@click.argument("certificate", type=click.Path(path_type=Path))
@_MODEL
@_PROPERTY
@click.option(
    "--exact",
    is_flag=True,
    help="In rational arithmetic, not only where float64 cannot decide (but for boxes of split inputs).",
)
@_SEMANTICS
@click.option("--jobs", type=click.IntRange(min=1), help="Processes at most; one a core unless given.")
def check(
    certificate: Path, model: Path, property_: Path, exact: bool, semantics: str, jobs: int | None
) -> int:
    """Prove again what CERTIFICATE says of MODEL and PROPERTY, trusting nothing of the search.

    \b
    Exit codes:
      0   proved
      1   not proved
      2   a file cannot be read
      3   resources (memory)
    """
    from verify.checker.checking import check as check_certificate
    from verify.checker.errors import Refused

    try:
        found = check_certificate(
            certificate, model, property_, exact, semantics, jobs or os.cpu_count() or 1
        )
    except Refused as problem:
        raise InputError(str(problem)) from None
    answer(found.sentence + "\n")
    return DECIDED if found.proved else UNDECIDED


@cli.command(epilog=_EXIT_CODES)
@_MODEL
@_PROPERTY
@click.option("--method", type=click.Choice(_METHODS), default="restricted", show_default=True)
@click.option(
    "--iterations", type=click.IntRange(min=0), help="Of an iterative method; its own number by default."
)
@click.option(
    "--time",
    "time_limit",
    type=SECONDS,
    help="Seconds of bounding after which an iterative method stops at the best it has.",
)
@click.option(
    "--intermediate",
    type=click.Choice(["crown", "optimised"]),
    default="crown",
    show_default=True,
    help="How bounds of pre-activations are found.",
)
@click.option("--trace", is_flag=True, help="A JSON line on stdout after every iteration.")
@click.option("--layers", is_flag=True, help="Also the intermediate bounds of the first clause.")
@MEMORY
@DEVICE
@_FORMAT
def bounds(
    model: Path,
    property_: Path,
    method: str,
    iterations: int | None,
    time_limit: float | None,
    intermediate: str,
    trace: bool,
    layers: bool,
    memory: int | None,
    device: str,
    form: str,
) -> int:
    """Bound every clause of PROPERTY at the root: above 0 the clause is refuted."""
    import_torch(memory)
    from verify import api
    from verify.settings import keep_memory

    keep_memory(memory, device)
    problem = api.prepare(model, property_)
    found = api.bound(
        problem, method=method, iterations=iterations, time_limit=time_limit, intermediate=intermediate,
        device=device, observe=_trace if trace else None,
    )  # fmt: skip
    warn_of_vacuity(problem)
    if form == "json":
        click.echo(json.dumps(_bounds_as_json(found, layers)))
        return DECIDED
    for index, bound in enumerate(found.bounds):
        click.echo(f"clause {index}: {bound:.9g}{'  refuted' if bound > 0 else ''}")
    if layers:
        for row in found.layers:
            click.echo(_layer_line(row))
    click.echo(
        f"bounds: {found.seconds:.3f} s, intermediate bounds: {found.intermediate_seconds:.3f} s", err=True
    )
    return DECIDED


def _trace(step: Step) -> None:
    """One line of a trace, at once."""
    record = {
        "first_clause": step.first_clause, "iteration": step.iteration, "seconds": round(step.seconds, 6),
        "bounds": step.bounds,
    }  # fmt: skip
    click.echo(json.dumps(record))


def _bounds_as_json(found: ClauseBounds, layers: bool) -> dict[str, Any]:
    record: dict[str, Any] = {
        "method": found.method, "iterations": found.iterations, "seconds": found.seconds,
        "intermediate_seconds": found.intermediate_seconds, "vacuous": found.vacuous,
        "clauses": [{"index": i, "bound": bound} for i, bound in enumerate(found.bounds)],
    }  # fmt: skip
    if layers:
        record["layers"] = found.layers
    return record


def _layer_line(row: dict[str, Any]) -> str:
    """A layer's size, its share of unstable neurons by intervals and after tightening, and its range."""
    before, after = (row[key] / row["neurons"] for key in ("unstable_interval", "unstable"))
    return (
        f"{row['name']} ({row['operator']}): {row['neurons']} neurons, {row['unstable']} unstable "
        f"({before:.1%} by intervals, {after:.1%} now), in [{min(row['lower']):.6g}, {max(row['upper']):.6g}]"
    )


@cli.command(epilog=_EXIT_CODES)
@_MODEL
@click.argument("property_", metavar="[PROPERTY]", required=False, type=click.Path(path_type=Path))
@_FORMAT
def info(model: Path, property_: Path | None, form: str) -> int:
    """Show what MODEL is made of, and what PROPERTY asks."""
    import_torch()
    from verify.reports.description import describe, render

    record = describe(model, property_)
    click.echo(json.dumps(record) if form == "json" else render(record))
    return DECIDED


@cli.group()
def certificate() -> None:
    """Look into certificates."""


@certificate.command()
@click.argument("certificate_", metavar="CERTIFICATE", type=click.Path(path_type=Path))
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.argument("property_", metavar="[PROPERTY]", required=False, type=click.Path(path_type=Path))
def show(certificate_: Path, model: Path | None, property_: Path | None) -> int:
    """Show header, tree and sizes of CERTIFICATE; with its MODEL and PROPERTY also what it proves, and the hardest leaves."""
    from verify.checker.checking import check as check_certificate
    from verify.checker.container import read
    from verify.checker.errors import Refused
    from verify.checker.showing import describe

    if model is not None and property_ is None:
        raise click.UsageError("MODEL needs its PROPERTY too")
    try:
        click.echo(describe(read(certificate_)))
        if model is not None and property_ is not None:
            found = check_certificate(certificate_, model, property_)
            click.echo(found.sentence)
            for bound, node in found.summary.hardest if found.summary else []:
                click.echo(f"node {node}: bound {bound:.6g}")
    except Refused as problem:
        raise InputError(f"{certificate_}: {problem}") from None
    return DECIDED


@certificate.command()
@click.argument("certificate_", metavar="CERTIFICATE", type=click.Path(path_type=Path))
@_MODEL
@_PROPERTY
@click.argument("target", type=click.Path(path_type=Path))
def trim(certificate_: Path, model: Path, property_: Path, target: Path) -> int:
    """Write CERTIFICATE to TARGET without the leaves that it does not need."""
    from verify.checker.errors import NotProved, Refused
    from verify.proof.trimming import trim as trim_certificate

    _admit([certificate_, model, property_], {"TARGET": target})
    try:
        gone = trim_certificate(certificate_, model, property_, target)
    except (NotProved, Refused) as problem:
        raise InputError(f"{certificate_}: {problem}") from None
    click.echo(f"{gone} leaves fewer")
    return DECIDED


for _command in (suite, verify_command, supports_command):
    cli.add_command(_command)
global_options(cli)


def main() -> NoReturn:
    """Runs the command line and exits with the documented code; a verdict never follows an error."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's products are small: processes share the work
    with careful_streams():
        code = _run()
    end(code)


def _run() -> int:
    try:
        with unwound_by_signals():
            return cli(standalone_mode=False, obj=_STARTED) or DECIDED
    except click.ClickException as error:
        error.show()
        return BAD_INPUT
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _failed(ending_code(signal.SIGINT), "interrupted")
    except Signalled as stop:
        return _failed(ending_code(stop.number), f"ended by {stop.name}")
    except VerifyError as error:
        return _failed(error.exit_code, str(error))
    except Exception as error:
        return _failed_unforeseen(error)
    finally:
        clean_up()


def _failed(code: int, message: str) -> int:
    click.echo(f"verify: {message}", err=True)
    return code


def _failed_unforeseen(error: Exception) -> int:
    if is_out_of_memory(error):
        return _failed(
            RESOURCES, "out of memory; try a smaller model, another machine, --preset fast or --device cpu"
        )
    traceback.print_exc()
    return _failed(
        INTERNAL,
        "internal error, no verdict; please report the text above with the model and the property",
    )
