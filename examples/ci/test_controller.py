"""Tests that prove: each fails with the counterexample where its property does not hold.

pytest examples/ci
"""

from pathlib import Path

import pytest

import verify

CONTROLLER = Path(__file__).parents[2] / "properties" / "controller"
MODEL = CONTROLLER / "onnx" / "controller.onnx"


@pytest.mark.verify(timeout=60)
def test_it_brakes(proved):
    """A property that somebody else wrote, as a VNN-LIB file."""
    proved(MODEL, CONTROLLER / "vnnlib" / "brakes.vnnlib")


@pytest.mark.verify(timeout=60, undecided="skip")
def test_thrust_is_limited(proved):
    """One in Python: whatever the state, both thrusts stay in a range."""
    whole = ([-1.0] * 4, [1.0] * 4)
    proved(MODEL, verify.Always((verify.y[0] <= 1.5) & (verify.y[0] >= -1.5) & (verify.y[1] <= 1.5), whole))
