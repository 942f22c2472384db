"""What all pages have in common: one file that asks for nothing else, light and dark, on paper too; pictures of arrays; charts."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCALE = 8  # pixels of a picture for each of an image, fewer of large ones
_LARGEST = 224
_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1f2328; --faint: #656d76; --line: #d8dee4; --card: #f6f8fa; --accent: #0969da;
  --good: #1a7f37; --bad: #b42318; --open: #9a6700; --goodfill: #2da44e; --badfill: #d1242f; --openfill: #d4a72c; }
@media (prefers-color-scheme: dark) { :root { --paper: #0d1117; --ink: #e6edf3; --faint: #9198a1; --line: #30363d; --card: #161b22; --accent: #58a6ff;
  --good: #56d364; --bad: #ff8a80; --open: #e3b341; --goodfill: #3fb950; --badfill: #f85149; --openfill: #d29922; } }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 4rem;
  background: var(--paper); color: var(--ink); overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .4rem; } h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; } summary { cursor: pointer; color: var(--accent); margin: .5rem 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p { margin: .5rem 0; max-width: 46rem; } .faint, figcaption { color: var(--faint); font-size: .875rem; }
.scroll { overflow-x: auto; margin: .8rem 0; } table { border-collapse: collapse; font-size: .925rem; }
th, td { padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { font-weight: 600; color: var(--faint); white-space: nowrap; } td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.unsat, .good { color: var(--good); } .sat, .bad, .error, .contradiction { color: var(--bad); } .unknown, .timeout, .open, .not-run { color: var(--open); }
.verdict { display: inline-block; font-weight: 700; font-size: 1.1rem; padding: .15rem .7rem; border: 2px solid currentColor; border-radius: .5rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .9rem 1.1rem; margin: 1rem 0; }
.sorted th { cursor: pointer; } th[aria-sort=ascending]::after { content: " \\2191"; } th[aria-sort=descending]::after { content: " \\2193"; } a { color: inherit; } .reason { min-width: 16rem; }
.warning { border-left: 4px solid var(--open); }
code, pre, .hash { font: .875rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; } pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--card); border: 1px solid var(--line);
  border-radius: .5rem; padding: .75rem 1rem; margin: .6rem 0; } code, .hash { overflow-wrap: anywhere; } .hash { color: var(--faint); min-width: 14rem; }
figure { margin: 0; } .pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1.2rem; }
.trio { display: flex; gap: .5rem; align-items: flex-start; } .trio figure { flex: 1; min-width: 0; } figure img { width: 100%; display: block; }
img { image-rendering: pixelated; border: 1px solid var(--line); border-radius: .25rem; }
svg { max-width: 100%; height: auto; display: block; } svg text { font: 12px system-ui, sans-serif; fill: var(--faint); }
@media print { body { max-width: none; padding: 0; font-size: 11pt; } h2 { break-after: avoid; } .card, figure, tr { break-inside: avoid; } }
"""


def document(title: str, body: str) -> str:
    """A whole page."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{_STYLE}</style></head>
<body>
{body}
</body>
</html>
"""


def table(heading: Sequence[str], rows: Iterable[Sequence[str | Cell]], numbers: int = 0) -> str:
    """A table that scrolls on narrow screens; the last `numbers` columns hold numbers."""
    first = len(heading) - numbers

    def row(cells: Sequence[str | Cell], tag: str) -> str:
        return "".join(_cell(cell, tag, at >= first) for at, cell in enumerate(cells))

    body = "\n".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    return f'<div class="scroll"><table>\n<thead><tr>{row(heading, "th")}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


class Cell(str):
    """A cell of a kind of its own."""

    kind = ""

    @classmethod
    def of(cls, text: str, kind: str) -> Cell:
        """A cell's text and its class."""
        cell = cls(text)
        cell.kind = kind
        return cell


def _cell(text: str | Cell, tag: str, number: bool) -> str:
    kinds = " ".join(filter(None, ("number" if number else "", getattr(text, "kind", ""))))
    return f'<{tag} class="{kinds}">{escape(text)}</{tag}>' if kinds else f"<{tag}>{escape(text)}</{tag}>"


# -- pictures


def as_image(values: NDArray[Any]) -> NDArray[np.float64] | None:
    """Values as [height, width, 1 or 3], where they are an image with its channels first; else None."""
    shape = list(values.shape)
    while len(shape) > 3 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) == 2 and min(shape) > 1:
        shape = [1, *shape]
    if len(shape) != 3 or shape[0] not in (1, 3) or min(shape[1:]) < 2:
        return None
    return np.moveaxis(values.reshape(shape).astype(np.float64), 0, 2)


def picture(image: NDArray[np.float64], low: float, high: float, words: str) -> str:
    """An image, [height, width, 1 or 3], of values from low to high."""
    scaled = (image - low) / ((high - low) or 1.0)
    return _img(np.repeat(np.clip(scaled, 0, 1), 3 // image.shape[2], axis=2), words)


def difference(image: NDArray[np.float64], most: float, words: str) -> str:
    """A difference, [height, width, 1 or 3]: red where the mean over channels is above 0, blue below, pale where it is 0."""
    share = np.clip(image.mean(2) / (most or 1.0), -1, 1)
    away = np.abs(share)
    red, blue = (
        np.where(share < 0, 1 - 0.85 * away, 1 - 0.15 * away),
        np.where(share > 0, 1 - 0.85 * away, 1 - 0.15 * away),
    )
    return _img(np.stack([red, 1 - 0.7 * away, blue], 2), words)


def _img(colours: NDArray[np.float64], words: str) -> str:
    """Colours from 0 to 1, [height, width, 3], as an element; larger images than fit are shown smaller by the browser."""
    from PIL import Image

    pixels = Image.fromarray((colours * 255).round().astype(np.uint8), "RGB")
    scale = max(1, min(SCALE, _LARGEST // max(pixels.size)))
    file = io.BytesIO()
    pixels.resize((pixels.width * scale, pixels.height * scale), Image.Resampling.NEAREST).save(
        file, "PNG", optimize=True
    )
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escape(words)}">'


# -- charts

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 720, 310, 52, 16, 26, 44


class Axes:
    """A chart of lines. x, y: the ends of both axes, each named; ticks are at what looks round."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], names: tuple[str, str]) -> None:
        self._x, self._y, self._names = _wide(x), _wide(y), names
        self._parts: list[str] = []

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point is, in pixels."""
        (left, right), (low, high) = self._x, self._y
        across = (x - left) / (right - left)
        up = (min(max(y, low), high) - low) / (high - low)
        return (
            round(_LEFT + across * (_WIDTH - _LEFT - _RIGHT), 1),
            round(_HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM), 1),
        )

    def line(
        self,
        points: Sequence[tuple[float, float]],
        colour: str,
        dots: bool = True,
        dashed: bool = False,
        thin: bool = False,
    ) -> None:
        """A line through points."""
        places = [self.at(*point) for point in points]
        path = " ".join(f"{x},{y}" for x, y in places)
        dash = ' stroke-dasharray="6 4"' if dashed else ""
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{0.7 if thin else 2}"{dash}/>'
        )
        if dots:
            self._parts += [f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>' for x, y in places]

    def band(
        self, lower: Sequence[tuple[float, float]], upper: Sequence[tuple[float, float]], colour: str
    ) -> None:
        """The area between two lines."""
        path = " ".join(f"{x},{y}" for x, y in (self.at(*point) for point in [*lower, *reversed(upper)]))
        self._parts.append(f'<polygon points="{path}" fill="{colour}" fill-opacity="0.22"/>')

    def svg(self, legend: Sequence[tuple[str, str]], words: str) -> str:
        """The chart, with names and colours above it."""
        keys = "".join(
            f'<span style="white-space:nowrap;margin-right:1.2rem"><span style="display:inline-block;width:.8rem;height:.8rem;'
            f'border-radius:.2rem;background:{colour};margin-right:.4rem"></span>{escape(name)}</span>'
            for name, colour in legend
        )
        return (
            f'<p class="faint">{keys}</p><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" aria-label="{escape(words)}">'
            f"{self._grid()}{''.join(self._parts)}</svg>"
        )

    def _grid(self) -> str:
        parts = []
        for value in _ticks(*self._y):
            x, y = self.at(self._x[0], value)
            parts.append(f'<line x1="{x}" y1="{y}" x2="{_WIDTH - _RIGHT}" y2="{y}" stroke="var(--line)"/>')
            parts.append(f'<text x="{x - 8}" y="{y + 4}" text-anchor="end">{value:g}</text>')
        for value in _ticks(*self._x):
            x, y = self.at(value, self._y[0])
            parts.append(f'<text x="{x}" y="{y + 18}" text-anchor="middle">{value:g}</text>')
        parts.append(
            f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(self._names[0])}</text>'
        )
        return "".join([*parts, f'<text x="4" y="11">{escape(self._names[1])}</text>'])


def _wide(ends: tuple[float, float]) -> tuple[float, float]:
    low, high = ends
    return (low, high) if high > low else (low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1))


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers within an interval."""
    step = 10.0 ** np.floor(np.log10((high - low) / 4))
    step *= next((m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= 8), 10)
    first = np.ceil(low / step - 1e-9)
    return [float(round(k * step, 12)) + 0.0 for k in np.arange(first, np.floor(high / step + 1e-9) + 1)]
