"""What a certificate holds, without proving anything: header, tree, sizes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.checker.container import Container
from verify.checker.stream import blocks

_CLOSING = ("leaves8", "leaves32", "leaves_rho", "leaves_default", "empty", "input_leaves")
_PROVING = ("slopes", "lemma")


def describe(container: Container) -> str:
    """Some lines of text. Raises Refused for a damaged file."""
    lines = [f"{key}: {_short(value)}" for key, value in container.metadata.items()]
    if container.metadata.get("verdict") != "unsat":
        return "\n".join(lines)
    roots, splits = len(container.tensor("root.count", "<i8")), container.tensor("split.node", "<i8")
    depths = _depths(roots, splits)
    lines.append(
        f"tree: {roots} roots for {len(container.tensor('root.clause', '<i8'))} clauses, {len(splits)} splits, "
        f"depth {int(depths.max(initial=0))}, {roots + len(splits)} leaves"
    )
    number: Counter[str] = Counter()
    entries: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for block in blocks(container):
        number[block.kind] += 1
        size[block.kind] += len(block.data)
        entries[block.kind] += _entries(block.kind, block.data)
    for kind, count in number.items():
        what = "nodes" if kind in (*_CLOSING, "clip") else "claims" if kind in _PROVING else "roots"
        lines.append(f"{kind}: {count} blocks, {entries[kind]} {what}, {size[kind]} bytes")
    return "\n".join(lines)


def _short(value: str) -> str:
    return value if len(value) <= 80 else f"{value[:77]}..."


def _entries(kind: str, data: NDArray[np.uint8]) -> int:
    """The count that stands at a block's beginning: of nodes, claims or roots."""
    if kind == "slopes":
        roots = int(data[:8].view("<i8")[0])
        start = 8 * (roots + 2)
    else:
        start = 16 if kind == "lemma" else 0
    return int(data[start : start + 8].copy().view("<i8")[0]) if len(data) >= start + 8 else 0


def _depths(roots: int, splits: NDArray[Any]) -> NDArray[Any]:
    """How many splits are above each node."""
    depths = np.zeros(roots + 2 * len(splits), dtype=np.int64)
    for k, node in enumerate(splits.tolist()):
        if 0 <= node < roots + 2 * k:
            depths[roots + 2 * k : roots + 2 * k + 2] = depths[node] + 1
    return depths
