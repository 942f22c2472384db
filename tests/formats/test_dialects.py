"""VNN-LIB as it is found: what is not as the standard has it is read where it can mean one thing alone, and told of."""

from __future__ import annotations

import json
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

import verify
from tests.loading.test_joint import model
from verify.checker.errors import Refused
from verify.checker.query import read_query
from verify.cli import cli
from verify.errors import ModelError, SpecificationError
from verify.formats.vnnlib import parse as parse_property
from verify.formats.vnnlib2 import Query, parse, parse_query
from verify.problem import Problem, prepare
from verify.request import Request
from verify.run import run

TWO = (
    "(vnnlib-version {})\n(declare-network f (declare-input X float32 [1]) (declare-output Y float32 [1]))\n"
)
BOX = "(assert (and (>= X[0] -1) (<= X[0] 1)))\n"
ONE = "(declare-const X_0 Real)(declare-const Y_0 Real)\n(assert (and (>= X_0 -1) (<= X_0 1)))\n"
RELU = model([helper.make_node("Relu", ["x"], ["y"])], {"x": [1]}, {"y": [1]})


@pytest.mark.parametrize(
    ("version", "told"),
    [
        ("<2.0>", ()),
        ("2.0", ("the bare version number 2.0",)),
        ("<2.1>", ("version <2.1>",)),
        ("2.7", ("version 2.7",)),
    ],
)
def test_versions(version: str, told: tuple[str, ...]) -> None:
    query = parse_query(TWO.format(version) + BOX + "(assert (<= Y[0] 0.5))", "q.vnnlib")
    assert len(query.property.clauses) == 1
    assert [note.split(" is read")[0] for note in query.property.notes] == [
        f"q.vnnlib:1:17: {one}" for one in told
    ]


@pytest.mark.parametrize("version", ["1.0", "<1.0>"])
def test_a_version_of_1(version: str) -> None:
    text = f"; a comment\n(vnnlib-version {version})\n{ONE}(assert (<= Y_0 0.5))"
    found = parse(text)
    assert not isinstance(found, Query) and len(found.notes) == 1
    with pytest.raises(Refused):
        read_query(text)
    with pytest.raises(SpecificationError, match="vnnlib-version"):
        parse_property(ONE + f"(vnnlib-version {version})")


INFIX = {
    "(Y < 0.5)": "(< Y 0.5)",
    "(0.5 >= Y)": "(>= 0.5 Y)",
    "((+ Y X) <= (* 2 X))": "(<= (+ Y X) (* 2 X))",
    "(and (Y = 0) (or (-1 < X) (<= X Y)))": "(and (= Y 0) (or (< -1 X) (<= X Y)))",
    "(Y\n==\n(- X))": "(== Y (- X))",
}


@pytest.mark.parametrize("text", INFIX)
def test_infix_comparisons(text: str) -> None:
    """They are what the same comparison says with its operator first, in both versions; the checker takes none."""
    for head, x, y in ((ONE, "X_0", "Y_0"), (TWO.format("<2.0>") + BOX, "X[0]", "Y[0]")):
        infix, prefix = (
            head + f"(assert {part.replace('X', x).replace('Y', y)})" for part in (text, INFIX[text])
        )
        found, expected = (
            parsed.property if isinstance(parsed, Query) else parsed for parsed in map(parse, (infix, prefix))
        )
        assert len(found.notes) == 1 and "operator in the middle" in found.notes[0] and not expected.notes
        for a in range(-5, 6):
            for b in range(-5, 6):
                point = [Fraction(a, 4)], [Fraction(b, 4)]
                assert found.violated(*point) == expected.violated(*point), point
    with pytest.raises(Refused):
        read_query(ONE + f"(assert {text.replace('X', 'X_0').replace('Y', 'Y_0')})")


def test_unequal_in_the_middle() -> None:
    found = parse_query(TWO.format("<2.0>") + BOX + "(assert (Y[0] != X[0]))").property
    assert [found.violated([0.5], [y]) for y in (0.25, 0.5, 0.75)] == [True, False, True]


def test_many_of_a_kind_are_told_once() -> None:
    found = parse_property(ONE + "(assert (or (Y_0 < 1) (Y_0 < 2) (Y_0 < 3)))", "f")
    assert len(found.notes) == 1
    assert found.notes[0].startswith("f:3:13: ") and found.notes[0].endswith("(and so 2 more)")


@pytest.mark.parametrize(
    "text",
    ["(Y_0 < 1 < 2)", "(- Y_0 < 1)", "(Y_0 - 1 < 1)", "(Y_0<1)", "(Y_0 != 1)", "(<= 0 Y_0 1)", "(Y_0 <)", "(< <= 1)",
     "((<= Y_0 1))", "((Y_0) <= 1)", "(Y_0 and 1)", "(<= Y_0 (/ 3))", "(<= Y_0 (/ 1 0))", "(<= Y_0 (1 / 3))"],
)  # fmt: skip
def test_what_may_mean_several_things_is_refused(text: str) -> None:
    with pytest.raises(SpecificationError):
        parse_property(ONE + f"(assert {text})")
    with pytest.raises(Refused):
        read_query(ONE + f"(assert {text})")


def test_quotients_are_exact() -> None:
    """(/ 1 3) is a third, here and for the checker."""
    text = ONE + "(assert (<= (/ Y_0 3) (/ 1 3 (- 2) 0.7)))"
    end = Fraction(1, 3) / -2 / Fraction(7, 10) * 3
    for found in (parse_property(text), read_query(text)):
        assert found.violated([Fraction(0)], [end])
        assert not found.violated([Fraction(0)], [end + Fraction(1, 10**30)])


def test_declarations_of_smt_lib() -> None:
    text = "(declare-fun X_0 ( ) Real)\n(declare-const Y_0 Real)(assert (<= 0 X_0))(assert (<= X_0 1))(assert (<= Y_0 1))"
    assert parse_property(text).violated([0.5], [1.0]) and read_query(text).violated(
        [Fraction(1)], [Fraction(1)]
    )
    found = parse_property(text.replace("Real", "real"))
    assert found.violated([0.5], [1.0]) and found.notes[0].endswith(
        "the type real is read as Real (and so 1 more)"
    )
    with pytest.raises(SpecificationError, match="X_0 is a function"):
        parse_property(text.replace("( )", "(Real)"))
    with pytest.raises(SpecificationError, match="found 'Real'"):
        parse_property(text.replace("( )", ""))
    with pytest.raises(SpecificationError, match="X_0 lacks") as caught:
        parse_property(text.replace("(<= X_0 1)", "(<= Y_0 2)"))
    assert "1:14" in str(caught.value)


# -- inputs that the file gives a value


def given(both: bool = True) -> onnx.ModelProto:
    """relu(x + c) with c = (3, -1) in the file."""
    node = [helper.make_node("Add", ["x", "c"], ["z"]), helper.make_node("Relu", ["z"], ["y"])]
    made = model(node, {"x": [1, 2]} | ({"c": [2]} if both else {}), {"y": [1, 2]})
    made.graph.initializer.append(helper.make_tensor("c", TensorProto.FLOAT, [2], [3.0, -1.0]))
    return made


GIVEN = (
    "(vnnlib-version <2.1>)(declare-network f (declare-input X float32 [1,2]) (declare-input C float32 [2] initialized)"
    "(declare-output Y float32 [1,2]))(assert (and (<= 0.0 X[0,0]) (<= X[0,0] 1.0) (<= 0.0 X[0,1]) (<= X[0,1] 1.0)))"
)


@pytest.mark.parametrize(
    ("formula", "expected"),
    [("(and (>= C[0] 3.0) (>= Y[0,0] 3.5))", "sat"), ("(>= C[0] 3.1)", "unsat"), ("(<= C[0] 2.9)", "unsat"),
     ("(>= (* C[1] X[0,0] X[0,0]) 0.1)", "unsat"), ("(<= (+ Y[0,0] C[1]) (+ X[0,0] 1.9))", "unsat"),
     ("(<= (+ Y[0,0] C[1]) (+ X[0,0] 2.1))", "sat")],
)  # fmt: skip
def test_initialized_inputs(formula: str, expected: str) -> None:
    problem = prepare({"f": given()}, GIVEN + f"(assert {formula})")
    found = run(Request(problem.model, problem.specification, timeout=60))
    assert found.verdict == expected
    if found.witness is not None:
        assert list(found.witness.variables) == ["X", "C", "Y"]
        assert found.witness.variables["C"].tolist() == [3.0, -1.0]
    assert [note.split(": ")[1].split()[0] for note in found.notes or problem.notes] == ["version", "the"]


def test_initialized_inputs_must_be_those_of_the_file() -> None:
    text = GIVEN + "(assert (<= Y[0,0] C[0]))"
    swapped = text.replace("X float32 [1,2])", "X float32 [1,2] initialized)").replace(
        "[2] initialized", "[2]"
    )
    bound = "(assert (and (<= C[0] 1.0) (<= 0.0 C[0]) (<= C[1] 1.0) (<= 0.0 C[1])))"
    for made, query in ((given(both=False), text), (RELU, text), (given(), swapped + bound)):
        with pytest.raises(ModelError, match=r"initialized are [XC]; the file's inputs are, in order, x"):
            prepare({"f": made}, query)
    with pytest.raises(ModelError, match="'c' is float32"):
        prepare({"f": given()}, text.replace("C float32", "C float64").replace("Y[0,0] C[0]", "Y[0,0] 1.0"))
    with pytest.raises(ModelError, match=r"'c' has shape \[2\]"):
        prepare({"f": given()}, text.replace("C float32 [2]", "C float32 [3]"))


def test_all_inputs_initialized() -> None:
    """Read, but of no model: nothing is left that could vary."""
    text = (
        "(vnnlib-version <2.1>)\n(declare-network f\n (declare-input A Real [5] initialized)\n (declare-output B Real [5])\n)\n"
        "(assert (<= B[3] 0.5))"
    )
    query = parse_query(text)
    assert [variable.kind for variable in query.networks[0].variables] == ["initialized", "output"]
    assert query.property.outputs == 10 and len(query.input_of) == 0
    made = model([helper.make_node("Relu", ["x"], ["y"])], {"x": [5]}, {"y": [5]})
    made.graph.initializer.append(helper.make_tensor("x", TensorProto.FLOAT, [5], [1.0] * 5))
    with pytest.raises(ModelError, match="nothing to vary"):
        prepare({"f": made}, query)


def test_related_networks_have_the_same_initialized_inputs() -> None:
    other = "(declare-network g (equal-to f) (declare-input U float32 [1,2]) (declare-input D float32 [2])(declare-output V float32 [1,2]))"
    with pytest.raises(SpecificationError, match="D is input, C initialized"):
        parse_query(GIVEN.replace("(assert", other + "(assert", 1) + "(assert (<= Y[0,0] C[0]))")


# -- types


def test_an_output_without_a_type() -> None:
    """Its type is the one that its operators compute."""
    made = model(
        [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Neg", ["h"], ["y"])],
        {"x": [2]},
        {"y": [2]},
    )
    made.graph.output.append(onnx.ValueInfoProto(name="h"))
    text = (
        "(vnnlib-version <2.0>)(declare-network f (declare-input X float32 [2]) (declare-output Y float32 [2])"
        "(declare-output H float32 [2]))(assert (and (<= X[0] 1) (<= -1 X[0]) (<= X[1] 1) (<= -1 X[1])))"
    )
    for formula, expected in (
        ("(>= H[0] 1.5)", "unsat"),
        ("(<= (+ H[0] Y[0]) -0.1)", "unsat"),
        ("(>= H[1] 0.5)", "sat"),
    ):
        problem = prepare({"f": made}, text + f"(assert {formula})")
        assert run(Request(problem.model, problem.specification, timeout=60)).verdict == expected
    with pytest.raises(ModelError, match="exactly one output"):
        verify.load(made)
    unknown = model([helper.make_node("Cast", ["x"], ["y"], to=TensorProto.STRING)], {"x": [2]}, {"y": [2]})
    unknown.graph.output[0].ClearField("type")
    with pytest.raises(ModelError, match="without an element type"):
        verify.load(unknown)


def test_an_isomorphic_network_in_another_type_than_its_file() -> None:
    text = (
        "(vnnlib-version <2.0>)(declare-network f (declare-input X float32 [1]) (declare-output Y float32 [1]))"
        "(declare-network g (isomorphic-to f) (declare-input U float16 [1]) (declare-output V float16 [1]))"
        "(assert (and (<= X[0] 1.0) (<= 0.0 X[0]) (<= U[0] 1.0) (<= 0.0 U[0])))(assert (<= V[0] 0.5))"
    )
    with pytest.raises(
        ModelError,
        match=r"'x' is float32, .* U as float16; the network g may be isomorphic to f in another type",
    ):
        prepare({"f": RELU, "g": RELU}, text)


# -- how it is told


def test_notes_are_told(tmp_path: Path) -> None:
    onnx.save(RELU, tmp_path / "m.onnx")
    path = tmp_path / "q.vnnlib"
    path.write_text(ONE + "(assert (Y_0 >= 2))")
    model_path, text = str(tmp_path / "m.onnx"), str(path)
    told = f"verify: warning: {path}:3:9: a comparison with its operator in the middle"
    for command in (
        ["run", model_path, text, "--format", "json"],
        ["run", model_path, text, "--quiet"],
        ["bounds", model_path, text, "--format", "json"],
        ["verify", text, "--network", f"f={model_path}"],
    ):
        ran = CliRunner().invoke(cli, command)
        assert ran.exit_code == 0 and told in ran.stderr, ran.output
        if "json" in command:
            found = json.loads(ran.stdout)
            assert len(found["notes"]) == 1 and not found["vacuous"]
    with pytest.warns(verify.DialectWarning, match="operator in the middle"):
        assert verify.verify(model_path, text).notes
    path.write_text(ONE + "(assert (>= Y_0 2))")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not verify.verify(model_path, text).notes


def test_no_certificate_of_what_the_checker_does_not_read(tmp_path: Path) -> None:
    onnx.save(RELU, tmp_path / "m.onnx")
    (tmp_path / "q.vnnlib").write_text(ONE + "(assert (Y_0 >= 2))")
    arguments = [str(tmp_path / "m.onnx"), str(tmp_path / "q.vnnlib"), "--certificate", str(tmp_path / "c")]
    ran = CliRunner().invoke(cli, ["run", *arguments])
    assert ran.stdout == "unknown\n" and "unknown operator 'Y_0'" in ran.stderr
    assert not (tmp_path / "c").exists()


def test_shared_cases_are_read() -> None:
    folder = Path(__file__).resolve().parents[3] / "shared" / "cases" / "dialects"
    if not folder.is_dir():
        pytest.skip("the cases are not here")
    for path in folder.glob("*/*.vnnlib"):
        assert verify.formats.vnnlib2.read(path).property.notes
    problem = prepare({"f": folder / "acc_2026/acc_2026.onnx"}, folder / "acc_2026/acc_2026.vnnlib")
    assert isinstance(problem, Problem) and np.isfinite(problem.boxes([0])[0].numpy()).all()
