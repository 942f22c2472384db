"""A study's page: what was asked, the accuracies as a table and a chart, counterexamples as pictures, and every sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from html import escape
from pathlib import Path

import numpy as np

from verify import __version__
from verify.output import write_whole
from verify.reports.page import Axes, Cell, as_image, difference, document, picture, table
from verify.study.records import Row
from verify.study.study import HEADING, Study, cells

_PICTURES = 24
_NAMES = {
    "inf": "whose entries are all within",
    "2": "within Euclidean distance",
    "1": "whose entries' differences add up to at most",
}
_MEANING = {
    "clean": "rightly classified as they are",
    "attacked": "of these, without a known counterexample: the accuracy under attack is at most this",
    "certified": "proved to keep their label throughout the ball: the accuracy under any attack is at least this",
    "open": "neither proved nor refuted in the time given",
}


def write_study(path: Path, study: Study, title: str = "Certified accuracy") -> None:
    """The page in a file. Raises InputError and UnwrittenError."""
    write_whole(f"--report {path}", path, study_page(study, title).encode(errors="backslashreplace"))


def study_page(study: Study, title: str = "Certified accuracy") -> str:
    """The whole page."""
    when = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    shapes = " x ".join(map(str, study.data.x.shape[1:]))
    meaning = "".join(f"<li><b>{word}</b>: {escape(text)}</li>" for word, text in _MEANING.items())
    accuracies = [study.accuracy(radius) for radius in study.radii]
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>Does the model give the right label to every input {escape(_NAMES[study.balls.norm])} a radius of a "
        f"sample? Asked of {len(study.data)} samples ({escape(shapes)}).</p>",
        f'<p class="faint">verify {escape(__version__)}, {escape(when)}, {study.seconds:.1f} s</p>',
        "" if study.export is None else f"<p>The certificates are of an {escape(str(study.export))}.</p>",
        table(HEADING, [cells(one) for one in accuracies], len(HEADING)),
        f'<ul class="faint">{meaning}</ul>',
        _chart(study) if len(study.radii) > 1 else "",
        _pictures(study),
        "<h2>Samples</h2>",
        table(
            ["sample", "label", "given", *(f"{radius:g}" for radius in study.radii)],
            _samples(study),
        ),
    ]
    return document(title, "\n".join(filter(None, body)))


def _chart(study: Study) -> str:
    found = {
        name: [(one.epsilon, 100 * getattr(one, name)) for one in map(study.accuracy, study.radii)]
        for name in ("clean", "attacked", "certified")
    }
    axes = Axes((study.radii[0], study.radii[-1]), (0, 100), (f"radius (norm {study.balls.norm})", "%"))
    axes.band(found["certified"], found["attacked"], "var(--openfill)")
    axes.line(found["clean"], "var(--faint)", dashed=True)
    axes.line(found["attacked"], "var(--badfill)")
    axes.line(found["certified"], "var(--goodfill)")
    legend = [
        ("clean", "var(--faint)"),
        ("attacked", "var(--badfill)"),
        ("certified", "var(--goodfill)"),
        ("open", "var(--openfill)"),
    ]
    return "<h2>Accuracy over radii</h2>" + axes.svg(
        legend, "clean, attacked and certified accuracy over radii"
    )


def _pictures(study: Study) -> str:
    """The counterexample of the smallest radius of each of the first samples that have one, where they are images."""
    smallest: dict[int, Row] = {}
    for row in study.rows:
        if row.witness is not None:
            smallest.setdefault(row.image, row)
    shown = [text for row in list(smallest.values())[:_PICTURES] if (text := _trio(study, row))]
    if not shown:
        return ""
    more = f", the first {len(shown)} of {len(smallest)}" if len(smallest) > len(shown) else ""
    return (
        f"<h2>Counterexamples</h2><p>Changed samples that are given another label{more}: the sample, the changed one, and the "
        f'difference (red: more, blue: less).</p><div class="pictures">{"".join(shown)}</div>'
    )


def _trio(study: Study, row: Row) -> str:
    original, changed = study.counterexample(row)
    if as_image(original) is None:
        original, changed = (part.reshape(study.shape) for part in (original, changed))
    before, after = as_image(original), as_image(changed)
    if before is None or after is None:
        return ""
    low, high = float(min(before.min(), after.min())), float(max(before.max(), after.max()))
    apart = after - before
    figures = (
        (picture(before, low, high, f"sample {row.image}"), f"label {row.label}"),
        (
            picture(after, low, high, "the changed sample"),
            "another label" if row.given is None else f"label {row.given}",
        ),
        (
            difference(apart, float(np.abs(apart).max()), "the difference"),
            f"at most {np.abs(apart).max():.3g}",
        ),
    )
    trio = "".join(
        f"<figure>{image}<figcaption>{escape(words)}</figcaption></figure>" for image, words in figures
    )
    return f'<div><div class="trio">{trio}</div><p class="faint">sample {row.image}, radius {row.epsilon:g}</p></div>'


def _samples(study: Study) -> Iterator[Sequence[str | Cell]]:
    rows = {(row.image, row.epsilon): row for row in study.rows}
    words = {"unsat": "certified", "sat": "counterexample"}
    for image in range(len(study.data)):
        found = [rows[image, radius] for radius in study.radii]
        given = "none" if found[0].predicted < 0 else str(found[0].predicted)
        yield [str(image), str(found[0].label), given,
               *(Cell.of(words.get(row.verdict, row.verdict), row.verdict) for row in found)]  # fmt: skip
