"""ArgMax, ArgMin and OneHot: numbers of classes, made of comparisons."""

from __future__ import annotations

import torch

from verify.loading.builder import Builder, Value
from verify.loading.calls import Call, Unsupported, tensor
from verify.loading.operators.comparisons import at_least, compare, is_whole, logical
from verify.loading.registry import onnx

_MOST_CLASSES = 64  # each is compared with all others


@onnx("ArgMax", "ArgMin", chooses=True)
def arg_extremum(call: Call) -> Value:
    """ArgMax and ArgMin: the sum of the numbers of the entries that beat those before and behind them."""
    builder, attributes, x = call.builder, call.attributes, call.x
    axis = attributes.get("axis", 0) % len(x.shape)
    size, lead, rest = x.shape[axis], x.shape[:axis], x.shape[axis + 1 :]
    if size > _MOST_CLASSES:
        raise Unsupported(f"it chooses among {size} entries; at most {_MOST_CLASSES} are supported")
    if call.module.operator == "ArgMin":
        x = builder.scale(x, tensor(-1.0))
    order = (axis, *(i for i in range(len(x.shape)) if i != axis))
    rows = builder.reshape(builder.permute(x, order), (size, x.size // size))
    last = bool(attributes.get("select_last_index", 0))
    parts = [builder.scale(_wins(builder, rows, k, last), tensor(float(k))) for k in range(1, size)]
    parts = parts or [builder.scale(rows, tensor(0.0))]
    found = builder.combine((1,) * len(parts), *parts) if len(parts) > 1 else parts[0]
    return builder.reshape(found, (*lead, *((1,) if attributes.get("keepdims", 1) else ()), *rest))


def _wins(builder: Builder, rows: Value, k: int, last: bool) -> Value:
    """1 where entry k of the first axis is the greatest, of equal ones the first (or the last)."""
    own = builder.slice(rows, 0, k, k + 1)
    found = None
    for start, stop, or_equal in ((0, k, last), (k + 1, rows.shape[0], not last)):
        if start < stop:
            best = builder.maximum_along_first(builder.slice(rows, 0, start, stop))
            beats = at_least(builder, own, builder.reshape(best, own.shape), or_equal)
            found = beats if found is None else logical(builder, "And", found, beats)
    assert found is not None
    return found


@onnx("OneHot", chooses=True)
def one_hot(call: Call) -> Value:
    """OneHot of whole numbers; those below 0 count from the end."""
    builder, x = call.builder, call.x
    depth, values = call.constant(1, "b"), call.constant(2, "c")
    if not is_whole(builder, x):
        raise Unsupported("its indices are not sure to be whole numbers")
    rank, size = len(x.shape) + 1, int(tensor(depth).flatten()[0])
    axis = call.attributes.get("axis", -1) % rank
    shape = (*x.shape[:axis], size, *x.shape[axis:])
    spread = builder.expand(builder.reshape(x, (*x.shape[:axis], 1, *x.shape[axis:])), shape)
    numbers = torch.arange(size, dtype=torch.float64).reshape(-1, *(1,) * (rank - 1 - axis)).expand(shape)
    hot = builder.combine((1, 1), *(compare(builder, "Equal", spread, numbers - turn) for turn in (0, size)))
    off, on = tensor(values).flatten()
    return builder.scale(hot, on - off, off)
