"""The optimum of the relaxation: a linear program solved by HiGHS, handed back as a dual point.

The Lagrangian decomposition's dual has the optimum of the relaxation that takes each activation's convex hull on its box:
over the inputs x_0, pre-activations z_k and outputs y_k

    min v    with   v >= C_j y + E_j x_0 - d_j ,    z_k - A_k(x_0, y_1, ..) = b_k ,    l <= z <= u ,
                    y >= s z + intercept_s  and  y <= s z + intercept_s   for supporting lines of slopes s .

The dual values of `z_k - A_k = b_k` are the multipliers `rho_k` of the decomposition, those of the first rows are the constraint weights. So
what comes back is a `DualState` whose bound is evaluated like any other's: HiGHS's tolerances cost tightness, never validity.

A hull is known by its lines alone. Those of the parameters' ends and of CROWN's make up the hull of a ReLU or of a product;
where more are needed, the line that the program's optimum violates most is found for every neuron (the violation is concave in
the slope) and added, and the program solved again: Kelley's cutting planes (1960). Meant for comparison on small networks: the
time of a linear program grows with the square of their size or worse.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

import highspy
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from verify.bounders.ascent import Ascended, Bounder, Observer
from verify.deadline import Deadline
from verify.errors import ResourceError
from verify.lagrangian.beta import Beta
from verify.lagrangian.dual import DualProblem
from verify.lagrangian.rho import Rho
from verify.lagrangian.supports import join
from verify.lagrangian.sweeps import sources
from verify.network.activations.base import spread
from verify.network.activations.mixing import Mixing
from verify.network.graph import Layer, Network
from verify.state import DualState

Array = NDArray[np.float64]
Indices = NDArray[np.int32]

_CHUNK_BYTES = 8 * 2**20  # of one live tensor while an affine map is read off
_TOLERANCE = 1e-9  # of HiGHS, and relative to a line's terms where a violation counts
_TINY = 1e-12  # HiGHS drops smaller coefficients
_GRID = 16  # intervals of the grid in which a line's parameter is looked for
_SEARCHES = 12  # how often the grid is refined: to 2^-36 of the parameter's range
_RAY_LENGTHS = (1e2, 1e4, 1e6)  # how far to go along a ray that proves the relaxation empty


@dataclass(frozen=True)
class LinearProgram(Bounder):
    """Solves up to `rounds` programs for each objective of each subproblem, one after the other.

    Networks of more than `most_variables` variables are refused.
    """

    rounds: int = 60
    most_variables: int = 20_000

    def admit(self, network: Network) -> None:
        """Raises ResourceError where the network is too large or has activations whose lines are matrices."""
        mixing = [layer.activation.name for layer in network.layers if isinstance(layer.activation, Mixing)]
        if mixing:
            raise ResourceError(
                f"linear programs do not know {mixing[0]} of this size; bound this network with another method, "
                "such as restricted"
            )
        if network.variables > self.most_variables:
            raise ResourceError(
                f"a linear program of {network.variables} variables is too large (at most {self.most_variables}); "
                "bound this network with another method, such as restricted"
            )

    def ascend(
        self, problem: DualProblem, state: DualState, target: float = torch.inf, deadline: Deadline | None = None,
        soft_deadline: Deadline | None = None, observe: Observer | None = None,
    ) -> Ascended:  # fmt: skip
        """The optimum of every objective not above `target` already; what `soft_deadline` leaves no time for stays as it was.

        `iterations` counts the programs solved. Raises OutOfTimeError when the deadline passes, ResourceError.
        """
        self.admit(problem.network)
        deadline, soft_deadline = deadline or Deadline(), soft_deadline or Deadline()
        best, maps = _Best(problem, state, observe), _Maps.of(problem)
        for row, which in product(range(problem.batch), range(problem.objectives)):
            if soft_deadline.remaining <= 0:
                break
            if not float(best.bound[row, which]) > target:
                self._improve(best, row, which, maps, deadline, soft_deadline)
        return best.ascended()

    def _improve(
        self, best: _Best, row: int, which: int, maps: _Maps, deadline: Deadline, soft_deadline: Deadline
    ) -> None:
        part = best.problem.select(torch.tensor([row], device=best.bound.device))
        program = _Program(part.asked(part.objective.map(lambda value: value[:, which : which + 1])), maps)
        for _ in range(self.rounds):
            deadline.check()
            points = program.solve(min(deadline.remaining, soft_deadline.remaining))
            deadline.check()
            best.offer(row, which, program.problem, points)
            if soft_deadline.remaining <= 0 or not program.refine():
                break


class _Best:
    """The best dual point of every objective so far: multipliers alone."""

    def __init__(self, problem: DualProblem, state: DualState, observe: Observer | None) -> None:
        start = problem.decoupled(problem.clamp(state))
        self.problem, self.programs = problem, 0
        self.observe = observe or (lambda count, bound: None)
        self.state = start.map(torch.Tensor.clone)
        bound = problem.evaluate(start).bound
        self.bound = torch.where(bound.isnan(), -torch.inf, bound)
        self.observe(self.programs, self.bound)

    def offer(self, row: int, which: int, single: DualProblem, points: list[DualState]) -> None:
        """Dual points of one objective's own problem; the best is kept if it is better than what there was."""
        for point in points:
            bound = float(single.evaluate(single.clamp(point)).bound)
            if bound > float(self.bound[row, which]):
                self.bound[row, which] = bound
                for name, part in point.items():
                    self.state[name][row, which] = part[0, 0]
        self.programs += 1
        self.observe(self.programs, self.bound)

    def ascended(self) -> Ascended:
        """The points found, evaluated together."""
        state = self.problem.clamp(self.state)
        found = self.problem.evaluate(state)
        minimiser = self.problem.domain.input_minimiser(found.input_cotangent)
        return Ascended(found.bound, state, minimiser, self.programs)


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


class _Program:
    """The linear program of one objective on one box."""

    def __init__(self, problem: DualProblem, maps: _Maps) -> None:
        self.problem, self.maps = problem, maps
        parts = [maps.equalities, self._objective_rows(), *self._first_lines()]
        self.solver = _solver(self._model(_Rows.joined(parts)))
        self.solved = False
        self.values: Array | None = None  # the last optimum's columns

    def _objective_rows(self) -> _Rows:
        """`v - C_j y - E_j x_0 >= -d_j`, everything behind the last activations carried back to them."""
        problem, network = self.problem, self.problem.network
        parts = sources(network, problem.node, problem.objective.coefficients[0, 0])
        if problem.objective.input_coefficients.shape[3]:
            join(parts, 0, problem.objective.input_coefficients[0, 0])
        row, column, value = _entries(parts, self.maps.columns)
        own = torch.arange(problem.constraints.count, device=row.device)
        constant = problem.objective.coefficients[0, 0] @ network.offsets[problem.node]
        return _sorted_rows(
            torch.cat([own, row]), torch.cat([torch.full_like(own, self.maps.width - 1), column]),
            torch.cat([torch.ones_like(constant), -value]), constant - problem.objective.thresholds[0, 0],
            torch.full_like(constant, torch.inf),
        )  # fmt: skip

    def _first_lines(self) -> list[_Rows]:
        """The lines of the parameters' ends and of CROWN's."""
        found = []
        for layer in self.problem.layers:
            hull = self.problem.domain.hulls[layer.node]
            for sign in (1.0, -1.0):
                known: list[Array] = []
                for alpha in (*hull.alpha_range, hull.initial()):
                    lines = self._lines(layer, sign, alpha)
                    new = np.isfinite(lines).all(1)
                    for old in known:
                        new &= (lines != old).any(1)
                    known.append(lines)
                    found.append(self._line_rows(layer, sign, lines, np.flatnonzero(new)))
        return found

    def _lines(self, layer: Layer, sign: float, alpha: Tensor) -> Array:
        """The supporting lines of a sign at these parameters: slopes and intercept, [post, copies + 1]."""
        post = self.problem.network.nodes[layer.node].size
        signs = alpha.new_full((1, 1, post), sign)
        hull = self.problem.domain.hulls[layer.node]
        line = hull.line(signs, alpha)
        slopes, intercept = torch.broadcast_to(line.slope, (1, 1, layer.size)), line.intercept
        tiny = (slopes != 0) & (slopes.abs() < _TINY)
        worst = sign * torch.minimum(sign * slopes * hull.lower, sign * slopes * hull.upper)
        intercept = intercept + torch.where(tiny, worst, 0.0).unflatten(-1, (-1, post)).sum(-2)
        slopes = torch.where(tiny, 0.0, slopes)
        table = torch.cat([slopes.reshape(-1, post), torch.broadcast_to(intercept, (1, 1, post))[0]])
        return np.array(table.T.cpu().double().numpy())

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
        lower, upper = self._column_limits()
        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = self.maps.width, len(rows.lower)
        model.col_cost_ = np.append(np.zeros(self.maps.width - 1), 1.0)
        model.col_lower_, model.col_upper_ = lower, upper
        model.row_lower_, model.row_upper_ = rows.lower, rows.upper
        model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        model.a_matrix_.start_ = rows.starts
        model.a_matrix_.index_, model.a_matrix_.value_ = rows.places, rows.values
        return model

    def _column_limits(self) -> tuple[Array, Array]:
        """The box of inputs and pre-activations; outputs and v are free."""
        bounds, inputs = self.problem.bounds, self.problem.network.inputs
        ends = bounds.lower, torch.maximum(bounds.lower, bounds.upper)
        box = [end[0].cpu().double().numpy() for end in ends]
        limits = [np.full(self.maps.width, -np.inf), np.full(self.maps.width, np.inf)]
        for end, values in zip(limits, box, strict=True):
            end[:inputs] = values[:inputs]
            for layer in self.problem.layers:
                first = self.maps.pre_columns[layer.node]
                end[first : first + layer.size] = values[layer.variables]
        return limits[0], limits[1]

    def solve(self, seconds: float) -> list[DualState]:
        """Solves the program; the dual points that this suggests, none where it failed.

        Interior points first and simplex after them, which starts from the last optimum: on networks the quickest by far.
        """
        self.values, deadline = None, Deadline.after(seconds)
        for method in ("simplex",) if self.solved else ("ipm", "simplex"):
            status = self._run(method, deadline)
            if status == highspy.HighsModelStatus.kInfeasible:
                return self._along_the_ray(deadline)
            if status == highspy.HighsModelStatus.kOptimal:
                self.solved = True
                self.values = np.array(self.solver.getSolution().col_value)
                break
        solution = self.solver.getSolution()
        return self._points(np.array(solution.row_dual)) if solution.dual_valid else []

    def _run(self, method: str, deadline: Deadline) -> Any:
        """What one of HiGHS's methods says; its clock runs on over all of them."""
        self.solver.setOptionValue("solver", method)
        self.solver.setOptionValue("time_limit", self.solver.getRunTime() + max(0.0, deadline.remaining))
        self.solver.run()
        return self.solver.getModelStatus()

    def _along_the_ray(self, deadline: Deadline) -> list[DualState]:
        """An empty relaxation has a direction in which q rises without end; simplex alone finds it, without presolve."""
        self.solver.setOptionValue("presolve", "off")
        self._run("simplex", deadline)
        _, known, ray = self.solver.getDualRay()
        if not known:
            return []
        unit = np.array(ray) / max(np.abs(ray).max(), 1e-300)
        return [point for length in _RAY_LENGTHS for point in self._points(length * unit)]

    def _points(self, dual: Array) -> list[DualState]:
        """The state with these dual values of the program's first rows; none where they are not numbers."""
        if not np.isfinite(dual).all():
            return []
        problem, like = self.problem, self.problem.bounds.lower
        own, count, start = problem.term(Rho), problem.constraints.count, 0
        rho = own.init(1)
        for layer in problem.layers:
            rho[..., own.place(layer)] = like.new_tensor(dual[start : start + layer.size])
            start += layer.size
        weights = like.new_tensor(dual[start : start + count])[None, None]
        beta = problem.term(Beta).init(1)
        return [DualState({"constraint_weights": weights, "rho": rho, "beta": beta})]

    def refine(self) -> bool:
        """Adds every neuron's most violated lines at the last optimum; whether there were any."""
        if self.values is None:
            return False
        rows = _Rows.joined([part for layer in self.problem.layers for part in self._violated(layer)])
        count, starts = len(rows.lower), rows.starts[:-1]
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
        wrong = (excess(share) > _TOLERANCE * (1 + y.abs()))[:, 0].cpu().numpy()
        found = []
        for sign, own, chosen in zip((1.0, -1.0), share, wrong, strict=True):
            lines = self._lines(layer, sign, alpha(own[None]))
            chosen = np.flatnonzero(chosen & np.isfinite(lines).all(1))
            found.append(self._line_rows(layer, sign, lines, chosen))
        return found

    def _optimum(self, layer: Layer) -> tuple[Tensor, Tensor]:
        """A layer's pre-activations and outputs at the last optimum, [1, 1, size]."""
        like, post = self.problem.bounds.lower, self.problem.network.nodes[layer.node].size
        assert self.values is not None
        values = like.new_tensor(self.values)[None, None]
        first, second = self.maps.pre_columns[layer.node], self.maps.columns[layer.node]
        return values[..., first : first + layer.size], values[..., second : second + post]


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
    solver.setOptionValue("primal_feasibility_tolerance", _TOLERANCE)
    solver.setOptionValue("dual_feasibility_tolerance", _TOLERANCE)
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
