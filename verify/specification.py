"""Properties built in Python; each builder writes VNN-LIB, so there is one way in and the text can be archived.

Everything is checked and copied when a builder is made, and numbers are written as the exact decimals of the floats given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from verify.validation import array, fitting, integer, real, refuse, shown

if TYPE_CHECKING:
    from verify.validation import Floats

_MOST_CLASSES = 1_000_000  # each is a clause of its own


def _exact(number: float) -> str:
    text = f"{Decimal(number):f}"
    return text if "." in text else f"{text}.0"


def _text(box: tuple[Floats, Floats], outputs: int, unsafe: Sequence[str]) -> str:
    """The property of one disjunction in VNN-LIB."""
    ends = enumerate(zip(*(end.ravel().tolist() for end in box), strict=True))
    names = [f"X_{i}" for i in range(box[0].size)] + [f"Y_{i}" for i in range(outputs)]
    lines = [f"(declare-const {name} Real)" for name in names]
    for i, (low, high) in ends:
        lines += [f"(assert (>= X_{i} {_exact(low)}))", f"(assert (<= X_{i} {_exact(high)}))"]
    return "\n".join([*lines, f"(assert (or {' '.join(unsafe)}))", ""])


def _parts(name: str, value: Any, remedy: str) -> tuple[Any, ...]:
    """The parts of a sequence, at least one."""
    several = (
        isinstance(value, Sized)
        and isinstance(value, Iterable)
        and not isinstance(value, str | bytes | Mapping)
    )
    try:
        parts = tuple(value) if several else ()
    except Exception as error:  # other people's classes raise what they like
        refuse(name, f"is {shown(value)}, which has no parts ({error})", remedy)
    return parts or refuse(name, f"is {shown(value)}" + (", and empty" if several else ""), remedy)


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
        terms = [f"(* {_exact(c)} Y_{i})" for i, c in enumerate(self.coefficients) if c]
        return f"(<= (+ {' '.join(terms)} 0.0) {_exact(self.threshold)})"


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
class Specification:
    """Unsafe where x is in the box and any of the conjunctions of rows holds. Raises InputError.

    box: (lower, upper), arrays of the input's shape, or flat in row-major order. unsafe: a sequence of conjunctions, each a
    sequence of `Row`s (or of pairs (coefficients, threshold)).
    """

    box: tuple[Any, Any]
    unsafe: Sequence[Sequence[Row | tuple[Sequence[float], float]]]

    def __post_init__(self) -> None:
        remedy = "give a pair of arrays, (lower, upper)"
        box = _parts("the box of a Specification", self.box, remedy)
        if len(box) != 2:
            refuse("the box of a Specification", f"has {len(box)} parts", remedy)
        lower, upper = (
            array(f"the {k} end of the box", end) for k, end in zip(("lower", "upper"), box, strict=True)
        )
        if lower.shape != upper.shape:
            found = f"have shapes {list(lower.shape)} and {list(upper.shape)}"
            refuse("the ends of the box", found, "a Specification needs a box of two equal shapes")
        _ordered("the box of a Specification", lower, upper)
        remedy = "give a list of conjunctions, each a list of at least one row: [[row, row], [row]]"
        clauses = [
            _parts("a conjunction of unsafe", c, remedy) for c in _parts("unsafe", self.unsafe, remedy)
        ]
        unsafe = tuple(tuple(map(_row, clause)) for clause in clauses)
        lengths = sorted({len(row.coefficients) for clause in unsafe for row in clause})
        if len(lengths) > 1:
            found = f"have {' and '.join(map(str, lengths))} coefficients"
            refuse("the rows of a Specification", found, "give each one for every output")
        object.__setattr__(self, "box", (lower, upper))
        object.__setattr__(self, "unsafe", unsafe)

    def ends(self) -> tuple[Floats, Floats]:
        """The lower and the upper ends of the box."""
        return self.box

    def text(self) -> str:
        """The property in VNN-LIB 1.0."""
        rows: Any = self.unsafe
        conjunctions = ["(and " + " ".join(row.text() for row in clause) + ")" for clause in rows]
        return _text(self.box, len(rows[0][0].coefficients), conjunctions)

    def text_for(self, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> str:
        """The same for a model with tensors of these shapes. Raises InputError where it is of another model."""
        fitting("the box of a Specification", self.box[0].shape, inputs, "the model's input")
        given, wanted = len(self.unsafe[0][0].coefficients), math.prod(outputs)  # type: ignore[union-attr]
        if given != wanted:
            found = f"have {given} coefficients, but the model has {wanted} outputs"
            refuse("the rows of a Specification", found, "give one number for each output")
        return self.text()


def _first(wrong: Any, *numbers: Any) -> tuple[list[int], list[float]] | None:
    """The first place that is wrong, and the numbers there."""
    places = np.argwhere(np.atleast_1d(wrong))
    if not len(places):
        return None
    place = tuple(map(int, places[0]))
    return list(place), [
        float(part[place]) for part in np.broadcast_arrays(np.atleast_1d(wrong), *numbers)[1:]
    ]


def _ordered(name: str, lower: Any, upper: Any) -> None:
    if wrong := _first(lower > upper, lower, upper):
        place, (low, high) = wrong
        refuse(
            name,
            f"is reversed at {place}: its lower end is {low}, its upper end {high}",
            "give (lower, upper)",
        )


def _limits(clip: Any, x: Floats) -> tuple[Any, Any]:
    """The ends of `clip`, numbers or arrays of x's shape, with x between them."""
    remedy = "give a pair (lowest, highest), of numbers or arrays of x's shape, or None"
    ends = _parts("clip", clip, remedy)
    if len(ends) != 2:
        refuse("clip", f"has {len(ends)} parts", remedy)
    low, high = (_like(array("clip", end, finite=False), x, remedy) for end in ends)
    _ordered("clip", low, high)
    if outside := _first((x < low) | (x > high), x, low, high):
        place, (value, least, most) = outside
        refuse(
            f"x of a LinfBall lies outside clip: x{place}",
            f"is {value}, clip is [{least}, {most}]",
            "give the range of your data as clip, or clip=None for none",
        )
    return low, high


def _like(end: Floats, x: Floats, remedy: str) -> Any:
    """An end of `clip`: a number, or an array of x's axes, each as long as x's or 1."""
    if end.size == 1:
        return float(end.reshape(-1)[0])
    if end.ndim == x.ndim and all(own in (1, size) for own, size in zip(end.shape, x.shape, strict=True)):
        return end
    refuse("clip", f"has an end of shape {list(end.shape)}, x has shape {list(x.shape)}", remedy)


@dataclass(frozen=True, eq=False)
class LinfBall:
    """Robustness: no input within `epsilon` of `x` (cut to `clip`) is given another label than `label`. Raises InputError.

    x: one sample, inside `clip`, of the shape of the model's input, or flat in row-major order. `classes` is the number of
    outputs; it is taken from the model when None. clip: (lowest, highest), numbers or arrays of x's shape. The ball's ends
    are computed in float64: x -+ epsilon, each rounded to the nearest number.
    """

    x: Any
    epsilon: float
    label: int
    classes: int | None = None
    clip: tuple[Any, Any] | None = (0.0, 1.0)

    def __post_init__(self) -> None:
        x, epsilon = array("x of a LinfBall", self.x), array("epsilon", self.epsilon)
        if epsilon.size != 1:
            remedy = "give one number, or a radius for each input as Specification(box=(x - radius, x + radius), ..)"
            refuse("epsilon", f"has shape {list(epsilon.shape)}", remedy)
        label = integer("label", self.label, least=0)
        if epsilon.item() < 0:
            refuse("epsilon", f"is {epsilon.item()}", "give a radius from 0 on")
        classes = None if self.classes is None else integer("classes", self.classes, 2, _MOST_CLASSES)
        clip = None if self.clip is None else _limits(self.clip, x)
        for name, value in (("x", x), ("epsilon", epsilon.item()), ("label", label), ("classes", classes)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "clip", clip)
        self.ends()

    def ends(self) -> tuple[Floats, Floats]:
        """The lower and the upper ends of the ball."""
        with np.errstate(over="ignore"):
            lower, upper = self.x - self.epsilon, self.x + self.epsilon
        if self.clip is not None:
            lower, upper = np.maximum(lower, self.clip[0]), np.minimum(upper, self.clip[1])
        return array("x - epsilon", lower), array("x + epsilon", upper)

    def text(self, outputs: int | None = None) -> str:
        """The property in VNN-LIB 1.0, of a model with so many outputs. Raises InputError where the label is out of range."""
        count = self.classes if outputs is None else integer("outputs", outputs, 0, _MOST_CLASSES)
        if count is None:
            refuse("classes of a LinfBall", "is not given", "give the number of the model's outputs")
        if self.classes not in (None, count):
            refuse(
                "classes of a LinfBall", f"is {self.classes}, the model has {count} outputs", "leave it out"
            )
        if not self.label < count or count < 2:
            refuse(
                "label",
                f"{shown(self.label)} is not one of {count} classes",
                "give the number of an output, of at least 2",
            )
        others = [f"(and (>= Y_{i} Y_{self.label}))" for i in range(count) if i != self.label]
        return _text(self.ends(), count, others)

    def text_for(self, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> str:
        """The same for a model with tensors of these shapes. Raises InputError where it is of another model."""
        fitting("x of a LinfBall", self.x.shape, inputs, "the model's input")
        axes = [size for size in outputs if size != 1] or [1]
        if len(axes) > 1:
            found = f"has shape {list(outputs)}, which is no list of scores"
            refuse("the model's output", found, "a LinfBall is of classifiers; write a Specification")
        if len(outputs) > 1 and outputs[0] == inputs[0] > 1:
            refuse("x of a LinfBall", f"is a batch of {inputs[0]}", "give one sample, with a batch axis of 1")
        return self.text(axes[0])
