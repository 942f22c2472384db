"""ArgMax, ArgMin and OneHot: the network's values are ONNX Runtime's, ties included; integers as outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from onnx_models import CHOICE_SHAPE, CHOICES, X, floats, ints, model_of, scalar, weights
from patience import PATIENCE

from verify.api import verify
from verify.errors import ModelError
from verify.loading import load


@pytest.mark.parametrize("name", CHOICES)
def test_values(name: str) -> None:
    constants = {"depth": ints(4), "values": np.array([-0.5, 2.0], dtype=np.float32)}
    used = {node_input for node in CHOICES[name] for node_input in node.input}
    model = model_of(CHOICES[name], CHOICE_SHAPE, {k: v for k, v in constants.items() if k in used}, "y")
    network = load(model).network
    session = onnxruntime.InferenceSession(model.SerializeToString())
    generator = np.random.default_rng(3)
    for round_to in (3, 0):  # without decimals there are ties
        x = generator.normal(size=(200, *CHOICE_SHAPE)).round(round_to).astype(np.float32)
        ours = network.forward(torch.from_numpy(x).double()).flatten(1).numpy()
        theirs = np.stack([session.run(None, {X: one})[0].ravel() for one in x])
        assert np.array_equal(ours, theirs)


def test_whole_numbers_count(tmp_path: Path) -> None:
    """A model whose output is an integer, how many of its rows prefer the second class, is decided both ways."""
    nodes = [
        helper.make_node("MatMul", [X, "w"], ["s"]),
        helper.make_node("Softmax", ["s"], ["p"], axis=1),
        helper.make_node("ArgMax", ["p"], ["i"], axis=1, keepdims=0),
        helper.make_node("ReduceSum", ["i"], ["y"], keepdims=0),
    ]
    model = model_of(nodes, (4, 2), {"w": np.array([[1.0, -1.0], [0.5, 2.0]], dtype=np.float32)}, "y")
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    onnx.save(model, tmp_path / "count.onnx")
    for largest, verdict in ((0.6, "unsat"), (0.7, "sat")):  # the second class wins where x_0 < 0.75 x_1
        ends = [("0.5", "0.6"), ("0.9", "1")] * 4
        ends[0] = ("0.5", str(largest))
        text = "".join(
            f"(declare-const X_{i} Real)(assert (>= X_{i} {low}))(assert (<= X_{i} {high}))"
            for i, (low, high) in enumerate(ends)
        )
        (tmp_path / "p.vnnlib").write_text(f"{text}(declare-const Y_0 Real)(assert (<= Y_0 3))")
        found = verify(tmp_path / "count.onnx", tmp_path / "p.vnnlib", timeout=PATIENCE, device="cpu")
        assert found.verdict == verdict
        if found.witness is not None:
            assert found.witness.outputs.tolist() == 3


def test_other_outputs_are_refused() -> None:
    nodes = [helper.make_node("Greater", [X, "c"], ["y"])]
    model = model_of(nodes, (1, 3), {"c": scalar(0.0)}, "y")
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.BOOL
    with pytest.raises(ModelError, match="is bool"):
        load(model)


def test_indices_have_to_be_whole() -> None:
    nodes = [helper.make_node("OneHot", [X, "depth", "values"], ["y"])]
    model = model_of(nodes, (1, 3), {"depth": scalar(4.0), "values": weights(2)}, "y")
    with pytest.raises(ModelError, match="whole"):
        load(model)


@pytest.mark.parametrize(
    ("operator", "number", "attributes"),
    [
        ("Div", 2, {}), ("Pow", -1, {}),
        *((name, None, {"axes": [1]}) for name in ("ReduceMean", "ReduceL2", "ReduceLogSumExp")),
    ],
)  # fmt: skip
def test_integers_are_cut(operator: str, number: int | None, attributes: dict[str, list[int]]) -> None:
    """Bug found: a mean of int32 (0, 1) is 0 there and was 0.5 here, which a few samples need not show."""
    names = ["i", "n"] if number is not None else ["i"]
    nodes = [
        helper.make_node("Greater", [X, "c"], ["g"]),
        helper.make_node("Cast", ["g"], ["i"], to=TensorProto.INT32),
        helper.make_node(operator, names, ["d"], **attributes),
        helper.make_node("Cast", ["d"], ["y"], to=TensorProto.FLOAT),
    ]
    constants = {"c": scalar(0.9999)} | ({"n": np.array(number, dtype=np.int32)} if number else {})
    with pytest.raises(ModelError, match=r"of integers it cuts results|ONNX Runtime cannot load"):
        load(model_of(nodes, (1, 2), constants, "y"))
    floats = [nodes[0], helper.make_node("Cast", ["g"], ["i"], to=TensorProto.FLOAT), *nodes[2:]]
    if number is None:
        load(model_of(floats, (1, 2), constants, "y"))


@pytest.mark.parametrize("kind", [TensorProto.INT32, TensorProto.FLOAT])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_integers_between_integers_are_cut(kind: int, mode: str) -> None:
    """Between (0, 1) there is nothing of int32; the nearest entry is one."""
    nodes = [
        helper.make_node("Greater", [X, "c"], ["g"]),
        helper.make_node("Cast", ["g"], ["i"], to=kind),
        helper.make_node("Resize", ["i", "", "s"], ["d"], mode=mode),
        helper.make_node("Cast", ["d"], ["y"], to=TensorProto.FLOAT),
    ]
    model = model_of(nodes, (1, 1, 1, 2), {"c": scalar(0.9999), "s": floats(1, 1, 1, 2)}, "y")
    if (kind, mode) == (TensorProto.INT32, "linear"):
        with pytest.raises(ModelError, match=r"of integers it cuts results|ONNX Runtime cannot load"):
            load(model)
    else:
        load(model)
