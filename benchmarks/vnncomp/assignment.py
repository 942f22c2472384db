"""A counterexample as `verify run` prints it, rewritten as VNN-COMP wants it for VNN-LIB 1.0: from stdin to stdout."""

from __future__ import annotations

import sys

from verify.formats.witness import format_competition, parse_assignment
from verify.process import answer, careful_streams


def main() -> None:
    """Fails, with a traceback, on anything but the tensors X and Y, and where stdout does not take all of it."""
    tensors = parse_assignment(sys.stdin.read(), "<stdin>")
    with careful_streams():
        answer(format_competition(tensors["X"], tensors["Y"]))


if __name__ == "__main__":
    main()
