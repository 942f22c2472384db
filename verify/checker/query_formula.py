"""Formulas of a property: comparisons, conjunctions and disjunctions, and their alternatives."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from operator import eq, ge, gt, le, lt
from typing import Any, TypeAlias

from verify.checker.errors import NotProved

COMPARE: dict[str, Callable[[Any, Any], bool]] = {"<=": le, "<": lt, ">=": ge, ">": gt, "=": eq}
TOO_MANY = 1 << 40  # alternatives are not counted beyond


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
Extent: TypeAlias = tuple[int, int]  # how many alternatives there are, and how many atoms in all of them


def check_time(until: float) -> None:
    """NotProved once the time (`time.monotonic`) is past `until`."""
    if time.monotonic() > until:
        raise NotProved("time is up")


class Extents:
    """How many alternatives formulas have, without making them; each part is counted once."""

    def __init__(self) -> None:
        self._known: dict[int, Extent] = {}

    def of(self, formula: Formula) -> Extent:
        """A formula's extent; more than `TOO_MANY` is not told apart."""
        if isinstance(formula, Atom):
            return 1, 1
        if id(formula) not in self._known:
            parts = [self.of(part) for part in formula.parts]
            self._known[id(formula)] = _either(parts) if isinstance(formula, AnyOf) else together(parts)
        return self._known[id(formula)]


def _either(parts: Sequence[Extent]) -> Extent:
    return min(TOO_MANY, sum(count for count, _ in parts)), min(TOO_MANY, sum(atoms for _, atoms in parts))


def together(parts: Sequence[Extent]) -> Extent:
    """The extent of a conjunction, by those of its parts."""
    if any(count == 0 for count, _ in parts):
        return 0, 0
    count, atoms = 1, 0
    for more, own in parts:
        count, atoms = min(TOO_MANY, count * more), min(TOO_MANY, atoms * more + own * count)
    return count, atoms


def alternatives(formula: Formula, extents: Extents) -> list[Choice]:
    """The alternatives of a formula, by distribution."""
    if isinstance(formula, Atom):
        return [(formula,)]
    if not extents.of(formula)[0]:
        return []
    lists = [alternatives(part, extents) for part in formula.parts]
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
