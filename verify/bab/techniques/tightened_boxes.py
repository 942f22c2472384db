"""Tighter bounds of all pre-activations of boxes that are left open, where they pay: of the last layers, or of all of them."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from verify.bab.box_bounds import BoundedBoxes, BoxBounder
from verify.bab.effort import Observation
from verify.bab.strategy import Knowledge
from verify.bounders.halfspaces import Halfspaces
from verify.bounders.intermediate import IntermediateBounds
from verify.branching.inputs import input_steps_open
from verify.deadline import Deadline
from verify.network.graph import Network
from verify.proof.box_blocks import BACKWARD
from verify.state import Bounds, sent


@dataclass(frozen=True, eq=False)
class TightenedBoxes(ABC):
    """One way to tighten bounds; CROWN's bounds of the rows are made again on them.

    number: of `all`, dearer each, in order; its column among passes. kind: as proofs have it. share: of the time left, that one pass may
    take. clips: bounds need to hold on unsafe points alone.
    """

    bounder: BoxBounder
    number: int
    all: int
    name: str = ""
    kind: int = BACKWARD
    share: float = 0.5
    clips: bool = True
    once: bool = False

    @abstractmethod
    def tighten(self, before: BoundedBoxes, deadline: Deadline, soft_deadline: Deadline) -> Bounds:
        """No looser bounds of all variables. What is not done by `soft_deadline` is left as it was. Raises OutOfTimeError."""

    def unsafe(self, before: BoundedBoxes) -> Halfspaces | None:
        """The parts of the boxes that bounds need to hold on."""
        return before.unsafe if self.clips else None

    def due(self, bounded: BoundedBoxes, knowledge: Knowledge) -> Int[Tensor, " index"]:
        """Boxes that it was not tried on and where it pays."""
        known = bounded.in_brief
        index = (~known.refuted & (known.tried < self.number)).nonzero()[:, 0]
        if self.bounder.network.has_steps and len(index):
            # where steps of the inputs themselves have several values left, splits tell more, and for less
            boxes = bounded.bounds.select(sent(index, bounded.refuted.device))
            index = index[~input_steps_open(self.bounder.network, boxes).cpu()]
        return index[knowledge.effort.chosen(self.name, known.bound[index], self.all)]

    @property
    def relevant(self) -> Bool[Tensor, " variables"]:
        """What clauses depend on."""
        return self.bounder.objectives.relevant(self.bounder.network)

    def apply(
        self, bounded: BoundedBoxes, index: Int[Tensor, " index"], knowledge: Knowledge, deadline: Deadline
    ) -> tuple[BoundedBoxes, Observation]:
        """The boxes, those of the index with tighter bounds: the next to refuted, as many as there is time to do whole."""
        deadline.check()
        soft_deadline = deadline.share(self.share)
        most = knowledge.effort.ledger(self.name).within(soft_deadline.remaining, len(index))
        if most < len(index):
            index = index[bounded.bound[index].topk(most).indices]
        began, before = time.monotonic(), bounded.select(index)
        tight = self.tighten(before, deadline, soft_deadline)
        after = self.bounder.bounded(before.subproblems, tight, knowledge.shared, self.number, deadline)
        after = replace(after.better(before), tried=torch.full_like(after.tried, self.number))
        known, (bound,) = after.told(before.bound)
        seen = Observation(self.name, time.monotonic() - began, bound, known.bound, known.refuted)
        return bounded.updated(index, after), seen


@dataclass(frozen=True, eq=False)
class LastLayers(TightenedBoxes):
    """CROWN for the layers from `first` on."""

    name: str = "CROWN for the last layers"
    intermediate: IntermediateBounds = IntermediateBounds()
    first: int = 0

    def tighten(self, before: BoundedBoxes, deadline: Deadline, soft_deadline: Deadline) -> Bounds:
        network, working = self.bounder.network, self.bounder.working
        unsafe = self.unsafe(before)
        return self.intermediate.tighten_last(
            network, self.first, before.bounds, deadline, soft_deadline, working, unsafe, self.relevant
        )


@dataclass(frozen=True, eq=False)
class AllLayers(TightenedBoxes):
    """CROWN for every layer."""

    name: str = "CROWN for all layers"
    intermediate: IntermediateBounds = IntermediateBounds()

    def tighten(self, before: BoundedBoxes, deadline: Deadline, soft_deadline: Deadline) -> Bounds:
        network, working = self.bounder.network, self.bounder.working
        unsafe = self.unsafe(before)
        return self.intermediate.tighten(
            network, before.bounds, deadline, working, soft_deadline, unsafe=unsafe, relevant=self.relevant
        )


def last_layers(network: Network, share: float = 1 / 16) -> int:
    """The first of the last layers that hold at most this share of all neurons together."""
    sizes = [layer.size for layer in network.layers]
    behind = [sum(sizes[i:]) for i in range(len(sizes))]
    return next((i for i, size in enumerate(behind) if size <= share * sum(sizes)), len(sizes))
