"""The open subproblems: a pool of slots with a priority each, worst bound first.

Every field of `Subproblems` is one growing tensor; a pop gathers the rows of the lowest bounds and frees their slots, a push
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
from dataclasses import fields

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from verify.errors import ResourceError
from verify.output import scratch_folder
from verify.state import Subproblems


class Frontier:
    """A priority store of subproblems."""

    def __init__(self, capacity_bytes: int = 2**30, slopes: torch.dtype = torch.float16) -> None:
        self._capacity_bytes, self._slopes = capacity_bytes, slopes
        self._columns: dict[str, Tensor] = {}
        self._priority = torch.zeros(0)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def worst(self) -> float:
        """The lowest bound waiting; infinity when nothing is."""
        return float(self._priority.min()) if self._count else float("inf")

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
        if not self._count:  # whatever comes may be of another network
            self._columns, self._priority = {}, torch.zeros(0)
        self._make_room(batch)
        slots = self._priority.isposinf().nonzero()[: len(batch), 0]
        for field in fields(Subproblems):
            value = getattr(batch, field.name)
            column = self._columns[field.name]
            if value.dim() == 2 and value.shape[1] < column.shape[1]:
                fill = -1 if field.name == "split_variable" else 0
                value = torch.nn.functional.pad(value, (0, column.shape[1] - value.shape[1]), value=fill)
            column[slots] = value.to(column)
        self._priority[slots] = batch.lower_bound.to("cpu", torch.float32).nan_to_num(nan=-1e30, neginf=-1e30)
        self._count += len(batch)

    def pop(self, count: int, device: torch.device, dtype: torch.dtype) -> Subproblems:
        """Removes and returns up to `count` subproblems."""
        count = min(count, self._count)
        best_first = self.crowded
        taken = ~self._priority.isposinf()
        keys = torch.where(taken, self._priority, -torch.inf) if best_first else self._priority
        slots = keys.topk(count, largest=best_first).indices
        self._priority[slots] = torch.inf
        self._count -= count
        values = {name: column[slots] for name, column in self._columns.items()}
        used = int((values["split_variable"] >= 0).sum(1).max()) if count else 0
        # a child's last split stands behind the padding of its batch: bring each row's splits to the front before trimming
        order = (values["split_variable"] < 0).to(torch.int8).argsort(dim=1, stable=True)[:, :used]
        for name in ("split_variable", "split_value", "split_side", "beta"):
            values[name] = values[name].gather(1, order)
        half = {"beta", "cut_shares", "constraint_weights", "alpha"}
        return Subproblems(**{k: v.to(device, dtype if k in half else v.dtype) for k, v in values.items()})

    def _make_room(self, batch: Subproblems) -> None:
        free = self._priority.shape[0] - self._count
        rows = self._priority.shape[0]
        if free < len(batch):
            rows = max(2 * rows, rows + len(batch), 256)
        for field in fields(Subproblems):
            value = getattr(batch, field.name)
            old = self._columns.get(field.name)
            width = value.shape[1] if value.dim() == 2 else 0
            if old is not None and old.shape[0] == rows and (value.dim() == 1 or old.shape[1] >= width):
                continue
            shape: tuple[int, ...] = (rows,)
            if value.dim() == 2:
                known = old.shape[1] if old is not None else 0
                shape = (
                    rows,
                    max(width + 8, known)
                    if field.name.startswith(("split_", "beta")) and width > known
                    else max(width, known),
                )
            dtype = self._slopes if field.name == "alpha" else value.dtype
            fill = -1 if field.name == "split_variable" else 0
            held = 0 if old is None else old.nbytes
            new = self._column(shape, dtype, held).fill_(fill)
            if old is not None:
                new[tuple(slice(0, n) for n in old.shape)] = old
            self._columns[field.name] = new
        grown = torch.full((rows,), torch.inf)
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


def _on_disk(size: int) -> Tensor:
    """Bytes in a file that nobody else sees and that ends with the process. Raises OSError where that is more than half of what is free."""
    folder = scratch_folder()
    if size > shutil.disk_usage(folder).free // 2:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # or a full disk would end the process at some later write
            os.posix_fallocate(file.fileno(), 0, size)
        return torch.from_numpy(np.memmap(file, np.uint8, "r+", shape=(size,)))
