"""The state of a check: the network, the clauses, the tree with what is claimed, and what has been proved so far."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.checker.ball import ball_of
from verify.checker.bounding import Bounder, Pair
from verify.checker.clauses import Clauses, Rows
from verify.checker.cuts import Cuts
from verify.checker.errors import NotProved, Refused
from verify.checker.lemmas import Lemmas
from verify.checker.multipliers import Arithmetic
from verify.checker.network import Network
from verify.checker.stream import Cursor
from verify.checker.tree import Tree

Array = NDArray[Any]
CHUNK = 6_000_000  # numbers of one tensor at a time
TOLD = 8  # leaves, in messages and summaries


@dataclass
class Summary:
    """What was proved, and how."""

    leaves: int = 0
    claims: int = 0
    in_rationals: int = 0  # bounds decided in exact arithmetic
    margin: float = float("inf")  # the smallest bound of a leaf that is not empty
    hardest: list[tuple[float, int]] = field(default_factory=list)  # bounds and nodes

    def joined(self, other: Summary) -> Summary:
        """Both together."""
        return Summary(
            self.leaves + other.leaves,
            self.claims + other.claims,
            self.in_rationals + other.in_rationals,
            min(self.margin, other.margin),
            sorted([*self.hardest, *other.hardest])[:TOLD],
        )


class Proof:
    """What the blocks' handlers share."""

    def __init__(
        self,
        network: Network,
        clauses: Clauses,
        tree: Tree,
        arithmetic: Arithmetic,
        until: float = math.inf,
    ) -> None:
        self.network, self.clauses, self.tree = network, clauses, tree
        self._number, self._shares = 0, 1
        # of what libraries compute of a distance no ball is known
        ball = None if arithmetic.deployed else ball_of(network, clauses.query)
        self.bounder = Bounder(network, arithmetic, until, ball)
        self.cuts = Cuts(network)
        self.dual, self.lemmas = self.bounder.dual, Lemmas(self.bounder, self.cuts)
        self.summary = Summary()
        self._sizes: dict[int, tuple[Array, dict[int, Array]]] = {}

    def divide(self, number: int, shares: int) -> None:
        """Which part of the claims of roots is this process's from now on."""
        self._number, self._shares = number, shares

    def own(self, neurons: Array) -> Array:
        """Those of a root's claims that are this process's to prove: by their neurons, which are the same in all processes."""
        return np.flatnonzero(neurons % self._shares == self._number)

    def sizes_of(self, nodes: Array) -> dict[int, Array]:
        """What values are at most in absolute value on the boxes of the nodes' roots."""
        found: dict[int, Array] = {}
        for root in np.unique(self.tree.root_of[nodes]).tolist():
            lower, upper = self.tree.base(root)
            known = self._sizes.get(root)
            if known is None or known[0] is not lower:
                wide = self.bounder.propagated((lower[None], upper[None]))
                self._sizes[root] = known = (lower, self.dual.sizes(*wide))
            found = {i: np.maximum(found[i], value) for i, value in known[1].items()} if found else known[1]
        return found

    def clause(self, node: int) -> Rows:
        """The rows of the one clause that a node's root stands for."""
        clauses = self.clauses.of_root(int(self.tree.root_of[node]))
        if len(clauses) != 1:
            raise Refused("a node whose root stands for several clauses needs a block for inputs")
        return self.clauses.rows(clauses[0]).padded(self.clauses.most_rows)

    def weights(self, cursor: Cursor, kind: str, *shape: int) -> Array:
        """Rows' weights off a block. Refused where one is negative or not finite."""
        found = np.array(cursor.take(kind, int(np.prod(shape, dtype=np.int64))), dtype=np.float64)
        if not (found >= 0).all() or not np.isfinite(found).all():
            raise Refused("a row's weight is negative or not finite")
        return found.reshape(shape)

    def nodes(self, cursor: Cursor) -> Array:
        """The nodes that a block closes."""
        nodes = np.array(cursor.counted("<i8"))
        self.tree.check_nodes(nodes)
        self.tree.close(nodes)
        return nodes

    def rows_at_once(self, count: int) -> list[slice]:
        """Slices of so many subproblems that they fit."""
        step = max(1, CHUNK // (4 * self.network.variables))
        return [slice(start, min(start + step, count)) for start in range(0, count, step)]

    def finished(self) -> Summary:
        """What was proved, once the lemmas that wait are and the tree is complete; NotProved or Refused else."""
        with np.errstate(all="ignore"):
            self.lemmas.settle()
        self.tree.check_complete()
        self.summary.claims += self.lemmas.proved
        self.summary.in_rationals = self.bounder.in_rationals
        return self.summary

    def closed(self, nodes: Array, bound: Array, reached: Array, bounds: Pair) -> None:
        """Books leaves; NotProved unless each has a bound above 0 or is empty."""
        full = ~np.any(bounds[0] > bounds[1], axis=1)  # emptiness has to be shown: NaN shows nothing
        open_ones = np.flatnonzero(full & ~reached)
        if len(open_ones):
            told = ", ".join(f"{int(nodes[i])}: {bound[i]:.6g}" for i in open_ones[:TOLD].tolist())
            raise NotProved(
                f"{len(open_ones)} of {len(nodes)} leaves have no bound above 0 (node: bound): {told}"
            )
        some = np.where(full, bound, np.inf)
        order = np.argsort(some)[:TOLD]
        hardest = [(float(some[i]), int(nodes[i])) for i in order.tolist() if some[i] < np.inf]
        least = min([value for value, _ in hardest], default=np.inf)
        self.summary = self.summary.joined(Summary(len(nodes), margin=float(least), hardest=hardest))
