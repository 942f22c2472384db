"""Values that hang on few whole numbers of the input alone, as places do that an input chooses: tables of what they are.

Where an operator needs a constant (which part to slice, where to scatter) and is given such a value, it is executed for everything
that the value can be. The whole numbers, *keys*, are casts of single entries that depend on the input; which numbers they may be is
known from the property's boxes. What comes out is a table, and so on, until something that is no table is joined with it: then it becomes a
value of the network, a sum of its entries with one weight 1 and the others 0, made of comparisons of what was cast.

A network with a table is the model's on the property's boxes alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verify.deadline import tick
from verify.loading.builder import Builder, Value
from verify.loading.calls import Call, Unsupported, tensor
from verify.loading.integers import ranges_within
from verify.loading.operators.comparisons import is_whole
from verify.network.activations.relu import Relu
from verify.network.activations.steps import Positive
from verify.network.affine import Affine, Constant, Dense

_MOST_PLACES = 2**16  # of a table: products of what its keys may be
_MOST_WEIGHTS = 2**25  # of a table that becomes a value


@dataclass(frozen=True)
class Key:
    """The whole part of a value of one entry: the node of what it is cast from, and its least and greatest number."""

    source: int
    least: int
    most: int

    @property
    def numbers(self) -> range:
        return range(self.least, self.most + 1)


@dataclass(frozen=True, eq=False)
class Table:
    """What a value is: for every combination of its keys' numbers, one of its entries."""

    keys: tuple[Key, ...]
    entries: tuple[Any, ...]
    which: np.ndarray[Any, Any]  # [numbers of the first key, of the second, ..]

    @classmethod
    def of(cls, keys: tuple[Key, ...], entries: Iterable[Any]) -> Table:
        """Of an entry for every combination, equal ones kept once."""
        known: dict[Any, int] = {}
        kept: list[Any] = []
        which = []
        for entry in entries:
            number = known.setdefault(_content(entry), len(kept))
            if number == len(kept):
                kept.append(entry)
            which.append(number)
        return cls(keys, tuple(kept), np.array(which).reshape([len(key.numbers) for key in keys]))

    def over(self, keys: Sequence[Key]) -> np.ndarray[Any, Any]:
        """`which`, for combinations of more keys."""
        shape = [len(key.numbers) if key in self.keys else 1 for key in keys]
        order = np.argsort([keys.index(key) for key in self.keys], kind="stable")
        return np.broadcast_to(self.which.transpose(order).reshape(shape), [len(k.numbers) for k in keys])


def _content(entry: Any) -> Any:
    """What tells entries apart."""
    if isinstance(entry, Tensor):
        array = np.ascontiguousarray(entry.numpy())
        return tuple(entry.shape), entry.dtype, array.tobytes()
    if isinstance(entry, tuple | list):
        return type(entry), *map(_content, entry)
    return type(entry), entry


def mapped(tree: Any, change: Callable[[Any], Any]) -> Any:
    """A call's arguments with their leaves changed."""
    if isinstance(tree, tuple | list):
        return type(tree)([mapped(part, change) for part in tree])
    if isinstance(tree, dict):
        return {name: mapped(part, change) for name, part in tree.items()}
    return change(tree)


def applied(call: Call, compute: Callable[[Call], Any]) -> Any:
    """A call whose operands are tables and constants, executed for every combination of entries that there is."""
    tables: list[Table] = []
    mapped((call.args, call.kwargs), lambda leaf: tables.append(leaf) if isinstance(leaf, Table) else None)
    keys = tuple(dict.fromkeys(key for table in tables for key in table.keys))
    _check_places(keys)
    rows = np.stack([table.over(keys).reshape(-1) for table in tables], 1)
    chosen, inverse = np.unique(rows, axis=0, return_inverse=True)
    results = []
    for row in chosen.tolist():
        tick()
        entries = iter([table.entries[number] for table, number in zip(tables, row, strict=True)])

        def pick(leaf: Any, entries: Any = entries) -> Any:
            return next(entries) if isinstance(leaf, Table) else leaf

        args, kwargs = mapped((list(call.args), dict(call.kwargs)), pick)
        results.append(compute(replace(call, args=args, kwargs=kwargs)))
    return Table.of(keys, (results[number] for number in inverse.reshape(-1).tolist()))


def _check_places(keys: Sequence[Key]) -> None:
    places = math.prod(len(key.numbers) for key in keys)
    if places > _MOST_PLACES:
        raise Unsupported(
            f"it hangs on {places} combinations of numbers; at most {_MOST_PLACES} are supported"
        )


# from values to tables


def tabulated(builder: Builder, value: Value) -> Table | None:
    """A whole value as a table; None where it hangs on more than keys."""
    if not is_whole(builder, value):
        return None
    cast = _casts_behind(builder, value.node)
    keys = {node: _key(builder, node) for node in cast} if cast else {}
    if not keys or any(key is None for key in keys.values()):
        return None
    own = tuple(dict.fromkeys(key for key in keys.values() if key is not None))
    _check_places(own)
    numbers = torch.tensor(list(product(*(key.numbers for key in own))), dtype=torch.float64)
    given = {node: numbers[:, own.index(key), None] for node, key in keys.items() if key is not None}
    found = _values_behind(builder, value.node, given).reshape(-1, *value.shape)
    return Table.of(own, found.round().long().unbind(0))


def _casts_behind(builder: Builder, node: int) -> set[int]:
    """The casts that a node hangs on; none where it hangs on the input otherwise, too."""
    found, pending, seen = set(), [node], set()
    while pending:
        index = pending.pop()
        if index in seen:
            continue
        seen.add(index)
        if index in builder.casts:
            found.add(index)
        elif index == 0:
            return set()
        elif not isinstance(builder.nodes[index].operator, Constant):
            pending += builder.nodes[index].operands
    return found


def _key(builder: Builder, cast: int) -> Key | None:
    """What is known of a cast of one entry within the boxes."""
    source = builder.casts[cast]
    if builder.nodes[source].size != 1 or builder.box is None:
        return None
    builder.within = builder.within or builder.box()
    low, high = (float(end) for end in ranges_within(builder, builder.within, source))
    if not math.isfinite(low) or not math.isfinite(high) or high - low >= _MOST_PLACES:
        return None
    return Key(source, math.trunc(low), math.trunc(high))


def _values_behind(builder: Builder, node: int, given: dict[int, Tensor]) -> Tensor:
    """A node's value for every row of what is given of the casts."""
    known, count = dict(given), len(next(iter(given.values())))
    for index in sorted(_needed(builder, node, given)):
        operator, operands = builder.nodes[index].operator, builder.nodes[index].operands
        shape = builder.nodes[index].shape
        if isinstance(operator, Constant):
            known[index] = operator.value.expand(count, *operator.value.shape)
        elif isinstance(operator, Affine):
            known[index] = operator.forward(
                *(known[i].reshape(-1, *builder.nodes[i].shape) for i in operands)
            )
        elif operator is not None:
            known[index] = operator.forward(known[operands[0]].flatten(1)).reshape(-1, *shape)
    return known[node]


def _needed(builder: Builder, node: int, given: dict[int, Tensor]) -> set[int]:
    found, pending = set(), [node]
    while pending:
        index = pending.pop()
        if index not in found and index not in given:
            found.add(index)
            if not isinstance(builder.nodes[index].operator, Constant):
                pending += builder.nodes[index].operands
    return found


# from tables to values


def as_value(builder: Builder, table: Table) -> Value:
    """A table of tensors of one shape as a value: what it is mostly, and for each other entry its difference where it is that."""
    if not all(
        isinstance(entry, Tensor) and entry.shape == table.entries[0].shape for entry in table.entries
    ):
        raise Unsupported("the shape of what it takes depends on the network's input")
    shape = tuple(table.entries[0].shape)
    counts = np.bincount(table.which.reshape(-1), minlength=len(table.entries))
    mostly = int(counts.argmax())
    places = np.argwhere(table.which != mostly)
    base = tensor(table.entries[mostly]).reshape(-1)
    if not len(places):
        return builder.constant(base.reshape(shape))
    if len(places) * len(base) > _MOST_WEIGHTS:
        raise Unsupported(f"it may be one of {len(places)} tensors of {len(base)} entries, which is too many")
    rows = [tensor(table.entries[table.which[tuple(place)]]).reshape(-1) - base for place in places.tolist()]
    weights = builder.affine(Dense(torch.stack(rows, 1), base), _indicators(builder, table.keys, places))
    value = builder.reshape(weights, shape)
    if not table.entries[0].is_floating_point():
        builder.whole.add(value.node)
    return value


def _indicators(builder: Builder, keys: Sequence[Key], places: np.ndarray[Any, Any]) -> Value:
    """1 for each place where the keys are just its numbers, else 0."""
    parts = []
    for column, key in enumerate(keys):
        used, index = np.unique(places[:, column], return_inverse=True)
        hot = _one_hot(builder, key, [key.numbers[place] for place in used.tolist()])
        parts.append(builder.gather(hot, torch.from_numpy(index.reshape(-1))))
    if len(parts) == 1:
        return parts[0]
    total = builder.combine((1,) * len(parts), *parts)
    return builder.activation(Relu(), builder.scale(total, None, tensor(1.0 - len(parts))))


def _one_hot(builder: Builder, key: Key, numbers: Sequence[int]) -> Value:
    """For each of some numbers 1 where it is the key's, else 0: where the key is at least it, and not the next one."""
    steps = sorted({k for number in numbers for k in (number, number + 1) if key.least < k <= key.most})
    first = torch.tensor([float(number == key.least) for number in numbers], dtype=torch.float64)
    if not steps:
        return builder.constant(first)
    weight = torch.zeros(len(numbers), len(steps), dtype=torch.float64)
    for row, number in enumerate(numbers):
        for k, share in ((number, 1.0), (number + 1, -1.0)):
            if key.least < k <= key.most:
                weight[row, steps.index(k)] = share
    return builder.affine(Dense(weight, first), _reached(builder, key, steps))


def _reached(builder: Builder, key: Key, steps: Sequence[int]) -> Value:
    """For each of increasing numbers 1 where the key is at least it: its source is, or for k <= 0 is above k - 1."""
    source, groups = builder.reshape(Value(key.source, (1,)), (1,)), []
    for or_zero in (False, True):
        bounds = [k if or_zero else k - 1 for k in steps if (k > 0) == or_zero]
        if bounds:
            wide = builder.expand(source, (len(bounds),))
            groups.append(builder.activation(Positive(or_zero), builder.scale(wide, None, -tensor(bounds))))
    return groups[0] if len(groups) == 1 else builder.concatenate(groups, 0)
