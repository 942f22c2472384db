"""From a file or a text to a query, or to a property where it is of version 1.0."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import numpy as np

from verify.deadline import Deadline
from verify.errors import UnboundedInputError
from verify.formats.vnnlib import Property
from verify.formats.vnnlib import parse as parse_property
from verify.formats.vnnlib.files import MAXIMUM_BYTES, clauses_of, text_of, within
from verify.formats.vnnlib.formula import EQ
from verify.formats.vnnlib.literals import Integers
from verify.formats.vnnlib2.query import Query
from verify.formats.vnnlib2.reader import QueryReader
from verify.formats.vnnlib2.relations import derive_bounds, drop_unused_products, merge_equal_inputs

_BLANK = re.compile(r"(?:\s|;[^\n\r]*[\n\r])*", re.ASCII)
_HEAD = re.compile(r"\(\s*(?:vnnlib-version(?!\s+<?1\.)|declare-network)(?![^\s()])", re.ASCII)


def is_query(text: str) -> bool:
    """Whether a text is of version 2.0, by its first statement."""
    blank = _BLANK.match(text)
    return _HEAD.match(text, blank.end() if blank else 0) is not None


def read(
    path: str | Path, deadline: Deadline | None = None, most_bytes: int = MAXIMUM_BYTES
) -> Query | Property:
    """Read a VNN-LIB file of either version, plain or gzip, of at most `most_bytes` unpacked.

    Raises SpecificationError, and OutOfTimeError at the deadline.
    """
    return parse(text_of(path, deadline, most_bytes), str(path), deadline)


def parse(text: str, source: str = "<text>", deadline: Deadline | None = None) -> Query | Property:
    """Read VNN-LIB text of either version. Raises SpecificationError, and OutOfTimeError at the deadline."""
    reader = parse_query if is_query(text) else parse_property
    return reader(text, source, deadline)


def parse_query(text: str, source: str = "<text>", deadline: Deadline | None = None) -> Query:
    """Read a query from VNN-LIB 2.0 text.

    Raises SpecificationError, with the place, the finding and the remedy, for text that is malformed, not well-typed or
    too extreme to be kept exact; UnboundedInputError for an input without both bounds; OutOfTimeError at the deadline.
    """
    with within(deadline):
        return _parsed(text, source)


def _parsed(text: str, source: str) -> Query:
    reader = QueryReader(text, source)
    reader.read_query()
    drop_unused_products(reader)
    if reader.elements.inputs:
        input_of = merge_equal_inputs(reader)
        derive_bounds(reader, input_of)
    else:
        input_of = np.zeros(0, dtype=np.int64)
        idle = {0: Fraction(1)}, Fraction(0)
        reader.parts.append(reader.compared(EQ, idle))
    inputs = int(input_of.max(initial=0)) + 1
    products = tuple(reader.factors.values())
    outputs = reader.elements.outputs + len(products)
    clauses = clauses_of(reader.formula(), inputs, outputs, source)
    if clauses.boxes.unbounded is not None:
        _unbounded(reader, input_of, clauses.boxes.unbounded)
    property_ = Property(inputs, outputs, clauses, source, reader.notes)
    return Query(tuple(reader.networks), property_, input_of, products)


def _unbounded(reader: QueryReader, input_of: Integers, missing: int) -> None:
    """Name the declared input that lacks a bound."""
    place = int((input_of == missing).argmax())
    for network in reader.networks:
        for variable in network.inputs:
            if place < variable.size:
                name = element(variable.name, variable.shape, place)
                reason = f"the input {name} lacks a lower or an upper bound in some clause"
                remedy = f"add (assert (>= {name} ...)) and (assert (<= {name} ...))"
                line, column = reader.position(variable.place)
                raise UnboundedInputError(reader.source, line, column, name, reason, remedy)
            place -= variable.size


def element(name: str, shape: tuple[int, ...], place: int) -> str:
    """How an element is written, by its place in row-major order."""
    indices: list[int] = []
    for size in reversed(shape):
        place, index = divmod(place, size)
        indices.insert(0, index)
    return f"{name}[{','.join(map(str, indices))}]" if indices else name
