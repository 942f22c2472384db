"""What all properties built in Python have in common: a box, a text in VNN-LIB, and a sentence that says what they mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from verify.validation import array, fitting, refuse, shown

if TYPE_CHECKING:
    from verify.validation import Floats

Shape = tuple[int, ...]
MOST_CLASSES = 1_000_000  # each is a clause of its own


@dataclass(frozen=True, eq=False)
class Front:
    """An affine map and a cut before the model, whose inputs a property speaks of: `x = clip(weight z + offset)`.

    weight: [model's inputs, inputs]. offset, lower and upper: [model's inputs], the ends all finite or all infinite. image: the shape of x.
    """

    weight: Floats
    offset: Floats
    lower: Floats
    upper: Floats
    image: Shape

    @property
    def cuts(self) -> bool:
        """Whether there is anything to cut."""
        return bool(np.isfinite(self.lower).all())


class PropertyBuilder(ABC):
    """A property built in Python. `str` says in a sentence what it claims."""

    @abstractmethod
    def ends(self) -> tuple[Floats, Floats]:
        """The lower and the upper ends of a box that all inputs of the model in question lie in, of one sample's shape or flat."""

    @abstractmethod
    def text_for(self, inputs: Shape, outputs: Shape) -> str:
        """The property in VNN-LIB, of a model with tensors of these shapes. Raises InputError where it is of another model."""

    @abstractmethod
    def sentence(self) -> str:
        """What is claimed of every input."""

    def __str__(self) -> str:
        return self.sentence()

    @property
    def front(self) -> Front | None:
        """What is put before the model, if anything."""
        return None

    @property
    def centre(self) -> Floats | None:
        """The point whose distances, entry by entry, a network of the text called `distance` gives; the centre of a ball."""
        return None

    @property
    def norm(self) -> tuple[int, Floats, float] | None:
        """Of a ball around the centre that all inputs lie in: 1 or 2, the weights of entries' differences, and the radius."""
        return None


def exact(number: float | Fraction) -> str:
    """The very number as a decimal; of fractions those whose denominators are powers of 2."""
    if isinstance(number, Fraction):
        digits = number.denominator.bit_length() - 1
        scaled = number.numerator * 5**digits
        text = str(abs(scaled)).rjust(digits + 1, "0")
        whole, rest = text[: len(text) - digits], text[len(text) - digits :].rstrip("0") or "0"
        return f"{'-' if scaled < 0 else ''}{whole}.{rest}"
    text = f"{Decimal(number):f}"
    return text if "." in text else f"{text}.0"


def declared(names: Sequence[str]) -> list[str]:
    """Declarations of VNN-LIB 1.0."""
    return [f"(declare-const {name} Real)" for name in names]


def flat_names(inputs: int, outputs: int) -> list[str]:
    """The names of variables in VNN-LIB 1.0."""
    return [f"X_{i}" for i in range(inputs)] + [f"Y_{i}" for i in range(outputs)]


def within(names: Sequence[str], box: tuple[Floats, Floats]) -> list[str]:
    """Assertions that variables lie in a box."""
    ends = zip(names, *(end.ravel().tolist() for end in box), strict=True)
    return [
        line
        for name, low, high in ends
        for line in (f"(assert (>= {name} {exact(low)}))", f"(assert (<= {name} {exact(high)}))")
    ]


def one_of(formulas: Sequence[str]) -> str:
    """An assertion that at least one of some formulas holds."""
    return f"(assert (or {' '.join(formulas)}))"


def property_text(box: tuple[Floats, Floats], outputs: int, asserted: Sequence[str]) -> str:
    """A property in VNN-LIB 1.0: inputs in a box, and what is asserted beside."""
    names = flat_names(box[0].size, outputs)
    return "\n".join([*declared(names), *within(names[: box[0].size], box), *asserted, ""])


def elements(name: str, shape: Shape) -> list[str]:
    """The elements of a tensor as VNN-LIB 2.0 writes them, in row-major order."""
    return [f"{name}[{','.join(map(str, place))}]" if place else name for place in np.ndindex(*shape)]


def network_text(name: str, given: tuple[str, Shape], result: tuple[str, Shape], same_as: str = "") -> str:
    """A declaration of VNN-LIB 2.0: a network of one input and one output, each a name and a shape."""
    relation = f" (equal-to {same_as})" if same_as else ""
    (x, inputs), (y, outputs) = given, result
    return (
        f"(declare-network {name}{relation} (declare-input {x} real {list(inputs)}) "
        f"(declare-output {y} real {list(outputs)}))"
    ).replace(", ", ",")


def query_text(networks: Sequence[str], asserted: Sequence[str]) -> str:
    """A query in VNN-LIB 2.0."""
    return "\n".join(["(vnnlib-version <2.0>)", *networks, *asserted, ""])


def parts(name: str, value: Any, remedy: str) -> tuple[Any, ...]:
    """The parts of a sequence, at least one."""
    several = (
        isinstance(value, Sized)
        and isinstance(value, Iterable)
        and not isinstance(value, str | bytes | Mapping)
    )
    try:
        found = tuple(value) if several else ()
    except Exception as error:  # other people's classes raise what they like
        refuse(name, f"is {shown(value)}, which has no parts ({error})", remedy)
    return found or refuse(name, f"is {shown(value)}" + (", and empty" if several else ""), remedy)


def first(wrong: Any, *numbers: Any) -> tuple[list[int], list[float]] | None:
    """The first place that is wrong, and the numbers there."""
    places = np.argwhere(np.atleast_1d(wrong))
    if not len(places):
        return None
    place = tuple(map(int, places[0]))
    return list(place), [
        float(part[place]) for part in np.broadcast_arrays(np.atleast_1d(wrong), *numbers)[1:]
    ]


def ordered(name: str, lower: Any, upper: Any) -> None:
    """Refuses ends that are reversed."""
    if wrong := first(lower > upper, lower, upper):
        place, (low, high) = wrong
        refuse(
            name,
            f"is reversed at {place}: its lower end is {low}, its upper end {high}",
            "give (lower, upper)",
        )


def box_of(whose: str, value: Any) -> tuple[Floats, Floats]:
    """The ends of a box. Raises InputError."""
    remedy = "give a pair of arrays, (lower, upper)"
    box = parts(f"the box of a {whose}", value, remedy)
    if len(box) != 2:
        refuse(f"the box of a {whose}", f"has {len(box)} parts", remedy)
    lower, upper = (
        array(f"the {k} end of the box", end) for k, end in zip(("lower", "upper"), box, strict=True)
    )
    if lower.shape != upper.shape:
        found = f"have shapes {list(lower.shape)} and {list(upper.shape)}"
        refuse("the ends of the box", found, f"a {whose} needs a box of two equal shapes")
    ordered(f"the box of a {whose}", lower, upper)
    return lower, upper


def fitted(box: tuple[Floats, Floats], inputs: Shape) -> None:
    """Refuses a box of another shape than the model's input."""
    fitting("the box", box[0].shape, inputs, "the model's input")


def scores(of: str, inputs: Shape, outputs: Shape) -> int:
    """The number of classes of a classifier. Raises InputError for a model that is none, or of a batch."""
    axes = [size for size in outputs if size != 1] or [1]
    if len(axes) > 1:
        found = f"has shape {list(outputs)}, which is no list of scores"
        remedy = (
            f"a {of} is of classifiers, and of one sample, no batch; of other models write a Specification"
        )
        refuse("the model's output", found, remedy)
    if len(outputs) > 1 and outputs[0] == inputs[0] > 1:
        refuse(f"x of a {of}", f"is a batch of {inputs[0]}", "give one sample, with a batch axis of 1")
    return axes[0]


def many(number: int, what: str) -> str:
    """So many of something."""
    return f"{number} {what}" + ("" if number == 1 else "s")


def readable(number: float | Fraction) -> str:
    """A number in a sentence."""
    if isinstance(number, Fraction):  # which may be beyond all floats
        found = Context(prec=10).divide(Decimal(number.numerator), Decimal(number.denominator)).normalize()
        return f"{found:f}" if -6 < found.adjusted() < 10 else f"{found:e}"
    return f"{number:.10g}"


def summed(terms: Iterable[tuple[float | Fraction, str]]) -> str:
    """A sum of multiples of what has names ("" is a constant), in a sentence."""
    parts = list[str]()
    for factor, name in terms:
        absolute = -factor if factor < 0 else factor
        size = "" if absolute == 1 and name else readable(absolute) + " " * bool(name)
        parts.append((("- " if factor < 0 else "+ ") if parts else "-" * (factor < 0)) + size + name)
    return " ".join(parts) or "0"


def span(low: Any, high: Any) -> str:
    """An interval, or the hull of several, in a sentence."""
    least, most = float(np.min(low)), float(np.max(high))
    each = bool(np.any(np.asarray(low) != least) or np.any(np.asarray(high) != most))
    return f"[{readable(least)}, {readable(most)}]" + (" at most (each entry has its own)" if each else "")
