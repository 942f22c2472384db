"""Files beside a certificate of what is given as no file: a model in memory, a property built in Python, networks of it that are not the model."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from verify.checker.question import Models, content
from verify.errors import InputError
from verify.loading import LoadedModel
from verify.loading.composed import Behind, SideBySide
from verify.loading.onnx.model import GZIP_MAGIC
from verify.output import Outputs, write_whole
from verify.problem import Problem
from verify.specification import PropertyBuilder
from verify.validation import is_file, is_text, shown


@contextmanager
def files_beside(
    certificate: Path, model: object, specification: object, problem: Problem
) -> Iterator[tuple[Models, Path]]:
    """The models' and the property's files. What is none is written, and stays if the certificate is: CERTIFICATE.onnx, of the model as a file, or
    with what the property puts before it, CERTIFICATE.vnnlib, and CERTIFICATE.NAME.onnx, of further networks.

    Where no certificate is written, what was there before is there again: those of an earlier one. Raises InputError, and UnwrittenError.
    """
    contents: dict[Path, bytes] = {}
    path = _property(certificate, specification, problem, contents)
    models = _models(certificate, model, problem, contents)
    given = [path] if is_file(specification) else []
    outputs = Outputs([*given, Path(model)] if isinstance(model, str | Path) else given)
    for file in contents:
        outputs.admit("beside the certificate", file)
    earlier = {file: file.read_bytes() if file.exists() else None for file in contents}
    written = _version(certificate)
    try:
        for file, data in contents.items():
            write_whole(str(file), file, data)
        yield models, path
    finally:
        if _version(certificate) == written:
            for file, before in earlier.items():
                if before is None:
                    file.unlink(missing_ok=True)
                else:
                    write_whole(str(file), file, before)


def _property(
    certificate: Path, specification: object, problem: Problem, contents: dict[Path, bytes]
) -> Path:
    """The property's file."""
    if is_file(specification):
        return Path(specification)
    text = problem.text if isinstance(specification, PropertyBuilder) else specification
    if not is_text(text):
        raise InputError(
            f"--certificate: the property is {shown(specification)}, which has no text; give a path, VNN-LIB text or a property built in Python"
        )
    path = certificate.with_name(f"{certificate.name}.vnnlib")
    contents[path] = text.encode()
    return path


def _models(certificate: Path, model: object, problem: Problem, contents: dict[Path, bytes]) -> Models:
    """The models' files, of a query by its networks."""
    if isinstance(model, Mapping):
        return {str(name): _file(one) for name, one in model.items()}
    own = certificate.with_name(f"{certificate.name}.onnx")
    if isinstance(problem.model, Behind):
        contents[own] = problem.model.written(
            content(Path(model)) if isinstance(model, str | Path) else _data(model, problem)
        )
        return own
    if isinstance(model, str | Path):
        own = Path(model)
    else:
        contents[own] = _data(model, problem)
    if not (isinstance(problem.model, SideBySide) and problem.model.beside):
        return own
    further = {
        name: certificate.with_name(f"{certificate.name}.{name}.onnx") for name in problem.model.beside
    }
    contents |= {further[name]: data for name, data in problem.model.beside.items()}
    return {name: further.get(name, own) for name in problem.model.query.implemented}


def _data(model: object, problem: Problem) -> bytes:
    """A model in memory as an ONNX file."""
    if problem.model.export is not None:
        return problem.model.export.data
    if isinstance(model, bytes):
        return gzip.decompress(model) if model.startswith(GZIP_MAGIC) else model
    if isinstance(model, LoadedModel):
        raise InputError(
            f"--certificate: the model is {shown(model)}, which is no file; give what it was loaded from, or load a module with as_file=True"
        )
    return bytes(model.SerializeToString())  # type: ignore[attr-defined]  # it was read, so it is a parsed one


def _file(model: object) -> Path:
    if not isinstance(model, str | Path):
        raise InputError(
            f"--certificate: a model is {shown(model)}; give the path of each network's ONNX file"
        )
    return Path(model)


def _version(path: Path) -> tuple[int, int] | None:
    """What changes when a file is replaced; None where there is none."""
    with suppress(OSError):
        status = path.stat()
        return status.st_ino, status.st_mtime_ns
    return None
