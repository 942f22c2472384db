"""A suite's results for people: a table on a terminal, and one HTML page with tables and a plot that needs nothing else."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from verify import __version__
from verify.output import write_whole
from verify.reports.page import document
from verify.suite.results import DECIDED, RESULTS, Judged, Summary, summaries

if TYPE_CHECKING:
    from rich.table import Table

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "var(--ink)", "#999933")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 760, 360, 60, 45, 12
_NUMBERS = ("limit", "seconds", "seconds before")
# A click on a heading sorts by its column, another one the other way round; what is no number among numbers stands last.
_SORTING = """<script>
for (const head of document.querySelectorAll("table.sorted th")) {
  head.title = "sort";
  head.onclick = () => {
    const body = head.closest("table").tBodies[0], down = head.ariaSort === "ascending" ? -1 : 1;
    const number = head.classList.contains("number");
    const key = row => number ? parseFloat(row.cells[head.cellIndex].textContent) : row.cells[head.cellIndex].textContent;
    const order = (a, b) => a < b ? -down : a > b ? down : Number(Number.isNaN(a)) - Number(Number.isNaN(b));
    body.append(...[...body.rows].sort((one, other) => order(key(one), key(other))));
    for (const other of head.parentNode.cells) other.ariaSort = null;
    head.ariaSort = down > 0 ? "ascending" : "descending";
  };
}
</script>"""


def summary_rows(found: Sequence[Judged]) -> tuple[list[str], list[list[str]]]:
    """The heading and the lines of the summary, a line for each folder."""
    heading = ["folder", "instances", "decided", *RESULTS, "contradictions", "seconds", "PAR2"]
    return heading, [_summary_row(one) for one in summaries(found)]


def _summary_row(one: Summary) -> list[str]:
    counts = [str(one.counts[word]) for word in RESULTS]
    return [one.benchmark, str(one.instances), str(one.decided), *counts, str(one.contradictions),
            f"{one.seconds:.1f}", f"{one.par2:.2f}"]  # fmt: skip


def summary_table(found: Sequence[Judged]) -> Table:
    """The summary for a terminal."""
    from rich.table import Table
    from rich.text import Text

    heading, rows = summary_rows(found)
    table = Table()
    for name in heading:
        table.add_column(name, justify="left" if name == heading[0] else "right")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def print_summary(found: Sequence[Judged]) -> None:
    """The summary on stderr, as wide as it has to be where that is no terminal, with every contradiction under it."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        console.width = 200
    console.print(summary_table(found))
    for one in found:
        if one.contradiction:
            console.print(one.complaint(), style="bold red", markup=False, highlight=False)
    for line in comparison(found):
        console.print(line, markup=False, highlight=False)


def comparison(found: Sequence[Judged]) -> list[str]:
    """What is other than in an earlier run, in sentences: in all, and of each instance that one of both decides; none without such a run."""
    both = [(one, one.before) for one in found if one.row and one.before]
    if not both:
        return []
    more = sum(one.decided and was.word not in DECIDED for one, was in both)
    fewer = sum(not one.decided and was.word in DECIDED for one, was in both)
    timed = [
        (one.row.seconds, was.seconds) for one, was in both if one.row and one.decided and was.word in DECIDED
    ]
    now, then = map(sum, zip(*timed, strict=True)) if timed else (0.0, 0.0)
    told = f"beside the earlier run, on {len(both)} instances: {more} more decided, {fewer} fewer"
    times = f"; the {len(timed)} that both decide took {now:.1f} s, {then:.1f} s before" if timed else ""
    changed = [
        f"{one.instance.benchmark} {_name(one.instance.onnx, '.onnx')} {_name(one.instance.vnnlib, '.vnnlib')}: "
        f"{one.result}, {was.word} before"
        for one, was in both
        if one.result != was.word and {one.result, was.word} & {*DECIDED}
    ]
    return [told + times, *changed]


Files = Mapping[str, Mapping[tuple[str, str, str], Path]]  # by what they are and their instances
Links = Mapping[tuple[str, str, str], Mapping[str, str]]  # where those of an instance are, by what they are


def write_report(path: Path, found: Sequence[Judged], files: Files) -> None:
    """The page in a file, with links to what files there are of instances. Raises InputError and UnwrittenError."""
    links: dict[tuple[str, str, str], dict[str, str]] = {}
    for what, places in files.items():
        for key, file in places.items():
            if file.exists():
                beside = os.path.relpath(file, path.parent).replace(os.sep, "/")
                links.setdefault(key, {})[what] = quote(beside)
    write_whole(f"--report {path}", path, page(found, links).encode(errors="backslashreplace"))


def page(found: Sequence[Judged], links: Links | None = None) -> str:
    """The whole page."""
    heading, rows = summary_rows(found)
    complaints = "".join(
        f'<p class="contradiction">{escape(one.complaint())}</p>' for one in found if one.contradiction
    )
    when = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    body = f"""<h1>verify suite</h1>
<p class="faint">verify {escape(__version__)}, {escape(when)}</p>
{complaints}
<h2>Summary</h2>
{_table(heading, ("".join(_cell(cell, number=at > 0) for at, cell in enumerate(row)) for row in rows), numbers=True)}
<p class="faint">PAR2: mean seconds, an undecided or contradicted instance counting as twice its limit.</p>
<h2>Decided instances over time</h2>
{cactus(found)}
{_compared(found)}
<h2>Instances</h2>
{_instances(found, links or {})}
{_SORTING}"""
    return document("verify suite", body)


def _compared(found: Sequence[Judged]) -> str:
    """What is other than in an earlier run."""
    told, *changed = comparison(found) or [""]
    listed = "".join(f"<li>{escape(line)}</li>" for line in changed)
    return (
        f"<h2>Beside the earlier run</h2>\n<p>{escape(told[:1].upper() + told[1:])}.</p><ul>{listed}</ul>"
        if told
        else ""
    )


def _instances(found: Sequence[Judged], links: Links) -> str:
    """All instances, with what an earlier run had to say of them where there was one."""
    compared = any(one.before for one in found)
    heading = ["folder", "network", "property", "limit", "expected", "result", "seconds"]
    heading += [*(["before", "seconds before"] if compared else []), *(["files"] if links else []), "reason"]
    rows = (
        _instance(one, compared)
        + (_linked(links.get(one.instance.key, {})) if links else "")
        + _cell(one.reason, kind="reason")
        for one in found
    )
    return _table(heading, rows)


def _table(heading: Iterable[str], rows: Iterable[str], numbers: bool = False) -> str:
    head = "".join(
        f'<th class="number">{escape(name)}</th>'
        if (numbers and at) or name in _NUMBERS
        else f"<th>{escape(name)}</th>"
        for at, name in enumerate(heading)
    )
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll"><table class="sorted">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _cell(text: str, number: bool = False, kind: str = "") -> str:
    kinds = " ".join(filter(None, ("number" if number else "", kind)))
    return f'<td class="{kinds}">{escape(text)}</td>' if kinds else f"<td>{escape(text)}</td>"


def _linked(files: Mapping[str, str]) -> str:
    """What there is of an instance beside its result."""
    links = (f'<a href="{escape(place)}">{what}</a>' for what, place in files.items())
    return f"<td>{', '.join(links)}</td>"


def _instance(one: Judged, compared: bool) -> str:
    instance, was = one.instance, one.before
    kind = "contradiction" if one.contradiction else one.result.replace(" ", "-")
    before = (
        _cell(was.word if was else "-", kind=was.word if was else ""),
        _cell(f"{was.seconds:.2f}" if was else "-", number=True),
    )
    return "".join(
        (
            _cell(instance.benchmark),
            _cell(_name(instance.onnx, ".onnx")),
            _cell(_name(instance.vnnlib, ".vnnlib")),
            _cell(f"{instance.timeout:g}", number=True),
            _cell(instance.expected or "-"),
            _cell(one.result, kind=kind),
            _cell(f"{one.row.seconds:.2f}" if one.row else "-", number=True),
            *(before if compared else ()),
        )
    )


def _name(path: str, ending: str) -> str:
    """A file's name; several networks as they are named."""
    return path if path.startswith("[") else Path(path).name.removesuffix(ending)


def cactus(found: Sequence[Judged]) -> str:
    """How many instances of each folder were decided within how many seconds each, as SVG."""
    curves: dict[str, list[float]] = {}
    for one in found:
        if one.row and one.decided and not one.contradiction:
            curves.setdefault(one.instance.benchmark, []).append(max(one.row.seconds, 0.001))
    if not curves:
        return "<p>None was decided.</p>"
    axes = _Axes(max(map(len, curves.values())), [time for times in curves.values() for time in times])
    lines = (
        axes.curve(sorted(times), _COLOURS[at % len(_COLOURS)]) for at, times in enumerate(curves.values())
    )
    legend = (
        _legend(at, f"{name} ({len(times)})", _COLOURS[at % len(_COLOURS)])
        for at, (name, times) in enumerate(curves.items())
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH + 220} {_height(len(curves))}" width="{_WIDTH + 220}" role="img" '
        f'aria-label="seconds against decided instances">\n{axes.grid()}\n{"".join(lines)}{"".join(legend)}</svg>'
    )


def _height(curves: int) -> int:
    return max(_HEIGHT, 20 * curves + 2 * _TOP)


def _legend(at: int, text: str, colour: str) -> str:
    x, y = _WIDTH + 12, _TOP + 12 + 20 * at
    line = f'<line x1="{x}" y1="{y - 4}" x2="{x + 22}" y2="{y - 4}" stroke="{colour}" stroke-width="2.5"/>'
    return f'{line}<text x="{x + 28}" y="{y}">{escape(text)}</text>\n'


class _Axes:
    """Counts to the right, seconds upwards by powers of ten."""

    def __init__(self, count: int, seconds: Sequence[float]) -> None:
        self.count = count
        self.low = math.floor(math.log10(min(seconds)))
        self.high = max(self.low + 1, math.ceil(math.log10(max(seconds))))

    def x(self, count: float) -> float:
        return round(_LEFT + (_WIDTH - _LEFT - 10) * count / self.count, 1)

    def y(self, seconds: float) -> float:
        share = (math.log10(seconds) - self.low) / (self.high - self.low)
        return round(_HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * share, 1)

    def curve(self, times: Sequence[float], colour: str) -> str:
        """A line with a dot for each instance."""
        points = [(self.x(at), self.y(time)) for at, time in enumerate(times, 1)]
        path = " ".join(f"{x},{y}" for x, y in points)
        dots = "".join(f'<circle cx="{x}" cy="{y}" r="2.5" fill="{colour}"/>' for x, y in points)
        return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>{dots}\n'

    def grid(self) -> str:
        """Lines, numbers and names of the axes."""
        parts = [self._horizontal(power) for power in range(self.low, self.high + 1)]
        step = max(1, math.ceil(self.count / 10))
        parts += [self._number(count) for count in range(0, self.count + 1, step)]
        middle = (_HEIGHT - _BOTTOM) / 2
        parts.append(
            f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">instances decided</text>'
        )
        parts.append(
            f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">seconds for each</text>'
        )
        return "\n".join(parts)

    def _horizontal(self, power: int) -> str:
        y = self.y(10.0**power)
        line = f'<line x1="{_LEFT}" y1="{y}" x2="{_WIDTH - 10}" y2="{y}" stroke="var(--line)"/>'
        return f'{line}<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{10.0**power:g}</text>'

    def _number(self, count: int) -> str:
        return f'<text x="{self.x(count)}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{count}</text>'
