"""What several commands share: arguments, options, the files that may be written, the process at work, a warning."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from verify import request
from verify.errors import InputError
from verify.extensions import loaded
from verify.output import Outputs
from verify.result import Result, late
from verify.startup import import_torch
from verify.watchdog import REASON, Watchdog

_CODES = {
    0: "decided (sat or unsat)",
    1: "undecided (unknown or timeout)",
    2: "bad input or usage",
    3: "resources (memory, disk)",
    70: "internal error",
}


def codes(*examples: str, **told: str) -> str:
    """The end of a command's help: exit codes, those of `told` otherwise or not at all (""), and examples."""
    lines = {**_CODES, **{int(key[4:]): text for key, text in told.items()}}
    shown = "".join(f"  {code:<4}{text}\n" for code, text in lines.items() if text)
    more = "".join(f"  {example}\n" for example in examples)
    return f"\n\b\nExit codes:\n{shown}" + (f"\n\b\nExamples:\n{more}" if more else "")


class _Seconds(click.FloatRange):
    """A number above 0; infinity is no limit."""

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = float(super().convert(value, param, ctx))
        if math.isnan(found):  # which is neither below a limit nor above it
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return found


class Known(click.Choice[str]):
    """One of some words, or what installed packages add to them: `check` raises InputError for others."""

    def __init__(self, choices: Sequence[str], check: Callable[[str], str]) -> None:
        super().__init__(choices)
        self._check = check

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return self._check(value)
        except InputError as error:
            self.fail(f"{error}.", param, ctx)


def _size(_: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    """A number of bytes: plain, or with a unit such as 500M, 3G, 2.5GiB, of powers of 1024."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)([kmgt]?)(?:i?b)?", text.strip(), re.I | re.A)
    size = int(float(found[1]) * 1024 ** " kmgt".index(found[2].lower() or " ")) if found else 0
    if size <= 0:
        raise click.BadParameter(f"{text!r} is no size; write bytes, or 500M or 3G, say.", param=parameter)
    return size


def named_models(_: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, Path]:
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


FILE, SECONDS = click.Path(path_type=Path), _Seconds()
MODEL = click.argument("model", type=FILE)
PROPERTY = click.argument("specification", metavar="PROPERTY", type=FILE)
OPTIONAL_PROPERTY = click.argument("specification", metavar="[PROPERTY]", required=False, type=FILE)
FURTHER = click.option(
    "--network",
    "further",
    multiple=True,
    callback=named_models,
    metavar="NAME=MODEL",
    help="The model of a further network of a VNN-LIB 2.0 query; MODEL is that of the first one that none is given for.",
)
MEMORY = click.option(
    "--memory",
    callback=_size,
    metavar="SIZE",
    help="What all processes together may take, such as 3G. [default: four fifths of the machine's, or of its control group's]",
)
TIMEOUT = click.option("--timeout", type=SECONDS, help="Seconds, loading included.")
DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
SEED = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the attacks' random starts."
)
PRESET = click.option(
    "--preset",
    type=Known(request.PRESETS, request.known_preset),
    default="default",
    show_default=True,
    help="Effort; behind a + names of branching rules and techniques of installed packages.",
)
OUTPUT = click.option(
    "--output", metavar="NAME", help="The output that PROPERTY is of, where MODEL has several."
)
SEMANTICS = click.option(
    "--semantics",
    type=click.Choice(request.SEMANTICS),
    default="real",
    show_default=True,
    help="Of what: the model's real-valued function, or what any library computes of it in float32.",
)
FORMAT = click.option(
    "--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True
)


def models_of(model: Path, further: Mapping[str, Path]) -> Path | dict[str, Path]:
    """A model, or with it those of further networks by their names; its own name is left empty."""
    return {"": model, **further} if further else model


def begun() -> float:
    """When the command began, by `time.monotonic`."""
    return click.get_current_context().obj or time.monotonic()


@contextmanager
def at_work(asked: request.Request, started: float, show: Callable[[Result], int]) -> Iterator[Watchdog]:
    """Within it the process, which is the command's own, has what the request needs, and ends where it is late: `show` says so."""
    with Watchdog(asked.deadline(started), lambda: show(late(started, REASON))) as watchdog:
        import_libraries(asked.memory, asked.device)
        yield watchdog


def import_libraries(memory: int | None, device: str) -> None:
    """Imports torch, and keeps the process to its budget of memory from then on."""
    import_torch(memory)
    from verify.settings import keep_memory

    keep_memory(memory, device)


def admitted(inputs: Iterable[Path], outputs: Mapping[str, Path | None]) -> Outputs:
    """Files to write, by their options: none is an input, a device or another of them. Raises InputError."""
    files = Outputs(inputs, _data_files)
    for option, path in outputs.items():
        files.admit(option, path)
    return files


def _data_files(model: Path) -> Iterable[Path]:
    """The files that a model keeps data in."""
    from verify.loading.onnx import external  # with torch, which is seldom needed here

    return external.data_files(model)


def tell_extensions() -> None:
    """Says on stderr whose code took part beside `verify`'s own."""
    for extension in loaded():
        click.echo(f"note: {extension}, which is not part of verify, took part", err=True)


def warn(warnings: Iterable[str]) -> None:
    """Says on stderr, whatever the options, how a property was read, and that it holds as it is written."""
    for warning in warnings:
        click.echo(f"verify: warning: {warning}", err=True)
