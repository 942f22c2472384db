"""The checker stands alone: it shares no code with the search, and no heavy library is loaded to check a certificate."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE

import verify.checker.checking

CHECKER = Path(verify.checker.checking.__file__).parent
ROOT = CHECKER.parents[1]
DATA = Path(__file__).parent / "data" / "correct"
GRANTED = {"numpy", "onnx", "flint", "onnxruntime"}

BLOCKED = """
import importlib.abc, sys

class Wall(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        foreign = top in {"torch", "torchvision", "onnx2torch", "scipy", "highspy", "jaxtyping", "sklearn", "click", "rich", "hypothesis"}
        ours = top == "verify" and name != "verify" and not (name + ".").startswith("verify.checker.")
        if foreign or ours:
            raise ImportError(f"{name} is behind the wall")
        return None

sys.meta_path.insert(0, Wall())
for name in ("torch", "onnx2torch", "scipy", "highspy"):
    sys.modules[name] = None
"""  # fmt: skip
CHECK = """
from pathlib import Path
from verify.checker.checking import check
folder = Path(sys.argv[1])
found = check(folder / "certificate.safetensors", folder / "model.onnx", folder / "property.vnnlib", exact="exact" in sys.argv)
print(found.sentence)
loaded = {name.split(".")[0] for name, module in sys.modules.items() if module is not None}
assert not loaded & {"torch", "onnx2torch", "scipy", "highspy", "jaxtyping"}, loaded
own = sorted(name for name in sys.modules if name.split(".")[0] == "verify")
assert all(name == "verify" or name.startswith("verify.checker") for name in own), own
sys.exit(not found.proved)
"""  # fmt: skip


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, at the root."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE
    )  # fmt: skip


@pytest.mark.parametrize("name", ["activations", "joined", "witness"])
def test_checks_behind_a_wall(name: str) -> None:
    done = run(BLOCKED + CHECK, DATA / name, "exact")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("proved: ")


def test_the_wall_stands() -> None:
    """The test above would be empty if it did not."""
    for name in ("torch", "scipy", "verify.state", "verify.proof.certificate", "verify.errors"):
        done = run(BLOCKED + f"import {name}")
        assert done.returncode != 0 and (
            "behind the wall" in done.stderr or "None in sys.modules" in done.stderr
        )


def imported(path: Path) -> set[str]:
    """Everything that a file imports anywhere, lazily and by name too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found |= (
                {f"{node.module}.{alias.name}" for alias in node.names}
                if node.module == "verify"
                else {str(node.module)}
            )
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("import_module", "__import__"):
                assert node.args and isinstance(node.args[0], ast.Constant), path
                found.add(str(node.args[0].value))
            assert name not in ("exec", "eval"), path
    return found


@pytest.mark.parametrize("path", sorted(CHECKER.rglob("*.py")), ids=lambda path: path.stem)
def test_imports(path: Path) -> None:
    for name in imported(path):
        top = name.split(".")[0]
        if top == "verify":
            assert name.startswith("verify.checker"), f"{path}: {name}"
        else:
            assert top in sys.stdlib_module_names or top in GRANTED, f"{path}: {name}"


def test_libraries_are_imported_where_they_must_be() -> None:
    """ONNX by its reader's rooms alone, ONNX Runtime by its own process alone, both without others knowing."""
    for library, files in (
        ("onnx", {"onnx_call", "onnx_constants", "onnx_model", "onnx_reader", "onnx_schema", "onnx_stored"}),
        ("onnxruntime", {"runtime_process"}),
        ("flint", {"rationals"}),
    ):
        users = {
            path.stem
            for path in CHECKER.rglob("*.py")
            if library in {name.split(".")[0] for name in imported(path)}
        }
        assert users <= files, library
