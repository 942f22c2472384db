"""The two readers of VNN-LIB 1.0 on the same texts: nobody may prove another property than the one that is searched.

Formulas are made as trees, evaluated by Fractions here, and written with all that the syntax allows between words. What is
written clearly, both readers take for the formula that was meant; where some characters are changed, they take the text for the same
or one of them refuses it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from operator import eq, ge, gt, le, lt
from typing import Any

import numpy as np
import pytest

from tests.checker.test_query import check_coefficients, rounded_up
from verify.checker.errors import Refused
from verify.checker.query import Query, read_query
from verify.errors import SpecificationError
from verify.formats.vnnlib import Property, parse

COMPARE: dict[str, Callable[[Any, Any], bool]] = {"<=": le, "<": lt, ">=": ge, ">": gt, "=": eq, "==": eq}
NUMBERS = "0 1 -1 +1 1. .5 -.5 0.1 2e-1 1E0 -0 00.5 +0.25 1e+1 -0.0 3 10 0.30000000000000004".split()
POINTS = [Fraction(text) for text in ("0", "1", "-1", "0.5", "0.1", "0.25", "3")]
SPACES = [" ", "\n", "\t", "\r\n", "\r", "  ", "\n\n"]
COMMENTS = ["; (assert (<= 2 1))", ";", ";;)", '; "', "; |", "; don't (", "; \u00e9\u00a0"]
ASIDES = [
    "(set-logic QF_LRA)",
    '(set-info :source "(;)")',
    "(set-info :source |a ; ( b|)",
    "(set-option :a (b (c)))",
]
WORDS = [
    "(", ")", " ", ";", "\r", "\n", "\t", '"', "|", "\\", "-", "+", ".", "e", "0", "1", "X_0", "Y_0", "X_00", "<=", ">", "=",
    "\u00a0", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u0661", "\ufeff", "\0", "1_0", "0x1", "inf", "nan", "|X_0|", "(and)",
    "(or)", "(assert (<= Y_0 0))", "(check-sat)", "(exit)", "(push 1)", "(reset)", "(declare-const X_0 Real)", "(- 1)", "let",
    "(declare-fun Y_9 () Real)", '"a ; b"', "; c", "; c\r", "and", "or", "(= X_0 X_0)", "(<= Y_0 1 2)", "(<= Y_0 Y_0)",
]  # fmt: skip


class Writer:
    """Random properties: `meant` evaluates one, `text` writes it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.names = [f"X_{i}" for i in range(self.random.randint(1, 3))]
        self.names += [f"Y_{i}" for i in range(self.random.randint(1, 2))]
        pairs = [
            (name, self.random.choice(("-1", "0", "0.1")), self.random.choice(("1", ".5", "0.1", "3")))
            for name in self.names
        ]
        bounds: list[Any] = [
            part
            for name, low, high in pairs
            if name[0] == "X"
            for part in ((">=", name, low), ("<=", name, high))
        ]
        self.asserted = bounds + [self.formula(3) for _ in range(self.random.randint(0, 3))]

    def formula(self, depth: int) -> Any:
        """A comparison, a conjunction or a disjunction."""
        if depth and self.random.random() < 0.6:
            return (
                self.random.choice(("and", "or")),
                *(self.formula(depth - 1) for _ in range(self.random.randint(1, 3))),
            )
        return (self.random.choice(list(COMPARE)), self.term(2), self.term(2))

    def term(self, depth: int) -> Any:
        """A variable, a number, or a linear operation."""
        chosen = self.random.random()
        if not depth or chosen < 0.7:
            return self.random.choice(self.names if chosen < 0.4 else NUMBERS)
        if chosen < 0.9:
            return (
                self.random.choice("+-"),
                *(self.term(depth - 1) for _ in range(self.random.randint(1, 3))),
            )
        return (
            ("*", self.random.choice(("2", "-3", "0.1", "0")), self.term(depth - 1))
            if chosen < 0.97
            else ("/", self.term(depth - 1), "0.5")
        )

    def space(self, least: int = 0) -> str:
        """White space and comments; at least some where `least` is 1."""
        found = self.random.choice(SPACES) if least or self.random.random() < 0.3 else ""
        if self.random.random() < 0.03:
            found += self.random.choice(COMMENTS) + self.random.choice(("\n", "\r", "\r\n"))
        return found

    def written(self, form: Any) -> str:
        """An expression as text."""
        if isinstance(form, str):
            return form
        words = [self.written(part) for part in form]
        text = words[0]
        for before, word in pairwise(words):
            text += self.space(before[-1] != ")" and word[0] != "(") + word
        return f"({self.space()}{text}{self.space()})"

    def text(self) -> str:
        """The whole property."""
        statements = [f"(declare-const {name} Real)" for name in self.names]
        statements += [self.written(("assert", form)) for form in self.asserted]
        for _ in range(self.random.randint(0, 2)):
            statements.insert(self.random.randint(0, len(statements)), self.random.choice(ASIDES))
        statements += self.random.choice(([], ["(check-sat)"], ["(check-sat)", "(get-model)", "(exit)"]))
        return self.space() + "".join(statement + self.space() for statement in statements)

    def meant(self, x: list[Fraction], y: list[Fraction]) -> bool:
        """Whether the property holds at a point."""
        values = {f"X_{i}": value for i, value in enumerate(x)} | {
            f"Y_{j}": value for j, value in enumerate(y)
        }
        return all(truth(form, values) for form in self.asserted)

    def changed(self, text: str) -> str:
        """The text with a few characters, words or pieces put in, left out, doubled or exchanged."""
        for _ in range(self.random.choice((1, 1, 1, 2, 4))):
            a = self.random.randint(0, len(text))
            b = min(len(text), a + self.random.choice((0, 0, 0, 1, 1, 2, 9)))
            put = self.random.choice((*WORDS, "", "", text[a:b] * 2, text[b : b + 5] + text[a:b]))
            text = text[:a] + put + text[b:]
        return text


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
        first = {"+": first + other, "-": first - other, "*": first * other, "/": first / (other or 1)}[head]
    return first


def outcomes(text: str) -> tuple[Query | None, Property | None]:
    """What the checker's reader and the search's make of a text; None for a refusal, and nothing else may come of it."""
    try:
        mine = read_query(text)
    except Refused:
        mine = None
    try:
        other = parse(text)
    except SpecificationError:
        other = None
    return mine, other


def check_same(mine: Query, other: Property) -> None:
    """The same clauses in the same order, exactly."""
    assert (mine.inputs, mine.outputs, len(mine.clauses)) == (other.inputs, other.outputs, len(other.clauses))
    for place in range(min(len(mine.clauses), 40)):
        clause, wanted = mine.clauses[place], other.clauses[place]
        assert (clause.lower, clause.upper) == other.exact_bounds(place)
        assert [rounded_up(row.threshold) for row in clause.rows] == wanted.thresholds.tolist()
        assert [row.strict for row in clause.rows] == wanted.strict.tolist()
        inputs = wanted.input_coefficients
        for k, row in enumerate(clause.rows):
            check_coefficients(row.outputs, wanted.output_coefficients[k])
            check_coefficients(row.inputs, np.zeros(mine.inputs) if inputs is None else inputs[k])


def points(generator: random.Random, mine: Query | Property) -> list[tuple[list[Fraction], list[Fraction]]]:
    """Some points at which comparisons are close."""
    return [
        tuple([generator.choice(POINTS) for _ in range(size)] for size in (mine.inputs, mine.outputs))
        for _ in range(6)
    ]  # type: ignore[misc]


@pytest.mark.parametrize("part", range(4))
def test_readers_agree(part: int) -> None:
    """On what was meant, and on changed texts with one another."""
    both = 0
    for seed in range(100 * part, 100 * part + 100):
        writer = Writer(seed)
        text = writer.text()
        mine, other = outcomes(text)
        assert mine is not None and other is not None, text
        check_same(mine, other)
        for x, y in points(writer.random, mine):
            assert mine.violated(x, y) == other.violated(x, y) == writer.meant(x, y), text
        for _ in range(8):
            changed = writer.changed(text)
            mine, other = outcomes(changed)
            if mine is not None and other is not None:
                both += 1
                check_same(mine, other)
                for x, y in points(writer.random, mine):
                    assert mine.violated(x, y) == other.violated(x, y), changed
    assert both > 40


DECLARED = "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= X_0 1))(assert (>= X_0 0))"
FIRST, SECOND = "(>= Y_0 1000)", "(<= Y_0 1000)"


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
@pytest.mark.parametrize("quoted", ["", '"', "|", "(", "\u00e9"])
def test_comments_end_with_their_line(end: str, quoted: str) -> None:
    text = f"{DECLARED}(assert (or {FIRST} ; large {quoted}{end}{SECOND}\n))"
    mine, other = outcomes(text)
    assert mine is not None and other is not None
    assert len(mine.clauses) == len(other.clauses) == 2


@pytest.mark.parametrize(
    "text",
    [
        *(f"{DECLARED}(assert (or {FIRST} ; {character} {SECOND}\n))" for character in "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\0"),
        *(f"{DECLARED}(assert (<= Y_0{character} 1))" for character in "\xa0\u2003\u3000\ufeff\x1f\u0661\x0b\x0c"),
        f"\ufeff\ufeff{DECLARED}", f"{DECLARED}(assert (<= |Y_0| 1))", f'{DECLARED}(set-info :a ")', f"{DECLARED}(set-info :a |)",
        f'{DECLARED}(set-info :a "\\") (assert {FIRST}) (set-info :b "\\")', f"{DECLARED}(check-sat)(assert {FIRST})",
        f"{DECLARED}(exit)(assert {FIRST})", f"{DECLARED}(check-sat)(declare-const Y_1 Real)", f"(check-sat){DECLARED}",
        f"{DECLARED}(push 1)(assert {FIRST})(pop 1)", f"{DECLARED}(reset)", f"{DECLARED}(define-fun Y_1 () Real 1)",
        f"{DECLARED}(set-info :a (assert {FIRST}))", f"{DECLARED}(assert (<= Y_0 1 2))", f"{DECLARED}(assert true)",
        f"{DECLARED}(assert (let ((a 1)) (<= Y_0 a)))", f"{DECLARED}(assert (! (<= Y_0 1) :named a))",
        *(f"{DECLARED}(assert (<= Y_0 {number}))" for number in ("0x10", "#b1", "1_000", "inf", "-inf", "nan", "1e", "e1", "--1", "1/2")),
    ],
)  # fmt: skip
def test_both_refuse(text: str) -> None:
    assert outcomes(text) == (None, None)


def test_quotations_hold_no_statements() -> None:
    """Bug found: a semicolon in a string took the rest of the line for a comment, up to the next assertion."""
    text = f'(set-info :source "a;b"){DECLARED}(set-info :status |;(|)(assert {FIRST})'
    mine, other = outcomes(text)
    assert mine is not None and other is not None
    assert len(mine.clauses[0].rows) == len(other.clauses[0].thresholds) == 1
