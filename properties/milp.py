"""The exact minimum of a network's margin over a box, as a mixed-integer linear program solved by HiGHS.

An unsafe set is a disjunction of clauses ``C y <= d`` over boxes. For one clause and one box this file
finds

    min over x in the box of  max_i (C f(x) - d)_i,

which is positive exactly where the clause is refuted. The program (Tjeng, Xiao & Tedrake, "Evaluating
robustness of neural networks with mixed integer programming", ICLR 2019) has a variable for each input and
each activation's output:

- ReLU ``y = max(z, 0)`` with ``l < 0 < u`` gets one binary ``d``: ``y >= z, y >= 0, y <= z - l (1 - d), y
  <= u d``. Its relaxation is the triangle (Planet), so the relaxed program is the triangle relaxation of
  the network.
- Sigmoid is enclosed piece by piece: its interval is cut at 0 and then finely; each piece is convex or
  concave, so a secant on one side and three tangents on the other enclose it; one binary a piece chooses
  (disaggregated, so the relaxation is the hull of the pieces). The program then relaxes the network: its
  minimum is a sound lower bound, not the exact minimum.

The bounds ``l, u`` come from intervals and, for an activation that intervals leave unstable, from two
linear programs over the relaxation of the layers before. Everything holds up to the solver's tolerances
(1e-6 feasibility and integrality), so a caller should trust no sign of a margin below 1e-3. Nothing here
imports `verify`: this is its oracle.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from properties.network import FUNCTIONS, Array, Expression, Network, read_network, sigmoid

SLACK = 1e-6
"""How far a bound found by a linear program is widened, for the solver's tolerance."""

PIECE = 0.5
"""The longest piece of a sigmoid's pre-activation interval."""


class Minimum(NamedTuple):
    """What one program found: ``lower_bound <= minimum <= margin``, the network's margin at `x`."""

    lower_bound: float
    margin: float
    gap: float
    x: Array


@dataclass
class Program:
    """A mixed-integer linear program that grows: columns with bounds, rows with bounds."""

    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    integer: list[bool] = field(default_factory=list)
    rows: list[dict[int, float]] = field(default_factory=list)
    limits: list[tuple[float, float]] = field(default_factory=list)

    def column(self, lower: float, upper: float, integer: bool = False) -> int:
        """Add a variable and return its index."""
        self.lower.append(lower)
        self.upper.append(upper)
        self.integer.append(integer)
        return len(self.lower) - 1

    def row(self, entries: dict[int, float], lower: float = -np.inf, upper: float = np.inf) -> None:
        """Add ``lower <= sum of entries <= upper``."""
        self.rows.append(entries)
        self.limits.append((lower, upper))

    def minimise(self, objective: Array, integer: bool = True, seconds: float = 60.0) -> Any:
        """Solve it, or its linear relaxation."""
        columns = [column for row in self.rows for column in row]
        data = [value for row in self.rows for value in row.values()]
        starts = np.cumsum([0, *map(len, self.rows)])
        matrix = sparse.csr_array((data, columns, starts), shape=(len(self.rows), len(self.lower)))
        limits = np.array(self.limits).reshape(-1, 2)
        return milp(
            np.pad(objective, (0, len(self.lower) - len(objective))),
            integrality=np.array(self.integer, dtype=int) if integer else 0,
            bounds=Bounds(self.lower, self.upper),
            constraints=[LinearConstraint(matrix, limits[:, 0], limits[:, 1])] if self.rows else [],
            options={"time_limit": seconds, "mip_rel_gap": 1e-6},
        )

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Columns and rows added inside are dropped again."""
        columns, rows = len(self.lower), len(self.rows)
        try:
            yield
        finally:
            del self.lower[columns:], self.upper[columns:], self.integer[columns:]
            del self.rows[rows:], self.limits[rows:]


class Encoding:
    """The network over one box as a program; `columns` says which column holds each variable."""

    def __init__(self, network: Network, lower: Array, upper: Array) -> None:
        self.network, self.program = network, Program()
        self.lower, self.upper = lower, upper
        self.unstable = 0
        self.columns = [self.program.column(low, high) for low, high in zip(lower, upper, strict=True)]
        for kind, pre in network.activations:
            low, high = self.bounds(kind, pre)
            encode = self.relu if kind == "Relu" else self.sigmoid
            columns = [encode(*self.entries(pre, i), low[i], high[i]) for i in range(len(low))]
            self.columns += columns
            self.lower = np.concatenate([self.lower, FUNCTIONS[kind](low)])
            self.upper = np.concatenate([self.upper, FUNCTIONS[kind](high)])

    def entries(self, expression: Expression, index: int) -> tuple[dict[int, float], float]:
        """One entry of an expression as columns and coefficients, and its constant."""
        matrix = expression.matrix
        span = slice(matrix.indptr[index], matrix.indptr[index + 1])
        pairs = zip(matrix.indices[span], matrix.data[span], strict=True)
        return {self.columns[i]: float(value) for i, value in pairs if value}, float(expression.bias[index])

    def bounds(self, kind: str, pre: Expression) -> tuple[Array, Array]:
        """Pre-activation bounds: intervals (exact in the first layer), then linear programs where needed."""
        lower, upper = pre.interval(self.lower, self.upper)
        if pre.matrix.shape[1] > self.network.inputs:
            wide = (lower < 0) & (upper > 0) if kind == "Relu" else upper - lower > SLACK
            for index in np.flatnonzero(wide).tolist():
                entries, bias = self.entries(pre, index)
                lower[index] = max(lower[index], self.relaxed(entries) + bias)
                if kind == "Relu" and lower[index] >= 0:
                    continue
                negated = {column: -value for column, value in entries.items()}
                upper[index] = min(upper[index], bias - self.relaxed(negated))
        return lower, upper

    def relaxed(self, entries: dict[int, float]) -> float:
        """A lower bound of a linear form over the relaxation so far."""
        result = self.program.minimise(self.dense(entries), integer=False)
        return float(result.fun) - SLACK if result.status == 0 else -np.inf

    def dense(self, entries: dict[int, float]) -> Array:
        """The objective vector with these entries."""
        objective = np.zeros(len(self.program.lower))
        objective[list(entries)] = list(entries.values())
        return objective

    def relu(self, pre: dict[int, float], bias: float, low: float, high: float) -> int:
        """One ReLU; returns the column of its output."""
        program = self.program
        output = program.column(max(low, 0.0), max(high, 0.0))
        below = {output: 1.0} | {column: -value for column, value in pre.items()}
        if low >= 0:
            program.row(below, bias, bias)
        elif high > 0:
            self.unstable += 1
            active = program.column(0, 1, integer=True)
            program.row(below, lower=bias)
            program.row(below | {active: -low}, upper=bias - low)
            program.row({output: 1.0, active: -high}, upper=0.0)
        return output

    def sigmoid(self, pre: dict[int, float], bias: float, low: float, high: float) -> int:
        """One sigmoid; returns the column of its output."""
        program = self.program
        points = np.linspace(low, high, int(np.ceil((high - low) / PIECE)) + 1)
        points = np.unique(np.append(points, 0.0)) if low < 0 < high else np.unique(points)
        if len(points) < 2:
            value = float(sigmoid(np.array(low)))
            return program.column(value, value)
        self.unstable += 1
        output = program.column(*sigmoid(np.array([low, high])))
        pieces = [self.piece(*ends) for ends in pairwise(points)]
        program.row(dict.fromkeys((piece[0] for piece in pieces), 1.0), 1.0, 1.0)
        arguments = {piece[1]: 1.0 for piece in pieces} | {column: -value for column, value in pre.items()}
        program.row(arguments, bias, bias)
        program.row({output: -1.0} | {piece[2]: 1.0 for piece in pieces}, 0.0, 0.0)
        return output

    def piece(self, start: float, end: float) -> tuple[int, int, int]:
        """One convex or concave piece: columns (chosen, argument, value), all zero if not chosen."""
        program, ends = self.program, np.array([start, end])
        chosen = program.column(0, 1, integer=True)
        argument = program.column(min(start, 0.0), max(end, 0.0))
        value = program.column(0.0, 1.0)
        program.row({argument: 1.0, chosen: -start}, lower=0.0)
        program.row({argument: 1.0, chosen: -end}, upper=0.0)
        at_ends = sigmoid(ends)
        slope = (at_ends[1] - at_ends[0]) / (end - start)
        lines = [(start, at_ends[0], slope, end > 0)]
        for point in (start, (start + end) / 2, end):
            height = float(sigmoid(np.array(point)))
            lines.append((point, height, height * (1 - height), end <= 0))
        for point, height, slope, value_above in lines:
            row = {value: 1.0, argument: -slope, chosen: slope * point - height}
            program.row(row, lower=0.0) if value_above else program.row(row, upper=0.0)
        return chosen, argument, value

    def minimise(
        self, coefficients: Array, threshold: Array, integer: bool = True, seconds: float = 60.0
    ) -> Minimum:
        """Minimise the largest of ``coefficients @ outputs - threshold``, relaxed without `integer`."""
        output = self.network.output
        matrix = sparse.csr_array(coefficients @ output.matrix)
        rows = Expression(matrix, coefficients @ output.bias - threshold, (1, len(threshold)))
        with self.program.trial():
            worst = self.program.column(-np.inf, np.inf)
            for index in range(len(threshold)):
                entries, bias = self.entries(rows, index)
                self.program.row(
                    {worst: 1.0} | {column: -value for column, value in entries.items()}, lower=bias
                )
            result = self.program.minimise(self.dense({worst: 1.0}), integer, seconds)
        return self.minimum(result, coefficients, threshold)

    def minimum(self, result: Any, coefficients: Array, threshold: Array) -> Minimum:
        """What a result shows: nothing is taken from a solver that proved no bound, or found no point."""
        inputs = self.network.inputs
        lower, upper = self.lower[:inputs], self.upper[:inputs]
        solved = result.status == 0 and result.fun is not None
        bound = result.mip_dual_bound if result.mip_dual_bound is not None else result.fun if solved else None
        bound = -np.inf if bound is None or not np.isfinite(bound) else float(bound)
        x = (lower + upper) / 2 if result.x is None else np.clip(result.x[:inputs], lower, upper)
        margin = float(np.max(coefficients @ self.network.forward(x) - threshold))
        return Minimum(bound, margin, np.inf if result.fun is None else float(result.fun) - bound, x)


@lru_cache(maxsize=4)
def _encoding(path: str, modified: int, lower: tuple[float, ...], upper: tuple[float, ...]) -> Encoding:
    return Encoding(read_network(path), np.array(lower), np.array(upper))


def encode(onnx_path: str | Path, lower: ArrayLike, upper: ArrayLike) -> Encoding:
    """The program of a network over a box; the last few are kept, since clauses share their box."""
    low, high = (np.asarray(side, dtype=np.float64).ravel() for side in (lower, upper))
    return _encoding(str(onnx_path), Path(onnx_path).stat().st_mtime_ns, tuple(low), tuple(high))


def minimise_margin(
    onnx_path: str | Path,
    lower: ArrayLike,
    upper: ArrayLike,
    coefficients: ArrayLike,
    threshold: ArrayLike,
    seconds: float = 60.0,
) -> tuple[float, float, Array]:
    """Minimise ``max_i (coefficients @ outputs - threshold)_i`` over the box.

    `coefficients` is one row or a matrix of rows, `threshold` a number or one a row. Returns (optimum, gap,
    x): the optimum is the solver's lower bound, `gap` the distance to its best point `x` (large or infinite
    where the time ran out). Exact for ReLU networks; for sigmoids a sound lower bound.
    """
    rows = np.atleast_2d(np.asarray(coefficients, dtype=np.float64))
    limits = np.broadcast_to(np.asarray(threshold, dtype=np.float64), (len(rows),))
    found = encode(onnx_path, lower, upper).minimise(rows, limits, seconds=seconds)
    return found.lower_bound, found.gap, found.x
