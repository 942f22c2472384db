"""One archive for an auditor: model, property, certificate, report, how to check them, and what that shows."""

from __future__ import annotations

import gzip
import hashlib
import io
import shlex
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verify import __version__
from verify.api import warn
from verify.checker.container import read
from verify.errors import InputError
from verify.output import Outputs, write_whole
from verify.reports.run_report import check_command, run_page
from verify.request import Request
from verify.result import Account, Result
from verify.run import run
from verify.validation import is_file, path

if TYPE_CHECKING:
    from verify.problem import Model, Spec

CERTIFICATE = "proof.cert"
_DATE = (1980, 1, 1, 0, 0, 0)  # the same files make the same archive
_README = """\
# Evidence: {name}

**Claim.** {claim}

**Result.** {result}

## What is here

| file | |
| --- | --- |
{networks}
| `{property}` | the property: the domain of inputs and the unsafe outputs, in VNN-LIB |
| `{certificate}` | the evidence: {evidence} |
| `report.html` | a page with the question, the answer, settings, versions and the machine |
| `SHA256SUMS` | digests of all files: `sha256sum -c SHA256SUMS` |

## How to check it

With version {version} of `verify`, which made this archive, or a later one, from the folder that the archive was unpacked to:

    {command}

or with its checker alone, the package `nn-verify-checker`, which needs neither PyTorch nor the search:

    {alone}

The checker reads these files with readers of its own and does all arithmetic again (float64 with every
rounding error charged, rationals where that does not decide). It shares no code with the search that found the evidence, and trusts nothing of it.

## In the words of ISO/IEC 24029-2

That standard is about formal methods for the robustness of neural networks. This is the assessment in its words, as far as they apply; it is no statement of conformity.

- **Neural network**: {neural}, as the {semantics}.
- **Domain**: the set of inputs that `{property}` describes, in full: {domain}. It is bounded, and not sampled.
- **Property**: the unsafe outputs that `{property}` describes. {kind}
- **Method**: a formal one: bounds by Lagrangian relaxation, and branch and bound. A verdict `unsat` is sound for the whole domain; a verdict `sat` is a
  counterexample that was run. A run that ends without either is not evidence of anything, and would not be in such an archive.
- **Outcome**: `{verdict}`.

## What it does not show

Nothing about inputs outside the domain, about how the property was chosen, about whatever is done to inputs before the network or to outputs after it, or about
other networks, such as the same one after conversion or quantisation. {limits}{export}
"""


def bundle(
    archive: str | Path,
    model: Model,
    specification: Spec,
    *,
    timeout: float | None = None,
    device: str = "auto",
    preset_name: str = "default",
    seed: int = 0,
    example_input: Any = None,
    semantics: str = "real",
    output: str | None = None,
) -> Result:
    """Decides as `verify` does, and packs the evidence for an auditor into `archive`, a zip file, which is written where `unsat` or `sat` is proved alone:
    where the result has a `certificate`, which is the archive's.

    Arguments and errors are those of `verify`.
    """
    target = path("archive", archive)
    given = [Path(specification)] if is_file(specification) else []
    Outputs([*given, Path(model)] if isinstance(model, str | Path) else given).admit("archive", target)
    with tempfile.TemporaryDirectory() as folder:
        asked = timeout, str(device), preset_name, seed, Path(folder) / CERTIFICATE, semantics
        request = Request(model, specification, *asked, example_input=example_input, output=output)
        result = run(request, accounted=True)
        warn(result)
        if result.certificate is None:
            return result
        return write_bundle(target, result)


def write_bundle(target: Path, result: Result) -> Result:
    """The archive of a decided and certified run, whose files are still there; the result as it is in there. Raises InputError and UnwrittenError."""
    account, certificate = result.account, result.certificate
    assert account is not None and certificate is not None
    names = _names(account, certificate)
    files = {name: _content(Path(file)) for file, name in names.items()}
    _check_unchanged(files, certificate)
    found = _in_archive(result, account, names)
    files["report.html"] = run_page(found).encode(errors="backslashreplace")
    files["README.md"] = _readme(found).encode()
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**files, "SHA256SUMS": sums.encode()}.items():
            entry = zipfile.ZipInfo(name, _DATE)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, data)
    write_whole(str(target), target, buffer.getvalue())
    return replace(result, certificate=target)


def _names(account: Account, certificate: Path) -> dict[str, str]:
    """The files that were read and written, by their paths, and what they are called in the archive: models, property, certificate."""
    own = f"{certificate.name}."  # of files that were put beside the certificate
    names = {account.model: f"model/{Path(account.model).name}"}
    for network, file in account.networks.items():
        names.setdefault(file, f"model/{network}/{Path(file).name}")
    names[account.specification] = f"property/{Path(account.specification).name}"
    plain = {"onnx": "model.onnx", "vnnlib": "property.vnnlib"}
    for file, name in names.items():
        folder, _, last = name.rpartition("/")
        if last.startswith(own):
            rest = last.removeprefix(own)
            names[file] = f"{folder}/{plain.get(rest, rest)}"
    return {**names, str(certificate): f"certificate/{CERTIFICATE}"}


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _check_unchanged(files: Mapping[str, bytes], certificate: Path) -> None:
    """InputError where a file is no longer the one that was proved."""
    header = read(certificate).metadata
    proved = {*header["onnx_sha256"].split(), header["vnnlib_sha256"]}
    for name, data in files.items():
        plain = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
        if not name.startswith("certificate/") and hashlib.sha256(plain).hexdigest() not in proved:
            raise InputError(f"{Path(name).name}: was written while it was read; run it again")


def _in_archive(result: Result, account: Account, names: Mapping[str, str]) -> Result:
    """A result whose files are those of the archive."""
    account = replace(
        account,
        model=names[account.model],
        networks={network: names[file] for network, file in account.networks.items()},
        specification=names[account.specification],
    )
    return replace(result, account=account, certificate=Path(f"certificate/{CERTIFICATE}"))


def _networks(account: Account) -> Iterator[str]:
    """A row of the table for each model."""
    further = {file: network for network, file in account.networks.items() if file != account.model}
    yield f"| `{account.model}` | the {'first ' * bool(further)}neural network, as ONNX (SHA-256 in `SHA256SUMS`) |"
    for file, network in further.items():
        yield f"| `{file}` | the neural network `{network}` of the property |"


def _readme(result: Result) -> str:
    account = result.account
    assert account is not None
    holds = result.verdict == "unsat"
    semantics = str(account.settings["semantics"])
    free = sum(low < high for low, high in zip(account.lower, account.upper, strict=True))
    asked = (
        ""
        if account.sentence is None
        else f" So this {'holds' if holds else 'does not hold'}: {account.sentence}"
    )
    models = dict.fromkeys((account.model, *account.networks.values()))
    return (
        _README.format(
            name=Path(account.model).name,
            claim=f"{'No' if holds else 'Some'} input of the domain gives an unsafe output.{asked}",
            result=f"`{result.verdict}`: {result.reason}.",
            networks="\n".join(_networks(account)),
            neural=("the one in " if len(models) == 1 else "those in ")
            + ", ".join(f"`{one}`" for one in models),
            property=account.specification,
            certificate=result.certificate,
            evidence="a proof that no input of the domain is unsafe"
            if holds
            else "an input of the domain with its unsafe output",
            version=__version__,
            command=shlex.join(["verify", "check", *check_command(result)]),
            alone=shlex.join(["verify-check", *check_command(result)]),
            semantics="function of real numbers that its weights define"
            if semantics == "real"
            else "function that any library computes of it in float32, whatever the order of its sums",
            domain=f"{account.boxes} boxes of {len(account.lower)} inputs, of which {free} vary in the first"
            if account.boxes != 1
            else f"one box of {len(account.lower)} inputs, of which {free} vary",
            kind=f"There are {account.clauses} ways for an output to be unsafe.",
            verdict=result.verdict,
            limits="A proof about real numbers leaves open what rounding in a deployed network may change; `--semantics ieee32-any-order` covers that "
            "for networks of ReLUs. "
            if semantics == "real" and holds
            else "",
            export=""
            if result.export is None
            else f"The proof is of an {result.export}: that it is what the module computes is compared, not proved.",
        ).rstrip()
        + "\n"
    )
