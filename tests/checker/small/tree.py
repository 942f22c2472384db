"""Trees of subproblems, and what is known of them so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from small.bounds import Cut, Region
from small.container import Block
from small.model import Net
from small.property import Clause
from small.sums import INFINITY, Number, demand

Ends = tuple[int, Number, Number]  # a variable, and bounds of it
Claim = tuple[int, int, Fraction]  # a variable, 1 if the value is below and -1 if it is above, the value


def total(pairs: Iterable[tuple[int, Fraction]]) -> dict[int, Fraction]:
    """Sums by keys."""
    found: dict[int, Fraction] = {}
    for key, value in pairs:
        found[key] = found.get(key, Fraction(0)) + value
    return found


@dataclass
class Tree:
    """Trees, and what is known of their nodes so far."""

    net: Net
    clauses: Sequence[Clause]
    rows: int
    roots: Sequence[Sequence[int]]
    splits: Mapping[int, tuple[int, int, Fraction]]  # of a node: the one above it, the variable, the value
    of_roots: dict[int, list[Ends]] = field(default_factory=dict)  # what holds on all of a root's box
    of_nodes: dict[int, list[Ends]] = field(default_factory=dict)  # and at a node's unsafe points
    left: dict[int, set[int]] = field(default_factory=dict)
    cuts: list[tuple[int, Cut]] = field(default_factory=list)
    closed: set[int] = field(default_factory=set)

    def path(self, node: int) -> list[int]:
        """From the root to a node."""
        demand(0 <= node < len(self.roots) + len(self.splits), "no such node")
        found = [node]
        while found[0] in self.splits:
            found.insert(0, self.splits[found[0]][0])
        return found

    def halfspace(self, node: int) -> Ends:
        """What a split makes of a variable's bounds."""
        _, variable, value = self.splits[node]
        above = (node - len(self.roots)) % 2 == 0
        return variable, value if above else -INFINITY, INFINITY if above else value

    def base(self, root: int) -> Region:
        """What holds on the hull of a root's boxes."""
        demand(root not in self.splits, "no root")
        boxes = [self.clauses[one] for one in self.roots[root]]
        inputs = range(self.net.inputs)
        lower = {i: min(one.lower[i] for one in boxes) for i in inputs} | dict.fromkeys(self.net.z, -INFINITY)
        upper = {i: max(one.upper[i] for one in boxes) for i in inputs} | dict.fromkeys(self.net.z, INFINITY)
        return Region(self.net, lower, upper).within(self.of_roots.get(root, ()))

    def region(self, node: int) -> Region:
        """A node's subproblem: its root's, with splits and claims on the way."""
        path = self.path(node)
        splits = map(self.halfspace, path[1:])
        return self.base(path[0]).within(
            [*splits, *(one for above in path for one in self.of_nodes.get(above, ()))]
        )

    def remaining(self, node: int) -> dict[int, Clause]:
        """Clauses that are not refuted above, by their places among the root's."""
        path = self.path(node)
        clauses = {i: self.clauses[one] for i, one in enumerate(self.roots[path[0]])}
        return {
            i: one for i, one in clauses.items() if all(i in self.left.get(above, clauses) for above in path)
        }

    def shared(self, roots: Sequence[int]) -> Region:
        """What holds on some roots' box, which has to be the same of each."""
        first, *others = map(self.base, roots)
        demand(all(one == first for one in others), "roots of different boxes")
        return first

    def sole(self, node: int) -> Clause:
        (clause,) = self.roots[self.path(node)[0]]
        return self.clauses[clause]

    def close(self, node: int) -> None:
        split = {above for above, *_ in self.splits.values()}
        demand(node not in self.closed and node not in split, "a node that is split or closed already")
        self.closed.add(node)

    def of_splits(self, block: Block, node: int, kind: str) -> dict[int, Fraction]:
        """Multipliers of a node's splits, by variables."""
        path = self.path(node)[1:]
        return total(zip([self.splits[one][1] for one in path], block.take(kind, len(path)), strict=True))


def ends_of(claims: Sequence[Claim]) -> list[Ends]:
    """The same as bounds."""
    return [(v, a, INFINITY) if side > 0 else (v, -INFINITY, a) for v, side, a in claims]


def keep(known: dict[int, list[Ends]], places: Iterable[int], ends: Sequence[Ends]) -> None:
    """What was shown of roots or nodes."""
    for place in places:
        known[place] = [*known.get(place, ()), *ends]
