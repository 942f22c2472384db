"""The request: checked where it is said, data that travels, and what every start begins with."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from verify import api, cli, extensions, run, settings
from verify.bab.progress import Silent
from verify.checker import checking
from verify.errors import InputError
from verify.request import METHODS, PRESETS, SEMANTICS, Request
from verify.result import Result
from verify.suite import worker
from verify.suite.instances import Instance
from verify.suite.runner import Settings

ROOT = Path(__file__).resolve().parents[1]
CONTROLLER = ROOT / "properties" / "controller"
MODEL, PROPERTY = CONTROLLER / "onnx" / "controller.onnx", CONTROLLER / "vnnlib" / "ordered_thrusts.vnnlib"
FULL = Request(
    "m.onnx",
    "p.vnnlib",
    60.0,
    "cuda:1",
    "fast",
    7,
    Path("proof"),
    "ieee32-any-order",
    trim=True,
    memory=3 * 2**30,
)


@pytest.mark.parametrize("request_", [Request("m.onnx", "p.vnnlib"), FULL])
def test_a_request_travels(request_: Request) -> None:
    """By pickle, and as JSON where its parts are text."""
    assert pickle.loads(pickle.dumps(request_)) == request_
    text = json.dumps(dataclasses.asdict(request_), default=str)
    assert Request(**json.loads(text)) == request_
    assert dataclasses.replace(request_, seed=request_.seed) == request_


def test_what_python_gives_becomes_plain() -> None:
    found = Request(
        "m",
        "p",
        torch.tensor(2.5),
        seed=np.int64(3),
        rigorous=np.bool_(False),
        certificate=None,
        memory=np.int32(9),
    )
    assert (found.timeout, found.seed, found.rigorous, found.memory) == (2.5, 3, False, 9)
    kinds = [type(value) for value in (found.timeout, found.seed, found.rigorous, found.memory)]
    assert kinds == [float, int, bool, int]
    assert Request("m", "p", math.inf).timeout is None
    assert Request("m", "p").deadline(5.0).at == math.inf
    assert Request("m", "p", 60).deadline(5.0).at == 65.0


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"timeout": 0}, "timeout is 0.0; give seconds above 0, or None for no limit"),
        ({"timeout": math.nan}, "timeout is nan; give numbers"),
        ({"timeout": "60"}, "timeout is '60', not real numbers; give float or int"),
        ({"device": "gpu"}, "--device 'gpu' is not known; use auto, cpu, cuda, or cuda:N for one of several"),
        (
            {"device": torch.device("cpu")},
            "--device of type device is not known; use auto, cpu, cuda, or cuda:N",
        ),
        ({"preset": "quick"}, "preset 'quick' is not known; there are fast, default, thorough"),
        ({"seed": -1}, "seed is -1; give an integer from 0 on"),
        ({"seed": True}, "seed is True; give one integer"),
        ({"certificate": 3}, "certificate is 3; give a path"),
        ({"certificate": ""}, "certificate is '', which no file is called; give a path"),
        ({"semantics": "float"}, "semantics 'float' is not known; there are real, ieee32-any-order"),
        ({"rigorous": 1}, "rigorous is 1; give True or False"),
        ({"trim": None}, "trim is None; give True or False"),
        ({"memory": 0}, "memory is 0; give an integer from 1 on"),
        ({"semantics": "ieee32-any-order"}, "--semantics ieee32-any-order needs --certificate FILE"),
        ({"trim": True}, "--trim needs --certificate FILE"),
        (
            {"rigorous": False, "certificate": "c"},
            "--no-rigorous proves nothing that a certificate could hold",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(bad: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        Request("m", "p", **bad)
    assert str(error.value).startswith(said)
    with pytest.raises(InputError):
        dataclasses.replace(Request("m", "p"), **bad)


def test_names_are_those_of_what_they_name() -> None:
    assert {"interval", "crown", *extensions.names("bounder"), "lp"} == set(METHODS)
    assert SEMANTICS == checking.SEMANTICS
    assert len({id(settings.preset(name)) for name in PRESETS}) == len(PRESETS)
    assert settings.preset("default") == settings.Settings()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """The requests that were run, of which none was decided."""
    found: list[Request] = []

    def only(request: Request, *_: Any, **__: Any) -> Result:
        found.append(request)
        return Result("unknown", "nobody looked", 0.0)

    for place in (run, api):
        monkeypatch.setattr(place, "run", only)
    return found


def test_every_start_makes_the_same_request(asked: list[Request]) -> None:
    """Python, `run`, the standard's command and a suite's worker."""
    api.verify(MODEL, PROPERTY, timeout=60, device=torch.device("cpu"), preset_name="fast", seed=4)
    files, options = map(str, (MODEL, PROPERTY)), ("--timeout", "60", "--device", "cpu")
    ran = CliRunner().invoke(cli.cli, ["run", *files, *options, "--preset", "fast", "--seed", "4"])
    assert ran.stdout == "unknown\n" and "nobody looked" in ran.stderr
    query = ["verify", str(PROPERTY), "--network", f"f={MODEL}", *options, "--seed", "4"]
    assert CliRunner().invoke(cli.cli, query).stdout == "unknown\n"
    instance = Instance("controller", MODEL.name, PROPERTY.name, 60.0, "", MODEL, PROPERTY)
    sent = pickle.loads(pickle.dumps(Settings(device="cpu", preset="fast").request(instance)))
    assert worker.decide(sent).result == "unknown"
    whole = Request(MODEL, PROPERTY, 60.0, "cpu", "fast", 4)
    standard = dataclasses.replace(whole, model={"f": MODEL}, preset="default")
    assert asked == [whole, whole, standard, dataclasses.replace(whole, seed=0)]


def test_a_request_is_decided_wherever_it_is() -> None:
    """Who is told is made once the inputs are read."""
    told = list[Silent]()

    def reporter() -> Silent:
        told.append(Silent())
        return told[-1]

    found = run.run(Request(str(MODEL), str(PROPERTY), device="cpu"), reporter)
    assert (found.verdict, found.warning, found.vacuous, len(told)) == ("unsat", None, False, 1)
    with pytest.raises(InputError, match="no such file"):
        run.run(Request("none.onnx", str(PROPERTY), device="cpu"), reporter)
    assert run.run(Request(str(MODEL), str(PROPERTY), 1e-6, "cpu"), reporter).verdict == "timeout"
    assert len(told) == 2
