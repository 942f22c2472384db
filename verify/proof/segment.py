"""What one piece of work tells of a proof: splits and blocks in the order in which they were found, written all together or not at all.

Nodes that it makes itself have numbers from `OWN` on; they get their numbers in the certificate when it is written there. So who works
needs to know nothing of what others do meanwhile, and of work that is lost nothing is left.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from verify.proof.blocks import Array, Block, stored

OWN = 2**40  # numbers from here on are of nodes that a segment has made


def in_columns(nodes: Tensor, variables: Tensor, values: Tensor) -> tuple[Array, Array, Array]:
    """Splits as they are stored."""
    return stored(nodes, "<i8"), stored(variables, "<i4"), stored(values, "<f8")


@dataclass(frozen=True)
class Segment:
    """Data that may travel.

    nodes, variables, values: of the splits. kinds, ends, stream: of the blocks; places, counts: where in the stream each block's nodes
    are, and how many. cuts: how many the certificate had, and how many there are with these. settled, told: nodes that it did not make, of
    which it has split or closed the former and told bounds of the latter.
    """

    nodes: Array
    variables: Array
    values: Array
    kinds: Array
    ends: Array
    stream: Array
    places: Array
    counts: Array
    cuts: tuple[int, int]
    settled: frozenset[int]
    told: frozenset[int]

    def numbered(self, first: int) -> tuple[Array, Array]:
        """The nodes of its splits, and its stream, as a certificate has them in which the first node that it made is `first`."""
        stream = self.stream.copy()
        for place, count in zip(self.places.tolist(), self.counts.tolist(), strict=True):
            if count:
                part = slice(place, place + 8 * count)
                stream[part] = _numbered(stream[part].view("<i8"), first).view(np.uint8)
        return _numbered(self.nodes, first), stream


def _numbered(nodes: Array, first: int) -> Array:
    found: Array = np.where(nodes < OWN, nodes, nodes - OWN + first)
    return found


@dataclass(frozen=True)
class Numbers:
    """The numbers in a certificate of nodes that a segment has made, of which the first is `first`; others keep theirs."""

    first: int

    def of(self, nodes: Tensor) -> Tensor:
        """Those of some nodes."""
        return torch.where(nodes < OWN, nodes, nodes - OWN + self.first)


AS_THEY_ARE = Numbers(OWN)  # of who has told nothing


class Draft:
    """A segment in the making. cuts: how many the certificate has."""

    def __init__(self, cuts: int) -> None:
        self._splits: list[tuple[Array, Array, Array]] = []
        self._made = 0
        self._kinds: list[int] = []
        self._pieces: list[Array] = []
        self._length, self._ends = 0, list[int]()
        self._places: list[tuple[int, int]] = []
        self._before = self._cuts = cuts
        self._settled: set[int] = set()
        self._told: set[int] = set()

    def copy(self) -> Draft:
        """As it is now, whatever comes."""
        one = copy(self)
        for name, part in vars(self).items():
            if isinstance(part, list | set):
                setattr(one, name, part.copy())
        return one

    def split(self, nodes: Tensor, variables: Tensor, values: Tensor) -> int:
        """Splits of nodes; the number of the first child."""
        first = OWN + 2 * self._made
        self._made += len(nodes)
        self._splits.append(in_columns(nodes, variables, values))
        self.settled(nodes.tolist())
        return first

    def block(self, block: Block) -> None:
        """A block more."""
        place, count = block.numbers()
        self._places.append((self._length + place, count))
        for part in block.parts():
            if part.size:
                self._pieces.append(np.ascontiguousarray(part).reshape(-1).view(np.uint8))
                self._length += part.nbytes
        self._kinds.append(block.code)
        self._ends.append(self._length)

    def cuts(self, block: Block, count: int) -> int:
        """A block of so many cuts; the number of the first."""
        first, self._cuts = self._cuts, self._cuts + count
        self.block(block)
        return first

    def settled(self, nodes: Iterable[int]) -> None:
        """These are split or closed."""
        self._settled.update(node for node in nodes if node < OWN)

    def told(self, nodes: Iterable[int]) -> None:
        """Of these bounds are told."""
        self._told.update(node for node in nodes if node < OWN)

    def done(self) -> Segment:
        """What it has come to."""
        none = in_columns(*(torch.zeros(0),) * 3)
        nodes, variables, values = (np.concatenate(parts) for parts in zip(none, *self._splits, strict=True))
        places = np.array(self._places, dtype="<i8").reshape(-1, 2)
        return Segment(
            nodes,
            variables,
            values,
            np.array(self._kinds, dtype="u1"),
            np.array(self._ends, dtype="<i8"),
            np.concatenate([np.zeros(0, np.uint8), *self._pieces]),
            np.ascontiguousarray(places[:, 0]),
            np.ascontiguousarray(places[:, 1]),
            (self._before, self._cuts),
            frozenset(self._settled),
            frozenset(self._told),
        )
