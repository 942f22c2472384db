"""Options that several commands have, and a warning that all of them give."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from verify.problem import Problem


class _Seconds(click.FloatRange):
    """A number above 0; infinity is no limit."""

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = float(super().convert(value, param, ctx))
        if math.isnan(found):  # which is neither below a limit nor above it
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return found


def _size(_: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    """A number of bytes: plain, or with a unit such as 500M, 3G, 2.5GiB, of powers of 1024."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)([kmgt]?)(?:i?b)?", text.strip(), re.I | re.A)
    size = int(float(found[1]) * 1024 ** " kmgt".index(found[2].lower() or " ")) if found else 0
    if size <= 0:
        raise click.BadParameter(f"{text!r} is no size; write bytes, or 500M or 3G, say.", param=parameter)
    return size


SECONDS = _Seconds()
MEMORY = click.option(
    "--memory", callback=_size, metavar="SIZE",
    help="What all processes together may take, such as 3G. [default: four fifths of the machine's, or of its control group's]",
)  # fmt: skip
TIMEOUT = click.option("--timeout", type=SECONDS, help="Seconds, loading included.")
DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
SEED = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the attacks' random starts."
)


def warn_of_vacuity(problem: Problem) -> None:
    """Says on stderr, whatever the options, that a property holds as it is written."""
    if problem.vacuous:
        click.echo(f"verify: warning: {problem.vacuous}", err=True)
