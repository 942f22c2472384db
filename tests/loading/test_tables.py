"""Places that an input chooses: tables of what they are, and networks that are known on the property's boxes alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from nets import property_text
from onnx import TensorProto, helper, numpy_helper

import verify
from verify.errors import InputError, UnsupportedOperatorError
from verify.loading import load
from verify.problem import Problem, prepare

ROWS = np.array([[1, 2], [-3, 1], [0, 5], [2, -2], [4, 4]], dtype=np.float32)
LOW, HIGH = [-1.75, -1.0, 0.5], [3.25, 1.0, 2.0]


def model(scattered: bool = False) -> onnx.ModelProto:
    """Of inputs p, a, b: the row at the whole part of p, or one with that row put to 7, times (a, b)."""
    constants = {
        "rows": ROWS, "zero": np.int64(0), "one": np.array([1], dtype=np.int64), "end": np.array([3], dtype=np.int64),
        "first": np.array([0], dtype=np.int64), "place": np.array([0], dtype=np.int64), "sevens": np.full((1, 2), 7, dtype=np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Gather", ["X", "zero"], ["p"], axis=0),
        helper.make_node("Cast", ["p"], ["k"], to=TensorProto.INT64),
        helper.make_node("Slice", ["X", "one", "end"], ["ab"]),
    ]
    if scattered:
        nodes += [
            helper.make_node("Unsqueeze", ["k", "first"], ["start"]),
            helper.make_node("Add", ["start", "one"], ["stop"]),
            helper.make_node("Slice", ["rows", "start", "stop"], ["row"]),
            helper.make_node("Unsqueeze", ["start", "first"], ["index"]),
            helper.make_node("ScatterND", ["rows", "index", "sevens"], ["put"]),
            helper.make_node("ReduceSum", ["put", "first"], ["picked"], keepdims=0),
        ]
    else:
        nodes.append(helper.make_node("Gather", ["rows", "k"], ["picked"], axis=0))
    nodes += [
        helper.make_node("Mul", ["picked", "ab"], ["products"]),
        helper.make_node("ReduceSum", ["products", "first"], ["Y"], keepdims=1),
    ]
    ends = [helper.make_tensor_value_info("X", 1, [3]), helper.make_tensor_value_info("Y", 1, [1])]
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "places", ends[:1], ends[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def outputs(scattered: bool, p: float, ab: np.ndarray) -> float:
    """The model by hand; negative places count from the end."""
    picked = ROWS[int(p)]
    if scattered:
        picked = ROWS.sum(0) - picked + 7
    return float(picked @ ab)


@pytest.mark.parametrize("scattered", [False, True], ids=["gathered", "scattered"])
def test_the_network_is_the_model_on_the_box(scattered: bool) -> None:
    problem = prepare(model(scattered), property_text(LOW, HIGH, 1, "(>= Y_0 1000.0)"))
    x = np.random.default_rng(0).uniform(LOW, HIGH, (500, 3))
    x[:6, 0] = [-1.0, np.nextafter(-1.0, 0), 0.0, 1.0, np.nextafter(1.0, 0), 3.0]
    found = problem.model.network.forward(torch.from_numpy(x))[:, 0].tolist()
    assert found == pytest.approx([outputs(scattered, row[0], row[1:]) for row in x], abs=1e-9)


@pytest.mark.parametrize("scattered", [False, True], ids=["gathered", "scattered"])
def test_verdicts(scattered: bool) -> None:
    corners = [np.array([a, b]) for a in (-1.0, 1.0) for b in (0.5, 2.0)]
    most = max(outputs(scattered, p, ab) for p in (-1.5, 0.5, 1.5, 2.5, 3.1) for ab in corners)
    for threshold, expected in ((most + 0.01, "unsat"), (most - 0.01, "sat")):
        text = property_text(LOW, HIGH, 1, f"(>= Y_0 {threshold!r})")
        assert verify.verify(model(scattered), text, timeout=60).verdict == expected


def test_only_for_the_property_that_it_was_loaded_for() -> None:
    problem = prepare(model(scattered=True), property_text(LOW, HIGH, 1, "(>= Y_0 1000.0)"))
    smaller = property_text([-1.0, *LOW[1:]], HIGH, 1, "(>= Y_0 1000.0)")
    prepare(problem.model, smaller)
    larger = property_text(LOW, [4.5, *HIGH[1:]], 1, "(>= Y_0 1000.0)")
    with pytest.raises(InputError, match="loaded for another property"):
        prepare(problem.model, larger)
    assert isinstance(prepare(model(scattered=True), larger), Problem)


def test_nothing_is_known_without_a_property() -> None:
    with pytest.raises(UnsupportedOperatorError):
        load(model(scattered=True))


def test_too_many_places() -> None:
    far = property_text([-1.0, -1.0, 0.5], [1e6, 1.0, 2.0], 1, "(>= Y_0 1000.0)")
    with pytest.raises(UnsupportedOperatorError):
        prepare(model(scattered=True), far)
