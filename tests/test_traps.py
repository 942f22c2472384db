"""Networks that absorb: float arithmetic loses the digits that decide, so a naive proof is a proof of nothing.

A bias of 2^k is added and taken away again; over the reals the network is `relu(x) - 1.5` or the like, in floats it is
constant. A verifier that believes its own float evaluation answers `unsat` where the real network is unsafe.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import property_text, relu_model
from patience import PATIENCE

import verify

SHARED = Path(__file__).resolve().parents[2] / "shared" / "traps"
TIMEOUT = 1.5
Layers = list[tuple[np.ndarray, np.ndarray]]


def absorbing(dtype: type, power: int, sign: float = 1.0, width: int = 1) -> onnx.ModelProto:
    """x -> sum_i sign (relu(relu(x + 2^power) - 2^power)) - 1.5: over the reals, sign * width * x - 1.5 for x >= 0."""
    huge = dtype(2.0**power)
    layers: Layers = [
        (np.ones((width, 1), dtype), np.full(width, huge, dtype)),
        (np.eye(width, dtype=dtype), np.full(width, -huge, dtype)),
        (np.full((1, width), sign, dtype), np.array([-1.5], dtype)),
    ]
    return relu_model(layers)


POWERS = [
    (np.float32, 25),
    (np.float32, 30),
    (np.float32, 60),
    (np.float64, 25),
    (np.float64, 54),
    (np.float64, 60),
]
every_power = pytest.mark.parametrize(
    ("dtype", "power"), POWERS, ids=lambda p: p if isinstance(p, int) else p.__name__
)


@pytest.mark.parametrize("name", ["absorb_f32", "absorb_f64"])
def test_shared_traps_are_never_unsat(name: str) -> None:
    model, text = SHARED / f"{name}.onnx", SHARED / f"{name}.vnnlib"
    if not model.exists():
        pytest.skip("the shared traps are not here")
    result = verify.verify(model, text, timeout=TIMEOUT, device="cpu")
    assert result.verdict != "unsat", result.reason


@every_power
def test_violated_over_the_reals_is_never_unsat(dtype: type, power: int) -> None:
    """Y = x - 1.5 reaches -0.5 at x = 1; float evaluation says -1.5 everywhere."""
    model = absorbing(dtype, power)
    for unsafe in ("(>= Y_0 -1.0)", "(>= Y_0 -0.625)", "(and (>= Y_0 -1.0) (<= Y_0 -0.75))"):
        text = property_text([0.1], [1.0], 1, unsafe)
        result = verify.verify(model, text, timeout=TIMEOUT, device="cpu")
        assert result.verdict != "unsat", (unsafe, result.reason)


@every_power
def test_violated_by_the_lower_side_is_never_unsat(dtype: type, power: int) -> None:
    """Several absorbing neurons with the other sign: over the reals Y = -3 x - 1.5 goes down to -4.5."""
    text = property_text([0.1], [1.0], 1, "(<= Y_0 -3.0)")
    result = verify.verify(absorbing(dtype, power, -1.0, 3), text, timeout=TIMEOUT, device="cpu")
    assert result.verdict != "unsat", result.reason


@every_power
@pytest.mark.parametrize("unsafe", ["(<= Y_0 -2.0)", "(>= Y_0 0.5)"])
def test_properties_that_hold_are_not_sat(dtype: type, power: int, unsafe: str) -> None:
    """Out of reach over the reals and in floats alike."""
    result = verify.verify(
        absorbing(dtype, power), property_text([0.1], [1.0], 1, unsafe), timeout=TIMEOUT, device="cpu"
    )
    assert result.verdict != "sat"


def test_small_biases_are_no_trap() -> None:
    """The caution has its limits: with 2^20 in float32 the property is decided, and rightly."""
    for unsafe, expected in (("(>= Y_0 -1.0)", "sat"), ("(>= Y_0 -0.4)", "unsat")):
        text = property_text([0.1], [1.0], 1, unsafe)
        assert (
            verify.verify(absorbing(np.float32, 20), text, timeout=PATIENCE, device="cpu").verdict == expected
        )


def test_bounds_hold_over_the_reals() -> None:
    """Every method's bound of Y + 1 over x in [0.1, 1] stays below the real minimum of -1 - Y, which is -0.5."""
    for dtype, power in POWERS:
        text = property_text([0.1], [1.0], 1, "(>= Y_0 -1.0)")
        for method in ("interval", "crown", "restricted"):
            found = verify.bounds(absorbing(dtype, power), text, method=method, iterations=20, device="cpu")
            assert max(found.bounds) <= -0.5, (method, power)
