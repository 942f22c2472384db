"""Properties as expressions: `Always((y[0] <= y[1]) | (x[2] > 0.5), box)`.

`x` and `y` are the model's input and output: `y[0]` counts flat in row-major order, `y[0, 2]` by the axes of the shape (axes of 1 may be left out). Terms
are sums and products of them and of numbers, which are taken as the floats that they are; conditions compare terms by <=, <, >=, >, == and != and
are joined by & and |, and ~ denies them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeAlias

import numpy as np

from verify.specification.base import (
    PropertyBuilder,
    Shape,
    box_of,
    elements,
    exact,
    fitted,
    flat_names,
    many,
    network_text,
    property_text,
    query_text,
    summed,
    within,
)
from verify.validation import integer, real, refuse, shown

if TYPE_CHECKING:
    from verify.validation import Floats

# a variable: which tensor, and its indices
Reference: TypeAlias = tuple[str, tuple[int, ...]]
Monomial: TypeAlias = tuple[Reference, ...]
_NEGATION = {"<=": ">", "<": ">=", ">=": "<", ">": "<=", "==": "!=", "!=": "=="}
_MOST_TERMS = 1_000_000
_HOW = "write each comparison by itself, join them by & and |, and put parentheses around each: (0 <= y[0]) & (y[0] <= 1)"


class _NoTruth:
    """What Python is not to take for true or false, nor to iterate over."""

    __array_ufunc__ = None  # numpy's numbers leave arithmetic to us
    __iter__ = None
    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> NoReturn:
        refuse("a condition", "is neither true nor false by itself (and, or, not, a < b < c, if)", _HOW)


class Tensor(_NoTruth):
    """The model's input or output, as a whole: its elements are terms."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getitem__(self, place: Any) -> Term:
        places = place if isinstance(place, tuple) else (place,)
        found = tuple(integer(f"an index of {self._name}", index, 0, 2**53) for index in places)
        if not found:
            refuse(f"an index of {self._name}", "is empty", f"write {self._name}[0] or {self._name}[0, 2]")
        return Term({((self._name, found),): Fraction(1)})

    def _whole(self, _: Any) -> NoReturn:
        """There is no arithmetic of whole tensors."""
        refuse(
            "an expression", f"has all of {self} where a term belongs", f"take elements, such as {self}[0]"
        )

    __le__ = __lt__ = __ge__ = __gt__ = __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _whole
    __eq__ = __ne__ = _whole

    def __repr__(self) -> str:
        return self._name


class Term(_NoTruth):
    """A polynomial of elements of `x` and `y`, exactly."""

    def __init__(self, terms: dict[Monomial, Fraction]) -> None:
        if len(terms) > _MOST_TERMS:
            refuse("an expression", f"has {len(terms)} terms", f"write at most {_MOST_TERMS}")
        self.terms = {monomial: factor for monomial, factor in terms.items() if factor}

    def __add__(self, other: Any) -> Term:
        found = dict(self.terms)
        for monomial, factor in _term(other).terms.items():
            found[monomial] = found.get(monomial, Fraction(0)) + factor
        return Term(found)

    def __mul__(self, other: Any) -> Term:
        found: dict[Monomial, Fraction] = {}
        for one, first in self.terms.items():
            for two, second in _term(other).terms.items():
                monomial = tuple(sorted(one + two))
                found[monomial] = found.get(monomial, Fraction(0)) + first * second
        return Term(found)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Term:
        return self * -1

    def __pos__(self) -> Term:
        return self

    def __sub__(self, other: Any) -> Term:
        return self + -_term(other)

    def __rsub__(self, other: Any) -> Term:
        return _term(other) + -self

    def __le__(self, other: Any) -> Condition:
        return _compared("<=", self, other)

    def __lt__(self, other: Any) -> Condition:
        return _compared("<", self, other)

    def __ge__(self, other: Any) -> Condition:
        return _compared(">=", self, other)

    def __gt__(self, other: Any) -> Condition:
        return _compared(">", self, other)

    def __eq__(self, other: Any) -> Condition:  # type: ignore[override]
        return _compared("==", self, other)

    def __ne__(self, other: Any) -> Condition:  # type: ignore[override]
        return _compared("!=", self, other)

    def __repr__(self) -> str:
        return summed(
            (factor, " ".join(f"{name}[{', '.join(map(str, place))}]" for name, place in monomial))
            for monomial, factor in self.terms.items()
        )

    @property
    def references(self) -> Iterator[Reference]:
        """The variables in it."""
        return (reference for monomial in self.terms for reference in monomial)

    @property
    def linear(self) -> bool:
        """Whether no variables are multiplied."""
        return all(len(monomial) < 2 for monomial in self.terms)


class Condition(_NoTruth):
    """Comparisons, joined by & and |."""

    def __and__(self, other: Any) -> Condition:
        return Joined("and", (self, _condition(other)))

    def __or__(self, other: Any) -> Condition:
        return Joined("or", (self, _condition(other)))

    def __invert__(self) -> Condition:
        raise NotImplementedError

    @property
    def compared(self) -> Iterator[Compared]:
        """The comparisons in it."""
        raise NotImplementedError

    def text(self, names: dict[Reference, str]) -> str:
        """It in VNN-LIB, by the names of variables."""
        raise NotImplementedError


class Compared(Condition):
    """A term that is compared with 0; `shown` is how it was written."""

    def __init__(self, operator: str, term: Term, shown_as: str) -> None:
        self.operator, self.term, self._shown = operator, term, shown_as

    def __invert__(self) -> Condition:
        left, right = self._shown.split(f" {self.operator} ", 1)
        denied = _NEGATION[self.operator]
        return Compared(denied, self.term, f"{left} {denied} {right}")

    @property
    def compared(self) -> Iterator[Compared]:
        yield self

    def text(self, names: dict[Reference, str]) -> str:
        constant = self.term.terms.get((), Fraction(0))
        terms = [
            " ".join(names[reference] for reference in monomial)
            if factor == 1 and len(monomial) == 1
            else f"(* {exact(factor)} {' '.join(names[reference] for reference in monomial)})"
            for monomial, factor in self.term.terms.items()
            if monomial
        ]
        left, right = terms[0] if len(terms) == 1 else f"(+ {' '.join(terms)})", exact(-constant)
        if self.operator == "!=":  # which VNN-LIB 1.0 lacks
            return f"(or (< {left} {right}) (> {left} {right}))"
        return f"({self.operator} {left} {right})"

    def __repr__(self) -> str:
        return self._shown


class Joined(Condition):
    """Conditions of which all hold, or at least one does."""

    _OTHER: ClassVar[dict[str, str]] = {"and": "or", "or": "and"}

    def __init__(self, word: str, parts: tuple[Condition, ...]) -> None:
        flat: list[Condition] = []
        for part in parts:
            flat += part.parts if isinstance(part, Joined) and part.word == word else [part]
        self.word: str = word
        self.parts: tuple[Condition, ...] = tuple(flat)

    def __invert__(self) -> Condition:
        return Joined(self._OTHER[self.word], tuple(~part for part in self.parts))

    @property
    def compared(self) -> Iterator[Compared]:
        return (one for part in self.parts for one in part.compared)

    def text(self, names: dict[Reference, str]) -> str:
        return f"({self.word} {' '.join(part.text(names) for part in self.parts)})"

    def __repr__(self) -> str:
        inner = (f"({part!r})" if isinstance(part, Joined) else repr(part) for part in self.parts)
        return f" {self.word} ".join(inner)


def _term(value: Any) -> Term:
    """A term, or the number that a value is."""
    if isinstance(value, Term):
        return value
    if isinstance(value, _NoTruth):
        refuse("an expression", f"has {value!r} where a term belongs", f"take elements, such as y[0]; {_HOW}")
    return Term({(): Fraction(real("a number in an expression", value))})


def _compared(operator: str, left: Term, right: Any) -> Condition:
    other = _term(right)
    term = left - other
    if not any(term.terms):
        refuse(
            "a comparison", f"is of no variable: {left!r} {operator} {other!r}", "compare elements of x and y"
        )
    return Compared(operator, term, f"{left!r} {operator} {other!r}")


def _condition(value: Any) -> Condition:
    if not isinstance(value, Condition):
        refuse("a condition", f"is {shown(value)}", _HOW)
    return value


@dataclass(frozen=True, eq=False)
class _OfCondition(PropertyBuilder):
    """A condition and the box of inputs that it is about: (lower, upper), arrays of the input's shape, or flat. Raises InputError."""

    condition: Condition
    box: tuple[Any, Any]

    def __post_init__(self) -> None:
        _condition(self.condition)
        object.__setattr__(self, "box", box_of(type(self).__name__, self.box))

    @property
    def unsafe(self) -> Condition:
        """What must not be."""
        raise NotImplementedError

    def ends(self) -> tuple[Floats, Floats]:
        """The lower and the upper ends of the box."""
        return self.box

    def text_for(self, inputs: Shape, outputs: Shape) -> str:
        """The property of a model with tensors of these shapes, in VNN-LIB 1.0 where it is linear, else 2.0. Raises InputError."""
        fitted(self.box, inputs)
        unsafe = self.unsafe
        flat = {
            (name, place): _flat(name, place, inputs if name == "x" else outputs)
            for one in unsafe.compared
            for name, place in one.term.references
        }
        if all(one.term.linear for one in unsafe.compared):
            names = flat_names(prod(inputs), prod(outputs))
            x, y = names[: prod(inputs)], names[prod(inputs) :]
        else:
            x, y = elements("X", inputs), elements("Y", outputs)
        spelled = {key: (x if key[0] == "x" else y)[place] for key, place in flat.items()}
        asserted = [f"(assert {unsafe.text(spelled)})"]
        if x[0].startswith("X_"):
            return property_text(self.box, len(y), asserted)
        networks = [network_text("f", ("X", inputs), ("Y", outputs))]
        return query_text(networks, [*within(x, self.box), *asserted])

    @property
    def _inputs(self) -> str:
        return many(self.box[0].size, "input")


@dataclass(frozen=True, eq=False)
class Always(_OfCondition):
    __doc__ = (_OfCondition.__doc__ or "") + "The condition holds for every input in the box."

    @property
    def unsafe(self) -> Condition:
        """What must not be: the contrary."""
        return ~self.condition

    def sentence(self) -> str:
        """What is claimed of every input."""
        return f"For every input x in the box ({self._inputs}), with output y: {self.condition!r}."


@dataclass(frozen=True, eq=False)
class Never(_OfCondition):
    __doc__ = (_OfCondition.__doc__ or "") + "The condition holds for no input in the box."

    @property
    def unsafe(self) -> Condition:
        """What must not be."""
        return self.condition

    def sentence(self) -> str:
        """What is claimed of every input."""
        return f"For no input x in the box ({self._inputs}), with output y: {self.condition!r}."


def _flat(name: str, place: tuple[int, ...], shape: Shape) -> int:
    """The place of an element, flat; refuses what is none of the shape."""
    long = tuple(size for size in shape if size != 1)
    for sizes in ((prod(shape),), shape, long):
        if len(place) == len(sizes) and all(index < size for index, size in zip(place, sizes, strict=True)):
            return int(np.ravel_multi_index(place, sizes)) if sizes else 0
    refuse(
        f"{name}[{', '.join(map(str, place))}]",
        f"is no element: {name} has shape {list(shape)}",
        f"count flat, up to {name}[{prod(shape) - 1}], or give an index for each axis",
    )


x, y = Tensor("x"), Tensor("y")
