"""The blocks of a certificate, one after the other. Importing this module registers all kinds of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verify.checker import boxes, claims, leaves, subproblems, trees
from verify.checker.container import Container
from verify.checker.errors import Refused
from verify.checker.rules import RULES, Rule
from verify.checker.stream import Cursor

ROOMS = (claims, leaves, subproblems, boxes, trees)
KINDS = tuple(RULES[code].name for code in sorted(RULES))


@dataclass(frozen=True)
class Block:
    """A block by its number in the file."""

    number: int
    rule: type[Rule]
    data: NDArray[np.uint8]

    def cursor(self) -> Cursor:
        """At its beginning."""
        return Cursor(self.data)


def blocks(container: Container) -> Iterator[Block]:
    """The blocks in the order of the file."""
    codes, ends = container.tensor("block.kind", "u1"), container.tensor("block.end", "<i8")
    data = container.tensor("stream", "u1")
    whole = [0, *ends.tolist()]
    if len(codes) != len(ends) or whole != sorted(whole) or whole[-1] != len(data):
        raise Refused("the table of blocks does not fit the stream")
    start = 0
    for number, (code, end) in enumerate(zip(codes.tolist(), ends.tolist(), strict=True)):
        yield block_of(number, code, data[start:end])
        start = end


def effort(codes: NDArray[np.uint8], ends: NDArray[np.int64], start: int = 0) -> int:
    """How many bytes of bounds and slopes take as long to prove as blocks of these kinds, which end there, the first from `start` on."""
    sizes = np.diff(ends.astype(np.float64), prepend=start)
    times = np.array([RULES[code].effort if code in RULES else 1 for code in range(256)])
    return int((sizes * times[codes]).sum())


def block_of(number: int, code: int, data: NDArray[np.uint8]) -> Block:
    """The block of that kind. Refused where there is none."""
    if code not in RULES:
        raise Refused(f"block {number} is of an unknown kind, {code}")
    return Block(number, RULES[code], data)
