"""Boxes of the input: where unsafe points may lie, by linear functions of the input."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import reduce

from small.bounds import Region
from small.property import Clause
from small.sums import ONE, Number, Sum, demand, down, least, plus


@dataclass
class Halfspaces:
    """Where none of some functions is positive, and what others are at least there, within a box."""

    region: Region
    functions: Sequence[Sum] = ()

    def centred(self, function: Mapping[int, Number]) -> tuple[Number, list[Number]]:
        """In the box's own coordinates: the value in the middle, and coefficients."""
        lower, upper = self.region.lower, self.region.upper
        inputs = range(self.region.net.inputs)
        middle = {i: (lower[i] + upper[i]) / 2 for i in inputs}
        return least(function, middle, middle), [
            function.get(i, 0) * (upper[i] - lower[i]) / 2 for i in inputs
        ]

    def bound(self, function: Mapping[int, Number]) -> Number:
        """One half-space after the other, each with the multiplier that is best."""
        value, slopes = self.centred(function)
        if math.isinf(value):
            return value
        for other in self.functions:
            height, against = self.centred(other)
            steps = [down(-t / g) for t, g in zip(slopes, against, strict=True) if t * g < 0]
            moved = [(value + s * height, [t + s * g for t, g in zip(slopes, against, strict=True)]) for s in (0, *steps)]  # fmt: skip
            value, slopes = max(moved, key=lambda one: one[0] - sum(map(abs, one[1])))
        return down(value - sum(map(abs, slopes)))


@dataclass
class Boxed:
    """A subproblem in which boxes of inputs are bounded, and where each clause may still be unsafe (None: nowhere)."""

    region: Region
    clauses: Mapping[int, Clause]
    unsafe: dict[int, tuple[list[Number], list[Number]] | None] = field(default_factory=dict)
    rows: dict[int, list[Sum]] = field(default_factory=dict)  # linear functions of the input below them
    known: Halfspaces = field(init=False)

    def __post_init__(self) -> None:
        box = [[ends[i] for i in range(self.region.net.inputs)] for ends in (self.region.lower, self.region.upper)]  # fmt: skip
        self.unsafe = {one: (list(box[0]), list(box[1])) for one in self.clauses}
        self.known = Halfspaces(self.region)

    @property
    def open(self) -> list[int]:
        return [one for one, box in self.unsafe.items() if box is not None]

    def exclude(self, one: int, function: Mapping[int, Number]) -> None:
        """A clause's unsafe points are where a function is not positive."""
        spare = -least(function, self.region.lower, self.region.upper)
        box = self.unsafe[one]
        if box is None or math.isinf(spare):
            return
        for i in range(self.region.net.inputs):
            slope = function.get(i, 0)
            if slope > 0:
                box[1][i] = min(box[1][i], self.region.lower[i] + spare / slope)
            elif slope < 0:
                box[0][i] = max(box[0][i], self.region.upper[i] + spare / slope)
        if spare < 0 or any(low > high for low, high in zip(*box, strict=True)):
            self.unsafe[one] = None

    def carry_forward(self) -> None:
        """Linear functions of the inputs below and above all values, layer by layer."""
        region = self.region
        low: dict[int, Sum] = {i: {i: Fraction(1)} for i in range(region.net.inputs)} | {
            ONE: {ONE: Fraction(1)}
        }
        high = dict(low)
        for v, z in region.net.z.items():
            under = reduce(lambda s, k: plus(s, (low if z[k] > 0 else high)[k], z[k]), z, Sum())
            over = reduce(lambda s, k: plus(s, (high if z[k] > 0 else low)[k], z[k]), z, Sum())
            region.meet(v, self.known.bound(under), -self.known.bound(plus({}, over, -1)))
            if region.lower[v] > region.upper[v]:
                return
            first, second = (region.rho(v, t, region.crown().slopes[v]) for t in (1, -1))
            low[v] = plus({ONE: region.minimum(1, first, v)}, under, first)
            high[v] = plus({ONE: -region.minimum(-1, second, v)}, over, -second)

    def crown_layers(self, first: int) -> None:
        """Open pre-activations by CROWN, from a layer on, with intervals."""
        region = self.region
        for number, (start, stop) in enumerate(region.net.layers):
            region.intervals([(start, stop)])
            lines, open_ = region.crown(), region.unstable(stop)
            for v in open_ if number >= first else ():
                if v >= start:
                    ends = [self.known.bound(region.below(plus({}, region.net.z[v], s), lines, start)) for s in (1, -1)]  # fmt: skip
                    region.meet(v, ends[0], -ends[1])

    def judge(self, weights: Mapping[int, Sequence[Fraction]]) -> None:
        """Rows, and their sums, by CROWN."""
        if self.region.empty:
            self.unsafe = dict.fromkeys(self.unsafe)
        lines = self.region.crown()
        for one in self.open:
            self.rows[one] = [self.region.below(row, lines) for row in self.clauses[one].rows]
            sums = joined(self.rows[one], weights[one]) if one in weights else {}
            for function in (*self.rows[one], sums):
                self.exclude(one, function)

    def learn(self) -> None:
        """Half-spaces, of rows that all open clauses have."""
        if self.open:
            first, *others = (self.clauses[one].rows for one in self.open)
            shared = [i for i, row in enumerate(first) if all(row in rows for rows in others)]
            self.known = Halfspaces(self.region, [self.rows[self.open[0]][i] for i in shared])


def joined(rows: Sequence[Sum], weights: Sequence[Fraction]) -> Sum:
    """Their weighted sum; missing rows are the first one again."""
    demand(min(weights) >= 0, "a negative weight")
    return reduce(
        lambda s, i: plus(s, rows[i if i < len(rows) else 0], weights[i]), range(len(weights)), Sum()
    )
