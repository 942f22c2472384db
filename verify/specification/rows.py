"""Linear properties of outputs, written out: rows, and specifications that are alternatives of conjunctions of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from verify.specification.base import (
    PropertyBuilder,
    box_of,
    exact,
    fitted,
    many,
    one_of,
    parts,
    property_text,
    readable,
    summed,
)
from verify.validation import array, real, refuse, shown

if TYPE_CHECKING:
    from verify.validation import Floats

_SHOWN = 5  # alternatives in a sentence


@dataclass(frozen=True)
class Row:
    """One linear inequality over the outputs: `sum_i coefficients[i] Y_i <= threshold`. Raises InputError."""

    coefficients: Sequence[float]
    threshold: float

    def __post_init__(self) -> None:
        coefficients = array("the coefficients of a Row", self.coefficients)
        if coefficients.ndim != 1:
            found = f"have shape {list(coefficients.shape)}"
            refuse("the coefficients of a Row", found, "give one number for each output")
        object.__setattr__(self, "coefficients", tuple(coefficients.tolist()))
        object.__setattr__(self, "threshold", real("the threshold of a Row", self.threshold))

    def text(self) -> str:
        """The row in VNN-LIB."""
        terms = [f"(* {exact(c)} Y_{i})" for i, c in enumerate(self.coefficients) if c]
        return f"(<= (+ {' '.join(terms)} 0.0) {exact(self.threshold)})"

    def __str__(self) -> str:
        terms = ((c, f"y[{i}]") for i, c in enumerate(self.coefficients) if c)
        return f"{summed(terms)} <= {readable(self.threshold)}"


def _row(value: Any) -> Row:
    if isinstance(value, Row):
        return value
    if not isinstance(value, tuple | list) or len(value) != 2:
        refuse(
            "a row of a Specification",
            f"is {shown(value)}",
            "unsafe is a list of lists of rows, each a Row or a pair (coefficients, threshold)",
        )
    return Row(*value)


@dataclass(frozen=True, eq=False)
class Specification(PropertyBuilder):
    """Unsafe where x is in the box and any of the conjunctions of rows holds. Raises InputError.

    box: (lower, upper), arrays of the input's shape, or flat in row-major order. unsafe: a sequence of conjunctions, each a
    sequence of `Row`s (or of pairs (coefficients, threshold)).
    """

    box: tuple[Any, Any]
    unsafe: Sequence[Sequence[Row | tuple[Sequence[float], float]]]

    def __post_init__(self) -> None:
        box = box_of("Specification", self.box)
        remedy = "give a list of conjunctions, each a list of at least one row: [[row, row], [row]]"
        clauses = [parts("a conjunction of unsafe", c, remedy) for c in parts("unsafe", self.unsafe, remedy)]
        unsafe = tuple(tuple(map(_row, clause)) for clause in clauses)
        lengths = sorted({len(row.coefficients) for clause in unsafe for row in clause})
        if len(lengths) > 1:
            found = f"have {' and '.join(map(str, lengths))} coefficients"
            refuse("the rows of a Specification", found, "give each one for every output")
        object.__setattr__(self, "box", box)
        object.__setattr__(self, "unsafe", unsafe)

    def ends(self) -> tuple[Floats, Floats]:
        """The lower and the upper ends of the box."""
        return self.box

    def text(self) -> str:
        """The property in VNN-LIB 1.0."""
        rows: Any = self.unsafe
        conjunctions = ["(and " + " ".join(row.text() for row in clause) + ")" for clause in rows]
        return property_text(self.box, len(rows[0][0].coefficients), [one_of(conjunctions)])

    def text_for(self, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> str:
        """The same for a model with tensors of these shapes. Raises InputError where it is of another model."""
        fitted(self.box, inputs)
        given, wanted = len(self.unsafe[0][0].coefficients), math.prod(outputs)  # type: ignore[union-attr]
        if given != wanted:
            found = f"have {given} coefficients, but the model has {wanted} outputs"
            refuse("the rows of a Specification", found, "give one number for each output")
        return self.text()

    def sentence(self) -> str:
        """What is claimed of every input."""
        rows: Any = self.unsafe
        clauses = [" and ".join(map(str, clause)) for clause in rows[:_SHOWN]]
        told = " or ".join(
            f"({clause})" if " and " in clause and len(rows) > 1 else clause for clause in clauses
        )
        more = f" or one of {len(rows) - _SHOWN} more alternatives" if len(rows) > _SHOWN else ""
        return f"For no input in the box ({many(self.box[0].size, 'input')}), with output y: {told}{more}."
