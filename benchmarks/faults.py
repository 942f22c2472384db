"""Searches whose processes are killed at random moments. Run ``make faults``.

A search that takes some seconds is decided again and again. In one kind of trial its owner is killed (SIGKILL, nothing is unwound) at
a random moment and the same command is run again, until one comes to its end; a third of these searches have workers. In the other kind its workers are killed or stopped
(SIGSTOP) at random moments while it runs. Four of five searches write a certificate, which the checker has to prove; it goes on until 30 owners and 100 workers of such searches
were killed, or for 20 minutes. The verdict is known from a mixed-integer program, or was said by the exact methods that
the shipped problems' verdicts are from.

The exit status is 1 where a verdict is wrong, a certificate is not proved, a command ends with an error, or fewer were killed.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import click
import numpy as np
import onnx
from numpy.random import Generator
from onnx import helper, numpy_helper

from benchmarks.common import table
from properties.milp import minimise_margin
from verify.checker.checking import check

ROOT = Path(__file__).parents[1]
# Steps are small and slow, the clock of checkpoints goes at once, and a silent worker is lost soon: much can go wrong in little work
_COMMAND = """
import time
import verify.bab.checkpoint, verify.bab.loop, verify.settings, verify.workers.local
verify.bab.checkpoint._APART, verify.bab.checkpoint._SHARE, verify.workers.local.SILENCE = 0.0, 0.5, 10.0
object.__setattr__(verify.settings.preset("default"), "batch_elements", 1)
collect = verify.bab.loop._Branching._collect
verify.bab.loop._Branching._collect = lambda branching: (time.sleep(0.1), collect(branching))[1]
from verify.cli import main
main()
"""
_PATIENCE = 600.0  # seconds that a search may take which nothing is done to
_PLAIN = 5  # each such trial is without a certificate
_ANYWHERE = 0.2  # of the kills come at any moment, the others once the journal has grown


@dataclass(frozen=True)
class Instance:
    """A model, a property and the right verdict."""

    model: Path
    specification: Path
    verdict: str


@dataclass(frozen=True)
class Trial:
    """What came of it. kills: how many processes were killed or stopped; resumed: whether a journal was gone on from."""

    verdict: str
    kills: int
    resumed: bool
    seconds: float


def narrow(folder: Path, shift: float, seed: int = 5, sizes: Sequence[int] = (7, 16, 8, 2)) -> Instance:
    """A small random network of ReLUs and a threshold `shift` below its exact minimum: thousands of boxes to split."""
    random = np.random.default_rng(seed)
    nodes, weights, value = [], [], "X"
    for place, (inputs, outputs) in enumerate(pairwise(sizes)):
        weight = (random.standard_normal((inputs, outputs)) / np.sqrt(inputs)).astype(np.float32)
        bias = (0.3 * random.standard_normal(outputs)).astype(np.float32)
        weights += [numpy_helper.from_array(weight, f"w{place}"), numpy_helper.from_array(bias, f"b{place}")]
        last = place == len(sizes) - 2
        nodes.append(
            helper.make_node("Gemm", [value, f"w{place}", f"b{place}"], ["Y" if last else f"z{place}"])
        )
        if not last:
            nodes.append(helper.make_node("Relu", [f"z{place}"], [value := f"a{place}"]))
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, size])
        for name, size in (("X", sizes[0]), ("Y", sizes[-1]))
    ]
    graph = helper.make_graph(nodes, "narrow", ends[:1], ends[1:], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder.mkdir(parents=True, exist_ok=True)
    model, specification = folder / "model.onnx", folder / "property.vnnlib"
    onnx.save(made, str(model))
    lower, upper = np.full(sizes[0], -0.75), np.full(sizes[0], 0.75)
    least, _, _ = minimise_margin(model, lower, upper, [1.0, -0.5], 0.0)
    text = [f"(declare-const X_{i} Real)" for i in range(sizes[0])] + [
        f"(declare-const Y_{i} Real)" for i in range(sizes[-1])
    ]
    text += [f"(assert (>= X_{i} -0.75))\n(assert (<= X_{i} 0.75))" for i in range(sizes[0])]
    text += [f"(assert (<= (+ Y_0 (* -0.5 Y_1)) {least - shift:.12f}))"]
    specification.write_text("\n".join(text) + "\n")
    return Instance(model, specification, "unsat")


def started(instance: Instance, *options: str) -> subprocess.Popen[str]:
    """The command at work."""
    return subprocess.Popen(
        [sys.executable, "-c", _COMMAND, "run", str(instance.model), str(instance.specification), "--format", "json", "--quiet", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def ended(process: subprocess.Popen[str], seconds: float) -> dict[str, object]:
    """What the command says at its end. Raises RuntimeError where it is an error."""
    out, error = process.communicate(timeout=seconds)
    if process.returncode not in (0, 1):
        raise RuntimeError(f"exit status {process.returncode}: {error}")
    told: dict[str, object] = json.loads(out)
    return told


def owner_killed(
    instance: Instance,
    folder: Path,
    random: Generator,
    seconds: float,
    *options: str,
    most: int = 6,
    until: float = math.inf,
) -> Trial:
    """The owner is killed at a random moment, so often at most, and not after a time (of `time.monotonic`); then it comes to its end.

    seconds: that it may have gone on at most.
    """
    began, kills = time.monotonic(), 0
    while True:
        process = started(instance, "--checkpoint", str(folder), *options)
        spared = kills >= most or time.monotonic() > until
        if not spared and random.random() > _ANYWHERE:
            _grown(folder, process)
        with suppress(subprocess.TimeoutExpired):
            told = ended(process, _PATIENCE if spared else float(random.uniform(0, seconds)))
            resumed = bool(told["statistics"]["checkpoint"].get("resumed"))  # type: ignore[index]
            return Trial(str(told["verdict"]), kills, resumed, time.monotonic() - began)
        process.kill()
        process.communicate()
        if spared:
            raise RuntimeError("it never came to its end")
        kills += 1


def _grown(folder: Path, process: subprocess.Popen[str]) -> None:
    """Waits until a journal has grown by a record, or the process has ended."""
    known = {_version(folder)}
    while len(known) < 3 and process.poll() is None:  # it is opened, and written
        time.sleep(0.02)
        known.add(_version(folder))


def _version(folder: Path) -> tuple[int, int] | None:
    """What changes when a journal grows."""
    with suppress(OSError):
        status = (folder / "journal").stat()
        return status.st_ino, status.st_mtime_ns
    return None


def workers_killed(
    instance: Instance,
    random: Generator,
    seconds: float,
    *options: str,
    most: int = 6,
    until: float = math.inf,
) -> Trial:
    """Some worker is killed or stopped again and again, so many seconds after the last time at most, as long as the search goes on.

    most: of these. until: no longer than that (of `time.monotonic`).
    """
    began, kills = time.monotonic(), 0
    process = started(instance, "--workers", "2", *options)
    while not workers_of(process.pid) and process.poll() is None:
        time.sleep(0.02)
    while time.monotonic() < began + _PATIENCE:
        with suppress(subprocess.TimeoutExpired):
            told = ended(process, float(random.uniform(0, seconds)))
            return Trial(str(told["verdict"]), kills, False, time.monotonic() - began)
        children = workers_of(process.pid)
        if children and kills < most and time.monotonic() < until:
            with suppress(ProcessLookupError):
                os.kill(
                    int(random.choice(children)), signal.SIGKILL if random.random() < 0.7 else signal.SIGSTOP
                )
                kills += 1
    process.kill()
    raise RuntimeError("it never came to its end")


def workers_of(owner: int) -> list[int]:
    """The processes that work for a search."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == owner and b"verify.workers.worker" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return found


@dataclass
class Tally:
    """What came of the trials of one kind. wanted: kills in searches whose certificates are proved."""

    kind: str
    wanted: int
    trials: list[Trial] = field(default_factory=list)
    begun: int = 0
    proofs: int = 0
    certified: int = 0  # kills in those

    @property
    def left(self) -> float:
        """The share of the kills that is still wanted."""
        return 1 - self.certified / self.wanted if self.certified < self.wanted else 0.0

    @property
    def row(self) -> list[str]:
        """For the table."""
        kills, resumed = (
            sum(trial.kills for trial in self.trials),
            sum(trial.resumed for trial in self.trials),
        )
        mean = sum(trial.seconds for trial in self.trials) / max(1, len(self.trials))
        numbers = self.begun, len(self.trials), self.proofs, kills, self.certified, resumed
        return [self.kind, *map(str, numbers), f"{mean:.1f}"]


HEADING = [
    "killed",
    "trials",
    "right end",
    "proved",
    "kills",
    "of these with a proof",
    "went on",
    "seconds each",
]


@click.command()
@click.option(
    "--owners", default=30, show_default=True, help="Kills of owners whose certificates are proved."
)
@click.option(
    "--workers",
    default=100,
    show_default=True,
    help="Kills of workers of searches whose certificates are proved.",
)
@click.option("--minutes", default=20.0, show_default=True, help="After which nothing is killed any more.")
@click.option("--seed", default=0, show_default=True)
def main(owners: int, workers: int, minutes: float, seed: int) -> None:
    """Kills, and looks at the verdicts."""
    random, until, wrong = np.random.default_rng(seed), time.monotonic() + 60 * minutes, list[str]()
    tallies = [Tally("owner", owners), Tally("workers", workers)]
    with tempfile.TemporaryDirectory() as scratch:
        resnet = ROOT / "properties/digits_resnet"
        instances = [
            narrow(Path(scratch) / "narrow", 1e-4),
            Instance(
                resnet / "onnx/digits_resnet.onnx", resnet / "vnnlib/image_1405_radius_0.04.vnnlib", "unsat"
            ),
        ]
        while time.monotonic() < until and any(tally.left for tally in tallies):
            tally = max(tallies, key=lambda tally: tally.left)
            tally.begun += 1
            folder = Path(scratch) / f"{tally.kind}-{tally.begun}"
            try:
                _try(tally, instances[tally.begun % len(instances)], folder, random, until)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                wrong.append(f"{tally.kind}, trial {tally.begun}: {error}")
    print(table(HEADING, [tally.row for tally in tallies]))
    for tally in tallies:
        if tally.left:
            wrong.append(f"{tally.kind}: {tally.certified} of {tally.wanted} kills in {minutes:g} minutes")
    for line in wrong:
        print(line)
    sys.exit(1 if wrong else 0)


def _try(tally: Tally, instance: Instance, folder: Path, random: Generator, until: float) -> None:
    """One trial. Raises RuntimeError where something is wrong with it."""
    proof = None if tally.begun % _PLAIN == 0 else folder.with_suffix(".cert")
    options: tuple[str, ...] = () if proof is None else ("--certificate", str(proof))
    if tally.kind == "owner":
        options += ("--workers", "2") if tally.begun % 3 == 0 else ()
        trial = owner_killed(instance, folder, random, 3.0, *options, until=until)
    else:
        trial = workers_killed(instance, random, 3.0, *options, until=until)
    tally.trials.append(trial)
    if trial.verdict != instance.verdict:
        raise RuntimeError(f"{trial.verdict}, not {instance.verdict}")
    if proof is not None:
        if not proved(instance, proof):
            raise RuntimeError("the certificate is not proved")
        tally.proofs, tally.certified = tally.proofs + 1, tally.certified + trial.kills


def proved(instance: Instance, certificate: Path) -> bool:
    """Whether the checker proves a search's certificate."""
    return certificate.exists() and check(certificate, instance.model, instance.specification).proved


if __name__ == "__main__":
    main()
