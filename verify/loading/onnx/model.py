"""Reads an ONNX file and checks that its meaning is one that can be proved about.

What is proved is about the real-number function that the file's own weights define, so nothing here computes
with them: constants are only moved (Constant nodes become initializers, for onnx2torch's sake), never folded
in float32. That is why onnxslim is not used: its constant folding and its fusions round to float32, and the
rest of it (dead shape arithmetic) the lowering does anyway by evaluating constants on the way, in float64 and
at no start-up cost.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from verify.deadline import tick
from verify.errors import ModelError, ResourceError
from verify.loading.guard import IN_MEMORY
from verify.loading.nnet import NNet, parsed
from verify.loading.onnx.bodies import all_nodes, bodies, check_scopes
from verify.loading.onnx.element_types import NARROW, TORCH, codes_of
from verify.loading.onnx.external import outside, put_inside
from verify.loading.onnx.functions import ONNX_DOMAINS, inline
from verify.loading.onnx.order import operands, sort
from verify.loading.onnx.shapes import Tensor
from verify.loading.onnx.storage import fill
from verify.loading.operators import operator_of
from verify.loading.registry import extended
from verify.memory import budget
from verify.validation import is_nnet, missing

_CHUNK = 2**24  # bytes that are unpacked at a time
GZIP_MAGIC = b"\x1f\x8b"
_NAMES = {
    "FLOAT": "float32",
    "DOUBLE": "float64",
}  # of element types, where it is not ONNX's own in small letters
ELEMENT_TYPES = ("float32", "float64")  # of inputs
UNDECLARED = "undefined"
OUTPUT_TYPES = (*ELEMENT_TYPES, "int32", "int64")
OLDEST_OPSET, NEWEST_OPSET = 7, 23  # that the tests cover
MOST_BYTES = 2**31 - 1  # of one protobuf message


@dataclass(frozen=True)
class OnnxModel:
    """A model as read: `original` is what ONNX Runtime runs, `proto` the same model with constants moved."""

    name: str
    original: bytes
    proto: onnx.ModelProto
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    opset: int
    operators: Counter[str]
    # every input by name, and whether the file gives it a value; those are no `inputs`
    given: tuple[tuple[str, bool], ...] = ()

    @property
    def quantised(self) -> bool:
        """Whether ONNX Runtime may compute otherwise than the file says: by default it quantises more."""
        return "DequantizeLinear" in self.operators

    def fix(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Write the inputs' shapes into `proto`."""
        for value, shape in zip(self.proto.graph.input, shapes, strict=True):
            for dimension, size in zip(value.type.tensor_type.shape.dim, shape, strict=True):
                dimension.dim_value = size

    def check_typed(self, output: Tensor) -> None:
        """Raises ModelError for an output without a known element type."""
        if output.element_type == UNDECLARED:
            raise ModelError(f"{self.name}: {output.name!r} is declared without an element type; declare one")

    def keep(self, names: Collection[str]) -> None:
        """Leave nothing in `proto` that these outputs do not need."""
        graph, needed = self.proto.graph, set(names)
        kept = []
        for node in reversed(graph.node):
            if not needed.isdisjoint(node.output):
                needed.update(operands(node))
                kept.append(node)
        copies = onnx.GraphProto(
            node=reversed(kept),
            output=[value for value in graph.output if value.name in names],
            initializer=[tensor for tensor in graph.initializer if tensor.name in needed],
        )
        for field in ("node", "output", "initializer"):
            graph.ClearField(field)
        graph.MergeFrom(copies)

    def only(self, chosen: str | None = None) -> tuple[Tensor, Tensor]:
        """The one input, and the one output or the chosen one. Raises ModelError where there are others, or none of that name."""
        outputs = [value for value in self.outputs if chosen in (None, value.name)]
        for kind, values, remedy in (
            ("input", self.inputs, ""),
            ("output", outputs, "; choose it with --output NAME (output=NAME in Python)"),
        ):
            names = ", ".join(repr(value.name) for value in (values or self.outputs)) or "none"
            if not values and chosen is not None:
                raise ModelError(f"{self.name}: it has no output {chosen!r}; its outputs are {names}")
            if len(values) != 1:
                raise ModelError(
                    f"{self.name}: exactly one {kind} is supported without a VNN-LIB 2.0 query, the model has "
                    f"{len(values)}: {names}{remedy}"
                )
        output = outputs[0]
        self.check_typed(output)
        if output.element_type not in OUTPUT_TYPES:
            raise ModelError(
                f"{self.name}: {output.name!r} is {output.element_type}; only {', '.join(OUTPUT_TYPES)} are supported"
            )
        return self.inputs[0], output


def read(source: str | Path | bytes | onnx.ModelProto) -> OnnxModel:
    """The model behind a path of an ONNX or .nnet file, bytes of an ONNX file (gzipped or not) or a parsed model."""
    if isinstance(source, onnx.ModelProto):
        copy = onnx.ModelProto()  # what follows changes it
        copy.CopyFrom(source)
        return _checked(*_complete(copy, source.SerializeToString(), IN_MEMORY, None), IN_MEMORY)
    folder: Path | None = None
    if isinstance(source, bytes):
        name, data = IN_MEMORY, source
    else:
        path = Path(source)
        name, folder = str(path), path.parent
        data = nnet(path).model().SerializeToString() if is_nnet(path) else _read(path)
    data = _unzipped(data, name)
    return _checked(*_parsed(data, name, folder), name)


def nnet(path: Path) -> NNet:
    """What an .nnet file, gzipped or not, holds."""
    return parsed(_unzipped(_read(path), str(path)), str(path))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path}: {'; '.join(missing(path))}") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from error


def _unzipped(data: bytes, name: str) -> bytes:
    if not data.startswith(GZIP_MAGIC):
        return data
    most = min(MOST_BYTES, budget().own)
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            unzipped = b"".join(_chunks(cast(IO[bytes], file), most))
    except (OSError, EOFError, zlib.error) as error:
        raise ModelError(f"{name}: the gzip file is damaged or cut short ({error})") from error
    if len(unzipped) > most:
        raise ResourceError(f"{name}: it unpacks to more than {most} bytes; that is too large")
    return unzipped


def _chunks(file: IO[bytes], most: int) -> Iterator[bytes]:
    """What a file holds, and no more than a chunk beyond so many bytes."""
    read = 0
    while read <= most and (chunk := file.read(_CHUNK)):
        tick()
        read += len(chunk)
        yield chunk


def _parsed(data: bytes, name: str, folder: Path | None) -> tuple[onnx.ModelProto, bytes]:
    try:
        proto = onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise ModelError(f"{name}: not an ONNX model, or one cut short ({error})") from error
    return _complete(proto, data, name, folder)


def _complete(
    proto: onnx.ModelProto, data: bytes, name: str, folder: Path | None
) -> tuple[onnx.ModelProto, bytes]:
    """The model and the bytes that ONNX Runtime gets, with nothing left in other files."""
    if not proto.HasField("graph") or not proto.graph.output:
        raise ModelError(f"{name}: not an ONNX model: it holds no graph with an output")
    elsewhere = outside(proto)
    put_inside(elsewhere, folder, MOST_BYTES - proto.ByteSize(), name)
    changed = _open_maps(proto.graph)
    return proto, proto.SerializeToString() if elsewhere or changed else data


def _open_maps(graph: onnx.GraphProto) -> bool:
    """Puts in place of a map of classes, as scikit-learn's converters make it, the tensor that it is made of: their order is its."""
    outputs = {value.name: value for value in graph.output}
    changed = False
    for node in graph.node:
        if _operator(node) == "ai.onnx.ml.ZipMap" and len(node.output) == 1 and node.output[0] in outputs:
            copy = onnx.helper.make_node("Identity", node.input, node.output, node.name)
            node.CopyFrom(copy)
            kind = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None)
            outputs[node.output[0]].type.CopyFrom(kind)
            changed = True
    return changed


def _checked(proto: onnx.ModelProto, original: bytes, name: str) -> OnnxModel:
    opset = _opset(proto, name)
    inline(proto, opset, name)
    check_scopes(proto.graph, name)
    operators = Counter(_operator(node) for node in all_nodes(proto.graph.node))
    extended(operators)
    _prepare(proto.graph, name)
    weights = {initializer.name for initializer in proto.graph.initializer}
    every = tuple((value.name, value.name in weights) for value in proto.graph.input)
    given = [value for value in proto.graph.input if value.name not in weights]
    del proto.graph.input[:]
    proto.graph.input.extend(given)
    inputs = tuple(map(_tensor, given))
    for tensor in inputs:
        if tensor.element_type not in ELEMENT_TYPES:
            raise ModelError(
                f"{name}: {tensor.name!r} is {tensor.element_type}; only float32 and float64 are supported"
            )
        if tensor.shape is None:
            raise ModelError(f"{name}: input {tensor.name!r} has no shape")
    _infer_types(proto.graph, opset)
    outputs = tuple(map(_tensor, proto.graph.output))
    return OnnxModel(name, original, proto, inputs, outputs, opset, operators, every)


def _opset(proto: onnx.ModelProto, name: str) -> int:
    versions = [entry.version for entry in proto.opset_import if entry.domain in ONNX_DOMAINS]
    if not versions:  # all its nodes may be calls of functions
        own = [entry for function in proto.functions for entry in function.opset_import]
        versions = [entry.version for entry in own if entry.domain in ONNX_DOMAINS][:1]
    if not versions:
        if proto.graph.node and proto.ir_version >= 3:
            raise ModelError(f"{name}: it imports no version of ONNX's operators")
        versions = [1]
    if len(set(versions)) > 1:
        raise ModelError(f"{name}: it imports several versions of ONNX's operators: {sorted(set(versions))}")
    version = int(versions[0])
    newest = onnx.defs.onnx_opset_version()
    if version > newest:
        raise ModelError(f"{name}: opset {version} is newer than the installed onnx package knows ({newest})")
    del proto.opset_import[:]
    proto.opset_import.append(onnx.helper.make_opsetid("", version))
    return version


def _operator(node: onnx.NodeProto) -> str:
    """The name of an operator, behind that of its domain where it is not ONNX's own."""
    return str(node.op_type) if node.domain in ONNX_DOMAINS else f"{node.domain}.{node.op_type}"


def _prepare(graph: onnx.GraphProto, name: str) -> None:
    """Checks and sorts a graph and its bodies; operators get their full names."""
    _check_names(graph, name)
    fill(graph, name)
    sort(graph, name)
    for node in graph.node:
        node.name = node.name or (next(iter(node.output), "") if "." in _operator(node) else "")
        node.op_type, node.domain = _operator(node), ""
        for body in bodies(node):
            _prepare(body, name)
    _constants_to_initializers(graph)
    _check_weights(graph, name)


def _check_names(graph: onnx.GraphProto, name: str) -> None:
    """Rejects names that are no text: protobuf gives bytes for them."""
    for place, node in enumerate(graph.node):
        if not all(
            isinstance(one, str) for one in (node.name, node.op_type, node.domain, *node.input, *node.output)
        ):
            raise ModelError(f"{name}: node {place} has a name that is no text")


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    """Constant nodes that hold a tensor become initializers: some of onnx2torch's converters want those."""
    kept = []
    for node in graph.node:
        value = node.attribute[0] if node.op_type == "Constant" and len(node.attribute) == 1 else None
        if value is not None and value.name == "value":
            graph.initializer.append(value.t)
            graph.initializer[-1].name = node.output[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _check_weights(graph: onnx.GraphProto, name: str) -> None:
    """Rejects weights that are no numbers. Infinity as a limit is one."""
    limited = [node for node in graph.node if operator_of(node.op_type).infinite]
    limits = {limit for node in limited for limit in node.input[1:]}
    others = {name for node in graph.node for name in node.input if not operator_of(node.op_type).infinite}
    for initializer in graph.initializer:
        try:
            values = numpy_helper.to_array(initializer)
        except (ValueError, TypeError, KeyError) as error:
            raise ModelError(f"{name}: initializer {initializer.name!r} cannot be read ({error})") from error
        if initializer.data_type in NARROW:
            values = values.astype(np.float32)
        if values.dtype.kind != "f":
            continue
        is_limit = initializer.name in limits and initializer.name not in others
        if np.isnan(values).any() if is_limit else not np.isfinite(values).all():
            raise ModelError(f"{name}: initializer {initializer.name!r} holds NaN or infinity")


def _infer_types(graph: onnx.GraphProto, opset: int) -> None:
    """Give outputs that are declared without an element type the one that their operators compute."""
    untyped = [value for value in graph.output if _is_untyped(value)]
    found = codes_of(graph, opset) if untyped else {}
    for value in untyped:
        if (code := found.get(value.name)) in TORCH:
            value.type.tensor_type.elem_type = code


def _is_untyped(value: onnx.ValueInfoProto) -> bool:
    kind = value.type.WhichOneof("value")
    return kind is None or (kind == "tensor_type" and not value.type.tensor_type.elem_type)


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.WhichOneof("value")
    if kind not in (None, "tensor_type"):
        return Tensor(value.name, f"a {kind.removesuffix('_type')}", None)
    tensor = value.type.tensor_type
    known = tensor.elem_type in onnx.TensorProto.DataType.values()
    label = onnx.TensorProto.DataType.Name(tensor.elem_type) if known else f"of type {tensor.elem_type}"
    shape, symbols = None, ()
    if tensor.HasField("shape"):
        shape = tuple(size.dim_value if size.dim_value > 0 else None for size in tensor.shape.dim)
        symbols = tuple(size.dim_param for size in tensor.shape.dim)
    return Tensor(value.name, _NAMES.get(label, label.lower()), shape, symbols)
