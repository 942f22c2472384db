"""Cutting planes: upper limits of activations' outputs that know the values before the layer, not its pre-activations alone.

    y_i <= s_i z_i + sum_j m_ij x_j + d_i

A share of an output's cotangent < 0 is passed to its cuts, the rest to the activation's own line, as it were one more slope: any
shares are sound. (De Palma et al. 2021, "Scaling the convex barrier with active sets"; Zhang et al. 2022, "General cutting planes",
have multipliers of their own, which must follow the cotangents as these change.) Cuts hold on a whole box, so all subproblems in
it share them: sparse matrices that both sweeps multiply by. Who makes them: see single_neuron_cuts.py.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from verify.network.graph import Layer


@dataclass(frozen=True)
class LayerCuts:
    """Those of one layer. Matrices are sparse, [own, size], by node."""

    own: Int[Tensor, " own"]  # which of all cuts they are
    place: Int[Tensor, " own"]  # of the outputs in the layer
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
    """Cuts of any layers. Matrices are sparse, [cuts, size], by node."""

    neurons: Int[Tensor, " cuts"]  # whose outputs they are above, on the axis of variables
    slopes: Float[Tensor, " cuts"]
    offsets: Float[Tensor, " cuts"]
    coefficients: dict[int, Tensor]
    _layers: dict[int, LayerCuts | None] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.neurons)

    @cached_property
    def entries(self) -> int:
        """Coefficients in all."""
        return sum(len(part.values()) for part in self.coefficients.values())

    @cached_property
    def _several(self) -> bool:
        """Whether an output has more than one."""
        return len(self.neurons.unique()) < len(self)

    def shared(
        self, shares: Float[Tensor, "batch objectives cuts"]
    ) -> Float[Tensor, "batch objectives cuts"]:
        """Shares >= 0 scaled so that no output's add up to more than 1."""
        if not self._several:
            return shares.clamp(max=1)
        first, owner = self.neurons.unique(return_inverse=True)
        total = shares.new_zeros(*shares.shape[:2], len(first)).index_add(2, owner, shares)
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
        slopes, offsets = (part.to(device, dtype) for part in (self.slopes, self.offsets))
        return Cuts(self.neurons.to(device), slopes, offsets, parts)

    def select(self, chosen: Int[Tensor, " chosen"]) -> Cuts:
        """Some of them."""
        numbers = torch.arange(len(chosen), device=chosen.device)
        place = torch.full_like(self.neurons, -1).index_put((chosen,), numbers)
        parts = {}
        for node, part in self.coefficients.items():
            row, column, value = _entries(part)
            kept = place[row] >= 0
            places = torch.stack([place[row], column])[:, kept]
            parts[node] = compressed(places, value[kept], (len(chosen), part.shape[1]))
        return Cuts(self.neurons[chosen], self.slopes[chosen], self.offsets[chosen], parts)

    @classmethod
    def joined(cls, cuts: list[Cuts]) -> Cuts:
        """All of them, in order."""
        entries: dict[int, list[tuple[Tensor, Tensor]]] = {}
        widths, start = {}, 0
        for some in cuts:
            for node, part in some.coefficients.items():
                row, column, value = _entries(part)
                entries.setdefault(node, []).append((torch.stack([row + start, column]), value))
                widths[node] = part.shape[1]
            start += len(some)
        parts = {}
        for node, found in entries.items():
            places, values = zip(*found, strict=True)
            parts[node] = compressed(torch.cat(places, 1), torch.cat(values), (start, widths[node]))
        neurons, slopes, offsets = (
            torch.cat([getattr(some, name) for some in cuts]) for name in ("neurons", "slopes", "offsets")
        )
        return cls(neurons, slopes, offsets, parts)


def compressed(
    places: Int[Tensor, "2 entries"], values: Float[Tensor, " entries"], size: tuple[int, int]
) -> Tensor:
    """A sparse matrix by rows, which multiplies fastest, from entries (row, column) in any order."""
    row, column = places
    order = (row * size[1] + column).argsort()
    starts = torch.nn.functional.pad(row.bincount(minlength=size[0]).cumsum(0), (1, 0))
    with warnings.catch_warnings():  # torch says of the first one that such matrices are young
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(starts, column[order], values[order], size)


def _entries(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and values of a sparse matrix."""
    starts = matrix.crow_indices()
    row = torch.arange(matrix.shape[0], device=starts.device).repeat_interleave(starts.diff())
    return row, matrix.col_indices(), matrix.values()


def _turned(matrix: Tensor) -> Tensor:
    row, column, value = _entries(matrix)
    return compressed(torch.stack([column, row]), value, (matrix.shape[1], matrix.shape[0]))
