"""ArgMax, ArgMin, OneHot and lookups: numbers of classes, made of comparisons."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from verify.loading.builder import Builder, Value
from verify.loading.calls import Call, Unsupported, limit, tensor
from verify.loading.operators.comparisons import at_least, is_whole, logical
from verify.loading.operators.moves import reindex
from verify.loading.registry import converted, onnx

_MOST_CLASSES = 64  # each is compared with all others


@onnx("ArgMax", "ArgMin", chooses=True)
def arg_extremum(call: Call) -> Value:
    """ArgMax and ArgMin: the sum of the numbers of the entries that beat those before and behind them."""
    builder, attributes, x = call.builder, call.attributes, call.x
    axis = attributes.get("axis", 0) % len(x.shape)
    size, lead, rest = x.shape[axis], x.shape[:axis], x.shape[axis + 1 :]
    if call.module.operator == "ArgMin":
        x = builder.scale(x, tensor(-1.0))
    order = (axis, *(i for i in range(len(x.shape)) if i != axis))
    rows = builder.reshape(builder.permute(x, order), (size, x.size // size))
    numbers = torch.arange(size, dtype=torch.float64)
    found = of_greatest(builder, rows, numbers, bool(attributes.get("select_last_index", 0)))
    return builder.reshape(found, (*lead, *((1,) if attributes.get("keepdims", 1) else ()), *rest))


def of_greatest(builder: Builder, rows: Value, numbers: Tensor, last: bool = False) -> Value:
    """The number that belongs to the greatest entry along the first axis, to the first (or the last) of equal ones."""
    size = rows.shape[0]
    if size > _MOST_CLASSES:
        raise Unsupported(f"it chooses among {size} entries; at most {_MOST_CLASSES} are supported")
    first = numbers[:1]
    if size == 1:
        return builder.scale(rows, tensor(0.0), first)
    parts = [builder.scale(_wins(builder, rows, k, last), numbers[k] - first) for k in range(1, size)]
    found = builder.combine((1,) * len(parts), *parts) if len(parts) > 1 else parts[0]
    return builder.scale(found, None, first)


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
    rank, size = len(x.shape), int(tensor(depth).flatten()[0])
    axis = call.attributes.get("axis", -1) % (rank + 1)
    order = (*range(axis), rank, *range(axis, rank))
    off, on = tensor(values).flatten()
    return builder.scale(builder.permute(hot(builder, x, size), order), on - off, off)


def hot(builder: Builder, x: Value, size: int) -> Value:
    """Of whole numbers, on a new last axis: 1 at the place that each says, counted from the end where it is below 0, 0 elsewhere.

    Neighbouring steps make it, so a number beyond all places has none.
    """
    if not is_whole(builder, x):
        raise Unsupported("its indices are not sure to be whole numbers")
    limit(x.size * (2 * size + 1), "steps")
    shape, axis = (*x.shape, 2 * size + 1), len(x.shape)
    spread = builder.expand(builder.reshape(x, (*x.shape, 1)), shape)
    numbers = torch.arange(-size, size + 1, dtype=torch.float64)
    steps = at_least(builder, spread, numbers.expand(shape), or_equal=True)
    here = builder.combine(
        (1, -1), builder.slice(steps, axis, 0, 2 * size), builder.slice(steps, axis, 1, 2 * size + 1)
    )
    return builder.combine(
        (1, 1), builder.slice(here, axis, 0, size), builder.slice(here, axis, size, 2 * size)
    )


def looked_up(builder: Builder, table: Tensor, index: Value, axis: int) -> Value:
    """The entries of a constant along an axis that whole numbers choose, as Gather puts them."""
    axis %= table.dim()
    columns = tensor(table).movedim(axis, 0)
    weights = columns.reshape(columns.shape[0], -1).T
    found = builder.dense(hot(builder, index, columns.shape[0]), weights)
    rank, rest = len(index.shape), columns.shape[1:]
    whole = builder.reshape(found, (*index.shape, *rest))
    order = (*range(rank, rank + axis), *range(rank), *range(rank + axis, rank + len(rest)))
    return builder.permute(whole, order)


@converted("OnnxGather", "Gather", moves=True)
def gather(call: Call) -> Any:
    """Entries of a value at constant places, or of a constant at places that are values: an embedding."""
    data, index = call.args
    if not isinstance(index, Value):
        return reindex(call)
    if isinstance(data, Value):
        raise Unsupported("its data and its indices depend on the network's input")
    return looked_up(call.builder, data, index, call.module._axis)
