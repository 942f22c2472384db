"""The types that everything passes along: frozen structs of tensors, the batch first.

One sign convention: a clause is refuted on a subproblem when its `lower_bound` there is > 0.
"""

from __future__ import annotations

from collections.abc import Sequence
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

    def select(self: T, rows: Tensor | slice) -> T:
        """The given rows (indices, a mask or a range)."""
        return type(self)(**{f.name: _chosen(getattr(self, f.name), rows) for f in fields(self)})

    def updated(self: T, rows: Tensor, other: T) -> T:
        """The same struct with the given rows replaced by those of `other`."""
        names = [f.name for f in fields(self)]
        return type(self)(**{n: _changed(getattr(self, n), rows, getattr(other, n)) for n in names})

    def to(self: T, device: torch.device, dtype: torch.dtype) -> T:
        """All floating-point fields as `dtype`, everything on `device`."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return type(self)(
            **{k: v.to(device, dtype if v.is_floating_point() else v.dtype) for k, v in values.items()}
        )

    @classmethod
    def concatenate(cls: type[T], parts: Sequence[T]) -> T:
        """The parts' rows in order."""
        columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(cls)}
        return cls(**{name: _joined(column) for name, column in columns.items()})


def is_wide(lower: Tensor, upper: Tensor, point: float = _POINT) -> Bool[Tensor, "*shape"]:
    """Which intervals are more than a number that had to be rounded outward, as decimals have to.

    point: of their size, how wide intervals may be that are points nevertheless.
    """
    return (upper - lower) > point * torch.maximum(lower.abs(), upper.abs())


def outward(value: Tensor, towards: float) -> Tensor:
    """The nearest float32 numbers that are no tighter: towards -inf for lower ends, inf for upper ones."""
    near = value.float()
    beyond = near.to(value) > value if towards < 0 else near.to(value) < value
    return torch.where(beyond, torch.nextafter(near, near.new_tensor(towards)), near)


def _chosen(value: Any, rows: Tensor | slice) -> Any:
    """The given rows of a tensor, or of a struct of them."""
    return value.select(rows) if isinstance(value, Struct) else value[rows]


def _changed(value: Any, rows: Tensor, new: Any) -> Any:
    """A copy of a tensor, or of a struct of them, with new rows."""
    if isinstance(value, Struct):
        return value.updated(rows, new)
    value = value.clone()
    value[rows] = new
    return value


def _joined(column: list[Any]) -> Any:
    """Tensors, or structs of them, one after the other."""
    first = column[0]
    return type(first).concatenate(column) if isinstance(first, Struct) else torch.cat(column)


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
            rows.reshape(batch, 2 * count, 1, size), rows.new_zeros(batch, 2 * count, 1),
            rows.new_zeros(batch, 2 * count, 1, 0),
        )  # fmt: skip


@dataclass(frozen=True)
class DualState(Struct):
    """A point of the dual domain: any values are sound. Children inherit it; a certificate is made of it.

    A field without columns is out of play: slopes 0, multipliers 0, post_multipliers equal to the cotangents.
    """

    alpha: Float[Tensor, "batch objectives alpha"]  # slopes of the supporting lines
    constraint_weights: Float[Tensor, "batch objectives rows"]
    beta: Float[Tensor, "batch objectives depth"]  # beta of each split
    rho: Float[Tensor, "batch objectives pre"]  # of every pre-activation, beside slope times cotangent
    post_multipliers: Float[Tensor, "batch objectives post"]  # of every activation's own equality
    cut_shares: Float[
        Tensor, "batch objectives cuts"
    ]  # of what the output below each cutting plane loses: its part

    def objectives(self, chosen: Tensor) -> DualState:
        """The points of some objectives (indices or a mask) alone."""
        return DualState(*(part[:, chosen] for part in vars(self).values()))


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

    def apply(self, bounds: Bounds) -> Bounds:
        """The box split by all of them."""
        if self.variable.shape[1] == 0:
            return bounds
        used, index = self.variable >= 0, self.variable.clamp(min=0)
        value = self.value.to(bounds.lower.dtype)
        low = torch.where(used & (self.side > 0), value, -torch.inf)
        high = torch.where(used & (self.side < 0), value, torch.inf)
        return Bounds(
            bounds.lower.scatter_reduce(1, index, low, "amax"),
            bounds.upper.scatter_reduce(1, index, high, "amin"),
        )

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
    beta: Float[Tensor, "batch depth"]
    cut_shares: Float[Tensor, "batch cuts"]
    constraint_weights: Float[Tensor, "batch rows"]
    alpha: Float[Tensor, "batch alpha"]
    constrained_lower: Float[
        Tensor, "batch carried"
    ]  # over the subproblem's unsafe points: of the inputs, or of the last pre-activations
    constrained_upper: Float[Tensor, "batch carried"]
    tightened_at: Float[
        Tensor, "batch steps"
    ]  # the bound just before each step of tightening what is carried, further off with every split; -inf: never
    subproblem_id: Int[Tensor, " batch"]  # its number in a certificate's tree

    @property
    def splits(self) -> Splits:
        return Splits(self.split_variable, self.split_value, self.split_side)

    @property
    def state(self) -> DualState:
        """The dual point, as one objective for each subproblem."""
        none = self.alpha.new_zeros(len(self), 1, 0)
        return DualState(
            self.alpha[:, None], self.constraint_weights[:, None], self.beta[:, None],
            none, none, self.cut_shares[:, None],
        )  # fmt: skip

    def with_cuts(self, cuts: int) -> Subproblems:
        """The same subproblems with shares for so many cutting planes, 0 for new ones."""
        missing = cuts - self.cut_shares.shape[1]
        return replace(self, cut_shares=torch.nn.functional.pad(self.cut_shares, (0, missing)))

    def with_state(self, bound: Tensor, state: DualState) -> Subproblems:
        """The same subproblems with another dual point (of one objective each) and its bound."""
        return replace(
            self, lower_bound=bound, alpha=state.alpha[:, 0], constraint_weights=state.constraint_weights[:, 0],
            beta=state.beta[:, 0], cut_shares=state.cut_shares[:, 0],
        )  # fmt: skip

    def split(self, variable: Tensor, value: Tensor, multipliers: Float[Tensor, "batch 2"]) -> Subproblems:
        """Both children of every subproblem split at `variable` = `value`: all upper sides first, then all lower sides.

        multipliers: of the new splits, the upper side's and the lower side's.
        """
        parts = []
        for column, side in enumerate((1, -1)):
            splits = self.splits.extend(variable, value, torch.full_like(variable, side))
            parts.append(
                replace(
                    self,
                    split_variable=splits.variable,
                    split_value=splits.value,
                    split_side=splits.side,
                    tightened_at=_FADING * self.tightened_at,
                    beta=torch.cat([self.beta, multipliers[:, column, None]], 1),
                )
            )
        return Subproblems.concatenate(parts)
