"""Models that nobody exports: what goes wrong with them is said of the model and the node, and what has a meaning is read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import X, case, floats, ints, model_of, scalar, weights

from verify.errors import ModelError, ResourceError
from verify.loading import load
from verify.loading.onnx import graph
from verify.loading.onnx.order import sort

GOOD = case("Gemm", [X, weights(4, 3), weights(3)], (1, 4)).model()


def node(operator: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node named after its first result."""
    return helper.make_node(operator, inputs, outputs, name=f"the {outputs[0]}", **attributes)


def refused(model: object, *parts: str) -> None:
    with pytest.raises(ModelError) as caught:
        load(model)  # type: ignore[arg-type]
    assert all(part in str(caught.value) for part in parts), str(caught.value)


# the order of nodes, and names


def test_nodes_in_any_order() -> None:
    nodes = [node("Add", ["a", "b"], "y"), node("Relu", [X], "b"), node("Neg", ["b"], "a")]
    loaded = load(model_of(nodes, (1, 3), {}, "y"))
    np.testing.assert_array_equal(loaded.evaluate(np.array([1.0, -1.0, 2.0], dtype=np.float32)), 0)


def test_subgraphs_need_what_they_speak_of() -> None:
    """They are not read yet, but their nodes are sorted behind what they take."""
    branch = helper.make_graph(
        [node("Identity", ["late"], "out")], "branch", [], [helper.make_empty_tensor_value_info("out")]
    )
    choice = node("If", ["flag"], "y", then_branch=branch, else_branch=branch)
    graph = model_of([choice, node("Relu", [X], "late")], (1, 2), {"flag": np.array(True)}, "y").graph
    sort(graph, "the model")
    assert [one.op_type for one in graph.node] == ["Relu", "If"]


def test_cycles_and_names_with_two_meanings() -> None:
    loop = [node("Add", [X, "b"], "a"), node("Relu", ["a"], "b"), node("Neg", ["b"], "y")]
    refused(model_of(loop, (1, 3), {}, "y"), "the model", "'the a'", "Add", "own result")
    refused(model_of([node("Relu", [X], "y"), node("Neg", [X], "y")], (1, 3), {}, "y"), "'y'", "two tensors")
    refused(model_of([node("Relu", [X], "c")], (1, 3), {"c": weights(3)}, "c"), "'c'")
    twice = onnx.ModelProto()
    twice.CopyFrom(GOOD)
    twice.graph.initializer.append(twice.graph.initializer[0])
    refused(twice, "one name")


def test_versions_that_differ_and_names_that_are_no_text() -> None:
    """ONNX Runtime takes another one of several versions than others do."""
    nodes = [node("Softmax", [X], "y", axis=1)]
    for domain in ("", "ai.onnx"):
        model = model_of(nodes, (2, 3, 4), {}, "y")
        model.opset_import.append(helper.make_opsetid(domain, 1))
        refused(model, "several versions", "[1, 13]")
    data = GOOD.SerializeToString()
    assert b"the_node" in data
    refused(data.replace(b"the_node", b"the_\xffode"), "node 0", "no text")


@pytest.mark.parametrize("operator", ["RandomNormalLike", "RandomUniformLike", "Bernoulli"])
def test_random_constants(operator: str) -> None:
    nodes = [node(operator, ["c"], "r"), node("Add", [X, "r"], "y")]
    refused(model_of(nodes, (1, 3), {"c": floats(0.5, 0.5, 0.5)}, "y", opset=15), operator, "random")


def test_constants_that_are_computed_and_no_numbers() -> None:
    nodes = [node("Sqrt", ["c"], "r"), node("Max", [X, "r"], "y")]
    refused(model_of(nodes, (1, 2), {"c": floats(-1, 1)}, "y"), "'the r'", "no number")


# tensors without entries, and with more than anyone has


def test_layers_without_neurons() -> None:
    nodes = [node("Gemm", [X, "w"], "h"), node("Relu", ["h"], "r"), node("Gemm", ["r", "v", "b"], "y")]
    constants = {"w": weights(2, 0), "v": weights(0, 3), "b": floats(1, -2, 3)}
    loaded = load(model_of(nodes, (1, 2), constants, "y"))
    assert not loaded.network.layers
    np.testing.assert_array_equal(loaded.evaluate(np.ones(2)), [1, -2, 3])


def test_no_inputs_and_no_outputs() -> None:
    nodes = [node("Slice", [X, "to", "to", "axis"], "y")]
    refused(model_of(nodes, (1, 2), {"to": ints(2), "axis": ints(1)}, "y"), "no entries")


def test_empty_parts_of_a_concatenation() -> None:
    nodes = [node("Slice", [X, "from", "to", "axis"], "none"), node("Concat", ["none", X], "y", axis=1)]
    constants = {"from": ints(2), "to": ints(2), "axis": ints(1)}
    np.testing.assert_array_equal(load(model_of(nodes, (1, 2), constants, "y")).evaluate(np.ones(2)), [1, 1])


HUGE = ints(10**6, 10**6)


@pytest.mark.parametrize(
    ("operator", "operands"),
    [
        ("ConstantOfShape", [HUGE]),
        ("Expand", [X, HUGE]),
        ("Tile", [X, HUGE]),
        ("Range", [scalar(0), scalar(1e12), scalar(1)]),
    ],
)
def test_more_entries_than_a_machine_has(
    operator: str, operands: Sequence[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said before they are made: ONNX Runtime, which would say so itself, is out of the way here."""
    monkeypatch.setattr(graph, "OnnxSession", mock.MagicMock())
    names = [operand if operand is X else f"c{i}" for i, operand in enumerate(operands)]
    constants = {f"c{i}": operand for i, operand in enumerate(operands) if operand is not X}
    nodes = [
        node(operator, names, "h"),
        node("ReduceMax", ["h"], "m", keepdims=0),
        node("Add", [X, "m"], "y"),
    ]
    with pytest.raises(ResourceError, match=r"the model: .*entries"):
        load(model_of(nodes, (1, 2), constants, "y"))


# windows


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("wanted", [(5, 6), (6, 5), (4, 5), (3, 2)])
@pytest.mark.parametrize("extra", [(0, 0), (1, 0)])
def test_adjoints_of_any_output_shape(wanted: tuple[int, int], group: int, extra: tuple[int, int]) -> None:
    """As ONNX Runtime reads it, which the load compares."""
    operands = [X, weights(2, 2 // group, 3, 2), weights(2)]
    settings = {"output_shape": wanted, "group": group, "output_padding": extra, "strides": (2, 2)}
    loaded = load(case("ConvTranspose", operands, (1, 2, 2, 2), dilations=(1, 2), **settings).model())
    assert loaded.output_shape == (1, 2, *wanted)


# other files


def external(path: Path, in_attribute: bool, **told: str) -> Path:
    """A model whose weights are told to be in another file."""
    weight = numpy_helper.from_array(weights(4, 3), "w")
    if in_attribute:
        nodes, constants = [helper.make_node("Constant", [], ["w"], value=weight)], {}
    else:
        nodes, constants = [], {"w": weights(4, 3)}
    model = model_of([*nodes, node("MatMul", [X, "w"], "y")], (1, 4), constants, "y")
    tensor = model.graph.node[0].attribute[0].t if in_attribute else model.graph.initializer[0]
    (path.parent / "weights.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "weights.bin", **told}.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("in_attribute", [False, True])
def test_data_in_other_files(tmp_path: Path, in_attribute: bool) -> None:
    path = external(tmp_path / "model.onnx", in_attribute)
    assert load(path).network.outputs == 3
    refused(path.read_bytes(), "'w'", "path")
    refused(onnx.load(path, load_external_data=False), "'w'", "path")


@pytest.mark.parametrize("in_attribute", [False, True])
@pytest.mark.parametrize(
    "told",
    [
        {"location": "nowhere.bin"}, {"location": "."}, {"location": ""}, {"location": "../weights.bin"},
        {"location": "/dev/zero"}, {"location": "pipe"}, {"location": "link.bin"}, {"location": "a\0b"},
        {"offset": "-4"}, {"offset": "1000000"}, {"length": "49"}, {"length": "8"}, {"length": "-1"}, {"length": "much"},
    ],
    ids=lambda told: "-".join(*told.items()).replace("\0", "0").replace("/", "_"),
)  # fmt: skip
def test_data_that_are_not_there(tmp_path: Path, told: dict[str, str], in_attribute: bool) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(48))
    folder = tmp_path / "folder"
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
    refused(external(folder / "model.onnx", in_attribute, **told), str(folder), "'w'")
