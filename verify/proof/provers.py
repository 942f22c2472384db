"""Who proves a certificate in the making, and where: processes of the checker, on this machine or elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from verify.checker.checking import DEPLOYED, Provers, Share, share_elsewhere
from verify.checker.following import follow_files
from verify.checker.multipliers import Arithmetic
from verify.checker.processes import Process
from verify.checker.proof import Summary
from verify.checker.question import Models, Question


@dataclass(frozen=True)
class Asked:
    """What is to be proved: the files, the semantics, and the rows, as the header has them.

    until: the time (of `time.monotonic`) at which it is given up.
    """

    files: tuple[Models, Path]
    semantics: str
    rows: str
    until: float = math.inf

    @property
    def arithmetic(self) -> Arithmetic:
        """How."""
        return Arithmetic(deployed=self.semantics == DEPLOYED)

    def question(self) -> Question:
        """As the checker reads it. Raises Refused and NotProved."""
        return Question.read(*self.files, self.until)


class Prover(Protocol):
    """A process of the checker."""

    def send(self, message: object) -> None:
        """It takes this up next; waits until there is room for it. Raises OSError, Ended and NotProved."""

    def answer(self) -> Summary:
        """What it proves. Raises Refused, NotProved, and Ended where it was ended."""

    def kill(self) -> None:
        """Ends it, whatever it is at."""

    def end(self) -> None:
        """Ends it, with what belongs to it; nobody may be sending."""


class Checkers(Protocol):
    """Where processes of the checker are. provers: of them, who prove a finished certificate; None where `count` processes of this machine do."""

    @property
    def count(self) -> int:
        """How many there may be."""

    @property
    def provers(self) -> Provers | None: ...

    def following(self, asked: Asked, shares: Sequence[Share]) -> Iterator[Prover]:
        """Begins one for each share of a certificate in the making (see `follow`). Raises Refused, NotProved and OSError."""

    def proving(self, asked: Asked, certificate: Path, shares: Sequence[Share]) -> Iterator[Prover]:
        """Begins one for each share of a finished certificate. Raises Refused, NotProved and OSError."""


@dataclass(frozen=True)
class Here:
    """Processes of this machine."""

    count: int
    provers: Provers | None = None

    def following(self, asked: Asked, shares: Sequence[Share]) -> Iterator[Prover]:
        given = *asked.files, asked.arithmetic, asked.rows
        return (Process(follow_files, *given, share, asked.until) for share in shares)

    def proving(self, asked: Asked, certificate: Path, shares: Sequence[Share]) -> Iterator[Prover]:
        given = certificate, asked.question(), asked.arithmetic
        return (Process(share_elsewhere, *given, share, asked.until) for share in shares)
