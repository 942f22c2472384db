"""Multipliers of the decomposition: rho on `z_k = A_k(x)`, and post multipliers on `x_k = sigma(z_k)`.

With rho alone q is the decoupled dual (Bunel et al. 2020); beside alpha it is what is added to `slope_k t_k`, and both together
reach what either does. Post multipliers relax the activations' own equalities too (Dvijotham et al. 2018).
"""

from __future__ import annotations

import torch
from torch import Tensor

from verify.lagrangian.supports import SeparateSupport, Support
from verify.lagrangian.terms import Part, Passing, Sweep, Term
from verify.network.graph import Layer


class Rho(Term):
    """Free multipliers of all pre-activations."""

    name = "rho"
    free = True
    linear = True
    within_rho = True
    written_whole = True

    def init(self, objectives: int) -> Part:
        network = self.domain.network
        return self.domain.like.new_zeros(self.domain.batch, objectives, network.variables - network.inputs)

    def place(self, layer: Layer) -> slice:
        """The layer's columns."""
        inputs = self.domain.network.inputs
        return slice(layer.variables.start - inputs, layer.variables.stop - inputs)

    def unit(self, part: Part, sweep: Sweep) -> Tensor:
        """The size of the cotangents beside them, or its mean if that is more."""
        units = torch.ones_like(part)
        for layer in self.domain.layers:
            size = sizes(sweep, layer)
            units[..., self.place(layer)] = layer.activation.beside(size, layer.size)
        return units

    def pull(self, at: Support, part: Part) -> None:
        own = part[..., self.place(at.layer)]
        at.rho = own if at.line is None else at.rho + own

    def gradient(self, at: Passing, part: Part, out: Part) -> None:
        out[..., self.place(at.layer)] = at.gap


class PostMultipliers(Term):
    """Multipliers of all activations' outputs; without them they are the cotangents."""

    name = "post_multipliers"
    free = True
    linear = True
    within_rho = True

    def init(self, objectives: int) -> Part:
        return self.domain.like.new_zeros(self.domain.batch, objectives, self.domain.network.posts)

    def unit(self, part: Part, sweep: Sweep) -> Tensor:
        """As that of rho."""
        units = torch.ones_like(part)
        for layer in self.domain.layers:
            units[..., layer.posts] = sizes(sweep, layer)
        return units

    def pull(self, at: Support, part: Part) -> None:
        assert isinstance(at, SeparateSupport)
        at.multipliers = part[..., at.layer.posts]

    def gradient(self, at: Passing, part: Part, out: Part) -> None:
        assert isinstance(at.support, SeparateSupport)
        out[..., at.layer.posts] = at.support.inner - at.support.post


def sizes(sweep: Sweep, layer: Layer) -> Tensor:
    """The size of each output's cotangent, or its mean over the layer if that is more."""
    size = sweep.supports[layer.node].cotangent.abs()
    return torch.maximum(size, size.mean(2, keepdim=True))
