"""A cursor over the numbers in a block."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.checker.errors import Refused


class Cursor:
    """Takes numbers off a block's bytes, in order."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self._data, self._at = data, 0

    def take(self, kind: str, count: int) -> NDArray[Any]:
        """The next `count` numbers of numpy type `kind`. Refused where there are not so many."""
        size = count * np.dtype(kind).itemsize
        if not 0 <= size <= len(self._data) - self._at:
            raise Refused("there is less in it than it says")
        found = np.frombuffer(self._data[self._at : self._at + size].tobytes(), kind)
        self._at += size
        return found

    def integer(self) -> int:
        """One 64-bit number."""
        return int(self.take("<i8", 1)[0])

    def counted(self, kind: str) -> NDArray[Any]:
        """Numbers that their count precedes."""
        return self.take(kind, self.integer())

    def claims(self, kind: str) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Variables, sides (1: lower bounds, -1: upper bounds) and values."""
        variables = self.counted("<i4").astype(np.int64)
        sides = self.take("i1", len(variables)).astype(np.float64)
        values = self.take(kind, len(variables)).astype(np.float64)
        if not (np.abs(sides) == 1).all() or not np.isfinite(values).all():
            raise Refused("a claim has no side, or is not finite")
        return variables, sides, values

    def skip(self) -> None:
        """Passes over the rest."""
        self._at = len(self._data)

    def finish(self) -> None:
        """Refused where something is left."""
        if self._at != len(self._data):
            raise Refused("there is more in it than it says")
