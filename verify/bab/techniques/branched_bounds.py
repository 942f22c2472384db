"""Branched bounds of the roots' boxes, pass by pass: a small branch and bound of every neuron (`neuron_trees.py`).

A pass helps all subproblems of a box at once. It is due when splitting has gone on for a share of the time that it will take, so that
it costs no more than a multiple of what there was to win: sooner where the last one paid, that is, closed more of the clauses' distance
from 0 than splitting would have for the price, and at once where splitting leads nowhere.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from jaxtyping import Int
from torch import Tensor

from verify.bab.effort import Observation, Splitting
from verify.bab.executor import Mapper
from verify.bab.neuron_trees import NeuronTrees, open_behind
from verify.bab.root_bounds import Passes, RootBounds
from verify.deadline import Deadline
from verify.errors import is_out_of_memory


@dataclass(frozen=True)
class BranchedBounds:
    """rounds: of the first pass; more: of each than of the one before; most: an end has about 2000 subproblems then. dearer: a first
    pass than an ascent for every neuron. share: of the time left, that a pass may take. sooner, later: how long splitting goes on
    before the next pass, in units of its price, if the last one paid, or did not.
    """

    trees: NeuronTrees = NeuronTrees()
    rounds: int = 4
    more: int = 4
    most: int = 24
    dearer: float = 8.0
    share: float = 0.5
    sooner: float = 0.5
    later: float = 4.0
    name: str = "branched bounds"

    def begin(self) -> Passes:
        """Nothing is known yet."""
        return Passes(self.rounds)

    def expecting(self, passes: Passes, seconds: float) -> Passes:
        """From an ascent for every neuron, which took so long."""
        return replace(passes, seconds=passes.seconds + self.dearer * seconds)

    def due(self, passes: Passes, seconds: float, splitting: Splitting, deadline: Deadline) -> bool:
        """Whether the next pass is due, after so many seconds of splitting since the last, and can be afforded."""
        waited = seconds >= (self.sooner if passes.paid else self.later) * passes.seconds
        at_once = passes.paid and splitting.hopeless
        return (at_once or waited) and passes.rounds <= self.most and passes.seconds <= deadline.remaining

    def apply(
        self, shared: RootBounds, clauses: Int[Tensor, " clauses"], deadline: Deadline, run: Mapper
    ) -> RootBounds:
        """The boxes of the clauses after the next pass, or what there is time for; as they were, and no pass more, if memory ends."""
        began, passes = time.monotonic(), shared.passes
        index, owner = shared.index(clauses).unique(return_inverse=True)
        tracer = shared.tracer.boxes(clauses, owner, len(index))
        box, soft_deadline = shared.bounds.select(index), deadline.share(self.share)
        rounds, last = passes.rounds, False
        try:
            tight = self.trees.tighten(
                shared.network, box, rounds, deadline, soft_deadline, shared.working.dtype, run, tracer
            )
        except (MemoryError, RuntimeError) as problem:
            if not is_out_of_memory(problem):
                raise
            tight, last = box, True
        following = (self.most if last else rounds) + self.more
        more = self.trees.subproblems(following) / self.trees.subproblems(rounds)
        fewer = open_behind(shared.network, tight) / max(1, open_behind(shared.network, box))
        passes = Passes(following, (time.monotonic() - began) * more * fewer)
        return replace(shared.tightened(index, tight), passes=passes)

    def observed(self, seconds: float, before: Tensor, after: Tensor) -> Observation:
        """Of a pass that brought the clauses' bounds from `before` < 0 to `after`."""
        return Observation(self.name, seconds, before, after, after > 0, anew=True)
