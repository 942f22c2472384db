"""`verify-check`: a certificate proved again, where nothing is installed but the checker. As `verify check`, which does the same."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from verify.checker.checking import REAL, SEMANTICS, check
from verify.checker.errors import Refused

PROVED, NOT_PROVED, UNREADABLE, NO_MEMORY = range(4)
_CODES = "exit codes: 0 proved, 1 not proved, 2 a file cannot be read, 3 memory ran out"


def parser() -> argparse.ArgumentParser:
    """What the command is given."""
    found = argparse.ArgumentParser(
        "verify-check",
        description="Prove again what CERTIFICATE says of MODEL and PROPERTY, trusting nothing of the search.",
        epilog=_CODES,
    )
    for name, words in (
        ("certificate", "what verify run --certificate has written"),
        ("model", "an ONNX file, gzipped or not"),
        ("property", "a VNN-LIB file, gzipped or not"),
    ):
        found.add_argument(name, type=Path, metavar=name.upper(), help=words)
    found.add_argument(
        "--network",
        action="append",
        default=[],
        type=_named,
        metavar="NAME=MODEL",
        help="the model of a further network of a VNN-LIB 2.0 query; MODEL is that of the first one that none is given for",
    )
    found.add_argument("--exact", action="store_true", help="in rational arithmetic, as far as there is one")
    found.add_argument("--semantics", choices=SEMANTICS, default=REAL, help="what has to be proved")
    found.add_argument("--jobs", type=_count, help="processes at most; one a core unless given")
    return found


def _named(text: str) -> tuple[str, Path]:
    """NAME=MODEL."""
    name, _, path = text.partition("=")
    if not (name and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=MODEL")
    return name, Path(path)


def _count(text: str) -> int:
    """A number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command's exit code."""
    given = parser().parse_args(arguments)
    jobs = given.jobs or os.cpu_count() or 1
    try:
        if len(dict(given.network)) < len(given.network):
            raise Refused("a network is given twice")
        models = {"": given.model, **dict(given.network)}
        found = check(given.certificate, models, given.property, given.exact, given.semantics, jobs)
    except Refused as problem:
        sys.stderr.write(f"verify-check: {problem}\n")
        return UNREADABLE
    except MemoryError:
        sys.stderr.write("verify-check: memory has run out\n")
        return NO_MEMORY
    sys.stdout.write(found.sentence + "\n")
    sys.stdout.flush()
    return PROVED if found.proved else NOT_PROVED


if __name__ == "__main__":
    sys.exit(main())
