"""Constants that are stored in ways of their own: sparse ones are filled, those of small types become wider ones, of the same numbers."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from verify.errors import ModelError
from verify.loading.onnx.element_types import NARROW
from verify.loading.sizes import check_size

_SMALL_INTEGERS = {
    TensorProto.INT4: np.int8, TensorProto.UINT4: np.uint8, TensorProto.INT2: np.int8, TensorProto.UINT2: np.uint8,
}  # fmt: skip


def fill(graph: onnx.GraphProto, name: str) -> None:
    """Sparse constants become plain ones, in place. Raises ModelError for places that there are not."""
    for sparse in graph.sparse_initializer:
        shape = tuple(sparse.dims)
        check_size(shape)
        try:
            values, places = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
            whole = np.zeros(shape, dtype=values.dtype)
            flat = places if places.ndim == 1 else np.ravel_multi_index(tuple(places.T), shape)
            if flat.size and not 0 <= flat.min() <= flat.max() < whole.size:
                raise ValueError("a place beyond its shape")
            whole.reshape(-1)[flat] = values
        except (ValueError, TypeError, IndexError) as error:
            raise ModelError(
                f"{name}: the sparse initializer {sparse.values.name!r} cannot be read ({error})"
            ) from error
        graph.initializer.append(numpy_helper.from_array(whole, sparse.values.name))
    del graph.sparse_initializer[:]


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
