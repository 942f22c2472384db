"""The VNN-LIB reader against an independent evaluator, against exact arithmetic, and on real files."""

from __future__ import annotations

import gzip
import math
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verify.errors import SpecificationError, UnboundedInputError
from verify.formats.vnnlib import Clause, Property, boxes, parse, read
from verify.formats.vnnlib.reader import Reader

INSTANCES = Path(__file__).resolve().parents[3] / "shared" / "instances"
BOX = "(assert (>= X_0 -8)) (assert (<= X_0 8)) (assert (>= X_1 -8)) (assert (<= X_1 8))\n"
DECLARE = "".join(f"(declare-const {name} Real)\n" for name in ("X_0", "X_1", "Y_0", "Y_1"))
HEAD = DECLARE + BOX


def simple(body: str) -> Property:
    return parse(HEAD + body)


def member(clause: Clause, x: list[Fraction], y: list[Fraction]) -> bool:
    """Membership in a clause, in exact arithmetic over its floats."""
    inside = all(
        Fraction(float(a)) <= v <= Fraction(float(b))
        for a, v, b in zip(clause.lower, x, clause.upper, strict=True)
    )
    for row, threshold in enumerate(clause.thresholds):
        total = Fraction(0) + sum(
            Fraction(float(c)) * v for c, v in zip(clause.output_coefficients[row], y, strict=True)
        )
        if clause.input_coefficients is not None:
            total += sum(
                Fraction(float(c)) * v for c, v in zip(clause.input_coefficients[row], x, strict=True)
            )
        inside = inside and total <= Fraction(float(threshold))
    return inside


# -- random formulas, with an evaluator that shares nothing with the reader

NAMES = ["X_0", "X_1", "Y_0", "Y_1"]
DYADIC = ["0", "1", "-1", "0.5", "-0.25", "2", "1.0", "25e-2", "+3", ".5", "-2.", "0.1e1"]
DECIMAL = [
    *DYADIC,
    "0.1",
    "-0.1",
    "0.3",
    "0.10000000000000000001",
    "1e-3",
    "0.333333333333333333",
    "1.1e-400",
]
OPERATORS = {
    "<=": lambda a, b: a <= b,
    "<": lambda a, b: a < b,
    ">=": lambda a, b: a >= b,
    ">": lambda a, b: a > b,
    "=": lambda a, b: a == b,
    "==": lambda a, b: a == b,
}


def value(term: Any, point: dict[str, Fraction]) -> Fraction:
    if isinstance(term, str):
        return point[term] if term in point else Fraction(term)
    head, *rest = term
    values = [value(part, point) for part in rest]
    if head == "+":
        return sum(values, Fraction(0))
    if head == "-":
        return -values[0] if len(values) == 1 else values[0] - sum(values[1:])
    return math.prod(values, start=Fraction(1))


def truth(formula: Any, point: dict[str, Fraction]) -> bool:
    head, *rest = formula
    if head in ("and", "or"):
        return (all if head == "and" else any)(truth(part, point) for part in rest)
    return bool(OPERATORS[head](value(rest[0], point), value(rest[1], point)))


def show(formula: Any) -> str:
    return formula if isinstance(formula, str) else "(" + " ".join(map(show, formula)) + ")"


def formulas(numbers: list[str], operators: list[str]) -> st.SearchStrategy[Any]:
    number, name = st.sampled_from(numbers), st.sampled_from(NAMES)
    product = st.tuples(st.just("*"), st.sampled_from([n for n in numbers if len(n) < 6]), name)
    term = st.one_of(
        name,
        number,
        product,
        st.tuples(st.just("-"), name),
        st.tuples(st.sampled_from("+-"), product | name, product | name, product | number),
    )
    operator = st.sampled_from(operators)
    bound = st.tuples(operator, name, number | name)
    atom = st.one_of(bound, bound, st.tuples(operator, term, term))
    return st.recursive(
        atom,
        lambda inner: st.builds(
            lambda head, parts: (head, *parts),
            st.sampled_from(["and", "or"]),
            st.lists(inner, min_size=1, max_size=3),
        ),
        max_leaves=8,
    )


def points(numbers: list[str]) -> st.SearchStrategy[list[Fraction]]:
    exact = st.sampled_from(numbers).map(Fraction)
    near = exact.map(lambda v: Fraction(float(v)))
    beside = exact.map(lambda v: Fraction(math.nextafter(float(v), math.inf)))
    return st.lists(
        exact | near | beside | st.sampled_from([Fraction(8), Fraction(-9)]), min_size=4, max_size=4
    )


def check(parts: list[Any], some: list[list[Fraction]], exactly: bool) -> None:
    prop = simple("\n".join(f"(assert {show(part)})" for part in parts))
    clauses = list(prop.clauses)
    for point in some:
        named = dict(zip(NAMES, point, strict=True))
        expected = all(truth(part, named) for part in parts) and all(abs(v) <= 8 for v in point[:2])
        assert prop.violated(point[:2], point[2:]) is expected
        found = any(member(clause, point[:2], point[2:]) for clause in clauses)
        assert found is expected if exactly else found or not expected


@settings(max_examples=80, deadline=None)
@given(
    st.lists(formulas(DYADIC, ["<=", ">=", "=", "=="]), max_size=3),
    st.lists(points(DYADIC), min_size=1, max_size=8),
)
def test_clauses_are_the_formula_when_nothing_is_rounded(
    parts: list[Any], some: list[list[Fraction]]
) -> None:
    check(parts, some, exactly=True)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(formulas(DECIMAL, list(OPERATORS)), max_size=3),
    st.lists(points(DECIMAL), min_size=1, max_size=8),
)
def test_clauses_contain_the_formula_and_violated_is_exact(
    parts: list[Any], some: list[list[Fraction]]
) -> None:
    check(parts, some, exactly=False)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(formulas(DECIMAL, list(OPERATORS)), max_size=3),
    st.lists(points(DECIMAL), min_size=1, max_size=8),
)
def test_float_points_are_judged_as_their_fractions(parts: list[Any], some: list[list[Fraction]]) -> None:
    prop = simple("\n".join(f"(assert {show(part)})" for part in parts))
    for point in some:
        floats = [float(v) for v in point]
        exact = [Fraction(v) for v in floats]
        answer = prop.violated(exact[:2], exact[2:])
        assert prop.violated(floats[:2], floats[2:]) is answer
        assert prop.violated(np.array(floats[:2]), np.array([floats[2:]])) is answer


# -- rounding

LITERALS = st.one_of(
    st.decimals(-(10**6), 10**6, places=9).map(str),
    st.floats(-1e300, 1e300).map(repr),
    st.tuples(st.integers(-(10**20), 10**20), st.integers(-40, 40)).map(lambda p: f"{p[0]}e{p[1]}"),
    st.sampled_from(["1e-400", "-1e-400", "0.0", "-0.0", "9007199254740993", "0.1", "5e-324", "1e300"]),
)


@settings(max_examples=150, deadline=None)
@given(LITERALS, LITERALS)
def test_bounds_round_outward_and_tightly(first: str, second: str) -> None:
    low, high = sorted((first, second), key=Fraction)
    text = f"(declare-const X_0 Real)(declare-const Y_0 Real)(assert (>= X_0 {low}))(assert (<= X_0 {high}))"
    prop = parse(text + f"(assert (<= Y_0 {low}))(assert (>= Y_0 {low}))")
    (clause,) = prop.clauses
    lower, upper = float(clause.lower[0]), float(clause.upper[0])
    assert Fraction(lower) <= Fraction(low) < Fraction(math.nextafter(lower, math.inf))
    assert Fraction(math.nextafter(upper, -math.inf)) < Fraction(high) <= Fraction(upper)
    for threshold, exact in zip(clause.thresholds.tolist(), (Fraction(low), -Fraction(low)), strict=True):
        assert Fraction(math.nextafter(threshold, -math.inf)) < exact <= Fraction(threshold)
    assert prop.exact_bounds(0) == ([Fraction(low)], [Fraction(high)])


def neighbours(lower: Any, upper: Any) -> tuple[Any, Any]:
    """The values of the same type just below `lower` and just above `upper`."""
    with np.errstate(over="ignore"):
        return np.nextafter(lower, type(lower)(-np.inf)), np.nextafter(upper, type(upper)(np.inf))


@settings(max_examples=150, deadline=None)
@given(LITERALS, LITERALS, st.sampled_from([np.float16, np.float32, np.float64]), st.booleans())
def test_inner_bounds_lie_inside_and_are_largest(first: str, second: str, dtype: Any, strict: bool) -> None:
    low, high = sorted((first, second), key=Fraction)
    if strict and Fraction(low) == Fraction(high):
        return
    more, less = (">", "<") if strict else (">=", "<=")
    bounds = f"(assert ({more} X_0 {low}))(assert ({less} X_0 {high}))"
    text = f"(declare-const X_0 Real)(declare-const Y_0 Real){bounds}"
    lower, upper = (part[0] for part in parse(text).inner_bounds(0, dtype))
    assert lower.dtype == upper.dtype == np.dtype(dtype) and np.isfinite(lower) and np.isfinite(upper)

    def inside(v: Any) -> bool:
        exact = Fraction(float(v))
        return Fraction(low) < exact < Fraction(high) if strict else Fraction(low) <= exact <= Fraction(high)

    if lower == upper and not inside(lower):
        middle = (Fraction(low) + Fraction(high)) / 2
        for other in neighbours(lower, lower):
            if np.isfinite(other):
                assert not inside(other)
                assert abs(Fraction(float(lower)) - middle) <= abs(Fraction(float(other)) - middle)
        return
    assert inside(lower) and inside(upper) and lower <= upper
    for beyond in neighbours(lower, upper):
        assert not np.isfinite(beyond) or not inside(beyond)


def test_strict_point_in_a_gap_is_compared_exactly() -> None:
    body = "(assert (< Y_0 0.1)) (assert (> Y_1 0.1))"
    prop = simple(body)
    tenth = Fraction(1, 10)
    assert not prop.violated([0.0, 0.0], [tenth, 1.0])
    assert prop.violated([0.0, 0.0], [tenth - Fraction(1, 10**40), 0.1])
    assert prop.clauses[0].strict.tolist() == [True, True]


# -- shapes of clauses


def test_rows_of_each_form() -> None:
    prop = simple(
        "(assert (<= Y_0 Y_1)) (assert (> Y_0 0.5)) (assert (= Y_1 2)) (assert (<= X_0 (+ X_1 Y_0)))"
    )
    (clause,) = prop.clauses
    assert clause.output_coefficients.tolist() == [[1, -1], [-1, 0], [0, 1], [0, -1], [-1, 0]]
    assert clause.input_coefficients is not None
    assert clause.input_coefficients.tolist() == [[0, 0]] * 4 + [[1, -1]]
    assert clause.thresholds.tolist() == [0, -0.5, 2, -2, 0]
    assert clause.strict.tolist() == [False, True, False, False, False]
    assert simple("(assert (<= Y_0 Y_1))").clauses[0].input_coefficients is None


def test_inexact_coefficients_are_scaled_exactly() -> None:
    (clause,) = simple("(assert (<= (+ (* 0.1 Y_0) (* 0.2 Y_1)) 0.3))").clauses
    assert clause.output_coefficients.tolist() == [[1, 2]] and clause.thresholds.tolist() == [3]
    with pytest.raises(SpecificationError, match="no float64 can hold"):
        simple("(assert (<= (+ (* 0.12345678901234567891 Y_0) (* 0.7 Y_1)) 1))")


def test_products_of_disjunctions_share_boxes() -> None:
    boxes = "(assert (or (and (<= X_0 1) (>= X_0 0)) (and (<= X_0 3) (>= X_0 2))))"
    prop = simple(boxes + "(assert (or (<= Y_0 0) (and (<= Y_1 0)) (or (<= Y_0 Y_1))))")
    assert len(prop.clauses) == 6
    assert [c.lower[0] for c in prop.clauses] == [0, 0, 0, 2, 2, 2]
    first, second, _, other = prop.clauses[:4]
    assert first.lower is second.lower and first.upper is second.upper
    assert prop.box_ids[0] == prop.box_ids[2] != prop.box_ids[3]
    lower, upper = prop.bounds(range(6))
    assert lower.shape == (6, 2) and upper[3].tolist() == other.upper.tolist()
    assert prop.clauses[-1].lower[0] == 2
    with pytest.raises(IndexError):
        prop.clauses[6]


def test_most_rows_of_the_clauses_that_are_left() -> None:
    rows = "(assert (<= Y_1 5))(assert (or (<= Y_0 0) (and (= Y_0 1) (<= Y_1 Y_0) (<= X_0 1))))"
    assert simple(rows).rows == 4 == max(len(c.thresholds) for c in simple(rows).clauses)
    assert simple(rows.replace("X_0 1", "X_0 -9")).rows == 2
    assert simple("").rows == 0 and len(simple("").clauses) == 1
    assert simple(rows + "(assert (< 2 1))").rows == 0


def test_an_empty_disjunction_ends_any_product() -> None:
    prop = simple("(assert (or (<= Y_0 1) (<= Y_1 1)))" * 60 + "(assert (or (< Y_0 Y_0)))")
    assert len(prop.clauses) == 0 and not prop.empty_box


def test_boxes_beyond_those_kept_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    body = "(assert (or " + " ".join(f"(and (<= X_0 {k}.1) (>= X_1 0.{k}))" for k in range(9)) + "))"
    kept = simple(body)
    monkeypatch.setattr(boxes, "KEPT_BOUNDS", 6)
    monkeypatch.setattr(boxes, "_CHUNK", 4)
    again = simple(body)
    some = [8, 0, 3, 8]
    assert all(map(np.array_equal, kept.bounds(some), again.bounds(some)))
    assert [kept.exact_bounds(k) for k in some] == [again.exact_bounds(k) for k in some]
    for a, b in zip(kept.clauses, again.clauses, strict=True):
        assert np.array_equal(a.lower, b.lower) and np.array_equal(a.upper, b.upper)
    assert kept.clauses[0].lower is kept.clauses[0].lower and not kept.clauses[0].lower.flags.writeable
    assert kept.clauses[0].upper.tolist() == [0.1, 8]


def test_declined_runs_take_linear_time() -> None:
    """Between the second that it takes and the two minutes of quadratic time, both of them CPU time."""
    start = time.process_time()
    prop = simple("(assert (>= 5 X_0))" * 20_000 + "(assert (and " + "(>= 4 X_0)" * 20_000 + "))")
    assert prop.clauses[0].upper.tolist() == [4, 8]
    assert time.process_time() - start < 15


def test_clauses_are_made_fast_in_any_order() -> None:
    prop = simple(
        "(assert (or " + " ".join(f"(and (<= X_0 0.{k}) (<= Y_0 0.{k}))" for k in range(9000)) + "))"
    )
    start = time.process_time()
    for k in range(9000):
        prop.clauses[k * 7919 % 9000]
    assert time.process_time() - start < 10  # a fifth of a second; were each to make its neighbours, minutes


def test_empty_boxes_are_dropped() -> None:
    prop = simple("(assert (or (and (>= X_0 9)) (and (>= X_0 7) (<= Y_0 1)) (and (> X_0 1) (<= X_0 1.00))))")
    assert len(prop.clauses) == 1 and prop.clauses[0].lower.tolist() == [7, -8] and not prop.empty_box
    empty = simple("(assert (>= X_0 8.000000000000000000001))(assert (or (<= Y_0 1) (<= Y_1 1)))")
    assert len(empty.clauses) == 0 and empty.empty_box and list(empty.clauses) == []


def test_constants_are_evaluated() -> None:
    assert len(simple("(assert (<= 1 2)) (assert (<= Y_0 Y_0))").clauses) == 1
    none = simple("(assert (< 2 1))")
    assert len(none.clauses) == 0 and not none.empty_box
    assert len(simple("(assert (or (< Y_0 Y_0) (<= Y_0 1) (< 0.1 0.1)))").clauses) == 1


def test_equality_on_an_input_is_a_point() -> None:
    (clause,) = simple("(assert (= X_0 0.25))").clauses
    assert clause.lower[0] == clause.upper[0] == 0.25


def test_bounds_through_coefficients_and_sides() -> None:
    (clause,) = simple("(assert (<= (* -2 X_0) 1)) (assert (>= 0.5 (+ X_1 1)))").clauses
    assert clause.lower.tolist() == [-0.5, -8] and clause.upper.tolist() == [8, -0.5]


def test_space_and_comments() -> None:
    text = (
        HEAD.replace(" ", "\t\r\n ; (assert (\n")
        + "(assert(or(<= Y_0 1);x\n(and(<=\nY_1 2)(>= Y_1 1e-3))))(check-sat)"
    )
    assert len(parse(text).clauses) == 2


def test_points_that_are_no_points() -> None:
    prop = simple("(assert (<= Y_0 1))")
    assert not prop.violated([0.0, 0.0], [-math.inf, 0.0])
    assert not prop.violated([0.0, math.nan], [0.0, 0.0])
    assert prop.violated([0, 0], [1, 0]) and not prop.violated([0, 0], [2**60 + 1, 0.5])
    with pytest.raises(ValueError, match="expected 2 inputs and 2 outputs"):
        prop.violated([0.0], [0.0, 0.0])


# -- errors


@pytest.mark.parametrize(
    ("body", "line", "column", "reason"),
    [
        ("(assert (<= Y_0 1)", 6, 1, "not closed before the end"),
        ("(assert (<= Y_0 1\n(assert (<= Y_1 1))", 6, 9, "not closed before"),
        ("(assert (or (<= Y_0 1) (and (<= Y_1 1)", 6, 24, "not closed before the end"),
        ("(assert (or (<= Y_0 1)\n(declare-const Y_2 Real)", 6, 9, "not closed before"),
        ("(assert (<= Y_0 1)))", 6, 20, "no opening one"),
        ("(assert (<= Y_0 1) (<= Y_1 1))", 6, 20, "after the formula"),
        ("(assert (<= Y_0 zebra))", 6, 17, "unknown symbol 'zebra'"),
        ("; c\n  (assert (<= Y_0 1.2.3))", 7, 19, "is no number"),
        ("(assert (=> Y_0 1))", 6, 10, "unknown operator '=>'"),
        ("(assert (not (<= Y_0 1)))", 6, 10, "unknown operator 'not'"),
        ("(assert (<= Y_0 (max 1 2)))", 6, 18, "unknown operator 'max'"),
        ("(assert (<= Y_0 (<= 1 2)))", 6, 18, "where a number or a term"),
        ("(assert (<= Y_7 1))", 6, 13, "Y_7 is not declared"),
        ("(assert (<= Y_0 1))(assert (or (<= Y_0 Y_7)))", 6, 40, "Y_7 is not declared"),
        ("(assert (<= Y_0 1 2))", 6, 19, "more than two"),
        ("(assert (<= Y_0))", 6, 9, "1 of its two"),
        ("(assert (<= (* Y_0 Y_1) 1))", 6, 13, "not linear"),
        ("(assert (<= (/ 1 Y_0) 1))", 6, 13, "division"),
        ("(assert (<= (+) 1))", 6, 13, "no arguments"),
        ("(assert (<= Y_0 1e9999999))", 6, 17, "too extreme"),
        ("(assert (<= Y_0 1e301))", 6, 17, "too extreme"),
        ("(assert Y_0)", 6, 9, "expected a formula"),
        ("(declare-const Z Real)", 6, 16, "no variable"),
        ("(declare-const Y_02 Real)", 6, 16, "no variable"),
        ("(declare-const Y_0 Real)", 6, 16, "twice"),
        ("(declare-const Y_2 Int)", 6, 20, "unknown type 'Int'"),
        ("(declare-const Y_3 Real)", 6, 16, "Y_3 is declared but Y_2 is not"),
        ("(push)", 6, 2, "unknown statement 'push'"),
        ("hello", 6, 1, r"expected '\('"),
        ("()", 6, 2, "expected 'declare-const' or 'assert'"),
        ("(vnnlib-version <2.0>)", 6, 2, "2.0"),
    ],
)
def test_errors_name_the_place(body: str, line: int, column: int, reason: str) -> None:
    with pytest.raises(SpecificationError, match=reason) as caught:
        parse(HEAD + body, "p.vnnlib")
    error = caught.value
    assert (error.file, error.line, error.column) == ("p.vnnlib", line, column)
    assert error.remedy and str(error).startswith(f"p.vnnlib:{line}:{column}: ")


def test_depth_and_number_of_clauses_are_limited() -> None:
    with pytest.raises(SpecificationError, match="nested deeper"):
        simple("(assert " + "(and " * 500 + "(<= Y_0 1)" + ")" * 501)
    with pytest.raises(SpecificationError, match="nested deeper"):
        simple("(assert (<= " + "(- " * 500 + "Y_0" + ")" * 500 + " 1))")
    with pytest.raises(SpecificationError, match="1000000 clauses"):
        simple("(assert (or (<= Y_0 1) (<= Y_1 1)))" * 20)


def test_unbounded_inputs_are_named() -> None:
    text = (
        DECLARE + "(assert (<= X_0 1))(assert (>= X_0 0))(assert (or (<= X_1 1) (and (<= X_1 1) (>= X_1 0))))"
    )
    with pytest.raises(UnboundedInputError, match="X_1 lacks") as caught:
        parse(text)
    assert (caught.value.variable, caught.value.line, caught.value.column) == ("X_1", 2, 16)
    with pytest.raises(UnboundedInputError, match="X_0"):
        parse(DECLARE)


def test_whole_file_errors(tmp_path: Path) -> None:
    cases = {
        "empty": b" \n",
        "binary": b"\x08\x07\x12\x00pytorch",
        "not UTF-8": b"\xff\xfe(\x80",
        "damaged": gzip.compress(HEAD.encode())[:40],
        "no inputs": b"(declare-const Y_0 Real)",
        "no outputs": b"(declare-const X_0 Real)",
    }
    reasons = {"not UTF-8": "binary"}
    for name, data in cases.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(SpecificationError, match=reasons.get(name, name)) as caught:
            read(path)
        assert caught.value.line is None and caught.value.remedy
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(SpecificationError, match=r"no such file|cannot be read"):
            read(path)


def test_fast_and_slow_ways_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    body = "(assert (or (and (<= X_0 0.3) (> Y_0 0.1)) (<= Y_0 Y_1) (and (or (= Y_0 1)) (<= X_1 Y_0))))"
    fast = simple(body)
    monkeypatch.setattr(Reader, "_add", lambda self, tokens: None)
    slow = simple(body)
    assert len(fast.clauses) == len(slow.clauses) == 3
    for a, b in zip(fast.clauses, slow.clauses, strict=True):
        for name in ("lower", "upper", "output_coefficients", "thresholds", "strict"):
            assert np.array_equal(getattr(a, name), getattr(b, name))


# -- files


def test_gzip_is_told_by_content(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.vnnlib.gz", tmp_path / "b.vnnlib"
    text = HEAD + "(assert (<= Y_0 0.1))"
    plain.write_text(text)
    packed.write_bytes(gzip.compress(text.encode()))
    assert read(plain).clauses[0].thresholds == read(str(packed)).clauses[0].thresholds
    assert read(packed).source == str(packed)


def _files() -> list[Path]:
    found = sorted(INSTANCES.glob("*/vnnlib/*"))
    kept: list[Path] = []
    for folder in {path.parent for path in found}:
        here = sorted((p for p in found if p.parent == folder), key=lambda p: p.stat().st_size)
        kept += [p for p in (*here[:3], here[-1]) if p.stat().st_size < 200_000]
    return sorted(set(kept))


@pytest.mark.skipif(not INSTANCES.is_dir(), reason="the benchmark files are not here")
def test_benchmark_files() -> None:
    assert _files()
    for path in _files():
        prop = read(path)
        clause = prop.clauses[len(prop.clauses) - 1]
        assert clause.lower.shape == (prop.inputs,) and (clause.lower <= clause.upper).all()
        assert clause.output_coefficients.shape == (len(clause.thresholds), prop.outputs)
        assert len(clause.thresholds) and (clause.input_coefficients is None)


@pytest.mark.skipif(not INSTANCES.is_dir(), reason="the benchmark files are not here")
@pytest.mark.parametrize(
    ("name", "clauses", "seconds"),
    [
        ("nn4sys/vnnlib/cardinality_1_960_128_dual.vnnlib.gz", 960, 10.0),
        ("nn4sys/vnnlib/lindex_7000.vnnlib.gz", 14000, 5.0),
        ("acasxu/vnnlib/prop_6.vnnlib.gz", 8, 1.0),
    ],
)
def test_big_disjunctions(name: str, clauses: int, seconds: float) -> None:
    path = INSTANCES / name
    if not path.exists():
        pytest.skip("this file is not here")
    start = time.process_time()
    prop = read(path)
    assert len(prop.clauses) == clauses
    assert time.process_time() - start < seconds
