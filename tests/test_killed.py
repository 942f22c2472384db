"""The command, killed at random moments as the system kills: `make faults` does more of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import verify
from benchmarks.faults import narrow, owner_killed


def test_an_owner_that_is_killed_goes_on(tmp_path: Path) -> None:
    instance = narrow(tmp_path / "instance", 1e-4)
    trial = owner_killed(instance, tmp_path / "kept", np.random.default_rng(1), 2.0, most=4)
    assert trial.verdict == instance.verdict and trial.kills and trial.resumed
    # what is decided already is not decided again
    again = verify.verify(instance.model, instance.specification, checkpoint=tmp_path / "kept")
    assert again.verdict == instance.verdict and not again.statistics["checkpoint"]["written"]
