"""Verdicts and bounds on random networks of all operators, against planted points. Part of ``make soundness``.

No exact optimum of such a network is to be had. But a point that is found by sampling and local search says much: with a threshold
just above its value the property is violated, so `unsat` is wrong; and no bound, of any variable or of the property, may lie
above a value that a point takes. Networks are written by hand as ONNX, exported by both of torch's exporters, or given as modules;
presets, methods and certificates are mixed.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import nn

import verify
from benchmarks.common import table
from benchmarks.random_operators import by_hand, exported, module
from benchmarks.runtime import Session
from verify.bounders.ibp import interval
from verify.deadline import Deadline
from verify.errors import ModelError, UnsupportedOperatorError
from verify.loading import LoadedModel
from verify.request import METHODS, PRESETS
from verify.settings import preset

Array = NDArray[np.float64]

RIGHT, UNDECIDED, REFUSED = "right", "undecided", "refused"
WRONG_UNSAT, WRONG_WITNESS, WRONG_BOUND = "wrong unsat", "wrong witness", "wrong bound"
WRONG_PROOF, MISREAD, FAILED = "wrong proof", "misread", "failed"
JUDGEMENTS = (WRONG_UNSAT, WRONG_WITNESS, WRONG_BOUND, WRONG_PROOF, MISREAD, FAILED)

SECONDS = 1.0  # for a verdict
POINTS, STEPS = 128, 12
ROUNDING = 1e-3  # of the outputs' size: what float32 may make of a value
GAPS = (1e-3, 1e-2, 0.1, 1.0)  # below the best value found, in the outputs' size
ROUTES = {"by hand": 0.6, "old exporter": 0.2, "new exporter": 0.1, "module": 0.1}


class Finding(NamedTuple):
    """One question of one network, and what came of it."""

    seed: int
    kind: str
    judgement: str
    detail: str
    seconds: float

    @property
    def wrong(self) -> bool:
        """Whether anything is wrong."""
        return self.judgement in JUDGEMENTS

    def line(self) -> str:
        """The finding in words."""
        return f"--point {self.seed}: {self.judgement} ({self.kind}; {self.detail})"


@dataclass(frozen=True)
class Drawn:
    """What a seed draws: a model, and the property's box and row."""

    model: bytes | nn.Module
    shape: tuple[int, ...]
    route: str
    operators: tuple[str, ...]
    lower: Array  # [inputs], ends are multiples of 1/64
    upper: Array
    row: Array  # [outputs]

    @property
    def example(self) -> torch.Tensor | None:
        """What a module needs to be traced."""
        return torch.zeros(self.shape) if isinstance(self.model, nn.Module) else None

    def outputs(self, points: Array) -> Array:
        """What the model's own runtime computes at points [points, inputs]: [points, outputs]."""
        if isinstance(self.model, nn.Module):
            with torch.no_grad():
                results = [
                    self.model(torch.from_numpy(x).float().reshape(self.shape)).numpy() for x in points
                ]
        else:
            results = Session(self.model).run(points)
        return np.stack([y.ravel().astype(np.float64) for y in results])

    def text(self, threshold: float) -> str:
        """Unsafe where `row @ y <= threshold` in the box, in VNN-LIB."""
        lines = [f"(declare-const X_{i} Real)" for i in range(len(self.lower))]
        lines += [f"(declare-const Y_{i} Real)" for i in range(len(self.row))]
        for i, (low, high) in enumerate(zip(self.lower.tolist(), self.upper.tolist(), strict=True)):
            lines += [f"(assert (>= X_{i} {low!r}))", f"(assert (<= X_{i} {high!r}))"]
        terms = " ".join(f"(* {value!r} Y_{i})" for i, value in enumerate(self.row.tolist()))
        return "\n".join([*lines, f"(assert (<= (+ {terms}) {threshold!r}))", ""])

    def violated(self, x: Array, threshold: float) -> bool:
        """Whether the model's own runtime violates the property at a point of the box, in exact arithmetic."""
        inside = bool(((self.lower <= x) & (x <= self.upper)).all())
        values = self.outputs(x[None])[0].tolist()
        pairs = zip(self.row.tolist(), values, strict=True)
        total = sum((Fraction(c) * Fraction(v) for c, v in pairs), Fraction(0))
        return inside and total <= Fraction(threshold)


def draw(seed: int) -> Drawn:
    """A network by one of the routes, a box, and a row."""
    random = np.random.default_rng(seed)
    route = str(random.choice(list(ROUTES), p=list(ROUTES.values())))
    outputs = int(random.integers(1, 4))
    model: bytes | nn.Module
    if route == "by hand":
        proto, names = by_hand(random, outputs)
        model = proto.SerializeToString()
        shape = tuple(size.dim_value for size in proto.graph.input[0].type.tensor_type.shape.dim)
    else:
        model, shape, names = module(random, outputs)
        if route != "module":
            model = exported(model, shape, dynamo=route == "new exporter")
    inputs = int(np.prod(shape))
    centre = random.integers(-48, 49, inputs)
    radius = random.integers(0, random.choice([4, 16, 64]) + 1, inputs)
    row = np.round(64 * random.standard_normal(outputs)) / 64 + 1 / 128  # never zero
    row = np.sign(row) if outputs == 1 else row  # a reader divides by a lone coefficient
    return Drawn(model, shape, route, tuple(names), (centre - radius) / 64, (centre + radius) / 64, row)


CERTIFIABLE = (
    "Relu",
    "LeakyRelu",
    "Abs",
    "Gemm",
    "MatMul",
    "Add",
    "Max",
    "Clip",
    "Concat",
    "Tanh",
    "ReduceMax",
    "Conv",
)


def draw_certifiable(random: Generator) -> Drawn:
    """A network of operators that the checker reads, on a box of some width."""
    proto, names = by_hand(random, 2, CERTIFIABLE)
    shape = tuple(size.dim_value for size in proto.graph.input[0].type.tensor_type.shape.dim)
    ends = np.full(int(np.prod(shape)), 0.25)
    return Drawn(
        proto.SerializeToString(), shape, "by hand", tuple(names), -ends, ends, np.array([1.0, -0.5])
    )


class Sampled(NamedTuple):
    """Points of the box, their values `row @ outputs` by the model's own runtime, and the outputs' size."""

    points: Array
    values: Array
    scale: float


def sampled(drawn: Drawn, random: Generator) -> Sampled:
    """Random points and corners, and a local search from the best of them."""
    lower, upper = drawn.lower, drawn.upper
    points = random.uniform(lower, upper, (POINTS, len(lower))).astype(np.float32).astype(np.float64)
    corners = random.random((POINTS // 2, len(lower))) < 0.5
    points[: POINTS // 2] = np.where(corners, lower, upper)
    points = np.clip(points, lower, upper)
    outputs = drawn.outputs(points)
    found, scale = [points], float(np.abs(outputs * drawn.row).sum(1).max())
    values = [outputs @ drawn.row]
    best, least = points[values[0].argmin()], float(values[0].min())
    for step in range(STEPS):
        near = best + random.standard_normal((8, len(lower))) * (upper - lower) * 0.5 ** (step / 2)
        near = np.clip(near.astype(np.float32).astype(np.float64), lower, upper)
        reached = drawn.outputs(near) @ drawn.row
        found, values = [*found, near], [*values, reached]
        if reached.min() < least:
            best, least = near[reached.argmin()], float(reached.min())
    return Sampled(np.concatenate(found), np.concatenate(values), scale)


def examine(seed: int, timeout: float) -> list[Finding]:
    """All findings of one network."""
    started = time.monotonic()
    drawn = draw(seed)
    kind = f"{drawn.route}: {', '.join(drawn.operators)}"

    def finding(judgement: str, detail: str) -> Finding:
        return Finding(seed, kind, judgement, detail, time.monotonic() - started)

    try:
        box = drawn.lower, drawn.upper
        loaded = verify.load(drawn.model, drawn.example, box)
    except UnsupportedOperatorError as error:
        return [finding(REFUSED, str(error))]
    except ModelError as error:
        return [finding(MISREAD if "was read wrongly" in str(error) else REFUSED, str(error))]
    except Exception as error:
        return [finding(FAILED, f"load: {type(error).__name__}: {error}")]
    random = np.random.default_rng([seed, 1])
    points = sampled(drawn, random)
    findings = []
    for check in (_bounds_of_variables, _bounds_of_property, _violated, _open):
        try:
            findings.append(finding(*check(drawn, loaded, points, random, timeout)))
        except Exception as error:
            findings.append(finding(FAILED, f"{check.__name__}: {type(error).__name__}: {error}"))
    return findings


Told = tuple[str, str]


def _bounds_of_variables(
    drawn: Drawn, loaded: LoadedModel, points: Sampled, random: Generator, timeout: float
) -> Told:
    """Intervals and CROWN's bounds of every variable enclose what the network computes at the points, in float64."""
    network = loaded.network
    lower, upper = (torch.from_numpy(end)[None] for end in (drawn.lower, drawn.upper))
    plain, _ = interval(network, lower, upper)
    tight = preset("default").intermediate.tighten(network, plain, Deadline())
    values = network.values(torch.from_numpy(points.points))
    for name, bounds in (("intervals", plain), ("CROWN", tight)):
        for layer in network.layers:
            own = values[layer.pre_node].flatten(1)
            slack = 1e-9 * (1 + own.abs())
            low, high = bounds.lower[:, layer.variables], bounds.upper[:, layer.variables]
            if bool(((own < low - slack) | (own > high + slack)).any()):
                worst = float(torch.maximum(low - own, own - high).max())
                return WRONG_BOUND, f"{name} of {layer.activation.name} cut off a point, by {worst:.3g}"
    return RIGHT, "bounds of variables"


def _bounds_of_property(
    drawn: Drawn, loaded: LoadedModel, points: Sampled, random: Generator, timeout: float
) -> Told:
    """A bound of the whole property is below every value that the network takes, computed in float64."""
    method = str(random.choice([name for name in METHODS if name != "lp"]))
    (bound,) = verify.bounds(loaded, drawn.text(0.0), method=method, time_limit=timeout).bounds
    outputs = loaded.network.values(torch.from_numpy(points.points))[-1].flatten(1)
    least = float((outputs @ torch.from_numpy(drawn.row)).min())
    if bound > least + 1e-9 * (1 + points.scale):
        return WRONG_BOUND, f"{method} bounds the property by {bound}, a point has {least}"
    return RIGHT, f"bound by {method}"


def _violated(drawn: Drawn, loaded: LoadedModel, points: Sampled, random: Generator, timeout: float) -> Told:
    """With a threshold just above the least value found, whatever float32 makes of it, `unsat` is wrong."""
    outputs = loaded.network.values(torch.from_numpy(points.points))[-1].flatten(1)
    own = (outputs @ torch.from_numpy(drawn.row)).numpy()
    least = np.maximum(own, points.values).min()  # where rounding moves a step, both see the lower side
    return _asked(drawn, float(least + ROUNDING * (1e-3 + points.scale)), True, random, timeout)


def _open(drawn: Drawn, loaded: LoadedModel, points: Sampled, random: Generator, timeout: float) -> Told:
    """With a threshold below all values found, `sat` needs a better point, and `unsat` may be right."""
    gap = float(random.choice(GAPS)) * (1e-3 + points.scale)
    return _asked(drawn, float(points.values.min() - gap), False, random, timeout)


def _asked(drawn: Drawn, threshold: float, violated: bool, random: Generator, timeout: float) -> Told:
    text = drawn.text(threshold)
    options: dict[str, Any] = {
        "preset_name": str(random.choice(list(PRESETS))),
        "seed": int(random.integers(99)),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model: Any = drawn.model
        specification: Any = text
        if isinstance(model, bytes) and random.integers(3) == 0:
            options["certificate"] = folder / "proof.cert"
            model, specification = folder / "model.onnx", folder / "property.vnnlib"
            model.write_bytes(drawn.model)
            specification.write_text(text)
        try:
            result = verify.verify(
                model, specification, timeout=timeout, example_input=drawn.example, **options
            )
        except verify.InputError as error:
            if "certificate" not in options:
                raise
            return REFUSED, str(error)  # the checker reads less than the search
    return judge(drawn, threshold, violated, result), f"{result.verdict}: {result.reason}; {options}"


def judge(drawn: Drawn, threshold: float, violated: bool, result: verify.Result) -> str:
    """What a verdict is worth."""
    if result.verdict == "unsat":
        if not violated:
            return RIGHT
        return WRONG_UNSAT if result.certificate is None else WRONG_PROOF
    if result.verdict == "sat":
        assert result.witness is not None
        x = result.witness.inputs.ravel().astype(np.float64)
        return RIGHT if drawn.violated(x, threshold) else WRONG_WITNESS
    return UNDECIDED


def report(findings: Sequence[Finding]) -> str:
    """A table of judgements by the models' routes, and which operators were refused."""
    lines = []
    for route in (*ROUTES, ""):
        group = [finding for finding in findings if finding.kind.startswith(route)]
        count = Counter(finding.judgement for finding in group)
        cells = [
            len({finding.seed for finding in group}),
            len(group),
            count[RIGHT],
            count[UNDECIDED],
            count[REFUSED],
        ]
        lines.append([route or "all", *map(str, cells), str(sum(finding.wrong for finding in group))])
    return table(["models", "networks", "questions", RIGHT, UNDECIDED, REFUSED, "wrong"], lines)


def faults(findings: Sequence[Finding], asked: int) -> list[str]:
    """All reasons why the check fails, in words."""
    wrong, done = sum(finding.wrong for finding in findings), len({finding.seed for finding in findings})
    found = [f"{wrong} of {len(findings)} answers about planted points are wrong"] if wrong else []
    if findings and all(finding.judgement == REFUSED for finding in findings):
        found.append("every network was refused")
    return (
        [*found, f"time ran out: {done} of {asked} networks of all operators were done"]
        if done < asked
        else found
    )
