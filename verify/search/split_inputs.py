"""Splitting inputs: halved boxes, bounded afresh in float64; nothing is inherited but the box.

A region stands for all clauses on one box that share it as a group: intermediate bounds, the dear part, are theirs in common. A
clause's rows bound linear functions of the input from below, so its unsafe points lie in a smaller box, which the region
is clipped to (as in Clip-and-Verify, Zhou et al. 2025). Every bound charges its own rounding errors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.bounders.backward import IntermediateBounds
from verify.bounders.dual import DualProblem
from verify.bounders.forward import forward
from verify.bounders.interval import interval, magnitudes
from verify.branchers.fsb import Split
from verify.branchers.inputs import widest_effect
from verify.deadline import Deadline
from verify.network.graph import Network
from verify.problem import Problem
from verify.search.evidence import Evidence
from verify.search.strategy import Bounded, Mapper, Objectives, all_refuted, fresh, grouped
from verify.state import Bounds, Objective, Struct, Subproblems

_GROUP = 32  # clauses that a region stands for, at most
_DEAR = 2.0  # rows on a box for each column of forward bounds, from which on these come first
_TOGETHER = 256  # clauses
_CLIP = 0.9  # of an interval: a clipped box that keeps more of all of them is not worth a proof
_LAST = 1 / 16  # of all neurons, in last layers that are tightened alone
_TRIAL = 4  # boxes at least that tighter bounds are tried on when they did not pay last time
_TRIALS = 0.1  # of the time before, for trials
_INTERVALS, _LINES = 1.0, 1.5  # orders of convergence: of bounds by intervals, and by linear functions
_MEMORY = 512  # boxes paid for
_BESIDE = 4  # of them on either side of a new one
_SHARE = 0.5  # of the time left, that one pass of tightening may take
_GROWTH = 4  # times as many boxes as last time, at most
_CHEAP = 3.0  # bounds as they were, that tighter ones may cost without being asked whether they pay
_MOST_ELEMENTS = 2**25  # variables of all objectives that are bounded at once
_JOINING_STEPS = 16  # of the weights of a clause's rows


@dataclass(frozen=True)
class Found(Struct):
    """What bounding a box afresh gives: of the clause that is furthest from refuted, and where its unsafe points lie."""

    clause: Int[Tensor, " batch"]
    bound: Float[Tensor, " batch"]
    refuted: Bool[Tensor, " batch"]  # all clauses of the region
    cotangent: Float[Tensor, "batch inputs"]
    minimiser: Float[Tensor, "batch inputs"]
    lower: Float[Tensor, "batch inputs"]  # all unsafe points of all clauses lie between these
    upper: Float[Tensor, "batch inputs"]
    weights: Float[
        Tensor, "batch passes group rows"
    ]  # of each clause's rows, as joined; 0 in a pass not made

    def intersected(self, other: Found) -> Found:
        """The better bound of the two, and the box that both have in common; without one, nothing in it is unsafe."""
        lower, upper = torch.maximum(self.lower, other.lower), torch.minimum(self.upper, other.upper)
        return replace(
            self,
            bound=torch.maximum(self.bound, other.bound),
            refuted=self.refuted | other.refuted | (lower > upper).any(1),
            lower=lower,
            upper=upper,
            weights=self.weights + other.weights,
        )


class Effort:
    """For which boxes tighter bounds are worth their price, found out by paying it for a few now and then.

    For a price of c bounds as they were splitting cuts a box of d open inputs into (c + 1) / 2 parts, and what bounds are off by
    shrinks with the width to the `order`, so by `((c + 1) / 2)^(order / d)`. Tighter bounds pay where they do better than that: not far below 0, where they are
    too loose as well, and not next to it, where a split is enough. So a box is judged by those lately paid for whose bounds
    were nearest to its own.
    """

    def __init__(self, dimensions: int, order: float) -> None:
        self._dimensions, self._order = dimensions, order
        self._seen = torch.zeros(
            0, 2, dtype=torch.float64
        )  # logarithm of the bound, and `_left_at_most` of it
        self._last = _TRIAL  # boxes
        self._boxes = self._seconds = 0.0  # lately paid for, and what that took
        self._each = 1.0  # seconds that bounds as they were took
        self._tried = 0.0  # seconds spent in vain
        self._total = 0.0  # of all that came before

    @property
    def _left(self) -> float:
        """The share of what bounds are off by that splitting leaves for the same price."""
        price = self._seconds / max(self._boxes * self._each, 1e-9)
        return 1.0 if price < _CHEAP else ((price + 1) / 2) ** (-self._order / self._dimensions)

    def came_before(self, boxes: int, each: float) -> None:
        """Other bounds of so many boxes took so many seconds each."""
        self._each, self._total = each, self._total + boxes * each

    def chosen(self, bound: Float[Tensor, " open"]) -> Int[Tensor, " chosen"]:
        """For which boxes, by their bounds below 0, to pay now."""
        rows = (self._pays(bound) > 0.5).nonzero()[:, 0]
        if len(rows):
            return rows[: _GROWTH * self._last]
        budget = _TRIALS * self._total - self._tried
        affordable = int(budget * self._boxes / max(self._seconds, 1e-9))
        count = min(len(bound), max(_TRIAL, affordable)) if budget >= 0 else 0
        return torch.arange(count, device=bound.device) * len(bound) // max(count, 1)

    def _pays(self, bound: Float[Tensor, " open"]) -> Float[Tensor, " open"]:
        """The share for which it paid of boxes lately seen with bounds next to these."""
        seen = self._seen
        if not len(seen):
            return torch.ones_like(bound)
        gaps, order = seen[:, 0].sort()
        paid = (seen[order, 1] <= self._left).double().cumsum(0)
        at = torch.searchsorted(gaps, _logarithm(bound).to(gaps))
        first, last = (at - _BESIDE).clamp(min=0), (at + _BESIDE).clamp(max=len(seen)) - 1
        before = torch.where(first > 0, paid[first - 1], 0.0)
        return (paid[last] - before) / (last - first + 1)

    def learn(self, before: Found, after: Found, seconds: float) -> None:
        """From both bounds of boxes that were open before, and what the tighter ones took."""
        seen = torch.stack([_logarithm(before.bound), _left_at_most(before.bound, after)], 1).double().cpu()
        self._seen = torch.cat([self._seen, seen])[-_MEMORY:]
        self._last = max(len(seen), _TRIAL)
        self._boxes, self._seconds = self._boxes / 2 + len(seen), self._seconds / 2 + seconds
        if float((seen[:, 1] <= self._left).double().mean()) <= 0.5:
            self._tried += seconds


def _logarithm(bound: Float[Tensor, " open"]) -> Float[Tensor, " open"]:
    """Of bounds' distances below 0."""
    return (-bound).clamp(1e-30, 1e30).log()


def _left_at_most(before: Float[Tensor, " open"], after: Found) -> Float[Tensor, " open"]:
    """The share of what bounds are off by that splitting would have to leave to do as well."""
    closed = after.bound / (after.bound - before)
    return torch.where(after.refuted, closed.clamp(min=0), after.bound / before)


@dataclass(frozen=True)
class _Tier:
    """A way to tighten all variables' bounds, and whether it pays."""

    tighten: Callable[[Bounds, Deadline, Deadline], Bounds]  # given the deadline, and when it has cost enough
    effort: Effort


class SplitInputs:
    """Halves and clips input boxes, and bounds each afresh for all clauses of its group."""

    def __init__(
        self, problem: Problem, network: Network, intermediate: IntermediateBounds, evidence: Evidence | None = None
    ) -> None:  # fmt: skip
        self.problem, self.network, self.intermediate = problem, network, intermediate
        self.evidence = evidence
        self.objectives = Objectives(problem, network.device)
        self._tiers = self._all_tiers()
        self._group(torch.arange(problem.clauses))

    def _group(self, clauses: Int[Tensor, " clauses"]) -> None:
        """From now on these clauses are all there are."""
        group_of, members = grouped(self.problem.box_of[clauses.numpy()].tolist(), _GROUP)
        of = torch.full((self.problem.clauses,), -1)
        of[clauses] = group_of
        self._group_of, self._members = (table.to(self.network.device) for table in (of, clauses[members]))

    def _all_tiers(self) -> list[_Tier]:
        """Forward bounds, those of the last layers, those of all: dearer each.

        Where evidence is written the last alone: a checker knows intervals, and CROWN on all layers.
        """
        network, dimensions = self.network, max(1, self.problem.free_inputs)
        tighten = self.intermediate.tighten

        def everything(bounds: Bounds, end: Deadline, enough: Deadline) -> Bounds:
            return tighten(network, bounds, end, enough=enough)

        if self.evidence is not None:
            return [_Tier(everything, Effort(dimensions, _INTERVALS))]
        tiers = [_Tier(everything, Effort(dimensions, _LINES))]
        last = _last_layers(network)
        if last < len(network.layers):
            some = partial(self.intermediate.tighten_last, network, last)
            tiers.insert(0, _Tier(some, Effort(dimensions, _LINES)))
        first = Effort(dimensions, _INTERVALS)
        return [_Tier(lambda bounds, end, _: forward(network, bounds, end).bounds, first), *tiers]

    def stands_for(self, clauses: Tensor) -> list[int]:
        groups = self._group_of[clauses.to(self._group_of.device)].unique()
        return sorted(self._members[groups].unique().tolist())

    def roots(self, batch: int, deadline: Deadline) -> Iterator[Bounded]:
        """Groups of clauses on their whole boxes; before that, where so many share a box that forward bounds are cheaper, those."""
        if self.evidence is None:
            refuted = self._refuted_together(deadline)
            closed = fresh(self.problem.rows, refuted.nonzero()[:, 0].tolist(), 0, self.network.device)
            yield from all_refuted(closed)
            self._group((~refuted).nonzero()[:, 0])
        for groups in self._members.split(batch) if len(self._members) else ():
            yield self.bound(self._roots_of(groups), deadline)

    def _refuted_together(self, deadline: Deadline) -> Bool[Tensor, " clauses"]:
        """The clauses that forward bounds of their boxes refute, of boxes with a good many."""
        refuted = torch.zeros(self.problem.clauses, dtype=torch.bool)
        boxes = torch.from_numpy(self.problem.box_of)
        fewest = _DEAR * (2 + self.problem.free_inputs) / self.problem.rows
        for box in (boxes.bincount() > fewest).nonzero()[:, 0].tolist():
            clauses = (boxes == box).nonzero()[:, 0]
            first = clauses[:1].tolist()
            lower, upper = (end.to(self.network.device) for end in self.problem.boxes(first))
            bounds, _ = interval(self.network, lower, upper)
            known = forward(self.network, bounds, deadline)
            for some in clauses.split(_TOGETHER):
                deadline.check()
                self.objectives.prepare(some.tolist())
                bound, _ = known.crown(self._rows(some[None].to(self.network.device)))
                best = bound.reshape(len(some), -1).amax(1)
                refuted[some] = ((best > 0) & best.isfinite()).cpu()
        return refuted

    def _roots_of(self, groups: Int[Tensor, "batch group"]) -> Subproblems:
        self.objectives.prepare(groups.unique().tolist())
        inputs, device = self.network.inputs, self.network.device
        regions = fresh(self.problem.rows, groups[:, 0].tolist(), inputs, device, inputs, torch.float64)
        if self.evidence is not None:
            nodes = self.evidence.roots([list(dict.fromkeys(one)) for one in groups.tolist()])
            regions = replace(regions, node=nodes)
        return regions

    def _boxes(self, regions: Subproblems) -> Bounds:
        """The input boxes: the clauses' own, cut and clipped."""
        lower, upper = (end.to(self.network.device) for end in self.problem.boxes(regions.clause.tolist()))
        box = regions.cuts.apply(Bounds(lower, upper))
        return Bounds(
            torch.maximum(box.lower, regions.carried_lower), torch.minimum(box.upper, regions.carried_upper)
        )

    def bound(self, regions: Subproblems, deadline: Deadline) -> Bounded:
        """CROWN on intervals first; what that leaves open gets tighter bounds where they pay."""
        began = time.monotonic()
        whole = self._boxes(regions)
        bounds, _ = interval(self.network, whole.lower, whole.upper)
        found = self._found(regions, bounds, 0, deadline)
        passes = torch.ones_like(regions.clause)
        left = (~found.refuted).nonzero()[:, 0]
        spent = (time.monotonic() - began) / len(regions)  # on a box
        for tier in self._tiers:
            tier.effort.came_before(len(left), spent)
            began, done = time.monotonic(), left[:0]
            while len(left) and len(chosen := tier.effort.chosen(found.bound[left])):
                deadline.check()
                rows, left = left[chosen], left[_others(chosen, len(left))]
                started, before = time.monotonic(), found.select(rows)
                tight = tier.tighten(bounds.select(rows), deadline, deadline.share(_SHARE))
                after = self._found(regions.select(rows), tight, 1, deadline).intersected(before)
                seconds = time.monotonic() - started
                bounds, found, passes[rows] = bounds.updated(rows, tight), found.updated(rows, after), 3
                done = torch.cat([done, rows])
                tier.effort.learn(before, after, seconds)
            if not len(done):
                break
            spent += (time.monotonic() - began) / len(done)
            left = done[~found.refuted[done]]
        if self.evidence is not None:
            found = self._told(self.evidence, regions, whole, found, passes)
        scale = found.cotangent.abs().amax(1, keepdim=True).clamp(min=1e-300)
        lower_bound = torch.where(found.refuted, found.bound, found.bound.clamp(max=0)).float()
        lower_bound = torch.maximum(lower_bound, regions.lower_bound)
        regions = replace(
            regions, clause=found.clause, lower_bound=lower_bound, parameters=(found.cotangent / scale).float(),
            carried_lower=found.lower, carried_upper=found.upper,
        )  # fmt: skip
        return Bounded(regions, found.refuted, found.minimiser)

    @staticmethod
    def _told(evidence: Evidence, regions: Subproblems, whole: Bounds, found: Found, passes: Tensor) -> Found:
        """Writes leaves and clipped boxes; boxes clipped by little, which the checker would work for, are left whole."""
        refuted = found.refuted
        clipped = ((found.upper - found.lower) < _CLIP * (whole.upper - whole.lower)).any(1) & ~refuted
        evidence.input_leaves(regions.select(refuted), passes[refuted], found.weights[refuted])
        evidence.clip(
            regions.select(clipped), passes[clipped], found.weights[clipped], found.lower[clipped], found.upper[clipped]
        )  # fmt: skip
        kept = clipped[:, None]
        return replace(
            found, lower=torch.where(kept, found.lower, whole.lower), upper=torch.where(kept, found.upper, whole.upper)
        )  # fmt: skip

    def _found(self, regions: Subproblems, bounds: Bounds, number: int, deadline: Deadline) -> Found:
        """Every row of every clause bounded by CROWN, in the first pass (0) or the second."""
        members = self._members[self._group_of[regions.clause]]
        bound, cotangent = self._crown(bounds, self._rows(members), deadline)
        shape = (*members.shape, self.problem.rows)
        bound = torch.where(bound.isfinite(), bound, -torch.inf).reshape(shape)
        cotangent = cotangent.nan_to_num(nan=0.0).reshape(*shape, -1)
        inputs = slice(0, self.network.inputs)
        box = Bounds(bounds.lower[:, inputs], bounds.upper[:, inputs])
        weights = bound.new_zeros(len(bound), 2, *shape[1:])
        if self.problem.rows > 1:
            joint, direction, weights[:, number] = _joined(box, bound, cotangent)
            bound, cotangent = torch.cat([bound, joint], 2), torch.cat([cotangent, direction], 2)
        lower, upper = _clipped(box, bound, cotangent)
        refuted = (bound > 0).any(2) | (lower > upper).any(2)
        open_clause = ~refuted[..., None]
        nearest, row = bound.max(2)
        worst = torch.where(refuted, torch.inf, nearest).argmin(1, keepdim=True)
        row = row.gather(1, worst)[:, 0]
        cotangent = cotangent[torch.arange(len(row), device=row.device), worst[:, 0], row]
        return Found(
            members.gather(1, worst)[:, 0],
            nearest.gather(1, worst)[:, 0],
            refuted.all(1),
            cotangent,
            torch.where(cotangent > 0, box.lower, box.upper),
            torch.where(open_clause, lower, torch.inf).amin(1),
            torch.where(open_clause, upper, -torch.inf).amax(1),
            weights,
        )

    def _crown(self, bounds: Bounds, objective: Objective, deadline: Deadline) -> tuple[Tensor, Tensor]:
        """CROWN's bound of every objective and its slopes, as many objectives at a time as the memory holds."""
        sizes = magnitudes(self.network, bounds)
        most = max(1, _MOST_ELEMENTS // (len(bounds) * self.network.variables))
        parts = zip(*(part.split(most, 1) for part in vars(objective).values()), strict=True)
        asked = [Objective(*part) for part in parts]
        problem, found = DualProblem(self.network, bounds, asked[0]), []
        for part in asked:
            deadline.check()
            some = problem.asked(part)
            found.append(some.evaluate(some.initial(), sizes))
        return torch.cat([one.bound for one in found], 1), torch.cat(
            [one.input_cotangent for one in found], 1
        )

    def _rows(self, members: Int[Tensor, "batch group"]) -> Objective:
        """Every row of every clause as an objective of its own."""
        clauses = self.objectives.of(members.flatten(), torch.float64)
        shape = (len(members), members.shape[1] * self.problem.rows, 1)
        return Objective(
            clauses.coefficients.reshape(*shape, -1), clauses.thresholds.reshape(shape),
            clauses.input_coefficients.reshape(*shape, clauses.input_coefficients.shape[3]),
        )  # fmt: skip

    def due(self, seconds: float, deadline: Deadline) -> bool:
        return False  # every box is bounded afresh

    def again(
        self, waiting: Subproblems, batch: int, deadline: Deadline, run: Mapper
    ) -> tuple[Subproblems, list[Bounded]]:
        return waiting, []

    def choose(self, regions: Subproblems, deadline: Deadline) -> Split:
        box = self._boxes(regions)
        return widest_effect(regions.parameters.double(), box.lower, box.upper)


def _others(chosen: Int[Tensor, " chosen"], count: int) -> Bool[Tensor, " count"]:
    """All indices below `count` but these."""
    return torch.ones(count, dtype=torch.bool, device=chosen.device).index_fill(0, chosen, False)


def _last_layers(network: Network) -> int:
    """The first of the last layers that hold a small share of all neurons together."""
    sizes = [layer.size for layer in network.layers]
    behind = [sum(sizes[i:]) for i in range(len(sizes))]
    return next((i for i, size in enumerate(behind) if size <= _LAST * sum(sizes)), len(sizes))


def _joined(
    box: Bounds, bound: Float[Tensor, "batch group rows"], cotangent: Float[Tensor, "batch group rows inputs"]
) -> tuple[Float[Tensor, "batch group 1"], Float[Tensor, "batch group 1 inputs"], Tensor]:
    """Each clause's rows as one: a weighted sum whose least value on the box is as large as some steps make it.

    Its bound, its slope, and the weights, which float32 holds exactly.

    The rows' bounds are linear functions of the input, so no sweep is needed: with values `v` at the box's centre, radius `r`
    and weights w >= 0 of sum 1 it is `w . v - |w . cotangent| . r`. Multiplicative weights climb it (Arora et al. 2012).
    """
    low, high = box.lower[:, None, None], box.upper[:, None, None]
    centre, radius = (low + high) / 2, (high - low) / 2
    bound = bound.clamp(min=-1e30)
    middle = bound + (cotangent.abs() * radius).sum(3)
    sizes = bound.abs() + (cotangent.abs() * (centre.abs() + 2 * radius)).sum(3)
    error = 8 * (cotangent.shape[2] + cotangent.shape[3] + 8) * torch.finfo(bound.dtype).eps * sizes
    weights = torch.full_like(bound, 1 / bound.shape[2]).float().to(bound)
    best = torch.full_like(bound[..., 0], -torch.inf)
    chosen, best_weights = cotangent[..., 0, :], weights
    for step in range(_JOINING_STEPS):
        direction = (weights[..., None] * cotangent).sum(2)
        value = (weights * (middle - error)).sum(2) - (direction.abs() * radius[:, 0]).sum(2)
        better = value > best
        best = torch.where(better, value, best)
        chosen = torch.where(better[..., None], direction, chosen)
        best_weights = torch.where(better[..., None], weights, best_weights)
        rows = middle - (cotangent * (radius * direction.sign()[:, :, None])).sum(3)
        size = (rows - rows.mean(2, keepdim=True)).abs().amax(2, keepdim=True).clamp(min=1e-300)
        weights = torch.softmax(weights.log() + 2 * 0.85**step * rows / size, 2).float().to(bound)
    return best[..., None], chosen[:, :, None], best_weights


def _clipped(
    box: Bounds, bound: Float[Tensor, "batch group rows"], cotangent: Float[Tensor, "batch group rows inputs"]
) -> tuple[Float[Tensor, "batch group inputs"], Float[Tensor, "batch group inputs"]]:
    """The boxes that each clause's unsafe points lie in.

    A row is at least its `bound`, where every input is at the end that its coefficient asks for, and grows by the
    coefficient's size with the distance from there; beyond distance `-bound / |coefficient|` it is positive.
    """
    reach = (-bound.clamp(max=0))[..., None] / cotangent.abs()
    reach = _next(torch.where(reach.isnan(), torch.inf, reach), torch.inf)
    low, high = box.lower[:, None, None], box.upper[:, None, None]
    upper = torch.where(cotangent > 0, _next(low + reach, torch.inf), high)
    lower = torch.where(cotangent < 0, _next(high - reach, -torch.inf), low)
    return torch.maximum(lower.amax(2), box.lower[:, None]), torch.minimum(upper.amin(2), box.upper[:, None])


def _next(value: Tensor, towards: float) -> Tensor:
    """The next number in that direction: rounding to nearest has moved no further."""
    return torch.nextafter(value, value.new_tensor(towards))
