"""`ieee32-any-order` speaks of what is float32 throughout: every other model, and factors that leave float32's range, prove nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_data import placed
from onnx import TensorProto, helper
from test_checker_traps import forged, property_text
from test_onnx_reader import model, op, scalar

from verify.checker.checking import DEPLOYED
from verify.checker.dual import Dual
from verify.checker.errors import NotProved, Refused
from verify.checker.multipliers import Arithmetic
from verify.checker.onnx_reader import read_model

FLOAT, DOUBLE, INT64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64
Array = np.ndarray[Any, Any]


def single(*numbers: float) -> Array:
    return np.array(numbers, dtype=np.float32)


def wide(*numbers: float) -> Array:
    return np.array(numbers, dtype=np.float64)


def normalised(weight: float, factor: float, variance: float = 1.0) -> bytes:
    """A convolution of one number, and a normalisation that ONNX Runtime joins with it."""
    nodes = [
        op("Conv", "x w", "c"),
        op("BatchNormalization", "c s z z v", "n", epsilon=0.0),
        op("Relu", "n", "y"),
    ]
    weights = {
        "w": single(weight).reshape(1, 1, 1),
        "s": single(factor),
        "z": single(0),
        "v": single(variance),
    }
    return model([1, 1, 1], nodes, weights)


def twice(first: float, second: float) -> bytes:
    nodes = [op("MatMul", "x w", "a"), op("Mul", "a s", "b"), op("Relu", "b", "y")]
    return model([1, 1], nodes, {"w": single(first).reshape(1, 1), "s": single(second)})


OTHER_TYPES = {
    "there and back": model([1, 1], [op("Cast", "x", "a", to=DOUBLE), op("Cast", "a", "y", to=FLOAT)]),
    "a float64 part": model([1, 1], [op("Cast", "x", "a", to=DOUBLE), op("Mul", "a c", "b"), op("Cast", "b", "y", to=FLOAT)], {"c": wide(0.5)}),
    "a float64 constant": model([1, 1], [op("Cast", "c", "d", to=FLOAT), op("Mul", "x d", "y")], {"c": wide(0.5)}),
    "one that is made": model([1, 1], [op("Constant", "", "c", value=helper.make_tensor("c", DOUBLE, [1], [0.5])),
                                       op("Cast", "c", "d", to=FLOAT), op("Mul", "x d", "y")]),
    "a float64 exponent": model([1, 1], [op("Pow", "x c", "y")], {"c": wide(1.0)}),
    "whole numbers by float64": model([1, 1], [op("Cast", "c", "d", to=DOUBLE), op("Cast", "d", "e", to=FLOAT), op("Mul", "x e", "y")],
                                      {"c": np.array([3])}),
}  # fmt: skip
FACTORS = {
    "joined beyond": normalised(1e30, 1e10), "joined below": normalised(1e-30, 1e-15), "large": normalised(1.0, 1e30, 1e-20),
    "small": normalised(1.0, 1e-30, 1e20), "two products beyond": twice(1e30, 1e10), "two products below": twice(1e-30, 1e-15),
    "alpha": model([1, 1], [op("Gemm", "x w", "y", alpha=1e-15)], {"w": single(1e-30).reshape(1, 1)}),
    "a divisor": model([1, 1], [op("Div", "x c", "y")], {"c": scalar(1e-39)}),
}  # fmt: skip
COVERED = {
    "a plain one": normalised(2.0, 3.0), "tiny weights alone": twice(1e-40, 1.0),
    "whole numbers": model([1, 1], [op("Cast", "c", "d", to=FLOAT), op("Mul", "x d", "y")], {"c": np.array([3])}),
}  # fmt: skip


@pytest.mark.parametrize("name", [*OTHER_TYPES, *FACTORS])
def test_not_covered(name: str) -> None:
    network = read_model({**OTHER_TYPES, **FACTORS}[name])
    Dual(network, Arithmetic())
    with pytest.raises(Refused, match="float64" if name in OTHER_TYPES else "too large"):
        Dual(network, Arithmetic(deployed=True))


@pytest.mark.parametrize("name", COVERED)
def test_covered(name: str) -> None:
    Dual(read_model(COVERED[name]), Arithmetic(deployed=True))


def test_a_steep_slope_may_overflow() -> None:
    nodes = [op("LeakyRelu", "x", "a", alpha=1e30), op("Mul", "a c", "y")]
    network = read_model(model([1, 1], nodes, {"c": scalar(1e-38)}))
    low, high = np.full((1, 1), -1e30), np.full((1, 1), -1e29)
    for deployed, end in ((False, 9e21), (True, np.inf)):
        ends, values = Dual(network, Arithmetic(deployed=deployed)).node_intervals(low, high)
        assert values[-1][0].item() <= -end
        sizes = Dual(network, Arithmetic(deployed=deployed)).sizes(*ends)
        assert sizes[len(values) - 1].item() >= end or np.isnan(sizes[len(values) - 1].item())
    exact = Arithmetic(exact=True, deployed=True)
    with pytest.raises(NotProved, match="steep"):
        Dual(network, exact).node_intervals(exact.array(low), exact.array(high))


def test_a_cast_that_rounds(tmp_path: Path) -> None:
    """Over the reals nothing happens, in ONNX Runtime 1.000000001 becomes 1."""
    ends = [helper.make_tensor_value_info(name, DOUBLE, [1, 1]) for name in ("X", "Y")]
    nodes = [op("Cast", "X", "a", to=FLOAT), op("Relu", "a", "b"), op("Cast", "b", "Y", to=DOUBLE)]
    graph = helper.make_graph(nodes, "test", ends[:1], ends[1:])
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    files = placed(tmp_path, whole, property_text([1.0000000009], [1.0000000011], 1, "(<= Y_0 1.0000000005)"))
    assert forged(files)
    assert not forged(files, DEPLOYED)
