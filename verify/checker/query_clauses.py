"""The clauses of a formula, made on access: a box of exact numbers and linear rows each."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TypeAlias, overload

from verify.checker.errors import Refused
from verify.checker.input_set import interval
from verify.checker.query_formula import (
    AnyOf,
    Atom,
    Choice,
    Extents,
    Formula,
    alternatives,
    check_time,
    holds,
    split,
    together,
)

MOST_CLAUSES = 1_000_000
MOST_ATOMS = 10_000_000  # in all alternatives of all disjunctions


@dataclass(frozen=True)
class Row:
    """Coefficients of outputs and inputs, of which the sum is <= threshold (< if strict)."""

    outputs: dict[int, Fraction]
    inputs: dict[int, Fraction]
    threshold: Fraction
    strict: bool


@dataclass(frozen=True)
class Clause:
    """Unsafe where lower <= x <= upper ([inputs] each) and all rows hold.

    `outside`: the ends (input, and False for the lower one) that are no points of the box themselves, as they are written with `<` or `>`.
    """

    lower: list[Fraction]
    upper: list[Fraction]
    rows: list[Row]
    outside: frozenset[tuple[int, bool]] = frozenset()

    def contains(self, x: Sequence[Fraction]) -> bool:
        """Whether an input is in the box."""
        within = all(low <= value <= high for low, value, high in zip(self.lower, x, self.upper, strict=True))
        return within and not any(x[k] == (self.upper if end else self.lower)[k] for k, end in self.outside)


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
Interval: TypeAlias = tuple[Fraction, Fraction, bool, bool]  # both ends, and which are no points of it


class Box:
    """Bounds of inputs, those of `base` tightened; the base itself is never changed."""

    def __init__(self, atoms: Iterable[Atom], base: Box | None = None) -> None:
        self.lower: dict[int, End] = {}
        self.upper: dict[int, End] = {}
        self._base = base
        for atom in atoms:
            if atom.bounds is not None:
                self._tighten(atom.bounds, atom)

    def tightened(self, atoms: Sequence[Atom]) -> Box:
        """With further bounds, of the same base."""
        if not atoms:
            return self
        found = copy(self)
        found.lower, found.upper = dict(self.lower), dict(self.upper)
        for atom in atoms:
            assert atom.bounds is not None
            found._tighten(atom.bounds, atom)
        return found

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

    def contradicts(self, variables: Iterable[int]) -> bool:
        """Whether bounds of some inputs contradict one another."""
        for variable in variables:
            lower, upper = self.ends(variable)
            if lower and upper and (lower[0] > upper[0] or (lower[0] == upper[0] and (lower[1] or upper[1]))):
                return True
        return False


class Factor:
    """A disjunction's alternatives: what each says of the box, and its rows."""

    def __init__(self, choices: list[Choice]) -> None:
        self.bounds = [[atom for atom in choice if atom.bounds is not None] for choice in choices]
        self.choices = choices
        self.bounding = any(self.bounds)
        self._rows: dict[int, list[Row]] = {}

    def rows(self, digit: int) -> list[Row]:
        """The rows of an alternative."""
        if digit not in self._rows:
            self._rows[digit] = [
                row for atom in self.choices[digit] if atom.bounds is None for row in rows_of(atom)
            ]
        return self._rows[digit]


class Clauses(Sequence[Clause]):
    """The clauses of a formula, made on access. With a `kind`, the element type of the inputs (or of each), their boxes are the input set."""

    def __init__(self, formula: Formula, inputs: int, until: float) -> None:
        self._inputs, self._until = inputs, until
        self.kind: str | tuple[str, ...] = ""
        self._formula = formula
        base, disjunctions = split(formula)
        self._box, self._factors = Box(base), self._all_factors(formula, disjunctions)
        self._base = Factor([tuple(base)])
        self._bounding = 1 + max((k for k, factor in enumerate(self._factors) if factor.bounding), default=-1)
        self._choices = array("q")
        if all(factor.choices for factor in self._factors) and not self._box.contradicts(self._box.lower):
            for numbers in self._possible():
                self._choices.extend(numbers)

    def _all_factors(self, formula: Formula, disjunctions: list[AnyOf]) -> list[Factor]:
        """The disjunctions' alternatives; refused where there are too many."""
        extents = Extents()
        counts = [extents.of(part) for part in disjunctions]
        if extents.of(formula)[0] == 0:
            return [Factor([])]
        if together(counts)[0] > MOST_CLAUSES:
            raise Refused(f"the property has more than {MOST_CLAUSES} clauses")
        if sum(atoms for _, atoms in counts) > MOST_ATOMS:
            raise Refused(f"the alternatives have more than {MOST_ATOMS} comparisons")
        return [Factor(alternatives(part, extents)) for part in disjunctions]

    @property
    def shared_rows(self) -> list[Row]:
        """The rows that all clauses have."""
        return self._base.rows(0)

    def kind_of(self, variable: int) -> str:
        """The element type of an input; empty where it is none."""
        return self.kind if isinstance(self.kind, str) else self.kind[variable]

    def of_type(self, kind: str | tuple[str, ...]) -> Clauses:
        """The same clauses of inputs of an element type, or one each; of none where it is empty."""
        typed = copy(self)
        typed.__dict__.pop("_base_intervals", None)
        typed.kind = kind
        return typed

    def _possible(self) -> Iterator[range]:
        """The numbers of the choices whose boxes are not empty; refuses unbounded ones."""
        missing = [k for k in range(self._inputs) if None in self._box.ends(k)]
        rest = 1
        for factor in self._factors[self._bounding :]:
            rest *= len(factor.choices)
        stack: list[Iterator[tuple[int, Box]]] = [iter([(0, Box((), self._box))])]
        while stack:
            check_time(self._until)
            number, box = next(stack[-1], (-1, self._box))
            if number < 0:
                stack.pop()
            elif len(stack) <= self._bounding:
                stack.append(self._chosen_of(len(stack) - 1, number, box))
            else:
                for variable in missing:
                    if None in box.ends(variable):
                        raise Refused(f"the input X_{variable} lacks a bound in some clause")
                yield range(number * rest, (number + 1) * rest)

    def _chosen_of(self, place: int, number: int, box: Box) -> Iterator[tuple[int, Box]]:
        """A choice of the first disjunctions with one of the next; those whose boxes are not empty."""
        factor = self._factors[place]
        for digit, atoms in enumerate(factor.bounds):
            found = box.tightened(atoms)
            if not found.contradicts(atom.bounds for atom in atoms if atom.bounds is not None):
                yield number * len(factor.choices) + digit, found

    @cached_property
    def _base_intervals(self) -> list[Interval | None]:
        """The base's intervals, None where it has none."""
        return [self._interval(variable, *self._box.ends(variable)) for variable in range(self._inputs)]

    def _interval(self, variable: int, lower: End | None, upper: End | None) -> Interval | None:
        """What an input's bounds stand for."""
        if lower is None or upper is None:
            return None
        kind = self.kind_of(variable)
        low, high = interval(lower[0], upper[0], kind) if kind else (lower[0], upper[0])
        if (low, high) != (lower[0], upper[0]):
            return low, high, False, False
        return low, high, lower[1], upper[1]

    def __len__(self) -> int:
        return len(self._choices)

    @overload
    def __getitem__(self, index: int) -> Clause: ...
    @overload
    def __getitem__(self, index: slice) -> list[Clause]: ...
    def __getitem__(self, index: int | slice) -> Clause | list[Clause]:
        if isinstance(index, slice):
            return [self[k] for k in range(len(self))[index]]
        check_time(self._until)
        number, box, rows = self._choices[index], Box((), self._box), []
        for factor in reversed(self._factors):
            number, digit = divmod(number, len(factor.choices))
            box = box.tightened(factor.bounds[digit])
            rows.append(factor.rows(digit))
        found = list(self._base_intervals)
        for variable in {**box.lower, **box.upper}:
            found[variable] = self._interval(variable, *box.ends(variable))
        intervals = [one for one in found if one is not None]
        if len(intervals) != self._inputs:
            raise Refused("an input lacks a bound in some clause")
        outside = {(k, end) for k, one in enumerate(intervals) for end in (False, True) if one[2 + end]}
        return Clause(
            [one[0] for one in intervals],
            [one[1] for one in intervals],
            [*self._base.rows(0), *(row for part in reversed(rows) for row in part)],
            frozenset(outside),
        )

    def violated(self, lower: dict[int, Fraction], upper: dict[int, Fraction]) -> bool:
        """Whether some clause is shown to hold for all values between the bounds, by variable's code; its inputs are single values."""
        if holds(self._formula, lower, upper):
            return True
        x = [lower[2 * k] for k in range(self._inputs)]
        return bool(self.kind) and any(
            clause.contains(x) and _shown(clause.rows, lower, upper) for clause in self
        )


def _shown(rows: list[Row], lower: dict[int, Fraction], upper: dict[int, Fraction]) -> bool:
    """Whether all rows hold for all values between the bounds."""
    for row in rows:
        total = sum((factor * lower[2 * place] for place, factor in row.inputs.items()), Fraction(0))
        for place, factor in row.outputs.items():
            total += factor * (upper if factor > 0 else lower)[2 * place + 1]
        if total > row.threshold or (row.strict and total == row.threshold):
            return False
    return True
