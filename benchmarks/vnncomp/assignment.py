"""A counterexample as `verify run` prints it, rewritten as VNN-COMP wants it for VNN-LIB 1.0: from stdin to stdout."""

from __future__ import annotations

import sys

from verify.formats.witness import format_competition, parse_assignment


def main() -> None:
    """Fails, with a traceback, on anything but the tensors X and Y."""
    tensors = parse_assignment(sys.stdin.read(), "<stdin>")
    sys.stdout.write(format_competition(tensors["X"], tensors["Y"]))


if __name__ == "__main__":
    main()
