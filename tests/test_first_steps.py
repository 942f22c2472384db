"""What people meet first: slips that are recognised, and words that say what was done."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from nets import property_text, random_layers, relu_model
from test_cli import Command
from torch import nn

import verify
from verify.cli import cli
from verify.errors import InputError
from verify.loading.loaded import TRAINING

X = torch.full((1, 3), 0.5)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """`verify` in this process, its output captured."""
    return Command(monkeypatch, capfd)


def test_arguments_that_have_changed_places(tmp_path: Path, command: Command) -> None:
    model, property_ = tmp_path / "net.onnx", tmp_path / "p.vnnlib"
    onnx.save(relu_model(random_layers(0, (3, 4, 2))), model)
    property_.write_text(property_text([0.0] * 3, [1.0] * 3, 2, "(<= Y_0 -100.0)"))
    ball, module = verify.LinfBall(X, 0.1, 0), nn.Linear(3, 2)
    pairs: tuple[tuple[Any, Any], ...] = (
        (property_, model),
        (str(property_), str(model)),
        (ball, module),
        (ball, model),
        (property_, model.read_bytes()),
    )
    for first, second in pairs:
        with pytest.raises(InputError, match="changed places"):
            verify.verify(first, second)
    for name in ("run", "bounds", "info"):
        ran = command(name, property_, model)
        assert (ran.code, ran.out) == (2, "") and "changed places" in ran.err
    assert command("run", model, property_, "--quiet").code == 0


LAYERS = {"dropout": nn.Dropout(), "batch": nn.BatchNorm1d(4), "instance": nn.Dropout1d(), "plain": nn.ReLU()}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("training", [True, False])
def test_modules_in_training_mode(kind: str, training: bool) -> None:
    """A module is verified in evaluation mode, which is said where it makes a difference."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), LAYERS[kind], nn.Linear(4, 2)).train(training)
    said = kind != "plain" and training
    for ask in (verify.verify, verify.bounds):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = ask(model, verify.LinfBall(X, 0.01, 0), example_input=X)
        assert [one.category for one in caught] == [verify.ModeWarning] * said
        assert (TRAINING in found.notes) == said
        assert model.training == training


def test_a_counterexample_says_what_ran_it() -> None:
    model = nn.Linear(3, 2)
    scores = model(X)[0]
    wrong = int(scores.argmin())
    assert verify.verify(model, verify.LinfBall(X, 0.1, wrong), example_input=X).reason.endswith(
        "replayed in torch"
    )
    assert verify.verify(model, verify.L2Ball(X, 0.1, wrong), example_input=X).reason.endswith(
        "replayed in torch"
    )
    found = verify.verify(
        relu_model(random_layers(0, (3, 4, 2))), property_text([0.0] * 3, [1.0] * 3, 2, "(<= Y_0 100.0)")
    )
    assert found.reason.endswith("replayed in ONNX Runtime")


@pytest.mark.parametrize(
    "name", sorted({"run", "bounds", "info", "check", "suite", "certify", "radius", "bundle", "convert"})
)
def test_help_shows_examples_of_real_options(name: str, command: Command) -> None:
    ran = command(name, "--help")
    examples = re.findall(rf"^ +(verify {name} .*)$", ran.out.split("Examples:")[1], flags=re.MULTILINE)
    known = {option for parameter in cli.commands[name].params for option in parameter.opts}
    assert examples and {word for line in examples for word in line.split() if word.startswith("--")} <= known
    assert ("undecided" in ran.out) == (name in ("run", "bundle"))
