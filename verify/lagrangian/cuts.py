"""Cutting planes and their term: upper limits of activations' outputs that know the values before the layer, not its pre-activations alone.

    y_i <= s_i z_i + sum_j m_ij x_j + d_i

A share of an output's cotangent < 0 is passed to its cuts, the rest to the activation's own line, as it were one more slope: any
shares are sound. (De Palma et al. 2021, "Scaling the convex barrier with active sets"; Zhang et al. 2022, "General cutting planes",
have multipliers of their own, which must follow the cotangents as these change.) Cuts hold on a whole box, so all subproblems in
it share them: sparse matrices that both sweeps multiply by. Who makes them: see bounders/single_neuron_cuts.py.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.lagrangian.domain import Domain
from verify.lagrangian.supports import Support
from verify.lagrangian.terms import Part, Passing, Term
from verify.lagrangian.value import RoundingError, Value, dot
from verify.network.graph import Layer


@dataclass(frozen=True)
class LayerCuts:
    """Those of one layer. Matrices are sparse, [own, size], by node."""

    # Which of all cuts they are.
    own: Int[Tensor, " own"]
    # Of the outputs in the layer.
    place: Int[Tensor, " own"]
    slopes: Float[Tensor, " own"]
    offsets: Float[Tensor, " own"]
    coefficients: dict[int, Tensor]

    @cached_property
    def _turned(self) -> dict[int, Tensor]:
        return {node: _turned(part) for node, part in self.coefficients.items()}

    @cached_property
    def _absolute(self) -> dict[int, Tensor]:
        return {node: part.abs() for node, part in self.coefficients.items()}

    def pull(self, taken: Float[Tensor, "flat own"]) -> dict[int, Float[Tensor, "flat size"]]:
        """The cotangents of the values before the layer, by node. (Laid out like others: what is made of them is, and maps are slow on the rest.)"""
        across = taken.T.contiguous()
        return {node: (part @ across).T.neg().contiguous() for node, part in self._turned.items()}

    def heights(
        self, z: Float[Tensor, "batch objectives pre"], values: dict[int, Float[Tensor, "flat ..."]]
    ) -> Float[Tensor, "flat own"]:
        """The cuts at a point."""
        total = torch.addcmul(self.offsets, self.slopes, z.flatten(0, 1)[:, self.place]).T
        for node, part in self.coefficients.items():
            total = total + part @ values[node].flatten(1).T
        return total.T

    def sizes(self, magnitudes: dict[int, Float[Tensor, " size"]], layer: Layer) -> Float[Tensor, " own"]:
        """The sizes of each one's terms, the output's too: what its rounding is charged by."""
        total = magnitudes[layer.node][self.place] + self.offsets.abs()
        total = total + self.slopes.abs() * magnitudes[layer.pre_node][self.place]
        for node, part in self._absolute.items():
            total = total + part @ magnitudes[node]
        return total


@dataclass(frozen=True)
class Cuts:
    """Cuts of any layers. Matrices are sparse, [cuts, size], by node.

    factors: of each pre-activation, the part for which its inputs were put in to find the offset, which a proof of it takes. numbers: the
    cuts' own in a proof that is written.
    """

    # Whose outputs they are above, on the axis of variables.
    neurons: Int[Tensor, " cuts"]
    slopes: Float[Tensor, " cuts"]
    offsets: Float[Tensor, " cuts"]
    coefficients: dict[int, Tensor]
    factors: Float[Tensor, " cuts"]
    numbers: Int[Tensor, " cuts"]
    _layers: dict[int, LayerCuts | None] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.neurons)

    def term(self, domain: Domain) -> CutShares:
        """Their term on a batch of boxes."""
        return CutShares(domain, self)

    @cached_property
    def entries(self) -> int:
        """Coefficients in all."""
        return sum(len(part.values()) for part in self.coefficients.values())

    @cached_property
    def _owners(self) -> tuple[int, Int[Tensor, " cuts"]]:
        """How many outputs have any, and which of these each one's is."""
        first, owner = self.neurons.unique(return_inverse=True)
        return len(first), owner

    def shared(
        self, shares: Float[Tensor, "batch objectives cuts"]
    ) -> Float[Tensor, "batch objectives cuts"]:
        """Shares >= 0 scaled so that no output's add up to more than 1."""
        outputs, owner = self._owners
        if outputs == len(self):
            return shares.clamp(max=1)
        total = shares.new_zeros(*shares.shape[:2], outputs).index_add(2, owner, shares)
        return shares / total.clamp(min=1)[..., owner]

    def on(self, layer: Layer) -> LayerCuts | None:
        """Those of a layer; None if there are none."""
        if layer.node not in self._layers:
            own = (self.neurons >= layer.variables.start) & (self.neurons < layer.variables.stop)
            self._layers[layer.node] = self._on(layer, own.nonzero()[:, 0]) if bool(own.any()) else None
        return self._layers[layer.node]

    def _on(self, layer: Layer, own: Tensor) -> LayerCuts:
        some = self.select(own)
        parts = {node: part for node, part in some.coefficients.items() if len(part.values())}
        return LayerCuts(own, some.neurons - layer.variables.start, some.slopes, some.offsets, parts)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Cuts:
        """The same cuts with other numbers."""
        parts = {node: part.to(device, dtype) for node, part in self.coefficients.items()}
        slopes, offsets, factors = (
            part.to(device, dtype) for part in (self.slopes, self.offsets, self.factors)
        )
        return Cuts(self.neurons.to(device), slopes, offsets, parts, factors, self.numbers.to(device))

    def select(self, chosen: Int[Tensor, " chosen"]) -> Cuts:
        """Some of them."""
        numbers = torch.arange(len(chosen), device=chosen.device)
        place = torch.full_like(self.neurons, -1).index_put((chosen,), numbers)
        parts = {}
        for node, part in self.coefficients.items():
            row, column, value = entries(part)
            kept = place[row] >= 0
            places = torch.stack([place[row], column])[:, kept]
            parts[node] = compressed(places, value[kept], (len(chosen), part.shape[1]))
        neurons, slopes, offsets, factors, numbers = (
            part[chosen] for part in (self.neurons, self.slopes, self.offsets, self.factors, self.numbers)
        )
        return Cuts(neurons, slopes, offsets, parts, factors, numbers)

    @classmethod
    def joined(cls, cuts: list[Cuts]) -> Cuts:
        """All of them, in order."""
        together: dict[int, list[tuple[Tensor, Tensor]]] = {}
        widths, start = {}, 0
        for some in cuts:
            for node, part in some.coefficients.items():
                row, column, value = entries(part)
                together.setdefault(node, []).append((torch.stack([row + start, column]), value))
                widths[node] = part.shape[1]
            start += len(some)
        parts = {}
        for node, found in together.items():
            places, values = zip(*found, strict=True)
            parts[node] = compressed(torch.cat(places, 1), torch.cat(values), (start, widths[node]))
        neurons, slopes, offsets, factors, numbers = (
            torch.cat([getattr(some, name) for some in cuts])
            for name in ("neurons", "slopes", "offsets", "factors", "numbers")
        )
        return cls(neurons, slopes, offsets, parts, factors, numbers)


class _Taken:
    """What the cuts of a layer take over of its outputs' cotangents: of those < 0, as sizes."""

    def __init__(self, at: Support, cuts: LayerCuts, shares: Float[Tensor, "batch objectives cuts"]) -> None:
        self.at, self.cuts = at, cuts
        self.whole: Float[Tensor, "batch objectives own"] = at.cotangent.clamp(max=0).neg_()[..., cuts.place]
        self.amount = self.whole * shares[..., cuts.own]
        none = self.amount.new_zeros(*self.amount.shape[:2], at.layer.size)
        self.slopes = none.index_add(2, cuts.place, -self.amount * cuts.slopes)

    def count(self, value: Value) -> None:
        offsets = self.at.domain.offsets[self.at.layer.pre_node]
        value.add(dot(self.slopes, offsets) - self.amount @ self.cuts.offsets)

    def charge(self, rounding: RoundingError) -> None:
        rounding.add_size(self.amount @ self.cuts.sizes(rounding.magnitudes, self.at.layer))


class CutShares(Term):
    """Shares of the outputs' cotangents that their cuts take over: those >= 0 that no output has more than 1 of."""

    name = "cut_shares"

    def __init__(self, domain: Domain, cuts: Cuts) -> None:
        super().__init__(domain)
        self.cuts = cuts

    def select(self, index: Tensor, domain: Domain) -> CutShares:
        return CutShares(domain, self.cuts)

    def acts_on(self, layer: Layer) -> bool:
        return self.cuts.on(layer) is not None

    def init(self, objectives: int) -> Part:
        return self.domain.like.new_zeros(self.domain.batch, objectives, len(self.cuts))

    @cached_property
    def _idle(self) -> Bool[Tensor, "batch 1 cuts"]:
        """Cuts of outputs that are linear on the box: there they say less than the line."""
        lower, upper = (
            end[:, None, self.cuts.neurons] for end in (self.domain.bounds.lower, self.domain.bounds.upper)
        )
        return torch.logical_or(lower >= 0, upper <= 0)

    def project(self, part: Part) -> Part:
        return self.cuts.shared(part.clamp(min=0).masked_fill(self._idle, 0.0))

    def without(self, part: Part, variable: Int[Tensor, "batch objectives"]) -> Part:
        return part.masked_fill(self.cuts.neurons == variable[..., None], 0.0)

    def pull(self, at: Support, part: Part) -> None:
        """Carries what the cuts take over back, past the activation."""
        cuts = self.cuts.on(at.layer)
        assert cuts is not None
        taken = _Taken(at, cuts, part)
        at.join(at.layer.pre_node, taken.slopes)
        for node, cotangent in cuts.pull(taken.amount.flatten(0, 1)).items():
            at.join(node, cotangent)
        at.cotangent = at.cotangent.index_add(2, cuts.place, taken.amount)
        at.parts = {**at.parts, self.name: taken}

    def push(self, at: Passing, part: Part, out: Part) -> None:
        """Outputs are part on their lines and part on their cuts: what that changes is the supergradient of the shares."""
        taken = at.support.parts[self.name]
        assert isinstance(taken, _Taken)
        cuts, whole = taken.cuts, taken.whole
        lower = cuts.heights(at.z, at.values).reshape(whole.shape) - at.post[..., cuts.place]
        out[..., cuts.own] = -whole * lower
        shares = torch.where(whole > 0, part[..., cuts.own], 0.0)
        at.post = at.post.index_add(2, cuts.place, shares * lower)


def compressed(
    places: Int[Tensor, "2 entries"], values: Float[Tensor, " entries"], size: tuple[int, int]
) -> Tensor:
    """A sparse matrix by rows, which multiplies fastest, from entries (row, column) in any order."""
    row, column = places
    order = (row * size[1] + column).argsort()
    starts = torch.nn.functional.pad(row.bincount(minlength=size[0]).cumsum(0), (1, 0))
    # torch says of the first one that such matrices are young
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(starts, column[order], values[order], size)


def entries(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and values of a sparse matrix."""
    starts = matrix.crow_indices()
    row = torch.arange(matrix.shape[0], device=starts.device).repeat_interleave(starts.diff())
    return row, matrix.col_indices(), matrix.values()


def _turned(matrix: Tensor) -> Tensor:
    row, column, value = entries(matrix)
    return compressed(torch.stack([column, row]), value, (matrix.shape[1], matrix.shape[0]))
