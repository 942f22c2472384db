"""`verify check`: what a certificate proves of a model and a property, or why it proves nothing."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import signal
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import reduce
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

import numpy as np

from verify.checker.clauses import Clauses
from verify.checker.container import FORMAT, Container, read
from verify.checker.dual import Arithmetic
from verify.checker.errors import NotProved, Refused
from verify.checker.kinds import Block, blocks
from verify.checker.network import Network
from verify.checker.onnx_reader import read_model
from verify.checker.proof import Proof, Summary
from verify.checker.query import Query, read_query
from verify.checker.query_text import decoded
from verify.checker.tree import Tree
from verify.checker.witness import check_witness

_WORTH_A_PROCESS = 4_000_000_000  # bytes of blocks times variables: about a second
MOST_BYTES = 1 << 31  # of a model or property, unpacked: ONNX's own limit
T = TypeVar("T")
REAL, DEPLOYED = "real", "ieee32-any-order"
SEMANTICS = (REAL, DEPLOYED)
_SPEAKS_OF = {
    REAL: "the real-valued function of the model's weights",
    DEPLOYED: "the model in IEEE float32 arithmetic, in any order of summation",
}
_VACUOUS = (
    "; warning: the property is vacuous: as it is written no input is left, so it holds for every model"
)


@dataclass(frozen=True)
class Checked:
    """What came of a check: whether the certificate proves its claim, and in one sentence what, or what failed and where."""

    proved: bool
    sentence: str
    verdict: str = ""
    summary: Summary | None = None


def content(path: Path) -> bytes:
    """A file's bytes, decompressed if it is gzipped. Raises Refused."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            with gzip.GzipFile(fileobj=file) if packed else file as unpacked:
                data = unpacked.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise Refused(f"{path}: cannot be read ({error})") from error
    if len(data) > MOST_BYTES:
        raise Refused(f"{path}: holds more than {MOST_BYTES} bytes")
    return data


def digest(data: bytes) -> str:
    """The SHA-256 of a file's decompressed content, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def check(
    certificate: Path,
    model: Path,
    specification: Path,
    exact: bool = False,
    semantics: str = REAL,
    jobs: int = 1,
    until: float = math.inf,
) -> Checked:
    """Checks a certificate against the bytes of model and property. Raises Refused where one of the files is unreadable.

    until: the time (of `time.monotonic`) at which it gives up.
    """
    container = _named(certificate, lambda: read(certificate))
    onnx, vnnlib = content(model), content(specification)
    network = _named(model, lambda: read_model(onnx))
    try:
        query = _named(specification, lambda: read_query(decoded(vnnlib), until)).of_type(
            network.element_type
        )
    except NotProved as problem:
        return Checked(False, f"not proved: {problem}")
    if (query.inputs, query.outputs) != (network.inputs, network.outputs):
        raise Refused(
            f"{specification}: speaks of {query.inputs} inputs and {query.outputs} outputs, "
            f"the model has {network.inputs} and {network.outputs}"
        )
    try:
        verdict = _check_header(container, digest(onnx), digest(vnnlib))
        if verdict == "sat":
            sentence = check_witness(container, network, query, onnx, semantics == DEPLOYED, exact)
            return Checked(True, sentence, verdict)
        claimed = container.text("semantics")
        if claimed not in SEMANTICS or (semantics == DEPLOYED and claimed == REAL):
            raise Refused(f"the certificate is of semantics {claimed!r}, not {semantics!r}")
        arithmetic = Arithmetic(exact, semantics == DEPLOYED)
        summary = _prove(certificate, container, network, query, arithmetic, jobs, until)
    except (NotProved, Refused, ArithmeticError, ValueError, IndexError) as problem:
        return Checked(False, f"not proved: {problem}")
    sentence = _sentence(summary, container, semantics) + ("" if query.clauses else _VACUOUS)
    return Checked(True, sentence, "unsat", summary)


def _named(path: Path, action: Callable[[], T]) -> T:
    try:
        return action()
    except Refused as problem:
        raise Refused(f"{path}: {problem}") from problem


def _check_header(container: Container, onnx: str, vnnlib: str) -> str:
    """The certificate's verdict; Refused where it is of another format or of other files."""
    if container.text("format") != FORMAT:
        raise Refused(f"the format is {container.text('format')!r}, not {FORMAT!r}")
    for key, own in (("onnx_sha256", onnx), ("vnnlib_sha256", vnnlib)):
        if container.text(key) != own:
            raise Refused(f"{key} does not fit: the certificate is of another file")
    verdict = container.text("verdict")
    if verdict not in ("sat", "unsat"):
        raise Refused(f"verdict {verdict!r} is not known")
    return verdict


def _prove(
    path: Path,
    container: Container,
    network: Network,
    query: Query,
    arithmetic: Arithmetic,
    jobs: int,
    until: float,
) -> Summary:
    """Proves every block, some in other processes where that is worth their start."""
    work = len(container.tensor("stream", "u1")) * network.variables
    jobs = jobs if arithmetic.exact else min(jobs, 1 + work // _WORTH_A_PROCESS)
    if jobs == 1:
        return prove_share(container, network, query, arithmetic, 0, 1, until)
    with _one_thread_each(), ExitStack() as stack:
        shares = []
        for number in range(jobs):
            answers = stack.enter_context(
                _elsewhere(_share, path, network, query, arithmetic, number, jobs, until)
            )
            shares.append(answers)
        return reduce(Summary.joined, [_received(answers) for answers in shares])


@contextmanager
def _elsewhere(action: Callable[..., Summary], *arguments: object) -> Iterator[Connection]:
    """A process that sends what an action returns or raises; it ends with the context, or with this process."""
    context = get_context("spawn")  # threads of others would not survive a fork
    answers, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_act, args=(theirs, action, *arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        yield answers
    finally:
        process.kill()
        process.join()


def _act(answers: Connection, action: Callable[..., Summary], *arguments: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's business
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        answers.send(action(*arguments))
    except Exception as error:
        answers.send(error)


def _end_with_parent() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


def _received(answers: Connection) -> Summary:
    try:
        found = answers.recv()
    except EOFError:
        raise NotProved("a process of the check was ended; memory may have run out") from None
    if isinstance(found, Exception):
        raise found
    assert isinstance(found, Summary)
    return found


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started meanwhile have one thread each for their linear algebra: more would stand in one another's way."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _share(
    path: Path, network: Network, query: Query, arithmetic: Arithmetic, number: int, shares: int, until: float
) -> Summary:
    return prove_share(read(path), network, query, arithmetic, number, shares, until)


def prove_share(
    container: Container,
    network: Network,
    query: Query,
    arithmetic: Arithmetic,
    number: int = 0,
    shares: int = 1,
    until: float = math.inf,
) -> Summary:
    """Takes in all blocks, proves its part of the claims of roots and every `shares`-th of the other blocks, and checks that the
    tree is complete."""
    proof = _start(container, network, query, arithmetic, until, number, shares)
    for block in blocks(container):
        take_in(proof, block, block.rule.everywhere or block.number % shares == number)
    return proof.finished()


def _start(
    container: Container,
    network: Network,
    query: Query,
    arithmetic: Arithmetic,
    until: float = math.inf,
    number: int = 0,
    shares: int = 1,
) -> Proof:
    clauses = Clauses(query, container)
    tree = Tree.read(container, clauses.roots, network.variables, clauses.box)
    return Proof(network, clauses, tree, arithmetic, until, number, shares)


def prepare_proof(
    certificate: Path, model: Path, specification: Path, until: float = math.inf
) -> tuple[Container, Proof]:
    """A proof of `unsat` with nothing taken in yet, for others to work on. Raises Refused."""
    container = _named(certificate, lambda: read(certificate))
    onnx, vnnlib = content(model), content(specification)
    if _check_header(container, digest(onnx), digest(vnnlib)) != "unsat":
        raise Refused("only certificates of unsat can be worked on")
    arithmetic = Arithmetic(deployed=container.text("semantics") == DEPLOYED)
    network = read_model(onnx)
    query = read_query(decoded(vnnlib), until).of_type(network.element_type)
    return container, _start(container, network, query, arithmetic, until)


def take_in(proof: Proof, block: Block, prove: bool) -> None:
    """One block, in the order of the file; with `prove` False its claims are taken on trust: another process proves them."""
    cursor = block.cursor()
    try:
        with np.errstate(all="ignore"):
            block.rule.take_in(proof, cursor, prove)
        cursor.finish()
    except (NotProved, Refused) as problem:
        raise type(problem)(f"block {block.number} ({block.rule.name}): {problem}") from problem


def _sentence(summary: Summary, container: Container, semantics: str) -> str:
    files = f"model {container.text('onnx_sha256')[:16]}.., property {container.text('vnnlib_sha256')[:16]}.."
    tier = "float64 with rounding errors charged"
    if summary.in_rationals:
        tier = f"{summary.in_rationals} bounds in exact rational arithmetic, the others in {tier}"
    margin = f", smallest bound {summary.margin:.3g}" if summary.margin < float("inf") else ""
    return (
        f"proved: no input violates the property ({files}), for {_SPEAKS_OF[semantics]}: "
        f"{summary.leaves} leaves, {summary.claims} claims{margin}; {tier}"
    )
