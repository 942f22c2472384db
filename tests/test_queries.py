"""VNN-LIB 2.0 queries decided: verdicts, and witnesses that the models themselves reproduce."""

from __future__ import annotations

import importlib.util
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import helper
from patience import PATIENCE

from tests.loading.test_joint import bounded, declare, dense, model, query_of
from verify.errors import InputError
from verify.formats.vnnlib2 import parse_query
from verify.problem import Problem, prepare
from verify.request import Request
from verify.result import Result
from verify.run import run

RELU = model([helper.make_node("Relu", ["x"], ["y"])], {"x": [1]}, {"y": [1]})
PAIR = (
    "(declare-network f (declare-input X {0} [1]) (declare-output Y {0} [1]))"
    "(declare-network g (equal-to f) (declare-input U {0} [1]) (declare-output W {0} [1]))"
)


def decided(problem: Problem, seconds: float = PATIENCE) -> Result:
    return run(Request(problem.model, problem.specification, timeout=seconds))


def test_monotonic() -> None:
    """relu is monotonic: the same input, a smaller one, a larger one."""
    text = PAIR.format("real") + "(assert (and (<= X[0] 1) (>= X[0] -1) (>= U[0] -1)))"
    for relation, expected in (("(== U[0] X[0])", "unsat"), ("(<= U[0] X[0])", "unsat"),
                               ("(and (<= U[0] 2) (>= U[0] X[0]))", "sat")):  # fmt: skip
        problem = prepare(
            {"f": RELU}, query_of(text, f"(assert {relation})", "(assert (> W[0] (+ Y[0] 0.01)))")
        )
        found = decided(problem)
        assert found.verdict == expected, relation
        if found.witness is not None:
            assert list(found.witness.variables) == ["X", "Y", "U", "W"]
            assert found.witness.variables["W"] > found.witness.variables["Y"]
            assert found.witness.types == dict.fromkeys("XYUW", "real")


def test_witness_is_the_models_own() -> None:
    """Every network's outputs and hidden tensors are reproduced by its own session, equal inputs are equal."""
    query = query_of(
        declare("f", "A"), declare("g", "B", "(isomorphic-to f)"), *map(bounded, "AB"), "(assert (== Ax[0,0] Bx[0,0]))",
        "(assert (>= (* Ay[0,0] By[0,1]) 0.01)) (assert (> (+ Ah[0,1] Br[0,2]) 0.1))",
    )  # fmt: skip
    models = {"f": dense(5), "g": dense(6)}
    problem = prepare(models, query)
    witness = decided(problem).witness
    assert witness is not None
    found = witness.variables
    assert found["Ax"][0, 0] == found["Bx"][0, 0]
    for letter, name in (("A", "f"), ("B", "g")):
        session = onnxruntime.InferenceSession(models[name].SerializeToString())
        y, k = session.run(None, {"x": found[f"{letter}x"], "z": found[f"{letter}z"]})
        assert np.array_equal(y, found[f"{letter}y"]) and np.array_equal(k, found[f"{letter}k"])
    product = Fraction(float(found["Ay"][0, 0])) * Fraction(float(found["By"][0, 1]))
    assert product >= Fraction("0.01")
    assert Fraction(float(found["Ah"][0, 1])) + Fraction(float(found["Br"][0, 2])) > Fraction("0.1")


def test_strictness_decides_replay() -> None:
    """y = x in [0, 1]: y > 1 and x y > 1 hold nowhere, y >= 1 and x y >= 1 at one point."""
    for term in ("Y[0]", "(* X[0] Y[0])"):
        for operator, expected in ((">=", "sat"), (">", None)):
            query = query_of(
                "(declare-network f (declare-input X float32 [1]) (declare-output Y float32 [1]))",
                f"(assert (and (<= X[0] 1) (>= X[0] 0))) (assert ({operator} {term} 1))",
            )
            problem = prepare(RELU, query)
            witness = problem.replay(0, torch.tensor([1.0]))
            assert (witness is not None) == (expected == "sat"), (term, operator)
            if expected is not None:
                assert decided(problem).verdict == expected


def test_products_decide() -> None:
    """Of x, y in [0, 2]: x y <= 4, x x - 2 x >= -1, and an exact bound between."""
    proto = model([helper.make_node("Relu", ["x"], ["y"])], {"x": [2]}, {"y": [2]})
    head = (
        "(declare-network f (declare-input X float32 [2]) (declare-output Y float32 [2]))"
        "(assert (and (<= X[0] 2) (>= X[0] 0) (<= X[1] 2) (>= X[1] 0)))"
    )
    for assertion, expected in {
        "(>= (* X[0] Y[1]) 4.5)": "unsat", "(>= (* Y[0] Y[1]) 4)": "sat", "(<= (- (* X[0] X[0]) (* 2 Y[0])) -1.01)": "unsat",
        "(<= (- (* X[0] X[0]) (* 2 X[0])) -0.99)": "sat", "(>= (* X[0] X[1] (- 2 X[0])) 2.1)": "unsat",
        "(and (!= X[0] 1) (!= Y[0] 1) (>= (* X[0] X[1] (- 2 X[0])) 1.9))": "sat",
    }.items():  # fmt: skip
        found = decided(prepare({"f": proto}, query_of(head, f"(assert {assertion})")))
        assert found.verdict == expected, assertion


def test_inputs_without_bounds() -> None:
    """float32 bounds its own values: a witness is found, and nothing false is said."""
    head = "(declare-network f (declare-input X float32 [1]) (declare-output Y float32 [1]))"
    assert decided(prepare(RELU, query_of(head, "(assert (>= Y[0] 5))"))).verdict == "sat"
    assert decided(prepare(RELU, query_of(head, "(assert (<= Y[0] -1))")), 5).verdict != "sat"


def test_points_that_no_float_is(tmp_path: Path) -> None:
    query = query_of(
        "(declare-network f (declare-input X real [1]) (declare-output Y real [1]))(assert (== X[0] 0.1)) (assert (>= Y[0] 0.05))"
    )
    witness = decided(prepare(RELU, query)).witness
    assert witness is not None and witness.snapped == 1
    assert witness.variables["X"] == np.float32(0.1)


def test_models_by_name(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(RELU.SerializeToString())
    text = (
        "(vnnlib-version <2.0>)"
        + PAIR.format("float32")
        + "(assert (and (<= X[0] 1) (>= X[0] 0) (== X[0] U[0])))"
    )
    (tmp_path / "q.vnnlib").write_text(text)
    for query in (tmp_path / "q.vnnlib", str(tmp_path / "q.vnnlib"), text):
        for models in ({"f": tmp_path / "m.onnx"}, str(tmp_path / "m.onnx"), RELU.SerializeToString()):
            assert prepare(models, query).clauses == 1
    with pytest.raises(InputError, match="several networks"):
        prepare(RELU, text.replace("equal-to", "isomorphic-to"))
    old = "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= 0 X_0))(assert (<= X_0 0))"
    with pytest.raises(InputError, match=r"VNN-LIB 1.0 is of one network"):
        prepare({"f": RELU, "g": RELU}, old)


# -- the conformance suite of the standard, some cases of it; `make conformance` runs all

CASES = [
    "hidden/hidden03", "hidden/hidden04", "hidden/hidden05", "multi_io/multi_io01", "multi_io/multi_io04",
    "network_equal/network_equal01", "network_multiple/network_multiple01", "network_isomorphic/network_isomorphic02",
    "arithmetic_poly/arithmetic_poly01", "arithmetic_poly/arithmetic_poly02", "arithmetic_poly/arithmetic_poly03",
    "arithmetic_lin/arithmetic_lin04", "shape/shape01", "maxpool/maxpool03", "constant/constant01", "mul/mul04",
]  # fmt: skip


def conformance_case(name: str) -> Any:
    from vnntest.core.paths import CASES_DIR
    from vnntest.generators.handwritten import ModuleCaseSource

    return ModuleCaseSource.try_from_path(CASES_DIR / f"{name}.py")


@pytest.mark.skipif(
    importlib.util.find_spec("vnntest") is None, reason="vnnlib-satisfactory is not installed"
)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_conformance(name: str) -> None:
    case = conformance_case(name)
    lines = case.build_vnnlib_spec()
    query = lines if isinstance(lines, str) else "\n".join(lines)
    parsed = parse_query(query)
    model_of = case.build_onnx_model()
    problem = prepare(dict.fromkeys(parsed.implemented, model_of), parsed)
    assert decided(problem).verdict == case.expected_output().lower()


@pytest.mark.skipif(
    importlib.util.find_spec("vnntest") is None, reason="vnnlib-satisfactory is not installed"
)
@pytest.mark.filterwarnings("ignore")
def test_conformance_case_that_is_wrong() -> None:
    """It declares float16 of a float32 model, which the standard (5.3.2) says *must* be an error, and expects a verdict."""
    case = conformance_case("network_isomorphic/network_isomorphic01")
    with pytest.raises(InputError, match="'x' is float32, but the query declares X2 as float16"):
        prepare(dict.fromkeys(("N1", "N2"), case.build_onnx_model()), parse_query(case.build_vnnlib_spec()))
