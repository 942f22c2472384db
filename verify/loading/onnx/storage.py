"""Constants in element types that neither torch nor this loader computes with: kept as wider ones, which hold the same numbers."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from verify.loading.onnx.element_types import NARROW

_SMALL_INTEGERS = {
    TensorProto.INT4: np.int8, TensorProto.UINT4: np.uint8, TensorProto.INT2: np.int8, TensorProto.UINT2: np.uint8,
}  # fmt: skip


def widen(graph: onnx.GraphProto) -> None:
    """Floats of fewer bits than float32 become float32, integers of fewer than 8 become those of 8, in place."""
    kinds = {**dict.fromkeys(NARROW, np.float32), **_SMALL_INTEGERS}
    found = [tensor for tensor in graph.initializer if tensor.data_type in kinds]
    for tensor in found:
        values = numpy_helper.to_array(tensor).astype(kinds[tensor.data_type])
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    if found:
        # what the file says of types holds no longer
        del graph.value_info[:]
