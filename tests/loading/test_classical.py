"""Models of ai.onnx.ml as converters of scikit-learn write them, and lookups in constant tables: compared with ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from old_runtime import skip_if
from onnx import TensorProto, helper, numpy_helper
from onnx_models import X, model_of

from verify.errors import ModelError
from verify.loading import LoadedModel, load

ROWS = 6
COEFFICIENTS = [1.0, 2.0, 3.0, -1.0, 0.5, 0.25, 0.3, -0.7, 1.1]


def learned(operator: str, operands: list[str], *outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(
        operator, operands, outputs, name=f"the {outputs[0]}", domain="ai.onnx.ml", **attributes
    )


def model(
    nodes: list[onnx.NodeProto], outputs: dict[str, int], constants: dict[str, Any] | None = None
) -> onnx.ModelProto:
    """A model from x, [ROWS, 3], to outputs of the given types."""
    made = model_of(nodes, (ROWS, 3), constants or {}, "y", 17)
    del made.graph.output[:]
    made.graph.output.extend(
        helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()
    )
    made.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    return made


def same(loaded: LoadedModel, shift: float = 0.0) -> None:
    """The network computes what ONNX Runtime does."""
    x = np.random.default_rng(3).standard_normal((10, loaded.network.inputs)).astype(np.float32) + np.float32(
        shift
    )
    found = loaded.network.forward(torch.from_numpy(x).double()).flatten(1).numpy()
    np.testing.assert_allclose(found, loaded.evaluate(x), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("Scaler", {"offset": [0.5], "scale": [2.0]}),
        ("Scaler", {"offset": [0.5, -0.1, 0.2], "scale": [2.0, 0.3, 1.7]}),
        ("Binarizer", {"threshold": 0.25}),
        ("Imputer", {"imputed_value_floats": [1.0], "replaced_value_float": float("nan")}),
        ("LinearRegressor", {"coefficients": COEFFICIENTS[:3], "intercepts": [0.1]}),
        ("LinearRegressor", {"coefficients": COEFFICIENTS[:6], "targets": 2}),
        ("LinearRegressor", {"coefficients": COEFFICIENTS[:6], "targets": 2, "post_transform": "LOGISTIC"}),
        ("LinearRegressor", {"coefficients": COEFFICIENTS, "targets": 3, "post_transform": "SOFTMAX"}),
        ("FeatureVectorizer", {"inputdimensions": [3]}),
    ],
    ids=str,
)
def test_operators(operator: str, attributes: dict[str, Any]) -> None:
    same(load(model([learned(operator, [X], "y", **attributes)], {"y": TensorProto.FLOAT})))


@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
def test_normalizer(norm: str) -> None:
    """Away from 0; ONNX Runtime divides by the greatest entry, not by the greatest size."""
    made = model([learned("Normalizer", [X], "y", norm=norm)], {"y": TensorProto.FLOAT})
    size = 3 * ROWS
    for low, high in ((1.0, 2.0), (-2.0, -1.0)):
        loaded = load(made, box=(np.full(size, low), np.full(size, high)))
        x = np.random.default_rng(1).uniform(low, high, (5, size)).astype(np.float32)
        found = loaded.network.forward(torch.from_numpy(x).double()).flatten(1).numpy()
        np.testing.assert_allclose(found, loaded.evaluate(x), rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("kind", ["NONE", "LOGISTIC", "SOFTMAX"])
def test_classifiers(rows: int, kind: str) -> None:
    """Labels and scores, either of which may be the output."""
    skip_if((kind, rows) == ("LOGISTIC", 1))
    node = learned(
        "LinearClassifier",
        [X],
        "label",
        "scores",
        coefficients=COEFFICIENTS[: 3 * rows],
        intercepts=[0.1, -0.2, 0.3][:rows],
        classlabels_ints=[5, 9, -2][: max(rows, 2)],
        post_transform=kind,
    )
    made = model([node], {"label": TensorProto.INT64, "scores": TensorProto.FLOAT})
    for output in ("label", "scores"):
        loaded = load(made, output=output)
        assert loaded.output_name == output
        same(loaded)
    with pytest.raises(ModelError, match=r"'label', 'scores'.*--output"):
        load(made)


def pipeline(labels: Any, text: bool) -> onnx.ModelProto:
    """What a converter makes of a scaler and a network of one layer: a label, and a map of probabilities."""
    classes = {"classlabels_strings": labels} if text else {"classlabels_int64s": labels}
    nodes = [
        learned("Scaler", [X], "scaled", offset=[0.1, 0.2, 0.3], scale=[2.0, 1.0, 0.5]),
        helper.make_node("MatMul", ["scaled", "w"], ["z"]),
        helper.make_node("Softmax", ["z"], ["p"], axis=1),
        helper.make_node("ArgMax", ["p"], ["i"], axis=1),
        learned("ZipMap", ["p"], "probability", **classes),
        learned("ArrayFeatureExtractor", ["classes", "i"], "chosen"),
    ]
    kind = TensorProto.STRING if text else TensorProto.INT64
    if not text:
        nodes.append(helper.make_node("Cast", ["chosen"], ["cast"], to=TensorProto.INT64))
    nodes.append(helper.make_node("Reshape", ["chosen" if text else "cast", "flat"], ["label"]))
    weights = np.random.default_rng(5).standard_normal((3, 3)).astype(np.float32)
    made = model(nodes, {"label": kind}, {"w": weights, "flat": np.array([-1])})
    stored = np.array(labels, dtype=object if text else np.int32)
    made.graph.initializer.append(numpy_helper.from_array(stored, "classes"))
    key = TensorProto.STRING if text else TensorProto.INT64
    maps = helper.make_map_type_proto(key, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    made.graph.output.append(helper.make_value_info("probability", helper.make_sequence_type_proto(maps)))
    return made


@pytest.mark.parametrize("labels", [[0, 1, 2], [7, -3, 7]], ids=str)
def test_labels_and_probabilities(labels: list[int]) -> None:
    made = pipeline(labels, text=False)
    same(load(made, output="label"))
    loaded = load(made, output="probability")
    assert loaded.output_shape == (ROWS, 3)
    same(loaded)


def test_labels_that_are_text() -> None:
    """Their probabilities can be the output still."""
    made = pipeline(["cat", "dog", "eel"], text=True)
    same(load(made, output="probability"))
    with pytest.raises(ModelError, match="'label' is string"):
        load(made, output="label")


@pytest.mark.parametrize(
    "given",
    [
        {"keys_int64s": [0, 1, 2, 1], "values_floats": [0.5, -1.5, 2.0, 9.0], "default_float": 7.0},
        {"keys_int64s": [2, 1], "values_int64s": [5, 6]},
        {"keys_int64s": [1], "values_floats": [1e-9], "default_float": 1e9},
    ],
    ids=str,
)
def test_label_encoders(given: dict[str, Any]) -> None:
    """Of several values of a key ONNX Runtime takes the first."""
    kind = TensorProto.FLOAT if "values_floats" in given else TensorProto.INT64
    nodes = [helper.make_node("ArgMax", [X], ["i"], axis=1), learned("LabelEncoder", ["i"], "y", **given)]
    loaded = load(model(nodes, {"y": kind}))
    x = np.random.default_rng(3).standard_normal((10, loaded.network.inputs)).astype(np.float32)
    found = loaded.network.forward(torch.from_numpy(x).double()).flatten(1).numpy()
    np.testing.assert_array_equal(found, loaded.evaluate(x))


def test_what_is_refused_by_name() -> None:
    trees = learned("TreeEnsembleRegressor", [X], "y", n_targets=1)
    for node in (trees, learned("Imputer", [X], "y", imputed_value_floats=[1.0], replaced_value_float=2.0)):
        with pytest.raises(ModelError, match=node.op_type):
            load(model([node], {"y": TensorProto.FLOAT}))


# lookups in tables


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("shape", [(2,), (2, 3)])
def test_embeddings(axis: int, shape: tuple[int, ...]) -> None:
    """The rows of a constant that inputs choose, from the end where they are below 0, as ONNX Runtime takes them."""
    table = np.random.default_rng(2).standard_normal((4, 4, 2)[: 3 if axis == 1 else 2]).astype(np.float32)
    nodes = [
        helper.make_node("Cast", [X], ["i"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "i"], ["y"], axis=axis),
    ]
    made = model_of(nodes, shape, {"table": table}, "y")
    size = int(np.prod(shape))
    loaded = load(made, box=(np.full(size, -4.0), np.full(size, 3.99)))
    x = np.random.default_rng(1).uniform(-4, 3.99, (50, size)).astype(np.float32)
    found = loaded.network.forward(torch.from_numpy(x).double()).flatten(1).numpy()
    np.testing.assert_array_equal(found, loaded.evaluate(x).astype(np.float64))


def test_embeddings_of_what_is_not_known_to_be_whole() -> None:
    nodes = [
        helper.make_node("Cast", [X], ["i"], to=TensorProto.INT64),
        helper.make_node("Gather", [X, "i"], ["y"], axis=0),
    ]
    with pytest.raises(ModelError, match="its data and its indices"):
        load(model_of(nodes, (3,), {}, "y"), box=(np.zeros(3), np.full(3, 2.0)))
