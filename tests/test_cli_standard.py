"""The command line of the VNN-LIB standard: what stands on stdout, to the letter, and the errors that must be."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.loading.test_joint import model
from verify import __version__
from verify.cli import standard
from verify.cli.standard import CAPABILITIES, NAME, add_global_options
from verify.errors import InputError
from verify.formats.witness import parse_assignment
from verify.loading.operators import supported_operators
from verify.loading.registry import CONVERTED, OPERATORS

HEAD = (
    "(vnnlib-version <2.0>)"
    '(declare-network f (declare-input A float32 [1,2]) (declare-hidden H float32 [1,2] "h") (declare-output B float32 [1,2]))'
    "(declare-network g (equal-to f) (declare-input C float32 [1,2]) (declare-output D float32 [1,2]))"
    + "".join(f"(assert (and (<= {v}[0,{i}] 1) (>= {v}[0,{i}] -1)))" for v in "AC" for i in (0, 1))
)
OLD = (
    "(declare-const X_0 Real)(declare-const X_1 Real)(declare-const Y_0 Real)(declare-const Y_1 Real)"
    + "".join(f"(assert (<= X_{i} 1)) (assert (>= X_{i} -1))" for i in (0, 1))
)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a model and some queries."""
    nodes = [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Neg", ["h"], ["y"])]
    (tmp_path / "m.onnx").write_bytes(model(nodes, {"x": [1, 2]}, {"y": [1, 2]}).SerializeToString())
    (tmp_path / "sat.vnnlib").write_text(HEAD + "(assert (<= B[0,1] -0.5)) (assert (== A[0,0] C[0,1]))")
    (tmp_path / "unsat.vnnlib").write_text(HEAD + "(assert (<= (+ B[0,1] D[0,0]) -2.5))")
    (tmp_path / "real.vnnlib").write_text((HEAD + "(assert (<= B[0,1] -0.5))").replace("float32", "real"))
    (tmp_path / "old.vnnlib").write_text(OLD + "(assert (<= Y_0 -0.5))")
    return tmp_path


def call(*arguments: object) -> int:
    """The exit code of a command."""
    code: Any = standard.verify.main([str(argument) for argument in arguments], standalone_mode=False)
    return int(code)


def test_sat(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(files / "sat.vnnlib", "--network", f"f={files / 'm.onnx'}", "--timeout", "60") == 0
    out, err = capsys.readouterr()
    verdict, _, rest = out.partition("\n")
    assert verdict == "sat"
    assert [line for line in rest.splitlines() if line[0].isalpha()] == [
        f"{name} float32 [1,2]" for name in "AHBCD"
    ]
    assert len(rest.splitlines()) == 15
    found = parse_assignment(rest)
    assert np.array_equal(found["H"], np.maximum(found["A"], 0)) and np.array_equal(found["B"], -found["H"])
    assert np.array_equal(found["D"], -np.maximum(found["C"], 0))
    assert found["B"][0, 1] <= -0.5 and found["A"][0, 0] == found["C"][0, 1]
    assert "sat:" in err


def test_other_verdicts(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = f"f={files / 'm.onnx'}"
    assert call(files / "unsat.vnnlib", "--network", network) == 0
    assert capsys.readouterr().out == "unsat\n"
    assert call(files / "unsat.vnnlib", "--network", network, "--timeout", "0.000001") == 0
    assert capsys.readouterr().out == "timed-out\n"


def test_real(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(files / "real.vnnlib", "--network", f"f={files / 'm.onnx'}") == 0
    out = capsys.readouterr().out
    assert out.startswith("sat\nA real [1,2]\n")
    assert parse_assignment(out.partition("\n")[2])["B"].shape == (1, 2)


def test_version_1_0(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(files / "old.vnnlib", "--network", f"any={files / 'm.onnx'}") == 0
    assert capsys.readouterr().out.startswith("sat\nX float32 [1,2]\n")
    with pytest.raises(InputError, match="one --network"):
        call(files / "old.vnnlib")


def test_serialised(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = files / "a" / "b"
    assert (
        call(files / "sat.vnnlib", "--network", f"f={files / 'm.onnx'}", "--serialise-assignments", folder)
        == 0
    )
    assert capsys.readouterr().out == "sat\n"
    assert sorted(path.name for path in folder.iterdir()) == ["A.pb", "B.pb", "C.pb", "D.pb", "H.pb"]
    tensors = {path.stem: onnx.TensorProto.FromString(path.read_bytes()) for path in folder.iterdir()}
    found = {name: numpy_helper.to_array(tensor) for name, tensor in tensors.items()}
    assert all(tensor.name == name for name, tensor in tensors.items())
    assert {(array.dtype.name, array.shape) for array in found.values()} == {("float32", (1, 2))}
    assert np.array_equal(found["B"], -np.maximum(found["A"], 0))
    (files / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        call(
            files / "sat.vnnlib",
            "--network",
            f"f={files / 'm.onnx'}",
            "--serialise-assignments",
            files / "file",
        )


def test_mandatory_errors(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = f"f={files / 'm.onnx'}"
    with pytest.raises(InputError, match="no model is given for the network f"):
        call(files / "sat.vnnlib")
    with pytest.raises(InputError, match="not of g"):
        call(files / "sat.vnnlib", "--network", network, "--network", f"g={files / 'm.onnx'}")
    (files / "typed.vnnlib").write_text((HEAD + "(assert (<= B[0,1] 0))").replace("float32", "float64"))
    with pytest.raises(InputError, match="declares A as float64"):
        call(files / "typed.vnnlib", "--network", network)
    nodes = [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Neg", ["h"], ["y"])]
    half = model(nodes, {"x": ("float16", [1, 2])}, {"y": ("float16", [1, 2])})
    (files / "half.onnx").write_bytes(half.SerializeToString())
    (files / "half.vnnlib").write_text((HEAD + "(assert (<= B[0,1] 0))").replace("float32", "float16"))
    with pytest.raises(InputError, match="only float32 and float64"):
        call(files / "half.vnnlib", "--network", f"f={files / 'half.onnx'}")
    for given in ("f", "f=", "=m.onnx"):
        with pytest.raises(click.BadParameter, match="NAME=MODEL"):
            call(files / "sat.vnnlib", "--network", given)
    with pytest.raises(click.BadParameter, match="twice"):
        call(files / "sat.vnnlib", "--network", network, "--network", network)
    assert capsys.readouterr().out == ""


def lines(capsys: pytest.CaptureFixture[str], capability: str) -> list[str]:
    assert standard.supports.main([f"--{capability}"], standalone_mode=False) == 0
    out = capsys.readouterr().out
    assert out.endswith("\n") and not out.endswith("\n\n")
    return out.splitlines()


def test_capabilities(capsys: pytest.CaptureFixture[str]) -> None:
    found = {capability: lines(capsys, capability) for capability in CAPABILITIES}
    assert found["multiple-network-theories"] == ["SNET", "MENET", "MINET", "MNET"]
    assert found["onnx-element-types"] == ["float32", "float64", "real"]
    oldest, newest = map(int, found["onnx-opset-versions"])
    assert 1 <= oldest < newest <= onnx.defs.onnx_opset_version()
    assert all(re.fullmatch(r"\d+\.\d+", version) for version in found["vnnlib-versions"])
    assert {*found["serialise-assignments"], *found["optimised-disjunctive-reasoning"]} <= {"true", "false"}
    assert {"Relu", "Conv", "Gemm", "Constant"} <= set(found["onnx-operators"])
    for arguments in ([], ["--unsat-proofs", "--onnx-operators"]):
        with pytest.raises(click.UsageError, match="one capability"):
            standard.supports.main(arguments, standalone_mode=False)


def test_every_rule_is_reported() -> None:
    """A rule for a module of onnx2torch is registered with operators; and ONNX knows all names."""
    kinds = {re.sub("(Static|Dynamic)Axes$", "", known.module) for known in OPERATORS.values()}
    assert {re.sub("(Static|Dynamic)Axes$", "", name) for name in CONVERTED} <= kinds
    for operator in supported_operators():
        assert onnx.defs.has(*operator.rsplit(".", 1)[::-1]), operator


def test_global_options(capsys: pytest.CaptureFixture[str]) -> None:
    group = click.Group("verify")
    add_global_options(group)
    for option, expected in (("--name", NAME), ("--version", __version__)):
        assert group.main([option], standalone_mode=False) == 0
        assert capsys.readouterr().out == expected + "\n"
