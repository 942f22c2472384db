"""Linear maps between flat values, in float64 and over the rationals.

A value is a matrix [batch, size], each row a tensor in row-major order. Maps and their operands are never written to.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np

from verify.checker.rationals import Array, Integers, Shape, rationals, zeros

Terms: TypeAlias = tuple[Array, Array]
_SPARSE = 8  # times as many entries as a matrix's columns have terms: then gathering these is cheaper
_SPREAD_OUT = 400_000  # numbers that a convolution spreads its operand out to, at a time


class Map(ABC):
    """A linear map between flat values."""

    @property
    @abstractmethod
    def sources(self) -> int:
        """The size n of the operand."""

    @property
    @abstractmethod
    def size(self) -> int:
        """The size m of the result."""

    @property
    @abstractmethod
    def terms(self) -> int:
        """The most products that one entry of `forward` or of `transpose` is the sum of."""

    @property
    def slack(self) -> float:
        """A bound on the relative error of the coefficients of `exact()`."""
        return 0.0

    @abstractmethod
    def forward(self, x: Array) -> Array:
        """The map's value: [batch, n] to [batch, m]."""

    @abstractmethod
    def transpose(self, c: Array) -> Array:
        """The transposed map's value: [batch, m] to [batch, n]."""

    @abstractmethod
    def absolute(self) -> Map:
        """The map with the absolute values of all coefficients."""

    @abstractmethod
    def exact(self) -> Map:
        """The map with rational coefficients, for operands of dtype object."""


@dataclass(frozen=True, eq=False)
class Identity(Map):
    """Every value to itself. Maps and their operands are never written to, so nothing is copied."""

    count: int
    terms = 1

    @property
    def sources(self) -> int:
        return self.count

    @property
    def size(self) -> int:
        return self.count

    def forward(self, x: Array) -> Array:
        return x

    def transpose(self, c: Array) -> Array:
        return c

    def absolute(self) -> Map:
        return self

    def exact(self) -> Map:
        return self


@dataclass(frozen=True, eq=False)
class Scale(Map):
    """Every entry times its own coefficient ([count]), or all times one ([]).

    Where the coefficients are rounded, `precise` holds them as rationals (of relative error at most `error`), and
    `extra` terms make up for the rounding of the float64 ones.
    """

    coefficients: Array
    count: int
    precise: Array | None = None
    extra: int = 0
    error: float = 0.0

    @property
    def sources(self) -> int:
        return self.count

    @property
    def size(self) -> int:
        return self.count

    @property
    def terms(self) -> int:
        return 1 + self.extra

    @property
    def slack(self) -> float:
        return self.error

    def forward(self, x: Array) -> Array:
        result: Array = x * self.coefficients
        return result

    def transpose(self, c: Array) -> Array:
        return self.forward(c)

    def absolute(self) -> Map:
        precise = None if self.precise is None else np.abs(self.precise)
        return replace(self, coefficients=np.abs(self.coefficients), precise=precise)

    def exact(self) -> Map:
        numbers = self.coefficients if self.precise is None else self.precise
        return replace(self, coefficients=rationals(numbers), precise=None)


def _few_terms(matrix: Array) -> Terms | None:
    """Of each column of a matrix [k, m] the places and values [terms, m] of all entries that are not 0; None where they are not few."""
    used = matrix != 0
    terms = max(1, int(used.sum(0).max()))
    if _SPARSE * terms > len(matrix):
        return None
    places = np.argsort(~used, axis=0, kind="stable")[:terms]
    return places, np.take_along_axis(matrix, places, 0)


@dataclass(frozen=True, eq=False)
class Dense(Map):
    """x W, where x is cut into matrices [rows, k], and `weight` [groups, k, m] holds one W for each, in turn.

    Of a single W most of whose entries are 0, only the others are multiplied with.
    """

    weight: Array
    rows: int

    @property
    def sources(self) -> int:
        return self.rows * math.prod(self.weight.shape[:2])

    @property
    def size(self) -> int:
        return self.rows * math.prod(self.weight.shape[::2])

    @property
    def terms(self) -> int:
        return max(map(int, self.weight.shape[1:]))

    @cached_property
    def _few(self) -> tuple[Terms | None, Terms | None]:
        """The terms of W's entries, and of its transpose's, where these are few."""
        one = len(self.weight) == 1
        return (_few_terms(self.weight[0]), _few_terms(self.weight[0].T)) if one else (None, None)

    def _times(self, x: Array, weight: Array, few: Terms | None) -> Array:
        groups, width, _ = weight.shape
        product: Array
        # a value that is not known, or an overflow, times 0 is not 0
        if few is not None and (x.dtype == object or np.isfinite(x).all()):
            x_rows = x.reshape(-1, width)
            parts = (np.take(x_rows, places, 1) * values for places, values in zip(*few, strict=True))
            product = next(parts)
            for part in parts:
                product = product + part
        elif groups == 1:
            product = x.reshape(-1, width) @ weight[0]
        else:
            product = x.reshape(-1, groups, self.rows, width) @ weight
        return product.reshape(len(x), -1)

    def forward(self, x: Array) -> Array:
        return self._times(x, self.weight, self._few[0])

    def transpose(self, c: Array) -> Array:
        return self._times(c, self.weight.swapaxes(1, 2), self._few[1])

    def absolute(self) -> Map:
        return replace(self, weight=np.abs(self.weight))

    def exact(self) -> Map:
        return replace(self, weight=rationals(self.weight))


@dataclass(frozen=True, eq=False)
class Convolution(Map):
    """A convolution of values [lead, *large] to [lead, *small], or with `transposed` its transpose.

    `large` and `small` are shapes [channels, *spatial]; `weight` is [small channels, large channels / groups, *kernel].
    Entry o of the kernel joins position p of the small value to position `stride p + dilation o - begin` of the large
    one, on every spatial axis; what falls outside it is 0.
    """

    weight: Array
    lead: int
    large: Shape
    small: Shape
    groups: int
    strides: Shape
    dilations: Shape
    begins: Shape
    transposed: bool = False

    @property
    def sources(self) -> int:
        return self.lead * math.prod(self.small if self.transposed else self.large)

    @property
    def size(self) -> int:
        return self.lead * math.prod(self.large if self.transposed else self.small)

    @property
    def terms(self) -> int:
        channels = max(self.weight.shape[0] // self.groups, self.weight.shape[1])
        return int(channels * math.prod(self.weight.shape[2:]))

    def forward(self, x: Array) -> Array:
        return self._spread(x) if self.transposed else self._collect(x)

    def transpose(self, c: Array) -> Array:
        return self._collect(c) if self.transposed else self._spread(c)

    def _collect(self, x: Array) -> Array:
        """The convolution, from large to small."""
        return self._in_pieces(x, self._collect_piece)

    def _collect_piece(self, x: Array) -> Array:
        image = x.reshape(len(x) * self.lead, self.groups, -1, *self.large[1:])
        columns = zeros((*image.shape[:2], self._taps, image.shape[2], *self.small[1:]), x.dtype)
        for tap, places, targets in self._joins:
            columns[:, :, tap][places] = image[targets]
        return self._matrix_times(self._matrix, columns).reshape(len(x), -1)

    def _spread(self, c: Array) -> Array:
        """Its transpose, from small to large."""
        return self._in_pieces(c, self._spread_piece)

    def _spread_piece(self, c: Array) -> Array:
        image = c.reshape(len(c) * self.lead, self.groups, -1, *self.small[1:])
        flat = self._matrix_times(self._matrix.swapaxes(1, 2), image)
        columns = flat.reshape(*image.shape[:2], self._taps, -1, *self.small[1:])
        result = zeros((*image.shape[:2], columns.shape[3], *self.large[1:]), c.dtype)
        for tap, places, targets in self._joins:
            result[targets] += columns[:, :, tap][places]
        return result.reshape(len(c), -1)

    @property
    def _taps(self) -> int:
        """The entries of the kernel."""
        return math.prod(self.weight.shape[2:])

    @cached_property
    def _matrix(self) -> Array:
        """The weight as [groups, small channels, taps * large channels] (of one group)."""
        weight = self.weight.reshape(self.groups, -1, self.weight.shape[1], self._taps).swapaxes(2, 3)
        return np.ascontiguousarray(weight.reshape(*weight.shape[:2], -1))

    def _matrix_times(self, matrix: Array, image: Array) -> Array:
        """A matrix for each group times [batch, groups, .., positions]."""
        product: Array = matrix @ image.reshape(*image.shape[:2], matrix.shape[2], -1)
        return product

    def _in_pieces(self, x: Array, action: Callable[[Array], Array]) -> Array:
        """So many rows at a time that what is spread out for the kernel stays small."""
        row = self.lead * self._taps * self.groups * self.weight.shape[1] * math.prod(self.small[1:])
        step = max(1, _SPREAD_OUT // row)
        if len(x) <= step:
            return action(x)
        return np.concatenate([action(x[start : start + step]) for start in range(0, len(x), step)])

    @cached_property
    def _joins(self) -> list[tuple[int, tuple[slice, ...], tuple[slice, ...]]]:
        """For every entry of the kernel its number, and what it joins of the small value and of the large one, both
        [batch, groups, channels, *spatial]."""
        found = []
        for tap, offset in enumerate(itertools.product(*map(range, self.weight.shape[2:]))):
            places, targets = [slice(None)] * 3, [slice(None)] * 3
            for axis, entry in enumerate(offset):
                stride, shift = self.strides[axis], entry * self.dilations[axis] - self.begins[axis]
                first = max(0, -(shift // stride))
                stop = min(self.small[1 + axis], (self.large[1 + axis] - 1 - shift) // stride + 1)
                stop = max(first, stop)
                start = first * stride + shift
                places.append(slice(first, stop))
                targets.append(slice(start, start + (stop - first) * stride, stride))
            found.append((tap, tuple(places), tuple(targets)))
        return found

    def absolute(self) -> Map:
        return replace(self, weight=np.abs(self.weight))

    def exact(self) -> Map:
        return replace(self, weight=rationals(self.weight))


@dataclass(frozen=True, eq=False)
class Gather(Map):
    """Entry i of the result is the sum of the operand's entries `index[i]` ([size, k]; -1 stands for nothing)."""

    index: Integers
    count: int  # entries of the operand

    @property
    def sources(self) -> int:
        return self.count

    @property
    def size(self) -> int:
        return len(self.index)

    @property
    def terms(self) -> int:
        return max(int(self.index.shape[1]), len(self._rounds))

    @cached_property
    def _rounds(self) -> list[tuple[Integers, Integers]]:
        """All pairs (results, operands' entries), in rounds that use no entry of the operand twice."""
        results, columns = np.nonzero(self.index >= 0)
        entries = self.index[results, columns]
        order = np.argsort(entries, kind="stable")
        results, entries = results[order], entries[order]
        earlier = np.arange(len(entries)) - np.searchsorted(entries, entries)  # uses of the same entry before
        order = np.argsort(earlier, kind="stable")
        cuts = np.cumsum(np.bincount(earlier))[:-1]
        return list(zip(np.split(results[order], cuts), np.split(entries[order], cuts), strict=True))

    def forward(self, x: Array) -> Array:
        result = zeros((len(x), self.size), x.dtype)
        for column in range(self.index.shape[1]):
            entries = self.index[:, column]
            if entries.min() >= 0:
                result = result + x[:, entries] if column else x[:, entries]
            else:
                places = np.flatnonzero(entries >= 0)
                result[:, places] += x[:, entries[places]]
        return result

    def transpose(self, c: Array) -> Array:
        result = zeros((len(c), self.count), c.dtype)
        if len(self._rounds) == 1:
            ((results, entries),) = self._rounds
            result[:, entries] = c[:, results]
            return result
        for results, entries in self._rounds:
            result[:, entries] += c[:, results]
        return result

    def absolute(self) -> Map:
        return self

    def exact(self) -> Map:
        return self
