"""The scripts of `examples/` do what they say, where their libraries are installed."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE

import verify
from benchmarks import notebooks
from benchmarks.notebooks import NOTEBOOKS

ROOT = Path(verify.__file__).parent.parent
EXAMPLES = ROOT / "examples"


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a script defines, to be called in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def defined(name: str, *libraries: str) -> dict[str, Any]:
        for library in libraries:
            if find_spec(library) is None:
                pytest.skip(f"{library} is not installed")
        return runpy.run_path(str(EXAMPLES / name))

    return defined


def test_digits(example: Any, tmp_path: Path) -> None:
    study = example("sklearn_digits.py", "sklearn")["main"](images=40)
    smallest, largest = study.accuracy(0.01), study.accuracy(0.06)
    assert smallest.clean > 0.8 and smallest.certified >= largest.certified and not smallest.open
    assert study.images("sat") and "the changed sample" in (tmp_path / "digits.html").read_text()


def test_a_closed_loop(example: Any, tmp_path: Path) -> None:
    tube = example("closed_loop.py")["main"](steps=6)
    assert tube.stays_within([0.0, -1.0], [2.0, 1.0])
    assert (tmp_path / "loop.html").exists()


@pytest.mark.filterwarnings("default")  # the exporter has some
def test_an_export(example: Any) -> None:
    assert example("torch_export.py", "onnxscript")["main"]().startswith("proved: no input violates")


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("name", "library"),
    [("sklearn_pipeline.py", "skl2onnx"), ("keras_model.py", "keras"), ("jax_model.py", "jax2onnx")],
)
def test_other_libraries(name: str, library: str, example: Any) -> None:
    assert example(name, library)["main"]().verdict == "unsat"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They run from their first cell to their last, and show what is stored: the same kinds of outputs, the same verdicts."""
    monkeypatch.chdir(EXAMPLES)
    stored = notebooks.read(path)
    assert _shown(notebooks.run(stored)) == _shown(stored)


def _shown(notebook: dict[str, Any]) -> list[tuple[list[str], list[str]]]:
    """Of each output, its kinds, and the verdicts in it."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    texts = ["".join(o.get("text", ())) + "".join(o.get("data", {}).get("text/html", ())) for o in outputs]
    kinds = [sorted(o.get("data", {o["output_type"]: ()})) for o in outputs]
    return [
        (kind, re.findall(r"unsat|sat|True|False", text)) for kind, text in zip(kinds, texts, strict=True)
    ]


def test_a_cell_that_fails_is_no_output() -> None:
    cells = [{"cell_type": "code", "source": ["a = 1\n", "print(a)\n", "a + 1"], "outputs": []}]
    (cell,) = notebooks.run({"cells": cells})["cells"]
    assert [o.get("text") or o["data"]["text/plain"] for o in cell["outputs"]] == [["1\n"], ["2"]]
    with pytest.raises(ZeroDivisionError):
        notebooks.run({"cells": [{**cells[0], "source": ["1 / 0"]}]})


def test_continuous_integration(tmp_path: Path) -> None:
    """The tests of the workflow, by its own command."""
    workflow = (EXAMPLES / "ci" / "verify.yml").read_text()
    (line,) = re.findall(r"run: pytest examples/ci (.*)$", workflow, flags=re.MULTILINE)
    plugin = [] if _installed() else ["-p", "verify.pytest_plugin"]
    pages = line.replace("pages", str(tmp_path / "pages")).replace("tests.xml", str(tmp_path / "tests.xml"))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            *plugin,
            "examples/ci",
            *pages.split(),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout + done.stderr
    assert len(list((tmp_path / "pages").glob("*.html"))) == 2


def _installed() -> bool:
    from importlib.metadata import entry_points

    return any(entry.value == "verify.pytest_plugin" for entry in entry_points(group="pytest11"))


def test_all_are_listed() -> None:
    listed = set(re.findall(r"^\| \[([\w./]+)\]", (EXAMPLES / "README.md").read_text(), flags=re.MULTILINE))
    assert listed == {
        path.name for path in EXAMPLES.iterdir() if path.name != "README.md" and path.name != "__pycache__"
    }
