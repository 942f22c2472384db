"""The Python interface: `verify`, `bounds`, and what they return."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from verify.bounders.dual import DualProblem
from verify.bounders.interval import interval, interval_bound, magnitudes
from verify.bounders.restricted import Restricted
from verify.deadline import Deadline
from verify.errors import InputError
from verify.formats.vnnlib import Property, parse, read
from verify.loading import LoadedModel, load
from verify.problem import Problem, Witness
from verify.search.branch_and_bound import Progress, Reporter
from verify.settings import build_search, choose_device, preset
from verify.specification import LinfBall, Specification
from verify.state import Bounds

if TYPE_CHECKING:
    import onnx

    Model = str | Path | bytes | onnx.ModelProto | torch.nn.Module | LoadedModel
    Spec = str | Path | Property | LinfBall | Specification

_CLAUSES_AT_ONCE = 64
METHODS = ("interval", "crown", "restricted")


class Silent:
    """A reporter that says nothing."""

    def update(self, progress: Progress) -> None:
        """Ignores the progress."""


@dataclass(frozen=True)
class Result:
    """A verdict (`sat`, `unsat`, `unknown` or `timeout`), why, and what it took.

    `witness` is set for `sat` alone. `statistics`: subproblems bounded and closed, greatest depth, waiting at the end.
    """

    verdict: str
    reason: str
    seconds: float
    witness: Witness | None = None
    statistics: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ClauseBounds:
    """Lower bounds of every clause's margin over its whole box: above 0 the clause is refuted."""

    method: str
    iterations: int
    bounds: tuple[float, ...]
    seconds: float
    intermediate_seconds: float
    layers: tuple[dict[str, Any], ...]


def prepare(model: Model, specification: Spec, example_input: torch.Tensor | None = None) -> Problem:
    """Loads both and checks that they belong together. Raises InputError."""
    spec: Property | None = None
    if isinstance(specification, Property):
        spec = specification
    elif isinstance(specification, Specification):
        spec = parse(specification.text(), "<Specification>")
    elif isinstance(specification, str) and specification.lstrip().startswith(("(", ";")):
        spec = parse(specification)
    elif not isinstance(specification, LinfBall):
        spec = read(specification)
    box = None
    if spec is not None and len(spec.clauses):
        first = spec.clauses[0]
        box = (first.lower, first.upper)
    loaded = model if isinstance(model, LoadedModel) else load(model, example_input, box)
    if spec is None:
        assert isinstance(specification, LinfBall)
        spec = parse(specification.text(loaded.network.outputs), "<LinfBall>")
    return Problem(loaded, spec)


def verify(
    model: Model, specification: Spec, *, timeout: float | None = None, device: str = "auto", preset_name: str = "default",
    seed: int = 0, example_input: torch.Tensor | None = None, reporter: Reporter | None = None,
) -> Result:  # fmt: skip
    """Decides whether the property holds for every input.

    model: a path or bytes of an ONNX file, a parsed ONNX model, or a torch.nn.Module (with `example_input`, a tensor of the
    shape it takes). specification: a path of a VNN-LIB file, VNN-LIB text, or a builder. timeout: seconds, loading included.
    Raises InputError for bad input and ResourceError where the machine is too small.
    """
    started = time.monotonic()
    return decide(
        prepare(model, specification, example_input),
        Deadline.after(timeout),
        started,
        device,
        preset_name,
        seed,
        reporter,
    )


def decide(
    problem: Problem, deadline: Deadline, started: float, device: str = "auto", preset_name: str = "default", seed: int = 0,
    reporter: Reporter | None = None,
) -> Result:  # fmt: skip
    """Decides a prepared problem; `started` is where its clock began."""
    search = build_search(problem, preset(preset_name), choose_device(device), seed, reporter or Silent())
    outcome = search.run(deadline)
    done = outcome.progress
    statistics = {
        "subproblems": done.opened, "closed": done.closed, "waiting": done.waiting, "depth": done.depth,
        "clauses": problem.clauses,
    }  # fmt: skip
    return Result(outcome.verdict, outcome.reason, time.monotonic() - started, outcome.witness, statistics)


def bounds(
    model: Model, specification: Spec, *, method: str = "restricted", iterations: int = 100, device: str = "auto",
    example_input: torch.Tensor | None = None,
) -> ClauseBounds:  # fmt: skip
    """Bounds every clause at the root. Methods: interval, crown, restricted.

    Raises InputError for bad input. All bounds hold over the reals (float64, rounding errors charged).
    """
    if method not in METHODS:
        raise InputError(f"method {method!r} is not known; there are {', '.join(METHODS)}")
    problem = prepare(model, specification, example_input)
    network = problem.model.network.to(choose_device(device), torch.float64)
    found: list[float] = []
    seconds = intermediate_seconds = 0.0
    layers: tuple[dict[str, Any], ...] = ()
    for start in range(0, problem.clauses, _CLAUSES_AT_ONCE):
        clauses = range(start, min(start + _CLAUSES_AT_ONCE, problem.clauses))
        begun = time.monotonic()
        lower, upper = (end.to(network.device) for end in problem.boxes(clauses))
        box, outputs = interval(network, lower, upper)
        if method != "interval":
            box = preset("default").intermediate.tighten(network, box, Deadline())
        middle = time.monotonic()
        objective = problem.objective(clauses).to(network.device, torch.float64)
        if method == "interval":
            found += interval_bound(network, objective, (lower, upper), outputs).tolist()
        else:
            dual = DualProblem(network, box, objective)
            state = dual.initial()
            if method == "restricted":
                state = dual.clamp(Restricted(iterations).ascend(dual, state).state)
            found += dual.evaluate(state, magnitudes(network, box)).bound[:, 0].tolist()
        intermediate_seconds += middle - begun
        seconds += time.monotonic() - middle
        layers = layers or tuple(_layer_report(problem, box))
    return ClauseBounds(
        method,
        iterations if method == "restricted" else 0,
        tuple(found),
        seconds,
        intermediate_seconds,
        layers,
    )


def _layer_report(problem: Problem, box: Bounds) -> list[dict[str, Any]]:
    """The first clause's intermediate bounds, layer by layer."""
    rows = []
    for layer in problem.model.network.layers:
        lower, upper = box.lower[0, layer.variables], box.upper[0, layer.variables]
        rows.append(
            {
                "name": problem.model.network.nodes[layer.node].name,
                "operator": layer.activation.name,
                "neurons": layer.size,
                "unstable": int((~layer.activation.split_point(lower, upper).isnan()).sum()),
                "lower": lower.tolist(),
                "upper": upper.tolist(),
            }
        )
    return rows
