"""What `--explain` shows: where a search's time went, and what it bought."""

from __future__ import annotations

from typing import Any

_COLUMNS = ("technique", "applied", "subproblems", "seconds", "gain", "refuted")


def explanation(statistics: dict[str, Any]) -> str:
    """The phases with their seconds; then every technique, dearest first: how often it was applied and to how many subproblems, its
    seconds (of all threads together), the mean share of the distance from 0 that it closed, and how many subproblems it refuted.
    """
    phases = statistics.get("seconds_by_phase", {})
    found = statistics.get("techniques", {})
    lines = [f"{phase:<32}{seconds:>10.2f} s" for phase, seconds in phases.items()]
    rows = [
        (
            name,
            str(spent["calls"]),
            str(spent["subproblems"]),
            f"{spent['seconds']:.2f}",
            f"{spent['gain']:.1%}",
            str(spent["refuted"]),
        )
        for name, spent in sorted(found.items(), key=lambda one: -one[1]["seconds"])
    ]
    if rows:
        lines += ["", _line(_COLUMNS), *map(_line, rows)]
    return "\n".join(lines or ["nothing was searched"])


def _line(cells: tuple[str, ...]) -> str:
    """A name, and numbers to the right of it."""
    return f"{cells[0]:<40}" + "".join(f"{cell:>12}" for cell in cells[1:])
