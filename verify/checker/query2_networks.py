"""What a query of VNN-LIB 2.0 declares: networks, and their input, hidden and output variables."""

from __future__ import annotations

import math
from dataclasses import dataclass

from verify.checker.query2_words import Words

REAL = "real"
TYPES = (REAL, "float32", "float64")
INPUT, HIDDEN, OUTPUT = KINDS = ("input", "hidden", "output")
EQUAL, ISOMORPHIC = "equal-to", "isomorphic-to"
MOST_NUMBERS = 10**7  # of a variable
RESERVED = frozenset({"and", "or", "assert", REAL, *TYPES})


@dataclass(frozen=True)
class Variable:
    """A tensor, of `element_type` (or `real`); `onnx` is the name of a hidden one in its model."""

    name: str
    kind: str
    element_type: str
    shape: tuple[int, ...]
    onnx: str = ""

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Declared:
    """A network. `equal_to`: the one whose model it is another run of, or empty."""

    name: str
    equal_to: str
    variables: tuple[Variable, ...]

    def of(self, kind: str) -> tuple[Variable, ...]:
        """Its variables of a kind, in order."""
        return tuple(variable for variable in self.variables if variable.kind == kind)


class Declarations:
    """The networks of a query as they are read."""

    def __init__(self, words: Words) -> None:
        self._words = words
        self.networks: dict[str, Declared] = {}
        self._related: set[str] = set()  # networks that have a relation
        self._names: set[str] = set(RESERVED)

    def read(self) -> None:
        """Read the rest of a declaration of a network."""
        words = self._words
        name = self._new("name")
        relation, target = "", ""
        variables: list[Variable] = []
        while words.more():
            words.expect("(")
            head = words.next("name").text
            if head in (EQUAL, ISOMORPHIC):
                if variables or name in self._related:
                    words.fail(f"{head} stands where no relation may")
                self._related.add(name)
                relation, target = head, words.next("name").text
                if target not in self.networks or target in self._related:
                    words.fail(f"{target[:60]!r} is declared by no statement before, or is related itself")
                words.expect(")")
            elif head.startswith("declare-") and head[8:] in KINDS:
                variables.append(self._variable(head[8:], variables))
            else:
                words.fail(f"unknown declaration {head[:60]!r}")
        # one that is only of the same form has a model of its own
        found = Declared(name, target if relation == EQUAL else "", tuple(variables))
        for kind in (INPUT, OUTPUT):
            shapes = [variable.shape for variable in found.of(kind)]
            if not shapes:
                words.fail(f"the network {name} has no {kind}s")
            if target and shapes != [variable.shape for variable in self.networks[target].of(kind)]:
                words.fail(f"{name} is {relation} {target}, and declared with other {kind}s")
        self.networks[name] = found

    def _new(self, kind: str) -> str:
        """Read a name that nothing has yet."""
        name = self._words.next(kind).text
        if name in self._names:
            self._words.fail(f"{name[:60]!r} is a name that there is already")
        self._names.add(name)
        return name

    def _variable(self, kind: str, before: list[Variable]) -> Variable:
        """Read the rest of a declaration of a variable."""
        words = self._words
        if before and KINDS.index(before[-1].kind) > KINDS.index(kind):
            words.fail("inputs come first, then hidden variables, then outputs")
        name, element_type = self._new("name"), words.next("name").text
        if "-" in name:
            words.fail(f"{name[:60]!r} is no variable's name")
        if element_type not in TYPES:
            words.fail(f"variables of type {element_type[:60]!r}, which is none of {', '.join(TYPES)}")
        shape = words.next("shape").indices
        if math.prod(shape) not in range(1, MOST_NUMBERS + 1):
            words.fail(f"{name} is empty or too large")
        onnx = words.next("string").text[1:-1] if kind == HIDDEN else ""
        words.expect(")")
        return Variable(name, kind, element_type, shape, onnx)
