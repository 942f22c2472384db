"""The formula as written: atoms in flat arrays, a tree over ranges of them, exact truth, and normal form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import product
from numbers import Rational
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from verify.deadline import tick
from verify.formats.vnnlib.literals import Booleans, Floats, Literals
from verify.formats.vnnlib.terms import Linear

Number: TypeAlias = float | Fraction
Range: TypeAlias = tuple[int, int]
Alternative: TypeAlias = tuple[Range, ...]
Point: TypeAlias = tuple[Floats, dict[int, Fraction]]  # coordinates, and apart those that are no floats

LE, LT, GE, GT, EQ = range(5)
TOO_MANY = 1 << 40  # alternatives are not counted beyond


@dataclass(frozen=True, slots=True)
class Atoms:
    """The conjunction of the atoms start .. stop - 1."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class All:
    """A conjunction; true when empty."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """A disjunction; false when empty."""

    parts: tuple[Node, ...]


Node: TypeAlias = Atoms | All | AnyOf


def point(values: Sequence[Number] | NDArray[Any]) -> Point:
    """Coordinates as float64 [n], and apart, by position, those given as fractions or integers (0 there)."""
    if isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.dtype.itemsize <= 8:
        floats: Floats = values.ravel().astype(np.float64)
        return floats, {}
    items = values.ravel().tolist() if isinstance(values, np.ndarray) else list(values)
    rational = [(k, v) for k, v in enumerate(items) if type(v) is not float and isinstance(v, Rational)]
    exact = {k: Fraction(v) for k, v in rational}
    return np.array([0.0 if k in exact else float(v) for k, v in enumerate(items)]), exact


@dataclass(frozen=True, eq=False)
class Formula:
    """Atoms, the tree over them, and exact evaluation.

    Variables are coded 2 i for X_i and 2 j + 1 for Y_j.  Atom k compares `left[k]` by `operator[k]` with
    `right[k]`, which is the rank of a literal (>= 0) or a variable (-1 - code); a negative `left[k]` is the
    linear atom `rows[-1 - left[k]]`, coefficients (op) constant.
    """

    operator: NDArray[np.int8]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    rows: list[Linear]
    literals: Literals
    tree: Node

    @cached_property
    def bounding(self) -> Booleans:
        """bool [atoms]: which atoms bound one input by a literal."""
        bounding: Booleans = (self.left >= 0) & (self.left % 2 == 0) & (self.right >= 0)
        return bounding

    def holds(self, truth: Booleans) -> bool:
        """The formula's truth by that of its atoms, bool [atoms]."""
        return _evaluate(self.tree, truth)

    def truth(self, x: Point, y: Point) -> Booleans | None:
        """Exact truth of all atoms at a point, bool [atoms]; None where coordinates are infinite or undefined."""
        floats = np.zeros(2 * max(len(x[0]), len(y[0])))
        floats[0::2][: len(x[0])] = x[0]
        floats[1::2][: len(y[0])] = y[0]
        if not np.isfinite(floats).all():
            return None
        exact = {2 * k: v for k, v in x[1].items()} | {2 * k + 1: v for k, v in y[1].items()}
        truth = self._float_truth(floats)
        rational = np.zeros(len(floats), dtype=np.bool_)
        rational[list(exact)] = True
        slow = (self.left < 0) | rational[np.maximum(self.left, 0)]
        slow |= (self.right < 0) & rational[np.maximum(-1 - self.right, 0)]
        for k in np.flatnonzero(slow).tolist():
            truth[k] = self._exact_truth(k, floats, exact)
        return truth

    def _float_truth(self, floats: Floats) -> Booleans:
        """Truth of the atoms, bool [atoms], where both sides are floats or a literal's exact decimal."""
        value, variable = floats[np.maximum(self.left, 0)], floats[np.maximum(-1 - self.right, 0)]
        rank = np.maximum(self.right, 0)
        below = np.where(self.right < 0, variable, self.literals.floor[rank])
        above = np.where(self.right < 0, variable, self.literals.ceiling[rank])
        at_most, at_least = value <= below, value >= above
        tests = [at_most, value < above, at_least, value > below, at_most & at_least]
        truth: Booleans = np.choose(self.operator, tests)
        return truth

    def _exact_truth(self, k: int, floats: Floats, exact: dict[int, Fraction]) -> bool:
        coefficients, constant = self._linear(k)
        values = {v: exact[v] if v in exact else Fraction(float(floats[v])) for v in coefficients}
        return compare(
            int(self.operator[k]),
            sum((c * values[v] for v, c in coefficients.items()), Fraction(0)),
            constant,
        )

    def _linear(self, k: int) -> Linear:
        left, right = int(self.left[k]), int(self.right[k])
        if left < 0:
            return self.rows[-1 - left]
        if right >= 0:
            return {left: Fraction(1)}, self.literals.exact(right)
        return {left: Fraction(1), -1 - right: Fraction(-1)}, Fraction(0)


def compare(operator: int, a: Fraction, b: Fraction) -> bool:
    """Exact comparison by operator code."""
    return (a <= b, a < b, a >= b, a > b, a == b)[operator]


def _evaluate(node: Node, truth: Booleans) -> bool:
    if isinstance(node, Atoms):
        return bool(truth[node.start : node.stop].all())
    results = (_evaluate(part, truth) for part in node.parts)
    return all(results) if isinstance(node, All) else any(results)


# -- disjunctive normal form


class Extents:
    """How many alternatives nodes have, and how many ranges are in all of them, without making any."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, int]] = {}

    def of(self, node: Node) -> tuple[int, int]:
        """A node's extent, each up to `TOO_MANY`; every part of it is looked at once."""
        if isinstance(node, Atoms):
            return 1, 1
        found = self._known.get(id(node))
        if found is None:
            parts = [self.of(part) for part in node.parts]
            found = together(parts) if isinstance(node, All) else _either(parts)
            self._known[id(node)] = found
        return found


def _either(parts: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return min(TOO_MANY, sum(count for count, _ in parts)), min(TOO_MANY, sum(ranges for _, ranges in parts))


def together(parts: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The extent of a conjunction, by those of its parts."""
    if any(count == 0 for count, _ in parts):
        return 0, 0
    count, ranges = 1, 0
    for more, own in parts:
        count, ranges = min(TOO_MANY, count * more), min(TOO_MANY, ranges * more + own * count)
    return count, ranges


def alternatives(node: Node, extents: Extents) -> list[Alternative]:
    """The alternatives of a node, by distribution."""
    tick()
    if isinstance(node, Atoms):
        return [((node.start, node.stop),)]
    if not extents.of(node)[0]:
        return []
    lists = [alternatives(part, extents) for part in node.parts]
    if isinstance(node, AnyOf):
        return [choice for part in lists for choice in part]
    return [joined(r for choice in choices for r in choice) for choices in product(*lists)]


def split(node: Node) -> tuple[list[Range], list[AnyOf]]:
    """The atoms that hold in every clause, and the disjunctions."""
    if isinstance(node, Atoms):
        return [(node.start, node.stop)], []
    if isinstance(node, AnyOf):
        return split(node.parts[0]) if len(node.parts) == 1 else ([], [node])
    base: list[Range] = []
    factors: list[AnyOf] = []
    for part in node.parts:
        more, others = split(part)
        base.extend(more)
        factors.extend(others)
    return base, factors


def joined(ranges: Iterable[Range]) -> Alternative:
    """The same ranges, adjacent ones as one."""
    result: list[Range] = []
    for start, stop in ranges:
        if result and result[-1][1] == start:
            start = result.pop()[0]
        result.append((start, stop))
    return tuple(result)
