"""The grammar of VNN-LIB 2.0: text in; declarations, atoms and a tree over them out.

Assertions are read as those of VNN-LIB 1.0 are, by the same reader: runs of simple atoms by one regular expression, the rest
by recursion. What is new comes here: networks and their variables, indices, `!=` (an atom below or above), element types, and
products. A product of variables is a variable of its own, beyond all outputs, so every term stays linear.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import NoReturn

from verify.deadline import tick
from verify.formats.vnnlib.formula import GT, LT, AnyOf, Node
from verify.formats.vnnlib.literals import is_number
from verify.formats.vnnlib.term_reader import MAXIMUM_DEPTH
from verify.formats.vnnlib.terms import Linear, total
from verify.formats.vnnlib.text import Fail, check_characters, check_foreign
from verify.formats.vnnlib2.declarations import (
    INTEGERS,
    Declaration,
    Variable,
)
from verify.formats.vnnlib2.elements import Elements, Operands
from verify.formats.vnnlib2.networks import INDICES, NAME, NetworkReader, numbers

MAXIMUM_DEGREE = 16
MAXIMUM_PRODUCTS = 100_000

_STRING_OR_COMMENT = re.compile(r'"(?:[^"\\\n\r]|\\.)*"|;[^\n]*')
_LONE_RETURN = re.compile(r"\r(?!\n|\Z)")
_STRING_OR_INDICES = re.compile(r'"(?:[^"\\\n\r]|\\.)*"|\[[^\[\]()"]*\s[^\[\]()"]*\]', re.ASCII)
_AROUND = re.compile(r"\s*([\[\],])\s*", re.ASCII)
_VERSION = re.compile(r"(?:<(\d{1,9}\.\d{1,9})>|(\d{1,9}\.\d{1,9}))(?=[\s()])", re.ASCII)
_EMPTY = re.compile(r"\(\s*(and|or)\s*\)", re.ASCII)


def _without_comments(text: str, fail: Fail) -> str:
    """A text with spaces for its comments, which strings may look like; fails where a reader may see others."""
    check_characters(text, fail)

    def blank(match: re.Match[str]) -> str:
        found = match.group()
        if found[0] == '"':
            return found
        alone = _LONE_RETURN.search(found + text[match.end() : match.end() + 1])
        if alone is not None:
            reason = "a carriage return alone within a comment: it may or may not end it"
            fail(match.start() + alone.start(), reason, "end lines by a line feed")
        return " " * len(found)

    text = _STRING_OR_COMMENT.sub(blank, text) if ";" in text else text
    check_foreign(text, fail)
    return text


def _compact(match: re.Match[str]) -> str:
    """The same indices with the white space behind them, so that places and lines stay."""
    text = match.group()
    if text[0] == '"':
        return text
    short = _AROUND.sub(r"\1", text)
    space = [character for character in text if character.isspace()]
    return short + "".join(space[len(space) - (len(text) - len(short)) :])


class QueryReader(NetworkReader):
    """One pass over the text of a query."""

    comparisons = NetworkReader.comparisons | {"!="}

    def __init__(self, text: str, source: str) -> None:
        super().__init__("", source)
        self.text = text
        self.text = _STRING_OR_INDICES.sub(_compact, _without_comments(text, self._fail))
        self.elements = Elements()
        self.names = self.elements
        self.right_sides = Operands(self.elements)
        self.products: dict[tuple[int, ...], int] = {}  # codes by the codes of the factors, in order
        self.factors: dict[int, tuple[int, ...]] = {}  # the same the other way round
        self._typed: Variable | None = None  # the first variable of the comparison at hand
        self._decimal = ""  # a number there that is no integer

    def read_query(self) -> list[Node]:
        """Read everything; the assertions' formulas, whose conjunction the query is."""
        self._version()
        while self._peek():
            tick()
            node = self._assertions() if self.elements.first else None
            if node:
                self.parts.append(node)
            else:
                self._statement()
        if not self.networks:
            self._fail(self.at, "no network is declared", "add (declare-network ...)")
        if not self.elements.first:
            self._declare_elements()
        return self.parts

    # -- declarations

    def _statement(self) -> None:
        opened = self.at
        if self.text[opened] != "(":
            self._fail(
                opened, f"found {self._found()}, expected '('", "write (declare-network ...) or (assert ...)"
            )
        place, head = self._head(opened, "'declare-network' or 'assert'")
        if head == "declare-network":
            if self.elements.first:
                self._fail(place, "a network is declared after an assertion", "declare all networks first")
            self._network(opened)
        elif head == "assert":
            if not self.networks:
                self._fail(place, "an assertion comes before any network", "declare all networks first")
            if not self.elements.first:
                self._declare_elements()
            self._inside(opened)
            self.parts.append(self._formula(0))
            self._close(opened, "the formula of assert")
        elif head == "vnnlib-version":
            self._fail(place, "the version is given twice", "give it once, at the beginning")
        else:
            self._fail(place, f"unknown statement {head[:60]!r}", "use declare-network and assert only")

    def _version(self) -> None:
        """Read the first statement."""
        self._peek()
        opened = self.at
        known = (
            self.text.startswith("(", opened) and self._head(opened, "vnnlib-version")[1] == "vnnlib-version"
        )
        if not known:
            self._fail(
                opened, "the query does not begin with its version", "begin with (vnnlib-version <2.0>)"
            )
        self._peek()
        match = _VERSION.match(self.text, self.at)
        if match is None:
            self._fail(self.at, f"found {self._found()}, expected a version", "write <2.0>")
        bracketed, bare = match.groups()
        major, minor = map(int, (bracketed or bare).split("."))
        if major != 2:
            self._fail(
                self.at, f"version {match.group()} is not known", "give a file of version 1.0 or <2.0>"
            )
        if minor:
            reading = "whose minor versions change no meaning"
            self._note(self.at, f"version {match.group()} is read as <2.0>, {reading}")
        elif bare:
            self._note(self.at, f"the bare version number {bare} is read as <{bare}>")
        self.at = match.end()
        self._close(opened, "the version")

    def _declare_elements(self) -> None:
        """All networks are known: number their variables, hidden and initialized ones behind all outputs."""
        for pick in (lambda n: n.inputs, lambda n: n.outputs, lambda n: n.hidden, lambda n: n.given):
            self._add_all(pick)
        types = {variable.element_type for variable in self.elements.variables.values()}
        if len(types) > 1 or types & INTEGERS:
            self.slow_until = len(self.text)  # types are checked comparison by comparison

    def _add_all(self, pick: Callable[[Declaration], tuple[Variable, ...]]) -> None:
        for network in self.networks:
            for variable in pick(network):
                self.elements.add(variable)

    # -- formulas

    def _formula(self, depth: int) -> Node:
        tick()
        self._peek()
        empty = _EMPTY.match(self.text, self.at)
        if empty is not None:
            self._fail(self.at, f"{empty.group(1)!r} has no arguments", "give it at least one")
        return super()._formula(depth)

    def _related(self, head: str, left: Linear, right: Linear, opened: int) -> Node:
        """`!=` is below or above."""
        if head != "!=":
            return super()._related(head, left, right, opened)
        return AnyOf(tuple(self._compared(operator, left, right, opened) for operator in (LT, GT)))

    def _sides(self, head: str, opened: int) -> tuple[Linear, Linear]:
        self._forget_types()
        sides = super()._sides(head, opened)
        self._check_types(opened)
        return sides

    def _around(self, opened: int) -> tuple[str, Linear, Linear]:
        self._forget_types()
        found = super()._around(opened)
        self._check_types(opened)
        return found

    def _check_types(self, opened: int) -> None:
        """Fail where the comparison that begins at `opened` has no type, or a decimal among integers."""
        typed = self._typed
        if typed is None:
            self._fail(opened, "this comparison has no variable, so it has no type", "leave it out")
        if self._decimal and typed.element_type in INTEGERS:
            reason = f"{self._decimal[:60]} is no {typed.element_type}, the type of {typed.name}"
            self._fail(opened, reason, "compare integers with integers")

    def _forget_types(self) -> None:
        self._typed, self._decimal = None, ""

    # -- terms

    def _term(self, depth: int) -> Linear:
        tick()
        first = self._peek()
        if first == "(":
            return super()._term(depth)
        if depth > MAXIMUM_DEPTH:
            self._fail(self.at, f"term nested deeper than {MAXIMUM_DEPTH}", "flatten it")
        if first.isalpha():
            return self._element()
        place = self.at
        text = self._word("a number or a variable")
        if not is_number(text):
            self._fail(place, f"{text[:60]!r} is no number and no variable", "write X[0,1], -1.5 or 2e-3")
        value = self._number(text, place)
        if not text.lstrip("+-").isdecimal():
            self._decimal = text
        return {}, value

    def _element(self) -> Linear:
        place = self.at
        name = self._token(NAME, "a variable")
        variable = self.elements.variables.get(name)
        if variable is None:
            self._fail(place, f"{name[:60]} is not declared", "use the variables of the networks")
        if self._typed is not None and variable.element_type != self._typed.element_type:
            reason = f"{name} is {variable.element_type}, {self._typed.name} is {self._typed.element_type}"
            self._fail(place, reason, "compare variables of one element type")
        self._typed = self._typed or variable
        indices: list[int] = []
        if self._peek() == "[":
            match = INDICES.match(self.text, self.at)
            found = numbers(match)
            if match is None or not found:
                self._fail(self.at, f"these are no indices of {name}", f"write {_example(variable)}")
            indices, self.at = found, match.end()
        self._separated(place)
        try:
            return {self.elements.code(name, indices): Fraction(1)}, Fraction(0)
        except IndexError as error:
            self._fail(place, f"{name} has {error}", f"write {_example(variable)}")

    def compared(self, operator: int, term: Linear) -> Node:
        """The formula `term operator 0` of a term that was not written so."""
        return self._compared(operator, term, ({}, Fraction(0)), 0)

    def _separated(self, place: int) -> None:
        """Fail where a word goes on behind an element."""
        around = self.text[self.at - 1 : self.at + 1]
        if not (len(around) < 2 or around[0].isspace() or around[1].isspace() or around[1] in "()"):
            self._fail(
                place, f"{self.text[place : self.at + 20].split()[0]!r} is no variable", "write X[0,1] or X"
            )

    def _apply(self, head: str, arguments: list[Linear], opened: int) -> Linear:
        if head == "/":
            self._unknown_operator(opened, head)
        if head != "*":
            return super()._apply(head, arguments, opened)
        result = arguments[0]
        for other in arguments[1:]:
            result = self._multiplied(result, other, opened)
        return result

    def _multiplied(self, left: Linear, right: Linear, opened: int) -> Linear:
        """The product of two terms, expanded."""
        parts: list[Linear] = [({}, left[1] * right[1])]
        parts += [({code: factor * right[1]}, Fraction(0)) for code, factor in left[0].items()]
        parts += [({code: factor * left[1]}, Fraction(0)) for code, factor in right[0].items()]
        for one, first in left[0].items():
            tick()
            parts += [
                ({self._product(one, two, opened): first * second}, Fraction(0))
                for two, second in right[0].items()
            ]
        return total(parts)

    def _product(self, one: int, two: int, opened: int) -> int:
        """The code of the product of two variables, which may be products themselves."""
        factors = tuple(sorted(self.factors.get(one, (one,)) + self.factors.get(two, (two,))))
        if len(factors) > MAXIMUM_DEGREE:
            self._fail(
                opened, f"a product of more than {MAXIMUM_DEGREE} variables", "bound it by another output"
            )
        code = self.products.get(factors)
        if code is None:
            if len(self.products) >= MAXIMUM_PRODUCTS:
                self._fail(opened, f"more than {MAXIMUM_PRODUCTS} different products", "split the query")
            code = 2 * (self.elements.outputs + len(self.products)) + 1
            self.products[factors], self.factors[code] = code, factors
        return code

    def _unknown_operator(self, place: int, head: str) -> NoReturn:
        remedy = "use and, or, <=, >=, <, >, ==, != (and +, -, * within terms)"
        self._fail(place, f"unknown operator {head[:60]!r}", remedy)


def _example(variable: Variable) -> str:
    """How an element of a variable is written."""
    if not variable.shape:
        return variable.name
    return f"{variable.name}[{','.join(['0'] * len(variable.shape))}]"
