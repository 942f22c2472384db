"""Trees of certificates: every node is split or closed once, and subproblems are what the way to them says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verify.checker.container import Container
from verify.checker.errors import Refused
from verify.checker.tree import Tree

Array = np.ndarray[Any, Any]
INPUTS, VARIABLES = 2, 5


def box(root: int) -> tuple[Array, Array]:
    return np.full(INPUTS, -1.0 - root), np.full(INPUTS, 1.0 + root)


def tree(roots: int, nodes: list[int], variables: list[int] | None = None, values: Any = None) -> Tree:
    """A tree that splits these nodes in order."""
    count = len(nodes)
    variables = variables if variables is not None else [0] * count
    values = values if values is not None else [0.0] * count
    found = Tree(roots, VARIABLES, box)
    found.grow(np.array(nodes, dtype=np.int64), np.array(variables, dtype=np.int32), np.array(values, dtype=np.float64))  # fmt: skip
    return found


def test_complete_trees() -> None:
    one = tree(2, [0, 3])  # node 0 into 2 and 3, node 3 into 4 and 5
    one.discharge(np.array([1]))
    one.discharge(np.array([5, 2]))
    with pytest.raises(Refused, match="1 nodes are neither split nor closed, the first is 4"):
        one.check_complete()
    one.discharge(np.array([4]))
    one.check_complete()


@pytest.mark.parametrize("missing", [1, 2, 4, 5])
def test_missing_leaf(missing: int) -> None:
    one = tree(2, [0, 3])
    for node in {1, 2, 4, 5} - {missing}:
        one.discharge(np.array([node]))
    with pytest.raises(Refused, match=f"first is {missing}"):
        one.check_complete()


@pytest.mark.parametrize("closed", [[2, 2], [0], [3], [1, 4, 1]])
def test_closed_twice_or_split(closed: list[int]) -> None:
    one = tree(2, [0, 3])
    with pytest.raises(Refused, match="twice"):
        one.discharge(np.array(closed))


def test_closed_twice_in_different_blocks() -> None:
    one = tree(2, [0, 3])
    one.discharge(np.array([2, 4]))
    with pytest.raises(Refused, match="twice"):
        one.discharge(np.array([4]))


@pytest.mark.parametrize(
    "nodes", [[0, 0], [2, 0], [4], [3, 2], [-1], [0, 4, 3], [0, 6], [1, 2, 2], [2**62], [-(2**62)]]
)
def test_splits_of_wrong_nodes(nodes: list[int]) -> None:
    """Twice, before their parent, of a node that is nowhere."""
    if nodes == [0, 4, 3]:  # in order with two roots: 0 makes 2 and 3, the next makes 4 and 5
        with pytest.raises(Refused):
            tree(2, nodes)
    with pytest.raises(Refused):
        tree(2 if 2 not in nodes[:1] else 1, nodes)


@pytest.mark.parametrize("variable", [-1, VARIABLES, 2**31 - 1])
def test_splits_at_wrong_variables(variable: int) -> None:
    with pytest.raises(Refused, match="unknown variable"):
        tree(1, [0], [variable])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_splits_at_no_number(value: float) -> None:
    with pytest.raises(Refused, match="no number"):
        tree(1, [0], [1], [value])


@pytest.mark.parametrize("node", [-1, 6, 2**62])
def test_nodes_of_no_tree(node: int) -> None:
    with pytest.raises(Refused, match="not in the tree"):
        tree(2, [0, 3]).check_nodes(np.array([1, node]))


def test_tensors_of_different_lengths() -> None:
    tensors = {"split.node": np.zeros(1, "<i8"), "split.variable": np.zeros(2, "<i4"), "split.value": np.zeros(1, "<f8")}  # fmt: skip
    with pytest.raises(Refused, match="differ in length"):
        Tree.read(Container({}, tensors), 1, VARIABLES, box)
    tensors["split.variable"] = np.zeros(1, "<i8")
    with pytest.raises(Refused, match=r"split\.variable"):
        Tree.read(Container({}, tensors), 1, VARIABLES, box)


@dataclass
class Naive:
    """The same by dictionaries and recursion."""

    parent: dict[int, tuple[int, int, float, int]] = field(
        default_factory=dict
    )  # node: parent, variable, value, side
    claims: dict[int, list[tuple[int, float, float]]] = field(default_factory=dict)
    base: dict[int, tuple[list[float], list[float]]] = field(default_factory=dict)

    def subproblem(self, node: int) -> tuple[list[float], list[float]]:
        if node in self.parent:
            above, variable, value, side = self.parent[node]
            lower, upper = self.subproblem(above)
            if side > 0:
                lower[variable] = max(lower[variable], value)
            else:
                upper[variable] = min(upper[variable], value)
        else:
            known = self.base[node]
            lower, upper = list(known[0]), list(known[1])
        for variable, low, high in self.claims.get(node, []):
            lower[variable], upper[variable] = max(lower[variable], low), min(upper[variable], high)
        return lower, upper

    def splits(self, node: int) -> list[int]:
        if node not in self.parent:
            return []
        above, variable, _, _ = self.parent[node]
        return [*self.splits(above), variable]


@given(st.integers(0, 10**6))
def test_subproblems_and_splits_of_random_trees(seed: int) -> None:
    """Claims come between questions; several variables at once, one of them twice."""
    random = np.random.default_rng(seed)
    roots, count = int(random.integers(1, 4)), int(random.integers(0, 12))
    free, nodes = list(range(roots)), []
    variables = random.integers(0, VARIABLES, count).tolist()
    values = random.standard_normal(count).tolist()
    naive = Naive()
    for root in range(roots):
        low, high = box(root)
        free_ends = [np.inf] * (VARIABLES - INPUTS)
        naive.base[root] = ([*low.tolist(), *(-end for end in free_ends)], [*high.tolist(), *free_ends])
    for k in range(count):
        node = free.pop(int(random.integers(len(free))))
        nodes.append(node)
        for child, side in ((roots + 2 * k, 1), (roots + 2 * k + 1, -1)):
            naive.parent[child] = (node, variables[k], values[k], side)
            free.append(child)
    one = tree(roots, nodes, variables, values)
    for _ in range(4):
        total = roots + 2 * count
        for _ in range(int(random.integers(3))):
            node, size = int(random.integers(total)), int(random.integers(1, 4))
            places = random.integers(0, VARIABLES, size)
            low = np.where(random.random(size) < 0.5, -np.inf, random.standard_normal(size))
            high = np.where(random.random(size) < 0.5, np.inf, random.standard_normal(size))
            one.claim(node, places, low, high)
            naive.claims.setdefault(node, []).extend(
                zip(places.tolist(), low.tolist(), high.tolist(), strict=True)
            )
        if random.random() < 0.5:
            root = int(random.integers(roots))
            lower, upper = random.standard_normal(VARIABLES), random.standard_normal(VARIABLES)
            one.set_base(root, lower, upper)
            naive.base[root] = (lower.tolist(), upper.tolist())
        asked = random.permutation(total)[: int(random.integers(1, total + 1))]
        lower, upper = one.subproblems(asked)
        chain, counts = one.splits(asked)
        for i, node in enumerate(asked.tolist()):
            assert (lower[i].tolist(), upper[i].tolist()) == naive.subproblem(node)
            splits = naive.splits(node)
            assert counts[i] == len(splits)
            assert chain[i].tolist() == splits + [-1] * (chain.shape[1] - len(splits))
            root = node
            while root in naive.parent:
                root = naive.parent[root][0]
            assert one.root_of[node] == root


def test_both_halves_are_the_whole() -> None:
    """Whatever the value is, outside the interval too."""
    for value in (-7.0, -1.0, 0.0, 0.3, 1.0, 5.0):
        lower, upper = tree(1, [0], [0], [value]).subproblems(np.array([1, 2]))
        for x in (-1.0, -0.2, value, 0.3, 1.0):
            if -1 <= x <= 1:
                assert any(lower[i, 0] <= x <= upper[i, 0] for i in range(2))
