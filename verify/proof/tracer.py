"""What a search tells of its proof, as it goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from jaxtyping import Bool, Int
from torch import Tensor

from verify.bounders.tracing import UNTRACED, BoundTracer, Observer, Provable, unobserved
from verify.lagrangian.cuts import Cuts
from verify.lagrangian.dual import DualProblem
from verify.network.graph import Layer
from verify.proof.blocks import Block
from verify.proof.input_boxes import InputBoxes, Turn
from verify.proof.segment import AS_THEY_ARE, Numbers, Segment
from verify.state import Bounds, DualState, Subproblems

T = TypeVar("T")


class ProofTracer:
    """Is told of roots, splits, bounds and leaves. This one keeps nothing, costs nothing, and leaves every technique open.

    writes: threads that tell have to end before the proof does.
    """

    writes = False

    def proves(self, technique: Provable) -> bool:
        """Whether the proof can hold what the technique finds."""
        return True

    def write(self, block: Block) -> None:
        """A block of the proof."""

    @property
    def cuts_told(self) -> int:
        """How many cuts the proof has."""
        return 0

    def apart(self, work: Callable[[], T], cuts: int) -> tuple[T, Segment | None]:
        """What a piece of work brings, and what it tells meanwhile, which is not in the proof until it is joined to it.

        cuts: how many the proof has; nobody else may add to them meanwhile if the work does.
        """
        return work(), None

    def whole(self, work: Callable[[], T]) -> T:
        """What a part of work that is told apart brings; of one that fails nothing stays told."""
        return work()

    def joined(self, segment: Segment | None) -> Numbers:
        """Puts into the proof what was told apart: the numbers that nodes have there. Whatever it rests on has to be there."""
        return AS_THEY_ARE

    def give_way(self, other: ProofTracer) -> None:
        """What another search of the same problem has told is the proof."""

    def saved(self) -> dict[str, Any]:
        """What `restore` makes the same proof of, in another process, in plain values and tensors."""
        return {}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """As it was when that was saved. Raises InputError, KeyError and ValueError where it does not fit."""

    def roots(self, subproblems: Subproblems, clauses: Int[Tensor, "batch group"]) -> Subproblems:
        """The subproblems as new roots, each standing for its clauses (which may be repeated)."""
        return subproblems

    @property
    def renewable(self) -> bool:
        """Whether roots may begin anew once more."""
        return True

    def expect_renewals(self) -> None:
        """Roots may begin anew."""

    def anew(self, roots: Subproblems, instead: bool = False) -> Subproblems:
        """The clauses' whole boxes, to be tried beside what was split of them; or, with `instead`, to go on from."""
        return roots

    def abandoned(self, subproblems: Subproblems) -> None:
        """Subproblems that are left open: their clauses go on from the roots that were tried last."""

    def split(
        self, subproblems: Subproblems, children: Subproblems, variable: Tensor, value: Tensor
    ) -> Subproblems:
        """The children of subproblems that are split, all upper sides first."""
        return children

    def boxes(
        self, clauses: Int[Tensor, " clauses"], owner: Int[Tensor, " clauses"], count: int
    ) -> BoundTracer:
        """What is told of the bounds of so many boxes; `owner` is each clause's."""
        return UNTRACED

    def rounded(self, state: DualState) -> DualState:
        """A dual point as bounds over unsafe points are written down with."""
        return state

    def cuts(self, cuts: Cuts, box: Bounds) -> Cuts:
        """Cuts that hold on a box (of one row), as they are written down: no deeper."""
        return cuts

    def lemmas(
        self, subproblems: Subproblems, layer: Layer, problem: DualProblem, state: DualState
    ) -> Observer:
        """What is told of a layer's bounds over the unsafe points of the subproblems, from their clauses' (rounded) dual points."""
        return unobserved

    def refuted(
        self, subproblems: Subproblems, problem: DualProblem, state: DualState, sizes: dict[int, Tensor]
    ) -> Bool[Tensor, " batch"]:
        """Which subproblems are empty, or refuted by their dual points."""
        bound = problem.evaluate(state, sizes).bound[:, 0]
        return ((bound > 0) & bound.isfinite()) | problem.bounds.empty

    def leaves_by_multipliers(self, subproblems: Subproblems, problem: DualProblem, state: DualState) -> None:
        """Subproblems refuted by any dual points."""

    def leaves_by_default(self, subproblems: Subproblems) -> None:
        """Subproblems that CROWN on interval bounds refutes, with the weights they have."""

    def input_boxes(
        self, subproblems: Subproblems, whole: Bounds, found: InputBoxes, turns: tuple[Turn, ...]
    ) -> Bounds:
        """What to go on with of subproblems of the input that were bounded on the boxes `whole`: as many columns as they have."""
        return found.inherited(subproblems)


NO_PROOF = ProofTracer()
