"""The tracer that writes: the tree, the bounds that others rest on, and the multipliers that close each leaf.

The multipliers are rounded to the precision they are stored in *before* they are evaluated, so what the search goes on is what
the certificate holds. Bounds that others rest on are rounded outward to float32's grid, for the same reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from threading import Lock

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from verify.bounders.tracing import (
    BoundTracer,
    ConstrainedBounds,
    Observer,
    Provable,
)
from verify.lagrangian.alpha import Alpha
from verify.lagrangian.cuts import Cuts, CutShares, entries
from verify.lagrangian.dual import DualProblem
from verify.network.activations.relu import Relu
from verify.network.graph import Layer, Network
from verify.proof.blocks import (
    LEVELS,
    Array,
    Block,
    CuttingPlanes,
    Lemma,
    LemmaUnderCuts,
    stored,
)
from verify.proof.box_tracer import (
    SLACK,
    BoxTracer,
    claims_of,
    in_half_precision,
    rounded_slopes,
    unstable_of,
)
from verify.proof.leaf_blocks import (
    Clip,
    Covered,
    Empty,
    InputLeaves,
    Leaves8,
    Leaves8Cuts,
    Leaves32,
    Leaves32Cuts,
    LeavesDefault,
    LeavesRho,
    SlopedLeaves,
    UnderCuts,
)
from verify.proof.tracer import InputBoxes, ProofTracer
from verify.proof.writer import CertificateWriter
from verify.state import Bounds, DualState, Subproblems, outward

# What no block holds yet. To lift a restriction, take its line away.
UNPROVED = {
    Provable.OPTIMISED_OUTPUT_CONSTRAINED,
    Provable.FORWARD,
    Provable.LAST_LAYERS,
    Provable.CROWN_ROOTS,
    Provable.SHARED_FACTS,
    Provable.REDUCED_NETWORK,
    Provable.EXCLUDED_CLAUSES,
    Provable.INHERITED_BOUNDS,
    Provable.OTHER_SEARCH,
}
# What blocks hold of networks without activations but ReLU alone, since slopes are stored of no others.
PIECEWISE = {
    Provable.OUTPUT_CONSTRAINED,
    Provable.OPTIMISED_INTERMEDIATE,
    Provable.CUTS,
    Provable.BRANCHED_BOUNDS,
}
# roots of a clause beside the first, for beginning anew
_SPARE = 16
# of an interval: a clipped box that keeps more of all of them is not worth a proof
_CLIP = 0.9


class CertificateTracer(ProofTracer):
    """Writes a certificate, in the order in which things are found. Several threads may tell at once.

    rows: the most rows of a clause.
    """

    writes = True

    def __init__(self, network: Network, rows: int, writer: CertificateWriter) -> None:
        self.network, self.rows = network, rows
        self.piecewise = all(isinstance(layer.activation, Relu) for layer in network.layers)
        self._writer, self._lock = writer, Lock()
        self._roots = self._splits = self._cuts = 0
        self._spare = 0
        # of each clause, the roots that stand for it alone, the one that counts, and the last that was tried
        self._families: dict[int, list[int]] = {}
        self._current: dict[int, int] = {}
        self._tried: dict[int, int] = {}
        # roots that something was said of, those of them that are split or closed, and nodes that nobody goes on with
        self._touched: set[int] = set()
        self._settled: set[int] = set()
        self._abandoned: list[tuple[int, int]] = []
        self._renewals = 0
        writer.at_end(self._cover)

    def proves(self, technique: Provable) -> bool:
        return technique not in UNPROVED and (self.piecewise or technique not in PIECEWISE)

    def write(self, block: Block) -> None:
        parts = block.parts()
        with self._lock:
            self._writer.block(block.code, parts)

    def _settle(self, nodes: Tensor) -> None:
        """Notes roots among some nodes that are split or closed."""
        self._settled.update(node for node in nodes.tolist() if node < self._roots)

    # the tree

    def roots(self, subproblems: Subproblems, clauses: Int[Tensor, "batch group"]) -> Subproblems:
        groups = [list(dict.fromkeys(group)) for group in clauses.tolist()]
        spare = [group for group in groups if len(group) == 1 for _ in range(self._spare)]
        with self._lock:
            first, self._roots = self._roots, self._roots + len(groups) + len(spare)
            # counts first: who reads along looks whether all clauses are there
            self._writer.append("root.count", np.array([len(group) for group in groups + spare]))
            self._writer.append("root.clause", np.array([one for group in groups + spare for one in group]))
            for root, group in enumerate(groups + spare, start=first):
                if len(group) == 1:
                    self._families.setdefault(group[0], []).append(root)
                    self._current.setdefault(group[0], root)
        numbers = torch.arange(first, first + len(groups), device=subproblems.subproblem_id.device)
        return replace(subproblems, subproblem_id=numbers)

    @property
    def renewable(self) -> bool:
        """Whether each clause has roots left: a renewal takes two at most."""
        return 2 * self._renewals < self._spare

    def expect_renewals(self) -> None:
        self._spare = _SPARE

    def anew(self, roots: Subproblems, instead: bool = False) -> Subproblems:
        chosen = []
        with self._lock:
            used = self._touched | self._settled
            for clause in roots.clause.tolist():
                root = next(root for root in self._families[clause] if root not in used)
                self._tried[clause] = root
                if instead:
                    self._current[clause] = root
                chosen.append(root)
        return replace(roots, subproblem_id=torch.tensor(chosen).to(roots.subproblem_id))

    def abandoned(self, subproblems: Subproblems) -> None:
        self._renewals += 1
        for clause, node in zip(subproblems.clause.tolist(), subproblems.subproblem_id.tolist(), strict=True):
            self._abandoned.append((clause, node))
            self._current[clause] = self._tried[clause]

    def _cover(self) -> None:
        """Nodes that were left, and roots that were not needed, are covered by the roots that count."""
        spare = [(clause, root) for clause, family in self._families.items() for root in family]
        # a root that was left may have been begun from again
        left = {
            node: self._current[clause]
            for clause, node in self._abandoned + spare
            if node not in self._settled and node != self._current[clause]
        }
        if left:
            self.write(Covered(np.array(list(left)), np.array(list(left.values()))))

    def split(
        self, subproblems: Subproblems, children: Subproblems, variable: Tensor, value: Tensor
    ) -> Subproblems:
        with self._lock:
            first = self._roots + 2 * self._splits
            self._splits += len(subproblems)
            self._writer.append("split.node", stored(subproblems.subproblem_id, "<i8"))
            self._writer.append("split.variable", stored(variable, "<i4"))
            self._writer.append("split.value", stored(value, "<f8"))
        self._settle(subproblems.subproblem_id)
        upper = first + 2 * torch.arange(len(subproblems), device=children.subproblem_id.device)
        return replace(children, subproblem_id=torch.cat([upper, upper + 1]))

    # bounds

    def boxes(
        self, clauses: Int[Tensor, " clauses"], owner: Int[Tensor, " clauses"], count: int
    ) -> BoundTracer:
        """All roots of a clause are told of, so that they know the same."""
        roots: list[list[int]] = [[] for _ in range(count)]
        for clause, box in zip(clauses.tolist(), owner.tolist(), strict=True):
            roots[box] += self._families[clause]
        return BoxTracer(self, [np.array(own) for own in roots])

    def rounded(self, state: DualState) -> DualState:
        """A dual point in as few bytes as leaves and lemmas have for it."""
        found = rounded_slopes(state) | {
            "constraint_weights": state["constraint_weights"].float().double(),
            "beta": in_half_precision(state["beta"]),
        }
        if CutShares.name in state:
            # downward: no output's may add up to more than 1
            shares = (state[CutShares.name].double() * LEVELS).floor().clamp(0, LEVELS)
            found = found | {CutShares.name: shares / LEVELS}
        return found

    def cuts(self, cuts: Cuts, box: Bounds) -> Cuts:
        """With offsets on float32's grid and some slack, for who rounds in another way."""
        size = (box.upper - box.lower)[0, cuts.neurons] + cuts.offsets.abs()
        offsets = outward(cuts.offsets + SLACK * size, torch.inf).to(cuts.offsets)
        found = [(node, *entries(part)) for node, part in cuts.coefficients.items()]
        starts = {0: 0} | {layer.node: layer.variables.start for layer in self.network.layers}
        rows, columns, values = (
            torch.cat(parts)
            for parts in zip(
                *((row, column + starts[node], value) for node, row, column, value in found), strict=True
            )
        )
        order = rows.argsort(stable=True)
        block = CuttingPlanes(
            box.lower,
            box.upper,
            cuts.neurons,
            cuts.slopes,
            cuts.factors,
            offsets,
            rows.bincount(minlength=len(cuts)),
            columns[order],
            values[order],
        )
        parts = block.parts()
        with self._lock:
            first, self._cuts = self._cuts, self._cuts + len(cuts)
            self._writer.block(block.code, parts)
        return replace(cuts, offsets=offsets, numbers=first + torch.arange(len(cuts)).to(cuts.neurons))

    def lemmas(
        self, subproblems: Subproblems, layer: Layer, problem: DualProblem, state: DualState
    ) -> Observer:
        return partial(self._write_lemmas, subproblems, layer, problem, state)

    def _write_lemmas(
        self,
        subproblems: Subproblems,
        layer: Layer,
        problem: DualProblem,
        state: DualState,
        found: ConstrainedBounds,
    ) -> None:
        rows = found.rows
        kept, claims = claims_of(layer, found.neurons, found.lower, found.upper)
        weights, split = stored(found.weights, "<f4"), stored(subproblems.split_variable[rows] >= 0, "?")
        multipliers, slopes = (stored(part[rows, 0], "<f8") for part in (state["beta"], state["alpha"]))
        unstable = stored(unstable_of(problem.bounds.select(rows), self.network.layers), "?")
        cuts, shares = _shares(problem, state, rows)
        number = self.number(layer)
        for i, node in enumerate(subproblems.subproblem_id[rows].tolist()):
            if kept[i].any():
                parts = (
                    node,
                    number,
                    claims[i],
                    weights[i, kept[i]],
                    multipliers[i, split[i]],
                    slopes[i, unstable[i]],
                )
                self._touched.add(node)
                used = shares[i] > 0
                self.write(
                    LemmaUnderCuts(*parts, cuts[used], shares[i, used]) if used.any() else Lemma(*parts)
                )

    def number(self, layer: Layer) -> int:
        """Which of the network's layers it is."""
        return [other.node for other in self.network.layers].index(layer.node)

    # leaves

    def refuted(
        self, subproblems: Subproblems, problem: DualProblem, state: DualState, sizes: dict[int, Tensor]
    ) -> Bool[Tensor, " batch"]:
        """Which subproblems their states refute, as rounded for storing; those are written, in the least that it takes."""
        refuted = problem.bounds.empty.clone()
        if bool(refuted.any()):
            self.write(Empty(subproblems.subproblem_id[refuted]))
        for rounded, leaves in self._forms():
            left = (~refuted).nonzero()[:, 0]
            if not len(left):
                break
            part = problem.select(left)
            point = rounded(state.select(left))
            point = point | {"alpha": part.term(Alpha).project(point["alpha"])}
            bound = part.evaluate(point, sizes).bound[:, 0]
            closed = (bound > 0) & bound.isfinite()
            if bool(closed.any()):
                chosen = closed.nonzero()[:, 0]
                self.write(
                    leaves(subproblems.select(left[chosen]), part.select(chosen), point.select(chosen))
                )
                refuted[left[chosen]] = True
        self._settle(subproblems.subproblem_id[refuted])
        return refuted

    def _forms(self) -> list[tuple[_Rounding, _Leaves]]:
        """How dual points are rounded to be stored, and what stores them: the least first."""
        if not self.piecewise:
            return [(lambda state: state, _by_rho)]
        return [
            (self.rounded, partial(self._sloped, Leaves8, Leaves8Cuts)),
            (_in_single_precision, partial(self._sloped, Leaves32, Leaves32Cuts)),
        ]

    def _sloped(
        self,
        kind: type[SlopedLeaves],
        under_cuts: type[UnderCuts],
        subproblems: Subproblems,
        problem: DualProblem,
        state: DualState,
    ) -> Block:
        unstable = unstable_of(problem.bounds, self.network.layers)
        multipliers = state["beta"][:, 0][subproblems.split_variable >= 0]
        slopes = state["alpha"][:, 0][unstable]
        head = subproblems.subproblem_id, state["constraint_weights"][:, 0], multipliers
        cuts, shares = _shares(problem, state, slice(None))
        used = (shares > 0).any(0)
        return under_cuts(*head, cuts[used], shares[:, used], slopes) if used.any() else kind(*head, slopes)

    def leaves_by_multipliers(self, subproblems: Subproblems, problem: DualProblem, state: DualState) -> None:
        if len(subproblems):
            self._settle(subproblems.subproblem_id)
            self.write(_by_rho(subproblems, problem, state))

    def leaves_by_default(self, subproblems: Subproblems) -> None:
        if len(subproblems):
            self._settle(subproblems.subproblem_id)
            self.write(
                LeavesDefault(subproblems.subproblem_id, subproblems.state["constraint_weights"][:, 0])
            )

    def input_boxes(self, subproblems: Subproblems, whole: Bounds, found: InputBoxes) -> Bounds:
        """Boxes clipped by little, which the checker would work for, are left whole."""
        narrower = ((found.upper - found.lower) < _CLIP * (whole.upper - whole.lower)).any(1)
        clipped = narrower & ~found.refuted
        if bool(found.refuted.any()):
            some = found.select(found.refuted)
            self.write(
                InputLeaves(
                    subproblems.subproblem_id[found.refuted], some.passes, self._joining(some.weights)
                )
            )
        if bool(clipped.any()):
            some = found.select(clipped)
            weights = self._joining(some.weights)
            self.write(Clip(subproblems.subproblem_id[clipped], some.passes, weights, some.lower, some.upper))
        kept = clipped[:, None]
        return Bounds(
            torch.where(kept, found.lower, whole.lower), torch.where(kept, found.upper, whole.upper)
        )

    def _joining(self, weights: Tensor) -> Tensor:
        """Weights of joined rows; none where a clause is one row."""
        return weights if self.rows > 1 else weights[:0]


_Rounding = Callable[[DualState], DualState]
_Leaves = Callable[[Subproblems, DualProblem, DualState], Block]


def _shares(problem: DualProblem, state: DualState, rows: Tensor | slice) -> tuple[Array, Array]:
    """The numbers of the cuts that a problem has, and some subproblems' shares of them."""
    if CutShares.name not in state:
        return np.zeros(0, dtype=np.int64), np.zeros((len(state.select(rows)["alpha"]), 0))
    numbers = stored(problem.term(CutShares).cuts.numbers, "<i8")
    return numbers, stored(state[CutShares.name][rows, 0], "<f8")


def _by_rho(subproblems: Subproblems, problem: DualProblem, state: DualState) -> Block:
    return LeavesRho(
        subproblems.subproblem_id, state["constraint_weights"][:, 0], problem.decoupled(state)["rho"][:, 0]
    )


def _in_single_precision(state: DualState) -> DualState:
    return state.map(lambda part: part.float().double())
