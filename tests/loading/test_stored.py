"""Constants as files store them: narrow floats, quantised integers, sparse tensors. What comes of them is ONNX Runtime's, bit by bit."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from old_runtime import skip_if
from onnx import TensorProto, helper, numpy_helper
from onnx_models import X, model_of
from test_static import refused, same, text

from verify.loading import load


def exact(nodes: list[onnx.NodeProto], constants: dict[str, NDArray], rows: int, opset: int) -> None:
    """x times the constant "w" that nodes make: unit vectors bring out its very bits."""
    nodes = [*nodes, helper.make_node("MatMul", [X, "w"], ["y"])]
    model = model_of(nodes, (1, rows), constants, "y", opset)
    loaded = load(model, fold=False)
    x = np.eye(rows, dtype=np.float32)
    found = loaded.network.forward(torch.from_numpy(x).double()).flatten(1).numpy()
    np.testing.assert_array_equal(found, loaded.evaluate(x, as_written=True).astype(np.float64))


NARROW = [np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]


@pytest.mark.parametrize("kind", NARROW, ids=lambda kind: np.dtype(kind).name)
def test_narrow_weights_behind_casts(kind: type) -> None:
    """Moved before they are cast, too."""
    stored = np.random.default_rng(1).standard_normal((4, 3)).astype(kind)
    opset = 13 if np.dtype(kind).itemsize == 2 else 19
    exact([helper.make_node("Cast", ["s"], ["w"], to=TensorProto.FLOAT)], {"s": stored}, 4, opset)
    moved = [
        helper.make_node("Transpose", ["s"], ["t"]),
        helper.make_node("Cast", ["t"], ["w"], to=TensorProto.FLOAT),
    ]
    if opset == 13:
        exact(moved, {"s": stored}, 3, opset)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_casts_round_constants(kind: int) -> None:
    weights = np.random.default_rng(2).standard_normal((4, 3)).astype(np.float32)
    there = helper.make_node("Cast", ["s"], ["t"], to=kind)
    exact([there, helper.make_node("Cast", ["t"], ["w"], to=TensorProto.FLOAT)], {"s": weights}, 4, 13)


@pytest.mark.parametrize("operator", ["Add", "Mul", "MatMul"])
def test_arithmetic_of_narrow_floats_is_refused(operator: str) -> None:
    """It rounds at every step: never taken for float32's."""
    half = np.random.default_rng(1).standard_normal((3, 3)).astype(np.float16)
    nodes = [
        helper.make_node(operator, ["s", "s"], ["t"]),
        helper.make_node("Cast", ["t"], ["w"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", [X, "w"], ["y"]),
    ]
    refused(model_of(nodes, (1, 3), {"s": half}, "y"), operator, "fewer bits than float32")
    nodes = [
        helper.make_node("Cast", [X], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["h", "s"], ["t"]),
        helper.make_node("Cast", ["t"], ["y"], to=TensorProto.FLOAT),
    ]
    refused(model_of(nodes, (1, 3), {"s": half}, "y"), "Cast")


def test_values_scaled_in_narrow_floats_are_refused() -> None:
    nodes = [
        helper.make_node("Cast", [X], ["q"], to=TensorProto.INT8),
        helper.make_node("DequantizeLinear", ["q", "s"], ["d"]),
        helper.make_node("Cast", ["d"], ["y"], to=TensorProto.FLOAT),
    ]
    refused(model_of(nodes, (1, 3), {"s": np.array(0.1, dtype=np.float16)}, "y", 21), "DequantizeLinear")


def test_choices_of_narrow_floats_are_exact() -> None:
    """Where, a table and a maximum give entries as they are."""
    half = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float16)
    nodes = [
        helper.make_node("ArgMax", [X], ["i"], axis=1),
        helper.make_node("Gather", ["s", "i"], ["t"]),
        helper.make_node("Max", ["t", "f"], ["m"]),
        helper.make_node("Cast", ["m"], ["y"], to=TensorProto.FLOAT),
    ]
    loaded = load(model_of(nodes, (1, 3), {"s": half, "f": half[:1]}, "y"))
    x = np.random.default_rng(3).standard_normal((20, 3)).astype(np.float32)
    found = loaded.network.forward(torch.from_numpy(x).double()).flatten(1).numpy()
    np.testing.assert_array_equal(found, loaded.evaluate(x).astype(np.float64))


@pytest.mark.parametrize("flat", [True, False])
def test_sparse_weights(flat: bool) -> None:
    values = numpy_helper.from_array(np.array([0.5, -2, 3], dtype=np.float32), "w")
    places = np.array([1, 5, 6]) if flat else np.array([[0, 1], [1, 2], [2, 0]])
    model = model_of([helper.make_node("MatMul", [X, "w"], ["y"])], (1, 4), {}, "y")
    tensor = helper.make_sparse_tensor(values, numpy_helper.from_array(places, ""), [4, 3])
    model.graph.sparse_initializer.append(tensor)
    same(model)
    model.graph.sparse_initializer[0].dims[:] = [2, 3]
    refused(model, "sparse", "'w'")


def quantised(kind: type, shape: tuple[int, ...]) -> NDArray:
    random = np.random.default_rng(5)
    if np.dtype(kind).kind == "V" or np.dtype(kind).name.startswith(("int4", "uint4")):
        return random.integers(0, 8, shape).astype(kind)
    info = np.iinfo(kind)
    return random.integers(info.min, info.max, shape, endpoint=True).astype(kind)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.int32, ml_dtypes.int4, ml_dtypes.uint4])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("scale", [np.float32, np.float16])
def test_dequantised_weights(kind: type, axis: int | None, scale: type) -> None:
    """Per tensor and per axis, to the last bit."""
    if kind is np.int32 and scale is np.float16:
        pytest.skip("they overflow")
    wide = np.dtype(kind).itemsize > 1 or np.dtype(kind).name.endswith("int4") or scale is np.float16
    opsets = [21] if wide else [13, 19, 21, 23] if axis is not None else [10, 13, 19, 21, 23]
    size = () if axis is None else (5,) if axis == 0 else (4,)
    scales = (0.001 * np.abs(np.random.default_rng(6).standard_normal(size))).astype(scale)
    constants = {"q": quantised(kind, (5, 4)), "s": scales, "z": quantised(kind, size)}
    for opset in opsets:
        for names in (["q", "s"], ["q", "s", "z"])[: 1 if kind is np.int32 else 2]:
            given = {} if axis is None else {"axis": axis}
            nodes = [helper.make_node("DequantizeLinear", names, ["d"], **given)]
            nodes += [helper.make_node("Cast", ["d"], ["w"], to=TensorProto.FLOAT)]
            exact(nodes, {name: constants[name] for name in names}, 5, opset)


@pytest.mark.parametrize("axis", [0, 1])
def test_dequantised_in_blocks(axis: int) -> None:
    stored = quantised(np.int8, (6, 5))
    shape = (3, 5) if axis == 0 else (6, 3)
    scales = np.abs(np.random.default_rng(6).standard_normal(shape)).astype(np.float32)
    node = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=axis, block_size=2)
    exact([node], {"q": stored, "s": scales, "z": quantised(np.int8, shape)}, 6, 21)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, None])
@pytest.mark.parametrize("axis", [None, 1])
def test_weights_quantised_there_and_back(kind: type | None, axis: int | None) -> None:
    weights = (3 * np.random.default_rng(7).standard_normal((5, 4))).astype(np.float32)
    size = () if axis is None else (4,)
    scales = np.abs(0.01 + 0.02 * np.random.default_rng(8).random(size)).astype(np.float32)
    constants = {"f": weights, "s": scales}
    if kind is not None:
        constants["z"] = (np.abs(quantised(kind, size).astype(int)) % 7).astype(kind)
    given = {} if axis is None else {"axis": axis}
    rest = ["s", "z"][: len(constants) - 1]
    nodes = [
        helper.make_node("QuantizeLinear", ["f", *rest], ["q"], **given),
        helper.make_node("DequantizeLinear", ["q", *rest], ["w"], **given),
    ]
    exact(nodes, constants, 5, 13)


@pytest.mark.parametrize("zero", [np.int8(3), np.uint8(128), np.int16(-7)], ids=lambda zero: zero.dtype.name)
@pytest.mark.parametrize("several", [False, True])
def test_quantised_values(zero: np.integer, several: bool) -> None:
    """Rounded and kept within their type, as ONNX Runtime does it without the kernels that it has for such chains."""
    scale = np.array([0.125, 0.25, 0.5] if several else 0.25, dtype=np.float32)
    zeros = np.full(scale.shape, zero, dtype=zero.dtype)
    given = {"axis": 1} if several else {}
    nodes = [
        helper.make_node("QuantizeLinear", [X, "s", "z"], ["q"], **given),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], **given),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    weights = np.random.default_rng(4).standard_normal((3, 2)).astype(np.float32)
    loaded = load(model_of(nodes, (1, 3), {"s": scale, "z": zeros, "w": weights}, "y", 21))
    x = np.random.default_rng(3).uniform(-80, 80, (50, 3)).astype(np.float32)
    found = loaded.network.forward(torch.from_numpy(x).double()).flatten(1).numpy()
    np.testing.assert_allclose(found, loaded.evaluate(x, as_written=True), rtol=1e-5, atol=1e-4)


def test_casts_like() -> None:
    skip_if(True)
    half = np.random.default_rng(2).standard_normal((3, 4)).astype(np.float16)
    like = [helper.make_node("CastLike", ["s", X], ["w"])]
    exact(like, {"s": half}, 3, 15)
    same(text("s = Size (x) f = CastLike (s, x) n = CastLike (x, s) g = CastLike (n, x) y = Mul (f, g)"))
