"""Open subproblems as they travel and wait: what a search's owner goes by, and all of them as bytes that it need not look into."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from verify.state import DualState, Subproblems

Array = NDArray[Any]
Columns = dict[str, Tensor]

# Before the name of a term, in a column's.
PART = "state."
# That the worst of what comes back together is divided into, and the most subproblems of a bundle.
_PIECES, _MOST = 8, 16
# Of a bound, for each split: where bounds tell nothing, subtrees are finished before others are begun.
DEEPER = 1e-9
_WORD = 8  # bytes that the header is a multiple of, so that every column begins at a multiple of its entries' size


class Bundle(NamedTuple):
    """Some subproblems. priority, worst: the lowest priority and bound among them. tree: what they are of it, in roots."""

    priority: float
    worst: float
    tree: float
    numbers: Array
    data: Array

    def columns(self) -> Columns:
        """What is in it."""
        return {**_unpacked(self.data), "subproblem_id": torch.from_numpy(self.numbers)}


@dataclass(frozen=True)
class Bundles:
    """Several of them, in few arrays. told: the first three numbers of each. data: of each all columns but the subproblems' numbers."""

    told: Array
    counts: Array
    subproblem_id: Array
    data: tuple[Array, ...]

    def __len__(self) -> int:
        return len(self.subproblem_id)

    @classmethod
    def of(cls, values: Columns, size: int) -> Bundles:
        """Columns in bundles of at most so many rows, dealt out as cards are: each has some of the first ones."""
        splits = (values["split_variable"] >= 0).sum(1)
        bound = values["lower_bound"].double().nan_to_num(nan=-1e30, neginf=-1e30)
        number, several = values["subproblem_id"], -(-len(splits) // size)
        rows = [slice(first, None, several) for first in range(several)]
        found = []
        for own in rows:
            told = (
                float((bound[own] - DEEPER * splits[own]).min()),
                float(bound[own].min()),
                share(splits[own]),
            )
            data = _packed({name: value[own] for name, value in values.items()})
            found.append(Bundle(*told, number[own].numpy(), data))
        return cls.joined(found)

    @classmethod
    def joined(cls, each: Sequence[Bundle]) -> Bundles:
        """All of them, in order."""
        return cls(
            np.array([one[:3] for one in each]),
            np.array([len(one.numbers) for one in each]),
            np.concatenate([one.numbers for one in each]),
            tuple(one.data for one in each),
        )

    def each(self) -> Iterator[Bundle]:
        """Every bundle by itself."""
        first = 0
        for told, count, data in zip(self.told.tolist(), self.counts.tolist(), self.data, strict=True):
            yield Bundle(told[0], told[1], told[2], self.subproblem_id[first : first + count], data)
            first += count

    def numbered(self, numbers: Int[Tensor, " count"]) -> Bundles:
        """The same with other numbers."""
        return replace(self, subproblem_id=numbers.numpy())

    @property
    def bytes(self) -> int:
        """What they hold."""
        return sum(data.nbytes for data in self.data)

    @property
    def tree(self) -> float:
        """What they are of the tree, in roots."""
        return float(self.told[:, 2].sum())


Batch = Subproblems | Bundles


def numbers_of(batch: Batch) -> Int[Tensor, " batch"]:
    """Their numbers."""
    return torch.as_tensor(batch.subproblem_id)


def since(batch: Batch, number: int) -> Iterator[Columns]:
    """The columns of those whose numbers are at least that, some at a time."""
    own = numbers_of(batch) >= number
    if not bool(own.any()):
        return
    if isinstance(batch, Subproblems):
        yield columns(batch.select(own))
        return
    for one in batch.each():
        if (one.numbers >= number).any():
            rows = torch.from_numpy(one.numbers >= number)
            yield {name: value[rows] for name, value in one.columns().items()}


def size_of(count: int) -> int:
    """How many of so many that come back together are a bundle: a few where there are few, so that several workers may have them."""
    return min(max(count // _PIECES, 1), _MOST)


def columns(batch: Subproblems) -> Columns:
    """Every field by its name, and of the dual point every term's part."""
    plain = {field.name: getattr(batch, field.name) for field in fields(batch) if field.name != "state"}
    return plain | {PART + name: part[:, 0] for name, part in batch.state.items()}


def of_columns(values: Columns) -> Subproblems:
    """The subproblems that have these columns."""
    plain = {name: value for name, value in values.items() if PART not in name}
    state = {name.removeprefix(PART): value[:, None] for name, value in values.items() if PART in name}
    return Subproblems(**plain, state=DualState(state))


def share(splits: Int[Tensor, " batch"]) -> float:
    """Of the tree, in roots: what subproblems behind so many splits are."""
    return float(torch.exp2(-splits.double()).sum())


def _packed(values: Columns) -> Array:
    """Columns as bytes: a header that says what follows, those of the largest entries first."""
    arrays = {name: value.numpy() for name, value in values.items() if name != "subproblem_id"}
    order = sorted(arrays, key=lambda name: -arrays[name].itemsize)
    header = pickle.dumps([(name, arrays[name].dtype.str, arrays[name].shape) for name in order])
    header += bytes(-len(header) % _WORD)
    pieces = [len(header).to_bytes(_WORD, "little"), header, *(arrays[name].tobytes() for name in order)]
    return np.frombuffer(b"".join(pieces), np.uint8)


def _unpacked(data: Array) -> Columns:
    """What was packed. (Only processes of ours pack: as trusted as they are.)"""
    memory = data.copy()
    place = _WORD + int.from_bytes(memory[:_WORD].tobytes(), "little")
    values = {}
    for name, kind, shape in pickle.loads(memory[_WORD:place].tobytes()):
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        values[name] = torch.from_numpy(memory[place : place + size].view(kind).reshape(shape))
        place += size
    return values
