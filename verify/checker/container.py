"""The file: one safetensors container, read strictly.

Eight bytes of header length, a JSON header, the tensors' bytes one after the other without gaps. Tensors are mapped, not
loaded, so that a certificate may be larger than memory.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.checker.errors import Refused

_TYPES = {"U8": "u1", "I8": "i1", "I32": "<i4", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8"}
_LONGEST_HEADER = 1 << 26
FORMAT = "verify-certificate/2"
# version 1 had fewer kinds of blocks
FORMATS = ("verify-certificate/1", FORMAT)


@dataclass(frozen=True)
class Container:
    """The strings and the tensors of a file."""

    metadata: dict[str, str]
    tensors: dict[str, NDArray[Any]]

    def text(self, key: str) -> str:
        """A string of the header. Refused without it."""
        if key not in self.metadata:
            raise Refused(f"the header has no {key!r}")
        return self.metadata[key]

    def tensor(self, name: str, kind: str, rank: int = 1) -> NDArray[Any]:
        """A tensor of the given type (numpy's letter and size) and rank. Refused without it."""
        if name not in self.tensors:
            raise Refused(f"there is no tensor {name!r}")
        found = self.tensors[name]
        if found.dtype != np.dtype(kind) or found.ndim != rank:
            raise Refused(f"tensor {name!r} is {found.dtype} of rank {found.ndim}, not {kind} of rank {rank}")
        return found

    def optional(self, name: str, kind: str) -> NDArray[Any]:
        """A tensor that may be missing, which is as good as empty."""
        return self.tensor(name, kind) if name in self.tensors else np.zeros(0, kind)


def read(path: Path) -> Container:
    """Maps a file. Raises Refused for anything but a complete container."""
    try:
        data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
    except OSError as error:
        raise Refused(f"cannot be read ({error.strerror or error})") from error
    return parsed(data)


def parsed(data: NDArray[np.uint8]) -> Container:
    """The container that a file's bytes are. Raises Refused for anything but a complete one."""
    length = int.from_bytes(data[:8].tobytes(), "little")
    if len(data) < 8 or length > min(len(data) - 8, _LONGEST_HEADER):
        raise Refused("the file is cut short, or not a certificate")
    try:
        header = json.loads(data[8 : 8 + length].tobytes(), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise Refused(f"the header is damaged ({error})") from error
    if not isinstance(header, dict):
        raise Refused("the header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Refused("the header's metadata is not a table of strings")
    return Container(metadata, _tensors(header, data[8 + length :]))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object none of whose keys is repeated."""
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key is repeated")
    return dict(pairs)


def _tensors(header: dict[str, Any], data: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """Views of the data; Refused unless they cover it exactly, in the order of the header."""
    found: dict[str, NDArray[Any]] = {}
    at = 0
    for name, entry in header.items():
        try:
            kind, shape = np.dtype(_TYPES[entry["dtype"]]), tuple(entry["shape"])
            start, stop = entry["data_offsets"]
            whole = all(type(n) is int and n >= 0 for n in (*shape, start, stop))
            fits = (
                whole and len(shape) < 8 and start == at and stop - start == kind.itemsize * math.prod(shape)
            )
        except (KeyError, TypeError, ValueError) as error:
            raise Refused(f"the header's entry {name!r} is damaged") from error
        if not fits or stop > len(data):
            raise Refused(f"tensor {name!r} does not fit its place, or the file is cut short")
        try:
            found[name] = data[start:stop].view(kind).reshape(shape)
        except (ValueError, OverflowError) as error:
            raise Refused(f"tensor {name!r} has a shape that is no array's") from error
        at = stop
    if at != len(data):
        raise Refused("there are bytes behind the last tensor")
    return found
