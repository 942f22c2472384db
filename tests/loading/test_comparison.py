"""The comparison of every load finds readings that are wrong in a corner alone, and takes rounding beside a jump for no mistake."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import X, case, model_of, weights

from verify.errors import ModelError
from verify.loading import comparison, load
from verify.loading.builder import Builder
from verify.loading.loaded import LoadedModel

SIZE = 30
BOX = (np.full(SIZE, -1.0), np.full(SIZE, 1.0))
SIGNS = np.where(np.arange(SIZE) % 3 == 0, -1.0, 1.0)  # neither end of the box is extreme
EDGE = (
    0.9 * SIZE
)  # of the sum of the inputs by sign, beyond which readings are wrong: no random input gets there


@pytest.fixture(autouse=True)
def time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found does not hang on the load of the machine."""
    monkeypatch.setattr(comparison, "SECONDS", 600.0)
    monkeypatch.setattr(comparison, "FEW_SECONDS", 600.0)


def model(
    *nodes: onnx.NodeProto, constants: dict[str, Any] | None = None, kind: str = "float32"
) -> onnx.ModelProto:
    """A model of `s`, the sum of the inputs by sign, less what is random: `nodes` make `y` of it."""
    product = helper.make_node("MatMul", [X, "w"], ["s"])
    given = {"w": SIGNS[:, None], "edge": np.array([EDGE]), **(constants or {})}
    element = TensorProto.DOUBLE if kind == "float64" else TensorProto.FLOAT
    values = {name: np.asarray(value, dtype=kind) for name, value in given.items()}
    return model_of([product, *nodes], (1, SIZE), values, "y", element_type=element)


def node(operator: str, *inputs: str, output: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, list(inputs), [output], **attributes)


INNER = [node("Sub", "s", "edge", output="d"), node("Relu", "d", output="r")]
PLANTED = {
    "limit": ([node("Clip", "s", "", "edge")], [node("Clip", "s", "", "near")]),
    "slope": (
        [node("Sub", "edge", "s", output="d"), node("LeakyRelu", "d", alpha=0.1)],
        [node("Sub", "edge", "s", output="d"), node("LeakyRelu", "d", alpha=0.11)],
    ),
    "branch": ([node("Max", "s", "edge")], [node("Clip", "s", "edge", "near")]),
    "inner": ([*INNER, node("Mul", "r", "edge")], [*INNER, node("Mul", "r", "near")]),
    "step": (
        [node("Sub", "s", "edge", output="d"), node("Sign", "d")],
        [node("Sub", "s", "beyond", output="d"), node("Sign", "d")],
    ),
}


def pair(name: str, kind: str = "float32") -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A model, and what it is read as."""
    constants = {"near": EDGE + 0.02, "beyond": SIZE + 1}
    right, wrong = (model(*nodes, constants=constants, kind=kind) for nodes in PLANTED[name])
    return right, wrong


def misread(monkeypatch: pytest.MonkeyPatch, wrong: onnx.ModelProto) -> None:
    """Whatever is loaded next is read as another model, but run as itself."""
    network = load(wrong).network
    monkeypatch.setattr(Builder, "network", lambda *_: network)


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "float32") for name in PLANTED), ("limit", "float64"), ("inner", "float64")]
)
def test_readings_that_are_wrong_in_a_corner(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random inputs alone would not do: the test would show nothing if they did."""
    right, wrong = pair(name, kind)
    load(right, box=BOX)
    misread(monkeypatch, wrong)
    with pytest.raises(ModelError, match="read wrongly: its output 0 differs"):
        load(right, box=BOX)
    monkeypatch.setattr(comparison, "ROUNDS", 0)
    load(right, box=BOX)


def test_every_box_is_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of several may be the only one where a reading is wrong."""
    right, wrong = model(node("Relu", "s")), model(node("Identity", "s"))
    lower, upper = SIGNS * np.ones((9, 1)), SIGNS * np.ones((9, 1)) + 0.1
    lower[5], upper[5] = -SIGNS, -SIGNS + 0.1
    misread(monkeypatch, wrong)
    load(right, box=(lower[:5], upper[:5]))
    with pytest.raises(ModelError, match="read wrongly"):
        load(right, box=(lower, upper))


def test_more_or_fewer_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    misread(monkeypatch, case("Gemm", [X, weights(4, 3)], (1, 4)).model())
    with pytest.raises(ModelError, match="has 2 outputs, the network read from it 3"):
        load(case("Gemm", [X, weights(4, 2)], (1, 4)).model())


# jumps


def test_rounding_beside_a_jump_is_no_mistake() -> None:
    """0.1 + 0.2 - 0.3 is 0 in float32 and more than that of the same numbers in float64."""
    nodes = [node("MatMul", X, "v", output="t"), node("Sign", "t")]
    loaded = model_of(nodes, (1, 4), {"v": np.array([[1], [1], [-1], [1]], dtype=np.float32)}, "y")
    point = np.array([0.1, 0.2, 0.3, 0.0], dtype=np.float32).astype(np.float64)
    assert load(loaded, box=(point, np.array([0.1, 0.2, 0.3, 2.0]))).network.outputs == 1


def test_saturation_in_float32_is_no_mistake() -> None:
    """Erf(5) is less than 1, but not in float32: Floor makes 0 and 1 of them. Smaller inputs show what the model is."""
    nodes = [node("Erf", X, output="t"), node("Floor", "t")]
    box = (np.full(4, -1.0), np.array([0.5, 0.5, 0.5, 5.0]))
    assert load(model_of(nodes, (1, 4), {}, "y"), box=box).network.outputs == 4


def test_a_model_that_is_nothing_but_jumps_is_refused() -> None:
    """Where rounding alone decides everywhere, there is nothing to compare."""
    nodes = [node("Mul", X, "big", output="t"), node("Sin", "t", output="u"), node("Sign", "u", output="v")]
    nodes += [node("Mul", "v", "big")]
    with pytest.raises(ModelError, match="hang on rounding"):
        load(
            model_of(nodes, (1, 10), {"big": np.array([3e9], dtype=np.float32)}, "y"),
            box=(np.ones(10), np.full(10, 2.0)),
        )


# time


def counted(monkeypatch: pytest.MonkeyPatch, seconds: float, few_seconds: float) -> int:
    """The inputs that a small model is compared at."""
    seen = []

    def compare(_: LoadedModel, samples: np.ndarray[Any, Any]) -> tuple[int, int, float]:
        seen.append(len(samples))
        return len(samples), 0, 0.0

    monkeypatch.setattr(comparison, "SECONDS", seconds)
    monkeypatch.setattr(comparison, "FEW_SECONDS", few_seconds)
    monkeypatch.setattr(comparison, "_compare", compare)
    load(model(node("Relu", "s")), box=BOX)
    return sum(seen)


def test_slow_models_are_compared_at_fewer_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """But at two at least, and at five if that does not take long."""
    assert counted(monkeypatch, -1.0, -1.0) == 2
    assert counted(monkeypatch, -1.0, 600.0) == 5
    assert counted(monkeypatch, 600.0, 600.0) == 2 + 30 + 2 * 3 * 32
