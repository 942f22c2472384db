"""Intermediate bounds: the same dual function with objectives `+-z_i` on the network that ends at a pre-activation.

Interval arithmetic first, then for each layer in order a backward pass (CROWN, Zhang et al. 2018) for those neurons only
whose sign (or, for curved activations, whose value) is still open; the passes run in chunks so that memory stays bounded. In
float64 with `magnitudes` every bound is rounded outward by the errors of its own pass.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from verify.bounders.ibp import interval, magnitudes
from verify.bounders.patches import PatchNetwork
from verify.bounders.restricted import Restricted
from verify.bounders.tracing import UNTRACED, BoundTracer, OptimisedBounds
from verify.deadline import Deadline
from verify.lagrangian.dual import DualProblem
from verify.network.graph import Layer, Network
from verify.state import Bounds, DualState, Objective

_CHUNK_BYTES = 8 * 2**20  # of one live tensor; a pass holds a handful


@dataclass(frozen=True)
class IntermediateBounds:
    """Tightens all pre-activations' bounds on a batch of boxes.

    With `ascent`, every neuron's slopes are first optimised, on a `working` copy of the network in lower precision; the bound
    that counts is still a sweep of the network itself.
    """

    ascent: Restricted | None = None

    def tighten(
        self,
        network: Network,
        bounds: Bounds,
        deadline: Deadline,
        working: Network | None = None,
        soft_deadline: Deadline | None = None,
        tracer: BoundTracer = UNTRACED,
    ) -> Bounds:
        """Bounds of all variables, no looser than those given (whose input columns are the boxes).

        Once `soft_deadline` has passed the remaining neurons keep what they have; so do layers that a plain pass would not get through
        by then. Raises OutOfTimeError.
        """
        inputs = slice(0, network.inputs)
        bounds, _ = interval(network, bounds.lower[:, inputs], bounds.upper[:, inputs], bounds)
        bounds = tracer.settled(bounds)
        if self.ascent is not None:
            tracer.known(bounds)
        for position, layer in enumerate(network.layers):
            if position == 0 and not _worth_a_pass(network, layer):
                continue
            open_neurons = still_open(layer, bounds)
            if not bool(open_neurons.any()) or (soft_deadline is not None and soft_deadline.remaining <= 0):
                continue
            bounds = self._tighten_layer(
                network, layer, bounds, open_neurons, deadline, working or network, soft_deadline, tracer
            )
            # intervals rest on what is written down
            bounds = tracer.settled(bounds)
            bounds, _ = interval(network, bounds.lower[:, inputs], bounds.upper[:, inputs], bounds)
            bounds = tracer.settled(bounds)
            if self.ascent is not None:
                tracer.known(bounds)
        bounds = tracer.settled(bounds)
        if self.ascent is None:
            tracer.known(bounds)
        return bounds

    def tighten_last(
        self, network: Network, first: int, bounds: Bounds, deadline: Deadline, soft_deadline: Deadline
    ) -> Bounds:
        """Only the layers from the `first` on are tightened, and what that tells of layers behind is left to their own passes.

        Ends as `tighten` does once `soft_deadline` has passed.
        """
        for layer in network.layers[first:]:
            open_neurons = still_open(layer, bounds)
            if bool(open_neurons.any()) and soft_deadline.remaining > 0:
                bounds = self._tighten_layer(
                    network, layer, bounds, open_neurons, deadline, network, soft_deadline, UNTRACED
                )
        return bounds

    def _tighten_layer(
        self,
        network: Network,
        layer: Layer,
        bounds: Bounds,
        open_neurons: Bool[Tensor, "batch size"],
        deadline: Deadline,
        working: Network,
        soft_deadline: Deadline | None,
        tracer: BoundTracer,
    ) -> Bounds:
        lower, upper = bounds.lower.clone(), bounds.upper.clone()
        sizes = magnitudes(network, bounds)
        began, done, total = time.monotonic(), 0, int(open_neurons.sum())
        whole = tracer.whole_network and self.ascent is not None
        view, working_view = (
            _Whole(one, layer) if whole else _view(one, layer) for one in (network, working)
        )
        working_bounds = bounds if self.ascent is None else bounds.to(working.device, working.dtype)
        for rows, neurons, used in _chunks(view.by_position(open_neurons), view.network, view.node):
            deadline.check()
            if soft_deadline is not None and self._too_slow(
                time.monotonic() - began, done, total, soft_deadline
            ):
                break
            problem = view.problem(rows, neurons, bounds)
            state = problem.initial()
            if self.ascent is not None and len(problem.layers):
                ascended = self._optimised(
                    working_view.problem(rows, neurons, working_bounds), state, deadline
                )
                state = problem.clamp(tracer.rounded(ascended))
            found = problem.evaluate(state, view.sizes(rows, sizes)).bound
            low, high = torch.where(found.isfinite(), found, -torch.inf).chunk(2, dim=1)
            slack = tracer.slack(low, -high)
            low, high = low - slack, slack - high
            if self.ascent is not None:
                tracer.optimised(OptimisedBounds(rows, layer, problem, state, neurons, used, low, high))
            done += int(used.sum())
            boxes, places = view.neurons(rows, neurons)
            columns = places + layer.variables.start  # no place twice
            low = torch.where(used, low, -torch.inf)
            high = torch.where(used, high, torch.inf)
            lower[boxes, columns] = torch.maximum(lower[boxes, columns], low)
            upper[boxes, columns] = torch.minimum(upper[boxes, columns], high)
        return Bounds(lower, upper)

    def _too_slow(self, seconds: float, done: int, total: int, soft_deadline: Deadline) -> bool:
        """Whether the time is up, or a layer's plain pass would not end before: later layers are fewer neurons, or tell more."""
        left = seconds * (total - done) / done if done and self.ascent is None else 0.0
        return soft_deadline.remaining <= left

    def _optimised(self, problem: DualProblem, state: DualState, deadline: Deadline) -> DualState:
        """The dual point that an ascent in lower precision makes of `state`."""
        assert self.ascent is not None
        like = problem.bounds.lower
        ascended = self.ascent.ascend(problem, state.to(like.device, like.dtype), deadline=deadline).state
        return ascended.to(state["alpha"].device, state["alpha"].dtype)


@dataclass(frozen=True)
class _Whole:
    """A layer's neurons behind the whole network: what `LocalNetwork` is for windows."""

    network: Network
    layer: Layer

    @property
    def node(self) -> int:
        return self.layer.pre_node

    def by_position(self, open_neurons: Bool[Tensor, "batch size"]) -> Bool[Tensor, "batch size"]:
        return open_neurons

    def neurons(self, rows: Tensor, neurons: Int[Tensor, "rows count"]) -> tuple[Tensor, Tensor]:
        return rows[:, None], neurons

    def problem(self, rows: Tensor, neurons: Int[Tensor, "rows count"], bounds: Bounds) -> DualProblem:
        objective = Objective.both_ends(neurons, self.layer.size, bounds.lower)
        return DualProblem(self.network, bounds.select(rows), objective, node=self.node)

    def sizes(self, rows: Tensor, sizes: dict[int, Tensor]) -> dict[int, Tensor]:
        return sizes


def _view(network: Network, layer: Layer) -> _Whole | PatchNetwork:
    return PatchNetwork.of(network, layer) or _Whole(network, layer)


def _worth_a_pass(network: Network, layer: Layer) -> bool:
    """Before the first activation intervals are exact, except through several affine maps that meet again."""
    chain = [i for i in network.ancestors[layer.pre_node] if i != 0]
    return len(chain) > 1


def still_open(layer: Layer, bounds: Bounds) -> Bool[Tensor, "batch size"]:
    """The neurons whose relaxation is not exact, for which a tighter interval is worth a pass."""
    lower, upper = bounds.lower[:, layer.variables], bounds.upper[:, layer.variables]
    return ~layer.activation.split_point(lower, upper).isnan()


def _chunks(
    open_neurons: Bool[Tensor, "batch size"], network: Network, node: int
) -> Iterator[tuple[Tensor, Int[Tensor, "rows count"], Bool[Tensor, "rows count"]]]:
    """Boxes and their open neurons (padded to equal counts; `used` tells which are real), few enough for the memory."""
    widest = max(network.nodes[i].size for i in network.ancestors[node])
    passes = max(2, _CHUNK_BYTES // (2 * widest * network.dtype.itemsize))
    counts = open_neurons.sum(1)
    order = torch.argsort(counts, descending=True)
    order = order[counts[order] > 0]
    ranked = torch.argsort(open_neurons.to(torch.int8), dim=1, descending=True, stable=True)
    start = 0
    while start < len(order):
        count = int(counts[order[start]])
        boxes = order[start : start + max(1, passes // count)]
        for first in range(0, count, passes):
            neurons = ranked[boxes, first : min(count, first + passes)]
            used = open_neurons[boxes[:, None], neurons]
            yield boxes, neurons, used
        start += len(boxes)
