"""The live line of a search: what it shows, and what it says of the time that is left."""

from __future__ import annotations

import math
import time
from itertools import pairwise
from pathlib import Path

import pytest
from patience import PATIENCE

import verify
from benchmarks.faults import narrow
from verify.bab.progress import Progress
from verify.reports.terminal import Pace, line
from verify.workers.crew import Tally

BRANCHING = "branch and bound"


def test_a_line_shows_bound_counts_rate_and_estimate() -> None:
    progress = Progress(BRANCHING, opened=4000, waiting=1000)
    assert line(8.0, progress, -0.25, "5 % done") == (
        "8.0 s  branch and bound  bound -0.25  open 1,000  500/s  5 % done"
    )
    assert "bound -inf" not in line(0.0, Progress(), -math.inf, "")


def test_the_line_says_what_workers_do() -> None:
    tally = Tally(16)
    tally.busy, tally.began = 12.0, time.monotonic() - 1.0
    progress = Progress(phase="branch and bound", workers=tally.statistics)
    assert line(8.0, progress, -0.25, "").endswith("  16 workers, 25% idle")
    tally.add(0.0, 0, lost=True)
    assert line(8.0, progress, -0.25, "").endswith("  16 workers, 25% idle, 1 lost")
    assert progress.statistics()["workers"]["lost"] == 1, "so the log says it, too"


def test_the_rest_is_judged_by_the_latter_half() -> None:
    """Of four roots nothing is done in the first ten seconds, then a sixteenth of one each second: 2.75 are left after 30 s."""
    pace = Pace()
    told = [pace.told(float(at), Progress(BRANCHING, open_tree=4 - max(0, at - 10) / 16)) for at in range(31)]
    assert told[:11] == [""] * 11
    assert told[30] == "31 % done, ~44 s left"


@pytest.mark.parametrize(
    ("each", "words"), [(0.01, "95 s"), (0.0025, "7 min"), (0.0001, "3 h"), (1e-7, "0 % done")]
)
def test_the_unit_suits_the_time(each: float, words: str) -> None:
    pace = Pace()
    told = [pace.told(float(at), Progress(BRANCHING, open_tree=1 - each * at)) for at in range(6)][-1]
    assert words in told and ("left" in told) == (each > 1e-6)


def test_what_begins_anew_is_judged_anew() -> None:
    pace = Pace()
    for at in range(10):
        pace.told(float(at), Progress(BRANCHING, open_tree=1 - 0.05 * at))
    assert pace.told(10.0, Progress("roots again", open_tree=0.5)) == ""
    assert pace.told(11.0, Progress(BRANCHING, open_tree=0.9)) == ""
    assert pace.told(14.0, Progress(BRANCHING, open_tree=0.6)).startswith("33 % done")


def test_a_search_counts_what_is_open_of_its_tree(tmp_path: Path) -> None:
    """Its one root is whole at first, and at no time more is open than before: what is worked on counts as well as what waits."""
    asked, seen = narrow(tmp_path, 0.02), list[float]()

    class Reporter:
        def update(self, progress: Progress) -> None:
            if progress.phase == BRANCHING:
                seen.append(progress.open_tree)

    result = verify.verify(asked.model, asked.specification, timeout=PATIENCE, reporter=Reporter())
    assert result.verdict == "unsat"
    assert seen[0] == 1.0 and all(after <= before for before, after in pairwise(seen))
    assert 0.0 < seen[-1] < 0.1
