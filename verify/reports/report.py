"""Pages of whatever was found: of a run, a study, or a closed loop."""

from __future__ import annotations

from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from verify import __version__
from verify.output import write_whole
from verify.reports.page import Axes, document
from verify.reports.run_report import run_page
from verify.reports.study_report import study_page
from verify.result import Result
from verify.study.reach import Tube
from verify.study.study import Study
from verify.validation import path, refuse, shown

_ENTRIES = 12  # of a state, that have a chart
_SHOWN = 25  # trajectories


def report(found: Result | Study | Tube, file: str | Path | None = None) -> str:
    """A page of HTML that needs nothing else, written to a file where one is given. Raises InputError and UnwrittenError.

    found: what `verify`, `certify` or `reach` returned.
    """
    target = None if file is None else path("file", file)
    pages: dict[type, Any] = {Result: run_page, Study: study_page, Tube: tube_page}
    make = pages.get(type(found))
    if make is None:
        refuse("the result", f"is {shown(found)}", "give what verify, certify or reach returned")
    page: str = make(found)
    if target is not None:
        write_whole(f"the report {target}", target, page.encode(errors="backslashreplace"))
    return page


def tube_page(tube: Tube) -> str:
    """The page of a closed loop: every entry of the state over steps."""
    when = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    size = tube.trajectories.shape[2]
    lower, upper = (end.reshape(len(tube) + 1, size).numpy() for end in (tube.lower, tube.upper))
    some = tube.trajectories[:, :_SHOWN].numpy()
    ended = (
        ""
        if tube.finished
        else '<div class="card warning">The time ran out before the last step that was asked for.</div>'
    )
    charts = "".join(_chart(lower[:, i], upper[:, i], some[:, :, i], i) for i in range(min(size, _ENTRIES)))
    more = f"<p class='faint'>{size - _ENTRIES} more entries are not shown.</p>" if size > _ENTRIES else ""
    return document(
        "Reachable states",
        f"<h1>Reachable states over {len(tube)} steps</h1>"
        "<p>Every state of the closed loop that begins in the first box lies in the shaded area: it is bounded, not sampled. The lines are "
        f"some real trajectories.</p><p class='faint'>verify {escape(__version__)}, {escape(when)}, {tube.seconds:.1f} s</p>{ended}{charts}{more}",
    )


def _chart(lower: Any, upper: Any, some: Any, entry: int) -> str:
    steps = [float(step) for step in range(len(lower))]
    ends = float(np.minimum(lower, some.min(1)).min()), float(np.maximum(upper, some.max(1)).max())
    axes = Axes((0.0, max(steps[-1], 1.0)), ends, ("step", f"x[{entry}]"))
    axes.band(list(zip(steps, lower, strict=True)), list(zip(steps, upper, strict=True)), "var(--accent)")
    for line in (lower, upper):
        axes.line(list(zip(steps, line, strict=True)), "var(--accent)", dots=False)
    for one in range(some.shape[1]):
        axes.line(list(zip(steps, some[:, one], strict=True)), "var(--faint)", dots=False, thin=True)
    legend = [("all states", "var(--accent)"), ("trajectories", "var(--faint)")]
    return f"<h2>x[{entry}]</h2>" + axes.svg(legend, f"the range of x[{entry}] over steps")
