"""Has a certificate proved while it is written, by processes of the checker that take idle moments first.

They are sent what the files hold, in the order of writing, and only as fast as they prove it; so nothing is kept in memory, and nothing is
proved twice. What is left at the end is dealt out to as many processes as there are workers. The share of one that is lost is proved again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread
from types import TracebackType

from verify.checker.checking import FAILURES, WORTH_A_PROCESS, Share, joined
from verify.checker.clauses import ROOTS
from verify.checker.following import Finished, Piece
from verify.checker.kinds import effort
from verify.checker.processes import SUPPORTED, Ended
from verify.checker.proof import Summary
from verify.proof.provers import Asked, Checkers, Prover
from verify.proof.writer import CertificateWriter

# seconds between looks at what is new
_PAUSE = 0.1
# bytes of blocks at a time
_PIECE = 1 << 18
# processes that follow a search, of its workers, but two if there are so many, and no more than so many: each is sent everything
_FOLLOWING, _MOST = 0.25, 16


class LiveCheck:
    """Follows one certificate in the making. clauses: how many there are. variables: of the network."""

    def __init__(
        self, writer: CertificateWriter, asked: Asked, clauses: int, variables: int, checkers: Checkers
    ) -> None:
        self._writer, self._asked, self._checkers = writer, asked, checkers
        self._clauses, self._variables = clauses, variables
        self._followers: list[Prover] = []
        self._lost: set[int] = set()  # of these
        self._sent: dict[str, int] = {}
        self._blocks = 0
        self._broken = not SUPPORTED
        self._stack, self._ended = ExitStack(), Event()
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> LiveCheck:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for prover in self._followers:
            # the thread may wait for it to take something
            prover.kill()
        self._thread.join()
        self._stack.close()

    def _run(self) -> None:
        while not self._ended.wait(_PAUSE) and not self._broken:
            self.advance()

    def advance(self) -> None:
        """Sends what is new; starts the processes once there is enough work and all roots are known."""
        try:
            if not self._followers and not self._due():
                return
            for piece in self._pieces():
                self._send(piece)
                if self._ended.is_set():
                    return
        except (*FAILURES, OSError):  # then the whole is checked at the end, if it comes to that
            self._broken = True

    def _due(self) -> bool:
        return (
            self._work() > WORTH_A_PROCESS
            and len(set(self._writer.whole_tensor("root.clause"))) == self._clauses
        )

    def _work(self) -> int:
        """What is not sent yet."""
        return effort(*self._writer.table(self._sent), self._sent.get("stream", 0)) * self._variables

    def _pieces(self) -> Iterator[Piece]:
        while piece := self._writer.since(self._sent, _PIECE):
            yield piece

    def _send(self, piece: Piece) -> None:
        if not self._followers:
            self._start()
        elif piece.keys() & ROOTS.keys():
            raise ValueError("there are more roots than clauses")
        for number in range(len(self._followers)):
            self._tell(number, piece)
        for name, data in piece.items():
            self._sent[name] = self._sent.get(name, 0) + len(data)
        self._blocks += len(piece.get("block.kind", b""))

    def _tell(self, number: int, message: object) -> None:
        """Something more for a follower, unless it is lost."""
        if number not in self._lost:
            try:
                self._followers[number].send(message)
            except (Ended, OSError):
                self._lost.add(number)

    def _start(self) -> None:
        jobs = self._checkers.count
        count = min(jobs, max(2, round(_FOLLOWING * jobs)), _MOST)
        shares = [Share(number, count) for number in range(count)]
        self._begin(self._checkers.following(self._asked, shares), self._followers)

    def _begin(self, provers: Iterator[Prover], into: list[Prover]) -> None:
        """Takes in who is begun; they end with the context."""
        for prover in provers:
            self._stack.callback(prover.end)
            into.append(prover)

    def closed(self, certificate: Path) -> Summary | None:
        """What is proved of the finished file; None where nobody has followed it. Raises Refused and NotProved.

        What was not sent before is dealt out to more processes, where that is worth their start.
        """
        self._ended.set()
        self._thread.join()
        if self._broken or self._writer.replaced or not self._followers:
            return None
        here, before = len(self._followers), self._blocks
        jobs = max(here, min(self._checkers.count, here + self._work() // WORTH_A_PROCESS))
        try:
            others = self._proving(certificate, [Share(number, jobs, before) for number in range(here, jobs)])
            if others:
                for number in range(here):
                    self._tell(number, Share(number, jobs))
            for piece in self._pieces():
                self._send(piece)
            finished = Finished.read(certificate, self._asked.semantics)
            for number in range(here):
                self._tell(number, finished)
            found = [*self._answers(), *(prover.answer() for prover in others)]
            again = [[Share(number, here, end=before), Share(number, jobs, before)] for number in self._lost]
            others = self._proving(certificate, [share for both in again for share in both])
            return joined([*found, *(prover.answer() for prover in others)])
        except (Ended, OSError):
            return None

    def _proving(self, certificate: Path, shares: list[Share]) -> list[Prover]:
        """Who proves shares of the finished file."""
        found: list[Prover] = []
        if shares:
            self._begin(self._checkers.proving(self._asked, certificate, shares), found)
        return found

    def _answers(self) -> Iterator[Summary]:
        """What followers have proved, but for those that are lost."""
        for number, prover in enumerate(self._followers):
            if number not in self._lost:
                try:
                    yield prover.answer()
                except Ended:
                    self._lost.add(number)
