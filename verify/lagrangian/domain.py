"""What is known of a batch of subproblems: a box each over the variables of one network, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from verify.network.activations import Hull, LinearRelaxation
from verify.network.activations.one_sided import OneSidedHull, one_sided
from verify.network.graph import Layer, Network
from verify.state import Bounds

# Relative width below which an interval counts as a single value.
_FIXED = 1e-9
# How much shares have to be open together, on the mean, for their sum to be worth knowing beside lines.
_OPEN = 1.0


@dataclass(frozen=True)
class Whole:
    """How subproblems see a network: all of it, from one place. `Patches` is the other way."""

    network: Network
    whole: ClassVar[bool] = True

    @property
    def offsets(self) -> dict[int, Tensor]:
        """Every node's value where the input and all activations' outputs are zero, [size] or [batch, size]."""
        return self.network.offsets

    @property
    def gamma(self) -> float:
        """The constant by which rounding errors are counted."""
        return self.network.gamma

    def inside(self, node: int, value: Tensor) -> Tensor:
        """A node's value or cotangent, 0 where there is nothing."""
        return value

    def select(self, index: Tensor) -> Whole:
        """That of some subproblems."""
        return self


@dataclass(frozen=True)
class Patches:
    """A batch of patches of one network, each from its own place (see bounders/patches.py); by node."""

    # Values where the input and all activations' outputs are zero.
    offsets: dict[int, Float[Tensor, "batch size"]]
    # 0 beyond the image, where nothing is; only nodes that reach there.
    within: dict[int, Float[Tensor, "batch size"]]
    # The whole network's.
    gamma: float
    whole: ClassVar[bool] = False

    def inside(self, node: int, value: Tensor) -> Tensor:
        """A node's value or cotangent, 0 where there is nothing."""
        if node not in self.within:
            return value
        within = self.within[node][:, None]
        return (value.reshape(len(within), -1, within.shape[2]) * within).reshape(value.shape)

    def select(self, index: Tensor) -> Patches:
        """Those of some subproblems."""
        offsets, within = (
            {node: value[index] for node, value in part.items()} for part in (self.offsets, self.within)
        )
        return Patches(offsets, within, self.gamma)


class Domain:
    """A batch of boxes over the variables of a network, up to the node whose values are bounded."""

    def __init__(
        self,
        network: Network,
        bounds: Bounds,
        node: int | None = None,
        view: Whole | Patches | None = None,
        finite: bool = False,
    ) -> None:
        """By default up to the network's output, and all of the network is seen. finite: all bounds are known to be."""
        self.network, self.bounds, self._known_finite = network, bounds, finite
        self.node = len(network.nodes) - 1 if node is None else node
        self.view = Whole(network) if view is None else view
        self.offsets = self.view.offsets
        ancestors = network.ancestors[self.node]
        self.layers = tuple(layer for layer in network.layers if layer.node in ancestors)

    def select(self, index: Tensor) -> Domain:
        """That of some subproblems."""
        known = self._known_finite or self.__dict__.get("finite", False)
        return Domain(self.network, self.bounds.select(index), self.node, self.view.select(index), known)

    @property
    def batch(self) -> int:
        """How many subproblems there are."""
        return len(self.bounds)

    @property
    def like(self) -> Tensor:
        """A tensor of the device and dtype."""
        return self.bounds.lower

    @cached_property
    def finite(self) -> bool:
        """Whether all bounds are; asked once for all layers."""
        return self._known_finite or bool((self.bounds.lower.sum() + self.bounds.upper.sum()).isfinite())

    def _interval(self, layer: Layer) -> tuple[Tensor, Tensor]:
        """The intervals of a layer's pre-activations, [batch, 1, pre] each."""
        columns = layer.variables
        return self.bounds.lower[:, None, columns], self.bounds.upper[:, None, columns]

    @cached_property
    def hulls(self) -> dict[int, Hull]:
        """The layers' activations on the boxes, by node; shaped to broadcast over objectives, and over boxes that are alike."""
        return {layer.node: self._hull(layer) for layer in self.layers}

    def _hull(self, layer: Layer) -> Hull:
        lower, upper = self._interval(layer)
        if layer.activation.mixes and self.batch > 1:
            alike = bool(((lower == lower[:1]) & (upper == upper[:1])).all())
            lower, upper = (end[:1] if alike else end for end in (lower, upper))
        upper = torch.maximum(lower, upper)
        if not self.network.plain and one_sided(layer.activation, lower, upper, self.finite):
            return OneSidedHull(layer.activation, lower, upper)
        return layer.activation.hull(lower, upper)

    @property
    def one_sided(self) -> bool:
        """Whether some activation's interval has an infinite end."""
        return any(isinstance(hull, OneSidedHull) for hull in self.hulls.values())

    @cached_property
    def frozen(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Layers whose pre-activations are all but fixed on every box: their outputs' intervals, [batch, 1, post].

        A sweep may end there with the interval's minimum: what is below such a layer makes no difference. (In a deployed
        network it may: something below may overflow. And on a GPU it takes longer to ask than to go on.)
        """
        found: dict[int, tuple[Tensor, Tensor]] = {}
        if self.network.deployed or not self.view.whole or self.like.device.type != "cpu":
            return found
        for layer in self.layers:
            lower, upper = self._interval(layer)
            excess = (upper - lower) - _FIXED * torch.maximum(lower.abs(), upper.abs())
            # NaN, as infinities make it, is not.
            if bool(excess.max() <= 0):
                low, high = self.outputs(layer)
                if bool((low.sum() + high.sum()).isfinite()):
                    found[layer.node] = low, high
        return found

    def shares(self, layer: Layer) -> tuple[Tensor, Tensor] | None:
        """The intervals of outputs that add up to 1 in groups, [.., groups, size] each; None where that tells next to nothing."""
        if layer.node not in self._shares:
            self._shares[layer.node] = self._shares_of(layer)
        return self._shares[layer.node]

    @cached_property
    def _shares(self) -> dict[int, tuple[Tensor, Tensor] | None]:
        return {}

    def _shares_of(self, layer: Layer) -> tuple[Tensor, Tensor] | None:
        hull, groups = self.hulls[layer.node], layer.activation.sums_to_one
        if not groups or self.network.deployed or self.network.plain or isinstance(hull, OneSidedHull):
            return None
        low, high = (
            end.unflatten(-1, (groups, -1)) for end in layer.activation.interval(hull.lower, hull.upper)
        )
        # Lines of a mixing activation know of the sum, as far as they are exact.
        narrow = layer.activation.mixes and bool((high - low).sum(-1).mean() < _OPEN)
        return None if narrow else (low, high)

    def outputs(self, layer: Layer) -> tuple[Tensor, Tensor]:
        """The intervals of a layer's outputs, [batch, 1, post] each."""
        lower, upper = self._interval(layer)
        return layer.activation.interval(lower, torch.maximum(lower, upper))

    def minimum(
        self, layer: Layer, t: Tensor, rho: Tensor, line: LinearRelaxation | None = None
    ) -> tuple[Tensor, Tensor]:
        """Where `t x - rho z` has its minimum over a layer's box: z* [batch, objectives, pre] and x* [batch, objectives, post]."""
        hull = self.hulls[layer.node]
        if isinstance(hull, OneSidedHull):
            return hull.minimum(t, rho, line)
        return layer.activation.minimum_on(hull, t, rho, line)

    @property
    def _inputs(self) -> tuple[Tensor, Tensor]:
        inputs = slice(0, self.network.inputs)
        return self.bounds.lower[:, None, inputs], self.bounds.upper[:, None, inputs]

    @cached_property
    def _ball(self) -> tuple[Tensor, Tensor]:
        """Centre and radius of the input box."""
        lower, upper = self._inputs
        return (lower + upper) / 2, (upper - lower) / 2

    def input_minimum(self, t: Float[Tensor, "batch objectives inputs"]) -> Float[Tensor, "batch objectives"]:
        """The least value of `t . x` over the input box, and over the ball that inputs are in, if any."""
        centre, radius = self._ball
        least: Tensor = (t @ centre.mT - t.abs() @ radius.mT)[..., 0]
        in_ball = self._in_ball(t)
        return least if in_ball is None else torch.fmax(least, in_ball[0])

    def input_size(self, t: Float[Tensor, "batch objectives inputs"]) -> Tensor | None:
        """The sizes of the terms that the minimum over a ball is made of; None without one."""
        in_ball = self._in_ball(t)
        return None if in_ball is None else in_ball[2]

    def _in_ball(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """`Ball.least` on these boxes."""
        ball = self.network.ball
        return None if ball is None or not self.view.whole else ball.least(t, *self._inputs)

    def _nearer(self, t: Tensor, x: Tensor) -> Tensor:
        """Points of the box where `t . x` is least, or those of the ball where that tells more."""
        in_ball = self._in_ball(t)
        if in_ball is None:
            return x
        better = in_ball[0] > (t * x).sum(2)
        return torch.where(better[..., None], in_ball[1].expand_as(x), x)

    def input_minimiser(self, t: Float[Tensor, "batch objectives inputs"]) -> Tensor:
        """A corner of the input box (or a point of the ball) where `t . x` is least."""
        lower, upper = self._inputs
        falling = t.sign().clamp_(max=0).abs_()
        return self._nearer(t, torch.lerp(lower.expand_as(falling), upper.expand_as(falling), falling))

    def central_minimiser(self, t: Float[Tensor, "batch objectives inputs"]) -> Tensor:
        """A point of the input box where `t . x` is least; in the middle along inputs that do not matter."""
        return self._nearer(t, torch.addcmul(*self._ball, t.sign(), value=-1))
