"""Sizes of an input that a model leaves open: settled by the number of inputs that the property speaks of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from verify.errors import ModelError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Tensor:
    """An input or output of a model. Sizes that are unknown are None; so is `shape` where even its rank is.

    symbols: names of unknown sizes, for each axis; those of one name are equal, and one without a name is equal to none.
    """

    name: str
    element_type: str
    shape: tuple[int | None, ...] | None
    symbols: tuple[str, ...] = ()


def fixed(shape: tuple[int | None, ...]) -> Shape:
    """A shape whose unknown sizes (the batch) are taken as 1."""
    return tuple(1 if size is None else size for size in shape)


def settled(tensor: Tensor, hint: Sequence[int] = ()) -> Shape:
    """An input's shape. Unknown sizes are 1, but where a hint says otherwise: the shape of what is given as input, or how many
    numbers there are. Raises ModelError where that leaves a choice."""
    shape = tensor.shape or ()
    ones = fixed(shape)
    if None not in shape or not hint or math.prod(hint) == math.prod(ones):
        return ones
    whole = (1,) * (len(shape) - len(hint)) + tuple(hint)
    if len(hint) > 1 and len(whole) == len(shape) and _fits(shape, whole):
        return whole
    groups = _groups(tensor)
    # the first axis is that of the batch, which is 1 if anything else is open
    batch = groups[0] if groups[0][0] == 0 else None
    open_groups = [group for group in groups if group is not batch] or groups
    if len(open_groups) > 1:
        names = ", ".join(str(group[0]) for group in open_groups)
        raise ModelError(
            f"the sizes of its input {tensor.name!r} on axes {names} are open, which {math.prod(hint)} inputs leave a choice of; "
            "write them into the model"
        )
    return _solved(ones, open_groups[0], math.prod(hint)) or ones


def _fits(shape: tuple[int | None, ...], whole: Shape) -> bool:
    return all(size in (None, given) for size, given in zip(shape, whole, strict=True))


def _groups(tensor: Tensor) -> list[list[int]]:
    """The axes of unknown size, those of one name together."""
    found: dict[object, list[int]] = {}
    for axis, size in enumerate(tensor.shape or ()):
        if size is None:
            symbol = tensor.symbols[axis] if axis < len(tensor.symbols) else ""
            found.setdefault(symbol or axis, []).append(axis)
    return list(found.values())


def _solved(ones: Shape, group: list[int], count: int) -> Shape | None:
    """The shape of so many entries whose sizes on these axes, which are equal, are what that takes; None if there is none."""
    rest = math.prod(ones)
    size = round((count / rest) ** (1 / len(group))) if rest else 0
    if rest * size ** len(group) != count:
        return None
    return tuple(size if axis in group else other for axis, other in enumerate(ones))
