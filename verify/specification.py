"""Properties written in Python: each builder writes VNN-LIB, so there is one way in and the text can be archived.

Numbers are written as the exact decimals of the floats given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from verify.errors import InputError


def _declared(inputs: int, outputs: int) -> list[str]:
    names = [f"X_{i}" for i in range(inputs)] + [f"Y_{i}" for i in range(outputs)]
    return [f"(declare-const {name} Real)" for name in names]


def _bounds(lower: np.ndarray[Any, Any], upper: np.ndarray[Any, Any]) -> list[str]:
    lines = []
    for i, (low, high) in enumerate(zip(lower.ravel().tolist(), upper.ravel().tolist(), strict=True)):
        lines += [f"(assert (>= X_{i} {low!r}))", f"(assert (<= X_{i} {high!r}))"]
    return lines


@dataclass(frozen=True)
class Row:
    """One linear inequality over the outputs: `sum_i coefficients[i] Y_i <= threshold`."""

    coefficients: Sequence[float]
    threshold: float

    def text(self) -> str:
        """The row in VNN-LIB."""
        terms = [f"(* {Decimal(float(c)):f} Y_{i})" for i, c in enumerate(self.coefficients) if c]
        return f"(<= (+ {' '.join(terms)} 0.0) {float(self.threshold)!r})"


@dataclass(frozen=True)
class Specification:
    """Unsafe where x is in the box and any of the conjunctions of rows holds.

    box: (lower, upper), arrays of the input's shape. unsafe: a sequence of conjunctions, each a sequence of `Row`s
    (or of pairs (coefficients, threshold)).
    """

    box: tuple[Any, Any]
    unsafe: Sequence[Sequence[Row | tuple[Sequence[float], float]]]

    def text(self) -> str:
        """The property in VNN-LIB 1.0. Raises InputError where the parts do not fit together."""
        lower, upper = (np.asarray(end, dtype=np.float64) for end in self.box)
        clauses = [[row if isinstance(row, Row) else Row(*row) for row in clause] for clause in self.unsafe]
        outputs = {len(row.coefficients) for clause in clauses for row in clause}
        if lower.shape != upper.shape or len(outputs) != 1:
            raise InputError(
                "a Specification needs a box of two equal shapes and rows of one length, at least one"
            )
        conjunctions = ["(and " + " ".join(row.text() for row in clause) + ")" for clause in clauses]
        lines = _declared(lower.size, outputs.pop()) + _bounds(lower, upper)
        return "\n".join([*lines, f"(assert (or {' '.join(conjunctions)}))", ""])


@dataclass(frozen=True)
class LinfBall:
    """Robustness: no input within `epsilon` of `x` (cut to `clip`) is given another label than `label`.

    `classes` is the number of outputs; it is taken from the model when None.
    """

    x: Any
    epsilon: float
    label: int
    classes: int | None = None
    clip: tuple[float, float] | None = (0.0, 1.0)

    def text(self, outputs: int | None = None) -> str:
        """The property in VNN-LIB 1.0. Raises InputError where the label is out of range."""
        count = self.classes if self.classes is not None else outputs
        if count is None or not 0 <= self.label < count:
            raise InputError(f"label {self.label} is not one of {count} classes")
        centre = np.asarray(self.x, dtype=np.float64)
        low, high = self.clip if self.clip is not None else (-np.inf, np.inf)
        lower, upper = (np.clip(centre + step, low, high) for step in (-self.epsilon, self.epsilon))
        others = " ".join(f"(and (>= Y_{i} Y_{self.label}))" for i in range(count) if i != self.label)
        return "\n".join(
            [*_declared(centre.size, count), *_bounds(lower, upper), f"(assert (or {others}))", ""]
        )
