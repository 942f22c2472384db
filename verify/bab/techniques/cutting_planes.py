"""Cutting planes for the roots that are left open, and for some subproblems as the tree gets deeper.

What cuts off one optimum mostly helps others as deep. Each cut makes every sweep dearer, so there may be no more than a share of what
the network itself multiplies, and cuts that close next to nothing of the distance from 0 are forgotten again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from verify.bab.cut_pool import CutPool
from verify.bab.effort import Observation
from verify.bab.root_bounds import RootBounds
from verify.bab.strategy import Bounded, Knowledge
from verify.bounders.restricted import Restricted
from verify.bounders.single_neuron_cuts import cuts_at, mean_point
from verify.bounders.tracing import Provable
from verify.deadline import Deadline
from verify.lagrangian.cuts import CutShares
from verify.network.affine import Affine
from verify.network.graph import Network
from verify.state import Bounds, Subproblems

NAME = "cuts"


@dataclass(frozen=True)
class CutsTried(Observation):
    """Cuts were made for some subproblems; the pool is as they left it."""

    pool: CutPool | None = None

    def update(self, shared: RootBounds) -> RootBounds:
        return shared if self.pool is None else replace(shared, cuts=self.pool)


@dataclass(frozen=True)
class CuttingPlanes:
    """Makes cuts for subproblems and optimises their bounds under them.

    ascent: from the dual points that they have. rounds: at the roots, each cuts off the optimum under the cuts of those before. least: what
    new cuts must close of the distance from 0. sample: subproblems whose optima are cut off together. deeper: splits after which there may be
    more. iterations: whose primal points are averaged. at_once, in_all: coefficients of new cuts, and of all, for each multiplication of
    the network; few_at_once, few_in_all: as many in small networks, where calls cost more than products. affordable: of the time
    left; roots that took longer get no cuts.
    """

    ascent: Restricted
    rounds: int = 3
    least: float = 0.05
    sample: int = 8
    deeper: int = 3
    iterations: int = 32
    at_once: float = 0.03
    in_all: float = 0.12
    few_at_once: int = 2_000
    few_in_all: int = 8_000
    affordable: float = 0.1
    name: str = NAME
    once: bool = True

    def due(self, bounded: Bounded, knowledge: Knowledge) -> Int[Tensor, " index"]:
        """Some of the open subproblems where these are a good deal deeper than the last time."""
        pool, index = knowledge.shared.cuts, bounded.open
        depth = bounded.subproblems.split_variable.shape[1]
        if not knowledge.sole or pool.box is None or depth < pool.next_depth:
            return index[:0]
        count = min(self.sample, len(index))
        return index[torch.linspace(0, len(index) - 1, count).long().to(index.device)]

    def apply(
        self, bounded: Bounded, index: Int[Tensor, " index"], knowledge: Knowledge, deadline: Deadline
    ) -> tuple[Bounded, Observation]:
        """The subproblems with those of the index optimised under more cuts, if these are to stay."""
        deadline.check()
        began, shared = time.monotonic(), knowledge.shared
        subproblems, depth = bounded.subproblems.select(index), bounded.subproblems.split_variable.shape[1]
        pool = self._more(shared, subproblems, deadline)
        before = after = subproblems.lower_bound
        refuted = torch.zeros_like(bounded.refuted[index])
        if pool.count > shared.cuts.count:
            tried = replace(shared, cuts=pool)
            ascended = tried.optimised(
                subproblems.with_cuts(CutShares.name, pool.count), self.ascent, deadline
            )
            after, refuted = ascended.subproblems.lower_bound, ascended.refuted
        seen = CutsTried(self.name, time.monotonic() - began, before, after, refuted)
        paid = pool.count > shared.cuts.count and float(seen.closed.mean()) >= self.least
        if paid:
            bounded = replace(
                bounded, subproblems=bounded.subproblems.with_cuts(CutShares.name, pool.count)
            ).updated(index, ascended)
        else:
            pool = replace(shared.cuts, box=pool.box)
        pool = replace(pool, next_depth=depth + self.deeper if paid else 2 * depth + self.deeper)
        return bounded, replace(seen, pool=pool)

    def possible(self, shared: RootBounds) -> bool:
        """Whether cuts hold: values must be affine over the reals, with boxes for all that they are affine maps of."""
        return not (shared.network.deployed or shared.mixes) and shared.tracer.proves(Provable.CUTS)

    def _more(self, shared: RootBounds, subproblems: Subproblems, deadline: Deadline) -> CutPool:
        """The pool with cuts that cut off the optima of some subproblems. The first time these are all open roots."""
        network, working, pool = shared.network, shared.working, shared.cuts
        if not self.possible(shared):
            return pool
        problem = shared.dual(subproblems, network)
        box = pool.box
        if box is None:
            ends = problem.bounds
            box = Bounds(ends.lower.amin(0, keepdim=True), ends.upper.amax(0, keepdim=True))
        products = _multiplications(network)
        room = max(self.few_in_all, self.in_all * products) - sum(some.entries for some in pool.all)
        most = int(min(max(self.few_at_once, self.at_once * products), room))
        if most <= 0:
            return replace(pool, box=box)
        state = subproblems.state
        start = state.to(working.device, working.dtype)
        point = mean_point(shared.dual(subproblems, working), start, self.iterations, deadline)
        at = problem.clamp(state.to(network.device, network.dtype))
        found = cuts_at(problem, at, point, box, shared.magnitudes, most, deadline)
        return replace(pool, box=box) if found is None else pool.added(shared.tracer.cuts(found, box), box)


def _multiplications(network: Network) -> int:
    """In the affine maps of a pass."""
    return sum(node.size * node.operator.terms for node in network.nodes if isinstance(node.operator, Affine))
