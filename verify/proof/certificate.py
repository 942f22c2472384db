"""The tracer that writes: the tree, the bounds that others rest on, and the multipliers that close each leaf.

The multipliers are rounded to the precision they are stored in *before* they are evaluated, so what the search goes on is what
the certificate holds. Bounds that others rest on are rounded outward to float32's grid, for the same reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from threading import Lock, local
from typing import Any, TypeVar

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
from verify.errors import InternalError
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
from verify.proof.families import Families
from verify.proof.input_boxes import InputBoxes, Turn, written
from verify.proof.leaf_blocks import (
    Empty,
    Leaves8,
    Leaves8Cuts,
    Leaves32,
    Leaves32Cuts,
    LeavesDefault,
    LeavesRho,
    SlopedLeaves,
    UnderCuts,
)
from verify.proof.segment import AS_THEY_ARE, Draft, Numbers, Segment, in_columns
from verify.proof.tracer import ProofTracer
from verify.proof.writer import CertificateWriter
from verify.state import Bounds, DualState, Subproblems, outward

T = TypeVar("T")

# What no block holds yet. To lift a restriction, take its line away.
UNPROVED = {
    Provable.OPTIMISED_OUTPUT_CONSTRAINED,
    Provable.LAST_LAYERS,
    Provable.CROWN_ROOTS,
    Provable.SHARED_FACTS,
    Provable.REDUCED_NETWORK,
    Provable.EXCLUDED_CLAUSES,
}
# What blocks hold of networks without activations but ReLU alone, since slopes are stored of no others.
PIECEWISE = {
    Provable.OUTPUT_CONSTRAINED,
    Provable.CUTS,
    Provable.BRANCHED_BOUNDS,
}

# of one bound: there may be as many bounds
_MOST_MULTIPLIERS = 8192


class CertificateTracer(ProofTracer):
    """Writes a certificate: at once what is told by the search's owner, what workers tell once their work is whole (`apart`).

    Several threads may tell at once, and so may other processes: there it has no file, and only what is told apart comes back.

    rows: the most rows of a clause.
    """

    writes = True

    def __init__(self, network: Network, rows: int, writer: CertificateWriter) -> None:
        self.network, self.rows = network, rows
        self.piecewise = all(isinstance(layer.activation, Relu) for layer in network.layers)
        self._writer, self._lock, self._local = writer, Lock(), local()
        self._splits = self._cuts = 0
        self._families = Families()
        self._left_out = writer.agreement.settled()
        writer.at_end(self._cover)

    def __getstate__(self) -> dict[str, Any]:
        return {"network": self.network, "rows": self.rows, "piecewise": self.piecewise}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _local=local())

    def proves(self, technique: Provable) -> bool:
        if technique is Provable.OPTIMISED_INTERMEDIATE and not self.piecewise:
            return self.network.variables - self.network.inputs <= _MOST_MULTIPLIERS
        return technique not in UNPROVED and (self.piecewise or technique not in PIECEWISE)

    def write(self, block: Block) -> None:
        if (draft := self._draft) is not None:
            draft.block(block)
            return
        parts = block.parts()
        with self._lock:
            self._writer.block(block.code, parts)

    @property
    def _draft(self) -> Draft | None:
        """What this thread tells apart, if it does."""
        return getattr(self._local, "draft", None)

    @property
    def cuts_told(self) -> int:
        return self._cuts

    def apart(self, work: Callable[[], T], cuts: int) -> tuple[T, Segment]:
        self._local.draft = Draft(cuts)
        try:
            found = work()
            return found, self._local.draft.done()
        finally:
            self._local.draft = None

    def whole(self, work: Callable[[], T]) -> T:
        before = None if self._draft is None else self._draft.copy()
        try:
            return work()
        except BaseException:
            self._local.draft = before
            raise

    def joined(self, segment: Segment | None) -> Numbers:
        if segment is None:
            return AS_THEY_ARE
        before, after = segment.cuts
        with self._lock:
            if before != after and before != self._cuts:
                raise InternalError(f"a worker numbers cuts from {before}, and there are {self._cuts}")
            self._cuts += after - before
            numbers = Numbers(self._families.count + 2 * self._splits)
            self._splits += len(segment.nodes)
            self._families.settled(segment.settled)
            self._families.told(segment.told)
            nodes, stream = segment.numbered(numbers.first)
            self._writer.splits(nodes, segment.variables, segment.values)
            self._writer.blocks(segment.kinds, segment.ends, stream)
        return numbers

    def give_way(self, other: ProofTracer) -> None:
        assert isinstance(other, CertificateTracer)
        self._writer.give_way(other._writer)

    def saved(self) -> dict[str, Any]:
        """With all that was told on the disk. Raises UnwrittenError."""
        counts = {"splits": self._splits, "cuts": self._cuts}
        return {**counts, "roots": self._families.saved(), "files": self._writer.kept()}

    def restore(self, saved: Mapping[str, Any]) -> None:
        self._splits, self._cuts = int(saved["splits"]), int(saved["cuts"])
        self._families.restore(saved["roots"])
        self._writer.restore(saved["files"])

    @property
    def _ledger(self) -> Draft | Families:
        """Who notes of which nodes something was told."""
        return self._draft or self._families

    # the tree

    def roots(self, subproblems: Subproblems, clauses: Int[Tensor, "batch group"]) -> Subproblems:
        groups = [list(dict.fromkeys(group)) for group in clauses.tolist()]
        with self._lock:
            first, groups = self._families.added(groups)
            if first == 0:
                self._writer.append("merged.variable", self._left_out)
            # counts first: who reads along looks whether all clauses are there
            self._writer.append("root.count", np.array([len(group) for group in groups]))
            self._writer.append("root.clause", np.array([one for group in groups for one in group]))
        numbers = torch.arange(first, first + len(clauses), device=subproblems.subproblem_id.device)
        return replace(subproblems, subproblem_id=numbers)

    @property
    def renewable(self) -> bool:
        return self._families.renewable

    def expect_renewals(self) -> None:
        self._families.expect_renewals()

    def anew(self, roots: Subproblems, instead: bool = False) -> Subproblems:
        chosen = self._families.anew(roots.clause.tolist(), instead)
        return replace(roots, subproblem_id=torch.tensor(chosen).to(roots.subproblem_id))

    def abandoned(self, subproblems: Subproblems) -> None:
        self._families.abandoned(subproblems.clause.tolist(), subproblems.subproblem_id.tolist())

    def _cover(self) -> None:
        if (covered := self._families.covered()) is not None:
            self.write(covered)

    def split(
        self, subproblems: Subproblems, children: Subproblems, variable: Tensor, value: Tensor
    ) -> Subproblems:
        nodes = subproblems.subproblem_id
        if (draft := self._draft) is not None:
            first = draft.split(nodes, variable, value)
        else:
            with self._lock:
                first = self._families.count + 2 * self._splits
                self._splits += len(subproblems)
                self._writer.splits(*in_columns(nodes, variable, value))
            self._families.settled(nodes.tolist())
        upper = first + 2 * torch.arange(len(subproblems), device=children.subproblem_id.device)
        return replace(children, subproblem_id=torch.cat([upper, upper + 1]))

    # bounds

    def boxes(
        self, clauses: Int[Tensor, " clauses"], owner: Int[Tensor, " clauses"], count: int
    ) -> BoundTracer:
        """All roots of a clause are told of, so that they know the same."""
        roots: list[list[int]] = [[] for _ in range(count)]
        for clause, box in zip(clauses.tolist(), owner.tolist(), strict=True):
            roots[box] += self._families.of(clause)
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
        block = _planes(self.network, replace(cuts, offsets=offsets), box)
        if (draft := self._draft) is not None:
            first = draft.cuts(block, len(cuts))
        else:
            first, self._cuts = self._cuts, self._cuts + len(cuts)
            self.write(block)
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
                self._ledger.told([node])
                used = shares[i] > 0
                self.write(
                    LemmaUnderCuts(*parts, cuts[used], shares[i, used]) if used.any() else Lemma(*parts)
                )

    def number(self, layer: Layer) -> int:
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
        self._ledger.settled(subproblems.subproblem_id[refuted].tolist())
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
            self._ledger.settled(subproblems.subproblem_id.tolist())
            self.write(_by_rho(subproblems, problem, state))

    def leaves_by_default(self, subproblems: Subproblems) -> None:
        if len(subproblems):
            self._ledger.settled(subproblems.subproblem_id.tolist())
            self.write(
                LeavesDefault(subproblems.subproblem_id, subproblems.state["constraint_weights"][:, 0])
            )

    def input_boxes(
        self, subproblems: Subproblems, whole: Bounds, found: InputBoxes, turns: tuple[Turn, ...]
    ) -> Bounds:
        blocks, kept = written(found, turns, subproblems, whole)
        for block in blocks:
            self.write(block)
        return kept


_Rounding = Callable[[DualState], DualState]
_Leaves = Callable[[Subproblems, DualProblem, DualState], Block]


def _planes(network: Network, cuts: Cuts, box: Bounds) -> CuttingPlanes:
    """Cuts that hold on a box, their coefficients by variables."""
    found = [(node, *entries(part)) for node, part in cuts.coefficients.items()]
    starts = {0: 0} | {layer.node: layer.variables.start for layer in network.layers}
    rows, columns, values = (
        torch.cat(parts)
        for parts in zip(
            *((row, column + starts[node], value) for node, row, column, value in found), strict=True
        )
    )
    order = rows.argsort(stable=True)
    counts = rows.bincount(minlength=len(cuts))
    heads = cuts.neurons, cuts.slopes, cuts.factors, cuts.offsets, counts
    return CuttingPlanes(box.lower, box.upper, *heads, columns[order], values[order])


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
