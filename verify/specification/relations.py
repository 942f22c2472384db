"""Relations of two runs of one model: monotone, fair, Lipschitz. Queries of VNN-LIB 2.0, of the model and its equal `g`.

Both runs may be the same one, where strict inequalities (a higher score, another class) fail by nothing at all. Bounds are of closed sets, so they
never refute that; what can be proved has a tolerance, a margin or a slack above 0. Without, the answer is a counterexample or none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

from verify.specification.base import (
    PropertyBuilder,
    Shape,
    box_of,
    elements,
    exact,
    fitted,
    many,
    network_text,
    one_of,
    query_text,
    readable,
    within,
)
from verify.validation import array, axes, flag, integer, real, refuse, shown

if TYPE_CHECKING:
    from verify.validation import Floats

Box: TypeAlias = tuple[Any, Any]
_MOST_ALTERNATIVES = 100_000


@dataclass(frozen=True, eq=False)
class _Relation(PropertyBuilder):
    """A box that both runs' inputs lie in: (lower, upper), arrays of the input's shape, or flat in row-major order."""

    box: Box

    def __post_init__(self) -> None:
        object.__setattr__(self, "box", box_of(type(self).__name__, self.box))

    def ends(self) -> tuple[Floats, Floats]:
        """The lower and the upper ends of the box."""
        return self.box

    def text_for(self, inputs: Shape, outputs: Shape) -> str:
        """The query in VNN-LIB 2.0, of a model with tensors of these shapes. Raises InputError where it is of another model."""
        fitted(self.box, inputs)
        x, u, y, w = (
            elements(name, shape)
            for name, shape in zip("XUYW", (inputs, inputs, outputs, outputs), strict=True)
        )
        networks = [
            network_text("f", ("X", inputs), ("Y", outputs)),
            network_text("g", ("U", inputs), ("W", outputs), same_as="f"),
        ]
        return query_text(networks, [*within(x, self.box), *within(u, self.box), *self._asserted(x, u, y, w)])

    def _asserted(self, x: list[str], u: list[str], y: list[str], w: list[str]) -> list[str]:
        """What is asserted of the elements of both runs' inputs and outputs, beside the box."""
        raise NotImplementedError

    @property
    def _pairs(self) -> str:
        return f"For all inputs x and x' in the box ({many(self.box[0].size, 'input')})"


@dataclass(frozen=True, eq=False)
class Monotone(_Relation):
    """Raising one input, all others as they are, does not lower an output (or with `up=False`, raise it). Raises InputError.

    feature: the input's place, counted flat in row-major order. output: likewise. tolerance: by how much the output may go the other
    way; with 0 a counterexample can be found, but nothing proved.
    """

    feature: int
    up: bool = True
    output: int = 0
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _set(self, "feature", integer("feature", self.feature, 0, self.box[0].size - 1))
        _set(self, "up", flag("up", self.up))
        _set(self, "output", integer("output", self.output, 0))
        _set(self, "tolerance", _from_zero("tolerance", self.tolerance))

    def _asserted(self, x: list[str], u: list[str], y: list[str], w: list[str]) -> list[str]:
        one, other = _output(y, self.output), _output(w, self.output)
        low, high = (other, one) if self.up else (one, other)
        return [
            *_same(x, u, {self.feature}),
            f"(assert (>= {u[self.feature]} {x[self.feature]}))",
            f"(assert (> {high} (+ {low} {exact(self.tolerance)})))",
        ]

    def sentence(self) -> str:
        """What is claimed of every two inputs."""
        but = "lowers" if self.up else "raises"
        most = f", or by at most {readable(self.tolerance)}" if self.tolerance else ""
        return f"{self._pairs}, raising input {self.feature} alone never {but} output {self.output}{most}."


@dataclass(frozen=True, eq=False)
class Fair(_Relation):
    """Inputs that differ in protected ones alone get the same class. Raises InputError.

    protected: places of inputs, counted flat in row-major order; or a mapping from places to the values that each may have (else it is
    anything in the box). The class is the highest output's, or of a single output whether it is above 0. margin: by how much both
    decisions have to win for them to differ; with 0 a counterexample can be found, but nothing proved.
    """

    protected: Sequence[int] | Mapping[int, Sequence[float]]
    margin: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _set(self, "protected", self._values())
        _set(self, "margin", _from_zero("margin", self.margin))

    def _values(self) -> dict[int, tuple[float, ...]]:
        """The values of each protected input; none where it is anything in the box."""
        given = self.protected
        places = axes("protected", list(given) if isinstance(given, Mapping) else given)
        if not places or len(set(places)) < len(places):
            refuse("protected", f"is {list(places)}", "give the places of some inputs, each once")
        found: dict[int, tuple[float, ...]] = {}
        low, high = (end.ravel() for end in self.box)
        for place in places:
            integer("protected", place, 0, self.box[0].size - 1)
            values = (
                array(f"the values of input {place}", given[place]).ravel()
                if isinstance(given, Mapping)
                else ()
            )
            if len(values) and not ((values >= low[place]) & (values <= high[place])).all():
                refuse(f"the values of input {place}", "leave the box", "give values within it")
            found[place] = tuple(sorted({float(value) for value in values}))
        if prod(max(1, len(values)) ** 2 for values in found.values()) > _MOST_ALTERNATIVES:
            refuse("protected", "has too many values", f"give at most {_MOST_ALTERNATIVES} pairs of them")
        return found

    def _asserted(self, x: list[str], u: list[str], y: list[str], w: list[str]) -> list[str]:
        protected: Any = self.protected
        asserted = _same(x, u, set(protected))
        some = {place: values for place, values in protected.items() if values}
        if some:
            asserted.append(one_of([_all(pair) for pair in self._settings(x, u, some)]))
        return [*asserted, one_of([_all(rows) for rows in self._decisions(y, w)])]

    def _settings(
        self, x: list[str], u: list[str], some: Mapping[int, tuple[float, ...]]
    ) -> Iterator[list[str]]:
        """All values that both runs' protected inputs may have together, but the same ones where there are others."""
        choices = list(product(*some.values()))
        for one, other in product(choices, choices):
            if one != other or len(choices) == 1 or len(some) < len(self.protected):
                values = [
                    *zip((x[i] for i in some), one, strict=True),
                    *zip((u[i] for i in some), other, strict=True),
                ]
                yield [f"(== {name} {exact(value)})" for name, value in values]

    def _decisions(self, y: list[str], w: list[str]) -> Iterator[list[str]]:
        """All ways to decide otherwise, the first run's class the lower one (the runs may change places)."""
        margin = exact(self.margin)
        if len(y) == 1:
            yield [f"(> {y[0]} {margin})", f"(< {w[0]} {exact(-self.margin)})"]
            return
        if len(y) > 1000:
            refuse("the model's output", f"has {len(y)} entries", "a Fair is of at most 1000 classes")
        for c in range(len(y)):
            for d in range(c + 1, len(y)):
                yield [
                    *(f"(> {y[c]} (+ {y[i]} {margin}))" for i in range(len(y)) if i != c),
                    *(f"(> {w[d]} (+ {w[i]} {margin}))" for i in range(len(w)) if i != d),
                ]

    def sentence(self) -> str:
        """What is claimed of every two inputs."""
        protected: Any = self.protected
        told = [f"{i} (one of {', '.join(map(readable, v))})" if v else str(i) for i, v in protected.items()]
        margin = f", at least not both by more than {readable(self.margin)}" if self.margin else ""
        names = "input " + told[0] if len(told) == 1 else "inputs " + ", ".join(told)
        return (
            f"{self._pairs} that differ in the protected {names} alone, no two get different classes{margin}."
        )


@dataclass(frozen=True, eq=False)
class Lipschitz(_Relation):
    """No output changes by more than `constant` times the largest change of an input, plus `slack`. Raises InputError.

    slack: what may be on top; with 0 a counterexample can be found, but nothing proved.
    """

    constant: float
    slack: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _set(self, "constant", _from_zero("constant", self.constant))
        _set(self, "slack", _from_zero("slack", self.slack))

    def _asserted(self, x: list[str], u: list[str], y: list[str], w: list[str]) -> list[str]:
        constant, slack = exact(self.constant), exact(self.slack)
        alternatives = []
        for one, other in zip(y, w, strict=True):
            rows = []
            for a, b in zip(x, u, strict=True):
                for plus, minus in ((a, b), (b, a)):
                    rows.append(f"(> (- {one} {other}) (+ (* {constant} (- {plus} {minus})) {slack}))")
            alternatives.append(_all(rows))
        return [one_of(alternatives)]

    def sentence(self) -> str:
        """What is claimed of every two inputs."""
        slack = f" plus {readable(self.slack)}" if self.slack else ""
        return (
            f"{self._pairs}, no output differs by more than {readable(self.constant)} times the largest difference of an "
            f"input{slack}."
        )


def _set(relation: _Relation, name: str, value: Any) -> None:
    object.__setattr__(relation, name, value)


def _from_zero(name: str, value: Any) -> float:
    found = real(name, value)
    if found < 0:
        refuse(name, f"is {found}", "give a number from 0 on")
    return found


def _output(names: list[str], place: int) -> str:
    if place >= len(names):
        refuse("output", f"is {shown(place)}", f"the model has {len(names)} outputs, counted from 0")
    return names[place]


def _same(x: list[str], u: list[str], but: set[int]) -> list[str]:
    """Assertions that both inputs are equal but at some places."""
    return [f"(assert (== {b} {a}))" for i, (a, b) in enumerate(zip(x, u, strict=True)) if i not in but]


def _all(formulas: Sequence[str]) -> str:
    return f"(and {' '.join(formulas)})"
