"""`verify certificate`: what a certificate holds, the same with less, and several as one."""

from __future__ import annotations

from pathlib import Path

import click

from verify.cli import options
from verify.errors import DECIDED, InputError

_CERTIFICATE = click.argument("certificate", type=options.FILE)


def _codes(*examples: str) -> str:
    return options.codes(
        *examples,
        code0="done",
        code1="",
        code2="bad input or usage; a certificate that is not proved",
        code3="resources (memory, disk)",
    )


@click.group("certificate", epilog=_codes("verify certificate show proof.cert"))
def group() -> None:
    """Look into certificates."""


@group.command(
    epilog=_codes(
        "verify certificate show proof.cert", "verify certificate show proof.cert model.onnx property.vnnlib"
    )
)
@_CERTIFICATE
@click.argument("model", required=False, type=options.FILE)
@options.OPTIONAL_PROPERTY
@options.FURTHER
def show(certificate: Path, model: Path | None, specification: Path | None, further: dict[str, Path]) -> int:
    """Show header, tree and sizes of CERTIFICATE; with its MODEL and PROPERTY also what it proves, and the hardest leaves."""
    from verify.checker.checking import check
    from verify.checker.container import read
    from verify.checker.errors import Refused
    from verify.checker.showing import describe

    if model is not None and specification is None:
        raise click.UsageError("MODEL needs its PROPERTY too")
    try:
        click.echo(describe(read(certificate)))
        if model is not None and specification is not None:
            found = check(certificate, options.models_of(model, further), specification)
            click.echo(found.sentence)
            for bound, node in found.summary.hardest if found.summary else []:
                click.echo(f"node {node}: bound {bound:.6g}")
    except Refused as problem:
        raise InputError(f"{certificate}: {problem}") from None
    return DECIDED


@group.command(epilog=_codes("verify certificate trim proof.cert model.onnx property.vnnlib smaller.cert"))
@_CERTIFICATE
@options.MODEL
@options.PROPERTY
@click.argument("target", type=options.FILE)
@options.FURTHER
def trim(certificate: Path, model: Path, specification: Path, target: Path, further: dict[str, Path]) -> int:
    """Write CERTIFICATE to TARGET without the leaves that it does not need."""
    from verify.checker.errors import NotProved, Refused
    from verify.proof.trimming import trim as trim_certificate

    options.admitted([certificate, model, specification, *further.values()], {"TARGET": target})
    try:
        gone = trim_certificate(certificate, options.models_of(model, further), specification, target)
    except (NotProved, Refused) as problem:
        raise InputError(f"{certificate}: {problem}") from None
    click.echo(f"{gone} leaves fewer")
    return DECIDED


@group.command(
    epilog=_codes("verify certificate merge model.onnx property.vnnlib whole.cert first.cert second.cert")
)
@options.MODEL
@options.PROPERTY
@click.argument("target", type=options.FILE)
@click.argument("parts", nargs=-1, required=True, type=options.FILE)
@options.FURTHER
def merge(
    model: Path, specification: Path, target: Path, parts: tuple[Path, ...], further: dict[str, Path]
) -> int:
    """Write to TARGET one certificate of what PARTS close between them: each some clauses, or some subtrees of the same splits."""
    from verify.checker.errors import NotProved, Refused
    from verify.proof.merging import merge as merge_certificates

    options.admitted([*parts, model, specification, *further.values()], {"TARGET": target})
    try:
        leaves = merge_certificates(parts, options.models_of(model, further), specification, target)
    except (NotProved, Refused) as problem:
        raise InputError(str(problem)) from None
    click.echo(f"{leaves} leaves")
    return DECIDED
