"""Intervals between neighbouring numbers of an input's element type, and the number that is nearest to each.

A model takes inputs of its element type alone, and most decimals are no such number: of `x = 0.1` nothing would be left. So an
interval (strict bounds taken as closed ones) that holds no number of the type stands for its hull with the nearest number, ties to
even, as everybody who reads 0.1 rounds it; beyond the largest number that is the largest. Every other interval is as written.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from verify.deadline import tick
from verify.formats.vnnlib.literals import Booleans, Floats, Literals

Kinds: TypeAlias = Sequence[tuple[DTypeLike, NDArray[np.bool_]]]  # element types, and which inputs are theirs
Ranks: TypeAlias = NDArray[np.int32] | NDArray[np.int64]
_BITS = {2: np.int16, 4: np.int32, 8: np.int64}  # integers by the bytes of the floats with as many


class Grid:
    """The numbers of an element type (float16, float32 or float64) beside each literal: `below`, `above`, float64 [ranks]."""

    def __init__(self, literals: Literals, dtype: DTypeLike) -> None:
        self._literals, self._kind = literals, np.dtype(dtype)
        self.below = cast(literals.floor, dtype, -np.inf).astype(np.float64) + 0.0
        self.above = cast(literals.ceiling, dtype, np.inf).astype(np.float64) + 0.0
        self._nearest: dict[tuple[int, int], float] = {}

    def nearest(self, low: Ranks, high: Ranks) -> Floats:
        """The nearest number to each of some intervals that hold none, given by ranks: float64 of their shape."""
        found = self._of_points[low]
        for k in np.flatnonzero(low != high).tolist():
            tick()
            pair = int(low[k]), int(high[k])
            if pair not in self._nearest:
                middle = (self._literals.exact(pair[0]) + self._literals.exact(pair[1])) / 2
                self._nearest[pair] = self._rounded(
                    middle, *(float(end[pair[0]]) for end in (self.below, self.above))
                )
            found[k] = self._nearest[pair]
        return found

    @cached_property
    def _of_points(self) -> Floats:
        """The nearest number to each literal."""
        below, above = self.below, self.above
        with np.errstate(all="ignore"):
            tie = below + (above - below) / 2  # float64 holds it, where the type is narrower
        found = np.where(self._literals.floor < tie, below, above)
        even = np.where(self._is_even(below), below, above)
        found = np.where((self._literals.floor == tie) & (self._literals.ceiling == tie), even, found)
        found = np.where(np.isinf(above), below, np.where(np.isinf(below), above, found))
        if self._kind.itemsize == 8:
            for rank in np.flatnonzero(below < above).tolist():
                found[rank] = self._rounded(
                    self._literals.exact(rank), float(below[rank]), float(above[rank])
                )
        return found

    def _rounded(self, value: Fraction, below: float, above: float) -> float:
        """Whichever neighbour is nearer; the finite one if only one is."""
        if np.isinf(below) or np.isinf(above):
            return above if np.isinf(below) else below
        to_below, to_above = value - Fraction(below), Fraction(above) - value
        if to_below == to_above:
            return below if self._is_even(np.float64(below)) else above
        return below if to_below < to_above else above

    def _is_even(self, values: Any) -> Any:
        """Whether numbers of the type have an even last place."""
        with np.errstate(over="ignore"):
            return np.asarray(values).astype(self._kind).view(_BITS[self._kind.itemsize]) % 2 == 0


class Gaps:
    """Which inputs of boxes lie between two neighbouring numbers of their types, and the nearest numbers."""

    def __init__(self, literals: Literals, kinds: Kinds) -> None:
        self.kinds = kinds
        self._grids = [(Grid(literals, dtype), np.flatnonzero(mine)) for dtype, mine in kinds]

    def of(self, low: Ranks, high: Ranks) -> tuple[Booleans, Floats]:
        """Of boxes given by ranks [.., inputs]: where there are such, and the nearest numbers in their order."""
        if len(self._grids) == 1:
            grid, _ = self._grids[0]
            found: Booleans = grid.above[low] > grid.below[high]
            return found, grid.nearest(low[found], high[found]) if found.any() else np.zeros(0)
        found, nearest = np.zeros(low.shape, dtype=np.bool_), np.zeros(low.shape)
        for grid, mine in self._grids:
            some = grid.above[low[..., mine]] > grid.below[high[..., mine]]
            found[..., mine] = some
            part = np.zeros(some.shape)
            part[some] = grid.nearest(low[..., mine][some], high[..., mine][some])
            nearest[..., mine] = part
        return found, nearest[found]


def cast(values: Floats, dtype: DTypeLike, toward: float) -> NDArray[Any]:
    """The nearest `dtype` values >= (toward +inf) or <= (toward -inf) float64 values."""
    kind = np.dtype(dtype)
    with np.errstate(over="ignore"):
        found: NDArray[Any] = values.astype(kind)
        wide = found.astype(np.float64)
        wrong = wide < values if toward > 0 else wide > values
        found[wrong] = np.nextafter(found[wrong], np.array(toward, dtype=kind))
    return found
