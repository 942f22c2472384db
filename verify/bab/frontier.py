"""The open subproblems: a pool of slots with a priority each, worst bound first.

Every field of `Subproblems`, and every term's part of the dual point, is one growing tensor; a pop gathers the rows of the lowest bounds and frees their slots, a push
fills free slots, so neither ever copies the rest. Slopes within [0, 1] wait in half precision (any value of
them is sound); other activations' may be of any size and keep theirs.
Beyond `capacity_bytes` the order turns round, best bound first, which finishes subtrees instead of opening them, and what
grows goes to disk: nameless files in the folder for temporary files, mapped into memory, which end with the process.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from verify.errors import ResourceError
from verify.lagrangian.alpha import Alpha
from verify.lagrangian.beta import Beta
from verify.lagrangian.terms import Storage
from verify.output import scratch_folder
from verify.state import DualState, Subproblems, sent

# Of networks whose slopes range within [0, 1].
_STORAGE = {Alpha.name: Storage(torch.float16), Beta.name: Storage(along_splits=True)}
# Before the name of a term, in a column's.
_PART = "state."
# Rows that there is room for at once.
FEWEST = 256
# Of a bound, for each split: where bounds tell nothing, subtrees are finished before others are begun.
_DEEPER = 1e-9
_BLOCK = 2**26  # bytes that are read together


class Frontier:
    """A priority store of subproblems."""

    def __init__(self, capacity_bytes: int = 2**30, storage: Mapping[str, Storage] = _STORAGE) -> None:
        """storage: how the parts of dual points wait, by term, where they do not wait as they come."""
        self._capacity_bytes, self._storage = capacity_bytes, storage
        self._columns: dict[str, Tensor] = {}
        self._priority = torch.zeros(0, dtype=torch.float64)
        self._count, self._tree = 0, 0.0

    @property
    def storage(self) -> Mapping[str, Storage]:
        """How the parts of dual points wait."""
        return self._storage

    def __len__(self) -> int:
        return self._count

    @property
    def worst(self) -> float:
        """The lowest bound waiting; infinity when nothing is."""
        if not self._count:
            return float("inf")
        return float(
            self._columns["lower_bound"][self._priority.argmin()].nan_to_num(nan=-1e30, neginf=-1e30)
        )

    @property
    def tree(self) -> float:
        """What waits of the tree, in roots: a subproblem behind n splits is 2^-n of one."""
        return self._tree if self._count else 0.0

    @property
    def bytes(self) -> int:
        """What the pool holds."""
        return sum(column.nbytes for column in self._columns.values())

    @property
    def crowded(self) -> bool:
        """Whether it holds more than it should in memory."""
        return self.bytes > self._capacity_bytes

    @property
    def clauses(self) -> Int[Tensor, " waiting"]:
        """Whose subproblems wait, one entry for each."""
        return (
            self._columns["clause"][~self._priority.isposinf()]
            if self._count
            else torch.zeros(0, dtype=torch.int64)
        )

    def push(self, batch: Subproblems) -> None:
        """Adds subproblems. Raises ResourceError where neither memory nor disk has room for them."""
        if not len(batch):
            return
        # Whatever comes may be of another network.
        if not self._count:
            self._columns, self._priority = {}, torch.zeros(0, dtype=torch.float64)
        values = columns(batch)
        self._make_room(values, len(batch))
        slots = self._priority.isposinf().nonzero()[: len(batch), 0]
        for name, column in self._columns.items():
            # Subproblems that know nothing of a term have 0 of it.
            value = values.get(name, torch.zeros(len(batch), 0))
            if column.dim() == 2 and value.shape[1] < column.shape[1]:
                value = torch.nn.functional.pad(
                    value, (0, column.shape[1] - value.shape[1]), value=_fill(name)
                )
            column[slots] = value.to(column)
        bound = batch.lower_bound.to("cpu", torch.float64).nan_to_num(nan=-1e30, neginf=-1e30)
        splits = (batch.split_variable >= 0).sum(1).cpu()
        self._priority[slots] = bound - _DEEPER * splits
        self._count, self._tree = self._count + len(batch), self.tree + _share(splits)

    def pop(self, count: int, device: torch.device, dtype: torch.dtype) -> Subproblems:
        """Removes and returns up to `count` subproblems."""
        count = min(count, self._count)
        best_first = self.crowded
        taken = ~self._priority.isposinf()
        keys = torch.where(taken, self._priority, -torch.inf) if best_first else self._priority
        slots = keys.topk(count, largest=best_first).indices
        self._priority[slots] = torch.inf
        found = of_columns(self._rows(slots))
        self._count, self._tree = self._count - count, self._tree - _share((found.split_variable >= 0).sum(1))
        state = found.state.map(lambda part: sent(part.to(dtype), device))
        return replace(found.map(lambda part: sent(part, device)), state=state)

    def since(self, number: int) -> Iterator[dict[str, Tensor]]:
        """The columns of those that wait whose `subproblem_id` is at least that, as they are kept, some rows at a time."""
        if not self._count:
            return
        waiting = ~self._priority.isposinf() & (self._columns["subproblem_id"] >= number)
        rows = max(1, _BLOCK * len(self._priority) // max(1, self.bytes))
        for slots in waiting.nonzero()[:, 0].split(rows):
            if len(slots):
                yield self._rows(slots)

    def _rows(self, slots: Int[Tensor, " rows"]) -> dict[str, Tensor]:
        """What is kept in some slots."""
        values = {name: column[slots] for name, column in self._columns.items()}
        used = int((values["split_variable"] >= 0).sum(1).max()) if len(slots) else 0
        # A child's last split stands behind the padding of its batch: bring each row's splits to the front before trimming.
        order = (values["split_variable"] < 0).to(torch.int8).argsort(dim=1, stable=True)[:, :used]
        for name in values:
            if self._along_splits(name):
                values[name] = values[name].gather(1, order)
        return values

    def _stored(self, name: str) -> Storage:
        """How a column waits."""
        return self._storage.get(name.removeprefix(_PART), Storage()) if _PART in name else Storage()

    def _along_splits(self, name: str) -> bool:
        return name.startswith("split_") or self._stored(name).along_splits

    def _make_room(self, values: dict[str, Tensor], count: int) -> None:
        """Columns for what comes, and rows for so many."""
        rows = self._priority.shape[0]
        if rows - self._count < count:
            rows = max(2 * rows, rows + count, FEWEST)
        for name, value in ({n: column[:0] for n, column in self._columns.items()} | values).items():
            old = self._columns.get(name)
            width = value.shape[1] if value.dim() == 2 else 0
            if old is not None and old.shape[0] == rows and (value.dim() == 1 or old.shape[1] >= width):
                continue
            shape: tuple[int, ...] = (rows,)
            if value.dim() == 2:
                known = old.shape[1] if old is not None else 0
                spare = 8 if self._along_splits(name) and width > known else 0
                shape = (rows, max(width + spare, known))
            held = 0 if old is None else old.nbytes
            new = self._column(shape, self._stored(name).dtype or value.dtype, held).fill_(_fill(name))
            if old is not None:
                new[tuple(slice(0, n) for n in old.shape)] = old
            self._columns[name] = new
        grown = torch.full((rows,), torch.inf, dtype=torch.float64)
        grown[: self._priority.shape[0]] = self._priority
        self._priority = grown

    def _column(self, shape: tuple[int, ...], dtype: torch.dtype, replaced: int) -> Tensor:
        """A new column, on disk where memory has no room for it beside the others; `replaced` bytes of them will go."""
        size = math.prod(shape) * dtype.itemsize
        if not size or self.bytes - replaced + size <= self._capacity_bytes:
            return torch.empty(shape, dtype=dtype)
        try:
            return _on_disk(size).view(dtype).view(shape)
        except OSError as problem:
            raise ResourceError(
                f"{self._count} open subproblems fill {self.bytes >> 20} MiB, and {scratch_folder()} has no room for "
                f"{size >> 20} MiB more ({problem.strerror}); TMPDIR names the folder to use"
            ) from problem


def columns(batch: Subproblems) -> dict[str, Tensor]:
    """Every field by its name, and of the dual point every term's part."""
    plain = {field.name: getattr(batch, field.name) for field in fields(batch) if field.name != "state"}
    return plain | {_PART + name: part[:, 0] for name, part in batch.state.items()}


def of_columns(values: Mapping[str, Tensor]) -> Subproblems:
    """The subproblems that have these columns."""
    plain = {name: value for name, value in values.items() if _PART not in name}
    state = {name.removeprefix(_PART): value[:, None] for name, value in values.items() if _PART in name}
    return Subproblems(**plain, state=DualState(state))


def _share(splits: Int[Tensor, " batch"]) -> float:
    """Of the tree, in roots: what subproblems behind so many splits are."""
    return float(torch.exp2(-splits.double()).sum())


def _fill(name: str) -> int:
    """What a column holds where a subproblem has nothing."""
    return -1 if name == "split_variable" else 0


def _on_disk(size: int) -> Tensor:
    """Bytes in a file that nobody else sees and that ends with the process. Raises OSError where that is more than half of what is free."""
    folder = scratch_folder()
    if size > shutil.disk_usage(folder).free // 2:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # or a full disk would end the process at some later write
            os.posix_fallocate(file.fileno(), 0, size)
        return torch.from_numpy(np.memmap(file, np.uint8, "r+", shape=(size,)))
