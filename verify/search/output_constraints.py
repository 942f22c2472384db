"""How hard the search tries on each subproblem: how long children climb, and which layers are tightened over unsafe points.

Bounds over the unsafe points (`OutputConstrained`) hold for the subproblem and all that is split off it, so a subproblem carries
them. A layer's are due when it never was tightened and again when the clause's bound has come a good deal closer to 0, or
some splits have been made since. Whether they pay is measured while the search runs: what a layer closes of the distance from 0, and at what price in children.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.bounders.dual import DualProblem
from verify.bounders.output_constrained import OutputConstrained
from verify.bounders.tracing import Observer, unobserved
from verify.deadline import Deadline
from verify.network.graph import Layer, Network
from verify.state import CLOSER, CUTS, Bounds, DualState, Subproblems, outward

_WIDEST = 6144  # neurons whose bounds each subproblem may carry
_LEVEL = 0.005  # what a layer must close of that distance for each doubling of its price in children
_TRIAL = 2  # subproblems that a layer is tried on when it did not pay last time
_TRIALS = 0.3  # of the time that bounding children takes, for trials of all steps
_GROWTH, _FARTHER = 4, 1.25  # times as many subproblems as last time, times as far from 0 as any before
_BESIDE, _MEMORY = 4, 256  # subproblems on either side that one is judged by, of so many lately seen
_UNEVEN = 2.5  # levels for each that the children's mean gain tells of: of two children one gains most of it
_STUCK, _EASY = 1.9, 1.5  # open children of a subproblem that make climbs longer, or shorter again
_MANY, _HARDLY = 64, 0.02  # children, and refuted ones of them, that tell of splitting that leads nowhere
_LONGEST = 8  # times the iterations of a short climb
_CLOSE = 1e-12  # to 0: what is left there is no share of anything
_WEIGHT = 0.3  # of the latest batch in running averages


@dataclass
class Splitting:
    """What children cost and how many stay open: where nearly all do, they climb longer, since splits alone lead nowhere."""

    seconds: float = 0.0  # a child, a running average
    total: float = 0.0  # seconds
    level: float = (
        0.0  # by which a child's bound is nearer to 0 than its parent's, on average over distances from 0
    )
    distance: float = 0.0  # of the parents of late, together
    growth: float = (_STUCK + _EASY) / 2  # open children of a subproblem, a running average
    factor: int = 1  # of the iterations that children climb
    children: int = 0  # since the roots were bounded
    closed: int = 0  # of these

    @property
    def hopeless(self) -> bool:
        """Whether next to none of the children so far were refuted."""
        return self.children >= _MANY and self.closed < _HARDLY * self.children

    def expect(self, seconds: float) -> None:
        """What a child will cost, as far as its root tells."""
        if not self.total:
            self.seconds = seconds

    def forget(self) -> None:
        """The roots were bounded anew."""
        self.children = self.closed = 0

    def learn(
        self, before: Float[Tensor, " batch"], after: Float[Tensor, " batch"], refuted: Bool[Tensor, " batch"],
        seconds: float,
    ) -> None:  # fmt: skip
        """From children that were bounded: their parents' bounds, and their own."""
        nearer = torch.where(refuted, 0.0, after.clamp(max=0)) - before
        gained, distance = float(-(nearer * before).sum()), float(-before.sum())
        if math.isfinite(distance) and distance > 0:
            self.distance = (1 - _WEIGHT) * self.distance + distance
            self.level += (gained - self.level * distance) / self.distance
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


def closed_shares(before: Float[Tensor, " batch"], after: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """How much of their distance from 0 bounds have closed that were `before` < 0."""
    return ((after - before) / before.neg().clamp(min=_CLOSE)).clamp(0, 1)


def least_share(seconds: float, splitting: Splitting) -> float:
    """What must be closed of the distance from 0 for the price: splitting would go down some levels. Infinite before a child is known."""
    return _LEVEL * math.log2(1 + seconds / splitting.seconds) if splitting.seconds else math.inf


class Worth:
    """For which subproblems a step beats splitting, by those lately paid for whose bounds were nearest to their own.

    The nearer to 0, the less the unsafe points leave. Splits alone would go down some L levels from a subproblem at a distance
    from 0, `Splitting.level` each. A step is due again after k of them and takes away g: of all levels `L g / (k + g)`. It
    multiplies the work on k levels by `1 + price / 2^k`, so it is worth `log2` of that many levels.
    """

    def __init__(self) -> None:
        self._seen = torch.zeros(
            0, 2
        )  # subproblems' bounds, and what share of their distance from 0 was closed
        self._seconds = 0.0  # a subproblem, a running average
        self._last = 0  # subproblems
        self._tried = 0.0  # seconds of trials

    def chosen(
        self, bound: Float[Tensor, " due"], splitting: Splitting, trials: float = _TRIALS
    ) -> Int[Tensor, " chosen"]:
        """Which of the subproblems that are due, by their bounds below 0, to pay for now: where it pays, or a few for a trial.

        Nearest first, and neither many more nor much further than before: what comes next is judged with what these tell.
        trials: what may be spent on them, as a share of the time that bounding children takes.
        """
        nearest = bound.argsort(descending=True)
        if not len(self._seen):
            return nearest[:_TRIAL]
        reached = bound >= _FARTHER * float(self._seen[:, 0].min())
        good = nearest[(reached & self.pays(bound, self._share(bound), splitting))[nearest]]
        if len(good):
            return good[: max(_TRIAL, _GROWTH * self._last)]
        middle = len(nearest) // 2
        return nearest[middle : middle + (_TRIAL if self._tried <= trials * splitting.total else 0)]

    def pays(
        self, bound: Float[Tensor, " due"], share: Float[Tensor, " due"], splitting: Splitting
    ) -> Bool[Tensor, " due"]:
        """Whether closing that share of each subproblem's distance from 0 is worth its price, as prices are now."""
        price = self._seconds / max(splitting.seconds, 1e-30)  # in children
        levels = _UNEVEN * -bound.double() / max(splitting.level, 1e-30)
        between, gained = ((1 - CLOSER) * levels).clamp(max=CUTS), share * levels
        dearer = (1 + price / between.exp2()).log2()
        return (share > least_share(self._seconds, splitting)) & (
            levels * gained > dearer * (between + gained)
        )

    def _share(self, bound: Float[Tensor, " due"]) -> Float[Tensor, " due"]:
        """The mean share closed of the subproblems lately seen with bounds next to these."""
        seen = self._seen[self._seen[:, 0].argsort()]
        sums = torch.nn.functional.pad(seen[:, 1].cumsum(0), (1, 0))
        at = torch.searchsorted(seen[:, 0].contiguous(), bound.cpu().float())
        first, stop = (at - _BESIDE).clamp(min=0), (at + _BESIDE).clamp(max=len(seen))
        return ((sums[stop] - sums[first]) / (stop - first)).to(bound)

    def learn(
        self, before: Float[Tensor, " batch"], after: Float[Tensor, " batch"], seconds: float, splitting: Splitting
    ) -> None:  # fmt: skip
        """From subproblems whose bounds were `before` < 0."""
        shares = closed_shares(before, after)
        seen = torch.stack([before, shares], 1).cpu().float()
        weight = _WEIGHT if len(self._seen) else 1.0
        self._seconds += weight * (seconds / len(before) - self._seconds)
        self._seen, self._last = torch.cat([self._seen, seen])[-_MEMORY:], len(before)
        if not bool(self.pays(before, shares, splitting).any()):
            self._tried += seconds


class OutputConstrainedBounds:
    """The last layers' bounds over the unsafe points of each subproblem. A step tightens one layer by one of the methods."""

    def __init__(
        self, network: Network, methods: Sequence[OutputConstrained], splitting: Splitting | None = None
    ) -> None:
        self.methods, self.splitting = methods, splitting or Splitting()
        self.layers = _last_layers(network) if methods else ()
        self.steps = [(layer, method) for layer in self.layers for method in methods]
        self.worth = [Worth() for _ in self.steps]
        self.width = sum(
            layer.size for layer in self.layers
        )  # bounds of either side that a subproblem carries
        self._columns = _columns([layer.variables for layer in reversed(self.layers)], network.device)

    def apply(self, bounds: Bounds, subproblems: Subproblems) -> Bounds:
        """The subproblems' boxes with what they carry."""
        if not self.width:
            return bounds
        lower, upper = bounds.lower.clone(), bounds.upper.clone()
        lower[:, self._columns] = torch.maximum(
            lower[:, self._columns], subproblems.constrained_lower.to(lower)
        )
        upper[:, self._columns] = torch.minimum(
            upper[:, self._columns], subproblems.constrained_upper.to(upper)
        )
        return Bounds(lower, upper)

    def due(self, subproblems: Subproblems, step: int) -> Bool[Tensor, " batch"]:
        """Which open subproblems' bounds have come closer since the step was made."""
        bound = subproblems.lower_bound
        return bound.isfinite() & (bound > CLOSER * subproblems.tightened_at[:, step]) & (bound < 0)

    def chosen(self, subproblems: Subproblems, step: int) -> Int[Tensor, " chosen"]:
        """Which of the subproblems that are due to tighten now."""
        return self.worth[step].chosen(subproblems.lower_bound, self.splitting, _TRIALS / len(self.steps))

    def tighten(
        self, subproblems: Subproblems, problem: DualProblem, working: DualProblem, state: DualState, step: int,
        sizes: dict[int, Tensor], deadline: Deadline, observe: Observer = unobserved,
    ) -> Subproblems:  # fmt: skip
        """The subproblems with tighter bounds of the layer, from their dual points. Raises OutOfTimeError."""
        layer, method = self.steps[step]
        tight = method.tighten(problem, working, state, layer, sizes, deadline, observe)
        lower, upper = subproblems.constrained_lower.clone(), subproblems.constrained_upper.clone()
        stop = self.width - sum(behind.size for behind in self.layers[: self.layers.index(layer)])
        columns = slice(stop - layer.size, stop)
        lower[:, columns] = torch.maximum(lower[:, columns], outward(tight.lower, -torch.inf))
        upper[:, columns] = torch.minimum(upper[:, columns], outward(tight.upper, torch.inf))
        return replace(subproblems, constrained_lower=lower, constrained_upper=upper)

    def learned(self, step: int, before: Subproblems, after: Subproblems, seconds: float) -> Subproblems:
        """The subproblems after a tightening and a climb; where that gained nothing their dual points are as before."""
        self.worth[step].learn(before.lower_bound, after.lower_bound, seconds, self.splitting)
        gained = after.lower_bound > before.lower_bound
        before = replace(
            before, constrained_lower=after.constrained_lower, constrained_upper=after.constrained_upper
        )
        tightened_at = before.tightened_at.clone()
        tightened_at[:, step] = before.lower_bound
        before, after = (replace(subproblems, tightened_at=tightened_at) for subproblems in (before, after))
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
