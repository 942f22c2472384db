"""The two readers of VNN-LIB 2.0 on the same texts: nobody may prove another query than the one that is searched.

Formulas are made as trees, evaluated by Fractions here, and written with all that the syntax allows between words. What is
written clearly, both readers take for the formula that was meant; where some characters are changed, they take the text for the same
or one of them refuses it. What the checker does not know for certain it refuses, whatever the search makes of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from math import prod
from operator import eq, ge, gt, le, lt, ne
from typing import Any

import numpy as np
import pytest

from tests.checker.test_query import rounded_up
from verify.checker.errors import Refused
from verify.checker.query2 import JointQuery, read_query2
from verify.checker.question import read_property
from verify.errors import SpecificationError
from verify.formats.vnnlib2 import Query, parse

COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<=": le,
    "<": lt,
    ">=": ge,
    ">": gt,
    "=": eq,
    "==": eq,
    "!=": ne,
}
NUMBERS = "0 1 -1 +1 1. .5 -.5 0.1 2e-1 1E0 -0 00.5 +0.25 1e+1 3 10 0.30000000000000004".split()
POINTS = [Fraction(text) for text in ("0", "1", "-1", "0.5", "0.1", "0.25", "3")]
SPACES = [" ", "\n", "\t", "\r\n", "  ", "\n\n"]
COMMENTS = ["; (assert (<= 2 1))", ";", ";;)", '; "', "; |", "; don't [", "; \u00e9\u00a0", "; \\"]
NETWORKS = {
    "one": (
        "(declare-network f (declare-input X real [2]) (declare-output Y real [1,2]))",
        ("X[0]", "X[1]"), ("Y[0,0]", "Y[0,1]"),
    ),
    "equal": (
        "(declare-network f (declare-input X float32 [2])(declare-output Y float32 []))"
        "(declare-network g (equal-to f) (declare-input U float32 [2]) (declare-output W float32 []))",
        ("X[0]", "X[1]", "U[0]", "U[1]"), ("Y", "W"),
    ),
    "hidden": (
        '(declare-network a-b (declare-input X real []) (declare-hidden H real [ 2 ] "in;(") (declare-output Y real [1]))'
        "(declare-network g (isomorphic-to a-b) (declare-input V real []) (declare-output Z real [1]))",
        ("X", "V"), ("Y[0]", "Z[0]", "H[0]", "H[1]"),
    ),
}  # fmt: skip
WORDS = [
    "(", ")", "[", "]", ",", " ", ";", "\r", "\n", "\t", '"', "|", "\\", "-", "+", ".", "e", "0", "1", "X", "Y", "U", "X[0]", "Y[0]",
    "X[00]", "X[0 ]", "X [0]", "X[-0]", "X[+1]", "X[1,]", "[0]", "<=", ">", "=", "==", "!=", "*", "/", "<2.0>", "<2.1>", "2.0",
    "\u00a0", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u0661", "\ufeff", "\0", "1_0", "0x1", "inf", "nan", "1/3", "1e", "- 1", "(and)",
    "(or)", "(assert (<= Y[0] 0))", "(X[0] <= 1)", "(0 <= X[0] 1)", "(- 1)", "float32", "float64", "real", "Real", "int8", "initialized",
    "(declare-input Q real [1])", "(declare-output Q real [1])", '(declare-hidden Q real [1] "n")', "(equal-to f)", "(isomorphic-to f)",
    "; c", "; c\r", "and", "or", "not", "=>", "(vnnlib-version <2.0>)", "(check-sat)", "(declare-const X_0 Real)", "f", "g", "assert",
]  # fmt: skip


class Writer:
    """Random queries: `meant` evaluates one, `text` writes it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.networks, self.inputs, self.outputs = self.random.choice(list(NETWORKS.values()))
        self.names = [*self.inputs, *self.outputs]
        self.asserted: list[Any] = [
            part
            for name in self.inputs
            for part in (
                (">=", name, self.random.choice(("-1", "0", "0.1"))),
                ("<=", name, self.random.choice(("1", ".5", "3"))),
            )
        ]
        pairs = list(
            zip(self.inputs[: len(self.inputs) // 2], self.inputs[len(self.inputs) // 2 :], strict=True)
        )
        for one, other in pairs:
            self.asserted += self.random.choice(
                (
                    [],
                    [("==", other, one)],
                    [("<=", one, other), (">=", one, other)],
                    [("==", ("-", one, other), "0.0")],
                )
            )
        self.asserted += [self.formula(3) for _ in range(self.random.randint(0, 3))]
        self.random.shuffle(self.asserted)

    def formula(self, depth: int) -> Any:
        """A comparison, a conjunction or a disjunction."""
        if depth and self.random.random() < 0.6:
            parts = (self.formula(depth - 1) for _ in range(self.random.randint(1, 3)))
            return (self.random.choice(("and", "or")), *parts)
        while True:
            found = (self.random.choice(list(COMPARE)), self.term(2), self.term(2))
            if any(name in str(found) for name in self.names):
                return found

    def term(self, depth: int) -> Any:
        """A variable, a number, or an operation."""
        chosen = self.random.random()
        if not depth or chosen < 0.7:
            return self.random.choice(self.names if chosen < 0.5 else NUMBERS)
        parts = (self.term(depth - 1) for _ in range(self.random.randint(1, 3)))
        return (self.random.choice("+-*"), *parts)

    def space(self, least: int = 0) -> str:
        """White space and comments; at least some where `least` is 1."""
        found = self.random.choice(SPACES) if least or self.random.random() < 0.3 else ""
        if self.random.random() < 0.03:
            found += self.random.choice(COMMENTS) + self.random.choice(("\n", "\r\n"))
        return found

    def written(self, form: Any) -> str:
        """An expression as text."""
        if isinstance(form, str):
            return form.replace(",", self.random.choice((",", ", ", " ,")))
        words = [self.written(part) for part in form]
        text = words[0]
        for before, word in pairwise(words):
            text += self.space(before[-1] != ")" and word[0] != "(") + word
        return f"({self.space()}{text}{self.space()})"

    def text(self) -> str:
        """The whole query."""
        statements = ["(vnnlib-version <2.0>)", self.networks]
        statements += [self.written(("assert", form)) for form in self.asserted]
        return self.space() + "".join(statement + self.space() for statement in statements)

    def changed(self, text: str) -> str:
        """The text with a few characters, words or pieces put in, left out, doubled or exchanged."""
        for _ in range(self.random.choice((1, 1, 1, 2, 4))):
            a = self.random.randint(0, len(text))
            b = min(len(text), a + self.random.choice((0, 0, 0, 1, 1, 2, 9)))
            put = self.random.choice((*WORDS, "", "", text[a:b] * 2, text[b : b + 5] + text[a:b]))
            text = text[:a] + put + text[b:]
        return text

    def meant(self, values: dict[str, Fraction]) -> bool:
        """Whether the query holds at a point."""
        return all(truth(form, values) for form in self.asserted)

    def point(self) -> dict[str, Fraction]:
        """Values at which comparisons are close; those of equal inputs are often the same."""
        values = {name: self.random.choice(POINTS) for name in self.names}
        if self.random.random() < 0.7:
            half = len(self.inputs) // 2
            values |= {self.inputs[half + k]: values[self.inputs[k]] for k in range(half)}
        return values


def truth(form: Any, values: dict[str, Fraction]) -> bool:
    """A formula's truth."""
    head, *parts = form
    if head in ("and", "or"):
        return (all if head == "and" else any)([truth(part, values) for part in parts])
    return COMPARE[head](*(number(part, values) for part in parts))


def number(form: Any, values: dict[str, Fraction]) -> Fraction:
    """A term's value."""
    if isinstance(form, str):
        return values[form] if form in values else Fraction(form)
    head, first, *rest = form[0], *(number(part, values) for part in form[1:])
    if head == "-" and not rest:
        return -first
    for other in rest:
        first = {"+": first + other, "-": first - other, "*": first * other}[head]
    return first


def outcomes(text: str) -> tuple[JointQuery | None, Query | None]:
    """What the checker's reader and the search's make of a text; None for a refusal, and nothing else may come of it."""
    try:
        mine = read_query2(text)
    except Refused:
        mine = None
    try:
        other = parse(text)
    except SpecificationError:
        other = None
    return mine, other if isinstance(other, Query) else None


def check_same(mine: JointQuery, other: Query) -> None:
    """The same networks and joint inputs, and the same clauses in the same order, exactly."""
    spec, products = other.property, mine.interface.products
    assert [n.name for n in mine.interface.networks] == [n.name for n in other.networks]
    assert mine.interface.implemented == other.implemented
    assert list(mine.interface.input_of) == other.input_of.tolist()
    assert (mine.inputs, len(mine.clauses)) == (spec.inputs, len(spec.clauses))
    assert mine.computed == spec.outputs - len(other.products)
    for place in range(min(len(mine.clauses), 40)):
        clause, wanted = mine.clauses[place], spec.clauses[place]
        assert (clause.lower, clause.upper) == spec.exact_bounds(place)
        assert [rounded_up(row.threshold) for row in clause.rows] == wanted.thresholds.tolist()
        assert [row.strict for row in clause.rows] == wanted.strict.tolist()
        inputs = wanted.input_coefficients
        for k, row in enumerate(clause.rows):
            computed = wanted.output_coefficients[k]
            assert named(row.outputs, mine.computed, products) == named(
                dict(enumerate(computed)), mine.computed, other.products
            )
            given = np.zeros(mine.inputs) if inputs is None else inputs[k]
            assert {i: Fraction(v) for i, v in enumerate(given) if v} == {
                i: v for i, v in row.inputs.items() if v
            }


def named(coefficients: dict[int, Any], computed: int, products: Any) -> dict[Any, Fraction]:
    """Coefficients by outputs, and of products by their factors."""
    found: dict[Any, Fraction] = {}
    for place, value in coefficients.items():
        key = place if place < computed else products[place - computed]
        found[key] = found.get(key, Fraction(0)) + Fraction(value)
    return {key: value for key, value in found.items() if value}


def violated(query: Query | JointQuery, x: list[Fraction], y: list[Fraction]) -> bool:
    """Whether a query holds at joint inputs and what networks give, products made of these."""
    of = query.interface if isinstance(query, JointQuery) else query
    values = [
        prod((y[c // 2] if c % 2 else x[c // 2] for c in factors), start=Fraction(1))
        for factors in of.products
    ]
    spec = query if isinstance(query, JointQuery) else query.property
    return spec.violated(x, [*y, *values])


@pytest.mark.parametrize("part", range(3))
def test_readers_agree(part: int) -> None:
    """On what was meant, and on changed texts with one another."""
    both = told = 0
    for seed in range(60 * part, 60 * part + 60):
        writer = Writer(seed)
        text = writer.text()
        mine, other = outcomes(text)
        assert (mine is None) == (other is None), text  # coefficients may have too many digits
        if mine is None or other is None:
            continue
        check_same(mine, other)
        for values in (writer.point() for _ in range(8)):
            at: dict[int, set[Fraction]] = {}
            for place, name in zip(mine.interface.input_of, writer.inputs, strict=True):
                at.setdefault(place, set()).add(values[name])
            if any(len(several) > 1 for several in at.values()):
                assert not writer.meant(values), text  # only inputs that have to be equal are one
                continue
            x = [at[k].pop() for k in range(mine.inputs)]
            y = [values[name] for name in writer.outputs]
            told += writer.meant(values)
            assert violated(mine, x, y) == violated(other, x, y) == writer.meant(values), text
        for _ in range(8):
            changed = writer.changed(text)
            mine, other = outcomes(changed)
            if mine is not None and other is not None:
                both += 1
                check_same(mine, other)
    assert both > 15 and told > 15


F = "(vnnlib-version <2.0>)(declare-network f (declare-input X real [2]) (declare-output Y real [1]))"
BOX = "(assert (and (>= X[0] 0) (<= X[0] 1) (>= X[1] 0) (<= X[1] 1)))"
ROW = "(assert (<= Y[0] 0))"
PLAIN = F + BOX + ROW
G = "(declare-network g (equal-to f) (declare-input U real [2]) (declare-output W real [1]))"
REFUSED = {
    "no version": PLAIN.replace("(vnnlib-version <2.0>)", ""),
    "another version": PLAIN.replace("2.0", "2.1"),
    "a version without brackets": PLAIN.replace("<2.0>", "2.0"),
    "the version twice": "(vnnlib-version <2.0>)" + PLAIN,
    "no networks": "(vnnlib-version <2.0>)",
    "a network behind an assertion": PLAIN + G,
    "infix": F + BOX + "(assert (Y[0] <= 0))",
    "a chain": F + BOX + "(assert (<= 0 Y[0] 1))",
    "one side": F + BOX + "(assert (<= Y[0]))",
    "nothing compared": F + BOX + "(assert (<= 0 1))",
    "an empty disjunction": F + BOX + "(assert (or))",
    "an empty conjunction": F + BOX + "(assert (and))",
    "a term alone": F + BOX + "(assert Y[0])",
    "an empty sum": F + BOX + "(assert (<= Y[0] (+)))",
    "not": F + BOX + "(assert (not (<= Y[0] 0)))",
    "two formulas": F + BOX + "(assert (<= Y[0] 0) (<= Y[0] 1))",
    "a quotient": F + BOX + "(assert (<= (/ Y[0] 2) 0))",
    **{f"the number {text}": F + BOX + f"(assert (<= Y[0] {text}))"
       for text in ("1/3", "1_0", "0x1", "inf", "nan", "1e", "--1", "- 1", "1.0.0", "1e99999", "1" * 5000, "(1)")},
    **{f"the element {text}": F + BOX + f"(assert (<= {text} 0))"
       for text in ("Y", "Y[]", "Y[1]", "Y[0,0]", "Y[-0]", "Y[+0]", "Y[00]", "Y[0,]", "Y [0]", "Y[ ]", "y[0]", "Y_0", "Y[0][0]", "Z[0]", "Y[\u0660]",
                    "Y[0]1", "f", "Y[0]\u00a0")},
    "an input twice": F.replace("(declare-output", "(declare-input X real [1]) (declare-output") + BOX + ROW,
    "an output as an input": F.replace("Y real", "X real") + BOX,
    "a network's name as a variable's": F.replace("Y real", "f real") + BOX,
    "an operator's name": F.replace("Y real", "and real") + BOX,
    "outputs first": PLAIN.replace("(declare-input X real [2])", "").replace("real [1])", "real [1]) (declare-input X real [2])"),
    "no outputs": F.replace("(declare-output Y real [1])", "") + BOX,
    "integers": PLAIN.replace("real", "int8"),
    "an unknown type": PLAIN.replace("real", "Real"),
    "an empty shape": F.replace("[1]", "[0]") + BOX,
    "initialized": F.replace("[2])", "[2] initialized)") + BOX + ROW,
    "hidden without a name": F.replace("(declare-output", "(declare-hidden H real [1]) (declare-output") + BOX + ROW,
    "hidden with a backslash": F.replace("(declare-output", '(declare-hidden H real [1] "a\\\\b") (declare-output') + BOX + ROW,
    "equal to nothing": F + G.replace("equal-to f", "equal-to h") + BOX + ROW,
    "equal to itself": F + G.replace("equal-to f", "equal-to g") + BOX + ROW,
    "related twice": F + G.replace("(equal-to f)", "(equal-to f) (isomorphic-to f)") + BOX + ROW,
    "related to what is related": F + G + G.replace(" g ", " h ").replace("to f", "to g").replace("U", "V").replace("W", "Z") + BOX + ROW,
    "another shape than its equal": F + G.replace("U real [2]", "U real [1,2]") + BOX + ROW,
    "a second network without bounds": F + G + BOX + ROW,
    "no bounds": F + ROW,
    "a bound in one alternative": F + "(assert (and (>= X[0] 0) (<= X[0] 1) (>= X[1] 0)))(assert (or (<= X[1] 1) (<= Y[0] 0)))",
    "a carriage return in a comment": F + "; first\r(assert (<= Y[0] 9))\n" + BOX + ROW,
    "a bar": F + BOX + "(assert (<= |Y[0]| 0))",
    "an open end": PLAIN[:-1],
    "too much closed": PLAIN + ")",
    "words behind": PLAIN + "Y[0]",
    "a check": PLAIN + "(check-sat)",
    "a null byte": PLAIN + "\0",
    "a line end of Unicode": PLAIN + "; \u2028",
    "deep": F + BOX + "(assert " + "(and " * 300 + "(<= Y[0] 0)" + ")" * 301,
    "a high power": F + BOX + f"(assert (<= (* {' '.join(['Y[0]'] * 17)}) 0))",
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_refused(text: str) -> None:
    assert isinstance(read_property(PLAIN.encode()), JointQuery)
    with pytest.raises(Refused):
        read_property(text.encode())


def test_a_sum_to_a_power_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Terms are multiplied out, and there may be too many."""
    monkeypatch.setattr("verify.checker.query2.MOST_PRODUCTS", 1000)
    many = F.replace("X real [2]", "X real [64]") + BOX
    total = f"(+ {' '.join(f'X[{i}]' for i in range(64))})"
    with pytest.raises(Refused, match="too many"):
        read_property(f"{many}(assert (<= (* {total} {total} {total} {total} {total}) 0))".encode())


def test_order_of_indices() -> None:
    """Row-major, as ONNX has tensors."""
    text = F.replace("Y real [1]", "Y real [2,1,3]") + BOX
    found = [read_query2(f"{text}(assert (<= Y[{i},0,{j}] 0))") for i in (0, 1) for j in (0, 1, 2)]
    assert [list(query.clauses[0].rows[0].outputs) for query in found] == [[k] for k in range(6)]


def test_strictness_is_kept() -> None:
    """A proof is of closed sets, a witness of the formula as it is written."""
    query = read_query2(F + BOX + "(assert (< Y[0] 0))(assert (!= X[0] 0.5))")
    zero, one = Fraction(0), Fraction(1)
    assert query.violated([zero, zero], [-one]) and not query.violated([zero, zero], [zero])
    assert not query.violated([Fraction(1, 2), zero], [-one])
    assert [clause.contains([Fraction(1, 2), zero]) for clause in query.clauses] == [False, False]
