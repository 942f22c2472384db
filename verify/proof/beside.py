"""Files beside a certificate of a property built in Python: the property's text, and networks of it that are not the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from verify.checker.question import Models, content
from verify.loading.composed import Behind, SideBySide
from verify.output import Outputs, write_whole
from verify.problem import Problem


@contextmanager
def files_beside(certificate: Path, model: Path, problem: Problem) -> Iterator[tuple[Models, Path]]:
    """The models' and the property's files, which stay if the certificate is written: CERTIFICATE.vnnlib, and CERTIFICATE.NAME.onnx, or
    CERTIFICATE.onnx where the property puts something before the model.

    Where none is written, what was there before is there again: those of an earlier one. Raises InputError, and UnwrittenError.
    """
    assert problem.text is not None
    path = certificate.with_name(f"{certificate.name}.vnnlib")
    contents: dict[Path, bytes] = {path: problem.text.encode()}
    models: Models = model
    if isinstance(problem.model, SideBySide) and problem.model.beside:
        own = {
            name: certificate.with_name(f"{certificate.name}.{name}.onnx") for name in problem.model.beside
        }
        contents |= {own[name]: data for name, data in problem.model.beside.items()}
        models = {name: own.get(name, model) for name in problem.model.query.implemented}
    if isinstance(problem.model, Behind):
        models = certificate.with_name(f"{certificate.name}.onnx")
        contents[models] = problem.model.written(content(model))
    outputs = Outputs([model])
    for file in contents:
        outputs.admit("the property of the certificate", file)
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


def _version(path: Path) -> tuple[int, int] | None:
    """What changes when a file is replaced; None where there is none."""
    with suppress(OSError):
        status = path.stat()
        return status.st_ino, status.st_mtime_ns
    return None
