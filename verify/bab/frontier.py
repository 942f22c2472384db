"""The open subproblems: a pool of slots with a priority each, worst bound first.

Every field of `Subproblems`, and every term's part of the dual point, is one growing tensor; a pop gathers the rows of the lowest bounds and frees their slots, a push
fills free slots, so neither ever copies the rest. Slopes within [0, 1] wait in half precision (any value of
them is sound); other activations' may be of any size and keep theirs.
Beyond `capacity_bytes` the order turns round, best bound first, which finishes subtrees instead of opening them, and what
grows goes to disk: nameless files in the folder for temporary files, mapped into memory, which end with the process.

What comes in bundles stays in them, beside the pool, as long as there is room, and whole bundles are leased, the one with the worst bound
first: nobody unpacks on the way what others bound.
"""

from __future__ import annotations

import errno
import heapq
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count as counter

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from verify.bab.bundles import (
    DEEPER,
    PART,
    Batch,
    Bundle,
    Bundles,
    Columns,
    columns,
    of_columns,
    share,
    since,
    size_of,
)
from verify.errors import ResourceError
from verify.lagrangian.alpha import Alpha
from verify.lagrangian.beta import Beta
from verify.lagrangian.terms import Storage
from verify.output import scratch_folder
from verify.state import Subproblems, sent

# Of networks whose slopes range within [0, 1].
_STORAGE = {Alpha.name: Storage(torch.float16), Beta.name: Storage(along_splits=True)}
# Rows that there is room for at once.
FEWEST = 256
_BLOCK = 2**26  # bytes that are read together


class Frontier:
    """A priority store of subproblems."""

    def __init__(self, capacity_bytes: int = 2**30, storage: Mapping[str, Storage] = _STORAGE) -> None:
        """storage: how the parts of dual points wait, by term, where they do not wait as they come."""
        self._capacity_bytes, self._storage = capacity_bytes, storage
        self._columns: dict[str, Tensor] = {}
        self._priority = torch.zeros(0, dtype=torch.float64)
        self._count, self._tree = 0, 0.0
        # the bundles, worst first, by their priorities and the order in which they came, and how many subproblems and bytes are in them
        self._bundles: list[tuple[float, int, Bundle]] = []
        self._number, self._bundled, self._held = counter(), 0, 0

    @property
    def storage(self) -> Mapping[str, Storage]:
        """How the parts of dual points wait."""
        return self._storage

    def __len__(self) -> int:
        return self._count + self._bundled

    @property
    def worst(self) -> float:
        """The lowest bound waiting; infinity when nothing is."""
        of_bundles = self._bundles[0][2].worst if self._bundles else math.inf
        if not self._count:
            return of_bundles
        lowest = self._columns["lower_bound"][self._priority.argmin()].nan_to_num(nan=-1e30, neginf=-1e30)
        return min(float(lowest), of_bundles)

    @property
    def tree(self) -> float:
        """What waits of the tree, in roots: a subproblem behind n splits is 2^-n of one."""
        return self._tree if len(self) else 0.0

    @property
    def bytes(self) -> int:
        """What it holds."""
        return sum(column.nbytes for column in self._columns.values()) + self._held

    @property
    def crowded(self) -> bool:
        """Whether it holds more than it should in memory."""
        return self.bytes > self._capacity_bytes

    @property
    def clauses(self) -> Int[Tensor, " waiting"]:
        """Whose subproblems wait, one entry for each."""
        found = [bundle.columns()["clause"] for _, _, bundle in self._bundles]
        if self._count:
            found.append(self._columns["clause"][~self._priority.isposinf()])
        return torch.cat([torch.zeros(0, dtype=torch.int64), *found])

    def push(self, batch: Batch) -> None:
        """Adds subproblems. Raises ResourceError where neither memory nor disk has room for them."""
        if isinstance(batch, Subproblems):
            self._push(columns(batch))
        elif self.bytes + batch.bytes > self._capacity_bytes:
            for bundle in batch.each():
                self._push(bundle.columns())
        else:
            for bundle in batch.each():
                heapq.heappush(self._bundles, (bundle.priority, next(self._number), bundle))
            self._tree = self.tree + batch.tree
            self._bundled, self._held = self._bundled + len(batch), self._held + batch.bytes

    def _released(self) -> Bundle:
        """The bundle with the worst bound."""
        _, _, bundle = heapq.heappop(self._bundles)
        self._bundled, self._held = self._bundled - len(bundle.numbers), self._held - bundle.data.nbytes
        self._tree -= bundle.tree
        return bundle

    def _push(self, values: Columns) -> None:
        """Adds rows to the pool."""
        count = len(values["clause"])
        if not count:
            return
        # Whatever comes may be of another network.
        if not self._count:
            self._columns, self._priority = {}, torch.zeros(0, dtype=torch.float64)
        self._make_room(values, count)
        slots = self._priority.isposinf().nonzero()[:count, 0]
        for name, column in self._columns.items():
            # Subproblems that know nothing of a term have 0 of it.
            value = values.get(name, torch.zeros(count, 0))
            if column.dim() == 2 and value.shape[1] < column.shape[1]:
                value = torch.nn.functional.pad(
                    value, (0, column.shape[1] - value.shape[1]), value=_fill(name)
                )
            column[slots] = value.to(column)
        bound = values["lower_bound"].to("cpu", torch.float64).nan_to_num(nan=-1e30, neginf=-1e30)
        splits = (values["split_variable"] >= 0).sum(1).cpu()
        self._priority[slots] = bound - DEEPER * splits
        self._tree = self.tree + share(splits)
        self._count += count

    def _pop(self, count: int) -> Columns:
        """Removes up to so many rows from the pool."""
        count = min(count, self._count)
        best_first = self.crowded
        taken = ~self._priority.isposinf()
        keys = torch.where(taken, self._priority, -torch.inf) if best_first else self._priority
        slots = keys.topk(count, largest=best_first).indices
        self._priority[slots] = torch.inf
        found = self._rows(slots)
        self._count -= count
        self._tree -= share((found["split_variable"] >= 0).sum(1))
        return found

    def lease(self, count: int) -> Bundles:
        """Removes and returns about `count` subproblems: whole bundles, so there may be some more, and some of the pool."""
        found: list[Bundle] = []
        while count > 0 and len(self):
            if self._pool_first:
                found += Bundles.of(self._pop(count), count).each()
            else:
                found.append(self._released())
            count -= len(found[-1].numbers)
        return Bundles.joined(found)

    @property
    def _pool_first(self) -> bool:
        """Whether the pool has what is to be taken next."""
        if not self._count or not self._bundles:
            return self._count > 0
        return self.crowded or float(self._priority.min()) <= self._bundles[0][0]

    def bundles(self) -> Bundles:
        """Removes and returns all that waits, the worst bounds first."""
        count = len(self)
        self._unbundle()
        return Bundles.of(self._pop(count), size_of(count))

    def _unbundle(self) -> None:
        while self._bundles:
            self._push(self._released().columns())

    def pop(self, count: int, device: torch.device, dtype: torch.dtype) -> Subproblems:
        """Removes and returns up to `count` subproblems."""
        self._unbundle()
        found = of_columns(self._pop(count))
        state = found.state.map(lambda part: sent(part.to(dtype), device))
        return replace(found.map(lambda part: sent(part, device)), state=state)

    def since(self, number: int) -> Iterator[dict[str, Tensor]]:
        """The columns of those that wait whose `subproblem_id` is at least that, as they are kept, some rows at a time."""
        for _, _, bundle in self._bundles:
            yield from since(Bundles.joined([bundle]), number)
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
        return self._storage.get(name.removeprefix(PART), Storage()) if PART in name else Storage()

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
                f"{len(self)} open subproblems fill {self.bytes >> 20} MiB, and {scratch_folder()} has no room for "
                f"{size >> 20} MiB more ({problem.strerror}); TMPDIR names the folder to use"
            ) from problem


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
