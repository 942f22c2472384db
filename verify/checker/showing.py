"""What a certificate holds, without proving anything: header, tree, sizes."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.checker.container import Container
from verify.checker.errors import Refused
from verify.checker.kinds import Block, blocks
from verify.checker.rules import Rule

_ORIGIN, _LONG = "model", 400  # where the model's file comes from


def describe(container: Container) -> str:
    """Some lines of text. Raises Refused for a damaged file."""
    lines = [f"{key}: {_short(value)}" for key, value in container.metadata.items() if key != _ORIGIN]
    if _ORIGIN in container.metadata:
        lines.append(
            f"{_ORIGIN} (as the search says, nothing proves that): {container.metadata[_ORIGIN][:_LONG]}"
        )
    if container.metadata.get("verdict") != "unsat":
        return "\n".join(lines)
    roots, splits = len(container.tensor("root.count", "<i8")), container.tensor("split.node", "<i8")
    depths = _depths(roots, splits)
    lines.append(
        f"tree: {roots} roots for {len(np.unique(container.tensor('root.clause', '<i8')))} clauses, {len(splits)} splits, "
        f"depth {int(depths.max(initial=0))}, {roots + len(splits)} leaves"
    )
    sums: dict[type[Rule], NDArray[Any]] = defaultdict(lambda: np.zeros(3, dtype=np.int64))
    for block in blocks(container):
        sums[block.rule] += 1, _entries(block), len(block.data)
    for rule, (count, entries, size) in sums.items():
        lines.append(f"{rule.name}: {count} blocks, {entries} {rule.counted}, {size} bytes")
    return "\n".join(lines)


def _short(value: str) -> str:
    return value if len(value) <= 80 else f"{value[:77]}..."


def _entries(block: Block) -> int:
    """The count that stands at a block's beginning; 0 where it is cut short."""
    try:
        return block.rule.entries(block.cursor())
    except Refused:
        return 0


def _depths(roots: int, splits: NDArray[Any]) -> NDArray[Any]:
    """How many splits are above each node."""
    depths = np.zeros(roots + 2 * len(splits), dtype=np.int64)
    for k, node in enumerate(splits.tolist()):
        if 0 <= node < roots + 2 * k:
            depths[roots + 2 * k : roots + 2 * k + 2] = depths[node] + 1
    return depths
