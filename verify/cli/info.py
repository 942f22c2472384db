"""`verify info`: what a model and a property are."""

from __future__ import annotations

import json
from pathlib import Path

import click

from verify.cli import options
from verify.errors import DECIDED
from verify.startup import import_torch


@click.command(epilog=options.codes("verify info model.onnx property.vnnlib", code0="done", code1=""))
@options.MODEL
@options.OPTIONAL_PROPERTY
@options.OUTPUT
@options.FORMAT
def info(model: Path, specification: Path | None, output: str | None, form: str) -> int:
    """Show what MODEL is made of, and what PROPERTY asks."""
    import_torch()
    from verify.reports.description import describe, render

    record = describe(model, specification, output)
    click.echo(json.dumps(record) if form == "json" else render(record))
    return DECIDED
