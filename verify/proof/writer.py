"""Writes a certificate while the search runs: blocks go to disk as they come, the file is put together at the end.

The file appears only when it is complete; until then its tensors are in nameless files on the same disk, which end with the
process. Where the search is kept, they are in its folder, and another process may go on with them from any moment that it was told of.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from verify.checker.opposites import MERGED
from verify.errors import InputError
from verify.output import Partial, reported
from verify.proof.agreement import Agreement

FORMAT = "verify-certificate/2"
_NAMES = {
    np.dtype("u1"): "U8",
    np.dtype("i1"): "I8",
    np.dtype("<i4"): "I32",
    np.dtype("<i8"): "I64",
    np.dtype("<f8"): "F64",
}
_TENSORS = MERGED | {
    "root.clause": "<i8",
    "root.count": "<i8",
    "split.node": "<i8",
    "split.variable": "<i4",
    "split.value": "<f8",
    "block.kind": "u1",
    "block.end": "<i8",
    "stream": "u1",
}


_READ = 2**22  # bytes that are read at a time
_SPLITS = ("split.node", "split.variable", "split.value")


class CertificateWriter:
    """Collects tensors of one certificate on disk. One thread writes at a time, while others may read what has been written.

    folder: that keeps the search, and nobody else writes to. agreement: on what the search may leave out of the network.
    """

    def __init__(self, path: Path, folder: Path | None = None, agreement: Agreement | None = None) -> None:
        self._partial, self._folder = Partial(f"certificate {path}", path), folder
        self.agreement = agreement or Agreement()
        self._files: dict[str, IO[bytes]] = {}
        # of what is kept: digests, and how much is on the disk for certain
        self._digests: dict[str, Any] = {}
        self._synced: dict[str, int] = {}
        self._length = 0
        self._lock = RLock()
        self._at_end: list[Callable[[], None]] = []
        # whether another one's proof has taken the place of what was written here
        self.replaced = False

    def __enter__(self) -> CertificateWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()
        self._partial.__exit__(kind, error, trace)

    def discard(self) -> None:
        """Lets go of what was written."""
        for file in self._files.values():
            with suppress(OSError):  # what does not fit has been told of
                file.close()

    @property
    def has_rivals(self) -> bool:
        """Whether other searches may write as well: what is kept of a search is one proof."""
        return self._folder is None

    def rival(self) -> CertificateWriter:
        """For another search of the same problem, whose proof may take the place of this one's."""
        found = copy(self)
        found._files, found._length, found._lock, found._at_end = {}, 0, RLock(), []
        return found

    def give_way(self, rival: CertificateWriter) -> None:
        """The rival's proof is the one that goes on."""
        with self._lock:
            self.discard()
            self.replaced = True
            self._files, self._length, self._at_end = rival._files, rival._length, rival._at_end

    @property
    def whole(self) -> Path:
        """Where the finished file is until it is published."""
        return self._partial.path

    def append(self, name: str, values: NDArray[Any]) -> None:
        """More entries of a tensor. Raises UnwrittenError where the disk is full."""
        with self._lock, reported(self._partial.what):
            if name not in self._files:
                self._open(name)
            data = np.ascontiguousarray(values, dtype=_TENSORS[name]).tobytes()
            self._files[name].write(data)
            if name in self._digests:
                self._digests[name].update(data)

    def _open(self, name: str) -> None:
        """An empty file for a tensor."""
        if self._folder is None:
            self._files[name] = tempfile.TemporaryFile(dir=self.whole.parent)  # noqa: SIM115
        else:
            self._files[name] = self._place(name).open("w+b")
            self._digests[name] = hashlib.sha256()

    def _place(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / f"proof.{name}"

    def block(self, code: int, parts: Sequence[NDArray[Any]]) -> None:
        """One block of the kind with that code: its parts' bytes, one after the other."""
        with self._lock:
            for part in parts:
                data = np.ascontiguousarray(part).view(np.uint8) if part.size else np.zeros(0, np.uint8)
                self.append("stream", data.reshape(-1))
                self._length += data.size
            self.append("block.kind", np.array([code]))
            self.append("block.end", np.array([self._length]))

    def splits(self, nodes: NDArray[Any], variables: NDArray[Any], values: NDArray[Any]) -> None:
        """More splits."""
        with self._lock:
            for name, part in zip(_SPLITS, (nodes, variables, values), strict=True):
                self.append(name, part)

    def blocks(self, codes: NDArray[Any], ends: NDArray[Any], stream: NDArray[Any]) -> None:
        """Some blocks: their kinds, where each ends in their bytes, and these."""
        with self._lock:
            self.append("stream", stream)
            self.append("block.kind", codes)
            self.append("block.end", ends + self._length)
            self._length += len(stream)

    def at_end(self, action: Callable[[], None]) -> None:
        """Something to do before a proof of `unsat` is put together."""
        self._at_end.append(action)

    def sizes(self) -> dict[str, int]:
        """How many bytes each tensor has, of those there are; all of them may be read."""
        with self._lock:
            for file in self._files.values():
                file.flush()
            return {name: file.tell() for name, file in self._files.items()}

    def since(self, sizes: Mapping[str, int], most: int) -> dict[str, bytes]:
        """What has been appended to tensors of these sizes: of splits those that are whole, of blocks so many that `most` bytes hold
        them (or one); nothing once it is replaced. Raises OSError."""
        with self._lock:
            if self.replaced:
                return {}
            now = self.sizes()
            splits = [now.get(name, 0) // np.dtype(_TENSORS[name]).itemsize for name in _SPLITS]
            now |= {name: min(splits) * np.dtype(_TENSORS[name]).itemsize for name in _SPLITS}
            known, begun = sizes.get("block.kind", 0), sizes.get("stream", 0)
            ends = np.frombuffer(self._read("block.end", 8 * known, now.get("block.end", 0)), "<i8")
            count = min(len(ends), max(1, int(np.searchsorted(ends, begun + most, "right"))))
            now["block.kind"], now["block.end"] = known + count, 8 * (known + count)
            now["stream"] = int(ends[count - 1]) if count else begun
            found = {name: self._read(name, sizes.get(name, 0), end) for name, end in now.items()}
            return {name: data for name, data in found.items() if data}

    def table(self, sizes: Mapping[str, int]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Kinds and ends of the blocks that have been appended to tensors of these sizes. Raises OSError."""
        now, known = self.sizes(), sizes.get("block.kind", 0)
        count = min(now.get("block.kind", 0), now.get("block.end", 0) // 8)
        codes, ends = self._read("block.kind", known, count), self._read("block.end", 8 * known, 8 * count)
        return np.frombuffer(codes, "u1"), np.frombuffer(ends, "<i8")

    def whole_tensor(self, name: str) -> list[float]:
        """All that has been written of a tensor. Raises OSError."""
        data = self._read(name, 0, self.sizes().get(name, 0))
        found: list[float] = np.frombuffer(data, _TENSORS[name]).tolist()
        return found

    def _read(self, name: str, start: int, end: int) -> bytes:
        """Some of a tensor's bytes, all of which have been flushed."""
        found = bytearray()
        while start + len(found) < end:
            more = os.pread(self._files[name].fileno(), end - start - len(found), start + len(found))
            if not more:
                raise OSError(f"less of {name} is on the disk than was written")
            found += more
        return bytes(found)

    # -- for the case that the process is killed

    def kept(self) -> dict[str, dict[str, Any]]:
        """How much there is of each tensor, on the disk, and its digest. Raises UnwrittenError."""
        with self._lock, reported(self._partial.what):
            sizes = self.sizes()
            for name, file in self._files.items():
                if sizes[name] != self._synced.get(name):
                    os.fsync(file.fileno())
            self._synced = sizes
        return {
            name: {"size": sizes[name], "digest": digest.hexdigest()}
            for name, digest in self._digests.items()
        }

    def restore(self, kept: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on with what another process had kept at some moment; what it wrote later is cut off. Raises InputError."""
        for name, there in kept.items():
            path, size = self._place(name), int(there["size"])
            with reported(f"--checkpoint {path}"):
                file = self._files[name] = path.open("r+b")
                digest = self._digests[name] = hashlib.sha256()
                while file.tell() < size and (data := file.read(min(_READ, size - file.tell()))):
                    digest.update(data)
                whole = file.tell() == size
                file.truncate(size)
            if not whole or digest.hexdigest() != there["digest"]:
                raise InputError(
                    f"--checkpoint {path}: is not what the search had written to it; remove the folder to start anew"
                )
        self._length = int(kept["stream"]["size"]) if "stream" in kept else 0

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Puts the file together."""
        if metadata.get("verdict") == "unsat":
            for action in self._at_end:
                action()
        header: dict[str, Any] = {"__metadata__": {"format": FORMAT, **metadata}}
        with reported(self._partial.what):
            sizes = {name: file.tell() for name, file in self._files.items()}
            at = 0
            for name, kind in _TENSORS.items():
                size = sizes.get(name, 0)
                if name in MERGED and not size:
                    continue
                header[name] = _entry(np.dtype(kind), size, at)
                at += size
            text = json.dumps(header, separators=(",", ":")).encode()
            self._partial.file.write(len(text).to_bytes(8, "little") + text)
            for name in _TENSORS:
                if name in self._files:
                    self._files[name].seek(0)
                    shutil.copyfileobj(self._files[name], self._partial.file, 1 << 20)
        self._partial.sync()

    def publish(self) -> None:
        """Moves the finished file to where it belongs."""
        self._partial.publish()


def _entry(kind: np.dtype[Any], size: int, at: int) -> dict[str, Any]:
    return {"dtype": _NAMES[kind], "shape": [size // kind.itemsize], "data_offsets": [at, at + size]}
