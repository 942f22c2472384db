"""How regions are bounded and split: two strategies behind one interface.

`SplitActivations` keeps the root's intermediate bounds and cuts pre-activations; children inherit their parent's dual point
and climb from it in float32. `SplitInputs` halves the input box and computes all intermediate bounds afresh in float64. In
both a region is *refuted* only by a float64 sweep that charges its own rounding errors; a float32 bound is a proposal.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from verify.bounders.backward import IntermediateBounds
from verify.bounders.dual import DualProblem
from verify.bounders.interval import interval, magnitudes
from verify.bounders.output_constrained import OutputConstrained
from verify.bounders.restricted import Restricted
from verify.branchers.fsb import FilteredSmartBranching, Split
from verify.branchers.inputs import widest_effect
from verify.deadline import Deadline
from verify.network.graph import Network
from verify.problem import Problem
from verify.search.unsafe import UnsafeBounds
from verify.state import Bounds, DualState, Objective, Struct, Subproblems

_ROOT_SHARE = 0.15  # of the time left, for optimised intermediate bounds


@dataclass(frozen=True)
class Bounded:
    """Regions with their new bounds, which of them are refuted for certain, and an input to try for the others."""

    regions: Subproblems
    refuted: Bool[Tensor, " batch"]
    minimiser: Float[Tensor, "batch inputs"]


class Strategy(Protocol):
    """Bounds regions and splits those left open."""

    def roots(self, clauses: Sequence[int], deadline: Deadline) -> Bounded:
        """The clauses' whole boxes, bounded."""

    def bound(self, regions: Subproblems, deadline: Deadline) -> Bounded:
        """Bounds the regions, each no looser than what it inherited."""

    def choose(self, regions: Subproblems) -> Split:
        """Where to cut each region; variable -1 where nothing is left to cut."""


def _fresh(
    problem: Problem, clauses: Sequence[int], parameters: int, device: torch.device, tail: int = 0
) -> Subproblems:
    count = len(clauses)
    unknown = torch.full((count, tail), torch.inf, dtype=torch.float64, device=device)
    none = torch.zeros(count, 0, dtype=torch.int64, device=device)
    return Subproblems(
        torch.tensor(list(clauses), dtype=torch.int64, device=device), torch.full((count,), -torch.inf, device=device),
        none, none.double(), none, none.to(torch.float32),
        torch.full((count, problem.rows), 1 / problem.rows, device=device),
        torch.zeros(count, parameters, device=device), -unknown, unknown,
        torch.full((count,), -torch.inf, device=device),
    )  # fmt: skip


class _Objectives:
    """The clauses' objectives, built once each and gathered by clause number."""

    def __init__(self, problem: Problem, device: torch.device) -> None:
        self._problem, self._device = problem, device
        self._known: dict[int, int] = {}
        self._table: list[Objective] = []

    def prepare(self, clauses: Sequence[int]) -> None:
        """Makes the given clauses known."""
        new = [clause for clause in clauses if clause not in self._known]
        if new:
            start = len(self._known)
            self._known.update({clause: start + i for i, clause in enumerate(new)})
            self._table = [
                Objective.concatenate(
                    [*self._table, self._problem.objective(new).to(self._device, torch.float64)]
                )
            ]

    def of(self, clauses: Tensor, dtype: torch.dtype) -> Objective:
        """The objectives of the given clause numbers."""
        rows = torch.tensor([self._known[clause] for clause in clauses.tolist()], device=self._device)
        return self._table[0].select(rows).to(self._device, dtype)


class _Boxes:
    """The root bounds of input boxes, one row each, in the precisions they are asked for."""

    def __init__(self, problem: Problem, network: Network) -> None:
        self._problem, self._network = problem, network
        self._row: dict[int, int] = {}
        self._table: dict[torch.dtype, Bounds] = {}

    def rows(self, clauses: Sequence[int]) -> Tensor:
        """The rows of the clauses' boxes; unknown ones are made, with bounds by interval arithmetic."""
        boxes = self._problem.box_of[list(clauses)].tolist()
        new = {box: clause for box, clause in zip(boxes, clauses, strict=True) if box not in self._row}
        if new:
            lower, upper = (end.to(self._network.device) for end in self._problem.boxes(list(new.values())))
            bounds, _ = interval(self._network, lower, upper)
            self._row.update({box: len(self._row) + i for i, box in enumerate(new)})
            known = [self._table[torch.float64]] if self._table else []
            self._set(Bounds.concatenate([*known, bounds]))
        return torch.tensor([self._row[box] for box in boxes], device=self._network.device)

    def _set(self, table: Bounds) -> None:
        self._table = {torch.float64: table}

    def tighten(self, rows: Tensor, tight: Bounds) -> None:
        """Replaces the given rows."""
        self._set(self._table[torch.float64].updated(rows, tight))

    def all(self, dtype: torch.dtype = torch.float64) -> Bounds:
        """The table. In lower precision it is rounded to nearest: good enough to climb on, not to prove by."""
        if dtype not in self._table:
            self._table[dtype] = self._table[torch.float64].to(self._network.device, dtype)
        return self._table[dtype]


class SplitActivations:
    """Root bounds for good, cuts of pre-activations, inherited dual points."""

    def __init__(
        self, problem: Problem, network: Network, intermediate: IntermediateBounds, optimised: IntermediateBounds,
        root: Restricted, child: Restricted, brancher: FilteredSmartBranching,
        unsafe: OutputConstrained | None = None, fast: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        self.problem, self.network = problem, network
        self.intermediate, self.optimised = intermediate, optimised
        self.root, self.child, self.brancher = root, child, brancher
        self.fast_network = network.to(network.device, fast)
        self.unsafe = UnsafeBounds(network, unsafe)
        self._objectives = _Objectives(problem, network.device)
        self._boxes = _Boxes(problem, network)
        self._sizes: dict[int, Tensor] = {}
        # A cut of one factor says much of the factors and quotients behind it: there intervals are worth redoing.
        self._propagates = any(
            layer.activation.post_size(layer.size) != layer.size for layer in network.layers
        )

    def roots(self, clauses: Sequence[int], deadline: Deadline) -> Bounded:
        """CROWN on interval bounds first; only clauses still open get intermediate bounds and an ascent."""
        self._objectives.prepare(clauses)
        device, tail = self.network.device, self.unsafe.width
        regions = _fresh(self.problem, clauses, self.network.parameters, device, tail)
        refuted = self._quickly_refuted(regions)
        minimiser = regions.parameters.new_zeros(len(regions), self.network.inputs)
        left = (~refuted).nonzero()[:, 0]
        for intermediate in (self.intermediate, self.optimised):
            if not len(left):
                break
            self._bound_boxes(regions.clause[left].tolist(), intermediate, deadline)
            chosen = regions.select(left)
            chosen = chosen.with_state(chosen.lower_bound, self._dual(chosen, self.fast_network).initial())
            climbed = self._climb(chosen, self.root, deadline)
            minimiser[left], refuted[left] = climbed.minimiser, climbed.refuted
            regions = regions.updated(left, climbed.regions)
            left = (~refuted).nonzero()[:, 0]
        return self._tighten(Bounded(regions, refuted, minimiser), deadline)

    def _quickly_refuted(self, regions: Subproblems) -> Bool[Tensor, " batch"]:
        lower, upper = (end.to(self.network.device) for end in self.problem.boxes(regions.clause.tolist()))
        bounds, _ = interval(self.network, lower, upper)
        problem = DualProblem(self.network, bounds, self._objectives.of(regions.clause, torch.float64))
        bound = problem.evaluate(problem.initial(), magnitudes(self.network, bounds)).bound[:, 0]
        return (bound > 0) & bound.isfinite()

    def _bound_boxes(self, clauses: Sequence[int], method: IntermediateBounds, deadline: Deadline) -> None:
        """Tightens the table's rows of the clauses' boxes."""
        rows = self._boxes.rows(clauses).unique()
        part = len(clauses) / self.problem.clauses  # roots come in batches, which share the share
        enough = None if method.ascent is None else deadline.share(_ROOT_SHARE * part)
        box = self._boxes.all().select(rows)
        self._boxes.tighten(rows, method.tighten(self.network, box, deadline, self.fast_network, enough))
        self._sizes = magnitudes(self.network, self._boxes.all())

    def root_bounds(self, clause: int) -> Bounds:
        """The root's bounds of a clause's box."""
        return self._boxes.all().select(self._boxes.rows([clause]))

    def _dual(self, regions: Subproblems, network: Network) -> DualProblem:
        rows = self._boxes.rows(regions.clause.tolist())
        if self._propagates and regions.cut_variable.shape[1]:
            bounds, inputs = regions.cuts.apply(self._boxes.all().select(rows)), slice(0, self.network.inputs)
            bounds, _ = interval(self.network, bounds.lower[:, inputs], bounds.upper[:, inputs], bounds)
            bounds = bounds.to(network.device, network.dtype)
        else:
            bounds = regions.cuts.apply(self._boxes.all(network.dtype).select(rows))
        bounds = self.unsafe.apply(bounds, regions)
        return DualProblem(network, bounds, self._objectives.of(regions.clause, network.dtype), regions.cuts)

    def bound(self, regions: Subproblems, deadline: Deadline) -> Bounded:
        # The new cut's multiplier would leave the bound as it was; from 0 the climb mostly gets further.
        start = regions.cut_multipliers.clone()
        start[:, -1:] = 0
        fresh = replace(regions, cut_multipliers=start)
        return self._tighten(self._climb(fresh, self.child, deadline, regions.state), deadline)

    def _tighten(self, bounded: Bounded, deadline: Deadline) -> Bounded:
        """Regions left open get bounds over their unsafe points, as long as these pay, and climb on."""
        refuted, minimiser, regions = bounded.refuted.clone(), bounded.minimiser.clone(), bounded.regions
        while True:
            rows = (~refuted).nonzero()[:, 0]
            rows = rows[self.unsafe.due(regions.select(rows))]
            if not len(rows):
                return Bounded(regions, refuted, minimiser)
            chosen = regions.select(rows)
            problem, fast = self._dual(chosen, self.network), self._dual(chosen, self.fast_network)
            state = fast.clamp(chosen.state.to(fast.bounds.lower.device, fast.bounds.lower.dtype))
            tight = self.unsafe.tighten(chosen, problem, fast, state, self._sizes, deadline)
            climbed = self._climb(tight, self.child, deadline)
            learned = self.unsafe.learned(chosen, climbed.regions)
            regions = regions.updated(rows, learned)
            minimiser[rows], refuted[rows] = climbed.minimiser, climbed.refuted

    def _climb(
        self, regions: Subproblems, method: Restricted, deadline: Deadline, kept: DualState | None = None
    ) -> Bounded:
        """Bounds the regions from their states; where that ends below what they inherited, they take the state `kept`."""
        problem = self._dual(regions, self.fast_network)
        empty = problem.bounds.empty
        climbed = method.ascend(
            problem, regions.state.to(self.network.device, self.fast_network.dtype), 0.0, deadline
        )
        inherited, state = regions.lower_bound, climbed.state
        if kept is not None:
            better = (climbed.bound[:, 0] >= inherited).nonzero()[:, 0]
            state = kept.to(state.parameters.device, state.parameters.dtype).updated(
                better, state.select(better)
            )
        regions = regions.with_state(torch.maximum(climbed.bound[:, 0], inherited), state)
        refuted = self._certified(regions, (climbed.bound[:, 0] > 0) | empty)
        regions = replace(
            regions, lower_bound=torch.where(refuted, regions.lower_bound, regions.lower_bound.clamp(max=0))
        )
        return Bounded(regions, refuted, climbed.minimiser[:, 0])

    def _certified(self, regions: Subproblems, proposed: Bool[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
        """Which of the proposed refutations hold over the reals."""
        refuted = torch.zeros_like(proposed)
        rows = proposed.nonzero()[:, 0]
        if len(rows):
            chosen = regions.select(rows)
            problem = self._dual(chosen, self.network)
            state = problem.clamp(chosen.state.to(self.network.device, torch.float64))
            bound = problem.evaluate(state, self._sizes).bound[:, 0]
            refuted[rows] = ((bound > 0) & bound.isfinite()) | problem.bounds.empty
        return refuted

    def _children(self, regions: Subproblems, variable: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of both children of candidate cuts, as the search itself would first see them."""
        owners = torch.arange(len(regions), device=variable.device).repeat_interleave(variable.shape[1])
        none = regions.parameters.new_zeros(len(owners), 2)
        children = regions.select(owners).split(variable.flatten(), value.flatten(), none)
        problem = self._dual(children, self.fast_network)
        state = problem.clamp(children.state.to(self.network.device, self.fast_network.dtype))
        bounds = torch.where(problem.bounds.empty, torch.inf, problem.evaluate(state).bound[:, 0])
        upper, lower = bounds.reshape(2, *variable.shape)
        return upper, lower

    def choose(self, regions: Subproblems) -> Split:
        problem = self._dual(regions, self.fast_network)
        state = problem.clamp(regions.state.to(self.network.device, self.fast_network.dtype))
        children = partial(self._children, regions) if self._propagates else None
        split = self.brancher.choose(problem, state, children)
        stuck = split.variable < 0
        if bool(stuck.any()):
            inputs = slice(0, self.network.inputs)
            cotangent = problem.evaluate(state).input_cotangent[:, 0]
            halves = widest_effect(
                cotangent, problem.bounds.lower[:, inputs], problem.bounds.upper[:, inputs]
            )
            split = Split(
                torch.where(stuck, halves.variable, split.variable),
                torch.where(stuck, halves.value, split.value),
                torch.where(stuck[:, None], 0.0, split.multipliers),
            )
        return split


@dataclass(frozen=True)
class Found(Struct):
    """What bounding a box afresh gives."""

    bound: Float[Tensor, " batch"]
    refuted: Bool[Tensor, " batch"]
    cotangent: Float[Tensor, "batch inputs"]
    minimiser: Float[Tensor, "batch inputs"]


@dataclass
class Effort:
    """Whether intermediate bounds are worth their price, found out by paying it now and then.

    They are when they close many more boxes than the quick bound does, or, where neither closes any, when they more
    than halve what is missing: a further split would do as much for the price of two quick bounds.
    """

    period: int = 8
    _since: int = 0
    _pays: bool = True

    def worth_it(self) -> bool:
        """Whether to pay this time."""
        self._since += 1
        return self._pays or self._since >= self.period

    def learn(
        self, quick: Found, tight: Found, total: int, quick_seconds: float, tight_seconds: float
    ) -> None:
        """Compares both bounds on the boxes that the quick one left open, of `total`."""
        self._since = 0
        closed_quickly, closed = total - len(quick.refuted), total - int((~tight.refuted).sum())
        dear = tight_seconds > 3 * quick_seconds
        if closed:
            enough = closed_quickly >= 0.4 * closed
        else:
            enough = bool((tight.bound < 0.5 * quick.bound).float().mean() > 0.5)
        self._pays = not (dear and enough)


class SplitInputs:
    """Halved input boxes, everything recomputed in float64; nothing is inherited but the box."""

    def __init__(
        self, problem: Problem, network: Network, intermediate: IntermediateBounds, joint: Restricted
    ) -> None:
        self.problem, self.network, self.intermediate, self.joint = problem, network, intermediate, joint
        self._objectives = _Objectives(problem, network.device)
        self._effort = Effort()

    def roots(self, clauses: Sequence[int], deadline: Deadline) -> Bounded:
        self._objectives.prepare(clauses)
        regions = _fresh(self.problem, clauses, self.network.inputs, self.network.device)
        return self.bound(regions, deadline)

    def _input_boxes(self, regions: Subproblems) -> Bounds:
        lower, upper = (end.to(self.network.device) for end in self.problem.boxes(regions.clause.tolist()))
        return regions.cuts.apply(Bounds(lower, upper))

    def bound(self, regions: Subproblems, deadline: Deadline) -> Bounded:
        """CROWN on interval bounds first; what that leaves open gets intermediate bounds where they pay."""
        began = time.monotonic()
        box = self._input_boxes(regions)
        bounds, _ = interval(self.network, box.lower, box.upper)
        found = self._each_row(regions, bounds)
        left = (~found.refuted).nonzero()[:, 0]
        middle = time.monotonic()
        if len(left) and self._effort.worth_it():
            deadline.check()
            quick = found.select(left)
            tight = self._tightened(regions.select(left), bounds.select(left), quick, deadline)
            found = found.updated(left, tight)
            self._effort.learn(quick, tight, len(regions), middle - began, time.monotonic() - middle)
        scale = found.cotangent.abs().amax(1, keepdim=True).clamp(min=1e-300)
        lower_bound = torch.where(found.refuted, found.bound, found.bound.clamp(max=0)).float()
        lower_bound = torch.maximum(lower_bound, regions.lower_bound)
        regions = replace(regions, lower_bound=lower_bound, parameters=(found.cotangent / scale).float())
        return Bounded(regions, found.refuted, found.minimiser)

    def _tightened(self, regions: Subproblems, bounds: Bounds, quick: Found, deadline: Deadline) -> Found:
        tight = self.intermediate.tighten(self.network, bounds, deadline)
        found = self._each_row(regions, tight)
        better = quick.bound > found.bound
        found = replace(found, bound=torch.where(better, quick.bound, found.bound))
        return self._jointly(regions, tight, found, deadline) if self.joint.iterations else found

    def _each_row(self, regions: Subproblems, bounds: Bounds) -> Found:
        """The best single row's CROWN bound, with its input coefficients and minimiser."""
        joint = self._objectives.of(regions.clause, torch.float64)
        rows = Objective(
            joint.coefficients.transpose(1, 2), joint.thresholds.transpose(1, 2),
            joint.input_coefficients.transpose(1, 2),
        )  # fmt: skip
        problem = DualProblem(self.network, bounds, rows)
        sweep = problem.evaluate(problem.initial(), magnitudes(self.network, bounds))
        bound, row = torch.where(sweep.bound.isfinite(), sweep.bound, -torch.inf).max(1)
        cotangent = sweep.input_cotangent.gather(1, row[:, None, None].expand(-1, 1, self.network.inputs))[
            :, 0
        ]
        return self._found(bounds, bound, cotangent)

    def _jointly(self, regions: Subproblems, bounds: Bounds, before: Found, deadline: Deadline) -> Found:
        """All rows of each conjunction at once, their weights and all slopes optimised."""
        problem = DualProblem(self.network, bounds, self._objectives.of(regions.clause, torch.float64))
        state = problem.clamp(self.joint.ascend(problem, problem.initial(), 0.0, deadline).state)
        sweep = problem.evaluate(state, magnitudes(self.network, bounds))
        return self._found(
            bounds, torch.maximum(before.bound, sweep.bound[:, 0]), sweep.input_cotangent[:, 0]
        )

    def _found(self, bounds: Bounds, bound: Tensor, cotangent: Tensor) -> Found:
        inputs = slice(0, self.network.inputs)
        cotangent = cotangent.nan_to_num(nan=0.0)
        minimiser = torch.where(cotangent > 0, bounds.lower[:, inputs], bounds.upper[:, inputs])
        return Found(bound, ((bound > 0) & bound.isfinite()) | bounds.empty, cotangent, minimiser)

    def choose(self, regions: Subproblems) -> Split:
        box = self._input_boxes(regions)
        return widest_effect(regions.parameters.double(), box.lower, box.upper)
