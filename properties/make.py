"""Makes the shipped problems: trains, exports, writes, decides, records. Run ``python -m properties.make``
from the root.

Seeds are fixed and everything runs on one CPU thread, so the same library versions write the same files.
Other versions may move a margin, never a verdict unnoticed: each is decided anew from the files just
written, and an instance that cannot be confirmed is dropped and said so.
"""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import torch
from torch import nn

from properties import models
from properties.decide import Decision, decide
from properties.export import export
from properties.spec import Case, write_property

SAMPLES = range(1400, 1420)
"""The test images that `samples.npz` of each family of digits holds."""

TIMEOUT = 60
"""The timeout, in seconds, that the instances ask for."""


class Problem(NamedTuple):
    """One property file: its name, what it says, and the unsafe cases."""

    name: str
    title: str
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Family:
    """A network and its properties."""

    name: str
    build: Callable[[], nn.Module]
    train: Callable[[nn.Module], float]
    shape: tuple[int, ...]
    outputs: int
    problems: tuple[Problem, ...]


def robustness(image: int, radius: str) -> Problem:
    """Some other label scores as high as the true one within `radius` of a test image, clipped to [0, 1]."""
    images, labels = models.digits()
    pixels = [Decimal(int(grey)) / 16 for grey in images[image].ravel()]
    label, width = int(labels[image]), Decimal(radius)
    case = Case(
        tuple(max(Decimal(0), pixel - width) for pixel in pixels),
        tuple(min(Decimal(1), pixel + width) for pixel in pixels),
        tuple((f"(>= Y_{other} Y_{label})",) for other in range(10) if other != label),
    )
    return Problem(
        f"image_{image}_radius_{radius}", f"shuffled digit {image}, label {label}, radius {radius}", (case,)
    )


def digits_family(
    name: str, build: Callable[[], nn.Module], epochs: int, choices: dict[int, tuple[str, ...]]
) -> Family:
    """Robustness around some test images, at some radii each."""
    problems = tuple(robustness(image, radius) for image, radii in choices.items() for radius in radii)
    return Family(name, build, lambda model: models.train_digits(model, epochs), (1, 1, 8, 8), 10, problems)


def case(bounds: str, *clauses: tuple[str, ...]) -> Case:
    """A case from "low high" pairs, one an input, separated by commas."""
    pairs = [tuple(map(Decimal, pair.split())) for pair in bounds.split(",")]
    return Case(tuple(low for low, _ in pairs), tuple(high for _, high in pairs), clauses)


EVERYWHERE = "-1 1, -1 1, -1 1, -1 1"

DOCKING = (
    Problem("thrust_bound", "either thrust leaves [-1.2, 1.2] near the dock", (
        case("-0.5 0.5, -0.5 0.5, -0.5 0.5, -0.5 0.5",
             ("(>= Y_0 1.2)",), ("(<= Y_0 -1.2)",), ("(>= Y_1 1.2)",), ("(<= Y_1 -1.2)",)),
    )),
    Problem("thrust_bound_tight", "either thrust leaves [-1.02, 1.02], anywhere", (
        case(EVERYWHERE, ("(>= Y_0 1.02)",), ("(<= Y_0 -1.02)",), ("(>= Y_1 1.02)",), ("(<= Y_1 -1.02)",)),
    )),
    Problem("brakes", "right of the dock and moving away, the thrust pushes on", (
        case("0.2 1, -1 1, 0.1 1, -1 1", ("(>= Y_0 0)",)),
    )),
    Problem("brakes_either_side", "moving away on either side, the thrust pushes on or idles", (
        case("0.3 1, -0.5 0.5, 0.2 1, -0.5 0.5", ("(>= Y_0 -0.3)",)),
        case("-1 -0.3, -0.5 0.5, -1 -0.2, -0.5 0.5", ("(<= Y_0 0.3)",)),
    )),
    Problem("ordered_thrusts", "further and faster right than up, yet pushed less left than down", (
        case("0.3 0.6, -0.3 0, 0.1 0.4, -0.4 0", ("(>= Y_0 Y_1)",)),
    )),
    Problem("ordered_thrusts_overlap", "the same with boxes that overlap", (
        case("0.1 0.6, -0.3 0.2, 0 0.4, -0.4 0.1", ("(>= Y_0 Y_1)",)),
    )),
    Problem("slow_is_legal", "slow in one of four corners, yet over the limit, or the limit tiny", tuple(
        case(box, ("(>= Y_3 Y_2)",), ("(<= Y_2 0.1)",))
        for box in (
            "0.4 1, 0.4 1, -0.2 0.2, -0.2 0.2", "-1 -0.4, 0.4 1, -0.2 0.2, -0.2 0.2",
            "0.4 1, -1 -0.4, -0.2 0.2, -0.2 0.2", "-1 -0.4, -1 -0.4, -0.2 0.2, -0.2 0.2",
        )
    )),
    Problem("full_thrust_while_fast", "over the limit with both thrusts saturated the same way", (
        case("-0.6 0.6, -0.6 0.6, -0.6 0.6, -0.6 0.6", ("(>= Y_3 Y_2)", "(>= Y_0 0.9)", "(>= Y_1 0.9)"),
             ("(>= Y_3 Y_2)", "(<= Y_0 -0.9)", "(<= Y_1 -0.9)")),
    )),
)  # fmt: skip


def families() -> Iterator[Family]:
    """All families; the radii stand where verdicts turn."""
    yield digits_family(
        "digits_fc",
        models.digits_fc,
        30,
        {
            1400: ("0.17",),
            1401: ("0.06", "0.1", "0.12", "0.14"),
            1404: ("0.14",),
            1405: ("0.1",),
            1406: ("0.14",),
        },
    )
    yield digits_family(
        "digits_conv",
        models.digits_conv,
        30,
        {
            1401: ("0.06", "0.1", "0.14"),
            1402: ("0.14",),
            1404: ("0.07", "0.08"),
            1405: ("0.06",),
            1406: ("0.1",),
        },
    )
    yield digits_family(
        "digits_resnet",
        models.digits_resnet,
        20,
        {1401: ("0.04", "0.09"), 1404: ("0.04", "0.06", "0.08"), 1405: ("0.04",), 1406: ("0.04",)},
    )
    yield digits_family(
        "digits_sigmoid",
        models.digits_sigmoid,
        150,
        {1401: ("0.04", "0.08"), 1404: ("0.03",), 1405: ("0.03", "0.06", "0.1", "0.14")},
    )
    yield Family("controller", models.controller, models.train_controller, (1, 4), 4, DOCKING)


def write_table(path: Path, header: str, rows: list[list[object]]) -> None:
    """A comma-separated table."""
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header.split(","), *rows])


def decisions(family: Family, folder: Path) -> Iterator[tuple[str, Decision]]:
    """Write each property, decide it from its file, and drop what stays unknown."""
    network = folder / "onnx" / f"{family.name}.onnx"
    for problem in family.problems:
        path = folder / "vnnlib" / f"{problem.name}.vnnlib"
        text = write_property(problem.title, family.outputs, problem.cases)
        path.write_text(text)
        found = decide(network, text)
        numbers = (
            f"{found.relaxation:9.4f} {found.lower_bound:9.4f} {found.margin:9.4f} {found.seconds:7.1f} s"
        )
        click.echo(f"{family.name:15} {problem.name:28} {found.verdict:8} {numbers}")
        if found.verdict == "unknown":
            path.unlink()
        else:
            yield path.name, found


def write_samples(path: Path) -> None:
    """Some test images and their labels, for `verify certify`."""
    images, labels = models.digits()
    x = np.stack([images[i] for i in SAMPLES]).astype(np.float32)[:, None] / np.float32(16)
    np.savez(path, x=x, y=np.array([labels[i] for i in SAMPLES]))


def make(family: Family, root: Path) -> None:
    """One family's folder, anew."""
    folder = root / family.name
    for kind in ("onnx", "vnnlib"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for old in (folder / kind).iterdir():
            old.unlink()
    torch.manual_seed(0)
    model = family.build()
    click.echo(f"{family.name}: trained, {family.train(model):.4f}")
    network = f"onnx/{family.name}.onnx"
    export(model.eval(), family.shape, folder / network)
    found = list(decisions(family, folder))
    instances = [[network, f"vnnlib/{name}", TIMEOUT, one.verdict] for name, one in found]
    write_table(folder / "instances.csv", "onnx,vnnlib,timeout_s,expected", [list(row) for row in instances])
    header = "vnnlib,verdict,method,relaxation,lower_bound,margin,gap,branching,seconds"
    write_table(folder / "verdicts.csv", header, [record(name, one) for name, one in found])
    if family.shape == (1, 1, 8, 8):
        write_samples(folder / "samples.npz")
    witnesses = {name: one.witness for name, one in found if one.witness}
    (folder / "witnesses.json").write_text(json.dumps(witnesses, indent=1).replace(",\n  ", ", ") + "\n")


def record(name: str, found: Decision) -> list[object]:
    """A row of verdicts.csv; unsat needs branching where the root's relaxation leaves a clause open."""
    branching = "yes" if found.verdict == "unsat" and found.relaxation <= 0 else "no"
    margins = (found.relaxation, found.lower_bound, found.margin, found.margin - found.lower_bound)
    numbers = [f"{number:.6f}" for number in margins]
    return [f"vnnlib/{name}", found.verdict, found.method, *numbers, branching, f"{found.seconds:.1f}"]


@click.command()
@click.argument("names", nargs=-1)
@click.option(
    "--root", type=click.Path(path_type=Path), default=Path(__file__).parent, help="Where the folders go."
)
def main(names: tuple[str, ...], root: Path) -> None:
    """Make the families NAMES (all of them by default)."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for family in families():
        if not names or family.name in names:
            make(family, root)


if __name__ == "__main__":
    main()
