"""Torch functions of batch-first tensors for `NonNegative`: slices, gathers, padding, concatenation, sums and
pools.

They are frozen dataclasses rather than closures so that a network can be pickled (checkpoints, other
processes), and each takes the batch axis in front as given: axes named here are sample axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from verify.network.affine import Shape


@dataclass(frozen=True)
class Slice:
    """Basic slices `start:stop:step` (step > 0), one for each sample axis."""

    moves: ClassVar[bool] = True
    bounds: tuple[tuple[int, int, int], ...]

    def __call__(self, x: Tensor) -> Tensor:
        index = (slice(None), *(slice(*bound) for bound in self.bounds))
        return x[index]

    def transpose(self, cotangent: Tensor, input_shapes: tuple[Shape, ...]) -> tuple[Tensor, ...]:
        """Zeros with the cotangent in the slice's place."""
        whole = cotangent.new_zeros(cotangent.shape[0], *input_shapes[0])
        self(whole).copy_(cotangent)
        return (whole,)


@dataclass(frozen=True)
class Gather:
    """Any choice of entries: output entry `i` is input entry `index[i]`, or 0 where `index[i]` is -1."""

    moves: ClassVar[bool] = True
    index: Tensor  # int64, in the output's sample shape
    _placed: dict[torch.device, tuple[Tensor, bool]] = field(default_factory=dict, compare=False, repr=False)

    def _index_on(self, device: torch.device) -> tuple[Tensor, bool]:
        """The flat index on `device` (copied there once), and whether it holds a -1."""
        if device not in self._placed:
            flat = self.index.flatten()
            self._placed[device] = flat.to(device), bool((flat < 0).any())
        return self._placed[device]

    def __call__(self, x: Tensor) -> Tensor:
        index, padded = self._index_on(x.device)
        flat = x.flatten(1)
        if padded:
            flat = functional.pad(flat, (1, 0))
            index = index + 1
        return flat.index_select(1, index).reshape(x.shape[0], *self.index.shape)


@dataclass(frozen=True)
class Expand:
    """Broadcasts the sample to `shape`, as ONNX and numpy do."""

    moves: ClassVar[bool] = True
    shape: Shape

    def __call__(self, x: Tensor) -> Tensor:
        missing = len(self.shape) - (x.dim() - 1)
        return x.reshape(x.shape[0], *(1,) * missing, *x.shape[1:]).expand(x.shape[0], *self.shape)


@dataclass(frozen=True)
class Pad:
    """Zeros around the sample: `pads` as in `torch.nn.functional.pad`, last axis first."""

    moves: ClassVar[bool] = True
    pads: Shape

    def __call__(self, x: Tensor) -> Tensor:
        return functional.pad(x, self.pads)


@dataclass(frozen=True)
class Concatenate:
    """Operands side by side along a sample axis (>= 0)."""

    moves: ClassVar[bool] = True
    axis: int

    def __call__(self, *operands: Tensor) -> Tensor:
        return torch.cat(operands, dim=self.axis + 1)

    def transpose(self, cotangent: Tensor, input_shapes: tuple[Shape, ...]) -> tuple[Tensor, ...]:
        """The cotangent cut where the operands meet."""
        return tuple(torch.split(cotangent, [shape[self.axis] for shape in input_shapes], dim=self.axis + 1))


@dataclass(frozen=True)
class Sum:
    """The sum over sample axes (>= 0), kept as axes of length 1; divided by their size if `mean`."""

    axes: Shape
    mean: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        shifted = tuple(axis + 1 for axis in self.axes)
        return x.mean(dim=shifted, keepdim=True) if self.mean else x.sum(dim=shifted, keepdim=True)


@dataclass(frozen=True)
class AveragePool:
    """Means over windows of the trailing axes.

    `begin` and `end` are zeros put around each axis before the windows are cut. `divisors` holds, for each
    axis, how many entries of each window count; a sum is divided by their product over the axes.
    """

    kernel: Shape
    stride: Shape
    begin: Shape
    end: Shape
    divisors: tuple[tuple[int, ...], ...]
    _placed: dict[tuple[torch.device, torch.dtype], list[Tensor]] = field(
        init=False, default_factory=dict, compare=False, repr=False
    )

    def _counts(self, like: Tensor) -> list[Tensor]:
        """The divisors of each axis, shaped to divide by; copied to a device once."""
        key, rank = (like.device, like.dtype), len(self.kernel)
        if key not in self._placed:
            self._placed[key] = [
                torch.tensor(divisor, dtype=like.dtype, device=like.device).reshape(
                    -1, *(1,) * (rank - 1 - i)
                )
                for i, divisor in enumerate(self.divisors)
            ]
        return self._placed[key]

    @property
    def regular(self) -> bool:
        """Whether all means are of equally many entries."""
        return all(len(set(divisor)) == 1 for divisor in self.divisors)

    def of_windows(self, counts: Shape) -> AveragePool:
        """A regular one, of an image that holds nothing but so many windows along each axis."""
        none = (0,) * len(counts)
        divisors = tuple(divisor[:1] * count for divisor, count in zip(self.divisors, counts, strict=True))
        return AveragePool(self.kernel, self.stride, none, none, divisors)

    def __call__(self, x: Tensor) -> Tensor:
        rank = len(self.kernel)
        pads = [side for pair in zip(reversed(self.begin), reversed(self.end), strict=True) for side in pair]
        total = functional.pad(x, pads)
        for place, (size, step, counts) in enumerate(
            zip(self.kernel, self.stride, self._counts(x), strict=True)
        ):
            total = total.unfold(x.dim() - rank + place, size, step).sum(dim=-1) / counts
        return total

    def transpose(self, cotangent: Tensor, input_shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        rank, [shape] = len(self.kernel), input_shapes
        for counts in self._counts(cotangent):
            cotangent = cotangent / counts
        padded = [a + n + b for a, n, b in zip(self.begin, shape[-rank:], self.end, strict=True)]
        total = cotangent.new_zeros(len(cotangent), *shape[:-rank], *padded)
        geometry = list(zip(self.stride, cotangent.shape[-rank:], strict=True))
        for entry in product(*(range(size) for size in self.kernel)):
            seen = [
                slice(first, first + (count - 1) * step + 1, step)
                for first, (step, count) in zip(entry, geometry, strict=True)
            ]
            lead = [slice(None)] * (total.dim() - rank)
            total[tuple(lead + seen)] += cotangent
        ends = zip(reversed(self.begin), reversed(self.end), strict=True)
        return (functional.pad(total, [-side for pair in ends for side in pair]),)
