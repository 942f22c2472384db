"""`verify check`: what a certificate proves of a model and a property, or why it proves nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np

from verify.checker.clauses import Clauses
from verify.checker.container import Container, read
from verify.checker.errors import NotProved, Refused
from verify.checker.kinds import Block, blocks, effort
from verify.checker.multipliers import Arithmetic
from verify.checker.processes import SUPPORTED, Line, elsewhere
from verify.checker.proof import Proof, Summary
from verify.checker.question import Models, Question, named
from verify.checker.tree import Tree
from verify.checker.witness import check_witness

# bytes of blocks times variables: about two seconds, where a process takes one to begin
WORTH_A_PROCESS = 8_000_000_000
# of a check that proves nothing
FAILURES = (NotProved, Refused, ArithmeticError, ValueError, IndexError)
REAL, DEPLOYED = "real", "ieee32-any-order"
SEMANTICS = (REAL, DEPLOYED)
_SPEAKS_OF = {
    REAL: "the real-valued function of the model's weights",
    DEPLOYED: "the model in IEEE float32 arithmetic, in any order of summation",
}
_VACUOUS = (
    "; warning: the property is vacuous: as it is written no input is left, so it holds for every model"
)


# of a certificate's file, what each of all its shares proves, until some time; raises what one of them fails with
Provers = Callable[[Path, Question, Arithmetic, float], Iterable[Summary]]


@dataclass(frozen=True)
class Checked:
    """What came of a check: whether the certificate proves its claim, and in one sentence what, or what failed and where."""

    proved: bool
    sentence: str
    verdict: str = ""
    summary: Summary | None = None


def check(
    certificate: Path,
    model: Models,
    specification: Path,
    exact: bool = False,
    semantics: str = REAL,
    jobs: int = 1,
    until: float = math.inf,
    provers: Provers | None = None,
) -> Checked:
    """Checks a certificate against the bytes of model (or models) and property. Raises Refused where one of the files is unreadable.

    until: the time (of `time.monotonic`) at which it gives up. provers: who proves the shares of an `unsat`, in the place of `jobs`
    processes of this machine.
    """
    container = named(certificate, lambda: read(certificate))
    try:
        question = Question.read(model, specification, until)
    except NotProved as problem:
        return failed(problem)
    try:
        verdict = question.check_header(container)
        if verdict == "sat":
            deployed = semantics == DEPLOYED
            sentence = check_witness(
                container, question.network, question.query, question.contents(), deployed, exact
            )
            return Checked(True, sentence, verdict)
        check_semantics(container, semantics)
        arithmetic = Arithmetic(exact, semantics == DEPLOYED)
        summary = (
            _prove(certificate, container, question, arithmetic, jobs, until)
            if provers is None
            else joined(provers(certificate, question, arithmetic, until))
        )
    except FAILURES as problem:
        return failed(problem)
    return proved(summary, container, question, semantics)


def failed(problem: Exception) -> Checked:
    """What a check that came to nothing says."""
    return Checked(False, f"not proved: {problem}")


def proved(summary: Summary, container: Container, question: Question, semantics: str) -> Checked:
    """What a check that went through says."""
    vacuous = "" if question.query.clauses else _VACUOUS
    return Checked(True, _sentence(summary, container, semantics) + vacuous, "unsat", summary)


def check_semantics(container: Container, semantics: str) -> None:
    """Refused unless the certificate claims as much as is asked for."""
    claimed = container.text("semantics")
    if claimed not in SEMANTICS or (semantics == DEPLOYED and claimed == REAL):
        raise Refused(f"the certificate is of semantics {claimed!r}, not {semantics!r}")


def _prove(
    path: Path, container: Container, question: Question, arithmetic: Arithmetic, jobs: int, until: float
) -> Summary:
    """Proves every block, some in other processes where that is worth their start."""
    codes, ends = container.tensor("block.kind", "u1"), container.tensor("block.end", "<i8")
    work = effort(codes, ends) * question.network.variables if len(codes) == len(ends) else 0
    jobs = jobs if arithmetic.exact else max(1, min(jobs, 1 + work // WORTH_A_PROCESS))
    if jobs == 1 or not SUPPORTED:
        return prove_share(container, question, arithmetic, until=until)
    with ExitStack() as stack:
        shares = [
            stack.enter_context(
                elsewhere(share_elsewhere, path, question, arithmetic, Share(number, jobs), until)
            )
            for number in range(jobs)
        ]
        return joined(process.answer() for process in shares)


def joined(summaries: Iterable[Summary]) -> Summary:
    """What several have proved together."""
    first, *others = summaries
    return reduce(Summary.joined, others, first)


@dataclass(frozen=True)
class Share:
    """Every `shares`-th block from block `first` on, and before `end`, and of the claims of roots there those of every `shares`-th neuron."""

    number: int = 0
    shares: int = 1
    first: int = 0
    end: float = math.inf

    def has(self, block: Block) -> bool:
        """Whether the block is to be proved, or some of its claims."""
        return self.first <= block.number < self.end and (
            block.rule.everywhere or block.number % self.shares == self.number
        )


WHOLE = Share()


def share_elsewhere(
    _: Line, path: Path, question: Question, arithmetic: Arithmetic, share: Share, until: float
) -> Summary:
    """A share of a file's proof, in a process of its own."""
    return prove_share(read(path), question, arithmetic, share, until)


def prove_share(
    container: Container,
    question: Question,
    arithmetic: Arithmetic,
    share: Share = WHOLE,
    until: float = math.inf,
) -> Summary:
    """Takes in all blocks, proves those of its share, and checks that the tree is complete."""
    proof = _start(container, question, arithmetic, until)
    proof.divide(share.number, share.shares)
    for block in blocks(container):
        take_in(proof, block, share.has(block))
    return proof.finished()


def _start(
    container: Container, question: Question, arithmetic: Arithmetic, until: float = math.inf
) -> Proof:
    network, clauses = question.as_in(container).network, Clauses.read(question.query, container)
    tree = Tree.read(container, clauses.roots, network.variables, clauses.box)
    return Proof(network, clauses, tree, arithmetic, until)


def prepare_proof(
    certificate: Path, model: Models, specification: Path, until: float = math.inf
) -> tuple[Container, Proof]:
    """A proof of `unsat` with nothing taken in yet, for others to work on. Raises Refused."""
    container = named(certificate, lambda: read(certificate))
    question = Question.read(model, specification, until)
    if question.check_header(container) != "unsat":
        raise Refused("only certificates of unsat can be worked on")
    arithmetic = Arithmetic(deployed=container.text("semantics") == DEPLOYED)
    return container, _start(container, question, arithmetic, until)


def take_in(proof: Proof, block: Block, prove: bool) -> None:
    """One block, in the order of the file; with `prove` False its claims are taken on trust: another process proves them."""
    cursor = block.cursor()
    try:
        with np.errstate(all="ignore"):
            block.rule.take_in(proof, cursor, prove)
        cursor.finish()
        proof.tree.forget()
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
