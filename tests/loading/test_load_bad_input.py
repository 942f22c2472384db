"""Models that must be refused with a message that helps, and the ways a good one may arrive."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import X, case, model_of, weights

from verify.errors import ModelError
from verify.loading import load

GOOD = case("Gemm", [X, weights(4, 3), weights(3)], (1, 4)).model()


def refused(model: object, *parts: str) -> None:
    with pytest.raises(ModelError) as caught:
        load(model)  # type: ignore[arg-type]
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_good_models_in_every_wrapping(tmp_path: Path) -> None:
    data = GOOD.SerializeToString()
    plain, zipped = tmp_path / "model.onnx", tmp_path / "model.onnx.gz"
    plain.write_bytes(data)
    zipped.write_bytes(gzip.compress(data))
    x = np.ones(4, dtype=np.float32)
    expected = load(GOOD).evaluate(x)
    for source in (str(plain), plain, zipped, data, gzip.compress(data)):
        loaded = load(source)
        np.testing.assert_array_equal(loaded.evaluate(x), expected)
        assert (loaded.operators, loaded.opset, loaded.output_shape) == ({"Gemm": 1}, 13, (1, 3))


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    data = GOOD.SerializeToString()
    refused(tmp_path / "nothing.onnx", "nothing.onnx", "no such file")
    refused(tmp_path, "cannot be read")
    refused(data[: len(data) // 2], "cut short")
    refused(gzip.compress(data)[:-20], "gzip")
    refused(b"\x1f\x8b not gzip at all", "gzip")
    refused(b"(declare-const X_0 Real)\n(assert (<= X_0 1))\n", "not an ONNX model")
    refused(b"", "no graph")


def test_every_truncation_is_refused() -> None:
    data = GOOD.SerializeToString()
    for length in range(0, len(data), 7):
        with pytest.raises(ModelError):
            load(data[:length])


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers(number: float) -> None:
    broken = weights(4, 3)
    broken[1, 2] = number
    refused(case("MatMul", [X, broken], (1, 4)).model(), "'c1'", "NaN or infinity")
    constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(broken))
    refused(model_of([constant, helper.make_node("MatMul", [X, "w"], ["y"])], (1, 4), {}, "y"), "'w'")


def test_inputs_and_outputs() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(GOOD)
    model.graph.input.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, [1, 4]))
    refused(model, "'x'", "'second'", "input")
    model.CopyFrom(GOOD)
    model.graph.output.append(helper.make_tensor_value_info("c1", TensorProto.FLOAT, [4, 3]))
    refused(model, "output", "'y0'", "'c1'")
    model.CopyFrom(GOOD)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    refused(model, "int64", "'x'")
    model.CopyFrom(GOOD)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    refused(model, "no shape")


def test_initializers_among_the_inputs() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(GOOD)
    for initializer in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(initializer.name, TensorProto.FLOAT, initializer.dims)
        )
    assert load(model).input_name == "x"


def test_dynamic_batch() -> None:
    loaded = load(
        model_of([helper.make_node("MatMul", [X, "w"], ["y"])], ("batch", 4), {"w": weights(4, 2)}, "y")
    )
    assert loaded.input_shape == (1, 4)
    assert loaded.evaluate(np.zeros((5, 4))).shape == (5, 2)


def test_operators_of_nobody() -> None:
    node = helper.make_node("Frobnicate", [X], ["y"], domain="com.example", name="the_node")
    model = model_of([node], (1, 4), {}, "y")
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    refused(model, "Frobnicate")
    model = model_of([helper.make_node("MatMul", [X, "nowhere"], ["y"])], (1, 4), {}, "y")
    refused(model, "nowhere")


def test_external_data(tmp_path: Path) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(GOOD)
    path = tmp_path / "model.onnx"
    onnx.save_model(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    np.testing.assert_array_equal(load(path).evaluate(np.ones(4)), load(GOOD).evaluate(np.ones(4)))
    (tmp_path / "weights.bin").unlink()
    refused(path, "another file")


def test_outputs_that_cannot_be_compared() -> None:
    """1 / relu(x - 100) is infinite near 0; in a box where it is finite the model loads."""
    nodes = [
        helper.make_node("Sub", [X, "limit"], ["d"]),
        helper.make_node("Relu", ["d"], ["r"]),
        helper.make_node("Reciprocal", ["r"], ["y"]),
    ]
    model = model_of(nodes, (1, 1), {"limit": np.array([100.0], dtype=np.float32)}, "y")
    refused(model, "box")
    assert len(load(model, box=(np.array([101.0]), np.array([102.0]))).network.layers) == 2


def test_start_up_is_light() -> None:
    """Importing the package imports no torch, loading a model no torchvision."""
    program = "\n".join(
        (
            "import sys, verify.loading",
            "assert not {'torch', 'onnx', 'onnxruntime'} & set(sys.modules)",
            "verify.loading.load(sys.stdin.buffer.read())",
            "assert not {'torchvision', 'onnxslim', 'torch._dynamo'} & set(sys.modules)",
        )
    )
    subprocess.run([sys.executable, "-c", program], input=GOOD.SerializeToString(), check=True)
