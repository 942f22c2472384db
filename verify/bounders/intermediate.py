"""Intermediate bounds: the same dual function with objectives `+-z_i` on the network that ends at a pre-activation.

Interval arithmetic first, then for each layer in order a backward pass (CROWN, Zhang et al. 2018) for those neurons only
whose sign (or, for curved activations, whose value) is still open; the passes run in chunks so that memory stays bounded. In
float64 with `magnitudes` every bound is rounded outward by the errors of its own pass.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.bounders.centred import Centred, CentredPasses
from verify.bounders.centred import View as Sighted
from verify.bounders.forward import forward
from verify.bounders.halfspaces import Halfspaces
from verify.bounders.ibp import interval, magnitudes
from verify.bounders.restricted import Restricted
from verify.bounders.tracing import UNTRACED, BoundTracer, OptimisedBounds
from verify.bounders.views import Before, View, Whole, views_of, widest
from verify.deadline import Deadline
from verify.network.affine import Dense
from verify.network.convolution import Convolution
from verify.network.graph import Layer, Network
from verify.room import at_once, times
from verify.state import Bounds, DualState, is_wide

_CHUNK_BYTES = 8 * 2**20  # of one live tensor; a pass holds a handful
_LARGE = 2**18  # entries of a pass's widest cotangents: less is over before another precision pays
_LOST = 1 / 64  # of an interval, to rounding: then float64 is worth it where it is still open
_NEXT_TO_NOTHING = 1 / 8  # of what is to follow
_KEPT = 1 / 2  # of the time left, at most, for ascents in later layers
_TOLD = 1 / 8  # of a layer's neurons: by then passes have shown what they are worth
_GAIN = 0.01  # of the intervals' widths: less is not worth the rest of a layer
_MOST_ELEMENTS = 2**25  # of the columns that are carried forward at once


@dataclass(frozen=True)
class _Run:
    """What one tightening of boxes is done with; `working`: the network in which passes may be tried that are not exact."""

    network: Network
    working: Network
    deadline: Deadline
    soft_deadline: Deadline | None
    tracer: BoundTracer
    unsafe: Halfspaces | None
    clock: _Clock = field(default_factory=lambda: _Clock())
    _views: dict[tuple[int, int, bool], Sequence[View]] = field(default_factory=dict)

    def views(self, network: Network, layer: Layer, ends: bool = False) -> Sequence[View]:
        """See `views_of`; made once for all."""
        key = id(network), layer.node, ends
        if key not in self._views:
            self._views[key] = views_of(network, layer, ends)
        return self._views[key]


@dataclass(frozen=True)
class IntermediateBounds:
    """Tightens all pre-activations' bounds on a batch of boxes.

    With `ascent`, every neuron's slopes are first optimised, on a `working` copy of the network in lower precision; the bound
    that counts is still a sweep of the network itself. forward: where few inputs are open, linear functions of these come first. alike:
    all is done, in the network's own precision, as whoever proves it again does.
    """

    ascent: Restricted | None = None
    forward: bool = True
    alike: bool = False

    def tighten(
        self,
        network: Network,
        bounds: Bounds,
        deadline: Deadline,
        working: Network | None = None,
        soft_deadline: Deadline | None = None,
        tracer: BoundTracer = UNTRACED,
        unsafe: Halfspaces | None = None,
        relevant: Bool[Tensor, " variables"] | None = None,
    ) -> Bounds:
        """Bounds of all variables, no looser than those given (whose input columns are the boxes).

        Once `soft_deadline` has passed the remaining neurons keep what they have; so do layers that a plain pass would not get through
        by then. unsafe: the parts of the boxes that bounds need to hold on. relevant: others than these are left to intervals. Raises
        OutOfTimeError.
        """
        if self.alike:
            working, soft_deadline = None, None
        run = _Run(network, working or network, deadline, soft_deadline, tracer, unsafe)
        inputs = slice(0, network.inputs)
        bounds, _ = interval(network, bounds.lower[:, inputs], bounds.upper[:, inputs], bounds)
        if self.forward and self.ascent is None and tracer is UNTRACED:
            bounds = _carried_forward(run, bounds, relevant)
        bounds = tracer.settled(bounds)
        if self.ascent is not None:
            tracer.known(bounds)
        for position, layer in enumerate(network.layers):
            if position == 0 and not _worth_a_pass(network, layer):
                continue
            open_neurons = still_open(layer, bounds, relevant)
            total = int(open_neurons.sum())
            if not total or (soft_deadline is not None and soft_deadline.remaining <= 0):
                continue
            now = replace(run, soft_deadline=self._without_the_rest(run, position, bounds, relevant))
            bounds = self._tighten_layer(now, layer, bounds, open_neurons, total)
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
        self,
        network: Network,
        first: int,
        bounds: Bounds,
        deadline: Deadline,
        soft_deadline: Deadline,
        working: Network | None = None,
        unsafe: Halfspaces | None = None,
        relevant: Bool[Tensor, " variables"] | None = None,
    ) -> Bounds:
        """Only the layers from the `first` on are tightened, and what that tells of layers behind is left to their own passes.

        Ends as `tighten` does once `soft_deadline` has passed; `unsafe` and `relevant` as there.
        """
        run = _Run(network, working or network, deadline, soft_deadline, UNTRACED, unsafe)
        for layer in network.layers[first:]:
            open_neurons = still_open(layer, bounds, relevant)
            if (total := int(open_neurons.sum())) and soft_deadline.remaining > 0:
                bounds = self._tighten_layer(run, layer, bounds, open_neurons, total)
        return bounds

    def _without_the_rest(
        self, run: _Run, position: int, bounds: Bounds, relevant: Tensor | None
    ) -> Deadline | None:
        """The time that a layer's ascents have: half of what is left is kept for later layers that can be done in it, the cheapest first."""
        soft_deadline = run.soft_deadline
        if self.ascent is None or soft_deadline is None:
            return soft_deadline
        later = sorted(
            run.clock.seconds_a_value * count * run.views(run.network, layer)[0].seen
            for layer, count in _counted(run.network.layers[position + 1 :], bounds, relevant)
        )
        kept = 0.0
        for seconds in later:
            kept += seconds if kept + seconds <= _KEPT * soft_deadline.remaining else 0.0
        return soft_deadline.within(soft_deadline.remaining - kept)

    def _tighten_layer(
        self, run: _Run, layer: Layer, bounds: Bounds, open_neurons: Bool[Tensor, "batch size"], total: int
    ) -> Bounds:
        """total: how many are open."""
        lower, upper = bounds.lower.clone(), bounds.upper.clone()
        rounded = torch.zeros_like(open_neurons)
        pace, gain = _Pace(total), _Gain(total)
        large = total * widest(run.network, layer.pre_node) > _LARGE
        exact = not large
        for passes, (rows, neurons, used, count) in self._chunks(
            run if large else replace(run, working=run.network), layer, bounds, open_neurons
        ):
            run.deadline.check()
            exact = passes.exact
            if (gain.next_to_none and not self.alike) or (
                run.soft_deadline is not None and self._too_slow(pace, run.soft_deadline)
            ):
                break
            low, high, lost = passes.bounds(rows, neurons, used)
            pace.did(count)
            boxes, places = passes.view.neurons(rows, neurons)
            rounded[boxes, places] |= used & ~(lost < _LOST * (high - low))
            columns = places + layer.variables.start  # no place twice
            low = torch.where(used & low.isfinite(), low, -torch.inf)
            high = torch.where(used & high.isfinite(), high, torch.inf)
            before = upper[boxes, columns] - lower[boxes, columns]
            lower[boxes, columns] = torch.maximum(lower[boxes, columns], low)
            upper[boxes, columns] = torch.minimum(upper[boxes, columns], high)
            # of several boxes those to come may differ: whoever asks for many knows what passes bring
            if len(bounds) == 1:
                gain.was(before, upper[boxes, columns] - lower[boxes, columns], used, count)
        run.clock.add(pace.timed, run.views(run.network, layer)[0].seen, pace.seconds)
        tight = Bounds(lower, upper)
        if exact:
            return tight
        again = rounded & still_open(layer, tight)
        left = int(again.sum())
        return (
            self._tighten_layer(replace(run, working=run.network), layer, tight, again, left)
            if left
            else tight
        )

    def _chunks(
        self, run: _Run, layer: Layer, bounds: Bounds, open_neurons: Bool[Tensor, "batch size"]
    ) -> Iterator[tuple[_Passes | CentredPasses, _Chunk]]:
        """Parts of a layer's open neurons, and who bounds them."""
        for passes in self._passes(run, layer, bounds):
            view = passes.view
            for chunk in _chunks(view.by_position(open_neurons), view):
                yield passes, chunk

    def _passes(self, run: _Run, layer: Layer, bounds: Bounds) -> Sequence[_Passes | CentredPasses]:
        """Plain ones in float32 where they hold: what is told of them is proved in float64, from the same bounds below."""
        network, working, tracer = run.network, run.working, run.tracer
        if self.ascent is None and working.dtype == torch.float32 and not network.ball:
            views = run.views(working, layer, ends=True)
            known = Centred.of(network, bounds, max(view.widest for view in views))
            if known is not None:
                return [
                    CentredPasses(known, view, run.unsafe, partial(Before, working, layer)) for view in views
                ]
        whole = tracer.whole_network and self.ascent is not None
        both = ([Whole(one, layer)] if whole else run.views(one, layer) for one in (network, working))
        sizes = magnitudes(network, bounds)
        return [_Passes(self.ascent, view, own, bounds, sizes, run) for view, own in zip(*both, strict=True)]

    def _too_slow(self, pace: _Pace, soft_deadline: Deadline) -> bool:
        """Whether the time is up, or a layer's plain pass would not end before: later layers are fewer neurons, or tell more."""
        return soft_deadline.remaining <= (pace.left if self.ascent is None else 0.0)


class _Pace:
    """How long the rest of a layer will take, by the parts so far but the first, which has work in it that is done once."""

    def __init__(self, total: int) -> None:
        self._undone, self.timed, self.seconds = total, 0, 0.0
        self._began: float | None = None

    def did(self, neurons: int) -> None:
        """So many more."""
        self._undone -= neurons
        if self._began is None:
            self._began = time.monotonic()
        else:
            self.timed, self.seconds = self.timed + neurons, time.monotonic() - self._began

    @property
    def left(self) -> float:
        """Seconds; 0 where nothing is known."""
        return self.seconds / self.timed * self._undone if self.timed else 0.0


class _Clock:
    """What a value that a neuron's sweep comes by costs, by all layers so far."""

    def __init__(self) -> None:
        self._seconds, self._values = 0.0, 0

    def add(self, neurons: int, seen: int, seconds: float) -> None:
        """So many neurons took so long, of which each comes by so many values."""
        self._seconds, self._values = self._seconds + seconds, self._values + neurons * seen

    @property
    def seconds_a_value(self) -> float:
        """0 where nothing is known."""
        return self._seconds / self._values if self._values else 0.0


class _Gain:
    """What passes over a layer have narrowed so far."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._sums: Tensor | None = None

    def was(
        self,
        before: Float[Tensor, "rows count"],
        after: Float[Tensor, "rows count"],
        used: Bool[Tensor, "rows count"],
        count: int,
    ) -> None:
        """Intervals' widths, `count` of them used; what was infinite and is not counts as narrowed by all of itself."""
        self._done += count
        finite = before.isfinite()
        before = torch.where(finite, before, after.isfinite().to(after))
        after = torch.where(finite, after.clamp(min=0), 0.0)
        sums = torch.where(used, torch.stack([before, after]), 0.0).sum((1, 2))
        self._sums = sums if self._sums is None else self._sums + sums

    @property
    def next_to_none(self) -> bool:
        """Whether the rest is not worth it, as enough of the layer has shown."""
        if self._sums is None or self._done < _TOLD * self._total:
            return False
        before, after = self._sums.tolist()
        return bool(after > (1 - _GAIN) * before)


@dataclass(frozen=True)
class _Passes:
    """Sweeps for both ends of a layer's neurons, in the network's own precision; with an ascent each from slopes of its own."""

    ascent: Restricted | None
    view: View
    working_view: View
    known: Bounds
    sizes: dict[int, Tensor]
    run: _Run
    exact: ClassVar[bool] = True

    def bounds(
        self, rows: Int[Tensor, " rows"], neurons: Int[Tensor, "rows count"], used: Bool[Tensor, "rows count"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Lower and upper bounds, [rows, count] each, not finite where nothing is known; and what a better precision would gain."""
        problem, tracer = self.view.problem(rows, neurons, self.known), self.run.tracer
        state = problem.initial()
        ascends = self.ascent is not None and bool(problem.layers)
        if ascends:
            state = tracer.rounded(problem, problem.clamp(self._optimised(rows, neurons, state)))
        evaluated = problem.evaluate(state, self.view.sizes(rows, self.sizes))
        found = evaluated.bound
        if self.run.unsafe is not None and self.view.sees_all:
            found = self.run.unsafe.select(rows).least(found, evaluated.input_cotangent)
        low, high = torch.where(found.isfinite(), found, -torch.inf).chunk(2, dim=1)
        slack = tracer.slack(low, -high)
        low, high = low - slack, slack - high
        if self.ascent is not None:
            layer = self.view.layer
            tracer.optimised(OptimisedBounds(rows, layer, problem, state, neurons, used, low, high))
        return low, high, torch.zeros_like(low)

    def _optimised(self, rows: Tensor, neurons: Tensor, state: DualState) -> DualState:
        """The dual point that an ascent in lower precision makes of `state`."""
        assert self.ascent is not None
        network = self.working_view.network
        bounds = self.known.to(network.device, network.dtype)
        problem = self.working_view.problem(rows, neurons, bounds)
        lower = state.to(network.device, network.dtype)
        ascended = self.ascent.ascend(problem, lower, deadline=self.run.deadline).state
        return ascended.to(state["alpha"].device, state["alpha"].dtype)


def _carried_forward(run: _Run, bounds: Bounds, relevant: Tensor | None) -> Bounds:
    """With what linear functions of the inputs tell, where these are so few that it costs next to nothing beside the passes."""
    network, inputs = run.network, slice(0, run.network.inputs)
    free = is_wide(bounds.lower[:, inputs], bounds.upper[:, inputs]).any(0).sum()
    columns = 4 * (2 + int(free))
    layers = [layer for layer in network.layers if _worth_a_pass(network, layer)]
    passes = sum(
        2 * count * run.views(network, layer, ends=True)[0].seen
        for layer, count in _counted(layers, bounds, relevant)
    )
    if columns * len(bounds) * sum(node.size for node in network.nodes) > _NEXT_TO_NOTHING * passes:
        return bounds
    most = at_once(_MOST_ELEMENTS, network.device) // (columns * max(node.size for node in network.nodes))
    if not most:
        return bounds
    rows = torch.arange(len(bounds), device=bounds.lower.device)
    found = []
    for some in rows.split(most):
        part = None if run.unsafe is None else run.unsafe.select(some)
        found.append(forward(network, bounds.select(some), run.deadline, part).bounds)
    return Bounds.concatenate(found)


def _worth_a_pass(network: Network, layer: Layer) -> bool:
    """Before the first activation intervals are exact, except through several affine maps that meet again."""
    chain = [i for i in network.ancestors[layer.pre_node] if i != 0]
    if network.ball is not None:  # over which sums have other bounds than over its box
        return any(isinstance(network.nodes[i].operator, Dense | Convolution) for i in chain)
    return len(chain) > 1


def still_open(
    layer: Layer, bounds: Bounds, relevant: Bool[Tensor, " variables"] | None = None
) -> Bool[Tensor, "batch size"]:
    """The (relevant) neurons whose relaxation is not exact, for which a tighter interval is worth a pass."""
    lower, upper = bounds.lower[:, layer.variables], bounds.upper[:, layer.variables]
    found = ~layer.activation.split_point(lower, upper).isnan()
    return found if relevant is None else found & relevant[layer.variables]


def _counted(layers: Sequence[Layer], bounds: Bounds, relevant: Tensor | None) -> Iterator[tuple[Layer, int]]:
    """Each layer with how many of its neurons are still open."""
    counts = [still_open(layer, bounds, relevant).sum() for layer in layers]
    return zip(layers, torch.stack(counts).tolist() if counts else [], strict=True)


_Chunk = tuple[Tensor, Int[Tensor, "rows count"], Bool[Tensor, "rows count"], int]


def _chunks(open_neurons: Bool[Tensor, "batch size"], view: Sighted) -> Iterator[_Chunk]:
    """Boxes and their open neurons (padded to equal counts; `used` tells which are real, and so many are), few enough for the memory."""
    room = int(_CHUNK_BYTES * times(view.network.device))
    passes = max(2, room // (2 * view.widest * view.network.dtype.itemsize))
    descending = open_neurons.sum(1).sort(descending=True)
    order, counts = descending.indices, descending.values.tolist()
    ranked = torch.argsort(open_neurons.to(torch.int8), dim=1, descending=True, stable=True)
    start = 0
    while start < len(counts) and counts[start]:
        boxes = order[start : start + max(1, passes // counts[start])]
        own = [count for count in counts[start : start + len(boxes)] if count]
        boxes = boxes[: len(own)]
        for first in range(0, own[0], passes):
            last = min(own[0], first + passes)
            neurons = ranked[boxes, first:last]
            used = open_neurons[boxes[:, None], neurons]
            yield boxes, neurons, used, sum(min(max(count - first, 0), last - first) for count in own)
        start += len(boxes)
