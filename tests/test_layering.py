"""The architecture as a test: data flows one way, so imports do too, the lazy ones inside functions included.

`LAYERS` is the table of docs/architecture.md. A component imports only components of lower layers (and itself), and of other
people's libraries only those that the table grants it. Imports under TYPE_CHECKING count like all others; the one
exception is `verify/__init__.py`, the facade: it names things of all layers, imports them on first use, and nobody inside
imports anything from it but `__version__`.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from patience import PATIENCE

import verify

ROOT = Path(verify.__file__).parent
LINES_OF_A_FILE, LINES_OF_A_CLASS, LINES_OF_A_FUNCTION, PARAMETERS = 450, 300, 60, 8
MATHS = {"torch", "jaxtyping"}
FILES = {"numpy", "torch", "onnx", "onnx2torch", "torchvision", "google"}

# From the bottom to the top: what may be imported of other people's libraries, by component. Components of one layer do
# not know one another.
LAYERS: tuple[dict[str, set[str]], ...] = (
    {
        "errors": set(),
        "deadline": set(),
        "own_code": set(),
        "checker": {"numpy", "onnx", "onnxruntime", "flint"},
    },
    {"extensions": set(), "output": set(), "memory": set(), "validation": {"numpy"}, "neutral": {"torch"}},
    {
        "startup": {"torch"},
        "journal": {"torch"},
        "process": set(),
        "watchdog": set(),
        "formats": {"numpy"},
        "specification": {"numpy"},
        "network": MATHS,
        "state": MATHS,
        "room": {"torch"},
    },
    {"loading": FILES, "lagrangian": MATHS},
    {"problem": {"numpy", "torch", "onnx"}, "bounders": MATHS | {"highspy", "numpy"}},
    {"branching": MATHS, "attack": MATHS | {"numpy"}, "proof": MATHS | {"numpy"}},
    {"bab": MATHS | {"numpy"}, "request": {"torch"}, "result": set(), "step_attack": MATHS | {"numpy"}},
    {
        "settings": {"numpy", "torch"},
        "resume": {"numpy"},
        "workers": MATHS | {"numpy", "ray"},
        "account": {"numpy", "torch"},
    },
    {"workers": MATHS | {"numpy", "ray"}},
    {"run": {"torch"}, "clause_bounds": {"torch"}},
    {"api": {"torch"}, "study": MATHS | {"numpy", "torchvision", "matplotlib"}},
    {"suite": {"torch"}},
    {"reports": {"numpy", "rich", "PIL"}},
    {"cli": {"click", "onnx"}, "pytest_plugin": {"pytest"}},
    {"__main__": set()},
)
LEVELS = {name: level for level, row in enumerate(LAYERS) for name in row}
LIBRARIES = {name: allowed for row in LAYERS for name, allowed in row.items()}
HEAVY = ("highspy", "torch", "torchvision", "onnx", "onnx2torch", "onnxruntime", "numpy")


class Import(NamedTuple):
    """`source`, a module of ours, imports `target`, a dotted name, at `line`."""

    source: str
    target: str
    line: int


def modules() -> dict[str, Path]:
    """All modules of the package by dotted name."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = ["verify", *path.relative_to(ROOT).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(source: str, path: Path) -> Iterator[Import]:
    """Every import anywhere in a file; `from package import name` is resolved to a module where that is one."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(source, alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield Import(
                    source,
                    whole if whole in MODULES or node.module == "verify" else str(node.module),
                    node.lineno,
                )
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__"):
                yield Import(source, str(node.args[0].value), node.lineno)


ALL = [one for name, path in MODULES.items() for one in imports(name, path)]
OURS = [one for one in ALL if one.target.split(".")[0] == "verify"]


def component(module: str) -> str:
    """`verify.network.graph` belongs to `network`."""
    return module.split(".")[1]


def test_the_walk_finds_imports() -> None:
    """The test would be empty if the walk were."""
    assert len(OURS) > 100
    assert Import("verify.cli.run", "verify.run", 0) in [one._replace(line=0) for one in OURS]  # a lazy one


def test_every_component_has_a_layer() -> None:
    """A new file or folder in verify/ needs a line in LAYERS (and in docs/architecture.md)."""
    assert {component(name) for name in MODULES if name != "verify"} == set(LEVELS)


@pytest.mark.parametrize("name", [name for name in MODULES if name != "verify"])
def test_imports_point_downwards(name: str) -> None:
    """No upward import, no sideways one, none through the facade."""
    wrong = []
    for one in OURS:
        if one.source != name or one.target in ("verify.__version__",):
            continue
        target = component(one.target) if one.target != "verify" else "the facade"
        if target == component(name):
            continue
        if LEVELS.get(target, len(LAYERS)) >= LEVELS[component(name)]:
            wrong.append(f"{MODULES[name]}:{one.line}: {name} imports {one.target}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", [name for name in MODULES if name != "verify"])
def test_libraries_are_granted(name: str) -> None:
    """Other people's libraries only where the table says so."""
    wrong = []
    for one in ALL:
        library = one.target.split(".")[0]
        if one.source != name or library == "verify" or library in sys.stdlib_module_names:
            continue
        if library not in LIBRARIES[component(name)]:
            wrong.append(f"{MODULES[name]}:{one.line}: {name} imports {library}")
    assert not wrong, "\n".join(wrong)


def _too_large(path: Path) -> Iterator[str]:
    """What of a file is larger than a reader can hold. Options that are given by name do not count as parameters."""
    text = path.read_text(encoding="utf-8")
    if text.count("\n") > LINES_OF_A_FILE:
        yield f"{path}: the file"
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        lines = (node.end_lineno or 0) - node.lineno + 1
        most = LINES_OF_A_CLASS if isinstance(node, ast.ClassDef) else LINES_OF_A_FUNCTION
        if lines > most:
            yield f"{path}: {node.name}, {lines} lines"
        if not isinstance(node, ast.ClassDef):
            names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
            if len(names) - (names[:1] in (["self"], ["cls"])) > PARAMETERS:
                yield f"{path}: {node.name}, {len(names)} parameters"


def test_nothing_is_too_large() -> None:
    assert [what for path in sorted(ROOT.rglob("*.py")) for what in _too_large(path)] == []


def test_no_cycles() -> None:
    """Modules form no cycle, inside components either."""
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for one in OURS:
        if one.source != "verify" and one.target in MODULES and one.target != one.source:
            graph[one.source].add(one.target)
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize(
    "code",
    [
        "import verify",
        "import verify.cli",
        "from verify.request import Request\nRequest('model.onnx', 'property.vnnlib', 60.0, seed=1, certificate='proof')",
        "import sys, verify.cli\nsys.argv = ['verify', '--help']\ntry:\n    verify.cli.main()\nexcept SystemExit: pass",
    ],
    ids=["import", "cli", "request", "help"],
)
def test_start_is_light(code: str) -> None:
    """Nothing heavy is loaded before there is work."""
    check = f"\nimport sys\nprint('HEAVY:', *[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code + check], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert done.stdout.splitlines()[-1].strip() == "HEAVY:"
