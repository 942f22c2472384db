"""Whose journal it is: a search goes on from one that was kept of the same question, by the same code, alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple
from importlib import metadata
from pathlib import Path

import numpy as np

from verify import __version__
from verify.bab.checkpoint import NO_CHECKPOINT, Checkpoint, JournalCheckpoint
from verify.errors import InputError
from verify.extensions import loaded
from verify.journal import Journal
from verify.loading.onnx import external
from verify.output import admit_folder
from verify.own_code import code
from verify.problem import Problem
from verify.request import Request
from verify.specification import PropertyBuilder
from verify.validation import is_text, shown

_LIBRARIES = ("torch", "numpy", "onnx", "onnx2torch")


@contextmanager
def kept(request: Request, problem: Problem, model: str) -> Iterator[Checkpoint]:
    """What keeps the search of a request, if it is to be kept. model: its digest from before it was read. Raises InputError, and UnwrittenError."""
    if request.checkpoint is None:
        yield NO_CHECKPOINT
        return
    if digest_of_model(request) != model:
        raise InputError("--checkpoint: the model was changed while it was read; run the command again")
    admit_folder("--checkpoint", request.checkpoint)
    journal = Journal(request.checkpoint, identity(request, problem, model))
    try:
        yield JournalCheckpoint(journal)
    finally:
        journal.close()


def identity(request: Request, problem: Problem, model: str) -> dict[str, str]:
    """All that what is kept hangs on, by its name."""
    return {
        "the model": model,
        "its output": request.output or problem.model.output_name,
        "the property": _digest(_property(request, problem)),
        "--preset": request.preset,
        "--semantics": request.semantics,
        "--no-rigorous": str(not request.rigorous),
        "--certificate": "no" if request.certificate is None else "yes",
        "verify": __version__,
        "the code of verify": code(),
        "extensions": ", ".join(map(str, loaded())) or "none",
        **{name: metadata.version(name) for name in _LIBRARIES},
    }


def digest_of_model(request: Request) -> str:
    """Of the model's bytes, and of the files that it keeps data in; empty where no search is to be kept or the file cannot be read."""
    model = request.model
    if request.checkpoint is None or not isinstance(model, str | Path | bytes):
        return ""
    if isinstance(model, bytes):
        return _digest(model)
    path = Path(model)
    try:
        return _digest(*(file.read_bytes() for file in (path, *external.data_files(path))))
    except OSError:  # which is told where the model is read
        return ""


def _property(request: Request, problem: Problem) -> bytes:
    """The property's text or file."""
    source = request.specification
    if isinstance(source, PropertyBuilder):
        text = source.text_for(problem.model.input_shape, problem.model.output_shape)
        around = () if source.front is None else astuple(source.front)
        return b"\n".join(
            [type(source).__name__.encode(), text.encode(), *(np.asarray(part).tobytes() for part in around)]
        )
    if is_text(source):
        return source.encode()
    if isinstance(source, str | Path):
        return Path(source).read_bytes()
    raise InputError(
        f"--checkpoint: the property is {shown(source)}; give a path, VNN-LIB text or a property built in Python, which is known again"
    )


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
