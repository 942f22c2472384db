"""The two sweeps: back through the network for the cotangents and q, forward for the primal point and the supergradient."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from verify.deadline import tick
from verify.lagrangian.domain import Domain
from verify.lagrangian.probes import NoProbes
from verify.lagrangian.supports import ExactSupport, SeparateSupport, Support, join
from verify.lagrangian.terms import Passing, Sweep, Term
from verify.lagrangian.unit_sums import UNIT_SUMS, UnitSums, apart
from verify.lagrangian.value import NoRounding, NoValue
from verify.network.activations import Activation
from verify.network.affine import Affine
from verify.network.graph import Network
from verify.state import DualState


@dataclass(frozen=True)
class Evaluation(Sweep):
    """A sweep with its value q."""

    bound: Float[Tensor, "batch objectives"]


@dataclass(frozen=True)
class Supergradient:
    """dq / d(everything), q itself (for climbing: not rounded outward), and the primal point they come from."""

    state: DualState
    bound: Float[Tensor, "batch objectives"]
    # By layer's node.
    pre_activations: dict[int, Float[Tensor, "batch objectives pre"]]


class InPlay:
    """The terms that a state has, in the order in which they act on the way back."""

    def __init__(self, domain: Domain, terms: tuple[Term, ...]) -> None:
        names = {term.name for term in terms}
        self.domain, self.terms = domain, terms
        self.at = {layer.node: tuple(t for t in terms if t.acts_on(layer)) for layer in domain.layers}
        self.support: type[Support] = (
            SeparateSupport if "post_multipliers" in names else ExactSupport if "rho" in names else Support
        )
        # Below a frozen layer nothing matters but multipliers of their own.
        ends = not self.support.exact and not any(t.reaches_frozen for at in self.at.values() for t in at)
        self.frozen = domain.frozen if ends else {}


@dataclass
class Descent:
    """A sweep back: what is pending of it, by node, [batch * objectives, *shape]; and what it has found so far."""

    play: InPlay
    state: DualState
    objectives: int
    pending: dict[int, Tensor]
    value: NoValue
    probes: NoProbes
    supports: dict[int, Support] = field(default_factory=dict)

    def down_to(self, last: int) -> Descent:
        """Pulls what is pending through all nodes from the latest down to node `last`."""
        domain, pending, value, frozen = self.play.domain, self.pending, self.value, self.play.frozen
        network = domain.network
        for index in range(max(pending), last - 1, -1):
            cotangent = pending.pop(index, None)
            if cotangent is None:
                continue
            tick()
            cotangent = domain.view.inside(index, cotangent)
            if isinstance(network.nodes[index].operator, Affine):
                pull(network, index, cotangent, pending, value.rounding)
                continue
            t = cotangent.reshape(domain.batch, self.objectives, -1)
            if index in frozen:
                value.frozen(index, t, *frozen[index])
                continue
            self.supports[index] = self._minimum(index, t)
        return self

    def _minimum(self, index: int, t: Float[Tensor, "batch objectives post"]) -> Support:
        """What the terms make of a layer."""
        domain = self.play.domain
        support = self.play.support(domain, domain.network.layer_of_node[index], t, self.pending)
        apart(support)
        for term in self.play.at[index]:
            term.pull(support, self.state[term.name])
        self.probes.pull(support)
        support.minimise()
        self.value.count(*support.parts.values(), support)
        return support

    @property
    def arrived(self) -> Float[Tensor, "batch objectives inputs"]:
        """The input's cotangent."""
        domain = self.play.domain
        shape = domain.batch, self.objectives, domain.network.inputs
        t = self.pending.get(0)
        return domain.like.new_zeros(shape) if t is None else domain.view.inside(0, t).reshape(shape)


def pull(
    network: Network,
    index: int,
    cotangent: Tensor,
    pending: dict[int, Tensor],
    rounding: NoRounding = NoValue.rounding,
) -> None:
    """Carries the cotangent of an affine node back to its operands."""
    tick()
    node = network.nodes[index]
    assert isinstance(node.operator, Affine)
    rounding32 = network.rounding32(index)
    if node.operator.terms > 1 or rounding32:
        rounding.add(cotangent, index, rounding32)
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


class Rise:
    """A sweep forward, from the input's minimiser through the layers' minimisers in network order; writes the supergradient."""

    def __init__(
        self, play: InPlay, state: DualState, sweep: Sweep, objectives: int, values: dict[int, Tensor]
    ) -> None:
        """values: is filled with those of all nodes, [batch * objectives, *shape] each."""
        self.play, self.state, self.sweep, self.values = play, state, sweep, values
        self.objectives = objectives
        # Then every entry of some terms is written below.
        whole = len(sweep.supports) == len(play.domain.network.layers)
        self.gradient = {
            term.name: (torch.empty_like if whole and term.written_whole else torch.zeros_like)(
                state[term.name]
            )
            for term in play.terms
        }
        self.pre_activations: dict[int, Tensor] = {}

    def through(self) -> None:
        """Reaches the node that is bounded."""
        domain, values = self.play.domain, self.values
        network, flat = domain.network, domain.batch * self.objectives
        for index in sorted(network.ancestors[domain.node] - {0}):
            tick()
            node = network.nodes[index]
            if not isinstance(node.operator, Activation):
                value = network.apply(node, [values[operand] for operand in node.operands])
                values[index] = domain.view.inside(index, value)
            elif index in self.sweep.supports:
                values[index] = domain.view.inside(index, self._passed(index)).reshape(flat, *node.shape)
            else:
                # Frozen, or only under frozen ones.
                low, high = self.play.frozen.get(index) or domain.outputs(network.layer_of_node[index])
                middle = ((low + high) / 2).expand(-1, self.objectives, -1)
                values[index] = middle.reshape(flat, *node.shape)

    def _passed(self, index: int) -> Float[Tensor, "batch objectives post"]:
        """A layer's outputs."""
        support = self.sweep.supports[index]
        z = self.values[support.layer.pre_node].reshape(self.play.domain.batch, self.objectives, -1)
        self.pre_activations[index] = z
        at = Passing(support, z, self.values)
        terms = self.play.at[index]
        for term in terms:
            term.gradient(at, self.state[term.name], self.gradient[term.name])
        at.post = support.forward(z)
        sums = support.parts.get(UNIT_SUMS)
        if isinstance(sums, UnitSums):
            at.post = sums.completed(at.post)
        for term in terms:
            term.push(at, self.state[term.name], self.gradient[term.name])
        return at.post
