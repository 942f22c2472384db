"""Outputs that stay within a range."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from verify.specification.base import (
    PropertyBuilder,
    Shape,
    box_of,
    exact,
    fitted,
    many,
    one_of,
    ordered,
    property_text,
    span,
)
from verify.validation import array, refuse

if TYPE_CHECKING:
    from verify.validation import Floats


@dataclass(frozen=True, eq=False)
class OutputRange(PropertyBuilder):
    """Every output lies in [lower, upper], wherever in the box the input is. Raises InputError.

    box: (lower, upper), arrays of the input's shape, or flat in row-major order. lower, upper: numbers, or one for each output; infinite where there
    is none.
    """

    box: tuple[Any, Any]
    lower: Any = -np.inf
    upper: Any = np.inf

    def __post_init__(self) -> None:
        object.__setattr__(self, "box", box_of("OutputRange", self.box))
        low, high = (array(name, getattr(self, name), finite=False).ravel() for name in ("lower", "upper"))
        if len({end.size for end in (low, high) if end.size > 1}) > 1:
            refuse("lower and upper", f"have {low.size} and {high.size} entries", "give one for each output")
        ordered("the range of an OutputRange", low, high)
        if not (np.isfinite(low).any() or np.isfinite(high).any()):
            refuse("the range of an OutputRange", "has no end", "give lower or upper")
        if (low == np.inf).any() or (high == -np.inf).any():
            refuse(
                "the range of an OutputRange", "is beyond all numbers", "give finite ends, or leave them out"
            )
        object.__setattr__(self, "lower", low)
        object.__setattr__(self, "upper", high)

    def ends(self) -> tuple[Floats, Floats]:
        """The lower and the upper ends of the box."""
        return self.box

    def text_for(self, inputs: Shape, outputs: Shape) -> str:
        """The property in VNN-LIB 1.0, of a model with tensors of these shapes. Raises InputError where it is of another model."""
        fitted(self.box, inputs)
        number = prod(outputs)
        for name in ("lower", "upper"):
            if getattr(self, name).size not in (1, number):
                found = f"has {getattr(self, name).size} entries, the model has {number} outputs"
                refuse(name, found, "give one number, or one for each output")
        low, high = (np.broadcast_to(end, number).tolist() for end in (self.lower, self.upper))
        outside = [f"(< Y_{i} {exact(end)})" for i, end in enumerate(low) if end > -np.inf]
        outside += [f"(> Y_{i} {exact(end)})" for i, end in enumerate(high) if end < np.inf]
        return property_text(self.box, number, [one_of(outside)])

    def sentence(self) -> str:
        """What is claimed of every input."""
        inputs = many(self.box[0].size, "input")
        return f"For every input in the box ({inputs}), every output lies in {span(self.lower, self.upper)}."
