"""VNN-LIB 1.0 texts: written from boxes and clauses, read back as queries, evaluated exactly on a point.

A property file describes the *unsafe* set. `write_property` prints it; `read_queries` expands it to a
disjunction of queries, each one box and one clause ``C y <= d``; `violated` evaluates the text itself on a
point in rational arithmetic, so that a witness is judged against the decimals of the file and not against
anybody's rounding of them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import chain, product
from typing import Any, NamedTuple

import numpy as np

from properties.network import Array

Clause = tuple[str, ...]
"""A conjunction of atoms over outputs, each as text: ``("(>= Y_0 0.5)", "(<= Y_1 Y_2)")``."""

Form = Any
"""An s-expression: a token, or a list of forms."""


@dataclass(frozen=True)
class Case:
    """Unsafe where the inputs lie within the bounds and any of the clauses holds."""

    lower: tuple[Decimal, ...]
    upper: tuple[Decimal, ...]
    clauses: tuple[Clause, ...]

    def box(self) -> list[str]:
        """The box as atoms."""
        pairs = enumerate(zip(self.lower, self.upper, strict=True))
        return [atom for i, (low, high) in pairs for atom in (f"(>= X_{i} {low:f})", f"(<= X_{i} {high:f})")]


class Query(NamedTuple):
    """One box and one clause: unsafe where ``coefficients @ y <= threshold``."""

    lower: Array
    upper: Array
    coefficients: Array
    threshold: Array


def write_property(title: str, outputs: int, cases: Sequence[Case]) -> str:
    """The VNN-LIB text of a disjunction of cases, in the plainest layout that says it."""
    names = [f"X_{i}" for i in range(len(cases[0].lower))] + [f"Y_{i}" for i in range(outputs)]
    lines = [f"; {title}", ""] + [f"(declare-const {name} Real)" for name in names] + [""]
    if len(cases) == 1:
        lines += [*(f"(assert {atom})" for atom in cases[0].box()), "", *_assert_clauses(cases[0].clauses)]
    elif all(case.clauses == cases[0].clauses for case in cases):
        lines += [*_disjunction([case.box() for case in cases]), "", *_assert_clauses(cases[0].clauses)]
    else:
        lines += _disjunction([[*case.box(), *clause] for case in cases for clause in case.clauses])
    return "\n".join(lines) + "\n"


def _assert_clauses(clauses: Sequence[Clause]) -> list[str]:
    if len(clauses) == 1:
        return [f"(assert {atom})" for atom in clauses[0]]
    return _disjunction(clauses)


def _disjunction(conjunctions: Sequence[Sequence[str]]) -> list[str]:
    return ["(assert (or", *(f"    (and {' '.join(atoms)})" for atoms in conjunctions), "))"]


def parse(text: str) -> list[Form]:
    """The file's s-expressions."""
    stack: list[list[Form]] = [[]]
    for token in re.findall(r"[()]|[^\s()]+", re.sub(r";[^\n\r]*", "", text)):
        if token == "(":
            stack.append([])
        elif token == ")":
            closed = stack.pop()
            stack[-1].append(closed)
        else:
            stack[-1].append(token)
    (forms,) = stack
    return forms


def declared(text: str, letter: str) -> int:
    """How many inputs ("X") or outputs ("Y") a file declares."""
    return sum(form[0] == "declare-const" and form[1][0] == letter for form in parse(text))


def violated(text: str, inputs: Sequence[float], outputs: Sequence[float]) -> bool:
    """Whether the point lies in the unsafe set, exactly."""
    values = {f"X_{i}": Fraction(value) for i, value in enumerate(inputs)}
    values |= {f"Y_{i}": Fraction(value) for i, value in enumerate(outputs)}
    return all(_holds(form[1], values) for form in parse(text) if form[0] == "assert")


def _holds(form: Form, values: Mapping[str, Fraction]) -> bool:
    operator, *parts = form
    if operator in ("and", "or"):
        return (all if operator == "and" else any)(_holds(part, values) for part in parts)
    left, right = (values[str(part)] if str(part)[0] in "XY" else Fraction(str(part)) for part in parts)
    return left <= right if operator == "<=" else left >= right


def read_queries(text: str) -> list[Query]:
    """The unsafe set as a disjunction of queries."""
    inputs, outputs = declared(text, "X"), declared(text, "Y")
    asserts = [_conjunctions(form[1]) for form in parse(text) if form[0] == "assert"]
    return [_query(list(chain.from_iterable(choice)), inputs, outputs) for choice in product(*asserts)]


def _conjunctions(form: Form) -> list[list[Form]]:
    operator, *parts = form
    if operator == "or":
        return [conjunction for part in parts for conjunction in _conjunctions(part)]
    if operator == "and":
        return [list(chain.from_iterable(choice)) for choice in product(*map(_conjunctions, parts))]
    return [[form]]


def _query(atoms: Sequence[Form], inputs: int, outputs: int) -> Query:
    lower, upper = np.full(inputs, -np.inf), np.full(inputs, np.inf)
    rows, limits = [], []
    for operator, left, right in atoms:
        sign = 1.0 if operator == "<=" else -1.0
        name, value = str(left), str(right)
        if name[0] == "X":
            index = int(name[2:])
            side, tighter = (upper, min) if operator == "<=" else (lower, max)
            side[index] = tighter(side[index], float(value))
            continue
        row, limit = np.zeros(outputs), 0.0
        for part, weight in ((name, sign), (value, -sign)):
            if part[0] == "Y":
                row[int(part[2:])] += weight
            else:
                limit -= weight * float(part)
        rows.append(row)
        limits.append(limit)
    return Query(lower, upper, np.array(rows), np.array(limits))
