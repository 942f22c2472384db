"""A second checker of `unsat` over the reals, small and slow, written from docs/certificate-format.md alone.

Python's standard library and fractions: no floats decide anything. It reads chains and sums of dense maps and ReLUs, text of
VNN-LIB 1.0, and all kinds of blocks; what else there is it refuses. `check` returns if the certificate is a tree.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

from small import claims, input_boxes, leaves
from small.container import Block, certificate, roots_of, splits_of
from small.model import read_model
from small.property import read_property
from small.sums import Refused, demand
from small.tree import Tree

Rule = Callable[[Tree, Block], None]
RULES: tuple[Rule, ...] = (
    claims.box, claims.slopes, claims.lemma, partial(leaves.by_slopes, multiplier="e", slope="B"),
    partial(leaves.by_slopes, multiplier="f", slope="f"), leaves.by_rho, leaves.by_default, leaves.empty,
    input_boxes.input_leaves, input_boxes.clip, leaves.covered, claims.planes,
    partial(leaves.by_slopes, multiplier="e", slope="B", with_cuts=True),
    partial(leaves.by_slopes, multiplier="f", slope="f", with_cuts=True), partial(claims.lemma, with_cuts=True),
    claims.trees, input_boxes.boxes, input_boxes.box_leaves, claims.multipliers,
)  # fmt: skip


def content(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def check(path: Path, model: Path, text: Path) -> None:
    """Returns if a certificate proves its property, else raises Refused."""
    try:
        metadata, tensors, stream = certificate(path.read_bytes())
        version = metadata["format"].removeprefix("verify-certificate/")
        demand(version in ("1", "2"), "another format")
        expected = {"format": metadata["format"], "verdict": "unsat", "semantics": "real"}
        expected |= {f"{name}_sha256": hashlib.sha256(content(one)).hexdigest() for name, one in (("onnx", model), ("vnnlib", text))}  # fmt: skip
        demand({**metadata, "rows": ""} == {**expected, "rows": ""}, "another question")
        net = read_model(content(model), tensors.get("merged.variable", []))
        clauses = read_property(content(text).decode(), net)
        rows, roots = int(metadata["rows"]), roots_of(tensors, len(clauses))
        demand(rows >= 1 and rows >= max(len(one.rows) for one in clauses), "rows")
        tree = Tree(net, clauses, rows, roots, splits_of(tensors, net, len(roots)))
        start = 0
        for kind, end in zip(tensors["block.kind"], tensors["block.end"], strict=True):
            demand(start <= end <= len(stream), "a block's end")
            block = Block(stream[start:end])
            RULES[kind](tree, block)
            demand(block.at == end - start, "a block that is too long")
            start = end
    except (ValueError, KeyError, IndexError, TypeError, OverflowError, struct.error) as error:
        raise Refused(f"not understood: {error!r}") from error
    demand(start == len(stream), "bytes after the last block")
    above = {one for one, *_ in tree.splits.values()}
    demand(tree.closed | above == set(range(len(roots) + len(tree.splits))), "an open node")
