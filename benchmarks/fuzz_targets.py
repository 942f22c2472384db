"""What `make fuzz` feeds to the commands: ONNX bytes and structure, VNN-LIB, certificates, tables, command lines.

A target is a function of a folder and a seed; it writes files there and gives a case. To add one: a function here, a line in
`TARGETS` and its weight.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.random import Generator

import verify.api
import verify.cli  # before processes are forked
from benchmarks import planted
from benchmarks.fuzz import Case, Ended, command, orderly
from benchmarks.random_operators import by_hand
from benchmarks.runtime import Session
from verify.checker.checking import digest
from verify.checker.container import Container
from verify.checker.container import read as read_container
from verify.checker.errors import Refused
from verify.checker.query import read_query
from verify.errors import InputError
from verify.formats.vnnlib import parse

ROOT = Path(__file__).resolve().parent.parent
LIMIT = "3"  # seconds for a command


def _model(random: Generator) -> onnx.ModelProto:
    """A small model: shipped, or drawn."""
    shipped = sorted((ROOT / "properties").glob("*/onnx/*.onnx"))
    if random.integers(4) == 0:
        return onnx.load(shipped[random.integers(len(shipped))])
    return by_hand(random, int(random.integers(1, 4)))[0]


def _sizes(model: onnx.ModelProto) -> tuple[int, int]:
    """The numbers of inputs and outputs that a model declares."""
    ends = (model.graph.input[0], model.graph.output[0])
    inputs, outputs = (int(np.prod([d.dim_value for d in end.type.tensor_type.shape.dim])) for end in ends)
    return inputs, outputs


def _property(inputs: int, outputs: int, threshold: float = 0.0) -> str:
    lines = [f"(declare-const X_{i} Real)" for i in range(inputs)]
    lines += [f"(declare-const Y_{i} Real)" for i in range(outputs)]
    lines += [f"(assert (>= X_{i} -0.25))\n(assert (<= X_{i} 0.5))" for i in range(inputs)]
    return "\n".join([*lines, f"(assert (<= Y_0 {threshold!r}))", ""])


def _mutated(random: Generator, data: bytes) -> bytes:
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


# -- ONNX


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
    model = _model(random)
    return _asked(folder, seed, random, _mutated(random, model.SerializeToString()), _sizes(model))


def _asked(folder: Path, seed: int, random: Generator, data: bytes, sizes: tuple[int, int]) -> Case:
    (folder / "model.onnx").write_bytes(data)
    threshold = float(random.choice([-100.0, -1.0, 0.0]))
    (folder / "property.vnnlib").write_text(_property(*sizes, threshold))
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
    model = _model(random)
    sizes = _sizes(model)
    for _ in range(int(random.integers(1, 4))):
        _CHANGES[random.integers(len(_CHANGES))](random, model)
    return _asked(folder, seed, random, model.SerializeToString(), sizes)


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


# -- VNN-LIB

_TOKENS = (
    "(", ")", "(assert", "(declare-const", "(declare-fun", "X_0", "X_1", "Y_0", "Y_1", "X_00", "Y_9", "Real", "Int", "<=", ">=", "<", ">", "=", "and",
    "or", "not", "=>", "+", "-", "*", "/", "0", "-0", "1", "0.1", "1e400", "1e-400", "1e999999999", "+5", ".5", "5.", "0x1", "inf", "nan", "1/3",
    "true", "false", "let", ";", "\r", "\n", "\x00", "\u2028", "\xa0", "|X_0|", '"', '";"', "(check-sat)", "(exit)", "(set-logic QF_LRA)", "(push 1)",
)  # fmt: skip


def _term(random: Generator, depth: int = 0) -> str:
    if depth > 2 or random.integers(3):
        number = random.choice(["0.1", "-2", "3.25", "1e-3", "7", "0.33333333333333333333"])
        return str(random.choice(["X_0", "X_1", "Y_0", "Y_1", number, number]))
    parts = [_term(random, depth + 1) for _ in range(int(random.integers(1, 4)))]
    return f"({random.choice(['+', '-', '*'])} {' '.join(parts)})"


def _formula(random: Generator, depth: int = 0) -> str:
    if depth > 2 or random.integers(2):
        return f"({random.choice(['<=', '>=', '<', '>', '<=', '>='])} {_term(random)} {_term(random)})"
    parts = [_formula(random, depth + 1) for _ in range(int(random.integers(0, 4)))]
    return f"({random.choice(['and', 'or'])} {' '.join(parts)})"


def _text(random: Generator) -> str:
    """A property of two inputs and two outputs, often damaged."""
    lines = [f"(declare-const {name}_{i} Real)" for name in "XY" for i in (0, 1)]
    for i in (0, 1):
        low, high = sorted(
            random.choice(["-1", "0.1", "0.1", "2", "-0.5", "0.30000001"], 2).tolist(), key=float
        )
        lines += [f"(assert (>= X_{i} {low}))", f"(assert (<= X_{i} {high}))"]
    lines += [f"(assert {_formula(random)})" for _ in range(int(random.integers(1, 3)))]
    text = "\n".join(lines) + "\n"
    for _ in range(int(random.choice([0, 0, 1, 2, 4]))):
        words = text.split(" ")
        at = int(random.integers(len(words)))
        match int(random.integers(4)):
            case 0:
                words[at] = str(random.choice(_TOKENS))
            case 1:
                words.insert(at, str(random.choice(_TOKENS)))
            case 2:
                del words[at]
            case _:
                words[at] += str(random.choice(_TOKENS))
        text = " ".join(words)
    return text


def vnnlib_1(folder: Path, seed: int) -> Case:
    """A property that both readers must see alike, where both read it."""
    text = _text(np.random.default_rng(seed))
    (folder / "property.vnnlib").write_text(text, encoding="utf-8", newline="")
    return Case(
        f"vnnlib_1 {seed}", lambda: _read_twice(text, seed), orderly, "benchmarks.fuzz_targets._read_twice"
    )


def _read_twice(text: str, seed: int) -> int:
    """Compares both readers on points. A difference is an exception, and so a finding."""
    try:
        mine, theirs = parse(text), read_query(text)
    except (InputError, Refused):
        return 2
    assert (mine.inputs, mine.outputs, len(mine.clauses)) == (
        theirs.inputs,
        theirs.outputs,
        len(theirs.clauses),
    )
    random = np.random.default_rng([seed, 1])
    values = [Fraction(text) for text in ("-1", "0.1", "2", "-0.5", "0", "3.25", "0.2", "0.30000001")]
    for _ in range(200):
        x = [values[k] for k in random.integers(len(values), size=mine.inputs)]
        y = [values[k] for k in random.integers(len(values), size=mine.outputs)]
        assert mine.violated(x, y) == theirs.violated(x, y), (x, y)
    return 0


_TOKENS_2 = (*_TOKENS, "(vnnlib-version <2.0>)", "(vnnlib-version <9>)", "(declare-network f", "(declare-input X float32 [1,2])", "(declare-output Y float32 [1,2])",
             "(declare-hidden H float32 [2] \"h\")", "X[0,0]", "Y[0,1]", "X[9]", "Y[]", "[", "]", "float32", "int8", "==", "!=", "(equal-to f)", "(isomorphic-to f)")  # fmt: skip


def vnnlib_2(folder: Path, seed: int) -> Case:
    """A query of version 2.0 of a drawn model, often damaged."""
    random = np.random.default_rng(seed)
    model = _model(random)
    inputs, outputs = (
        [int(d.dim_value) for d in end.type.tensor_type.shape.dim]
        for end in (model.graph.input[0], model.graph.output[0])
    )
    names = [",".join(map(str, index)) for index in np.ndindex(*inputs)]
    lines = [
        "(vnnlib-version <2.0>)",
        "(declare-network f",
        f"(declare-input X float32 {inputs})".replace(" [", " ["),
        f"(declare-output Y float32 {outputs})",
        ")",
    ]
    lines += [f"(assert (>= X[{name}] -0.25))\n(assert (<= X[{name}] 0.5))" for name in names]
    first = ",".join("0" for _ in outputs)
    lines.append(f"(assert (<= Y[{first}] {random.choice(['0.0', '-100', '-1.5'])}))")
    text = "\n".join(lines).replace(", ", ",") + "\n"
    for _ in range(int(random.choice([0, 1, 2, 4]))):
        words = text.split(" ")
        words[int(random.integers(len(words)))] = str(random.choice(_TOKENS_2))
        text = " ".join(words)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "query.vnnlib").write_text(text, encoding="utf-8", newline="")
    return _plain(f"vnnlib_2 {seed}", "run", "model.onnx", "query.vnnlib", "--timeout", LIMIT, "--quiet")


def _plain(name: str, *arguments: str) -> Case:
    return Case(name, command(*arguments), orderly, f"verify {' '.join(arguments)}")


# -- certificates


@cache
def _kit(number: int) -> tuple[bytes, str, str, bytes] | None:
    """A model, a property that holds, one that is violated, and the certificate of the first; None where none is found."""
    import tempfile

    random = np.random.default_rng([number, 7])
    drawn = planted.draw_certifiable(random)
    points = planted.sampled(drawn, random)
    spread = float(np.ptp(points.values)) + 1e-3 * points.scale
    holds = drawn.text(float(points.values.min() - 0.05 * spread))
    violated = drawn.text(float(points.values.min() + 0.01 * spread))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        assert isinstance(drawn.model, bytes)
        (folder / "model.onnx").write_bytes(drawn.model)
        (folder / "holds.vnnlib").write_text(holds)
        result = verify.api.verify(
            folder / "model.onnx", folder / "holds.vnnlib", timeout=5, certificate=folder / "proof.cert"
        )
        if result.certificate is None or result.verdict != "unsat":
            return None
        return drawn.model, holds, violated, result.certificate.read_bytes()


def certificates(folder: Path, seed: int) -> Case:
    """A changed certificate: never accepted beside a property that is violated."""
    return Case(
        f"certificates {seed}", lambda: _forged(folder, seed), orderly, "benchmarks.fuzz_targets._forged"
    )


def _forged(folder: Path, seed: int) -> int:
    random = np.random.default_rng(seed)
    kit = _kit(int(random.integers(200)))
    if kit is None:
        return 1
    model, holds, violated, proof = kit
    for name, data in (
        ("model.onnx", model),
        ("holds.vnnlib", holds.encode()),
        ("violated.vnnlib", violated.encode()),
        ("true.cert", proof),
    ):
        (folder / name).write_bytes(data)
    accepted = 0
    for _ in range(20):
        if random.integers(3) == 0:
            (folder / "forged.cert").write_bytes(_mutated(random, proof))
        else:
            _rewrite(folder, random, digest(violated.encode()))
        for name in ("holds", "violated"):
            code = command("check", "forged.cert", "model.onnx", f"{name}.vnnlib", "--jobs", "1")()
            assert code in (0, 1, 2), (name, code)
            assert name == "holds" or code != 0, "a false proof is accepted"
            accepted += code == 0
    return 0


def _rewrite(folder: Path, random: Generator, other: str) -> None:
    """The true certificate with numbers or strings changed, mostly told to be of the violated property."""
    found = read_container(folder / "true.cert")
    metadata, tensors = dict(found.metadata), {name: np.array(t) for name, t in found.tensors.items()}
    for _ in range(int(random.integers(1, 4))):
        name = str(random.choice(list(tensors)))
        tensor = tensors[name]
        match int(random.integers(4)):
            case 0 if tensor.size:
                tensor.flat[int(random.integers(tensor.size))] = random.integers(0, 256)
            case 1 if tensor.size:
                raw = tensor.view(np.uint8).reshape(-1)
                raw[int(random.integers(raw.size))] = random.integers(256)
            case 2 if tensor.size:
                tensors[name] = np.delete(tensor, int(random.integers(tensor.size)))
            case _:
                tensors[name] = np.append(tensor, tensor[-1:])
    if random.integers(6) == 0:
        metadata[str(random.choice(list(metadata)))] = str(
            random.choice(["", "0", "sat", "unsat", "ieee32-any-order", "-1"])
        )
    if random.integers(5):
        metadata["vnnlib_sha256"] = other
    _write(folder / "forged.cert", Container(metadata, tensors))


def _write(path: Path, container: Container) -> None:
    header: dict[str, Any] = {"__metadata__": container.metadata}
    kinds, at = {"u1": "U8", "i4": "I32", "i8": "I64", "f8": "F64", "f4": "F32", "i1": "I8", "f2": "F16"}, 0
    for name, tensor in container.tensors.items():
        ends = [at, at + tensor.nbytes]
        header[name] = {
            "dtype": kinds[tensor.dtype.str[1:]],
            "shape": list(tensor.shape),
            "data_offsets": ends,
        }
        at = ends[1]
    text = json.dumps(header).encode()
    data = b"".join(tensor.tobytes() for tensor in container.tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


# -- tables and command lines

_CELLS = ("", "0", "-1", "nan", "inf", "1e999", "2", "x", '"', '"a', "a\nb", "\x00", "model.onnx", "../model.onnx", "/etc/passwd", "property.vnnlib",
          "[('f', 'model.onnx')]", "[('f',", "__import__('os')", "sat", "unsat", "é", "\ufeff")  # fmt: skip


def tables(folder: Path, seed: int) -> Case:
    """A table of instances with odd cells; the results are rows of as many columns, none of them twice."""
    random = np.random.default_rng(seed)
    model = by_hand(random, 2)[0]
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "property.vnnlib").write_text(_property(*_sizes(model)))
    rows = [["onnx", "vnnlib", "timeout"]] if random.integers(2) else []
    for _ in range(int(random.integers(0, 4))):
        row = ["model.onnx", "property.vnnlib", "2"]
        for _ in range(int(random.integers(0, 3))):
            row[int(random.integers(3))] = str(random.choice(_CELLS))
        rows.append(
            row[: int(random.choice([2, 3, 3, 3]))] + [str(random.choice(_CELLS))] * int(random.integers(2))
        )
    text = "\n".join(",".join(row) for row in rows)
    (folder / "instances.csv").write_text(text, encoding="utf-8")
    arguments = ("suite", ".", "--out", "results.csv", "--timeout", "2", "--report", "report.html")
    return Case(
        f"tables {seed}", command(*arguments), _whole_results(folder), f"verify {' '.join(arguments)}"
    )


def _whole_results(folder: Path) -> Callable[[Ended], str | None]:
    def judge(ended: Ended) -> str | None:
        complaint = orderly(ended)
        if complaint is None and (folder / "results.csv").exists():
            with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
                rows = list(csv.reader(file))
            if len({len(row) for row in rows}) > 1:
                return "rows of different lengths"
        return complaint

    return judge


_COMMANDS = (
    "run",
    "check",
    "bounds",
    "info",
    "suite",
    "certificate",
    "verify",
    "supports",
    "nonsense",
    "--name",
    "--version",
    "--help",
    "",
)
_OPTIONS = ("--timeout", "--device", "--preset", "--seed", "--format", "--quiet", "--log-json", "--certificate", "--trim", "--semantics", "--no-rigorous",
            "--method", "--iterations", "--time", "--intermediate", "--trace", "--layers", "--exact", "--jobs", "--out", "--memory", "--help", "-h")  # fmt: skip
_VALUES = ("", "0", "-1", "nan", "inf", "1e-9", "1", "2", "999999999999999999999", "cpu", "cuda", "mps", "meta", "default", "fast", "json", "text", "real",
           "ieee32-any-order", "lp", "crown", ".", "/dev/null", "nowhere/file", "model.onnx", "property.vnnlib", "out.file", "\x01", "é")  # fmt: skip


def command_lines(folder: Path, seed: int) -> Case:
    """Commands with options and values that do not suit them."""
    random = np.random.default_rng(seed)
    model = by_hand(random, 2)[0]
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "property.vnnlib").write_text(_property(*_sizes(model)))
    arguments = [str(random.choice(_COMMANDS))]
    if random.integers(4):
        arguments += ["model.onnx", "property.vnnlib"]
    for _ in range(int(random.integers(0, 4))):
        arguments += [str(random.choice(_OPTIONS))]
        arguments += [str(random.choice(_VALUES))] if random.integers(4) else []
    if arguments[0] in ("run", "bounds") and "--timeout" not in arguments and arguments[0] == "run":
        arguments += ["--timeout", LIMIT]
    kept = model.SerializeToString()

    def judge(ended: Ended) -> str | None:
        if (folder / "model.onnx").read_bytes() != kept:
            return "an input file was written over"
        return orderly(ended)

    return Case(f"command_lines {seed}", command(*arguments), judge, f"verify {arguments}")


TARGETS: dict[str, Callable[[Path, int], Case]] = {
    "onnx_bytes": onnx_bytes, "onnx_structure": onnx_structure, "vnnlib_1": vnnlib_1, "vnnlib_2": vnnlib_2, "certificates": certificates,
    "tables": tables, "command_lines": command_lines,
}  # fmt: skip
WEIGHTS = {
    "onnx_bytes": 3, "onnx_structure": 6, "vnnlib_1": 6, "vnnlib_2": 3, "certificates": 4, "tables": 1, "command_lines": 3,
}  # fmt: skip
