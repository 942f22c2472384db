"""A plugin of pytest: tests that prove properties.

    @pytest.mark.verify(timeout=60)
    def test_brakes(proved):
        proved("controller.onnx", "brakes.vnnlib")

`proved` decides a property: the test fails with the counterexample where it does not hold, and where it is undecided (or is skipped then, with
`undecided="skip"`). Verdict, reason and seconds are properties of the test in JUnit's XML. Nothing heavy is imported before a test asks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from verify.result import Result

_UNDECIDED = ("fail", "skip")
_ENTRIES = 40  # of a counterexample, that a failure shows


def pytest_addoption(parser: pytest.Parser) -> None:
    """--verify-timeout and --verify-report."""
    group = parser.getgroup("verify", "properties of neural networks")
    group.addoption("--verify-timeout", type=float, default=60.0, help="Seconds of each property (60).")
    group.addoption("--verify-report", type=Path, help="A folder for a page of each test's properties.")


def pytest_configure(config: pytest.Config) -> None:
    """The marker is known."""
    config.addinivalue_line(
        "markers",
        "verify(timeout=None, undecided='fail', **options): how the fixture `proved` decides; options are those of verify.verify",
    )


@pytest.fixture
def proved(request: pytest.FixtureRequest) -> Callable[..., Result]:
    """Decides a property of a model and fails where it does not hold: `proved(model, specification, **options)` returns the result."""
    marker = request.node.get_closest_marker("verify")
    marked = dict(marker.kwargs) if marker is not None else {}
    calls: list[int] = []

    def prove(model: Any, specification: Any, **options: Any) -> Result:
        from verify.api import verify
        from verify.errors import VerifyError
        from verify.reports.report import report
        from verify.specification import PropertyBuilder

        __tracebackhide__ = True
        asked = {"timeout": request.config.getoption("--verify-timeout"), **marked, **options}
        undecided = asked.pop("undecided", "fail")
        if undecided not in _UNDECIDED:
            pytest.fail(f"undecided is {undecided!r}; use one of {', '.join(_UNDECIDED)}", pytrace=False)
        try:
            result = verify(model, specification, **asked)
        except VerifyError as error:
            pytest.fail(str(error), pytrace=False)
        calls.append(1)
        number = "" if len(calls) == 1 else f" {len(calls)}"
        for name in ("verdict", "reason", "seconds"):
            request.node.user_properties.append((f"{name}{number}", getattr(result, name)))
        folder = request.config.getoption("--verify-report")
        if folder is not None:
            name = re.sub(r"[^\w.-]+", "_", request.node.nodeid)[-150:]
            report(result, folder / f"{name}{number.replace(' ', '-')}.html")
        said = str(specification) if isinstance(specification, PropertyBuilder) else "the property"
        if result.verdict == "sat":
            pytest.fail(f"{said} - this does not hold:\n{_shown(result)}", pytrace=False)
        if result.verdict != "unsat":
            (pytest.skip if undecided == "skip" else pytest.fail)(f"{said} - undecided: {result.reason}")
        return result

    return prove


def _shown(result: Result) -> str:
    """The counterexample, as the command line shows it, or the first part of it."""
    from verify.formats.witness import format_assignment

    if result.witness is None:
        return result.reason
    lines = format_assignment(result.witness.variables, result.witness.types).splitlines()
    more = [f".. and {len(lines) - _ENTRIES} more"] if len(lines) > _ENTRIES else []
    return "\n".join([*lines[:_ENTRIES], *more])
