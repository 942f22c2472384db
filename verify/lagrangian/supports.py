"""Where one layer's part of the Lagrangian has its minimum, and what that adds to q.

Three ways to find it: read off the supporting lines (alpha alone), looked up at rho, and looked up with multipliers on the
activation's own equality as well (Dvijotham et al. 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from verify.lagrangian.domain import Domain
from verify.lagrangian.value import Part, RoundingError, Value, dot
from verify.network.activations import LinearRelaxation
from verify.network.graph import Layer


class Support:
    """A layer on the way back, its minimum read off its lines.

    The outputs' cotangent t arrives, the terms make the pre-activations' rho of it, and then `minimise` finds z*.
    """

    exact: ClassVar[bool] = False
    line: LinearRelaxation | None = None
    rho: Float[Tensor, "batch objectives pre"]
    _cost: Tensor | float | Callable[[], Tensor] = 0.0
    # What cut families have taken over, by the term's name.
    parts: Mapping[str, Part] = MappingProxyType({})
    # z* and x*; the latter not where it is on the line at z*.
    minimiser: Float[Tensor, "batch objectives pre"] | float
    post: Float[Tensor, "batch objectives post"]

    def __init__(
        self,
        domain: Domain,
        layer: Layer,
        t: Float[Tensor, "batch objectives post"],
        pending: dict[int, Tensor],
    ) -> None:
        """pending: the cotangents of earlier nodes, to which the layer's are joined."""
        self.domain, self.layer, self._pending = domain, layer, pending
        # What is left of the outputs' cotangent once cut families have taken their part, and all of it.
        self.cotangent = self.whole = t

    @property
    def cost(self) -> Tensor | float:
        """What multipliers on the pre-activations cost beside what `rho` tells: found where q is asked for."""
        if callable(self._cost):
            self._cost = self._cost()
        return self._cost

    @cost.setter
    def cost(self, cost: Tensor | float | Callable[[], Tensor]) -> None:
        self._cost = cost

    def join(self, node: int, cotangent: Float[Tensor, "batch objectives size"]) -> None:
        """One more cotangent of an earlier node."""
        join(self._pending, node, cotangent.reshape(-1, *self.domain.network.nodes[node].shape))

    def minimise(self) -> None:
        """Finds z*, and carries rho on to the pre-activations."""
        self._find()
        self.join(self.layer.pre_node, self.rho)

    def _find(self) -> None:
        assert self.line is not None
        self.minimiser = self.line.minimiser

    def gap(self, z: Float[Tensor, "batch objectives pre"]) -> Tensor:
        """How far the primal point's pre-activations are from z*."""
        minimiser = self.minimiser
        return z - minimiser if isinstance(minimiser, Tensor) or minimiser else z

    def forward(self, z: Float[Tensor, "batch objectives pre"]) -> Float[Tensor, "batch objectives post"]:
        """The outputs that the supergradient goes on with, `x* + slope (z - z*)`."""
        assert self.line is not None
        return self.line.apply(z)

    def count(self, value: Value) -> None:
        """Adds the layer's minimum to q."""
        value.add(dot(self.rho, self.domain.offsets[self.layer.pre_node]) - self.cost)
        self._count(value)

    def _count(self, value: Value) -> None:
        assert self.line is not None
        value.add(self.domain.hulls[self.layer.node].value(self.cotangent, self.line))

    def charge(self, rounding: RoundingError) -> None:
        """Counts what rounding may have cost the layer's minimum."""
        rounding.add(self.cotangent, self.layer.node)
        rounding.add(self.rho, self.layer.pre_node)
        if isinstance(self.cost, Tensor):
            rounding.add_size(self.cost.abs())
        self._charge_sums(rounding, self.cotangent)

    def _charge_sums(self, rounding: RoundingError, t: Tensor) -> None:
        """Counts what the layer's lines add up themselves."""
        size = self.domain.hulls[self.layer.node].size(t)
        if size is not None:
            rounding.add_size(size)


class ExactSupport(Support):
    """A layer on the way back, each neuron's minimum of `t sigma(z) - rho z` looked up on its interval."""

    exact = True

    def _find(self) -> None:
        self.minimiser, self.post = self.domain.minimum(self.layer, self.cotangent, self.rho, self.line)

    def forward(self, z: Tensor) -> Tensor:
        return self.post if self.line is None else self.post + self.line.along(z - self.minimiser)

    def _count(self, value: Value) -> None:
        value.add((self.cotangent * self.post).sum(2) - (self.rho * self.minimiser).sum(2))


class SeparateSupport(ExactSupport):
    """As that, with multipliers on `x = sigma(z)`: outputs range over their whole intervals."""

    multipliers: Float[Tensor, "batch objectives post"]
    # sigma(z*), which x* need not be.
    inner: Float[Tensor, "batch objectives post"]

    def _find(self) -> None:
        self.minimiser, self.inner = self.domain.minimum(self.layer, self.multipliers, self.rho, self.line)
        hull = self.domain.hulls[self.layer.node]
        low, high = self.layer.activation.interval(hull.lower, hull.upper)
        self.post = torch.where(self.cotangent > self.multipliers, low, high)

    def _count(self, value: Value) -> None:
        super()._count(value)
        value.add((self.multipliers * (self.inner - self.post)).sum(2))

    def charge(self, rounding: RoundingError) -> None:
        rounding.add(self.multipliers, self.layer.node)
        self._charge_sums(rounding, self.multipliers)
        super().charge(rounding)


def join(pending: dict[int, Tensor], node: int, cotangent: Tensor) -> None:
    """One more cotangent of a node."""
    pending[node] = pending[node] + cotangent if node in pending else cotangent
