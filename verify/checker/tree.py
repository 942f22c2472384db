"""The tree of a certificate: its nodes, what was split on the way to each, and the bounds claimed so far.

Nodes 0 .. R-1 are roots; the k-th split turns one node into R + 2k (where the variable is >= the value) and R + 2k + 1
(where it is <=): closed halves, so that both together are all of their parent whatever the value is. What is left to
check is that every node is split or discharged, once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.checker.container import Container
from verify.checker.errors import Refused

Array = NDArray[Any]


@dataclass
class Tree:
    """Nodes and claims. Claims become visible to `subproblems` when they are added, in the order of the file."""

    roots: int
    split_node: Array
    variable: Array
    value: Array
    variables: int
    box: Callable[[int], tuple[Array, Array]]  # of a root: [inputs] each
    root_of: Array = field(init=False)
    _parent: Array = field(init=False)  # the split that a node comes from
    _claims: dict[int, list[tuple[Array, Array, Array]]] = field(default_factory=dict)
    _has_claims: Array = field(init=False)
    _base: dict[int, tuple[Array, Array]] = field(default_factory=dict)
    _discharged: Array = field(init=False)

    def __post_init__(self) -> None:
        splits = np.arange(len(self.split_node))
        if (self.split_node < 0).any() or (self.split_node >= self.roots + 2 * splits).any():
            raise Refused("a split is of a node that does not come before it")
        if ((self.variable < 0) | (self.variable >= self.variables)).any() or not np.isfinite(
            self.value
        ).all():
            raise Refused("a split is at an unknown variable or at no number")
        nodes = self.roots + 2 * len(splits)
        self._discharged = np.zeros(nodes, dtype=bool)
        self.discharge(self.split_node)
        self._parent = np.concatenate([np.full(self.roots, -1), np.repeat(splits, 2)])
        self._has_claims = np.zeros(nodes, dtype=bool)
        self.root_of = np.arange(nodes)
        for k, node in enumerate(self.split_node.tolist()):
            self.root_of[self.roots + 2 * k : self.roots + 2 * k + 2] = self.root_of[node]

    @staticmethod
    def read(
        container: Container, roots: int, variables: int, box: Callable[[int], tuple[Array, Array]]
    ) -> Tree:
        """The tree of a file."""
        node, variable, value = (
            np.array(container.tensor(f"split.{name}", kind))
            for name, kind in (("node", "<i8"), ("variable", "<i4"), ("value", "<f8"))
        )
        if not len(node) == len(variable) == len(value):
            raise Refused("the splits' tensors differ in length")
        return Tree(roots, node, variable, value, variables, box)

    def discharge(self, nodes: Array) -> None:
        """Marks nodes as split or closed. Refused where one of them is so already."""
        if len(np.unique(nodes)) < len(nodes) or self._discharged[nodes].any():
            raise Refused("a node is split or closed twice")
        self._discharged[nodes] = True

    def check_complete(self) -> None:
        """Refused unless every node is split or closed."""
        if not self._discharged.all():
            missing = int((~self._discharged).sum())
            raise Refused(
                f"{missing} nodes are neither split nor closed, the first is {int(self._discharged.argmin())}"
            )

    def check_nodes(self, nodes: Array) -> None:
        """Refused unless they are nodes of the tree."""
        if ((nodes < 0) | (nodes >= len(self._parent))).any():
            raise Refused("a node that is not in the tree")

    def claim(self, node: int, variables: Array, lower: Array, upper: Array) -> None:
        """Bounds of some variables over the unsafe points of a node's subproblem; infinite where there is none."""
        self._claims.setdefault(node, []).append((variables, lower, upper))
        self._has_claims[node] = True

    def set_base(self, root: int, lower: Array, upper: Array) -> None:
        """Bounds of all variables ([variables]) on a root's box."""
        self._base[root] = lower, upper

    def base(self, root: int) -> tuple[Array, Array]:
        """What is claimed of a root's box, and the box itself."""
        if root in self._base:
            return self._base[root]
        free = np.full(self.variables, np.inf)
        lower, upper = -free, free
        low, high = self.box(root)
        lower[: len(low)], upper[: len(high)] = low, high
        return lower, upper

    def _path(self, nodes: Array) -> tuple[Array, Array]:
        """All nodes from each of `nodes` up to its root, and of which row they are: one walk after the other."""
        rows, found = [], []
        for row, node in enumerate(nodes.tolist()):
            rows.append(row)
            found.append(node)
            while (split := self._parent.item(node)) >= 0:
                node = self.split_node.item(split)
                rows.append(row)
                found.append(node)
        return np.array(rows, dtype=np.int64), np.array(found, dtype=np.int64)

    def subproblems(self, nodes: Array) -> tuple[Array, Array]:
        """Bounds of all variables, [nodes, variables] each: the root's, the claims and the splits on the way."""
        bases = [self.base(root) for root in self.root_of[nodes].tolist()]
        lower, upper = (np.stack(ends) for ends in zip(*bases, strict=True))
        rows, path = self._path(nodes)
        splits, higher = self._parent[path], (path - self.roots) % 2 == 0
        for end, tighter, side in ((lower, np.maximum, higher), (upper, np.minimum, ~higher)):
            own = side & (splits >= 0)
            tighter.at(end, (rows[own], self.variable[splits[own]]), self.value[splits[own]])
        claimed = self._has_claims[path]
        for row, node in zip(rows[claimed].tolist(), path[claimed].tolist(), strict=True):
            for variables, low, high in self._claims[node]:
                np.maximum.at(lower[row], variables, low)
                np.minimum.at(upper[row], variables, high)
        return lower, upper

    def splits(self, nodes: Array) -> tuple[Array, Array]:
        """The variables split on the way from the root to each node, in that order: [nodes, depth], -1 behind the last; counts."""
        rows, path = self._path(nodes)
        counts = np.bincount(rows, minlength=len(nodes)) - 1
        ends = np.cumsum(counts + 1) - 1  # where each root stands
        place = ends[rows] - np.arange(len(rows)) - 1
        found = np.full((len(nodes), int(counts.max(initial=0))), -1, dtype=np.int64)
        cut = place >= 0
        found[rows[cut], place[cut]] = self.variable[self._parent[path[cut]]]
        return found, counts
