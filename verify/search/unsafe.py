"""How hard the search tries on each region: how long children climb, and which layers are tightened over unsafe points.

Bounds over the unsafe points (`OutputConstrained`) hold for the region and all that is cut from it, so a subproblem carries
them. A layer's are due when it never was tightened and again when the clause's bound has come a good deal closer to 0, or
some cuts have been made since. Whether they pay is measured while the search runs: what a layer closes of the distance from 0, and at what price in children.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from verify.bounders.dual import DualProblem
from verify.bounders.output_constrained import Observer, OutputConstrained
from verify.deadline import Deadline
from verify.network.graph import Layer, Network
from verify.state import Bounds, DualState, Subproblems, outward

_WIDEST = 6144  # neurons whose bounds each subproblem may carry
_CLOSER = 0.5  # the bound's distance from 0, relative to where it was last time, that makes them due again
_LEVEL = 0.005  # what a layer must close of that distance for each doubling of its price in children
_TRIAL = 2  # regions that a layer is tried on when it did not pay last time
_TRIALS = 0.2  # of the time that bounding children takes, for trials of each layer
_STUCK, _EASY = 1.9, 1.5  # open children of a region that make climbs longer, or shorter again
_MANY, _HARDLY = 64, 0.02  # children, and refuted ones of them, that tell of splitting that leads nowhere
_LONGEST = 8  # times the iterations of a short climb
_CLOSE = 1e-12  # to 0: what is left there is no share of anything
_WEIGHT = 0.3  # of the latest batch in running averages


@dataclass
class Splitting:
    """What children cost and how many stay open: where nearly all do, they climb longer, since splits alone lead nowhere."""

    seconds: float = 0.0  # a child, a running average
    total: float = 0.0  # seconds
    growth: float = (_STUCK + _EASY) / 2  # open children of a region, a running average
    factor: int = 1  # of the iterations that children climb
    children: int = 0  # since the roots were bounded
    closed: int = 0  # of these

    @property
    def hopeless(self) -> bool:
        """Whether next to none of the children so far were refuted."""
        return self.children >= _MANY and self.closed < _HARDLY * self.children

    def forget(self) -> None:
        """The roots were bounded anew."""
        self.children = self.closed = 0

    def learn(self, refuted: Bool[Tensor, " batch"], seconds: float) -> None:
        """From children that were bounded."""
        self.children, self.closed = self.children + len(refuted), self.closed + int(refuted.sum())
        each = seconds / len(refuted)
        self.seconds += (_WEIGHT if self.total else 1.0) * (each - self.seconds)
        self.total += seconds
        self.growth += _WEIGHT * (2 * float((~refuted).float().mean()) - self.growth)
        factor = self.factor
        if self.growth > _STUCK:
            factor = min(2 * factor, _LONGEST)
        elif self.growth < _EASY:
            factor = max(factor // 2, 1)
        if factor != self.factor:
            self.factor, self.growth = factor, (_STUCK + _EASY) / 2


def closed_share(before: Float[Tensor, " batch"], after: Float[Tensor, " batch"]) -> float:
    """How much of their distance from 0 bounds have closed that were `before` < 0."""
    return float(((after - before) / before.neg().clamp(min=_CLOSE)).clamp(0, 1).mean())


def pays(share: float, seconds: float, splitting: Splitting) -> bool:
    """Whether a share closed is worth its price. For the same price, splitting would go down some levels."""
    return splitting.total > 0 and share > _LEVEL * math.log2(1 + seconds / splitting.seconds)


@dataclass
class Worth:
    """Whether tightening a layer beats splitting."""

    share: float = 0.0  # of the distance from 0 that it closes, a running average
    seconds: float = 0.0  # a region, a running average
    known: bool = False
    tried: float = 0.0  # seconds of trials

    def regions(self, splitting: Splitting, available: int) -> int:
        """How many of the available regions to tighten now: all, a few for a trial, or none."""
        if self.pays(splitting):
            return available
        return min(_TRIAL, available) if self.tried <= _TRIALS * splitting.total else 0

    def pays(self, splitting: Splitting) -> bool:
        """Whether it did last time."""
        return self.known and pays(self.share, self.seconds, splitting)

    def learn(
        self, before: Float[Tensor, " batch"], after: Float[Tensor, " batch"], seconds: float, splitting: Splitting
    ) -> None:  # fmt: skip
        """From regions whose bounds were `before` < 0."""
        self.tried += 0.0 if self.pays(splitting) else seconds
        weight = _WEIGHT if self.known else 1.0
        self.share += weight * (closed_share(before, after) - self.share)
        self.seconds += weight * (seconds / len(before) - self.seconds)
        self.known = True


class UnsafeBounds:
    """The last layers' bounds over the unsafe points of each region."""

    def __init__(
        self, network: Network, method: OutputConstrained | None, splitting: Splitting | None = None
    ) -> None:
        self.method, self.splitting = method, splitting or Splitting()
        self.layers = _last_layers(network) if method is not None else ()
        self.worth = [Worth() for _ in self.layers]
        self.width = sum(
            layer.size for layer in self.layers
        )  # bounds of either side that a subproblem carries
        self._columns = _columns([layer.variables for layer in reversed(self.layers)], network.device)

    def apply(self, bounds: Bounds, regions: Subproblems) -> Bounds:
        """The regions' boxes with what they carry."""
        if not self.width:
            return bounds
        lower, upper = bounds.lower.clone(), bounds.upper.clone()
        lower[:, self._columns] = torch.maximum(lower[:, self._columns], regions.carried_lower.to(lower))
        upper[:, self._columns] = torch.minimum(upper[:, self._columns], regions.carried_upper.to(upper))
        return Bounds(lower, upper)

    def due(self, regions: Subproblems, layer: int) -> Bool[Tensor, " batch"]:
        """Which open regions' bounds have come closer since the layer was tightened."""
        bound = regions.lower_bound
        return bound.isfinite() & (bound > _CLOSER * regions.tightened_at[:, layer]) & (bound < 0)

    def how_many(self, layer: int, available: int) -> int:
        """How many of the regions that are due to tighten."""
        return self.worth[layer].regions(self.splitting, available)

    def tighten(
        self, regions: Subproblems, problem: DualProblem, fast: DualProblem, state: DualState, layer: int,
        sizes: dict[int, Tensor], deadline: Deadline, observe: Observer | None = None,
    ) -> Subproblems:  # fmt: skip
        """The regions with tighter bounds of the layer, from their dual points. Raises OutOfTimeError."""
        assert self.method is not None
        own = self.layers[layer]
        tight = self.method.tighten(problem, fast, state, own, sizes, deadline, observe)
        lower, upper = regions.carried_lower.clone(), regions.carried_upper.clone()
        stop = self.width - sum(behind.size for behind in self.layers[:layer])
        columns = slice(stop - own.size, stop)
        lower[:, columns] = torch.maximum(lower[:, columns], outward(tight.lower, -torch.inf))
        upper[:, columns] = torch.minimum(upper[:, columns], outward(tight.upper, torch.inf))
        return replace(regions, carried_lower=lower, carried_upper=upper)

    def learned(self, layer: int, before: Subproblems, after: Subproblems, seconds: float) -> Subproblems:
        """The regions after a tightening and a climb; where that gained nothing their dual points are as before."""
        self.worth[layer].learn(before.lower_bound, after.lower_bound, seconds, self.splitting)
        gained = after.lower_bound > before.lower_bound
        before = replace(before, carried_lower=after.carried_lower, carried_upper=after.carried_upper)
        tightened_at = before.tightened_at.clone()
        tightened_at[:, layer] = after.lower_bound.clamp(max=0)
        before, after = (replace(regions, tightened_at=tightened_at) for regions in (before, after))
        return before.updated(gained, after.select(gained))


def _last_layers(network: Network) -> tuple[Layer, ...]:
    """From the last on, as many as a subproblem may carry. (No mixing activations: all their variables lose a little.)"""
    chosen: list[Layer] = []
    for layer in reversed(network.layers):
        if layer.activation.mixes:
            continue
        if sum(one.size for one in chosen) + layer.size > _WIDEST:
            break
        chosen.append(layer)
    return tuple(chosen)


def _columns(variables: list[slice], device: torch.device) -> slice | Tensor:
    """All of them together, in order: a slice where they are side by side, which is faster."""
    if all(one.stop == other.start for one, other in pairwise(variables)):
        return slice(variables[0].start, variables[-1].stop) if variables else slice(0, 0)
    return torch.cat([torch.arange(one.start, one.stop, device=device) for one in variables])
