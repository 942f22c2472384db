"""The blocks of a certificate, one after the other, and a cursor over the numbers in one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.checker.container import Container
from verify.checker.errors import Refused

KINDS = (
    "box", "slopes", "lemma", "leaves8", "leaves32", "leaves_rho", "leaves_default", "empty", "input_leaves", "clip",
)  # fmt: skip


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


@dataclass(frozen=True)
class Block:
    """A block by its number in the file."""

    number: int
    kind: str
    data: NDArray[np.uint8]

    def cursor(self) -> Cursor:
        """At its beginning."""
        return Cursor(self.data)


def blocks(container: Container) -> Iterator[Block]:
    """The blocks in the order of the file."""
    kinds, ends = container.tensor("block.kind", "u1"), container.tensor("block.end", "<i8")
    data = container.tensor("stream", "u1")
    whole = [0, *ends.tolist()]
    if len(kinds) != len(ends) or whole != sorted(whole) or whole[-1] != len(data):
        raise Refused("the table of blocks does not fit the stream")
    start = 0
    for number, (kind, end) in enumerate(zip(kinds.tolist(), ends.tolist(), strict=True)):
        if kind >= len(KINDS):
            raise Refused(f"block {number} is of an unknown kind, {kind}")
        yield Block(number, KINDS[kind], data[start:end])
        start = end
