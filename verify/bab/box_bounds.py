"""Bounding boxes of the input, for all clauses of a group; what is inherited is the box and, perhaps, bounds that hold on it.

A subproblem stands for all clauses on one box that share it as a group, or for the one that is left of them: intermediate bounds, the dear
part, are theirs in common. A clause's rows bound linear functions of the input from below, so its unsafe points lie in a smaller box, which the
subproblem is clipped to. Every bound charges its own rounding errors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.bab.strategy import B, Bounded, Objectives, grouped
from verify.bab.techniques.clipping import Clipping
from verify.bounders.halfspaces import Halfspaces
from verify.bounders.ibp import Pair, interval, interval_rows, magnitudes
from verify.branching.inputs import input_steps_open
from verify.deadline import Deadline
from verify.lagrangian.dual import DualProblem
from verify.network.graph import Network
from verify.problem import Problem
from verify.room import at_once
from verify.state import Bounds, Objective, Struct, Subproblems, fetched, sent

_GROUP = 32  # clauses that a subproblem stands for, at most
_SLACK = 1e-9  # of the terms that a bound is a sum of
_MOST_ELEMENTS = 2**25  # variables of all objectives that are bounded at once


@dataclass(frozen=True)
class Groups:
    """The clauses that are left, in groups that share a box: each clause's group (-1: none), and the groups' members."""

    of_clause: Int[Tensor, " clauses"]
    members: Int[Tensor, "groups group"]

    @classmethod
    def of(cls, problem: Problem, clauses: Int[Tensor, " left"], device: torch.device) -> Groups:
        """From now on these clauses are all there are."""
        group_of, members = grouped(problem.box_of[clauses.numpy()].tolist(), _GROUP)
        of_clause = torch.full((problem.clauses,), -1)
        of_clause[clauses] = group_of
        return cls(of_clause.to(device), clauses[members].to(device))


@dataclass(frozen=True)
class InBrief(Struct):
    """What is decided by of bounded boxes. before: the bounds that they inherited."""

    refuted: Bool[Tensor, " batch"]
    tried: Int[Tensor, " batch"]
    before: Float[Tensor, " batch"]
    bound: Float[Tensor, " batch"]


@dataclass(frozen=True)
class BoundedBoxes(Bounded):
    """What bounding boxes afresh gives, of the clause that is furthest from refuted, and where all unsafe points lie.

    (Of all clauses of a subproblem: `refuted` is said of all.) tried: the last kind of tightening that was tried. members: the clauses that
    it stands for.
    """

    bounds: Bounds
    clause: Int[Tensor, " batch"]
    bound: Float[Tensor, " batch"]
    cotangent: Float[Tensor, "batch inputs"]
    lower: Float[Tensor, "batch inputs"]
    upper: Float[Tensor, "batch inputs"]
    # whether it is the only one left
    alone: Bool[Tensor, " batch"]
    # what the rows tell that all open clauses have
    unsafe: Halfspaces
    members: Int[Tensor, "batch group"]
    # which passes were made, and the weights of each clause's rows, as joined
    made: Bool[Tensor, "batch passes"]
    weights: Float[Tensor, "batch passes group rows"]
    # which of the clauses some pass refutes
    closed: Bool[Tensor, "batch group"]
    # each clause's multipliers in the pass that has them for a proof; before, there are no columns
    rho: Float[Tensor, "batch group multipliers"]
    tried: Int[Tensor, " batch"]

    def on_host(self: B) -> B:
        """Where they are: boxes have too much beside them to be brought to the CPU before they have to wait."""
        return self

    @cached_property
    def in_brief(self) -> InBrief:
        """What is decided by, on the CPU, brought there once."""
        return self.told()[0]

    def told(self, *beside: Tensor) -> tuple[InBrief, tuple[Tensor, ...]]:
        """As `in_brief`, together with more."""
        found = InBrief(self.refuted, self.tried, self.subproblems.lower_bound, self.bound)
        return (found, beside) if self.refuted.device.type == "cpu" else fetched(found, *beside)

    def better(self, other: BoundedBoxes) -> BoundedBoxes:
        """The better bound of the two, and the box that both have in common; without one, nothing in it is unsafe."""
        lower, upper = torch.maximum(self.lower, other.lower), torch.minimum(self.upper, other.upper)
        closed = self.closed | other.closed
        return replace(
            self,
            bound=torch.maximum(self.bound, other.bound),
            refuted=self.refuted | other.refuted | (lower > upper).any(1) | closed.all(1),
            closed=closed,
            lower=lower,
            upper=upper,
            made=self.made | other.made,
            weights=self.weights + other.weights,
        )


@dataclass(frozen=True, eq=False)
class BoxBounder:
    """CROWN's bound of every row of every clause, on whatever bounds of the pre-activations are given.

    passes: how many a box may have, the first included. proves: whether what they find is written down: then bounds have some slack for who
    rounds in another way.
    """

    problem: Problem
    network: Network
    objectives: Objectives
    passes: int
    proves: bool = False
    clipping: Clipping = Clipping()

    @cached_property
    def working(self) -> Network:
        """The network in float32."""
        return self.network.to(self.network.device, torch.float32)

    def boxes(self, subproblems: Subproblems) -> Bounds:
        """The input boxes: the clauses' own, split and clipped."""
        lower, upper = (
            sent(end, self.network.device) for end in self.problem.boxes(subproblems.clause.tolist())
        )
        box = subproblems.splits.of(0, self.network.inputs).apply(Bounds(lower, upper))
        inputs = slice(0, self.network.inputs)
        return Bounds(
            torch.maximum(box.lower, subproblems.constrained_lower[:, inputs]),
            torch.minimum(box.upper, subproblems.constrained_upper[:, inputs]),
        )

    def intervals(self, subproblems: Subproblems, box: Bounds) -> Bounds:
        """Bounds of all variables on input boxes: no looser than inherited ones, those of steps that are split on their sides."""
        return self._intervals(subproblems, box)[0]

    def _intervals(self, subproblems: Subproblems, box: Bounds) -> tuple[Bounds, Pair]:
        network, lower, upper = self.network, subproblems.constrained_lower, subproblems.constrained_upper
        split = subproblems.split_variable >= network.inputs
        inherited = lower.shape[1] == network.variables
        if not inherited and not bool(split.any()):
            return interval(network, box.lower, box.upper)
        if not inherited:
            upper = box.lower.new_full((len(box), network.variables), torch.inf)
            lower = -upper
        known = subproblems.splits.of(network.inputs, network.variables).apply(Bounds(lower, upper))
        return interval(network, box.lower, box.upper, known)

    def on_intervals(
        self, subproblems: Subproblems, whole: Bounds, groups: Groups, deadline: Deadline
    ) -> BoundedBoxes:
        """The first pass, on interval bounds."""
        bounds, outputs = self._intervals(subproblems, whole)
        return self.bounded(subproblems, bounds, groups, 0, deadline, outputs)

    def bounded(
        self,
        subproblems: Subproblems,
        bounds: Bounds,
        groups: Groups,
        number: int,
        deadline: Deadline,
        outputs: Pair | None = None,
    ) -> BoundedBoxes:
        """Every row of every clause bounded by CROWN, in the first pass (0) or a later one.

        outputs: their intervals, where these may do.
        """
        members = subproblems.clause[:, None]
        if not bool(subproblems.alone.all()):
            members = groups.members[groups.of_clause[subproblems.clause]]
        if outputs is not None and self.network.has_steps:
            bound, cotangent = self._intervals_first(bounds, outputs, self.rows(members), deadline)
        else:
            bound, cotangent = self._crown(bounds, self.rows(members), deadline)
        shape = (*members.shape, self.problem.rows)
        bound = torch.where(bound.isfinite(), bound, -torch.inf).reshape(shape)
        cotangent = cotangent.nan_to_num(nan=0.0).reshape(*shape, -1)
        inputs = slice(0, self.network.inputs)
        box = Bounds(bounds.lower[:, inputs], bounds.upper[:, inputs])
        # half-spaces have no slack: who rounds in another way is to choose the same slopes
        exact, bound = (bound, cotangent), self.with_slack(bound, cotangent, box)
        weights = bound.new_zeros(len(bound), self.passes, *shape[1:])
        made = torch.zeros_like(weights[..., 0, 0], dtype=torch.bool)
        made[:, number] = True
        if self.problem.rows > 1:
            joint, direction, weights[:, number] = self.clipping.joined(box, bound, cotangent)
            bound, cotangent = torch.cat([bound, joint], 2), torch.cat([cotangent, direction], 2)
        lower, upper = self.clipping.clipped(box, bound, cotangent)
        refuted = (bound > 0).any(2) | (lower > upper).any(2) | self._empty(bounds)[:, None]
        open_clause = ~refuted[..., None]
        nearest, row = bound.max(2)
        worst = torch.where(refuted, torch.inf, nearest).argmin(1, keepdim=True)
        row = row.gather(1, worst)[:, 0]
        cotangent = cotangent[torch.arange(len(row), device=row.device), worst[:, 0], row]
        clause = members.gather(1, worst)
        return BoundedBoxes(
            subproblems=subproblems,
            refuted=refuted.all(1),
            minimiser=torch.where(cotangent > 0, box.lower, box.upper),
            bounds=bounds,
            clause=clause[:, 0],
            alone=((members == clause) | refuted).all(1),
            bound=nearest.gather(1, worst)[:, 0],
            cotangent=cotangent,
            lower=torch.where(open_clause, lower, torch.inf).amin(1),
            upper=torch.where(open_clause, upper, -torch.inf).amax(1),
            unsafe=self._unsafe(members, box, *exact, refuted),
            members=members,
            made=made,
            weights=weights,
            closed=refuted,
            rho=bound.new_zeros(*members.shape, 0, dtype=torch.float32),
            tried=torch.zeros_like(subproblems.clause),
        )

    def with_slack(self, bound: Tensor, cotangent: Tensor, box: Bounds) -> Tensor:
        """Bounds [batch, group, ..] of linear functions, less some slack for who rounds in another way."""
        if not self.proves:
            return bound
        reach = torch.maximum(box.lower.abs(), box.upper.abs())
        size = (cotangent.abs() * reach.reshape(len(reach), *[1] * (cotangent.dim() - 2), -1)).sum(-1)
        return bound - _SLACK * (bound.abs() + size)

    def _empty(self, bounds: Bounds) -> Bool[Tensor, " batch"]:
        """Whether some variable has no value left."""
        if not self.proves:
            return bounds.empty
        slack = _SLACK * (bounds.lower.abs() + bounds.upper.abs())
        return (bounds.lower - slack > bounds.upper).any(1)

    def _unsafe(
        self, members: Tensor, box: Bounds, bound: Tensor, cotangent: Tensor, refuted: Tensor
    ) -> Halfspaces:
        """Where none of the rows is positive that all open clauses of a subproblem have."""
        numbers = self.objectives.row_numbers(members)
        every, first = torch.arange(len(members), device=members.device), (~refuted).to(torch.uint8).argmax(1)
        asked = numbers[every, first]
        has = (numbers[..., None] == asked[:, None, None]).any(2)
        shared = (has | refuted[..., None]).all(1)
        return Halfspaces.of(box, bound[every, first], cotangent[every, first], shared)

    def _intervals_first(
        self, bounds: Bounds, outputs: Pair, objective: Objective, deadline: Deadline
    ) -> tuple[Tensor, Tensor]:
        """As `_crown`, but by intervals alone where these refute all, and where steps of the inputs are to be split first.

        A row has slopes with the bound that they belong to alone: with a greater one they would bound nothing.
        """
        inputs = bounds.lower[:, : self.network.inputs], bounds.upper[:, : self.network.inputs]
        bound = interval_rows(self.network, objective, inputs, outputs)[..., 0]
        cotangent = bound.new_zeros(*bound.shape, self.network.inputs)
        open_steps = input_steps_open(self.network, bounds)
        left = (~(open_steps | (bound > 0).all(1) | bounds.empty)).nonzero()[:, 0]
        if len(left):
            some, slopes = self._crown(bounds.select(left), objective.select(left), deadline)
            crown = some.isfinite() & ~(bound[left] > 0)
            bound[left] = torch.where(crown, some, bound[left])
            cotangent[left] = torch.where(crown[..., None], slopes, 0.0)
        return bound, cotangent

    def _crown(self, bounds: Bounds, objective: Objective, deadline: Deadline) -> tuple[Tensor, Tensor]:
        """CROWN's bound of every objective and its slopes, as many objectives at a time as the memory holds."""
        sizes = magnitudes(self.network, bounds)
        most = max(1, at_once(_MOST_ELEMENTS, self.network.device) // (len(bounds) * self.network.variables))
        every = torch.arange(objective.thresholds.shape[1], device=self.network.device)
        asked = [objective.map(lambda part, some=some: part[:, some]) for some in every.split(most)]
        problem, found = DualProblem(self.network, bounds, asked[0]), []
        for part in asked:
            deadline.check()
            some = problem.asked(part)
            found.append(some.evaluate(some.initial(), sizes))
        return torch.cat([one.bound for one in found], 1), torch.cat(
            [one.input_cotangent for one in found], 1
        )

    def rows(self, members: Int[Tensor, "batch group"]) -> Objective:
        """Every row of every clause as an objective of its own."""
        clauses = self.objectives.of(members.flatten(), torch.float64)
        shape = (len(members), members.shape[1] * self.problem.rows, 1)
        return Objective(
            clauses.coefficients.reshape(*shape, -1),
            clauses.thresholds.reshape(shape),
            clauses.input_coefficients.reshape(*shape, clauses.input_coefficients.shape[3]),
        )
