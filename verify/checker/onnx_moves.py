"""Operations that move entries: they say which entry goes where, for values and constants alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from verify.checker.builder import Tensor, Value, numbering
from verify.checker.errors import Refused
from verify.checker.network import Integers
from verify.checker.onnx_call import Call, Result


def reshape(call: Call, numbers: Integers) -> Integers:
    sizes = call.integers(1)
    if sizes is None:
        raise Refused("the shape is missing")
    if call.attribute("allowzero", 0) == 0:
        sizes = [numbers.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return numbers.reshape(sizes)


def flatten(call: Call, numbers: Integers) -> Integers:
    axis = call.attribute("axis", 1)
    if not -numbers.ndim <= axis <= numbers.ndim:
        raise Refused("the axis is out of range")
    before = numbers.shape[: axis if axis >= 0 else axis + numbers.ndim]
    return numbers.reshape(math.prod(before), -1)


def transpose(call: Call, numbers: Integers) -> Integers:
    moved: Integers = numbers.transpose(call.attribute("perm"))
    return moved


def squeeze(call: Call, numbers: Integers) -> Integers:
    axes = call.integers(1, "axes")
    return np.squeeze(numbers, None if axes is None else tuple(axes))


def unsqueeze(call: Call, numbers: Integers) -> Integers:
    axes = call.integers(1, "axes")
    if axes is None:
        raise Refused("the axes are missing")
    return np.expand_dims(numbers, tuple(axes))


def identity(call: Call, numbers: Integers) -> Integers:
    return numbers


def dropout(call: Call, numbers: Integers) -> Integers:
    call.attribute("ratio"), call.attribute("seed")
    training = call.constant(2)
    if training is not None and training.any():
        raise Refused("training mode")
    return numbers


def take(call: Call, numbers: Integers) -> Integers:
    index = call.needed(1)
    if index.dtype != np.int64:
        raise Refused("the indices have a wrong type")
    taken: Integers = np.take(numbers, index, axis=call.attribute("axis", 0))
    return taken


def expand(call: Call, numbers: Integers) -> Integers:
    shape = np.broadcast_shapes(numbers.shape, tuple(call.integers(1) or ()))
    return np.broadcast_to(numbers, shape)


def tile(call: Call, numbers: Integers) -> Integers:
    repeats = call.integers(1) or []
    if len(repeats) != numbers.ndim:
        raise Refused("not one number of repetitions for each axis")
    return np.tile(numbers, repeats)


def by_reference(*attributes: str) -> Callable[[Call, Integers], Any]:
    """The rule of an operator that ONNX's own reference implementation is run for, on the numbers of the entries."""

    def rule(call: Call, numbers: Integers) -> Any:
        for name in attributes:
            call.attribute(name)
        results = referred(call, [numbers.astype(np.float64), *call.operands[1:]])
        return results[0] if len(results) == 1 else results

    return rule


def referred(call: Call, operands: Sequence[Any]) -> list[Integers]:
    """The results of ONNX's reference implementation of the operation, which must be whole numbers."""
    from onnx.reference import ReferenceEvaluator  # imported late: it is slow to import

    node = onnx.NodeProto()
    node.CopyFrom(call.proto)
    node.domain = ""
    del node.input[:]
    node.input.extend("" if operand is None else f"in{k}" for k, operand in enumerate(operands))
    unknown = [
        helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None)
        for name in (*node.input, *node.output)
        if name
    ]
    count = sum(operand is not None for operand in operands)
    graph = helper.make_graph([node], "one", unknown[:count], unknown[count:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", call.opset)])
    feed = {f"in{k}": operand for k, operand in enumerate(operands) if operand is not None}
    results = [np.asarray(result) for result in ReferenceEvaluator(model).run(None, feed)]
    whole = [result.astype(np.int64) for result in results]
    if any((number != result).any() for number, result in zip(whole, results, strict=True)):
        raise Refused("the entries were not moved, but changed")
    return whole


MOVES: dict[str, Callable[[Call, Integers], Any]] = {
    "DepthToSpace": by_reference("blocksize", "mode"), "Dropout": dropout, "Expand": expand, "Flatten": flatten,
    "Gather": take, "Identity": identity, "Reshape": reshape, "Slice": by_reference("axes", "ends", "starts"),
    "Split": by_reference("axis", "split", "num_outputs"), "Squeeze": squeeze, "Tile": tile, "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}  # fmt: skip


def move(call: Call) -> Result:
    """The entries of the first operand where the operation puts them."""
    x = call.operand(0)
    if x is None:
        raise Refused("the operand is missing")
    moved = MOVES[call.proto.op_type](call, numbering(x.shape))
    results: list[Tensor] = []
    for index in moved if isinstance(moved, list) else [moved]:
        if index.size and (index.min() < 0 or index.max() >= math.prod(x.shape)):
            raise Refused("an index is out of range")
        results.append(call.builder.gather(x, index) if isinstance(x, Value) else x.ravel()[index])
    return results
