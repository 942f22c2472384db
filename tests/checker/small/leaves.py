"""Blocks that close nodes."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from small.bounds import Lines, Region
from small.boxes import joined
from small.claims import shares
from small.container import Block
from small.sums import demand
from small.tree import Tree


def by_slopes(tree: Tree, block: Block, multiplier: str, slope: str, with_cuts: bool = False) -> None:
    nodes = block.counted()
    weights = block.table("f", len(nodes), tree.rows)
    multipliers = [tree.of_splits(block, node, multiplier) for node in nodes]
    regions = [tree.region(node) for node in nodes]
    cuts = shares(tree, block, regions, slope) if with_cuts else [{}] * len(nodes)
    for node, region, own, *declared in zip(nodes, regions, weights, multipliers, cuts, strict=True):
        lines = block.lines(region, declared[0], tree.net.size, slope, declared[1])
        refute(tree, node, region, own, lines)


def by_rho(tree: Tree, block: Block) -> None:
    nodes, size = block.counted(), len(tree.net.z)
    weights = block.table("d", len(nodes), tree.rows)
    for node, own, rho in zip(nodes, weights, block.table("d", len(nodes), size), strict=True):
        region = tree.region(node)
        region.intervals(tree.net.layers)
        refute(tree, node, region, own, Lines(rho=dict(zip(tree.net.z, rho, strict=True))))


def by_default(tree: Tree, block: Block) -> None:
    nodes = block.counted()
    for node, own in zip(nodes, block.table("f", len(nodes), tree.rows), strict=True):
        region = tree.region(node)
        region.intervals(tree.net.layers)
        refute(tree, node, region, own, region.crown())


def refute(tree: Tree, node: int, region: Region, weights: Sequence[Fraction], lines: Lines) -> None:
    demand(region.empty or region.bound(joined(tree.sole(node).rows, weights), lines) > 0, "no bound above 0")
    tree.close(node)


def empty(tree: Tree, block: Block) -> None:
    for node in block.counted():
        demand(tree.region(node).empty, "not empty")
        tree.close(node)


def covered(tree: Tree, block: Block) -> None:
    nodes = block.counted()
    pairs = list(zip(nodes, block.take("q", len(nodes)), strict=True))
    children: dict[int, list[int]] = {}
    for node, (above, *_) in tree.splits.items():
        children.setdefault(above, []).append(node)

    def done(node: int) -> bool:
        return node in before or (node in children and all(map(done, children[node])))

    before = set(tree.closed)
    for node, other in pairs:
        region, path = tree.region(node), tree.path(other)
        demand(set(tree.roots[tree.path(node)[0]]) <= set(tree.roots[path[0]]), "other clauses")
        for v, low, high in map(tree.halfspace, path[1:]):
            demand(low <= region.lower[v] and region.upper[v] <= high, "outside of the other node")
        demand(done(other), "the other node is open")
        tree.close(node)
