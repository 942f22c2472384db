"""What the search asks of a way to bound and split subproblems, and what such ways have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.bab.effort import Effort, Observation
from verify.bab.executor import Mapper
from verify.bounders.ascent import Ascended
from verify.bounders.relevant import relevant
from verify.branching.rule import Split
from verify.deadline import Deadline
from verify.network.graph import Network
from verify.problem import Problem
from verify.state import DualState, Objective, Struct, Subproblems, fetched, sent

B = TypeVar("B", bound="Bounded")


@dataclass(frozen=True)
class Bounded(Struct):
    """Subproblems with their new bounds, which of them are refuted for certain, and an input to try for the others."""

    subproblems: Subproblems
    refuted: Bool[Tensor, " batch"]
    minimiser: Float[Tensor, "batch inputs"]

    @property
    def open(self) -> Int[Tensor, " open"]:
        """Which are not refuted."""
        return (~self.refuted).nonzero()[:, 0]

    def on_host(self: B) -> B:
        """The same where decisions are made and subproblems wait: on the CPU, brought there once."""
        return self if self.refuted.device.type == "cpu" else cast("B", self._fetched)

    def brought(self, *beside: Tensor) -> tuple[Tensor, ...]:
        """More that is on its device, on the CPU, together with what `on_host` gives from then on."""
        if self.refuted.device.type == "cpu":
            return beside
        self.__dict__["_fetched"], found = fetched(self, *beside)
        return found

    @cached_property
    def _fetched(self) -> Bounded:
        return fetched(self)[0]


@dataclass(frozen=True)
class Knowledge:
    """What a search knows beside its subproblems: data that workers read. Only the search's owner puts another in its place.

    shared: what subproblems inherit, in whatever form a strategy has it. effort: what techniques cost and brought. sole: whether its
    holder alone may now add to what is shared.
    """

    shared: Any
    effort: Effort
    sole: bool = False

    def learned(self, *seen: Observation) -> Knowledge:
        """With some more observations, in order."""
        shared, effort = self.shared, self.effort
        for one in seen:
            shared, effort = one.update(shared), effort.learned(one)
        return replace(self, shared=shared, effort=effort)


@dataclass(frozen=True)
class Result:
    """What a worker brings back: bounded subproblems, and what it saw of the techniques it applied."""

    bounded: Bounded
    seen: tuple[Observation, ...] = ()


class Technique(Protocol[B]):
    """One way to get better bounds: a frozen dataclass, its numbers as fields."""

    @property
    def name(self) -> str:
        """As the log and `--explain` say it."""

    @property
    def once(self) -> bool:
        """Whether a batch has it at most once; else as often as it is due."""

    def due(self, bounded: B, knowledge: Knowledge) -> Int[Tensor, " index"]:
        """Which open subproblems to apply it to now; if not `once`, not again to those that it was just applied to.

        bounded: as the CPU has them.
        """

    def apply(
        self, bounded: B, index: Int[Tensor, " index"], knowledge: Knowledge, deadline: Deadline
    ) -> tuple[B, Observation]:
        """All subproblems, those of the index with better bounds. Raises OutOfTimeError."""


def applied(
    techniques: Sequence[Technique[B]], bounded: B, knowledge: Knowledge, deadline: Deadline
) -> tuple[B, tuple[Observation, ...]]:
    """What techniques make of a batch, each in its turn, as long as any is due."""
    seen: list[Observation] = []
    left, more = list(techniques), True
    while more:
        more = False
        for technique in tuple(left):
            index = technique.due(bounded.on_host(), knowledge)
            if len(index):
                index = sent(index, bounded.refuted.device)
                bounded, one = technique.apply(bounded, index, knowledge, deadline)
                knowledge, more = knowledge.learned(one), True
                seen.append(one)
                if technique.once:
                    left.remove(technique)
    return bounded, tuple(seen)


class Strategy(Protocol):
    """Bounds subproblems and splits those left open. It holds nothing that changes: many may ask at once."""

    @property
    def objectives(self) -> Objectives:
        """Of all clauses that are known."""

    def begin(self) -> Knowledge:
        """What is known before the roots are bounded."""

    def saved(self, knowledge: Knowledge) -> dict[str, Any]:
        """What is shared, once the roots are bounded, in plain values and tensors; `variables`: how many the network has."""

    def restored(self, saved: Mapping[str, Any]) -> Any:
        """The same again, of the same problem. Raises ValueError where it does not fit."""

    def clauses_of(self, clauses: Int[Tensor, " subproblems"], knowledge: Knowledge) -> list[int]:
        """All clauses that subproblems of these stand for."""

    def roots(self, knowledge: Knowledge, batch: int, deadline: Deadline) -> Iterator[Result]:
        """The clauses' whole boxes, bounded some at a time: about a `batch`. Refuted ones may lack what only splitting needs."""

    def bound(self, subproblems: Subproblems, knowledge: Knowledge, deadline: Deadline) -> Result:
        """Bounds the subproblems, each no looser than what it inherited."""

    def at_once(self, knowledge: Knowledge) -> int | None:
        """How many subproblems are to be split at a time, at most; None: as many as there is room for."""

    def choose(self, subproblems: Subproblems, knowledge: Knowledge, deadline: Deadline) -> Split:
        """Where to split each subproblem; variable -1 where nothing is left to split."""

    def due(self, seconds: float, knowledge: Knowledge, deadline: Deadline) -> bool:
        """Whether the roots are worth more effort, after so many seconds of splitting since they last had any."""

    def refine_roots(
        self, waiting: Subproblems, knowledge: Knowledge, batch: int, deadline: Deadline, run: Mapper
    ) -> tuple[Subproblems, list[Result]]:
        """Bounds the roots of all clauses that wait with more effort: subproblems that go on waiting, and roots in the others' place.

        Nobody else may ask meanwhile.
        """


class Objectives:
    """The clauses' objectives, built once each and gathered by clause number."""

    def __init__(self, problem: Problem, device: torch.device) -> None:
        self._problem, self._device = problem, device
        self._row = torch.full((problem.clauses,), -1, dtype=torch.int64, device=device)
        self._table: list[Objective] = []
        self._numbers = torch.zeros(0, 0, dtype=torch.int64, device=device)
        self._relevant: tuple[Objective, Network, Bool[Tensor, " variables"]] | None = None

    def prepare(self, clauses: Sequence[int]) -> None:
        """Makes the given clauses known; for the search's owner alone."""
        wanted = torch.tensor(list(clauses), dtype=torch.int64, device=self._device).unique()
        new = wanted[self._row[wanted] < 0]
        if len(new):
            known = int(self._row.max()) + 1
            self._row[new] = torch.arange(known, known + len(new), device=self._device)
            made = self._problem.objective(new.tolist()).to(self._device, torch.float64)
            self._table = [Objective.concatenate([*self._table, made])]

    @property
    def known(self) -> Int[Tensor, " known"]:
        """The clauses that are known."""
        return (self._row >= 0).nonzero()[:, 0]

    def of(self, clauses: Int[Tensor, " batch"], dtype: torch.dtype) -> Objective:
        """The objectives of the given clause numbers."""
        return self._table[0].select(self._row[clauses]).to(self._device, dtype)

    def relevant(self, network: Network) -> Bool[Tensor, " variables"]:
        """What known clauses depend on."""
        known, [table] = self._relevant, self._table
        if known is None or known[0] is not table or known[1] is not network:
            asked = (table.coefficients != 0).flatten(0, 2).any(0)
            self._relevant = known = table, network, relevant(network, asked)
        return known[2]

    def number_rows(self) -> None:
        """Numbers the rows of all clauses that are known; for the search's owner alone."""
        table = self._table[0]
        parts = (table.coefficients[:, 0], table.thresholds[:, 0, :, None], table.input_coefficients[:, 0])
        rows = np.ascontiguousarray(torch.cat(parts, 2).flatten(0, 1).cpu().numpy())
        as_bytes = rows.view(np.uint8).reshape(len(rows), -1).view(f"V{rows.shape[1] * rows.itemsize}")
        numbers = np.unique(as_bytes.ravel(), return_inverse=True)[1]
        self._numbers = torch.from_numpy(numbers.reshape(len(table), -1)).to(self._device)

    def row_numbers(self, clauses: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape rows"]:
        """The clauses' rows, those that are the same by one number."""
        return self._numbers[self._row[clauses]]


def root_subproblems(
    rows: int,
    clauses: Sequence[int],
    alpha: int,
    device: torch.device,
    constrained: int = 0,
    dtype: torch.dtype = torch.float32,
    steps: int = 0,
    slopes: int = 0,
) -> Subproblems:
    """The whole boxes of clauses of so many rows; nothing is known of them yet. `dtype` is of the bounds they carry."""
    count = len(clauses)
    unknown = torch.full((count, constrained), torch.inf, dtype=dtype, device=device)
    none = torch.zeros(count, 0, dtype=torch.int64, device=device)
    state = DualState(
        {
            "alpha": torch.zeros(count, 1, alpha, device=device),
            "constraint_weights": torch.full((count, 1, rows), 1 / rows, device=device),
            "beta": torch.zeros(count, 1, 0, device=device),
        }
    )
    return Subproblems(
        torch.tensor(list(clauses), dtype=torch.int64, device=device), torch.full((count,), -torch.inf, device=device),
        none, none.double(), none, state, torch.zeros(count, slopes, device=device), -unknown, unknown,
        torch.full((count, steps), -torch.inf, device=device), torch.zeros(count, dtype=torch.bool, device=device),
        torch.full((count,), -1, device=device), torch.zeros(count, dtype=torch.int64, device=device),
    )  # fmt: skip


def reset_new_beta(children: Subproblems) -> Subproblems:
    """Children where their climb begins: the new split's multiplier would leave the bound as it was; from 0 it mostly gets further."""
    beta = children.state["beta"].clone()
    beta[..., -1:] = 0
    return replace(children, state=children.state | {"beta": beta})


def no_looser(subproblems: Subproblems, ascended: Ascended, kept: DualState | None = None) -> Subproblems:
    """Subproblems after a climb; where that ends below what they inherited, their bound stays and they take the state `kept`."""
    inherited, bound, state = subproblems.lower_bound, ascended.bound[:, 0], ascended.state
    if kept is not None:
        better = (bound >= inherited)[:, None, None]
        state = kept.to(bound.device, bound.dtype).map(partial(_chosen, better), state)
    return subproblems.with_state(torch.maximum(bound, inherited), state)


def _chosen(other: Tensor, kept: Tensor, new: Tensor) -> Tensor:
    return torch.where(other, new, kept)


def grouped(boxes: Sequence[int], most: int) -> tuple[Tensor, Tensor]:
    """The number of each clause's group, and each group's clauses (the last repeated): clauses on one box, `most` at most."""
    numbers = np.asarray(boxes)
    order = np.argsort(numbers, kind="stable")
    _, first, sizes = np.unique(numbers[order], return_index=True, return_counts=True)
    within = np.arange(len(order)) - np.repeat(first, sizes)
    starts = np.flatnonzero(within % most == 0)
    sizes = np.diff(np.append(starts, len(order)))
    group_of = np.empty(len(order), dtype=np.int64)
    group_of[order] = np.repeat(np.arange(len(starts)), sizes)
    place = np.minimum(np.arange(sizes.max(initial=1)), sizes[:, None] - 1)
    return torch.from_numpy(group_of), torch.from_numpy(order[starts[:, None] + place])


def all_refuted(roots: Subproblems) -> Bounded:
    """Roots that are refuted."""
    nothing = torch.zeros(len(roots), 0, device=roots.clause.device)
    return Bounded(roots, torch.ones_like(roots.clause, dtype=torch.bool), nothing)
