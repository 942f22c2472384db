"""Blocks that bound boxes of the input."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from small.bounds import Lines
from small.boxes import Boxed, joined
from small.container import Block
from small.sums import Number, demand
from small.tree import Tree, keep


def afresh(tree: Tree, block: Block) -> list[tuple[int, Boxed]]:
    """Boxes of nodes, bounded from nothing."""
    nodes = block.counted()
    passes, clauses = block.take("B", len(nodes)), max(map(len, tree.roots))
    weights = [[block.table("f", clauses, tree.rows) for _ in range(2)] for _ in nodes if tree.rows > 1]
    found = []
    for i, (node, kind) in enumerate(zip(nodes, passes, strict=True)):
        demand(kind in (1, 3), "no such pass")
        boxed = Boxed(tree.region(node).afresh(), tree.remaining(node))
        for number in range(1 if kind == 1 else 2):
            if number == 0:
                boxed.region.intervals(tree.net.layers)
            else:
                boxed.crown_layers(0)
            boxed.judge(dict(enumerate(weights[i][number])) if weights else {})
        found.append((node, boxed))
    return found


def passed(tree: Tree, block: Block) -> list[tuple[int, list[int], Boxed]]:
    """Passes over boxes: nodes, the clauses that are told of, and what was found."""
    nodes, (width,) = block.counted(), block.take("q", 1)
    places = block.table("i", len(nodes), width)
    found = []
    for node, own in zip(nodes, places, strict=True):
        remaining = tree.remaining(node)
        demand(set(remaining) <= set(own), "a clause that is left is missing")
        demand(all(0 <= one < len(tree.roots[tree.path(node)[0]]) for one in own), "no such clause")
        found.append(Boxed(tree.region(node), {one: remaining[one] for one in own if one in remaining}))
        found[-1].region.intervals(tree.net.layers)
    judge(tree, block, list(zip(places, found, strict=True)))
    for kind in block.counted("B"):
        chosen = block.counted("i")
        most = len(nodes) * (width if kind == 3 else 1)
        demand(all(a < b for a, b in zip([-1, *chosen], [*chosen, most], strict=True)), "places of a pass")
        demand(kind in (1, 2, 3), "no such pass")
        if kind == 3:
            declared(
                tree, block, [(found[one // width], places[one // width][one % width]) for one in chosen]
            )
            continue
        for boxed in (found[one] for one in chosen if found[one].open):
            if kind == 1:
                boxed.carry_forward()
            else:
                boxed.crown_layers(1)
        judge(tree, block, [(places[one], found[one]) for one in chosen])
    return list(zip(nodes, places, found, strict=True))


def judge(tree: Tree, block: Block, chosen: Sequence[tuple[list[int], Boxed]]) -> None:
    """The end of a pass over some boxes."""
    weights = [block.table("f", len(places), tree.rows) for places, _ in chosen if tree.rows > 1]
    for i, (places, boxed) in enumerate(chosen):
        boxed.judge(dict(zip(places, weights[i], strict=True)) if weights else {})
        boxed.learn()


def declared(tree: Tree, block: Block, chosen: Sequence[tuple[Boxed, int]]) -> None:
    """A pass by declared multipliers, over clauses of some boxes."""
    weights = block.table("f", len(chosen), tree.rows) if tree.rows > 1 else [[Fraction(1)]] * len(chosen)
    rho = block.table("f", len(chosen), len(tree.net.z))
    for (boxed, one), own, values in zip(chosen, weights, rho, strict=True):
        if one in boxed.open:
            lines = Lines(rho=dict(zip(tree.net.z, values, strict=True)))
            boxed.exclude(one, boxed.region.below(joined(boxed.clauses[one].rows, own), lines))


def confine(tree: Tree, node: int, boxed: Boxed, low: Sequence[Number], high: Sequence[Number]) -> None:
    """Unsafe points lie in a box."""
    for a, b in (box for box in boxed.unsafe.values() if box is not None):
        fits = all(x <= y for x, y in zip([*low, *b], [*a, *high], strict=True))
        demand(fits, "unsafe points outside of the box")
    keep(tree.of_nodes, [node], [(i, *ends) for i, ends in enumerate(zip(low, high, strict=True))])


def clip(tree: Tree, block: Block) -> None:
    """What descendants may rest on: boxes."""
    found = afresh(tree, block)
    lower, upper = (block.table("d", len(found), tree.net.inputs, True) for _ in range(2))
    for (node, boxed), low, high in zip(found, lower, upper, strict=True):
        confine(tree, node, boxed, low, high)


def boxes(tree: Tree, block: Block) -> None:
    """What descendants may rest on: boxes, bounds of pre-activations, and which clauses are left."""
    found = passed(tree, block)
    lower, upper = (block.table("d", len(found), tree.net.inputs, True) for _ in range(2))
    flags = [block.take("B", len(places)) for _, places, _ in found]
    demand(all(flag in (0, 1) for own in flags for flag in own), "a flag")
    numbers = block.counted("i")
    bounds = [block.table("f", len(numbers), len(tree.net.z), True) for _ in range(2)]
    for (node, places, boxed), low, high, own in zip(found, lower, upper, flags, strict=True):
        left = {one for one, flag in zip(places, own, strict=True) if flag}
        demand(node not in tree.left, "a node is told of twice")
        demand(set(boxed.open) <= left, "a clause that is left is dropped")
        confine(tree, node, boxed, low, high)
        tree.left[node] = left
    for number, low, high in zip(numbers, *bounds, strict=True):
        node, _, boxed = found[number]
        ends = list(zip(tree.net.z, low, high, strict=True))
        region = boxed.region
        fits = not boxed.open or all(a <= region.lower[v] and region.upper[v] <= b for v, a, b in ends)
        demand(number >= 0 and fits, "bounds tighter than what was found")
        keep(tree.of_nodes, [node], ends)


def input_leaves(tree: Tree, block: Block) -> None:
    """Clauses that boxes bounded from nothing refute."""
    for node, boxed in afresh(tree, block):
        demand(not boxed.open, "a clause is left")
        tree.close(node)


def box_leaves(tree: Tree, block: Block) -> None:
    """Clauses that passes refute."""
    for node, _, boxed in passed(tree, block):
        demand(not boxed.open, "a clause is left")
        tree.close(node)
