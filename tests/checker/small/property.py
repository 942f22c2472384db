"""Properties in VNN-LIB 1.0, as clauses."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, product
from typing import Any

from small.model import Net
from small.sums import INFINITY, ONE, Sum, demand, plus


@dataclass
class Clause:
    """Unsafe where no row is positive, for an input in the box."""

    lower: list[Fraction]
    upper: list[Fraction]
    rows: list[Sum]


def parsed(text: str) -> list[Any]:
    """Nested lists of words."""
    stack: list[list[Any]] = [[]]
    for line in text.splitlines():
        for word in line.split(";")[0].replace("(", " ( ").replace(")", " ) ").split():
            if word == "(":
                stack.append([])
            elif word == ")":
                done = stack.pop()
                stack[-1].append(done)
            else:
                stack[-1].append(word)
    demand(len(stack) == 1, "parentheses")
    return stack[0]


def linear(term: Any) -> dict[str, Fraction]:
    """Coefficients of a term by names of variables; the constant by no name."""
    if isinstance(term, str):
        return {term: Fraction(1)} if term[0] in "XY" else {"": Fraction(term)}
    operator, *operands = term[0], *map(linear, term[1:])
    if operator == "*":
        first, second = sorted(operands, key=lambda one: any(one))
        demand(set(first) <= {""}, "a product of variables")
        return {name: value * first.get("", 0) for name, value in second.items()}
    demand(operator in ("+", "-"), f"operator {operator}")
    if operator == "-" and len(operands) == 1:
        operands.insert(0, {})
    found = dict(operands[0])
    for other in operands[1:]:
        for name, value in other.items():
            found[name] = found.get(name, Fraction(0)) + (value if operator == "+" else -value)
    return found


def alternatives(formula: Any) -> list[list[dict[str, Fraction]]]:
    """The disjunctive normal form: of each clause, what is at most 0."""
    operator, *operands = formula
    if operator == "or":
        return [clause for one in operands for clause in alternatives(one)]
    if operator == "and":
        return [[*chain(*chosen)] for chosen in product(*map(alternatives, operands))]
    demand(operator in ("<=", "<", ">=", ">", "="), f"operator {operator}")
    below, above = (linear(["-", *pair]) for pair in (operands, operands[::-1]))
    return [[below, above]] if operator == "=" else [[below if operator[0] == "<" else above]]


def read_property(text: str, net: Net) -> list[Clause]:
    """All clauses in their order; what is outside of disjunctions comes first in each."""
    formulas = [one[1] for one in parsed(text) if one[0] == "assert"]
    while any(one[0] == "and" for one in formulas):
        formulas = [part for one in formulas for part in (one[1:] if one[0] == "and" else [one])]
    formulas.sort(key=lambda one: one[0] == "or")
    clauses = [clause_of(comparisons, net) for comparisons in alternatives(["and", *formulas])]
    return [one for one in clauses if all(a <= b for a, b in zip(one.lower, one.upper, strict=True))]


def clause_of(comparisons: Sequence[dict[str, Fraction]], net: Net) -> Clause:
    """A box from what compares an input with a number, and rows."""
    lower, upper, rows = [-INFINITY] * net.inputs, [INFINITY] * net.inputs, []
    for one in comparisons:
        names = [name for name, value in one.items() if name and value]
        scale = abs(one[names[0]]) if len(names) == 1 else Fraction(1)
        if len(names) > 1 and any(Fraction(float(one[name])) != one[name] for name in names):
            scale = Fraction(1, math.lcm(*(one[name].denominator for name in names)))
        constant = one.get("", Fraction(0)) / scale
        if len(names) == 1 and names[0][0] == "X":
            i = int(names[0][2:])
            if one[names[0]] > 0:
                upper[i] = min(upper[i], -constant)
            else:
                lower[i] = max(lower[i], constant)
            continue
        row: Sum = {ONE: constant}
        for name in names:
            value = {int(name[2:]): 1} if name[0] == "X" else net.outputs[int(name[2:])]
            row = plus(row, value, one[name] / scale)
        rows.append(row)
    for low, high in zip(lower, upper, strict=True):
        demand(not math.isinf(low) and not math.isinf(high), "an input without bounds")
        near = (Fraction(struct.unpack("<f", struct.pack("<f", end))[0]) for end in (low, high))
        demand(low > high or any(low <= one <= high for one in near), "an input that has no float32 number")
    demand(rows, "a clause without rows")
    return Clause(lower, upper, rows)
