"""A suite's results for continuous integration: JUnit's XML and SARIF 2.1.0.

A property is violated where the verdict is `sat` and no table expects that; an expected counterexample that is none is one, too. What is undecided is
skipped in JUnit and a warning in SARIF, so neither a proof nor a failure is claimed of it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from verify import __version__
from verify.output import as_json
from verify.suite.results import Judged

_INVALID = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # in XML
_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_RULES = {
    "property-violated": ("error", "The property does not hold: there is a counterexample."),
    "verdict-unexpected": ("error", "The verdict is the opposite of the expected one."),
    "undecided": ("warning", "Neither a proof nor a counterexample was found in the time given."),
    "not-verified": ("error", "The instance could not be read or decided."),
}


def outcome(one: Judged) -> str | None:
    """The rule that an instance breaks; None where it is as it should be, or was not run."""
    if one.row is None:
        return None
    if one.contradiction:
        return "verdict-unexpected"
    if one.result == "sat":
        return None if one.instance.expected == "sat" else "property-violated"
    return {"unsat": None, "error": "not-verified"}.get(one.result, "undecided")


def _told(one: Judged) -> str:
    """What happened, in a line."""
    expected = f", expected {one.instance.expected}" if one.instance.expected else ""
    return f"{one.instance.onnx} {one.instance.vnnlib}: {one.result}{expected}" + (
        f" ({one.reason})" if one.reason else ""
    )


def junit(found: Sequence[Judged]) -> bytes:
    """A test suite for each folder, a test case for each instance, with its verdict as a property."""
    root = ElementTree.Element("testsuites", name="verify")
    folders: dict[str, list[Judged]] = {}
    for one in found:
        folders.setdefault(one.instance.benchmark, []).append(one)
    for name, members in folders.items():
        cases = [_case(one) for one in members]
        counts = {
            tag: sum(case.find(tag) is not None for case in cases) for tag in ("failure", "error", "skipped")
        }
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=_clean(name),
            tests=str(len(cases)),
            failures=str(counts["failure"]),
            errors=str(counts["error"]),
            skipped=str(counts["skipped"]),
            time=f"{sum(one.row.seconds for one in members if one.row):.3f}",
        )
        suite.extend(cases)
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _case(one: Judged) -> ElementTree.Element:
    instance = one.instance
    case = ElementTree.Element(
        "testcase",
        classname=_clean(f"{instance.benchmark}.{Path(instance.onnx).name}"),
        name=_clean(instance.vnnlib),
        time=f"{one.row.seconds if one.row else 0:.3f}",
    )
    properties = ElementTree.SubElement(case, "properties")
    for name, value in (
        ("verdict", one.result),
        ("expected", instance.expected or "unsat"),
        ("model", instance.onnx),
    ):
        ElementTree.SubElement(properties, "property", name=name, value=_clean(value))
    rule = outcome(one)
    tag = {"undecided": "skipped", "not-verified": "error"}.get(rule or "", "failure")
    if rule is not None or one.row is None:
        shown = ElementTree.SubElement(case, tag if rule else "skipped", message=_clean(_told(one)))
        if rule is not None:
            shown.set("type", rule)
    return case


def _clean(text: str) -> str:
    """What XML may hold of a text."""
    return _INVALID.sub("?", text)


def sarif(found: Sequence[Judged]) -> bytes:
    """A result for each instance that is not as it should be, at its property's file."""
    rules = [
        {
            "id": rule,
            "shortDescription": {"text": text},
            "defaultConfiguration": {"level": level},
        }
        for rule, (level, text) in _RULES.items()
    ]
    results = [_result(one, rule) for one in found if (rule := outcome(one)) is not None]
    driver = {"name": "verify", "version": __version__, "rules": rules}
    record: dict[str, Any] = {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}],
    }
    return (as_json(record) + "\n").encode()


def _result(one: Judged, rule: str) -> dict[str, Any]:
    """partialFingerprints: the same for the same instance in every run, whatever it ended with before."""
    instance = one.instance
    models = instance.model.values() if isinstance(instance.model, dict) else [instance.model]
    places = [
        {"physicalLocation": {"artifactLocation": {"uri": _uri(path)}}}
        for path in (instance.specification, *models)
    ]
    return {
        "ruleId": rule,
        "ruleIndex": list(_RULES).index(rule),
        "level": _RULES[rule][0],
        "message": {"text": _told(one)},
        "locations": places[:1],
        "relatedLocations": [{**place, "id": number} for number, place in enumerate(places[1:], 1)],
        "partialFingerprints": {
            "instance/v1": hashlib.sha256(
                "\0".join(instance.key).encode(errors="surrogateescape")
            ).hexdigest()
        },
        "properties": {
            "verdict": one.result,
            "expected": instance.expected or None,
            "seconds": one.row.seconds if one.row else None,
        },
    }


def _uri(path: Path) -> str:
    """A path as a reference: relative ones stay so, which is what services resolve against a checkout."""
    return path.as_uri() if path.is_absolute() else quote(path.as_posix(), errors="surrogateescape")
