"""Beta: one multiplier for each split on the way to a subproblem, as in beta-CROWN (Wang et al. 2021)."""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from verify.lagrangian.domain import Domain
from verify.lagrangian.supports import Support
from verify.lagrangian.terms import Part, Passing, Storage, Sweep, Term
from verify.network.graph import Layer, Network
from verify.state import Splits


class _Sweep:
    """What multipliers are and cost, whatever the layer: found when it is first asked for."""

    def __init__(self, part: Part, lower: Tensor, upper: Tensor) -> None:
        """lower, upper: the intervals' ends of the variables that are split."""
        self._part, self._version = part, part._version
        self._lower, self._upper = lower, upper

    def holds(self, part: Part) -> bool:
        """Whether these are the same, unchanged."""
        return part is self._part and part._version == self._version

    @cached_property
    def used(self) -> Bool[Tensor, "batch objectives depth"]:
        return self._part != 0

    @cached_property
    def above(self) -> Bool[Tensor, "batch objectives depth"]:
        return self._part > 0

    @cached_property
    def below(self) -> Bool[Tensor, "batch objectives depth"]:
        return self._part < 0

    @cached_property
    def cost(self) -> Part:
        return torch.maximum(self._part * self._lower, self._part * self._upper)


class Beta(Term):
    """Multipliers of splits: each is added to `rho` where its variable is, and costs what the interval's end makes of it.

    Where minima are looked up at `rho` the cost is theirs.
    """

    name = "beta"
    unit_lasts = False
    linear = True
    within_rho = True
    reaches_frozen = True

    def __init__(self, domain: Domain, splits: Splits) -> None:
        super().__init__(domain)
        self.splits = splits
        self._last: _Sweep | None = None

    def select(self, index: Tensor, domain: Domain) -> Beta:
        return Beta(domain, self.splits.select(index))

    @classmethod
    def storage(cls, network: Network) -> Storage:
        return Storage(along_splits=True)

    def init(self, objectives: int) -> Part:
        return self.domain.like.new_zeros(self.domain.batch, objectives, self.splits.variable.shape[1])

    @cached_property
    def places(self) -> dict[int, tuple[Int[Tensor, "batch 1 depth"], Bool[Tensor, "batch 1 depth"]]]:
        """For each layer that is split, by its node: the splits' places in the layer, and which splits are the layer's.

        On a GPU for all layers: it takes longer to ask which.
        """
        variable = self.splits.variable[:, None, :]
        places = {}
        elsewhere = variable.device.type != "cpu"
        for layer in self.domain.layers:
            own = (variable >= layer.variables.start) & (variable < layer.variables.stop)
            if variable.shape[2] and (elsewhere or bool(own.any())):
                places[layer.node] = (torch.where(own, variable - layer.variables.start, 0), own)
        return places

    def acts_on(self, layer: Layer) -> bool:
        return layer.node in self.places

    @cached_property
    def _ends(self) -> tuple[Tensor, Tensor]:
        """The intervals of the variables that are split, [batch, 1, depth]."""
        index, bounds = self.splits.variable.clamp(min=0), self.domain.bounds
        return bounds.lower.gather(1, index)[:, None], bounds.upper.gather(1, index)[:, None]

    def unit(self, part: Part, sweep: Sweep) -> Tensor:
        """The size of the cotangent where the split is, or its mean over the layer if that is more."""
        units = torch.zeros_like(part)
        for layer in self.domain.layers:
            if layer.node in self.places and layer.node in sweep.supports:
                place, own = self.places[layer.node]
                size = sweep.supports[layer.node].cotangent.abs()
                beside = layer.activation.beside(size, layer.size).gather(
                    2, place.expand(-1, part.shape[1], -1)
                )
                units = torch.where(own, torch.maximum(beside, size.mean(2, keepdim=True)), units)
        return units

    def pull(self, at: Support, part: Part) -> None:
        place, own = self.places[at.layer.node]
        known = self._sweep(part)
        used = own & known.used
        beta = torch.where(used, part, 0.0)
        at.rho = at.rho.scatter_add(2, place.expand(-1, at.rho.shape[1], -1), beta)
        if not at.exact:
            at.cost = torch.where(used, known.cost, 0.0).sum(2)

    def _sweep(self, part: Part) -> _Sweep:
        """What is the same for all layers of a sweep, which have the same multipliers."""
        if self._last is None or not self._last.holds(part):
            self._last = _Sweep(part, *self._ends)
        return self._last

    def gradient(self, at: Passing, part: Part, out: Part) -> None:
        """How far the primal point is from where each multiplier would have it."""
        place, own = self.places[at.layer.node]
        place = place.expand(-1, part.shape[1], -1)
        z = at.z.gather(2, place)
        if at.support.exact:
            assert isinstance(at.support.minimiser, Tensor)
            wanted = at.support.minimiser.gather(2, place)
        else:
            lower, upper = self._ends
            known = self._sweep(part)
            wanted = torch.where(known.above, upper, torch.where(known.below, lower, z.clamp(lower, upper)))
        out.copy_(torch.where(own, z - wanted, out))
