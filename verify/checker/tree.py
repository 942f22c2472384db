"""The tree of a certificate: its nodes, what was split on the way to each, and the bounds claimed so far.

Nodes 0 .. R-1 are roots; the k-th split turns one node into R + 2k (where the variable is >= the value) and R + 2k + 1
(where it is <=): closed halves, so that both together are all of their parent whatever the value is. What is left to
check is that every node is split or discharged, once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.checker.container import Container
from verify.checker.errors import Refused

Array = NDArray[Any]
# the tensors of splits, with their types
SPLITS = {"split.node": "<i8", "split.variable": "<i4", "split.value": "<f8"}
_OF_SPLITS = ("_split_node", "_variable", "_value")
_OF_NODES = ("root_of", "_parent", "_split_of", "_discharged", "_closed", "_done", "_has_claims", "_over")


class Tree:
    """Nodes and claims. Claims become visible to `subproblems` when they are added, in the order of the file.

    roots: how many. box: that of a root, [inputs] each. Of all arrays the first entries count: the rest is room to grow in.
    """

    def __init__(self, roots: int, variables: int, box: Callable[[int], tuple[Array, Array]]) -> None:
        self.roots, self.variables, self.box = roots, variables, box
        self.splits_known = 0
        self._split_node, self._variable = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int32)
        self._value = np.zeros(0)
        self.root_of = np.arange(roots)
        # the split that a node comes from
        self._parent = np.full(roots, -1)
        # the split of each node, counted from 1
        self._split_of = np.zeros(roots, dtype=np.int64)
        self._discharged, self._closed, self._done, self._has_claims, self._over = np.zeros(
            (5, roots), dtype=bool
        )
        self._just_closed: list[int] = []
        self._known: dict[int, tuple[Array, Array, list[int]]] = {}
        self._claims: dict[int, list[tuple[Array, Array, Array]]] = {}
        self._base: dict[int, tuple[Array, Array]] = {}

    @staticmethod
    def read(
        container: Container, roots: int, variables: int, box: Callable[[int], tuple[Array, Array]]
    ) -> Tree:
        """The tree of a file."""
        found = Tree(roots, variables, box)
        found.grow(*(np.array(container.tensor(name, kind)) for name, kind in SPLITS.items()))
        return found

    @property
    def nodes(self) -> int:
        """How many there are."""
        return self.roots + 2 * self.splits_known

    @property
    def split_node(self) -> Array:
        """The node that each split is of."""
        return self._split_node[: self.splits_known]

    @property
    def variable(self) -> Array:
        """The variable of each split."""
        return self._variable[: self.splits_known]

    @property
    def value(self) -> Array:
        """The value of each split."""
        return self._value[: self.splits_known]

    def grow(self, node: Array, variable: Array, value: Array) -> None:
        """More splits. Refused where one is of a node that is not there, or split or closed already."""
        if not len(node) == len(variable) == len(value):
            raise Refused("the splits' tensors differ in length")
        first = self.splits_known
        splits = first + np.arange(len(node))
        if (node < 0).any() or (node >= self.roots + 2 * splits).any():
            raise Refused("a split is of a node that does not come before it")
        if ((variable < 0) | (variable >= self.variables)).any() or not np.isfinite(value).all():
            raise Refused("a split is at an unknown variable or at no number")
        nodes = self.nodes
        self.splits_known += len(node)
        self._make_room()
        for own, new in ((self._split_node, node), (self._variable, variable), (self._value, value)):
            own[first : self.splits_known] = new
        self._parent[nodes : self.nodes] = np.repeat(splits, 2)
        self._split_of[node] = splits + 1
        for k, parent in enumerate(node.tolist()):
            self.root_of[nodes + 2 * k : nodes + 2 * k + 2] = self.root_of[parent]
        self.discharge(node)

    def _make_room(self) -> None:
        """Arrays that hold all splits and nodes, and as many again where they did not."""
        for names, needed in ((_OF_SPLITS, self.splits_known), (_OF_NODES, self.nodes)):
            for name in names:
                own = getattr(self, name)
                if len(own) < needed:
                    wider = np.zeros(2 * needed, dtype=own.dtype)
                    wider[: len(own)] = own
                    setattr(self, name, wider)

    def discharge(self, nodes: Array) -> None:
        """Marks nodes as split or closed. Refused where one of them is so already."""
        if len(np.unique(nodes)) < len(nodes) or self._discharged[nodes].any():
            raise Refused("a node is split or closed twice")
        self._discharged[nodes] = True

    def close(self, nodes: Array) -> None:
        """Marks nodes as closed. Refused where one of them is so already, or split."""
        self.discharge(nodes)
        self._closed[nodes] = True
        self._just_closed += nodes.tolist()

    def done(self, node: int) -> bool:
        """Whether all that is left open of a node's subproblem has been closed."""
        left = [node]
        while left:
            one = left.pop()
            if self._done[one] or self._closed[one]:
                continue
            if not self._split_of[one]:
                return False
            upper = self.roots + 2 * (int(self._split_of[one]) - 1)
            left += [upper, upper + 1]
        self._done[node] = True
        return True

    def half_spaces(self, node: int) -> list[tuple[int, float, bool]]:
        """The splits on the way to a node, the last first: variable, value, and whether it is the upper side."""
        _, path = self._path(np.array([node]))
        splits = self._parent[path[:-1]]
        higher = (path[:-1] - self.roots) % 2 == 0
        ends = self._variable[splits].tolist(), self._value[splits].tolist()
        return list(zip(*ends, higher.tolist(), strict=True))

    @property
    def left_open(self) -> Array:
        """The nodes that are neither split nor closed."""
        return np.flatnonzero(~self._discharged[: self.nodes])

    def check_complete(self) -> None:
        """Refused unless every node is split or closed."""
        missing = self.left_open
        if len(missing):
            raise Refused(
                f"{len(missing)} nodes are neither split nor closed, the first is {int(missing[0])}"
            )

    def check_nodes(self, nodes: Array) -> None:
        """Refused unless they are nodes of the tree."""
        if ((nodes < 0) | (nodes >= self.nodes)).any():
            raise Refused("a node that is not in the tree")

    def claim(self, node: int, variables: Array, lower: Array, upper: Array) -> None:
        """Bounds of some variables over the unsafe points of a node's subproblem; infinite where there is none."""
        self._claims.setdefault(node, []).append((variables, lower, upper))
        self._has_claims[node] = True

    def know(self, node: int, lower: Array, upper: Array, left: list[int]) -> None:
        """Bounds of all variables over a node's unsafe points, and the clauses that are not refuted there; until all below it is closed."""
        if node in self._known:
            raise Refused(f"node {node} is told of twice")
        if not self._over[node]:
            self._known[node] = lower, upper, left

    def left(self, node: int) -> list[int] | None:
        """The clauses that are not refuted on a node's box, as far as it is told; None: all of its root's."""
        while node not in self._known:
            split = self._parent.item(node)
            if split < 0:
                return None
            node = self._split_node.item(split)
        return self._known[node][2]

    def forget(self) -> None:
        """What was to be known by descendants alone, and all of these are closed."""
        while self._just_closed:
            node = self._just_closed.pop()
            self._over[node] = True
            self._known.pop(node, None)
            if (split := int(self._parent[node])) >= 0:
                pair = self.roots + 2 * split
                if self._over[pair] and self._over[pair + 1]:
                    self._just_closed.append(int(self._split_node[split]))

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
        roots, which = np.unique(self.root_of[nodes], return_inverse=True)
        bases = [self.base(root) for root in roots.tolist()]
        lower, upper = (np.stack(ends)[which] for ends in zip(*bases, strict=True))
        rows, path = self._path(nodes)
        splits, higher = self._parent[path], (path - self.roots) % 2 == 0
        for end, tighter, side in ((lower, np.maximum, higher), (upper, np.minimum, ~higher)):
            own = side & (splits >= 0)
            tighter.at(end, (rows[own], self._variable[splits[own]]), self._value[splits[own]])
        for row, node in zip(rows.tolist(), path.tolist(), strict=True) if self._known else ():
            if node in self._known:
                np.maximum(lower[row], self._known[node][0], out=lower[row])
                np.minimum(upper[row], self._known[node][1], out=upper[row])
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
        found[rows[cut], place[cut]] = self._variable[self._parent[path[cut]]]
        return found, counts
