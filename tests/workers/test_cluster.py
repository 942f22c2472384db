"""A Ray cluster of two nodes on this machine: searches, and workers that are lost."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from nets import property_text, random_layers, relu_model, row_text
from oracles import exact_minimum
from patience import PATIENCE
from test_crew import once

import verify
from verify.deadline import Deadline
from verify.errors import InputError
from verify.workers.cluster import crews_of_cluster


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r'pip install "nn-verify\[distributed\]"'):
        verify.verify(
            "properties/controller/onnx/controller.onnx",
            "properties/controller/vnnlib/brakes.vnnlib",
            ray="local",
        )


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_of_two_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # jobs are of this file
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    model, row = relu_model(random_layers(5, [6, 10, 2])), np.array([[1.0, -0.5]])
    least = exact_minimum(model, [-0.7] * 6, [0.7] * 6, row, np.zeros(1))
    text = property_text([-0.7] * 6, [0.7] * 6, 2, row_text(row[0], least - 1e-3))
    quiet = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=quiet)
    try:
        cluster.add_node(num_cpus=1)
        with (
            crews_of_cluster(cluster.address, None, None) as crews,
            crews(1, Deadline.after(PATIENCE), False) as crew,
        ):
            assert crews.count == 2
            done = crew.map(partial(once, tmp_path / "mark"), [signal.SIGKILL, signal.SIGKILL])
            assert list(done) == ["done"] * 2
            assert 1 <= crews.tally.lost <= 2, "both may have found no mark yet"
        result = verify.verify(model.SerializeToString(), text, ray=cluster.address, workers=2)
        assert result.verdict == "unsat" and result.statistics["workers"]["workers"] == 2
        with pytest.raises(InputError, match="ask for fewer by --workers"):
            verify.verify(model.SerializeToString(), text, ray=cluster.address, workers=3)
    finally:
        cluster.shutdown()
