"""Alpha: the slopes of the supporting lines, as in alpha-CROWN. With them alone q is the restricted dual (De Palma et al. 2021)."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from verify.lagrangian.supports import Support
from verify.lagrangian.terms import Part, Passing, Storage, Sweep, Term
from verify.network.graph import Network


class Alpha(Term):
    """Slopes, `rho_k = slope_k t_k`. Any slope is sound, since the line that goes with it is."""

    name = "alpha"
    within_rho = True
    written_whole = True

    @classmethod
    def storage(cls, network: Network) -> Storage:
        """Slopes within [0, 1] wait in half precision; others may be of any size."""
        unit = all(layer.activation.unit_alpha for layer in network.layers)
        return Storage(torch.float16 if unit else torch.float32)

    def init(self, objectives: int) -> Part:
        """CROWN's slopes, which all objectives share."""
        alpha = self.domain.like.new_zeros(self.domain.batch, 1, self.domain.network.alphas)
        for layer in self.domain.layers:
            alpha[..., layer.alpha] = self.domain.hulls[layer.node].initial()
        return alpha.expand(-1, objectives, -1)

    @cached_property
    def range(self) -> tuple[Tensor, Tensor]:
        """The least and the greatest valid slopes, [batch, 1, alpha]."""
        domain = self.domain
        low, high = (domain.like.new_zeros(domain.batch, 1, domain.network.alphas) for _ in range(2))
        for layer in domain.layers:
            low[..., layer.alpha], high[..., layer.alpha] = domain.hulls[layer.node].alpha_range
        return low, high

    def project(self, part: Part) -> Part:
        return part.clamp(*self.range) if part.shape[2] else part

    @cached_property
    def _spans(self) -> Tensor | None:
        domain = self.domain
        known = [(layer, domain.hulls[layer.node].span) for layer in domain.layers]
        if all(span is None for _, span in known):
            return None
        spans = domain.like.new_ones(domain.batch, 1, domain.network.alphas)
        for layer, span in known:
            if span is not None:
                spans[..., layer.alpha] = span
        return spans

    def unit(self, part: Part, sweep: Sweep) -> Tensor | None:
        """How far each slope ranges."""
        return self._spans

    def pull(self, at: Support, part: Part) -> None:
        at.line = self.domain.hulls[at.layer.node].line(at.cotangent, part[..., at.layer.alpha])
        at.rho = at.line.vjp(at.cotangent)

    def gradient(self, at: Passing, part: Part, out: Part) -> None:
        # What a mixing activation's lines are at z* counts as well.
        gap = at.z if at.layer.activation.mixes else at.gap
        hull = self.domain.hulls[at.layer.node]
        hull.gradient(at.support.cotangent, gap, out[..., at.layer.alpha])
