"""Matrices of few numbers a row, the rest zeros, as networks made of comparisons have."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

_LARGE = 2**14  # numbers in a matrix whose zeros are worth leaving out
_FEW = 16  # times as long a row without zeros takes, a number


@dataclass(frozen=True)
class Few:
    """Such a matrix: [rows, count] places and values."""

    places: Tensor
    values: Tensor

    @classmethod
    def of(cls, matrix: Float[Tensor, "rows columns"]) -> Few | None:
        """The matrix so, where that is worth it."""
        if matrix.numel() < _LARGE:
            return None
        used = matrix != 0
        counts = used.sum(1)
        count = max(1, int(counts.max()))
        if count * _FEW > matrix.shape[1]:
            return None
        rows, columns = used.nonzero(as_tuple=True)
        within = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
        places, values = columns.new_zeros(len(matrix), count), matrix.new_zeros(len(matrix), count)
        places[rows, within], values[rows, within] = columns, matrix[rows, columns]
        return cls(places, values)

    def times(self, x: Tensor) -> Tensor:
        """The matrix times every vector along the last axis."""
        vectors = x.reshape(-1, x.shape[-1]).mT.contiguous()
        found = functional.embedding_bag(self.places, vectors, per_sample_weights=self.values, mode="sum")
        return found.mT.reshape(*x.shape[:-1], len(self.places))
