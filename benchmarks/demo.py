"""Decides the shipped problems and compares the verdicts with the expected ones. Run ``make demo``.

The expected verdicts come from an exact method that shares no code with `verify` (see properties/README.md). A line is
printed for each instance as it is decided; one counterexample is shown with its outputs, run once more in ONNX Runtime by
this script itself. The exit status is 1 where a verdict is wrong; an undecided instance is counted, not an error.
"""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import onnxruntime

import verify

PROPERTIES = Path(__file__).resolve().parent.parent / "properties"
LINE = "{:15} {:26} {:8} {:8} {:>11} {:>8} {:>12}"


@dataclass(frozen=True)
class Instance:
    """A row of an instances.csv."""

    family: str
    model: Path
    specification: Path
    timeout: float
    expected: str


@dataclass(frozen=True)
class Decided:
    """An instance, what came out, and its property's bound before any branching."""

    instance: Instance
    result: verify.Result
    root_bound: float

    @property
    def wrong(self) -> bool:
        """Whether the verdict contradicts the expected one."""
        return {self.result.verdict, self.instance.expected} == {"sat", "unsat"}


def instances(families: tuple[str, ...]) -> Iterator[Instance]:
    """The shipped instances, family by family."""
    for table in sorted(PROPERTIES.glob("*/instances.csv")):
        folder = table.parent
        if families and folder.name not in families:
            continue
        with table.open(newline="") as file:
            for row in csv.DictReader(file):
                timeout = float(row["timeout_s"])
                yield Instance(
                    folder.name, folder / row["onnx"], folder / row["vnnlib"], timeout, row["expected"]
                )


def decide(instance: Instance, timeout: float | None) -> Decided:
    """Both the root's bound and the verdict; the verdict's time includes loading."""
    found = verify.bounds(instance.model, instance.specification)
    limit = instance.timeout if timeout is None else min(timeout, instance.timeout)
    result = verify.verify(instance.model, instance.specification, timeout=limit)
    return Decided(instance, result, min(found.bounds))


def show(one: Decided) -> None:
    """The line of an instance."""
    result, instance = one.result, one.instance
    verdict = result.verdict + (" (WRONG)" if one.wrong else "")
    bound, seconds, count = (
        f"{one.root_bound:.4f}",
        f"{result.seconds:.2f} s",
        result.statistics["subproblems"],
    )
    name = instance.specification.stem
    click.echo(LINE.format(instance.family, name, verdict, instance.expected, bound, seconds, count))


def show_witness(one: Decided) -> None:
    """A counterexample, and what ONNX Runtime makes of it here and now."""
    witness = one.result.witness
    assert witness is not None
    session = onnxruntime.InferenceSession(one.instance.model, providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {session.get_inputs()[0].name: witness.inputs})
    same = np.array_equal(outputs.ravel(), witness.outputs.ravel())
    text = one.instance.specification.read_text().splitlines()
    says = next((line.lstrip("; ") for line in text if line.startswith(";")), one.instance.specification.name)
    click.echo(f"\nA counterexample of {one.instance.family}/{one.instance.specification.stem} ({says}):")
    click.echo("  X = " + " ".join(f"{value:.9g}" for value in witness.inputs.ravel()))
    click.echo("  Y = " + " ".join(f"{value:.9g}" for value in outputs.ravel()))
    click.echo(
        f"  Y is what ONNX Runtime computes from X; {'the same as' if same else 'NOT what'} the verifier reported."
    )
    if not same:
        sys.exit(1)


@click.command()
@click.argument("families", nargs=-1)
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds for each instance, at most."
)
def main(families: tuple[str, ...], timeout: float | None) -> None:
    """Decide the shipped problems of FAMILIES (all of them by default)."""
    started = time.monotonic()
    click.echo(LINE.format("family", "instance", "verdict", "expected", "root bound", "time", "subproblems"))
    decided = []
    for instance in instances(families):
        decided.append(decide(instance, timeout))
        show(decided[-1])
    violated = [one for one in decided if one.result.witness is not None]
    if violated:
        show_witness(
            min(violated, key=lambda one: one.result.witness.inputs.size if one.result.witness else 0)
        )
    wrong = sum(one.wrong for one in decided)
    open_ = sum(one.result.verdict not in ("sat", "unsat") for one in decided)
    click.echo(
        f"\n{len(decided)} instances: {len(decided) - wrong - open_} as expected, {wrong} wrong, {open_} undecided; "
        f"{time.monotonic() - started:.0f} s. (root bound: the lowest of the clauses' bounds; above 0 the property holds)"
    )
    sys.exit(1 if wrong or not decided else 0)


if __name__ == "__main__":
    main()
