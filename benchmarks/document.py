"""Puts measured data into docs/benchmarks.md: its tables between their markers, and its figure. Measures nothing."""

from __future__ import annotations

import re
from pathlib import Path

import click

from benchmarks import figures, throughput, tightness
from benchmarks.common import RESULTS, ROOT, machine_line, read
from verify.output import write_whole

DOCUMENT = ROOT / "docs" / "benchmarks.md"
FIGURE = ROOT / "docs" / "images" / "tightness.svg"
REPORTS = {"tightness": tightness.report, "throughput": throughput.report}


def replaced(text: str, name: str, content: str) -> str:
    """The document with what stands between the markers of `name` replaced."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    block = f"{begin}\n\n{content}\n\n{end}"
    found, count = re.subn(rf"{begin}.*?{end}", lambda _: block, text, flags=re.DOTALL)
    if count != 1:
        raise click.ClickException(f"{count} blocks {begin} ... {end} in the document, not one")
    return found


@click.command()
@click.option("--results", type=click.Path(exists=True, path_type=Path), default=RESULTS)
def main(results: Path) -> None:
    """Write the tables and the figure from what RESULTS holds."""
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, report in REPORTS.items():
        path = results / f"{name}.json"
        if path.exists():
            data = read(path)
            text = replaced(text, name, f"{machine_line(data['machine'])}\n\n{report(data['rows'])}")
            if name == "tightness":
                figures.tightness(data["rows"], FIGURE)
    write_whole(str(DOCUMENT), DOCUMENT, text.encode())


if __name__ == "__main__":
    main()
