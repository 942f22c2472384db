"""The plugin of pytest, in runs of pytest within this one."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree

import onnx
import pytest
from nets import random_layers, relu_model
from patience import PATIENCE

pytest_plugins = ["pytester"]
ROOT = Path(__file__).resolve().parents[1]

TESTS = """
import pytest, verify

MODEL = "net.onnx"
BOX = ([0.0, 0.0], [1.0, 1.0])


def test_holds(proved):
    assert proved(MODEL, verify.OutputRange(BOX, -100, 100)).verdict == "unsat"
    proved(MODEL, verify.OutputRange(BOX, -200, 200))


@pytest.mark.verify(timeout=30, seed=3)
def test_violated(proved):
    proved(MODEL, verify.OutputRange(BOX, -1e-6, 1e-6))


@pytest.mark.verify(timeout=1e-9, undecided="skip")
def test_skipped(proved):
    proved(MODEL, verify.OutputRange(BOX, -100, 100))


def test_late(proved):
    proved(MODEL, verify.OutputRange(BOX, -100, 100), timeout=1e-9)


@pytest.mark.verify(undecided="pass")
def test_misspelt(proved):
    proved(MODEL, verify.OutputRange(BOX, -100, 100))


def test_bad_input(proved):
    proved("none.onnx", "none.vnnlib")
"""


def test_what_tests_prove(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(TESTS)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    onnx.save(relu_model(random_layers(0, (2, 4, 1))), pytester.path / "net.onnx")
    arguments = (
        "-p",
        "no:verify",  # the same one, where the package is installed: pytest knows it by another name then
        "-p",
        "verify.pytest_plugin",
        "-p",
        "no:cacheprovider",
        "--strict-markers",
        "--junitxml=found.xml",
        "--verify-report=pages",
    )
    ran = pytester.runpytest_subprocess(*arguments, timeout=PATIENCE)
    ran.assert_outcomes(passed=1, failed=4, skipped=1)
    ran.stdout.fnmatch_lines_random(
        [
            "*every output lies in [[]-1e-06, 1e-06[]]. - this does not hold:*", "X float32 [[]1,2[]]", "*undecided: time ran out*",
            "*undecided is 'pass'; use one of fail, skip*", "none.vnnlib: there is no such file; check the path",
        ]
    )  # fmt: skip
    cases = {
        case.get("name"): case for case in ElementTree.parse(pytester.path / "found.xml").iter("testcase")
    }
    holds = {one.get("name"): one.get("value") for one in cases["test_holds"].iter("property")}
    assert holds["verdict"] == holds["verdict 2"] == "unsat" and float(holds["seconds"] or "nan") > 0
    pages = sorted(page.name for page in (pytester.path / "pages").iterdir())
    assert len(pages) == 5 and any(page.endswith("test_holds-2.html") for page in pages)
    assert (
        "seed</td><td>3"
        in next(page for page in (pytester.path / "pages").iterdir() if "violated" in page.name).read_text()
    )
