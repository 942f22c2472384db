"""Blocks that say what holds in a subproblem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from small.bounds import Cut, Lines, Region
from small.boxes import joined
from small.container import Block
from small.sums import INFINITY, ONE, Sum, demand, down, least, plus
from small.tree import Claim, Ends, Tree, ends_of, keep, total


def read_claims(tree: Tree, block: Block, layer: int, kind: str) -> list[Claim]:
    """Variables of a layer, sides and values."""
    variables = block.counted("i")
    sides = block.take("b", len(variables))
    found = list(zip(variables, sides, block.take(kind, len(variables)), strict=True))
    demand(0 <= layer < len(tree.net.layers), "no such layer")
    start, stop = tree.net.layers[layer]
    demand(all(start <= v < stop and side in (1, -1) for v, side, _ in found), "no such claim")
    return found


def box(tree: Tree, block: Block) -> None:
    """Each layer by intervals, and from what these and the layers below have come to, by CROWN."""
    roots, size = block.counted(), len(tree.net.z)
    lower, upper = (dict(zip(tree.net.z, block.take("d", size, True), strict=True)) for _ in range(2))
    region = tree.shared(roots)
    for start, stop in tree.net.layers:
        region.intervals([(start, stop)])
        lines = region.crown()
        for v in range(start, stop):
            ends = [region.bound(plus({}, tree.net.z[v], side), lines, start) for side in (1, -1)]
            region.meet(v, down(ends[0]), -down(ends[1]))
            demand(lower[v] <= region.lower[v] and region.upper[v] <= upper[v], "a bound of a box")
    keep(tree.of_roots, roots, [(v, lower[v], upper[v]) for v in tree.net.z])


def slopes(tree: Tree, block: Block) -> None:
    """Each claim by slopes of its own."""
    roots, (layer,) = block.counted(), block.take("q", 1)
    claims, region = read_claims(tree, block, layer, "d"), tree.shared(roots)
    start = tree.net.layers[layer][0]
    for claim in claims:
        show(tree, region, claim, block.lines(region, {}, start, "B"), start)
    keep(tree.of_roots, roots, ends_of(claims))


def multipliers(tree: Tree, block: Block) -> None:
    """Each claim by multipliers of its own, after intervals."""
    roots, (layer,) = block.counted(), block.take("q", 1)
    claims, region = read_claims(tree, block, layer, "d"), tree.shared(roots)
    region.intervals(tree.net.layers)
    tables = [block.table("f", len(claims), stop - start) for start, stop in tree.net.layers[:layer]]
    first = tree.net.layers[layer][0]
    for claim, *parts in zip(claims, *tables, strict=True):
        rho = [value for part in parts for value in part]
        show(
            tree, region, claim, Lines(rho=dict(zip(range(first - len(rho), first), rho, strict=True))), first
        )
    keep(tree.of_roots, roots, ends_of(claims))


def show(
    tree: Tree, region: Region, claim: Claim, lines: Lines, stop: int, unsafe: Sum | None = None
) -> None:
    """A claim, over unsafe points if they are said to have a sum that is not positive."""
    v, side, value = claim
    demand(region.bound(plus(unsafe or {}, tree.net.z[v], side), lines, stop) >= side * value, "a claim")


def lemma(tree: Tree, block: Block, with_cuts: bool = False) -> None:
    """Claims over unsafe points, all by the same slopes."""
    node, layer = block.take("q", 2)
    claims, region, rows = read_claims(tree, block, layer, "f"), tree.region(node), tree.sole(node).rows
    weights = block.table("f", len(claims), tree.rows)
    multipliers = tree.of_splits(block, node, "e")
    cuts = shares(tree, block, [region], "B")[0] if with_cuts else {}
    lines = block.lines(region, {}, tree.net.size, "B", cuts)
    for claim, own in zip(claims, weights, strict=True):
        scaled = replace(lines, multipliers={v: sum(own) * one for v, one in multipliers.items()})
        show(tree, region, claim, scaled, tree.net.size, joined(rows, own))
    keep(tree.of_nodes, [node], ends_of(claims))


def planes(tree: Tree, block: Block) -> None:
    """Cutting planes: above the ReLU where it is 0, and where it is its operand."""
    variables = block.counted("i")
    lower, upper = (block.take("d", tree.net.size) for _ in range(2))
    slopes, factors, offsets = (block.take("d", len(variables)) for _ in range(3))
    counts = block.take("i", len(variables))
    keys, values = block.take("i", sum(counts)), block.take("d", sum(counts))
    ends = Region(tree.net, dict(enumerate(lower)), dict(enumerate(upper))).values()
    for i, v in enumerate(variables):
        demand(v in tree.net.z, "a plane above no ReLU")
        done = sum(counts[:i])
        m: Sum = {}
        for key, value in zip(keys[done : done + counts[i]], values[done : done + counts[i]], strict=True):
            demand(0 <= key < v, "a plane of values that come later")
            m = plus(m, {key: value})
        for z, k in ((-slopes[i], Fraction(0)), (1 - slopes[i] - factors[i], factors[i])):
            most = -least(plus(m, tree.net.z[v], -k), *ends)
            most += max(z * lower[v], z * upper[v]) if z else 0
            demand(offsets[i] >= most, "a plane that cuts into the ReLU")
        tree.cuts.append((v, Cut(slopes[i], plus(m, {ONE: offsets[i]}), lower, upper)))


def shares(tree: Tree, block: Block, regions: Sequence[Region], kind: str) -> list[dict[int, list[Any]]]:
    """Of each subproblem, by variables."""
    numbers = block.counted()
    demand(all(0 <= one < len(tree.cuts) for one in numbers), "no such plane")
    found = []
    for region in regions:
        own: dict[int, list[Any]] = {}
        for number, share in zip(numbers, block.take(kind, len(numbers)), strict=True):
            v, cut = tree.cuts[number]
            inside = all(
                cut.lower[i] <= region.lower[i] and region.upper[i] <= cut.upper[i] for i in region.lower
            )
            demand(inside and share >= 0, "a plane outside of its box, or a negative share")
            own.setdefault(v, []).append((cut, share / (Fraction(255) if kind == "B" else 1)))
        found.append(own)
    return found


def trees(tree: Tree, block: Block) -> None:
    """Each claim by a tree: splits of what the roots share, until slopes do."""
    roots, (layer,) = block.counted(), block.take("q", 1)
    claims, region = read_claims(tree, block, layer, "d"), tree.shared(roots)
    start, nodes = tree.net.layers[layer][0], block.counted()
    variables, values = block.take("i", len(nodes)), block.take("d", len(nodes))
    leaves: dict[int, tuple[Claim, list[Ends]]] = {i: (one, []) for i, one in enumerate(claims)}  # fmt: skip
    for k, (node, v, value) in enumerate(zip(nodes, variables, values, strict=True)):
        demand(node in leaves and 0 <= v < tree.net.size, "no such node of a tree")
        claim, path = leaves.pop(node)
        leaves[len(claims) + 2 * k] = claim, [*path, (v, value, INFINITY)]
        leaves[len(claims) + 2 * k + 1] = claim, [*path, (v, -INFINITY, value)]
    ordered = [leaves[one] for one in sorted(leaves)]
    multipliers = [
        total(zip([v for v, *_ in path], block.take("e", len(path)), strict=True)) for _, path in ordered
    ]
    for (claim, path), own in zip(ordered, multipliers, strict=True):
        inside = region.within(path)
        lines = block.lines(inside, own, start, "B")
        if not inside.empty:
            show(tree, inside, claim, lines, start)
    keep(tree.of_roots, roots, ends_of(claims))
