"""Intermediate bounds by a small branch and bound of every neuron.

A neuron's ends `+-z_i` are bounded like clauses: an ascent on the whole box, then the worst subproblems are split at earlier
pre-activations, and the least bound of all subproblems counts. Dense networks with few open neurons a layer gain orders of
magnitude by it (what others leave to mixed-integer programs, as Tjeng et al. 2019), since each layer rests on the ones before;
where neurons see little of the network there is next to nothing to gain, which the first neurons of a layer tell.

Subproblems go where they pay. An end moves by about as much with each doubling of its subproblems, so what the next one brings is its
pace over their number; and it counts by what it takes from the relaxation's triangle, whose height is `-l u / (u - l)`. All ends of a
layer gain alike at the margin where each has subproblems in proportion to both, and all layers do where each has as many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.bab.executor import Mapper
from verify.bab.strategy import no_looser, reset_new_beta, root_subproblems
from verify.bounders.ibp import interval, magnitudes
from verify.bounders.intermediate import still_open
from verify.bounders.restricted import Restricted
from verify.bounders.tracing import UNTRACED, BoundTracer, BranchedBounds
from verify.branching.fsb import FilteredSmartBranching
from verify.deadline import Deadline
from verify.lagrangian.dual import DualProblem
from verify.network.graph import Layer, Network
from verify.network.reduced import Reduced
from verify.room import at_once
from verify.state import Bounds, Objective, Struct, Subproblems

_ELEMENTS = 4_000_000  # variables of the subproblems that are bounded at once
_TRIAL = 8  # neurons of each layer that are tried first
_NARROWER = 0.01  # of their intervals, that each doubling of subproblems must take from these for the others to be worth it
_MORE = 8  # times as many subproblems as the mean, that a layer's ends may have, and one end of them
_PACE = 4  # subproblems that tell an end's pace


@dataclass(frozen=True)
class Ends(Struct):
    """Ends of neurons' intervals: `side * z` is bounded from below on a box."""

    box: Int[Tensor, " batch"]
    neuron: Int[Tensor, " batch"]  # of the layer
    side: Float[Tensor, " batch"]  # 1: the lower end, -1: the upper one


@dataclass(frozen=True)
class NeuronTrees:
    """Tightens boxes layer by layer. `share` of an end's subproblems, the worst, are split a round."""

    root: Restricted = Restricted(iterations=5)
    child: Restricted = Restricted(iterations=2, step=0.3, decay=0.6)
    brancher: FilteredSmartBranching = FilteredSmartBranching(candidates=0)
    share: float = 1 / 3

    def subproblems(self, rounds: int) -> int:
        """How many subproblems an end has after so many rounds."""
        count = 1
        for _ in range(rounds):
            count += self.worst(count)
        return count

    def rounds(self, subproblems: float) -> int:
        """How many rounds an end goes through until it has so many subproblems."""
        count, rounds = 1, 0
        while count < subproblems:
            count += self.worst(count)
            rounds += 1
        return rounds

    def worst(self, count: int) -> int:
        """How many of so many subproblems are split."""
        return -int(-self.share * count // 1)

    def tighten(
        self, network: Network, bounds: Bounds, rounds: int, deadline: Deadline, soft_deadline: Deadline, working: torch.dtype,
        run: Mapper = map, tracer: BoundTracer = UNTRACED,
    ) -> Bounds:  # fmt: skip
        """Bounds no looser than those given, by as many subproblems as `rounds` of splitting give every end, if they were all alike.

        working: the precision in which is climbed; what counts is bounded in the network's own. Neurons whose turn has not come
        when `soft_deadline` has passed keep what they have. Raises OutOfTimeError.
        """
        inputs, places = slice(0, network.inputs), places_behind(network)
        each = self.subproblems(rounds) * open_behind(network, bounds) / max(1, len(places))
        for place in places:
            if soft_deadline.remaining <= 0:
                break
            reduced = Reduced.of(network, bounds.lower, bounds.upper)
            small, left = reduced.network, reduced.variables
            known = Bounds(bounds.lower[:, left], bounds.upper[:, left])
            working_network = small.to(small.device, working)
            trees = _Trees(
                self, (small, working_network), known, small.layers[place], (deadline, soft_deadline), left, tracer
            )  # fmt: skip
            known = trees.tightened(self.subproblems(rounds), each, run)
            lower, upper = bounds.lower.clone(), bounds.upper.clone()
            lower[:, left], upper[:, left] = known.lower, known.upper
            # intervals rest on what is written down
            bounds = tracer.settled(Bounds(lower, upper))
            bounds, _ = interval(network, bounds.lower[:, inputs], bounds.upper[:, inputs], bounds)
            bounds = tracer.settled(bounds)
            tracer.known(bounds)
        return bounds


def places_behind(network: Network) -> list[int]:
    """The places of layers that have others before them, in order."""
    return [
        place
        for place, layer in enumerate(network.layers)
        if any(other.node in network.ancestors[layer.pre_node] for other in network.layers)
    ]


def open_behind(network: Network, bounds: Bounds) -> int:
    """How many neurons of those layers are open, in all boxes."""
    layers = [network.layers[place] for place in places_behind(network)]
    return sum(int(still_open(layer, bounds).sum()) for layer in layers)


class _Trees:
    """The trees of one layer's neurons."""

    def __init__(
        self, method: NeuronTrees, networks: tuple[Network, Network], bounds: Bounds, layer: Layer,
        deadlines: tuple[Deadline, Deadline], variables: Int[Tensor, " variables"], tracer: BoundTracer,
    ) -> None:  # fmt: skip
        """networks: the exact one and the one that ascents work in. deadlines: hard and soft. variables: of the whole network, those of this one."""
        self.variables, self.tracer = variables, tracer
        self.method, self.layer = method, layer
        self.network, self.working_network = networks
        self.deadline, self.soft_deadline = deadlines
        working = self.working_network
        self.bounds, self.working_bounds = bounds, bounds.to(working.device, working.dtype)
        self.sizes = magnitudes(self.network, bounds)

    def tightened(self, mean: float, most: float, run: Mapper) -> Bounds:
        """The boxes with what the trees tell of this layer.

        mean: subproblems an end of any layer. most: of this layer's neurons together, if the first few, with the mean each, gain enough.
        """
        ends = self._open_ends()
        first = torch.arange(len(ends))[: 2 * _TRIAL]
        bounds, narrower = self._with_trees(self.bounds, ends.select(first), mean, run)
        if narrower <= _NARROWER * math.log2(mean):
            return bounds
        mean = min(max(2 * most / len(ends), mean / _MORE), mean * _MORE)
        return self._with_trees(bounds, ends, mean, run)[0]

    def _with_trees(self, bounds: Bounds, ends: Ends, mean: float, run: Mapper) -> tuple[Bounds, float]:
        """The boxes with what is found of these ends, by so many subproblems each in the mean; what splits took of the intervals."""
        room = at_once(_ELEMENTS, self.bounds.lower.device)
        most = max(2, int(room / (self.network.variables * max(1.0, mean))))
        chunks = [ends.select(rows) for rows in torch.arange(len(ends)).split(most)] if len(ends) else []
        narrower = 0.0
        for chunk, (found, gained) in zip(
            chunks, run(partial(self._bounded, mean=mean), chunks), strict=True
        ):
            bounds = self._with(bounds, chunk, found)
            width = self._width(self.bounds, chunk.box, chunk.neuron)
            narrower += float((gained / width).sum())
        return bounds, 2 * narrower / max(1, len(ends))

    def _open_ends(self) -> Ends:
        """Both ends of every open neuron, side by side; those first whose relaxations leave the widest gaps."""
        box, neuron = still_open(self.layer, self.bounds).nonzero().unbind(1)
        column = neuron + self.layer.variables.start
        lower, upper = self.bounds.lower[box, column], self.bounds.upper[box, column]
        gap = torch.where(self._is_triangle(lower, upper), -lower * upper / (upper - lower), upper - lower)
        order = gap.argsort(descending=True).repeat_interleave(2)
        side = self.bounds.lower.new_tensor([1.0, -1.0]).repeat(len(box))
        return Ends(box[order], neuron[order], side)

    def _is_triangle(self, lower: Tensor, upper: Tensor) -> Bool[Tensor, "*batch"]:
        """Where a relaxation is one, with a corner at 0 (of other pieces' corners nothing is asked)."""
        return (lower < 0) & (upper > 0) & (not self.layer.activation.curved)

    def _width(self, bounds: Bounds, box: Tensor, neuron: Tensor) -> Tensor:
        column = neuron + self.layer.variables.start
        return bounds.upper[box, column] - bounds.lower[box, column]

    def _with(self, bounds: Bounds, ends: Ends, found: Tensor) -> Bounds:
        """The boxes with ends that were found."""
        column = ends.neuron + self.layer.variables.start
        lower, upper = bounds.lower.clone(), bounds.upper.clone()
        for side, end, better in ((1, lower, torch.maximum), (-1, upper, torch.minimum)):
            rows = ends.side == side
            place = ends.box[rows], column[rows]  # none twice
            end[place] = better(end[place], side * found[rows])
        return Bounds(lower, upper)

    def _bounded(self, ends: Ends, mean: float) -> tuple[Float[Tensor, " ends"], Float[Tensor, " ends"]]:
        """Lower bounds of the ends, and what splits gained; -inf and 0 where nothing is known."""
        if self.soft_deadline.remaining <= 0:
            return ends.side.new_full((len(ends),), -torch.inf), torch.zeros_like(ends.side)
        subproblems, finished = self._rooted(ends), list[Subproblems]()
        began = subproblems.lower_bound
        for _ in range(self.method.rounds(_MORE * mean)):
            if self.soft_deadline.remaining <= 0:
                break
            rows = self._worst(ends, subproblems, began, mean)
            if not len(rows):
                break
            rest = torch.ones(len(subproblems), dtype=torch.bool, device=rows.device)
            rest[rows] = False
            children, stuck = self._split(ends, subproblems.select(rows))
            finished.append(stuck)
            subproblems = _joined([subproblems.select(rest), children])
        found = self._proved(ends, _joined([*finished, subproblems]))
        return found, (found - began).nan_to_num(0.0, 0.0, 0.0).clamp(min=0)

    def _problem(self, ends: Ends, subproblems: Subproblems, network: Network, bounds: Bounds) -> DualProblem:
        """Each subproblem's end as its one objective."""
        own = ends.select(subproblems.clause)
        lower = bounds.lower
        rows = lower.new_zeros(len(own), self.layer.size)
        rows.scatter_(1, own.neuron[:, None], own.side[:, None].to(lower))
        objective = Objective(
            rows[:, None, None], lower.new_zeros(len(own), 1, 1), lower.new_zeros(len(own), 1, 1, 0)
        )
        box = subproblems.splits.apply(bounds.select(own.box))
        return DualProblem(network, box, objective, subproblems.splits, self.layer.pre_node)

    def _rooted(self, ends: Ends) -> Subproblems:
        """The ends on their whole boxes; `clause` is an end's number."""
        subproblems = root_subproblems(1, range(len(ends)), self.network.alphas, self.network.device)
        problem = self._problem(ends, subproblems, self.working_network, self.working_bounds)
        ascended = self.method.root.ascend(problem, problem.initial(), deadline=self.deadline)
        return subproblems.with_state(ascended.bound[:, 0], ascended.state)

    def _worst(
        self, ends: Ends, subproblems: Subproblems, began: Tensor, mean: float
    ) -> Int[Tensor, " rows"]:
        """The subproblems to split: the worst of each end that is due. `began`: the ends' bounds before they were split."""
        owner, bound = subproblems.clause, subproblems.lower_bound
        order = bound.argsort(stable=True)
        order = order[owner[order].argsort(stable=True)]
        counts = owner.bincount(minlength=len(ends))
        rank = torch.empty_like(owner)
        rank[order] = (
            torch.arange(len(owner), device=owner.device) - (counts.cumsum(0) - counts)[owner[order]]
        )
        chosen = rank < (self.method.share * counts).ceil()[owner]
        due = self._due(ends, counts, began, _least(subproblems, bound, len(ends)), mean)
        return (chosen & due[owner]).nonzero()[:, 0]

    def _due(
        self, ends: Ends, counts: Tensor, began: Tensor, found: Tensor, mean: float
    ) -> Bool[Tensor, " ends"]:
        """Which ends are worth more subproblems than the `counts` that they have, if there are so many in the mean, and are open as far as these tell."""
        column = ends.neuron + self.layer.variables.start
        lower, upper = self.bounds.lower[ends.box, column], self.bounds.upper[ends.box, column]
        # by how much the triangle's height falls with the end
        share = torch.where(ends.side > 0, upper, lower) / (upper - lower)
        weight = torch.where(self._is_triangle(lower, upper), share.square(), 1.0)
        # what is not known to have moved has no pace; one without an end would be all that counts
        pace = ((found - began) / counts.clamp(min=2).log2()).nan_to_num(0.0, 0.0, 0.0).clamp(min=0)
        is_open = self._open(ends, found)
        gain = weight * pace
        worth = mean * (gain / gain[is_open].mean()).nan_to_num(nan=0.0).clamp(max=_MORE)
        # where an end would pass 0, and its neuron be open no more
        closing = counts * (-found / pace).nan_to_num(nan=torch.inf).exp2()
        worth = torch.where(closing <= 2 * mean, torch.maximum(worth, closing), worth)
        return is_open & (counts < torch.where(counts < _PACE, _MORE * mean * weight, worth))

    def _open(self, ends: Ends, found: Tensor) -> Bool[Tensor, " ends"]:
        """Whether each end's neuron is open if the end is where it was found."""
        each = torch.arange(len(ends), device=found.device)
        boxes = self._with(
            self.bounds.select(ends.box), Ends(each, ends.neuron, ends.side), found.to(ends.side)
        )
        return still_open(self.layer, boxes)[each, ends.neuron]

    def _split(self, ends: Ends, subproblems: Subproblems) -> tuple[Subproblems, Subproblems]:
        """The subproblems' children, and subproblems that cannot be split."""
        problem = self._problem(ends, subproblems, self.working_network, self.working_bounds)
        split = self.method.brancher.choose(problem, problem.clamp(subproblems.state))
        splittable = split.variable >= 0
        if not bool(splittable.any()):
            return subproblems.select(splittable), subproblems
        above = split.value if split.above is None else split.above
        children = subproblems.select(splittable).split(
            split.variable[splittable], (split.value[splittable], above[splittable]), split.beta[splittable]
        )
        problem = self._problem(ends, children, self.working_network, self.working_bounds)
        ascended = self.method.child.ascend(problem, reset_new_beta(children).state, deadline=self.deadline)
        children = no_looser(children, ascended, children.state)
        bound = torch.where(problem.bounds.empty, torch.inf, children.lower_bound)
        return replace(children, lower_bound=bound), subproblems.select(~splittable)

    def _proved(self, ends: Ends, subproblems: Subproblems) -> Float[Tensor, " ends"]:
        """The least bound of each end's subproblems, in the network's own precision and less all rounding errors."""
        problem = self._problem(ends, subproblems, self.network, self.bounds)
        state = problem.clamp(subproblems.state.to(self.network.device, self.network.dtype))
        state = self.tracer.rounded(problem, state)
        bound = problem.evaluate(state, self.sizes).bound[:, 0]
        bound = torch.where(bound.isfinite(), bound, -torch.inf)
        least = _least(subproblems, torch.where(problem.bounds.empty, torch.inf, bound), len(ends))
        column = ends.neuron + self.layer.variables.start
        known = self.bounds.lower[ends.box, column], self.bounds.upper[ends.box, column]
        least = torch.where(least.isfinite(), least - self.tracer.slack(*known), -torch.inf)
        better = least > torch.where(ends.side > 0, known[0], -known[1])
        told, rows = better.nonzero()[:, 0], better[subproblems.clause].nonzero()[:, 0]
        self.tracer.branched(
            BranchedBounds(
                self.layer, self.variables, ends.box[told], ends.neuron[told], ends.side[told], least[told],
                (better.cumsum(0) - 1)[subproblems.clause[rows]], problem.select(rows), state.select(rows),
            )
        )  # fmt: skip
        return least


def _least(subproblems: Subproblems, bound: Tensor, ends: int) -> Float[Tensor, " ends"]:
    """The least bound of each end's subproblems."""
    return bound.new_full((ends,), torch.inf).scatter_reduce(0, subproblems.clause, bound, "amin")


def _joined(parts: list[Subproblems]) -> Subproblems:
    """Subproblems of different depths together."""
    depth = max(part.split_variable.shape[1] for part in parts)
    return Subproblems.concatenate([_deepened(part, depth - part.split_variable.shape[1]) for part in parts])


def _deepened(subproblems: Subproblems, more: int) -> Subproblems:
    """The same subproblems with so many columns more for splits."""
    splits = subproblems.splits.padded(subproblems.split_variable.shape[1] + more)
    return replace(
        subproblems, split_variable=splits.variable, split_value=splits.value, split_side=splits.side,
        state=subproblems.state | {"beta": torch.nn.functional.pad(subproblems.state["beta"], (0, more))},
    )  # fmt: skip
