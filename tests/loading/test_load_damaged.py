"""Models damaged at random, by byte and by part: each is read, or refused by name, and nothing else happens."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx_models import ACTIVATIONS, AFFINE

from benchmarks import fuzz_models
from verify.errors import BAD_INPUT, RESOURCES, VerifyError
from verify.loading import comparison, load

GOOD = [case.model() for case in (*AFFINE, *ACTIVATIONS)]


def damaged(seed: int) -> bytes:
    """A model of one operator with a few changes."""
    random = np.random.default_rng(seed)
    model = onnx.ModelProto()
    model.CopyFrom(GOOD[random.integers(len(GOOD))])
    if random.integers(5) == 0:
        return fuzz_models.mutated(random, model.SerializeToString())
    fuzz_models.change(random, model)
    data: bytes = model.SerializeToString()
    return data


@pytest.mark.filterwarnings("ignore")  # of libraries, about what they are given
@pytest.mark.parametrize("start", range(0, 600, 100))
def test_damaged_models(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "ROUNDS", 0)
    refusals = []
    for seed in range(start, start + 100):
        try:
            load(damaged(seed))
        except VerifyError as error:
            refusals.append((seed, error))
    assert all(error.exit_code in (BAD_INPUT, RESOURCES) for _, error in refusals), refusals
    assert all(str(error).startswith("the model: ") for _, error in refusals), refusals
    assert 20 < len(refusals) < 100
