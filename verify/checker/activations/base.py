"""What the checker knows of an activation: where `t sigma(z) - rho z` can have its minimum on a box, and no more.

Arrays are [subproblems, objectives, neurons]; bounds have one objective for all. Float64, or objects that hold exact rationals.
In float64 the values are as accurate as the operations are; the caller charges for them (`dual.py`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from verify.checker.errors import Refused
from verify.checker.rationals import Array, rational

Parameters = tuple[Any, ...]
ULPS = 16 * 2.0**-53  # what an elementary function of numpy may be off by, generously
# slopes below it are those of points so far out that the function moves by less than `SMALL`
FLATTEST = 1e-300
SMALL = 2.0**-490
TANGENTS = 9
KINDS: dict[str, type[Function]] = {}


class Function(ABC):
    """An activation with its parameters, registered under its `kind`.

    settings: how many parameters it has. operands: how many an output has. exact: it is rational at rational numbers. piecewise:
    it is made of straight pieces, so libraries in float32 agree on it, but where it `multiplies` on a product's rounding. rounds:
    its float64 values may be off by some units in their last place.
    """

    kind: ClassVar[str]
    settings: ClassVar[int] = 0
    operands: ClassVar[int] = 1
    exact: ClassVar[bool] = True
    piecewise: ClassVar[bool] = False
    multiplies: ClassVar[bool] = False
    rounds: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        if "kind" in vars(cls):
            if cls.kind in KINDS:
                raise ValueError(f"two activations are called {cls.kind!r}")
            KINDS[cls.kind] = cls

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters

    @abstractmethod
    def value(self, z: Array) -> Array:
        """sigma(z). Raises Refused for rational numbers where it has no exact value."""

    @abstractmethod
    def outputs(self, lower: Array, upper: Array) -> Array:
        """Values [n, ..] with the least and the greatest on each interval among them."""

    @abstractmethod
    def minimum(self, t: Array, rho: Array, lower: Array, upper: Array) -> Array:
        """The least value of `t sigma(z) - rho z` on each interval: [.., outputs]."""

    @abstractmethod
    def default_rho(self, t: Array, lower: Array, upper: Array) -> Array:
        """The multipliers of CROWN (Zhang et al. 2018): slope times cotangent, for lines close to the function."""

    def interval(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Bounds of the outputs on boxes, rounded outward; infinite where nothing is known."""
        values = self.outputs(lower, upper)
        low, high = values.min(0), values.max(0)
        if lower.dtype == object:
            return low, high
        if self.rounds:
            low, high = low - (ULPS * np.abs(low) + SMALL), high + (ULPS * np.abs(high) + SMALL)
        unknown = np.isnan(low) | np.isnan(high)
        return np.where(unknown, -np.inf, low), np.where(unknown, np.inf, high)


class Elementwise(Function):
    """One of each variable alone, which is least at an end, where it turns, or where the derivative is the right one."""

    @abstractmethod
    def slopes(self, lower: Array, upper: Array) -> list[Array]:
        """Those of some sensible lines: chords and tangents."""

    def turns(self) -> tuple[Any, ...]:
        """The points where the function may turn, or bend."""
        return ()

    def stationary(self, t: Array, rho: Array) -> list[Array]:
        """Where the derivative vanishes: `t sigma'(z) = rho`. Raises ArithmeticError where that is not rational.

        In float64 a stationary point may be off by some units in its last place: the value there is off by the second order of that.
        """
        return []

    def corners(self, lower: Array, upper: Array) -> list[Array]:
        """The ends, and the points between where the function may turn."""
        return [lower, upper, *(within(like(point, lower), lower, upper) for point in self.turns())]

    def outputs(self, lower: Array, upper: Array) -> Array:
        return np.stack([self.value(z) for z in self.corners(lower, upper)])

    def candidates(self, t: Array, rho: Array, lower: Array, upper: Array) -> list[Array]:
        """The points of each interval where `t sigma(z) - rho z` can be least."""
        corners = self.corners(lower, upper)
        return [*corners, *(within(z, lower, upper) for z in self.stationary(t, rho))]

    def minimum(self, t: Array, rho: Array, lower: Array, upper: Array) -> Array:
        found = least(t * self.value(z) - rho * z for z in self.candidates(t, rho, lower, upper))
        return found if self.piecewise or t.dtype == object else found - SMALL * np.abs(t)

    def default_rho(self, t: Array, lower: Array, upper: Array) -> Array:
        rising, falling = (self._closest(sign, lower, upper) for sign in (1.0, -1.0))
        return t * np.where(t < 0, falling, rising)

    def _closest(self, sign: float, lower: Array, upper: Array) -> Array:
        """Of some sensible slopes the one whose line is closest to the function at the interval's middle."""
        slopes, signs = self.slopes(lower, upper), np.full_like(lower, sign)
        heights = [
            self.minimum(signs, sign * slope, lower, upper) + sign * slope * (lower + upper) / 2
            for slope in slopes
        ]
        choice = np.nan_to_num(np.stack(heights), nan=-np.inf).argmax(0)
        return np.asarray(np.take_along_axis(np.stack(slopes), choice[None], 0)[0])

    def chord(self, left: Array, right: Array) -> Array:
        """The slope between two points of the graph, 0 where they coincide."""
        rise, run = self.value(right) - self.value(left), right - left
        return np.asarray(np.divide(rise, run, out=np.zeros_like(rise), where=run > 0))


class Curved(Elementwise):
    """One that is smooth, with the same slope at a point and at its negative."""

    @abstractmethod
    def slope_of(self, value: Array) -> Array:
        """The derivative, from the value there."""

    @abstractmethod
    def root(self, ratio: Array) -> Array:
        """The point z >= 0 where the derivative is `ratio`, or nearest to it."""

    def stationary(self, t: Array, rho: Array) -> list[Array]:
        if t.dtype == object:
            raise ArithmeticError(f"{self.kind} has no exact minimum")
        with np.errstate(all="ignore"):
            root = self.root(rho / np.where(t == 0, 1.0, t))
        return [root, -root]

    def slopes(self, lower: Array, upper: Array) -> list[Array]:
        points = [lower + (upper - lower) * (i / (TANGENTS - 1)) for i in range(TANGENTS)]
        chord = self.chord(lower, upper)
        return [chord, *(self.slope_of(self.value(z)) for z in points)]

    def real(self, z: Array) -> Array:
        """The same array. Raises Refused for rational numbers."""
        if z.dtype == object:
            raise Refused(f"{self.kind} has no exact value")
        return z


def within(point: Any, lower: Array, upper: Array) -> Array:
    """The point of the interval that is nearest to `point`."""
    return np.asarray(np.minimum(np.maximum(point, lower), upper))


def like(number: Any, array: Array) -> Any:
    """A number as those of an array are: rational or a float; infinity as it is."""
    return rational(number) if array.dtype == object and math.isfinite(number) else float(number)


def least(values: Iterable[Array]) -> Array:
    """The least of all, entry by entry; NaN where one of them is."""
    first, *others = values
    for value in others:
        first = np.minimum(first, value)  # which keeps NaN
    return first
