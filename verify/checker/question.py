"""What a certificate is of: the bytes of a model (or several) and of a property, as the checker reads them."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from numpy.typing import NDArray

from verify.checker.container import FORMATS, Container
from verify.checker.errors import Refused
from verify.checker.joint import read_joint
from verify.checker.network import Network
from verify.checker.onnx_reader import read_model
from verify.checker.opposites import MERGED, merged
from verify.checker.query import Query, read_query
from verify.checker.query2 import JointQuery, read_query2
from verify.checker.query2_words import is_version_2
from verify.checker.query_text import decoded

MOST_BYTES = 1 << 31  # of a model or property, unpacked: ONNX's own limit
T = TypeVar("T")
Models: TypeAlias = Path | Mapping[str, Path]  # a model's file, or those of a query's networks by their names


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


def named(path: Path | str, action: Callable[[], T]) -> T:
    """What an action gives; Refused with the file's name where it refuses it."""
    try:
        return action()
    except Refused as problem:
        raise Refused(f"{path}: {problem}") from problem


def read_property(data: bytes, until: float = math.inf) -> Query:
    """The property that a file's content states, by the version that it begins with. Raises Refused, and NotProved past `until`."""
    text = decoded(data)
    return read_query2(text, until) if is_version_2(text) else read_query(text, until)


def by_network(models: Models, query: Query) -> dict[str, Path]:
    """The models' files by the networks that they are of, in the order of these; Refused where one is missing, or one too many.

    One without a name ("") is that of the first network that none is given for.
    """
    wanted = query.interface.implemented if isinstance(query, JointQuery) else ("",)
    given = dict(models) if isinstance(models, Mapping) else {"": models}
    if not any(wanted) and len(given) == 1:
        given = dict.fromkeys(wanted, *given.values())
    without = [name for name in wanted if name not in given]
    if "" in given and without:
        given[without[0]] = given.pop("")
    if set(given) != set(wanted):
        raise Refused(
            f"models are given for the networks {sorted(given)}, and needed for {sorted(wanted)}"
            if any(wanted)
            else "several models are given for a property of one network"
        )
    return {name: given[name] for name in wanted}


@dataclass(frozen=True)
class Question:
    """Models and a property that fit together, and the digests of what was read.

    models: the files by their networks, one of "" for a property of version 1.0. onnx_sha256: of them all in this order, spaces between.
    """

    network: Network
    query: Query
    models: Mapping[str, Path]
    onnx_sha256: str
    vnnlib_sha256: str

    @staticmethod
    def read(models: Models, specification: Path, until: float = math.inf) -> Question:
        """The files' question. Raises Refused, and NotProved where the time (of `time.monotonic`) is past `until`."""
        vnnlib = content(specification)
        query = named(specification, lambda: read_property(vnnlib, until))
        files = named(specification, lambda: by_network(models, query))
        contents = {name: content(path) for name, path in files.items()}
        told = ", ".join(map(str, files.values()))
        if isinstance(query, JointQuery):
            interface = query.interface
            network = named(told, lambda: read_joint(interface, contents))
        else:
            network = named(told, lambda: read_model(contents[""]))
        if (query.inputs, query.outputs) != (network.inputs, network.outputs):
            raise Refused(
                f"{specification}: speaks of {query.inputs} inputs and {query.outputs} outputs, "
                f"the model has {network.inputs} and {network.outputs}"
            )
        digests = " ".join(map(digest, contents.values()))
        return Question(network, query.of_type(network.element_type), files, digests, digest(vnnlib))

    def contents(self) -> dict[str, bytes]:
        """The models' contents by their networks; Refused where they are no longer those that were read."""
        found = {name: content(path) for name, path in self.models.items()}
        if " ".join(map(digest, found.values())) != self.onnx_sha256:
            raise Refused(f"{', '.join(map(str, self.models.values()))}: was written meanwhile")
        return found

    def without(self, variables: NDArray[Any]) -> Question:
        """The same question of an equal network without these pre-activations. Raises Refused where it would not be equal."""
        return replace(self, network=merged(self.network, variables)) if len(variables) else self

    def as_in(self, container: Container) -> Question:
        """The question without the pre-activations that a certificate leaves out. Raises Refused."""
        ((name, kind),) = MERGED.items()
        variables = container.optional(name, kind)
        if len(variables) and container.text("semantics") != "real":
            raise Refused("pre-activations are left out, which is known of real numbers alone")
        return self.without(variables)

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
