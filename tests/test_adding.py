"""The guides to adding something: the diffs that they show are run as they stand, and do what they say."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import verify
from verify.bab.loop import BranchAndBound
from verify.bab.progress import Outcome, Silent
from verify.deadline import Deadline
from verify.problem import prepare
from verify.settings import Settings, build_search, preset

ROOT = Path(verify.__file__).parent.parent
DIGITS = ROOT / "properties" / "digits_fc"
# a problem that takes some splits, and has no counterexample
PROBLEM = DIGITS / "onnx" / "digits_fc.onnx", DIGITS / "vnnlib" / "image_1400_radius_0.17.vnnlib"
GUIDES = sorted(path.stem for path in (ROOT / "docs").glob("adding-a*.md"))


def shown(guide: str) -> dict[str, Any]:
    """What the guide's first block of Python defines: the new file."""
    text = (ROOT / "docs" / f"{guide}.md").read_text(encoding="utf-8")
    block = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)[0]
    name = f"shown_in_{guide.replace('-', '_')}"
    module = sys.modules[name] = ModuleType(name)
    exec(compile(block, f"docs/{guide}.md", "exec"), module.__dict__)
    return module.__dict__


def searched(settings: Settings, prepare_search: Any = None) -> Outcome:
    """A shipped problem that takes some splits, decided."""
    search = build_search(prepare(*PROBLEM), settings, torch.device("cpu"), 0, Silent())
    assert isinstance(search, BranchAndBound)
    if prepare_search is not None:
        prepare_search(search)
    return search.run(Deadline.after(600))


PLAIN = replace(preset("default"), output_constrained=(), branched=None)


def test_every_kind_of_addition_has_a_guide() -> None:
    kinds = ("bounder", "branching-rule", "certificate-rule", "cut", "technique")
    assert {f"adding-a-{kind}" for kind in kinds} | {"adding-an-operator", "adding-an-executor"} <= set(
        GUIDES
    )


def test_a_technique() -> None:
    technique = shown("adding-a-technique")["SecondAscent"]()
    outcome = searched(replace(PLAIN, further=(technique,)))
    assert outcome.verdict == "unsat", outcome.reason
    assert outcome.progress.techniques[technique.name].calls


def test_a_branching_rule() -> None:
    outcome = searched(replace(PLAIN, brancher=shown("adding-a-branching-rule")["WidestInterval"]()))
    assert outcome.verdict == "unsat" and outcome.progress.depth


def test_an_executor() -> None:
    def at_once(search: BranchAndBound) -> None:
        search.executors = shown("adding-an-executor")["at_once"]

    outcome = searched(PLAIN, at_once)
    assert outcome.verdict == "unsat" and outcome.progress.depth


def test_a_bounder() -> None:
    plain = shown("adding-a-bounder")["PlainSteps"]()
    first = verify.bounds(*PROBLEM, method="crown").bounds
    found = verify.bounds(*PROBLEM, method=plain)
    assert found.method == "PlainSteps" and found.iterations == plain.iterations
    assert all(after >= before - 1e-9 for before, after in zip(first, found.bounds, strict=True))
    assert sum(found.bounds) > sum(first)


@pytest.mark.parametrize("guide", GUIDES)
def test_guides_are_listed(guide: str) -> None:
    assert f"({guide}.md)" in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
