"""Tiny ONNX models for the tests of loading: one operator each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

X: Final = "x"  # the model's input, among the operands of a case
_RANDOM = np.random.default_rng(7)


def weights(*shape: int) -> NDArray[np.float32]:
    """Random float32 weights."""
    return _RANDOM.standard_normal(shape).astype(np.float32)


def ints(*numbers: int) -> NDArray[np.int64]:
    """An int64 vector."""
    return np.array(numbers, dtype=np.int64)


def floats(*numbers: float) -> NDArray[np.float32]:
    """A float32 vector."""
    return np.array(numbers, dtype=np.float32)


def scalar(number: float) -> NDArray[np.float32]:
    """A float32 scalar."""
    return np.array(number, dtype=np.float32)


@dataclass(frozen=True)
class Case:
    """One operator: operands are the input (`X`), constants, or None for an omitted one."""

    operator: str
    operands: Sequence[Any]
    shape: Sequence[int]
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 13
    results: int = 1
    taken: int = 0  # which result is the output
    note: str = ""

    def __str__(self) -> str:
        return "-".join(part for part in (self.operator, str(self.opset), self.note) if part)

    def model(self) -> onnx.ModelProto:
        """The model."""
        names, constants = [], {}
        for place, operand in enumerate(self.operands):
            if operand is None or isinstance(operand, str):
                names.append(operand or "")
            else:
                names.append(f"c{place}")
                constants[f"c{place}"] = operand
        results = [f"y{number}" for number in range(self.results)]
        node = helper.make_node(self.operator, names, results, name="the_node", **self.attributes)
        return model_of([node], self.shape, constants, f"y{self.taken}", self.opset)


def case(operator: str, operands: Sequence[Any], shape: Sequence[int], note: str = "", **rest: Any) -> Case:
    """A case; attributes of the operator are keyword arguments."""
    own = {name: rest.pop(name) for name in ("opset", "results", "taken") if name in rest}
    return Case(operator, operands, shape, rest, note=note, **own)


def model_of(
    nodes: Sequence[onnx.NodeProto], shape: Sequence[Any], constants: dict[str, Any], output: str,
    opset: int = 13, element_type: int = TensorProto.FLOAT,
) -> onnx.ModelProto:  # fmt: skip
    """A model of the given nodes from "x" of a shape."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", element_type, list(shape))],
        [helper.make_tensor_value_info(output, element_type, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


_BN = [weights(3), weights(3), weights(3), np.abs(weights(3)) + floats(0.1)]
_PATCH = (1, 3, 6, 5)

AFFINE: list[Case] = [
    case("MatMul", [X, weights(4, 3)], (1, 4)),
    case("MatMul", [X, weights(4, 3)], (1, 2, 4), "rank 3"),
    case("MatMul", [X, weights(4)], (1, 4), "vector"),
    case("MatMul", [X, weights(4, 3)], (4,), "of a vector"),
    case("MatMul", [weights(3, 4), X], (4, 2), "constant left"),
    case("MatMul", [weights(3, 4), X], (4,), "constant left of a vector"),
    case("MatMul", [weights(4), X], (4, 2), "constant vector left"),
    case("MatMul", [weights(1, 3, 4), X], (1, 4, 2), "constant left, rank 3"),
    case("MatMul", [X, weights(1, 1, 4, 3)], (2, 4), "constant with axes of length 1"),
    case("MatMul", [X, weights(2, 4, 3)], (1, 5, 4), "batched constant"),
    case("MatMul", [X, weights(2, 4, 3)], (4,), "batched constant, vector"),
    case("Gemm", [X, weights(4, 3), weights(3)], (1, 4)),
    case("Gemm", [X, weights(3, 4), weights(3)], (1, 4), "transB", transB=1, alpha=0.5, beta=2.0),
    case("Gemm", [X, weights(4, 3)], (4, 2), "transA without C", transA=1),
    case("Gemm", [X, weights(4, 3), weights(2, 3)], (2, 4), "C a matrix"),
    case("Gemm", [X, weights(4, 3), scalar(0.7)], (2, 4), "C a scalar"),
    case("Gemm", [weights(3, 4), X, weights(3, 1)], (4, 2), "constant left", alpha=0.3),
    case("Conv", [X, weights(4, 3, 3, 2), weights(4)], _PATCH, strides=[2, 1], pads=[1, 0, 1, 0]),
    case("Conv", [X, weights(4, 3, 3, 3)], _PATCH, "uneven pads", pads=[0, 1, 2, 0], dilations=[2, 1]),
    case("Conv", [X, weights(6, 1, 2, 2), weights(6)], _PATCH, "groups", group=3, strides=[2, 2]),
    case("Conv", [X, weights(2, 3, 3, 3)], _PATCH, "same upper", auto_pad="SAME_UPPER", strides=[2, 2]),
    case("Conv", [X, weights(2, 3, 2, 2)], _PATCH, "same lower", auto_pad="SAME_LOWER"),
    case("Conv", [X, weights(2, 3, 2, 2)], _PATCH, "valid", auto_pad="VALID"),
    case("Conv", [X, weights(2, 3, 3), weights(2)], (1, 3, 7), "1d", pads=[1, 1], strides=[2]),
    case("Conv", [X, weights(2, 2, 2, 2, 2)], (1, 2, 3, 4, 3), "3d"),
    case("Conv", [X, weights(2, 3, 2, 2)], (2, 3, 4, 4), "two samples"),
    case("Conv", [X, weights(2, 3, 2, 2)], _PATCH, "newest", opset=22),
    case("ConvTranspose", [X, weights(3, 2, 3, 3), weights(2)], _PATCH, strides=[2, 2], pads=[1, 1, 1, 1]),
    case("ConvTranspose", [X, weights(3, 2, 3, 3)], _PATCH, "longer", strides=[2, 2], output_padding=[1, 1]),
    case("ConvTranspose", [X, weights(3, 2, 3, 3)], _PATCH, "uneven pads", strides=[2, 2], pads=[0, 1, 1, 2]),
    case(
        "ConvTranspose", [X, weights(3, 2, 3, 3)], _PATCH, "uneven pads and output_padding",
        strides=[2, 2], pads=[0, 1, 1, 0], output_padding=[1, 1],
    ),
    case("ConvTranspose", [X, weights(4, 2, 2, 2)], (1, 4, 3, 3), "groups", group=2, dilations=[2, 1]),
    case("ConvTranspose", [X, weights(3, 2, 3, 3)], _PATCH, "same", strides=[2, 2], auto_pad="SAME_UPPER"),
    case("ConvTranspose", [X, weights(3, 2, 3)], (1, 3, 4), "output_shape", strides=[2], output_shape=[8]),
    case("BatchNormalization", [X, *_BN], _PATCH),
    case("BatchNormalization", [X, *_BN], (1, 3), "flat", epsilon=0.01),
    case("BatchNormalization", [X, *_BN], (1, 3, 4), "opset 9", opset=9),
    case("AveragePool", [X], _PATCH, kernel_shape=[2, 2]),
    case("AveragePool", [X], _PATCH, "uncounted", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
    case("AveragePool", [X], _PATCH, "counted", kernel_shape=[3, 3], pads=[1, 0, 1, 2], count_include_pad=1),
    case("AveragePool", [X], _PATCH, "uneven pads", kernel_shape=[2, 3], pads=[0, 1, 1, 0]),
    case("AveragePool", [X], _PATCH, "same", kernel_shape=[3, 2], auto_pad="SAME_UPPER", strides=[2, 2]),
    case("AveragePool", [X], (1, 2, 7), "1d, ceil", kernel_shape=[3], strides=[3], ceil_mode=1),
    case("AveragePool", [X], (1, 2, 4, 4, 4), "3d, newest", kernel_shape=[2, 2, 2], opset=19),
    case("AveragePool", [X], _PATCH, "dilated", kernel_shape=[2, 3], dilations=[2, 1], opset=19),
    case(
        "AveragePool", [X], _PATCH, "dilated, padded, uncounted", kernel_shape=[3, 2], dilations=[2, 3],
        pads=[2, 1, 0, 1], opset=22,
    ),
    case(
        "AveragePool", [X], (2, 2, 9), "dilated, counted, ceil", kernel_shape=[3], dilations=[3], strides=[2],
        pads=[1, 2], ceil_mode=1, count_include_pad=1, opset=19,
    ),
    case("GlobalAveragePool", [X], _PATCH),
    case("Add", [X, weights(3, 1, 1)], _PATCH),
    case("Add", [weights(2, 4), X], (4,), "grows"),
    case("Sub", [X, weights(1, 4)], (1, 4)),
    case("Sub", [weights(4), X], (1, 4), "constant left"),
    case("Mul", [X, weights(3, 4)], (1, 4)),
    case("Mul", [scalar(2.5), X], (1, 4), "constant left"),
    case("Div", [X, floats(0.5, 3.0, -7.0, 1.0)], (1, 4)),
    case("Neg", [X], (1, 4)),
    case("Sum", [X, weights(4), X, scalar(1.5)], (1, 4)),
    case("Mean", [X, weights(4), X], (1, 4)),
    case("Reshape", [X, ints(0, -1, 2)], (1, 3, 4)),
    case("Reshape", [X, ints(2, 6)], (1, 3, 4), "newest", opset=21),
    case("Reshape", [X, ints(1, 12)], (1, 3, 4), "zero allowed, none there", opset=20, allowzero=1),
    case("Flatten", [X], (1, 3, 4)),
    case("Flatten", [X], (2, 3, 4), "axis 2", axis=2),
    case("Flatten", [X], (2, 3, 4), "axis 0, old", axis=0, opset=7),
    case("Flatten", [X], (2, 3, 4), "axis -1", axis=-1),
    case("Transpose", [X], (2, 3, 4), perm=[2, 0, 1]),
    case("Transpose", [X], (1, 3, 4), "keeps an axis of length 1", perm=[0, 2, 1]),
    case("Transpose", [X], (2, 3), "reversed"),
    case("Squeeze", [X, ints(0)], (1, 3, 1)),
    case("Squeeze", [X], (1, 3, 1), "all"),
    case("Squeeze", [X], (1, 3, 1), "old", axes=[2], opset=11),
    case("Unsqueeze", [X, ints(0, 2)], (1, 3)),
    case("Unsqueeze", [X], (1, 3), "old", axes=[1], opset=11),
    case("Slice", [X, ints(1), ints(3), ints(1)], (1, 4)),
    case("Slice", [X, ints(1, 0), ints(9, -1), ints(2, 1), ints(2, 1)], (1, 4, 6), "steps"),
    case("Slice", [X, ints(-1), ints(-100), ints(1), ints(-1)], (1, 4), "backwards"),
    case("Slice", [X, ints(4), ints(0), ints(1), ints(-2)], (1, 6), "backwards by twos"),
    case("Slice", [X, ints(-3), ints(2**62), ints(-1)], (1, 4), "to the end"),
    case("Slice", [X], (1, 4, 5), "old", starts=[1, 1], ends=[3, 9], axes=[1, 2], opset=9),
    case("Split", [X, ints(1, 3)], (1, 4), axis=1, results=2, taken=1),
    case("Split", [X], (1, 4), "equal", axis=1, results=2),
    case("Split", [X], (1, 5), "old", axis=1, split=[2, 3], results=2, taken=1, opset=11),
    case("Split", [X], (1, 5), "uneven, new", axis=-1, num_outputs=2, results=2, taken=1, opset=18),
    case("Concat", [X, X], (1, 4), axis=1),
    case("Concat", [weights(1, 2), X, weights(1, 1)], (1, 4), "constants", axis=-1),
    case("Pad", [X, ints(0, 1, 2, 0)], (1, 4)),
    case("Pad", [X, ints(0, 1, 1, 2), scalar(1.5)], (1, 4), "value"),
    case("Pad", [X, ints(0, -1, 0, 2)], (1, 4), "negative"),
    case("Pad", [X, ints(0, 0, 1, 2, 0, 0, 2, 0)], (1, 1, 4, 4), "reflect", mode="reflect"),
    case("Pad", [X, ints(0, 0, 1, 2, 0, 0, 2, 0)], (1, 1, 4, 4), "edge", mode="edge"),
    case("Pad", [X, ints(1, 2), None, ints(1)], (1, 4), "axes", opset=18),
    case("Pad", [X], (1, 4), "old", pads=[0, 1, 0, 1], value=0.5, opset=9),
    case("Gather", [X, ints(2, 0, 2)], (1, 4), axis=1),
    case("Gather", [X, np.array(1)], (2, 4), "scalar", axis=-1),
    case("Gather", [X, np.array([[0, -1], [1, 1]])], (1, 4, 3), "matrix", axis=1),
    case("Expand", [X, ints(3, 1, 4)], (2, 1)),
    case("Tile", [X, ints(2, 3)], (1, 2)),
    case("ReduceSum", [X, ints(1)], (1, 3, 4)),
    case("ReduceSum", [X], (1, 3, 4), "all", keepdims=0),
    case("ReduceSum", [X, ints(-1)], (1, 3, 4), "last", keepdims=0),
    case("ReduceSum", [X], (1, 3, 4), "old", axes=[1, 2], opset=11),
    case("ReduceMean", [X], (1, 3, 4), axes=[2], keepdims=0),
    case("ReduceMean", [X, ints(1, 2)], (1, 3, 4), "new", opset=18),
    case("Identity", [X], (1, 4)),
    case("Identity", [X], (1, 4), "new", opset=21),
    case("Dropout", [X], (1, 4)),
    case("Dropout", [X], (1, 4), "old", opset=7),
    case("Dropout", [X, scalar(0.5), np.array(False)], (1, 4), "told not to drop"),
    case("Upsample", [X, floats(1, 1, 2, 3)], (1, 2, 3, 3), opset=9),
    case(
        "Resize", [X, None, floats(1, 1, 2, 2)], (1, 2, 3, 3), "floor",
        coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    ),
    case("Resize", [X, None, floats(1, 1, 1.5, 0.7)], (1, 1, 4, 5), "half pixel"),
    case("Resize", [X, None, None, ints(1, 1, 7, 3)], (1, 1, 4, 5), "sizes", nearest_mode="ceil"),
    case(
        "Resize", [X, None, None, ints(1, 1, 7, 3)], (1, 1, 4, 5), "corners",
        coordinate_transformation_mode="align_corners", nearest_mode="round_prefer_ceil",
    ),
    *(
        case(
            "Resize", [X, None, floats(1, 1, 2, 0.6)], (1, 2, 3, 5), f"{mode}, {kind}", mode=mode,
            coordinate_transformation_mode=kind,
        )
        for mode in ("linear", "cubic")
        for kind in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")
    ),
    case("Resize", [X, None, None, ints(1, 1, 1, 9)], (1, 1, 4, 5), "linear, sizes", mode="linear", opset=19),
    case("Resize", [X, None, floats(1, 1, 2, 3)], (1, 2, 3, 3), "cubic, coefficient", mode="cubic", cubic_coeff_a=-0.5),
    case("Upsample", [X, floats(1, 1, 2, 3)], (1, 2, 3, 3), "linear", mode="linear", opset=9),
    case("CumSum", [X, np.array(1)], (2, 4, 3)),
    case("CumSum", [X, np.array(-1)], (2, 4), "from behind, without its own", exclusive=1, reverse=1, opset=14),
    case("Einsum", [X, weights(5, 4)], (1, 3, 4), equation="bij,kj->bik"),
    case("Einsum", [weights(5, 4), X], (1, 3, 4), "constant left", equation="kj,bij->bki"),
    case("Einsum", [X, weights(2, 4, 3)], (2, 5, 4), "batched constant", equation="bij,bjk"),
    case("Einsum", [X, weights(3, 4)], (2, 3, 4), "ellipsis, no sum", equation="...ij,ij->...ji"),
    case("Einsum", [X, weights(2)], (3, 4), "outer product", equation="ij,k->kji"),
    case("Einsum", [X, weights(4, 2)], (3, 4), "sums", equation="ij,jk->i"),
    case("Einsum", [X], (2, 3, 4), "one operand", equation="abc->ca"),
    case("ScatterND", [X, np.array([[0, 1], [1, 2]]), floats(5, 6)], (2, 3), opset=18),
    case("ScatterND", [weights(2, 3), np.array([[1]]), X], (1, 3), "into a constant", opset=16),
    case("ScatterElements", [X, np.array([[2, 0]]), floats(5, 6)[None]], (1, 3), axis=1, opset=16),
    case("DepthToSpace", [X], (1, 4, 2, 2), blocksize=2, mode="CRD"),
    case("SpaceToDepth", [X], (2, 3, 4, 6), blocksize=2),
    case("Trilu", [X], (3, 4), opset=14),
    case("Trilu", [X, np.array(1)], (2, 3, 4), "lower", upper=0, opset=14),
    case("Where", [np.array([True, False, True, False]), X, weights(4)], (1, 4)),
]  # fmt: skip


def _recurrent(operator: str, gates: int, note: str = "", **attributes: Any) -> Case:
    """Three steps of two samples, four inputs and two hidden units."""
    ways = 2 if attributes.get("direction") == "bidirectional" else 1
    biased = attributes.pop("biased", True)
    states = (
        [weights(ways, 2, 2)] * (2 if operator == "LSTM" else 1) if attributes.pop("started", False) else []
    )
    operands = [
        X,
        weights(ways, 2 * gates, 4),
        weights(ways, 2 * gates, 2),
        weights(ways, 4 * gates) if biased else None,
    ]
    return case(
        operator,
        [*operands, *([None] if states else []), *states],
        (3, 2, 4),
        note,
        hidden_size=2,
        **attributes,
    )


_RECURRENT: list[Case] = [
    _recurrent("RNN", 1),
    _recurrent("RNN", 1, "relu, backwards", activations=["Relu"], direction="reverse", results=2, taken=1),
    _recurrent("RNN", 1, "both ways", direction="bidirectional", started=True, opset=22),
    _recurrent("LSTM", 4),
    _recurrent("LSTM", 4, "both ways", direction="bidirectional", results=3, taken=2),
    _recurrent("LSTM", 4, "from a state", started=True, results=2, taken=1, opset=7),
    _recurrent("GRU", 3),
    _recurrent("GRU", 3, "reset behind", linear_before_reset=1, direction="bidirectional", started=True),
    _recurrent("GRU", 3, "without biases", biased=False, started=True, results=2, taken=1),
]

ACTIVATIONS: list[Case] = [
    *(case(name, [X], (1, 5)) for name in ("Relu", "Abs", "Sigmoid", "Tanh")),
    case("Relu", [X], (1, 5), "old", opset=9),
    case("LeakyRelu", [X], (1, 5), alpha=0.2),
    case("HardSigmoid", [X], (1, 5), alpha=0.3, beta=0.4),
    case("Clip", [X, scalar(-0.5), scalar(0.7)], (1, 5)),
    case("Clip", [X, None, scalar(0.7)], (1, 5), "upper only"),
    case("Clip", [X, scalar(0.0)], (1, 5), "relu"),
    case("Clip", [X, scalar(0.0), scalar(6.0)], (1, 5), "relu6"),
    case("Clip", [X], (1, 5), "none"),
    case("Clip", [X, scalar(2.0), scalar(-0.5)], (1, 5), "limits that cross"),
    case("Clip", [X, scalar(0.5), scalar(0.5)], (1, 5), "equal limits"),
    case("Clip", [X], (1, 5), "old", min=-0.5, max=0.5, opset=9),
    case("Clip", [X, scalar(-np.inf), scalar(np.inf)], (1, 5), "infinite"),
    case("PRelu", [X, floats(0.2)], (1, 5)),
    case("PRelu", [X, floats(0.2, 0.4, -0.1).reshape(3, 1, 1)], (1, 3, 2, 2), "of channels"),
    case("PRelu", [X, floats(0.2, 0.4, -0.1)], (1, 3, 2, 3), "of the last axis, as long as that of channels"),
    case("MaxPool", [X], (1, 2, 4, 4), kernel_shape=[2, 2], strides=[2, 2]),
    case("MaxPool", [X], (1, 2, 5, 5), "overlap", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    case("MaxPool", [X], (1, 1, 5, 6), "ceil", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    case("MaxPool", [X], (1, 1, 5, 5), "uneven pads", kernel_shape=[2, 3], pads=[0, 1, 1, 0]),
    case("MaxPool", [X], (1, 1, 5, 5), "same", kernel_shape=[2, 2], auto_pad="SAME_UPPER", strides=[2, 2]),
    case("MaxPool", [X], (1, 2, 7), "1d, dilated", kernel_shape=[3], dilations=[2]),
    case("GlobalMaxPool", [X], (1, 2, 3, 2)),
    case("LpPool", [X], _PATCH, kernel_shape=[2, 3], pads=[0, 1, 1, 0], strides=[2, 1], opset=11),
    case("LpPool", [X], _PATCH, "of sizes", kernel_shape=[2, 2], p=1, auto_pad="SAME_UPPER"),
    case("LpPool", [X], _PATCH, "dilated", kernel_shape=[2, 2], dilations=[3, 2], ceil_mode=1, opset=18),
    case("GlobalLpPool", [X], (1, 2, 3, 2)),
    case("GlobalLpPool", [X], (1, 2, 3), "of sizes", p=1),
    case("Max", [X, weights(1, 4)], (1, 4)),
    case("Min", [X, weights(1, 4), scalar(0.3)], (1, 4)),
    case("ReduceMax", [X], (1, 3, 4), axes=[1], keepdims=0),
    case("ReduceMin", [X], (1, 3, 4), axes=[1, 2]),
    case("ReduceL1", [X], (1, 3, 4), axes=[1]),
    case("ReduceSumSquare", [X], (1, 3, 4), axes=[2]),
    case("Pow", [X, scalar(2.0)], (1, 4)),
    case("Pow", [X, scalar(3.0)], (1, 4), "cube"),
    case("Pow", [X, floats(5.0, 5.0)], (1, 3, 1), "fifth"),
    case("Mul", [X, X], (1, 4), "square"),
    case("Pow", [X, scalar(4.0)], (1, 4), "fourth"),
    case("Pow", [scalar(1.7), X], (1, 4), "constant base"),
    case("Pow", [X, floats(2.0, 0.0, 3.0, 2.0)], (1, 4), "by element"),
    case("MatMul", [X, X], (3, 3), "square"),
    case("MatMul", [X, X], (2, 3, 3), "square, batched"),
    *(
        case(name, [X], (1, 5))
        for name in (
            "Atan", "Ceil", "Celu", "Cos", "Elu", "Erf", "Exp", "Floor", "LogSoftmax", "Round", "Selu", "Sign", "Sin",
            "Softmax", "Softplus", "Softsign",
        )
    ),
    *(case(name, [X], (1, 5), opset=22) for name in ("Atan", "Cos", "Elu", "HardSwish", "Mish", "Round", "Softplus")),
    case("Elu", [X], (1, 5), "alpha", alpha=0.4, opset=9),
    case("Celu", [X], (1, 5), "alpha", alpha=0.4),
    case("Selu", [X], (1, 5), "alpha", alpha=0.4, gamma=1.3),
    case("Gelu", [X], (1, 5), opset=20),
    case("Gelu", [X], (1, 5), "approximate", approximate="tanh", opset=20),
    case("Softmax", [X], (2, 3, 4), "first", axis=0),
    case("Softmax", [X], (2, 3, 4), "old", axis=1, opset=11),
    case("Softmax", [X], (2, 1), "of one"),
    case("Softmax", [X], (3, 2, 4), "of two", axis=1),
    case("LogSoftmax", [X], (2, 3, 4), "middle", axis=1),
    case("LogSoftmax", [X], (2, 3, 4), "old", opset=9),
    case("LayerNormalization", [X, weights(4), weights(4)], (2, 3, 4), opset=17),
    case("LayerNormalization", [X, weights(3, 4)], (2, 3, 4), "two axes", axis=1, epsilon=0.1, opset=17),
    case("InstanceNormalization", [X, weights(3), weights(3)], (2, 3, 4, 2)),
    case("GroupNormalization", [X, weights(6), weights(6)], (2, 6, 3, 2), num_groups=2, opset=21),
    case("GroupNormalization", [X, weights(2), weights(2)], (1, 6, 4), "of groups", num_groups=2, epsilon=0.1, opset=18),
    case("RMSNormalization", [X, weights(4)], (2, 3, 4), opset=23),
    case("RMSNormalization", [X, weights(3, 4)], (2, 3, 4), "two axes", axis=1, epsilon=0.1, opset=23),
    case("Attention", [X, weights(1, 2, 5, 4), weights(1, 2, 5, 3)], (1, 2, 3, 4), opset=23),
    case("Attention", [X, X, X], (1, 3, 8), "of itself", q_num_heads=2, kv_num_heads=2, scale=0.3, opset=23),
    case("Attention", [X, X, weights(1, 3, 4), weights(3, 3)], (1, 3, 8), "mask", q_num_heads=2, kv_num_heads=2, opset=23),
    case("Einsum", [X, X], (1, 3, 4), "of variables", equation="bij,bkj->bik"),
    case("Einsum", [X, X], (3, 4), "of variables, no sum", equation="ij,ij->ij"),
    case("ReduceLogSumExp", [X], (1, 3, 4), axes=[1], keepdims=0),
    case("ReduceLogSumExp", [X, ints(0, 2)], (2, 3, 4), "new", opset=18),
    case("ReduceLogSumExp", [X], (3, 1), "of one", axes=[1]),
    case("ReduceProd", [X], (2, 3), axes=[1]),
    case("ReduceProd", [X, ints(1, 2)], (1, 2, 2), "new", keepdims=0, opset=18),
    case("ReduceLogSum", [X], (1, 4), "of positive numbers", axes=[1]),
    *_RECURRENT,
    case("ReduceL2", [X], (1, 3, 4), axes=[1]),
    case("ReduceL2", [X, ints(0, 2)], (1, 3, 4), "new", keepdims=0, opset=18),
    case("Sqrt", [X], (1, 4), "of positive numbers"),
    case("Log", [X], (1, 4), "of positive numbers"),
    case("Pow", [X, scalar(0.5)], (1, 4), "of positive numbers"),
    case("Pow", [X, scalar(-0.5)], (1, 4), "of positive numbers, inverse"),
]  # fmt: skip

CHOICE_SHAPE = (1, 3, 4)


def _one_hot(axis: int) -> list[onnx.NodeProto]:
    return [
        helper.make_node("ArgMax", [X], ["i"], axis=2, keepdims=0),
        helper.make_node("OneHot", ["i", "depth", "values"], ["y"], axis=axis),
    ]


def _choice(operator: str, **attributes: int) -> list[onnx.NodeProto]:
    return [
        helper.make_node(operator, [X], ["i"], **attributes),
        helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
    ]


# By name: numbers of classes, for which the result is an integer.
CHOICES: dict[str, list[onnx.NodeProto]] = {
    "first axis": _choice("ArgMax", axis=0), "last of equals": _choice("ArgMax", axis=2, select_last_index=1),
    "no axis kept": _choice("ArgMax", axis=1, keepdims=0), "least": _choice("ArgMin", axis=-1),
    "last of the least": _choice("ArgMin", axis=1, select_last_index=1), "one hot": _one_hot(-1),
    "one hot, first": _one_hot(0), "one hot, between": _one_hot(1),
}  # fmt: skip

UNSUPPORTED: list[Case] = [
    case("Acos", [X], (1, 4)),
    case("Pow", [X, scalar(1.5)], (1, 4)),
    case("OneHot", [X, scalar(4.0), floats(0, 1)], (1, 4)),
    case("LSTM", [X, weights(1, 8, 2), weights(1, 8, 2)], (1, 1, 2), hidden_size=2, clip=1.0),
    case(
        "GRU", [X, weights(1, 6, 2), weights(1, 6, 2)], (1, 1, 2), hidden_size=2, activations=["Relu", "Tanh"]
    ),
    case("Resize", [X, None, floats(1, 1, 2, 2)], (1, 1, 2, 2), mode="linear", antialias=1, opset=18),
    case("Einsum", [X], (3, 3), equation="ii->i"),
    case("Dropout", [X, scalar(0.1), np.array(True)], (1, 3)),
    case("Attention", [X, X, X], (1, 1, 2, 4), "causal", is_causal=1, opset=23),
    case("Attention", [X, X, X, X], (1, 1, 2, 2), "mask of variables", opset=23),
    case(
        "Attention",
        [X, X, X, np.array([[True, False], [True, True]])],
        (1, 1, 2, 4),
        "mask of truths",
        opset=23,
    ),
    case("ScatterND", [X, np.array([[0]]), floats(1)], (3,), reduction="add", opset=18),
]
