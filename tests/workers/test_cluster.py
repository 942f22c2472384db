"""A Ray cluster of two nodes on this machine: a search, a worker that is lost, one certificate, and a suite."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from nets import property_text, random_layers, relu_model, row_text
from oracles import exact_minimum
from patience import PATIENCE
from test_crew import once

import verify
from verify.bab.steps import Done, Steps
from verify.checker.checking import check
from verify.checker.proof import Summary
from verify.cli import cli
from verify.errors import UNDECIDED, InputError
from verify.proof import live_check, recording
from verify.proof.live_check import LiveCheck
from verify.suite.instances import read_instances
from verify.suite.runner import run
from verify.suite.settings import Settings
from verify.workers.checkers import ClusterProver, provers_of_cluster
from verify.workers.cluster import connected


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r'pip install "nn-verify\[distributed\]"'):
        verify.verify(
            "properties/controller/onnx/controller.onnx",
            "properties/controller/vnnlib/brakes.vnnlib",
            ray="local",
        )


def test_a_cluster_that_does_not_answer_is_not_waited_for() -> None:
    """Ray would go on asking for minutes."""
    pytest.importorskip("ray")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens there
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for one in (address, f"ray://{address}", "no.such.host.invalid:6379", "127.0.0.1:99999"):
            with pytest.raises(InputError, match="no cluster is reached"), connected(one, None):
                pass


def killed_once(mark: Path, job: Callable[[], Done]) -> Done:
    """What a job brings, but the first time its process is killed once it is done."""
    done = job()
    once(mark, signal.SIGKILL)
    return done


def test_who_proves_on_a_cluster_loads_nothing_of_the_search() -> None:
    """Nor PyTorch: the checker, and what says which code it is."""
    code = "import sys, verify.workers.proving\nprint(*(name for name in sys.modules if name.split('.')[0] in ('verify', 'torch')))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    others = {name for name in done.stdout.split() if not name.startswith("verify.checker")}
    assert others == {
        "verify",
        "verify.errors",
        "verify.own_code",
        "verify.workers",
        "verify.workers.proving",
    }


class Followed(LiveCheck):
    """A check of a certificate in the making that begins at once, and loses the first of its processes; `proved` is what it came to."""

    proved: ClassVar[list[Summary | None]] = []

    def _start(self) -> None:
        super()._start()
        assert len(self._followers) == 2 and all(isinstance(one, ClusterProver) for one in self._followers)
        self._followers[0].kill()

    def closed(self, certificate: Path) -> Summary | None:
        self._ended.set()
        self._thread.join()
        if not self._followers:  # on a busy machine a search may be over before anybody looked
            self.advance()
        self.proved.append(super().closed(certificate))
        return self.proved[-1]


def forged(folder: Path, paths: tuple[Path, Path], text: str) -> tuple[Path, Path]:
    """A model and a property that its proof says to be of, and is not."""
    other, proof = folder / "violated.vnnlib", (folder / "proof").read_bytes()
    other.write_text(text)
    digests = [sha256(path.read_bytes()).hexdigest().encode() for path in (paths[1], other)]
    assert digests[0] in proof
    (folder / "forged").write_bytes(proof.replace(*digests))
    return paths[0], other


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_of_two_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # jobs are of this file
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    model, row = relu_model(random_layers(5, [6, 10, 2])), np.array([[1.0, -0.5]])
    least = exact_minimum(model, [-0.7] * 6, [0.7] * 6, row, np.zeros(1))
    paths = tmp_path / "model.onnx", tmp_path / "property.vnnlib"
    onnx.save(model, str(paths[0]))
    paths[1].write_text(property_text([-0.7] * 6, [0.7] * 6, 2, row_text(row[0], least - 1e-3)))
    apart = Steps.apart

    def ending(*given: Any) -> Callable[[], Done]:
        return partial(killed_once, tmp_path / "mark", apart(*given))

    monkeypatch.setattr(Steps, "apart", ending)
    monkeypatch.setattr(live_check, "WORTH_A_PROCESS", 1)
    monkeypatch.setattr(live_check, "_PAUSE", 0.01)
    monkeypatch.setattr(recording, "LiveCheck", Followed)
    quiet = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=quiet)
    try:
        cluster.add_node(num_cpus=1)
        result = verify.verify(*paths, ray=cluster.address, workers=2, certificate=tmp_path / "proof")
        assert result.verdict == "unsat" and result.statistics["workers"]["workers"] == 2
        assert 1 <= result.statistics["workers"]["lost"] <= 2, "two may have found no mark yet"
        checked = check(tmp_path / "proof", *paths)
        assert checked.proved and checked.summary is not None
        [proved] = Followed.proved
        assert proved is not None, (
            "the cluster proved it as it was written, and of the lost process what it was to prove"
        )
        assert (proved.leaves, proved.claims) == (checked.summary.leaves, checked.summary.claims)
        violated = forged(
            tmp_path, paths, property_text([-0.7] * 6, [0.7] * 6, 2, row_text(row[0], least + 0.1))
        )
        with provers_of_cluster(cluster.address, None) as provers:
            assert check(tmp_path / "proof", *paths, provers=provers) == checked
            assert not check(tmp_path / "forged", *violated, provers=provers).proved
        given = map(str, (tmp_path / "forged", *violated))
        told = CliRunner().invoke(cli, ["check", *given, "--ray", cluster.address], standalone_mode=False)
        assert told.return_value == UNDECIDED and told.output.startswith("not proved: block ")
        with (
            pytest.raises(InputError, match="ask for fewer by --jobs"),
            provers_of_cluster(cluster.address, 3),
        ):
            pass
        with pytest.raises(InputError, match="ask for fewer by --workers"):
            verify.verify(*paths, ray=cluster.address, workers=3)
        (tmp_path / "instances.csv").write_text("model.onnx,property.vnnlib,600\n")
        todo, settings = read_instances([tmp_path]), Settings(ray=cluster.address, jobs=1)
        assert [ended.answer.result for ended in run(todo, settings)] == ["unsat"]
        with pytest.raises(InputError, match="ask for fewer by --jobs or --workers"):
            list(run(todo, Settings(ray=cluster.address, workers=3)))
    finally:
        cluster.shutdown()
