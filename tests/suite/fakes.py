"""What stands in a worker for `verify`: it does what the text of the property says."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from verify.process import unwound_by_signals
from verify.request import Request
from verify.suite.instances import Instance
from verify.suite.worker import Answer, Decide

WITNESS = "((X_0 0.5)\n (Y_0 1.5))\n"


@dataclass(frozen=True)
class Fakes:
    """Made in the worker. What is decided there goes into a log: number of the process and name of the property."""

    log: str

    def __call__(self) -> Decide:
        return self._decide

    def _decide(self, request: Request) -> Answer:
        path = Path(request.specification)
        with Path(self.log).open("a") as file:
            file.write(f"{os.getpid()} {path.name}\n")
        word = path.read_text()
        if word == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "hang":
            time.sleep(1e6)
        if word == "exit":
            os._exit(7)
        if word == "vacuous":
            return Answer("unsat", "the property is vacuous", vacuous=True)
        return Answer(word, f"because of {word}", WITNESS if word == "sat" else None, healthy=word != "error")

    def lines(self) -> list[list[str]]:
        """The log."""
        return [line.split() for line in Path(self.log).read_text().splitlines()]


class Unready:
    """Dies before it is ready."""

    def __call__(self) -> Decide:
        os._exit(5)


def folder(home: Path, words: Sequence[str], expected: Sequence[str] = (), timeout: float = 600.0) -> Path:
    """A table of instances that want these things to be done."""
    (home / "vnnlib").mkdir(parents=True)
    (home / "net.onnx").touch()
    rows = ["onnx,vnnlib,timeout,expected"]
    for at, word in enumerate(words):
        (home / "vnnlib" / f"p{at}.vnnlib").write_text(word)
        rows.append(f"net.onnx,vnnlib/p{at}.vnnlib,{timeout:g},{expected[at] if expected else ''}")
    (home / "instances.csv").write_text("\n".join(rows) + "\n")
    return home / "instances.csv"


def instance(path: Path, word: str, timeout: float = 600.0) -> Instance:
    """An instance that wants this to be done."""
    path.write_text(word)
    return Instance("family", "net.onnx", str(path), timeout, "", Path("net.onnx"), path)


def main(table: str, out: str, log: str) -> None:
    """A suite in a process of its own, to be killed."""
    from verify.cli.suite import _Suite
    from verify.suite.instances import read_instances
    from verify.suite.results import Results
    from verify.suite.settings import Settings

    todo = read_instances([Path(table)])
    with unwound_by_signals(), closing(Results(Path(out))) as results:
        _Suite(todo, results, False, None, {}).run(Settings(deciders=Fakes(log)))


if __name__ == "__main__":
    main(*sys.argv[1:])
