"""What a sweep for a layer's neurons has to see: the whole network, or patches of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from jaxtyping import Bool, Int
from torch import Tensor

from verify.bounders.patches import PatchNetwork
from verify.lagrangian.dual import DualProblem
from verify.network.graph import Layer, Network
from verify.state import Bounds, Objective


def widest(network: Network, node: int) -> int:
    """The largest value that a sweep from a node comes by."""
    return max(network.nodes[i].size for i in network.ancestors[node])


@dataclass(frozen=True)
class Whole:
    """A layer's neurons behind the whole network: what `PatchNetwork` is for patches."""

    network: Network
    layer: Layer
    source: ClassVar[int] = 0
    sums: ClassVar[None] = None
    behind: ClassVar[None] = None
    positions: ClassVar[int] = 1
    sees_all: ClassVar[bool] = True

    @property
    def node(self) -> int:
        return self.layer.pre_node

    def by_position(self, open_neurons: Bool[Tensor, "batch size"]) -> Bool[Tensor, "batch size"]:
        return open_neurons

    def objective(self, rows: Tensor, neurons: Int[Tensor, "rows count"], like: Tensor) -> Tensor:
        return Objective.both_ends(neurons, self.layer.size, like).coefficients[:, :, 0]

    def neurons(self, rows: Tensor, neurons: Int[Tensor, "rows count"]) -> tuple[Tensor, Tensor]:
        return rows[:, None], neurons

    def problem(self, rows: Tensor, neurons: Int[Tensor, "rows count"], bounds: Bounds) -> DualProblem:
        objective = Objective.both_ends(neurons, self.layer.size, bounds.lower)
        return DualProblem(self.network, bounds.select(rows), objective, node=self.node)

    @property
    def widest(self) -> int:
        return widest(self.network, self.node)

    @cached_property
    def seen(self) -> int:
        return sum(self.network.nodes[i].size for i in self.network.ancestors[self.node])

    def sizes(self, rows: Tensor, sizes: dict[int, Tensor]) -> dict[int, Tensor]:
        return sizes

    def put(self, rows: Tensor, cotangent: Tensor) -> Tensor:
        return cotangent

    def gathered(self, rows: Tensor, values: Mapping[int, Tensor], pre: bool = False) -> dict[int, Tensor]:
        return {index: value[rows] for index, value in values.items() if index in self._seen}

    def inside(self, node: int, rows: Tensor, cotangent: Tensor) -> Tensor:
        return cotangent

    @cached_property
    def _seen(self) -> frozenset[int]:
        return self.network.ancestors[self.node]


@dataclass(frozen=True)
class Before(Whole):
    """What is before a layer's windows, from the node on that they end at."""

    begins: int

    @property
    def node(self) -> int:
        return self.begins


View = Whole | PatchNetwork


def views_of(network: Network, layer: Layer, ends: bool = False) -> Sequence[View]:
    """What sweeps for a layer's neurons have to see; each neuron is in one of these views. ends: see `PatchNetwork.of`."""
    return ([] if network.ball else PatchNetwork.of(network, layer, ends)) or [Whole(network, layer)]
