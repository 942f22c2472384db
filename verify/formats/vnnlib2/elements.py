"""Elements of variables by their text: `X[0,3]` to a number, without a line of Python per token once it is known.

As in VNN-LIB 1.0, input i of the joint network has the code 2 i and output j the code 2 j + 1.
"""

from __future__ import annotations

import re

from verify.formats.vnnlib.literals import RightSides
from verify.formats.vnnlib2.declarations import INPUT, Variable

_ELEMENT = re.compile(r"([A-Za-z][A-Za-z0-9_]*)(?:\[([0-9,]+)\])?\Z", re.ASCII)


def place_in(shape: tuple[int, ...], indices: list[int]) -> int:
    """The place in row-major order; IndexError where the indices do not fit the shape."""
    if len(indices) != len(shape):
        raise IndexError(f"{len(indices)} indices, its shape {list(shape)} has {len(shape)}")
    place = 0
    for axis, (index, size) in enumerate(zip(indices, shape, strict=True)):
        if not 0 <= index < size:
            raise IndexError(f"index {index} on axis {axis}, which has {size} entries")
        place = place * size + index
    return place


class Elements(dict[str, int]):
    """Codes of elements by text, found out when first asked for; KeyError for what is no element.

    Initialized inputs are constants, which the network computes: their codes are those of outputs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.variables: dict[str, Variable] = {}
        self.first: dict[str, int] = {}  # of each variable: the code of its first element
        self._sizes = [0, 0]

    def add(self, variable: Variable) -> None:
        """Give a variable the next codes of its side."""
        side = variable.kind != INPUT
        self.variables[variable.name] = variable
        self.first[variable.name] = 2 * self._sizes[side] + side
        self._sizes[side] += variable.size

    @property
    def inputs(self) -> int:
        """How many codes there are for inputs."""
        return self._sizes[0]

    @property
    def outputs(self) -> int:
        """How many codes there are for outputs and hidden variables."""
        return self._sizes[1]

    def __missing__(self, text: str) -> int:
        match = _ELEMENT.match(text)
        if match is None or match.group(1) not in self.variables:
            raise KeyError(text)
        try:
            indices = [] if match.group(2) is None else [int(part) for part in match.group(2).split(",")]
            code = self.code(match.group(1), indices)
        except (ValueError, IndexError):
            raise KeyError(text) from None
        self[text] = code
        return code

    def code(self, name: str, indices: list[int]) -> int:
        """The code of an element; IndexError where the indices do not fit."""
        return self.first[name] + 2 * place_in(self.variables[name].shape, indices)


class Operands(RightSides):
    """Right sides of atoms by text, as in VNN-LIB 1.0: elements beside literals."""

    def __init__(self, elements: Elements) -> None:
        super().__init__()
        self._elements = elements

    def __missing__(self, text: str) -> int:
        if not text[0].isalpha():
            return super().__missing__(text)
        self[text] = number = -1 - self._elements[text]
        return number
