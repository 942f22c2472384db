"""Probes: one hypothetical split for each objective, to see what it would gain without making the child."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from verify.lagrangian.domain import Domain
from verify.lagrangian.supports import Support
from verify.lagrangian.terms import Sweep
from verify.network.activations import Activation, Hull
from verify.network.graph import Layer


class NoProbes:
    """Subproblems are bounded as they are."""

    def pull(self, at: Support) -> None:
        """Changes what the terms have made of a layer."""


@dataclass(frozen=True)
class Probes(NoProbes):
    """Every objective is bounded as if its split had been made, on lines that are the parent's everywhere else.

    Splits of activations that join several variables are passed over.
    """

    domain: Domain
    # The slopes of each subproblem's one dual point.
    alpha: Float[Tensor, "batch alpha"]
    variable: Int[Tensor, "batch objectives"]
    value: Float[Tensor, "batch objectives"]
    side: Int[Tensor, "batch objectives"]

    def pull(self, at: Support) -> None:
        layer = at.layer
        if layer.activation.joins:
            return
        place, changed, gain = self._changes(layer, at.cotangent)
        at.rho = at.rho.scatter_add(2, place[..., None], changed[..., None])
        at.cost = at.cost - gain

    @cached_property
    def _ends(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Every probed variable's interval, and what its probe leaves of it."""
        bounds, column = self.domain.bounds, self.variable.clamp(min=0)
        low, high = bounds.lower.gather(1, column), bounds.upper.gather(1, column)
        lower = torch.where(self.side > 0, torch.maximum(low, self.value), low)
        upper = torch.where(self.side < 0, torch.minimum(high, self.value), high)
        return (low, torch.maximum(low, high)), (lower, torch.maximum(lower, upper))

    @cached_property
    def _known(self) -> dict[object, tuple[Hull, Hull]]:
        return {}

    def _hulls(self, activation: Activation) -> tuple[Hull, Hull]:
        """The activation on both, whichever layer variables are of: once for all layers that are alike."""
        kind: object = id(activation) if vars(activation) else type(activation)
        if kind not in self._known:
            before, after = self._ends
            self._known[kind] = activation.hull(*before), activation.hull(*after)
        return self._known[kind]

    def _changes(self, layer: Layer, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What each objective's probe changes, if it is the layer's: `rho` at the place of its variable, and the bound directly."""
        column = self.variable - layer.variables.start
        place = column.clamp(0, layer.size - 1)
        own = column == place
        known, copies = self.alpha[:, layer.alpha], layer.activation.alphas_per_neuron
        at = place if copies == 1 else torch.cat([place + copy * layer.size for copy in range(copies)], 1)
        slopes = known.gather(1, at)
        t_here = t.gather(2, place[..., None])[..., 0]
        old, new = (hull.line(t_here, hull.clamp(slopes)) for hull in self._hulls(layer.activation))
        rho, gain = (new.slope - old.slope) * t_here, t_here * (new.intercept - old.intercept)
        return place, torch.where(own, rho, 0.0), torch.where(own, gain, 0.0)

    def keeping(self, sweep: Sweep) -> Float[Tensor, "batch objectives"]:
        """The beta of each split that leaves `rho` as it is in `sweep`: children no looser than their parent."""
        kept = torch.zeros_like(self.value).to(self.alpha)
        for layer in self.domain.layers:
            if layer.node in sweep.supports and not layer.activation.joins:
                t = sweep.supports[layer.node].cotangent.expand(-1, self.variable.shape[1], -1)
                kept = kept - self._changes(layer, t)[1]
        return kept
