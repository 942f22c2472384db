"""Light on an image: added to it, or multiplied with it, the same for all entries or as a field over the picture."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from verify.specification.base import Front, Shape, one_of, property_text, readable, summed
from verify.specification.images import Image
from verify.validation import array, integer, real, refuse

if TYPE_CHECKING:
    from verify.validation import Floats

_HIGHEST = 8  # exponent of a field


class _Lit(Image):
    """An image that is a sum of some, with coefficients in ranges; the property's inputs are the coefficients that may vary."""

    @abstractmethod
    def terms(self) -> Iterator[tuple[Floats, tuple[float, float]]]:
        """What the image is a sum of, in x's shape, each with its coefficient's range; the first is an input even where none may vary."""

    def _parted(self) -> tuple[list[tuple[Floats, tuple[float, float]]], list[tuple[Floats, float]]]:
        """The terms whose coefficients are inputs, and the others, whose are numbers."""
        terms = list(self.terms())
        moves = [low < high for _, (low, high) in terms]
        moves[0] |= not any(moves)
        varied = [term for term, free in zip(terms, moves, strict=True) if free]
        return varied, [
            (image, low) for (image, (low, _)), free in zip(terms, moves, strict=True) if not free
        ]

    @property
    def varied(self) -> list[tuple[float, float]]:
        """The ranges of the property's inputs."""
        return [ends for _, ends in self._parted()[0]]

    @property
    def front(self) -> Front:
        """What makes images of the property's inputs."""
        mean, std = (
            np.broadcast_to(np.asarray(part, dtype=np.float64), self.x.shape).ravel()
            for part in (self.sample.mean, self.sample.std)
        )
        varied, fixed = self._parted()
        offset = -mean
        for image, factor in fixed:
            offset = offset + factor * image.ravel()
        low, high = (-np.inf, np.inf) if self.sample.clip is None else self.sample.clip
        ends = [(np.broadcast_to(np.asarray(end), self.x.shape).ravel() - mean) / std for end in (low, high)]
        weight = np.stack([image.ravel() for image, _ in varied], 1) / std[:, None]
        return Front(weight, offset / std, ends[0], ends[1], self.x.shape)

    def ends(self) -> tuple[Floats, Floats]:
        """The lower and the upper ends of a box of all such images, as the model is given them."""
        front, box = self.front, np.array(self.varied)
        middle, half = box.mean(1), (box[:, 1] - box[:, 0]) / 2
        centre, reach = front.weight @ middle + front.offset, np.abs(front.weight) @ half
        slack = 1e-12 * (np.abs(front.weight) @ np.abs(box).max(1) + np.abs(front.offset))
        low, high = (
            np.clip(end, front.lower, front.upper) for end in (centre - reach - slack, centre + reach + slack)
        )
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            refuse("brightness and contrast", "make images of infinite values", "give smaller ranges")
        return low.reshape(self.x.shape), high.reshape(self.x.shape)

    def text_for(self, inputs: Shape, outputs: Shape) -> str:
        """The property in VNN-LIB 1.0, of the model behind what makes the images."""
        rows = self.sample.rows(self.classes(inputs, outputs), type(self).__name__)
        low, high = np.array(self.varied).T
        return property_text((low, high), len(rows) + 1, [one_of(rows)])


@dataclass(frozen=True, eq=False)
class Brightness(_Lit):
    """No image `clip(contrast x + brightness)` is given another label. Raises InputError.

    brightness: how much may be added to all entries, or (least, most). contrast: how far the factor may be from 1, or (least, most). Both
    are chosen once for all entries. The property's inputs are these numbers, those that may vary: X_0 is the brightness, if it may.
    """

    brightness: Any = 0.0
    contrast: Any = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        added, factor = _range("brightness", self.brightness, 0.0), _range("contrast", self.contrast, 1.0)
        object.__setattr__(self, "brightness", added)
        object.__setattr__(self, "contrast", factor)
        self.ends()

    def terms(self) -> Iterator[tuple[Floats, tuple[float, float]]]:
        """1 and x, with brightness and contrast."""
        yield np.ones_like(self.x), self.brightness
        yield self.x, self.contrast

    def sentence(self) -> str:
        """What is claimed of every input."""
        (b, most_b), (c, most_c) = self.brightness, self.contrast
        scaled, added = "c x" if c < most_c else summed([(c, "x")]), "b" if b < most_b else readable(b)
        ranges = [
            f"one {name} from {readable(low)} to {readable(high)}"
            for name, low, high in (("c", c, most_c), ("b", b, most_b))
            if low < high
        ]
        some = f" with {' and '.join(ranges)} for all its {self.x.size} entries" if ranges else ""
        return f"Every image {scaled} + {added}{some}{self.sample.claim}"


@dataclass(frozen=True, eq=False)
class BiasField(_Lit):
    """No image `clip(c x + b)` is given another label, with smooth fields c and b over the picture. Raises InputError.

    A field is a polynomial of u and v, which go from -1 to 1 down and across the image, with exponents up to `order`, the same in all channels.
    contrast: how far each coefficient of c may be from that of 1 (1 for the constant, else 0); brightness: how far each of b may be from 0; each a number,
    or an array [order + 1, order + 1], by the exponents of u and v. The property's inputs are the coefficients that may vary, those of c
    first, row by row.
    """

    order: int = 2
    contrast: Any = 0.0
    brightness: Any = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if np.ndim(self.x) < 2:
            refuse(
                "x of a BiasField",
                f"has shape {list(np.shape(self.x))}",
                "give an image: [.., height, width]",
            )
        order = integer("order", self.order, 0, _HIGHEST)
        object.__setattr__(self, "order", order)
        for name in ("contrast", "brightness"):
            object.__setattr__(self, name, _reaches(name, getattr(self, name), order))
        self.ends()

    def terms(self) -> Iterator[tuple[Floats, tuple[float, float]]]:
        """The image times each monomial, then the monomials."""
        u, v = (_across(size) for size in self.x.shape[-2:])
        for image, reaches, middle in (
            (self.x, self.contrast, 1.0),
            (np.ones_like(self.x), self.brightness, 0.0),
        ):
            for (i, j), reach in np.ndenumerate(reaches):
                centre = middle if i == j == 0 else 0.0
                yield image * np.outer(u**i, v**j), (centre - float(reach), centre + float(reach))

    def sentence(self) -> str:
        """What is claimed of every input."""
        fields = [
            (name, told)
            for name, reaches, middle in (("c", self.contrast, 1), ("b", self.brightness, 0))
            if (told := _told(reaches, middle))
        ]
        names = [name for name, _ in fields]
        image = ("c x" if "c" in names else "x") + (" + b" if "b" in names else "")
        some = (
            f" with {' and '.join(names)} polynomials of u and v, which go from -1 to 1 down and across the image, with exponents up to {self.order}: "
            + "; ".join(f"of {name} {told}" for name, told in fields)
            if fields
            else ""
        )
        return f"Every image {image}{some}{self.sample.claim}"


def _across(size: int) -> Floats:
    """Coordinates of so many pixels."""
    return np.linspace(-1.0, 1.0, size) if size > 1 else np.zeros(1)


def _reaches(name: str, value: Any, order: int) -> Floats:
    """How far each coefficient may be from its middle, [order + 1, order + 1]."""
    given, shape = array(name, value), (order + 1, order + 1)
    if given.shape not in ((), shape):
        refuse(name, f"has shape {list(given.shape)}", f"give a number, or an array of shape {list(shape)}")
    if not (given >= 0).all():
        refuse(name, f"is {given.min()}", "give how far coefficients may go to both sides, from 0 on")
    return np.array(np.broadcast_to(given, shape))


def _told(reaches: Floats, middle: int) -> str:
    """The coefficients of a field, in a sentence; nothing of one that is a number."""
    if not reaches.any():
        return ""
    first, others = float(reaches[0, 0]), np.delete(reaches.ravel(), 0)
    told = f"the constant within {readable(first)} of {middle}"
    if others.size:
        each = " at most (each has its own)" if others.min() < others.max() else ""
        told += f" and the others within {readable(others.max())} of 0{each}"
    return told


def _range(name: str, value: Any, middle: float) -> tuple[float, float]:
    """The ends of a range, or of one around a number that is as wide to both sides."""
    if isinstance(value, tuple | list):
        if len(value) != 2:
            refuse(name, f"has {len(value)} parts", "give a number, or a pair (least, most)")
        low, high = (real(name, end) for end in value)
    else:
        reach = real(name, value)
        if reach < 0:
            refuse(
                name,
                f"is {reach}",
                "give how far it may go to both sides, from 0 on, or a pair (least, most)",
            )
        low, high = middle - reach, middle + reach
    if low > high:
        refuse(name, f"is reversed: ({low}, {high})", "give (least, most)")
    return low, high
