"""Reader of VNN-LIB 2.0: the text of a query in, a property of its networks side by side out.

The flat inputs of this *joint network* are those of all networks in order of declaration; where assertions outside of all disjunctions say that
two are equal, these are one, with the lower number. Its flat outputs are the outputs of all networks, then all hidden variables, then
the products of variables that assertions speak of, one for each that is different: so all comparisons are linear, and what
follows is as in version 1.0 (query.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeAlias

from verify.checker.errors import Refused
from verify.checker.query import MIRRORED, MOST_NESTING, Query, exact_number, kept, normal
from verify.checker.query2_networks import (
    HIDDEN,
    INPUT,
    OUTPUT,
    Declarations,
    Declared,
    Variable,
)
from verify.checker.query2_words import END, Word, Words
from verify.checker.query_clauses import Clauses
from verify.checker.query_formula import COMPARE, All, AnyOf, Atom, Formula, check_time, split

MOST_DEGREE = 16
MOST_PRODUCTS = 100_000
COMPARISONS = {"==": "=", **{name: name for name in COMPARE}}

# coefficients by product of variables: their codes (2 i: joint input i, 2 j + 1: joint output j) in order, none for the constant
Polynomial: TypeAlias = dict[tuple[int, ...], Fraction]


@dataclass(frozen=True, eq=False)
class Interface:
    """How a joint network is made of a query's networks.

    input_of: of each declared input its number among the joint ones. products: the factors
    of each, by codes.
    """

    networks: tuple[Declared, ...]
    input_of: tuple[int, ...]
    products: tuple[tuple[int, ...], ...]

    @property
    def implemented(self) -> tuple[str, ...]:
        """The networks that have models of their own."""
        return tuple(network.name for network in self.networks if not network.equal_to)


@dataclass(frozen=True, eq=False)
class JointQuery(Query):
    """A property of a joint network."""

    interface: Interface

    @property
    def computed(self) -> int:
        return self.outputs - len(self.interface.products)


# -- polynomials


def added(terms: Iterator[tuple[int, Polynomial]]) -> Polynomial:
    """The sum of polynomials with their signs, without zero coefficients."""
    found: Polynomial = {}
    for sign, term in terms:
        for factors, value in term.items():
            found[factors] = kept(found.get(factors, Fraction(0)) + sign * value)
    return {factors: value for factors, value in found.items() if value}


def multiplied(one: Polynomial, other: Polynomial, until: float) -> Polynomial:
    """The product of polynomials, multiplied out. Raises Refused."""
    found: Polynomial = {}
    for left, first in one.items():
        check_time(until)
        for right, second in other.items():
            factors = tuple(sorted((*left, *right)))
            if len(factors) > MOST_DEGREE or len(found) > MOST_PRODUCTS:
                raise Refused(f"a product of more than {MOST_DEGREE} variables, or too many of them")
            found[factors] = kept(found.get(factors, Fraction(0)) + kept(first * second))
    return {factors: value for factors, value in found.items() if value}


# -- the text


class Reader:
    """One pass over the words of a query."""

    def __init__(self, text: str, until: float = math.inf) -> None:
        self.words, self.until = Words(text, until), until
        self.declared = Declarations(self.words)
        self.variables: dict[str, tuple[Variable, int]] = {}  # and the code of the first element
        self.sizes = {INPUT: 0, OUTPUT: 0}
        self.products: dict[tuple[int, ...], int] = {}
        self.asserted: list[Formula] = []
        self._read = 0  # elements

    def statements(self) -> None:
        """Read the whole text."""
        words = self.words
        words.expect("(", "vnnlib-version", "<2.0>", ")")
        while words.word.kind != END:
            words.expect("(")
            head = words.next("name").text
            if head == "declare-network" and not self.asserted:
                self.declared.read()
            elif head == "assert" and self.declared.networks:
                self._number_variables()
                self.asserted.append(self._formula(0))
                words.expect(")")
            else:
                words.fail(f"the statement {head[:60]!r} is unknown, or stands where it may not")
        if not self.declared.networks:
            words.fail("no network is declared")
        self._number_variables()

    def _number_variables(self) -> None:
        """Give codes to all elements, once all networks are known: inputs, and outputs before hidden variables."""
        if self.variables:
            return
        for kind in (INPUT, OUTPUT, HIDDEN):
            side = INPUT if kind == INPUT else OUTPUT
            for network in self.declared.networks.values():
                for variable in network.of(kind):
                    code = 2 * self.sizes[side] + (side == OUTPUT)
                    self.variables[variable.name] = variable, code
                    self.sizes[side] += variable.size

    def _formula(self, depth: int) -> Formula:
        words = self.words
        if depth > MOST_NESTING:
            words.fail("nested too deeply")
        words.expect("(")
        if words.word.text in ("and", "or"):
            head, parts = words.next("name").text, [self._formula(depth + 1)]
            while words.more():
                parts.append(self._formula(depth + 1))
            return All(tuple(parts)) if head == "and" else AnyOf(tuple(parts))
        head = words.next("operator").text
        if head not in (*COMPARISONS, "!="):
            words.fail(f"{head!r} compares nothing")
        before = self._read
        left, right = self._term(0), self._term(0)
        words.expect(")")
        if self._read == before:
            words.fail("a comparison without variables")
        try:
            difference = added(iter([(1, left), (-1, right)]))
            if head == "!=":
                return AnyOf((self._compared("<", difference), self._compared(">", difference)))
            return self._compared(COMPARISONS[head], difference)
        except Refused as problem:
            words.fail(str(problem))

    def _compared(self, comparison: str, difference: Polynomial) -> Formula:
        """The formula `difference comparison 0`, in which products have codes of their own, behind all outputs."""
        coefficients: dict[int, Fraction] = {}
        for factors, value in difference.items():
            if len(factors) == 1:
                coefficients[factors[0]] = value
            elif factors:
                place = self.products.setdefault(factors, len(self.products))
                coefficients[2 * (self.sizes[OUTPUT] + place) + 1] = value
        if len(self.products) > MOST_PRODUCTS:
            raise Refused(f"more than {MOST_PRODUCTS} products")
        return normal(comparison, (coefficients, difference.get((), Fraction(0))))

    def _term(self, depth: int) -> Polynomial:
        words = self.words
        check_time(self.until)
        if depth > MOST_NESTING:
            words.fail("nested too deeply")
        word = words.next("number", "element", "name", "parenthesis")
        if word.kind == "number":
            return {(): value} if (value := exact_number(word.text)) else {}
        if word.kind in ("element", "name"):
            return {(self._code(word),): Fraction(1)}
        if word.text == ")":
            words.fail("a term is missing")
        head, terms = words.next("operator").text, [self._term(depth + 1)]
        while words.more():
            terms.append(self._term(depth + 1))
        try:
            return self._joined(head, terms)
        except Refused as problem:
            words.fail(str(problem))

    def _joined(self, head: str, terms: list[Polynomial]) -> Polynomial:
        """Terms joined by an operator."""
        first, *others = terms
        if head == "-":
            signs = [1, *[-1] * len(others)] if others else [-1]
            return added(zip(signs, terms, strict=True))
        if head == "+":
            return added((1, term) for term in terms)
        if head != "*":
            raise Refused(f"{head!r} joins no terms")
        for other in others:
            first = multiplied(first, other, self.until)
        return first

    def _code(self, word: Word) -> int:
        """The code of an element."""
        self._read += 1
        if word.tensor not in self.variables:
            self.words.fail(f"{word.tensor[:60]!r} is not declared")
        variable, code = self.variables[word.tensor]
        if len(word.indices) != len(variable.shape):
            self.words.fail(f"{word.text[:60]!r} has not as many indices as {variable.name} has axes")
        place = 0
        for index, size in zip(word.indices, variable.shape, strict=True):
            if index >= size:
                self.words.fail(f"{word.text[:60]!r} is outside of {variable.name}")
            place = place * size + index
        return code + 2 * place


# -- equal inputs


def ordered_pairs(formula: Formula) -> set[tuple[int, int]]:
    """Inputs (a, b) of which a <= b follows from one comparison outside of all disjunctions; two that are equal are in it both ways."""
    found = set()
    for atom in split(formula)[0]:
        values = list(atom.coefficients.values())
        if (
            len(values) != 2
            or values[0] != -values[1]
            or atom.constant
            or any(code % 2 for code in atom.coefficients)
        ):
            continue
        a, b = (code // 2 for code in atom.coefficients)
        comparison = atom.comparison if values[0] > 0 else MIRRORED[atom.comparison]
        if comparison in ("<=", "<", "="):
            found.add((a, b))
        if comparison in (">=", ">", "="):
            found.add((b, a))
    return found


def numbers_of_inputs(count: int, formula: Formula) -> list[int]:
    """The joint number of each declared input."""
    pairs = ordered_pairs(formula)
    least = list(range(count))

    def root(place: int) -> int:
        while least[place] != place:
            least[place] = least[least[place]]
            place = least[place]
        return place

    for a, b in pairs:
        if (b, a) in pairs:
            low, high = sorted((root(a), root(b)))
            least[high] = low
    roots = [root(place) for place in range(count)]
    number = {place: k for k, place in enumerate(sorted(set(roots)))}
    return [number[place] for place in roots]


def with_numbers(formula: Formula, input_of: list[int]) -> Formula:
    """The formula with joint inputs for declared ones."""
    if not isinstance(formula, Atom):
        return replace(formula, parts=tuple(with_numbers(part, input_of) for part in formula.parts))
    coefficients: dict[int, Fraction] = {}
    for code, value in formula.coefficients.items():
        joint = joint_code(code, input_of)
        coefficients[joint] = kept(coefficients.get(joint, Fraction(0)) + value)
    coefficients = {code: value for code, value in coefficients.items() if value}
    if len(coefficients) < len(formula.coefficients):
        return normal(formula.comparison, (coefficients, -formula.constant))
    bounds = None if formula.bounds is None else input_of[formula.bounds]
    return Atom(formula.comparison, coefficients, formula.constant, bounds)


def joint_code(code: int, input_of: list[int]) -> int:
    """The code of a variable once inputs have their joint numbers."""
    return code if code % 2 else 2 * input_of[code // 2]


def read_query2(text: str, until: float = math.inf) -> JointQuery:
    """The query that a VNN-LIB 2.0 text states. Raises Refused, and NotProved past `until` (of `time.monotonic`)."""
    reader = Reader(text, until)
    reader.statements()
    formula: Formula = All(tuple(reader.asserted))
    input_of = numbers_of_inputs(reader.sizes[INPUT], formula)
    formula = with_numbers(formula, input_of)
    products = tuple(tuple(sorted(joint_code(c, input_of) for c in factors)) for factors in reader.products)
    interface = Interface(tuple(reader.declared.networks.values()), tuple(input_of), products)
    inputs, outputs = 1 + max(input_of), reader.sizes[OUTPUT] + len(products)
    return JointQuery(inputs, outputs, Clauses(formula, inputs, until), interface)
