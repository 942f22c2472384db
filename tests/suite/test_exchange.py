"""A suite's results as other programs read them."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from verify.suite.exchange import junit, outcome, sarif
from verify.suite.instances import Instance
from verify.suite.results import Judged, Row


def one(name: str, result: str | None, expected: str = "", reason: str = "", folder: str = "f") -> Judged:
    instance = Instance(
        folder,
        "onnx/a b.onnx",
        f"vnnlib/{name}.vnnlib",
        60.0,
        expected,
        Path("props/a b.onnx"),
        Path(f"props/{name}.vnnlib"),
    )
    row = None if result is None else Row(*instance.key, 0.0, result, 1.25)
    return Judged(instance, row, reason)


FOUND = [
    one("holds", "unsat"), one("expected", "sat", "sat"), one("violated", "sat", reason="a <reason> & \x00"), one("contrary", "unsat", "sat"),
    one("late", "timeout"), one("open", "unknown", "unsat"), one("broken", "error", reason="memory"), one("waiting", None), one("odd", "unsat", folder="g"),
]  # fmt: skip
RULES = {
    "violated": "property-violated", "contrary": "verdict-unexpected", "late": "undecided", "open": "undecided", "broken": "not-verified",
}  # fmt: skip


@pytest.mark.parametrize("judged", FOUND, ids=lambda judged: judged.instance.vnnlib)
def test_what_is_wrong(judged: Judged) -> None:
    assert outcome(judged) == RULES.get(Path(judged.instance.vnnlib).stem)


def test_junit() -> None:
    root = ElementTree.fromstring(junit(FOUND))
    suites = {suite.get("name"): suite for suite in root}
    assert {key: suites["f"].get(key) for key in ("tests", "failures", "errors", "skipped", "time")} == {
        "tests": "8", "failures": "2", "errors": "1", "skipped": "3", "time": "8.750",
    }  # fmt: skip
    assert len(suites["g"]) == 1
    cases = {Path(case.get("name", "")).stem: case for case in root.iter("testcase")}
    tags = {name: [child.tag for child in case if child.tag != "properties"] for name, case in cases.items()}
    assert tags == {
        "holds": [], "expected": [], "violated": ["failure"], "contrary": ["failure"], "late": ["skipped"], "open": ["skipped"], "broken": ["error"],
        "waiting": ["skipped"], "odd": [],
    }  # fmt: skip
    failure = cases["violated"].find("failure")
    assert (
        failure is not None
        and failure.get("type") == "property-violated"
        and "a <reason> & ?" in failure.get("message", "")
    )
    assert {p.get("name"): p.get("value") for p in cases["late"].iter("property")}["verdict"] == "timeout"
    assert ElementTree.fromstring(junit([])).tag == "testsuites"


def test_sarif() -> None:
    record = json.loads(sarif(FOUND))
    (run,) = record["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert record["version"] == "2.1.0" and len(run["results"]) == len(RULES)
    for result in run["results"]:
        place = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert rules[result["ruleIndex"]] == result["ruleId"] == RULES[Path(place).stem]
        assert result["level"] == ("warning" if result["ruleId"] == "undecided" else "error")
        assert (
            result["relatedLocations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "props/a%20b.onnx"
        )
    prints = [result["partialFingerprints"]["instance/v1"] for result in run["results"]]
    assert len(set(prints)) == len(prints)
    again = json.loads(sarif([one("late", "unknown")]))["runs"][0]["results"][0]
    assert (
        again["partialFingerprints"]["instance/v1"]
        == prints[[r["ruleId"] for r in run["results"]].index("undecided")]
    )
    assert json.loads(sarif([]))["runs"][0]["results"] == []
