"""A file of records that a process may be killed over: what it holds is whole, or cut off where the last whole part ends.

Records are dicts of plain values and tensors, as torch keeps them (read without its unpickling of code). They come in groups, each of
which counts as a whole or not at all: every record carries a digest of itself and of all before it. New groups are appended and
synced; where too much has become old, a whole new file is written beside and takes the place of the other.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from verify.errors import InputError
from verify.output import Growing, Partial, reported

_MARK = b"verifyJ1"
_HEAD = struct.Struct("<8sQ?32s")  # the mark, how many bytes follow, whether a group ends there, the digest
_OPTION = "--checkpoint"


class Journal:
    """The journal of one search in a folder, which nobody else may write meanwhile.

    identity: of what it is the search, in words that are compared one by one. `note` says what was cut off. Raises InputError where the
    folder holds another search, or is in use; UnwrittenError where it cannot be written.
    """

    def __init__(self, folder: Path, identity: Mapping[str, str]) -> None:
        self.folder, self.path, self._identity = folder, folder / "journal", dict(identity)
        self.note: str | None = None
        with reported(f"{_OPTION} {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
        self._lock = Growing(f"{_OPTION} {folder}", folder / "lock")
        self._digest, self._end, self._places = b"", 0, list[tuple[int, int]]()
        # bytes after the last whole new file
        self.base = 0
        try:
            self._scan()
        except BaseException:
            self._lock.close()
            raise

    @property
    def size(self) -> int:
        """Bytes that it holds now."""
        return self._end

    @property
    def empty(self) -> bool:
        """Whether nothing was kept yet."""
        return not self._places

    def close(self) -> None:
        """Others may write it."""
        self._lock.close()

    def records(self) -> Iterator[dict[str, Any]]:
        """All records, in order. Raises InputError for what this version does not read."""
        with self.path.open("rb") if self._places else io.BytesIO() as file:
            for place, length in self._places:
                file.seek(place)
                yield self._decoded(file.read(length))

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """A group more, on the disk. Raises UnwrittenError, and is as it was then."""
        if self.empty:
            self.replace(records)
            return
        digest, end, places = self._digest, self._end, list(self._places)
        with reported(f"{_OPTION} {self.path}"), self.path.open("r+b", buffering=0) as file:
            try:
                file.seek(end)
                self._write(file, records)
                os.fsync(file.fileno())
            except BaseException:
                self._digest, self._end, self._places = digest, end, places
                file.truncate(end)
                raise

    def replace(self, records: Iterable[dict[str, Any]]) -> None:
        """One group in the place of all. Raises UnwrittenError, and is as it was then."""
        before = self._digest, self._end, self._places
        self._digest, self._end, self._places = b"", 0, []
        try:
            with Partial(f"{_OPTION} {self.path}", self.path) as partial, reported(str(self.path)):
                self._write(partial.file, [self._identity_record], first=True)
                self._write(partial.file, records)
                partial.publish()
        except BaseException:
            self._digest, self._end, self._places = before
            raise
        self.base = self._end

    @property
    def _identity_record(self) -> dict[str, Any]:
        return {"identity": self._identity}

    def _write(self, file: Any, records: Iterable[dict[str, Any]], first: bool = False) -> None:
        """A group at the end of a file."""
        waiting: bytes | None = None
        for record in records:
            if waiting is not None:
                self._put(file, waiting, False, first)
            waiting = _encoded(record)
        if waiting is not None:
            self._put(file, waiting, True, first)

    def _put(self, file: Any, data: bytes, last: bool, first: bool) -> None:
        self._digest = _digest(self._digest, last, data)
        for part in (_HEAD.pack(_MARK, len(data), last, self._digest), data):
            view = memoryview(part)
            while view:
                view = view[file.write(view) :]
        if not first:
            self._places.append((self._end + _HEAD.size, len(data)))
        self._end += _HEAD.size + len(data)

    def _scan(self) -> None:
        """Finds the whole groups, and cuts off what is left of another."""
        with reported(f"{_OPTION} {self.path}"):
            if not self.path.exists() or not (size := self.path.stat().st_size):
                return
            with self.path.open("r+b") as file:
                self._check_identity(file)
                waiting = list[tuple[int, int]]()
                digest, end = self._digest, self._end
                while (found := self._next(file, digest, end)) is not None:
                    data, last, digest = found
                    waiting.append((end + _HEAD.size, len(data)))
                    end += _HEAD.size + len(data)
                    if last:
                        self._places += waiting
                        self._digest, self._end, waiting = digest, end, []
                if self._end < size:
                    self.note = (
                        f"its last {size - self._end} bytes, of {size}, were no whole record and are cut off"
                    )
                    file.truncate(self._end)
        self.base = self._end

    def _check_identity(self, file: Any) -> None:
        """Reads the first record. Raises InputError."""
        found = self._next(file, b"", 0)
        identity = None if found is None else self._decoded(found[0]).get("identity")
        if not isinstance(identity, dict):
            raise InputError(
                f"{_OPTION} {self.path}: is no journal of verify, or one of another version; choose another folder, or remove the file"
            )
        assert found is not None
        differing = [name for name, value in self._identity.items() if identity.get(name) != value]
        if differing:
            what = ", ".join(
                f"{name} ({identity.get(name, 'not said')} there, {self._identity[name]} here)"
                if len(self._identity[name]) < 32
                else name
                for name in differing
            )
            raise InputError(
                f"{_OPTION} {self.path}: holds another search: what differs is {what}. Run the same command again as it was, "
                "or choose another folder"
            )
        self._digest, self._end = found[2], _HEAD.size + len(found[0])

    def _next(self, file: Any, digest: bytes, end: int) -> tuple[bytes, bool, bytes] | None:
        """The record at a place, whether it ends its group, and the digest so far; None where there is no whole one."""
        file.seek(end)
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return None
        mark, length, last, told = _HEAD.unpack(head)
        if mark != _MARK or length > os.fstat(file.fileno()).st_size - end - _HEAD.size:
            return None
        data = file.read(length)
        found = _digest(digest, last, data)
        return (data, last, found) if len(data) == length and found == told else None

    def _decoded(self, data: bytes) -> dict[str, Any]:
        try:
            record = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except MemoryError:
            raise
        except Exception as error:  # of pickle, zip and torch
            raise InputError(
                f"{_OPTION} {self.path}: cannot be read ({type(error).__name__}); remove it to start anew"
            ) from error
        return record if isinstance(record, dict) else {}


def _digest(before: bytes, last: bool, data: bytes) -> bytes:
    return hashlib.sha256(before + bytes([last]) + hashlib.sha256(data).digest()).digest()


def _encoded(record: dict[str, Any]) -> bytes:
    """A record's bytes. (Of a part of a tensor, torch would keep the whole.)"""
    buffer = io.BytesIO()
    torch.save(_own(record), buffer)
    return buffer.getvalue()


def _own(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return (
            value
            if value.untyped_storage().nbytes() == value.nbytes and value.is_contiguous()
            else value.clone()
        )
    if isinstance(value, dict):
        return {key: _own(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_own(part) for part in value]
    return value
