"""Robustness: balls around a sample in which every input is to get its label, in three norms.

An L-infinity ball is a box. The others are boxes with one constraint more, on the inputs, that VNN-LIB 2.0 writes: a sum of squares, or the sum of
the outputs of a second network, whose outputs are distances. So the very ball is decided: its box is where bounds begin, the constraint takes
part in all of them with a multiplier of its own, and a witness is judged by it exactly.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from verify.specification.base import (
    PropertyBuilder,
    Shape,
    elements,
    exact,
    first,
    network_text,
    one_of,
    property_text,
    query_text,
    readable,
    scores,
    span,
    within,
)
from verify.specification.samples import Sample, along, sample
from verify.validation import array, fitting, refuse

if TYPE_CHECKING:
    from verify.validation import Floats


@dataclass(frozen=True, eq=False)
class _Ball(PropertyBuilder):
    """No input within `epsilon` of `x` (cut to `clip`) is given another label than `label`. Raises InputError.

    x: one sample, inside `clip`, of the shape of the model's input, or flat in row-major order. `classes` is the number of
    outputs; it is taken from the model when None. clip: (lowest, highest), numbers or arrays of x's shape. mean, std: numbers, arrays of x's
    shape or one for each channel; x, epsilon and clip are then of the data as they are before normalisation, and the model is given
    `(x - mean) / std`. All this is computed in float64, each operation rounded to nearest.
    """

    x: Any
    epsilon: Any
    label: int
    classes: int | None = None
    clip: tuple[Any, Any] | None = (0.0, 1.0)
    mean: Any = None
    std: Any = None
    sample: Sample = field(init=False, repr=False)

    def __post_init__(self) -> None:
        name = type(self).__name__
        made = sample(name, self.x, self.label, self.classes, self.clip, self.mean, self.std)
        epsilon = self._radius(made.x)
        if wrong := first(np.asarray(epsilon) < 0, epsilon):
            where = f", entry {wrong[0]}," if np.ndim(epsilon) else ""
            refuse(f"epsilon{where}", f"is {wrong[1][0]}", "give a radius from 0 on")
        values = {"x": made.x, "epsilon": epsilon, "label": made.label, "classes": made.classes}
        for key, value in (values | {"clip": made.clip, "sample": made}).items():
            object.__setattr__(self, key, value)
        self.ends()

    def _radius(self, x: Floats) -> Any:
        """Epsilon, checked."""
        given = array("epsilon", self.epsilon)
        if given.size != 1:
            refuse("epsilon", f"has shape {list(given.shape)}", f"an {type(self).__name__} has one radius")
        return given.item()

    def ends(self) -> tuple[Floats, Floats]:
        """The lower and the upper ends of the ball's box, as the model is given it."""
        with np.errstate(over="ignore"):
            beyond = 0.0
            if self._beyond:
                beyond = self._beyond * (np.abs(self.x) + np.abs(self.sample.mean) + self.epsilon)
            lower, upper = self.x - self.epsilon - beyond, self.x + self.epsilon + beyond
        lower, upper = (self.sample.given(end) for end in self.sample.cut(lower, upper))
        return array("x - epsilon", lower), array("x + epsilon", upper)

    def text_for(self, inputs: Shape, outputs: Shape) -> str:
        """The same for a model with tensors of these shapes. Raises InputError where it is of another model."""
        whose = type(self).__name__
        fitting(f"x of a {whose}", self.x.shape, inputs, "the model's input")
        return self._written(inputs, outputs, scores(whose, inputs, outputs))

    @abstractmethod
    def _written(self, inputs: Shape, outputs: Shape, classes: int) -> str:
        """The property of a model that it fits."""

    _norm: ClassVar[str]
    # of the sizes of numbers, how much the box is wider than the ball, for its own rounding to cut nothing off
    _beyond: ClassVar[float] = 2.0**-48

    def sentence(self) -> str:
        """What is claimed of every input."""
        radius = readable(self.epsilon) if np.ndim(self.epsilon) == 0 else span(self.epsilon, self.epsilon)
        return f"Every input {self._norm.format(radius)} of x{self.sample.claim}"


@dataclass(frozen=True, eq=False)
class LinfBall(_Ball):
    __doc__ = (_Ball.__doc__ or "") + "epsilon: one number, or a radius for each entry: an array as `clip`'s."

    _norm = "whose entries are all within {}"
    _beyond = 0.0

    def _radius(self, x: Floats) -> Any:
        return along(x, "epsilon", self.epsilon)

    def text(self, outputs: int | None = None) -> str:
        """The property in VNN-LIB 1.0, of a model with so many outputs. Raises InputError where the label is out of range."""
        others = [f"(and {row})" for row in self.sample.rows(outputs, "LinfBall")]
        return property_text(self.ends(), len(others) + 1, [one_of(others)])

    def _written(self, inputs: Shape, outputs: Shape, classes: int) -> str:
        return self.text(classes)


@dataclass(frozen=True, eq=False)
class L2Ball(_Ball):
    __doc__ = (
        _Ball.__doc__ or ""
    ) + "The distance is the root of the sum of squares of all entries' differences."

    _norm = "within Euclidean distance {}"

    @property
    def centre(self) -> Floats:
        """x as the model is given it."""
        return self.sample.given(self.x)

    @property
    def norm(self) -> tuple[int, Floats, float]:
        """The ball itself."""
        return 2, _weights(self.sample), self.epsilon

    def _written(self, inputs: Shape, outputs: Shape, classes: int) -> str:
        names, scored = elements("X", inputs), elements("Y", outputs)
        centre, weights = _centre_and_weights(self.sample)
        plain = all(weight == 1 for weight in weights)
        if plain:
            networks = [network_text("f", ("X", inputs), ("Y", outputs))]
            total = [
                f"(* (- {name} {exact(middle)}) (- {name} {exact(middle)}))"
                for name, middle in zip(names, centre, strict=True)
            ]
        else:  # exact coefficients of squares that are multiplied out may have too many digits
            networks = _with_distances(inputs, outputs)
            total = [
                f"(* {exact(weight * weight)} {name} {name})"
                for name, weight in zip(elements("D", inputs), weights, strict=True)
            ]
        asserted = [
            *([] if plain else _same_inputs(inputs)),
            *within(names, self.ends()),
            f"(assert (<= (+ {' '.join(total)} 0.0) {exact(Fraction(self.epsilon) ** 2)}))",
            one_of(_named(self.sample, self, scored, classes)),
        ]
        return query_text(networks, asserted)


@dataclass(frozen=True, eq=False)
class L1Ball(_Ball):
    __doc__ = (_Ball.__doc__ or "") + "The distance is the sum of all entries' differences."

    _norm = "whose entries' differences add up to at most {} from those"

    @property
    def centre(self) -> Floats:
        """x as the model is given it."""
        return self.sample.given(self.x)

    @property
    def norm(self) -> tuple[int, Floats, float]:
        """The ball itself."""
        return 1, _weights(self.sample), self.epsilon

    def _written(self, inputs: Shape, outputs: Shape, classes: int) -> str:
        names, scored = elements("X", inputs), elements("Y", outputs)
        distances = elements("D", inputs)
        _, weights = _centre_and_weights(self.sample)
        total = [f"(* {exact(weight)} {name})" for name, weight in zip(distances, weights, strict=True)]
        asserted = [
            *_same_inputs(inputs),
            *within(names, self.ends()),
            f"(assert (<= (+ {' '.join(total)} 0.0) {exact(self.epsilon)}))",
            one_of(_named(self.sample, self, scored, classes)),
        ]
        return query_text(_with_distances(inputs, outputs), asserted)


def _with_distances(inputs: Shape, outputs: Shape) -> list[str]:
    """The model, and a network of entries' distances from the ball's centre."""
    return [
        network_text("f", ("X", inputs), ("Y", outputs)),
        "; D is the distance of each entry of U from the centre of the ball",
        network_text("distance", ("U", inputs), ("D", inputs)),
    ]


def _same_inputs(inputs: Shape) -> list[str]:
    """Assertions that both networks have one input."""
    pairs = zip(elements("U", inputs), elements("X", inputs), strict=True)
    return [f"(assert (== {u} {x}))" for u, x in pairs]


def _weights(sample: Sample) -> Floats:
    """How much a unit of each entry counts, in what the model is given."""
    return np.broadcast_to(np.asarray(sample.std, dtype=np.float64), sample.x.shape)


def _centre_and_weights(sample: Sample) -> tuple[list[float], list[float]]:
    """The ball's centre, and how much a unit of each entry counts, in what the model is given."""
    return sample.given(sample.x).ravel().tolist(), _weights(sample).ravel().tolist()


def _named(sample: Sample, ball: PropertyBuilder, scored: list[str], classes: int) -> list[str]:
    """The rows of all other classes, in the names of VNN-LIB 2.0."""
    rows = sample.rows(classes, type(ball).__name__, "{}")
    others = [i for i in range(classes) if i != sample.label]
    assert len(rows) == len(others)
    return [f"(>= {scored[i]} {scored[sample.label]})" for i in others]
