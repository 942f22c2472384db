"""The checker's VNN-LIB reader against `verify.formats.vnnlib`, which it shares no code with."""

from __future__ import annotations

import gzip
import itertools
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from verify.checker.errors import Refused
from verify.checker.query import read_query
from verify.checker.query_clauses import Row
from verify.formats.vnnlib import Property, parse

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "instances"
DECLARED = "".join(f"(declare-const {name} Real)\n" for name in ("X_0", "X_1", "Y_0", "Y_1"))
BOX = "(assert (<= X_0 1)) (assert (>= X_0 -1.5e0)) (assert (<= X_1 .25)) (assert (>= X_1 -3.))\n"
SAMPLED = 60  # clauses of each property


def rounded_up(number: Fraction) -> float:
    near = float(number)
    return near if near >= number else math.nextafter(near, math.inf)


def compare(text: str) -> Property:
    """The same clauses, in the same order, with the same rows in the same form."""
    mine, other = read_query(text), parse(text)
    assert (mine.inputs, mine.outputs, len(mine.clauses)) == (other.inputs, other.outputs, len(other.clauses))
    places = np.random.default_rng(0).permutation(len(mine.clauses))[:SAMPLED].tolist()
    for place in places:
        clause, wanted = mine.clauses[place], other.clauses[place]
        assert (clause.lower, clause.upper) == other.exact_bounds(place)
        assert [rounded_up(row.threshold) for row in clause.rows] == wanted.thresholds.tolist()
        assert [row.strict for row in clause.rows] == wanted.strict.tolist()
        inputs = wanted.input_coefficients
        for number, row in enumerate(clause.rows):
            check_coefficients(row.outputs, wanted.output_coefficients[number])
            check_coefficients(row.inputs, np.zeros(mine.inputs) if inputs is None else inputs[number])
    return other


def check_coefficients(row: dict[int, Fraction], wanted: np.ndarray) -> None:
    assert row == {place: Fraction(float(wanted[place])) for place in np.flatnonzero(wanted).tolist()}


FORMULAS = {
    "one row": "(assert (<= Y_0 Y_1))",
    "strict": "(assert (< Y_0 0.1)) (assert (> Y_1 0.2))",
    "equality": "(assert (= Y_0 0.5)) (assert (== (+ Y_0 Y_1) 1))",
    "disjunction": "(assert (or (<= Y_0 1) (and (>= Y_1 2) (< Y_0 Y_1)) (>= Y_0 7)))",
    "nested": "(assert (and (<= Y_0 1) (or (and (or (<= Y_0 2) (<= Y_0 3)) (<= Y_1 4)) (<= Y_1 5)) (<= Y_0 6)))",
    "two factors": "(assert (or (<= Y_0 1) (<= Y_0 2))) (assert (<= Y_1 9)) (assert (or (<= Y_1 3) (<= Y_1 4) (<= Y_1 5)))",
    "distribution": "(assert (or (and (or (<= Y_0 1) (<= Y_0 2)) (<= Y_1 0) (or (<= Y_1 3) (<= Y_1 4))) (<= Y_0 Y_1)))",
    "one alternative": "(assert (or (and (<= Y_0 1) (or (<= Y_0 2) (<= Y_1 3)))))",
    "boxes": "(assert (or (and (<= X_0 0.1) (<= Y_0 0)) (and (>= X_0 0.1) (<= X_1 -0.1)) (= X_0 0.3)))",
    "empty boxes": "(assert (or (<= X_0 -2) (< X_0 -1.5) (<= X_0 -1.5) (and (>= X_1 0) (< X_1 0)) (> X_0 0.99)))",
    "empty base": "(assert (>= X_0 2)) (assert (or (<= Y_0 0) (<= Y_1 0)))",
    "strict base": "(assert (> X_0 -1.5)) (assert (or (= X_0 -1.5) (<= Y_1 0)))",
    "mixed rows": "(assert (<= (+ X_0 (* 2 Y_0)) (- Y_1 X_1 3)))",
    "inputs alone": "(assert (<= (+ X_0 X_1) 0.1)) (assert (< X_0 X_1))",
    "decimal coefficients": "(assert (>= (+ (* 0.1 Y_0) (* Y_1 -0.35)) 1)) (assert (<= (- (/ Y_0 3) Y_1) 0))",
    "single factors": "(assert (<= (* -0.1 Y_0) 1)) (assert (>= (* -3 X_0) (+ 1 1))) (assert (<= 3 (/ Y_1 7)))",
    "cancelled": "(assert (<= (+ Y_0 (- Y_0) Y_1) (+ Y_1 1))) (assert (<= Y_0 (+ Y_0 X_0 (* 0 Y_1))))",
    "true": "(assert (<= 1 2)) (assert (and)) (assert (<= Y_0 Y_0))",
    "false": "(assert (or (<= Y_0 1) (> 1 2))) (assert (<= 2 1))",
    "no alternative": "(assert (or))",
    "comments": "(set-logic QF_LRA) ; (assert (<= 2 1))\n(assert (<= Y_0 1)); end\n(check-sat)(get-model)(set-info :a (b))",
    "many numbers": "(assert (<= Y_0 1e-30)) (assert (<= Y_1 123456789.123456789123456789)) (assert (<= Y_0 +5E2))",
}  # fmt: skip


@pytest.mark.parametrize("name", FORMULAS)
def test_same_clauses(name: str) -> None:
    text = DECLARED + BOX + FORMULAS[name]
    other, mine = compare(text), read_query(text)
    for point in itertools.product((-1.5, 0.1, 0.3), (-0.1, 0.25), (0.0, 0.1, 1.0, 2.0), (0.2, 1.0, 5.0)):
        exact = [Fraction(value) for value in point]
        assert mine.violated(exact[:2], exact[2:]) == other.violated(point[:2], point[2:])


def test_rows() -> None:
    text = DECLARED + BOX + "(assert (> (* 2 Y_0) 1)) (assert (or (<= (* 0.1 Y_0) (+ X_1 2)) (<= Y_0 0)))"
    query = read_query(text.replace("(declare-const Y_1 Real)", "(declare-fun Y_1 () Real)") + "(exit)")
    clause = query.clauses[0]
    assert clause.lower == [Fraction(-3, 2), Fraction(-3)]
    assert clause.upper == [Fraction(1), Fraction(1, 4)]
    assert clause.rows == [
        Row({0: Fraction(-1)}, {}, Fraction(-1, 2), True),
        Row({0: Fraction(1)}, {1: Fraction(-10)}, Fraction(20), False),
    ]
    assert len(query.clauses) == 2 and len(query.clauses[:]) == 2
    assert query.violated([Fraction(0)] * 2, [Fraction(51, 100), Fraction(0)])
    assert not query.violated([Fraction(0)] * 2, [Fraction(1, 2), Fraction(0)])
    with pytest.raises(Refused):
        query.violated([Fraction(0)], [Fraction(1), Fraction(0)])


REFUSED = {
    "": "declared", "hello": "line 1", "(assert": "within a statement", DECLARED: "lacks a bound",
    DECLARED + "(declare-const X_0 Real)": "line 5", DECLARED + "(declare-const X_3 Real)": "gaps",
    DECLARED + "(declare-const Z Real)": "line 5", DECLARED + "(declare-const X_2 Int)": "line 5",
    DECLARED + BOX + "\n(assert (<= Y_2 1))": "line 7", DECLARED + BOX + "(assert (<= (* Y_0 Y_1) 1))": "product",
    DECLARED + BOX + "(assert (not (<= Y_0 1)))": "not", DECLARED + BOX + "(assert (<= Y_0 1)": "within",
    DECLARED + BOX + "(assert (<= Y_0 1 2))": "expected", DECLARED + BOX + "(assert (<= Y_0))": "number",
    DECLARED + BOX + "(assert (<= (/ Y_0 X_0) 1))": "division", DECLARED + BOX + "(assert (<= Y_0 1e99999))": "digits",
    DECLARED + BOX + "(assert (<= (/ Y_0 0) 1))": "division", DECLARED + BOX + "(assert (<= Y_0 nan))": "nan",
    DECLARED + BOX + "(assert (<= Y_0 1))) ": "expected", DECLARED + BOX + "(push 1)": "unknown statement",
    DECLARED + "(assert (>= X_1 0)) (assert (or (and (<= X_0 1) (>= X_0 0)) (<= X_0 3)))": "lacks a bound",
    DECLARED + BOX + "(assert " + "(and " * 300 + ")" * 301: "nested", DECLARED + "(vnnlib-version <2.0>)": "unknown",
    DECLARED + BOX + "(assert (or (<= Y_0 1) (<= Y_0 2)))" * 21: "clauses",
    DECLARED + BOX + "(assert (<= (+ (* 1e-400 Y_0) Y_1 (* 1e400 X_0)) 1))": "float64",
}  # fmt: skip


@pytest.mark.parametrize("place", range(len(REFUSED)))
def test_refused(place: int) -> None:
    text, message = list(REFUSED.items())[place]
    with pytest.raises(Refused, match=message):
        read_query(text)


def samples() -> list[Path]:
    """Two properties of each family, the smallest and one in the middle, up to a few megabytes."""
    chosen = []
    for family in sorted(FOLDER.glob("*/vnnlib")):
        files = sorted(family.glob("*.vnnlib*"), key=lambda file: (file.stat().st_size, file.name))
        chosen += [
            file
            for file in dict.fromkeys((files[0], files[len(files) // 2]))
            if file.stat().st_size < 100_000
        ]
    return chosen


@pytest.mark.skipif(not FOLDER.exists(), reason="the instances are not here")
@pytest.mark.parametrize("file", samples(), ids=lambda file: file.name)
def test_same_clauses_of_instances(file: Path) -> None:
    data = file.read_bytes()
    compare((gzip.decompress(data) if file.suffix == ".gz" else data).decode())
