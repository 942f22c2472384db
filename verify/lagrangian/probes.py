"""Probes: one hypothetical split for each objective, to see what it would gain without making the child."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from verify.lagrangian.domain import Domain
from verify.lagrangian.supports import Support
from verify.lagrangian.terms import Sweep
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
        changed, gain = self._changes(layer, at.cotangent)
        place = (self.variable - layer.variables.start).clamp(0, layer.size - 1)
        at.rho = at.rho.scatter_add(2, place[..., None], changed[..., None])
        at.cost = at.cost - gain

    def _changes(self, layer: Layer, t: Tensor) -> tuple[Tensor, Tensor]:
        """What each objective's probe changes, if it is the layer's: `rho` at its variable, and the bound directly."""
        own = (self.variable >= layer.variables.start) & (self.variable < layer.variables.stop)
        place = torch.where(own, self.variable - layer.variables.start, 0)
        column, bounds = place + layer.variables.start, self.domain.bounds
        low, high = bounds.lower.gather(1, column), bounds.upper.gather(1, column)
        lower = torch.where(own & (self.side > 0), torch.maximum(low, self.value), low)
        upper = torch.where(own & (self.side < 0), torch.minimum(high, self.value), high)
        slopes = self.alpha[:, layer.alpha]
        copies = range(layer.activation.alphas_per_neuron)
        slopes = torch.cat([slopes.gather(1, place + copy * layer.size) for copy in copies], 1)
        t_here = t.gather(2, place[..., None])[..., 0]
        old, new = (
            hull.line(t_here, hull.clamp(slopes))
            for hull in (
                layer.activation.hull(low, torch.maximum(low, high)),
                layer.activation.hull(lower, torch.maximum(lower, upper)),
            )
        )
        rho, gain = (new.slope - old.slope) * t_here, t_here * (new.intercept - old.intercept)
        return torch.where(own, rho, 0.0), torch.where(own, gain, 0.0)

    def keeping(self, sweep: Sweep) -> Float[Tensor, "batch objectives"]:
        """The beta of each split that leaves `rho` as it is in `sweep`: children no looser than their parent."""
        kept = torch.zeros_like(self.value).to(self.alpha)
        for layer in self.domain.layers:
            if layer.node in sweep.supports and not layer.activation.joins:
                t = sweep.supports[layer.node].cotangent.expand(-1, self.variable.shape[1], -1)
                kept = kept - self._changes(layer, t)[0]
        return kept
