"""How a suite is run, and what comes of an instance."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from verify.request import Request, known_address, known_device
from verify.suite.instances import Instance
from verify.suite.worker import Answer, Decide

START_SECONDS = 300.0  # for a worker to say that it is ready


@dataclass(frozen=True)
class Settings:
    """How a suite is run. Raises InputError for a device, or an address of a cluster, that there cannot be."""

    jobs: int | None = (
        None  # instances at a time; one on this machine where None, as many as a cluster has room for
    )
    restart: int = 25  # instances that a worker decides before a fresh one takes its place
    grace: float = 10.0  # seconds past an instance's limit after which its worker is killed
    device: str = "auto"
    preset: str = "default"
    memory: int | None = None  # bytes of all workers together; None for a share of the machine's
    deciders: Callable[[], Decide] | None = None  # what decides, in the worker; `verify` where None
    checkpoint: Path | None = None  # a folder that keeps the searches that were not done
    workers: int | None = None  # processes that search for each instance; None: threads of its worker
    ray: str | None = None  # a cluster whose machines decide, by its address; None: this machine
    certificates: Mapping[tuple[str, str, str], Path] = field(
        default_factory=dict
    )  # files for those, by instances

    def __post_init__(self) -> None:
        known_device(self.device)
        known_address(self.ray)

    def request(self, instance: Instance) -> Request:
        """An instance as a worker takes it."""
        return Request(
            instance.model,
            instance.specification,
            instance.timeout,
            self.device,
            self.preset,
            memory=None if self.memory is None else self.memory // (self.jobs or 1),
            checkpoint=self.kept(instance),
            workers=self.workers,
            certificate=self.certificates.get(instance.key),
        )

    def kept(self, instance: Instance) -> Path | None:
        """The folder that keeps an instance's search; None where it is not kept (of several networks)."""
        if self.checkpoint is None or isinstance(instance.model, dict):
            return None
        digest = hashlib.sha256("\n".join(instance.key).encode(errors="surrogateescape")).hexdigest()
        return self.checkpoint / f"{instance.specification.stem[:64]}-{digest[:16]}"


@dataclass(frozen=True)
class Ended:
    """An instance's answer, the seconds until it came, and those of the worker's start if it served this instance first."""

    instance: Instance
    answer: Answer
    seconds: float
    start_seconds: float = 0.0
