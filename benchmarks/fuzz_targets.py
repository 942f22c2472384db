"""What `make fuzz` feeds to the commands: ONNX files, VNN-LIB, certificates, tables of instances, command lines.

A target is a function of a folder and a seed; it writes files there and gives a case. To add one: a function, a line in
`TARGETS` and its weight.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

import verify.api
import verify.cli  # before processes are forked
from benchmarks import planted
from benchmarks.fuzz import Case, Ended, command, orderly
from benchmarks.fuzz_models import LIMIT, mutated, onnx_bytes, onnx_structure, property_text, sizes_of
from benchmarks.fuzz_texts import vnnlib_1, vnnlib_2
from benchmarks.random_operators import by_hand
from verify.checker.container import Container
from verify.checker.container import read as read_container
from verify.checker.question import digest

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
            (folder / "forged.cert").write_bytes(mutated(random, proof))
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
    (folder / "property.vnnlib").write_text(property_text(*sizes_of(model)))
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
    (folder / "property.vnnlib").write_text(property_text(*sizes_of(model)))
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
