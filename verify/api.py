"""The Python interface: `verify` and `bounds`."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from verify.bab.progress import Reporter, Silent
from verify.bounders.ascent import Bounder
from verify.clause_bounds import ClauseBounds, Step, bound
from verify.errors import DialectWarning, ModeWarning, VacuousWarning
from verify.loading.loaded import TRAINING
from verify.problem import prepare
from verify.request import Request
from verify.result import Result
from verify.run import run
from verify.validation import path, refuse, shown

if TYPE_CHECKING:
    from verify.problem import Model, Problem, Spec


def verify(
    model: Model,
    specification: Spec,
    *,
    timeout: float | None = None,
    device: str | torch.device = "auto",
    preset_name: str = "default",
    seed: int = 0,
    example_input: torch.Tensor | None = None,
    reporter: Reporter | None = None,
    certificate: str | Path | None = None,
    semantics: str = "real",
    rigorous: bool = True,
    trim: bool = False,
    output: str | None = None,
    checkpoint: str | Path | None = None,
    workers: int | None = None,
    ray: str | None = None,
) -> Result:
    """Decides whether the property holds for every input.

    model: a path or bytes of an ONNX file, a parsed ONNX model, or a torch.nn.Module (with `example_input`, a tensor of the
    shape it takes, where the specification is not of that shape). specification: a path of a VNN-LIB file, VNN-LIB text, or a builder. timeout: seconds, loading included.
    certificate: a file for the evidence of `unsat` or `sat`; the model is then a path, and so is the specification, or a builder that writes
    VNN-LIB 1.0, whose text is put beside it; `unsat` is only said of what the checker has proved. semantics: `real`, or `ieee32-any-order` for the network as float32 libraries
    compute it. rigorous: False takes float32's word for refutations (for timing alone). trim: drop leaves that a certificate of
    `unsat` does without, which takes about as long as two checks, if there is time for it. output: the name of the output that the
    property is of, where an ONNX file has several. checkpoint: a folder that keeps the search: after the process was killed, the same call
    goes on from there. workers: search in so many processes of this machine; None for threads of this process. ray: search on a cluster, by its
    address, `auto`, or `local`. Raises InputError for bad input,
    ResourceError where the machine is too small, and, of these, UnwrittenError where the certificate cannot be written: its
    `result` is what the search has found, which nothing has proved.
    """
    started = time.monotonic()
    request = Request(
        model,
        specification,
        timeout,
        str(device) if isinstance(device, torch.device) else device,
        preset_name,
        seed,
        None if certificate is None else path("certificate", certificate),
        semantics,
        rigorous,
        trim,
        example_input=example_input,
        output=output,
        checkpoint=None if checkpoint is None else path("checkpoint", checkpoint),
        workers=workers,
        ray=ray,
    )
    _check_reporter(reporter)
    result = run(request, lambda: reporter or Silent(), started, accounted=True)
    warn(result)
    return result


def _check_reporter(reporter: object) -> None:
    """InputError for what no progress can be told to."""
    if reporter is not None and (
        isinstance(reporter, type) or not callable(getattr(reporter, "update", None))
    ):
        refuse("reporter", f"is {shown(reporter)}", "give an object with a method update(progress)")


def warn(of: Result | Problem) -> None:
    """A DialectWarning for each way in which the property was read generously, a VacuousWarning where it holds as it is
    written, and a ModeWarning for a module that is verified in another mode than it is in."""
    for warning in of.warnings:
        kind: type[UserWarning] = VacuousWarning if warning not in of.notes else DialectWarning
        kind = ModeWarning if warning == TRAINING else kind
        warnings.warn(warning, kind, stacklevel=3)


def bounds(
    model: Model,
    specification: Spec,
    *,
    method: str | Bounder = "restricted",
    iterations: int | None = None,
    time_limit: float | None = None,
    intermediate: str = "crown",
    device: str | torch.device = "auto",
    example_input: torch.Tensor | None = None,
    observe: Callable[[Step], None] | None = None,
    output: str | None = None,
) -> ClauseBounds:
    """Bounds every clause at the root, by one of `METHODS` of verify.request, or a bounder of one's own.

    iterations: the method's own number where None; interval, crown and lp have none. time_limit: seconds of bounding, intermediate
    bounds left out, after which an iterative method stops at the best it has. intermediate: one of `INTERMEDIATE`.
    observe: told after every iteration. output: as in `verify`. All bounds returned hold over the reals (float64, rounding errors charged).
    Raises InputError for bad input, ResourceError where a linear program would be too large.
    """
    problem = prepare(model, specification, example_input, output=output)
    warn(problem)
    return bound(problem, method, iterations, time_limit, intermediate, device, observe)
