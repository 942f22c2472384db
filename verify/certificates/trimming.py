"""Drops what a certificate does not need: a child's multipliers that refute its parent as well make both children superfluous.

Bottom up: of every split whose children are closed by slopes, each child's slopes and multipliers (without that of the split)
are offered to the parent. Nodes below a parent that closes go, and the claims made for them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.certificates.writer import CertificateWriter
from verify.checker.bounding import Objective
from verify.checker.checking import check, prepare_proof, take_in
from verify.checker.container import Container
from verify.checker.errors import NotProved
from verify.checker.proof import Proof
from verify.checker.stream import Block, blocks

Array = NDArray[Any]
_SLOPED = {"leaves8": ("<u1", "<f2"), "leaves32": ("<f4", "<f4")}


@dataclass(frozen=True)
class Leaf:
    """What closes one node: rows' weights, its splits' multipliers, slopes of all pre-activations (0 where there is none)."""

    weights: Array
    multipliers: Array
    slopes: Array


class Trimmer:
    """One certificate, taken in and thinned out."""

    def __init__(self, container: Container, proof: Proof) -> None:
        self.container, self.proof = container, proof
        self.roots, self.split_node = proof.tree.roots, proof.tree.split_node
        self._leaves: dict[int, Leaf] = {}
        self._gone: set[int] = set()  # nodes below merged ones
        self._merged: dict[int, Leaf] = {}

    def run(self, writer: CertificateWriter) -> int:
        """Writes what is left; how many leaves are gone."""
        for block in blocks(self.container):
            self.proof.bounder.check_time()
            if block.kind in _SLOPED:
                self._collect(block)
            take_in(self.proof, block, False)
        for split in reversed(range(len(self.split_node))):  # children come after their parents
            self.proof.bounder.check_time()
            self._merge(split)
        self._write(writer)
        return len(self._gone) // 2

    def _collect(self, block: Block) -> None:
        """Remembers a block's leaves."""
        cursor, (slopes, multipliers) = block.cursor(), _SLOPED[block.kind]
        nodes = np.array(cursor.counted("<i8"))
        weights = self.proof.weights(cursor, "<f4", len(nodes), self.proof.clauses.most_rows)
        _, counts = self.proof.tree.splits(nodes)
        values = np.split(cursor.take(multipliers, int(counts.sum())), np.cumsum(counts)[:-1])
        mask = self._unstable(nodes)
        stored = np.zeros(mask.shape, dtype=slopes)
        stored[mask] = cursor.take(slopes, int(mask.sum()))
        for i, node in enumerate(nodes.tolist()):
            self._leaves[node] = Leaf(
                weights[i], values[i], stored[i] / 255 if slopes == "<u1" else stored[i]
            )

    def _unstable(self, nodes: Array) -> Array:
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
        slopes = np.rint(leaf.slopes * 255) / 255
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
        number = self._numbers()
        for name in ("root.clause", "root.count"):
            writer.append(name, self.container.tensor(name, "<i8"))
        kept = [
            k
            for k, node in enumerate(self.split_node.tolist())
            if node in number and node not in self._merged
        ]
        writer.append("split.node", np.array([number[int(self.split_node[k])] for k in kept], dtype=np.int64))
        writer.append("split.variable", self.proof.tree.variable[kept])
        writer.append("split.value", self.proof.tree.value[kept])
        for block in blocks(self.container):
            self._copy(writer, block, number)
        nodes = np.array(sorted(self._merged), dtype=np.int64)
        if len(nodes):
            self._write_leaves(writer, nodes, number)

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

    def _copy(self, writer: CertificateWriter, block: Block, number: dict[int, int]) -> None:
        """A block without what is gone. Only leaves by slopes can go in part."""
        cursor = block.cursor()
        if block.kind in ("box", "slopes"):
            return writer.block(block.kind, block.data)
        if block.kind == "lemma":
            node = cursor.integer()
            if node in number:
                writer.block(block.kind, _integers([number[node]]), block.data[8:])
            return None
        nodes = np.array(cursor.counted("<i8"))
        if block.kind in _SLOPED:
            nodes = np.array(
                [node for node in nodes.tolist() if node in self._leaves and node not in self._merged]
            )
            return self._write_leaves(writer, nodes, number, block.kind) if len(nodes) else None
        assert all(node in number for node in nodes.tolist())
        head = 8 + 8 * len(nodes)
        renamed = _integers([number[node] for node in nodes.tolist()])
        return writer.block(block.kind, _integers([len(nodes)]), renamed, block.data[head:])

    def _write_leaves(
        self, writer: CertificateWriter, nodes: Array, number: dict[int, int], kind: str = "leaves8"
    ) -> None:
        slopes, multipliers = _SLOPED[kind]
        leaves = [self._leaves[node] for node in nodes.tolist()]
        mask = self._unstable(nodes)
        values = np.stack([leaf.slopes for leaf in leaves])[mask]
        writer.block(
            kind, _integers([len(nodes)]), _integers([number[node] for node in nodes.tolist()]),
            np.stack([leaf.weights for leaf in leaves]).astype("<f4"),
            np.concatenate([leaf.multipliers for leaf in leaves]).astype(multipliers),
            (np.rint(values * 255) if kind == "leaves8" else values).astype(slopes),
        )  # fmt: skip


def _integers(values: list[int]) -> Array:
    return np.array(values, dtype="<i8")


def trim(
    certificate: Path, model: Path, specification: Path, target: Path, until: float = math.inf
) -> int:  # fmt: skip
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
