"""The file: metadata, tensors, and blocks that are taken apart."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from small.bounds import Lines, Region
from small.sums import demand


@dataclass
class Block:
    """Bytes that are taken off."""

    data: bytes
    at: int = 0

    def take(self, kind: str, count: int, infinite: bool = False) -> list[Any]:
        """Whole numbers (q, i, b, B) or fractions (e, f, d)."""
        size = struct.calcsize(kind)
        demand(0 <= count <= (len(self.data) - self.at) // size, "a block that is too short")
        values = struct.unpack_from(f"<{count}{kind}", self.data, self.at)
        self.at += count * size
        if kind not in "efd":
            return list(values)
        demand(not any(math.isnan(v) or (math.isinf(v) and not infinite) for v in values), "no number")
        return [v if math.isinf(v) else Fraction(v) for v in values]

    def counted(self, kind: str = "q") -> list[Any]:
        return self.take(kind, self.take("q", 1)[0])

    def table(self, kind: str, rows: int, columns: int, infinite: bool = False) -> list[list[Any]]:
        return [self.take(kind, columns, infinite) for _ in range(rows)]

    def lines(self, region: Region, multipliers: Mapping[int, Fraction], stop: int, kind: str, cuts: Any = None) -> Lines:  # fmt: skip
        """Slopes of what is unstable before `stop`, and what goes with them."""
        unstable = region.unstable(stop)
        slopes = (v / (Fraction(255) if kind == "B" else 1) for v in self.take(kind, len(unstable)))
        return Lines(dict(zip(unstable, slopes, strict=True)), multipliers, {}, cuts or {})


def certificate(data: bytes) -> tuple[dict[str, str], dict[str, list[Any]], bytes]:
    """Metadata, tensors but for the stream, and the stream."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    metadata, found, at = header.pop("__metadata__"), {}, 0
    kinds = {"I64": "q", "I32": "i", "F64": "d", "U8": "B"}
    for name, one in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = one["data_offsets"]
        demand(start == at and len(one["shape"]) == 1, "gaps between tensors, or their ranks")
        block = Block(data[8 + size + start : 8 + size + stop])
        found[name] = block.data if name == "stream" else block.take(kinds[one["dtype"]], one["shape"][0])
        demand(
            len(block.data) == stop - start and (name == "stream" or block.at == stop - start),
            "a tensor's size",
        )
        at = stop
    demand(8 + size + at == len(data), "a file of another size")
    return metadata, found, found.pop("stream")


def roots_of(tensors: Mapping[str, list[Any]], clauses: int) -> list[list[int]]:
    """The clauses of each root."""
    found, at = [], 0
    for count in tensors["root.count"]:
        demand(count >= 1, "a root without clauses")
        found.append(tensors["root.clause"][at : at + count])
        at += count
    demand(at == len(tensors["root.clause"]), "clauses of no root")
    demand({one for own in found for one in own} == set(range(clauses)), "not all clauses")
    return found


def splits_of(tensors: Mapping[str, list[Any]], net: Net, roots: int) -> dict[int, tuple[int, int, Fraction]]:
    """Of each node below a root: the one above it, the variable and the value."""
    found: dict[int, tuple[int, int, Fraction]] = {}
    columns = (tensors[f"split.{name}"] for name in ("node", "variable", "value"))
    for node, variable, value in zip(*columns, strict=True):
        demand(0 <= node < roots + len(found), "a split of no node")
        demand(all(node != above for above, *_ in found.values()), "a node that is split twice")
        demand(0 <= variable < net.size, "a split of no variable")
        for child in range(roots + len(found), roots + len(found) + 2):
            found[child] = (node, variable, value)
    return found
