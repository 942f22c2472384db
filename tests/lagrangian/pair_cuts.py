"""Cuts on pairs of ReLUs: `y_i + y_j <= c`, with c the most that both can add up to (docs/adding-a-cut.md)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from verify.bounders.ibp import magnitudes
from verify.lagrangian.domain import Domain
from verify.lagrangian.dual import DualProblem
from verify.lagrangian.rho import sizes
from verify.lagrangian.supports import Support
from verify.lagrangian.terms import Part, Passing, Sweep, Term
from verify.lagrangian.value import RoundingError, Value
from verify.network.graph import Layer, Network
from verify.state import Bounds, Objective


@dataclass(frozen=True)
class PairCuts:
    """Pairs of neurons of one layer that may not both be large."""

    layer: Layer
    pairs: Int[Tensor, "cuts 2"]
    most: Float[Tensor, " cuts"]

    @classmethod
    def of(cls, network: Network, layer: Layer, bounds: Bounds, pairs: Int[Tensor, "cuts 2"]) -> PairCuts:
        """Those of the given pairs, on a box (one row): `z_i + z_j` is bounded, and what is active adds up to no more."""
        rows = bounds.lower.new_zeros(1, len(pairs), 1, layer.size)
        rows[0, :, 0].scatter_(1, pairs, -1.0)
        none = rows.new_zeros(1, len(pairs), 1)
        problem = DualProblem(
            network, bounds, Objective(rows, none, none[..., None][..., :0]), node=layer.pre_node
        )
        both = -problem.evaluate(problem.initial(), magnitudes(network, bounds)).bound[0]
        single = bounds.upper[0, layer.variables][pairs].amax(1)
        return cls(layer, pairs, torch.maximum(both, single).clamp(min=0))

    def term(self, domain: Domain) -> PairTerm:
        """Their term on a batch of boxes."""
        return PairTerm(domain, self)


class PairTerm(Term):
    """A multiplier >= 0 for each pair: it is added to both outputs' cotangents, and costs c times as much."""

    name = "pair_multipliers"
    linear = True

    def __init__(self, domain: Domain, cuts: PairCuts) -> None:
        super().__init__(domain)
        self.cuts = cuts

    def select(self, index: Tensor, domain: Domain) -> PairTerm:
        return PairTerm(domain, self.cuts)

    def acts_on(self, layer: Layer) -> bool:
        return layer.node == self.cuts.layer.node

    def init(self, objectives: int) -> Part:
        return self.domain.like.new_zeros(self.domain.batch, objectives, len(self.cuts.pairs))

    def project(self, part: Part) -> Part:
        return part.clamp(min=0)

    def unit(self, part: Part, sweep: Sweep) -> Tensor:
        return sizes(sweep, self.cuts.layer)[..., self.cuts.pairs].amin(3)

    def pull(self, at: Support, part: Part) -> None:
        for places in self.cuts.pairs.T:
            at.cotangent = at.cotangent.index_add(2, places, part)
        at.parts = {**at.parts, self.name: _Cost(part, self.cuts.most)}

    def push(self, at: Passing, part: Part, out: Part) -> None:
        out.copy_(at.post[..., self.cuts.pairs].sum(3) - self.cuts.most)


@dataclass(frozen=True)
class _Cost:
    """What the multipliers cost."""

    multipliers: Part
    most: Float[Tensor, " cuts"]

    def count(self, value: Value) -> None:
        value.add(-(self.multipliers @ self.most))

    def charge(self, rounding: RoundingError) -> None:
        rounding.add_size(self.multipliers @ self.most.abs())
