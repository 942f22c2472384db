"""The types that everything passes along: frozen structs of tensors, the batch first.

One sign convention: a clause is refuted on a subproblem when its `lower_bound` there is > 0.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_POINT = 1e-12  # of their size: intervals no wider are points
# Bounds that a subproblem carries are due again when so much is left of its distance from 0, or after so many splits if none of it has gone.
CLOSER, SPLITS = 0.7, 4
_FADING = CLOSER ** (-1 / SPLITS)  # with every split, of the distance that was
T = TypeVar("T", bound="Struct")


@dataclass(frozen=True)
class Struct:
    """A struct of arrays: every field is a tensor whose first axis is the batch."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def map(self: T, change: Callable[..., Tensor], *others: T) -> T:
        """The same struct with `change` made to every tensor, given those of `others` in the same place."""
        structs = (self, *others)
        return type(self)(
            **{f.name: _mapped(change, *(getattr(s, f.name) for s in structs)) for f in fields(self)}
        )

    def select(self: T, rows: Tensor | slice) -> T:
        """The given rows (indices, a mask or a range)."""
        found = _indices(rows)
        return self.map(lambda part: part[found])

    def updated(self: T, rows: Tensor, other: T) -> T:
        """The same struct with the given rows replaced by those of `other`."""

        found = _indices(rows)

        def changed(part: Tensor, new: Tensor) -> Tensor:
            part = part.clone()
            part[found] = new
            return part

        return self.map(changed, other)

    def to(self: T, device: torch.device, dtype: torch.dtype) -> T:
        """All floating-point fields as `dtype`, everything on `device`."""
        return self.map(lambda part: part.to(device, dtype if part.is_floating_point() else part.dtype))

    @classmethod
    def concatenate(cls: type[T], parts: Sequence[T]) -> T:
        """The parts' rows in order."""
        return parts[0].map(lambda *column: torch.cat(column), *parts[1:])


def fetched(struct: T, *beside: Tensor) -> tuple[T, tuple[Tensor, ...]]:
    """The struct, and more, on the CPU. From a GPU that waits once: what is copied after all else, and waited for, arrives after it."""
    last: list[Tensor] = []

    def begun(part: Tensor) -> Tensor:
        if part.numel():
            last[:] = [part]
        return part.to("cpu", non_blocking=True)

    found = struct.map(begun), tuple(begun(part) for part in beside)
    for part in last:
        part[(0,) * part.dim()].cpu()
    return found


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; to a GPU it goes from memory that is pinned, so that nobody waits for it."""
    if device.type == "cpu" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def plainly_all(mask: Tensor) -> bool:
    """Whether all are true, where nobody waits for an answer: beside a GPU nothing is said to be."""
    return mask.device.type == "cpu" and bool(mask.all())


def is_wide(lower: Tensor, upper: Tensor, point: float = _POINT) -> Bool[Tensor, "*shape"]:
    """Which intervals are more than a number that had to be rounded outward, as decimals have to.

    point: of their size, how wide intervals may be that are points nevertheless.
    """
    return (upper - lower) > point * torch.maximum(lower.abs(), upper.abs())


def outward(value: Tensor, towards: float) -> Tensor:
    """The nearest float32 numbers that are no tighter: towards -inf for lower ends, inf for upper ones."""
    near = value.float()
    beyond = near.to(value) > value if towards < 0 else near.to(value) < value
    return torch.where(beyond, torch.nextafter(near, near.new_full((), towards)), near)


def _indices(rows: Any) -> Any:
    """Rows that a mask chooses by their numbers, which every field would look for again."""
    return rows.nonzero()[:, 0] if isinstance(rows, Tensor) and rows.dtype == torch.bool else rows


def _mapped(change: Callable[..., Tensor], first: Any, *others: Any) -> Any:
    """`change` made to a tensor, or to each of a struct or of a mapping."""
    if isinstance(first, Struct):
        return first.map(change, *others)
    if isinstance(first, dict):
        if any(other.keys() != first.keys() for other in others):
            raise ValueError("these have other parts")
        return {name: change(part, *(other[name] for other in others)) for name, part in first.items()}
    return change(first, *others)


@dataclass(frozen=True)
class Bounds(Struct):
    """A box over all variables of a network: inputs, then every pre-activation."""

    lower: Float[Tensor, "batch variables"]
    upper: Float[Tensor, "batch variables"]

    @property
    def empty(self) -> Bool[Tensor, " batch"]:
        """Whether some variable has no value left."""
        return (self.lower > self.upper).any(dim=1)


@dataclass(frozen=True)
class Objective(Struct):
    """What is bounded from below: `sum_j w_j (coefficients_j . y - thresholds_j)` over the values y of one node.

    For the clause "unsafe where C y <= d" the coefficients are C, the thresholds d, and the best weights w >= 0 with sum 1
    are found by the ascent; a pre-activation's bound has one row `+-e_i`.
    """

    coefficients: Float[Tensor, "batch objectives rows size"]
    thresholds: Float[Tensor, "batch objectives rows"]
    input_coefficients: Float[
        Tensor, "batch objectives rows inputs"
    ]  # no columns where no row mentions inputs

    @classmethod
    def both_ends(cls, neurons: Int[Tensor, "batch count"], size: int, like: Tensor) -> Objective:
        """The values `z_i` and `-z_i` of the given neurons of a layer."""
        batch, count = neurons.shape
        rows = like.new_zeros(batch, 2, count, size)
        rows[:, 0].scatter_(2, neurons[..., None], 1.0)
        rows[:, 1].scatter_(2, neurons[..., None], -1.0)
        return cls(
            rows.reshape(batch, 2 * count, 1, size),
            rows.new_zeros(batch, 2 * count, 1),
            rows.new_zeros(batch, 2 * count, 1, 0),
        )


@dataclass(frozen=True)
class DualState(Struct):
    """A point of the dual domain: a part for each term of the Lagrangian that is in play, by the term's name.

    Any values are sound. Children inherit it; a certificate is made of it.
    """

    parts: dict[str, Float[Tensor, "batch objectives width"]]

    def __len__(self) -> int:
        return len(next(iter(self.parts.values())))

    def __getitem__(self, term: str) -> Tensor:
        return self.parts[term]

    def __contains__(self, term: str) -> bool:
        return term in self.parts

    def __or__(self, parts: Mapping[str, Tensor]) -> DualState:
        """The same point with other parts, or with more."""
        return DualState({**self.parts, **parts})

    def width(self, term: str) -> int:
        """How many columns a term has; 0 where it is not in play."""
        return self.parts[term].shape[2] if term in self.parts else 0

    def items(self) -> ItemsView[str, Tensor]:
        """Every part and whose it is."""
        return self.parts.items()

    def objectives(self, chosen: Tensor) -> DualState:
        """The points of some objectives (indices or a mask) alone."""
        return self.map(lambda part: part[:, chosen])


@dataclass(frozen=True)
class Splits(Struct):
    """The splits on the way to each subproblem: `variable >= value` where side is 1, `<= value` where side is -1."""

    variable: Int[Tensor, "batch depth"]  # -1: no split here
    value: Float[Tensor, "batch depth"]
    side: Int[Tensor, "batch depth"]

    @classmethod
    def none(cls, batch: int, device: torch.device | str = "cpu") -> Splits:
        """No splits at all."""
        empty = torch.zeros(batch, 0, dtype=torch.int64, device=device)
        return cls(empty, torch.zeros(batch, 0, dtype=torch.float64, device=device), empty)

    def of(self, first: int, end: int) -> Splits:
        """Those of the variables from `first` up to `end` alone."""
        own = (self.variable >= first) & (self.variable < end)
        return replace(self, variable=torch.where(own, self.variable, -1))

    def renamed(self, variables: Int[Tensor, " variables"]) -> Splits:
        """Splits of these variables of another network."""
        own = torch.where(self.variable >= 0, variables[self.variable.clamp(min=0)], -1)
        return replace(self, variable=own)

    def apply(self, bounds: Bounds) -> Bounds:
        """The box split by all of them."""
        if self.variable.shape[1] == 0:
            return bounds
        used, index = self.variable >= 0, self.variable.clamp(min=0)
        value = self._inward(bounds.lower.dtype)
        low = torch.where(used & (self.side > 0), value, -torch.inf)
        high = torch.where(used & (self.side < 0), value, torch.inf)
        return Bounds(
            bounds.lower.scatter_reduce(1, index, low, "amax"),
            bounds.upper.scatter_reduce(1, index, high, "amin"),
        )

    def _inward(self, dtype: torch.dtype) -> Tensor:
        """The values as another type has them: no number that a split has left out is in again."""
        near = self.value.to(dtype)
        beyond = (self.value - near.to(self.value.dtype)) * self.side > 0
        towards = torch.where(self.side > 0, torch.inf, -torch.inf).to(dtype)
        return torch.where(beyond, torch.nextafter(near, towards), near)

    def padded(self, depth: int) -> Splits:
        """The same splits in `depth` columns."""
        missing = depth - self.variable.shape[1]
        if missing <= 0:
            return self
        pad = torch.nn.functional.pad
        return Splits(
            pad(self.variable, (0, missing), value=-1),
            pad(self.value, (0, missing)),
            pad(self.side, (0, missing)),
        )

    def extend(self, variable: Tensor, value: Tensor, side: Tensor) -> Splits:
        """One more split on each row."""
        return Splits(
            torch.cat([self.variable, variable[:, None]], 1),
            torch.cat([self.value, value[:, None].to(self.value.dtype)], 1),
            torch.cat([self.side, side[:, None]], 1),
        )


@dataclass(frozen=True)
class Subproblems(Struct):
    """Subproblems still to be decided: a clause, the splits that lead there, the best bound so far and its dual point."""

    clause: Int[Tensor, " batch"]
    lower_bound: Float[Tensor, " batch"]
    split_variable: Int[Tensor, "batch depth"]
    split_value: Float[Tensor, "batch depth"]
    split_side: Int[Tensor, "batch depth"]
    # The dual point, of one objective: [batch, 1, width] each.
    state: DualState
    # Of the worst constraint's bound over the input box, scaled: what input splits are chosen by; no columns elsewhere.
    slopes: Float[Tensor, "batch inputs"]
    # Over the subproblem's unsafe points: of the last pre-activations, or of the inputs and perhaps of all that is behind them.
    constrained_lower: Float[Tensor, "batch carried"]
    constrained_upper: Float[Tensor, "batch carried"]
    # The bound just before each step of tightening what is carried, further off with every split; -inf: never.
    tightened_at: Float[Tensor, "batch steps"]
    # Where inputs are split: whether its clause is the only one left of those that it stands for.
    alone: Bool[Tensor, " batch"]
    # The variable that its relaxation's optimum says to split; -1: it is not known.
    suggested: Int[Tensor, " batch"]
    # Its number in a certificate's tree.
    subproblem_id: Int[Tensor, " batch"]

    @property
    def splits(self) -> Splits:
        return Splits(self.split_variable, self.split_value, self.split_side)

    def with_cuts(self, term: str, cuts: int) -> Subproblems:
        """The same subproblems with shares for so many cuts of one term, 0 for new ones; without that term for none."""
        parts = dict(self.state.parts)
        known = parts.pop(term, self.lower_bound.new_zeros(len(self), 1, 0))
        if cuts:
            parts[term] = torch.nn.functional.pad(known, (0, cuts - known.shape[2]))
        return replace(self, state=DualState(parts))

    def with_state(self, bound: Tensor, state: DualState) -> Subproblems:
        """The same subproblems with another dual point (of one objective each) and its bound."""
        return replace(self, lower_bound=bound, state=state)

    def split(
        self, variable: Tensor, ends: tuple[Tensor, Tensor], beta: Float[Tensor, "batch 2"]
    ) -> Subproblems:
        """Both children of every subproblem split at `variable`: all upper sides first, then all lower sides.

        ends: where the lower sides end and the upper ones begin. beta: of the new splits, the upper side's and the lower side's.
        """
        parts = []
        for column, (side, value) in enumerate(((1, ends[1]), (-1, ends[0]))):
            splits = self.splits.extend(variable, value, torch.full_like(variable, side))
            parts.append(
                replace(
                    self,
                    split_variable=splits.variable,
                    split_value=splits.value,
                    split_side=splits.side,
                    tightened_at=_FADING * self.tightened_at,
                    suggested=torch.full_like(self.suggested, -1),
                    state=self.state
                    | {"beta": torch.cat([self.state["beta"], beta[:, None, column, None]], 2)},
                )
            )
        return Subproblems.concatenate(parts)
