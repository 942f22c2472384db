"""Branch and bound: attack, bound the roots, then split and bound in batches until nothing is open.

The loop knows neither networks nor duals: a `Strategy` bounds and splits regions, a `Frontier` stores them, an `Attack` and
the bounds' own minimisers look for witnesses, a `Reporter` is told. It ends with a verdict and a reason in words: `unsat` when
every region of every clause is refuted, `sat` with a replayed witness, else `unknown` or `timeout` saying why.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from verify.attack import Attack, replay_best, rows
from verify.deadline import Deadline, OutOfTimeError
from verify.errors import ResourceError
from verify.network.graph import Network
from verify.problem import Problem, Witness
from verify.search.frontier import Frontier
from verify.search.strategy import Bounded, Strategy

_FIRST_SHARE = 0.3  # of the time, for attacks, while rounds of random starts are left
_ATTACK_SHARE = 0.1  # later, for descents from open regions' minimisers


@dataclass
class Progress:
    """Counters of a running search."""

    phase: str = "start"
    closed: int = 0
    opened: int = 0
    waiting: int = 0
    worst: float = float("-inf")
    depth: int = 0


class Reporter(Protocol):
    """Is told how the search goes."""

    def update(self, progress: Progress) -> None:
        """Called after every step."""


@dataclass(frozen=True)
class Outcome:
    """How a search ended."""

    verdict: str  # sat | unsat | unknown | timeout
    reason: str
    witness: Witness | None = None
    progress: Progress = field(default_factory=Progress)


@dataclass
class BranchAndBound:
    """One search. `batch` regions are split at a time, `root_batch` clauses bounded at a time."""

    problem: Problem
    network: Network
    strategy: Strategy
    first_attack: Attack
    second_attack: Attack
    reporter: Reporter
    generator: np.random.Generator
    batch: int
    frontier: Frontier = field(default_factory=Frontier)
    progress: Progress = field(default_factory=Progress)
    stuck: int = 0
    _began: float = 0.0
    _attacked: float = 0.0  # seconds
    _rounds: int = 0  # of the second attack, left

    def run(self, deadline: Deadline) -> Outcome:
        """Decides the problem, or says why not."""
        self._began, self._rounds = time.monotonic(), self.second_attack.rounds
        try:
            witness = self._search(deadline)
        except OutOfTimeError:
            return self._outcome("timeout", f"time ran out with {len(self.frontier)} subproblems waiting")
        except ResourceError as problem:
            return self._outcome("unknown", f"memory: {problem}")
        if witness is not None:
            return self._outcome("sat", "a counterexample was found and replayed in ONNX Runtime", witness)
        if self.stuck:
            return self._outcome(
                "unknown",
                f"numerical floor: {self.stuck} regions can be split no further and are not refuted",
            )
        return self._outcome("unsat", f"every region of all {self.problem.clauses} clauses is refuted")

    def _outcome(self, verdict: str, reason: str, witness: Witness | None = None) -> Outcome:
        return Outcome(verdict, reason, witness, self.progress)

    def _search(self, deadline: Deadline) -> Witness | None:
        clauses = list(range(self.problem.clauses))
        self._report("attack")
        witness = self.first_attack.run(self.problem, self.network, clauses, self.generator, deadline)
        if witness is not None:
            return witness
        deadline.check()
        self._report("root")
        witness = self._roots(deadline)
        if witness is not None or not len(self.frontier):
            return witness
        open_clauses = self._open_clauses()
        while witness is None and len(self.frontier):
            deadline.check()
            witness = self._attack(open_clauses, deadline) or self._step(deadline)
        return witness

    def _attack(self, clauses: list[int], deadline: Deadline) -> Witness | None:
        """Now and then another round on the clauses open after the root, at first for up to a third of the time."""
        if not self._rounds or not self._may_attack(_FIRST_SHARE):
            return None
        self._rounds -= 1
        with self._attacking():
            return self.second_attack.run(self.problem, self.network, clauses, self.generator, deadline)

    def _may_attack(self, share: float) -> bool:
        return self._attacked < share * (time.monotonic() - self._began)

    @contextmanager
    def _attacking(self) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._attacked += time.monotonic() - started

    def _open_clauses(self) -> list[int]:
        regions = self.frontier.pop(len(self.frontier), torch.device("cpu"), torch.float32)
        self.frontier.push(regions)
        return self.strategy.stands_for(regions)

    def _roots(self, deadline: Deadline) -> Witness | None:
        """Bounds every clause's whole box."""
        order = self.strategy.leaders()
        for start in range(0, len(order), self.batch):
            deadline.check()
            witness = self._keep(self.strategy.roots(order[start : start + self.batch], deadline), deadline)
            if witness is not None:
                return witness
        return None

    def _step(self, deadline: Deadline) -> Witness | None:
        device, dtype = self.network.device, self.network.dtype
        regions = self.frontier.pop(self.batch, device, dtype)
        split = self.strategy.choose(regions)
        cut = split.variable >= 0
        self.stuck += int((~cut).sum())
        regions = regions.select(cut)
        if not len(regions):
            return None
        children = regions.split(split.variable[cut], split.value[cut], split.multipliers[cut])
        self.progress.opened += len(children)
        self.progress.depth = max(self.progress.depth, children.cut_variable.shape[1])
        return self._keep(self.strategy.bound(children, deadline), deadline)

    def _keep(self, bounded: Bounded, deadline: Deadline) -> Witness | None:
        """Closes what is refuted, tries the others' minimisers, and lets them wait."""
        left = ~bounded.refuted
        regions = bounded.regions.select(left)
        witness = self._try(regions.clause, bounded.minimiser[left]) if len(regions) else None
        if witness is None and len(regions):
            witness = self._descend(regions.clause, bounded.minimiser[left], deadline)
        self.frontier.push(regions)
        self.progress.closed += int(bounded.refuted.sum())
        self._report("branch and bound")
        return witness

    def _descend(self, clauses: Tensor, points: Tensor, deadline: Deadline) -> Witness | None:
        """Now and then gradient descent from the minimisers too, for a tenth of the time at most."""
        if self._rounds or not self._may_attack(_ATTACK_SHARE):
            return None
        chosen = torch.from_numpy(self.generator.permutation(len(clauses))[:64])
        with self._attacking():
            return self.second_attack.descend(
                self.problem, self.network, clauses[chosen].tolist(), points[chosen], deadline.within(2.0)
            )

    @torch.no_grad()
    def _try(self, clauses: Tensor, points: Tensor) -> Witness | None:
        numbers = clauses.tolist()
        x = points.to(self.network.device, self.network.dtype)
        objective = self.problem.objective(numbers).to(self.network.device, self.network.dtype)
        return replay_best(self.problem, numbers, x, rows(self.network, objective, x).amax(1))

    def _report(self, phase: str) -> None:
        self.progress.phase, self.progress.waiting, self.progress.worst = (
            phase,
            len(self.frontier),
            self.frontier.worst,
        )
        self.reporter.update(self.progress)
