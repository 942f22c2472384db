"""Drops what a certificate does not need: a child's multipliers that refute its parent as well make both children superfluous.

Bottom up: of every split whose children are closed by slopes, each child's slopes and multipliers (without that of the split)
are offered to the parent. Nodes below a parent that closes go, and the claims made for them.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.checker.bounding import Objective
from verify.checker.checking import check, prepare_proof, take_in
from verify.checker.clauses import ROOTS
from verify.checker.container import Container
from verify.checker.errors import NotProved
from verify.checker.kinds import Block, blocks
from verify.checker.opposites import MERGED
from verify.checker.proof import Proof
from verify.checker.question import Models
from verify.proof.blocks import LEVELS, Leaf
from verify.proof.kinds import BLOCKS
from verify.proof.leaf_blocks import Covered, Leaves8
from verify.proof.writer import CertificateWriter

Array = NDArray[Any]


class Trimmer:
    """One certificate, taken in and thinned out."""

    def __init__(self, container: Container, proof: Proof) -> None:
        self.container, self.proof = container, proof
        self.roots, self.split_node = proof.tree.roots, proof.tree.split_node
        self._leaves: dict[int, Leaf] = {}
        self.rows = proof.clauses.most_rows
        # nodes below merged ones
        self._gone: set[int] = set()
        self._merged: dict[int, Leaf] = {}
        self.number: dict[int, int] = {}
        self.kept: dict[int, Leaf] = {}

    def run(self, writer: CertificateWriter) -> int:
        """Writes what is left; how many leaves are gone."""
        for block in blocks(self.container):
            self.proof.bounder.check_time()
            take_in(self.proof, block, False)
            self._leaves |= BLOCKS[block.rule.code].leaves(block.cursor(), self)
        for split in reversed(range(len(self.split_node))):  # children come after their parents
            self.proof.bounder.check_time()
            self._merge(split)
        self._write(writer)
        return len(self._gone) // 2

    def depths(self, nodes: Array) -> Array:
        """How many splits are above each node."""
        return self.proof.tree.splits(nodes)[1]

    def above(self, node: int) -> int:
        """The new number of a node, or of the nearest above it that stays."""
        while node not in self.number:
            node = int(self.split_node[(node - self.roots) // 2])
        return self.number[node]

    def unstable(self, nodes: Array) -> Array:
        """The pre-activations that have a slope to store, [nodes, pre-activations]."""
        lower, upper = self.proof.tree.subproblems(nodes)
        inputs = self.proof.network.inputs
        return np.asarray((lower[:, inputs:] < 0) & (upper[:, inputs:] > 0))

    def _merge(self, split: int) -> None:
        """Closes the parent of a split by what closes one of its children, if both are closed by slopes."""
        parent, children = int(self.split_node[split]), [self.roots + 2 * split + side for side in (0, 1)]
        if any(child not in self._leaves for child in children):
            return
        for side, child in enumerate(children):
            offered = self._offered(split, side, self._leaves[child])
            if self._closes(parent, offered):
                self._leaves[parent] = self._merged[parent] = offered
                for gone in children:
                    del self._leaves[gone]
                    self._merged.pop(gone, None)
                self._gone.update(children)
                return

    def _offered(self, split: int, side: int, leaf: Leaf) -> Leaf:
        """A child's proof as one of its parent: in bytes, and the neuron that was split keeps its side's slope."""
        slopes = np.rint(leaf.slopes * LEVELS) / LEVELS
        place = int(self.proof.tree.variable[split]) - self.proof.network.inputs
        if place >= 0:
            slopes[place] = 1.0 if side == 0 else 0.0
        multipliers = np.clip(leaf.multipliers[:-1].astype(np.float64), -6e4, 6e4).astype("<f2")
        return Leaf(leaf.weights, multipliers, slopes)

    def _closes(self, node: int, leaf: Leaf) -> bool:
        """Whether the slopes refute the node's subproblem."""
        proof, nodes, inputs = self.proof, np.array([node]), self.proof.network.inputs
        bounds = proof.tree.subproblems(nodes)
        alphas = {
            number: leaf.slopes[None, None, layer.variables.start - inputs : layer.variables.stop - inputs]
            for number, layer in enumerate(proof.network.layers)
        }
        variables, _ = proof.tree.splits(nodes)
        rho = proof.bounder.sloped(bounds, alphas, (variables, leaf.multipliers[None].astype(np.float64)))
        objective = Objective(leaf.weights[None, None], [proof.clause(node)])
        with np.errstate(all="ignore"):
            _, reached = proof.bounder.reach(
                bounds, objective, rho, proof.sizes_of(nodes), np.zeros((1, 1)), True
            )
        return bool(reached.all())

    # what is left

    def _write(self, writer: CertificateWriter) -> None:
        self.number = self._numbers()
        self.kept = {node: leaf for node, leaf in self._leaves.items() if node not in self._merged}
        for name, kind in (MERGED | ROOTS).items():
            writer.append(name, self.container.optional(name, kind))
        splits = enumerate(self.split_node.tolist())
        kept = [k for k, node in splits if node in self.number and node not in self._merged]
        nodes = [self.number[int(self.split_node[k])] for k in kept]
        writer.append("split.node", np.array(nodes, dtype=np.int64))
        writer.append("split.variable", self.proof.tree.variable[kept])
        writer.append("split.value", self.proof.tree.value[kept])
        # what others cover comes when these are closed, whatever closes them
        last = [block for block in blocks(self.container) if block.rule.code == Covered.code]
        for block in blocks(self.container):
            if block.rule.code != Covered.code:
                self._write_block(writer, block)
        if self._merged:
            writer.block(Leaves8.code, Leaves8.of(dict(sorted(self._merged.items())), self).parts())
        for block in last:
            self._write_block(writer, block)

    def _write_block(self, writer: CertificateWriter, block: Block) -> None:
        if parts := BLOCKS[block.rule.code].renamed(block.data, self):
            writer.block(block.rule.code, parts)

    def _numbers(self) -> dict[int, int]:
        """New numbers of the nodes that stay."""
        number = {root: root for root in range(self.roots)}
        splits = 0
        for k, node in enumerate(self.split_node.tolist()):
            if node in number and node not in self._merged and node not in self._gone:
                for side in (0, 1):
                    number[self.roots + 2 * k + side] = self.roots + 2 * splits + side
                splits += 1
        return number


def trim(certificate: Path, model: Models, specification: Path, target: Path, until: float = math.inf) -> int:
    """Writes a thinner certificate of the same claim, once it is proved; how many leaves are gone.

    until: the time (of `time.monotonic`) at which it gives up. Raises Refused and NotProved.
    """
    container, proof = prepare_proof(certificate, model, specification, until)
    with CertificateWriter(target) as writer:
        gone = Trimmer(container, proof).run(writer)
        metadata = {key: value for key, value in container.metadata.items() if key != "format"}
        writer.finish(metadata)
        found = check(writer.whole, model, specification, semantics=metadata["semantics"], until=until)
        if not found.proved:
            raise NotProved(found.sentence)
        writer.publish()
    return gone
