"""What is known of a subproblem, and the bounds that follow from it and from what is declared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from small.model import Net
from small.sums import INFINITY, ONE, Number, Sum, down, least, plus


@dataclass
class Region:
    """What is known of all variables in a subproblem."""

    net: Net
    lower: dict[int, Number]
    upper: dict[int, Number]

    def within(self, some: Iterable[tuple[int, Number, Number]]) -> Region:
        """A copy, within bounds of some variables."""
        found = Region(self.net, dict(self.lower), dict(self.upper))
        for one in some:
            found.meet(*one)
        return found

    def meet(self, variable: int, lower: Number = -INFINITY, upper: Number = INFINITY) -> None:
        self.lower[variable] = max(self.lower[variable], lower)
        self.upper[variable] = min(self.upper[variable], upper)

    @property
    def empty(self) -> bool:
        return any(self.lower[v] > self.upper[v] for v in self.lower)

    def unstable(self, stop: int) -> list[int]:
        return [v for v in range(self.net.inputs, stop) if self.lower[v] < 0 < self.upper[v]]

    def afresh(self) -> Region:
        """The inputs alone."""
        found = self.within(())
        for v in self.net.z:
            found.lower[v], found.upper[v] = -INFINITY, INFINITY
        return found

    def values(self) -> tuple[dict[int, Number], dict[int, Number]]:
        """Bounds of inputs and of outputs of ReLUs."""
        pair = (self.lower, self.upper)
        lower, upper = ({v: x if v < self.net.inputs else max(x, 0) for v, x in one.items()} for one in pair)
        return lower, upper

    def intervals(self, layers: Sequence[tuple[int, int]]) -> None:
        """Interval arithmetic, layer by layer."""
        for start, stop in layers:
            ends = self.values()
            for v in range(start, stop):
                z = self.net.z[v]
                self.meet(v, down(least(z, *ends)), -down(least(plus({}, z, -1), *ends)))

    def minimum(self, t: Number, rho: Number, variable: int) -> Number:
        """Of t relu(z) - rho z."""
        low, high = self.lower[variable], self.upper[variable]
        if (math.isinf(low) and rho < 0) or (math.isinf(high) and t < rho):
            return -INFINITY
        ends = [z for z in (low, high) if not math.isinf(z)] + [Fraction(0)] * (low <= 0 <= high)
        return min((t * max(z, 0) - rho * z for z in ends), default=-INFINITY)

    def rho(self, variable: int, t: Number, slope: Number) -> Number:
        """The slope of the line below, or of the chord, times t."""
        low, high = self.lower[variable], self.upper[variable]
        if not low < 0 < high:
            return t if low >= 0 else Fraction(0)
        if t >= 0:
            return down(t * slope)
        return Fraction(0) if math.isinf(high - low) else down(t * high / (high - low))

    def below(self, objective: Mapping[int, Number], lines: Lines, stop: int | None = None) -> Sum:
        """A function of the inputs below an objective, pulled back through all ReLUs before `stop`."""
        found = dict(objective)
        for v in reversed(range(self.net.inputs, stop or self.net.size)):
            t, away = found.pop(v, Fraction(0)), Fraction(0)
            for cut, amount in [(cut, share * max(-t, 0)) for cut, share in lines.cuts.get(v, ())]:
                found = plus(found, cut.above, -amount)
                t, away = t + amount, away + amount * cut.slope
            rho = lines.rho[v] if lines.rho else self.rho(v, t, lines.slopes.get(v, Fraction(0)))
            rho += lines.multipliers.get(v, 0)
            found = plus(plus(found, {ONE: self.minimum(t, rho, v)}), self.net.z[v], rho - away)
        return found

    def bound(self, objective: Mapping[int, Number], lines: Lines, stop: int | None = None) -> Number:
        """What an objective is at least."""
        return least(self.below(objective, lines, stop), self.lower, self.upper)

    def crown(self) -> Lines:
        """Default slopes."""
        steep = {v: self.upper[v] > -self.lower[v] * (1 + Fraction(1, 1 << 20)) for v in self.net.z}
        return Lines({v: Fraction(one) for v, one in steep.items()})


@dataclass(frozen=True)
class Cut:
    """Of a ReLU's output y <= slope z + above, on a box."""

    slope: Fraction
    above: Sum
    lower: Sequence[Number]
    upper: Sequence[Number]


@dataclass(frozen=True)
class Lines:
    """What is declared of ReLUs: slopes and multipliers of splits, or all of rho; and shares of cuts."""

    slopes: Mapping[int, Fraction] = field(default_factory=dict)
    multipliers: Mapping[int, Fraction] = field(default_factory=dict)
    rho: Mapping[int, Fraction] = field(default_factory=dict)
    cuts: Mapping[int, Sequence[tuple[Cut, Fraction]]] = field(default_factory=dict)
