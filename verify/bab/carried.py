"""Bounds of the last layers that subproblems carry: they hold over a subproblem's unsafe points, and so for all that is split off."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from verify.network.graph import Layer, Network
from verify.state import Bounds, Subproblems, outward

_WIDEST = 6144  # neurons whose bounds each subproblem may carry


@dataclass(frozen=True)
class CarriedLayers:
    """The layers, from the last on, and where their bounds are: in the columns that subproblems have for them."""

    layers: tuple[Layer, ...]
    device: torch.device

    @classmethod
    def of(cls, network: Network) -> CarriedLayers:
        """As many as a subproblem may carry. (No mixing activations: all their variables lose a little.)"""
        chosen: list[Layer] = []
        for layer in reversed(network.layers):
            if layer.activation.mixes:
                continue
            if sum(one.size for one in chosen) + layer.size > _WIDEST:
                break
            chosen.append(layer)
        return cls(tuple(chosen), network.device)

    @cached_property
    def width(self) -> int:
        """How many lower, and as many upper, bounds a subproblem carries."""
        return sum(layer.size for layer in self.layers)

    @cached_property
    def _variables(self) -> slice | Tensor:
        """All of them in order: a slice where they are side by side, which is faster."""
        variables = [layer.variables for layer in reversed(self.layers)]
        if all(one.stop == other.start for one, other in pairwise(variables)):
            return slice(variables[0].start, variables[-1].stop) if variables else slice(0, 0)
        return torch.cat([torch.arange(one.start, one.stop, device=self.device) for one in variables])

    def apply(self, bounds: Bounds, subproblems: Subproblems) -> Bounds:
        """The subproblems' boxes with what they carry."""
        if not self.width:
            return bounds
        lower, upper, own = bounds.lower.clone(), bounds.upper.clone(), self._variables
        lower[:, own] = torch.maximum(lower[:, own], subproblems.constrained_lower.to(lower))
        upper[:, own] = torch.minimum(upper[:, own], subproblems.constrained_upper.to(upper))
        return Bounds(lower, upper)

    def tightened(self, subproblems: Subproblems, place: int, tight: Bounds) -> Subproblems:
        """The subproblems with bounds ([batch, size]) of the layer at that place, rounded outward."""
        lower, upper = subproblems.constrained_lower.clone(), subproblems.constrained_upper.clone()
        stop = self.width - sum(behind.size for behind in self.layers[:place])
        own = slice(stop - self.layers[place].size, stop)
        lower[:, own] = torch.maximum(lower[:, own], outward(tight.lower, -torch.inf))
        upper[:, own] = torch.minimum(upper[:, own], outward(tight.upper, torch.inf))
        return replace(subproblems, constrained_lower=lower, constrained_upper=upper)
