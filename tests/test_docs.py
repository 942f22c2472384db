"""What the documents say is tried: commands run, snippets run, options and exit codes are the real ones, links lead somewhere.

In `console` blocks every `$ verify ...` runs inside this process and the first line printed must be the one shown, if one is shown.
All `python` blocks of a document run one after another in one namespace, from the root of the checkout.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import click
import pytest
import torch
from patience import PATIENCE

import verify
import verify.clause_bounds  # whose bounders register themselves before a document does
from verify import errors, extensions
from verify.cli import cli
from verify.loading.operators import supported_operators
from verify.loading.registry import OPERATORS
from verify.network.activations import Activation

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return [text for kind, text in BLOCK.findall(document.read_text(encoding="utf-8")) if kind == language]


class Command(NamedTuple):
    """A command of a document and the first line of what it prints, where that is shown."""

    document: str
    line: str
    answer: str | None


def commands() -> list[Command]:
    """All commands of `console` blocks, once each."""
    found = {}
    for document in DOCUMENTS:
        for block in blocks(document, "console"):
            for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                line, *output = part.splitlines()
                found.setdefault(line, Command(document.name, line, output[0] if output else None))
    return list(found.values())


def written(name: str) -> str:
    """A document's text."""
    return (ROOT / name).read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    """What stands under a heading, up to the next one."""
    return re.split(r"^## ", text.split(f"\n## {title}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def table(text: str) -> list[list[str]]:
    """The cells of all table rows but headings' rulers."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows if not set("".join(row)) <= set("-: ")]


def test_there_is_something_to_try() -> None:
    assert len(commands()) >= 5
    assert sum(len(blocks(document, "python")) for document in DOCUMENTS) >= 8


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.line[-60:])
def test_commands(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command works; where its first line is shown, it is that line."""
    monkeypatch.chdir(ROOT)
    program, *arguments = shlex.split(command.line)
    assert program == "verify"
    assert cli.main(arguments, standalone_mode=False) == errors.DECIDED
    printed = capsys.readouterr().out
    assert printed
    if command.answer is not None:
        assert printed.splitlines()[0] == command.answer


@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if blocks(d, "python")], ids=lambda path: path.name
)
def test_snippets(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python blocks run, in order."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(extensions, "_registered", dict(extensions._registered))
    module = ModuleType("documented")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for number, text in enumerate(blocks(document, "python"), start=1):
        exec(compile(text, f"{document.name}, block {number}", "exec"), module.__dict__)


def test_shell_blocks_name_targets_that_exist() -> None:
    """`make` targets in the README are in the Makefile."""
    makefile = written("Makefile")
    targets = re.findall(r"^make (\w+)", "".join(blocks(ROOT / "README.md", "sh")), flags=re.MULTILINE)
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_documented_options_are_the_real_ones(name: str) -> None:
    """docs/cli.md lists each command's options, no more and no fewer, with their defaults."""
    shown = {
        row[0]: row[1]
        for row in table(section(written("docs/cli.md"), f"verify {name}"))
        if row[0].startswith("`-")
    }
    documented = {option.strip("`").split()[0]: default.strip("`") for option, default in shown.items()}
    options = [parameter for parameter in cli.commands[name].params if isinstance(parameter, click.Option)]
    assert set(documented) == {option.opts[0] for option in options}
    for option in options:
        if isinstance(option.default, (str, int)) and not option.is_flag:
            assert documented[option.opts[0]] == str(option.default), option.opts[0]


def test_every_command_is_documented() -> None:
    """A section for each command of `verify --help`."""
    assert set(re.findall(r"^## verify (\w+)$", written("docs/cli.md"), flags=re.MULTILINE)) == set(
        cli.commands
    )


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_unknown_option_is_mentioned(document: Path) -> None:
    """Options that prose and examples mention exist."""
    known = {"--name", "--version", "--help", "-h", "--index-url"}  # the last one of pip
    known |= {name for command in cli.commands.values() for option in command.params for name in option.opts}
    mentioned = re.findall(r"(?<![\w-])--[a-z][a-z-]*", document.read_text(encoding="utf-8"))
    assert set(mentioned) <= known


def test_exit_codes() -> None:
    """The documented exit codes are those of verify.errors."""
    rows = [row for row in table(section(written("docs/cli.md"), "Exit codes")) if row[0].isdigit()]
    codes = [errors.DECIDED, errors.UNDECIDED, errors.BAD_INPUT, errors.RESOURCES, errors.INTERNAL]
    assert [int(row[0]) for row in rows] == codes


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links(document: Path) -> None:
    """Relative links lead to files, and to headings where they name one."""
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, (
                target
            )


def test_the_site_has_all_documents() -> None:
    """mkdocs.yml names every document of docs/ once, and of others only those that docs/hooks.py makes pages of."""
    named = re.findall(r"^ +- [^:]+: ([\w-]+\.md)$", written("mkdocs.yml"), flags=re.MULTILINE)
    made = dict(re.findall(r'"([\w/]+\.md)": "(\w+\.md)"', written("docs/hooks.py")))
    own = [path.name for path in (ROOT / "docs").glob("*.md")]
    assert sorted(named) == sorted([*own, *made.values()])
    assert all((ROOT / source).exists() for source in made)


def test_version_is_in_the_changelog() -> None:
    """The package's version has an entry."""
    assert f"## [{verify.__version__}]" in written("CHANGELOG.md")


def test_documented_operators_are_the_tested_ones() -> None:
    """The table lists what tests/loading compares with ONNX Runtime, no more and no fewer."""
    cases = _module(ROOT / "tests" / "loading" / "onnx_models.py")
    tested = {case.operator for case in (*cases.AFFINE, *cases.ACTIVATIONS)}
    tested |= {node.op_type for nodes in cases.CHOICES.values() for node in nodes} - {"Cast"}
    rows = table(section(written("docs/operators.md"), "Operators"))[1:]
    assert {name.strip() for row in rows for name in row[1].split(",")} == tested


def test_one_file_brings_the_operator_of_the_guide_in(tmp_path: Path) -> None:
    """With the guide's file, and nothing else, a model of that operator is loaded, which compares it with ONNX Runtime."""
    shutil.copytree(ROOT / "verify", tmp_path / "verify", ignore=shutil.ignore_patterns("__pycache__"))
    (text,) = blocks(ROOT / "docs" / "adding-an-operator.md", "python")
    (tmp_path / "verify" / "network" / "activations" / "cosh.py").write_text(text, encoding="utf-8")
    code = """
from onnx import TensorProto, helper
import verify
import verify.clause_bounds  # whose bounders register themselves before a document does
x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
graph = helper.make_graph([helper.make_node("Cosh", ["x"], ["y"])], "one", [x], [y])
loaded = verify.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8))
print(*(layer.activation.name for layer in loaded.network.layers))
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.stdout, done.returncode) == ("Cosh\n", 0), done.stderr


def test_whose_operators_are_whose() -> None:
    """The table of what onnx2torch converts and what is ours is that of the register (tests/loading tries every one)."""
    rows = {row[0]: set(row[1].split(", ")) for row in table(written("docs/adding-an-operator.md"))}
    known = {name: OPERATORS[name] for name in supported_operators()}
    assert rows["onnx2torch converts"] == {name for name, one in known.items() if one.rule and one.module}
    assert rows["ours"] == {name for name, one in known.items() if one.rule and not one.module}
    assert rows["of constants alone, onnx2torch's"] == {name for name, one in known.items() if not one.rule}


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if blocks(d, "diff")], ids=lambda path: path.name)
def test_diffs_are_of_the_files(document: Path) -> None:
    """What a diff of a document adds stands in the file that it names, line by line."""
    for block in blocks(document, "diff"):
        for part in re.split(r"^--- ", block, flags=re.MULTILINE)[1:]:
            name, *lines = part.splitlines()
            text = "\n".join(line.removeprefix("+") for line in lines)
            assert f"\n{text}\n" in written(name), name


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"documented_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_layers_are_those_of_the_table() -> None:
    """docs/architecture.md has a row for every part of verify/."""
    text = section("\n## top\n" + written("docs/architecture.md"), "top")
    named = {
        name.split(".")[0].rstrip("/") for row in table(text)[1:] for name in re.findall(r"`([^`]+)`", row[0])
    }
    parts = {
        path.stem
        for path in (ROOT / "verify").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert named == parts - {"__init__"}


def test_the_operator_of_the_guide(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of docs/adding-an-operator.md is sound, and one line brings it in."""
    from verify.loading import registry
    from verify.loading.operators.activations import plain

    module = ModuleType("documented")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for text in blocks(ROOT / "docs" / "adding-an-operator.md", "python"):
        exec(text, module.__dict__)
    cosh: Activation = module.__dict__["Cosh"]()
    generator = torch.Generator().manual_seed(1)
    draw = 2 * torch.randn(4, 400, generator=generator, dtype=torch.float64)
    lower, upper = draw[:2].amin(0), draw[:2].amax(0)
    t, rho = draw[2], draw[2] * draw[3]
    grid = lower + (upper - lower) * torch.linspace(0, 1, 501, dtype=torch.float64)[:, None]
    best = cosh.minimise(t, rho, lower, upper)
    assert ((lower <= best) & (best <= upper)).all()
    on_grid = (t * cosh.forward(grid) - rho * grid).amin(0)
    assert (t * cosh.forward(best) - rho * best <= on_grid + 1e-12 * (1 + on_grid.abs())).all()
    low, high = cosh.interval(lower, upper)
    assert ((low <= cosh.forward(grid)) & (cosh.forward(grid) <= high)).all()

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = torch.nn.Linear(3, 8), torch.nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.last(torch.cosh(self.first(x)))
            return found

    monkeypatch.setitem(registry.TORCH, torch.cosh, plain(cosh))
    torch.manual_seed(0)
    model = Model()
    x = torch.zeros(1, 3)
    highest = float(model(2 * torch.rand(2000, 3) - 1)[:, 0].detach().max())
    for threshold, verdict in ((highest + 1.0, "unsat"), (highest - 0.05, "sat")):
        asked = verify.Specification(([-1.0] * 3, [1.0] * 3), [[verify.Row([-1.0, 0.0], -threshold)]])
        assert verify.verify(model, asked, example_input=x, timeout=PATIENCE).verdict == verdict
