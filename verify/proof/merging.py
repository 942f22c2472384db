"""One certificate from parts, each of which closes some nodes and leaves others open: those of other clauses, or of other subtrees.

The parts' roots, nodes and blocks stand one after the other with other numbers, so what one part claims of its nodes is not seen in
another's. A node that a part has left open is covered by one that other parts have closed, if there is one of the same clauses and splits,
or above such.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.checker.checking import DEPLOYED, REAL, SEMANTICS, check
from verify.checker.clauses import ROOTS
from verify.checker.container import Container, read
from verify.checker.errors import NotProved, Refused
from verify.checker.kinds import Block, blocks
from verify.checker.opposites import MERGED
from verify.checker.question import Models, Question, named
from verify.checker.tree import SPLITS, Tree
from verify.proof.blocks import CuttingPlanes, Moved
from verify.proof.kinds import BLOCKS
from verify.proof.leaf_blocks import Covered
from verify.proof.writer import CertificateWriter

Array = NDArray[Any]
# a node by the clauses of its root and the splits above it, in whatever order
Place = tuple[frozenset[int], frozenset[tuple[int, float, bool]]]


@dataclass(frozen=True)
class _Part:
    """A certificate that need not be complete, and its tree with what it closes."""

    path: Path
    container: Container
    tree: Tree
    # of each root
    clauses: list[list[int]]

    @staticmethod
    def read(path: Path, question: Question) -> _Part:
        """Refused for what is no part of a proof of the question."""
        container = read(path)
        if question.check_header(container) != "unsat":
            raise Refused("only certificates of unsat can be merged")
        clause, count = (container.tensor(name, kind) for name, kind in ROOTS.items())
        if (count < 1).any() or sum(count.tolist()) != len(clause):
            raise Refused("the roots' tables do not fit each other")
        clauses = [own.tolist() for own in np.split(clause, np.cumsum(count)[:-1])] if len(count) else []
        variables = question.as_in(container).network.variables
        tree = Tree.read(container, len(count), variables, _no_box)
        for block in blocks(container):
            if block.rule.closes:
                nodes = np.array(block.cursor().counted("<i8"))
                tree.check_nodes(nodes)
                tree.close(nodes)
        return _Part(path, container, tree, clauses)

    @property
    def left_out(self) -> Array:
        """The pre-activations that are not on its axis of variables."""
        ((name, kind),) = MERGED.items()
        return self.container.optional(name, kind)

    @property
    def semantics(self) -> str:
        """What it claims. Refused where that is unknown."""
        found = self.container.text("semantics")
        if found not in SEMANTICS:
            raise Refused(f"semantics {found!r} is not known")
        return found

    def depths(self, nodes: Array) -> Array:
        """How many splits are above each node."""
        self.tree.check_nodes(nodes)
        return self.tree.splits(nodes)[1]

    def place(self, node: int) -> Place:
        """What a node is known by."""
        clauses = frozenset(self.clauses[int(self.tree.root_of[node])])
        return clauses, frozenset(self.tree.half_spaces(node))

    def numbers(self, roots: int, all_roots: int, splits: int) -> Array:
        """New numbers of its nodes, behind so many roots of `all_roots`, and so many splits."""
        old = np.arange(self.tree.nodes)
        return np.where(old < self.tree.roots, old + roots, old - self.tree.roots + all_roots + 2 * splits)


def _no_box(root: int) -> tuple[Array, Array]:
    raise AssertionError(f"the box of root {root} is not asked for")


class _Merger:
    """Parts on their way into one."""

    def __init__(self, parts: Sequence[_Part]) -> None:
        self._parts = parts
        roots, splits = 0, 0
        self._all_roots = sum(part.tree.roots for part in parts)
        self._numbers: list[Array] = []
        for part in parts:
            self._numbers.append(part.numbers(roots, self._all_roots, splits))
            roots, splits = roots + part.tree.roots, splits + part.tree.splits_known

    def write(self, writer: CertificateWriter, rows: int) -> None:
        """Everything, and what covers the open nodes behind it. Refused where some are not covered."""
        most = [max(map(len, part.clauses), default=1) for part in self._parts]
        cuts = 0
        writer.append("merged.variable", self._parts[0].left_out)
        for part in self._parts:
            for name, kind in ROOTS.items():
                writer.append(name, part.container.tensor(name, kind))
        for part, number, own in zip(self._parts, self._numbers, most, strict=True):
            node, variable, value = (part.container.tensor(name, kind) for name, kind in SPLITS.items())
            writer.append("split.node", number[node])
            writer.append("split.variable", variable)
            writer.append("split.value", value)
            moved = Moved(number, rows, (own, max(most)), cuts, part.depths)
            for block in blocks(part.container):
                writer.block(block.rule.code, self._moved(block, moved))
                cuts += block.rule.entries(block.cursor()) if block.rule.code == CuttingPlanes.code else 0
        for nodes, others in self._covers():
            writer.block(Covered.code, Covered(np.array(nodes), np.array(others)).parts())

    def _moved(self, block: Block, moved: Moved) -> list[Array]:
        try:
            return BLOCKS[block.rule.code].moved(block.data, moved)
        except (IndexError, ValueError) as problem:
            raise Refused(f"block {block.number} ({block.rule.name}) is damaged") from problem

    def _covers(self) -> list[tuple[list[int], list[int]]]:
        """Open nodes and what covers them, in rounds: a round may rest on those before it."""
        left = [
            (part, number, int(node))
            for part, number in zip(self._parts, self._numbers, strict=True)
            for node in part.tree.left_open
        ]
        rounds = []
        while left:
            covering = self._refuted()
            found = [(*one, self._cover(one[0], one[2], covering)) for one in left]
            done = [(part, number, node, other) for part, number, node, other in found if other is not None]
            if not done:
                part, _, node = left[0]
                clauses = ", ".join(map(str, part.clauses[int(part.tree.root_of[node])]))
                raise Refused(
                    f"{len(left)} nodes are open in one part and closed in none, the first is node {node} of {part.path} "
                    f"(of clauses {clauses})"
                )
            rounds.append(([int(number[node]) for _, number, node, _ in done], [other for *_, other in done]))
            for part, _, node, _ in done:
                part.tree.close(np.array([node]))
            left = [(part, number, node) for part, number, node, other in found if other is None]
        return rounds

    def _refuted(self) -> dict[Place, int]:
        """The new numbers of nodes all of which is closed, by what they are known by."""
        found: dict[Place, int] = {}
        for part, number in zip(self._parts, self._numbers, strict=True):
            for node in range(part.tree.nodes):
                if part.tree.done(node):
                    found.setdefault(part.place(node), int(number[node]))
        return found

    @staticmethod
    def _cover(part: _Part, node: int, covering: dict[Place, int]) -> int | None:
        """A refuted node that holds an open one, or a node above it: splits above it that are left out one by one, the last first."""
        clauses, _ = part.place(node)
        above = part.tree.half_spaces(node)
        for start in range(len(above) + 1):
            found = covering.get((clauses, frozenset(above[start:])))
            if found is not None:
                return found
        return None


def _origin(parts: Sequence[_Part]) -> dict[str, str]:
    """What all parts say of where the model comes from."""
    told = {part.container.metadata.get("model") for part in parts}
    return {"model": text} if len(told) == 1 and (text := told.pop()) else {}


def merge(
    parts: Sequence[Path], model: Models, specification: Path, target: Path, until: float = math.inf
) -> int:
    """Writes one certificate of all that the parts close between them, once it is proved; how many leaves it has.

    until: the time (of `time.monotonic`) at which it gives up. Raises Refused and NotProved.
    """
    question = Question.read(model, specification, until)
    found = [named(path, partial(_Part.read, path, question)) for path in parts]
    if not found:
        raise Refused("there is nothing to merge")
    rows = {part.container.text("rows") for part in found}
    if len(rows) > 1 or not (text := rows.pop()).isdecimal():
        raise Refused("the parts' headers do not agree on 'rows'")
    if len({part.left_out.tobytes() for part in found}) > 1:
        raise Refused("the parts do not agree on the pre-activations that they leave out")
    semantics = DEPLOYED if {part.semantics for part in found} == {DEPLOYED} else REAL
    covered = {clause for part in found for own in part.clauses for clause in own}
    missing = sorted(set(range(len(question.query.clauses))) - covered)
    if missing:
        raise Refused(f"{len(missing)} clauses are in no part, the first is clause {missing[0]}")
    with CertificateWriter(target) as writer:
        _Merger(found).write(writer, int(text))
        header = {"verdict": "unsat", "semantics": semantics, "rows": text} | _origin(found)
        digests = {"onnx_sha256": question.onnx_sha256, "vnnlib_sha256": question.vnnlib_sha256}
        writer.finish(header | digests)
        checked = check(writer.whole, model, specification, semantics=semantics, until=until)
        if not checked.proved or checked.summary is None:
            raise NotProved(checked.sentence)
        writer.publish()
    return checked.summary.leaves
