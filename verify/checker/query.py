"""Reader of VNN-LIB 1.0: the text of a property in, a disjunction of boxes with linear rows out.

A property says where a network is *unsafe*: a formula over inputs X_i and outputs Y_j. All numbers are Fractions, nothing
is rounded. The clauses of the result are made on access, in this order: what stands outside all disjunctions is the
*base*; every disjunction there is a *factor*; a clause chooses one alternative of each (the last factor's choice changes
fastest), and clauses whose box is empty are left out. A comparison of one input with a number bounds the box, every other
one is a row (an equality two); a clause has the base's rows first, then each factor's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NoReturn, TypeAlias

from verify.checker.errors import Refused
from verify.checker.query_clauses import Clauses
from verify.checker.query_formula import COMPARE, All, AnyOf, Atom, Formula, check_time
from verify.checker.query_text import statements_of

MOST_NESTING = 200
MOST_DIGITS = 4_000  # of a number, and the largest exponent
MOST_BITS = 40_000  # of what is computed of numbers
IGNORED = ("set-logic", "set-info", "set-option")
ENDING = ("check-sat", "get-model", "exit")  # what comes after them is no part of the question
DECLARING = ("declare-const", "declare-fun")
MIRRORED = {"<=": ">=", "<": ">", ">=": "<=", ">": "<", "=": "="}

is_number = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\Z", re.ASCII).match
is_variable = re.compile(r"[XY]_(?:0|[1-9]\d{0,8})\Z", re.ASCII).match
next_token = re.compile(r"\s*([()]|[^\s()]+)", re.ASCII).match
next_comparison = re.compile(r"\(\s*([<>]=)\s+([^\s()]+)\s+([^\s()]+)\s*\)", re.ASCII).match

# coefficients by variable (2 i: X_i, 2 j + 1: Y_j), and a constant
Term: TypeAlias = tuple[dict[int, Fraction], Fraction]


@dataclass(frozen=True, eq=False)
class Query:
    """A property of a network: it is unsafe where any clause holds."""

    inputs: int
    outputs: int
    clauses: Clauses

    @property
    def computed(self) -> int:
        """How many outputs models compute; the others are products."""
        return self.outputs

    def of_type(self, kind: str | tuple[str, ...]) -> Query:
        """The property of a network whose inputs have an element type, or one each: see input_set. Raises Refused."""
        return replace(self, clauses=self.clauses.of_type(kind))

    def violated(
        self, x: Sequence[Fraction], y: Sequence[Fraction], up_to: Sequence[Fraction] | None = None
    ) -> bool:
        """Whether the property, strictness included, holds at inputs x and outputs y; at all outputs from y `up_to` those."""
        ends = []
        for outputs in (y, y if up_to is None else up_to):
            if (len(x), len(outputs)) != (self.inputs, self.outputs):
                raise Refused(
                    f"expected {self.inputs} inputs and {self.outputs} outputs, got {len(x)} and {len(outputs)}"
                )
            values = {2 * place: Fraction(value) for place, value in enumerate(x)}
            values.update({2 * place + 1: Fraction(value) for place, value in enumerate(outputs)})
            ends.append(values)
        return self.clauses.violated(*ends)


# -- terms


def exact_number(word: str) -> Fraction:
    """A decimal number. Raises Refused for too many digits."""
    mantissa, _, exponent = word.lower().partition("e")
    if len(mantissa) > MOST_DIGITS or len(exponent) > 20 or abs(int(exponent or 0)) > MOST_DIGITS:
        raise Refused("a number of too many digits")
    return Fraction(word)


def kept(value: Fraction) -> Fraction:
    """A number that is not too long to compute with. Raises Refused."""
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MOST_BITS:
        raise Refused(f"a number of more than {MOST_BITS} bits")
    return value


def total(terms: Iterable[tuple[int, Term]]) -> Term:
    """The sum of terms with their signs, without zero coefficients."""
    coefficients: dict[int, Fraction] = {}
    constant = Fraction(0)
    for sign, (part, value) in terms:
        constant = kept(constant + sign * value) if value else constant
        for code, factor in part.items():
            known = coefficients.get(code)
            coefficients[code] = sign * factor if known is None else kept(known + sign * factor)
    return {code: factor for code, factor in coefficients.items() if factor}, constant


def scaled(term: Term, factor: Fraction) -> Term:
    """A term times a number."""
    return {code: kept(value * factor) for code, value in term[0].items() if factor}, kept(term[1] * factor)


def is_float(number: Fraction) -> bool:
    """Whether a number is one of float64."""
    return abs(number) < 2**1000 and float(number) == number


def normal(comparison: str, term: Term) -> Formula:
    """The formula `term comparison 0`, in its simplest form."""
    coefficients, constant = term
    if not coefficients:
        return All(()) if COMPARE[comparison](constant, Fraction(0)) else AnyOf(())
    if len(coefficients) == 1:
        ((code, factor),) = coefficients.items()
        comparison = comparison if factor > 0 else MIRRORED[comparison]
        return Atom(comparison, {code: Fraction(1)}, -constant / factor, None if code % 2 else code // 2)
    if not all(map(is_float, coefficients.values())):
        values = coefficients.values()
        multiple = 1
        for value in values:
            multiple = int(kept(Fraction(math.lcm(multiple, value.denominator))))
        divisor = math.gcd(*(int(value * multiple) for value in values))
        coefficients, constant = scaled(term, Fraction(multiple, divisor))
        if not all(map(is_float, coefficients.values())):
            raise Refused("a coefficient that no float64 can hold")
    return Atom(comparison, coefficients, -constant)


# -- the text


class Reader:
    """One pass over the words of the text; `word` is the next one, empty at the end."""

    def __init__(self, text: str, until: float = math.inf) -> None:
        self.until = until
        self.text = statements_of(text)
        self.word, self.place, self.end, self.last = "", 0, 0, 0
        self.codes: dict[str, int] = {}
        self.numbers: dict[str, Fraction] = {}
        self.simple: dict[tuple[str, str, str], Formula] = {}  # comparisons of two words: files repeat them
        self.asserted: list[Formula] = []
        self.advance()

    def advance(self) -> None:
        """Go on to the next word."""
        self.last = self.place
        match = next_token(self.text, self.end)
        if match:
            self.word, self.place, self.end = match[1], match.start(1), match.end()
        else:
            self.word, self.place, self.end = "", len(self.text), len(self.text)

    def fail(self, reason: str) -> NoReturn:
        """Refuse, with the line of the last word read."""
        line = self.text.count("\n", 0, self.last) + 1
        raise Refused(f"line {line}: {reason}")

    def next(self) -> str:
        """The next word or parenthesis."""
        word = self.word
        self.advance()
        if not word:
            self.fail("the text ends within a statement")
        return word

    def expect(self, wanted: str) -> None:
        """Read one word that must be this one."""
        found = self.next()
        if found != wanted:
            self.fail(f"found {found[:60]!r}, expected {wanted!r}")

    def more(self) -> bool:
        """Whether something stands before the closing parenthesis, which is read otherwise."""
        if self.word != ")":
            return True
        self.advance()
        return False

    def statements(self) -> None:
        """Read the whole text."""
        ended = False
        while self.word:
            check_time(self.until)
            self.expect("(")
            head = self.next()
            if ended and head in (*DECLARING, "assert"):
                self.fail(f"{head} after a statement that ends the property")
            if head in DECLARING:
                self.declaration(head)
            elif head == "assert":
                self.asserted.append(self.formula(0))
                self.expect(")")
            elif head in IGNORED or head in ENDING:
                self.skip()
                ended = ended or head in ENDING
            else:
                self.fail(f"unknown statement {head[:60]!r}")

    def skip(self) -> None:
        """Read up to the parenthesis that closes the statement."""
        depth, before = 1, ""
        while depth:
            word = self.next()
            if before == "(" and word in (*DECLARING, "assert"):
                self.fail(f"{word} within another statement")
            depth, before = depth + {"(": 1, ")": -1}.get(word, 0), word

    def declaration(self, head: str) -> None:
        """Read the rest of a declaration."""
        name = self.next()
        if not is_variable(name) or name in self.codes:
            self.fail(f"{name[:60]!r} is no variable X_i or Y_j, or is declared twice")
        for word in ("(", ")", "Real", ")") if head == "declare-fun" else ("Real", ")"):
            self.expect(word)
        self.codes[name] = 2 * int(name[2:]) + (name[0] == "Y")

    def declared(self, rest: int) -> int:
        """How many inputs (rest 0) or outputs (rest 1) are declared."""
        numbers = sorted(code // 2 for code in self.codes.values() if code % 2 == rest)
        if not numbers or numbers[-1] != len(numbers) - 1:
            self.fail(f"the variables {'XY'[rest]}_0, {'XY'[rest]}_1, ... are not declared without gaps")
        return len(numbers)

    def formula(self, depth: int) -> Formula:
        """Read a formula."""
        check_time(self.until)
        if depth > MOST_NESTING:
            self.fail("nested too deeply")
        short = next_comparison(self.text, self.place)
        if short:  # most of a large file are these
            self.end = short.end()
            self.advance()
            return self.of_words(*short.groups())
        self.expect("(")
        head = self.next()
        if head in ("and", "or"):
            parts = []
            while self.more():
                parts.append(self.formula(depth + 1))
            return All(tuple(parts)) if head == "and" else AnyOf(tuple(parts))
        head = "=" if head == "==" else head
        if head not in COMPARE:
            self.fail(f"unknown operator {head[:60]!r}")
        first = self.next()
        left = self.term(first, 0) if first == "(" else None
        second = self.next()
        if left is None and second != "(":
            self.expect(")")
            return self.of_words(head, first, second)
        left = self.term(first, 0) if left is None else left
        right = self.term(second, 0)
        self.expect(")")
        return self.comparison(head, left, right)

    def of_words(self, head: str, first: str, second: str) -> Formula:
        """The formula that compares two variables or numbers."""
        key = (head, first, second)
        if key not in self.simple:
            left, right = self.term(first, 0), self.term(second, 0)
            if first in self.codes and second not in self.codes:
                code = self.codes[first]
                self.simple[key] = Atom(head, left[0], right[1], None if code % 2 else code // 2)
            else:
                self.simple[key] = self.comparison(head, left, right)
        return self.simple[key]

    def comparison(self, head: str, left: Term, right: Term) -> Formula:
        """The formula that compares two terms."""
        try:
            return normal(head, total([(1, left), (-1, right)]))
        except Refused as error:
            self.fail(str(error))

    def term(self, word: str, depth: int) -> Term:
        """Read a term of which `word` is the first word."""
        if depth > MOST_NESTING:
            self.fail("nested too deeply")
        if word == "(":
            return self.operation(depth)
        if word in self.codes:
            return {self.codes[word]: Fraction(1)}, Fraction(0)
        if word not in self.numbers:
            self.numbers[word] = self.number(word)
        return {}, self.numbers[word]

    def number(self, word: str) -> Fraction:
        """A decimal number, exactly."""
        if not is_number(word):
            self.fail(f"{word[:60]!r} is neither a declared variable nor a number")
        try:
            return exact_number(word)
        except Refused as error:
            self.fail(str(error))

    def operation(self, depth: int) -> Term:
        """Read the rest of a sum, a difference, a product or a quotient."""
        check_time(self.until)
        head = self.next()
        if head not in ("+", "-", "*", "/"):
            self.fail(f"unknown operator {head[:60]!r} in a term")
        terms = [self.term(self.next(), depth + 1)]
        while self.more():
            terms.append(self.term(self.next(), depth + 1))
        try:
            return self.joined(head, terms)
        except Refused as error:
            self.fail(str(error))

    def joined(self, head: str, terms: list[Term]) -> Term:
        """Terms joined by an operator."""
        result, *others = terms
        if head == "-" and not others:
            return scaled(result, Fraction(-1))
        if head in "+-":
            return total([(1, result), *((1 if head == "+" else -1, term) for term in others)])
        if head == "/" and not others:
            raise Refused("a quotient of one term")
        for other in others:
            check_time(self.until)
            if head == "/" and (other[0] or not other[1]):
                raise Refused("division by something other than a constant that is not 0")
            if head == "*" and result[0] and other[0]:
                raise Refused("a product of two variables")
            if head == "/":
                result = scaled(result, 1 / other[1])
            else:
                result = scaled(result, other[1]) if result[0] else scaled(other, result[1])
        return result


def read_query(text: str, until: float = math.inf) -> Query:
    """The property that a VNN-LIB 1.0 text states. Raises Refused, and NotProved past `until` (of `time.monotonic`)."""
    reader = Reader(text, until)
    reader.statements()
    inputs, outputs = reader.declared(0), reader.declared(1)
    return Query(inputs, outputs, Clauses(All(tuple(reader.asserted)), inputs, until))
