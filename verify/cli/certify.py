"""`verify certify` and `verify radius`: data sets and samples. Everything heavy is imported inside."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from verify.cli import options
from verify.errors import DECIDED, UNDECIDED, InputError
from verify.extensions import loaded
from verify.output import as_json
from verify.process import answer

if TYPE_CHECKING:
    from verify.study.study import Study

_CERTIFY = options.codes(
    "verify certify model.onnx test.npz --eps 0.01,0.02,0.05 --out study --report study.html",
    "verify certify model.onnx images.npy labels.npy --eps 8/255 --mean 0.49,0.48,0.45 --std 0.25,0.24,0.26",
    code0="all samples are decided",
    code1="some are open",
)
_RADIUS = options.codes(
    "verify radius model.onnx test.npz --sample 3 --tolerance 0.001",
    code0="both radii are near enough, or nothing was found up to the largest",
    code1="they are not",
)


class _Numbers(click.ParamType):  # type: ignore[type-arg]
    """Numbers between commas, each a decimal or a quotient of two."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return [_number(part) for part in value.split(",")]
        except (ValueError, ZeroDivisionError, OverflowError):
            self.fail(f"{value[:60]!r} is not numbers such as 0.01,0.02 or 8/255.", param, ctx)


def _number(text: str) -> float:
    over, slash, under = text.partition("/")
    return float(over) / float(under) if slash else float(over)


class _Range(_Numbers):
    """Two numbers, or none."""

    name = "low,high"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in ("none", None):
            return None
        ends = super().convert(value, param, ctx)
        if len(ends) != 2:
            self.fail(f"{value!r} is not two numbers, such as 0,1.", param, ctx)
        return tuple(ends)


_SHARED: tuple[Callable[[Any], Any], ...] = (
    options.MODEL,
    click.argument("data", type=options.FILE),
    click.argument("labels", required=False, type=options.FILE),
    click.option("--norm", type=click.Choice(["inf", "2", "1"]), default="inf", show_default=True),
    click.option("--clip", type=_Range(), default="0,1", show_default=True, help="The data's range; none for none."),
    click.option("--mean", type=_Numbers(), help="The model is given (x - mean) / std: a number, or one for each channel."),
    click.option("--std", type=_Numbers()),
    options.MEMORY,
    options.DEVICE,
    options.PRESET,
    options.SEED,
    options.OUTPUT,
    options.FORMAT,
)  # fmt: skip


def _shared(command: Callable[..., Any]) -> Callable[..., Any]:
    """The arguments and options of both commands."""
    for option in reversed(_SHARED):
        command = option(command)
    return command


@click.command(epilog=_CERTIFY, short_help="Certified accuracy of MODEL on DATA.")
@_shared
@click.option("--eps", "epsilon", type=_Numbers(), required=True, help="Radii: 0.01,0.02 or 8/255.")
@click.option(
    "--timeout", type=options.SECONDS, default=10.0, show_default=True, help="Seconds of each search."
)
@click.option("--limit", type=click.IntRange(min=1), help="Of the first so many samples.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder for the rows; one that has some is gone on with.",
)
@click.option("--certificates", is_flag=True, help="A proof of every verdict, in the folder of --out.")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="An HTML page of the study.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
def certify(
    model: Path, data: Path, labels: Path | None, report: Path | None, quiet: bool, form: str, **asked: Any
) -> int:
    """How many samples of DATA does MODEL classify rightly, whatever happens within a radius of them?

    DATA: an .npz file of x and y, an .npy file of samples with one of LABELS, or a folder of images with a folder for each class. On stdout, for each radius,
    the shares of samples that are rightly classified (clean), of these the ones without a known counterexample (attacked) and the ones
    that are proved safe (certified), and what is open.
    """
    files = [path for path in (model, data, labels) if path is not None and not os.path.isdir(path)]
    options.admitted(files, {"--report": report})
    options.import_libraries(asked.pop("memory"), asked["device"])
    from verify.reports.terminal import study_progress
    from verify.study.certify import certify

    with study_progress(quiet) as observe:
        study = certify(
            model, data, labels, preset_name=asked.pop("preset"), observe=observe, **_single(asked)
        )
    if report is not None:
        from verify.reports.study_report import write_study

        write_study(report, study)
    options.tell_extensions()
    answer(_shown(study) if form == "json" else f"{study}\n")
    open_rows = any(row.verdict in ("unknown", "timeout") for row in study.rows)
    return UNDECIDED if open_rows else DECIDED


def _single(asked: dict[str, Any]) -> dict[str, Any]:
    """A mean or std of one number is that number."""
    for name in ("mean", "std"):
        if asked[name] is not None and len(asked[name]) == 1:
            asked[name] = asked[name][0]
    return asked


def _shown(study: Study) -> str:
    accuracies = [asdict(study.accuracy(radius)) for radius in study.radii]
    return (
        as_json(
            {
                "seconds": study.seconds,
                "extensions": list(map(str, loaded())),
                "radii": accuracies,
                "rows": [asdict(row) for row in study.rows],
            }
        )
        + "\n"
    )


@click.command(epilog=_RADIUS, short_help="The largest safe radius around a sample of DATA.")
@_shared
@click.option(
    "--sample", type=click.IntRange(min=0), default=0, show_default=True, help="Which sample of DATA."
)
@click.option("--tolerance", type=click.FloatRange(min=0, min_open=True), default=1e-3, show_default=True)
@click.option("--largest", type=float, help="Where to begin. [default: the width of --clip]")
@click.option("--timeout", type=options.SECONDS, help="Seconds, of all searches together.")
@click.option(
    "--search-timeout", type=options.SECONDS, default=10.0, show_default=True, help="Seconds of each search."
)
def radius(model: Path, data: Path, labels: Path | None, sample: int, form: str, **asked: Any) -> int:
    """Up to which radius around a sample of DATA does MODEL give its label?

    On stdout a radius that is certified, and one within which there is a counterexample, at most --tolerance apart if nothing takes too long.
    """
    options.import_libraries(asked.pop("memory"), asked["device"])
    from verify.study.data import read
    from verify.study.radius import radius

    found = read(data, labels, sample + 1)
    if len(found) <= sample:
        raise InputError(f"--sample {sample}: {data} has {len(found)} samples, counted from 0")
    label = int(found.labels[sample])
    ends = radius(model, found.x[sample], label, preset_name=asked.pop("preset"), **_single(asked))
    options.tell_extensions()
    record = {"certified": ends.certified, "falsified": ends.falsified, "reason": ends.reason, "balls": ends.balls, "seconds": ends.seconds}  # fmt: skip
    witness = None if ends.witness is None else ends.witness.inputs.ravel().tolist()
    if form == "json":
        answer(
            as_json({**record, "label": label, "witness": witness, "extensions": list(map(str, loaded()))})
            + "\n"
        )
    else:
        falsified = "none" if ends.falsified is None else f"{ends.falsified:.9g}"
        answer(f"certified {ends.certified:.9g}\nfalsified {falsified}\n")
        click.echo(f"{ends.reason} ({ends.balls} balls searched, {ends.seconds:.2f} s)", err=True)
    near = ends.falsified is None or ends.falsified - ends.certified <= asked["tolerance"]
    return DECIDED if near else UNDECIDED
