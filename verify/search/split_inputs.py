"""Splitting inputs: halved boxes, bounded afresh in float64; nothing is inherited but the box.

A subproblem stands for all clauses on one box that share it as a group: intermediate bounds, the dear part, are theirs in common. A
clause's rows bound linear functions of the input from below, so its unsafe points lie in a smaller box, which the subproblem
is clipped to (as in Clip-and-Verify, Zhou et al. 2025). Every bound charges its own rounding errors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.bounders.dual import DualProblem
from verify.bounders.forward import forward
from verify.bounders.ibp import interval, magnitudes
from verify.bounders.intermediate import IntermediateBounds
from verify.bounders.tracing import Technique
from verify.branchers.fsb import Split
from verify.branchers.inputs import widest_effect
from verify.deadline import Deadline
from verify.memory import budget
from verify.network.graph import Network
from verify.problem import Problem
from verify.proof.tracer import NO_PROOF, InputBoxes, ProofTracer
from verify.search.strategy import Bounded, Mapper, Objectives, all_refuted, grouped, root_subproblems
from verify.state import Bounds, Objective, Struct, Subproblems

_GROUP = 32  # clauses that a subproblem stands for, at most
_DEAR = 2.0  # rows on a box for each column of forward bounds, from which on these come first
_TOGETHER = 256  # clauses
_LAST = 1 / 16  # of all neurons, in last layers that are tightened alone
_TRIAL = 4  # boxes at least that tighter bounds are tried on when they did not pay last time
_TRIALS = 0.1  # of the time before, for trials
_INTERVALS, _LINES = 1.0, 1.5  # orders of convergence: of bounds by intervals, and by linear functions
_MEMORY = 512  # boxes paid for
_BESIDE = 4  # of them on either side of a new one
_FADING = 0.7  # of what calls took, with every call
_SHARE = 0.5  # of the time left, that one pass of tightening may take
_GROWTH = 4  # times as many boxes as last time, at most
_MOST_ELEMENTS = 2**25  # variables of all objectives that are bounded at once
_JOINING_STEPS = 16  # of the weights of a clause's rows


@dataclass(frozen=True)
class Found(Struct):
    """What bounding a box afresh gives: of the clause that is furthest from refuted, and where its unsafe points lie."""

    clause: Int[Tensor, " batch"]
    bound: Float[Tensor, " batch"]
    refuted: Bool[Tensor, " batch"]  # all clauses of the subproblem
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

    What bounds are off by shrinks with the width to the `order`, so N times as many boxes of d open inputs leave `N^(-order / d)` of it.
    Tighter bounds for c times the price of what came before pay where they close a box that (c + 2) / 2 parts would not, or bring
    another nearer to 0 than 1 + c times as many boxes would. Far below 0 they are too loose for that, and next to it a split does
    as well, so a box is judged by those lately paid for whose bounds were nearest to its own.
    """

    def __init__(self, dimensions: int, order: float) -> None:
        self._dimensions, self._order = dimensions, order
        self._seen = torch.zeros(0, 3, dtype=torch.float64)  # columns as `_compared` gives them
        self._last = _TRIAL  # boxes
        self._calls = np.zeros(4)  # lately: sums of boxes, seconds, boxes^2, boxes * seconds
        self._weight = 0.0  # of these calls
        self._each = 1.0  # seconds that bounds as they were took
        self._tried = 0.0  # seconds spent in vain
        self._total = 0.0  # of all that came before

    def came_before(self, boxes: int, each: float) -> None:
        """Other bounds of so many boxes took so many seconds each."""
        self._each, self._total = each, self._total + boxes * each

    def chosen(self, bound: Float[Tensor, " open"]) -> Int[Tensor, " chosen"]:
        """For which boxes, by their bounds below 0, to pay now: where it pays, and for some more if that takes no longer."""
        share = self._share_paid(bound)
        if good := int((share > 0.5).sum()):
            count = min(max(good, self._together), _GROWTH * self._last, len(bound))
            return share.topk(count).indices
        budget = _TRIALS * self._total - self._tried
        affordable = int(budget / max(self._seconds, 1e-9))
        count = min(len(bound), max(_TRIAL, affordable)) if budget >= 0 else 0
        return torch.arange(count, device=bound.device) * len(bound) // max(count, 1)

    @property
    def _seconds(self) -> float:
        """A box takes, all in all; 0 where none has been paid for."""
        boxes, seconds, *_ = self._calls
        return float(seconds / max(boxes, 1.0))

    @property
    def _together(self) -> int:
        """Boxes that take twice as long together as what a call takes for none: by a line through the calls."""
        if not self._weight:
            return 0
        boxes, seconds, squares, products = self._calls / self._weight
        slope = (products - boxes * seconds) / max(squares - boxes**2, 1e-9)
        return int((seconds - slope * boxes) / slope) if 0 < slope * boxes < seconds else 0

    def _share_paid(self, bound: Float[Tensor, " open"]) -> Float[Tensor, " open"]:
        """Of the boxes lately seen with bounds next to these, the share that it paid for."""
        seen = self._seen
        if not len(seen):
            return torch.ones_like(bound)
        seen = seen[seen[:, 0].argsort()]
        paid = self._paid(seen).cumsum(0)
        at = torch.searchsorted(seen[:, 0].contiguous(), _logarithm(bound).to(seen))
        first, last = (at - _BESIDE).clamp(min=0), (at + _BESIDE).clamp(max=len(seen)) - 1
        before = torch.where(first > 0, paid[first - 1], 0.0)
        return ((paid[last] - before) / (last - first + 1)).to(bound)

    def _paid(self, seen: Float[Tensor, "boxes 3"]) -> Float[Tensor, " boxes"]:
        """1 where it paid, as prices are now."""
        price, power = self._seconds / max(self._each, 1e-9), -self._order / self._dimensions
        left = torch.where(seen[:, 2] > 0, ((price + 2) / 2) ** power, (price + 1) ** power)
        return (seen[:, 1] < left).to(seen)

    def learn(self, before: Found, after: Found, seconds: float) -> None:
        """From both bounds of boxes that were open before, and what the tighter ones took."""
        seen, count = _compared(before, after), len(before.bound)
        self._seen = torch.cat([self._seen, seen])[-_MEMORY:]
        self._last = max(count, _TRIAL)
        call = np.array([count, seconds, count**2, count * seconds])
        self._calls, self._weight = _FADING * self._calls + call, _FADING * self._weight + 1
        if float(self._paid(seen).mean()) <= 0.5:
            self._tried += seconds


def _logarithm(bound: Float[Tensor, " open"]) -> Float[Tensor, " open"]:
    """Of bounds' distances below 0."""
    return (-bound).clamp(1e-30, 1e30).log()


def _compared(before: Found, after: Found) -> Float[Tensor, "boxes 3"]:
    """Of each box the logarithm of the bound, the share of what it was off by that is left at most, and 1 where it is closed."""
    closed = (after.bound / (after.bound - before.bound)).clamp(min=0)
    left = torch.where(after.refuted, closed, after.bound / before.bound)
    return torch.stack([_logarithm(before.bound), left, after.refuted.to(left)], 1).double().cpu()


@dataclass(frozen=True)
class _Tier:
    """A way to tighten all variables' bounds, and whether it pays."""

    tighten: Callable[[Bounds, Deadline, Deadline], Bounds]  # given the deadline, and when it has cost enough
    effort: Effort


class SplitInputs:
    """Halves and clips input boxes, and bounds each afresh for all clauses of its group."""

    def __init__(
        self,
        problem: Problem,
        network: Network,
        intermediate: IntermediateBounds,
        tracer: ProofTracer = NO_PROOF,
    ) -> None:
        self.problem, self.network, self.intermediate = problem, network, intermediate
        self.tracer = tracer
        self._forward = self.tracer.proves(Technique.FORWARD)
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
        """Forward bounds, those of the last layers, those of all: dearer each."""
        network, dimensions = self.network, max(1, self.problem.free_inputs)
        tighten = self.intermediate.tighten

        def everything(bounds: Bounds, end: Deadline, soft_deadline: Deadline) -> Bounds:
            return tighten(network, bounds, end, soft_deadline=soft_deadline)

        tiers, order = list[_Tier](), _INTERVALS
        if self._forward:
            effort = Effort(dimensions, order)
            tiers.append(_Tier(lambda bounds, end, _: forward(network, bounds, end).bounds, effort))
            order = _LINES
        last = _last_layers(network)
        if last < len(network.layers) and self.tracer.proves(Technique.LAST_LAYERS):
            some = partial(self.intermediate.tighten_last, network, last)
            tiers.append(_Tier(some, Effort(dimensions, order)))
        return [*tiers, _Tier(everything, Effort(dimensions, order))]

    def clauses_of(self, clauses: Tensor) -> list[int]:
        groups = self._group_of[clauses.to(self._group_of.device)].unique()
        return sorted(self._members[groups].unique().tolist())

    def roots(self, batch: int, deadline: Deadline) -> Iterator[Bounded]:
        """Groups of clauses on their whole boxes; before that, where so many share a box that forward bounds are cheaper, those."""
        if self._forward:
            refuted = self._refuted_together(deadline)
            closed = root_subproblems(
                self.problem.rows, refuted.nonzero()[:, 0].tolist(), 0, self.network.device
            )
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
        subproblems = root_subproblems(
            self.problem.rows, groups[:, 0].tolist(), inputs, device, inputs, torch.float64
        )
        return self.tracer.roots(subproblems, groups)

    def _boxes(self, subproblems: Subproblems) -> Bounds:
        """The input boxes: the clauses' own, split and clipped."""
        lower, upper = (
            end.to(self.network.device) for end in self.problem.boxes(subproblems.clause.tolist())
        )
        box = subproblems.splits.apply(Bounds(lower, upper))
        return Bounds(
            torch.maximum(box.lower, subproblems.constrained_lower),
            torch.minimum(box.upper, subproblems.constrained_upper),
        )

    def bound(self, subproblems: Subproblems, deadline: Deadline) -> Bounded:
        """CROWN on intervals first; what that leaves open gets tighter bounds where they pay."""
        began = time.monotonic()
        whole = self._boxes(subproblems)
        bounds, _ = interval(self.network, whole.lower, whole.upper)
        found = self._found(subproblems, bounds, 0, deadline)
        passes = torch.ones_like(subproblems.clause)
        for tier in self._tiers:
            left = (~found.refuted).nonzero()[:, 0]
            tier.effort.came_before(len(left), (time.monotonic() - began) / len(subproblems))
            while len(left) and len(chosen := tier.effort.chosen(found.bound[left])):
                deadline.check()
                rows, left = left[chosen], left[_others(chosen, len(left))]
                started, before = time.monotonic(), found.select(rows)
                tight = tier.tighten(bounds.select(rows), deadline, deadline.share(_SHARE))
                after = self._found(subproblems.select(rows), tight, 1, deadline).intersected(before)
                seconds = time.monotonic() - started
                bounds, found, passes[rows] = bounds.updated(rows, tight), found.updated(rows, after), 3
                tier.effort.learn(before, after, seconds)
        boxes = InputBoxes(found.refuted, passes, found.weights, found.lower, found.upper)
        box = self.tracer.input_boxes(subproblems, whole, boxes)
        scale = found.cotangent.abs().amax(1, keepdim=True).clamp(min=1e-300)
        lower_bound = torch.where(found.refuted, found.bound, found.bound.clamp(max=0)).float()
        lower_bound = torch.maximum(lower_bound, subproblems.lower_bound)
        subproblems = replace(
            subproblems, clause=found.clause, lower_bound=lower_bound, alpha=(found.cotangent / scale).float(),
            constrained_lower=box.lower, constrained_upper=box.upper,
        )  # fmt: skip
        return Bounded(subproblems, found.refuted, found.minimiser)

    def _found(self, subproblems: Subproblems, bounds: Bounds, number: int, deadline: Deadline) -> Found:
        """Every row of every clause bounded by CROWN, in the first pass (0) or the second."""
        members = self._members[self._group_of[subproblems.clause]]
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
        most = max(1, budget().at_once(_MOST_ELEMENTS) // (len(bounds) * self.network.variables))
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

    def refine_roots(
        self, waiting: Subproblems, batch: int, deadline: Deadline, run: Mapper
    ) -> tuple[Subproblems, list[Bounded]]:
        return waiting, []

    def choose(self, subproblems: Subproblems, deadline: Deadline) -> Split:
        box = self._boxes(subproblems)
        return widest_effect(subproblems.alpha.double(), box.lower, box.upper)


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
