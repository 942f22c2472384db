"""Bounds of every clause over its whole box, without branching, by any of the methods."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch

import verify.bounders.decoupled
import verify.bounders.proximal  # noqa: F401  # which register themselves
from verify.bounders.ascent import Bounder
from verify.bounders.ibp import interval, interval_bound, magnitudes
from verify.bounders.restricted import Restricted
from verify.deadline import Deadline
from verify.errors import memory_kept
from verify.extensions import made
from verify.lagrangian.dual import DualProblem
from verify.network.graph import Layer, Network
from verify.neutral import neutral
from verify.problem import Problem
from verify.request import INTERMEDIATE, known_method
from verify.settings import placed, preset
from verify.state import Bounds
from verify.validation import choice, integer, refuse, seconds, shown

_CLAUSES_AT_ONCE = 64


@dataclass(frozen=True)
class Step:
    """Where bounding is after an iteration: the best bounds so far of up to 64 clauses, `first_clause` and those behind it.

    `seconds` of bounding, intermediate bounds left out. The bounds are not yet rounded outward.
    """

    first_clause: int
    iteration: int
    seconds: float
    bounds: tuple[float, ...]


@dataclass(frozen=True)
class ClauseBounds:
    """Lower bounds of every clause's margin over its whole box: above 0 the clause is refuted. `vacuous`: there are none.

    `iterations`: the most made for any clauses (of lp: linear programs solved). `seconds` leaves intermediate bounds out.
    """

    method: str
    iterations: int
    bounds: tuple[float, ...]
    seconds: float
    intermediate_seconds: float
    layers: tuple[dict[str, Any], ...]
    vacuous: bool = False
    notes: tuple[str, ...] = ()


@neutral()
def bound(
    problem: Problem,
    method: str | Bounder = "restricted",
    iterations: int | None = None,
    time_limit: float | None = None,
    intermediate: str = "crown",
    device: str | torch.device = "auto",
    observe: Callable[[Step], None] | None = None,
) -> ClauseBounds:
    """Bounds every clause of a prepared problem; see `verify.api.bounds`."""
    if not isinstance(method, Bounder):
        known_method(method)
    choice("intermediate", intermediate, INTERMEDIATE)
    iterations = None if iterations is None else integer("iterations", iterations, least=0)
    time_limit = seconds("time_limit", time_limit)
    if observe is not None and not callable(observe):
        refuse("observe", f"is {shown(observe)}", "give a function of one argument, a Step")
    with memory_kept("clauses were bounded"):
        network = placed(problem.model.network, device)
        if problem.ball is not None:
            network = replace(network, ball=problem.ball.to(network.device, torch.float64))
        ascent = _ascent(method, iterations, network)
        name = type(method).__name__ if isinstance(method, Bounder) else method
        bounding = _Bounding(problem, network, name, ascent, time_limit, observe)
        for start in range(0, problem.clauses, _CLAUSES_AT_ONCE):
            stop = min(start + _CLAUSES_AT_ONCE, problem.clauses)
            bounding.add(range(start, stop), intermediate == "optimised")
        return bounding.found()


def _ascent(method: str | Bounder, iterations: int | None, network: Network) -> Bounder | None:
    """The method's bounder; None where there is nothing to climb. Longer climbs take as long to cool down.

    Raises ResourceError where the network is too large, before anything is spent on it.
    """
    if isinstance(method, Bounder):
        return method
    if method == "lp":
        from verify.bounders.linear_program import LinearProgram  # with HiGHS, which others do not need

        program = LinearProgram()
        program.admit(network)
        return program
    if method in ("interval", "crown"):
        return None
    optimiser: Bounder = made("bounder", method)
    if iterations is None or not hasattr(optimiser, "iterations"):
        return optimiser
    if isinstance(optimiser, Restricted) and iterations > optimiser.iterations:
        return replace(
            optimiser, iterations=iterations, decay=optimiser.decay ** (optimiser.iterations / iterations)
        )
    return cast(Bounder, replace(cast(Any, optimiser), iterations=iterations))


@dataclass
class _Bounding:
    """The bounds of all clauses, chunk by chunk, and the time they take."""

    problem: Problem
    network: Network
    method: str
    ascent: Bounder | None
    time_limit: float | None
    observe: Callable[[Step], None] | None
    bounds: list[float] = field(default_factory=list)
    layers: tuple[dict[str, Any], ...] = ()
    iterations: int = 0
    seconds: float = 0.0
    intermediate_seconds: float = 0.0

    def add(self, clauses: range, optimised: bool) -> None:
        """Bounds some more clauses."""
        begun = time.monotonic()
        lower, upper = (end.to(self.network.device) for end in self.problem.boxes(clauses))
        plain, outputs = interval(self.network, lower, upper)
        box = plain if self.method == "interval" else self._tightened(plain, optimised)
        middle = time.monotonic()
        objective = self.problem.objective(clauses).to(self.network.device, torch.float64)
        if self.method == "interval":
            bound = interval_bound(self.network, objective, (lower, upper), outputs)
            self._tell(clauses.start, middle, 0, bound)
        else:
            bound = self._bound(clauses, DualProblem(self.network, box, objective), middle)
        self.bounds += bound.tolist()
        self.layers = self.layers or tuple(_layer_report(self.problem, plain, box))
        self.intermediate_seconds += middle - begun
        self.seconds += time.monotonic() - middle

    def _tightened(self, box: Bounds, optimised: bool) -> Bounds:
        """Intermediate bounds; optimised ones are another pass over what CROWN leaves open, as in a search."""
        settings = preset("default")
        box = settings.intermediate.tighten(self.network, box, Deadline())
        if optimised:
            working = self.network.to(self.network.device, torch.float32)
            box = settings.optimised.tighten(self.network, box, Deadline(), working)
        return box

    def _bound(self, clauses: range, dual: DualProblem, begun: float) -> torch.Tensor:
        """Bounds by the dual function, [clauses]: what the ascent reaches is evaluated with its rounding errors."""
        state = dual.initial()
        if self.ascent is None:
            self._tell(clauses.start, begun, 0, dual.evaluate(state).bound)
        else:
            ascended = self.ascent.ascend(
                dual,
                state,
                soft_deadline=self._share(clauses),
                observe=lambda count, bound: self._tell(clauses.start, begun, count, bound),
            )
            state, self.iterations = dual.clamp(ascended.state), max(self.iterations, ascended.iterations)
        return dual.evaluate(state, magnitudes(self.network, dual.bounds)).bound[:, 0]

    def _share(self, clauses: range) -> Deadline:
        """The clauses' part of the time that is left."""
        if self.time_limit is None:
            return Deadline()
        return Deadline.after(
            (self.time_limit - self.seconds) * len(clauses) / (self.problem.clauses - clauses.start)
        )

    def _tell(self, first: int, begun: float, iteration: int, bound: torch.Tensor) -> None:
        if self.observe is not None:
            seconds = self.seconds + time.monotonic() - begun
            self.observe(Step(first, iteration, seconds, tuple(bound.flatten().tolist())))

    def found(self) -> ClauseBounds:
        """Everything together."""
        bounds, times = tuple(self.bounds), (self.seconds, self.intermediate_seconds)
        return ClauseBounds(
            self.method,
            self.iterations,
            bounds,
            *times,
            self.layers,
            bool(self.problem.vacuous),
            self.problem.notes,
        )


def _layer_report(problem: Problem, before: Bounds, after: Bounds) -> list[dict[str, Any]]:
    """The first clause's intermediate bounds, layer by layer, before (interval arithmetic) and after tightening."""
    rows = []
    for layer in problem.model.network.layers:
        lower, upper = after.lower[0, layer.variables], after.upper[0, layer.variables]
        rows.append(
            {
                "name": problem.model.network.nodes[layer.node].name,
                "operator": layer.activation.name,
                "neurons": layer.size,
                "unstable_interval": _unstable(layer, before),
                "unstable": _unstable(layer, after),
                "lower": lower.tolist(),
                "upper": upper.tolist(),
            }
        )
    return rows


def _unstable(layer: Layer, box: Bounds) -> int:
    """How many neurons of a layer are not linear on the first box, so that a split could help."""
    lower, upper = box.lower[0, layer.variables], box.upper[0, layer.variables]
    return int((~layer.activation.split_point(lower, upper).isnan()).sum())
