"""Terms of VNN-LIB 1.0: numbers, variables, and what +, -, * and / make of them."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NoReturn

from verify.deadline import tick
from verify.formats.vnnlib.cursor import Cursor
from verify.formats.vnnlib.formula import EQ, GE, GT, LE, LT
from verify.formats.vnnlib.literals import (
    MAXIMUM_BITS,
    MAXIMUM_DIGITS,
    MAXIMUM_EXPONENT,
    MAXIMUM_MAGNITUDE,
    TooExtreme,
    check_extent,
    is_number,
)
from verify.formats.vnnlib.terms import Linear, scaled, total

MAXIMUM_DEPTH = 200

OPERATORS = {"<=": LE, "<": LT, ">=": GE, ">": GT, "=": EQ, "==": EQ}
is_variable = re.compile(r"[XY]_(?:0|[1-9]\d{0,8})\Z", re.ASCII).match


class TermReader(Cursor):
    """Reads terms. `names` are the variables declared so far."""

    comparisons = frozenset(OPERATORS)

    def __init__(self, text: str, source: str) -> None:
        super().__init__(text, source)
        self.names: dict[str, int] = {}

    def _unknown_operator(self, place: int, head: str) -> NoReturn:
        remedy = "use and, or, <=, >=, <, >, = (and +, -, * within terms)"
        self._fail(place, f"unknown operator {head!r}", remedy)

    def _term(self, depth: int) -> Linear:
        tick()
        first = self._peek()
        place = self.at
        if depth > MAXIMUM_DEPTH:
            self._fail(place, f"term nested deeper than {MAXIMUM_DEPTH}", "flatten it")
        if first == "(":
            return self._operation(depth)
        text = self._word("a number or a variable")
        if text in self.names:
            return {self.names[text]: Fraction(1)}, Fraction(0)
        if is_number(text):
            return {}, self._number(text, place)
        if is_variable(text):
            remedy = f"add (declare-const {text} Real) before its first use"
            self._fail(place, f"{text} is not declared", remedy)
        if text[0] in "+-.0123456789":
            self._fail(place, f"{text[:60]!r} is no number", "write a decimal such as -1.5 or 2e-3")
        self._fail(place, f"unknown symbol {text[:60]!r}", "use declared variables X_i, Y_j and decimals")

    def _number(self, text: str, place: int) -> Fraction:
        try:
            check_extent(text)
        except TooExtreme:
            limits = f"{MAXIMUM_MAGNITUDE:g}, {MAXIMUM_DIGITS} digits, exponent {MAXIMUM_EXPONENT}"
            self._fail(place, f"the number {text[:60]} is too extreme", f"stay within {limits}")
        return Fraction(text)

    def _operation(self, depth: int) -> Linear:
        opened = self.at
        place, head = self._head(opened, "+, - or *")
        if head in OPERATORS or head in ("and", "or"):
            reason = f"{head!r} stands where a number or a term is expected"
            self._fail(place, reason, "compare terms, not formulas")
        if head not in ("+", "-", "*", "/"):
            self._unknown_operator(place, head)
        arguments: list[Linear] = []
        while self._more(opened):
            arguments.append(self._term(depth + 1))
        if not arguments:
            self._fail(opened, f"{head!r} has no arguments", "give it at least one")
        try:
            return self._apply(head, arguments, opened)
        except TooExtreme:
            reason = f"what this {head!r} computes has more than {MAXIMUM_BITS} bits"
            self._fail(opened, reason, "write the number itself, in fewer digits")

    def _apply(self, head: str, arguments: list[Linear], opened: int) -> Linear:
        first, rest = arguments[0], arguments[1:]
        if head == "+" or (head == "-" and rest):
            return total([first, *(scaled(other, Fraction(1 if head == "+" else -1)) for other in rest)])
        if head == "-":
            return scaled(first, Fraction(-1))
        if head == "/" and not rest:
            self._fail(opened, "'/' has one argument", "give it two: what is divided, and by what")
        for other in rest:
            if head == "/":
                if other[0] or not other[1]:
                    reason = "division by something other than a non-zero constant"
                    self._fail(opened, reason, "divide by constants only")
                first = scaled(first, 1 / other[1])
            elif first[0] and other[0]:
                self._fail(opened, "a product of two variables is not linear", "multiply by constants only")
            else:
                first = scaled(first, other[1]) if first[0] else scaled(other, first[1])
        return first
