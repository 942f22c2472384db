"""What is written of the boxes of roots: bounds that others rest on, by intervals, CROWN, slopes or trees of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from verify.bounders.tracing import BoundTracer, BranchedBounds, OptimisedBounds
from verify.lagrangian.dual import DualProblem
from verify.lagrangian.rho import Rho
from verify.network.graph import Layer, Network
from verify.proof.blocks import LEVELS, Array, Block, Box, Claims, OwnMultipliers, Slopes, Trees, stored
from verify.state import Bounds, DualState, Splits, outward

# of an interval, for who rounds in another way
SLACK = 1e-9
# of a multiplier in half precision
_MOST = 6e4


class Writes(Protocol):
    """Who writes the blocks of a network's proof."""

    @property
    def network(self) -> Network:
        """The whole of it."""

    @property
    def piecewise(self) -> bool:
        """Whether all its activations are ReLUs."""

    def number(self, layer: Layer) -> int:
        """Which of the network's layers it is."""

    def write(self, block: Block) -> None:
        """A block of the proof."""


class BoxTracer(BoundTracer):
    """Writes what is found of boxes, each that of some roots."""

    whole_network = True

    def __init__(self, tracer: Writes, roots: Sequence[Array]) -> None:
        self._tracer, self._roots = tracer, roots

    def settled(self, bounds: Bounds) -> Bounds:
        """Pre-activations' bounds on float32's grid, rounded outward, with some slack for who rounds in another way."""
        inputs = slice(0, self._tracer.network.inputs)
        slack = self.slack(bounds.lower, bounds.upper)
        lower, upper = _on_grid(bounds.lower, -slack, -torch.inf), _on_grid(bounds.upper, slack, torch.inf)
        lower[:, inputs], upper[:, inputs] = bounds.lower[:, inputs], bounds.upper[:, inputs]
        return Bounds(lower, upper)

    def rounded(self, problem: DualProblem, state: DualState) -> DualState:
        if self._tracer.piecewise:
            return rounded_slopes(state) | {"beta": in_half_precision(state["beta"])}
        return problem.decoupled(state).map(lambda part: part.float().double())

    def slack(self, lower: Tensor, upper: Tensor) -> Tensor:
        return SLACK * (upper - lower)

    def known(self, bounds: Bounds) -> None:
        inputs = self._tracer.network.inputs
        for roots, lower, upper in zip(self._roots, bounds.lower, bounds.upper, strict=True):
            self._tracer.write(Box(roots, lower[inputs:], upper[inputs:]))

    def optimised(self, found: OptimisedBounds) -> None:
        layers, number = found.problem.layers, self._tracer.number(found.layer)
        unstable = unstable_of(found.problem.bounds, layers)
        for i, box in enumerate(found.boxes.tolist()):
            used = found.used[i]
            ends = (part[i, used][None] for part in (found.neurons, found.lower, found.upper))
            kept, (claims,) = claims_of(found.layer, *ends)
            head, point = (
                (self._roots[box], number, claims),
                found.state.map(lambda part, i=i, used=used: part[i, torch.cat([used, used])]),
            )
            if self._tracer.piecewise or not layers:
                slopes = _of_layers(point["alpha"], layers)[:, unstable[i]]
                self._tracer.write(Slopes(*head, stored(slopes, "<f8")[kept[0]]))
            else:
                place = found.problem.term(Rho).place
                rho = [stored(point[Rho.name][:, place(layer)], "<f4")[kept[0]] for layer in layers]
                self._tracer.write(OwnMultipliers(*head, rho))

    def branched(self, found: BranchedBounds) -> None:
        for box in found.boxes.unique().tolist():
            ends = (found.boxes == box).nonzero()[:, 0]
            place = torch.full_like(found.boxes, -1).index_put((ends,), torch.arange(len(ends)).to(ends))
            rows = (place[found.owner] >= 0).nonzero()[:, 0]
            self._write_trees(self._roots[box], found, ends, place[found.owner[rows]], rows)

    def _write_trees(
        self, roots: Array, found: BranchedBounds, ends: Tensor, owner: Tensor, rows: Tensor
    ) -> None:
        """Those of one box: some ends, and the subproblems of theirs."""
        problem, splits = found.problem, found.problem.splits.select(rows)
        leaves, made = _forest(owner.tolist(), splits.renamed(found.variables), len(ends))
        nodes, variables, values = zip(*made, strict=True) if made else ((), (), ())
        order = torch.tensor(leaves).argsort().to(rows)
        multipliers = found.state["beta"][rows, 0][order][(splits.variable >= 0)[order]]
        unstable = unstable_of(problem.bounds.select(rows), problem.layers)[order]
        slopes = _of_layers(found.state["alpha"][rows, 0], problem.layers)[order][unstable]
        side = found.sides[ends]
        values_of = torch.where(
            side > 0, outward(found.bounds[ends], -torch.inf), outward(-found.bounds[ends], torch.inf)
        )
        claims = Claims(
            stored(found.variables[found.neurons[ends] + found.layer.variables.start], "<i4"),
            stored(side, "i1"),
            stored(values_of, "<f4"),
        )
        self._tracer.write(
            Trees(
                roots,
                self._tracer.number(found.layer),
                claims,
                np.array(nodes, dtype="<i8"),
                np.array(variables, dtype="<i4"),
                np.array(values, dtype="<f8"),
                multipliers,
                slopes,
            )
        )


def _forest(owner: list[int], splits: Splits, claims: int) -> tuple[list[int], list[tuple[int, int, float]]]:
    """Trees of so many claims from their leaves' splits: each leaf's node, and each split's node, variable and value."""
    split_of: dict[int, int] = {}
    found: list[tuple[int, int, float]] = []
    leaves = []
    paths = zip(splits.variable.tolist(), splits.value.tolist(), splits.side.tolist(), strict=True)
    for node, path in zip(owner, paths, strict=True):
        for variable, value, side in zip(*path, strict=True):
            if variable < 0:
                continue
            if node not in split_of:
                split_of[node] = len(found)
                found.append((node, variable, value))
            node = claims + 2 * split_of[node] + (0 if side > 0 else 1)
        leaves.append(node)
    return leaves, found


def rounded_slopes(state: DualState) -> DualState:
    """Slopes as bytes hold them."""
    levels = (state["alpha"].double() * LEVELS).round().clamp(0, LEVELS)
    return state | {"alpha": levels / LEVELS}


def in_half_precision(multipliers: Tensor) -> Tensor:
    return multipliers.clamp(-_MOST, _MOST).half().double()


def _on_grid(end: Tensor, slack: Tensor, towards: float) -> Tensor:
    """Numbers that float32 holds as they are, others further out."""
    held = end.float().to(end) == end
    return torch.where(held, end, outward(end + slack.nan_to_num(nan=0.0), towards).to(end))


def claims_of(
    layer: Layer, neurons: Int[Tensor, "rows count"], low: Tensor, high: Tensor
) -> tuple[Array, list[Claims]]:
    """Which of the neurons' ends (lower ones first) are finite, [rows, 2 count], and each row's as claims."""
    variables = stored(neurons.repeat(1, 2) + layer.variables.start, "<i4")
    sides = np.repeat(np.array([1, -1], dtype="i1"), neurons.shape[1])
    ends = stored(torch.cat([outward(low, -torch.inf), outward(high, torch.inf)], 1), "<f4")
    kept = np.isfinite(ends)
    return kept, [Claims(variables[i, own], sides[own], ends[i, own]) for i, own in enumerate(kept)]


def _of_layers(alpha: Tensor, layers: Sequence[Layer]) -> Tensor:
    return torch.cat([alpha[..., :0], *(alpha[..., layer.alpha] for layer in layers)], -1)


def unstable_of(bounds: Bounds, layers: Sequence[Layer]) -> Bool[Tensor, "batch size"]:
    """The neurons of the layers that have a slope to store."""
    columns = [layer.variables for layer in layers]
    if not columns:
        return torch.zeros(len(bounds), 0, dtype=torch.bool, device=bounds.lower.device)
    return torch.cat([(bounds.lower[:, c] < 0) & (bounds.upper[:, c] > 0) for c in columns], 1)
