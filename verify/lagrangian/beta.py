"""Beta: one multiplier for each split on the way to a subproblem, as in beta-CROWN (Wang et al. 2021)."""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.lagrangian.domain import Domain
from verify.lagrangian.supports import Support
from verify.lagrangian.terms import Part, Passing, Storage, Sweep, Term
from verify.network.graph import Layer, Network
from verify.state import Splits


class _Sweep:
    """What multipliers are and cost, of all layers together: [layers, batch, objectives, depth], found when it is first asked for."""

    def __init__(self, part: Part, own: Tensor, numbers: Tensor, lower: Tensor, upper: Tensor) -> None:
        """own: which splits are each layer's; as numbers too. lower, upper: the intervals' ends of the variables that are split."""
        self._part, self._version = part, part._version
        self._own, self._numbers, self._lower, self._upper = own, numbers, lower, upper

    def holds(self, part: Part) -> bool:
        """Whether these are the same, unchanged."""
        return part is self._part and part._version == self._version

    @cached_property
    def added(self) -> Tensor:
        """What each layer adds to `rho`."""
        return self._part * self._numbers

    @cached_property
    def costs(self) -> Tensor:
        """Each layer's, [layers, batch, objectives]."""
        # they are asked for after a sweep: of other multipliers than it had they would bound nothing
        assert self.holds(self._part)
        cost = torch.maximum(self._part * self._lower, self._part * self._upper)
        return torch.where(self._own & (self._part != 0), cost, 0.0).sum(3)


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
    def places(self) -> dict[int, tuple[int, Int[Tensor, "batch 1 depth"], Bool[Tensor, "batch 1 depth"]]]:
        """For each layer that is split, by its node: its number among these, the splits' places in it, and which splits are its own.

        On a GPU for all layers: it takes longer to ask which.
        """
        variable = self.splits.variable[:, None, :]
        places: dict[int, tuple[int, Tensor, Tensor]] = {}
        elsewhere = variable.device.type != "cpu"
        for layer in self.domain.layers:
            own = (variable >= layer.variables.start) & (variable < layer.variables.stop)
            if variable.shape[2] and (elsewhere or bool(own.any())):
                places[layer.node] = (len(places), torch.where(own, variable - layer.variables.start, 0), own)
        return places

    @cached_property
    def _own(self) -> Bool[Tensor, "layers batch 1 depth"]:
        """Which splits are each layer's."""
        return torch.stack([own for _, _, own in self.places.values()])

    @cached_property
    def _own_numbers(self) -> Float[Tensor, "layers batch 1 depth"]:
        return self._own.to(self.domain.like.dtype)

    @cached_property
    def _anywhere(self) -> Float[Tensor, "batch 1 depth"]:
        """1 for splits of any layer, 0 for others."""
        return self._own_numbers.amax(0)

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
                _, place, own = self.places[layer.node]
                size = sweep.supports[layer.node].cotangent.abs()
                beside = layer.activation.beside(size, layer.size).gather(
                    2, place.expand(-1, part.shape[1], -1)
                )
                torch.where(own, torch.maximum(beside, size.mean(2, keepdim=True)), units, out=units)
        return units

    def pull(self, at: Support, part: Part) -> None:
        number, place, _ = self.places[at.layer.node]
        known = self._sweep(part)
        at.rho = at.rho.scatter_add(2, place.expand(-1, at.rho.shape[1], -1), known.added[number])
        if not at.exact:
            at.cost = lambda: known.costs[number]

    def _sweep(self, part: Part) -> _Sweep:
        """What is the same for all layers of a sweep, which have the same multipliers."""
        if self._last is None or not self._last.holds(part):
            self._last = _Sweep(part, self._own, self._own_numbers, *self._ends)
        return self._last

    def gradient(self, at: Passing, part: Part, out: Part) -> None:
        """Where the primal point is, or how far that is from where each multiplier would have it if minima are looked up."""
        _, place, own = self.places[at.layer.node]
        place = place.expand(-1, part.shape[1], -1)
        z = at.z.gather(2, place)
        if at.support.exact:
            assert isinstance(at.support.minimiser, Tensor)
            z = z - at.support.minimiser.gather(2, place)
        torch.where(own, z, out, out=out)

    def finished(self, part: Part, out: Part, exact: bool) -> Part:
        """How far the primal point is from where each multiplier would have it."""
        if exact or not self.places:
            return out
        lower, upper = self._ends
        wanted = torch.where(part > 0, upper, torch.where(part < 0, lower, out.clamp(lower, upper)))
        return (out - wanted) * self._anywhere
