"""A check that keeps up with a certificate while it is written: blocks are proved as they come, once.

What is proved are the bytes that were sent. At the end the file has to hold the very same: their digests are compared.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from verify.checker.checking import (
    DEPLOYED,
    FAILURES,
    WHOLE,
    Share,
    check_semantics,
    take_in,
)
from verify.checker.clauses import ROOTS, Clauses
from verify.checker.container import Container, read
from verify.checker.errors import NotProved, Refused
from verify.checker.kinds import block_of
from verify.checker.multipliers import Arithmetic
from verify.checker.opposites import MERGED
from verify.checker.proof import Proof, Summary
from verify.checker.question import Models, Question
from verify.checker.tree import SPLITS, Tree

BLOCKS = {"block.kind": "u1", "block.end": "<i8", "stream": "u1"}
TENSORS = MERGED | ROOTS | SPLITS | BLOCKS
# what has been appended to each tensor, as its bytes
Piece = dict[str, bytes]
# steps by which others come before this process while a search is under way
_NICE = 5
# bytes at a time
_HASHED = 1 << 24


class Incoming(Protocol):
    """Where messages come in."""

    def recv(self) -> Any:
        """The next one. Raises EOFError once there are no more."""


@dataclass(frozen=True)
class Finished:
    """What a file holds at last: its header, and of each tensor the digest. semantics: that it is to be proved of."""

    header: Container
    digests: dict[str, bytes]
    semantics: str

    @classmethod
    def read(cls, certificate: Path, semantics: str) -> Finished:
        """That of a file. Raises Refused."""
        container = read(certificate)
        digests = {
            name: _digest(container.optional(name, kind) if name in MERGED else container.tensor(name, kind))
            for name, kind in TENSORS.items()
        }
        return cls(replace(container, tensors={}), digests, semantics)


class Follower:
    """Proves its share of a certificate that comes in pieces. The first has all roots and says which pre-activations are left out; splits
    come before what speaks of them.

    rows: as the header will have it.
    """

    def __init__(
        self, question: Question, arithmetic: Arithmetic, rows: str, until: float = math.inf
    ) -> None:
        self._question, self._arithmetic, self._rows, self._until = question, arithmetic, rows, until
        self._digests = {name: hashlib.sha256() for name in TENSORS}
        self._proof: Proof | None = None
        self._blocks = self._length = 0
        self.share = WHOLE

    def divide(self, share: Share) -> None:
        """Which part is this process's from now on."""
        self.share = replace(share, first=self._blocks)
        if self._proof is not None:
            self._proof.divide(share.number, share.shares)

    def take(self, piece: Piece) -> None:
        """What comes next. Raises Refused and NotProved."""
        for name, data in piece.items():
            self._digests[name].update(data)
        arrays = {name: np.frombuffer(piece.get(name, b""), kind) for name, kind in TENSORS.items()}
        proof = self._begun(arrays)
        proof.tree.grow(*(arrays[name] for name in SPLITS))
        codes, ends = arrays["block.kind"].tolist(), arrays["block.end"].tolist()
        starts = [self._length, *ends]
        stream, whole = arrays["stream"], self._length + len(arrays["stream"])
        if len(codes) != len(ends) or starts != sorted(starts) or starts[-1] != whole:
            raise Refused("the table of blocks does not fit the stream")
        for code, start, end in zip(codes, starts, ends, strict=False):
            block = block_of(self._blocks, code, stream[start - self._length : end - self._length])
            take_in(proof, block, self.share.has(block))
            self._blocks += 1
        self._length = whole

    def _begun(self, arrays: dict[str, NDArray[Any]]) -> Proof:
        """The proof, which the first piece begins."""
        (left_out,), (clause, count) = ([arrays[name] for name in names] for names in (MERGED, ROOTS))
        if self._proof is None:
            if len(left_out) and self._arithmetic.deployed:
                raise Refused("pre-activations are left out, which is known of real numbers alone")
            network = self._question.without(left_out).network
            clauses = Clauses(self._question.query, clause, count, self._rows)
            tree = Tree(clauses.roots, network.variables, clauses.box)
            self._proof = Proof(network, clauses, tree, self._arithmetic, self._until)
            self.divide(self.share)
        elif len(clause) or len(count) or len(left_out):
            raise Refused("there are roots, or pre-activations that are left out, behind the first piece")
        return self._proof

    def finished(self, file: Finished) -> Summary:
        """What is proved of the file that all of it was written to. Raises Refused and NotProved."""
        for name, digest in self._digests.items():
            if file.digests[name] != digest.digest():
                raise Refused(f"{name} is not what was proved")
        if self._question.check_header(file.header) != "unsat" or file.header.text("rows") != self._rows:
            raise Refused("the header is not that of what was proved")
        check_semantics(file.header, file.semantics)
        if self._arithmetic.deployed != (file.semantics == DEPLOYED):
            raise Refused("it was proved of other semantics")
        if self._proof is None:
            raise Refused("there is nothing in it")
        return self._proof.finished()


def _digest(values: NDArray[Any]) -> bytes:
    """Of a tensor's bytes, so many at a time that they fit."""
    found, data = hashlib.sha256(), values.view(np.uint8)
    for start in range(0, len(data), _HASHED):
        found.update(data[start : start + _HASHED].tobytes())
    return found.digest()


def follow_files(
    line: Incoming,
    model: Models,
    specification: Path,
    arithmetic: Arithmetic,
    rows: str,
    share: Share,
    until: float,
) -> Summary:
    """A process's work on this machine, to which others have the precedence. Raises Refused and NotProved."""
    return follow(line, partial(Question.read, model, specification, until), arithmetic, rows, share, until)


def follow(
    line: Incoming,
    question: Callable[[], Question],
    arithmetic: Arithmetic,
    rows: str,
    share: Share,
    until: float = math.inf,
) -> Summary:
    """Takes pieces and new shares as they come, until what the file holds does. Raises Refused and NotProved."""
    with suppress(OSError):
        os.nice(_NICE)
    problem: Exception | None = None
    follower: Follower | None = None
    try:
        follower = Follower(question(), arithmetic, rows, until)
        follower.divide(share)
    except FAILURES as found:
        problem = found
    while not isinstance(message := line.recv(), Finished):
        if follower is None or problem is not None:
            continue
        try:
            follower.divide(message) if isinstance(message, Share) else follower.take(message)
        except FAILURES as found:
            problem = found
    if follower is None or problem is not None:
        raise problem or NotProved("nothing was read")
    return follower.finished(message)
