"""When the boxes of the roots are worth more effort than splitting: branched bounds, pass by pass.

A pass (`BranchedBounds`) splits every neuron of a box for some rounds, which helps all subproblems of the box at once. It is due
when splitting has gone on for a share of the time that it will take, so that it costs no more than a multiple of what there was to win:
sooner where the last one paid, that is, closed more of the clauses' distance from 0 than splitting would have for the price, and at
once where splitting leads nowhere.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from verify.deadline import Deadline
from verify.errors import is_out_of_memory
from verify.network.graph import Network
from verify.search.branched_bounds import BranchedBounds, open_behind
from verify.search.output_constraints import Splitting, closed_shares, least_share
from verify.search.strategy import Mapper
from verify.state import Bounds

_FIRST, _MORE = 4, 4  # rounds of the first pass, and of each one more than of the one before
_MOST = 24  # rounds: an end has about 2000 subproblems then
_DEARER = 8.0  # a first pass than an ascent for every neuron
_SHARE = 0.5  # of the time left, that a pass may take
# How long splitting goes on before the next pass, in units of its price: if the last one paid, or did not.
_SOONER, _LATER = 0.5, 4.0


@dataclass
class Refinement:
    """The next pass: how many rounds, what it will take, and the share of that which splitting goes on before."""

    method: BranchedBounds
    splitting: Splitting
    rounds: int = _FIRST
    seconds: float = 0.0
    wait: float = _SOONER
    spent: float = 0.0  # seconds, on the last pass

    def expect(self, seconds: float) -> None:
        """From an ascent for every neuron, which took so long."""
        self.seconds += _DEARER * seconds

    def due(self, seconds: float, deadline: Deadline) -> bool:
        """Whether the next pass is due, after so many seconds of splitting since the last, and can be afforded."""
        at_once = self.wait == _SOONER and self.splitting.hopeless
        waited = at_once or seconds >= self.wait * self.seconds
        return waited and self.rounds <= _MOST and self.seconds <= deadline.remaining

    def tighten(
        self, network: Network, bounds: Bounds, working: torch.dtype, deadline: Deadline, run: Mapper
    ) -> Bounds:
        """Boxes after the next pass, or what there is time for; as they were, and no pass more, if memory ends. Raises OutOfTimeError."""
        began, rounds = time.monotonic(), self.rounds
        soft_deadline = deadline.share(_SHARE)
        try:
            tight = self.method.tighten(network, bounds, rounds, deadline, soft_deadline, working, run)
        except (MemoryError, RuntimeError) as problem:
            if not is_out_of_memory(problem):
                raise
            tight, self.rounds = bounds, _MOST
        self.rounds += _MORE
        more = self.method.subproblems(self.rounds) / self.method.subproblems(rounds)
        fewer = open_behind(network, tight) / max(1, open_behind(network, bounds))
        self.seconds, self.spent = (time.monotonic() - began) * more * fewer, time.monotonic() - began
        return tight

    def learn(self, before: Float[Tensor, " clauses"], after: Float[Tensor, " clauses"]) -> None:
        """From the last pass, which brought the clauses' bounds from `before` < 0 to `after`."""
        paid = float(closed_shares(before, after).mean()) > least_share(self.spent, self.splitting)
        self.wait = _SOONER if paid else _LATER
        self.splitting.forget()
