"""One sample of a classifier and what is known of its data: label, range, normalisation. What balls, patches and brightness begin with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from verify.specification.base import MOST_CLASSES, first, ordered, parts, readable, span
from verify.validation import array, integer, refuse, shown

if TYPE_CHECKING:
    from verify.validation import Floats


@dataclass(frozen=True)
class Sample:
    """A sample in the data's own units; the model is given `(x - mean) / std`. Made by `sample`."""

    x: Floats
    label: int
    classes: int | None
    clip: tuple[Any, Any] | None  # numbers, or arrays that broadcast to x
    mean: Floats | float
    std: Floats | float

    @property
    def normalised(self) -> bool:
        """Whether the model is given anything but the data as they are."""
        return bool(np.any(self.mean != np.float64(0)) or np.any(self.std != np.float64(1)))

    def given(self, data: Any) -> Floats:
        """Data as the model is given them, each computed in float64."""
        if not self.normalised:
            return np.array(data, dtype=np.float64)
        with np.errstate(over="ignore"):
            return np.asarray((data - self.mean) / self.std, dtype=np.float64)

    def cut(self, lower: Floats, upper: Floats) -> tuple[Floats, Floats]:
        """Ends within the data's range."""
        if self.clip is None:
            return lower, upper
        return np.maximum(lower, self.clip[0]), np.minimum(upper, self.clip[1])

    def rows(self, outputs: int | None, whose: str, name: str = "Y_{}") -> list[str]:
        """For every other class, that it is scored as high as the label's. Raises InputError where the label is out of range."""
        number = self.classes if outputs is None else integer("outputs", outputs, 0, MOST_CLASSES)
        if number is None:
            refuse(f"classes of a {whose}", "is not given", "give the number of the model's outputs")
        if self.classes not in (None, number):
            refuse(
                f"classes of a {whose}", f"is {self.classes}, the model has {number} outputs", "leave it out"
            )
        if not self.label < number or number < 2:
            remedy = "give the number of an output, of at least 2"
            refuse("label", f"{shown(self.label)} is not one of {number} classes", remedy)
        own = name.format(self.label)
        return [f"(>= {name.format(i)} {own})" for i in range(number) if i != self.label]

    @property
    def of_data(self) -> str:
        """How the data are given to the model and cut, in a sentence."""
        cut = "" if self.clip is None else f", cut to {span(*self.clip)}"
        return cut + (", before the model is given (x - mean) / std" if self.normalised else "")

    @property
    def claim(self) -> str:
        """What is claimed of all data of some kind, behind the words that say which."""
        told = self.of_data
        return f"{told}{',' if told else ''} {self.wins}."

    @property
    def wins(self) -> str:
        """What is claimed of the outputs."""
        return f"is given label {self.label}: output {self.label} is above all others"


def sample(whose: str, x: Any, label: Any, classes: Any, clip: Any, mean: Any, std: Any) -> Sample:
    """A sample, checked. Raises InputError."""
    x = array(f"x of a {whose}", x)
    label = integer("label", label, least=0)
    classes = None if classes is None else integer("classes", classes, 2, MOST_CLASSES)
    clip = None if clip is None else _limits(whose, clip, x)
    mean = 0.0 if mean is None else along(x, "mean", mean)
    std = 1.0 if std is None else along(x, "std", std)
    if wrong := first(np.asarray(std) <= 0, std):
        refuse(f"std, entry {wrong[0]},", f"is {readable(wrong[1][0])}", "give standard deviations above 0")
    return Sample(x, label, classes, clip, mean, std)


def along(x: Floats, name: str, value: Any) -> Any:
    """A number, an array of x's axes, each as long as x's or 1, or a number for each channel of an image. Raises InputError."""
    remedy = "give a number, an array of x's axes (each as long as x's or 1), or, of images, a number for each channel"
    given = array(name, value)
    channel = x.ndim - 3  # of [channels, height, width], with or without a batch axis
    if given.ndim == 1 and x.ndim in (3, 4) and 1 < given.size == x.shape[channel]:
        given = given.reshape(*(1,) * channel, -1, 1, 1)
    return like(name, given, x, remedy)


def like(name: str, given: Floats, x: Floats, remedy: str) -> Any:
    """A number, or an array of x's axes, each as long as x's or 1."""
    if given.size == 1:
        return float(given.reshape(-1)[0])
    if given.ndim == x.ndim and all(own in (1, size) for own, size in zip(given.shape, x.shape, strict=True)):
        return given
    refuse(name, f"has shape {list(given.shape)}, x has shape {list(x.shape)}", remedy)


def _limits(whose: str, clip: Any, x: Floats) -> tuple[Any, Any]:
    """The ends of `clip`, numbers or arrays of x's shape, with x between them."""
    remedy = "give a pair (lowest, highest), of numbers or arrays of x's shape, or None"
    ends = parts("clip", clip, remedy)
    if len(ends) != 2:
        refuse("clip", f"has {len(ends)} parts", remedy)
    low, high = (like("an end of clip", array("clip", end, finite=False), x, remedy) for end in ends)
    ordered("clip", low, high)
    if outside := first((x < low) | (x > high), x, low, high):
        place, (value, least, most) = outside
        refuse(
            f"x of a {whose} lies outside clip: x{place}",
            f"is {value}, clip is [{least}, {most}]",
            "give the range of your data as clip, or clip=None for none; of normalised data, give mean and std and x before "
            "normalisation",
        )
    return low, high
