"""Verdicts on random small networks against their exact optima. Run ``make soundness``.

A seed draws a ReLU network (dense, convolutional, or with a residual block), and a disjunction of conjunctions of rows over
one box or a box for each clause. A mixed-integer program (properties/milp.py, which shares no code with `verify`) encloses the
minimum of each clause's largest row between a bound and its value at an input. Then `verify` is asked twice: with thresholds
moved so far that the worst clause is violated by a margin at that very input, and so far that no clause is, by the same margin.
Numbers are exact: weights are float32, ends of boxes are multiples of 1/64, thresholds are float64 and written in full.

Other seeds draw networks of all operators, for which there is no such optimum: planted.py says what they are held against.

The exit status is 1 where a verdict contradicts the optimum or a planted point, a witness does not hold in ONNX Runtime, a bound is
above a value that a point takes, more than 2 % of the verdicts on ReLU networks are open, or time ran out before all networks
were done.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click
import numpy as np
import onnx
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import verify
from benchmarks import planted
from benchmarks.common import table
from benchmarks.runtime import Session
from properties.milp import encode
from properties.network import read_network
from verify.settings import preset

Array = NDArray[np.float64]

MARGINS = (1e-1, 1e-2, 1e-3, 1e-4)  # relative to the size of the rows' values
LEAST_MARGIN = 1e-5  # what the program's tolerances can tell
MOST_UNDECIDED = 0.02
RIGHT, UNDECIDED = "right", "undecided"
WRONG_SAT, WRONG_UNSAT = "wrong sat", "wrong unsat"
WRONG_WITNESS, WRONG_OPTIMUM, FAILED = "wrong witness", "wrong optimum", "failed"
WIDE, NARROW = (6, 20, 64), (2, 4, 8)  # the largest radius, in 64ths
FEW_INPUTS = 4  # with more, many conjunctions on wide boxes or with small margins are left open
IMAGES = ((1, 3, 3), (1, 4, 4), (2, 3, 3), (1, 4, 5))


@dataclass
class Graph:
    """An ONNX model under construction: each layer's name is the value it makes."""

    random: Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def add(self, kind: str, operands: Sequence[str], **attributes: Any) -> str:
        """One more node; returns its value."""
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(operands), [name], **attributes))
        return name

    def weighted(self, kind: str, operand: str, shape: tuple[int, ...], **attributes: Any) -> str:
        """A Gemm or Conv with random float32 weights and bias."""
        weight = self.random.standard_normal(shape) * (2 / math.prod(shape[1:])) ** 0.5
        names = [f"{kind}_{len(self.nodes)}_{part}" for part in ("weight", "bias")]
        for name, values in zip(names, (weight, 0.3 * self.random.standard_normal(shape[0])), strict=True):
            self.constants.append(numpy_helper.from_array(values.astype(np.float32), name))
        return self.add(kind, [operand, *names], **attributes)

    def dense(self, operand: str, before: int, after: int) -> str:
        """A dense layer."""
        return self.weighted("Gemm", operand, (after, before), transB=1)

    def model(self, output: str, shape: Sequence[int], outputs: int) -> onnx.ModelProto:
        """What has been made, from `X` to `output`."""
        element = onnx.TensorProto.FLOAT
        ends = [("X", [1, *shape]), (output, [1, outputs])]
        tensors = [helper.make_tensor_value_info(name, element, size) for name, size in ends]
        graph = helper.make_graph(self.nodes, "random", tensors[:1], tensors[1:], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def some_inputs(random: Generator) -> int:
    """A number of inputs: as often one where inputs are split as one where activations are."""
    return int(random.integers(17, 25) if random.integers(2) else random.integers(1, 17))


def dense(random: Generator, outputs: int) -> onnx.ModelProto:
    """One to three hidden layers of 3 to 12 neurons."""
    graph, value, inputs = Graph(random), "X", some_inputs(random)
    width = inputs
    for size in random.integers(3, 13, size=random.integers(1, 4)).tolist():
        value = graph.add("Relu", [graph.dense(value, width, size)])
        width = size
    return graph.model(graph.dense(value, width, outputs), [inputs], outputs)


def convolution(random: Generator, outputs: int) -> onnx.ModelProto:
    """A convolution of a tiny image and, every other time, a hidden layer behind it."""
    graph, image = Graph(random), IMAGES[random.integers(len(IMAGES))]
    channels, kernel, pad, stride = (
        int(random.integers(low, high)) for low, high in ((1, 3), (2, 4), (0, 2), (1, 3))
    )
    value = graph.weighted(
        "Conv", "X", (channels, image[0], kernel, kernel), strides=[stride, stride], pads=[pad] * 4
    )
    value = graph.add("Flatten", [graph.add("Relu", [value])])
    width = channels * math.prod((size + 2 * pad - kernel) // stride + 1 for size in image[1:])
    if random.integers(2):
        value = graph.add("Relu", [graph.dense(value, width, 6)])
        width = 6
    return graph.model(graph.dense(value, width, outputs), image, outputs)


def residual(random: Generator, outputs: int) -> onnx.ModelProto:
    """A hidden layer, a block that adds to it what another one makes of it, and an activation behind the sum."""
    graph, inputs = Graph(random), some_inputs(random)
    width, inner = (int(size) for size in random.integers(3, 9, size=2))
    start = graph.add("Relu", [graph.dense("X", inputs, width)])
    branch = graph.dense(graph.add("Relu", [graph.dense(start, width, inner)]), inner, width)
    end = graph.add("Relu", [graph.add("Add", [start, branch])])
    return graph.model(graph.dense(end, width, outputs), [inputs], outputs)


FAMILIES = {"dense": dense, "convolution": convolution, "residual": residual}


@dataclass(frozen=True)
class Clause:
    """Unsafe where `lower <= x <= upper` and all of `rows @ y <= thresholds`."""

    lower: Array
    upper: Array
    rows: Array
    thresholds: Array

    def moved(self, step: float) -> Clause:
        """The clause with all thresholds raised."""
        return replace(self, thresholds=self.thresholds + step)

    def text(self) -> str:
        """The clause in VNN-LIB."""
        parts = []
        for i, (low, high) in enumerate(zip(self.lower.tolist(), self.upper.tolist(), strict=True)):
            parts += [f"(>= X_{i} {low!r})", f"(<= X_{i} {high!r})"]
        for row, threshold in zip(self.rows.tolist(), self.thresholds.tolist(), strict=True):
            terms = " ".join(f"(* {value!r} Y_{i})" for i, value in enumerate(row))
            parts.append(f"(<= (+ {terms}) {threshold!r})")
        return f"(and {' '.join(parts)})"

    def holds(self, x: Sequence[float], y: Sequence[float]) -> bool:
        """Whether input and outputs are in the clause, in exact arithmetic on the decimals of its text."""
        inside = all(low <= value <= high for low, value, high in zip(self.lower, x, self.upper, strict=True))
        values = [Fraction(value) for value in y]
        return inside and all(
            sum(Fraction(repr(c)) * value for c, value in zip(row, values, strict=True))
            <= Fraction(repr(limit))
            for row, limit in zip(self.rows.tolist(), self.thresholds.tolist(), strict=True)
        )


def random_clause(random: Generator, inputs: int, outputs: int) -> Clause:
    """A random box, in which some inputs are fixed, and one to three random rows."""
    count = int(random.integers(1, 4))
    most = (WIDE if count == 1 or inputs <= FEW_INPUTS else NARROW)[random.integers(3)]
    radius = random.integers(1, most + 1, size=inputs)
    radius[random.random(inputs) < 0.05] = 0
    centre = random.integers(-64, 65, size=inputs)
    rows = np.round(random.standard_normal((count, outputs)), 2)
    thresholds = np.round(0.3 * random.standard_normal(count), 2)
    return Clause((centre - radius) / 64, (centre + radius) / 64, rows, thresholds)


def random_clauses(random: Generator, inputs: int, outputs: int) -> list[Clause]:
    """One clause as often as a disjunction of two to four, which mostly share a box."""
    count = 1 if random.integers(2) else int(random.integers(2, 5))
    clauses = [random_clause(random, inputs, outputs) for _ in range(count)]
    if random.integers(4):
        longest = max(clauses, key=lambda clause: len(clause.rows))
        clauses = [replace(clause, lower=longest.lower, upper=longest.upper) for clause in clauses]
    return clauses


class Optimum(NamedTuple):
    """The minimum of a clause's largest row less its threshold lies in [bound, value]; `scale` is the size of the rows."""

    bound: float
    value: float
    scale: float


def optimum(path: Path, clause: Clause, random: Generator) -> Optimum:
    """By the mixed-integer program; the scale from some random inputs."""
    found = encode(path, clause.lower, clause.upper).minimise(clause.rows, clause.thresholds, seconds=20)
    network = read_network(path)
    points = random.uniform(clause.lower, clause.upper, size=(32, len(clause.lower)))
    scale = max(float(np.abs(clause.rows @ network.forward(x)).max()) for x in points)
    return Optimum(found.lower_bound, found.margin, scale)


@dataclass(frozen=True)
class Question:
    """Clauses whose verdict is known: violated, or not, by at least `margin`."""

    expected: str
    clauses: tuple[Clause, ...]
    margin: float

    def text(self) -> str:
        """The property in VNN-LIB."""
        clauses = self.clauses
        sizes = (("X", len(clauses[0].lower)), ("Y", clauses[0].rows.shape[1]))
        lines = [f"(declare-const {name}_{i} Real)" for name, size in sizes for i in range(size)]
        return "\n".join([*lines, f"(assert (or {' '.join(clause.text() for clause in clauses)}))", ""])


def questions(
    clauses: Sequence[Clause], optima: Sequence[Optimum], random: Generator
) -> tuple[Question, ...]:
    """The same clauses twice, one of them just violated and just not; the others never are, and some hardly."""
    worst = int(random.integers(len(clauses)))
    best = optima[worst]
    hard = len(clauses[worst].lower) > FEW_INPUTS and max(len(clause.rows) for clause in clauses) > 1
    shares = MARGINS[:2] if hard else MARGINS
    margin = max(shares[random.integers(len(shares))] * best.scale, best.value - best.bound, LEAST_MARGIN)
    spare = margin + random.choice([0, 0.01, 0.5], size=len(clauses)) * [one.scale for one in optima]
    safe = [
        clause.moved(one.bound - float(step))
        for clause, one, step in zip(clauses, optima, spare, strict=True)
    ]
    safe[worst] = clauses[worst].moved(best.bound - margin)
    unsafe = list(safe)
    unsafe[worst] = clauses[worst].moved(best.value + margin)
    return Question("sat", tuple(unsafe), margin), Question("unsat", tuple(safe), margin)


@dataclass(frozen=True)
class Example:
    """What a seed draws; no questions where the program was not solved."""

    seed: int
    family: str
    model: onnx.ModelProto
    free_inputs: int
    questions: tuple[Question, ...]

    @property
    def kind(self) -> str:
        """The family, and what the default preset splits in its search."""
        splits = "inputs" if self.free_inputs <= preset("default").splittable_inputs else "activations"
        return f"{self.family}, {splits} split"


def example(seed: int) -> Example:
    """Draws a network, clauses and margins, and finds the optima."""
    random = np.random.default_rng(seed)
    family = list(FAMILIES)[random.choice(3, p=[0.5, 0.25, 0.25])]
    outputs = int(random.integers(2, 5))
    model = FAMILIES[family](random, outputs)
    inputs = math.prod(axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim)
    clauses = random_clauses(random, inputs, outputs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.onnx"
        onnx.save(model, path)
        optima = [optimum(path, clause, random) for clause in clauses]
    solved = all(np.isfinite(one).all() for one in optima)
    free = max(int((clause.upper > clause.lower).sum()) for clause in clauses)
    return Example(seed, family, model, free, questions(clauses, optima, random) if solved else ())


def confirmed(model: onnx.ModelProto, question: Question, result: verify.Result) -> bool:
    """Whether the witness violates the property, by ONNX Runtime here and now."""
    if result.witness is None:
        return False
    (outputs,) = Session(model.SerializeToString()).run(result.witness.inputs[None])
    x, y = result.witness.inputs.ravel().tolist(), outputs.ravel().tolist()
    return any(clause.holds(x, y) for clause in question.clauses)


def judge(model: onnx.ModelProto, question: Question, result: verify.Result) -> str:
    """What a verdict is worth. A witness that holds where there can be none speaks against the optimum."""
    if result.verdict not in ("sat", "unsat"):
        return UNDECIDED
    if result.verdict == "unsat":
        return RIGHT if question.expected == "unsat" else WRONG_UNSAT
    real = confirmed(model, question, result)
    if question.expected == "sat":
        return RIGHT if real else WRONG_WITNESS
    return WRONG_OPTIMUM if real else WRONG_SAT


class Finding(NamedTuple):
    """One question of one network, and what came of it."""

    seed: int
    kind: str
    expected: str
    judgement: str
    detail: str
    seconds: float

    @property
    def wrong(self) -> bool:
        """Whether anything is wrong."""
        return self.judgement not in (RIGHT, UNDECIDED)

    def line(self) -> str:
        """The finding in words."""
        return f"--seed {self.seed}: {self.judgement} ({self.kind}; expected {self.expected}; {self.detail})"


def ask(one: Example, question: Question, timeout: float, device: str = "auto") -> Finding:
    """Asks `verify`; an exception is a finding too."""
    started = time.monotonic()
    detail = f"margin {question.margin:.1e}, rows {[len(clause.rows) for clause in question.clauses]}"
    try:
        result = verify.verify(one.model, question.text(), timeout=timeout, device=device)
        judgement, reason = judge(one.model, question, result), f"{result.verdict}: {result.reason}"
    except Exception as error:
        judgement, reason = FAILED, f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - started
    return Finding(one.seed, one.kind, question.expected, judgement, f"{detail}; {reason}", seconds)


def examine(seed: int, timeout: float) -> list[Finding]:
    """Both questions of one network."""
    one = example(seed)
    if not one.questions:
        return [Finding(seed, one.kind, "-", UNDECIDED, "the mixed-integer program was not solved", 0.0)]
    return [ask(one, question, timeout) for question in one.questions]


def start_worker() -> None:
    """One thread for each process; and HiGHS is not to print between the findings."""
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


F = TypeVar("F", Finding, planted.Finding)


def examine_all(
    task: Callable[[int, float], list[F]], seeds: Sequence[int], jobs: int, timeout: float, stop: float = math.inf
) -> Iterator[list[F]]:  # fmt: skip
    """The findings of each network as they come; none is begun after `stop`, on the monotonic clock."""
    os.environ["OMP_NUM_THREADS"] = "1"
    spawn = multiprocessing.get_context("spawn")
    waiting, running = list(reversed(seeds)), set[Future[list[F]]]()
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=start_worker) as pool:
        while True:
            while waiting and len(running) < jobs and time.monotonic() < stop:
                running.add(pool.submit(task, waiting.pop(), timeout))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()


def report(findings: Sequence[Finding]) -> str:
    """A table of judgements by kind of network."""
    groups: dict[str, list[Finding]] = {}
    for finding in sorted(findings, key=lambda finding: finding.kind):
        groups.setdefault(finding.kind, []).append(finding)
    lines = []
    for kind, group in (*groups.items(), ("all", list(findings))):
        count = Counter(finding.judgement for finding in group)
        wrong, seconds = (
            sum(finding.wrong for finding in group),
            [finding.seconds for finding in group] or [0.0],
        )
        networks = len({finding.seed for finding in group})
        cells = [networks, len(group), count[RIGHT], count[UNDECIDED], wrong]
        times = [f"{sum(seconds) / len(seconds):.2f}", f"{max(seconds):.2f}"]
        lines.append([kind, *map(str, cells), *times])
    return table(["network", "networks", "verdicts", RIGHT, UNDECIDED, "wrong", "mean s", "most s"], lines)


def faults(findings: Sequence[Finding], asked: int) -> list[str]:
    """All reasons why the check fails, in words."""
    found = []
    wrong = sum(finding.wrong for finding in findings)
    undecided = sum(finding.judgement == UNDECIDED for finding in findings)
    done = len({finding.seed for finding in findings})
    if wrong:
        found.append(f"{wrong} of {len(findings)} verdicts are wrong")
    if undecided > MOST_UNDECIDED * len(findings):
        found.append(f"{undecided} of {len(findings)} verdicts are open, more than {MOST_UNDECIDED:.0%}")
    if done < asked:
        found.append(f"time ran out: {done} of {asked} networks were done")
    return found


@click.command()
@click.option(
    "--networks", type=click.IntRange(min=0), default=500, show_default=True, help="With exact optima."
)
@click.option(
    "--planted",
    "points",
    type=click.IntRange(min=0),
    default=1500,
    show_default=True,
    help="Of all operators.",
)
@click.option("--first-seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--seed",
    "-s",
    "seeds",
    type=click.IntRange(min=0),
    multiple=True,
    help="This one of the first kind alone.",
)
@click.option(
    "--point",
    "-p",
    "chosen",
    type=click.IntRange(min=0),
    multiple=True,
    help="This one of the second kind alone.",
)
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="Worker processes.")
@click.option("--minutes", default=20.0, show_default=True, help="No network is begun later.")
@click.option(
    "--timeout", default=10.0, show_default=True, help="Seconds for each verdict with an exact optimum."
)
def main(
    networks: int, points: int, first_seed: int, seeds: tuple[int, ...], chosen: tuple[int, ...], jobs: int, minutes: float,
    timeout: float,
) -> None:  # fmt: skip
    """Compare verdicts on random networks with exact optima, or with planted points."""
    started = time.monotonic()
    stop = started + 60 * minutes
    if not (seeds or chosen):
        seeds, chosen = (tuple(range(first_seed, first_seed + count)) for count in (networks, points))
    failed: list[str] = []
    if seeds:
        exact = list(_told(examine_all(examine, seeds, jobs, timeout, stop)))
        click.echo(report(exact))
        failed += faults(exact, len(seeds))
    if chosen:
        others = list(_told(examine_all(planted.examine, chosen, jobs, planted.SECONDS, stop)))
        click.echo(planted.report(others))
        failed += planted.faults(others, len(chosen))
    click.echo(f"{time.monotonic() - started:.0f} s")
    for fault in failed:
        click.echo(f"FAILED: {fault}")
    sys.exit(1 if failed else 0)


def _told(found: Iterator[list[F]]) -> Iterator[F]:
    """All findings, each printed where it is worth a look."""
    for findings in found:
        for finding in findings:
            if finding.wrong or (isinstance(finding, Finding) and finding.judgement != RIGHT):
                click.echo(finding.line())
            yield finding


if __name__ == "__main__":
    main()
