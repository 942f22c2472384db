"""The checker's ONNX reader: against ONNX Runtime, exact arithmetic, and the search's own loader."""

from __future__ import annotations

import gzip
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from old_runtime import skip_if
from onnx import TensorProto, helper, numpy_helper

from verify.checker.activations import EXACT
from verify.checker.builder import fractions
from verify.checker.errors import Refused
from verify.checker.maps import Scale
from verify.checker.network import Affine, Network
from verify.checker.onnx_reader import read_model
from verify.checker.onnx_register import rule
from verify.checker.operators import CONSTANTS, RULES
from verify.checker.rationals import rationals
from verify.loading import load

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "instances"
RANDOM = np.random.default_rng(0)


def floats(*shape: int, random: np.random.Generator = RANDOM) -> np.ndarray:
    return random.standard_normal(shape).astype(np.float32)


def integers(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def scalar(number: float) -> np.ndarray:
    return np.array(number, dtype=np.float32)


def op(kind: str, operands: str, result: str, **attributes: Any) -> onnx.NodeProto:
    """A node; operands and results are separated by spaces, `-` is one that is left out."""
    names = [name if name != "-" else "" for name in operands.split()]
    return helper.make_node(kind, names, result.split(), **attributes)


def model(
    shape: Any, nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray] | None = None, opset: int = 17
) -> bytes:
    """A model from `x` to the first result of the last node."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    made = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, "test", [given], [made], tensors)
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    data: bytes = whole.SerializeToString()
    return data


def run(data: bytes, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    shape = [size if isinstance(size, int) else 1 for size in given.shape]
    rows = [session.run(None, {given.name: row.reshape(shape)})[0].ravel() for row in x.astype(np.float32)]
    return np.stack(rows).astype(np.float64)


def unary(kind: str, shape: tuple[int, ...] = (1, 2, 3), opset: int = 17, **attributes: Any) -> Any:
    return shape, [op(kind, "x", "y", **attributes)], {}, opset


def binary(
    kind: str, other: np.ndarray, shape: tuple[int, ...] = (1, 2, 3), swap: bool = False, **more: Any
) -> Any:
    return shape, [op(kind, "c x" if swap else "x c", "y", **more)], {"c": other}, 17


def with_constants(
    kind: str, shape: tuple[int, ...], *constants: Any, opset: int = 17, **attributes: Any
) -> Any:
    weights = {f"c{k}": constant for k, constant in enumerate(constants) if constant is not None}
    names = [f"c{k}" if constant is not None else "-" for k, constant in enumerate(constants)]
    return shape, [op(kind, " ".join(["x", *names]), "y", **attributes)], weights, opset


def two_values(kind: str, second: str = "Relu") -> Any:
    nodes = [op("Neg", "x", "n"), op(second, "n", "a"), op(kind, "x a", "y")]
    return (1, 2, 3), nodes, {}, 17


IMAGE, WIDE = (1, 2, 5, 6), (1, 4, 5, 4)
NORMAL = [np.abs(floats(2)) + 0.5, floats(2), floats(2), np.abs(floats(2)) + 0.1]
SHAPES = [
    op("Shape", "x", "s"), op("Gather", "s zero", "n", axis=0), op("Unsqueeze", "n zeros", "u"),
    op("Mul", "n two", "m"), op("Div", "m two", "d"), op("Add", "d minus", "e"), op("Unsqueeze", "e zeros", "f"),
    op("Concat", "u f", "g", axis=0), op("Cast", "g", "h", to=TensorProto.INT64), op("Reshape", "x h", "y"),
]  # fmt: skip
NUMBERS = {"zero": integers(0)[0], "zeros": integers(0), "two": integers(2)[0], "minus": integers(-2)[0]}
FILL = [
    op("Shape", "s", "l"), op("ConstantOfShape", "l", "z", value=numpy_helper.from_array(integers(1))), op("Equal", "s minus", "q"),
    op("Where", "q z s", "w"), op("Expand", "x w", "y"),
]  # fmt: skip
# a controller's value at a point, and a quadratic form of R^T R + I / 10
LYAPUNOV = [
    op("MatMul", "p v", "h"), op("Add", "b h", "i"), op("Relu", "i", "r"), op("MatMul", "r w", "o"), op("MatMul", "x s", "u"),
    op("Sub", "u o", "d"), op("MatMul", "R Rt", "q"), op("Add", "eye q", "m"), op("MatMul", "d m", "e"), op("MatMul", "p m", "g"),
    op("Mul", "g p", "k"), op("ReduceSum", "k last", "l", keepdims=0), op("Neg", "l", "n"), op("Mul", "e g", "f"), op("Add", "f n", "a"), op("Div", "a l", "y"),
]  # fmt: skip
SHAPES_OF_LYAPUNOV = {"p": (1, 3), "v": (3, 4), "b": (4,), "w": (4, 3), "s": (3, 3), "R": (3, 3)}
OF_LYAPUNOV = {
    name: floats(*shape, random=np.random.default_rng(k))
    for k, (name, shape) in enumerate(SHAPES_OF_LYAPUNOV.items())
}
OF_LYAPUNOV |= {
    "Rt": OF_LYAPUNOV["R"].T.copy(),
    "eye": np.eye(3, dtype=np.float32) / np.float32(10), "last": integers(-1),
}  # fmt: skip

CASES: dict[str, Any] = {
    "constants": ((1, 3), LYAPUNOV, OF_LYAPUNOV, 16),
    "constant third": ((1, 3), [op("Div", "c d", "e"), op("Add", "x e", "a"), op("Sub", "e a", "y")], {"c": scalar(1), "d": scalar(3)}, 17),
    "constants alone": ((1, 3), [op("ReduceSum", "c", "s", noop_with_empty_axes=1), op("Add", "x s", "y")], {"c": np.ones(3, dtype=np.float32)}, 17),
    **{kind: unary(kind) for kind in (
        "Relu", "LeakyRelu", "Abs", "Sigmoid", "Tanh", "HardSigmoid", "Sin", "Cos", "Neg", "Identity", "Flatten", "Transpose",
        "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "Dropout",
    )},
    "LeakyRelu slope": unary("LeakyRelu", alpha=0.3), "HardSigmoid other": unary("HardSigmoid", alpha=0.5, beta=0.1),
    "Flatten 2": unary("Flatten", axis=2), "Flatten -1": unary("Flatten", axis=-1), "Flatten 0": unary("Flatten", axis=0),
    "Transpose perm": unary("Transpose", perm=[2, 0, 1]), "Squeeze all": unary("Squeeze"),
    "Squeeze": with_constants("Squeeze", (1, 2, 1), integers(-1)), "Squeeze 11": unary("Squeeze", (1, 2, 1), 11, axes=[0]),
    "Unsqueeze": with_constants("Unsqueeze", (1, 3), integers(0, -1)), "Unsqueeze 11": unary("Unsqueeze", (1, 3), 11, axes=[1]),
    "Reshape": with_constants("Reshape", (1, 2, 6), integers(0, -1, 3)),
    "Slice": with_constants("Slice", IMAGE, integers(1, -2), integers(2**62, -6), integers(2, -1), integers(2, -1)),
    "Slice 9": unary("Slice", (1, 5), 9, starts=[1], ends=[-1], axes=[1]),
    "Gather": binary("Gather", np.array([[2, 0], [-1, 2]]), axis=2), "Gather one": binary("Gather", integers(1)[0], axis=1),
    "Split": ((1, 5), [op("Split", "x s", "a b", axis=1), op("Sub", "a b", "y")], {"s": integers(4, 1)}, 17),
    "Split equal": ((1, 6), [op("Split", "x", "a b", axis=-1), op("Sub", "b a", "y")], {}, 13),
    "Split 18": ((1, 5), [op("Split", "x", "a b", axis=1, num_outputs=2), op("Concat", "b a", "y", axis=1)], {}, 18),
    "Split 11": ((1, 5), [op("Split", "x", "a b", axis=1, split=[2, 3]), op("Concat", "b a", "y", axis=1)], {}, 11),
    "Expand": with_constants("Expand", (1, 2, 1), integers(3, 1, 4)), "Tile": with_constants("Tile", (1, 2), integers(2, 3)),
    "DepthToSpace": unary("DepthToSpace", (1, 8, 2, 3), blocksize=2),
    "SpaceToDepth": unary("SpaceToDepth", (2, 3, 4, 6), blocksize=2),
    "DepthToSpace CRD": unary("DepthToSpace", (1, 8, 2, 3), blocksize=2, mode="CRD"),
    "Pad": with_constants("Pad", IMAGE, integers(0, 0, 1, 2, 0, 0, 0, 1)),
    "Pad value": with_constants("Pad", (1, 3), integers(0, 1, 1, 0), scalar(2.5)),
    "Pad axes": with_constants("Pad", (1, 3), integers(2, 1), None, integers(-1), opset=18),
    "Pad 10": unary("Pad", (1, 3), 10, pads=[0, 1, 0, 2], value=-1.5),
    "Concat": ((1, 3), [op("Relu", "x", "a"), op("Concat", "a c x", "y", axis=-1)], {"c": floats(1, 2)}, 17),
    "Add": binary("Add", floats(2, 1)), "Add bigger": binary("Add", floats(4, 2, 3)), "Sub": binary("Sub", floats(3)),
    "Sub from": binary("Sub", floats(1, 3), swap=True), "Mul": binary("Mul", floats(4, 1, 1, 1)),
    "Mul scalar": binary("Mul", scalar(3), swap=True), "Div": binary("Div", floats(2, 3) + 5), "Div two": binary("Div", scalar(2)),
    "Div from": ((1, 3), [op("Sigmoid", "x", "s"), op("Div", "c s", "y")], {"c": floats(3)}, 17),
    "Div values": ((1, 3), [op("Sigmoid", "x", "s"), op("Div", "x s", "y")], {}, 17),
    "Reciprocal": ((1, 3), [op("Sigmoid", "x", "s"), op("Reciprocal", "s", "y")], {}, 17),
    "Add values": two_values("Add"), "Sub values": two_values("Sub"), "Mul values": two_values("Mul", "Tanh"),
    "Max values": two_values("Max"), "Min values": two_values("Min"), "Mul itself": ((1, 3), [op("Mul", "x x", "y")], {}, 17),
    "Mul broadcast": ((1, 2, 3), [op("ReduceSum", "x a", "s"), op("Mul", "s x", "y")], {"a": integers(1)}, 17),
    "Sum": ((1, 3), [op("Relu", "x", "r"), op("Sum", "c x r d", "y")], {"c": floats(1), "d": floats(2, 1)}, 17),
    "Mean": ((1, 3), [op("Relu", "x", "r"), op("Mean", "x r c", "y")], {"c": floats(1)}, 17),
    "Max many": ((1, 3), [op("Relu", "x", "r"), op("Neg", "x", "n"), op("Tanh", "x", "t"),
                          op("Max", "c x n r d t", "y")], {"c": floats(3), "d": floats(2, 1)}, 17),
    "Min many": ((1, 3), [op("Relu", "x", "r"), op("Neg", "x", "n"), op("Min", "c x n r", "y")], {"c": floats(1)}, 17),
    "Pow": binary("Pow", scalar(2)), "Pow more": binary("Pow", scalar(5)), "Pow even": binary("Pow", scalar(6)), "Pow one": binary("Pow", np.ones((4, 1, 1), dtype=np.float32)),
    "Where": ((1, 3), [op("Relu", "x", "r"), op("Where", "m x r", "y")], {"m": np.array([True, False, True])}, 17),
    "Where constant": ((1, 3), [op("Where", "m x c", "y")], {"m": np.array([[True], [False]]), "c": floats(3)}, 17),
    "Clip": with_constants("Clip", (1, 4), scalar(-0.5), scalar(0.7)), "Clip low": with_constants("Clip", (1, 4), scalar(-0.5)),
    "Clip none": unary("Clip"), "Clip relu": with_constants("Clip", (1, 4), scalar(0), scalar(np.inf)),
    "Clip high": with_constants("Clip", (1, 4), None, scalar(0)), "Clip 6": unary("Clip", opset=10, min=-0.5, max=0.25),
    "PRelu": with_constants("PRelu", (1, 2, 3), scalar(0.2).reshape(1, 1)), "PRelu same": with_constants("PRelu", (1, 3), floats(1).repeat(3)),
    "Cast": unary("Cast", to=TensorProto.FLOAT), "Shapes": ((1, 3, 2), SHAPES, NUMBERS, 17),
    "Expand filled": ((1, 3), FILL, {"s": integers(2, -2), "minus": integers(-2)}, 17),
    "ReduceSum axes": with_constants("ReduceSum", IMAGE, integers(1, -1), keepdims=0),
    "ReduceSum 11": unary("ReduceSum", opset=11, axes=[2]), "ReduceMean axes": unary("ReduceMean", opset=11, axes=[-1, 1], keepdims=0),
    "ReduceMean 18": with_constants("ReduceMean", IMAGE, integers(2, 3), opset=18),
    "ReduceSum nothing": unary("ReduceSum", noop_with_empty_axes=1),
    "ReduceMax axes": unary("ReduceMax", IMAGE, axes=[3, 1]), "ReduceMin axes": unary("ReduceMin", IMAGE, axes=[2], keepdims=0),
    "GlobalAveragePool": unary("GlobalAveragePool", IMAGE), "GlobalMaxPool": unary("GlobalMaxPool", IMAGE),
    "MaxPool": unary("MaxPool", IMAGE, kernel_shape=[2, 3], strides=[2, 1]),
    "MaxPool padded": unary("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "MaxPool ceil": unary("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[2, 3], ceil_mode=1),
    "MaxPool dilated": unary("MaxPool", IMAGE, kernel_shape=[2, 2], dilations=[2, 3]),
    "MaxPool same": unary("MaxPool", IMAGE, kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
    "MaxPool 1d": unary("MaxPool", (1, 2, 7), kernel_shape=[3], strides=[2]),
    "AveragePool": unary("AveragePool", IMAGE, kernel_shape=[2, 3], strides=[1, 2]),
    "AveragePool padded": unary("AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 1]),
    "AveragePool counted": unary("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    "AveragePool ceil": unary("AveragePool", IMAGE, kernel_shape=[2, 4], strides=[2, 3], ceil_mode=1),
    "AveragePool ceil counted": unary("AveragePool", IMAGE, opset=19, kernel_shape=[3, 3], strides=[3, 2], pads=[1, 1, 1, 1],
                                      ceil_mode=1, count_include_pad=1),
    "AveragePool same": unary("AveragePool", IMAGE, kernel_shape=[2, 2], auto_pad="SAME_LOWER"),
    "Conv": with_constants("Conv", WIDE, floats(3, 4, 2, 3), floats(3)),
    "Conv strided": with_constants("Conv", WIDE, floats(2, 4, 3, 2), strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 2]),
    "Conv groups": with_constants("Conv", WIDE, floats(6, 2, 2, 2), floats(6), group=2),
    "Conv depthwise": with_constants("Conv", WIDE, floats(4, 1, 3, 3), group=4, auto_pad="SAME_UPPER", strides=[2, 2]),
    "Conv lower": with_constants("Conv", WIDE, floats(1, 4, 2, 2), auto_pad="SAME_LOWER"),
    "Conv valid": with_constants("Conv", WIDE, floats(1, 4, 2, 2), auto_pad="VALID", kernel_shape=[2, 2]),
    "Conv 1d": with_constants("Conv", (1, 2, 7), floats(3, 2, 3), pads=[1, 1]),
    "Conv 3d": with_constants("Conv", (1, 2, 3, 4, 3), floats(2, 2, 2, 2, 2), strides=[1, 2, 1]),
    "Conv batch": with_constants("Conv", (3, 2, 4, 4), floats(2, 2, 3, 3), floats(2)),
    "ConvTranspose": with_constants("ConvTranspose", WIDE, floats(4, 3, 2, 3), floats(3)),
    "ConvTranspose strided": with_constants("ConvTranspose", WIDE, floats(4, 2, 3, 3), strides=[2, 3], pads=[1, 0, 1, 2],
                                            output_padding=[1, 0], dilations=[2, 1]),
    "ConvTranspose groups": with_constants("ConvTranspose", WIDE, floats(4, 3, 2, 2), floats(6), group=2, strides=[2, 2]),
    "BatchNormalization": with_constants("BatchNormalization", IMAGE, *NORMAL),
    "BatchNormalization epsilon": with_constants("BatchNormalization", (1, 2), *NORMAL, epsilon=0.1),
    "Gemm": with_constants("Gemm", (1, 4), floats(4, 3), floats(3)),
    "Gemm transposed": with_constants("Gemm", (1, 4), floats(3, 4), floats(1, 1), transB=1, alpha=0.3, beta=0.7),
    "Gemm plain": with_constants("Gemm", (2, 4), floats(2, 3), transA=1, alpha=2.0),
    "Gemm left": ((4, 2), [op("Gemm", "c x d", "y", beta=0.1)], {"c": floats(3, 4), "d": floats(3, 2)}, 17),
    "Gemm value": ((2, 2), [op("Gemm", "x c x", "y", beta=0.5, alpha=3.0)], {"c": floats(2, 2)}, 17),
    "MatMul": binary("MatMul", floats(3, 4)), "MatMul vector": binary("MatMul", floats(3)),
    "MatMul left": binary("MatMul", floats(4, 2), swap=True), "MatMul left vector": binary("MatMul", floats(2), swap=True),
    "MatMul batched": binary("MatMul", floats(2, 3, 4), (1, 3, 3)), "MatMul of vector": binary("MatMul", floats(3, 4), (3,)),
    "MatMul vector batched": binary("MatMul", floats(2, 3, 4), (3,)), "MatMul inner": binary("MatMul", floats(3), (3,), swap=True),
    "MatMul left batched": binary("MatMul", floats(2, 4, 2), swap=True), "MatMul by vector": binary("MatMul", floats(4, 3), (3,), swap=True),
}  # fmt: skip


def test_every_operator_is_tried() -> None:
    """Constant is tried below."""
    tried = {node.op_type for _, nodes, _, _ in CASES.values() for node in nodes}
    assert {*RULES, *CONSTANTS} - {"Constant"} <= tried
    with pytest.raises(ValueError, match="Relu is registered twice"):
        rule("Relu")(RULES["Relu"])


UNKNOWN_TO_SEARCH = ("DepthToSpace", "MatMul inner")


@pytest.mark.parametrize("name", CASES)
def test_operator(name: str) -> None:
    skip_if(name in ("constants alone", "ReduceSum nothing"))
    shape, nodes, weights, opset = CASES[name]
    data = model(shape, nodes, weights, opset)
    network = read_model(data)
    x = RANDOM.standard_normal((3, network.inputs)).astype(np.float32)
    expected = run(data, x)
    found = network.values(x)[-1]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * (1 + np.abs(expected).max()))
    if all(layer.kind in EXACT for layer in network.layers):
        exact = network.values(rationals(x[:1].astype(np.float64)))[-1]
        assert all(isinstance(number, type(rationals(np.zeros(1))[0])) for number in exact.ravel())
        np.testing.assert_allclose(found[:1], exact.astype(np.float64), rtol=1e-12, atol=1e-12)
    if name not in UNKNOWN_TO_SEARCH:
        check_against_search(network, data)


def check_against_search(network: Network, data: bytes) -> None:
    """The same outputs, and the same variables with the same values."""
    loaded = load(data).network
    assert (network.inputs, network.outputs) == (loaded.inputs, loaded.outputs)
    x = np.random.default_rng(1).random((2, network.inputs))
    mine = network.values(x)
    with torch.no_grad():
        other = [value.flatten(1).numpy() for value in loaded.values(torch.from_numpy(x))]
    pairs = [(-1, -1)]
    for layer, wanted in zip(network.layers, loaded.layers, strict=True):
        assert layer.variables == wanted.variables
        pairs.append((layer.operand, wanted.pre_node))
    for here, there in pairs:
        size = 1 + np.abs(other[there]).max()
        np.testing.assert_allclose(mine[here], other[there], rtol=1e-6, atol=1e-9 * size)


def test_batch_normalisation_is_as_exact_as_it_says() -> None:
    shape, nodes, weights, opset = CASES["BatchNormalization"]
    network = read_model(model(shape, nodes, weights, opset))
    scale = network.nodes[-1].operands[0][0]
    assert isinstance(scale, Scale) and scale.slack == 2.0**-189 and scale.terms == 9
    for place, number in enumerate(scale.exact().coefficients.reshape(2, -1)[:, 0].tolist()):
        gamma, _, _, variance = (Fraction(float(weights[f"c{k}"][place])) for k in range(4))
        square = gamma**2 / (variance + Fraction(float(np.float32(1e-5))))
        assert abs(Fraction(int(number.numerator), int(number.denominator)) ** 2 / square - 1) < Fraction(
            1, 2**189
        )


def test_unneeded_nodes_are_dropped() -> None:
    data = model([1, 2], [op("Relu", "x", "a"), op("Tanh", "x", "b"), op("Neg", "a", "y")])
    assert [layer.kind for layer in read_model(data).layers] == ["relu"]
    assert read_model(model([1, 2], [op("Identity", "x", "y")])).outputs == 2


def test_batch_axis_and_constant_inputs() -> None:
    data = onnx.load_model_from_string(model(["batch", 2], [op("Add", "x c", "y")], {"c": floats(2)}))
    data.graph.input.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, [2]))
    assert read_model(data.SerializeToString()).nodes[0].shape == (1, 2)


def test_external_data(tmp_path: Path) -> None:
    weights = {"c": floats(40, 30)}
    whole = onnx.load_model_from_string(model([1, 40], [op("MatMul", "x c", "y")], weights))
    onnx.save_model(whole, tmp_path / "m.onnx", save_as_external_data=True, location="w", size_threshold=0)
    data = (tmp_path / "m.onnx").read_bytes()
    x = RANDOM.random((1, 40))
    np.testing.assert_allclose(
        read_model(data, str(tmp_path)).values(x)[-1], x @ weights["c"].astype(np.float64)
    )
    with pytest.raises(Refused, match="other files"):
        read_model(data)


def test_constants_are_computed_exactly() -> None:
    """Products of three factors, which no float64 number holds: matrices become sums of such."""
    a, b, c = (floats(2, 2) for _ in range(3))
    nodes = [op("MatMul", "a b", "p"), op("MatMul", "p c", "m"), op("MatMul", "x m", "y")]
    network = read_model(model((1, 2), nodes, {"a": a, "b": b, "c": c}))
    (node,) = network.nodes[1:]
    assert isinstance(node, Affine) and len(node.operands) == 2
    x = floats(1, 2)
    first, second, third, point = (fractions(one) for one in (a, b, c, x))
    found = network.values(rationals(x))[-1]
    assert (found == rationals(point @ first @ second @ third)).all()
    assert network.undeployed.startswith("the model computes constants")
    assert (network.exact.values(rationals(x))[-1] == found).all()


THIRD = {"c": scalar(1), "d": scalar(3)}


@pytest.mark.parametrize(
    ("nodes", "weights", "match"),
    [
        ([op("Div", "c d", "e"), op("Max", "x e", "y")], THIRD, "no float64 number"),
        ([op("Div", "c d", "e"), op("Clip", "x e", "y")], THIRD, "no float64 number"),
        ([op("Div", "c d", "e"), op("Pow", "x e", "y")], THIRD, "no float64 number"),
        ([op("Div", "c d", "e"), op("Unsqueeze", "e i", "f"), op("Concat", "x f", "y", axis=0)], THIRD | {"i": integers(0)}, "no float64 number"),
        ([op("Div", "m d", "e"), op("MatMul", "x e", "y")], THIRD | {"m": floats(2, 2)}, "too many digits"),
        # few numbers on one side, many groups of them on the other
        ([op("MatMul", "r g", "e"), op("Add", "x e", "y")], {"r": floats(1, 8), "g": np.ones((2**16, 8, 4), np.float32)}, "too large to be computed exactly"),
        ([op("MatMul", "i j", "e"), op("Add", "x z", "y")], {"i": integers(1, 2), "j": integers(1, 2), "z": floats(2)}, "no real numbers"),
        ([op("Add", "c d", "e0"), *(op("Mul", f"e{i} e{i}", f"e{i + 1}") for i in range(12)), op("Add", "x e12", "y")],
         {"c": floats(1), "d": floats(1) / 3}, "too long|too small|Overflow"),
    ],
)  # fmt: skip
def test_constants_that_stay_fractions_go_nowhere_else(nodes: Any, weights: Any, match: str) -> None:
    with pytest.raises(Refused, match=match):
        read_model(model((2,), nodes, weights))


def constants_only() -> bytes:
    return model([1, 2], [op("Relu", "x", "a"), op("Neg", "c", "y")], {"c": floats(2)})


def repeated_name() -> bytes:
    return model([1, 2], [op("Relu", "x", "a"), op("Neg", "x", "a")])


REFUSED: dict[str, tuple[bytes, str]] = {
    "unknown operator": (model([1, 2], [op("Erf", "x", "y")]), "Erf 'y': this operator"),
    "unknown domain": (model([1, 2], [helper.make_node("Relu", ["x"], ["y"], domain="mine")]), "domain"),
    "unknown attribute": (model([1, 2], [op("Relu", "x", "y", colour=3)]), "colour"),
    "unknown value": (model([1, 2], [op("Pad", "x p", "y", mode="edge")], {"p": integers(0, 1, 0, 1)}), "mode"),
    "unknown size": (model([1, "n"], [op("Relu", "x", "y")]), "size of the input"),
    "unknown name": (model([1, 2], [op("Relu", "z", "y")]), "Relu"),
    "constant output": (constants_only(), "output"), "repeated name": (repeated_name(), "two tensors"),
    "no model": (b"hello", "no ONNX model|not read"), "nothing": (b"", "not read"),
    "NaN": (model([1, 2], [op("Add", "x c", "y")], {"c": np.array([1, np.nan], np.float32)}), "NaN"),
    "NaN matrix": (model([1, 2], [op("MatMul", "x c", "y")], {"c": np.full((2, 2), np.nan, np.float32)}), "NaN"),
    "infinity": (model([1, 2], [op("Mul", "x c", "y")], {"c": scalar(np.inf)}), "infinity"),
    "NaN limit": (model([1, 2], [op("Clip", "x c", "y")], {"c": scalar(np.nan)}), "NaN"),
    "wrong limits": (model([1, 2], [op("Clip", "x c d", "y")], {"c": scalar(1), "d": scalar(0)}), "order"),
    "zero": (model([1, 2], [op("Div", "x c", "y")], {"c": scalar(0)}), "ZeroDivision"),
    "half": (model([1, 2], [op("Add", "x c", "y")], {"c": np.ones(2, np.float16)}), "FLOAT16"),
    "rounding": (model([1, 2], [op("Cast", "x", "y", to=TensorProto.INT64)]), "rounds"),
    "training": (model([1, 2], [op("Dropout", "x - t", "y")], {"t": np.array(True)}), "training"),
    "exponent": (model([1, 2], [op("Pow", "x c", "y")], {"c": scalar(0.5)}), "exponent"),
    "slopes": (model([1, 2], [op("PRelu", "x c", "y")], {"c": floats(2)}), "slopes"),
    "condition": (model([1, 2], [op("Where", "x x x", "y")]), "condition"),
    "indices": (model([1, 2], [op("MaxPool", "x", "a b", kernel_shape=[2]), op("Relu", "b", "y")]), "MaxPool"),
    "product": (model([2, 2], [op("MatMul", "x x", "y")]), "depend on the input"),
    "index": (model([1, 2], [op("Gather", "x i", "y", axis=1)], {"i": integers(2)}), "Gather"),
    "old": (model([1, 2], [op("Relu", "x", "y")], opset=6), "versions"),
    "new": (model([1, 2], [op("Relu", "x", "y")], opset=99), "versions"),
    "graph": (model([1, 2], [op("If", "x", "y")]), "If"),
    "training by five results": (model([1, 2], [op("BatchNormalization", "x a a a a", "n p q r s"), op("Relu", "n", "y")],
                                       {"a": floats(2) ** 2}, 9), "5 results"),
    "weights of one channel": (model([1, 2], [op("BatchNormalization", "x a a a a", "y")], {"a": floats(1) ** 2}), "each channel"),
    "bias of one channel": (model([1, 2, 3], [op("Conv", "x w b", "y")], {"w": floats(2, 2, 1), "b": floats(1)}), "bias"),
    "a mask that is used": (model([1, 2], [op("Dropout", "x", "a m"), op("Cast", "m", "y", to=1)]), "Cast"),
    "more operands": (model([1, 2], [op("Relu", "x x", "y")]), "2 operands"),
    "an operand left out": (model([1, 2], [op("Add", "x -", "y")]), "missing"),
    "uneven parts": (model([1, 5], [op("Split", "x", "a b", axis=1), op("Relu", "a", "y")]), "unequal"),
    "other parts": (model([1, 5], [op("Split", "x", "a b", axis=1, num_outputs=3), op("Relu", "a", "y")], opset=18), "fit"),
    "axes twice": (model([1, 3], [op("Pad", "x p - a", "y")], {"p": integers(1, 1, 1, 1), "a": integers(1, -1)}, 18), "twice"),
    "slopes beyond": (model([1, 2], [op("PRelu", "x c", "y")], {"c": np.full((3, 1, 2), 0.5, np.float32)}), "more slopes"),
    "third operand beyond": (model([1, 2], [op("Gemm", "x w c", "y", alpha=0.5)], {"w": floats(2, 2), "c": floats(3, 2)}), "larger"),
    "vector": (model([2], [op("Gemm", "x w", "y")], {"w": floats(2, 2)}), "no matrix"),
    "broadcast in an old version": (model([1, 2], [op("Sum", "x c", "y")], {"c": floats(1)}, 7), "several shapes"),
    "other flag": (model([1, 2], [op("Gemm", "x w", "y", transB=2)], {"w": floats(2, 2)}), "transB"),
    "type of an attribute": (model([1, 2], [op("LeakyRelu", "x", "y", alpha=1)]), "wrong type"),
    "float64 term": (model([1, 2], [op("Add", "x c", "y")], {"c": np.ones(2)}), "DOUBLE"),
    "float64 choice": (model([1, 2], [op("Where", "m x c", "y")], {"m": np.ones(2, bool), "c": np.ones(2)}), "DOUBLE"),
    "sum beyond int32": (model([1, 2], [op("Add", "c d", "e"), op("Cast", "e", "f", to=1), op("Mul", "x f", "y")],
                               {"c": np.array(2**31 - 1, np.int32), "d": np.array(1, np.int32)}), "wrap"),
    "product beyond int64": (model([1, 2], [op("Mul", "c c", "e"), op("Cast", "e", "f", to=1), op("Mul", "x f", "y")],
                                   {"c": integers(2**40)}), "Mul"),
    "quotient beyond int32": (model([1, 2], [op("Div", "c d", "e"), op("Cast", "e", "f", to=1), op("Mul", "x f", "y")],
                                    {"c": np.array(-(2**31), np.int32), "d": np.array(-1, np.int32)}), "wrap"),
    "cast beyond int32": (model([1, 2], [op("Cast", "c", "e", to=6), op("Cast", "e", "f", to=1), op("Mul", "x f", "y")],
                                {"c": integers(2**31)}), "wrap"),
    "cast beyond 2 ** 53": (model([1, 2], [op("Cast", "c", "e", to=11), op("Cast", "e", "f", to=1), op("Mul", "x f", "y")],
                                  {"c": integers(2**53 + 1)}), "rounds"),
    "decision by computed numbers": (model([1, 2], [op("Mul", "c d", "e"), op("Cast", "e", "f", to=7), op("Cast", "f", "g", to=1), op("Mul", "x g", "y")],
                                           {"c": scalar(0.1), "d": scalar(10)}), "decision"),
    "expanded too far": (model([1, 2], [op("Expand", "x s", "y")], {"s": integers(2**40, 1)}), "too large"),
    "padded too far": (model([1, 2], [op("Pad", "x s", "y")], {"s": integers(0, 0, 2**40, 0)}), "too large"),
    "repeated too often": (model([1, 2], [op("Tile", "x s", "y")], {"s": integers(2**40, 1)}), "too large"),
    "filled too far": (model([1, 2], [op("ConstantOfShape", "s", "c"), op("Add", "x c", "y")], {"s": integers(2**40, 1)}), "too large"),
    "an input too large": (model([1, 2**40], [op("Neg", "x", "y")]), "too large|computed"),
    "whole numbers of 8 bits": (model([1, 2], [op("Cast", "c", "e", to=2), op("Cast", "e", "f", to=1), op("Mul", "x f", "y")],
                                      {"c": integers(300)}), "type"),
}  # fmt: skip


def changed(kind: str, operands: str, change: Any, **attributes: Any) -> bytes:
    """A model of one operation from `x` to `y`, changed in its protobuf form."""
    whole = onnx.load_model_from_string(
        model([1, 2], [op(kind, operands, "y", **attributes)], {"c": floats(2)})
    )
    change(whole, whole.graph.node[0])
    data: bytes = whole.SerializeToString()
    return data


def again(number: float) -> Any:
    return lambda _, node: node.attribute.append(helper.make_attribute("alpha", number))


CHANGED: dict[str, tuple[bytes, str]] = {
    "attribute twice": (changed("LeakyRelu", "x", again(0.5), alpha=0.25), "twice"),
    "attribute twice and alike": (changed("LeakyRelu", "x", again(0.5), alpha=0.5), "twice"),
    "attribute by reference": (changed("LeakyRelu", "x", lambda _, node: setattr(node.attribute[0], "ref_attr_name", "a"), alpha=0.5), "wrong type"),
    "attribute without a type": (changed("LeakyRelu", "x", lambda _, node: setattr(node.attribute[0], "type", 0), alpha=0.5), "wrong type"),
    "attribute with two values": (changed("LeakyRelu", "x", lambda _, node: setattr(node.attribute[0], "i", 1), alpha=0.5), "wrong type"),
    "overload": (changed("Relu", "x", lambda _, node: setattr(node, "overload", "mine")), "overload"),
    "bytes for a name": (changed("Relu", "x", lambda *_: None).replace(b"\x12\x01y", b"\x12\x01\xff"), "no text|no ONNX model"),
    "no result's name": (changed("Relu", "x", lambda _, node: node.output.insert(0, "")), "name"),
    "results beyond": (changed("Relu", "x", lambda _, node: node.output.append("")), "2 results"),
    "name of the input": (changed("Dropout", "x", lambda _, node: node.output.append("x")), "two tensors"),
    "two outputs": (changed("Relu", "x", lambda whole, _: whole.graph.output.append(whole.graph.output[0])), "one output"),
    "declared otherwise": (changed("Relu", "x", lambda whole, _: setattr(whole.graph.output[0].type.tensor_type, "elem_type", 11)), "another type"),
    "numbers in two places": (changed("Add", "x c", lambda whole, _: whole.graph.initializer[0].float_data.extend([1, 1])), "one place"),
    "a part of a tensor": (changed("Add", "x c", lambda whole, _: setattr(whole.graph.initializer[0].segment, "end", 1)), "one place"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGED)
def test_changed_protobuf_is_refused(name: str) -> None:
    data, message = CHANGED[name]
    with pytest.raises(Refused, match=message):
        read_model(data)


def test_constants_elsewhere_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of an attribute too: whoever stands in another folder would read another model."""
    tensor = numpy_helper.from_array(floats(2), "c")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights")
    (tmp_path / "weights").write_bytes(floats(2).tobytes())
    monkeypatch.chdir(tmp_path)
    data = model([1, 2], [op("Constant", "", "c", value=tensor), op("Add", "x c", "y")])
    with pytest.raises(Refused, match="not in the file"):
        read_model(data)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    data, message = REFUSED[name]
    with pytest.raises(Refused, match=message):
        read_model(data)


def test_truncated_and_several_inputs() -> None:
    data = model([1, 4], [op("Gemm", "x c d", "y")], {"c": floats(4, 3), "d": floats(3)})
    expected = read_model(data)
    for length in range(0, len(data), 7):
        try:
            found = read_model(data[:length])
        except Refused:
            continue
        assert (found.inputs, found.outputs) == (
            expected.inputs,
            expected.outputs,
        )  # only trailing metadata is gone
    whole = onnx.load_model_from_string(data)
    whole.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [2]))
    with pytest.raises(Refused, match="2 inputs"):
        read_model(whole.SerializeToString())


def instances() -> list[Path]:
    """One model for each class of family and size (powers of two), none larger than 3 MB."""
    chosen: dict[tuple[str, int], Path] = {}
    for file in sorted(FOLDER.glob("*/onnx/*.onnx*")):
        if (file.stat().st_size < 3_000_000 and "tllBench" not in file.name) or "N=M=8" in file.name:
            chosen.setdefault((file.parent.parent.name, file.stat().st_size.bit_length()), file)
    return list(chosen.values())


@pytest.mark.skipif(not FOLDER.exists(), reason="the instances are not here")
@pytest.mark.parametrize("file", instances(), ids=lambda file: file.name)
def test_instance(file: Path) -> None:
    data = file.read_bytes()
    data = gzip.decompress(data) if file.suffix == ".gz" else data
    try:
        network = read_model(data)
    except Refused as refusal:  # of such models there are no certificates
        pytest.skip(str(refusal))
    check_against_search(network, data)
