"""The figures of the documentation, drawn from the measured data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks.common import Row
from benchmarks.tightness import grouped, is_reference

_FLOOR, _TOP = 1e-5, 2.0  # gaps below are drawn there; gaps above are left out
COLOURS = ("#111111", "#b8860b", "#2a7f62", "#6a4c93", "#c1272d")
MARKERS = "sv^Do"
STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "verify", "font.family": "sans-serif", "font.size": 10, "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": "#555555", "grid.color": "#e4e4e4", "figure.facecolor": "white",
}  # fmt: skip

Point = tuple[float, float]


def points(rows: Sequence[Row]) -> dict[str, list[Point]]:
    """For every method its mean seconds and mean relative gap, by iterations."""
    found: dict[str, list[Point]] = {}
    for (method, _), group in grouped(rows).items():
        gaps = [1 - row["closed"] for row in group if row["closed"] is not None]
        seconds = mean(row["climb_seconds"] + row["final_seconds"] for row in group)
        if gaps and mean(gaps) < _TOP and not is_reference(method):
            found.setdefault(method, []).append((seconds, max(_FLOOR, mean(gaps))))
    return found


def tightness(rows: Sequence[Row], path: Path) -> None:
    """Gap to the best bound known against seconds, a line for each method."""
    with mpl.rc_context(STYLE):  # type: ignore[arg-type, unused-ignore]
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        axes = figure.add_subplot()
        for index, (method, line) in enumerate(points(rows).items()):
            axes.loglog(
                *zip(*line, strict=True), label=method, color=COLOURS[index % len(COLOURS)], linewidth=1.8,
                marker=MARKERS[index % len(MARKERS)], markersize=6,
            )  # fmt: skip
        dress(axes)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})


def dress(axes: Axes) -> None:
    """Labels, ticks and the legend."""
    axes.set_xlabel("seconds for one bound (mean over problems)")
    axes.set_ylabel("gap left to the best bound known (CROWN = 100 %)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:,.6g} %"))
    axes.grid(True, which="major")
    axes.set_axisbelow(True)
    axes.legend(loc="lower right", framealpha=1.0, edgecolor="white")
