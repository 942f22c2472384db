"""What may happen to an image: a patch that hides a part of it (for light, see light.py)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from verify.specification.base import (
    PropertyBuilder,
    Shape,
    exact,
    one_of,
    property_text,
    scores,
)
from verify.specification.samples import Sample, sample
from verify.validation import fitting, integer, refuse, shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from verify.validation import Floats


@dataclass(frozen=True, eq=False)
class Image(PropertyBuilder):
    """An image, [.., height, width], or any sample where the last two axes do not matter. mean, std: see LinfBall."""

    x: Any
    label: int
    clip: tuple[Any, Any] | None = field(default=(0.0, 1.0), kw_only=True)
    mean: Any = field(default=None, kw_only=True)
    std: Any = field(default=None, kw_only=True)
    sample: Sample = field(init=False, repr=False)

    def __post_init__(self) -> None:
        made = sample(type(self).__name__, self.x, self.label, None, self.clip, self.mean, self.std)
        if not all(np.isfinite(end).all() for end in made.clip or ()):
            refuse(f"clip of a {type(self).__name__}", "is infinite", "give the range of your data, or None")
        values = {"x": made.x, "label": made.label, "clip": made.clip, "sample": made}
        for key, value in values.items():
            object.__setattr__(self, key, value)

    def classes(self, inputs: Shape, outputs: Shape) -> int:
        """How many classes a model with tensors of these shapes has. Raises InputError where it does not take the image."""
        whose = type(self).__name__
        flat = sum(size != 1 for size in inputs) < 2  # of a model that takes images so
        fitting(f"x of a {whose}", (self.x.size,) if flat else self.x.shape, inputs, "the model's input")
        return scores(whose, inputs, outputs)


@dataclass(frozen=True, eq=False)
class Patch(Image):
    """No image that differs from `x` in one rectangle alone, there in any way within `clip`, is given another label. Raises InputError.

    x: one image, its last two axes height and width; all channels of a pixel may change. size: (height, width) of the patch. at: (row,
    column) of its corner; None for anywhere within the image, each place an alternative of its own.
    """

    size: tuple[int, int] = (1, 1)
    at: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip is None:
            refuse(
                "clip of a Patch",
                "is None",
                "give the range of your data: what is under a patch is anything in it",
            )
        if np.ndim(self.x) < 2:
            refuse(
                "x of a Patch", f"has shape {list(np.shape(self.x))}", "give an image: [.., height, width]"
            )
        size = _pair("size", self.size, 1, self.x.shape[-2:])
        at = self.at
        if at is not None:
            room = [whole - own for whole, own in zip(self.x.shape[-2:], size, strict=True)]
            at = _pair("at", at, 0, room)
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "at", at)

    def places(self) -> Iterator[NDArray[np.bool_]]:
        """The entries under the patch, at each place that it may have: flat."""
        height, width = self.size
        corners = [self.at] if self.at is not None else np.ndindex(
            self.x.shape[-2] - height + 1, self.x.shape[-1] - width + 1
        )  # fmt: skip
        for row, column in corners:
            under = np.zeros(self.x.shape, dtype=bool)
            under[..., row : row + height, column : column + width] = True
            yield under.ravel()

    def ends(self) -> tuple[Floats, Floats]:
        """The lower and the upper ends of a box of all such images, as the model is given them."""
        under = np.any(list(self.places()), axis=0).reshape(self.x.shape)
        assert self.sample.clip is not None
        low, high = (np.where(under, end, self.x) for end in self.sample.clip)
        return self.sample.given(low), self.sample.given(high)

    def text_for(self, inputs: Shape, outputs: Shape) -> str:
        """The property in VNN-LIB 1.0, of a model with tensors of these shapes."""
        rows = self.sample.rows(self.classes(inputs, outputs), "Patch")
        places = list(self.places())
        if len(places) == 1:
            return property_text(self.ends(), len(rows) + 1, [one_of(rows)])
        hull = np.any(places, axis=0)
        values = self.sample.given(self.x).ravel().tolist()
        held = [f"(<= X_{i} {exact(v)}) (>= X_{i} {exact(v)})" for i, v in enumerate(values)]
        alternatives = [
            f"(and {' '.join(held[i] for i in np.flatnonzero(hull & ~under))} {row})"
            for under in places
            for row in rows
        ]
        return property_text(self.ends(), len(rows) + 1, [one_of(alternatives)])

    def sentence(self) -> str:
        """What is claimed of every input."""
        height, width = self.size
        where = "anywhere" if self.at is None else f"at row {self.at[0]} and column {self.at[1]}"
        return (
            f"Every image that is x but for a patch of {height} by {width} pixels {where}, of any content"
            f"{self.sample.claim}"
        )


def _pair(name: str, value: Any, least: int, most: Any) -> tuple[int, int]:
    """Two whole numbers between limits."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        refuse(name, f"is {shown(value)}", "give a pair of whole numbers, (rows, columns)")
    rows, columns = (integer(name, v, least, int(m)) for v, m in zip(value, most, strict=True))
    return rows, columns
