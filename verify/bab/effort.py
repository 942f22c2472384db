"""The one controller of effort: what each technique costs, what it brings, and where it beats splitting.

Workers return an `Observation` of every technique that they apply; the search's owner learns from it. Nothing here changes in place:
to learn gives a new `Effort`, so a worker may go on with what it has seen itself, and any number of them may share one.

Everything is measured in the units of time. A technique takes some seconds, in which splitting would bound some children and so go
down some levels of the tree; and it brings bounds nearer to 0, for which splitting would need some levels, too. It pays where the
latter are more. How much it brings is judged by the subproblems it was lately applied to whose bounds were nearest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from verify.state import CLOSER, SPLITS

_TRIAL = 4  # subproblems that a technique is tried on at least
_AT_ONCE = 1.0  # seconds, that a trial on more subproblems than before may take at least
_TRIALS = 0.3  # of the time that splitting takes, for trials of all techniques
_GROWTH, _FARTHER = 4, 1.25  # times as many subproblems as last time, times as far from 0 as any before
_BESIDE, _MEMORY = 4, 512  # subproblems on either side that one is judged by, of so many lately seen
_LEAST = 0.005  # what must be closed of a distance for each level that the price would buy
_UNEVEN = 2.5  # levels for each that the children's mean gain tells of: of two children one gains most of it
_STUCK, _EASY = 1.9, 1.5  # open children of a subproblem that make ascents longer, or shorter again
_MANY, _HARDLY = 64, 0.02  # children, and refuted ones of them, that tell of splitting that leads nowhere
_LONGEST = 8  # times the iterations of a short ascent
_CLOSE = 1e-12  # to 0: what is left there is no share of anything
_WEIGHT = 0.3  # of the latest observation in running averages
_LEVEL = 1e-3  # of a mean square: numbers that spread less are all one
_ORDER = 1.5  # of convergence of bounds on small boxes
SPLITTING = "splitting"
S = TypeVar("S", bound="Splitting")


@dataclass(frozen=True)
class Observation:
    """What a technique took for some subproblems, and their bounds before (below 0) and after."""

    technique: str
    seconds: float
    before: Float[Tensor, " batch"]
    after: Float[Tensor, " batch"]
    refuted: Bool[Tensor, " batch"]
    # seconds that a child will take, as far as this tells; 0: it does not
    child: float = 0.0
    # whether the roots are others now
    anew: bool = False
    # of how many batches it tells together
    batches: int = 1

    def __post_init__(self) -> None:
        """All on the CPU, where it is learned from, brought there together."""
        if self.refuted.device.type != "cpu":
            kinds = self.before.dtype, self.after.dtype, self.refuted.dtype
            parts = torch.stack([self.before.double(), self.after.double(), self.refuted.double()]).cpu()
            for name, part, kind in zip(("before", "after", "refuted"), parts, kinds, strict=True):
                object.__setattr__(self, name, part.to(kind))

    def __len__(self) -> int:
        return len(self.refuted)

    @property
    def closed(self) -> Float[Tensor, " batch"]:
        """How much of their distance from 0 the bounds have closed, from 0 to 1."""
        share = closed_shares(self.before, self.after).nan_to_num(nan=0.0)
        return torch.where(self.refuted, torch.ones_like(share), share)

    def update(self, shared: Any) -> Any:
        """What subproblems share, with what was found for all of them: nothing, mostly."""
        return shared

    def summary(self) -> dict[str, Any]:
        """What a log says of it: the technique, its price, and its gain."""
        return {
            "technique": self.technique,
            "subproblems": len(self),
            "price": round(self.seconds, 6),
            "gain": round(float(self.closed.mean()), 6) if len(self) else 0.0,
            "refuted": int(self.refuted.sum()),
        }


def condensed(seen: Sequence[Observation]) -> tuple[Observation, ...]:
    """The same, but all of splitting in one: of many workers the owner has many to learn from."""
    splitting = [one for one in seen if one.technique == SPLITTING]
    if len(splitting) < 2:
        return tuple(seen)
    together = Observation(
        SPLITTING,
        sum(one.seconds for one in splitting),
        torch.cat([one.before for one in splitting]),
        torch.cat([one.after for one in splitting]),
        torch.cat([one.refuted for one in splitting]),
        batches=sum(one.batches for one in splitting),
    )
    return (*(one for one in seen if one.technique != SPLITTING), together)


def closed_shares(before: Float[Tensor, " batch"], after: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """How much of their distance from 0 bounds have closed that were `before` < 0."""
    return ((after - before) / before.neg().clamp(min=_CLOSE)).clamp(0, 1)


@dataclass(frozen=True)
class Splitting:
    """What children cost and gain, where splits of activations bring a bound nearer by some amount each."""

    seconds: float = 0.0  # a child, a running average
    total: float = 0.0  # seconds
    # by which a child's bound is nearer to 0 than its parent's: a mean weighted by distances
    level: float = 0.0
    distance: float = 0.0  # of the parents of late, together
    growth: float = (_STUCK + _EASY) / 2  # open children of a subproblem, a running average
    factor: int = 1  # of the iterations of children's ascents
    children: int = 0  # since the roots were bounded
    closed: int = 0  # of these

    @property
    def hopeless(self) -> bool:
        """Whether next to none of the children so far were refuted."""
        return self.children >= _MANY and self.closed < _HARDLY * self.children

    @property
    def opening(self) -> bool:
        """Whether many children were bounded and more were left open than were split."""
        return self.children >= _MANY and self.closed < self.children / 2

    def expecting(self, seconds: float) -> Splitting:
        """What a child will cost, as far as its root tells."""
        return self if self.total else replace(self, seconds=seconds)

    def forgetting(self) -> Splitting:
        """The roots were bounded anew."""
        return replace(self, children=0, closed=0)

    def learned(self: S, seen: Observation) -> S:
        """From children that were bounded: their parents' bounds, and their own."""
        before, after, refuted = seen.before.numpy(), seen.after.numpy(), seen.refuted.numpy()
        # bounds may be as far off as float32 reaches, and their squares farther
        with np.errstate(over="ignore", invalid="ignore"):
            nearer = np.where(refuted, 0.0, np.minimum(after, 0)) - before
            gained, distance = float(-(nearer * before).sum()), float(-before.sum())
        level, total, weight = self.level, self.distance, 1 - (1 - _WEIGHT) ** seen.batches
        if math.isfinite(distance) and distance > 0:
            total = (1 - weight) * self.distance + distance
            level += (gained - level * distance) / total
        each = seen.seconds / len(seen)
        growth = self.growth + weight * (2 * float(1 - refuted.mean()) - self.growth)
        factor = self.factor
        if growth > _STUCK:
            factor = min(2 * factor, _LONGEST)
        elif growth < _EASY:
            factor = max(factor // 2, 1)
        return replace(
            self,
            seconds=self.seconds + (weight if self.total else 1.0) * (each - self.seconds),
            total=self.total + seen.seconds,
            level=level,
            distance=total,
            growth=growth if factor == self.factor else (_STUCK + _EASY) / 2,
            factor=factor,
            children=self.children + len(seen),
            closed=self.closed + int(refuted.sum()),
        )

    def gains(self, seen: Observation) -> Float[Tensor, " batch"]:
        """What is kept of an observation: the share of each distance that was closed."""
        return seen.closed

    def worth(
        self, bound: Float[Tensor, " batch"], gain: Float[Tensor, " batch"], price: float
    ) -> Bool[Tensor, " batch"]:
        """Whether such gains from these bounds are worth the price of so many children.

        Splitting would go down some L levels from a bound. What was gained, g levels of them, lasts for all that is split off, and
        the technique is due again after k levels, so it takes away `L g / (k + g)` levels in all. It multiplies the work on k levels by
        `1 + price / 2^k`, so it costs `log2` of that many.
        """
        levels = _UNEVEN * -bound.double() / max(self.level, 1e-30)
        between, gained = ((1 - CLOSER) * levels).clamp(max=SPLITS), gain * levels
        dearer = (1 + price / between.exp2()).log2()
        least = _LEAST * math.log2(1 + price)
        return (gain > least) & (levels * gained > dearer * (between + gained))


@dataclass(frozen=True)
class Halving(Splitting):
    """Splits of inputs: a technique is worth the levels that splitting would need for what it closes.

    rate: of a distance, what a level closes of children that stay open. At first what bounds are off by is taken to shrink with a box's
    width to the `_ORDER`, so N times as many boxes of d open inputs leave `N^(-_ORDER / d)` of it. width: of the tree, how many
    times as many are open a level further down.
    """

    rate: float = 1.0
    width: float = 2.0

    @classmethod
    def of(cls, inputs: int) -> Halving:
        """Of so many open inputs."""
        return cls(rate=1 - 2 ** (-_ORDER / max(1, inputs)))

    def learned(self, seen: Observation) -> Halving:
        found = super().learned(seen)
        left = ~seen.refuted
        width = self.width + _share(len(seen)) * (2 * float(left.double().mean()) - self.width)
        left &= seen.before.isfinite()
        if not bool(left.any()):
            return replace(found, width=width)
        measured = float(seen.closed[left].mean())
        rate = self.rate + _share(int(left.sum())) * (measured - self.rate)
        return replace(found, rate=max(rate, _LEAST), width=width)

    def gains(self, seen: Observation) -> Float[Tensor, " batch"]:
        known = seen.before.isneginf() & ~seen.after.isneginf()
        return torch.where(known, torch.ones_like(seen.closed), seen.closed)

    def levels(self, children: float) -> float:
        """How deep a tree of so many children is; infinite where it would have ended before."""
        if abs(self.width - 1) < 1e-3:
            return children / 2
        last = 1 + children * (self.width - 1) / 2
        return math.log(last) / math.log(self.width) if last > 0 else math.inf

    def worth(
        self, bound: Float[Tensor, " batch"], gain: Float[Tensor, " batch"], price: float
    ) -> Bool[Tensor, " batch"]:
        return gain > self.rate * self.levels(price)


@dataclass(frozen=True)
class Ledger:
    """What was lately seen of one technique."""

    seen: Float[Tensor, "subproblems 2"] = field(
        default_factory=lambda: torch.zeros(0, 2, dtype=torch.float64)
    )
    last: int = 0  # subproblems, the last time
    in_vain: float = 0.0  # seconds
    total: float = 0.0  # seconds
    # sums, fading: 1, n, seconds, n^2, n * seconds
    calls: NDArray[Any] = field(default_factory=lambda: np.zeros(5))

    @property
    def line(self) -> tuple[float, float]:
        """What an application takes in seconds, and what each subproblem adds: in proportion, where all were of one size."""
        weight, *sums = self.calls
        count, seconds, squares, products = np.array(sums) / max(weight, 1e-9)
        each, spread = seconds / max(count, 1e-9), squares - count**2
        slope = (products - count * seconds) / spread if spread > _LEVEL * squares else each
        slope = min(max(slope, each / _GROWTH**2), each)
        return float(seconds - slope * count), float(slope)

    def seconds_of(self, count: int) -> float:
        """What so many subproblems take."""
        whole, each = self.line
        return whole + each * count

    def within(self, seconds: float, most: int) -> int:
        """How many subproblems can be done in so many seconds, of `most`: one at least, all where nothing is known."""
        whole, each = self.line
        return min(most, max(1, int((seconds - whole) / each))) if each > 0 and most else most

    @property
    def at_no_cost(self) -> int:
        """Subproblems that take no longer together than an application to none does."""
        whole, each = self.line
        return int(whole / each) if each else 0

    @property
    def hopeless(self) -> bool:
        """Whether it lately brought next to nothing."""
        return not len(self.seen) or float(self.seen[:, 1].mean()) < _HARDLY

    def gain_beside(self, bound: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """The mean gain of the subproblems lately seen whose bounds are next to these."""
        seen = self.seen[self.seen[:, 0].argsort()]
        sums = torch.nn.functional.pad(seen[:, 1].cumsum(0), (1, 0))
        at = torch.searchsorted(seen[:, 0].contiguous(), bound.to("cpu", torch.float64))
        first, stop = (at - _BESIDE).clamp(min=0), (at + _BESIDE).clamp(max=len(seen))
        return ((sums[stop] - sums[first]) / (stop - first)).to(bound.device)


@dataclass(frozen=True)
class Effort:
    """What splitting and every technique cost and brought so far."""

    splitting: Splitting = field(default_factory=Splitting)
    ledgers: Mapping[str, Ledger] = field(default_factory=dict)

    def learned(self, seen: Observation) -> Effort:
        """With one more observation."""
        if not len(seen):
            return self
        if seen.technique == SPLITTING:
            return replace(self, splitting=self.splitting.learned(seen))
        splitting = self.splitting.expecting(seen.child) if seen.child else self.splitting
        splitting = splitting.forgetting() if seen.anew else splitting
        ledger = self.ledger(seen.technique)
        gains = self.splitting.gains(seen)
        rows = torch.stack([seen.before.double(), gains.double()], 1).cpu()
        rows = rows[_spread(seen.before.cpu().argsort(), _MEMORY // _GROWTH)]
        count = len(seen)
        call = np.array([1, count, seen.seconds, count**2, count * seen.seconds])
        ledger = replace(
            ledger,
            seen=torch.cat([ledger.seen, rows])[-_MEMORY:],
            last=count,
            total=ledger.total + seen.seconds,
            calls=(1 - _WEIGHT) * ledger.calls + call,
        )
        paid = self.splitting.worth(seen.before, gains, self._price(seen.seconds / count))
        if float(paid.double().mean()) <= 0.5:
            ledger = replace(ledger, in_vain=ledger.in_vain + seen.seconds)
        return replace(self, splitting=splitting, ledgers={**self.ledgers, seen.technique: ledger})

    def chosen(
        self, technique: str, bound: Float[Tensor, " due"], techniques: int = 1
    ) -> Int[Tensor, " chosen"]:
        """Which of the subproblems that are due, by their bounds below 0, to apply a technique to now: where it pays, or for a trial.

        Nearest first, and neither many more nor much further than before: what comes next is judged with what these tell. techniques:
        how many share the time for trials.
        """
        ledger, nearest = self.ledger(technique), bound.argsort(descending=True)
        if not len(ledger.seen):
            return _spread(nearest, _TRIAL)
        most = min(_GROWTH * max(ledger.last, _TRIAL), len(nearest))
        reached = bound >= _FARTHER * float(ledger.seen[:, 0].min())
        several = max(1, min(int(reached.sum()), most))
        price = self._price(ledger.seconds_of(several) / several)
        good = (reached & self.splitting.worth(bound, ledger.gain_beside(bound), price))[nearest]
        if count := int(good.sum()):
            return torch.cat([nearest[good], nearest[~good]])[: min(max(count, ledger.at_no_cost), most)]
        left = _TRIALS / techniques * self.splitting.total - ledger.in_vain
        if left < ledger.seconds_of(ledger.last):
            return nearest[:0]
        whole, each = ledger.line
        affordable = int((max(left, _AT_ONCE) - whole) / max(each, 1e-9))
        return _spread(nearest, min(affordable, most))

    def sooner(self, dear: str, cheap: str, count: int) -> bool:
        """Whether, on so many subproblems, a technique is better applied without a cheaper one before it.

        Before it that takes its own time from all, and saves the dear one's on those that it refutes.
        """
        ledgers = self.ledger(dear), self.ledger(cheap)
        if not all(len(ledger.seen) for ledger in ledgers):
            return False
        price, own = (ledger.seconds_of(count) for ledger in ledgers)
        bound, gain = ledgers[1].seen.T
        refuted = (gain >= 1) & bound.isfinite()
        return float(refuted.double().mean()) * price < own

    def pays(self, seen: Observation) -> bool:
        """Whether what was seen closed more than the least that its price asks for."""
        child = self.splitting.seconds
        least = _LEAST * math.log2(1 + seen.seconds / child) if child else math.inf
        return float(seen.closed.mean()) > least

    def _price(self, seconds: float) -> float:
        """Of a subproblem, in children; infinite before one is known."""
        child = self.splitting.seconds
        return seconds / child if child else math.inf

    def ledger(self, technique: str) -> Ledger:
        """What is known of a technique."""
        return self.ledgers.get(technique, Ledger())


def _share(count: int) -> float:
    """Of a running average, what so many subproblems tell."""
    return _WEIGHT * count / (count + _TRIAL)


def _spread(nearest: Int[Tensor, " due"], count: int) -> Int[Tensor, " chosen"]:
    """So many of them, evenly."""
    count = min(count, len(nearest))
    return nearest[torch.arange(count, device=nearest.device) * len(nearest) // max(count, 1)]
