"""The types that everything passes along: frozen structs of tensors, the batch first.

One sign convention: a clause is refuted on a region when its `lower_bound` there is > 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_POINT = 1e-12  # of their size: intervals no wider are points
# Bounds that a region carries are due again when so much is left of its distance from 0, or after so many cuts if none of it has gone.
CLOSER, CUTS = 0.7, 4
_FADING = CLOSER ** (-1 / CUTS)  # with every cut, of the distance that was
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


def opened(lower: Tensor, upper: Tensor, point: float = _POINT) -> Bool[Tensor, "*shape"]:
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

    parameters: Float[Tensor, "batch objectives parameters"]  # slopes of the supporting lines
    row_weights: Float[Tensor, "batch objectives rows"]
    cut_multipliers: Float[Tensor, "batch objectives depth"]  # beta of each cut
    multipliers: Float[
        Tensor, "batch objectives pre"
    ]  # of every pre-activation, beside slope times cotangent
    post_multipliers: Float[Tensor, "batch objectives post"]  # of every activation's own equality
    plane_shares: Float[
        Tensor, "batch objectives planes"
    ]  # of what the output below each cutting plane loses: its part

    def objectives(self, chosen: Tensor) -> DualState:
        """The points of some objectives (indices or a mask) alone."""
        return DualState(*(part[:, chosen] for part in vars(self).values()))


@dataclass(frozen=True)
class Cuts(Struct):
    """The splits on the way to each subproblem: `variable >= value` where side is 1, `<= value` where side is -1."""

    variable: Int[Tensor, "batch depth"]  # -1: no cut here
    value: Float[Tensor, "batch depth"]
    side: Int[Tensor, "batch depth"]

    @classmethod
    def none(cls, batch: int, device: torch.device | str = "cpu") -> Cuts:
        """No cuts at all."""
        empty = torch.zeros(batch, 0, dtype=torch.int64, device=device)
        return cls(empty, torch.zeros(batch, 0, dtype=torch.float64, device=device), empty)

    def apply(self, bounds: Bounds) -> Bounds:
        """The box cut by all of them."""
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

    def padded(self, depth: int) -> Cuts:
        """The same cuts in `depth` columns."""
        missing = depth - self.variable.shape[1]
        if missing <= 0:
            return self
        pad = torch.nn.functional.pad
        return Cuts(
            pad(self.variable, (0, missing), value=-1),
            pad(self.value, (0, missing)),
            pad(self.side, (0, missing)),
        )

    def extend(self, variable: Tensor, value: Tensor, side: Tensor) -> Cuts:
        """One more cut on each row."""
        return Cuts(
            torch.cat([self.variable, variable[:, None]], 1),
            torch.cat([self.value, value[:, None].to(self.value.dtype)], 1),
            torch.cat([self.side, side[:, None]], 1),
        )


@dataclass(frozen=True)
class Subproblems(Struct):
    """Regions still to be decided: a clause, the cuts that lead there, the best bound so far and its dual point."""

    clause: Int[Tensor, " batch"]
    lower_bound: Float[Tensor, " batch"]
    cut_variable: Int[Tensor, "batch depth"]
    cut_value: Float[Tensor, "batch depth"]
    cut_side: Int[Tensor, "batch depth"]
    cut_multipliers: Float[Tensor, "batch depth"]
    plane_shares: Float[Tensor, "batch planes"]
    row_weights: Float[Tensor, "batch rows"]
    parameters: Float[Tensor, "batch parameters"]
    carried_lower: Float[
        Tensor, "batch carried"
    ]  # over the region's unsafe points: of the inputs, or of the last pre-activations
    carried_upper: Float[Tensor, "batch carried"]
    tightened_at: Float[
        Tensor, "batch steps"
    ]  # the bound just before each step of tightening what is carried, further off with every cut; -inf: never
    node: Int[Tensor, " batch"]  # its number in a certificate's tree

    @property
    def cuts(self) -> Cuts:
        return Cuts(self.cut_variable, self.cut_value, self.cut_side)

    @property
    def state(self) -> DualState:
        """The dual point, as one objective for each region."""
        none = self.parameters.new_zeros(len(self), 1, 0)
        return DualState(
            self.parameters[:, None], self.row_weights[:, None], self.cut_multipliers[:, None],
            none, none, self.plane_shares[:, None],
        )  # fmt: skip

    def planed(self, planes: int) -> Subproblems:
        """The same regions with shares for so many cutting planes, 0 for new ones."""
        missing = planes - self.plane_shares.shape[1]
        return replace(self, plane_shares=torch.nn.functional.pad(self.plane_shares, (0, missing)))

    def with_state(self, bound: Tensor, state: DualState) -> Subproblems:
        """The same regions with another dual point (of one objective each) and its bound."""
        return replace(
            self, lower_bound=bound, parameters=state.parameters[:, 0], row_weights=state.row_weights[:, 0],
            cut_multipliers=state.cut_multipliers[:, 0], plane_shares=state.plane_shares[:, 0],
        )  # fmt: skip

    def split(self, variable: Tensor, value: Tensor, multipliers: Float[Tensor, "batch 2"]) -> Subproblems:
        """Both children of every region cut at `variable` = `value`: all upper sides first, then all lower sides.

        multipliers: of the new cuts, the upper side's and the lower side's.
        """
        parts = []
        for column, side in enumerate((1, -1)):
            cuts = self.cuts.extend(variable, value, torch.full_like(variable, side))
            parts.append(
                replace(
                    self,
                    cut_variable=cuts.variable,
                    cut_value=cuts.value,
                    cut_side=cuts.side,
                    tightened_at=_FADING * self.tightened_at,
                    cut_multipliers=torch.cat([self.cut_multipliers, multipliers[:, column, None]], 1),
                )
            )
        return Subproblems.concatenate(parts)
