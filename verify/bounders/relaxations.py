"""The relaxation as linear programs of HiGHS: those of all subproblems and objectives of one problem, made of one another.

See `verify.bounders.linear_program` for rows and columns.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import highspy
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from verify.deadline import Deadline
from verify.lagrangian.dual import DualProblem
from verify.lagrangian.supports import join
from verify.lagrangian.sweeps import sources
from verify.network.activations.base import spread
from verify.network.activations.relu import Relu
from verify.network.graph import Layer, Network

Array = NDArray[np.float64]
Indices = NDArray[np.int32]

_CHUNK_BYTES = 8 * 2**20  # of one live tensor while an affine map is read off
TOLERANCE = 1e-9  # of HiGHS, and relative to a line's terms where a violation counts
_TINY = 1e-12  # HiGHS drops smaller coefficients
_GRID = 16  # intervals of the grid in which a line's parameter is looked for
_SEARCHES = 12  # how often the grid is refined: to 2^-36 of the parameter's range
_RAY_LENGTHS = (1e2, 1e4, 1e6)  # how far to go along a ray that proves the relaxation empty


@dataclass(frozen=True)
class _Rows:
    """Rows of a sparse matrix, one after the other, with their limits. Whole numbers are floats here too."""

    lengths: Float[NDArray[Any], " rows"]
    columns: Float[NDArray[Any], " entries"]
    values: Float[NDArray[Any], " entries"]
    lower: Float[NDArray[Any], " rows"]
    upper: Float[NDArray[Any], " rows"]

    @property
    def starts(self) -> Indices:
        """Where each row starts, and where the last one ends."""
        return np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int32)

    @property
    def places(self) -> Indices:
        """The entries' columns as HiGHS takes them."""
        return self.columns.astype(np.int32)

    @classmethod
    def joined(cls, parts: list[_Rows]) -> _Rows:
        """All parts' rows in order."""
        names = (f.name for f in fields(cls))
        return cls(*(np.concatenate([np.zeros(0), *(vars(part)[name] for part in parts)]) for name in names))


@dataclass(frozen=True)
class _Maps:
    """What all programs of one network share: where its values are among the columns, and its affine maps as rows."""

    columns: dict[int, int]  # the first column of the input's node and of every activation's output
    pre_columns: dict[int, int]  # the first column of every layer's pre-activations, by its node
    width: int  # columns in all, with v as the last one
    equalities: _Rows

    @classmethod
    def of(cls, problem: DualProblem) -> _Maps:
        """The maps that the problem's objectives depend on."""
        network = problem.network
        columns, pre_columns, width = {0: 0}, {}, network.inputs
        for layer in problem.layers:
            pre_columns[layer.node] = width
            columns[layer.node] = width + layer.size
            width += layer.size + network.nodes[layer.node].size
        rows = [_equalities(network, layer, columns, pre_columns) for layer in problem.layers]
        return cls(columns, pre_columns, width + 1, _Rows.joined(rows))

    def values(self, network: Network, layer: Layer, values: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's pre-activations and outputs among all columns' values, [*batch, size] each."""
        first, second = self.pre_columns[layer.node], self.columns[layer.node]
        post = network.nodes[layer.node].size
        return values[..., first : first + layer.size], values[..., second : second + post]


def _entries(parts: dict[int, Tensor], columns: dict[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """The nonzero entries of functionals of several nodes' values: row, column, value."""
    found = []
    for node, part in parts.items():
        row, column = part.nonzero(as_tuple=True)
        found.append((row, column + columns[node], part[row, column]))
    row, column, value = (torch.cat(part) for part in zip(*found, strict=True))
    return row, column, value


def _sorted_rows(row: Tensor, column: Tensor, value: Tensor, lower: Tensor, upper: Tensor) -> _Rows:
    """Entries in any order as rows with the given limits."""
    order = torch.argsort(row, stable=True)
    lengths = torch.bincount(row, minlength=len(lower))
    parts = (lengths, column[order], value[order], lower, upper)
    return _Rows(*(part.cpu().double().numpy() for part in parts))


def _equalities(
    network: Network, layer: Layer, columns: dict[int, int], pre_columns: dict[int, int]
) -> _Rows:
    """`z_k - A_k(x_0, y_1, ..) = b_k` for one layer, read off by its adjoint."""
    widest = max(network.nodes[i].size for i in network.ancestors[layer.pre_node])
    chunk = max(1, _CHUNK_BYTES // (widest * network.dtype.itemsize))
    like = network.offsets[layer.pre_node]
    own = torch.arange(layer.size, device=like.device)
    found = [(own, own + pre_columns[layer.node], torch.ones_like(like))]
    for first in range(0, layer.size, chunk):
        unit = torch.zeros(min(chunk, layer.size - first), layer.size, dtype=like.dtype, device=like.device)
        unit.diagonal(first).fill_(1.0)
        row, column, value = _entries(sources(network, layer.pre_node, unit), columns)
        found.append((row + first, column, -value))
    row, column, value = (torch.cat(part) for part in zip(*found, strict=True))
    return _sorted_rows(row, column, value, like, like)


@dataclass(frozen=True)
class _FirstLines:
    """Supporting lines of one layer, sign and parameter for all subproblems: slopes and intercept of every output.

    Those that are not finite, or among the lines of earlier parameters, are lines that limit nothing.
    """

    layer: Layer
    sign: float
    lines: Float[NDArray[Any], "batch post copies+1"]

    @property
    def level(self) -> bool:
        """Whether all of them are limits of the outputs alone."""
        return not self.lines[..., :-1].any()


class Relaxations:
    """What the programs of one problem have in common. They have the same rows, so one is made of another, and starts from its optimum."""

    def __init__(self, problem: DualProblem) -> None:
        self.problem, self.maps = problem, _Maps.of(problem)
        lines = [found for layer in problem.layers for found in self._first_lines(layer)]
        self.first_lines = [some for some in lines if not some.level]
        self.limits = self._limits([some for some in lines if some.level])
        self.objectives: dict[bytes, _Rows] = {}
        self.latest: Program | None = None

    def _limits(self, level: list[_FirstLines]) -> tuple[Array, Array]:
        """The columns' lower and upper limits on each box: inputs and pre-activations have theirs, outputs those of level lines."""
        bounds, inputs, maps = self.problem.bounds, self.problem.network.inputs, self.maps
        shape = len(bounds), maps.width
        lower, upper = np.full(shape, -np.inf), np.full(shape, np.inf)
        for limits, end in ((lower, bounds.lower), (upper, bounds.upper)):
            values = end.cpu().double().numpy()
            limits[:, :inputs] = values[:, :inputs]
            for layer in self.problem.layers:
                first = maps.pre_columns[layer.node]
                limits[:, first : first + layer.size] = values[:, layer.variables]
        for some in level:
            first, value = maps.columns[some.layer.node], some.lines[..., -1]
            limits, tighter = (lower, np.maximum) if some.sign > 0 else (upper, np.minimum)
            own = slice(first, first + value.shape[1])
            limits[:, own] = tighter(limits[:, own], value)
        return lower, np.maximum(lower, upper)

    def program(self, row: int, which: int) -> Program:
        """The program of one objective on one box."""
        objective, latest = self._objective_rows(row, which), self.latest
        if latest is None or latest.refined or latest.objective is not objective:
            self.latest = Program(self, row, objective)
        else:
            latest.move(row)
        assert self.latest is not None
        return self.latest

    def _first_lines(self, layer: Layer) -> Iterator[_FirstLines]:
        """The lines of the parameters' ends and of CROWN's."""
        hull = self.problem.domain.hulls[layer.node]
        for sign in (1.0, -1.0):
            known: list[Array] = []
            for alpha in (*hull.alpha_range, hull.initial()):
                lines = _lines(self.problem, layer, sign, alpha)
                wanted: NDArray[np.bool_] = np.asarray(np.isfinite(lines).all(2))
                for old in known:
                    wanted &= (lines != old).any(2)
                known.append(lines)
                if wanted.any():
                    none = np.append(np.zeros(lines.shape[2] - 1), -sign * np.inf)
                    yield _FirstLines(layer, sign, np.where(wanted[..., None], lines, none))

    def _objective_rows(self, row: int, which: int) -> _Rows:
        """`v - C_j y - E_j x_0 >= -d_j`, everything behind the last activations carried back to them."""
        problem, network = self.problem, self.problem.network
        objective = problem.objective.map(lambda part: part[row, which])
        tensors = (objective.coefficients, objective.thresholds, objective.input_coefficients)
        key = b"".join(part.cpu().numpy().tobytes() for part in tensors)
        if key in self.objectives:
            return self.objectives[key]
        parts = sources(network, problem.node, objective.coefficients)
        if objective.input_coefficients.shape[1]:
            join(parts, 0, objective.input_coefficients)
        at, column, value = _entries(parts, self.maps.columns)
        own = torch.arange(problem.constraints.count, device=at.device)
        constant = objective.coefficients @ network.offsets[problem.node]
        self.objectives[key] = _sorted_rows(
            torch.cat([own, at]), torch.cat([torch.full_like(own, self.maps.width - 1), column]),
            torch.cat([torch.ones_like(constant), -value]), constant - objective.thresholds,
            torch.full_like(constant, torch.inf),
        )  # fmt: skip
        return self.objectives[key]


def _lines(problem: DualProblem, layer: Layer, sign: float, alpha: Tensor) -> Array:
    """The supporting lines of a sign at these parameters: slopes and intercept, [batch, post, copies + 1]."""
    post = problem.network.nodes[layer.node].size
    hull, batch = problem.domain.hulls[layer.node], problem.batch
    line = hull.line(alpha.new_full((batch, 1, post), sign), alpha)
    slopes, intercept = torch.broadcast_to(line.slope, (batch, 1, layer.size)), line.intercept
    tiny = (slopes != 0) & (slopes.abs() < _TINY)
    worst = sign * torch.minimum(sign * slopes * hull.lower, sign * slopes * hull.upper)
    intercept = intercept + torch.where(tiny, worst, 0.0).unflatten(-1, (-1, post)).sum(-2)
    slopes = torch.where(tiny, 0.0, slopes).reshape(batch, -1, post)
    table = torch.cat([slopes, torch.broadcast_to(intercept, (batch, 1, post))], 1)
    return np.array(table.transpose(1, 2).cpu().double().numpy())


class Program:
    """The linear program of an objective on one box."""

    def __init__(self, shared: Relaxations, row: int, objective: _Rows) -> None:
        self.shared, self.row, self.objective, self.maps = shared, row, objective, shared.maps
        first = [
            self._line_rows(some.layer, some.sign, some.lines[row], np.arange(some.lines.shape[1]))
            for some in shared.first_lines
        ]
        self.solver = _solver(self._model(_Rows.joined([self.maps.equalities, objective, *first])))
        self.started = self.refined = False
        self.values: Array | None = None  # the last optimum's columns

    def move(self, row: int) -> None:
        """Makes it that of another box, with no lines but the first ones."""
        count = len(self.maps.equalities.lower) + len(self.objective.lower)
        for some in self.shared.first_lines:
            new = some.lines[row]
            chosen = np.flatnonzero((new != some.lines[self.row]).any(1))
            rows = self._line_rows(some.layer, some.sign, new, chosen)
            owners = np.repeat(chosen + count, len(rows.columns) // max(1, len(chosen)))
            for entry in zip(owners.tolist(), rows.columns.tolist(), rows.values.tolist(), strict=True):
                self.solver.changeCoeff(*entry)
            for limits in zip(
                (chosen + count).tolist(), rows.lower.tolist(), rows.upper.tolist(), strict=True
            ):
                self.solver.changeRowBounds(*limits)
            count += len(new)
        self.row = row
        self.__dict__.pop("problem", None)
        width = self.maps.width
        lower, upper = (end[row] for end in self.shared.limits)
        self.solver.changeColsBounds(width, np.arange(width, dtype=np.int32), lower, upper)
        self.solver.setOptionValue("presolve", "choose")

    @cached_property
    def problem(self) -> DualProblem:
        """The problem of this box alone."""
        index = torch.tensor([self.row], device=self.shared.problem.bounds.lower.device)
        return self.shared.problem.select(index)

    def _line_rows(self, layer: Layer, sign: float, lines: Array, chosen: NDArray[np.int64]) -> _Rows:
        """`y - slope z >= intercept`, or `<=` where the sign is negative, for the chosen outputs."""
        post, copies = lines.shape[0], lines.shape[1] - 1
        first = self.maps.pre_columns[layer.node]
        places = [self.maps.columns[layer.node], *(first + copy * post for copy in range(copies))]
        columns = chosen[:, None] + np.array(places)
        values = np.concatenate([np.ones((len(chosen), 1)), -lines[chosen, :-1]], axis=1)
        intercept, none = lines[chosen, -1], np.full(len(chosen), np.inf)
        limits = (intercept, none) if sign > 0 else (-none, intercept)
        return _Rows(np.full(len(chosen), copies + 1.0), columns.ravel(), values.ravel(), *limits)

    def _model(self, rows: _Rows) -> Any:
        """Everything as HiGHS takes it."""
        lower, upper = (end[self.row] for end in self.shared.limits)
        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = self.maps.width, len(rows.lower)
        model.col_cost_ = np.append(np.zeros(self.maps.width - 1), 1.0)
        model.col_lower_, model.col_upper_ = lower, upper
        model.row_lower_, model.row_upper_ = rows.lower, rows.upper
        model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        model.a_matrix_.start_ = rows.starts
        model.a_matrix_.index_, model.a_matrix_.value_ = rows.places, rows.values
        return model

    def solve(self, seconds: float) -> list[Array]:
        """Solves the program; the dual values of its first rows that this suggests, none where it failed.

        Interior points first, on networks the quickest by far; simplex from an optimum of this program or of another of the same rows.
        """
        self.values, deadline = None, Deadline.after(seconds)
        for method in ("simplex",) if self.started else ("ipm", "simplex"):
            status = self._run(method, deadline)
            if status == highspy.HighsModelStatus.kInfeasible:
                return self._along_the_ray(deadline)
            if status == highspy.HighsModelStatus.kOptimal:
                self._keep()
                break
        solution = self.solver.getSolution()
        return self._points(np.array(solution.row_dual)) if solution.dual_valid else []

    def _keep(self) -> None:
        self.values, self.started = np.array(self.solver.getSolution().col_value), True

    def _run(self, method: str, deadline: Deadline) -> Any:
        """What one of HiGHS's methods says; its clock runs on over all of them."""
        self.solver.setOptionValue("solver", method)
        self.solver.setOptionValue("time_limit", self.solver.getRunTime() + max(0.0, deadline.remaining))
        self.solver.run()
        return self.solver.getModelStatus()

    def _along_the_ray(self, deadline: Deadline) -> list[Array]:
        """An empty relaxation has a direction in which q rises without end; simplex alone finds it, without presolve."""
        self.solver.setOptionValue("presolve", "off")
        self._run("simplex", deadline)
        _, known, ray = self.solver.getDualRay()
        if not known:
            return []
        unit = np.array(ray) / max(np.abs(ray).max(), 1e-300)
        return [point for length in _RAY_LENGTHS for point in self._points(length * unit)]

    def _points(self, dual: Array) -> list[Array]:
        """The dual values of the first rows: of the maps and of the objective; none where they are not numbers."""
        problem = self.shared.problem
        first = sum(layer.size for layer in problem.layers) + problem.constraints.count
        return [dual[:first]] if np.isfinite(dual).all() else []

    def refine(self) -> bool:
        """Adds every neuron's most violated lines at the last optimum; whether there were any."""
        layers = [layer for layer in self.shared.problem.layers if not isinstance(layer.activation, Relu)]
        if self.values is None or not layers:
            return False
        rows = _Rows.joined([part for layer in layers for part in self._violated(layer)])
        count, starts, self.refined = len(rows.lower), rows.starts[:-1], True
        if count:
            self.solver.addRows(
                count, rows.lower, rows.upper, len(rows.values), starts, rows.places, rows.values
            )
        return count > 0

    def _violated(self, layer: Layer) -> list[_Rows]:
        """Each output's lines of both signs that the optimum violates most, by a search over the lines' parameters."""
        hull, post = self.problem.domain.hulls[layer.node], self.problem.network.nodes[layer.node].size
        z, y = self._optimum(layer)
        low, high = hull.alpha_range
        signs = torch.tensor([1.0, -1.0], dtype=y.dtype, device=y.device)[:, None, None]

        def alpha(share: Tensor) -> Tensor:
            return low + spread(share, low.shape[-1] // post) * (high - low)

        def excess(share: Tensor) -> Tensor:
            line = hull.line(signs.expand_as(share), alpha(share))
            return signs * (line.apply(z) - y)

        share = _highest(excess, torch.zeros_like(y).expand(2, 1, -1))
        wrong = (excess(share) > TOLERANCE * (1 + y.abs()))[:, 0].cpu().numpy()
        found = []
        for sign, own, chosen in zip((1.0, -1.0), share, wrong, strict=True):
            lines = _lines(self.problem, layer, sign, alpha(own[None]))[0]
            chosen = np.flatnonzero(chosen & np.isfinite(lines).all(1))
            found.append(self._line_rows(layer, sign, lines, chosen))
        return found

    def _optimum(self, layer: Layer) -> tuple[Tensor, Tensor]:
        """A layer's pre-activations and outputs at the last optimum, [1, 1, size]."""
        assert self.values is not None
        values = self.problem.bounds.lower.new_tensor(self.values)[None, None]
        return self.maps.values(self.problem.network, layer, values)


def _highest(function: Callable[[Tensor], Tensor], start: Float[Tensor, "signs 1 post"]) -> Tensor:
    """Where in [0, 1] a concave function has its maximum, entry by entry: ever finer grids, the second axis."""
    low, high = start, torch.ones_like(start)
    steps = torch.linspace(0, 1, _GRID + 1, dtype=start.dtype, device=start.device)[:, None]
    for _ in range(_SEARCHES):
        shares = low + steps * (high - low)
        best = shares.gather(1, function(shares).argmax(1, keepdim=True))
        width = (high - low) / _GRID
        low, high = (best - width).clamp(min=0), (best + width).clamp(max=1)
    return best


def _solver(model: Any) -> Any:
    """HiGHS with a model: silent, its tolerances tight."""
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("small_matrix_value", _TINY)
    solver.setOptionValue("primal_feasibility_tolerance", TOLERANCE)
    solver.setOptionValue("dual_feasibility_tolerance", TOLERANCE)
    solver.passModel(model)
    return solver


def _greet() -> None:
    """Makes a solver that nobody hears of: the first one of a process prints a line on stdout, where verdicts go (HiGHS 1.16)."""
    with suppress(OSError), Path(os.devnull).open("wb") as nowhere:
        stdout = os.dup(1)
        try:
            os.dup2(nowhere.fileno(), 1)
            highspy.Highs()
        finally:
            os.dup2(stdout, 1)
            os.close(stdout)


_greet()
