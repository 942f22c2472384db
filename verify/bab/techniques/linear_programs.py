"""Small subproblems are solved as linear programs, whose optimum is the relaxation's: leaves, and all where ascents lead nowhere.

Leaves (subproblems that were split at an input) have no activation left to split. In networks that encode logic a bound is 0 until
the relaxation is empty, and no ascent tells what to split. A few programs show that, and there the search begins anew, with a
program for every subproblem, as solvers of mixed integers do: it splits a neuron that the program's optimum is far from and that took part
in many of the latest refutations (Moskewicz et al. 2001 count variables so), or that much else hangs on, while little was refuted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from verify.bab.effort import Observation
from verify.bab.root_bounds import Programs, RootBounds
from verify.bab.strategy import Bounded, Knowledge
from verify.bounders.linear_program import LinearProgram, Solved
from verify.deadline import Deadline
from verify.lagrangian.cuts import CutShares
from verify.lagrangian.dual import DualProblem
from verify.state import Subproblems

_TRIED = 32  # programs that a trial on all subproblems can afford, at least
_TRIAL = 4  # programs that tell whether bounds are flat
_FLAT = (
    1e-9  # of the terms that a bound is made of, below 0: there optima are 0 but for the solver's tolerance
)
_FADING = 0.95  # of what is known of refutations, with each further one
_PRIOR = 0.01  # of the most that a variable can be involved: what the network tells at the beginning


@dataclass(frozen=True)
class ProgramsSolved(Observation):
    """Some were refuted, with these variables split on the way."""

    involved: Float[Tensor, "refuted variables"] = field(kw_only=True)
    # whether the optima that did not refute are 0; None: that is not told, by leaves or refuted ones alone
    flat: bool | None = field(kw_only=True)

    def update(self, shared: RootBounds) -> RootBounds:
        """With these refutations, the latest ones weighing most; the first programs tell whether bounds tell anything."""
        known = shared.programs
        if known is None:
            none = self.involved.new_zeros(self.involved.shape[1])
            return shared if self.flat is None else replace(shared, programs=Programs(self.flat, 0.0, none))
        count = len(self.involved)
        weights = _FADING ** torch.arange(count - 1, -1, -1).to(known.involved)
        involved = _FADING**count * known.involved + weights @ self.involved
        return replace(shared, programs=replace(known, involved=involved))


@dataclass(frozen=True)
class LinearPrograms:
    """At most `seconds` for the leaves of a batch, in networks of at most `variables`.

    share: of the time left, for a trial on all. at_once: how many subproblems are split at a time then.
    """

    variables: int = 1000
    seconds: float = 2.0
    share: float = 0.1
    at_once: int = 4
    name: str = "linear programs"
    once: bool = True

    def due(self, bounded: Bounded, knowledge: Knowledge) -> Int[Tensor, " index"]:
        """The open leaves; all that is open, where programs take the ascents' place; before that, once, a few others."""
        shared, effort, index = knowledge.shared, knowledge.effort, bounded.open
        if not self.possible(shared):
            return index[:0]
        if self.instead(knowledge):
            return index
        leaf = bounded.subproblems.split_variable[index, -1] < shared.network.inputs
        if shared.programs is None and effort.splitting.opening and not bool(leaf.all()):
            return index[~leaf][:_TRIAL]
        return index[leaf]

    def instead(self, knowledge: Knowledge) -> bool:
        """Whether programs take the ascents' place: they have their trial, or refute anything."""
        programs, ledger = knowledge.shared.programs, knowledge.effort.ledger(self.name)
        if programs is None or not programs.seconds:
            return False
        return ledger.total < programs.seconds or not ledger.hopeless

    def due_for_all(self, knowledge: Knowledge, deadline: Deadline) -> bool:
        """Whether the search is to begin anew with programs: bounds are flat, splitting opens more than it closes, and many can be paid."""
        programs, effort = knowledge.shared.programs, knowledge.effort
        if programs is None or not programs.flat or programs.seconds or not effort.splitting.opening:
            return False
        return effort.ledger(self.name).seconds_of(_TRIED) <= self.share * deadline.remaining

    def granted(self, shared: RootBounds, deadline: Deadline) -> RootBounds:
        """With the time for the trial."""
        none = shared.bounds.lower.new_zeros(shared.network.variables)
        return replace(shared.without_cuts(), programs=Programs(True, self.share * deadline.remaining, none))

    def possible(self, shared: RootBounds) -> bool:
        """Whether the network is one for programs."""
        return shared.network.variables <= self.variables and not shared.mixes

    def apply(
        self, bounded: Bounded, index: Int[Tensor, " index"], knowledge: Knowledge, deadline: Deadline
    ) -> tuple[Bounded, Observation]:
        """The subproblems with those refuted that are; the others' minimisers are the programs', and what to split."""
        began, shared = time.monotonic(), knowledge.shared
        before = bounded.subproblems.select(index)
        # programs know hulls alone
        problem = shared.dual(before.with_cuts(CutShares.name, 0), shared.network)
        soft_deadline = deadline if self.instead(knowledge) else deadline.within(self.seconds)
        found = LinearProgram().ascend(problem, problem.initial(), 0.0, deadline, soft_deadline)
        bound = problem.evaluate(found.state, shared.magnitudes).bound[:, 0]
        refuted, minimiser = bounded.refuted.clone(), bounded.minimiser.clone()
        closed = (bound > 0) & bound.isfinite()
        chosen = closed.nonzero()[:, 0]
        shared.tracer.leaves_by_multipliers(
            before.select(chosen), problem.select(chosen), found.state.select(chosen)
        )
        refuted[index] = closed
        minimiser[index] = found.minimiser[:, 0].to(minimiser)
        suggested = bounded.subproblems.suggested.clone()
        suggested[index] = self._suggested(found, shared)
        after = bound.to(before.lower_bound).clamp(max=0)
        after = torch.where(closed, 0.0, torch.maximum(before.lower_bound, after))
        leaves = bool((before.split_variable[:, -1] < shared.network.inputs).any())
        flat = after > -_FLAT * _sizes(problem, shared.magnitudes)
        seen = ProgramsSolved(
            self.name,
            time.monotonic() - began,
            before.lower_bound,
            after,
            closed,
            involved=_involved(before.select(chosen), shared.network.variables),
            flat=None if leaves or bool(closed.all()) else bool((closed | flat).all()),
        )
        return Bounded(replace(bounded.subproblems, suggested=suggested), refuted, minimiser), seen

    def _suggested(self, found: Solved, shared: RootBounds) -> Int[Tensor, " batch"]:
        """What to split; -1 where a program tells nothing."""
        gaps, influence = found.gaps(), found.influence()
        weight = _PRIOR * influence / influence.max().clamp(min=_PRIOR)
        if shared.programs is not None:
            weight = weight + shared.programs.involved
        best = (gaps * weight).max(1)
        return torch.where(best.values > 0, best.indices, -1)


def _sizes(problem: DualProblem, magnitudes: dict[int, Tensor]) -> Float[Tensor, " batch"]:
    """How large the terms of each subproblem's largest row may get."""
    objective = problem.objective.map(lambda part: part[:, 0].abs())
    sizes = objective.coefficients @ magnitudes[problem.node] + objective.thresholds
    if objective.input_coefficients.shape[2]:
        sizes = sizes + objective.input_coefficients @ magnitudes[0]
    return sizes.amax(1)


def _involved(refuted: Subproblems, variables: int) -> Float[Tensor, "refuted variables"]:
    """1 for each variable that was split on the way."""
    found = refuted.split_value.new_zeros(len(refuted), variables + 1)
    found.scatter_(1, refuted.split_variable % (variables + 1), 1.0)
    return found[:, :variables]
