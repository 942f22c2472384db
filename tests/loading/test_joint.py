"""Joint networks of queries: their values are the models' own, and what does not match is refused."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from verify.errors import InputError, ModelError
from verify.formats.vnnlib2 import Query, parse_query
from verify.loading import load, load_joint
from verify.loading.joint import JointModel

KINDS = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "int64": TensorProto.INT64,
         "float16": TensorProto.FLOAT16}  # fmt: skip


def model(
    nodes: list[Any],
    inputs: dict[str, Any],
    outputs: dict[str, Any],
    weights: dict[str, NDArray[Any]] | None = None,
) -> onnx.ModelProto:
    """A model; inputs and outputs by name as shapes, or as element type and shape."""

    def info(name: str, given: Any) -> onnx.ValueInfoProto:
        kind, shape = given if isinstance(given, tuple) else ("float32", given)
        return helper.make_tensor_value_info(name, KINDS[kind], shape)

    graph = helper.make_graph(
        nodes, "g", [info(*item) for item in inputs.items()], [info(*item) for item in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    return made


def dense(seed: int, kind: str = "float32", batch: Any = 1) -> onnx.ModelProto:
    """[batch, 3] and [2] to [batch, 2] and [3], with hidden tensors `h` and `node/out`."""
    random = np.random.default_rng(seed)
    weights = {
        name: random.standard_normal(shape).astype(kind)
        for name, shape in (("w", (3, 4)), ("b", (4,)), ("v", (4, 2)), ("u", (2, 3)))
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
        helper.make_node("Relu", ["h"], ["node/out"], name="activation"),
        helper.make_node("MatMul", ["node/out", "v"], ["y0"]),
        helper.make_node("Add", ["y0", "z"], ["y"]),
        helper.make_node("MatMul", ["z", "u"], ["k"]),
    ]
    inputs = {"x": (kind, [batch, 3]), "z": (kind, [2])}
    return model(nodes, inputs, {"y": (kind, [batch, 2]), "k": (kind, [3])}, weights)


def declare(name: str, letter: str, relation: str = "", kind: str = "float32") -> str:
    """A network like `dense`, whose variables begin with a letter."""
    return (
        f"(declare-network {name} {relation} (declare-input {letter}x {kind} [1,3]) (declare-input {letter}z {kind} [2])"
        f'(declare-hidden {letter}h {kind} [1,4] "h") (declare-hidden {letter}r {kind} [1,4] "activation")'
        f"(declare-output {letter}y {kind} [1,2]) (declare-output {letter}k {kind} [3]))"
    )


def bounded(letter: str) -> str:
    """Bounds of the inputs of a network like `dense`."""
    names = [f"{letter}x[0,{i}]" for i in range(3)] + [f"{letter}z[{i}]" for i in range(2)]
    return "".join(f"(assert (and (<= {name} 1) (>= {name} -1)))" for name in names)


def query_of(*parts: str) -> Query:
    return parse_query("(vnnlib-version <2.0>)" + "".join(parts))


def runtime(
    proto: onnx.ModelProto, extra: tuple[str, ...], fed: dict[str, NDArray[Any]]
) -> list[NDArray[Any]]:
    """What ONNX Runtime gives: outputs, then extra tensors."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in extra)
    results: list[NDArray[Any]] = onnxruntime.InferenceSession(copy.SerializeToString()).run(None, fed)
    return results


def values(loaded: JointModel, x: NDArray[Any]) -> NDArray[Any]:
    """The network's outputs."""
    with torch.no_grad():
        found: NDArray[Any] = loaded.network.forward(torch.from_numpy(x.astype(np.float64))[None])[0].numpy()
    return found


def joint(query: Query, models: dict[str, Any], fold: bool = True) -> JointModel:
    loaded = load_joint(query, models, fold)
    assert isinstance(loaded, JointModel)
    return loaded


@pytest.mark.parametrize("fold", [True, False])
def test_values_are_the_models_own(fold: bool) -> None:
    query = query_of(
        declare("f", "A"), declare("g", "B", "(equal-to f)"), declare("h", "C", "(isomorphic-to f)"),
        *map(bounded, "ABC"), "(assert (== Ax[0,1] Bx[0,1])) (assert (== Cz[1] Az[0]))",
        "(assert (<= (* Ax[0,0] By[0,1] (- Ch[0,2] 1)) (* Ar[0,3] Ar[0,3] Bk[0])))",
    )  # fmt: skip
    models = {"f": dense(1), "h": dense(2, batch="N")}
    loaded = joint(query, models, fold)
    assert loaded.network.inputs == query.property.inputs == 13
    random = np.random.default_rng(0)
    for _ in range(5):
        x = random.uniform(-1, 1, 13).astype(np.float32)
        given, outputs, hidden = np.split(x[query.input_of], 3), [], []
        for part, proto in zip(given, (models["f"], models["f"], models["h"]), strict=True):
            found = runtime(proto, ("h", "node/out"), {"x": part[:3].reshape(1, 3), "z": part[3:]})
            outputs += found[:2]
            hidden += found[2:]
        expected = np.concatenate([array.ravel() for array in (*outputs, *hidden)])
        assert np.array_equal(loaded.evaluate(x)[:15], expected[:15])
        assert np.allclose(loaded.evaluate(x), expected, atol=1e-6)
        judged = loaded.judged([float(value) for value in x], loaded.evaluate(x))
        assert np.allclose(values(loaded, x), [float(value) for value in judged], rtol=1e-4, atol=1e-5)


def test_products_are_exact() -> None:
    query = query_of(
        declare("f", "A"), bounded("A"), "(assert (<= (* Ax[0,0] Ay[0,1] Ax[0,0]) (* Ah[0,0] Ah[0,0])))"
    )
    loaded = joint(query, {"f": dense(3)})
    x = np.array([0.1, 0.2, 0.3, 0.4, 0.5], dtype=np.float32)
    outputs = loaded.evaluate(x)
    judged = loaded.judged([float(value) for value in x], outputs)
    a, y, h = Fraction(float(x[0])), Fraction(float(outputs[1])), Fraction(float(outputs[5]))
    assert sorted(judged[13:]) == sorted([a * a * y, h * h])


def test_higher_powers() -> None:
    """All kinds of halving: even powers, odd ones, mixed ones."""
    terms = ["(* X[0] X[0] X[0])", "(* X[0] X[0] X[0] X[0])", "(* X[0] X[0] X[1] X[1])", "(* X[0] X[1] X[1] Y[0] Y[1])",
             "(* X[0] X[0] X[0] X[0] X[0] X[0])", "(* X[0] X[1])"]  # fmt: skip
    query = query_of(
        "(declare-network f (declare-input X float32 [2]) (declare-output Y float32 [2]))",
        "(assert (and (<= X[0] 2) (>= X[0] -2) (<= X[1] 2) (>= X[1] -2)))",
        *(f"(assert (<= {term} 5))" for term in terms),
    )
    proto = model([helper.make_node("Relu", ["x"], ["y"])], {"x": [2]}, {"y": [2]})
    loaded = joint(query, {"f": proto})
    for x in np.random.default_rng(1).uniform(-2, 2, (8, 2)).astype(np.float32):
        judged = loaded.judged([float(value) for value in x], loaded.evaluate(x))
        assert np.allclose(values(loaded, x), [float(value) for value in judged], rtol=1e-9)
        y = [max(float(value), 0) for value in x]
        direct = x[0] * x[1] * x[1] * np.float64(y[0]) * y[1]
        assert any(np.isclose(float(value), direct, rtol=1e-6) for value in judged[2:])


def test_element_types_may_differ_between_networks() -> None:
    query = query_of(
        declare("f", "A"),
        declare("g", "B", kind="float64"),
        *map(bounded, "AB"),
        "(assert (== Ax[0,0] Ax[0,1]))",
    )
    loaded = joint(query, {"f": dense(1), "g": dense(2, "float64")})
    assert loaded.element_type == "float64"
    assert {kind.name for kind, _ in loaded.input_kinds} == {"float32", "float64"}
    x = loaded.rounded(np.full(9, 0.1))
    assert x[:4].tolist() == [float(np.float32(0.1))] * 4 and x[4:].tolist() == [0.1] * 5
    assigned = loaded.variables(x, loaded.evaluate(x))
    assert list(assigned) == [f"{letter}{name}" for letter in "AB" for name in ("x", "z", "h", "r", "y", "k")]
    assert [tensor.dtype.name for _, tensor in assigned.values()] == ["float32"] * 6 + ["float64"] * 6
    assert assigned["Ax"][1].tolist() == [[np.float32(0.1)] * 3]
    assert assigned["By"][1].shape == (1, 2)


def test_single_network_is_the_one_of_a_1_0_property() -> None:
    proto = model(
        [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Neg", ["h"], ["y"])],
        {"x": [1, 4]},
        {"y": [1, 4]},
    )
    query = query_of(
        "(declare-network f (declare-input X real [1,4]) (declare-output Y real [1,4]))",
        "".join(f"(assert (and (<= X[0,{i}] 1) (>= X[0,{i}] -1)))" for i in range(4)),
    )
    own, plain = joint(query, {"f": proto}).network, load(proto).network
    assert [type(node.operator) for node in own.nodes] == [type(node.operator) for node in plain.nodes]


def test_constant_and_integer_outputs() -> None:
    proto = model(
        [helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Relu", ["x"], ["y"])],
        {"x": [2, 3]}, {"s": ("int64", [2]), "y": [2, 3], "c": [2]}, {"c": np.array([0.5, 1], np.float32)},
    )  # fmt: skip
    text = (
        "(declare-network f (declare-input X float32 [2,3]) (declare-output S int64 [2]) (declare-output Y float32 [2,3])"
        "(declare-output C float32 [2])) (assert (>= S[1] 3))"
    )
    loaded = joint(query_of(text), {"f": proto})
    assert loaded.evaluate(np.zeros(6, np.float32)).tolist() == [2, 3, *[0.0] * 6, 0.5, 1]
    assert values(loaded, np.ones(6)).tolist() == [2, 3, *[1.0] * 6, 0.5, 1]
    assert (
        loaded.variables(np.zeros(6, np.float32), loaded.evaluate(np.zeros(6, np.float32)))["S"][1].dtype
        == np.int64
    )


def test_shapes_may_differ_by_ones() -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])], {"x": [1, 1, "n", 3]}, {"y": None})
    head = "(declare-network f (declare-input X real [{0}]) (declare-output Y real [{1}]))"
    body = "(assert (and " + "".join(f"(<= X[{i}] 1) (>= X[{i}] 0)" for i in range(3)) + "))"
    loaded = joint(query_of(head.format("3", "3"), body), {"f": proto})
    assert loaded.variables(np.ones(3, np.float32), np.ones(3))["Y"][1].shape == (3,)
    for shape in ("3,1,1", "1,3"):
        text = (
            head.format(shape, shape) + "(assert (<= X[" + ("0,0,0" if shape[0] == "3" else "0,0") + "] 0))"
        )
        joint(query_of(text.replace("real", "float32")), {"f": proto})


REFUSED = [
    ({}, declare("f", "A"), "no model is given for the network f"),
    ({"f": 1, "g": 1}, declare("f", "A"), "not of g"),
    ({"f": 1, "g": 1}, declare("f", "A") + declare("g", "B", "(equal-to f)"), "of f alone, not of g"),
    ({"f": 1}, declare("f", "A") + declare("g", "B"), "for the network g"),
    ({"f": 1}, declare("f", "A", kind="float64"), "'x' is float32, but the query declares Ax as float64"),
    ({"f": 1}, declare("f", "A").replace("Ay float32", "Ay float64"), "'y' is float32.*Ay as float64"),
    ({"f": 1}, declare("f", "A").replace("Ah float32", "Ah float64"), "'h' is float32.*Ah as float64"),
    (
        {"f": 1},
        declare("f", "A").replace("Az float32 [2]", "Az float32 [3]"),
        r"'z' has shape \[2\].*Az as \[3\]",
    ),
    ({"f": 1}, declare("f", "A").replace("Ak float32 [3]", "Ak float32 [4]"), r"shape \[3\].*Ak as \[4\]"),
    ({"f": 1}, declare("f", "A").replace("Ah float32 [1,4]", "Ah float32 [2,2]"), r"Ah as \[2, 2\]"),
    ({"f": 1}, declare("f", "A").replace('"h"', '"nothing"'), "no tensor 'nothing'"),
    ({"f": 1}, declare("f", "A").replace("(declare-output Ak float32 [3])", ""), "2 outputs.*1"),
    ({"f": 1}, declare("f", "A").replace("(declare-input Az float32 [2])", ""), "2 inputs.*1"),
]


@pytest.mark.parametrize(("models", "text", "reason"), REFUSED)
def test_refused(models: dict[str, int], text: str, reason: str) -> None:
    boxes = "".join(bounded(letter) for letter in "AB" if f"input {letter}z" in text)
    query = query_of(text, boxes)
    with pytest.raises(InputError, match=reason):
        load_joint(query, {name: dense(seed) for name, seed in models.items()})


def test_other_element_types_of_inputs_are_refused() -> None:
    for kind in ("float16", "int64"):
        proto = model([helper.make_node("Identity", ["x"], ["y"])], {"x": (kind, [1])}, {"y": (kind, [1])})
        query = query_of(
            f"(declare-network f (declare-input X {kind} [1]) (declare-output Y {kind} [1]))"
            "(assert (and (<= X[0] 1) (>= X[0] 0)))"
        )
        with pytest.raises(ModelError, match=rf"'x' is {kind}; only float32 and float64"):
            load_joint(query, {"f": proto})


def test_disagreement_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network read wrongly is refused, wherever in the joint outputs the difference is."""
    from verify.loading import joint as module

    query = query_of(declare("f", "A"), bounded("A"))
    original = module.JointRunner.__call__

    def wrong(self: Any, samples: NDArray[Any]) -> NDArray[Any]:
        found = original(self, samples)
        found[:, -1] += 0.01
        return found

    monkeypatch.setattr(module.JointRunner, "__call__", wrong)
    with pytest.raises(ModelError, match="read wrongly: its output 12"):
        load_joint(query, {"f": dense(1)})
