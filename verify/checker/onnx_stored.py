"""Weights that an ONNX file stores in small types: read where they are cast or dequantised, and nowhere else.

Floats of fewer bits than float32 are numbers of float32 too, so a cast changes nothing. DequantizeLinear is computed in float32 as ONNX
defines it, (x - zero) * scale rounded once: what comes out are the model's weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from verify.checker.builder import Constant, Tensor
from verify.checker.errors import Refused
from verify.checker.onnx_constants import content_of
from verify.checker.onnx_schema import FLOAT, FLOATS, schema_of, type_name, value_of

WHOLE = (TensorProto.INT8, TensorProto.UINT8)
STORED = (TensorProto.FLOAT16, TensorProto.BFLOAT16, *WHOLE)


@dataclass(frozen=True)
class Stored:
    """A weight as the file has it: its numbers, and their element type."""

    numbers: Constant
    kind: int


def stored_of(tensor: onnx.TensorProto) -> Stored:
    """A weight in a small type."""
    array = content_of(tensor, "int32_data")
    return Stored(array.astype(np.int64 if tensor.data_type in WHOLE else np.float64), int(tensor.data_type))


def unpacked(
    proto: onnx.NodeProto, opset: int, stored: Mapping[str, Stored], scales: Mapping[str, Tensor]
) -> tuple[Constant, int]:
    """What an operation makes of a stored weight, and its type; `scales`: weights of float32 in the file."""
    schema = schema_of(proto, opset)
    given = {attribute.name: value_of(attribute) for attribute in proto.attribute}
    weight = stored[proto.input[0]]
    if proto.op_type == "Cast":
        target = given.pop("to")
        if target not in FLOATS or given.pop("saturate", 1) != 1 or given.pop("round_mode", "up") != "up":
            raise Refused(f"a cast of {type_name(weight.kind)} to a type that rounds")
        found = weight.numbers.astype(np.float64)
    elif proto.op_type == "DequantizeLinear":
        target, zero = FLOAT, stored.get(proto.input[2]) if len(proto.input) > 2 and proto.input[2] else None
        scale = scales.get(proto.input[1])
        if not isinstance(scale, np.ndarray) or (zero is None and len(proto.input) > 2 and proto.input[2]):
            raise Refused("a scale that is no weight of float32, or a zero point that is none")
        if given.pop("block_size", 0) or given.pop("output_dtype", FLOAT) not in (0, FLOAT):
            raise Refused("blocks, or a result in another type than float32")
        if weight.kind not in WHOLE or (zero is not None and zero.kind != weight.kind):
            raise Refused("a weight that is neither int8 nor uint8, or a zero point of another type")
        axis = given.pop("axis", 1) if schema.since_version >= 13 else None
        found = _dequantised(
            weight.numbers, scale, np.zeros_like(scale) if zero is None else zero.numbers, axis
        )
    else:
        raise Refused(
            f"a constant of type {type_name(weight.kind)}, which is read where it is cast or dequantised alone"
        )
    if given:
        raise Refused(f"the attributes {sorted(given)} are not understood")
    return found, int(target)


def _dequantised(x: Constant, scale: Constant, zero: Constant, axis: int | None) -> Constant:
    """In float32, of one scale, or one for each place along an axis."""
    if scale.shape != zero.shape:
        raise Refused("scale and zero point of different shapes")
    if scale.ndim > 1 or (scale.ndim == 1 and (axis is None or not -x.ndim <= axis < x.ndim)):
        raise Refused("a scale that is neither one number nor one for each place along an axis")
    shape: tuple[int, ...] = ()
    if scale.ndim:
        if len(scale) != x.shape[axis or 0]:
            raise Refused("not as many scales as places along the axis")
        shape = (-1, *(1,) * (x.ndim - 1 - (axis or 0) % x.ndim))
    narrow: Any = scale.astype(np.float32).reshape(shape)
    moved = (x - zero.astype(np.int64).reshape(shape)).astype(np.float32)
    with np.errstate(over="ignore"):
        return np.asarray(moved * narrow, dtype=np.float32).astype(np.float64)
