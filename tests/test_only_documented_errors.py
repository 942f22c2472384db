"""Nothing but the documented errors escapes: from no public name with any arguments, from no command with any options.

Arguments are drawn from what fits and from what does not: other types, shapes, extreme numbers, objects that raise. Python may
give a result or a VerifyError; a command one of its exit codes, and never a traceback.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nets import property_text, random_layers, relu_model
from torch import nn

import verify
from verify import cli
from verify.bab.progress import Silent
from verify.errors import BAD_INPUT, DECIDED, RESOURCES, UNDECIDED
from verify.formats import vnnlib

TEXT = property_text([0.0] * 3, [1.0] * 3, 2, "(<= Y_0 -1000.0)")
QUERY = """(vnnlib-version <2.0>)
(declare-network f (declare-input X float32 [1,3]) (declare-output Y float32 [1,2]))
(assert (and (>= X[0,0] 0.0) (<= X[0,0] 1.0) (>= X[0,1] 0.0) (<= X[0,1] 1.0) (>= X[0,2] 0.0) (<= X[0,2] 1.0)))
(assert (<= Y[0,0] -1000.0))
"""


class Hostile:
    """An object that raises whatever is asked of it."""

    def __array__(self, *_: object, **__: object) -> Any:
        raise RuntimeError("no array")

    def __len__(self) -> int:
        raise OSError("no length")

    def __iter__(self) -> Any:
        raise KeyError("no parts")

    def detach(self) -> Any:
        raise ZeroDivisionError


def module() -> nn.Module:
    """A classifier of 3 inputs and 2 outputs."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def model() -> onnx.ModelProto:
    """The same kind as ONNX."""
    return relu_model(random_layers(0, (3, 4, 2)))


def print_nothing(*_: object) -> None:
    """Takes everything."""


class Raising(nn.Module):
    """A module that does not run."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise LookupError("nothing here")


# Everything is made anew for every call: some of it can be used once.
ODD: dict[str, Callable[[], Any]] = {
    "None": lambda: None, "True": lambda: True, "0": lambda: 0, "-1": lambda: -1, "1": lambda: 1, "1.0": lambda: 1.0,
    "2^70": lambda: 2**70, "10^5000": lambda: 10**5000, "1e308": lambda: 1e308, "-1e308": lambda: -1e308, "tiny": lambda: 5e-324,
    "nan": lambda: float("nan"), "inf": lambda: float("inf"), "fraction": lambda: Fraction(1, 3), "decimal": lambda: Decimal("0.1"),
    "no text": lambda: "", "text": lambda: "x", "NUL": lambda: "a\0b", "half a pair": lambda: "\ud800", "brace": lambda: "(assert",
    "comment": lambda: ";", "long": lambda: "a" * 5000, "bytes": lambda: b"\x08\x07", "no bytes": lambda: b"", "[]": list,
    "[[]]": lambda: [[]], "ragged": lambda: [1, [2]], "pair": lambda: (0.0, 1.0), "reversed": lambda: (1.0, 0.0), "{}": dict,
    "mapping": lambda: {"f": 3}, "set": lambda: {1.0, 2.0}, "object": object, "generator": lambda: (i for i in range(3)),
    "function": lambda: print_nothing, "class": lambda: nn.Linear, "hostile": Hostile, "dtype": lambda: torch.float32, "range": lambda: range(3),
    "zeros": lambda: np.zeros((1, 3)), "halves": lambda: np.full(3, 0.5, np.float16), "empty": lambda: np.zeros((1, 0)),
    "matrix": lambda: np.zeros((2, 3)), "integers": lambda: np.array([0, 1, 2]), "wide": lambda: np.array([2**63 - 1] * 3),
    "booleans": lambda: np.zeros(3, bool), "objects": lambda: np.array([None, 1, "a"]), "strings": lambda: np.array(["0", "1", "2"]),
    "complex": lambda: np.ones(3, complex), "masked": lambda: np.ma.masked_array(np.zeros(3), [True, False, False]),
    "dates": lambda: np.zeros(3, "M8[s]"), "long doubles": lambda: np.full(3, np.longdouble(1) / 3), "nans": lambda: np.full((1, 3), np.nan),
    "record": lambda: np.zeros(3, "i4,f4"), "tensor": lambda: torch.full((1, 3), 0.5), "gradients": lambda: torch.rand(1, 3, requires_grad=True),
    "bfloat16": lambda: torch.zeros(1, 3, dtype=torch.bfloat16), "complex tensor": lambda: torch.ones(1, 3, dtype=torch.complex64),
    "meta": lambda: torch.zeros(1, 3, device="meta"), "sparse": lambda: torch.eye(3)[:1].to_sparse(), "scalar": lambda: torch.tensor(1.0),
    "tensors": lambda: (torch.zeros(1, 3), torch.zeros(1, 3)), "batch": lambda: torch.zeros(2, 3), "int tensor": lambda: torch.tensor([1]),
    "module": module, "training": lambda: module().train(), "half module": lambda: module().half(), "raising": Raising,
    "meta module": lambda: module().to("meta"), "lazy module": lambda: nn.LazyLinear(2), "recurrent": lambda: nn.LSTM(3, 2),
    "device": lambda: torch.device("meta"), "cuda": lambda: "cuda:77", "mps": lambda: "mps", "path": lambda: Path("no/such/file"),
    "folder": lambda: Path("."), "proto": onnx.ModelProto, "tensor proto": onnx.TensorProto, "graph proto": onnx.GraphProto,
    "ball": lambda: verify.LinfBall([0.5, 0.5, 0.5], 0.1, 0), "row": lambda: verify.Row([1.0, 0.0], 0.0), "query": lambda: QUERY,
    "property": lambda: TEXT, "specification": lambda: verify.Specification(([0.0] * 3, [1.0] * 3), [[([1.0, 0.0], -9.0)]]),
}  # fmt: skip
odd = st.sampled_from(sorted(ODD)).map(lambda name: ODD[name]())


def one_of(*good: Callable[[], Any]) -> st.SearchStrategy[Any]:
    """Something that fits, three times of four."""
    return st.integers(0, 3).flatmap(
        lambda n: odd if n == 0 else st.sampled_from(good).map(lambda make: make())
    )


def options(**good: Callable[[], Any] | st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of the named arguments."""
    optional = {
        name: make if isinstance(make, st.SearchStrategy) else one_of(make) for name, make in good.items()
    }
    return st.fixed_dictionaries({}, optional=optional)


LOADED = verify.load(model())
SQUARE = verify.load(nn.Linear(3, 3), torch.zeros(1, 3))
TUBE = verify.reach(SQUARE, ([0.0] * 3, [1.0] * 3), 2)
STUDY = verify.certify(LOADED, np.full((2, 3), 0.5), [0, 1], epsilon=0.25)
MODELS = one_of(model, lambda: model().SerializeToString(), module, lambda: LOADED)
EXAMPLES = one_of(lambda: torch.zeros(1, 3), lambda: np.zeros((1, 3), np.float32))
SPECIFICATIONS = one_of(ODD["ball"], ODD["property"], ODD["specification"], ODD["query"])
NUMBERS = one_of(lambda: 0.0, lambda: 0.25)
ARRAYS = one_of(lambda: [0.5, 0.5, 0.5], ODD["tensor"], lambda: np.full((1, 3), 0.75, np.float32))
ROWS = st.builds(lambda c, t: (c, t), one_of(lambda: [1.0, 0.0]), NUMBERS)
UNSAFE = st.one_of(odd, st.lists(st.one_of(odd, st.lists(st.one_of(odd, ROWS), max_size=2)), max_size=2))
# What has an `update` is taken for a reporter, a dict too, and what can be called for an observer; what they raise is their own affair.
OBSERVERS = st.sampled_from([None, print_nothing, 3, "x", Hostile()])
REPORTERS = st.sampled_from([None, Silent(), 3, "x", Hostile(), Silent, len])
ITERATIONS = st.sampled_from([None, 0, 2, -1, 1.5, "2", True, float("nan"), np.int64(3)])  # many take long
COMMON: dict[str, Callable[[], Any]] = {"device": lambda: "cpu", "example_input": lambda: torch.zeros(1, 3)}


def _texts(builder: Any) -> None:
    """Everything that a builder does, and what comes of it."""
    builder.text()
    if not isinstance(builder, verify.Row):
        verify.bounds(model(), builder, method="crown", device="cpu")


def _asked(builder: verify.PropertyBuilder) -> None:
    """The sentence and the text of a builder, and bounds of what it says."""
    assert str(builder) and builder.text_for((1, 3), (1, 2))
    verify.bounds(LOADED, builder, method="interval", device="cpu")


BOXES, LABELS = one_of(lambda: ([0.0] * 3, [1.0] * 3)), one_of(lambda: 0, lambda: np.int64(1))
NORMALISED: dict[str, Callable[[], Any]] = {
    "clip": lambda: (0, 1), "mean": lambda: 0.5, "std": lambda: [0.5, 1.0, 2.0],
}  # fmt: skip
IMAGES = one_of(lambda: np.full((1, 3), 0.5), ODD["tensor"])
CONDITIONS = one_of(lambda: verify.y[0] <= 1, lambda: verify.y[0] * verify.x[1] > 2, lambda: verify.y[5] <= 1)


def _compared(place: Any, factor: Any, number: Any) -> Any:
    return ~((verify.x[place] * factor - number <= verify.y[0]) | (number != verify.x[0]))


CALLS: dict[str, st.SearchStrategy[Callable[[], Any]]] = {
    "verify": st.builds(
        lambda m, s, o: lambda: verify.verify(m, s, **{"timeout": 5, "device": "cpu", **o}), MODELS, SPECIFICATIONS,
        options(
            **COMMON, timeout=lambda: 5, preset_name=lambda: "fast", seed=lambda: 1, reporter=REPORTERS, certificate=lambda: None,
            semantics=lambda: "real", rigorous=lambda: True, trim=lambda: False, output=lambda: None,
        ),
    ),
    "bundle": st.builds(
        lambda f, m, s, o: lambda: verify.bundle(f, m, s, **{"timeout": 5, "device": "cpu", **o}), one_of(lambda: "new.zip"), one_of(lambda: model().SerializeToString(), lambda: LOADED),
        one_of(ODD["ball"], ODD["property"]), options(**COMMON, timeout=lambda: 5, preset_name=lambda: "fast", seed=lambda: 1, semantics=lambda: "real", output=lambda: None),
    ),
    "bounds": st.builds(
        lambda m, s, o: lambda: verify.bounds(m, s, **{"iterations": 2, "device": "cpu", **o}), MODELS, SPECIFICATIONS,
        options(
            **COMMON, method=lambda: "crown", iterations=ITERATIONS, time_limit=lambda: 1.0, intermediate=lambda: "optimised",
            observe=OBSERVERS, output=lambda: None,
        ),
    ),
    "load": st.builds(
        lambda m, o: lambda: verify.load(m, **o), MODELS,
        options(example_input=COMMON["example_input"], box=lambda: (np.zeros(3), np.ones(3)), fold=lambda: True, output=lambda: None, hint=lambda: (1, 3)),
    ),
    "Row": st.builds(lambda c, t: lambda: _texts(verify.Row(c, t)), one_of(lambda: [1.0, 0.5]), NUMBERS),
    "Specification": st.builds(
        lambda b, u: lambda: _texts(verify.Specification(b, u)), one_of(lambda: ([0.0] * 3, [1.0] * 3)), UNSAFE
    ),
    "LinfBall": st.builds(
        lambda x, e, y, o: lambda: _texts(verify.LinfBall(x, e, y, **o)), ARRAYS, NUMBERS, one_of(lambda: 0, lambda: np.int64(1)),
        options(classes=lambda: 2, clip=lambda: (0, 1)),
    ),
    **{
        name: st.builds(lambda kind, x, e, y, o: lambda: _asked(kind(x, e, y, **o)), st.just(getattr(verify, name)), ARRAYS, NUMBERS, LABELS, options(**NORMALISED))
        for name in ("L1Ball", "L2Ball")
    },
    "Patch": st.builds(
        lambda x, y, o: lambda: _asked(verify.Patch(x, y, **o)), IMAGES, LABELS, options(**NORMALISED, size=lambda: (1, 2), at=lambda: (0, 1))
    ),
    "Brightness": st.builds(
        lambda x, y, o: lambda: _asked(verify.Brightness(x, y, **o)), ARRAYS, LABELS,
        options(**NORMALISED, brightness=lambda: 0.25, contrast=lambda: (0.5, 1.5)),
    ),
    "BiasField": st.builds(
        lambda x, y, o: lambda: _asked(verify.BiasField(x, y, **o)), IMAGES, LABELS,
        options(**NORMALISED, order=lambda: 1, brightness=lambda: [[0.25, 0.1], [0.1, 0.0]], contrast=lambda: 0.25),
    ),
    "Monotone": st.builds(
        lambda b, i, o: lambda: _asked(verify.Monotone(b, i, **o)), BOXES, one_of(lambda: 1),
        options(up=lambda: False, output=lambda: 1, tolerance=lambda: 0.5),
    ),
    "Fair": st.builds(
        lambda b, p, o: lambda: _asked(verify.Fair(b, p, **o)), BOXES, one_of(lambda: [0, 2], lambda: {1: [0, 1]}), options(margin=lambda: 0.5)
    ),
    "Lipschitz": st.builds(lambda b, c, o: lambda: _asked(verify.Lipschitz(b, c, **o)), BOXES, NUMBERS, options(slack=lambda: 0.5)),
    "OutputRange": st.builds(
        lambda b, o: lambda: _asked(verify.OutputRange(b, **o)), BOXES, options(lower=lambda: -1, upper=lambda: [1, 2])
    ),
    "Always": st.builds(lambda c, b: lambda: _asked(verify.Always(c, b)), CONDITIONS, BOXES),
    "Never": st.builds(lambda c, b: lambda: _asked(verify.Never(c, b)), CONDITIONS, BOXES),
    "x": st.builds(lambda i, f, n: lambda: _compared(i, f, n), one_of(lambda: 0, lambda: (0, 1)), NUMBERS, NUMBERS),
    "y": st.builds(lambda i, c: lambda: (verify.y[i] >= 0) & c, one_of(lambda: 1), CONDITIONS),
    "certify": st.builds(
        lambda m, x, y, e, o: lambda: str(verify.certify(m, x, y, **{"epsilon": e, "timeout": 5, "device": "cpu", **o})), MODELS,
        one_of(lambda: np.full((2, 3), 0.5), lambda: torch.rand(2, 3), lambda: [([0.5, 0.5, 0.5], 0)]), one_of(lambda: [0, 1], lambda: None),
        one_of(lambda: 0.1, lambda: [0.05, 0.2]),
        options(
            **NORMALISED, norm=lambda: 2, timeout=lambda: 5, limit=lambda: 1, out=lambda: "study", certificates=lambda: False, device=lambda: "cpu",
            preset_name=lambda: "fast", seed=lambda: 1, output=lambda: None, observe=OBSERVERS,
        ),
    ),
    "radius": st.builds(
        lambda m, x, y, o: lambda: verify.radius(m, x, y, **{"tolerance": 0.1, "timeout": 5, "device": "cpu", **o}), MODELS, ARRAYS,
        one_of(lambda: None, lambda: 0),
        options(
            **NORMALISED, norm=lambda: "2", tolerance=lambda: 0.2, largest=lambda: 0.5, timeout=lambda: 5, search_timeout=lambda: 1, seed=lambda: 1,
            preset_name=lambda: "fast", device=lambda: "cpu", output=lambda: None, observe=OBSERVERS,
        ),
    ),
    "output_range": st.builds(
        lambda m, b, o: lambda: verify.output_range(m, b, **{"device": "cpu", **o}), MODELS, one_of(lambda: ([0.0] * 3, [1.0] * 3), lambda: torch.tensor([[[0.0] * 3] * 2] * 2)),
        options(
            **COMMON, method=lambda: "interval", iterations=ITERATIONS, layers=lambda: True, differentiable=lambda: False, output=lambda: None
        ),
    ),
    "reach": st.builds(
        lambda m, b, k, o: lambda: verify.reach(m, b, k, **{"device": "cpu", "method": "interval", **o}).stays_within(0.0, 1.0),
        one_of(lambda: nn.Sequential(nn.Linear(3, 3), nn.Tanh()), lambda: SQUARE), BOXES, one_of(lambda: 2),
        options(
            **COMMON, method=lambda: "crown", iterations=ITERATIONS, horizon=lambda: 2, pieces=lambda: (1, 2, 1), timeout=lambda: 5, seed=lambda: 1,
            output=lambda: None,
        ),
    ),
    "Tube": st.builds(lambda a, b: lambda: TUBE.stays_within(a, b), one_of(lambda: -1, lambda: [0.0] * 3), one_of(lambda: 1)),
    "report": st.builds(lambda r, f: lambda: verify.report(r, f), one_of(lambda: STUDY, lambda: TUBE), one_of(lambda: None, lambda: "page.html")),
    "Study": st.builds(
        lambda e, v: lambda: (STUDY.accuracy(e), STUDY.images(v, e)), one_of(lambda: 0.25), one_of(lambda: "sat", lambda: None)
    ),
    "LoadedModel": st.builds(lambda x: lambda: LOADED.evaluate(x), one_of(lambda: np.zeros(3), lambda: np.zeros((2, 3), np.float32))),
    "Problem": st.builds(
        lambda m, s: lambda: verify.Problem(m, s), one_of(lambda: LOADED), one_of(lambda: vnnlib.parse(TEXT))
    ),
}  # fmt: skip
# What is only given back, and what is raised.
PLAIN = {
    "Accuracy",
    "ClauseBounds",
    "PropertyBuilder",
    "Radius",
    "Ranges",
    "Result",
    "Witness",
    "InputError",
    "ResourceError",
    "VerifyError",
    "VacuousWarning",
    "DialectWarning",
    "ModeWarning",
}


def test_all_public_names_are_called() -> None:
    assert set(CALLS) | PLAIN == set(verify.__all__)


@pytest.mark.parametrize("name", sorted(CALLS))
def test_python_gives_a_result_or_a_documented_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # odd certificates are written somewhere
    refused: list[str] = []
    done: list[object] = []

    @settings(max_examples=40 if name == "bundle" else 150)  # which proves and packs
    @given(CALLS[name])
    def calls(call: Callable[[], Any]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                done.append(call())
            except verify.VerifyError as error:
                refused.append(str(error))

    calls()
    assert done
    assert refused
    assert min(map(len, refused)) > 20


# -- the command line

VALUES = {
    "--timeout": ("5", "nan", "inf", "-1", "0", "1e-9", "soon", "1e400", ""), "--device": ("cpu", "mps", "cuda:99", "auto:1", "meta", ""),
    "--preset": ("fast", "slow"), "--seed": ("3", "-1", "1e3", "9" * 40, "9" * 5000), "--format": ("json", "text", "xml"),
    "--semantics": ("real", "ieee32-any-order", "x"), "--method": ("crown", "interval", "guess"), "--iterations": ("0", "2", "-1"),
    "--time": ("1", "nan", "0"), "--intermediate": ("crown", "x"), "--jobs": ("1", "0", "-3"), "--grace": ("nan", "5"),
    "--eps": ("0.1", "0.1,0.2", "8/255", "1/0", "nan", "-1", "", "a", "1e999"), "--norm": ("2", "1", "3"), "--clip": ("0,1", "none", "1,0", "0", "nan,1"),
    "--mean": ("0.5", "1,2", "x"), "--std": ("0.5", "0", "inf"), "--limit": ("1", "0"), "--sample": ("1", "9" * 30, "-1"), "--tolerance": ("0.1", "0", "nan"),
    "--largest": ("0.5", "-1", "nan"), "--search-timeout": ("1", "0", "nan"),
    "--restart": ("0", "2"), "--network": ("f=net.onnx", "f", "=", "f=", "f=none.onnx", "f=folder"),
}  # fmt: skip
FLAGS = ("--certificates", "--quiet", "--trim", "--no-rigorous", "--trace", "--layers", "--exact", "--help")
FILES = (
    "net.onnx", "good.vnnlib", "net.onnx", "good.vnnlib", "query.vnnlib", "vacuous.vnnlib", "none.onnx", "folder", "empty", "noise",
    "data.npz", "data.npz", "data.npy", "broken.gz", "loop", "sealed", "instances.csv", "", "a" * 300, "-", "\udcff", "/dev/null",
)  # fmt: skip
FITTING = {
    "run": ["net.onnx", "good.vnnlib"], "bounds": ["net.onnx", "good.vnnlib"], "info": ["net.onnx"], "bundle": ["new.zip", "net.onnx", "good.vnnlib"],
    "certify": ["net.onnx", "data.npz", "--eps", "0.1"], "radius": ["net.onnx", "data.npz"],
}  # fmt: skip
OUTPUTS = {"--log-json", "--certificate", "--out", "--report", "--witnesses", "--serialise-assignments"}
TARGETS = ("new", "folder", "folder/new", "none/new", "good.vnnlib", "/dev/null", "", "loop")


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A command and some of what it takes, and of what it does not."""
    names = sorted(
        name for name in cli.cli.commands if name != "suite"
    )  # which starts processes: a test of its own
    command = draw(st.sampled_from(names))
    line = [command, *(["show", "trim"][draw(st.integers(0, 1)) :][:1] if command == "certificate" else [])]
    known = sorted(
        {option for one in cli.cli.commands[command].params for option in one.opts if option.startswith("--")}
    )
    for option in draw(st.lists(st.sampled_from(known), max_size=3, unique=True)) if known else []:
        line.append(option)
        if option in OUTPUTS:
            line.append(draw(st.sampled_from(TARGETS)))
        elif option in VALUES:
            line.append(draw(st.sampled_from(VALUES[option])))
    if draw(st.integers(0, 9)) == 0:
        line.append(draw(st.sampled_from((*FLAGS, "--nonsense"))))
    if command in FITTING and draw(st.integers(0, 2)) == 0:
        return line + FITTING[command]
    files = [
        name for name in FILES if (command, name) != ("suite", "instances.csv")
    ]  # which would start processes
    return line + draw(st.lists(st.sampled_from(files), min_size=1, max_size=4))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with files good and bad."""
    onnx.save(model(), tmp_path / "net.onnx")
    for name, text in (
        ("good.vnnlib", TEXT), ("query.vnnlib", QUERY), ("empty", ""), ("instances.csv", "net.onnx,good.vnnlib,5\n"),
        ("vacuous.vnnlib", property_text([1.0] * 3, [0.0] * 3, 2, "(<= Y_0 0.0)")),
    ):  # fmt: skip
        (tmp_path / name).write_text(text)
    np.savez(tmp_path / "data.npz", x=np.full((2, 3), 0.5), y=[0, 1])
    np.save(tmp_path / "data.npy", np.full((2, 3), 0.5))
    (tmp_path / "noise").write_bytes(bytes(range(256)) * 4)
    (tmp_path / "broken.gz").write_bytes(b"\x1f\x8b\x08\x00abc")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "sealed").write_text(TEXT)
    (tmp_path / "sealed").chmod(0)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_end_with_documented_codes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    codes: list[int] = []

    @settings(max_examples=250, suppress_health_check=[HealthCheck.too_slow])
    @given(command_lines())
    def run(line: list[str]) -> None:
        monkeypatch.setattr(sys, "argv", ["verify", *line])
        monkeypatch.setattr(cli, "_STARTED", time.monotonic())
        onnx.save(model(), folder / "net.onnx")
        (folder / "good.vnnlib").write_text(TEXT)
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capfd.readouterr()
        code = int(stop.value.code or 0)
        assert code in (DECIDED, UNDECIDED, BAD_INPUT, RESOURCES), err
        assert "Traceback" not in err
        assert code != BAD_INPUT or (not out and err.strip())
        codes.append(code)

    run()
    assert {DECIDED, BAD_INPUT} <= set(codes)
