"""Counterexamples as text: the standard's assignments and VNN-COMP's 1.0 form.

The idea: a witness is worth something only if its reader gets the very same floats back. So each value is
written as the shortest decimal that returns to it *in the element type of its tensor* (a float32 0.1 is
`0.1`, not `0.10000000149011612`), which is at once exact and readable. Everything here is a pure function on
numpy arrays; whether the point really is a counterexample is decided elsewhere, before anything is written.

The standard's form gives each variable, in order of declaration, as a header line and one value a line in
row-major order:

    X float32 [1,2]
    0.5
    -1e-05

VNN-COMP's form knows flat inputs and outputs only: `((X_0 0.5)`, `(X_1 -1e-05)`, ..., `(Y_0 3.0))`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from verify.errors import SpecificationError

_HEADER: Final = re.compile(r"(\S+)\s+(\w+)\s+\[\s*((?:\d+\s*(?:,\s*\d+\s*)*)?)\]\Z", re.ASCII)
_NAMES: Final = {
    **{f"float{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
    **{f"{sign}int{bits}": np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "bool": np.dtype("bool"),
}
_READ: Final = {**_NAMES, "real": np.dtype("float64")}


def format_value(value: Any) -> str:
    """The shortest decimal that returns to a numpy scalar in its own type; ValueError if it is not finite."""
    if isinstance(value, np.bool_):
        return "1" if value else "0"
    if not np.isfinite(value):
        raise ValueError(f"a witness cannot hold {value}")
    return str(value)


def _values(array: NDArray[Any]) -> list[str]:
    if array.dtype.name not in _NAMES:
        raise ValueError(f"a witness cannot hold elements of type {array.dtype}")
    return [format_value(value) for value in array.ravel()]


def format_assignment(variables: Mapping[str, NDArray[Any]], types: Mapping[str, str] | None = None) -> str:
    """The standard's text for variables of any shape, in the mapping's order, ending with a newline.

    types: what to call the element types of some of them, where that is not what the arrays hold (`real`). Raises ValueError for values that are not finite or of a type that ONNX arithmetic here does not know.
    """
    lines: list[str] = []
    for name, array in variables.items():
        shape = ",".join(map(str, array.shape))
        label = (types or {}).get(name, array.dtype.name)
        lines += [f"{name} {label} [{shape}]", *_values(array)]
    return "".join(line + "\n" for line in lines)


def format_competition(inputs: NDArray[Any], outputs: NDArray[Any]) -> str:
    """VNN-COMP 1.0 text for inputs and outputs of any shape, read in row-major order, ending with a newline.

    Raises ValueError for values that are not finite or of a type that ONNX arithmetic here does not know.
    """
    pairs = [
        f"({letter}_{k} {text})"
        for letter, array in (("X", inputs), ("Y", outputs))
        for k, text in enumerate(_values(array))
    ]
    return "(" + "\n ".join(pairs) + ")\n"


def parse_assignment(text: str, source: str = "<text>") -> dict[str, NDArray[Any]]:
    """Read the standard's text back: arrays by name, each with its type and shape.

    Raises SpecificationError, with line and column, for a malformed header, an unknown type, a name given
    twice, a value that is none of its type, and a wrong number of values.
    """
    found: dict[str, NDArray[Any]] = {}
    lines = [(k, line.strip()) for k, line in enumerate(text.splitlines(), 1) if line.strip()]
    at = 0
    while at < len(lines):
        number, line = lines[at]
        name, dtype, shape = _header(line, number, source)
        if name in found:
            raise SpecificationError(source, number, 1, f"{name} is given twice", "give each variable once")
        size = int(np.prod(shape, dtype=np.int64))
        body = lines[at + 1 : at + 1 + size]
        if len(body) < size:
            reason = f"{name} has {len(body)} of its {size} values"
            raise SpecificationError(source, number, 1, reason, "write one value a line")
        found[name] = _array(body, dtype, source).reshape(shape)
        at += 1 + size
    return found


def _header(line: str, number: int, source: str) -> tuple[str, np.dtype[Any], tuple[int, ...]]:
    match = _HEADER.match(line)
    if match is None or match.group(2) not in _READ:
        raise SpecificationError(
            source, number, 1, f"{line[:60]!r} is no header of a variable", "write it as: X float32 [1,5]"
        )
    shape = tuple(int(part) for part in match.group(3).split(",") if part.strip())
    return match.group(1), _READ[match.group(2)], shape


def _array(lines: list[tuple[int, str]], dtype: np.dtype[Any], source: str) -> NDArray[Any]:
    values = np.empty(len(lines), dtype=dtype)
    for k, (number, text) in enumerate(lines):
        try:
            values[k] = dtype.type(int(text) if dtype.kind in "iub" else text)
        except (ValueError, OverflowError):
            reason = f"{text[:60]!r} is no value of type {dtype.name}"
            raise SpecificationError(source, number, 1, reason, "write one value a line") from None
    return values
