"""CROWN in float32 whose bounds hold: the network around the values at a box's centre, and every rounding counted.

A sweep in float32 takes a fifth of the time of one in float64, but its roundings, counted against the sizes of values, would cost
more than small boxes are wide. Counted against *deviations* they cost little. So the values at the centre are worked
out once, in float64, and the sweep bounds how far a neuron's value may be from there: node values are deviations, affine maps
lose their biases, and an activation's lines are moved to the centre, in float64 and rounded outward.

What is counted, with the unit roundoff u of float32 and cotangents c as computed (Higham 2002, section 3.1): a transposed affine map of
n terms errs by at most `n u |W|^T |c|`, which moves the bound by at most `n u |c| . |W| r` for deviations within r; that the values at
the centre are rounded moves it by `|c|` times the error of float64; sums over a layer err by their number of terms other than 0.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import ClassVar, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.bounders.halfspaces import Halfspaces
from verify.bounders.ibp import magnitudes
from verify.deadline import tick
from verify.lagrangian.supports import join
from verify.network.activations import Hull
from verify.network.activations.base import spread
from verify.network.affine import Affine
from verify.network.graph import Layer, Network
from verify.state import Bounds, outward

_UNIT = 2.0**-24
# What products and sums too small for float32 may lose, and weights: far more than their number times the least normal one.
_UNDERFLOW = 2.0**-100
# Sums of sizes are rounded, too: by less than this.
_UPWARD = 1.02
_STEPS = 8  # elementwise roundings at a node, with some to spare


def _suited(network: Network, longest: int) -> bool:
    """Whether float32 rounds as the bounds assume, and the network is made of what they cover.

    Not beside a GPU, whose libraries may multiply in other ways.
    """
    mixing = any(layer.activation.mixes for layer in network.layers)
    rounding = (longest + max(_terms(network), default=1)) * _UNIT
    return network.device.type == "cpu" and not mixing and not network.deployed and rounding < 0.005


def _terms(network: Network) -> list[int]:
    """The terms of its affine maps."""
    return [node.operator.terms for node in network.nodes if isinstance(node.operator, Affine)]


def _is_plain() -> bool:
    """Whether float32 is multiplied and added as it is written: no Winograd or Fourier transforms, no shorter formats.

    Formats may be set by the caller, for convolutions or products, in Python or in the environment; any thread may do so at any time.
    """
    settings = [torch._C._get_fp32_precision_getter("mkldnn", kind) for kind in ("conv", "matmul")]
    modes = [os.environ.get(f"{prefix}_DEFAULT_FPMATH_MODE", "STRICT") for prefix in ("ONEDNN", "DNNL")]
    return (
        not torch._C._get_nnpack_enabled()
        and all(setting in ("none", "ieee") for setting in settings)
        and all(mode.upper() == "STRICT" for mode in modes)
    )


class _WithoutNnpack:
    """Within it NNPACK, which transforms, is off; on again, if it was, once the last of all threads has left."""

    def __init__(self) -> None:
        self._lock, self._threads, self._before = Lock(), 0, False

    def __enter__(self) -> None:
        with self._lock:
            if not self._threads:
                self._before = torch._C._get_nnpack_enabled()
            self._threads += 1
            torch._C._set_nnpack_enabled(False)

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._threads -= 1
            if not self._threads:
                torch._C._set_nnpack_enabled(self._before)


_WITHOUT_NNPACK = _WithoutNnpack()


class View(Protocol):
    """What a sweep sees of the network: all of it, or patches."""

    @property
    def network(self) -> Network:
        """Whose nodes a sweep goes through."""

    @property
    def node(self) -> int:
        """Whose values are bounded."""

    @property
    def layer(self) -> Layer:
        """The whole network's layer whose pre-activations they are."""

    @property
    def source(self) -> int:
        """The whole network's node that the view begins with."""

    @property
    def sees_all(self) -> bool:
        """Whether its rows are boxes and its first node the whole input."""

    @property
    def widest(self) -> int:
        """The largest value that a sweep comes by."""

    @property
    def behind(self) -> int | None:
        """The whole network's node that it ends at, if there is something before that."""

    @property
    def positions(self) -> int:
        """How many rows a box has."""

    def put(
        self, rows: Int[Tensor, " rows"], cotangent: Float[Tensor, "rows objectives size"]
    ) -> Float[Tensor, "rows objectives whole"]:
        """A cotangent of the view's first node as one of the whole network's node."""

    @property
    def sums(self) -> object | None:
        """What pre-activations are sums of, if they are not `node`'s values themselves."""

    def objective(
        self, rows: Int[Tensor, " rows"], neurons: Int[Tensor, "rows count"], like: Tensor
    ) -> Float[Tensor, "rows 2*count size"]:
        """Both ends of neurons by `node`'s values."""

    def gathered(
        self,
        rows: Int[Tensor, " rows"],
        values: Mapping[int, Float[Tensor, "boxes kinds size"]],
        pre: bool = False,
    ) -> dict[int, Float[Tensor, "rows kinds size"]]:
        """Values of the whole network's nodes as the view's nodes have them, 0 where there is nothing.

        pre: those of activations are of their operands' entries.
        """

    def by_position(self, open_neurons: Bool[Tensor, "boxes size"]) -> Bool[Tensor, "rows count"]:
        """A layer's neurons, as the view counts them."""

    def neurons(
        self, rows: Int[Tensor, " rows"], neurons: Int[Tensor, "rows count"]
    ) -> tuple[Tensor, Tensor]:
        """The boxes and the places within the layer that rows and neurons stand for."""

    def inside(self, node: int, rows: Int[Tensor, " rows"], cotangent: Tensor) -> Tensor:
        """A cotangent of one of the view's nodes, 0 where there is nothing."""


@dataclass(frozen=True)
class Centred:
    """What is known around the centres of some boxes: by node of the whole network, in float32.

    slopes: of each layer's lower and upper lines. posts: for cotangents above and below 0 the lines' intercepts, each beside what such a
    cotangent costs in roundings. costs: what that of another node costs. radius: of the deviations. lost: what underflows.
    """

    network: Network
    centre: dict[int, Float[Tensor, "boxes size"]]
    slopes: dict[int, Float[Tensor, "boxes 2 pre"]]
    posts: dict[int, Float[Tensor, "boxes 4 post"]]
    costs: dict[int, Float[Tensor, "boxes 1 size"]]
    radius: dict[int, Float[Tensor, "boxes 1 size"]]
    lost: float

    @classmethod
    def of(cls, network: Network, bounds: Bounds, longest: int) -> Centred | None:
        """Around the centres of boxes; None where float32 will not do, or something is infinite.

        longest: entries of a node that a sweep comes by, at most.
        """
        if not _suited(network, longest):
            return None
        inputs = slice(0, network.inputs)
        x = (bounds.lower[:, inputs] + bounds.upper[:, inputs]) / 2
        centre = {i: value.flatten(1) for i, value in enumerate(network.values(x))}
        made = _Around(network, bounds, longest, centre, magnitudes(network, bounds))
        for index in range(len(network.nodes)):
            tick()
            made.add(index)
        lost = _UNDERFLOW * sum(float(one.sum()) + one.numel() for one in made.radius.values())
        known = [*made.slopes.values(), *made.posts.values(), *made.costs.values()]
        if not all(bool(one.isfinite().all()) for one in known):
            return None
        radius = {i: outward(one, torch.inf)[:, None] for i, one in made.radius.items()}
        return cls(network, centre, made.slopes, made.posts, made.costs, radius, lost)


class _Around:
    """Fills what `Centred` holds, node by node, in float64."""

    def __init__(
        self,
        network: Network,
        bounds: Bounds,
        longest: int,
        centre: dict[int, Tensor],
        sizes: dict[int, Tensor],
    ) -> None:
        self.network, self.bounds, self.centre, self.sizes = network, bounds, centre, sizes
        self.longest = longest
        self.radius: dict[int, Tensor] = {}
        self.slopes: dict[int, Tensor] = {}
        self.posts: dict[int, Tensor] = {}
        self.costs: dict[int, Tensor] = {}

    def add(self, index: int) -> None:
        network, operator = self.network, self.network.nodes[index].operator
        if isinstance(operator, Affine):
            self._affine(index)
        elif index:
            self._activation(index)
        else:
            lower, upper = self.bounds.lower[:, : network.inputs], self.bounds.upper[:, : network.inputs]
            self.radius[0] = self._reach(0, lower, upper)
            self.costs[0] = _up(_gamma(_STEPS + self._consumers[0]) * self.radius[0])[:, None]

    def _reach(self, index: int, lower: Tensor, upper: Tensor) -> Tensor:
        """How far values between the ends are from the centre's at most."""
        middle = self.centre[index]
        reach = torch.maximum(upper - middle, middle - lower).clamp(min=0)
        return reach * (1 + 2.0**-50)

    @cached_property
    def _consumers(self) -> list[int]:
        """How many cotangents each node gets, that are added up."""
        counts = [0] * len(self.network.nodes)
        for node in self.network.nodes:
            for operand in node.operands:
                counts[operand] += 1
        return counts

    def _affine(self, index: int) -> None:
        network = self.network
        node, absolute = network.nodes[index], network.absolute[index]
        operands = [
            self.radius[operand].reshape(-1, *network.nodes[operand].shape) for operand in node.operands
        ]
        spread_out = absolute.forward(*operands).flatten(1)
        # the values at the centre, in float64, are rounded
        rounded = 4 * network.gamma * self.sizes[index] + _UNDERFLOW
        self.radius[index] = spread_out * (1 + 2 * network.gamma) + rounded
        assert isinstance(node.operator, Affine)
        terms = node.operator.terms_back + _STEPS + self._consumers[index]
        largest = max((float(one.max()) for one in operands if one.numel()), default=0.0)
        # weights too small for float32 as well
        small = _UNDERFLOW * network.weighted[index] * largest
        self.costs[index] = _up(_gamma(terms) * self.radius[index] + rounded + small)[:, None]

    def _activation(self, index: int) -> None:
        layer = self.network.layer_of_node[index]
        lower, upper = self.bounds.lower[:, layer.variables], self.bounds.upper[:, layer.variables]
        upper = torch.maximum(lower, upper)
        first, last = layer.activation.interval(lower, upper)
        self.radius[index] = radius = self._reach(index, first, last)
        hull = layer.activation.hull(lower[:, None], upper[:, None])
        reach = self._reach(layer.pre_node, lower, upper)
        size = torch.maximum(first.abs(), last.abs()) + self.centre[index].abs()
        slopes, intercepts = zip(
            *(self._line(index, hull, sign, reach, size) for sign in (1.0, -1.0)), strict=True
        )
        most = torch.maximum(intercepts[0].abs(), intercepts[1].abs()).double()
        count = min(int((most != 0).sum(1).max()), self.longest)
        cost = _gamma(count + _STEPS) * most + _gamma(_STEPS + self._consumers[index]) * radius
        self.slopes[index] = torch.stack(slopes, 1)
        cost = _up(cost)
        self.posts[index] = torch.stack([intercepts[0], cost, intercepts[1], -cost], 1)

    def _line(
        self, index: int, hull: Hull, sign: float, reach: Tensor, size: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The lower (sign 1) or upper (-1) line in float32, around the centre: slope, intercept."""
        middle = self.centre[self.network.layer_of_node[index].pre_node]
        line = hull.line(torch.full_like(size[:, None], sign), hull.initial()).first()
        slope = line.slope.float()
        copies = line.copies
        far = middle.abs() + reach

        def added(values: Tensor) -> Tensor:
            return values if copies == 1 else values.unflatten(-1, (copies, -1)).sum(-2)

        exact = added(line.slope * middle) + line.intercept - self.centre[index]
        # the line itself is rounded, in float64, and its slope now
        error = 8 * self.network.gamma * (added(line.slope.abs() * far) + line.intercept.abs() + size)
        error = error + added((line.slope - slope.double()).abs() * reach) * (1 + 2.0**-40)
        return slope, outward(exact - sign * error, -sign * torch.inf)


def _gamma(terms: int) -> float:
    rounding = terms * _UNIT
    return rounding / (1 - rounding)


def _up(value: Tensor) -> Tensor:
    """In float32, no less: with what sums of it lose."""
    return outward(value * _UPWARD, torch.inf)


@dataclass(frozen=True)
class CentredPasses:
    """Sweeps for both ends of a layer's neurons. view: of the network in float32 that `known` is of. unsafe: see `IntermediateBounds`."""

    known: Centred
    view: View
    unsafe: Halfspaces | None = None
    # what a sweep sees that begins at a node of the whole network
    before: Callable[[int], View] | None = None
    # whether no other precision could do better
    exact: ClassVar[bool] = False

    def bounds(
        self, rows: Int[Tensor, " rows"], neurons: Int[Tensor, "rows count"], used: Bool[Tensor, "rows count"]
    ) -> tuple[Float[Tensor, "rows count"], Float[Tensor, "rows count"], Float[Tensor, "rows count"]]:
        """Lower and upper bounds, not finite where nothing is known; and what rounding has cost the two."""
        view, known = self.view, self.known
        start = view.objective(rows, neurons, torch.zeros(0, dtype=torch.float32, device=rows.device))
        with _WITHOUT_NNPACK:
            total, slack, cotangent = self._swept(view, rows, start)
            if cotangent is not None and view.behind is not None:
                assert self.before is not None
                before = self.before(view.behind)
                more, charged, cotangent = self._swept(
                    before, rows // view.positions, view.put(rows, cotangent)
                )
                total, slack = total + more, slack + charged
            # another thread may have gone back to other ways meanwhile
            slack = slack if _is_plain() else torch.full_like(slack, torch.inf)
        boxes, places = view.neurons(rows, neurons)
        middle = known.centre[view.layer.pre_node][boxes, places]
        if view.sums is not None:  # values at the centre are rounded once more
            slack = slack + known.costs[view.layer.pre_node][:, 0][boxes, places].repeat(1, 2)
        found = total - slack - known.lost
        if self.unsafe is not None and cotangent is not None and (view.sees_all or view.behind is not None):
            found = self.unsafe.select(boxes[:, 0]).least(found, cotangent.double())
        low, high = found.chunk(2, dim=1)
        low, high = middle + low, middle - high
        error = 2.0**-50 * (middle.abs() + low.abs() + high.abs())
        lost = slack.unflatten(1, (2, -1)).sum(1)
        return low - error, high + error, lost

    def _swept(
        self, view: View, rows: Tensor, start: Float[Tensor, "rows objectives size"]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The least deviations, and what they may be off by, in float64; and their slopes at the view's source.

        Where the view ends behind other maps, those are not in it: what its source may deviate by is left out.
        """
        known, network = self.known, view.network
        slopes = view.gathered(rows, known.slopes, pre=True)
        posts, costs = view.gathered(rows, known.posts), view.gathered(rows, known.costs)
        radius = view.gathered(rows, {view.source: known.radius[view.source]})
        batch, objectives = start.shape[:2]
        total = start.new_zeros(batch, objectives, dtype=torch.float64)
        slack = torch.zeros_like(total)
        pending = {view.node: start.reshape(-1, *network.nodes[view.node].shape)}
        for index in range(view.node, -1, -1):
            cotangent = pending.pop(index, None)
            if cotangent is None:
                continue
            tick()
            operator = network.nodes[index].operator
            if isinstance(operator, Affine):
                cotangent = view.inside(index, rows, cotangent)
            c = cotangent.reshape(batch, objectives, -1)
            if index == 0 and view.behind is not None:
                return total, slack, c
            if index == 0:
                reach = _dot(c, radius[0])
                return total - reach, slack + _dot(c, costs[0]) + 2 * _gamma(c.shape[2]) * reach, c
            if isinstance(operator, Affine):
                slack += _dot(c, costs[index])
                for operand, part in zip(
                    network.nodes[index].operands, operator.transpose(cotangent), strict=True
                ):
                    join(pending, operand, part)
                continue
            above, below = c.clamp(min=0), c.clamp(max=0)
            low, high = slopes[index][:, :1], slopes[index][:, 1:]
            copies = low.shape[2] // c.shape[2]
            rho = torch.addcmul(spread(above, copies) * low, spread(below, copies), high)
            ends = (above @ posts[index][:, :2].mT + below @ posts[index][:, 2:].mT).double()
            total, slack = total + ends[..., 0], slack + ends[..., 1]
            operand = network.nodes[index].operands[0]
            join(pending, operand, rho.reshape(-1, *network.nodes[operand].shape))
        return total, slack, None


def _dot(c: Float[Tensor, "rows objectives size"], values: Float[Tensor, "rows 1 size"]) -> Tensor:
    """Of each row, in float64 from here on."""
    return (c.abs() @ values.mT)[..., 0].double()
