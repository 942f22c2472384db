"""What a report tells of a run beside its result: the question, the files, the machine, and how bounds moved."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from verify import __version__
from verify.bab.progress import Progress, Reporter
from verify.extensions import loaded
from verify.result import Account, Moment
from verify.specification import PropertyBuilder
from verify.validation import is_text

if TYPE_CHECKING:
    from verify.problem import Problem
    from verify.request import Request

_MOMENTS = 512
_CLAUSES = 12  # that are written out
_TERMS = 8
_TEXT = 64 * 1024  # of a property, bytes
_LIBRARIES = ("torch", "onnx", "onnxruntime", "numpy", "highspy")


class Timeline:
    """A reporter that remembers some moments, and passes everything on."""

    def __init__(self, passed_on: Reporter, started: float) -> None:
        self.moments: list[Moment] = []
        self._passed_on, self._started, self._step, self._next = passed_on, started, 0.0, 0.0

    def update(self, progress: Progress) -> None:
        """Remembers the moment, unless one shortly before is."""
        now = time.monotonic() - self._started
        if now >= self._next or progress.phase == "end":
            self.moments.append(
                Moment(now, progress.phase, progress.worst, progress.waiting, progress.opened)
            )
            if len(self.moments) > _MOMENTS:
                self.moments = self.moments[::2]
                self._step = max(2 * self._step, now / _MOMENTS)
            self._next = now + self._step
        self._passed_on.update(progress)


def account(problem: Problem, request: Request, device: torch.device, read: Request) -> Account:
    """The account of a run whose inputs are read; without its moments. read: the request as it was read, such as with a file of a builder's text."""
    (_, first), *others = read.model.items() if isinstance(read.model, Mapping) else [("", read.model)]
    model, spec = problem.model, problem.specification
    builder = request.specification if isinstance(request.specification, PropertyBuilder) else None
    lower, upper = (end[0] for end in spec.some_boxes(1)) if problem.clauses else (np.zeros(0), np.zeros(0))
    return Account(
        model=_named(first),
        model_sha256=_digest(first),
        networks={name: _named(one) for name, one in others},
        networks_sha256={name: _digest(one) for name, one in others},
        specification=_named(read.specification),
        specification_sha256=_digest(read.specification),
        sentence=None if builder is None else str(builder),
        text=_text(request, problem, builder),
        input_shape=model.input_shape,
        output_shape=model.output_shape,
        element_type=model.element_type,
        of_query=model.of_query,
        boxes=len(np.unique(problem.box_of)),
        lower=tuple(lower.tolist()),
        upper=tuple(upper.tolist()),
        clauses=problem.clauses,
        written=() if model.of_query else tuple(_clauses(problem)),
        settings={
            "preset": request.preset,
            "seed": request.seed,
            "semantics": request.semantics,
            "time limit": request.timeout,
            "device": str(device),
            "threads": torch.get_num_threads(),
            "rigorous": request.rigorous,
        },
        versions={
            "verify": __version__,
            "python": platform.python_version(),
            **_versions(),
            **{f"{one.package}: {one.kind} {one.name}": one.version for one in loaded()},
        },
        machine=_machine(device),
    )


@cache
def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _machine(device: torch.device) -> dict[str, str]:
    found = {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": str(os.cpu_count() or "unknown"),
    }
    if device.type == "cuda":
        found["GPU"] = torch.cuda.get_device_name(device)
    return found


@cache
def _processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _named(source: Any) -> str:
    if isinstance(source, Path):
        return str(source)
    if isinstance(source, str):
        return "text" if is_text(source) else source
    return type(source).__name__


def _digest(source: Any) -> str | None:
    """The SHA-256 of a file, or of bytes; None of what is neither."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    if isinstance(source, str | Path) and _named(source) != "text":
        try:
            with open(source, "rb") as file:
                return hashlib.sha256(file.read()).hexdigest()
        except OSError:
            return None
    return None


def _text(request: Request, problem: Problem, builder: PropertyBuilder | None) -> str | None:
    """The property as VNN-LIB, where it is short and plain."""
    source = request.specification
    text: str | None = None
    if builder is None and isinstance(source, str | Path) and _named(source) != "text":
        path = Path(source)
        try:
            data = path.read_bytes() if path.stat().st_size <= _TEXT else b""
            text = data.decode()
        except (OSError, UnicodeDecodeError):
            return None
    elif isinstance(source, str):
        text = source
    elif builder is not None and builder.front is None:
        text = problem.text
    return text if text and len(text) <= _TEXT else None


def _clauses(problem: Problem) -> list[str]:
    """The first clauses, as people write them."""
    some = range(min(_CLAUSES, problem.clauses))
    if not len(some):
        return []
    outputs, inputs, thresholds = problem.specification.matrices(list(some))
    inputs = np.zeros((*thresholds.shape, 0)) if inputs is None else inputs
    found = []
    for clause in some:
        rows = dict.fromkeys(
            _row(outputs[clause, row], inputs[clause, row], float(thresholds[clause, row]))
            for row in range(outputs.shape[1])
        )
        found.append(" and ".join(rows))
    return found


def _row(outputs: Any, inputs: Any, threshold: float) -> str:
    """`outputs . y + inputs . x <= threshold`, with what is subtracted on the right."""
    sides: tuple[list[str], list[str]] = [], []
    for name, coefficients in (("y", outputs), ("x", inputs)):
        for place in np.flatnonzero(coefficients).tolist():
            factor = float(coefficients[place])
            size = "" if abs(factor) == 1 else f"{abs(factor):.6g} "
            sides[factor < 0].append(f"{size}{name}[{place}]")
    left, right = (" + ".join(side if len(side) <= _TERMS else [*side[:_TERMS], ".."]) for side in sides)
    if not left:  # -y <= -3 is y >= 3
        return f"{right or '0'} >= {-threshold + 0.0:.6g}"
    beside = f" {'-' if threshold < 0 else '+'} {abs(threshold):.6g}" if threshold else ""
    return f"{left} <= {right + beside if right else f'{threshold:.6g}'}"
