"""What is asked of a run, checked where it is said: every run starts from a `Request`.

A request is data. It may be pickled wherever its model and specification may: it goes to worker processes as it is. Nothing heavy is
imported here, so the names that options take stand here too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verify.deadline import Deadline
from verify.errors import InputError
from verify.extensions import names
from verify.validation import choice, flag, integer, is_nnet, output_name, path, refuse, seconds, shown

if TYPE_CHECKING:
    import torch

    from verify.loading.loaded import Source
    from verify.problem import Model, Spec

PRESETS = ("fast", "default", "thorough")
# The real-valued function of the model's weights, or what any library computes of it in float32
SEMANTICS = ("real", "ieee32-any-order")
# Ways to bound clauses, and their intermediate bounds
METHODS = ("interval", "crown", "dsg", "supergradient", "proximal", "restricted", "lp")
INTERMEDIATE = ("crown", "optimised")
_MOST_WORKERS = 4096
_CLUSTER = re.compile(r"local|auto|(?:ray://)?[\w.-]+:\d{1,5}", re.ASCII)
_DEVICE = re.compile(r"auto|cpu(?::0)?|cuda(?::\d{1,4})?", re.ASCII)


@dataclass(frozen=True)
class Request:
    """A question and how to answer it. Raises InputError for what cannot be asked; model and specification are checked when read.

    timeout: seconds, loading included; None for no limit. certificate: a file for the evidence. semantics: one of `SEMANTICS`.
    rigorous: False takes float32's word for refutations. trim: drop what a certificate can do without. memory: bytes for a process
    that is ours (a command's, a worker's) and those that it starts; None for a share of the machine's. output: the name of the one that
    the property is of, where the model has several. checkpoint: a folder that keeps the search, so that the same request goes on after its
    process was killed. workers: processes of this machine that search, None for threads of one. ray: a cluster whose workers search, by
    its address, `auto`, or `local` for one that is started and ended with the run; `workers`: how many, then.
    """

    model: Model | Mapping[str, Source]
    specification: Spec
    timeout: float | None = None
    device: str = "auto"
    preset: str = "default"
    seed: int = 0
    certificate: Path | None = None
    semantics: str = "real"
    rigorous: bool = True
    trim: bool = False
    memory: int | None = None
    example_input: torch.Tensor | None = None
    output: str | None = None
    checkpoint: Path | None = None
    workers: int | None = None
    ray: str | None = None

    def __post_init__(self) -> None:
        checked = {
            "timeout": seconds("timeout", self.timeout),
            "device": known_device(self.device),
            "preset": known_preset(self.preset),
            "seed": integer("seed", self.seed, least=0),
            "certificate": None if self.certificate is None else path("certificate", self.certificate),
            "semantics": choice("semantics", self.semantics, SEMANTICS),
            "rigorous": flag("rigorous", self.rigorous),
            "trim": flag("trim", self.trim),
            "output": output_name(self.output),
            "checkpoint": None if self.checkpoint is None else path("checkpoint", self.checkpoint),
            "workers": None if self.workers is None else integer("workers", self.workers, 1, _MOST_WORKERS),
            "ray": known_address(self.ray),
            "memory": None if self.memory is None else integer("memory", self.memory, least=1),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        self._check_certificate()
        self._check_checkpoint()
        self._check_workers()

    def _check_certificate(self) -> None:
        """InputError where a claim is asked for that only the checker can make, or none that it could."""
        if self.certificate is None and self.semantics != "real":
            raise InputError(
                f"--semantics {self.semantics} needs --certificate FILE: the checker has the last word on it"
            )
        if self.certificate is not None and is_nnet(self.model):
            raise InputError(
                f"{self.model}: certificates are of ONNX files; verify convert writes the one that this is decided as"
            )
        if self.certificate is None and self.trim:
            raise InputError("--trim needs --certificate FILE: there is nothing else to trim")
        if self.certificate is not None and not self.rigorous:
            raise InputError(
                "--no-rigorous proves nothing that a certificate could hold; leave one of them out"
            )

    def _check_checkpoint(self) -> None:
        """InputError where a search is to be kept that is not known again, or the certificate in its folder."""
        if self.checkpoint is None:
            return
        if self.certificate is not None and self.checkpoint.resolve() in self.certificate.resolve().parents:
            raise InputError(
                f"--certificate {self.certificate}: lies in the folder of --checkpoint, which is for the search alone; choose another place"
            )
        if not isinstance(self.model, str | Path | bytes):
            raise InputError(
                f"--checkpoint: the model is {shown(self.model)}; give the path or the bytes of an ONNX file, which is known again"
            )

    def _check_workers(self) -> None:
        """InputError for what other processes cannot do yet."""
        if self.workers is None and self.ray is None:
            return
        if self.device not in ("auto", "cpu", "cpu:0"):
            raise InputError(
                f"--device {self.device}: workers search on processors yet; leave --workers and --ray out, or choose --device cpu"
            )

    def deadline(self, started: float) -> Deadline:
        """When the time is over, of a run whose clock began at `started` (of `time.monotonic`)."""
        return Deadline() if self.timeout is None else Deadline(started + self.timeout)


def known_preset(value: Any) -> str:
    """One of `PRESETS`, and behind a + each the name of a branching rule or technique of an installed package. Raises InputError."""
    base, *more = value.split("+") if isinstance(value, str) else (value,)
    choice("preset", base, PRESETS)
    for name in more:
        choice(
            "preset: the branching rule or technique",
            name,
            (*names("branching rule"), *names("technique")) or ("none",),
        )
    return str(value)


def known_method(value: Any) -> str:
    """One of `METHODS`, or the name of a bounder of an installed package. Raises InputError."""
    if isinstance(value, str) and value in METHODS:
        return value
    return choice("method", value, tuple(dict.fromkeys((*METHODS, *names("bounder")))))


def known_address(value: Any) -> str | None:
    """Where a cluster is: `local`, `auto`, or HOST:PORT. Raises InputError."""
    if value is None or (isinstance(value, str) and _CLUSTER.fullmatch(value)):
        return value
    refuse(
        "--ray",
        f"{shown(value)} is no address",
        "use HOST:PORT, auto, or local for a cluster of this machine alone",
    )


def known_device(value: Any) -> str:
    """`auto`, `cpu`, `cuda` or `cuda:N`, whether there is such a device here or not. Raises InputError."""
    if not isinstance(value, str) or not _DEVICE.fullmatch(value):
        refuse(
            "--device", f"{shown(value)} is not known", "use auto, cpu, cuda, or cuda:N for one of several"
        )
    return value
