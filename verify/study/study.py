"""What a study ends with: rows, and what they say together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from verify.study.data import Data
from verify.study.question import Balls
from verify.study.records import UNDECIDED, VERDICTS, Row
from verify.validation import choice, real, refuse

if TYPE_CHECKING:
    from verify.loading.loaded import Export
    from verify.validation import Floats

HEADING = ("radius", "samples", "clean", "attacked", "certified", "open", "seconds")


@dataclass(frozen=True)
class Accuracy:
    """Shares of all samples at one radius, from 0 to 1.

    clean: rightly classified as they are. attacked: of which no counterexample is known (an upper bound of the accuracy under attack).
    certified: proved safe (a lower bound of it). open: neither, the difference of the two. seconds: that all took together.
    """

    epsilon: float
    samples: int
    clean: float
    attacked: float
    certified: float
    open: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Study:
    """The rows of a data set, by sample and radius. seconds: of the whole call. export: the file that certificates of a module of torch are of."""

    rows: tuple[Row, ...]
    radii: tuple[float, ...]
    data: Data
    balls: Balls
    shape: tuple[int, ...]  # of the model's input
    folder: Path | None
    seconds: float
    export: Export | None = None

    def accuracy(self, epsilon: float) -> Accuracy:
        """What holds at one of the radii. Raises InputError for another one."""
        size = real("epsilon", epsilon)
        if size not in self.radii:
            known = ", ".join(f"{radius:g}" for radius in self.radii)
            refuse("epsilon", f"is {size}", f"the study is of {known}")
        rows = [row for row in self.rows if row.epsilon == size]
        counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in VERDICTS}
        undecided = sum(counts[verdict] for verdict in UNDECIDED)
        clean = len(rows) - counts["misclassified"]
        numbers = clean, clean - counts["sat"], counts["unsat"], undecided
        clean_share, attacked, certified, open_share = (number / len(rows) for number in numbers)
        seconds = sum(row.seconds for row in rows)
        return Accuracy(size, len(rows), clean_share, attacked, certified, open_share, seconds)

    def table(self) -> str:
        """The accuracies of all radii, as text in columns."""
        lines = [list(HEADING), *(list(cells(self.accuracy(radius))) for radius in self.radii)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(HEADING))]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
        )

    def __str__(self) -> str:
        return self.table()

    def images(self, verdict: str | None = None, epsilon: float | None = None) -> list[int]:
        """The samples with such a verdict (at such a radius), in order."""
        if verdict is not None:
            choice("verdict", verdict, VERDICTS)
        size = None if epsilon is None else real("epsilon", epsilon)
        chosen = (r for r in self.rows if verdict in (None, r.verdict) and size in (None, r.epsilon))
        return sorted({row.image for row in chosen})

    def counterexample(self, row: Row) -> tuple[Floats, Floats]:
        """The sample of a row and the changed one, both in the data's units and the sample's shape. Raises InputError where there is none."""
        if row.witness is None:
            refuse("the row", f"is {row.verdict}", "only rows that are sat have a counterexample")
        original = self.data.x[row.image]
        sample = self.balls.at(original, 0.0, row.label).sample
        changed = np.array(row.witness).reshape(original.shape)
        return original, changed * sample.std + sample.mean

    def plot(self, axes: Any = None) -> Any:
        """Accuracies over radii, on axes of matplotlib (new ones where None), which are returned. Raises InputError without matplotlib."""
        try:
            from matplotlib import pyplot
        except ImportError:
            refuse("plot", "needs matplotlib, which is not installed", "pip install 'nn-verify[plot]'")
        axes = pyplot.subplots()[1] if axes is None else axes
        found = [self.accuracy(radius) for radius in self.radii]
        for name in ("clean", "attacked", "certified"):
            axes.plot(self.radii, [100 * getattr(one, name) for one in found], marker="o", label=name)
        lower, upper = ([100 * getattr(one, name) for one in found] for name in ("certified", "attacked"))
        axes.fill_between(self.radii, lower, upper, alpha=0.2, label="open")
        axes.set_xlabel(f"radius (norm {self.balls.norm})")
        axes.set_ylabel("samples, %")
        axes.set_ylim(0, 100)
        axes.legend()
        return axes

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in HEADING)
        rows = (cells(self.accuracy(radius)) for radius in self.radii)
        body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def cells(one: Accuracy) -> Sequence[str]:
    """A line of the table."""
    shares = (f"{100 * share:.1f}%" for share in (one.clean, one.attacked, one.certified, one.open))
    return (f"{one.epsilon:g}", str(one.samples), *shares, f"{one.seconds:.1f}")
