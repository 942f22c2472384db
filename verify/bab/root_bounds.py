"""What all subproblems of a search by activation splitting inherit: the network, bounds of every box, and cuts.

It is data: who changes something makes another one. Workers read whichever they were handed with their subproblems.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.bab.carried import CarriedLayers
from verify.bab.cut_pool import CutPool
from verify.bab.strategy import Bounded, Objectives, no_looser, root_subproblems
from verify.bounders.ibp import interval, magnitudes
from verify.bounders.restricted import Restricted
from verify.deadline import Deadline
from verify.lagrangian.cuts import CutShares
from verify.lagrangian.dual import DualProblem
from verify.network.activations.relu import Relu
from verify.network.graph import Network
from verify.network.reduced import Reduced
from verify.problem import Problem
from verify.proof.tracer import ProofTracer
from verify.state import Bounds, DualState, Subproblems, sent


@dataclass(frozen=True)
class Passes:
    """What is known of the next pass of branched bounds: how many rounds, what it will take, and whether the last one paid."""

    rounds: int = 0
    seconds: float = 0.0
    paid: bool = True


@dataclass(frozen=True, eq=False)
class Programs:
    """What is known of linear programs for all subproblems.

    flat: whether the first ones' optima that did not refute were 0. seconds: for which they are solved, and longer if that refutes some; 0: they are not. involved: of each variable, in how many of
    the latest refutations it was split, those long ago counting less.
    """

    flat: bool
    seconds: float
    involved: Float[Tensor, " variables"]


@dataclass(frozen=True, eq=False)
class RootBounds:
    """One network, in the precision of proofs and the working one, and what is known on the boxes of its clauses.

    index_of_box: of each of the property's boxes, its row of `bounds`, or -1. root_bound: of each clause, as its last ascent left it. steps:
    kinds of tightening that subproblems remember. programs: where all subproblems are solved as linear programs.
    """

    problem: Problem
    objectives: Objectives
    tracer: ProofTracer
    network: Network
    working: Network
    carried: CarriedLayers
    steps: int
    cuts: CutPool
    index_of_box: Int[Tensor, " boxes"]
    bounds: Bounds
    root_bound: Float[Tensor, " clauses"]
    passes: Passes = Passes()
    programs: Programs | None = None
    rigorous: bool = True
    # on which neurons were left out, each on the network that those before it had left
    reductions: tuple[Bounds, ...] = ()

    @classmethod
    def begin(
        cls,
        problem: Problem,
        network: Network,
        working: torch.dtype,
        methods: int,
        tracer: ProofTracer,
        rigorous: bool,
    ) -> RootBounds:
        """Nothing is known yet. methods: ways to tighten a layer over unsafe points."""
        boxes = int(problem.box_of.max(initial=-1)) + 1
        none = torch.zeros(0, network.variables, dtype=network.dtype, device=network.device)
        index = torch.full((boxes,), -1, device=network.device)
        found = cls(
            problem,
            Objectives(problem, network.device),
            tracer,
            network,
            network,
            CarriedLayers((), network.device),
            0,
            CutPool.none(network, network),
            index,
            Bounds(none, none),
            torch.full((problem.clauses,), -torch.inf, device=network.device),
            rigorous=rigorous,
        )
        return found._with_network(network, none, none, working, methods)

    def _with_network(
        self, network: Network, lower: Tensor, upper: Tensor, working: torch.dtype, methods: int
    ) -> RootBounds:
        copy = network.to(network.device, working)
        carried = CarriedLayers.of(network) if methods else CarriedLayers((), network.device)
        return replace(
            self,
            network=network,
            working=copy,
            carried=carried,
            steps=methods * len(carried.layers),
            cuts=CutPool.none(network, copy),
            programs=None,
            bounds=Bounds(lower, upper),
        )

    def index(self, clauses: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """The clauses' rows of `bounds`."""
        return self.index_of_box[self._box_of[clauses]]

    @cached_property
    def _box_of(self) -> Int[Tensor, " clauses"]:
        """Each clause's box."""
        return sent(torch.from_numpy(self.problem.box_of), self.index_of_box.device)

    @cached_property
    def finite(self) -> bool:
        """Whether all bounds are, in either precision; those of subproblems are then, too."""
        return bool((self.working_bounds.lower.sum() + self.working_bounds.upper.sum()).isfinite())

    def intervals(self, clauses: Sequence[int]) -> tuple[Tensor, Bounds, Tensor]:
        """The clauses' boxes, their bounds by interval arithmetic, and each clause's row of them; not yet among `bounds`."""
        boxes, first, owner = np.unique(
            self.problem.box_of[list(clauses)], return_index=True, return_inverse=True
        )
        ends = self.problem.boxes([clauses[i] for i in first.tolist()])
        lower, upper = (end.to(self.network.device) for end in ends)
        bounds, _ = interval(self.network, lower, upper)
        return torch.from_numpy(boxes), bounds, torch.from_numpy(owner).to(self.network.device)

    def added(self, boxes: Int[Tensor, " new"], bounds: Bounds) -> RootBounds:
        """With some more boxes."""
        index = self.index_of_box.clone()
        index[boxes.to(index.device)] = len(self.bounds) + torch.arange(len(boxes), device=index.device)
        return replace(self, index_of_box=index, bounds=Bounds.concatenate([self.bounds, bounds]))

    def tightened(self, index: Int[Tensor, " tight"], tight: Bounds) -> RootBounds:
        """With some rows replaced."""
        return replace(self, bounds=self.bounds.updated(index, tight))

    def reduced(self) -> RootBounds:
        """Without neurons that are 0 on all boxes; cuts are forgotten then. No subproblem may have been split."""
        found = Reduced.of(self.network, self.bounds.lower, self.bounds.upper)
        if found.network is self.network:
            return self
        lower, upper = self.bounds.lower[:, found.variables], self.bounds.upper[:, found.variables]
        methods = self.steps // max(1, len(self.carried.layers))
        smaller = self._with_network(found.network, lower, upper, self.working.dtype, methods)
        return replace(smaller, reductions=(*self.reductions, self.bounds))

    def saved(self) -> dict[str, Any]:
        """What `restored` makes the same of: plain values and tensors."""
        return {
            "variables": self.network.variables,
            "clauses": self.objectives.known,
            "reductions": [[box.lower, box.upper] for box in self.reductions],
            "index_of_box": self.index_of_box,
            "bounds": [self.bounds.lower, self.bounds.upper],
            "root_bound": self.root_bound,
            "passes": [self.passes.rounds, self.passes.seconds, self.passes.paid],
            "programs": {} if self.programs is None else dict(vars(self.programs)),
            "cuts": self.cuts.saved(),
        }

    def restored(self, saved: Mapping[str, Any]) -> RootBounds:
        """What was saved of the same problem; nothing is known to this one yet. Raises ValueError where it does not fit."""
        device, dtype = self.network.device, self.network.dtype
        self.objectives.prepare(saved["clauses"].tolist())
        found = self
        for ends in saved["reductions"]:
            found = replace(found, bounds=Bounds(*ends).to(device, dtype)).reduced()
        bounds = Bounds(*saved["bounds"]).to(device, dtype)
        index, root_bound = saved["index_of_box"].to(device), saved["root_bound"].to(device)
        if (
            bounds.lower.shape != bounds.upper.shape
            or bounds.lower.shape[1] != found.network.variables
            or index.shape != self.index_of_box.shape
            or root_bound.shape != self.root_bound.shape
            or int(index.max()) >= len(bounds)
        ):
            raise ValueError("bounds of other networks or boxes")
        return replace(
            found,
            index_of_box=index,
            bounds=bounds,
            root_bound=root_bound,
            passes=Passes(*saved["passes"]),
            cuts=found.cuts.restored(saved["cuts"]),
            programs=found._programs(saved["programs"]),
        )

    def _programs(self, saved: Mapping[str, Any]) -> Programs | None:
        """What was saved of them. Raises ValueError where it is of another network."""
        if not saved:
            return None
        found = Programs(**saved)
        if found.involved.shape != (self.network.variables,):
            raise ValueError("programs of another network")
        return replace(found, involved=found.involved.to(self.network.device))

    def without_cuts(self) -> RootBounds:
        """The same, as if there never had been cuts."""
        return replace(self, cuts=CutPool.none(self.network, self.working))

    @cached_property
    def mixes(self) -> bool:
        """Whether some activation's outputs depend on many of its inputs."""
        return any(layer.activation.mixes for layer in self.network.layers)

    @cached_property
    def magnitudes(self) -> dict[int, Tensor]:
        """How large values get on all boxes, by node: what rounding is charged by."""
        return magnitudes(self.network, self.bounds)

    @cached_property
    def working_bounds(self) -> Bounds:
        """Rounded to nearest: good enough to ascend on, not to prove by."""
        return self.bounds.to(self.network.device, self.working.dtype)

    @cached_property
    def spreading(self) -> Bool[Tensor, " variables"] | None:
        """Variables whose split tells much of what is behind them by intervals alone: factors, quotients and what they are made of.

        Steps, too, and inputs before them. None where a network has no products, maxima or steps; then all there is to gain is in
        the dual bound.
        """
        layers = self.network.layers
        steps = self.network.has_steps
        if not steps and not any(layer.activation.joins and not layer.activation.mixes for layer in layers):
            return None
        found = torch.zeros(self.network.variables, dtype=torch.bool, device=self.network.device)
        for layer in layers:
            found[layer.variables] = not (isinstance(layer.activation, Relu) or layer.activation.mixes)
        found[: self.network.inputs] = steps
        return found

    def roots(self, clauses: Sequence[int]) -> Subproblems:
        """The whole boxes of clauses, whose dual points are not known yet."""
        network, carried = self.network, self.carried
        found = root_subproblems(
            self.problem.rows, clauses, network.alphas, network.device, carried.width, steps=self.steps
        )
        return found.with_cuts(CutShares.name, self.cuts.count)

    def dual(self, subproblems: Subproblems, network: Network) -> DualProblem:
        """The subproblems' dual function, in the precision of one of the two networks."""
        index = self.index(subproblems.clause)
        known = self.bounds if network is self.network else self.working_bounds
        bounds = subproblems.splits.apply(known.select(index))
        spread = self._spread(subproblems.split_variable)
        if len(spread):
            exact = subproblems.splits.select(spread).apply(self.bounds.select(index[spread]))
            inputs = slice(0, self.network.inputs)
            exact, _ = interval(self.network, exact.lower[:, inputs], exact.upper[:, inputs], exact)
            exact = subproblems.splits.select(spread).apply(exact.to(network.device, network.dtype))
            bounds = bounds.updated(spread, exact)
        bounds = self.carried.apply(bounds, subproblems)
        cuts = self.cuts.of(subproblems.state.width(CutShares.name), network)
        objective = self.objectives.of(subproblems.clause, network.dtype)
        return DualProblem(network, bounds, objective, subproblems.splits, cuts=cuts, finite=self.finite)

    def _spread(self, split_variable: Tensor) -> Tensor:
        """The subproblems that have a split which intervals are worth redoing for."""
        if self.spreading is None:
            return split_variable.new_zeros(0)
        spreads = self.spreading[split_variable.clamp(min=0)] & (split_variable >= 0)
        return spreads.any(1).nonzero()[:, 0]

    def optimised(
        self, subproblems: Subproblems, method: Restricted, deadline: Deadline, kept: DualState | None = None
    ) -> Bounded:
        """Bounds the subproblems from their states; where that ends below what they inherited, they take the state `kept`."""
        problem = self.dual(subproblems, self.working)
        empty = problem.bounds.empty
        ascended = method.ascend(
            problem, subproblems.state.to(self.network.device, self.working.dtype), 0.0, deadline
        )
        subproblems = no_looser(subproblems, ascended, kept)
        refuted = self.certified(subproblems, (ascended.bound[:, 0] > 0) | empty)
        bound = torch.where(refuted, subproblems.lower_bound, subproblems.lower_bound.clamp(max=0))
        return Bounded(replace(subproblems, lower_bound=bound), refuted, ascended.minimiser[:, 0])

    def certified(self, subproblems: Subproblems, proposed: Bool[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
        """Which of the proposed refutations hold over the reals (or all of them, where nobody asks)."""
        if not self.rigorous:
            return proposed
        if proposed.device.type != "cpu" and not self.tracer.writes:  # to ask which would take longer
            return proposed & self.refuted(subproblems)
        refuted = torch.zeros_like(proposed)
        index = proposed.nonzero()[:, 0]
        if len(index):
            refuted[index] = self.refuted(subproblems.select(index))
        return refuted

    def refuted(self, subproblems: Subproblems) -> Bool[Tensor, " batch"]:
        """Which are refuted over the reals, at their dual points."""
        problem = self.dual(subproblems, self.network)
        state = problem.clamp(subproblems.state.to(self.network.device, torch.float64))
        return self.tracer.refuted(subproblems, problem, state, self.magnitudes)

    def crown(
        self, clauses: Int[Tensor, "boxes group"], bounds: Bounds, sizes: dict[int, Tensor]
    ) -> Bool[Tensor, "boxes group"]:
        """Which clauses CROWN refutes, each on its box's row of `bounds`; those on one box share its hulls."""
        objective = self.objectives.of(clauses.flatten(), torch.float64)
        objective = objective.map(lambda part: part.reshape(*clauses.shape, *part.shape[2:]))
        problem = DualProblem(self.network, bounds, objective)
        bound = problem.evaluate(problem.initial(), sizes).bound
        return (bound > 0) & bound.isfinite()
