"""What bounders tell a proof, and what they hear of it; here neutral: nothing is kept or rounded.

A proof that is written answers in its own way (`verify/proof/certificate.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.lagrangian.dual import DualProblem
from verify.network.graph import Layer
from verify.state import Bounds, DualState


class Provable(Enum):
    """What a search does only where its proof can hold it."""

    # bounds over the unsafe points, by the slopes that bound the clause
    OUTPUT_CONSTRAINED = "output constraints"
    # the same, by slopes of each bound's own
    OPTIMISED_OUTPUT_CONSTRAINED = "optimised output constraints"
    # intermediate bounds by slopes of each neuron's own
    OPTIMISED_INTERMEDIATE = "optimised intermediate bounds"
    # bounds by linear functions of the input, pushed forward
    FORWARD = "forward bounds"
    # of a subproblem of the input, only the last layers bounded by CROWN
    LAST_LAYERS = "last layers"
    # cutting planes
    CUTS = "cuts"
    # intermediate bounds by a branch and bound of each neuron
    BRANCHED_BOUNDS = "branched bounds"
    # roots refuted by CROWN on their intermediate bounds
    CROWN_ROOTS = "CROWN of roots"
    # neurons left out that are 0 on all boxes
    REDUCED_NETWORK = "reduced network"
    # clauses left out that no input meets
    EXCLUDED_CLAUSES = "excluded clauses"
    # what is known of several nodes together: maxima, signs of sums, what adds up to 1; and of an end beside an infinite one
    SHARED_FACTS = "shared facts"
    # of a subproblem of the input, bounds of the box that it was split from, and over what its rows leave of it
    INHERITED_BOUNDS = "inherited bounds"
    # of a subproblem of the input, slopes and row weights that ascended
    ASCENDED_BOXES = "ascents on boxes"
    # minima over a ball that inputs are in
    BALL = "ball"


@dataclass(frozen=True)
class OptimisedBounds:
    """Bounds of a layer's neurons on some boxes, each by slopes of its own.

    problem, state: a row for each of the boxes, with the lower bounds of all its neurons as objectives, then the upper ones. used:
    which of the neurons are no padding.
    """

    boxes: Int[Tensor, " rows"]
    layer: Layer
    problem: DualProblem
    state: DualState
    neurons: Int[Tensor, "rows count"]
    used: Bool[Tensor, "rows count"]
    lower: Float[Tensor, "rows count"]
    upper: Float[Tensor, "rows count"]


@dataclass(frozen=True)
class BranchedBounds:
    """Bounds of neurons' ends on some boxes, each the least of its subproblems' (of one objective each), which cover the box.

    layer, variables: the neurons' own, and the network's variables that the problem's are (it may have left some out). neurons: places in
    that network's layer. sides: 1 for lower bounds, -1 for upper ones; bounds: those times their sides. owner: the end of each subproblem.
    """

    layer: Layer
    variables: Int[Tensor, " variables"]
    boxes: Int[Tensor, " ends"]
    neurons: Int[Tensor, " ends"]
    sides: Float[Tensor, " ends"]
    bounds: Float[Tensor, " ends"]
    owner: Int[Tensor, " subproblems"]
    problem: DualProblem
    state: DualState


@dataclass(frozen=True)
class ConstrainedBounds:
    """Bounds of a layer's neurons over the unsafe points of some subproblems, the lower ones' weights first; infinite: none found."""

    rows: Int[Tensor, " rows"]
    neurons: Int[Tensor, "rows count"]
    weights: Float[Tensor, "rows ends constraints"]
    lower: Float[Tensor, "rows count"]
    upper: Float[Tensor, "rows count"]


class BoundTracer:
    """Is told of bounds on boxes that others will rest on.

    whole_network: it wants dual points of the whole network, not of patches.
    """

    whole_network = False

    def settled(self, bounds: Bounds) -> Bounds:
        """The bounds as they are written down: no tighter, and the same when settled again."""
        return bounds

    def known(self, bounds: Bounds) -> None:
        """These (settled) bounds follow from what was known before, by intervals and CROWN."""

    def rounded(self, problem: DualProblem, state: DualState) -> DualState:
        """A problem's dual points as they are written down."""
        return state

    def slack(self, lower: Tensor, upper: Tensor) -> Tensor | float:
        """By how much bounds are told looser, for who rounds in another way."""
        return 0.0

    def optimised(self, found: OptimisedBounds) -> None:
        """Bounds by slopes of their own."""

    def branched(self, found: BranchedBounds) -> None:
        """Bounds by trees of their own."""


UNTRACED = BoundTracer()
Observer = Callable[[ConstrainedBounds], None]


def unobserved(found: ConstrainedBounds) -> None:
    """Nobody is told."""
