"""What the checker's reader makes of variants of every operator that it knows: what ONNX Runtime computes, or it refuses.

And what float32 may make of it holds what ONNX Runtime computes in float32; the search's own reader agrees too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from old_runtime import skip_if
from onnx import TensorProto, numpy_helper
from test_onnx_reader import CASES, floats, integers, model, op, scalar
from variants import variants

from verify.checker.activations import PIECEWISE
from verify.checker.dual import Dual
from verify.checker.errors import Refused
from verify.checker.multipliers import Arithmetic
from verify.checker.network import Network
from verify.checker.onnx_reader import read_model
from verify.checker.runtime import Session, Trouble
from verify.errors import VerifyError
from verify.loading import load

Array = np.ndarray[Any, Any]
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def short(*numbers: int) -> Array:
    return np.array(numbers, dtype=np.int32)


def by_constant(*nodes: Any, **weights: Array) -> Any:
    """A model that multiplies by a constant `c`, of whatever type, that its nodes make."""
    return (1, 2), [*nodes, op("Cast", "c", "d", to=FLOAT), op("Mul", "x d", "y")], weights, 17


PAIRS = {
    "int32": (short(7, -7), short(2, 3)), "int64": (integers(7, -9), integers(2, -2)),
    "float32": (np.array([1.5, 2], np.float32), np.array([0.5, 4], np.float32)),
    "int32 at its end": (short(2**31 - 1, -(2**31)), short(1, -1)), "int64 at its end": (integers(2**62, 3), integers(4, 3)),
}  # fmt: skip
LITERALS = {
    "int32": short(7, -7), "int64": integers(2**40, -2), "float32": np.array([1.5, -2.75], np.float32),
    "bool": np.array([True, False]), "int64 beyond float64": integers(2**53 + 1, 2**24 + 1), "float64": np.array([0.1, 2.0**40]),
}  # fmt: skip
MORE: dict[str, Any] = {
    **{f"{kind} of {name}": by_constant(op(kind, "a b", "c"), a=a, b=b)
       for kind in ("Add", "Sub", "Mul", "Div") for name, (a, b) in PAIRS.items()},
    **{f"Cast {name} to {to}": by_constant(op("Cast", "a", "c", to=to), a=a) for name, a in LITERALS.items() for to in (1, 2, 6, 7, 9, 11)},
    "Neg of int32": by_constant(op("Neg", "a", "c"), a=short(-(2**31), 4)),
    "Constant floats": by_constant(op("Constant", "", "c", value_floats=[1.0, 2.0])),
    "Constant ints": by_constant(op("Constant", "", "c", value_ints=[1, 2])),
    "Constant int": by_constant(op("Constant", "", "c", value_int=3)),
    "Constant tensor": by_constant(op("Constant", "", "c", value=numpy_helper.from_array(short(1, 2)))),
    "ConstantOfShape": by_constant(op("ConstantOfShape", "s", "c", value=numpy_helper.from_array(integers(3))), s=integers(1, 2)),
    "Shape ends": by_constant(op("Shape", "x", "c", start=0, end=2)),
    "Concat of constants": by_constant(op("Concat", "a b", "c", axis=0), a=integers(1), b=integers(3)),
    "Equal": by_constant(op("Equal", "a b", "c"), a=integers(1, 2), b=integers(1, 3)),
    "Slice of constants": by_constant(op("Slice", "a b e", "c"), a=integers(1, 2, 3, 4), b=integers(1), e=integers(3)),
    "Split in three": ((1, 7), [op("Split", "x", "a b c", axis=1, num_outputs=3), op("Concat", "c b a", "y", axis=1)], {}, 18),
    "Split of the first axis": ((6, 1), [op("Split", "x", "a b c"), op("Concat", "c b a", "y", axis=0)], {}, 13),
    "MaxPool with indices": ((1, 2, 5, 6), [op("MaxPool", "x", "y i", kernel_shape=[2, 2], pads=[0, 1, 1, 0])], {}, 17),
    "Dropout with a mask": ((1, 2), [op("Dropout", "x r t", "y m")], {"r": scalar(0.5), "t": np.array(False)}, 17),
    "BatchNormalization of a batch": ((2, 2, 3), [op("BatchNormalization", "x a b c a", "y", training_mode=0)],
                                      {"a": np.abs(floats(2)) + 1, "b": floats(2), "c": floats(2)}, 15),
    "BatchNormalization 9": ((1, 2, 3), [op("BatchNormalization", "x a b c a", "y")],
                             {"a": np.abs(floats(2)) + 1, "b": floats(2), "c": floats(2)}, 9),
    "Slice backwards": ((2, 5), [op("Slice", "x s e a t", "y")], {"s": integers(-1), "e": integers(-100), "a": integers(1), "t": integers(-2)}, 17),
    "Slice int32": ((2, 5), [op("Slice", "x s e a t", "y")], {"s": short(1), "e": short(4), "a": short(-1), "t": short(2)}, 17),
    "AveragePool 11": ((1, 2, 7), [op("AveragePool", "x", "y", kernel_shape=[3], strides=[2], ceil_mode=1, pads=[1, 1], count_include_pad=1)], {}, 11),
    "ConvTranspose 1d": ((1, 2, 4), [op("ConvTranspose", "x w b", "y", strides=[2], output_padding=[1])], {"w": floats(2, 2, 3), "b": floats(2)}, 17),
    "Cast there and back": ((1, 2), [op("Cast", "x", "a", to=11), op("Relu", "a", "b"), op("Cast", "b", "y", to=FLOAT)], {}, 17),
    "an operand twice": ((1, 2), [op("Relu", "x", "r"), op("Sum", "x r x", "y")], {}, 17),
}  # fmt: skip
ALL = CASES | MORE
POINTS = 3
EACH = 48  # variant is read by the search too, which takes longer


def computed(data: bytes, x: Array) -> tuple[Array, bool] | None:
    """ONNX Runtime's outputs, and whether they are float64; None where it refuses the model."""
    try:
        session = Session(data)
        name, kind, told = session.inputs[0]
        shape = [size if isinstance(size, int) else 1 for size in told]
        wide = kind == "tensor(double)"
        samples = x.astype(np.float64 if wide else np.float32).reshape(len(x), *shape)
        (found,) = session.run([session.outputs[0][0]], {name: samples})
    except Trouble:
        return None
    return found.reshape(len(x), -1).astype(np.float64), wide and b"Cast" not in data


def disagreement(data: bytes, network: Network) -> str:
    """How ONNX Runtime's outputs differ from the network's; empty where they do not."""
    x = (
        np.random.default_rng(0)
        .uniform(-2, 2, (POINTS, network.inputs))
        .astype(np.float32)
        .astype(np.float64)
    )
    values = network.values(x)
    told, found = computed(data, x), values[-1]
    size = 1 + max(float(np.abs(value).max()) for value in values)
    if told is None or not np.isfinite(size):
        return ""
    expected, wide = told
    if found.shape != expected.shape or np.abs(found - expected).max() > (1e-12 if wide else 1e-5) * size:
        return f"{found} is {expected}"
    if all(layer.kind in PIECEWISE for layer in network.layers) and not network.undeployed:
        _, ends = Dual(network, Arithmetic(deployed=True)).node_intervals(x, x)
        if not ((ends[-1][0] <= expected) & (expected <= ends[-1][1])).all():
            return f"{expected} is not in {ends[-1]}"
    return ""


def differs_from_search(data: bytes, network: Network) -> str:
    """How the search's own reader differs; empty where it does not, or refuses the model."""
    try:
        loaded = load(data).network
    except VerifyError:
        return ""
    if (network.inputs, network.outputs) != (loaded.inputs, loaded.outputs):
        return "other sizes"
    x = np.random.default_rng(1).random((POINTS, network.inputs))
    mine = network.values(x)[-1]
    with torch.no_grad():
        other = loaded.forward(torch.from_numpy(x)).flatten(1).numpy()
    return "" if np.allclose(mine, other, rtol=1e-6, atol=1e-9) else f"{mine} is {other} to the search"


@pytest.mark.parametrize("name", ALL)
def test_variants_are_computed_as_onnx_runtime_does_or_refused(name: str) -> None:
    skip_if(
        name in ("AveragePool ceil", "AveragePool ceil counted", "AveragePool 11", "ConvTranspose strided")
    )
    shape, nodes, weights, opset = ALL[name]
    found: dict[str, str] = {}
    read = 0
    with np.errstate(all="ignore"):
        for variant, data in variants(model(shape, nodes, weights, opset)):
            try:
                network = read_model(data)
            except Refused:
                continue
            read += 1
            problem = disagreement(data, network)
            if not problem and read % EACH == 1:
                problem = differs_from_search(data, network)
            found |= {variant: problem} if problem else {}
    assert not found


def test_variants_are_run() -> None:
    """The tests above would be empty if they were not."""
    _, data = next(variants(model(*ALL["Relu"])))
    assert computed(data, np.ones((2, 6))) is not None
