"""A sweep of the dual function: what it takes, what it finds, and its account.

The records that `dual.py`'s sweeps pass along, and the steps that every sweep back through a network is made of.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from verify.bounders.cuts import LayerCuts
from verify.deadline import tick
from verify.network.activations import LinearRelaxation
from verify.network.affine import Affine
from verify.network.graph import Network
from verify.state import DualState, Struct


@dataclass(frozen=True)
class Probes(Struct):
    """One hypothetical split for each objective, to see what it would gain without making the child."""

    variable: Int[Tensor, "batch objectives"]
    value: Float[Tensor, "batch objectives"]
    side: Int[Tensor, "batch objectives"]


@dataclass(frozen=True)
class OutputConstraint:
    """A part of every objective on the values of an earlier node: `coefficients . z`.

    Beside it the objective's rows are constraints, `C y <= d` on all the points that matter, and their weights are free
    multipliers >= 0, not on a simplex: q is then a bound of `coefficients . z` over those points (Kotha et al. 2023,
    "Provably Bounding Neural Network Preimages").
    """

    node: int
    coefficients: Float[Tensor, "batch objectives size"]


@dataclass(frozen=True)
class Patches:
    """What a batch of windows of one network has beside them (see patches.py), by node."""

    offsets: dict[
        int, Float[Tensor, "batch size"]
    ]  # values where the input and all activations' outputs are zero
    inside: dict[
        int, Float[Tensor, "batch size"]
    ]  # 0 beyond the image, where nothing is; only nodes that reach there
    gamma: float  # the whole network's

    def select(self, rows: Tensor) -> Patches:
        """Those of some windows."""
        offsets, inside = (
            {i: value[rows] for i, value in part.items()} for part in (self.offsets, self.inside)
        )
        return Patches(offsets, inside, self.gamma)


@dataclass(frozen=True)
class Given:
    """What cuts take over of a layer's cotangents, of those < 0, as sizes."""

    cuts: LayerCuts
    whole: Float[Tensor, "batch objectives own"]  # there is
    taken: Float[Tensor, "batch objectives own"]


@dataclass(frozen=True)
class Support:
    """Where one layer's part of the Lagrangian has its minimum."""

    cotangent: Float[Tensor, "batch objectives post"]  # t
    rho: Float[Tensor, "batch objectives pre"]
    line: LinearRelaxation | None  # None where no slopes are free
    minimiser: Float[Tensor, "batch objectives pre"] | float  # z*
    post: Float[Tensor, "batch objectives post"] | None = None  # x*; None: on the line at z*
    inner: Float[Tensor, "batch objectives post"] | None = None  # sigma(z*) where x* need not be it
    given: Given | None = None  # what cuts have taken over; t is the rest

    def forward(self, z: Tensor) -> Tensor:
        """The outputs that the supergradient goes on with, `x* + slope (z - z*)`."""
        if self.post is None:
            assert self.line is not None
            return self.line.apply(z)
        if self.line is None:
            return self.post
        return self.post + self.line.along(z - self.minimiser)


@dataclass(frozen=True)
class Sweep:
    """A sweep back through the network: what the forward sweep needs."""

    input_cotangent: Float[Tensor, "batch objectives inputs"]
    supports: dict[int, Support]  # by the layer's node; none where the sweep ended earlier


@dataclass(frozen=True)
class Evaluation(Sweep):
    """A sweep with its value q."""

    bound: Float[Tensor, "batch objectives"]


@dataclass(frozen=True)
class Supergradient:
    """dq / d(everything), q itself (for climbing: not rounded outward), and the primal point they come from."""

    state: DualState
    bound: Float[Tensor, "batch objectives"]
    beta_units: Float[
        Tensor, "batch objectives depth"
    ]  # the unit of each split's multiplier: the cotangents' size there
    pre_activations: dict[int, Float[Tensor, "batch objectives pre"]]  # by layer's node


def join(pending: dict[int, Tensor], node: int, cotangent: Tensor) -> None:
    """One more cotangent of a node."""
    pending[node] = pending[node] + cotangent if node in pending else cotangent


def dot(
    cotangent: Float[Tensor, "batch objectives size"], values: Tensor
) -> Float[Tensor, "batch objectives"]:
    """Products with [size] values, or with each subproblem's own, [batch, size]."""
    return cotangent @ values if values.dim() == 1 else (cotangent @ values[:, :, None])[..., 0]


class Account:
    """Adds up q over a sweep and, given magnitudes, what rounding may have cost, as `sum |cotangent| magnitude`.

    A pass through an affine map W turns the cotangent c, taken as exact, into W^T c with an error of at most
    gamma |W|^T |c|; against values of magnitude m that moves the bound by at most gamma |c| . (|W| m). (Higham 2002, section 3.5.)
    """

    def __init__(self, start: Tensor, magnitudes: dict[int, Tensor] | None) -> None:
        self.bound, self.magnitudes, self.charged = start, magnitudes, torch.zeros_like(start)
        self.deployed = torch.zeros_like(start)  # what the deployed network may be off by

    def add(self, amount: Tensor) -> None:
        """A part of q."""
        self.bound = self.bound + amount

    def charge(self, cotangent: Tensor, node: int, rounding32: float = 0.0) -> None:
        """Charges one cotangent against its node's magnitude."""
        if self.magnitudes is not None:
            size = dot(cotangent.reshape(*self.bound.shape, -1).abs(), self.magnitudes[node])
            self.charge_size(size)
            if rounding32:
                self.deployed = self.deployed + rounding32 * size

    def charge_size(self, size: Tensor) -> None:
        """Charges a sum of magnitudes."""
        self.charged = self.charged + size


def pull(
    network: Network,
    index: int,
    cotangent: Tensor,
    pending: dict[int, Tensor],
    account: Account | None = None,
) -> None:
    """Carries the cotangent of an affine node back to its operands."""
    tick()
    node = network.nodes[index]
    assert isinstance(node.operator, Affine)
    rounding32 = network.rounding32(index)
    if account is not None and (node.operator.terms > 1 or rounding32):
        account.charge(cotangent, index, rounding32)
    for operand, part in zip(node.operands, node.operator.transpose(cotangent), strict=True):
        join(pending, operand, part)


def sources(network: Network, node: int, cotangent: Float[Tensor, "rows size"]) -> dict[int, Tensor]:
    """Linear functionals of a node's value as functionals of the input and of activations' outputs, by node."""
    pending = {node: cotangent.reshape(-1, *network.nodes[node].shape)}
    found: dict[int, Tensor] = {}
    for index in range(node, -1, -1):
        value = pending.pop(index, None)
        if value is None:
            continue
        if isinstance(network.nodes[index].operator, Affine):
            pull(network, index, value, pending)
        else:
            join(found, index, value.flatten(1))
    return found
