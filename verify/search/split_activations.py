"""Splitting activations: the root's intermediate bounds are kept, pre-activations split, dual points inherited.

Children climb from their parent's dual point in float32; a subproblem is *refuted* only by a float64 sweep that charges its own
rounding errors.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from verify.bounders.dual import DualProblem
from verify.bounders.ibp import interval, magnitudes
from verify.bounders.intermediate import IntermediateBounds
from verify.bounders.linear_program import LinearProgram
from verify.bounders.output_constrained import OutputConstrained
from verify.bounders.restricted import Restricted
from verify.bounders.tracing import Technique
from verify.branchers.fsb import FilteredSmartBranching, Split
from verify.branchers.inputs import widest_effect
from verify.deadline import Deadline
from verify.network.activations.relu import Relu
from verify.network.graph import Network
from verify.network.reduced import Reduced
from verify.problem import Problem
from verify.proof.tracer import NO_PROOF, ProofTracer
from verify.search.branched_bounds import BranchedBounds, places_behind
from verify.search.cut_pool import AFFORDED, LEAST, ROUNDS, SAMPLE, CutPool
from verify.search.output_constraints import OutputConstrainedBounds, closed_shares
from verify.search.refinement import Refinement
from verify.search.strategy import (
    Bounded,
    Mapper,
    Objectives,
    all_refuted,
    grouped,
    no_looser,
    reset_new_beta,
    root_subproblems,
)
from verify.state import Bounds, DualState, Objective, Subproblems

_LARGEST_PROGRAM, _PROGRAM_SECONDS = 1000, 2.0  # variables of a linear program, and time for those of a batch
_AT_ONCE = 2_000_000  # variables of roots that are bounded at once
_CHILDREN = 2_000_000  # variables of children that candidate splits are tried on at once
_LONGER = 4  # times the iterations of a child, for climbs under new cuts
_PLAIN_SHARE, _ROOT_SHARE = 0.4, 0.15  # of the time left, for plain and for optimised intermediate bounds


class _Boxes:
    """The root bounds of input boxes, one row each, in the precisions they are asked for."""

    def __init__(self, problem: Problem, network: Network) -> None:
        self._problem, self._network = problem, network
        self._row: dict[int, int] = {}
        self._table: dict[torch.dtype, Bounds] = {}

    def rows(self, clauses: Sequence[int]) -> Tensor:
        """The rows of the clauses' boxes, which have been added."""
        boxes = self._problem.box_of[list(clauses)].tolist()
        return torch.tensor([self._row[box] for box in boxes], device=self._network.device)

    def intervals(self, clauses: Sequence[int]) -> tuple[list[int], Bounds, Tensor]:
        """The clauses' boxes, their bounds by interval arithmetic, and each clause's row of them; not added yet."""
        boxes, first, owner = np.unique(
            self._problem.box_of[list(clauses)], return_index=True, return_inverse=True
        )
        ends = self._problem.boxes([clauses[i] for i in first.tolist()])
        lower, upper = (end.to(self._network.device) for end in ends)
        bounds, _ = interval(self._network, lower, upper)
        return boxes.tolist(), bounds, torch.from_numpy(owner).to(self._network.device)

    def add(self, boxes: Sequence[int], bounds: Bounds) -> None:
        """New rows."""
        self._row.update({box: len(self._row) + i for i, box in enumerate(boxes)})
        known = [self._table[torch.float64]] if self._table else []
        self._set(Bounds.concatenate([*known, bounds]))

    def reduce(self, reduced: Reduced) -> None:
        """The same boxes of a network with fewer neurons."""
        table, left = self._table[torch.float64], reduced.variables
        self._network = reduced.network
        self._set(Bounds(table.lower[:, left], table.upper[:, left]))

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
    """Root bounds for good, splits of pre-activations, inherited dual points."""

    def __init__(
        self, problem: Problem, network: Network, intermediate: IntermediateBounds, optimised: IntermediateBounds,
        root: Restricted, child: Restricted, brancher: FilteredSmartBranching,
        unsafe: Sequence[OutputConstrained] = (), branched: BranchedBounds | None = None, working: torch.dtype = torch.float32, tracer: ProofTracer = NO_PROOF,
        rigorous: bool = True,
    ) -> None:  # fmt: skip
        self.rigorous, self.problem, self.tracer = rigorous, problem, tracer
        self.intermediate, self.optimised = intermediate, optimised
        self.root, self.child, self.brancher = root, child, brancher
        self.objectives = Objectives(problem, network.device)
        self._boxes = _Boxes(problem, network)
        self._root_bound = torch.full((problem.clauses,), -torch.inf, device=network.device)
        self.unsafe = OutputConstrainedBounds(network, unsafe)
        self._root_seconds = 0.0  # of the last climb of roots
        self._use(network, working)
        mixes = any(layer.activation.mixes for layer in network.layers)
        stages = (self.intermediate, _PLAIN_SHARE), (self.optimised, _ROOT_SHARE)
        self._stages = (
            stages[:1] if mixes else stages
        )  # slopes gain next to nothing before mixing activations
        self._refinement = None
        proved = self.tracer.proves(Technique.BRANCHED_BOUNDS)
        if branched is not None and proved and not mixes and places_behind(network):
            self._refinement = Refinement(branched, self.unsafe.splitting)

    def _use(self, network: Network, working: torch.dtype) -> None:
        """Everything that depends on the network."""
        self.network, self.working_network = network, network.to(network.device, working)
        self._sizes: dict[int, Tensor] = {}
        self._spreading = _spreading(network)
        self.cuts = CutPool(network, self.working_network)
        mixes = any(layer.activation.mixes for layer in network.layers)
        self._small = network.variables <= _LARGEST_PROGRAM and not mixes

    def clauses_of(self, clauses: Tensor) -> list[int]:
        return sorted(set(clauses.tolist()))

    def roots(self, batch: int, deadline: Deadline) -> Iterator[Bounded]:
        """CROWN on interval bounds first; only clauses still open get intermediate bounds and an ascent.

        Boxes are bounded once for all of their clauses.
        """
        for clauses in self._together(batch):
            yield from self._roots_of(clauses, batch, deadline)

    def _together(self, batch: int) -> Iterator[list[int]]:
        """All clauses, those on one box together: of several boxes up to a batch."""
        numbers, together = self.problem.box_of, list[int]()
        order = np.argsort(numbers, kind="stable")
        for box in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1):
            if together and len(together) + len(box) > batch:
                yield together
                together = []
            together += box.tolist()
        if together:
            yield together

    def _roots_of(self, clauses: Sequence[int], batch: int, deadline: Deadline) -> Iterator[Bounded]:
        part = len(clauses) / self.problem.clauses  # of the time
        self.objectives.prepare(clauses)
        roots = root_subproblems(
            self.problem.rows, clauses, 0, self.network.device
        )  # in full once they are climbed
        roots = self.tracer.roots(roots, roots.clause[:, None])
        boxes, bounds, owner = self._boxes.intervals(clauses)
        refuted = self._crown(roots, bounds, owner, magnitudes(self.network, bounds), deadline)
        closed = roots.select(refuted)
        self.tracer.leaves_by_default(closed)
        yield from all_refuted(closed)
        roots, kept = roots.select(~refuted), owner[~refuted].unique()
        self._boxes.add([boxes[i] for i in kept.tolist()], bounds.select(kept))
        for stage, (intermediate, share) in enumerate(self._stages, start=1):
            began = time.monotonic()
            if len(roots):
                self._bound_boxes(roots, intermediate, deadline, deadline.share(share * part))
            if self._refinement is not None and intermediate.ascent is not None:
                self._refinement.expect(time.monotonic() - began)
            if len(roots) and self.tracer.proves(Technique.CROWN_ROOTS):
                rows = self._boxes.rows(roots.clause.tolist())
                refuted = self._crown(roots, self._boxes.all(), rows, self._sizes, deadline)
                yield from all_refuted(roots.select(refuted))
                roots = roots.select(~refuted)
            if stage == len(self._stages) and part == 1 and len(roots):
                self._reduced()
            left = [roots.select(slice(0))]
            for first in range(0, len(roots), batch):
                some = roots.select(slice(first, first + batch))
                bounded = self._optimised(some, deadline)
                if stage == len(self._stages):
                    bounded = self._tighten(bounded, deadline)
                    together = part == 1 and len(roots) <= batch
                    yield self._under_cuts(bounded, deadline) if together else bounded
                    continue
                yield from all_refuted(bounded.subproblems.select(bounded.refuted))
                some = replace(some, lower_bound=bounded.subproblems.lower_bound)
                left.append(some.select(~bounded.refuted))
            roots = Subproblems.concatenate(left)

    def _under_cuts(self, bounded: Bounded, deadline: Deadline) -> Bounded:
        """Roots left open climb on under cutting planes, as long as more of these pay; all open roots of the network at once."""
        dear = self._root_seconds > AFFORDED * deadline.remaining
        if dear or not self.tracer.proves(Technique.CUTS):
            return bounded
        for _ in range(ROUNDS):
            rows = (~bounded.refuted).nonzero()[:, 0]
            tighter = self._with_more_cuts(bounded, rows, deadline) if len(rows) else None
            if tighter is None:
                break
            bounded = self._tighten(tighter, deadline)
        if not self.cuts.count:
            return bounded
        used = (bounded.subproblems.cut_shares.amax(0) > 0).nonzero()[:, 0]
        self.cuts.keep(used)
        subproblems = replace(bounded.subproblems, cut_shares=bounded.subproblems.cut_shares[:, used])
        return replace(bounded, subproblems=subproblems)

    def _with_more_cuts(self, bounded: Bounded, rows: Tensor, deadline: Deadline) -> Bounded | None:
        """The subproblems with some of them climbed on under more cuts; None where these do not pay."""
        deadline.check()
        subproblems, depth = bounded.subproblems.select(rows), bounded.subproblems.split_variable.shape[1]
        problem, working = (
            self._dual(subproblems, self.network),
            self._dual(subproblems, self.working_network),
        )
        count, tighter = self.cuts.more(problem, working, subproblems.state, self._sizes, deadline), None
        if count > self.cuts.count:
            ascended = self._optimise(subproblems.with_cuts(count), self.child.longer(_LONGER), deadline)
            shares = closed_shares(subproblems.lower_bound, ascended.subproblems.lower_bound)
            if float(shares.mean()) >= LEAST:
                tighter = replace(bounded, subproblems=bounded.subproblems.with_cuts(count)).updated(
                    rows, ascended
                )
        self.cuts.tried(depth, count, tighter is not None)
        return tighter

    def _deeper_cuts(self, bounded: Bounded, deadline: Deadline) -> Bounded:
        """Open subproblems now and then get cuts that cut off the optima of some of them."""
        with self.cuts.due(bounded.subproblems.split_variable.shape[1]) as due:
            rows = (~bounded.refuted).nonzero()[:, 0]
            if not due or not len(rows):
                return bounded
            some = rows[torch.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).long().to(rows.device)]
            return self._with_more_cuts(bounded, some, deadline) or bounded

    def due(self, seconds: float, deadline: Deadline) -> bool:
        return self._refinement is not None and self._refinement.due(seconds, deadline)

    def refine_roots(
        self, waiting: Subproblems, batch: int, deadline: Deadline, run: Mapper
    ) -> tuple[Subproblems, list[Bounded]]:
        assert self._refinement is not None
        clauses = torch.tensor(self.clauses_of(waiting.clause), device=self.network.device)
        rows = self._boxes.rows(clauses.tolist()).unique()
        box = self._boxes.all().select(rows)
        tight = self._refinement.tighten(self.network, box, self.working_network.dtype, deadline, run)
        self._boxes.tighten(rows, tight)
        self._sizes = magnitudes(self.network, self._boxes.all())
        before = self._root_bound[clauses]
        bounded = self._optimised_all(clauses, batch, deadline)
        self._refinement.learn(before, self._root_bound[clauses])
        split = torch.zeros_like(self._root_bound).scatter_reduce(
            0, waiting.clause, waiting.lower_bound, "mean", include_self=False
        )
        anew = (
            self._root_bound > split
        )  # decided once: what goes on waiting is exactly what no root stands for
        kept = waiting.select(~anew[waiting.clause])
        if len(kept):
            chosen = (some.select(anew[some.subproblems.clause]) for some in bounded)
            return kept, [self._tighten(some, deadline) for some in chosen if len(some)]
        if not self._reduced():
            self.cuts = CutPool(self.network, self.working_network)
        bounded = [self._tighten(some, deadline) for some in self._optimised_all(clauses, batch, deadline)]
        if len(bounded) == 1:
            bounded = [self._under_cuts(bounded[0], deadline)]
        return kept, bounded

    def _optimised_all(self, clauses: Tensor, batch: int, deadline: Deadline) -> list[Bounded]:
        """The roots of the clauses, as the boxes are known now."""
        roots = root_subproblems(self.problem.rows, clauses.tolist(), 0, self.network.device)
        rows = torch.arange(len(roots), device=roots.clause.device).split(batch)
        return [self._optimised(roots.select(some), deadline) for some in rows]

    def _reduced(self) -> bool:
        """Leaves out neurons that are 0 on all boxes, if there are any; no subproblem may have been split in the larger network."""
        if not self.tracer.proves(Technique.REDUCED_NETWORK):
            return False
        bounds = self._boxes.all()
        reduced = Reduced.of(self.network, bounds.lower, bounds.upper)
        if reduced.network is self.network:
            return False
        self._boxes.reduce(reduced)
        self.unsafe = OutputConstrainedBounds(reduced.network, self.unsafe.methods, self.unsafe.splitting)
        self._use(reduced.network, self.working_network.dtype)
        self._sizes = magnitudes(self.network, self._boxes.all())
        return True

    def _optimised(self, roots: Subproblems, deadline: Deadline) -> Bounded:
        """Some roots after an ascent from CROWN's dual point."""
        network, unsafe = self.network, self.unsafe
        subproblems = root_subproblems(self.problem.rows, roots.clause.tolist(), network.alphas, network.device, unsafe.width,
            steps=len(unsafe.steps), cuts=self.cuts.count,
        )  # fmt: skip
        subproblems = replace(subproblems, subproblem_id=roots.subproblem_id)
        subproblems = subproblems.with_state(
            roots.lower_bound, self._dual(subproblems, self.working_network).initial()
        )
        began = time.monotonic()
        bounded = self._optimise(subproblems, self.root, deadline)
        self._root_seconds = time.monotonic() - began
        iterations = self.root.iterations * max(1, len(subproblems))
        unsafe.splitting.expect(self._root_seconds * self.child.iterations / iterations)
        self._root_bound[roots.clause] = bounded.subproblems.lower_bound
        return bounded

    def _crown(
        self, roots: Subproblems, bounds: Bounds, owner: Tensor, sizes: dict[int, Tensor], deadline: Deadline
    ) -> Bool[Tensor, " batch"]:
        """Which roots CROWN refutes, each on the row of `bounds` that `owner` tells; those on one box share its hulls."""
        refuted = torch.zeros_like(roots.clause, dtype=torch.bool)
        most = max(1, _AT_ONCE // self.network.variables)
        _, members = grouped(owner.tolist(), most)
        for some in members.to(owner.device).split(max(1, most // members.shape[1])):
            deadline.check()
            objective = self.objectives.of(roots.clause[some.flatten()], torch.float64)
            objective = Objective(
                *(part.reshape(*some.shape, *part.shape[2:]) for part in vars(objective).values())
            )
            problem = DualProblem(self.network, bounds.select(owner[some[:, 0]]), objective)
            bound = problem.evaluate(problem.initial(), sizes).bound
            refuted[some] = (bound > 0) & bound.isfinite()
        return refuted

    def _bound_boxes(
        self,
        subproblems: Subproblems,
        method: IntermediateBounds,
        deadline: Deadline,
        soft_deadline: Deadline,
    ) -> None:
        """Tightens the table's rows of the roots' boxes."""
        rows, owner = self._boxes.rows(subproblems.clause.tolist()).unique(return_inverse=True)
        box = self._boxes.all().select(rows)
        tracer = self.tracer.boxes(subproblems, owner, len(rows))
        tight = method.tighten(self.network, box, deadline, self.working_network, soft_deadline, tracer)
        self._boxes.tighten(rows, tight)
        self._sizes = magnitudes(self.network, self._boxes.all())

    def _dual(self, subproblems: Subproblems, network: Network) -> DualProblem:
        rows = self._boxes.rows(subproblems.clause.tolist())
        bounds = subproblems.splits.apply(self._boxes.all(network.dtype).select(rows))
        spread = self._spread(subproblems.split_variable)
        if len(spread):
            exact = subproblems.splits.select(spread).apply(self._boxes.all().select(rows[spread]))
            inputs = slice(0, self.network.inputs)
            exact, _ = interval(self.network, exact.lower[:, inputs], exact.upper[:, inputs], exact)
            bounds = bounds.updated(spread, exact.to(network.device, network.dtype))
        bounds = self.unsafe.apply(bounds, subproblems)
        cuts = self.cuts.of(subproblems.cut_shares.shape[1], network)
        return DualProblem(
            network,
            bounds,
            self.objectives.of(subproblems.clause, network.dtype),
            subproblems.splits,
            cuts=cuts,
        )

    def _spread(self, split_variable: Tensor) -> Tensor:
        """The subproblems that have a split which intervals are worth redoing for."""
        if self._spreading is None:
            return split_variable.new_zeros(0)
        spreads = self._spreading[split_variable.clamp(min=0)] & (split_variable >= 0)
        return spreads.any(1).nonzero()[:, 0]

    def bound(self, subproblems: Subproblems, deadline: Deadline) -> Bounded:
        began, subproblems = time.monotonic(), subproblems.with_cuts(self.cuts.count)
        bounded = self._optimise(
            reset_new_beta(subproblems),
            self.child.longer(self.unsafe.splitting.factor),
            deadline,
            subproblems.state,
        )
        seconds = time.monotonic() - began
        self.unsafe.splitting.learn(
            subproblems.lower_bound, bounded.subproblems.lower_bound, bounded.refuted, seconds
        )
        bounded = self._deeper_cuts(bounded, deadline)
        return self._finish(self._tighten(bounded, deadline), deadline)

    def _finish(self, bounded: Bounded, deadline: Deadline) -> Bounded:
        """Subproblems split at an input have no activation left to split: they are linear programs, solved as such if they are small."""
        if not self._small:
            return bounded
        last = bounded.subproblems.split_variable[:, -1]
        rows = (~bounded.refuted & (last < self.network.inputs)).nonzero()[:, 0]
        if not len(rows):
            return bounded
        subproblems = bounded.subproblems.select(rows)
        subproblems = replace(
            subproblems, cut_shares=subproblems.cut_shares[:, :0]
        )  # programs know hulls alone
        problem = self._dual(subproblems, self.network)
        found = LinearProgram().ascend(
            problem, problem.initial(), 0.0, deadline, deadline.within(_PROGRAM_SECONDS)
        )
        bound = problem.evaluate(found.state, self._sizes).bound[:, 0]
        refuted, minimiser = bounded.refuted.clone(), bounded.minimiser.clone()
        closed = (bound > 0) & bound.isfinite()
        chosen = closed.nonzero()[:, 0]
        self.tracer.leaves_by_multipliers(
            subproblems.select(chosen), problem.select(chosen), found.state.select(chosen)
        )
        refuted[rows] = closed
        minimiser[rows] = found.minimiser[:, 0].to(minimiser)
        return Bounded(bounded.subproblems, refuted, minimiser)

    def _tighten(self, bounded: Bounded, deadline: Deadline) -> Bounded:
        """Subproblems left open get bounds over their unsafe points, layer by layer as far as these pay, and climb on."""
        refuted, minimiser, subproblems = (
            bounded.refuted.clone(),
            bounded.minimiser.clone(),
            bounded.subproblems,
        )
        more_due = self.unsafe.width > 0
        while more_due:
            more_due = False
            for step in range(len(self.unsafe.steps)):
                rows = (~refuted & self.unsafe.due(subproblems, step)).nonzero()[:, 0]
                rows = rows[self.unsafe.chosen(subproblems.select(rows), step)] if len(rows) else rows
                if len(rows):
                    tight = self._tightened(subproblems.select(rows), step, deadline)
                    subproblems, more_due = subproblems.updated(rows, tight.subproblems), True
                    minimiser[rows], refuted[rows] = tight.minimiser, tight.refuted
        return Bounded(subproblems, refuted, minimiser)

    def _tightened(self, subproblems: Subproblems, step: int, deadline: Deadline) -> Bounded:
        """The subproblems with one layer bounded over their unsafe points."""
        began = time.monotonic()
        problem, working = (
            self._dual(subproblems, self.network),
            self._dual(subproblems, self.working_network),
        )
        state = problem.clamp(subproblems.state.to(self.network.device, torch.float64))
        state = self.tracer.rounded(state)
        observe = self.tracer.lemmas(subproblems, self.unsafe.steps[step][0], problem.bounds, state)
        tight = self.unsafe.tighten(
            subproblems, problem, working, state, step, self._sizes, deadline, observe
        )
        ascended = self._optimise(tight, self.child, deadline)
        return replace(
            ascended,
            subproblems=self.unsafe.learned(
                step, subproblems, ascended.subproblems, time.monotonic() - began
            ),
        )

    def _optimise(
        self, subproblems: Subproblems, method: Restricted, deadline: Deadline, kept: DualState | None = None
    ) -> Bounded:
        """Bounds the subproblems from their states; where that ends below what they inherited, they take the state `kept`."""
        problem = self._dual(subproblems, self.working_network)
        empty = problem.bounds.empty
        ascended = method.ascend(
            problem, subproblems.state.to(self.network.device, self.working_network.dtype), 0.0, deadline
        )
        subproblems = no_looser(subproblems, ascended, kept)
        refuted = self._certified(subproblems, (ascended.bound[:, 0] > 0) | empty)
        subproblems = replace(
            subproblems,
            lower_bound=torch.where(refuted, subproblems.lower_bound, subproblems.lower_bound.clamp(max=0)),
        )
        return Bounded(subproblems, refuted, ascended.minimiser[:, 0])

    def _certified(
        self, subproblems: Subproblems, proposed: Bool[Tensor, " batch"]
    ) -> Bool[Tensor, " batch"]:
        """Which of the proposed refutations hold over the reals (or all of them, where nobody asks)."""
        if not self.rigorous:
            return proposed
        refuted = torch.zeros_like(proposed)
        rows = proposed.nonzero()[:, 0]
        if len(rows):
            chosen = subproblems.select(rows)
            problem = self._dual(chosen, self.network)
            state = problem.clamp(chosen.state.to(self.network.device, torch.float64))
            refuted[rows] = self.tracer.refuted(chosen, problem, state, self._sizes)
        return refuted

    def _children(
        self, subproblems: Subproblems, deadline: Deadline, variable: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Bounds of both children of candidate splits, as the search itself would first see them. Raises OutOfTimeError."""
        most = max(1, _CHILDREN // (2 * variable.shape[1] * self.network.variables))
        parts = []
        for rows in torch.arange(len(subproblems), device=variable.device).split(most):
            deadline.check()
            parts.append(self._both_children(subproblems.select(rows), variable[rows], value[rows]))
        upper, lower = (torch.cat(part) for part in zip(*parts, strict=True))
        return upper, lower

    def _both_children(
        self, subproblems: Subproblems, variable: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor]:
        owners = torch.arange(len(subproblems), device=variable.device).repeat_interleave(variable.shape[1])
        none = subproblems.alpha.new_zeros(len(owners), 2)
        children = subproblems.select(owners).split(variable.flatten(), value.flatten(), none)
        problem = self._dual(children, self.working_network)
        state = problem.clamp(children.state.to(self.network.device, self.working_network.dtype))
        bounds = torch.where(problem.bounds.empty, torch.inf, problem.evaluate(state).bound[:, 0])
        upper, lower = bounds.reshape(2, *variable.shape)
        return upper, lower

    def _spreads(self, bounds: Bounds) -> bool:
        """Whether any such split is left to make."""
        if self._spreading is None:
            return False
        points = (
            layer.activation.split_point(bounds.lower[:, layer.variables], bounds.upper[:, layer.variables])
            for layer in self.network.layers
            if bool(self._spreading[layer.variables.start])
        )
        return any(not bool(point.isnan().all()) for point in points)

    def choose(self, subproblems: Subproblems, deadline: Deadline) -> Split:
        problem = self._dual(subproblems, self.working_network)
        state = problem.clamp(subproblems.state.to(self.network.device, self.working_network.dtype))
        children = partial(self._children, subproblems, deadline) if self._spreads(problem.bounds) else None
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
                torch.where(stuck[:, None], 0.0, split.beta),
            )
        return split


def _spreading(network: Network) -> Bool[Tensor, " variables"] | None:
    """Variables whose split tells much of what is behind them by intervals alone: factors, quotients and what they are made of.

    None where a network has no products or maxima; then all there is to gain is in the dual bound.
    """
    if not any(layer.activation.joins and not layer.activation.mixes for layer in network.layers):
        return None
    found = torch.zeros(network.variables, dtype=torch.bool, device=network.device)
    for layer in network.layers:
        found[layer.variables] = not (isinstance(layer.activation, Relu) or layer.activation.mixes)
    return found
