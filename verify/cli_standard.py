"""The command line of the VNN-LIB standard (chapter 5 of version 2.0): `verify` and `supports`.

On stdout stands what the standard prescribes and nothing else; reasons, notes and errors go to stderr.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from verify import __version__
from verify.cli_options import DEVICE, MEMORY, SEED, TIMEOUT, warn_of_vacuity
from verify.deadline import Deadline, OutOfTimeError
from verify.errors import DECIDED, InputError, UnwrittenError
from verify.output import Outputs, admit_folder, write_whole
from verify.process import answer
from verify.result import late
from verify.startup import import_torch
from verify.watchdog import REASON, Watchdog

if TYPE_CHECKING:
    from verify.problem import Problem, Witness
    from verify.result import Result

NAME = "verify: neural network verification by Lagrangian decomposition"
_VERDICTS = {"timeout": "timed-out"}  # what the standard calls them, where that is another word


# -- verify


def _networks(_: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, Path]:
    """NAME=MODEL options as a mapping."""
    models: dict[str, Path] = {}
    for text in given:
        name, separator, path = text.partition("=")
        if not (name and separator and path):
            raise click.BadParameter(f"{text!r} is not of the form NAME=MODEL", param=parameter)
        if name in models:
            raise click.BadParameter(f"the network {name} is given twice", param=parameter)
        models[name] = Path(path)
    return models


@click.command("verify")
@click.argument("query", type=click.Path(path_type=Path))
@click.option(
    "--network", "networks", multiple=True, callback=_networks, metavar="NAME=MODEL",
    help="The model of a declared network; one for each that is not equal-to another.",
)  # fmt: skip
@TIMEOUT
@MEMORY
@click.option(
    "--serialise-assignments", "folder", type=click.Path(path_type=Path), metavar="DIR",
    help="A folder for the assignment of sat, one TensorProto file for each variable, in place of stdout.",
)  # fmt: skip
@DEVICE
@SEED
def verify_command(
    query: Path,
    networks: dict[str, Path],
    timeout: float | None,
    memory: int | None,
    folder: Path | None,
    device: str,
    seed: int,
) -> int:
    """Decide QUERY (VNN-LIB 2.0 or 1.0), as the VNN-LIB standard prescribes.

    The first line on stdout is sat, unsat, unknown or timed-out. For sat the assignment follows: each variable's name, type
    and shape, then one value a line. The exit code is 0 for all four.
    """
    started: float = click.get_current_context().obj or time.monotonic()
    deadline = Deadline() if timeout is None else Deadline(started + timeout)

    with Watchdog(deadline, lambda: _answer(late(started, REASON))) as watchdog:
        import_torch(memory)
        from verify.api import decide
        from verify.settings import keep_memory

        keep_memory(memory, device)
        admit_folder("--serialise-assignments", folder)
        problem: Problem | None = None
        try:
            with deadline.ticking():
                problem = _problem(query, networks, deadline)
            result = decide(problem, deadline, started, device=device, seed=seed)
        except OutOfTimeError:
            result = late(started)
        watchdog.claim()
    text = ""
    if result.witness is not None and folder is None:
        text = _text(result.witness)
    elif result.witness is not None and folder is not None:
        _serialise(result.witness, folder, Outputs([query, *networks.values()]))
    if problem is not None:
        warn_of_vacuity(problem)
    return _answer(result, text)


def _answer(result: Result, assignment: str = "") -> int:
    answer(f"{_VERDICTS.get(result.verdict, result.verdict)}\n{assignment}")
    click.echo(f"{result.verdict}: {result.reason} ({result.seconds:.2f} s)", err=True)
    return DECIDED


def _problem(path: Path, networks: Mapping[str, Path], deadline: Deadline) -> Problem:
    """The problem; a file of version 1.0 has one network without a name, which any name stands for."""
    from verify.api import prepare
    from verify.formats.vnnlib2 import Query, read
    from verify.problem import prepare_query

    query = read(path, deadline)
    if isinstance(query, Query):
        return prepare_query(query, networks)
    if len(networks) != 1:
        raise InputError(
            f"{path}: a property of VNN-LIB 1.0 is of one network; give one --network, not {len(networks)}"
        )
    (model,) = networks.values()
    return prepare(model, query, deadline=deadline)


def _text(witness: Witness) -> str:
    from verify.formats.witness import format_assignment

    return format_assignment(witness.variables, witness.types)


def _serialise(witness: Witness, folder: Path, outputs: Outputs) -> None:
    """Writes one TensorProto file for each variable; where one cannot be written, the whole answer is in the error."""
    from onnx import numpy_helper

    try:
        for name, values in witness.variables.items():
            path = folder / f"{name}.pb"
            outputs.admit("--serialise-assignments", path)
            data = numpy_helper.from_array(values, name).SerializeToString()
            write_whole(f"--serialise-assignments {path}", path, data)
    except (InputError, UnwrittenError) as error:
        raise UnwrittenError(f"{error}; the answer was:\nsat\n{_text(witness)}") from None


# -- supports


def _operators() -> Iterable[object]:
    import_torch()
    from verify.loading.operators import supported_operators

    return supported_operators()


def _opsets() -> Iterable[object]:
    from verify.loading.onnx.model import NEWEST_OPSET, OLDEST_OPSET

    return OLDEST_OPSET, NEWEST_OPSET


def _element_types() -> Iterable[object]:
    from verify.loading.onnx.model import ELEMENT_TYPES

    return (*ELEMENT_TYPES, "real")


CAPABILITIES: dict[str, Callable[[], Iterable[object]]] = {
    "onnx-operators": _operators,
    "onnx-opset-versions": _opsets,
    "onnx-element-types": _element_types,
    "vnnlib-versions": lambda: ("1.0", "2.0"),
    "hidden-node-theories": lambda: ("NH", "H"),
    "multiple-input-output-theories": lambda: ("SIO", "MIO"),
    "multiple-network-theories": lambda: ("SNET", "MENET", "MINET", "MNET"),
    "multiple-node-comparison-theories": lambda: ("SNC", "MNC"),
    "arithmetic-complexity-theories": lambda: ("BND", "OUTC", "LIN", "POLY"),
    "optimised-disjunctive-reasoning": lambda: ("false",),
    "serialise-assignments": lambda: ("true",),
    "unsat-proofs": lambda: ("false",),
}


def _flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """One flag for each capability."""
    for capability in reversed(CAPABILITIES):
        command = click.option(f"--{capability}", is_flag=True)(command)
    return command


@click.command("supports")
@_flags
def supports_command(**asked: bool) -> int:
    """Report one capability, as the VNN-LIB standard prescribes: one word a line."""
    chosen = [name for name in CAPABILITIES if asked[name.replace("-", "_")]]
    if len(chosen) != 1:
        raise click.UsageError(f"ask for one capability: {', '.join(f'--{name}' for name in CAPABILITIES)}")
    for line in CAPABILITIES[chosen[0]]():
        click.echo(line)
    return DECIDED


# -- global options


def _say(text: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    def say(context: click.Context, _: click.Parameter, wanted: bool) -> None:
        if wanted and not context.resilient_parsing:
            click.echo(text)
            context.exit()

    return say


def global_options(command: click.Command) -> click.Command:
    """Adds `--name` and `--version`, which print one line each."""
    for name, text in (("--version", __version__), ("--name", NAME)):
        option = click.Option(
            [name], is_flag=True, expose_value=False, is_eager=True, callback=_say(text),
            help=f"Print the {name[2:]} and exit.",
        )  # fmt: skip
        command.params.insert(0, option)
    return command
