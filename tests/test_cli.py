"""The command line: verdict first, witnesses that replay, documented exit codes, and errors that say what to do.

Most runs are in this process (a start costs seconds); a few are real ones.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime
import pytest
from nets import property_text, random_layers, relu_model
from patience import PATIENCE

from verify import __version__, cli
from verify.formats.vnnlib import read
from verify.formats.witness import parse_assignment
from verify.request import INTERMEDIATE, METHODS

ROOT = Path(__file__).resolve().parents[1]
FC = ROOT / "properties" / "digits_fc"
MODEL = FC / "onnx" / "digits_fc.onnx"
UNSAT, SAT = FC / "vnnlib" / "image_1401_radius_0.06.vnnlib", FC / "vnnlib" / "image_1401_radius_0.14.vnnlib"


@dataclass(frozen=True)
class Ran:
    """What a run left behind."""

    code: int
    out: str
    err: str


class Command:
    """`verify` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capfd = monkeypatch, capfd

    def __call__(self, *arguments: object) -> Ran:
        """Runs the command line with these arguments."""
        self.monkeypatch.setattr(sys, "argv", ["verify", *map(str, arguments)])
        self.monkeypatch.setattr(cli, "_STARTED", time.monotonic())
        self.capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = self.capfd.readouterr()
        return Ran(int(stop.value.code or 0), out, err)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """`verify` in this process, its output captured."""
    return Command(monkeypatch, capfd)


def process(*arguments: object) -> tuple[Ran, float]:
    """`python -m verify` and the CPU time it took."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = subprocess.run(
        [sys.executable, "-m", "verify", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=PATIENCE,
    )
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime
    return Ran(ran.returncode, ran.stdout, ran.stderr), seconds


def assert_witness(model: Path, property_: Path, inputs: np.ndarray, outputs: np.ndarray) -> None:
    """The point violates the property with the outputs that ONNX Runtime gives here and now."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    again = session.run(None, {session.get_inputs()[0].name: inputs})[0]
    np.testing.assert_allclose(again, outputs, rtol=1e-5, atol=1e-6)
    assert read(property_).violated(inputs.ravel(), outputs.ravel())


def test_unsat(command: Command) -> None:
    ran = command("run", MODEL, UNSAT, "--device", "cpu")
    assert (ran.code, ran.out) == (0, "unsat\n")
    assert ran.err.startswith("unsat:")


def test_sat_prints_a_witness_that_replays(command: Command) -> None:
    ran = command("run", MODEL, SAT, "--device", "cpu", "--quiet")
    assert (ran.code, ran.err) == (0, "")
    verdict, _, assignment = ran.out.partition("\n")
    assert verdict == "sat"
    found = parse_assignment(assignment)
    assert list(found) == ["X", "Y"]
    assert found["X"].dtype == np.float32
    assert_witness(MODEL, SAT, found["X"], found["Y"])


@pytest.mark.parametrize(("property_", "verdict"), [(SAT, "sat"), (UNSAT, "unsat")], ids=["sat", "unsat"])
def test_json_is_one_object(command: Command, property_: Path, verdict: str) -> None:
    ran = command("run", MODEL, property_, "--device", "cpu", "--format", "json", "--quiet")
    record = json.loads(ran.out)
    assert (ran.code, ran.err, record["verdict"]) == (0, "", verdict)
    assert record["statistics"]["clauses"] == 9
    assert (record["witness"] is not None) == (verdict == "sat")
    if record["witness"] is not None:
        x, y = (np.array(record["witness"][n]["values"], np.float32) for n in ("X", "Y"))
        shapes = [record["witness"][n]["shape"] for n in ("X", "Y")]
        assert_witness(MODEL, property_, x.reshape(shapes[0]), y.reshape(shapes[1]))


def test_log_of_a_run(command: Command, tmp_path: Path) -> None:
    """A JSON object a line, the last one with the verdict; every counter only grows, and every technique says what it took and brought."""
    path = tmp_path / "log.jsonl"
    ran = command("run", MODEL, UNSAT, "--device", "cpu", "--quiet", "--log-json", path)
    assert (ran.code, ran.out, ran.err) == (0, "unsat\n", "")
    *steps, last = [json.loads(line) for line in path.read_text().splitlines()]
    assert (last["event"], last["verdict"], last["clauses"]) == ("result", "unsat", 9)
    assert {step["event"] for step in steps} == {"progress", "technique"}
    applied = [step for step in steps if step["event"] == "technique"]
    assert all(step["price"] >= 0 and 0 <= step["gain"] <= 1 for step in applied)
    assert {step["technique"] for step in applied} == set(last["techniques"])
    assert sum(step["refuted"] for step in applied) == sum(
        one["refuted"] for one in last["techniques"].values()
    )
    steps = [step for step in steps if step["event"] == "progress"]
    for counter in ("seconds", "subproblems", "closed", "batches"):
        values = [record[counter] for record in [*steps, last]]
        assert values == sorted(values), counter
    assert set(last["seconds_by_phase"]) <= {"attack", "root", "branch and bound"}


def test_where_the_time_went(command: Command) -> None:
    """Phases and techniques on stderr, also where it is quiet otherwise; the verdict as ever."""
    ran = command("run", MODEL, UNSAT, "--device", "cpu", "--quiet", "--explain")
    assert (ran.code, ran.out) == (0, "unsat\n")
    assert "root " in ran.err and "CROWN" in ran.err and "refuted" in ran.err


def test_log_that_cannot_be_written(command: Command, tmp_path: Path) -> None:
    ran = command("run", MODEL, UNSAT, "--log-json", tmp_path / "nowhere" / "log.jsonl")
    assert (ran.code, ran.out) == (2, "")
    assert "log.jsonl" in ran.err and "Traceback" not in ran.err


def hard(folder: Path) -> tuple[Path, Path]:
    """A wide random network and a threshold that no attack reaches and no bound at the root."""
    layers = random_layers(0, (40, 120, 120, 120, 1))
    model, text = folder / "hard.onnx", folder / "hard.vnnlib"
    onnx.save(relu_model(layers), model)
    x = np.random.default_rng(0).uniform(-1, 1, (2000, 40)).astype(np.float32)
    for i, (weight, bias) in enumerate(layers):
        x = x @ weight.T + bias
        x = np.maximum(x, 0) if i < len(layers) - 1 else x
    threshold = round(float(x.min() - 8 * (x.max() - x.min())), 3)
    text.write_text(property_text([-1.0] * 40, [1.0] * 40, 1, f"(<= Y_0 {threshold})"))
    return model, text


def test_timeout_holds(tmp_path: Path) -> None:
    """In a process of its own: exit code 1, and no more than some seconds of CPU time, whatever else the machine does."""
    ran, seconds = process("run", *hard(tmp_path), "--timeout", 3, "--device", "cpu")
    assert (ran.code, ran.out) == (1, "timeout\n"), ran.err
    assert "Traceback" not in ran.err
    assert seconds < 30  # the start, 3 s of two threads; without a limit it takes hours


def test_module_runs_as_a_process() -> None:
    ran, _ = process("run", MODEL, UNSAT, "--device", "cpu", "--quiet")
    assert (ran.code, ran.out, ran.err) == (0, "unsat\n", "")


def write(path: Path, content: str | bytes) -> Path:
    """A file."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def small(path: Path, spoil: float | None = None) -> Path:
    """A model of two inputs and two outputs."""
    layers = random_layers(3, (2, 3, 2))
    if spoil is not None:
        layers[0][0][0, 0] = spoil
    onnx.save(relu_model(layers), path)
    return path


GOOD = property_text([0.0, 0.0], [1.0, 1.0], 2, "(<= Y_0 Y_1)")
BAD_PROPERTIES = {
    "unbalanced": GOOD[:-3],
    "unknown function": GOOD.replace("(<= Y_0 Y_1)", "(foo Y_0 Y_1)"),
    "unknown variable": GOOD.replace("Y_1)", "Y_7)"),
    "not a number": GOOD.replace("1.0", "1.0.0"),
    "unbounded": GOOD.replace("(assert (>= X_1 0.0))", ""),
    "nonlinear": GOOD.replace("(<= Y_0 Y_1)", "(<= (* Y_0 Y_1) 0.0)"),
    "empty file": "",
    "wrong inputs": property_text([0.0] * 3, [1.0] * 3, 2, "(<= Y_0 Y_1)"),
    "wrong outputs": property_text([0.0] * 2, [1.0] * 2, 4, "(<= Y_0 Y_1)"),
    "binary": "\x00\x01\x02\x7f",
}


def assert_refused(ran: Ran, *names: str) -> None:
    """Exit code 2, a message that names the file, nothing on stdout, no traceback."""
    assert (ran.code, ran.out) == (2, ""), ran.err
    assert "Traceback" not in ran.err
    assert all(name in ran.err for name in names), ran.err
    assert len(ran.err.strip()) > 20


@pytest.mark.parametrize("kind", BAD_PROPERTIES)
def test_bad_properties_are_refused(command: Command, tmp_path: Path, kind: str) -> None:
    text = write(tmp_path / "bad.vnnlib", BAD_PROPERTIES[kind])
    assert_refused(command("run", small(tmp_path / "net.onnx"), text), "bad.vnnlib")


def test_bad_models_are_refused(command: Command, tmp_path: Path) -> None:
    text = write(tmp_path / "good.vnnlib", GOOD)
    whole = small(tmp_path / "net.onnx").read_bytes()
    bad = {
        "truncated.onnx": whole[: len(whole) // 2],
        "text.onnx": "this is no model\n",
        "empty.onnx": b"",
        "noise.onnx": bytes(range(256)) * 4,
        "truncated.onnx.gz": b"\x1f\x8b\x08\x00abc",
    }
    for name, content in bad.items():
        assert_refused(command("run", write(tmp_path / name, content), text), name)
    for name, value in (("nan.onnx", float("nan")), ("infinite.onnx", float("inf"))):
        assert_refused(command("run", small(tmp_path / name, value), text), name)


def test_missing_files_and_directories(command: Command, tmp_path: Path) -> None:
    model, text = small(tmp_path / "net.onnx"), write(tmp_path / "good.vnnlib", GOOD)
    assert_refused(command("run", tmp_path / "absent.onnx", text), "absent.onnx")
    assert_refused(command("run", model, tmp_path / "absent.vnnlib"), "absent.vnnlib")
    folder = tmp_path / "folder"
    folder.mkdir()
    assert_refused(command("run", folder, text), "folder")
    assert_refused(command("run", model, folder), "folder")
    assert_refused(command("info", tmp_path / "absent.onnx"), "absent.onnx")
    assert_refused(command("bounds", tmp_path / "absent.onnx", text), "there is no such file; check the path")
    for name in ("packed.onnx", "packed.vnnlib"):
        (tmp_path / f"{name}.gz").touch()
    assert_refused(command("info", tmp_path / "packed.onnx"), "no such file; give packed.onnx.gz")
    assert_refused(command("run", model, tmp_path / "packed.vnnlib"), "no such file; give packed.vnnlib.gz")


@pytest.mark.parametrize("arguments", [
    ("--device", "quantum"), ("--preset", "heroic"), ("--timeout", "0"), ("--timeout", "soon"), ("--format", "xml"),
    ("--nonsense",), ("--timeout", "nan"), ("--timeout", "-1"), ("--seed", "-1"), ("--seed", "9" * 5000), ("--device", "mps"), ("--device", "meta"),
    ("--device", "cuda:99"), ("--device", "cpu:1"), ("--device", ""),
], ids=lambda arguments: " ".join(arguments)[:20])  # fmt: skip
def test_bad_options_are_refused(command: Command, tmp_path: Path, arguments: Sequence[str]) -> None:
    model, text = small(tmp_path / "net.onnx"), write(tmp_path / "good.vnnlib", GOOD)
    assert_refused(command("run", model, text, *arguments), arguments[0])


def test_empty_box_is_unsat(command: Command, tmp_path: Path) -> None:
    """No input at all violates nothing."""
    text = write(tmp_path / "empty.vnnlib", property_text([1.0, 0.0], [0.5, 1.0], 2, "(<= Y_0 Y_1)"))
    ran = command("run", small(tmp_path / "net.onnx"), text, "--device", "cpu")
    assert (ran.code, ran.out) == (0, "unsat\n")


@pytest.mark.parametrize(
    "options", [(), ("--quiet",), ("--format", "json"), ("--format", "json", "--quiet")], ids=str
)
def test_vacuous_properties_are_said_to_be(command: Command, tmp_path: Path, options: Sequence[str]) -> None:
    """Whatever the options: nobody means a box without inputs."""
    model = small(tmp_path / "net.onnx")
    empty = write(tmp_path / "empty.vnnlib", property_text([1.0, 0.0], [0.5, 1.0], 2, "(<= Y_0 Y_1)"))
    for text, vacuous in ((empty, True), (write(tmp_path / "good.vnnlib", GOOD), False)):
        for name in ("run", "bounds") if "--quiet" not in options else ("run",):
            ran = command(name, model, text, "--device", "cpu", *options)
            assert ran.code == 0
            assert (f"verify: warning: {text}: the property is vacuous" in ran.err) == vacuous
            if "json" in options:
                assert json.loads(ran.out)["vacuous"] is vacuous
    ran = command("verify", empty, "--network", f"f={model}", "--device", "cpu")
    assert (ran.code, ran.out) == (0, "unsat\n")
    assert "vacuous" in ran.err


def test_a_certificate_of_a_vacuous_property_says_so(command: Command, tmp_path: Path) -> None:
    model = small(tmp_path / "net.onnx")
    text = write(tmp_path / "empty.vnnlib", property_text([1.0, 0.0], [0.5, 1.0], 2, "(<= Y_0 Y_1)"))
    assert command("run", model, text, "--device", "cpu", "--certificate", tmp_path / "c").out == "unsat\n"
    for arguments in (
        ("check", tmp_path / "c", model, text),
        ("certificate", "show", tmp_path / "c", model, text),
    ):
        ran = command(*arguments)
        assert ran.code == 0
        assert "vacuous" in ran.out


def clause_bounds(
    command: Command, *arguments: object
) -> tuple[np.ndarray, dict[str, Any], list[dict[str, Any]]]:
    """The final bounds of `verify bounds --format json`, the whole object, and the lines of the trace before it."""
    ran = command("bounds", MODEL, SAT, "--format", "json", "--device", "cpu", *arguments)
    assert (ran.code, ran.err) == (0, "")
    *trace, record = (json.loads(line) for line in ran.out.splitlines())
    assert [clause["index"] for clause in record["clauses"]] == list(range(9))
    return np.array([clause["bound"] for clause in record["clauses"]]), record, trace


def test_bounds_are_ordered(command: Command) -> None:
    """interval <= crown <= every ascent <= lp, each method by its own name."""
    found = {}
    for method in METHODS:
        bounds, record, trace = clause_bounds(command, "--method", method, "--iterations", 30)
        assert (record["method"], trace) == (method, [])
        assert record["iterations"] == {"interval": 0, "crown": 0, "lp": 9}.get(method, 30)
        assert record["seconds"] > 0
        assert record["intermediate_seconds"] > 0
        found[method] = bounds
    assert (found["interval"] <= found["crown"] + 1e-9).all()
    for method in METHODS[2:]:
        assert (found["crown"] <= found[method] + 1e-9).all()
        assert (found[method] <= found["lp"] + 1e-7).all()
    assert found["restricted"].sum() > found["crown"].sum()


def test_methods_are_those_of_the_library() -> None:
    """The command line names them without loading the library."""
    choices = {option.name: option.type for option in cli.cli.commands["bounds"].params}
    for name, known in (("method", METHODS), ("intermediate", INTERMEDIATE)):
        choice = choices[name]
        assert isinstance(choice, click.Choice)
        assert tuple(choice.choices) == known


@pytest.mark.parametrize("method", ["supergradient", "lp", "crown"])
def test_traces_rise_to_the_final_bounds(command: Command, method: str) -> None:
    final, record, trace = clause_bounds(command, "--method", method, "--iterations", 4, "--trace")
    assert [line["iteration"] for line in trace] == list(range(record["iterations"] + 1))
    assert all(line["first_clause"] == 0 for line in trace)
    seconds, bounds = (
        np.array([line["seconds"] for line in trace]),
        np.array([line["bounds"] for line in trace]),
    )
    assert (np.diff(seconds) >= 0).all()
    assert (np.diff(bounds, axis=0) >= 0).all()
    np.testing.assert_allclose(bounds[-1], final, rtol=1e-9, atol=1e-9)


def test_time_stops_bounding(command: Command) -> None:
    """By its own clock, with room for a loaded machine."""
    _, record, _ = clause_bounds(command, "--method", "proximal", "--iterations", 10**6, "--time", 0.5)
    assert record["iterations"] < 10**6
    assert record["seconds"] < 5


def test_optimised_intermediate_bounds_are_tighter(command: Command) -> None:
    plain, _, _ = clause_bounds(command, "--method", "lp")
    found, record, _ = clause_bounds(command, "--method", "lp", "--intermediate", "optimised", "--layers")
    assert (found >= plain - 1e-7).all()
    assert found.sum() > plain.sum()
    for layer in record["layers"]:
        assert layer["unstable"] <= layer["unstable_interval"] <= layer["neurons"] == len(layer["lower"])
    assert record["layers"][-1]["unstable"] < record["layers"][-1]["unstable_interval"]


def test_bounds_text_and_layers(command: Command) -> None:
    ran = command("bounds", MODEL, UNSAT, "--layers", "--method", "crown", "--device", "cpu")
    lines = ran.out.splitlines()
    assert ran.code == 0
    assert [line.split(":")[0] for line in lines[:9]] == [f"clause {i}" for i in range(9)]
    assert re.search(r"\d+ unstable \(\d+\.\d% by intervals, \d+\.\d% now\)", lines[-1])


def test_info(command: Command) -> None:
    text = command("info", MODEL, UNSAT)
    assert text.code == 0
    assert "clauses     9 over 1 boxes" in text.out
    record = json.loads(command("info", MODEL, UNSAT, "--format", "json").out)
    assert record["property"]["clauses"] == 9
    assert record["input"]["shape"] and record["neurons"] > 0
    assert "property" not in json.loads(command("info", MODEL, "--format", "json").out)


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """All commands, groups of them included."""
    yield path
    for name, found in group.commands.items():
        yield from _commands(found, (*path, name)) if isinstance(found, click.Group) else [(*path, name)]


def test_help_names_exit_codes_and_examples(command: Command) -> None:
    """Of every command; an example is a command that there is, and the list of all cuts none of its lines off."""
    every = list(_commands(cli.cli))
    assert len(every) >= 15 and "..." not in command("--help").out.partition("Commands:")[2]
    for path in every:
        ran = command(*path, "-h")
        assert ran.code == 0 and "Exit codes" in ran.out
        examples = re.findall(r"^ +verify (.+)$", ran.out.partition("Examples:")[2], re.MULTILINE)
        assert examples, path
        for example in examples if path else ():
            assert example.startswith(" ".join(path)) or (len(path) == 1 and path[0] == "certificate"), (
                example
            )
    assert command("--version").out == f"{__version__}\n"
