"""The roots of a certificate: which stand for each clause, which of them count, and which are covered by those in the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verify.proof.leaf_blocks import Covered

# roots of a clause beside the first, for beginning anew
_SPARE = 16


class Families:
    """Roots by the clause that they stand for alone. One thread at a time may ask."""

    def __init__(self) -> None:
        self.count = 0
        self._spare = 0
        # of each clause, its roots, the one that counts, and the last that was tried
        self._roots: dict[int, list[int]] = {}
        self._current: dict[int, int] = {}
        self._tried: dict[int, int] = {}
        # roots that something was said of, those that are split or closed, and nodes that nobody goes on with
        self._told: set[int] = set()
        self._settled: set[int] = set()
        self._abandoned: list[tuple[int, int]] = []
        self._renewals = 0

    @property
    def renewable(self) -> bool:
        """Whether each clause has roots left: a renewal takes two at most."""
        return 2 * self._renewals < self._spare

    def expect_renewals(self) -> None:
        """Each clause gets roots to spare."""
        self._spare = _SPARE

    def of(self, clause: int) -> list[int]:
        """All roots of a clause."""
        return self._roots[clause]

    def added(self, groups: Sequence[list[int]]) -> tuple[int, list[list[int]]]:
        """New roots, each for a group of clauses, and those to spare behind them: the first one's number, and the groups of all."""
        groups = [*groups, *(group for group in groups if len(group) == 1 for _ in range(self._spare))]
        first, self.count = self.count, self.count + len(groups)
        for root, group in enumerate(groups, start=first):
            if len(group) == 1:
                self._roots.setdefault(group[0], []).append(root)
                self._current.setdefault(group[0], root)
        return first, groups

    def settled(self, nodes: Iterable[int]) -> None:
        """Nodes that are split or closed, some of which may be roots."""
        self._settled.update(node for node in nodes if node < self.count)

    def told(self, nodes: Iterable[int]) -> None:
        """Nodes of which something is known, some of which may be roots."""
        self._told.update(node for node in nodes if node < self.count)

    def anew(self, clauses: Sequence[int], instead: bool) -> list[int]:
        """A fresh root of each clause, to be tried; `instead`: in the place of the one that counts."""
        used, chosen = self._told | self._settled, []
        for clause in clauses:
            root = next(root for root in self._roots[clause] if root not in used)
            self._tried[clause] = root
            if instead:
                self._current[clause] = root
            chosen.append(root)
        return chosen

    def abandoned(self, clauses: Sequence[int], nodes: Sequence[int]) -> None:
        """Nodes that nobody goes on with: their clauses' roots that were tried last count from now on."""
        self._renewals += 1
        for clause, node in zip(clauses, nodes, strict=True):
            self._abandoned.append((clause, node))
            self._current[clause] = self._tried[clause]

    def covered(self) -> Covered | None:
        """What covers nodes that were left, and roots that were not needed, by the roots that count."""
        spare = [(clause, root) for clause, family in self._roots.items() for root in family]
        # a root that was left may have been begun from again
        left = {
            node: self._current[clause]
            for clause, node in self._abandoned + spare
            if node not in self._settled and node != self._current[clause]
        }
        return Covered(np.array(list(left)), np.array(list(left.values()))) if left else None

    # -- for the case that the process is killed

    def saved(self) -> dict[str, Any]:
        """Plain values and tensors that `restore` makes the same of."""
        return {
            "count": self.count,
            "roots": _pairs((clause, root) for clause, family in self._roots.items() for root in family),
            "current": _pairs(self._current.items()),
            "tried": _pairs(self._tried.items()),
            "told": torch.tensor(sorted(self._told), dtype=torch.int64),
            "settled": torch.tensor(sorted(self._settled), dtype=torch.int64),
            "abandoned": _pairs(self._abandoned),
            "renewals": self._renewals,
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """As it was. Raises KeyError, TypeError and ValueError for what was not saved here."""
        self.count, self._renewals = int(saved["count"]), int(saved["renewals"])
        self._roots = {}
        for clause, root in saved["roots"].tolist():
            self._roots.setdefault(clause, []).append(root)
        self._current, self._tried = (dict(saved[name].tolist()) for name in ("current", "tried"))
        self._told, self._settled = set(saved["told"].tolist()), set(saved["settled"].tolist())
        self._abandoned = [(clause, node) for clause, node in saved["abandoned"].tolist()]


def _pairs(pairs: Iterable[tuple[int, int]]) -> Tensor:
    return torch.tensor(list(pairs), dtype=torch.int64).reshape(-1, 2)
