"""What a search tells a certificate: the tree, the claims it bounds by, and the multipliers that close each leaf.

The multipliers are rounded to the precision they are stored in *before* they are evaluated, so what the search goes on is what
the certificate holds. Bounds that others rest on are rounded outward to float32's grid, for the same reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from threading import Lock
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor

from verify.bounders.dual import DualProblem
from verify.network.activations.relu import Relu
from verify.network.graph import Layer, Network
from verify.state import Bounds, DualState, Subproblems, outward

_LEVELS = 255  # of a slope in a byte


class Writer(Protocol):
    """Where it goes."""

    def append(self, name: str, values: NDArray[Any]) -> None:
        """More entries of a tensor."""

    def block(self, kind: str, *parts: NDArray[Any]) -> None:
        """One block of numbers."""


class Evidence:
    """Tells a writer, in the order in which things are found. Several threads may tell at once."""

    def __init__(self, network: Network, rows: int, writer: Writer) -> None:
        self.network, self.rows = network, rows
        self.piecewise = all(isinstance(layer.activation, Relu) for layer in network.layers)
        self._writer, self._lock = writer, Lock()
        self._roots = self._splits = 0

    # the tree

    def roots(self, clauses: Sequence[Sequence[int]]) -> Int[Tensor, " batch"]:
        """New roots, each standing for some clauses; their numbers."""
        with self._lock:
            first, self._roots = self._roots, self._roots + len(clauses)
            self._writer.append("root.clause", np.array([one for group in clauses for one in group]))
            self._writer.append("root.count", np.array([len(group) for group in clauses]))
        return torch.arange(first, self._roots)

    def split(self, subproblems: Subproblems, variable: Tensor, value: Tensor) -> Int[Tensor, " children"]:
        """Subproblems that are split: the numbers of their children, all upper sides first."""
        with self._lock:
            first = self._roots + 2 * self._splits
            self._splits += len(subproblems)
            self._writer.append("split.node", _numpy(subproblems.subproblem_id))
            self._writer.append("split.variable", _numpy(variable))
            self._writer.append("split.value", _numpy(value.double()))
        upper = first + 2 * torch.arange(len(subproblems))
        return torch.cat([upper, upper + 1])

    # claims

    def box(self, roots: Int[Tensor, " roots"], lower: Tensor, upper: Tensor) -> None:
        """What is known of the box of some roots: (settled) bounds of all variables."""
        inputs = self.network.inputs
        self._block("box", _counted(_numpy(roots)), _numpy(lower[inputs:]), _numpy(upper[inputs:]))

    def slopes(
        self, roots: Int[Tensor, " roots"], layer: Layer, problem: DualProblem, state: DualState, neurons: Tensor,
        low: Tensor, high: Tensor,
    ) -> None:  # fmt: skip
        """Bounds of some neurons ([count]) on one box, each by slopes of its own: `state` has both ends as objectives."""
        kept, (claims,) = _claims(layer, neurons[None], low[None], high[None], "<f8")
        mask = _unstable(problem.bounds, problem.layers)[0]
        slopes = _levels(_of_layers(state.alpha[0], problem.layers)[:, mask])
        self._block(
            "slopes", _counted(_numpy(roots)), _integer(self._number(layer)), *claims,
            _numpy(slopes)[kept[0]].astype("u1"),
        )  # fmt: skip

    def lemmas(
        self, subproblems: Subproblems, layer: Layer, bounds: Bounds, state: DualState, rows: Tensor, neurons: Tensor,
        weights: Tensor, low: Tensor, high: Tensor,
    ) -> None:  # fmt: skip
        """Bounds of some neurons ([rows, count]) over the unsafe points of some subproblems, from their (rounded) states."""
        kept, claims = _claims(layer, neurons, low, high, "<f4")
        factors, split = _numpy(weights).astype("<f4"), _numpy(subproblems.split_variable[rows] >= 0)
        multipliers = _numpy(state.beta[rows, 0]).astype("<f2")
        unstable = _numpy(_unstable(bounds.select(rows), self.network.layers))
        slopes = _numpy(_levels(state.alpha[rows, 0])).astype("u1")
        number = _integer(self._number(layer))
        for i, node in enumerate(subproblems.subproblem_id[rows].tolist()):
            if kept[i].any():
                self._block(
                    "lemma", _integer(node), number, *claims[i], factors[i, kept[i]], multipliers[i, split[i]],
                    slopes[i, unstable[i]],
                )  # fmt: skip

    def clip(
        self, subproblems: Subproblems, passes: Tensor, weights: Tensor, lower: Tensor, upper: Tensor
    ) -> None:
        """Input boxes that hold all unsafe points of the subproblems."""
        if len(subproblems):
            self._block(
                "clip", _counted(_numpy(subproblems.subproblem_id)), _numpy(passes).astype("u1"), self._joining(weights),
                _numpy(lower.double()), _numpy(upper.double()),
            )  # fmt: skip

    # leaves

    def prove(
        self, subproblems: Subproblems, problem: DualProblem, state: DualState, sizes: dict[int, Tensor]
    ) -> Bool[Tensor, " batch"]:
        """Which subproblems their states refute, as rounded for storing; those are written, in the least that it takes."""
        empty = problem.bounds.empty
        self._leaves("empty", subproblems.select(empty))
        proved = empty.clone()
        if not self.piecewise:
            self._prove_part(proved, subproblems, problem, state, sizes, self._write_rho, lambda point: point)
            return proved
        for write, rounded in (
            (self._write_small, self.rounded),
            (self._write_large, self._rounded_large),
        ):
            self._prove_part(proved, subproblems, problem, state, sizes, write, rounded)
        return proved

    def _prove_part(
        self, proved: Tensor, subproblems: Subproblems, problem: DualProblem, state: DualState, sizes: dict[int, Tensor],
        write: Any, rounded: Any,
    ) -> None:  # fmt: skip
        """Tries the subproblems that are not yet proved."""
        left = (~proved).nonzero()[:, 0]
        if not len(left):
            return
        part = problem.select(left)
        point = rounded(state.select(left))
        point = replace(point, alpha=point.alpha.clamp(*part.alpha_range))
        bound = part.evaluate(point, sizes).bound[:, 0]
        closed = (bound > 0) & bound.isfinite()
        if bool(closed.any()):
            write(subproblems.select(left[closed]), part.select(closed.nonzero()[:, 0]), point.select(closed))
            proved[left[closed]] = True

    @staticmethod
    def rounded(state: DualState) -> DualState:
        """A dual point in as few bytes as leaves and lemmas have for it."""
        return replace(
            rounded_slopes(state), constraint_weights=state.constraint_weights.float().double(),
            beta=state.beta.clamp(-6e4, 6e4).half().double(),
        )  # fmt: skip

    @staticmethod
    def _rounded_large(state: DualState) -> DualState:
        return DualState(*(part.float().double() for part in vars(state).values()))

    def _write_small(self, subproblems: Subproblems, problem: DualProblem, state: DualState) -> None:
        slopes = _levels(state.alpha[:, 0])[_unstable(problem.bounds, self.network.layers)]
        self._sloped("leaves8", subproblems, state, "<f2", _numpy(slopes).astype("u1"))

    def _write_large(self, subproblems: Subproblems, problem: DualProblem, state: DualState) -> None:
        slopes = state.alpha[:, 0][_unstable(problem.bounds, self.network.layers)]
        self._sloped("leaves32", subproblems, state, "<f4", _numpy(slopes).astype("<f4"))

    def _sloped(
        self, kind: str, subproblems: Subproblems, state: DualState, number: str, slopes: NDArray[Any]
    ) -> None:
        multipliers = state.beta[:, 0][subproblems.split_variable >= 0]
        self._leaves(
            kind, subproblems, _numpy(state.constraint_weights[:, 0]).astype("<f4"), _numpy(multipliers).astype(number),
            slopes,
        )  # fmt: skip

    def _write_rho(self, subproblems: Subproblems, problem: DualProblem, state: DualState) -> None:
        rho = problem.decoupled(state).rho[:, 0]
        weights = state.constraint_weights[:, 0]
        self._leaves("leaves_rho", subproblems, _numpy(weights), _numpy(rho))

    def leaves_by_multipliers(self, subproblems: Subproblems, problem: DualProblem, state: DualState) -> None:
        """Leaves by any dual point, its multipliers stored in full."""
        if len(subproblems):
            self._write_rho(subproblems, problem, state)

    def leaves_by_default(self, subproblems: Subproblems) -> None:
        """Leaves that CROWN on interval bounds refutes, with the weights the subproblems have."""
        self._leaves("leaves_default", subproblems, _numpy(subproblems.constraint_weights).astype("<f4"))

    def input_leaves(self, subproblems: Subproblems, passes: Tensor, weights: Tensor) -> None:
        """Leaves by bounds made afresh on their boxes."""
        self._leaves("input_leaves", subproblems, _numpy(passes).astype("u1"), self._joining(weights))

    def _leaves(self, kind: str, subproblems: Subproblems, *parts: NDArray[Any]) -> None:
        if len(subproblems):
            self._block(kind, _counted(_numpy(subproblems.subproblem_id)), *parts)

    def _joining(self, weights: Tensor) -> NDArray[Any]:
        """Weights of joined rows; none where a clause is one row."""
        return _numpy(weights).astype("<f4") if self.rows > 1 else np.zeros(0)

    def _number(self, layer: Layer) -> int:
        return [other.node for other in self.network.layers].index(layer.node)

    def _block(self, kind: str, *parts: NDArray[Any]) -> None:
        with self._lock:
            self._writer.block(kind, *parts)


class BoxRecord:
    """Tells what is found of boxes, each that of some roots."""

    def __init__(self, evidence: Evidence, roots: Sequence[Int[Tensor, " roots"]]) -> None:
        self._evidence, self._roots = evidence, roots

    def settled(self, bounds: Bounds) -> Bounds:
        """Pre-activations' bounds on float32's grid, rounded outward, with some slack for who rounds in another way."""
        inputs = slice(0, self._evidence.network.inputs)
        slack = 1e-9 * (bounds.upper - bounds.lower)
        lower, upper = _on_grid(bounds.lower, -slack, -torch.inf), _on_grid(bounds.upper, slack, torch.inf)
        lower[:, inputs], upper[:, inputs] = bounds.lower[:, inputs], bounds.upper[:, inputs]
        return Bounds(lower, upper)

    def rounded(self, state: DualState) -> DualState:
        """Slopes as bytes hold them."""
        return rounded_slopes(state)

    def known(self, bounds: Bounds) -> None:
        """These bounds follow from what was known before, by intervals and CROWN."""
        for roots, lower, upper in zip(self._roots, bounds.lower, bounds.upper, strict=True):
            self._evidence.box(roots, lower, upper)

    def ascended(
        self,
        box: int,
        layer: Layer,
        problem: DualProblem,
        state: DualState,
        neurons: Tensor,
        low: Tensor,
        high: Tensor,
    ) -> None:
        """Bounds of some neurons of one box, each by slopes of its own."""
        self._evidence.slopes(self._roots[box], layer, problem, state, neurons, low, high)


def _on_grid(end: Tensor, slack: Tensor, towards: float) -> Tensor:
    """Numbers that float32 holds as they are, others further out."""
    held = end.float().to(end) == end
    return torch.where(held, end, outward(end + slack.nan_to_num(nan=0.0), towards).to(end))


def rounded_slopes(state: DualState) -> DualState:
    """Slopes as bytes hold them."""
    return replace(state, alpha=_levels(state.alpha) / _LEVELS)


def _numpy(values: Tensor) -> NDArray[Any]:
    return np.asarray(values.detach().cpu().numpy())


def _integer(value: int) -> NDArray[Any]:
    return np.array([value], dtype="<i8")


def _counted(values: NDArray[Any], kind: str = "<i8") -> NDArray[Any]:
    """Numbers with their count before them, as bytes."""
    data = _integer(len(values)).tobytes() + values.astype(kind).tobytes()
    return np.frombuffer(data, np.uint8)


def _claims(
    layer: Layer, neurons: Int[Tensor, "rows count"], low: Tensor, high: Tensor, kind: str
) -> tuple[NDArray[Any], list[list[NDArray[Any]]]]:
    """Which of the neurons' ends (lower ones first) are finite, [rows, 2 count], and of each row these as a block has them."""
    variables = _numpy(neurons.repeat(1, 2) + layer.variables.start)
    sides = np.repeat(np.array([1, -1], dtype="i1"), neurons.shape[1])
    ends = _numpy(torch.cat([outward(low, -torch.inf), outward(high, torch.inf)], 1)).astype(kind)
    kept = np.isfinite(ends)
    return kept, [
        [_counted(variables[i, own], "<i4"), sides[own], ends[i, own]] for i, own in enumerate(kept)
    ]


def _levels(slopes: Tensor) -> Tensor:
    """Slopes within [0, 1] as whole numbers from 0 to 255."""
    return (slopes.double() * _LEVELS).round().clamp(0, _LEVELS)


def _of_layers(alpha: Tensor, layers: Sequence[Layer]) -> Tensor:
    return torch.cat([alpha[..., :0], *(alpha[..., layer.alpha] for layer in layers)], -1)


def _unstable(bounds: Bounds, layers: Sequence[Layer]) -> Bool[Tensor, "batch size"]:
    """The neurons of the layers that have a slope to store."""
    columns = [layer.variables for layer in layers]
    if not columns:
        return torch.zeros(len(bounds), 0, dtype=torch.bool, device=bounds.lower.device)
    return torch.cat([(bounds.lower[:, c] < 0) & (bounds.upper[:, c] > 0) for c in columns], 1)
