"""Least values over what half-spaces leave of a box: a clause's unsafe points lie where none of its rows is positive.

Over the points e in [-1, 1]^d with `G . e <= H` a linear function is, for any lambda >= 0,

    F + T . e  >=  F - lambda H - |T + lambda G| . 1 .

Several half-spaces are taken one after the other. Lambda is where the right side is greatest, but nothing rests on that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.checker.dual import Linear
from verify.checker.multipliers import Pair

Array = NDArray[Any]
_EPSILON = 2.0**-50


@dataclass(frozen=True)
class Halfspaces:
    """centre, radius: of the boxes [boxes, inputs]. normal: [boxes, rows, inputs]; offset: [boxes, rows], infinite where a row says nothing."""

    centre: Array
    radius: Array
    normal: Array
    offset: Array

    @staticmethod
    def of(box: Pair, rows: Linear, used: Array) -> Halfspaces:
        """Where none of the rows that are `used` ([boxes, rows]) is positive."""
        centre, radius = coordinates(box)
        constant, normal, size = _around(centre, radius, rows)
        offset = -constant + _error(size, radius.shape[1])
        used = used & np.isfinite(offset) & np.isfinite(normal).all(2)
        return Halfspaces(
            centre, radius, np.where(used[..., None], normal, 0.0), np.where(used, offset, np.inf)
        )

    def select(self, boxes: Array) -> Halfspaces:
        """Those of some boxes."""
        return Halfspaces(*(part[boxes] for part in self._parts))

    def updated(self, boxes: Array, other: Halfspaces) -> Halfspaces:
        """With those of some boxes replaced."""
        found = []
        for own, new in zip(self._parts, other._parts, strict=True):
            changed = own.copy()
            changed[boxes] = new
            found.append(changed)
        return Halfspaces(*found)

    @property
    def _parts(self) -> tuple[Array, Array, Array, Array]:
        return self.centre, self.radius, self.normal, self.offset

    def along(self, inputs: Array) -> Halfspaces:
        """In the coordinates of some inputs alone, whatever the others are."""
        others = np.setdiff1d(np.arange(self.radius.shape[1]), inputs)
        free = np.abs(self.normal[:, :, others]).sum(2)
        offset = self.offset + free + _error(free, self.normal.shape[2])
        return Halfspaces(self.centre[:, inputs], self.radius[:, inputs], self.normal[:, :, inputs], offset)

    def least(self, functions: Linear) -> Array:
        """Lower bounds [boxes, functions] over what is left of the boxes; -inf where nothing is known."""
        return self.least_around(*_around(self.centre, self.radius, functions))

    def least_around(self, constant: Array, slope: Array, size: Array) -> Array:
        """Lower bounds of `constant + slope . e` ([boxes, functions], and [.., inputs]); size: of the terms that the two were made of."""
        for row in range(self.offset.shape[1] if slope.shape[2] else 0):
            normal, offset = self.normal[:, row, None], self.offset[:, row, None]
            if np.isinf(offset).all():
                continue
            weight = _weight(slope, normal, offset)
            moved = weight * np.where(weight > 0, offset, 0.0)
            constant, slope = constant - moved, slope + weight[..., None] * normal
            size = size + np.abs(moved) + weight * np.abs(normal).sum(2)
        found = constant - np.abs(slope).sum(2) - _error(size, slope.shape[2] + self.offset.shape[1])
        return np.where(np.isfinite(found), found, -np.inf)


def coordinates(box: Pair) -> Pair:
    """Centres and radii of boxes, `x = centre + radius e`: all of the box for e in [-1, 1]."""
    centre = (box[0] + box[1]) / 2
    return centre, np.maximum(box[1] - centre, centre - box[0]) * (1 + _EPSILON)


def _around(centre: Array, radius: Array, rows: Linear) -> tuple[Array, Array, Array]:
    """Linear functions by their values at the centre and their slopes there, and the size of what rounds."""
    slope = rows.cotangent * radius[:, None]
    constant = (rows.cotangent * centre[:, None]).sum(2) + rows.constant - rows.error
    reach = np.abs(centre) + 2 * radius
    size = np.abs(rows.constant) + rows.error + (np.abs(rows.cotangent) * reach[:, None]).sum(2)
    return constant, slope, size


def _error(size: Array, terms: int) -> Array:
    """What rounding may have moved a sum by, over the inputs and over as many rows as were added to it."""
    found: Array = 2 * (terms + 12) * _EPSILON * size + 2.0**-960
    return found


def _weight(slope: Array, normal: Array, offset: Array) -> Array:
    """The best lambda of each function, 0 where there is none.

    To the right of a lambda the slope of what is maximised is `-H - sum of G sign(T + lambda G)`; each entry of another sign than G turns
    at `-T / G`, which takes `2 |G|` from it.
    """
    turn = -slope / normal
    turns = (turn > 0) & np.isfinite(turn)
    rise = -offset - np.where(turns, -np.abs(normal), np.abs(normal)).sum(2)
    order = np.argsort(np.where(turns, turn, np.inf), axis=2, kind="stable")
    turn = np.take_along_axis(np.where(turns, turn, np.inf), order, 2)
    fall = np.take_along_axis(np.where(turns, 2 * np.abs(normal), 0.0), order, 2).cumsum(2)
    at = np.minimum((fall < rise[..., None]).sum(2), slope.shape[2] - 1)
    at = np.minimum(at, np.maximum(turns.sum(2) - 1, 0))
    best = np.take_along_axis(turn, at[..., None], 2)[..., 0]
    return np.where((rise > 0) & np.isfinite(best), best, 0.0)
