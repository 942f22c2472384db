"""The command line of the VNN-LIB standard (chapter 5 of version 2.0): `verify` and `supports`.

On stdout stands what the standard prescribes and nothing else; reasons, notes and errors go to stderr.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from verify import __version__
from verify.cli import options
from verify.errors import DECIDED, InputError, UnwrittenError
from verify.output import Outputs, admit_folder, write_whole
from verify.process import answer
from verify.request import Request
from verify.startup import import_torch

if TYPE_CHECKING:
    from verify.problem import Witness
    from verify.result import Result

NAME = "verify: neural network verification by Lagrangian decomposition"
_VERDICTS = {"timeout": "timed-out"}  # what the standard calls them, where that is another word


# -- verify


@click.command(
    "verify",
    short_help="Decide QUERY, as the VNN-LIB standard prescribes.",
    epilog=options.codes(
        "verify verify query.vnnlib --network f=model.onnx --timeout 60",
        code0="an answer on the first line, whichever",
        code1="interrupted",
    ),
)
@click.argument("specification", metavar="QUERY", type=options.FILE)
@click.option(
    "--network",
    "networks",
    multiple=True,
    callback=options.named_models,
    metavar="NAME=MODEL",
    help="The model of a declared network; one for each that is not equal-to another.",
)
@options.TIMEOUT
@options.MEMORY
@click.option(
    "--serialise-assignments",
    "folder",
    type=options.FILE,
    metavar="DIR",
    help="A folder for the assignment of sat, one TensorProto file for each variable, in place of stdout.",
)
@options.DEVICE
@options.SEED
@options.OUTPUT
def verify(specification: Path, networks: dict[str, Path], folder: Path | None, **asked: Any) -> int:
    """Decide QUERY (VNN-LIB 2.0 or 1.0), as the VNN-LIB standard prescribes.

    The first line on stdout is sat, unsat, unknown or timed-out. For sat the assignment follows: each variable's name, type
    and shape, then one value a line. The exit code is 0 for all four.
    """
    request, started = Request(networks, specification, **asked), options.begun()
    with options.at_work(request, started, _show) as watchdog:
        from verify.run import run

        admit_folder("--serialise-assignments", folder)
        result = run(request, started=started)
        watchdog.claim()
    text = ""
    if result.witness is not None and folder is None:
        text = _text(result.witness)
    elif result.witness is not None and folder is not None:
        _serialise(result.witness, folder, Outputs([specification, *networks.values()]))
    options.warn(result.warnings)
    return _show(result, text)


def _show(result: Result, assignment: str = "") -> int:
    answer(f"{_VERDICTS.get(result.verdict, result.verdict)}\n{assignment}")
    click.echo(f"{result.verdict}: {result.reason} ({result.seconds:.2f} s)", err=True)
    options.tell_extensions()
    return DECIDED


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


@click.command(
    "supports",
    short_help="Report one capability.",
    epilog=options.codes("verify supports --onnx-operators", code0="done", code1="", code3=""),
)
@_flags
def supports(**asked: bool) -> int:
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


def add_global_options(command: click.Command) -> None:
    """Adds `--name` and `--version`, which print one line each."""
    for name, text in (("--version", __version__), ("--name", NAME)):
        help_ = f"Print the {name[2:]} and exit."
        option = click.Option(
            [name], is_flag=True, expose_value=False, is_eager=True, callback=_say(text), help=help_
        )
        command.params.insert(0, option)
