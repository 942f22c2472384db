"""Certificates for the tests: searches that write them, files taken apart and put together; as a script, the folders of data/.

`python tests/checker/make_data.py` (with tests/ and the root in PYTHONPATH) writes data/{correct,incorrect,parsing_failure}: one
folder each with model.onnx, property.vnnlib and certificate.safetensors.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from nets import property_text, random_layers, relu_model
from patience import PATIENCE

from benchmarks.soundness import Graph
from verify.attack import Attack
from verify.bab.loop import BranchAndBound
from verify.bab.progress import Progress
from verify.checker import checking
from verify.checker.checking import Checked, check
from verify.checker.container import FORMAT, read
from verify.checker.errors import Refused
from verify.checker.kinds import KINDS, Block
from verify.checker.question import digest
from verify.checker.stream import Cursor
from verify.deadline import Deadline, OutOfTimeError
from verify.problem import prepare
from verify.proof.recording import recording
from verify.settings import Settings, build_search, preset

Array = np.ndarray[Any, Any]
HERE = Path(__file__).parent / "data"
MODEL, PROPERTY, CERTIFICATE = "model.onnx", "property.vnnlib", "certificate.safetensors"
SPLITS = {"inputs": 10**6, "activations": 0}
QUICK_ATTACK = Attack(restarts=2, steps=5, seconds=0.5, rounds=2)
QUICK = replace(preset("fast"), first_attack=QUICK_ATTACK, second_attack=QUICK_ATTACK)
_NAMES = {"u1": "U8", "i1": "I8", "i4": "I32", "i8": "I64", "f2": "F16", "f4": "F32", "f8": "F64"}


# -- files


class Files(NamedTuple):
    """A certificate and what it is of."""

    certificate: Path
    model: Path
    property: Path

    @staticmethod
    def of(folder: Path) -> Files:
        """By their usual names."""
        return Files(folder / CERTIFICATE, folder / MODEL, folder / PROPERTY)

    def check(self, **options: Any) -> Checked:
        """What the checker says."""
        return check(*self, **options)

    def accepted(self, **options: Any) -> bool:
        """Whether it proves anything; only Refused is an excuse for no answer."""
        try:
            return self.check(**options).proved
        except Refused:
            return False


@dataclass
class Parts:
    """A certificate taken apart."""

    metadata: dict[str, str]
    tensors: dict[str, Array]

    @staticmethod
    def read(path: Path) -> Parts:
        """From a file."""
        found = read(path)
        return Parts(dict(found.metadata), {name: np.array(value) for name, value in found.tensors.items()})

    def write(self, path: Path) -> None:
        """To a file."""
        header: dict[str, Any] = {"__metadata__": self.metadata}
        at, data = 0, []
        for name, values in self.tensors.items():
            kind = _NAMES[values.dtype.str[1:]]
            header[name] = {
                "dtype": kind,
                "shape": list(values.shape),
                "data_offsets": [at, at + values.nbytes],
            }
            at += values.nbytes
            data.append(values.tobytes())
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data))

    def copy(self) -> Parts:
        """Another one with the same in it."""
        return Parts(dict(self.metadata), {name: value.copy() for name, value in self.tensors.items()})

    @property
    def blocks(self) -> list[tuple[str, bytes]]:
        """Kinds and bytes."""
        ends = self.tensors["block.end"].tolist()
        data = self.tensors["stream"].tobytes()
        starts = [0, *ends[:-1]]
        kinds = self.tensors["block.kind"].tolist()
        return [(KINDS[kind], data[start:end]) for kind, start, end in zip(kinds, starts, ends, strict=True)]

    @blocks.setter
    def blocks(self, blocks: Sequence[tuple[str, bytes]]) -> None:
        self.tensors["block.kind"] = np.array([KINDS.index(kind) for kind, _ in blocks], dtype="u1")
        self.tensors["block.end"] = np.cumsum([len(data) for _, data in blocks], dtype="<i8")
        self.tensors["stream"] = np.frombuffer(b"".join(data for _, data in blocks), np.uint8)


def numbers(kind: str, *values: float) -> bytes:
    """Numbers as a block has them."""
    return np.array(values, dtype=kind).tobytes()


def by_hand(
    files: Files, blocks: Sequence[tuple[str, bytes]], rows: int = 1, semantics: str = checking.REAL,
    splits: Sequence[tuple[int, int, float]] = (), roots: Sequence[Sequence[int]] = ((0,),),
) -> None:  # fmt: skip
    """A certificate from its parts: whatever an adversary likes."""
    node, variable, value = (np.array(column) for column in zip(*splits, strict=True)) if splits else (np.zeros(0),) * 3  # fmt: skip
    parts = Parts(
        {
            "format": FORMAT, "verdict": "unsat", "semantics": semantics, "rows": str(rows),
            "onnx_sha256": digest(files.model.read_bytes()), "vnnlib_sha256": digest(files.property.read_bytes()),
        },
        {
            "root.clause": np.array([clause for root in roots for clause in root], "<i8"),
            "root.count": np.array([len(root) for root in roots], "<i8"),
            "split.node": node.astype("<i8"), "split.variable": variable.astype("<i4"), "split.value": value.astype("<f8"),
        },
    )  # fmt: skip
    parts.blocks = list(blocks)
    parts.write(files.certificate)


class Field(NamedTuple):
    """Numbers of one type in a block."""

    block: int
    start: int
    kind: str
    count: int


@contextmanager
def fields(found: list[Field]) -> Iterator[None]:
    """Notes what the checker takes off each block."""
    take, cursor_of = Cursor.take, Block.cursor
    number = [0]

    def noted(cursor: Cursor, kind: str, count: int) -> Array:
        start = cursor._at
        values = take(cursor, kind, count)
        found.append(Field(number[0], start, kind, count))
        return values

    def opened(block: Block) -> Cursor:
        number[0] = block.number
        return cursor_of(block)

    Cursor.take, Block.cursor = noted, opened  # type: ignore[method-assign]
    try:
        yield
    finally:
        Cursor.take, Block.cursor = take, cursor_of  # type: ignore[method-assign]


# -- searches


def placed(folder: Path, model: onnx.ModelProto | bytes, text: str) -> Files:
    """Model and property in a folder."""
    files = Files.of(folder)
    files.model.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    files.property.write_text(text)
    return files


@dataclass(frozen=True)
class _Limit:
    """A reporter that ends the search."""

    most: float

    def update(self, progress: Progress) -> None:
        """After some subproblems; not in the report of the end."""
        if progress.opened > self.most and progress.phase != "end":
            raise OutOfTimeError


def searched(
    files: Files, splits: str = "inputs", settings: Settings = QUICK, seconds: float = PATIENCE,
    prepare_search: Callable[[BranchAndBound], None] | None = None, most: float = math.inf,
) -> tuple[str, str | None]:  # fmt: skip
    """Runs a search that writes a certificate: its verdict, and what is wrong with the certificate.

    most: subproblems after which it ends as if time had run out.
    """
    problem = prepare(files.model, files.property)
    settings = replace(settings, splittable_inputs=SPLITS[splits])
    with recording(files.certificate, files.model, files.property, problem) as record:
        search = build_search(problem, settings, torch.device("cpu"), 0, _Limit(most), record.writer)
        if prepare_search is not None:
            prepare_search(search)
        outcome = search.run(Deadline.after(seconds))
        failure = None
        if outcome.verdict == "unsat":
            failure = record.close_unsat(problem)
        elif outcome.witness is not None:
            failure = record.close_sat(problem, outcome.witness)
    return outcome.verdict, failure


# -- networks with more operators than ReLU


def _maximum(graph: Graph, inputs: int) -> tuple[str, int]:
    """Max pooling over a row of values."""
    value = graph.weighted("Conv", "X", (2, 1, 2), pads=[0, 0])
    value = graph.add("MaxPool", [graph.add("Relu", [value])], kernel_shape=[2], strides=[2])
    return graph.add("Flatten", [value]), 2 * ((inputs - 1) // 2)


def _product(graph: Graph, inputs: int) -> tuple[str, int]:
    first, second = (graph.add("Relu", [graph.dense("X", inputs, 3)]) for _ in range(2))
    return graph.add("Mul", [first, second]), 3


def _residual(graph: Graph, inputs: int) -> tuple[str, int]:
    start = graph.add("Relu", [graph.dense("X", inputs, 4)])
    branch = graph.dense(graph.add("Relu", [graph.dense(start, 4, 3)]), 3, 4)
    return graph.add("Relu", [graph.add("Add", [start, branch])]), 4


def _convolution(graph: Graph, inputs: int) -> tuple[str, int]:
    value = graph.add("Relu", [graph.weighted("Conv", "X", (2, 1, 2))])
    return graph.add("Flatten", [value]), 2 * (inputs - 1)


def _chain(kind: str, **attributes: Any) -> Callable[[Graph, int], tuple[str, int]]:
    def made(graph: Graph, inputs: int) -> tuple[str, int]:
        value = graph.add(kind, [graph.dense("X", inputs, 4)], **attributes)
        return graph.add(kind, [graph.dense(value, 4, 4)], **attributes), 4

    return made


def _waves(graph: Graph, inputs: int) -> tuple[str, int]:
    value = graph.add("Sin", [graph.dense("X", inputs, 4)])
    return graph.add("Cos", [graph.dense(value, 4, 4)]), 4


def _clip(graph: Graph, inputs: int) -> tuple[str, int]:
    for name, value in (("low", -0.5), ("high", 0.8)):
        graph.constants.append(onnx.numpy_helper.from_array(np.array(value, np.float32), name))
    value = graph.add("Clip", [graph.dense("X", inputs, 4), "low", "high"])
    return graph.add("Clip", [graph.dense(value, 4, 3), "low", "high"]), 3


FAMILIES: dict[str, Callable[[Graph, int], tuple[str, int]]] = {
    "relu": _chain("Relu"), "convolution": _convolution, "residual": _residual, "sigmoid": _chain("Sigmoid"),
    "tanh": _chain("Tanh"), "leaky": _chain("LeakyRelu", alpha=0.1), "clip": _clip, "maximum": _maximum,
    "product": _product, "waves": _waves,
}  # fmt: skip


def network(family: str, seed: int, inputs: int = 3, outputs: int = 3) -> onnx.ModelProto:
    """A random small network."""
    graph = Graph(np.random.default_rng(seed))
    value, width = FAMILIES[family](graph, inputs)
    shape = [1, inputs] if family in ("convolution", "maximum") else [inputs]
    return graph.model(graph.dense(value, width, outputs), shape, outputs)


def hidden(seed: int, inputs: int = 4) -> onnx.ModelProto:
    """Two hidden layers, wide enough that splits and lemmas are needed."""
    return relu_model(random_layers(seed, (inputs, 10, 8, 1)))


# -- the folders of data/


def _unsat(folder: Path, seed: int, splits: str, rows: int = 1) -> Files:
    """The proof of a property with little to spare."""
    layers = random_layers(seed, (3, 6, 5, 2))
    x = np.random.default_rng(seed).uniform(-1, 1, (4000, 3)).astype(np.float32)
    x[:1000] = np.sign(x[:1000])
    for i, (weight, bias) in enumerate(layers):
        x = x @ weight.T + bias
        x = np.maximum(x, 0) if i < len(layers) - 1 else x
    threshold = round(float(x[:, 0].min() - 0.03 * np.ptp(x[:, 0])), 3)
    unsafe = f"(<= Y_0 {threshold})"
    if rows > 1:
        unsafe = f"(and {unsafe} (<= Y_1 {round(float(x[:, 1].max()), 3)}))"
    files = placed(folder, relu_model(layers), property_text([-1.0] * 3, [1.0] * 3, 2, unsafe))
    found = searched(files, splits)
    assert found == ("unsat", None), found
    return files


def _edited(source: Files, folder: Path, edit: Callable[[Parts], Any]) -> None:
    """A copy with something changed."""
    folder.mkdir(parents=True)
    files = Files.of(folder)
    for old, new in zip(source, files, strict=True):
        shutil.copy(old, new)
    parts = Parts.read(files.certificate)
    edit(parts)
    parts.write(files.certificate)


def _dropped(parts: Parts) -> None:
    parts.blocks = parts.blocks[:-1]


def _negative(parts: Parts) -> None:
    """The first leaf's weight."""
    blocks = parts.blocks
    place = next(i for i, (kind, _) in enumerate(blocks) if kind.startswith("leaves"))
    kind, data = blocks[place]
    count = int(np.frombuffer(data[:8], "<i8")[0])
    at = 8 + 8 * count
    blocks[place] = kind, data[:at] + numbers("<f4", -1.0) + data[at + 4 :]
    parts.blocks = blocks


def _wider(parts: Parts) -> None:
    """The first split's value moves, so that its leaves speak of other subproblems."""
    parts.tensors["split.value"][0] += 1.0


def _other_model(folder: Path) -> None:
    """One weight has another value."""
    model = onnx.load(folder / MODEL)
    tensor = model.graph.initializer[0]
    weight = onnx.numpy_helper.to_array(tensor).copy()
    weight[0, 0] += 0.5
    tensor.CopyFrom(onnx.numpy_helper.from_array(weight, tensor.name))
    onnx.save(model, folder / MODEL)


def main() -> None:
    """Writes the folders anew."""
    shutil.rmtree(HERE, ignore_errors=True)
    with tempfile.TemporaryDirectory() as place:
        made = {}
        for name, seed, splits, rows in (
            ("activations", 1, "activations", 1), ("inputs", 2, "inputs", 1), ("conjunction", 3, "activations", 2),
            ("joined", 3, "inputs", 2),
        ):  # fmt: skip
            folder = Path(place) / name
            folder.mkdir()
            made[name] = _unsat(folder, seed, splits, rows)
        folder = Path(place) / "witness"
        folder.mkdir()
        model = relu_model(random_layers(4, (2, 3, 1)))
        made["witness"] = placed(folder, model, property_text([0.0] * 2, [1.0] * 2, 1, "(<= Y_0 100.0)"))
        assert searched(made["witness"]) == ("sat", None)
        for name, files in made.items():
            _edited(files, HERE / "correct" / name, lambda parts: None)
        wrong: dict[str, tuple[str, Callable[[Parts], Any]]] = {
            "leaf_missing": ("activations", _dropped), "weight_negative": ("activations", _negative),
            "split_moved": ("activations", _wider),
            "other_file": ("inputs", lambda parts: parts.metadata.update(onnx_sha256="0" * 64)),
            "other_format": ("inputs", lambda parts: parts.metadata.update(format="verify-certificate/0")),
            "input_outside": ("witness", lambda parts: parts.metadata.update(inputs=json.dumps([2.0.hex()] * 2))),
            "weight_changed": ("activations", lambda parts: None),
        }  # fmt: skip
        for name, (source, edit) in wrong.items():
            _edited(made[source], HERE / "incorrect" / name, edit)
        folder = HERE / "incorrect" / "weight_changed"
        _other_model(folder)
        parts = Parts.read(folder / CERTIFICATE)
        parts.metadata["onnx_sha256"] = digest((folder / MODEL).read_bytes())
        parts.write(folder / CERTIFICATE)
        damaged: dict[str, Callable[[bytes], bytes]] = {
            "truncated": lambda data: data[:-1], "trailing": lambda data: data + b"\0", "empty": lambda data: b"",
            "header_too_long": lambda data: b"\xff" * 8 + data[8:], "no_json": lambda data: data[:8] + b"[" + data[9:],
        }  # fmt: skip
        for name, damage in damaged.items():
            folder = HERE / "parsing_failure" / name
            _edited(made["inputs"], folder, lambda parts: None)
            path = folder / CERTIFICATE
            path.write_bytes(damage(path.read_bytes()))


if __name__ == "__main__":
    main()
