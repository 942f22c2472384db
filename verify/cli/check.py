"""`verify check`: a certificate proved again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from verify.cli import options
from verify.errors import DECIDED, UNDECIDED, InputError
from verify.process import answer
from verify.request import known_address

if TYPE_CHECKING:
    from verify.checker.checking import Checked, Provers
    from verify.checker.question import Models


@click.command(
    short_help="Prove again what CERTIFICATE says.",
    epilog=options.codes(
        "verify check proof.cert model.onnx property.vnnlib",
        "verify check study/certificates model.onnx",
        "verify check proof.cert model.onnx property.vnnlib --ray auto",
        code0="proved",
        code1="not proved",
        code2="a file cannot be read",
        code3="resources (memory)",
        code70="",
    ),
)
@click.argument("certificate", type=options.FILE)
@options.MODEL
@options.OPTIONAL_PROPERTY
@options.FURTHER
@click.option(
    "--exact",
    is_flag=True,
    help="In rational arithmetic, not only where float64 cannot decide (but for boxes of split inputs).",
)
@options.SEMANTICS
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Processes at most; one a core, or a processor of the cluster, unless given.",
)
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="Check on a Ray cluster: HOST:PORT, auto, or local for one of this machine that ends with the command.",
)
def check(
    certificate: Path,
    model: Path,
    specification: Path | None,
    further: dict[str, Path],
    exact: bool,
    semantics: str,
    jobs: int | None,
    ray: str | None,
) -> int:
    """Prove again what CERTIFICATE says of MODEL and PROPERTY, trusting nothing of the search.

    CERTIFICATE may be a folder, such as `verify certify --certificates` fills: then all certificates in it, NAME.cert each with its property NAME.
    """
    folder = os.path.isdir(certificate)
    if folder and (specification is not None or further):
        given = specification or ", ".join(map(str, further.values()))
        raise InputError(
            f"{given}: is given beside a folder, whose certificates have their own; leave it out"
        )
    if not folder and specification is None:
        raise InputError(
            "PROPERTY is missing: give the file that the certificate is of, or a folder of certificates"
        )
    with _provers(ray, jobs) as provers:
        checked = partial(
            _checked,
            exact=exact,
            semantics=semantics,
            jobs=jobs or os.cpu_count() or 1,
            provers=provers,
        )
        if specification is None:
            return _check_all(certificate, model, checked)
        found = checked(certificate, specification, options.models_of(model, further))
    answer(found.sentence + "\n")
    return DECIDED if found.proved else UNDECIDED


@contextmanager
def _provers(address: str | None, jobs: int | None) -> Iterator[Provers | None]:
    """Who proves, where it is not this machine alone."""
    if address is None:
        yield None
        return
    known_address(address)
    from verify.workers.checkers import provers_of_cluster

    with provers_of_cluster(address, jobs) as provers:
        yield provers


def _beside(certificate: Path, model: Path) -> tuple[Path, Models]:
    """The property and the models of a certificate in a folder: of NAME.cert it is NAME, or if there is one NAME.cert.vnnlib with networks NAME.cert.*.onnx."""
    own = certificate.with_name(f"{certificate.name}.vnnlib")
    if not own.exists():
        return certificate.with_suffix(""), model
    start = len(certificate.name) + 1
    others = sorted(certificate.parent.glob(f"{escape(certificate.name)}.*.onnx"))
    return own, options.models_of(model, {path.name[start:-5]: path for path in others})


def _check_all(folder: Path, model: Path, checked: Callable[[Path, Path, Models], Checked]) -> int:
    """All certificates of a folder, a line for each that is not proved and one for all."""
    certificates = sorted(folder.rglob("*.cert"))
    if not certificates:
        raise InputError(f"{folder}: holds no certificates (NAME.cert, each with its property NAME)")
    proved = 0
    for certificate in certificates:
        found = checked(certificate, *_beside(certificate, model))
        proved += found.proved
        if not found.proved:
            answer(f"{certificate}: {found.sentence}\n")
    answer(f"{proved} of {len(certificates)} certificates are proved\n")
    return DECIDED if proved == len(certificates) else UNDECIDED


def _checked(certificate: Path, specification: Path, model: Models, **how: Any) -> Checked:
    from verify.checker.checking import check as check_certificate
    from verify.checker.errors import Refused

    try:
        return check_certificate(certificate, model, specification, **how)
    except Refused as problem:
        raise InputError(str(problem)) from None
