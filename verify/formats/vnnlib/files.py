"""From a file or a text to a property, with every way in which that can fail named."""

from __future__ import annotations

import gzip
import io
import zlib
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NoReturn

from verify.deadline import Deadline, tick
from verify.errors import SpecificationError, UnboundedInputError
from verify.formats.vnnlib.clauses import Clauses, Property, TooManyClauses
from verify.formats.vnnlib.formula import Formula
from verify.formats.vnnlib.reader import Reader
from verify.validation import missing

MAXIMUM_BYTES = 1 << 30  # of a file, unpacked
_CHUNK = 1 << 24


def parse(text: str, source: str = "<text>", deadline: Deadline | None = None) -> Property:
    """Read a property from VNN-LIB 1.0 text.

    Raises SpecificationError, with the place, the finding and the remedy, for text that is malformed,
    nonlinear, too extreme to be kept exact, or of version 2.0; UnboundedInputError for an input without both
    bounds; OutOfTimeError at the deadline.
    """
    with within(deadline):
        return _parsed(text, source)


def within(deadline: Deadline | None) -> AbstractContextManager[None]:
    """Where this thread's `tick` checks a deadline, if there is one."""
    return nullcontext() if deadline is None else deadline.ticking()


def _parsed(text: str, source: str) -> Property:
    if not text.strip():
        _fail(source, "the file is empty", "give a VNN-LIB 1.0 file")
    if "\0" in text:
        _binary(source)
    reader = Reader(text, source)
    inputs, outputs, formula = reader.read()
    clauses = clauses_of(formula, inputs, outputs, source)
    if clauses.boxes.unbounded is not None:
        name = f"X_{clauses.boxes.unbounded}"
        reason = f"the input {name} lacks a lower or an upper bound in some clause"
        remedy = f"add (assert (>= {name} ...)) and (assert (<= {name} ...))"
        line, column = reader.position(reader.declaration(name))
        raise UnboundedInputError(source, line, column, name, reason, remedy)
    return Property(inputs, outputs, clauses, source, reader.notes)


def clauses_of(formula: Formula, inputs: int, outputs: int, source: str) -> Clauses:
    """The clauses of a formula. Raises SpecificationError where there are too many."""
    try:
        return Clauses(formula, inputs, outputs)
    except TooManyClauses as error:
        _fail(source, str(error), "split the property into several files")


def read(path: str | Path, deadline: Deadline | None = None, most_bytes: int = MAXIMUM_BYTES) -> Property:
    """Read a property from a VNN-LIB 1.0 file, plain or gzip (told apart by content, not by name).

    most_bytes: how large it may be, unpacked. Raises SpecificationError for a missing, unreadable, damaged, binary or too
    large file, and whatever `parse` raises.
    """
    return parse(text_of(path, deadline, most_bytes), str(path), deadline)


def text_of(path: str | Path, deadline: Deadline | None = None, most_bytes: int = MAXIMUM_BYTES) -> str:
    """The text of a file, plain or gzip. Raises SpecificationError for what is no text."""
    source = str(path)
    try:
        with Path(path).open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            with gzip.GzipFile(fileobj=file) if packed else file as content, within(deadline):
                data = _limited(content, source, most_bytes)
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        _fail(source, *missing(Path(path)))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        _fail(source, f"damaged gzip file ({error})", "compress it again")
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error})"
        _fail(source, reason, "check the path and its permissions")
    except UnicodeDecodeError:
        _binary(source)


def _limited(content: gzip.GzipFile | io.BufferedReader, source: str, most_bytes: int) -> bytes:
    """All bytes of a file, piece by piece; fails beyond `most_bytes`."""
    found = bytearray()
    while piece := content.read(min(_CHUNK, most_bytes + 1 - len(found))):
        found += piece
        if len(found) > most_bytes:
            reason = f"the file has more than {most_bytes} bytes, unpacked"
            _fail(source, reason, "split the property into several files")
        tick()
    return bytes(found)


def _fail(source: str, reason: str, remedy: str) -> NoReturn:
    """Raise an error about the file as a whole, which hides the exception that led here."""
    raise SpecificationError(source, None, None, reason, remedy) from None


def _binary(source: str) -> NoReturn:
    _fail(source, "this is a binary file, not text", "give a VNN-LIB file, plain or gzip")
