"""Other packages' operators, bounders, branching rules and techniques: found by name, told of, and never trusted by the checker."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from nets import property_text, random_layers, relu_model
from onnx import helper, numpy_helper
from patience import PATIENCE
from test_adding import PLAIN, searched, shown
from test_cli import Command

import verify
import verify.clause_bounds
import verify.loading.operators  # which register their own before a test does
from verify import extensions
from verify.errors import InputError
from verify.loading.registry import OPERATORS
from verify.settings import preset

ROOT = Path(verify.__file__).parent.parent
EXAMPLE = ROOT / "examples" / "extension"
SMALL = ROOT / "properties" / "controller"
QUICK = SMALL / "onnx" / "controller.onnx", SMALL / "vnnlib" / "thrust_bound.vnnlib"
Install = Callable[..., None]
Files = tuple[Path, Path]


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What a test installs, registers and loads is gone behind it."""
    before = [(table, set(table)) for table in (extensions._registered, extensions._loaded, OPERATORS)]
    extensions._installed.cache_clear()
    yield
    extensions._installed.cache_clear()
    for table, known in before:
        for key in set(table) - known:
            del table[key]  # type: ignore[attr-defined]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a package of one module on the path, with the metadata of an installed one."""

    def put(name: str, code: str, group: str, *entries: str) -> None:
        folder = tmp_path / name
        metadata = folder / f"{name}-1.2.dist-info"
        metadata.mkdir(parents=True)
        (folder / f"{name}.py").write_text(code)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        (metadata / "entry_points.txt").write_text("\n".join((f"[{group}]", *entries)) + "\n")
        monkeypatch.syspath_prepend(str(folder))

    return put


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """`verify` in this process, its output captured."""
    return Command(monkeypatch, capfd)


def problem(folder: Path, radius: float, threshold: float) -> Files:
    """A property of 20 inputs and 80 neurons that takes splits to prove, more of them on a larger box."""
    onnx.save(relu_model(random_layers(2, (20, 40, 40, 2))), folder / "random.onnx")
    text = property_text([-radius] * 20, [radius] * 20, 2, f"(>= Y_0 {threshold})")
    (folder / "p.vnnlib").write_text(text)
    return folder / "random.onnx", folder / "p.vnnlib"


def shrinking() -> onnx.ModelProto:
    """Soft thresholds between two affine maps."""
    generator = np.random.default_rng(0)
    weights = [generator.standard_normal(shape).astype(np.float32) for shape in ((4, 12), (12, 2))]
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["a"]),
        helper.make_node("Shrink", ["a"], ["b"], "soft", lambd=0.25, bias=0.25),
        helper.make_node("MatMul", ["b", "last"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, size])
        for name, size in (("x", 4), ("y", 2))
    ]
    stored = [
        numpy_helper.from_array(weight, name) for weight, name in zip(weights, ("first", "last"), strict=True)
    ]
    graph = helper.make_graph(nodes, "shrinking", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def at_least(threshold: float) -> str:
    return property_text([-0.5] * 4, [0.5] * 4, 2, f"(>= Y_0 {threshold})")


SCRIPT = """
import json, sys
import torch, verify
model, network, problem, certificate = sys.argv[1:5]
low, high = sys.argv[5:]
verdicts = [verify.verify(model, text, timeout=600).verdict for text in (low, high)]
torch.manual_seed(0)
module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Softshrink(0.25), torch.nn.Linear(8, 2))
box = verify.OutputRange(([-0.1] * 4, [0.1] * 4), [-9.0, -9.0], [9.0, 9.0])
verdicts.append(verify.verify(module, box, example_input=torch.zeros(1, 4), timeout=600).verdict)
searched = verify.verify(network, problem, preset_name="default+earliest", certificate=certificate, timeout=600)
print(json.dumps([*verdicts, searched.verdict, searched.extensions, searched.account.versions]))
"""


def test_the_example_is_installed_and_used(tmp_path: Path, command: Command) -> None:
    """Its operator decides a model that there was no rule for, its branching rule a search, whose certificate is proved without it."""
    pytest.importorskip("setuptools")
    shutil.copytree(EXAMPLE, tmp_path / "example")  # building writes beside the sources
    pip = "-m pip install --quiet --no-deps --no-build-isolation --no-index --target site ./example"
    subprocess.run([sys.executable, *pip.split()], cwd=tmp_path, check=True, timeout=PATIENCE)
    onnx.save(shrinking(), tmp_path / "shrinking.onnx")
    certificate, files = tmp_path / "proof.cert", problem(tmp_path, 0.1, 0.4)
    arguments = (tmp_path / "shrinking.onnx", *files, certificate, at_least(50.0), at_least(0.0))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tmp_path / "site", ROOT)))},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    *verdicts, names, versions = json.loads(done.stdout)
    assert verdicts == ["unsat", "sat", "unsat", "unsat"]
    assert names == ["branching rule earliest of verify-example 0.1", "operator Shrink of verify-example 0.1"]
    assert versions["verify-example: operator Shrink"] == "0.1"
    with pytest.raises(InputError, match="'soft': operator Shrink"):  # where it is not installed
        verify.verify(tmp_path / "shrinking.onnx", at_least(50.0))
    assert command("check", certificate, *files).code == 0


def test_nothing_is_looked_up_without_a_name(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as within:
        within.setattr(extensions, "_installed", lambda group: pytest.fail(f"{group} was looked up"))
        ran = command("run", *QUICK, "--format", "json", "--preset", "fast")
        assert ran.code == 0 and json.loads(ran.out)["extensions"] == []
        assert command("bounds", *QUICK, "--method", "crown").code == 0


BOUNDER = """
from verify.bounders.restricted import Restricted

def bounder():
    return Restricted(2)
"""


def test_a_bounder_by_its_name(install: Install, command: Command) -> None:
    install("somebodys", BOUNDER, "verify.bounders", "short = somebodys:bounder")
    ran = command("bounds", *QUICK, "--method", "short", "--format", "json")
    found = json.loads(ran.out)
    assert (found["method"], found["iterations"]) == ("short", 2)
    assert found["extensions"] == ["bounder short of somebodys 1.2"] and "somebodys 1.2" in ran.err
    assert verify.bounds(*QUICK, method="short", iterations=3).iterations == 3


def test_built_ins_are_not_replaced(install: Install, command: Command) -> None:
    install(
        "usurper", "raise SystemExit(5)", "verify.bounders", "crown = usurper:x", "restricted = usurper:x"
    )
    for method in ("crown", "restricted"):
        assert command("bounds", *QUICK, "--method", method).code == 0


def test_a_technique_in_this_process() -> None:
    asked: list[int] = []

    class Watching(shown("adding-a-technique")["SecondAscent"]):  # type: ignore[misc]
        def due(self, bounded: Any, knowledge: Any) -> Any:
            asked.append(len(bounded.open))
            return super().due(bounded, knowledge)

    extensions.register("technique", "again")(Watching)
    (technique,) = preset("fast+again").further
    assert isinstance(technique, Watching)
    assert searched(replace(PLAIN, further=(technique,))).verdict == "unsat" and asked
    with pytest.raises(ValueError, match="twice"):
        extensions.register("technique", "again")(Watching)
    with pytest.raises(ValueError, match="none of"):
        extensions.register("operator", "Shrink")


@pytest.mark.parametrize(
    ("code", "entry", "said"),
    [
        ("import nothing_of_that_name", "odd = broken:rule", "cannot be loaded (ModuleNotFoundError"),
        ("raise SystemExit(5)", "odd = broken:rule", "cannot be loaded (SystemExit"),
        ("rule = 3", "odd = broken:another", "cannot be loaded (AttributeError"),
        ("rule = 3", "odd = broken:rule", "cannot be loaded (TypeError"),
        ("rule = object", "odd = broken:rule", "has no choose"),
    ],
)
def test_broken_packages_are_named(
    code: str, entry: str, said: str, install: Install, command: Command
) -> None:
    sys.modules.pop("broken", None)
    install("broken", code, "verify.branching_rules", entry)
    ran = command("run", *QUICK, "--preset", "default+odd")
    assert (ran.code, ran.out) == (2, "") and "Traceback" not in ran.err
    assert "package broken 1.2" in ran.err and said in ran.err


def test_an_operator_that_is_declared_and_not_there(install: Install) -> None:
    install("empty", "", "verify.operators", "Shrink = empty")
    with pytest.raises(InputError, match=r"package empty 1\.2 declares the operator 'Shrink'"):
        verify.verify(shrinking().SerializeToString(), at_least(1.0))


def test_two_packages_with_one_name(install: Install) -> None:
    for name in ("one", "another"):
        install(name, BOUNDER, "verify.bounders", f"short = {name}:bounder")
    with pytest.raises(InputError, match="several packages, another and one"):
        verify.bounds(*QUICK, method="short")


def test_names_that_nobody_has(command: Command) -> None:
    ran = command("run", *QUICK, "--preset", "default+widest")
    assert ran.code == 2 and "'widest' is not known; there are none" in ran.err
    ran = command("bounds", *QUICK, "--method", "widest")
    assert ran.code == 2 and "there are interval, crown" in ran.err


def test_an_extension_that_fails_at_work_is_named(install: Install, command: Command, tmp_path: Path) -> None:
    code = "class Rule:\n    def choose(self, *_):\n        raise KeyError('oops')"
    install("failing", code, "verify.branching_rules", "odd = failing:Rule")
    ran = command("run", *problem(tmp_path, 0.2, 1.2), "--preset", "fast+odd")
    assert (ran.code, ran.out) == (70, "")
    assert "branching rule odd of failing 1.2 was loaded: try without it first" in ran.err
