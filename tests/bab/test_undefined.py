"""One-sided and undefined: verdicts of networks whose values leave all numbers or their domain, and what is said of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from verify.cli import cli
from verify.problem import prepare
from verify.request import Request
from verify.result import Result
from verify.run import run

Box = list[tuple[float, float]]
PATIENCE = 60.0


def network(nodes: list[onnx.NodeProto], inputs: int, **constants: Any) -> onnx.ModelProto:
    """float32 [1, inputs] to [1, 1] by nodes from x to y."""
    value = helper.make_tensor_value_info
    stored = [numpy_helper.from_array(np.array(number), name) for name, number in constants.items()]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, [1, inputs])],
        [value("y", TensorProto.FLOAT, [1, 1])],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def chain(*operators: str) -> list[onnx.NodeProto]:
    """Operators of one operand, one after the other; the i-th is called n<i>."""
    names = ["x", *(f"h{i}" for i in range(len(operators) - 1)), "y"]
    return [
        helper.make_node(operator, [a], [b], name=f"n{i}")
        for i, (operator, a, b) in enumerate(zip(operators, names, names[1:], strict=False))
    ]


def property_text(box: Box, formula: str) -> str:
    text = "".join(f"(declare-const X_{i} Real)" for i in range(len(box))) + "(declare-const Y_0 Real)\n"
    bounds = "".join(f"(assert (>= X_{i} {a}))(assert (<= X_{i} {b}))\n" for i, (a, b) in enumerate(box))
    return text + bounds + f"(assert {formula})"


def decided(made: onnx.ModelProto, box: Box, formula: str, seconds: float = PATIENCE) -> Result:
    problem = prepare(made, property_text(box, formula))
    return run(Request(problem.model, problem.specification, timeout=seconds))


NODE = helper.make_node
ROOT = [
    NODE("Mul", ["x", "x"], ["s"]), NODE("ReduceSum", ["s", "axes"], ["q"], keepdims=1), NODE("Sqrt", ["q"], ["y"])
]  # fmt: skip
X_EXP = [NODE("Neg", ["x"], ["n"]), NODE("Exp", ["n"], ["e"]), NODE("Mul", ["x", "e"], ["y"])]
LOG_SUM = [NODE("Exp", ["x"], ["e"]), NODE("Add", ["e", "one"], ["a"]), NODE("Log", ["a"], ["y"])]
QUOTIENT = [NODE("Exp", ["x"], ["e"]), NODE("Add", ["e", "one"], ["a"]), NODE("Div", ["e", "a"], ["y"])]
CUBE = [NODE("Mul", ["x", "x"], ["s"]), NODE("Mul", ["s", "x"], ["y"])]
TANGENT = [NODE("Sin", ["x"], ["s"]), NODE("Cos", ["x"], ["c"]), NODE("Div", ["s", "c"], ["y"])]
ONE = {"one": np.float32([[1.0]])}
CASES: dict[str, tuple[list[onnx.NodeProto], Box, str, str, dict[str, Any]]] = {
    "exp": (chain("Exp"), [(0, 720)], "(<= Y_0 0.5)", "unsat", {}),
    "exp in float32": (chain("Exp"), [(0, 90)], "(<= Y_0 0.5)", "unsat", {}),
    "exp, sat": (chain("Exp"), [(0, 90)], "(<= Y_0 1.5)", "sat", {}),
    "root of squares": (ROOT, [(-1, 1)] * 2, "(>= Y_0 1.5)", "unsat", {"axes": np.int64([1])}),
    "root of squares, sat": (ROOT, [(-1, 1)] * 2, "(>= Y_0 1.4)", "sat", {"axes": np.int64([1])}),
    "log of relu": (chain("Relu", "Log"), [(-1, 1)], "(>= Y_0 0.1)", "unsat", {}),
    "log of relu, sat": (chain("Relu", "Log"), [(-1, 1)], "(<= Y_0 -0.1)", "sat", {}),
    "root of relu": (chain("Relu", "Sqrt"), [(-1, 4)], "(>= Y_0 2.1)", "unsat", {}),
    "quotient from 0": (chain("Reciprocal"), [(0, 2)], "(<= Y_0 0.4)", "unsat", {}),
    "quotient up to 0": (chain("Reciprocal"), [(-2, 0)], "(>= Y_0 -0.4)", "unsat", {}),
    "quotient of a root": (chain("Relu", "Sqrt", "Reciprocal"), [(-1, 4)], "(<= Y_0 0.4)", "unsat", {}),
    "x exp(-x)": (X_EXP, [(-800, 800)], "(>= Y_0 0.5)", "unsat", {}),
    "log(1 + exp)": (LOG_SUM, [(0, 800)], "(<= Y_0 0.5)", "unsat", ONE),
    "exp / (1 + exp)": (QUOTIENT, [(-50, 800)], "(<= Y_0 -0.01)", "unsat", ONE),
    "softplus": (chain("Softplus"), [(-1000, 1000)], "(<= Y_0 -0.1)", "unsat", {}),
    "cube": (CUBE, [(0, 1e30)], "(<= Y_0 -1)", "unsat", {}),
    "tangent": (TANGENT, [(0, 1.57)], "(<= Y_0 -0.1)", "unsat", {}),
    "tangent, sat": (TANGENT, [(0, 1.57)], "(>= Y_0 2)", "sat", {}),
}


@pytest.mark.parametrize("name", CASES)
def test_verdicts(name: str) -> None:
    nodes, box, formula, expected, constants = CASES[name]
    found = decided(network(nodes, len(box), **constants), box, formula)
    assert found.verdict == expected, found.reason


@pytest.mark.parametrize(
    ("operators", "box", "formula", "said"),
    [
        (("Sqrt",), (-1.0, 4.0), "(>= Y_0 3)", "undefined at the node 'y' (Sqrt)"),
        (("Sqrt", "Neg"), (-1.0, 4.0), "(>= Y_0 3)", "undefined at the node 'h0' (Sqrt)"),
        (("Log", "Neg"), (-1.0, 1.0), "(<= Y_0 -0.5)", "undefined at the node 'h0' (Log)"),
    ],
)
def test_a_reason_names_the_node(
    operators: tuple[str, ...], box: tuple[float, float], formula: str, said: str
) -> None:
    """Where a network has no value nothing is refuted, splits are no use, and the reason tells."""
    found = decided(network(chain(*operators), 1), [box], formula)
    assert found.verdict == "unknown" and said in found.reason


def test_a_reason_of_a_timeout_does_too() -> None:
    nodes = [NODE("ReduceSum", ["x", "axes"], ["s"], keepdims=1), *chain("Sqrt")]
    nodes[1].input[0] = "s"
    found = decided(network(nodes, 6, axes=np.int64([1])), [(-1.0, 4.0)] * 6, "(>= Y_0 5)", 3.0)
    assert found.verdict == "timeout" and "undefined at the node 'y' (Sqrt)" in found.reason
    large = decided(network(chain("Exp", "Exp"), 1), [(3.0, 20.0)], "(<= Y_0 (* 3.0 X_0))", 3.0)
    assert large.verdict == "unsat" or "too large for float64 at the node 'y' (Exp)" in large.reason
    plain = decided(network(chain("Relu"), 1), [(-1.0, 1.0)], "(< Y_0 0.0)", 2.0)
    assert "undefined" not in plain.reason and "too large" not in plain.reason


def test_what_is_undefined_elsewhere_does_no_harm() -> None:
    """A constraint that does without the undefined value is refuted."""
    nodes = [NODE("Sqrt", ["x"], ["r"]), NODE("Concat", ["r", "x"], ["both"], axis=1)]
    made = network([*nodes, NODE("Identity", ["both"], ["y"])], 1)
    made.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2
    text = property_text([(-1.0, 4.0)], "(and (>= Y_1 5.0) (>= Y_0 -1.0))")
    text = text.replace("(declare-const Y_0 Real)", "(declare-const Y_0 Real)(declare-const Y_1 Real)")
    problem = prepare(made, text)
    assert run(Request(problem.model, problem.specification, timeout=PATIENCE)).verdict == "unsat"


def test_json_has_no_numbers_that_are_none(tmp_path: Path) -> None:
    onnx.save(network(chain("Exp"), 1), tmp_path / "m.onnx")
    (tmp_path / "p.vnnlib").write_text(property_text([(0, 720)], "(>= Y_0 0.5)"))
    (tmp_path / "q.vnnlib").write_text(property_text([(0, 720)], "(<= Y_0 0.5)"))

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    for name, least in (("p", None), ("q", 0.5)):
        for method in ("interval", "crown", "restricted"):
            arguments = [str(tmp_path / "m.onnx"), str(tmp_path / f"{name}.vnnlib"), "--format", "json"]
            ran = CliRunner().invoke(cli, ["bounds", *arguments, "--method", method, "--layers", "--trace"])
            assert ran.exit_code == 0, ran.output
            lines = [json.loads(line, parse_constant=refuse) for line in ran.stdout.splitlines()]
            found = lines[-1]["clauses"][0]["bound"]
            assert found is None if least is None else math.isclose(found, least, rel_tol=1e-6), (
                name,
                method,
            )
