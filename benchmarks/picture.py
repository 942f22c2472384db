"""The picture at the head of the README, from what is proved and found now: ``python -m benchmarks.picture``.

A digit of the shipped samples, a change that makes it another one, and, over radii, of how many samples each is proved or refuted.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import verify
from verify.study.study import Study

ROOT = Path(__file__).resolve().parent.parent
FAMILY = ROOT / "properties" / "digits_conv"
RADII = tuple(round(0.01 * step, 2) for step in range(1, 17))
SHOWN = 0.08  # the radius of the counterexample
INK, GOOD, BAD = "#24292f", "#2a7f62", "#c1272d"
STYLE = {
    "svg.fonttype": "path", "svg.hashsalt": "verify", "font.size": 10, "axes.edgecolor": "#8c959f", "text.color": INK,
    "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "figure.facecolor": "white",
}  # fmt: skip


def images(study: Study, axes: tuple[Axes, Axes, Axes]) -> None:
    """The first counterexample at the radius: the sample, the changed one, the difference."""
    row = next(row for row in study.rows if row.verdict == "sat" and row.epsilon == SHOWN)
    original, changed = (image.reshape(8, 8) for image in study.counterexample(row))
    for axis, image, title in ((axes[0], original, row.label), (axes[1], changed, row.given)):
        axis.imshow(image, cmap="gray", vmin=0, vmax=1)
        axis.set_title(f"read as {title}", color=INK, fontsize=12)
    axes[2].imshow(changed - original, cmap="RdBu_r", vmin=-0.12, vmax=0.12)
    axes[2].set_title(f"changed by at most {SHOWN}", color=INK, fontsize=12)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])


def shares(study: Study, axis: Axes) -> None:
    """Proved below, refuted above."""
    found = [study.accuracy(radius) for radius in study.radii]
    x = [0.0, *study.radii]
    certified = [100 * found[0].clean, *(100 * one.certified for one in found)]
    attacked = [100 * found[0].clean, *(100 * one.attacked for one in found)]
    axis.fill_between(x, 0, certified, color=GOOD, alpha=0.85, linewidth=0)
    axis.fill_between(x, certified, attacked, color="#d4a72c", linewidth=0)
    axis.fill_between(x, attacked, 100 * found[0].clean, color=BAD, alpha=0.75, linewidth=0)
    axis.text(0.006, 8, "proved: no change makes it another digit", color="white", fontsize=12)
    axis.text(0.156, 88, "refuted: one is found", color="white", fontsize=12, ha="right", va="top")
    axis.set_xlim(0, max(x))
    axis.set_ylim(0, 100)
    axis.set_xlabel("largest change of a pixel")
    axis.set_ylabel("samples, %")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def draw(path: Path) -> Study:
    """Decides all and draws them."""
    study = verify.certify(
        FAMILY / "onnx" / "digits_conv.onnx", FAMILY / "samples.npz", epsilon=RADII, timeout=60
    )
    with mpl.rc_context(STYLE):  # type: ignore[arg-type, unused-ignore]
        figure = Figure(figsize=(11, 2.7), layout="constrained")
        grid = figure.add_gridspec(1, 4, width_ratios=(1, 1, 1, 2))
        places = [figure.add_subplot(grid[0, place]) for place in range(4)]
        images(study, (places[0], places[1], places[2]))
        shares(study, places[3])
        figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    return study


if __name__ == "__main__":
    print(draw(ROOT / "docs" / "images" / "first.svg"))
