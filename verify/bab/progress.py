"""What a search says while it runs, and at its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from verify.bab.effort import Observation
from verify.problem import Witness


@dataclass
class Spent:
    """What a technique took and brought, all in all."""

    calls: int = 0
    subproblems: int = 0
    seconds: float = 0.0
    refuted: int = 0
    closed: float = 0.0  # the sum of the shares of distances from 0

    def add(self, seen: Observation) -> None:
        """One more application."""
        self.calls += seen.batches
        self.subproblems += len(seen)
        self.seconds += seen.seconds
        self.refuted += int(seen.refuted.sum())
        self.closed += float(seen.closed.sum())

    def statistics(self) -> dict[str, Any]:
        """For a result and a log: gain is the mean share of the distances from 0."""
        gain = self.closed / max(1, self.subproblems)
        return {
            "calls": self.calls,
            "subproblems": self.subproblems,
            "seconds": round(self.seconds, 4),
            "refuted": self.refuted,
            "gain": round(gain, 4),
        }


@dataclass
class Progress:
    """Counters of a running search."""

    phase: str = "start"
    closed: int = 0
    opened: int = 0
    waiting: int = 0
    worst: float = float("-inf")
    # of the tree, in roots: a subproblem behind n splits is 2^-n of one
    open_tree: float = 0.0
    depth: int = 0
    batches: int = 0
    # subproblems bounded at once
    largest_batch: int = 0
    # of all threads, while branching
    attack_seconds: float = 0.0
    # by phase
    seconds: dict[str, float] = field(default_factory=dict)
    # by technique, of all threads
    techniques: dict[str, Spent] = field(default_factory=dict)
    # what was seen of techniques since the last report
    latest: list[Observation] = field(default_factory=list)
    # what is kept for the case that the process is killed
    checkpoint: dict[str, Any] = field(default_factory=dict)
    # what other processes that work for it have done by now, where there are any
    workers: Callable[[], dict[str, Any]] | None = None

    def count(self, bounded: int, refuted: int, batches: int, largest: int, depth: int) -> None:
        """So many subproblems more were bounded, in so many batches, of which the largest had so many."""
        self.opened += bounded
        self.closed += refuted
        self.batches += batches
        self.largest_batch, self.depth = max(self.largest_batch, largest), max(self.depth, depth)

    def observe(self, seen: Observation) -> None:
        """Counts what a technique took and brought."""
        self.techniques.setdefault(seen.technique, Spent()).add(seen)
        self.latest.append(seen)

    def statistics(self) -> dict[str, Any]:
        """What a result and a log say of it."""
        return {
            "subproblems": self.opened,
            "closed": self.closed,
            "waiting": self.waiting,
            "depth": self.depth,
            "batches": self.batches,
            "largest_batch": self.largest_batch,
            "attack_seconds_while_branching": round(self.attack_seconds, 4),
            "seconds_by_phase": {phase: round(seconds, 4) for phase, seconds in self.seconds.items()},
            "techniques": {name: spent.statistics() for name, spent in self.techniques.items()},
            **({"checkpoint": self.checkpoint} if self.checkpoint else {}),
            **({"workers": self.workers()} if self.workers is not None else {}),
        }


class Reporter(Protocol):
    """Is told how the search goes."""

    def update(self, progress: Progress) -> None:
        """Called after every step."""


class Silent:
    """A reporter that says nothing."""

    def update(self, progress: Progress) -> None:
        """Ignores the progress."""


@dataclass(frozen=True)
class Outcome:
    """How a search ended: `sat`, `unsat`, `unknown` or `timeout`, and why."""

    verdict: str
    reason: str
    witness: Witness | None = None
    progress: Progress = field(default_factory=Progress)
