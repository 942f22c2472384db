"""One archive for an auditor: model, property, certificate, report, how to check them, and what that shows."""

from __future__ import annotations

import hashlib
import io
import shlex
import zipfile
from collections.abc import Iterator
from pathlib import Path

from verify import __version__
from verify.errors import InputError
from verify.output import write_whole
from verify.reports.run_report import run_page
from verify.result import Account, Result

_DATE = (1980, 1, 1, 0, 0, 0)  # the same files make the same archive
_README = """\
# Evidence: {name}

**Claim.** {claim}

**Result.** {result}

## What is here

| file | |
| --- | --- |
| `{model}` | the neural network, as ONNX (SHA-256 in `SHA256SUMS`) |
| `{property}` | the property: the domain of inputs and the unsafe outputs, in VNN-LIB |
| `{certificate}` | the evidence: {evidence} |
| `report.html` | a page with the question, the answer, settings, versions and the machine |
| `SHA256SUMS` | digests of all files: `sha256sum -c SHA256SUMS` |

## How to check it

With version {version} of `verify`, which made this archive, or a later one, from the folder that the archive was unpacked to:

    {command}

or with its checker alone, the package `nn-verify-checker`, which needs neither PyTorch nor the search:

    {alone}

The checker reads the three files with readers of its own and does all arithmetic again (float64 with every
rounding error charged, rationals where that does not decide). It shares no code with the search that found the evidence, and trusts nothing of it.

## In the words of ISO/IEC 24029-2

That standard is about formal methods for the robustness of neural networks. This is the assessment in its words, as far as they apply; it is no statement of conformity.

- **Neural network**: the one in `{model}`, as the {semantics}.
- **Domain**: the set of inputs that `{property}` describes, in full: {domain}. It is bounded, and not sampled.
- **Property**: the unsafe outputs that `{property}` describes. {kind}
- **Method**: a formal one: bounds by Lagrangian relaxation, and branch and bound. A verdict `unsat` is sound for the whole domain; a verdict `sat` is a
  counterexample that was run. A run that ends without either is not evidence of anything, and would not be in such an archive.
- **Outcome**: `{verdict}`.

## What it does not show

Nothing about inputs outside the domain, about how the property was chosen, about whatever is done to inputs before the network or to outputs after it, or about
other networks, such as the same one after conversion or quantisation. {limits}
"""


def write_bundle(target: Path, result: Result, model: Path, specification: Path, certificate: Path) -> None:
    """The archive of a decided and certified run. Raises InputError and UnwrittenError."""
    assert result.account is not None
    files = dict(_files(model, specification, certificate))
    names = list(files)
    for name, digest in zip(
        names, (result.account.model_sha256, result.account.specification_sha256), strict=False
    ):
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise InputError(f"{Path(name).name}: was written while it was read; run it again")
    files["report.html"] = run_page(result).encode(errors="backslashreplace")
    files["README.md"] = _readme(result, result.account, names).encode()
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**files, "SHA256SUMS": sums.encode()}.items():
            entry = zipfile.ZipInfo(name, _DATE)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, data)
    write_whole(str(target), target, buffer.getvalue())


def _files(model: Path, specification: Path, certificate: Path) -> Iterator[tuple[str, bytes]]:
    """What was read and written, by their names in the archive. (The checker reads models of one file alone.)"""
    yield f"model/{model.name}", _content(model)
    yield f"property/{specification.name}", _content(specification)
    yield "certificate/proof.cert", _content(certificate)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _readme(result: Result, account: Account, names: list[str]) -> str:
    model, specification, certificate = names
    holds = result.verdict == "unsat"
    semantics = str(account.settings["semantics"])
    extra = [] if semantics == "real" else ["--semantics", semantics]
    free = sum(low < high for low, high in zip(account.lower, account.upper, strict=True))
    return (
        _README.format(
            name=Path(model).name,
            claim="No input of the domain gives an unsafe output."
            if holds
            else "Some input of the domain gives an unsafe output.",
            result=f"`{result.verdict}`: {result.reason}.",
            model=model,
            property=specification,
            certificate=certificate,
            evidence="a proof that no input of the domain is unsafe"
            if holds
            else "an input of the domain with its unsafe output",
            version=__version__,
            command=shlex.join(["verify", "check", certificate, model, specification, *extra]),
            alone=shlex.join(["verify-check", certificate, model, specification, *extra]),
            semantics="function of real numbers that its weights define"
            if semantics == "real"
            else "function that any library computes of it in float32, whatever the order of its sums",
            domain=f"{account.boxes} boxes of {len(account.lower)} inputs, of which {free} vary in the first"
            if account.boxes != 1
            else f"one box of {len(account.lower)} inputs, of which {free} vary",
            kind=f"There are {account.clauses} ways for an output to be unsafe.",
            verdict=result.verdict,
            limits="A proof about real numbers leaves open what rounding in a deployed network may change; `--semantics ieee32-any-order` covers that "
            "for networks of ReLUs."
            if semantics == "real" and holds
            else "",
        ).rstrip()
        + "\n"
    )
