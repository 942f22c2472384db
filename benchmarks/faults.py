"""Searches whose processes are killed at random moments. Run ``make faults``.

A search that takes some seconds is decided again and again. In one kind of trial its owner is killed (SIGKILL, nothing is unwound) at
a random moment and the same command is run again, until one comes to its end; a third of these searches have workers. In the other kind its workers are killed or stopped
(SIGSTOP) at random moments while it runs. Half of the searches write a certificate, which `verify check` has to prove. The verdict is known from a mixed-integer program, or was said by the exact methods that
the shipped problems' verdicts are from.

The exit status is 1 where a verdict is wrong, a certificate is not proved, a command ends with an error, or nothing was killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
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
    instance: Instance, folder: Path, random: Generator, seconds: float, *options: str, most: int = 50
) -> Trial:
    """The owner is killed at a random moment, each time, until it comes to its end. seconds: that it may have gone on at most."""
    began, resumed = time.monotonic(), False
    for kills in range(most):
        before = _version(folder)
        process = started(instance, "--checkpoint", str(folder), *options)
        if random.random() > _ANYWHERE:
            while _version(folder) == before and process.poll() is None:
                time.sleep(0.02)
        with suppress(subprocess.TimeoutExpired):
            told = ended(process, float(random.uniform(0, seconds)) if kills < most - 1 else 600)
            resumed |= bool(told["statistics"]["checkpoint"].get("resumed"))  # type: ignore[index]
            return Trial(str(told["verdict"]), kills, resumed, time.monotonic() - began)
        process.kill()
        process.communicate()
    raise RuntimeError("it never came to its end")


def _version(folder: Path) -> tuple[int, int] | None:
    """What changes when a journal grows."""
    with suppress(OSError):
        status = (folder / "journal").stat()
        return status.st_ino, status.st_mtime_ns
    return None


def workers_killed(
    instance: Instance, random: Generator, seconds: float, *options: str, most: int = 6
) -> Trial:
    """Some worker is killed or stopped again and again, so many seconds after the last time at most, as long as the search goes on."""
    began, kills = time.monotonic(), 0
    process = started(instance, "--workers", "2", *options)
    while not workers_of(process.pid) and process.poll() is None:
        time.sleep(0.02)
    while time.monotonic() < began + 600:
        with suppress(subprocess.TimeoutExpired):
            told = ended(process, float(random.uniform(0, seconds)))
            return Trial(str(told["verdict"]), kills, False, time.monotonic() - began)
        children = workers_of(process.pid)
        if children and kills < most:
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


@click.command()
@click.option("--owners", default=30, show_default=True, help="Trials in which the owner is killed.")
@click.option("--workers", default=30, show_default=True, help="Trials in which workers are killed.")
@click.option("--minutes", default=20.0, show_default=True, help="After which no trial is begun.")
@click.option("--seed", default=0, show_default=True)
def main(owners: int, workers: int, minutes: float, seed: int) -> None:
    """Kills, and looks at the verdicts."""
    random, until, wrong = np.random.default_rng(seed), time.monotonic() + 60 * minutes, list[str]()
    with tempfile.TemporaryDirectory() as scratch:
        resnet = ROOT / "properties/digits_resnet"
        instances = [
            narrow(Path(scratch) / "narrow", 1e-4),
            Instance(
                resnet / "onnx/digits_resnet.onnx", resnet / "vnnlib/image_1405_radius_0.04.vnnlib", "unsat"
            ),
        ]
        rows = []
        for kind, count in (("owner", owners), ("workers", workers)):
            trials, begun, proofs = list[Trial](), 0, 0
            while begun < count and time.monotonic() < until:
                instance = instances[begun % len(instances)]
                begun += 1
                proof = Path(scratch) / f"proof-{begun}" if begun % 4 > 1 else None
                options: tuple[str, ...] = () if proof is None else ("--certificate", str(proof))
                try:
                    if kind == "owner":
                        options += ("--workers", "2") if begun % 3 == 0 else ()
                        folder = Path(scratch) / f"kept-{begun}"
                        trial = owner_killed(instance, folder, random, 3.0, *options)
                    else:
                        trial = workers_killed(instance, random, 3.0, *options)
                except RuntimeError as error:
                    wrong.append(f"{kind}, trial {begun}: {error}")
                    continue
                trials.append(trial)
                if proof is not None:
                    if proved(instance, proof):
                        proofs += 1
                    else:
                        wrong.append(f"{kind}, trial {begun}: the certificate is not proved")
                if trial.verdict != instance.verdict:
                    wrong.append(f"{kind}, trial {begun}: {trial.verdict}, not {instance.verdict}")
            rows.append(_row(kind, begun, trials, proofs))
            if begun and not any(trial.kills for trial in trials):
                wrong.append(f"{kind}: nothing was killed")
    print(table(["killed", "trials", "right end", "proved", "kills", "went on", "seconds each"], rows))
    for line in wrong:
        print(line)
    sys.exit(1 if wrong else 0)


def proved(instance: Instance, certificate: Path) -> bool:
    """Whether the checker proves a search's certificate."""
    return certificate.exists() and check(certificate, instance.model, instance.specification).proved


def _row(kind: str, begun: int, trials: Sequence[Trial], proofs: int) -> list[str]:
    kills, resumed = sum(trial.kills for trial in trials), sum(trial.resumed for trial in trials)
    mean = sum(trial.seconds for trial in trials) / max(1, len(trials))
    return [kind, str(begun), str(len(trials)), str(proofs), str(kills), str(resumed), f"{mean:.1f}"]


if __name__ == "__main__":
    main()
