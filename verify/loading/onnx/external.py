"""Weights that an ONNX file keeps in other files: put inside, from regular files of its own folder alone.

ONNX Runtime gets a model without references to files, so it opens none.
"""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from verify.errors import ModelError

_Message = Any  # protobuf's messages have no types


def outside(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    """The tensors, wherever they are in a model, whose data are in another file."""
    return [tensor for tensor in _tensors(proto) if tensor.data_location == onnx.TensorProto.EXTERNAL]


def data_files(path: Path) -> list[Path]:
    """The files that a model keeps data in; none for what is no model: that is told where it is read."""
    try:
        data = path.read_bytes()
        proto = onnx.load_model_from_string(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
        return [_inside(path.parent, _Place.of(tensor).location) for tensor in outside(proto)]
    except (OSError, EOFError, ValueError, zlib.error, DecodeError):
        return []


def put_inside(tensors: list[onnx.TensorProto], folder: Path | None, most: int, name: str) -> None:
    """Reads the tensors' data; None: the model is of no folder. Raises ModelError, also for more than `most` bytes in all."""
    for tensor in tensors:
        place = f"{name}: the data of tensor {tensor.name!r} are in another file"
        if folder is None:
            raise ModelError(f"{place}, and the model was not given as a path; give its path")
        try:
            data = _read(tensor, folder, most)
        except (OSError, ValueError) as error:
            raise ModelError(f"{place} that cannot be read ({error})") from error
        most -= len(data)
        if most < 0:
            raise ModelError(f"{name}: larger than 2 GiB with its external data")
        tensor.raw_data = data
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _tensors(message: _Message) -> Iterator[onnx.TensorProto]:
    """All tensors of a message: of graphs, subgraphs, attributes, functions and sparse tensors."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _tensors(part)


@dataclass(frozen=True)
class _Place:
    """Where a tensor's data are."""

    location: str
    offset: int
    length: int | None

    @classmethod
    def of(cls, tensor: onnx.TensorProto) -> _Place:
        told = {entry.key: entry.value for entry in tensor.external_data}
        length = int(told["length"]) if "length" in told else None
        place = cls(told.get("location", ""), int(told.get("offset", 0)), length)
        if min(place.offset, place.length or 0) < 0:
            raise ValueError("a negative offset or length")
        return place


def _read(tensor: onnx.TensorProto, folder: Path, most: int) -> bytes:
    place = _Place.of(tensor)
    path = _inside(folder, place.location)
    # a pipe would keep a plain open waiting
    with open(
        os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb"
    ) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path} is no regular file")
        length = status.st_size - place.offset if place.length is None else place.length
        if length < 0 or place.offset + length > status.st_size:
            raise ValueError(f"{path} has {status.st_size} bytes; those from {place.offset} on are too few")
        file.seek(place.offset)
        return file.read(min(length, most + 1))


def _inside(folder: Path, location: str) -> Path:
    """A file in a folder or below it, symbolic links followed."""
    absolute = PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor
    if not location or "\0" in location or absolute:
        raise ValueError(f"the location {location!r} is not relative to the model's folder")
    path = Path(os.path.realpath(folder / location))
    if Path(os.path.realpath(folder)) not in path.parents:
        raise ValueError(f"the location {location!r} is outside the model's folder")
    return path
