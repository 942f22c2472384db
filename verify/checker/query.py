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
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import product
from operator import eq, ge, gt, le, lt
from typing import Any, NoReturn, TypeAlias, overload

from verify.checker.errors import NotProved, Refused
from verify.checker.query_text import statements_of

MOST_CLAUSES = 1_000_000
MOST_NESTING = 200
MOST_DIGITS = 4_000  # of a number, and the largest exponent
IGNORED = ("set-logic", "set-info", "set-option")
ENDING = ("check-sat", "get-model", "exit")  # what comes after them is no part of the question
DECLARING = ("declare-const", "declare-fun")
COMPARE: dict[str, Callable[[Any, Any], bool]] = {"<=": le, "<": lt, ">=": ge, ">": gt, "=": eq}
MIRRORED = {"<=": ">=", "<": ">", ">=": "<=", ">": "<", "=": "="}

is_number = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\Z", re.ASCII).match
is_variable = re.compile(r"[XY]_(?:0|[1-9]\d{0,8})\Z", re.ASCII).match
next_token = re.compile(r"\s*([()]|[^\s()]+)", re.ASCII).match
next_comparison = re.compile(r"\(\s*([<>]=)\s+([^\s()]+)\s+([^\s()]+)\s*\)", re.ASCII).match

Term: TypeAlias = tuple[
    dict[int, Fraction], Fraction
]  # coefficients by variable (2 i: X_i, 2 j + 1: Y_j), and a constant


def check_time(until: float) -> None:
    """NotProved once the time (`time.monotonic`) is past `until`."""
    if time.monotonic() > until:
        raise NotProved("time is up")


# -- formulas


@dataclass(frozen=True, slots=True)
class Atom:
    """sum of coefficients times variables (comparison) constant; `bounds`: the one input X_i that this bounds, or None."""

    comparison: str
    coefficients: dict[int, Fraction]
    constant: Fraction
    bounds: int | None = None


@dataclass(frozen=True, slots=True)
class All:
    """A conjunction; true without parts."""

    parts: tuple[Formula, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """A disjunction; false without parts."""

    parts: tuple[Formula, ...]


Formula: TypeAlias = Atom | All | AnyOf
Choice: TypeAlias = tuple[Atom, ...]  # the atoms of one alternative, in the file's order


def count(formula: Formula) -> int:
    """How many alternatives a formula has."""
    if isinstance(formula, Atom):
        return 1
    counts = [count(part) for part in formula.parts]
    return sum(counts) if isinstance(formula, AnyOf) else math.prod(counts)


def alternatives(formula: Formula) -> list[Choice]:
    """The alternatives of a formula, by distribution."""
    if isinstance(formula, Atom):
        return [(formula,)]
    if not count(formula):
        return []
    lists = [alternatives(part) for part in formula.parts]
    if isinstance(formula, AnyOf):
        return [choice for part in lists for choice in part]
    return [tuple(atom for choice in choices for atom in choice) for choices in product(*lists)]


def split(formula: Formula) -> tuple[list[Atom], list[AnyOf]]:
    """The atoms outside all disjunctions, and the disjunctions."""
    if isinstance(formula, Atom):
        return [formula], []
    if isinstance(formula, AnyOf):
        return split(formula.parts[0]) if len(formula.parts) == 1 else ([], [formula])
    pieces = [split(part) for part in formula.parts]
    return [atom for atoms, _ in pieces for atom in atoms], [part for _, parts in pieces for part in parts]


def holds(formula: Formula, lower: dict[int, Fraction], upper: dict[int, Fraction]) -> bool:
    """Whether a formula is shown to be true for all values between the bounds, part by part."""
    if isinstance(formula, Atom):
        ends = [(lower[code] * factor, upper[code] * factor) for code, factor in formula.coefficients.items()]
        extremes = sum(map(min, ends), Fraction(0)), sum(map(max, ends), Fraction(0))
        return all(COMPARE[formula.comparison](total, formula.constant) for total in extremes)
    truths = (holds(part, lower, upper) for part in formula.parts)
    return any(truths) if isinstance(formula, AnyOf) else all(truths)


# -- the result


@dataclass(frozen=True)
class Row:
    """Coefficients of outputs and inputs, of which the sum is <= threshold (< if strict)."""

    outputs: dict[int, Fraction]
    inputs: dict[int, Fraction]
    threshold: Fraction
    strict: bool


@dataclass(frozen=True)
class Clause:
    """Unsafe where lower <= x <= upper ([inputs] each) and all rows hold."""

    lower: list[Fraction]
    upper: list[Fraction]
    rows: list[Row]


def rows_of(atom: Atom) -> list[Row]:
    """The rows of an atom that bounds no input."""
    rows = []
    if atom.comparison in ("<=", "<", "="):
        rows.append(row_of(atom, 1))
    if atom.comparison in (">=", ">", "="):
        rows.append(row_of(atom, -1))
    return rows


def row_of(atom: Atom, sign: int) -> Row:
    """An atom times 1 or -1 as a row."""
    outputs = {code // 2: sign * factor for code, factor in atom.coefficients.items() if code % 2}
    inputs = {code // 2: sign * factor for code, factor in atom.coefficients.items() if not code % 2}
    return Row(outputs, inputs, sign * atom.constant, atom.comparison in ("<", ">"))


End: TypeAlias = tuple[Fraction, bool]  # a bound, and whether it is strict


class Box:
    """Bounds of inputs, those of `base` tightened; the base itself is never changed."""

    def __init__(self, atoms: Sequence[Atom], base: Box | None = None) -> None:
        self._base = base
        self.lower: dict[int, End] = {}
        self.upper: dict[int, End] = {}
        for atom in atoms:
            variable = atom.bounds
            if variable is not None:
                self._tighten(variable, atom)

    def ends(self, variable: int) -> tuple[End | None, End | None]:
        """The lower and the upper bound of an input."""
        lower, upper = self.lower.get(variable), self.upper.get(variable)
        if self._base is not None:
            lower = lower or self._base.lower.get(variable)
            upper = upper or self._base.upper.get(variable)
        return lower, upper

    def _tighten(self, variable: int, atom: Atom) -> None:
        lower, upper = self.ends(variable)
        value, strict = atom.constant, atom.comparison in ("<", ">")
        if atom.comparison in (">=", ">", "=") and (lower is None or (value, strict) > lower):
            self.lower[variable] = (value, strict)
        if atom.comparison in ("<=", "<", "=") and (
            upper is None or (-value, strict) > (-upper[0], upper[1])
        ):
            self.upper[variable] = (value, strict)

    @property
    def empty(self) -> bool:
        """Whether bounds that this box has itself contradict its others."""
        for variable in {**self.lower, **self.upper}:
            lower, upper = self.ends(variable)
            if lower and upper and (lower[0] > upper[0] or (lower[0] == upper[0] and (lower[1] or upper[1]))):
                return True
        return False


class Clauses(Sequence[Clause]):
    """The clauses of a formula, made on access."""

    def __init__(self, formula: Formula, inputs: int) -> None:
        if count(formula) > MOST_CLAUSES:
            raise Refused(f"the property has more than {MOST_CLAUSES} clauses")
        self._inputs = inputs
        self._base, disjunctions = split(formula)
        self._box = Box(self._base)
        self._factors = [alternatives(part) for part in disjunctions]
        self._choices = array("q")
        if count(formula) and not self._box.empty:
            self._choices.extend(self._possible())

    @cached_property
    def _ends(self) -> list[list[Fraction | None]]:
        """The base's lower and upper bounds, None where it has none."""
        every = range(self._inputs)
        return [
            [own[k][0] if k in own else None for k in every] for own in (self._box.lower, self._box.upper)
        ]

    def _possible(self) -> Iterator[int]:
        """The numbers of the choices whose boxes are not empty; refuses unbounded ones."""
        missing = [k for k in range(self._inputs) if None in self._box.ends(k)]
        for number in range(math.prod(map(len, self._factors))):
            box = Box(self._chosen(number), self._box)
            if box.empty:
                continue
            for variable in missing:
                if None in box.ends(variable):
                    raise Refused(f"the input X_{variable} lacks a bound in some clause")
            yield number

    def _chosen(self, number: int) -> list[Atom]:
        """The atoms of a choice beyond the base."""
        picked: list[Choice] = []
        for factor in reversed(self._factors):
            number, digit = divmod(number, len(factor))
            picked.append(factor[digit])
        return [atom for choice in reversed(picked) for atom in choice]

    def __len__(self) -> int:
        return len(self._choices)

    @overload
    def __getitem__(self, index: int) -> Clause: ...
    @overload
    def __getitem__(self, index: slice) -> list[Clause]: ...
    def __getitem__(self, index: int | slice) -> Clause | list[Clause]:
        if isinstance(index, slice):
            return [self[k] for k in range(len(self))[index]]
        atoms = self._chosen(self._choices[index])
        box = Box(atoms, self._box)
        both = []
        for base, own in zip(self._ends, (box.lower, box.upper), strict=True):
            ends = list(base)
            for variable, (value, _) in own.items():
                ends[variable] = value
            both.append([value for value in ends if value is not None])
        lower, upper = both
        if not len(lower) == len(upper) == self._inputs:
            raise Refused("an input lacks a bound in some clause")
        rows = [row for atom in (*self._base, *atoms) if atom.bounds is None for row in rows_of(atom)]
        return Clause(lower, upper, rows)


@dataclass(frozen=True, eq=False)
class Query:
    """A property of a network: it is unsafe where any clause holds."""

    inputs: int
    outputs: int
    clauses: Clauses
    _formula: Formula = field(repr=False)

    def violated(
        self, x: Sequence[Fraction], y: Sequence[Fraction], up_to: Sequence[Fraction] | None = None
    ) -> bool:
        """Whether the formula, strictness included, holds at inputs x and outputs y; at all outputs from y `up_to` those."""
        ends = []
        for outputs in (y, y if up_to is None else up_to):
            if (len(x), len(outputs)) != (self.inputs, self.outputs):
                raise Refused(
                    f"expected {self.inputs} inputs and {self.outputs} outputs, got {len(x)} and {len(outputs)}"
                )
            values = {2 * place: Fraction(value) for place, value in enumerate(x)}
            values.update({2 * place + 1: Fraction(value) for place, value in enumerate(outputs)})
            ends.append(values)
        return holds(self._formula, *ends)


# -- terms


def total(left: Term, right: Term, sign: int) -> Term:
    """left + sign * right, without zero coefficients."""
    coefficients = dict(left[0])
    for code, factor in right[0].items():
        coefficients[code] = coefficients.get(code, Fraction(0)) + sign * factor
    kept = {code: factor for code, factor in coefficients.items() if factor}
    return kept, left[1] + sign * right[1]


def scaled(term: Term, factor: Fraction) -> Term:
    """A term times a number."""
    return {code: value * factor for code, value in term[0].items() if factor}, term[1] * factor


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
        multiple = math.lcm(*(value.denominator for value in values))
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
            return normal(head, total(left, right, -1))
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
        mantissa, _, exponent = word.lower().partition("e")
        if len(mantissa) > MOST_DIGITS or len(exponent) > 20 or abs(int(exponent or 0)) > MOST_DIGITS:
            self.fail("a number of too many digits")
        return Fraction(word)

    def operation(self, depth: int) -> Term:
        """Read the rest of a sum, a difference, a product or a quotient."""
        head = self.next()
        if head not in ("+", "-", "*", "/"):
            self.fail(f"unknown operator {head[:60]!r} in a term")
        result = self.term(self.next(), depth + 1)
        single = True
        while self.more():
            result, single = self.joined(head, result, self.term(self.next(), depth + 1)), False
        return scaled(result, Fraction(-1)) if head == "-" and single else result

    def joined(self, head: str, left: Term, right: Term) -> Term:
        """Two terms joined by an operator."""
        if head in "+-":
            return total(left, right, 1 if head == "+" else -1)
        if head == "/":
            if right[0] or not right[1]:
                self.fail("division by something other than a constant that is not 0")
            return scaled(left, 1 / right[1])
        if left[0] and right[0]:
            self.fail("a product of two variables")
        return scaled(left, right[1]) if left[0] else scaled(right, left[1])


def read_query(text: str, until: float = math.inf) -> Query:
    """The property that a VNN-LIB 1.0 text states. Raises Refused, and NotProved past `until` (of `time.monotonic`)."""
    reader = Reader(text, until)
    reader.statements()
    inputs, outputs = reader.declared(0), reader.declared(1)
    formula = All(tuple(reader.asserted))
    return Query(inputs, outputs, Clauses(formula, inputs), formula)
