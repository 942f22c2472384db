"""`verify check`: a certificate proved again."""

from __future__ import annotations

import os
from pathlib import Path

import click

from verify.cli import options
from verify.errors import DECIDED, UNDECIDED, InputError
from verify.process import answer


@click.command()
@click.argument("certificate", type=options.FILE)
@options.MODEL
@options.PROPERTY
@click.option(
    "--exact",
    is_flag=True,
    help="In rational arithmetic, not only where float64 cannot decide (but for boxes of split inputs).",
)
@options.SEMANTICS
@click.option("--jobs", type=click.IntRange(min=1), help="Processes at most; one a core unless given.")
def check(
    certificate: Path, model: Path, specification: Path, exact: bool, semantics: str, jobs: int | None
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
            certificate, model, specification, exact, semantics, jobs or os.cpu_count() or 1
        )
    except Refused as problem:
        raise InputError(str(problem)) from None
    answer(found.sentence + "\n")
    return DECIDED if found.proved else UNDECIDED
