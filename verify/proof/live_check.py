"""Has a certificate proved while it is written, by processes of the checker that take idle moments first.

They are sent what the files hold, in the order of writing, and only as fast as they prove it; so nothing is kept in memory, and nothing is
proved twice. What is left at the end is dealt out to as many processes as there are threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread
from types import TracebackType

from verify.checker.checking import DEPLOYED, WORTH_A_PROCESS, Share, joined, share_elsewhere
from verify.checker.clauses import ROOTS
from verify.checker.following import Piece, follow
from verify.checker.kinds import effort
from verify.checker.multipliers import Arithmetic
from verify.checker.processes import SUPPORTED, Ended, Process
from verify.checker.proof import Summary
from verify.checker.question import Models, Question
from verify.proof.writer import CertificateWriter

# seconds between looks at what is new
_PAUSE = 0.1
# bytes of blocks at a time
_PIECE = 1 << 18
# processes that follow a search, of its threads, but two if there are so many
_FOLLOWING = 0.25


class LiveCheck:
    """Follows one certificate in the making.

    rows, clauses: the most rows of a clause, and how many clauses there are. variables: of the network. jobs: processes at most.
    until: the time (of `time.monotonic`) at which they give up.
    """

    def __init__(
        self,
        writer: CertificateWriter,
        files: tuple[Models, Path],
        semantics: str,
        rows: int,
        clauses: int,
        variables: int,
        jobs: int,
        until: float = math.inf,
    ) -> None:
        self._writer, self._files, self._semantics = writer, files, semantics
        self._arithmetic = Arithmetic(deployed=semantics == DEPLOYED)
        self._rows, self._clauses, self._variables = str(rows), clauses, variables
        self._jobs, self._until = max(1, jobs), until
        self._processes: list[Process] = []
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
        for process in self._processes:
            # the thread may wait for it to take something
            process.kill()
        self._thread.join()
        self._stack.close()

    def _run(self) -> None:
        while not self._ended.wait(_PAUSE) and not self._broken:
            self.advance()

    def advance(self) -> None:
        """Sends what is new; starts the processes once there is enough work and all roots are known."""
        try:
            if not self._processes and not self._due():
                return
            for piece in self._pieces():
                self._send(piece)
                if self._ended.is_set():
                    return
        except (OSError, EOFError, ValueError):  # then the whole is checked at the end, if it comes to that
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
        if not self._processes:
            self._start()
        elif piece.keys() & ROOTS.keys():
            raise ValueError("there are more roots than clauses")
        for process in self._processes:
            process.connection.send(piece)
        for name, data in piece.items():
            self._sent[name] = self._sent.get(name, 0) + len(data)
        self._blocks += len(piece.get("block.kind", b""))

    def _start(self) -> None:
        count = min(self._jobs, max(2, round(_FOLLOWING * self._jobs)))
        for number in range(count):
            share, arguments = Share(number, count), (self._arithmetic, self._rows)
            process = Process(follow, *self._files, *arguments, share, self._until)
            self._stack.callback(process.end)
            self._processes.append(process)

    def closed(self, certificate: Path) -> Summary | None:
        """What is proved of the finished file; None where nobody has followed it. Raises Refused and NotProved."""
        self._ended.set()
        self._thread.join()
        if self._broken or not self._processes:
            return None
        try:
            others = self._deal(certificate)
            for piece in self._pieces():
                self._send(piece)
            for process in self._processes:
                process.connection.send((certificate, self._semantics))
            return joined(process.answer() for process in (*self._processes, *others))
        except (Ended, OSError, EOFError):
            return None

    def _deal(self, certificate: Path) -> list[Process]:
        """More processes for what is left, where that is worth their start."""
        jobs = min(self._jobs, len(self._processes) + self._work() // WORTH_A_PROCESS)
        if jobs <= len(self._processes):
            return []
        others = []
        question = Question.read(*self._files, self._until)
        for number in range(len(self._processes), jobs):
            share = Share(number, jobs, self._blocks)
            process = Process(share_elsewhere, certificate, question, self._arithmetic, share, self._until)
            self._stack.callback(process.end)
            others.append(process)
        for number, process in enumerate(self._processes):
            process.connection.send(Share(number, jobs))
        return others
