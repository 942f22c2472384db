"""What `verify info` says of every node of a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_models import X, model_of

from verify.reports.description import describe, render


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A product and a sum that become one map, sizes that are computed, and nodes that change nothing or that nobody needs."""
    nodes = [
        helper.make_node("MatMul", [X, "w"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["sum"]),
        helper.make_node("Shape", ["sum"], ["sizes"]),
        helper.make_node("Relu", ["sum"], ["active"]),
        helper.make_node("Sub", ["active", "b"], ["beside"]),
        helper.make_node("Reshape", ["active", "sizes"], ["same"]),
        helper.make_node("LeakyRelu", ["same"], ["leaky#2"]),
        helper.make_node("Identity", ["leaky#2"], ["y"]),
    ]
    constants = {"w": np.eye(3, dtype=np.float32) + 1, "b": np.ones(3, dtype=np.float32)}
    path = tmp_path / "m.onnx"
    onnx.save(model_of(nodes, (1, 3), constants, "y"), path)
    return path


def test_every_node_of_the_file(model: Path) -> None:
    record = describe(model, None)
    became = {
        node["name"]: node.get("read_as") or node.get("folded") or node["nothing"]
        for node in record["onnx_nodes"]
    }
    assert became == {
        "product": "sum",
        "sum": {"Dense": 1},
        "sizes": "constant",
        "active": {"Relu": 1},
        "beside": "not needed",
        "same": "leaky#2",
        "leaky#2": {"LeakyRelu": 1},
        "y": "changes nothing",
    }
    assert [node.get("neurons", 0) for node in record["onnx_nodes"]] == [0, 0, 0, 3, 0, 0, 3, 0]
    assert sum(node.get("weights", 0) for node in record["onnx_nodes"]) == record["parameters"] == 12


def test_the_summary_comes_first(model: Path) -> None:
    head, rows = render(describe(model, None)).split("\n\n")
    assert "neurons     6 (LeakyRelu 3, Relu 3)" in head or "neurons     6 (Relu 3, LeakyRelu 3)" in head
    assert "8 of the file, 3 of the network" in head
    lines = rows.splitlines()
    assert len(lines) == 8
    assert lines[0].split() == ["1", "MatMul", "product", "->", "sum"]
    assert lines[1].endswith("Dense [1, 3], 12 weights")
    assert lines[3].endswith("Relu [1, 3], 3 neurons")
    assert lines[4].endswith("(not needed)")
