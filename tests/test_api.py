"""The Python interface, and the shipped problems end to end against their recorded verdicts."""

from __future__ import annotations

import csv
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import FrozenInstanceError, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from nets import property_text, random_layers, relu_model
from patience import PATIENCE
from torch import nn

import verify
from verify.bab.progress import Silent
from verify.clause_bounds import Step
from verify.request import METHODS

ROOT = Path(__file__).resolve().parents[1] / "properties"
LAYERS = random_layers(5, (3, 8, 8, 2))
CENTRE = np.array([0.5, 0.5, 0.5])


def module() -> nn.Module:
    """The model of `LAYERS` in torch."""
    parts: list[nn.Module] = []
    for weight, bias in LAYERS:
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weight))
            linear.bias.copy_(torch.from_numpy(bias))
        parts += [linear, nn.ReLU()]
    return nn.Sequential(*parts[:-1]).eval()


def outputs(x: np.ndarray) -> np.ndarray:
    """The model's outputs."""
    with torch.no_grad():
        found: np.ndarray = module()(torch.from_numpy(x.astype(np.float32))[None])[0].numpy()
    return found


LABEL = int(outputs(CENTRE).argmax())
EXAMPLE = torch.zeros(1, 3)


def both_specifications() -> dict[str, tuple[object, str]]:
    """Specifications with their verdicts: clearly true ones and clearly false ones."""
    low, high = float(outputs(CENTRE).min()) - 100.0, float(outputs(CENTRE).min()) + 1.0
    box = (CENTRE - 0.01, CENTRE + 0.01)
    lowest = int(outputs(CENTRE).argmin())
    row = [float(i == lowest) for i in range(2)]
    return {
        "ball": (verify.LinfBall(CENTRE, 1e-4, LABEL), "unsat"),
        "wrong label": (verify.LinfBall(CENTRE, 1e-4, 1 - LABEL), "sat"),
        "rows": (verify.Specification(box, [[verify.Row(row, low)]]), "unsat"),
        "pairs": (verify.Specification(box, [[(row, low)], [(row, high)]]), "sat"),
        "text": (property_text([0.4] * 3, [0.6] * 3, 2, "(<= Y_0 -1000.0)"), "unsat"),
    }


@pytest.mark.parametrize("kind", ["path", "string", "bytes", "proto", "module", "loaded"])
def test_every_form_of_model(kind: str, tmp_path: Path) -> None:
    proto = relu_model(LAYERS)
    path = tmp_path / "net.onnx"
    onnx.save(proto, path)
    forms = {
        "path": path, "string": str(path), "bytes": proto.SerializeToString(), "proto": proto, "module": module(),
        "loaded": verify.load(proto),
    }  # fmt: skip
    example = EXAMPLE if kind == "module" else None
    for specification, verdict in both_specifications().values():
        result = verify.verify(
            forms[kind], specification, timeout=PATIENCE, device="cpu", example_input=example
        )
        assert result.verdict == verdict, result.reason
        assert (result.witness is not None) == (verdict == "sat")


def test_witness_is_of_the_model(tmp_path: Path) -> None:
    result = verify.verify(relu_model(LAYERS), verify.LinfBall(CENTRE, 0.1, 1 - LABEL), device="cpu")
    assert result.witness is not None
    x = result.witness.inputs
    assert x.shape == (1, 3)
    assert x.dtype == np.float32
    assert float(np.abs(x - CENTRE).max()) <= 0.1 + 1e-7
    np.testing.assert_allclose(outputs(x[0])[None], result.witness.outputs, rtol=1e-5, atol=1e-6)
    assert outputs(x[0]).argmax() == LABEL


@pytest.mark.parametrize("seed", range(5))
def test_specifications_take_any_floats(seed: int) -> None:
    """Rows of arbitrary float64 numbers are what callers have; they must be taken as they are."""
    random = np.random.default_rng(seed)
    row = random.standard_normal(2)
    value = float(row @ outputs(CENTRE))
    box = (CENTRE - 1e-5 * random.random(3), CENTRE + 1e-5 * random.random(3))
    for threshold, verdict in ((value - 0.1, "unsat"), (value + 0.1, "sat")):
        specification = verify.Specification(box, [[(row.tolist(), threshold)]])
        assert (
            verify.verify(relu_model(LAYERS), specification, timeout=PATIENCE, device="cpu").verdict
            == verdict
        )


def test_bounds_enclose_and_are_ordered() -> None:
    box = (CENTRE - 0.2, CENTRE + 0.2)
    specification = verify.Specification(
        box, [[verify.Row([1.0, 0.0], 0.0)], [verify.Row([0.5, -1.0], 0.25)]]
    )
    found = {
        method: verify.bounds(relu_model(LAYERS), specification, method=method, iterations=40, device="cpu")
        for method in METHODS
    }
    x = np.random.default_rng(0).uniform(*box, (500, 3))
    y = np.array([outputs(point) for point in x])
    margins = [(y @ [1.0, 0.0]).min(), (y @ [0.5, -1.0]).min() - 0.25]
    for clause, margin in enumerate(margins):
        bounds = {method: found[method].bounds[clause] for method in METHODS}
        assert max(bounds.values()) <= margin + 1e-5
        for method in METHODS[2:]:
            assert bounds["crown"] <= bounds[method] + 1e-9
            assert bounds[method] <= bounds["lp"] + 1e-7
    assert [layer["neurons"] for layer in found["crown"].layers] == [8, 8]


def test_clauses_are_bounded_in_lots() -> None:
    """Beyond 64 clauses: bounds in order, steps that say whose they are, and the time shared."""
    box = (CENTRE - 0.1, CENTRE + 0.1)
    rows = np.random.default_rng(1).standard_normal((70, 2)).tolist()
    specification = verify.Specification(box, [[(row, 0.0)] for row in rows])
    steps: list[Step] = []
    found = verify.bounds(
        relu_model(LAYERS), specification, iterations=3, time_limit=60, device="cpu", observe=steps.append
    )
    assert [(step.first_clause, step.iteration) for step in steps] == [
        (f, i) for f in (0, 64) for i in range(4)
    ]
    assert [len(step.bounds) for step in steps] == [64] * 4 + [6] * 4
    assert all(before.seconds <= after.seconds for before, after in pairwise(steps))
    np.testing.assert_allclose(steps[3].bounds + steps[7].bounds, found.bounds, rtol=1e-9, atol=1e-9)
    alone = verify.bounds(
        relu_model(LAYERS), verify.Specification(box, [[(rows[69], 0.0)]]), iterations=3, device="cpu"
    )
    np.testing.assert_allclose(alone.bounds[0], found.bounds[69], rtol=1e-9, atol=1e-9)


def test_longer_climbs_reach_further() -> None:
    """The step's decay stretches with the iterations."""
    specification = verify.LinfBall(CENTRE, 0.3, LABEL)
    bounds = [
        verify.bounds(relu_model(LAYERS), specification, iterations=count, device="cpu").bounds[0]
        for count in (0, 10, 100, 400)
    ]
    assert all(later >= sooner - 1e-9 for sooner, later in pairwise(bounds))
    best = verify.bounds(relu_model(LAYERS), specification, method="lp", device="cpu").bounds[0]
    assert bounds[-1] <= best + 1e-7


def test_results_do_not_depend_on_the_run() -> None:
    specification = verify.LinfBall(CENTRE, 0.1, 1 - LABEL)
    first, second = (verify.verify(relu_model(LAYERS), specification, device="cpu", seed=3) for _ in range(2))
    assert first.verdict == second.verdict == "sat"
    assert first.witness is not None
    assert second.witness is not None
    assert np.array_equal(first.witness.inputs, second.witness.inputs)


def test_bad_arguments() -> None:
    model = relu_model(LAYERS)
    good = verify.LinfBall(CENTRE, 0.1, 0)
    with pytest.raises(verify.InputError, match="preset"):
        verify.verify(model, good, preset_name="heroic", device="cpu")
    with pytest.raises(verify.InputError, match="method"):
        verify.bounds(model, good, method="guess", device="cpu")
    with pytest.raises(verify.InputError, match="intermediate"):
        verify.bounds(model, good, intermediate="guess", device="cpu")
    with pytest.raises(verify.InputError, match="label"):
        verify.verify(model, verify.LinfBall(CENTRE, 0.1, 7), device="cpu")
    with pytest.raises(verify.InputError, match=r"shape \[2\].*\[1, 3\]"):
        verify.verify(model, verify.LinfBall(CENTRE[:2], 0.1, 0), device="cpu")
    with pytest.raises(verify.InputError, match="give example_input"):
        verify.verify(module(), verify.LinfBall(CENTRE[:2], 0.1, 0), device="cpu")
    with pytest.raises(verify.InputError, match="equal shapes"):
        verify.Specification((CENTRE, CENTRE[:2]), [[verify.Row([1.0, 0.0], 0.0)]]).text()


GOOD = verify.LinfBall(CENTRE, 0.1, 0)
OPTIONS: list[tuple[dict[str, object], str]] = [
    ({"timeout": float("nan")}, "timeout.*nan"), ({"timeout": 0}, "timeout"), ({"timeout": -1}, "timeout.*-1"), ({"timeout": "5"}, "timeout.*'5'"),
    ({"timeout": True}, "timeout"), ({"seed": -1}, "seed.*-1"), ({"seed": 1.0}, "seed"), ({"seed": "a"}, "seed.*'a'"), ({"seed": None}, "seed"),
    ({"device": "mps"}, "device.*'mps'"), ({"device": "gpu"}, "device"), ({"device": "cuda:99"}, "cuda:99"), ({"device": 0}, "device"),
    ({"device": torch.device("meta")}, "device.*meta"), ({"device": "cpu:7"}, "device"), ({"device": None}, "device.*None"),
    ({"preset_name": ["fast"]}, "preset.*list"), ({"semantics": "exact"}, "semantics"), ({"rigorous": "no"}, "rigorous.*'no'"), ({"trim": 1}, "trim"),
    ({"reporter": "loud"}, "reporter"), ({"reporter": Silent}, "reporter.*class"), ({"certificate": 3}, "certificate"), ({"certificate": ""}, "certificate"),
    ({"certificate": "a\0b"}, "certificate"), ({"example_input": torch.zeros(1, 4)}, r"example_input.*\[1, 4\].*\[1, 3\]"), ({"example_input": "x"}, "example_input"),
]  # fmt: skip


def test_slips_with_modules() -> None:
    """Weights alone, and a batch in the place of a sample."""
    module = torch.nn.Linear(3, 2)
    with pytest.raises(verify.InputError, match=r"state_dict.*give the module"):
        verify.verify(module.state_dict(), GOOD)  # type: ignore[arg-type]
    with pytest.raises(verify.InputError, match="of one sample, no batch"):
        verify.verify(module, verify.LinfBall(torch.rand(5, 3), 0.1, 0))


@pytest.mark.parametrize(("option", "said"), OPTIONS, ids=str)
def test_options_that_are_refused(option: dict[str, Any], said: str) -> None:
    with pytest.raises(verify.InputError, match=said):
        verify.verify(relu_model(LAYERS), GOOD, **{"device": "cpu", **option})


@pytest.mark.parametrize(
    ("option", "said"),
    [({"iterations": -1}, "iterations"), ({"iterations": 1.5}, "iterations"), ({"time_limit": float("nan")}, "time_limit"), ({"observe": 3}, "observe"),
     ({"time_limit": 0}, "time_limit"), ({"method": np.array(["lp", "crown"])}, "method"), ({"device": "mps"}, "device")],
    ids=str,
)  # fmt: skip
def test_options_of_bounds_that_are_refused(option: dict[str, Any], said: str) -> None:
    with pytest.raises(verify.InputError, match=said):
        verify.bounds(relu_model(LAYERS), GOOD, **{"device": "cpu", **option})


@pytest.mark.parametrize(
    "option",
    [{"device": torch.device("cpu")}, {"device": "cpu:0"}, {"timeout": np.float32(20)}, {"timeout": float("inf")}, {"timeout": 1e300},
     {"seed": 2**70}, {"seed": np.int64(3)}, {"timeout": torch.tensor(20)}, {"example_input": np.zeros(3)}],
    ids=str,
)  # fmt: skip
def test_options_of_other_types(option: dict[str, Any]) -> None:
    ball = verify.LinfBall(CENTRE, 1e-4, LABEL)
    assert verify.verify(relu_model(LAYERS), ball, **{"device": "cpu", **option}).verdict == "unsat"


@pytest.mark.parametrize(
    "swapped", [None, 3, b"(assert", module(), relu_model(LAYERS), [GOOD]], ids=lambda one: type(one).__name__
)
def test_specifications_of_other_types_are_refused(swapped: Any) -> None:
    with pytest.raises(verify.InputError, match=r"the specification is .*; the model comes first"):
        verify.verify(relu_model(LAYERS), swapped, device="cpu")


@pytest.mark.parametrize(
    "swapped",
    [None, 3, GOOD, np.zeros(3), onnx.TensorProto(), verify.load(relu_model(LAYERS))],
    ids=lambda one: type(one).__name__,
)
def test_models_of_other_types_are_refused(swapped: Any) -> None:
    with pytest.raises(verify.InputError, match="the model is"):
        verify.load(swapped)


def step(at: float) -> nn.Module:
    """Two classes of one input: 0 up to `at`, 1 beyond."""
    linear = nn.Linear(1, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[-1.0], [1.0]]))
        linear.bias.copy_(torch.tensor([at, -at]))
    return nn.Sequential(linear)


@pytest.mark.parametrize("at", [2.0, 3.0, -1.85])
def test_a_ball_outside_its_clip_is_no_question(at: float) -> None:
    """Split to [0, 1] it would be another point, which has a label of its own."""
    x = torch.tensor([[at]])
    for label in range(2):
        with pytest.raises(verify.InputError, match="outside clip"):
            verify.verify(step(2.1), verify.LinfBall(x, 0.5, label), example_input=x)
    for radius in (0.05, 0.5):
        ball = verify.LinfBall(x, radius, int(at > 2.1), clip=None)
        verdict = "sat" if abs(at - 2.1) < radius else "unsat"
        assert verify.verify(step(2.1), ball, example_input=x, timeout=PATIENCE).verdict == verdict


def test_samples_are_single_and_of_the_models_shape() -> None:
    identity = nn.Linear(2, 2, bias=False)
    nn.init.eye_(identity.weight)
    batch = torch.tensor([[0.9, 0.1], [0.1, 0.3]])
    for x, example in ((batch, batch), (batch, batch[:1])):
        with pytest.raises(verify.InputError, match="shape"):
            verify.verify(identity, verify.LinfBall(x, 0.05, 0), example_input=example)
    with pytest.raises(verify.InputError, match="batch of 2"):
        verify.verify(nn.Linear(2, 1), verify.LinfBall(batch, 0.05, 0), example_input=batch)
    pixels = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    image = torch.rand(1, 3, 2, 2)
    for other in (image.permute(0, 2, 3, 1), image[0].permute(1, 2, 0), torch.rand(12, 1, 1, 2)):
        with pytest.raises(verify.InputError, match="shape"):
            verify.verify(pixels, verify.LinfBall(other, 0.1, 0), example_input=image)
    label = int(pixels(image).argmax())
    for same in (image, image[0], image.flatten(), image.numpy()):
        result = verify.verify(pixels, verify.LinfBall(same, 0.0, label), example_input=image)
        assert (result.verdict, result.vacuous) == ("unsat", False)
        result = verify.verify(pixels, verify.LinfBall(same, 0.0, 1 - label), example_input=image)
        assert result.witness is not None
        np.testing.assert_array_equal(result.witness.inputs, image.numpy())
        assert result.witness.snapped == 0  # the point itself, whose decimals are exact


VACUOUS = {
    "reversed box": property_text([1.0, 0.0, 0.0], [0.5, 1.0, 1.0], 2, "(<= Y_0 0.0)"),
    "open box": property_text([0.0] * 3, [1.0] * 3, 2, "(<= Y_0 0.0)") + "(assert (> X_0 1.0))",
    "no alternative": property_text([0.0] * 3, [1.0] * 3, 2, "(or (and (<= X_0 -1.0) (<= Y_0 0.0)) (and (>= X_0 2.0) (>= Y_0 0.0)))"),
    "false": property_text([0.0] * 3, [1.0] * 3, 2, "(or)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", VACUOUS)
def test_a_property_that_holds_as_it_is_written_is_said_to(kind: str) -> None:
    with pytest.warns(verify.VacuousWarning, match="vacuous"):
        result = verify.verify(relu_model(LAYERS), VACUOUS[kind], device="cpu")
    assert (result.verdict, result.vacuous) == ("unsat", True)
    assert "vacuous" in result.reason
    with pytest.warns(verify.VacuousWarning, match="vacuous"):
        found = verify.bounds(relu_model(LAYERS), VACUOUS[kind], device="cpu")
    assert (found.bounds, found.vacuous) == ((), True)


def test_other_properties_are_not_vacuous() -> None:
    text = property_text(
        [0.0] * 3, [1.0] * 3, 2, "(or (and (<= X_0 -1.0) (<= Y_0 0.0)) (and (<= Y_0 -1000.0)))"
    )
    assert not verify.verify(relu_model(LAYERS), text, device="cpu").vacuous
    assert not verify.bounds(relu_model(LAYERS), text, device="cpu").vacuous


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "inference": torch.inference_mode, "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16), "no gradients": torch.no_grad,
    "another device": lambda: torch.device("meta"), "anomalies": torch.autograd.detect_anomaly,
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_modes_of_torch_change_no_verdict(mode: str) -> None:
    """Those that are set around a call, for the caller's own code."""
    balls = {"unsat": verify.LinfBall(CENTRE, 1e-4, LABEL), "sat": verify.LinfBall(CENTRE, 0.1, 1 - LABEL)}
    for make in (module, lambda: relu_model(LAYERS)):
        model, example = make(), torch.zeros(1, 3)
        for verdict, ball in balls.items():
            with MODES[mode]():
                result = verify.verify(model, ball, device="cpu", example_input=example, timeout=PATIENCE)
                found = verify.bounds(model, ball, device="cpu", example_input=example, iterations=3)
            assert result.verdict == verdict, result.reason
            assert (
                found.bounds
                == verify.bounds(model, ball, device="cpu", example_input=example, iterations=3).bounds
            )


def test_results_are_values() -> None:
    """They cannot be assigned to, and comparing them compares no arrays."""
    result = verify.verify(relu_model(LAYERS), verify.LinfBall(CENTRE, 0.1, 1 - LABEL), device="cpu")
    assert result == result
    assert result != replace(result)
    assert len({result, GOOD, result.witness}) == 3
    with pytest.raises(FrozenInstanceError):
        result.verdict = "unsat"  # type: ignore[misc]


def instances() -> list[tuple[str, str, str, str]]:
    """The shipped problems: family, model, property, recorded verdict."""
    rows = []
    for table in sorted(ROOT.glob("*/instances.csv")):
        with table.open(newline="") as file:
            rows += [(table.parent.name, r["onnx"], r["vnnlib"], r["expected"]) for r in csv.DictReader(file)]
    return rows


@pytest.mark.parametrize(
    ("family", "model", "property_", "expected"), instances(), ids=lambda part: Path(part).stem
)
def test_shipped_problems(family: str, model: str, property_: str, expected: str) -> None:
    """The recorded verdict, which comes from mixed-integer programs, within the time that there is; never the other one."""
    result = verify.verify(ROOT / family / model, ROOT / family / property_, timeout=PATIENCE, device="cpu")
    assert result.verdict == expected, result.reason


@pytest.mark.gpu
def test_gpu_and_cpu_agree() -> None:
    for specification, verdict in both_specifications().values():
        assert (
            verify.verify(relu_model(LAYERS), specification, timeout=PATIENCE, device="cuda").verdict
            == verdict
        )
