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

from dataclasses import dataclass, field
from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from verify.bounders.ascent import Ascended, Bounder, Observer
from verify.bounders.relaxations import TOLERANCE, Array, Relaxations
from verify.deadline import Deadline
from verify.errors import ResourceError
from verify.lagrangian.dual import DualProblem
from verify.lagrangian.rho import Rho
from verify.network.activations.mixing import Mixing
from verify.network.graph import Network
from verify.state import DualState


@dataclass(frozen=True)
class Solved(Ascended):
    """With what the programs' optima tell of where to split."""

    best: _Best = field(kw_only=True)

    def gaps(self) -> Float[Tensor, "batch variables"]:
        """How far the optimum of the first objective's program is from the activation's value, of each variable that can be split.

        0 where a split gains nothing, and of subproblems whose optimum is not known.
        """
        return self.best.gaps()

    def influence(self) -> Float[Tensor, " variables"]:
        """How much else in a program hangs on each pre-activation: the mean of its operands' columns, by sizes of entries, and its output's."""
        return self.best.influence()


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
    ) -> Solved:  # fmt: skip
        """The optimum of every objective not above `target` already; what `soft_deadline` leaves no time for stays as it was.

        `iterations` counts the programs solved. Raises OutOfTimeError when the deadline passes, ResourceError.
        """
        self.admit(problem.network)
        deadline, soft_deadline = deadline or Deadline(), soft_deadline or Deadline()
        shared = Relaxations(problem)
        best = _Best(shared, state, observe)
        for row, which in product(range(problem.batch), range(problem.objectives)):
            if soft_deadline.remaining <= 0:
                break
            if not float(best.bound[row, which]) > target:
                self._improve(best, row, which, deadline, soft_deadline)
        return best.ascended()

    def _improve(
        self, best: _Best, row: int, which: int, deadline: Deadline, soft_deadline: Deadline
    ) -> None:
        program = best.shared.program(row, which)
        for _ in range(self.rounds):
            deadline.check()
            points = program.solve(min(deadline.remaining, soft_deadline.remaining))
            deadline.check()
            best.suggest(row, which, points, program.values)
            if soft_deadline.remaining <= 0 or not program.refine():
                break


class _Best:
    """The best dual point of every objective so far: multipliers alone. Suggested ones are evaluated together, at the end, unless they are observed."""

    def __init__(self, shared: Relaxations, state: DualState, observe: Observer | None) -> None:
        self.shared, problem = shared, shared.problem
        start = problem.decoupled(problem.clamp(state))
        self.problem, self.programs = problem, 0
        self.observed = observe is not None
        self.observe = observe or (lambda count, bound: None)
        self.state = start
        bound = problem.evaluate(start).bound
        self.bound = torch.where(bound.isnan(), -torch.inf, bound)
        self.suggested: list[dict[tuple[int, int], Array]] = []
        self.optima: dict[tuple[int, int], Array] = {}
        self.observe(self.programs, self.bound)

    def suggest(self, row: int, which: int, points: list[Array], optimum: Array | None) -> None:
        """Dual values that a program suggests for one objective, and its optimum if it was found."""
        for dual in points:
            # each group has one point of an objective at most
            group = next((some for some in self.suggested if (row, which) not in some), None)
            if group is None:
                self.suggested.append(group := {})
            group[row, which] = dual
        if optimum is not None:
            self.optima[row, which] = optimum
        self.programs += 1
        if self.observed:
            self._evaluate()
            self.observe(self.programs, self.bound)

    def _evaluate(self) -> None:
        for points in self.suggested:
            self._offer(points)
        self.suggested = []

    def _offer(self, points: dict[tuple[int, int], Array]) -> None:
        """A dual point for some objectives each; it is kept if it is better than what there was."""
        rows, which = zip(*points, strict=True)
        index, dual = (
            (list(rows), list(which)),
            torch.from_numpy(np.stack(list(points.values()))).to(self.bound),
        )
        state = self.state.map(torch.clone)
        rho, first = self.problem.term(Rho), 0
        for layer in self.problem.layers:
            place = rho.place(layer)
            state["rho"][..., place][index] = dual[:, first : first + layer.size]
            first += layer.size
        state["constraint_weights"][index], state["beta"][index] = dual[:, first:], 0.0
        state = self.problem.clamp(state)
        bound = self.problem.evaluate(state).bound
        better = torch.zeros_like(bound, dtype=torch.bool)
        better[index] = (bound > self.bound)[index]
        self.bound = torch.where(better, bound, self.bound)
        kept = better[..., None]
        self.state = self.state.map(lambda old, new: torch.where(kept, new, old), state)

    def ascended(self) -> Solved:
        """The points found, evaluated together."""
        self._evaluate()
        state = self.problem.clamp(self.state)
        found = self.problem.evaluate(state)
        minimiser = self.problem.domain.input_minimiser(found.input_cotangent).clone()
        for place, optimum in self.optima.items():
            minimiser[place] = minimiser.new_tensor(optimum[: self.problem.network.inputs])
        box = self.problem.bounds.map(lambda end: end[:, None, : self.problem.network.inputs])
        minimiser = torch.maximum(torch.minimum(minimiser, box.upper), box.lower)
        return Solved(found.bound, state, minimiser, self.programs, best=self)

    def gaps(self) -> Float[Tensor, "batch variables"]:
        """See `Solved`."""
        bounds, maps = self.problem.bounds, self.shared.maps
        found = torch.zeros_like(bounds.lower)
        optima = {row: optimum for (row, which), optimum in self.optima.items() if which == 0}
        if not optima:
            return found
        index = torch.tensor(list(optima), device=found.device)
        values, gaps = found.new_tensor(np.stack(list(optima.values()))), found[index]
        lower, upper = bounds.lower[index], bounds.upper[index]
        for layer in self.problem.layers:
            activation, columns = layer.activation, layer.variables
            z, y = maps.values(self.problem.network, layer, values)
            point = activation.split_point(lower[:, columns], upper[:, columns])
            gap = activation.beside((activation.forward(z) - y).abs(), layer.size)
            gaps[:, columns] = torch.where(point.isnan() | ~(gap > TOLERANCE), 0.0, gap)
        found[index] = gaps
        return found

    def influence(self) -> Float[Tensor, " variables"]:
        """See `Solved`."""
        maps, like = self.shared.maps, self.problem.bounds.lower
        rows, columns = maps.equalities, maps.equalities.places
        sizes = np.abs(rows.values)
        whole = np.bincount(columns, sizes, minlength=maps.width)
        owners = np.repeat(np.arange(len(rows.lower)), rows.lengths.astype(np.int64))
        mean = np.bincount(owners, sizes * whole[columns]) / np.bincount(owners, sizes)
        found, first = torch.zeros_like(like[0]), 0
        for layer in self.problem.layers:
            own = like.new_tensor(mean[first : first + layer.size])
            _, out = maps.values(self.problem.network, layer, like.new_tensor(whole))
            found[layer.variables] = own + layer.activation.beside(out, layer.size)
            first += layer.size
        return found
