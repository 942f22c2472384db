"""The result of reading: a property and its clauses, which are made one by one on access."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from verify.deadline import tick
from verify.formats.vnnlib.boxes import Boxes
from verify.formats.vnnlib.formula import (
    Alternative,
    AnyOf,
    Extents,
    Formula,
    Number,
    Point,
    Range,
    alternatives,
    joined,
    point,
    split,
    together,
)
from verify.formats.vnnlib.gaps import Kinds
from verify.formats.vnnlib.literals import Booleans, Floats, Integers
from verify.formats.vnnlib.rows import RangesOf, Rows, spread

MAXIMUM_CLAUSES = 1_000_000
MAXIMUM_RANGES = 10_000_000  # of atoms, in the alternatives of all disjunctions


class TooManyClauses(ValueError):
    """Disjunctions that multiply to too many clauses (internal; the reader turns it into an error with a file)."""


@dataclass(frozen=True, eq=False)
class Clause:
    """One conjunction: unsafe where lower <= x <= upper and C y + E x <= d.

    `lower`, `upper`: float64 [inputs], rounded outward (read-only, shared among clauses with the same box).
    `output_coefficients`: C, float64 [rows, outputs], exact.  `input_coefficients`: E, float64 [rows,
    inputs], exact, or None when no row mentions an input.  `thresholds`: d, float64 [rows], rounded up.
    `strict`: bool [rows], true where the file says `<` (the row is nevertheless to be read as `<=` in
    proofs).
    """

    lower: Floats
    upper: Floats
    output_coefficients: Floats
    input_coefficients: Floats | None
    thresholds: Floats
    strict: Booleans


@dataclass(frozen=True)
class _Factor:
    """One disjunction at the top: its alternatives, and for each the number of its box among `boxes`.

    Alternatives with the same input bounds have the same box; `boxes` holds one alternative for each.
    """

    alternatives: list[Alternative]
    box_of: Integers
    boxes: list[Alternative]


def _factor(node: AnyOf, formula: Formula, extents: Extents) -> _Factor:
    choices = alternatives(node, extents)
    packed = np.stack([formula.left, formula.right, formula.operator.astype(np.int32)], axis=1)
    known: dict[bytes, int] = {}
    boxes: list[Alternative] = []
    box_of = np.zeros(len(choices), dtype=np.int64)
    for k, choice in enumerate(choices):
        tick()
        key = b"".join(packed[a:b][formula.bounding[a:b]].tobytes() for a, b in choice)
        box_of[k] = number = known.setdefault(key, len(boxes))
        if number == len(boxes):
            boxes.append(choice)
    return _Factor(choices, box_of, boxes)


class Clauses(Sequence[Clause]):
    """The clauses of a formula, made on access.

    Asserts at the top are intersected into one base; every disjunction there is a *factor*, and a clause
    chooses one alternative of each. A choice is a mixed-radix number, and those whose box is exactly empty
    are left out.  `box_ids`: int64 [clauses], the number of each clause's box in `boxes`.
    """

    def __init__(self, formula: Formula, inputs: int, outputs: int) -> None:
        self.formula, self._inputs, self._outputs = formula, inputs, outputs
        base, disjunctions = split(formula.tree)
        extents = Extents()
        if not extents.of(formula.tree)[0]:
            disjunctions = [AnyOf(())]
        self._admit([extents.of(node) for node in disjunctions])
        self._base = joined(base)
        self._factors = [_factor(node, formula, extents) for node in disjunctions]
        self.boxes = Boxes(formula, inputs, self._base, [factor.boxes for factor in self._factors])
        candidates = np.zeros(1, dtype=np.int64)
        for factor in self._factors:
            candidates = (candidates[:, None] * len(factor.boxes) + factor.box_of).ravel()
        box_ids = self.boxes.number[candidates]
        self._choices = np.flatnonzero(box_ids >= 0)
        self.box_ids: Integers = box_ids[self._choices]

    @staticmethod
    def _admit(extents: list[tuple[int, int]]) -> None:
        """Raises TooManyClauses before any is made."""
        if together(extents)[0] > MAXIMUM_CLAUSES:
            raise TooManyClauses(f"the disjunctions multiply to more than {MAXIMUM_CLAUSES} clauses")
        if sum(ranges for _, ranges in extents) > MAXIMUM_RANGES:
            reason = (
                f"the disjunctions' alternatives have more than {MAXIMUM_RANGES} comparisons, multiplied out"
            )
            raise TooManyClauses(reason)

    @cached_property
    def _rows(self) -> Rows:
        return Rows(self.formula)

    @property
    def strict(self) -> bool:
        """Whether the file says `<` of outputs anywhere."""
        return bool(self._rows.strict.any())

    def without(self, dropped: Booleans) -> Clauses:
        """The clauses for which `dropped` ([clauses]) is false."""
        kept = copy(self)
        kept._choices, kept.box_ids = self._choices[~dropped], self.box_ids[~dropped]
        return kept

    def of_types(self, kinds: Kinds) -> Clauses:
        """The clauses of a network with inputs of these element types."""
        typed = copy(self)
        typed.boxes = self.boxes.of_types(kinds)
        return typed

    def violated(self, x: Point, y: Point, clause: int | None) -> bool:
        """Whether the formula holds as written, or a clause (or any) on its boxes of known element types."""
        truth = self.formula.truth(x, y)
        if truth is None or not self.boxes.typed or self.formula.holds(truth):
            return truth is not None and self.formula.holds(truth)
        wrong = np.concatenate([[0], np.cumsum(~truth & ~self.formula.bounding)])
        some = range(len(self)) if clause is None else (clause,)
        return any(self._rows_hold(k, wrong) and self.boxes.contains(int(self.box_ids[k]), x) for k in some)

    def _rows_hold(self, clause: int, wrong: Integers) -> bool:
        """Whether all rows of a clause hold; `wrong`: how many rows before each atom do not."""
        ranges = (*self._base, *self._picked(int(self._choices[clause])))
        return all(wrong[start] == wrong[stop] for start, stop in ranges)

    @cached_property
    def _base_rows(self) -> list[Range]:
        return self._rows_of(self._base)

    def _rows_of(self, ranges: Alternative) -> list[Range]:
        """Ranges of rows that belong to ranges of atoms, empty ones left out."""
        at = self._rows.first.item
        return [(at(a), at(b)) for a, b in ranges if at(a) < at(b)]

    @cached_property
    def _ranges(self) -> list[RangesOf]:
        """The rows of the base, and of each factor's alternatives."""
        parts = [[self._base], *(factor.alternatives for factor in self._factors)]
        return [RangesOf(part, self._rows.first) for part in parts]

    @cached_property
    def most_rows(self) -> int:
        """The most rows of any clause, 0 without clauses."""
        counts = np.zeros(1, dtype=np.int64)
        for part in self._ranges:
            counts = (counts[:, None] + part.sizes).ravel()
        return int(counts[self._choices].max(initial=0))

    def _row_numbers(self, clauses: Integers) -> tuple[Integers, Integers]:
        """The rows of some clauses, int64 [clauses, rows], the first one repeated behind the last; how many they are, [clauses]."""
        choice, digits = self._choices[clauses], []
        for factor in reversed(self._factors):
            choice, digit = np.divmod(choice, len(factor.alternatives))
            digits.append(digit)
        chosen = [np.zeros_like(choice), *reversed(digits)]
        found = [part.of(places) for part, places in zip(self._ranges, chosen, strict=True)]
        start, length, owner = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.argsort(owner, kind="stable")
        within, rows = spread(start[order], length[order])
        owner = owner[order][within]
        counts = np.bincount(owner, minlength=len(clauses))
        numbers = np.zeros((len(clauses), max(1, self.most_rows)), dtype=np.int64)
        place = np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner]
        numbers[owner, place] = rows
        return np.where(np.arange(numbers.shape[1]) < counts[:, None], numbers, numbers[:, :1]), counts

    def matrices(self, clauses: Sequence[int]) -> tuple[Floats, Floats | None, Floats]:
        """Coefficients of outputs and of inputs, and thresholds: see `Property.matrices`."""
        numbers, counts = self._row_numbers(np.asarray(clauses, dtype=np.int64))
        rows = self._rows
        if not len(rows.thresholds):
            return np.zeros((*numbers.shape, self._outputs)), None, np.zeros(numbers.shape)
        own, place = np.unique(numbers, return_inverse=True)
        place = place.reshape(numbers.shape)
        sides = (rows.outputs, self._outputs), (rows.inputs, self._inputs)
        outputs, inputs = (
            None if part is rows.inputs and part.empty else part.some(own, columns)[place]
            for part, columns in sides
        )
        thresholds = rows.thresholds[numbers]
        for part in (outputs, inputs, thresholds):
            if part is not None:
                part[counts == 0] = 0.0  # unsafe on its whole box: 0 <= 0
        assert outputs is not None
        return outputs, inputs, thresholds

    def __len__(self) -> int:
        return len(self._choices)

    @overload
    def __getitem__(self, index: int) -> Clause: ...
    @overload
    def __getitem__(self, index: slice) -> list[Clause]: ...
    def __getitem__(self, index: int | slice) -> Clause | list[Clause]:
        if isinstance(index, slice):
            return [self[k] for k in range(len(self))[index]]
        lower, upper = self.boxes.shared(int(self.box_ids[index]))
        ranges = self._clause_rows(int(self._choices[index])) or [(0, 0)]
        rows = self._rows
        mentioned = rows.inputs.mentioned(ranges)
        return Clause(
            lower,
            upper,
            rows.outputs.dense(ranges, self._outputs),
            rows.inputs.dense(ranges, self._inputs) if mentioned else None,
            np.concatenate([rows.thresholds[a:b] for a, b in ranges]),
            np.concatenate([rows.strict[a:b] for a, b in ranges]),
        )

    def _picked(self, choice: int) -> Alternative:
        """Ranges of atoms of a choice beyond the base, in the order of the file's factors."""
        picked: list[Alternative] = []
        for factor in reversed(self._factors):
            choice, digit = divmod(choice, len(factor.alternatives))
            picked.append(factor.alternatives[digit])
        return tuple(part for alternative in reversed(picked) for part in alternative)

    def _clause_rows(self, choice: int) -> list[Range]:
        """Ranges of rows of a choice, in the order of the file's factors."""
        return self._base_rows + self._rows_of(self._picked(choice))


@dataclass(frozen=True, eq=False)
class Property:
    """What a specification says: the network is unsafe where any clause holds.

    `clauses` is a sequence that makes each `Clause` on access (iterate rather than copy); neighbouring
    clauses with the same box share its arrays, and `box_ids[k]` tells which ones do.  `source` is the file
    it was read from, and `notes` tell how it was read where it is not as the standard has it.
    """

    inputs: int
    outputs: int
    clauses: Clauses
    source: str | None
    notes: tuple[str, ...] = ()

    @property
    def empty_box(self) -> bool:
        """Whether the bounds outside all disjunctions contradict one another: then there are no clauses, and
        the property holds trivially."""
        return self.clauses.boxes.base_empty

    @property
    def vacuous(self) -> bool:
        """Whether the file says by itself that nothing is unsafe: its boxes hold no input, or it has no alternative left."""
        return not len(self.clauses)

    @property
    def rows(self) -> int:
        """The most rows that any clause has; 0 when there are no clauses. Makes no clause, and is cached."""
        return self.clauses.most_rows

    @property
    def box_ids(self) -> Integers:
        """int64 [clauses]: equal numbers mean equal boxes."""
        return self.clauses.box_ids

    def of_types(self, kinds: Kinds) -> Property:
        """The property of a network with inputs of these element types (float16, float32 or float64).

        Then an interval that holds no number of its input's type stands for its hull with the nearest one, in boxes and in
        `violated`; see docs/vnnlib.md.
        """
        return replace(self, clauses=self.clauses.of_types(kinds))

    def violated(
        self,
        x: Sequence[Number] | NDArray[Any],
        y: Sequence[Number] | NDArray[Any],
        clause: int | None = None,
    ) -> bool:
        """Whether the file's formula, strictness included, holds at inputs x and outputs y, decided exactly.

        x: [inputs] and y: [outputs], flat, floats (taken at their exact binary value) or Fractions; arrays of
        any shape are read in row-major order.  A point with an infinite or undefined coordinate never counts.
        clause: where element types are known, and the formula does not hold as written, look at this clause's box alone.
        Raises ValueError when a length is wrong.
        """
        inputs, outputs = point(x), point(y)
        given = len(inputs[0]), len(outputs[0])
        if given != (self.inputs, self.outputs):
            raise ValueError(
                f"expected {self.inputs} inputs and {self.outputs} outputs, got {given[0]} and {given[1]}"
            )
        return self.clauses.violated(inputs, outputs, clause)

    def extended(self, clauses: Sequence[int]) -> Booleans:
        """bool [len(clauses), inputs]: which intervals hold no number of their input's element type."""
        return self.clauses.boxes.extended(self.box_ids[np.asarray(clauses, dtype=np.int64)])

    def matrices(self, clauses: Sequence[int]) -> tuple[Floats, Floats | None, Floats]:
        """The rows of several clauses: C [clauses, rows, outputs], E [clauses, rows, inputs] (None where no row of the file
        mentions an input) and d [clauses, rows] of `Clause`, float64. Shorter clauses repeat their first row; of one without
        rows all are 0."""
        return self.clauses.matrices(clauses)

    def bounds(self, clauses: Sequence[int]) -> tuple[Floats, Floats]:
        """The boxes of several clauses, rounded outward: two float64 arrays [len(clauses), inputs]."""
        return self.clauses.boxes.outer(self.box_ids[np.asarray(clauses, dtype=np.int64)])

    def some_boxes(self, most: int = 16) -> tuple[Floats, Floats]:
        """Different boxes of clauses, spread over all, rounded outward: two float64 arrays [boxes, inputs]."""
        order = self.box_ids.argsort(kind="stable")  # not by np.unique, which imports numpy.ma
        first = order[np.diff(self.box_ids[order], prepend=-1) != 0]
        return self.bounds(first[:: -(-len(first) // most)].tolist())

    def exact_bounds(self, clause: int) -> tuple[list[Fraction], list[Fraction]]:
        """The closed box of a clause, exactly: (lower [inputs], upper [inputs]); IndexError past the end."""
        return self.clauses.boxes.exact(int(self.box_ids[clause]))

    def inner_bounds(self, clause: int, dtype: DTypeLike) -> tuple[NDArray[Any], NDArray[Any]]:
        """The largest box of `dtype` values (float16, float32 or float64) within a clause's decimal box.

        Returns (lower [inputs], upper [inputs]) of that dtype: clamping a witness to them puts it inside the
        decimal box exactly (strict bounds included).  Where no such value exists (a point such as 0.1), both
        are the value nearest to the middle, ties to even.  Raises IndexError past the end.
        """
        return self.clauses.boxes.inner(int(self.box_ids[clause]), dtype)
