"""`verify bundle`: decides, certifies, and packs the evidence into one archive."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from verify.cli import options
from verify.errors import DECIDED, UNDECIDED
from verify.process import answer
from verify.request import Request
from verify.result import Result


@click.command(
    short_help="Decide, certify, and pack the evidence.",
    epilog=options.codes(
        "verify bundle evidence.zip model.onnx property.vnnlib",
        code1="undecided (unknown or timeout): no archive",
    ),
)
@click.argument("archive", type=click.Path(dir_okay=False, path_type=Path))
@options.MODEL
@options.PROPERTY
@options.FURTHER
@options.TIMEOUT
@options.MEMORY
@options.DEVICE
@options.PRESET
@options.SEED
@options.SEMANTICS
@options.OUTPUT
def bundle(archive: Path, model: Path, specification: Path, further: dict[str, Path], **asked: Any) -> int:
    """Decide PROPERTY for MODEL, and pack the evidence for an auditor into ARCHIVE, a zip file.

    It holds model (or models), property, certificate, a report, digests, and a README that says how to check it all. The first word on stdout is the
    verdict; where none is proved there is no archive.
    """
    options.admitted((model, specification, *further.values()), {"ARCHIVE": archive})
    with tempfile.TemporaryDirectory() as folder:
        certificate = Path(folder) / "proof.cert"
        request = Request(options.models_of(model, further), specification, certificate=certificate, **asked)
        with options.at_work(request, options.begun(), _late) as watchdog:
            from verify.reports.bundle import write_bundle
            from verify.run import run

            result = run(request, started=options.begun(), accounted=True)
            watchdog.claim()
        options.warn(result.warnings)
        if result.certificate is None:
            return _undecided(result)
        write_bundle(archive, result)
    answer(f"{result.verdict}\n")
    click.echo(f"{archive}: model, property, certificate, report and README", err=True)
    return DECIDED


def _late(result: Result) -> int:
    """In place of a main thread that is stuck."""
    return _undecided(result)


def _undecided(result: Result) -> int:
    """Says the verdict without an archive."""
    answer(f"{result.verdict}\n")
    click.echo(f"{result.reason}; no archive is written", err=True)
    return UNDECIDED
