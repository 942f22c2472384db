"""Weights in small types: the checker's numbers are those of ONNX Runtime, bit by bit, and nothing else is read of such types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from verify.api import verify
from verify.checker.checking import check
from verify.checker.errors import Refused
from verify.checker.onnx_reader import read_model

RANDOM = np.random.default_rng(0)
HALF = RANDOM.standard_normal((4, 3)).astype(np.float16)
BYTES = RANDOM.integers(-128, 128, (4, 3)).astype(np.int8)
SCALES = np.abs(RANDOM.standard_normal(4)).astype(np.float32)
ZEROS = RANDOM.integers(-128, 128, 4).astype(np.int8)


def model(
    nodes: list[onnx.NodeProto], weights: dict[str, Any], opset: int = 13, product: str = "MatMul"
) -> bytes:
    """x, of four entries, times what the nodes make of weights."""
    nodes = [*nodes, helper.make_node(product, ["x", "w"], ["y"])]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "test", [given], [made], tensors)
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    data: bytes = whole.SerializeToString()
    return data


def cast(kind: int = TensorProto.FLOAT) -> list[onnx.NodeProto]:
    return [helper.make_node("Cast", ["s"], ["w"], to=kind)]


def dequantised(*operands: str, **attributes: Any) -> list[onnx.NodeProto]:
    return [helper.make_node("DequantizeLinear", ["s", *operands], ["w"], **attributes)]


READ = {
    "float16": (cast(), {"s": HALF}, 13), "bfloat16": (cast(), {"s": HALF.astype(ml_dtypes.bfloat16)}, 13), "int8, cast": (cast(), {"s": BYTES}, 13),
    "one scale": (dequantised("a"), {"s": BYTES, "a": SCALES[0]}, 10),
    "one scale and zero": (dequantised("a", "z"), {"s": BYTES, "a": SCALES[0], "z": ZEROS[0]}, 13),
    "rows": (dequantised("a", "z", axis=0), {"s": BYTES, "a": SCALES, "z": ZEROS}, 13),
    "columns": (dequantised("a", "z"), {"s": BYTES, "a": SCALES[:3], "z": ZEROS[:3]}, 19),
    "columns, from behind": (dequantised("a", axis=-1), {"s": BYTES, "a": SCALES[:3]}, 21),
    "uint8": (dequantised("a", "z"), {"s": BYTES.astype(np.uint8), "a": SCALES[0], "z": np.uint8(130)}, 13),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_weights_are_those_of_onnx_runtime(name: str) -> None:
    nodes, weights, opset = READ[name]
    data = model(nodes, weights, opset)
    network = read_model(data)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(data, options)
    for unit in np.eye(4, dtype=np.float32):
        theirs = session.run(None, {"x": unit[None]})[0].ravel()
        ours = network.values(unit[None].astype(np.float64))[-1].ravel()
        np.testing.assert_array_equal(ours, theirs.astype(np.float64))
    assert bool(network.undeployed) == ("DequantizeLinear" in {node.op_type for node in nodes})


REFUSED = {
    "rounds": (cast(TensorProto.FLOAT16), {"s": BYTES}, 13), "not cast": ([], {"w": HALF}, 13),
    "arithmetic": ([helper.make_node("Add", ["s", "s"], ["t"]), *cast()], {"s": HALF}, 13),
    "moved": ([helper.make_node("Transpose", ["s"], ["t"]), helper.make_node("Cast", ["t"], ["w"], to=1)], {"s": HALF}, 13),
    "a scale of another type": (dequantised("a"), {"s": BYTES, "a": np.float16(0.5)}, 21),
    "a scale that is computed": ([helper.make_node("Add", ["b", "b"], ["a"]), *dequantised("a")], {"s": BYTES, "b": SCALES[0]}, 13),
    "a scale that depends on the input": (dequantised("x"), {"s": BYTES}, 13),
    "a zero point of another type": (dequantised("a", "z"), {"s": BYTES, "a": SCALES[0], "z": np.uint8(3)}, 13),
    "too many scales": (dequantised("a"), {"s": BYTES, "a": SCALES}, 13), "rows, old": (dequantised("a"), {"s": BYTES, "a": SCALES[:3]}, 10),
    "blocks": (dequantised("a", axis=0, block_size=2), {"s": BYTES, "a": np.abs(HALF[:2]).astype(np.float32)}, 21),
    "int16": (dequantised("a"), {"s": BYTES.astype(np.int16), "a": SCALES[0]}, 21),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    nodes, weights, opset = REFUSED[name]
    with pytest.raises(Refused):
        read_model(model(nodes, weights, opset))


def test_certificates_of_quantised_weights(tmp_path: Path) -> None:
    """Written and proved; not of float32's own arithmetic."""
    nodes, weights, opset = READ["rows"]
    (tmp_path / "m.onnx").write_bytes(model(nodes, weights, opset))
    text = "".join(f"(declare-const X_{i} Real)(assert (<= X_{i} 1))(assert (>= X_{i} -1))" for i in range(4))
    text += "".join(f"(declare-const Y_{i} Real)" for i in range(3))
    (tmp_path / "p.vnnlib").write_text(text + "(assert (>= Y_0 5000))")
    files = (tmp_path / "m.onnx", tmp_path / "p.vnnlib")
    found = verify(*files, certificate=tmp_path / "c", timeout=60, device="cpu")
    assert found.verdict == "unsat"
    assert check(tmp_path / "c", *files).proved
    assert not check(tmp_path / "c", *files, semantics="ieee32-any-order").proved
