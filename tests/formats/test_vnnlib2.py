"""The reader of VNN-LIB 2.0: against an evaluator of the tests' own, against the reference parser, and what it refuses."""

from __future__ import annotations

import contextlib
import importlib.util
import random
import time
import tracemalloc
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from verify.errors import SpecificationError, UnboundedInputError
from verify.formats.vnnlib import Property
from verify.formats.vnnlib2 import Query, is_query, parse, parse_query, read

VERSION = "(vnnlib-version <2.0>)\n"
ONE = VERSION + (
    "(declare-network f (declare-input X float32 [2]) (declare-output Y float32 [1,2])\n"
    "  (declare-output Z float32 []))\n"
)
TWO = VERSION + (
    "(declare-network f (declare-input X real [2]) (declare-output Y real [1]))\n"
    "(declare-network g (equal-to f) (declare-input U real [2]) (declare-output W real [1]))\n"
)
BOX = "(assert (and (>= X[0] -1) (<= X[0] 1))) (assert (>= X[1] -1)) (assert (<= X[1] 1))\n"
BOXES = BOX + BOX.replace("X", "U")


def one(body: str) -> Query:
    """A query about one network."""
    return parse_query(ONE + BOX + body)


# -- what is read


def test_declarations() -> None:
    query = parse_query(
        VERSION
        + '; a "comment" [ 1\n(declare-network net-1 (declare-input image float64 [ 1, 3 ,\n2]) ; [0]\n'
        '(declare-hidden H int64 [2] "/a;(b [ c 1 ]\\"d") (declare-output Y float32 [])(declare-output Z bool [1]))'
        + "".join(
            f"(assert (and (<= image[0,{i}, {j}] 1.0) (>= image [0,{i},{j}] .5)))"
            for i in range(3)
            for j in (0, 1)
        )
        + "(assert (>= H[1] 3)) (assert (<= Y 2e-3))"
    )
    (network,) = query.networks
    assert [(v.name, v.kind, v.element_type, v.shape, v.tensor) for v in network.variables] == [
        ("image", "input", "float64", (1, 3, 2), ""),
        ("H", "hidden", "int64", (2,), '/a;(b [ c 1 ]"d'),
        ("Y", "output", "float32", (), ""),
        ("Z", "output", "bool", (1,), ""),
    ]
    assert (network.name, query.property.inputs, query.property.outputs) == ("net-1", 6, 4)
    (clause,) = query.property.clauses
    assert clause.lower.tolist() == [0.5] * 6
    assert clause.output_coefficients.tolist() == [[0, 0, 0, -1], [1, 0, 0, 0]]  # Y, Z, then H


def test_every_comparison() -> None:
    for operator, holds in {"<": (1, 0, 0), "<=": (1, 1, 0), ">": (0, 0, 1), ">=": (0, 1, 1), "==": (0, 1, 0),
                            "=": (0, 1, 0), "!=": (1, 0, 1)}.items():  # fmt: skip
        query = one(f"(assert ({operator} Y[0,1] 0.5))")
        found = [query.property.violated([0.0, 0.0], [9.0, y, 9.0]) for y in (0.4, 0.5, 0.6)]
        assert found == list(map(bool, holds)), operator
        query = one(f"(assert ({operator} (+ X[0] (* 2 Z)) (- Y[0,0] 1)))")
        found = [query.property.violated([y, 0.0], [1.0, 9.0, 0.0]) for y in (-0.5, 0.0, 0.5)]
        assert found == list(map(bool, holds)), operator


def test_products_are_outputs() -> None:
    query = one(
        "(assert (<= (* X[0] Y[0,1] (- X[0] Z) 0.5) (* (+ X[1] 1) (+ X[1] 1)))) (assert (>= (* X[1] X[1]) 0))"
    )
    assert query.products == ((0, 0, 3), (0, 3, 5), (2, 2))
    x, y = [Fraction(3, 4), Fraction(1, 3)], [Fraction(2), Fraction(5), Fraction(7)]
    values = x[0] ** 2 * y[1], x[0] * y[1] * y[2], x[1] ** 2
    truth = x[0] * y[1] * (x[0] - y[2]) / 2 <= (x[1] + 1) ** 2
    assert query.property.violated(x, [*y, *values]) == truth
    assert one("(assert (<= (- (* X[0] X[1]) (* X[1] X[0])) Z))").products == ()


def test_equal_inputs_are_one() -> None:
    query = parse_query(
        TWO
        + BOX
        + "(assert (== X[1] U[1])) (assert (and (<= U[0] X[0]) (>= U[0] X[0]))) (assert (< Y[0] W[0]))"
        "(assert (or (< X[0] U[0]) (<= (* X[1] U[1]) (+ X[1] U[1]))))"
    )
    assert query.input_of.tolist() == [0, 1, 0, 1]
    assert query.property.inputs == 2
    assert query.products == ((2, 2),)
    (clause,) = query.property.clauses  # x < x is false
    assert clause.output_coefficients.tolist() == [[1, -1, 0], [0, 0, 1]]
    assert clause.input_coefficients is not None
    assert clause.input_coefficients.tolist() == [[0, 0], [0, -2]]


def test_contradictory_relations_leave_nothing() -> None:
    query = parse_query(TWO + BOX + "(assert (== X[1] U[1])) (assert (== X[0] U[0])) (assert (!= X[0] U[0]))")
    assert len(query.property.clauses) == 0


def test_bounds_follow_from_relations() -> None:
    query = parse_query(
        TWO + BOX + "(assert (== X[1] U[1])) (assert (<= U[0] X[0])) (assert (>= (* 2 U[0]) (- X[0] 1)))"
    )
    assert query.property.exact_bounds(0) == ([-1, -1, -1], [1, 1, 1])
    query = parse_query(
        TWO
        + BOX
        + "(assert (== U[0] (+ X[0] 0.25))) (assert (<= (- U[0] U[1]) 1)) (assert (> (- U[0] U[1]) -1))"
    )
    assert query.property.exact_bounds(0)[0][2:] == [Fraction(-3, 4), Fraction(-7, 4)]
    assert query.property.exact_bounds(0)[1][2:] == [Fraction(5, 4), Fraction(9, 4)]


def test_float32_bounds_itself() -> None:
    query = parse_query(ONE + "(assert (<= X[0] 1)) (assert (<= Z 0))")
    greatest = float(np.finfo(np.float32).max)
    assert query.property.clauses[0].lower.tolist() == [-greatest, -greatest]
    assert query.property.clauses[0].upper.tolist() == [1, greatest]
    with pytest.raises(UnboundedInputError, match=r"X\[1\]") as caught:
        parse_query(TWO + "(assert (<= X[0] 1)) (assert (>= X[0] 1)) (assert (<= W[0] 0))")
    assert (caught.value.variable, caught.value.line, caught.value.column) == ("X[1]", 2, 35)


def test_versions_are_told_apart(tmp_path: Path) -> None:
    old = "; x\n(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= X_0 1))(assert (>= X_0 0))(assert (<= Y_0 0))"
    assert isinstance(parse(old), Property)
    assert isinstance(parse(ONE + BOX), Query)
    assert is_query(";(vnnlib-version <1.0>)\n ( vnnlib-version <2.0>)")
    assert not is_query(";(vnnlib-version <2.0>)\n(declare-const X_0 Real)")
    (tmp_path / "a.vnnlib").write_text(ONE + BOX)
    query = read(tmp_path / "a.vnnlib")
    assert isinstance(query, Query)
    assert query.property.source == str(tmp_path / "a.vnnlib")


# -- what is refused

HEAD = "(declare-network f (declare-input X float32 [2]) (declare-output Y float32 [1]))"
REFUSED = {
    "": "version",
    HEAD: "version",
    "(vnnlib-version 2.0)": "no network",
    "(vnnlib-version 2)" + HEAD: "expected a version",
    "(vnnlib-version 2.0.1)" + HEAD: "expected a version",
    "(vnnlib-version 3.0)" + HEAD: "version 3.0",
    "(vnnlib-version <3.1>)" + HEAD: "version <3.1>",
    "(vnnlib-version <1.0>)" + HEAD: "version <1.0>",
    VERSION: "no network",
    VERSION + "(assert (<= X[0] 1))": "before any network",
    VERSION + HEAD + BOX + HEAD.replace("f ", "g "): "after an assertion",
    VERSION + HEAD + HEAD.replace("X", "U").replace("Y", "V"): "f is declared twice",
    VERSION + HEAD + HEAD.replace("f ", "g "): "X is declared twice",
    VERSION + HEAD + "(declare-const X_0 Real)": "unknown statement",
    VERSION + HEAD + VERSION: "given twice",
    VERSION + HEAD.replace("float32", "float31"): "unknown element type",
    VERSION + HEAD.replace("X float32", "X real"): "declare all variables as real",
    VERSION + HEAD.replace("[2]", "[0]"): "the shape of X",
    VERSION + HEAD.replace("[2]", "[1 2]"): "the shape of X",
    VERSION + HEAD.replace("[2]", "[-1]"): "the shape of X",
    VERSION + HEAD.replace("[2]", ""): "the shape of X",
    VERSION + HEAD.replace("X", "1X"): "a variable's name",
    VERSION + "(declare-network f (declare-input X float32 [2]))": "no output",
    VERSION + "(declare-network f (declare-output X float32 [2]))": "no input",
    VERSION + "(declare-network f (declare-output Y float32 [2]) (declare-input X float32 [2]))": "too late",
    VERSION + '(declare-network f (declare-hidden H float32 [2] "h"))': "before the inputs",
    VERSION + "(declare-network f (declare-input X float32 [2]) (declare-hidden H float32 [1]) )": "an ONNX name",
    VERSION + HEAD.replace("f ", "f (equal-to g) "): "not declared before",
    VERSION + HEAD.replace("f ", "f (equal-to f) "): "not declared before",
    VERSION + HEAD.replace("f ", "f (like g) "): "unknown declaration",
    TWO.replace("(equal-to f)", "(equal-to f)(equal-to f)"): "once at most",
    TWO.replace("U real [2]", "U real [3]"): r"not equal-to f: U has shape \[3\]",
    TWO.replace("U real [2]", "U real [2]) (declare-input V real [2]"): "2 inputs, f 1",
    TWO + HEAD.replace("f ", "h (isomorphic-to g)").replace("X", "A").replace("Y", "B").replace("float32", "real"): "itself equal-to f",
    VERSION + HEAD + HEAD.replace("f ", "g (equal-to f) ").replace("X float32", "U float64").replace("Y", "V"): "U is float64",
    ONE + "(assert (<= Q[0] 1))": "Q is not declared",
    ONE + "(assert (<= X 1))": "0 indices",
    ONE + "(assert (<= X[0,0] 1))": "2 indices",
    ONE + "(assert (<= X[2] 1))": "index 2 on axis 0",
    ONE + "(assert (<= X[-1] 1))": "no indices of X",
    ONE + "(assert (<= X[0 1] 1))": "no indices of X",
    ONE + "(assert (<= Y[0,] 1))": "no indices of Y",
    ONE + "(assert (<= Z[] 1))": "no indices of Z",
    ONE + "(assert (<= Z[0] 1))": "1 indices",
    ONE + "(assert (<= Z-1 1))": "no variable",
    ONE + "(assert (<= 0.0 1.0))": "no variable, so it has no type",
    ONE + "(assert (!= 0.0 1.0))": "no variable, so it has no type",
    ONE + "(assert (<= Z 1.0.0))": "no number",
    ONE + "(assert (<= Z 1e999999))": "too extreme",
    ONE + "(assert (<= (/ Z 2) 1))": "unknown operator '/'",
    ONE + "(assert (not (<= Z 1)))": "unknown operator 'not'",
    ONE + "(assert (=> (<= Z 1) (<= Z 1)))": "unknown operator",
    ONE + "(assert (Z < 1 < 2))": "found '<' after",
    ONE + "(assert (Z<1))": "unknown operator 'Z<1'",
    ONE + "(assert (- Z < 1))": "unknown operator '-'",
    ONE + "(assert (Z - 1 < 1))": "unknown operator 'Z'",
    ONE + "(assert (1.0 < 2.0))": "no variable, so it has no type",
    ONE + "(assert (and))": "no arguments",
    ONE + "(assert (or (<= Z 1) (and )))": "no arguments",
    ONE + "(assert (<= Z 1 2))": "more than two",
    ONE + "(assert (!= Z))": "1 of its two",
    ONE + "(assert (<= Z (+)))": "no arguments",
    ONE + "(assert (<= Z 1)": "not closed",
    ONE + "(assert (<= Z 1)) )": "'\\)'",
    ONE + "(assert (<= Z (* " + "Z " * 17 + ")))": "more than 16",
    ONE.replace("Z float32", "Z float64") + "(assert (<= Z Y[0,0]))": "Y is float32, Z is float64",
    ONE.replace("Z float32", "Z int32") + "(assert (<= Z 0.5))": "0.5 is no int32",
    ONE.replace("Z float32", "Z int32") + "(assert (<= (* 2.0 Z) 5))": "2.0 is no int32",
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_refused(text: str) -> None:
    with pytest.raises(SpecificationError, match=REFUSED[text]) as caught:
        parse_query(text)
    assert caught.value.remedy or "bound" in str(caught.value)


def test_places() -> None:
    with pytest.raises(SpecificationError) as caught:
        parse_query(
            ONE + BOX + "(assert (<= Y[0,  0] 1)) ; x\n\n  (assert (and (<= Z 1)\n (>= Y[0, 2] X[1])))"
        )
    assert (caught.value.line, caught.value.column) == (8, 6)


# -- random queries

NUMBERS = ["0.0", "1.0", "-1.5", "0.1", "0.3", "2.0", "-0.7"]
NAMES = ["X[0]", "X[1]", "Y[0,0]", "Y[0,1]", "Z"]
Value = Callable[[dict[str, Fraction]], Any]


class Random:
    """Random formulas as text and as functions of named values; `depth` bounds their nesting."""

    def __init__(self, seed: int, polynomial: bool = True) -> None:
        self.random, self.polynomial = random.Random(seed), polynomial

    def term(self, depth: int, constant: bool = False) -> tuple[str, Value]:
        if depth == 0 or self.random.random() < 0.3:
            if constant or self.random.random() < 0.3:
                number = self.random.choice(NUMBERS)
                return number, lambda values: Fraction(number)
            name = self.random.choice(NAMES)
            return name, lambda values: values[name]
        operator = self.random.choice("+-*" if self.polynomial else "+-")
        count = self.random.randint(1 if operator == "-" else 2, 3)
        parts = [self.term(depth - 1, constant) for _ in range(count)]
        text = f"({operator} {' '.join(part for part, _ in parts)})"
        return text, lambda values: _fold(operator, [value(values) for _, value in parts])

    def comparison(self) -> tuple[str, Value]:
        operator = self.random.choice(["<", "<=", ">", ">=", "==", "!="])
        name = self.random.choice(NAMES)  # so that there is a variable
        (left, a), (right, b) = (name, lambda values: values[name]), self.term(2)
        if self.random.random() < 0.5:
            left, a, right, b = right, b, left, a
        return f"({operator} {left} {right})", lambda values: _compare(operator, a(values), b(values))

    def formula(self, depth: int) -> tuple[str, Value]:
        if depth == 0 or self.random.random() < 0.3:
            return self.comparison()
        word = self.random.choice(["and", "or"])
        parts = [self.formula(depth - 1) for _ in range(self.random.randint(1, 3))]
        combine = all if word == "and" else any
        return f"({word} {' '.join(part for part, _ in parts)})", lambda v: combine(
            [value(v) for _, value in parts]
        )

    def point(self) -> dict[str, Fraction]:
        return {name: Fraction(self.random.choice([*NUMBERS, "0.5", "-0.25"])) for name in NAMES}


def _fold(operator: str, values: list[Fraction]) -> Fraction:
    result = values[0]
    for value in values[1:]:
        result = {"+": result + value, "-": result - value, "*": result * value}[operator]
    return -result if operator == "-" and len(values) == 1 else result


def _compare(operator: str, a: Fraction, b: Fraction) -> bool:
    return {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b, "==": a == b, "!=": a != b}[operator]


def product(query: Query, factors: tuple[int, ...], x: list[Fraction], y: list[Fraction]) -> Fraction:
    result = Fraction(1)
    for code in factors:
        result *= y[code // 2] if code % 2 else x[code // 2]
    return result


def holds(query: Query, point: dict[str, Fraction]) -> bool:
    """Truth by the property, of named values."""
    x, y = [point[name] for name in NAMES[:2]], [point[name] for name in NAMES[2:]]
    return query.property.violated(x, [*y, *(product(query, factors, x, y) for factors in query.products)])


@pytest.mark.parametrize("seed", range(150))
def test_random_queries(seed: int) -> None:
    made = Random(seed)
    formulas = [made.formula(3) for _ in range(made.random.randint(1, 3))]
    body = "".join(f"(assert {text})\n" for text, _ in formulas)
    query = one(body)
    for _ in range(30):
        point = made.point()
        inside = all(-1 <= point[name] <= 1 for name in NAMES[:2])
        truth = inside and all(value(point) for _, value in formulas)
        assert holds(query, point) == truth, (body, point)
        if truth:
            assert any(_member(query, k, point) for k in range(len(query.property.clauses))), (body, point)


def _member(query: Query, k: int, point: dict[str, Fraction]) -> bool:
    """Whether a clause contains a point: the clauses together must contain all that the formula does."""
    clause = query.property.clauses[k]
    x, y = [point[name] for name in NAMES[:2]], [point[name] for name in NAMES[2:]]
    y = [*y, *(product(query, factors, x, y) for factors in query.products)]
    if any(
        not Fraction(a) <= v <= Fraction(b) for a, v, b in zip(clause.lower, x, clause.upper, strict=True)
    ):
        return False
    for row, threshold in enumerate(clause.thresholds):
        total = sum(Fraction(c) * v for c, v in zip(clause.output_coefficients[row].tolist(), y, strict=True))
        if clause.input_coefficients is not None:
            total += sum(
                Fraction(c) * v for c, v in zip(clause.input_coefficients[row].tolist(), x, strict=True)
            )
        if total > Fraction(float(threshold)):
            return False
    return True


def test_the_same_element_by_two_names() -> None:
    """Bug found: `Y[0,0]` against `Y[00,0]`, which is always true, became the row `-Y[0,0] <= 0`."""
    assert len(one("(assert (<= Y[0,0] Y[00,0]))").property.clauses[0].thresholds) == 0
    assert not len(one("(assert (< Y[0,0] Y[00,0]))").property.clauses)


@pytest.mark.parametrize(
    "text",
    [
        "; a\r(assert (<= Z 1))",
        "; a\x0b",
        "; a\u2028",
        "(assert (<= Z\u00a0 1))",
        '(assert "\x1c")',
        "\ufeff",
    ],
)
def test_what_readers_see_differently_is_refused(text: str) -> None:
    with pytest.raises(SpecificationError):
        one(text + "\n(assert (<= Z 1))")
    assert one("; a \u00a0 \u00e9\r\n; b\r")


@pytest.mark.parametrize("seed", range(40))
def test_damaged_text_is_refused_with_a_reason(seed: int) -> None:
    """Whatever is done to a text, the reader reads it or says what is wrong."""
    made = Random(seed)
    whole = (
        (ONE if seed % 2 else TWO)
        + BOXES * (1 - seed % 2)
        + BOX * (seed % 2)
        + f"(assert {made.formula(2)[0]})"
    )
    choice = made.random
    for _ in range(25):
        text = whole
        for _ in range(choice.randint(1, 3)):
            at = choice.randrange(len(text))
            piece = choice.choice(
                ["", "(", ")", "[", "]", ",", '"', ";", " ", "0", "-", "!", "=", "\\", "X", "\n", "1e9"]
            )
            text = text[:at] + piece + text[at + choice.randint(0, 4) :]
        with contextlib.suppress(SpecificationError):
            parse(text)


# -- the reference parser

reference = pytest.mark.skipif(importlib.util.find_spec("vnnlib") is None, reason="vnnlib is not installed")


def _evaluate(node: Any, values: dict[str, Fraction]) -> Any:
    """Truth or value of a node of the reference parser's tree."""
    import vnnlib

    if isinstance(node, vnnlib.Var):
        indices = ",".join(map(str, node.indices))
        return values[f"{node.name}[{indices}]" if node.indices else node.name]
    if isinstance(node, vnnlib.Literal):
        return Fraction(node.lexeme)
    children = [_evaluate(child, values) for child in node.children()]
    if isinstance(node, vnnlib.And | vnnlib.Or):
        return all(children) if isinstance(node, vnnlib.And) else any(children)
    for kind, operator in (("Plus", "+"), ("Minus", "-"), ("Negate", "-"), ("Multiply", "*")):
        if type(node) is getattr(vnnlib, kind):
            return _fold(operator, children)
    for kind, operator in (("LessThan", "<"), ("LessEqual", "<="), ("GreaterThan", ">"), ("GreaterEqual", ">="),
                           ("Equal", "=="), ("NotEqual", "!=")):  # fmt: skip
        if type(node) is getattr(vnnlib, kind):
            return _compare(operator, *children)
    raise AssertionError(f"unknown node {type(node)}")


@reference
@pytest.mark.parametrize("seed", range(60))
def test_reference_reads_the_same(seed: int) -> None:
    import vnnlib

    made = Random(1000 + seed)
    box = BOX.replace("-1)", "-1.0)").replace(" 1)", " 1.0)")
    text = ONE + box + "".join(f"(assert {made.formula(3)[0]})\n" for _ in range(2))
    query, theirs = parse_query(text), vnnlib.parse_query_string(text)
    for _ in range(25):
        point = made.point()
        truth = all(_evaluate(assertion.expr, point) for assertion in theirs.assertions)
        assert holds(query, point) == truth, (text, point)


@reference
def test_reference_declares_the_same() -> None:
    import vnnlib

    text = VERSION + (
        "(declare-network f (declare-input A real [1, 2]) (declare-input B real [])"
        '(declare-hidden H real [3] "h/1") (declare-output C real [2,1]))'
        "(declare-network g (isomorphic-to f) (declare-input D real [1,2]) (declare-input E real [])"
        "(declare-output F real [2,1]))"
        "(assert (and (<= A[0,0] 1.0) (>= A[0,0] 0.0) (<= A[0,1] 1.0) (>= A[0,1] 0.0) (<= B 1.0) (>= B 0.0)))"
        "(assert (and (== A[0,0] D[0,0]) (== A[0,1] D[0,1]) (== B E)))"
    )
    mine, theirs = parse_query(text), vnnlib.parse_query_string(text)
    for network, other in zip(mine.networks, theirs.networks, strict=True):
        assert (network.name, network.relation == "isomorphic-to", network.target) == (
            other.name,
            bool(other.isometric_to),
            other.isometric_to,
        )
        pairs = zip(network.variables, (*other.inputs, *other.hidden, *other.outputs), strict=True)
        for variable, declared in pairs:
            assert (variable.name, variable.shape) == (declared.name, tuple(declared.shape))
            assert variable.tensor == (declared.onnx_name or "").strip('"')


@reference
@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_reference_refuses_no_less(text: str) -> None:
    """What is refused here, the reference refuses too, save for some rules of the standard that it does not check."""
    import vnnlib

    loose = (
        "0.0 1.0",
        "float31",
        "<2.1>",
        "f (equal-to f)",
        "X real",
        "too extreme",
        "Z Z Z",
        "once at most",
    )
    if any(part in text or part in REFUSED[text] for part in loose):
        return
    with pytest.raises(vnnlib.VNNLibException):
        vnnlib.parse_query_string(text)


# -- size


def _large(count: int) -> Iterator[str]:
    yield (
        VERSION
        + "(declare-network f (declare-input X real [1, 100]) (declare-output Y real [1,5]))\n(assert (or\n"
    )
    for k in range(count):
        box = "".join(f"(>= X[0,{i}] -0.{k % 997}{i}) (<= X[0,{i}] 0.{k % 991}{i})" for i in range(100))
        yield f"(and {box} (<= Y[0,{k % 5}] Y[0,{(k + 1) % 5}]))\n"
    yield "))\n"


def test_large_files_stay_lazy() -> None:
    text = "".join(_large(300))
    started = time.process_time()
    query = parse_query(text)
    assert time.process_time() - started < 20  # half a second on an idle machine
    assert len(query.property.clauses) == 300
    tracemalloc.start()
    parse_query(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * len(text)
