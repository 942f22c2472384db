"""What bounds are computed with: numbers of an arithmetic, and multipliers as they are declared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from verify.checker.rationals import rationals

Array = NDArray[Any]
Pair = tuple[Array, Array]


@dataclass(frozen=True)
class Arithmetic:
    """Which numbers are computed with, and of which network the claim speaks.

    exact: rationals instead of float64. deployed: the network as any library computes it in IEEE float32, in any order of
    summation (`ieee32-any-order`), instead of the real function.
    """

    exact: bool = False
    deployed: bool = False

    def array(self, values: Any) -> Array:
        """Floats (or Fractions), as numbers of this arithmetic."""
        if not self.exact:
            return np.asarray(values, dtype=np.float64)
        return rationals(np.asarray(values))


class Above(Protocol):
    """Affine functions that some outputs y of a layer are at most: `y <= slopes z + sum of parts . values + offsets`.

    places: of the outputs in the layer. parts: by node before the layer, columns and coefficients [functions, columns].
    """

    @property
    def places(self) -> Array: ...
    @property
    def slopes(self) -> Array: ...
    @property
    def offsets(self) -> Array: ...
    @property
    def parts(self) -> dict[int, Pair]: ...
    def in_numbers_of(self, arithmetic: Arithmetic) -> Above:
        """The same functions."""


@dataclass(frozen=True)
class Given:
    """Amounts >= 0, declared, of outputs' pull that go to functions above them: [subproblems, objectives, functions]."""

    above: Above
    amounts: Array

    def rest(self, t: Array) -> Array:
        """What is left of the outputs' pull."""
        found: Array = t.copy()
        add_at(found, self.above.places, self.amounts)
        return found


@dataclass(frozen=True)
class Multipliers:
    """A layer's `rho`, [subproblems, objectives, size].

    bent: where given, ReLUs of one subproblem are linear elsewhere, and `values` there is `slope` ([size], 0 or 1) times t exactly, so
    that `t sigma(z) - rho z` is 0. given: what went elsewhere first; t is then what that left.
    """

    values: Array
    bent: Array | None = None
    slope: Array | None = None
    given: Given | None = None

    @property
    def finite(self) -> bool:
        """Whether all numbers are."""
        return bool(np.isfinite(self.values).all()) and (
            self.given is None or bool(np.isfinite(self.given.amounts).all())
        )

    def part(self, shape: tuple[int, ...], subproblems: Array, objectives: Array) -> Multipliers:
        """Those of some subproblems and objectives, of as many as the shape says."""

        def chosen(values: Array) -> Array:
            return np.broadcast_to(values, (*shape, values.shape[2]))[subproblems][:, objectives]

        given = self.given and Given(self.given.above, chosen(self.given.amounts))
        return Multipliers(chosen(self.values), given=given)

    def in_numbers_of(self, arithmetic: Arithmetic) -> Multipliers:
        """The same, as an arithmetic has numbers."""
        given = self.given and Given(
            self.given.above.in_numbers_of(arithmetic), arithmetic.array(self.given.amounts)
        )
        return Multipliers(arithmetic.array(self.values), given=given)


def add_at(values: Array, places: Array, more: Array) -> None:
    """Adds to some entries of the last axis, each as often as it is named."""
    np.add.at(np.moveaxis(values, -1, 0), places, np.moveaxis(more, -1, 0))
