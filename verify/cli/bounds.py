"""`verify bounds`: bounds of every clause, without branching."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from verify.cli import options
from verify.errors import DECIDED
from verify.extensions import loaded
from verify.output import as_json
from verify.request import INTERMEDIATE, METHODS, known_method

if TYPE_CHECKING:
    from verify.clause_bounds import ClauseBounds, Step


@click.command(
    short_help="Bound the clauses of PROPERTY, without branching.",
    epilog=options.codes(
        "verify bounds model.onnx property.vnnlib --method crown --layers",
        code0="done, whatever the bounds",
        code1="",
    ),
)
@options.MODEL
@options.PROPERTY
@click.option("--method", type=options.Known(METHODS, known_method), default="restricted", show_default=True)
@click.option(
    "--iterations", type=click.IntRange(min=0), help="Of an iterative method; its own number by default."
)
@click.option(
    "--time",
    "time_limit",
    type=options.SECONDS,
    help="Seconds of bounding after which an iterative method stops at the best it has.",
)
@click.option(
    "--intermediate",
    type=click.Choice(INTERMEDIATE),
    default="crown",
    show_default=True,
    help="How bounds of pre-activations are found.",
)
@click.option("--trace", is_flag=True, help="A JSON line on stdout after every iteration.")
@click.option("--layers", is_flag=True, help="Also the intermediate bounds of the first clause.")
@options.MEMORY
@options.DEVICE
@options.OUTPUT
@options.FORMAT
def bounds(
    model: Path,
    specification: Path,
    trace: bool,
    layers: bool,
    memory: int | None,
    output: str | None,
    form: str,
    **how: Any,
) -> int:
    """Bound every clause of PROPERTY at the root: above 0 the clause is refuted."""
    options.import_libraries(memory, how["device"])
    from verify.clause_bounds import bound
    from verify.problem import prepare

    problem = prepare(model, specification, output=output)
    found = bound(problem, observe=_trace if trace else None, **how)
    options.warn(problem.warnings)
    options.tell_extensions()
    if form == "json":
        click.echo(as_json(_as_json(found, layers)))
    else:
        _show(found, layers)
    return DECIDED


def _trace(step: Step) -> None:
    """One line of a trace, at once."""
    click.echo(as_json(asdict(step) | {"seconds": round(step.seconds, 6)}))


def _as_json(found: ClauseBounds, layers: bool) -> dict[str, Any]:
    record: dict[str, Any] = {
        "method": found.method,
        "iterations": found.iterations,
        "seconds": found.seconds,
        "intermediate_seconds": found.intermediate_seconds,
        "vacuous": found.vacuous,
        "notes": list(found.notes),
        "extensions": list(map(str, loaded())),
        "clauses": [{"index": index, "bound": bound} for index, bound in enumerate(found.bounds)],
    }
    if layers:
        record["layers"] = found.layers
    return record


def _show(found: ClauseBounds, layers: bool) -> None:
    for index, bound in enumerate(found.bounds):
        click.echo(f"clause {index}: {bound:.9g}{'  refuted' if bound > 0 else ''}")
    for layer in found.layers if layers else ():
        click.echo(_layer_line(layer))
    click.echo(
        f"bounds: {found.seconds:.3f} s, intermediate bounds: {found.intermediate_seconds:.3f} s", err=True
    )


def _layer_line(layer: dict[str, Any]) -> str:
    """A layer's size, its share of unstable neurons by intervals and after tightening, and its range."""
    before, after = (layer[key] / layer["neurons"] for key in ("unstable_interval", "unstable"))
    return (
        f"{layer['name']} ({layer['operator']}): {layer['neurons']} neurons, {layer['unstable']} unstable "
        f"({before:.1%} by intervals, {after:.1%} now), in [{min(layer['lower']):.6g}, {max(layer['upper']):.6g}]"
    )
