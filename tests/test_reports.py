"""Pages and archives: they say what was found, ask for nothing, and are whole or not there."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from nets import property_text, random_layers, relu_model
from patience import PATIENCE
from test_cli import Command

import verify
from verify.checker.checking import check
from verify.errors import InputError
from verify.reports import suite_report
from verify.reports.page import Axes, as_image, difference, picture
from verify.result import Result
from verify.suite.instances import Instance
from verify.suite.results import Judged, Row

UNSAFE = {"unsat": "(or (<= Y_0 -100.0) (and (>= Y_1 100.0) (<= (- Y_0 Y_1) X_0)))", "sat": "(<= Y_0 100.0)"}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """`verify` in this process, its output captured."""
    return Command(monkeypatch, capfd)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A model, and a folder for properties."""
    model = tmp_path / "a <model>.onnx"
    onnx.save(relu_model(random_layers(3, (4, 6, 2))), model)
    for verdict, unsafe in UNSAFE.items():
        (tmp_path / f"{verdict}.vnnlib").write_text(property_text([0.0] * 4, [1.0] * 4, 2, unsafe))
    return model, tmp_path


class Page(HTMLParser):
    """What a page holds: its text, its tags, and what it asks for."""

    VOID = {"meta", "img", "line", "circle", "polyline", "polygon"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.asked, self.open, self.tags = "", list[str](), list[str](), list[str]()
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.asked += [
            value or ""
            for name, value in attrs
            if name in ("src", "href") and not (value or "").startswith("data:")
        ]
        assert tag not in ("script", "link", "iframe")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("verdict", ["unsat", "sat"])
def test_the_page_of_a_run(verdict: str, files: tuple[Path, Path], command: Command) -> None:
    model, folder = files
    property_, out, certificate = folder / f"{verdict}.vnnlib", folder / "run.html", folder / "proof.cert"
    ran = command(
        "run", model, property_, "--report", out, "--certificate", certificate, "--quiet", "--device", "cpu"
    )
    assert (ran.code, ran.out.split("\n")[0]) == (0, verdict)
    text = out.read_text()
    page = Page(text)
    assert not page.asked and "http" not in text and "url(" not in text
    assert (
        "a <model>.onnx" in page.text
        and str(property_) in page.text
        and f"verify check {certificate}" in page.text
    )
    assert hashlib.sha256(model.read_bytes()).hexdigest() in page.text and verify.__version__ in page.text
    assert (
        hashlib.sha256(property_.read_bytes()).hexdigest() in page.text
        and "4 of 4 inputs vary, by at most 1" in page.text
    )
    if verdict == "unsat":
        assert (
            "y[0] <= -100" in page.text
            and "y[1] >= 100 and y[0] <= y[1] + x[0]" in page.text
            and "This is a proof" in page.text
        )
    else:
        assert (
            "Counterexample" in page.text
            and "All" not in page.text.split("Evidence")[0].split("Counterexample")[1]
        )


def test_pages_of_builders_and_of_what_went_wrong(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    image = torch.full((1, 1, 2, 2), 0.5)
    shaped = torch.nn.Sequential(torch.nn.Flatten(), *model)
    for asked in (
        verify.LinfBall(image, 0.4, 0), verify.Monotone((np.zeros((1, 1, 2, 2)), np.ones((1, 1, 2, 2))), 0),
        verify.Brightness(image, 0, brightness=0.3), verify.L2Ball(image, 0.3, 0), verify.OutputRange((image, image), -9, 9),
    ):  # fmt: skip
        result = verify.verify(shaped, asked, example_input=image, timeout=PATIENCE)
        page = Page(verify.report(result, tmp_path / "page.html"))
        assert str(asked) in page.text and result.verdict in page.text and not page.asked
        assert (tmp_path / "page.html").read_text() == verify.report(result)
        assert result.verdict in result._repr_html_()
    late = Page(verify.report(Result("timeout", "a <reason>", 1.0)))
    assert "a <reason>" in late.text and "undecided" in late.text
    vacuous = Page(verify.report(replace(result, warning="it is <vacuous>", notes=("a note",))))
    assert "it is <vacuous>" in vacuous.text and "a note" in vacuous.text
    for odd in (None, "sat", {}, Result):
        with pytest.raises(InputError, match="what verify, certify or reach returned"):
            verify.report(odd)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="folder"):
        verify.report(result, tmp_path)


def test_charts_of_long_searches() -> None:
    """The worst bound and the open subproblems over time, however many moments there were."""
    digits = "properties/digits_conv/"
    result = verify.verify(
        digits + "onnx/digits_conv.onnx", digits + "vnnlib/image_1404_radius_0.08.vnnlib", timeout=60
    )
    assert result.account is not None and 0 < len(result.account.moments) <= 513
    moments = tuple(
        replace(result.account.moments[0], seconds=i / 10, worst=-1 / (1 + i), waiting=i) for i in range(20)
    )
    page = Page(verify.report(replace(result, account=replace(result.account, moments=moments))))
    assert page.tags.count("svg") == 2 and "0: refuted" in page.text


class Loop(torch.nn.Module):
    def forward(self, state: torch.Tensor) -> torch.Tensor:
        return 0.5 * state.flip(1)


def test_the_page_of_a_tube() -> None:
    tube = verify.reach(Loop(), ([0.0, 1.0], [1.0, 2.0]), 3)
    page = Page(verify.report(tube))
    assert page.tags.count("svg") == 2 and "over 3 steps" in page.text and not page.asked
    assert "ran out" in verify.report(replace(tube, finished=False))


def test_pictures() -> None:
    shapes = {(8, 8): (8, 8, 1), (1, 3, 4, 5): (4, 5, 3), (1, 1, 2, 2): (2, 2, 1), (3, 2, 2): (2, 2, 3)}
    for shape, wanted in shapes.items():
        found = as_image(np.zeros(shape))
        assert found is not None and found.shape == wanted
        assert picture(found, 0.0, 0.0, '"<words>"').count("&lt;") == 1 and difference(
            found, 0.0, ""
        ).startswith("<img")
    assert all(
        as_image(np.zeros(shape)) is None
        for shape in ((4,), (1, 4), (2, 4, 4), (2, 3, 4, 4), (1, 1), (3, 1, 4), (0, 4))
    )


@pytest.mark.parametrize(
    "ends", [(0.0, 1.0), (0.0, 0.0), (-1e-9, 1e-9), (3.0, 3.0), (-1e30, 1e30), (0.02, 0.1)]
)
def test_axes(ends: tuple[float, float]) -> None:
    axes = Axes(ends, ends, ("x", "y"))
    axes.line([(ends[0], ends[0]), (ends[1], ends[1])], "red")
    drawn = axes.svg([("<a>", "red")], "words")
    assert "nan" not in drawn and "inf" not in drawn and "&lt;a&gt;" in drawn and drawn.count("<text") >= 6


# -- archives


@pytest.mark.parametrize("verdict", ["unsat", "sat"])
def test_archives(verdict: str, files: tuple[Path, Path], command: Command, tmp_path: Path) -> None:
    model, folder = files
    out = folder / "new" / "evidence.zip"
    ran = command("bundle", out, model, folder / f"{verdict}.vnnlib", "--device", "cpu")
    assert (ran.code, ran.out) == (0, f"{verdict}\n")
    first = out.read_bytes()
    with zipfile.ZipFile(out) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "unpacked")
    assert names == [
        f"model/{model.name}",
        f"property/{verdict}.vnnlib",
        "certificate/proof.cert",
        "report.html",
        "README.md",
        "SHA256SUMS",
    ]
    unpacked = tmp_path / "unpacked"
    assert check(*(unpacked / name for name in (names[2], names[0], names[1]))).proved
    for line in (unpacked / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((unpacked / name).read_bytes()).hexdigest() == digest
    readme = (unpacked / "README.md").read_text()
    assert f"`{verdict}`" in readme and "{" not in readme and "verify-check certificate/proof.cert" in readme
    assert str(folder) not in readme and str(folder) not in (unpacked / "report.html").read_text()
    assert first[:2] == b"PK"


def test_archives_of_several_models(files: tuple[Path, Path], command: Command, tmp_path: Path) -> None:
    """Each model is in it, also where two files have one name."""
    model, folder = files
    other = folder / "other" / model.name
    other.parent.mkdir()
    onnx.save(relu_model(random_layers(4, (4, 6, 2))), other)
    text = verify.Monotone(([0.0] * 4, [1.0] * 4), 1, tolerance=100.0).text_for((1, 4), (1, 2))
    (folder / "two.vnnlib").write_text(text.replace(" (equal-to f)", ""))
    out = folder / "evidence.zip"
    ran = command("bundle", out, model, folder / "two.vnnlib", "--network", f"g={other}", "--device", "cpu")
    assert (ran.code, ran.out) == (0, "unsat\n")
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(out) as archive:
        archive.extractall(unpacked)
    readme = (unpacked / "README.md").read_text()
    names = f"model/{model.name}", f"model/g/{model.name}"
    assert all(f"| `{name}` | the" in readme for name in names) and str(folder) not in readme
    models = {"f": unpacked / names[0], "g": unpacked / names[1]}
    assert check(unpacked / "certificate/proof.cert", models, unpacked / "property/two.vnnlib").proved
    page = Page((unpacked / "report.html").read_text())
    assert f"--network 'g={names[1]}'" in readme and f"--network 'g={names[1]}'" in page.text
    assert all(hashlib.sha256((unpacked / name).read_bytes()).hexdigest() in page.text for name in names)


def test_no_archive_without_evidence(files: tuple[Path, Path], command: Command) -> None:
    model, folder = files
    out = folder / "evidence.zip"
    (folder / "hard.vnnlib").write_text(property_text([-1e6] * 4, [1e6] * 4, 2, "(= Y_0 Y_1)"))
    ran = command("bundle", out, model, folder / "hard.vnnlib", "--timeout", "0.01")
    assert ran.code == 1 and "no archive" in ran.err and not out.exists()
    ran = command("bundle", model, model, folder / "unsat.vnnlib")
    assert ran.code == 2 and "is read" in ran.err


# -- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, where there is one: playwright's own, or the program that CHROMIUM names."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = os.environ.get("CHROMIUM")
    arguments = [
        "--no-sandbox",
        "--headless=shell",
        "--disable-gpu",
        *(["--single-process", "--no-zygote"] if program else []),
    ]
    with playwright.sync_playwright() as started:

        def launch() -> Any:
            return started.chromium.launch(executable_path=program, args=arguments)

        try:
            launch().close()
        except playwright.Error as error:
            pytest.skip(f"no browser: {str(error).splitlines()[0]}")
        yield launch


def _judged(*results: str) -> list[Judged]:
    """Instances with these results, after so many seconds as they are letters long; the last one was not run."""
    found = []
    for number, result in enumerate((*results, None)):
        instance = Instance("f", "n.onnx", f"p{number}.vnnlib", 10.0, "", Path("n"), Path("p"))
        row = result and Row(*instance.key, 0.0, result, float(len(result)))
        found.append(Judged(instance, row or None))
    return found


def test_a_click_on_a_heading_sorts(browser: Any, tmp_path: Path) -> None:
    """By numbers, what is none last, and by words; another click turns it round."""
    (tmp_path / "suite.html").write_text(suite_report.page(_judged("timeout", "sat", "unsat")))
    one = browser()
    page = one.new_page()
    page.goto((tmp_path / "suite.html").as_uri())
    instances = page.locator("table").nth(1)
    orders = []
    for heading in ("seconds", "seconds", "property"):
        instances.locator("th", has_text=heading).first.click()
        orders.append("".join(instances.locator("tbody td:nth-child(3)").all_inner_texts()))
    assert orders == ["p1p2p0p3", "p0p2p1p3", "p0p1p2p3"]
    one.close()


@pytest.mark.parametrize("width", [1200, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_in_a_browser(width: int, scheme: str, browser: Any, tmp_path: Path) -> None:
    """No error, nothing that is asked for, nothing wider than the window."""
    digits = "properties/digits_conv/"
    study = verify.certify(
        digits + "onnx/digits_conv.onnx", digits + "samples.npz", epsilon=[0.02, 0.1], limit=6
    )
    run = verify.verify(
        digits + "onnx/digits_conv.onnx", digits + "vnnlib/image_1401_radius_0.14.vnnlib", timeout=60
    )
    found = (study, run, verify.reach(Loop(), ([0.0, 1.0], [1.0, 2.0]), 3))
    texts = [*map(verify.report, found), suite_report.page(_judged("sat", "unsat", "timeout"))]
    for number, text in enumerate(texts):
        file = tmp_path / f"{number}.html"
        file.write_text(text)
        one = browser()
        page = one.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme).new_page()
        told: list[str] = []
        page.on("console", lambda message, told=told: told.append(message.text))
        page.on("pageerror", lambda error, told=told: told.append(str(error)))
        page.on(
            "request",
            lambda asked, told=told: (
                told.append(asked.url) if not asked.url.startswith(("file:", "data:")) else None
            ),
        )
        page.goto(file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert not told
        one.close()
