"""What a certificate is of: the bytes of a model and of a property, as the checker reads them."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from verify.checker.container import FORMATS, Container
from verify.checker.errors import Refused
from verify.checker.network import Network
from verify.checker.onnx_reader import read_model
from verify.checker.query import Query, read_query
from verify.checker.query_text import decoded

MOST_BYTES = 1 << 31  # of a model or property, unpacked: ONNX's own limit
T = TypeVar("T")


def content(path: Path) -> bytes:
    """A file's bytes, decompressed if it is gzipped. Raises Refused."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            with gzip.GzipFile(fileobj=file) if packed else file as unpacked:
                data = unpacked.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise Refused(f"{path}: cannot be read ({error})") from error
    if len(data) > MOST_BYTES:
        raise Refused(f"{path}: holds more than {MOST_BYTES} bytes")
    return data


def digest(data: bytes) -> str:
    """The SHA-256 of a file's decompressed content, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def named(path: Path, action: Callable[[], T]) -> T:
    """What an action gives; Refused with the file's name where it refuses it."""
    try:
        return action()
    except Refused as problem:
        raise Refused(f"{path}: {problem}") from problem


@dataclass(frozen=True)
class Question:
    """A model and a property that fit together, and the digests of what was read."""

    network: Network
    query: Query
    onnx_sha256: str
    vnnlib_sha256: str

    @staticmethod
    def read(model: Path, specification: Path, until: float = math.inf) -> Question:
        """The files' question. Raises Refused, and NotProved where the time (of `time.monotonic`) is past `until`."""
        onnx, vnnlib = content(model), content(specification)
        network = named(model, lambda: read_model(onnx))
        query = named(specification, lambda: read_query(decoded(vnnlib), until)).of_type(network.element_type)
        if (query.inputs, query.outputs) != (network.inputs, network.outputs):
            raise Refused(
                f"{specification}: speaks of {query.inputs} inputs and {query.outputs} outputs, "
                f"the model has {network.inputs} and {network.outputs}"
            )
        return Question(network, query, digest(onnx), digest(vnnlib))

    def check_header(self, container: Container) -> str:
        """The certificate's verdict; Refused where it is of another format or of other files."""
        if container.text("format") not in FORMATS:
            raise Refused(f"the format is {container.text('format')!r}, not one of {', '.join(FORMATS)}")
        for key, own in (("onnx_sha256", self.onnx_sha256), ("vnnlib_sha256", self.vnnlib_sha256)):
            if container.text(key) != own:
                raise Refused(f"{key} does not fit: the certificate is of another file")
        verdict = container.text("verdict")
        if verdict not in ("sat", "unsat"):
            raise Refused(f"verdict {verdict!r} is not known")
        return verdict
