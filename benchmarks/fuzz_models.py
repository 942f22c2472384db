"""ONNX files for `make fuzz`: small models whose bytes or parts are changed, dropped, doubled or exchanged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.random import Generator

from benchmarks.fuzz import Case, Ended, command, orderly
from benchmarks.random_operators import by_hand
from benchmarks.runtime import Session

ROOT = Path(__file__).resolve().parent.parent
LIMIT = "3"  # seconds for a command


def model_of(random: Generator) -> onnx.ModelProto:
    """A small model: shipped, or drawn."""
    shipped = sorted((ROOT / "properties").glob("*/onnx/*.onnx"))
    if random.integers(4) == 0:
        return onnx.load(shipped[random.integers(len(shipped))])
    return by_hand(random, int(random.integers(1, 4)))[0]


def sizes_of(model: onnx.ModelProto) -> tuple[int, int]:
    """The numbers of inputs and outputs that a model declares."""
    ends = (model.graph.input[0], model.graph.output[0])
    inputs, outputs = (int(np.prod([d.dim_value for d in end.type.tensor_type.shape.dim])) for end in ends)
    return inputs, outputs


def property_text(inputs: int, outputs: int, threshold: float = 0.0) -> str:
    lines = [f"(declare-const X_{i} Real)" for i in range(inputs)]
    lines += [f"(declare-const Y_{i} Real)" for i in range(outputs)]
    lines += [f"(assert (>= X_{i} -0.25))\n(assert (<= X_{i} 0.5))" for i in range(inputs)]
    return "\n".join([*lines, f"(assert (<= Y_0 {threshold!r}))", ""])


def mutated(random: Generator, data: bytes) -> bytes:
    """Bytes with some of them changed, repeated, inserted or cut off."""
    result = bytearray(data)
    for _ in range(int(random.integers(1, 6))):
        at = int(random.integers(len(result) + 1))
        match int(random.integers(5)):
            case 0 if at < len(result):
                result[at] ^= 1 << int(random.integers(8))
            case 1 if at < len(result):
                result[at] = int(random.choice([0, 1, 127, 128, 255]))
            case 2:
                result[at:at] = random.bytes(int(random.integers(1, 9)))
            case 3:
                result[at:at] = result[at : at + int(random.integers(1, 64))]
            case _:
                del result[at : at + int(random.integers(1, 64))]
    return bytes(result[: int(random.integers(len(result) + 1))] if random.integers(12) == 0 else result)


def plain(name: str, *arguments: str) -> Case:
    return Case(name, command(*arguments), orderly, f"verify {' '.join(arguments)}")


def _never_contradicted(model: Path, threshold: float, inputs: int) -> Callable[[Ended], str | None]:
    """Orderly, and where it says `unsat` ONNX Runtime has no point in the box below the threshold."""

    def judge(ended: Ended) -> str | None:
        complaint = orderly(ended)
        if complaint is None and ended.output.startswith("unsat"):
            random = np.random.default_rng(0)
            try:
                results = Session(model.read_bytes()).run(random.uniform(-0.25, 0.5, (100, inputs)))
            except (ValueError, OSError):
                return "unsat of a model that ONNX Runtime does not run"
            least = min(float(y.ravel()[0]) for y in results)
            if least < threshold - 1e-3 * (1 + abs(threshold)):
                return f"unsat, but ONNX Runtime gives {least} <= {threshold}"
        return complaint

    return judge


def onnx_bytes(folder: Path, seed: int) -> Case:
    """A model whose bytes are damaged."""
    random = np.random.default_rng(seed)
    model = model_of(random)
    return _asked(folder, seed, random, mutated(random, model.SerializeToString()), sizes_of(model))


def _asked(folder: Path, seed: int, random: Generator, data: bytes, sizes: tuple[int, int]) -> Case:
    (folder / "model.onnx").write_bytes(data)
    threshold = float(random.choice([-100.0, -1.0, 0.0]))
    (folder / "property.vnnlib").write_text(property_text(*sizes, threshold))
    arguments = ["run", "model.onnx", "property.vnnlib", "--timeout", LIMIT, "--quiet"]
    if random.integers(3) == 0:
        arguments += ["--certificate", "proof.cert"]
    if random.integers(8) == 0:
        arguments = ["info", "model.onnx", "property.vnnlib"]
    judge = _never_contradicted(folder / "model.onnx", threshold, sizes[0])
    return Case(f"onnx {seed}", command(*arguments), judge, f"verify {' '.join(arguments)}")


def onnx_structure(folder: Path, seed: int) -> Case:
    """A model whose parts are changed, dropped, doubled or exchanged."""
    random = np.random.default_rng(seed)
    model = model_of(random)
    sizes = sizes_of(model)
    change(random, model)
    return _asked(folder, seed, random, model.SerializeToString(), sizes)


def change(random: Generator, model: onnx.ModelProto) -> None:
    """Damage the model by one to three changes of its parts."""
    for _ in range(int(random.integers(1, 4))):
        _CHANGES[random.integers(len(_CHANGES))](random, model)


def _some(random: Generator, parts: Any) -> Any:
    return parts[int(random.integers(len(parts)))]


def _node(random: Generator, model: onnx.ModelProto) -> onnx.NodeProto:
    nodes: Sequence[onnx.NodeProto] = model.graph.node or [model.graph.node.add()]
    return nodes[int(random.integers(len(nodes)))]


def _operator(random: Generator, model: onnx.ModelProto) -> None:
    kinds = [schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""]
    _node(random, model).op_type = str(random.choice(kinds))


def _attribute(random: Generator, model: onnx.ModelProto) -> None:
    node = _node(random, model)
    names = [
        "axis",
        "axes",
        "perm",
        "pads",
        "strides",
        "kernel_shape",
        "group",
        "alpha",
        "epsilon",
        "to",
        "keepdims",
        "ceil_mode",
        "dilations",
    ]
    values = [
        0,
        1,
        -1,
        2**31,
        -(2**63),
        1.5,
        float("nan"),
        float("inf"),
        [],
        [0],
        [1, 1, 1],
        [-1, 5],
        "x",
        b"\xff",
        [1.5, 2.5],
    ]
    name = str(random.choice([*names, *[attribute.name for attribute in node.attribute]]))
    if random.integers(2):
        del node.attribute[:]
    value = values[random.integers(len(values))]
    kind = onnx.AttributeProto.INTS if value == [] else None
    node.attribute.append(onnx.helper.make_attribute(name, value, attr_type=kind))


def _operands(random: Generator, model: onnx.ModelProto) -> None:
    node = _node(random, model)
    names = [output for other in model.graph.node for output in other.output]
    names += ["", "x", *(tensor.name for tensor in model.graph.initializer)]
    name = names[random.integers(len(names))]
    if node.input and random.integers(3):
        node.input[int(random.integers(len(node.input)))] = name
    elif node.input and random.integers(2):
        del node.input[-1]
    else:
        node.input.append(name)


def _results(random: Generator, model: onnx.ModelProto) -> None:
    node = _node(random, model)
    if node.output and random.integers(2):
        del node.output[-1]
    else:
        node.output.append(str(random.choice(["", "extra", "x"])))


def _weights(random: Generator, model: onnx.ModelProto) -> None:
    if not model.graph.initializer:
        return
    tensor = _some(random, model.graph.initializer)
    match int(random.integers(4)):
        case 0:
            tensor.data_type = int(random.integers(0, 24))
        case 1:
            tensor.dims[:] = [
                int(size) for size in random.choice([0, 1, 2, 2**40, 7], size=random.integers(0, 4))
            ]
        case 2:
            value = random.choice([np.nan, np.inf, 1e38, -1e38, 1e-45])
            kept = np.frombuffer(tensor.raw_data, np.uint8).copy()
            if kept.size >= 4:
                kept[:4] = np.frombuffer(np.float32(value).tobytes(), np.uint8)
                tensor.raw_data = kept.tobytes()
        case _:
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (
                ("location", str(random.choice(["../secret", "/etc/passwd", "w", "."]))),
                ("offset", "-1"),
            ):
                entry = tensor.external_data.add()
                entry.key, entry.value = key, value


def _declared(random: Generator, model: onnx.ModelProto) -> None:
    graph = model.graph
    end = _some(random, [*graph.input, *graph.output])
    match int(random.integers(4)):
        case 0:
            end.type.tensor_type.elem_type = int(random.integers(0, 24))
        case 1:
            end.type.tensor_type.ClearField("shape")
        case 2:
            end.type.tensor_type.shape.dim.add().dim_value = int(random.choice([0, 1, -1, 3, 2**50]))
        case _:
            end.name = str(random.choice(["", "x", "nowhere"]))


def _graph(random: Generator, model: onnx.ModelProto) -> None:
    graph = model.graph
    match int(random.integers(7)):
        case 0:
            graph.node.append(_node(random, model))
        case 1 if graph.node:
            del graph.node[int(random.integers(len(graph.node)))]
        case 2:
            nodes = list(graph.node)
            random.shuffle(nodes)
            del graph.node[:]
            graph.node.extend(nodes)
        case 3:
            model.opset_import[0].version = int(random.choice([-1, 0, 1, 6, 9, 12, 18, 23, 24, 99, 2**62]))
        case 4:
            graph.output.append(_some(random, [*graph.output, *graph.input]))
        case 5:
            model.opset_import.append(
                onnx.helper.make_opsetid(str(random.choice(["", "ai.onnx", "ai.onnx.ml"])), 1)
            )
        case _:
            _node(random, model).domain = str(random.choice(["ai.onnx", "com.microsoft", "x"]))


_CHANGES = (
    _operator,
    _attribute,
    _attribute,
    _operands,
    _operands,
    _results,
    _weights,
    _weights,
    _declared,
    _graph,
)
