"""The page: complete, well-formed, nothing from elsewhere, and nothing of a file's name taken for markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from verify.errors import InputError
from verify.reports.suite_report import cactus, comparison, page, print_summary, write_report
from verify.suite.instances import Instance
from verify.suite.results import Judged, Row, judged

SVG = "{http://www.w3.org/2000/svg}"


def one(
    name: str, result: str | None, expected: str = "", seconds: float = 1.0, benchmark: str = "f"
) -> Judged:
    instance = Instance(benchmark, "nets/n.onnx", name, 10.0, expected, Path("n"), Path(name))
    row = None if result is None else Row(*instance.key, 0.0, result, seconds)
    return Judged(instance, row, "" if result in ("sat", "unsat", None) else f"why {result}")


FOUND = [
    one("props/a.vnnlib", "sat", "sat", 0.0), one("props/b.vnnlib", "unsat", "sat", 2.0),
    one("props/<c>&.vnnlib", "timeout", "", 10.0), one("props/d.vnnlib", "unsat", "", 30.0, "g"),
    one("props/e.vnnlib", None, "", 0.0, "g"), one("props/f.vnnlib", "prepare_instance_error_1"),
]  # fmt: skip


class Reader(HTMLParser):
    """Cells of tables, and tags that are open."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "meta":
            return
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Nothing is opened."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def test_page() -> None:
    text = page(FOUND)
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    heading, *lines = reader.rows
    assert [line[0] for line in lines[:3]] == ["f", "g", "all"]
    assert dict(zip(heading, lines[2], strict=True)) | {"seconds": "", "PAR2": ""} == {
        "folder": "all", "instances": "6", "decided": "3", "sat": "1", "unsat": "2", "unknown": "0", "timeout": "1",
        "error": "1", "not run": "1", "contradictions": "1", "seconds": "", "PAR2": "",
    }  # fmt: skip
    assert lines[4] == ["f", "n", "a", "10", "sat", "sat", "0.00", ""]
    assert lines[6] == ["f", "n", "<c>&", "10", "-", "timeout", "10.00", "why timeout"]
    assert [line[5] for line in lines[4:]] == ["sat", "unsat", "timeout", "unsat", "not run", "error"]
    assert (
        text.count("CONTRADICTION: f nets/n.onnx props/b.vnnlib: the verdict is unsat, expected is sat") == 1
    )


def test_nothing_comes_from_elsewhere() -> None:
    """Its script speaks to nobody, and links lead beside it."""
    linked = page(FOUND, {FOUND[0].instance.key: {"counterexample": "found/a%20b.counterexample"}})
    assert not re.search(
        r"<(link|img|iframe)|<script [^>]|src=|url\(|@import|fetch|XMLHttp|import\(|https?:(?!//www.w3.org)",
        linked,
    )
    assert re.findall(r'href="([^"]*)"', linked) == ["found/a%20b.counterexample"]
    assert "href" not in page(FOUND)


EARLIER = [
    Row(*FOUND[0].instance.key, 0.0, "timeout", 9.0), Row(*FOUND[1].instance.key, 0.0, "sat", 1.0),
    Row(*FOUND[2].instance.key, 0.0, "unsat", 5.0), Row(*FOUND[3].instance.key, 0.0, "unsat", 60.0),
    Row(*FOUND[4].instance.key, 0.0, "unsat", 7.0), Row("other", "n", "p", 0.0, "sat", 1.0),
]  # fmt: skip


def test_beside_an_earlier_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Of instances that both have: what one of both decides, opposite verdicts, and seconds where both do."""
    rows = [one.row for one in FOUND if one.row]
    found = judged([one.instance for one in FOUND], rows, before=EARLIER)
    told, *changed = comparison(found)
    assert told == (
        "beside the earlier run, on 4 instances: 1 more decided, 1 fewer; the 2 that both decide took 32.0 s, 61.0 s before"
    )
    assert changed == [
        "f n a: sat, timeout before",
        "f n b: unsat, sat before",
        "f n <c>&: timeout, unsat before",
    ]
    print_summary(found)
    assert "1 more decided" in capsys.readouterr().err
    reader = Reader()
    reader.feed(page(found))
    assert reader.rows[5][7:9] == ["timeout", "9.00"] and reader.rows[-1][7:9] == ["-", "-"]
    assert comparison(FOUND) == [] and "Beside the earlier run" not in page(FOUND)


def test_plot() -> None:
    """A line for each folder with a dot for each decided instance, further right and higher up for longer ones."""
    plot = ElementTree.fromstring(cactus([*FOUND, one("z", "sat", "", 0.5)]))
    dots = [(float(dot.attrib["cx"]), -float(dot.attrib["cy"])) for dot in plot.iter(f"{SVG}circle")]
    assert len(list(plot.iter(f"{SVG}polyline"))) == 2 and len(dots) == 3  # the contradiction is left out
    assert dots[0] < dots[1] and dots[0][1] < dots[1][1] < dots[2][1]
    words = [text.text for text in plot.iter(f"{SVG}text")]
    assert {"f (2)", "g (1)", "instances decided", "seconds for each"} <= set(words)
    assert "None was decided" in cactus(FOUND[2:3])


def test_summary_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(FOUND)
    out, err = capsys.readouterr()
    assert not out and "CONTRADICTION" in err
    assert re.search(r"│ all +│ +6 │ +3 │", err)


def test_writing(tmp_path: Path) -> None:
    """With links to the counterexamples that there are, from where the page is."""
    (tmp_path / "a b").mkdir()
    places = {FOUND[0].instance.key: tmp_path / "a b" / "x", FOUND[1].instance.key: tmp_path / "a b" / "none"}
    places[FOUND[0].instance.key].touch()
    write_report(tmp_path / "new" / "report.html", FOUND, {"certificate": places})
    text = (tmp_path / "new" / "report.html").read_text()
    assert text.startswith("<!DOCTYPE html>") and re.findall(r'href="([^"]*)"', text) == ["../a%20b/x"]
    with pytest.raises(InputError, match="--report"):
        write_report(tmp_path, FOUND, {})
