"""What a term of the Lagrangian is: one kind of multiplier with all that the sweeps, the ascents and the search need of it.

A state has a part for each term that is in play, [batch, objectives, width] by the term's name; every value of it that
`project` leaves as it is gives a sound bound. A term belongs to a batch of boxes (`Domain`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from verify.lagrangian.domain import Domain
from verify.lagrangian.supports import Support
from verify.network.graph import Layer, Network

Part = Float[Tensor, "batch objectives width"]


@dataclass(frozen=True)
class Storage:
    """How a term's part waits in the frontier, one row for each subproblem. Columns that others have more are filled with 0."""

    # None: as it comes.
    dtype: torch.dtype | None = None
    # Whether it has a column for each split on the way to a subproblem.
    along_splits: bool = False


@dataclass(frozen=True)
class Sweep:
    """A sweep back through the network: what the forward sweep needs."""

    input_cotangent: Float[Tensor, "batch objectives inputs"]
    # By the layer's node; none where the sweep ended earlier.
    supports: dict[int, Support]


class Passing:
    """A layer on the way forward: the primal point's pre-activations z, and the outputs that follow from them."""

    post: Float[Tensor, "batch objectives post"]

    def __init__(
        self, support: Support, z: Float[Tensor, "batch objectives pre"], values: dict[int, Tensor]
    ) -> None:
        """values: the primal point so far, by node, [batch * objectives, *shape] each."""
        self.support, self.layer, self.z, self.values = support, support.layer, z, values
        self.gap = support.gap(z)


class Term:
    """One kind of multiplier on a batch of boxes."""

    name: ClassVar[str]
    # Whether an ascent moves it.
    moves: ClassVar[bool] = True
    # Whether it is a multiplier that the initial state does without, with a step size of its own.
    free: ClassVar[bool] = False
    # Whether its steps' unit stays what it was when the ascent began.
    unit_lasts: ClassVar[bool] = True
    # Whether the Lagrangian at its minimisers has a part `multiplier * supergradient` of it.
    linear: ClassVar[bool] = False
    # Whether `rho` alone can stand for it.
    within_rho: ClassVar[bool] = False
    # Whether what it does at or below a layer counts where the layer's pre-activations are fixed.
    reaches_frozen: ClassVar[bool] = False
    # Whether a sweep that reaches all layers writes every entry of its supergradient.
    written_whole: ClassVar[bool] = False

    def __init__(self, domain: Domain) -> None:
        self.domain = domain

    def select(self, index: Tensor, domain: Domain) -> Term:
        """That of some subproblems, on their own domain."""
        return type(self)(domain)

    @classmethod
    def storage(cls, network: Network) -> Storage:
        """How its part waits in the frontier."""
        return Storage()

    def acts_on(self, layer: Layer) -> bool:
        """Whether a layer's `pull`, `gradient` and `push` are to be called."""
        return True

    def init(self, objectives: int) -> Part:
        """Where ascents begin."""
        raise NotImplementedError

    def project(self, part: Part) -> Part:
        """The nearest valid values."""
        return part

    def without(self, part: Part, variable: Int[Tensor, "batch objectives"]) -> Part:
        """The part with all that rests on one variable's interval out of play."""
        return part

    def unit(self, part: Part, sweep: Sweep) -> Tensor | None:
        """The unit of each entry's steps; None where all are 1."""
        return None

    def direction(self, part: Part, gradient: Part) -> Part:
        """Where an ascent goes, given the supergradient."""
        return gradient

    def pull(self, at: Support, part: Part) -> None:
        """What it does to a layer's cotangents on the way back."""

    def gradient(self, at: Passing, part: Part, out: Part) -> None:
        """Writes its supergradient at a layer that the primal point has reached."""

    def finished(self, part: Part, out: Part, exact: bool) -> Part:
        """Its supergradient, from what was written at all layers. exact: whether minima were looked up."""
        return out

    def push(self, at: Passing, part: Part, out: Part) -> None:
        """Changes the outputs that the primal point goes on with."""


class CutFamily(Protocol):
    """Cuts that hold on all boxes of a network, whoever makes them: one file has them and their term."""

    def term(self, domain: Domain) -> Term:
        """Their term on a batch of boxes."""
