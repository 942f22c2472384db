"""Writes a certificate while the search runs: blocks go to disk as they come, the file is put together at the end.

The file appears only when it is complete; until then everything is in a folder beside it, which vanishes in any case.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from verify.checker.container import FORMAT
from verify.checker.stream import KINDS
from verify.errors import InputError

_NAMES = {
    np.dtype("u1"): "U8",
    np.dtype("i1"): "I8",
    np.dtype("<i4"): "I32",
    np.dtype("<i8"): "I64",
    np.dtype("<f8"): "F64",
}
_TENSORS = {
    "root.clause": "<i8", "root.count": "<i8", "split.node": "<i8", "split.variable": "<i4", "split.value": "<f8",
    "block.kind": "u1", "block.end": "<i8", "stream": "u1",
}  # fmt: skip


class CertificateWriter:
    """Collects tensors of one certificate on disk. Not safe for several threads at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        except OSError as error:
            raise InputError(
                f"--certificate {path}: cannot be written ({error.strerror or error})"
            ) from error
        self._files: dict[str, IO[bytes]] = {}
        self._length = 0

    def __enter__(self) -> CertificateWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def append(self, name: str, values: NDArray[Any]) -> None:
        """More entries of a tensor."""
        if name not in self._files:
            self._files[name] = (self._folder / name).open("wb")
        self._files[name].write(np.ascontiguousarray(values, dtype=_TENSORS[name]).tobytes())

    def block(self, kind: str, *parts: NDArray[Any]) -> None:
        """One block: its parts' bytes, one after the other."""
        for part in parts:
            data = np.ascontiguousarray(part).view(np.uint8) if part.size else np.zeros(0, np.uint8)
            self.append("stream", data.reshape(-1))
            self._length += data.size
        self.append("block.kind", np.array([KINDS.index(kind)]))
        self.append("block.end", np.array([self._length]))

    def finish(self, metadata: Mapping[str, str], tensors: Mapping[str, NDArray[Any]] | None = None) -> None:
        """Puts the file together: what was appended, and some tensors besides."""
        header: dict[str, Any] = {"__metadata__": {"format": FORMAT, **metadata}}
        at = 0
        names = [] if tensors else list(_TENSORS)
        for file in self._files.values():
            file.flush()
        for name in names:
            place = self._folder / name
            size = place.stat().st_size if place.exists() else 0
            kind = np.dtype(_TENSORS[name])
            header[name] = _entry(kind, (size // kind.itemsize,), at, size)
            at += size
        for name, values in (tensors or {}).items():
            header[name] = _entry(values.dtype, values.shape, at, values.nbytes)
            at += values.nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        whole = self._folder / "whole"
        with whole.open("wb") as target:
            target.write(len(text).to_bytes(8, "little") + text)
            for name in names:
                if (self._folder / name).exists():
                    with (self._folder / name).open("rb") as source:
                        shutil.copyfileobj(source, target, 1 << 20)
            for values in (tensors or {}).values():
                target.write(np.ascontiguousarray(values).tobytes())
        self.whole = whole

    def publish(self) -> None:
        """Moves the finished file to where it belongs."""
        self.whole.replace(self.path)


def _entry(kind: np.dtype[Any], shape: tuple[int, ...], at: int, size: int) -> dict[str, Any]:
    return {"dtype": _NAMES[kind], "shape": list(shape), "data_offsets": [at, at + size]}
