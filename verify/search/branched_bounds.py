"""Intermediate bounds by a small branch and bound of every neuron.

A neuron's ends `+-z_i` are bounded like clauses: an ascent on the whole box, then the worst regions are cut at earlier
pre-activations, and the least bound of all regions counts. Dense networks with few open neurons a layer gain orders of
magnitude by it (what others leave to mixed-integer programs, as Tjeng et al. 2019), since each layer rests on the ones before;
where neurons see little of the network there is next to nothing to gain, which the first neurons of a layer tell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.bounders.backward import still_open
from verify.bounders.dual import DualProblem
from verify.bounders.interval import interval, magnitudes
from verify.bounders.restricted import Restricted
from verify.branchers.fsb import FilteredSmartBranching
from verify.deadline import Deadline
from verify.memory import budget
from verify.network.graph import Layer, Network
from verify.network.reduced import Reduced
from verify.search.strategy import Mapper, begun, fresh, no_looser
from verify.state import Bounds, Objective, Struct, Subproblems

_ELEMENTS = {"cpu": 4_000_000, "cuda": 32_000_000}  # variables of the regions that are bounded at once
_TRIAL = 8  # neurons of each layer that are tried first
_NARROWER = 0.02  # of their intervals, that these must lose for the others to be worth it


@dataclass(frozen=True)
class Ends(Struct):
    """Ends of neurons' intervals: `side * z` is bounded from below on a box."""

    box: Int[Tensor, " batch"]
    neuron: Int[Tensor, " batch"]  # of the layer
    side: Float[Tensor, " batch"]  # 1: the lower end, -1: the upper one


@dataclass(frozen=True)
class BranchedBounds:
    """Tightens boxes layer by layer. `share` of an end's regions, the worst, are split a round."""

    root: Restricted = Restricted(iterations=5)
    child: Restricted = Restricted(iterations=2, step=0.3, decay=0.6)
    brancher: FilteredSmartBranching = FilteredSmartBranching(candidates=0)
    share: float = 1 / 3

    def regions(self, rounds: int) -> int:
        """How many regions an end has in the end."""
        count = 1
        for _ in range(rounds):
            count += self.worst(count)
        return count

    def worst(self, count: int) -> int:
        """How many of so many regions are split."""
        return -int(-self.share * count // 1)

    def tighten(
        self, network: Network, bounds: Bounds, rounds: int, deadline: Deadline, enough: Deadline, fast: torch.dtype,
        run: Mapper = map,
    ) -> Bounds:  # fmt: skip
        """Bounds no looser than those given, after some `rounds` of splitting for every open neuron.

        fast: the precision in which is climbed; what counts is bounded in the network's own. Neurons whose turn has not come
        when `enough` has passed keep what they have. Raises OutOfTimeError.
        """
        inputs = slice(0, network.inputs)
        for place in places_behind(network):
            if enough.remaining <= 0:
                break
            reduced = Reduced.of(network, bounds.lower, bounds.upper)
            small, left = reduced.network, reduced.variables
            known = Bounds(bounds.lower[:, left], bounds.upper[:, left])
            quick = small.to(small.device, fast)
            trees = _Trees(self, small, quick, known, small.layers[place], rounds, deadline, enough)
            known = trees.tightened(run)
            lower, upper = bounds.lower.clone(), bounds.upper.clone()
            lower[:, left], upper[:, left] = known.lower, known.upper
            bounds, _ = interval(
                network, bounds.lower[:, inputs], bounds.upper[:, inputs], Bounds(lower, upper)
            )
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
        self, method: BranchedBounds, network: Network, fast: Network, bounds: Bounds, layer: Layer, rounds: int,
        deadline: Deadline, enough: Deadline,
    ) -> None:  # fmt: skip
        self.method, self.network, self.fast, self.layer, self.rounds = method, network, fast, layer, rounds
        self.deadline, self.enough = deadline, enough
        self.bounds, self.quick = bounds, bounds.to(fast.device, fast.dtype)
        self.sizes = magnitudes(network, bounds)

    def tightened(self, run: Mapper) -> Bounds:
        """The boxes with what the trees tell of this layer. The first chunks decide whether there are more."""
        ends = self._open_ends()
        regions = self.method.regions(self.rounds)
        room = budget().at_once(_ELEMENTS[self.bounds.lower.device.type])
        most = max(2, room // (self.network.variables * regions))
        numbers = torch.arange(len(ends))
        trial, rest = numbers[: 2 * _TRIAL].split(min(most, _TRIAL)), numbers[2 * _TRIAL :].split(most)
        bounds = self.bounds
        for part in (trial, rest):
            chunks = [ends.select(rows) for rows in part if len(rows)]
            for chunk, found in zip(chunks, run(self._bounded, chunks), strict=True):
                bounds = self._with(bounds, chunk, found)
            if part is trial and self._narrower(ends.select(numbers[: 2 * _TRIAL]), bounds) < _NARROWER:
                break
        return bounds

    def _open_ends(self) -> Ends:
        """Both ends of every open neuron, side by side; widest intervals first."""
        box, neuron = still_open(self.layer, self.bounds).nonzero().unbind(1)
        order = self._width(self.bounds, box, neuron).argsort(descending=True).repeat_interleave(2)
        side = self.bounds.lower.new_tensor([1.0, -1.0]).repeat(len(box))
        return Ends(box[order], neuron[order], side)

    def _width(self, bounds: Bounds, box: Tensor, neuron: Tensor) -> Tensor:
        column = neuron + self.layer.variables.start
        return bounds.upper[box, column] - bounds.lower[box, column]

    def _narrower(self, ends: Ends, bounds: Bounds) -> float:
        """The mean share of their intervals that the neurons have lost."""
        before, after = (self._width(some, ends.box, ends.neuron) for some in (self.bounds, bounds))
        return float((1 - after / before).mean()) if len(ends) else 0.0

    def _with(self, bounds: Bounds, ends: Ends, found: Tensor) -> Bounds:
        """The boxes with ends that were found."""
        column = ends.neuron + self.layer.variables.start
        lower, upper = bounds.lower.clone(), bounds.upper.clone()
        for side, end, better in ((1, lower, torch.maximum), (-1, upper, torch.minimum)):
            rows = ends.side == side
            place = ends.box[rows], column[rows]  # none twice
            end[place] = better(end[place], side * found[rows])
        return Bounds(lower, upper)

    def _bounded(self, ends: Ends) -> Float[Tensor, " ends"]:
        """Lower bounds of the ends; -inf where nothing is known."""
        if self.enough.remaining <= 0:
            return ends.side.new_full((len(ends),), -torch.inf)
        regions, finished = self._rooted(ends), list[Subproblems]()
        for _ in range(self.rounds):
            if self.enough.remaining <= 0:
                break
            rows = self._worst(ends, regions)
            if not len(rows):
                break
            rest = torch.ones(len(regions), dtype=torch.bool, device=rows.device)
            rest[rows] = False
            children, stuck = self._split(ends, regions.select(rows))
            finished.append(stuck)
            regions = _joined([regions.select(rest), children])
        return self._proved(ends, _joined([*finished, regions]))

    def _problem(self, ends: Ends, regions: Subproblems, network: Network, bounds: Bounds) -> DualProblem:
        """Each region's end as its one objective."""
        own = ends.select(regions.clause)
        lower = bounds.lower
        rows = lower.new_zeros(len(own), self.layer.size)
        rows.scatter_(1, own.neuron[:, None], own.side[:, None].to(lower))
        objective = Objective(
            rows[:, None, None], lower.new_zeros(len(own), 1, 1), lower.new_zeros(len(own), 1, 1, 0)
        )
        box = regions.cuts.apply(bounds.select(own.box))
        return DualProblem(network, box, objective, regions.cuts, self.layer.pre_node)

    def _rooted(self, ends: Ends) -> Subproblems:
        """The ends on their whole boxes; `clause` is an end's number."""
        regions = fresh(1, range(len(ends)), self.network.parameters, self.network.device)
        problem = self._problem(ends, regions, self.fast, self.quick)
        climbed = self.method.root.ascend(problem, problem.initial(), deadline=self.deadline)
        return regions.with_state(climbed.bound[:, 0], climbed.state)

    def _worst(self, ends: Ends, regions: Subproblems) -> Int[Tensor, " rows"]:
        """The regions to split: the worst of each end whose neuron is open as far as the regions tell."""
        owner, bound = regions.clause, regions.lower_bound
        order = bound.argsort(stable=True)
        order = order[owner[order].argsort(stable=True)]
        counts = owner.bincount(minlength=len(ends))
        rank = torch.empty_like(owner)
        rank[order] = (
            torch.arange(len(owner), device=owner.device) - (counts.cumsum(0) - counts)[owner[order]]
        )
        chosen = rank < (self.method.share * counts).ceil()[owner]
        return (chosen & self._open(ends, _least(regions, bound, len(ends)))[owner]).nonzero()[:, 0]

    def _open(self, ends: Ends, found: Tensor) -> Bool[Tensor, " ends"]:
        """Whether each end's neuron is open if the end is where it was found."""
        each = torch.arange(len(ends), device=found.device)
        boxes = self._with(
            self.bounds.select(ends.box), Ends(each, ends.neuron, ends.side), found.to(ends.side)
        )
        return still_open(self.layer, boxes)[each, ends.neuron]

    def _split(self, ends: Ends, regions: Subproblems) -> tuple[Subproblems, Subproblems]:
        """The regions' children, and regions that cannot be cut."""
        problem = self._problem(ends, regions, self.fast, self.quick)
        split = self.method.brancher.choose(problem, problem.clamp(regions.state))
        cut = split.variable >= 0
        if not bool(cut.any()):
            return regions.select(cut), regions
        children = regions.select(cut).split(split.variable[cut], split.value[cut], split.multipliers[cut])
        problem = self._problem(ends, children, self.fast, self.quick)
        climbed = self.method.child.ascend(problem, begun(children).state, deadline=self.deadline)
        children = no_looser(children, climbed, children.state)
        bound = torch.where(problem.bounds.empty, torch.inf, children.lower_bound)
        return replace(children, lower_bound=bound), regions.select(~cut)

    def _proved(self, ends: Ends, regions: Subproblems) -> Float[Tensor, " ends"]:
        """The least bound of each end's regions, in the network's own precision and less all rounding errors."""
        problem = self._problem(ends, regions, self.network, self.bounds)
        state = problem.clamp(regions.state.to(self.network.device, self.network.dtype))
        bound = problem.evaluate(state, self.sizes).bound[:, 0]
        bound = torch.where(bound.isfinite(), bound, -torch.inf)
        least = _least(regions, torch.where(problem.bounds.empty, torch.inf, bound), len(ends))
        return torch.where(least.isfinite(), least, -torch.inf)


def _least(regions: Subproblems, bound: Tensor, ends: int) -> Float[Tensor, " ends"]:
    """The least bound of each end's regions."""
    return bound.new_full((ends,), torch.inf).scatter_reduce(0, regions.clause, bound, "amin")


def _joined(parts: list[Subproblems]) -> Subproblems:
    """Regions of different depths together."""
    depth = max(part.cut_variable.shape[1] for part in parts)
    return Subproblems.concatenate([_deepened(part, depth - part.cut_variable.shape[1]) for part in parts])


def _deepened(regions: Subproblems, more: int) -> Subproblems:
    """The same regions with so many columns more for cuts."""
    cuts = regions.cuts.padded(regions.cut_variable.shape[1] + more)
    return replace(
        regions, cut_variable=cuts.variable, cut_value=cuts.value, cut_side=cuts.side,
        cut_multipliers=torch.nn.functional.pad(regions.cut_multipliers, (0, more)),
    )  # fmt: skip
