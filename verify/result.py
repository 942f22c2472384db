"""What a run ends with."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verify.loading.loaded import Export
    from verify.problem import Witness


@dataclass(frozen=True)
class Moment:
    """Where a search was: seconds since the start, the phase that began, the worst bound that waits, how many subproblems wait and were bounded."""

    seconds: float
    phase: str
    worst: float
    waiting: int
    bounded: int


@dataclass(frozen=True, eq=False)
class Account:
    """What was asked, of what, and how it went: what a report tells beside a verdict.

    sentence: what a property built in Python claims. text: the property as VNN-LIB, where it is short. boxes: how many there are; lower, upper: the
    first one's ends, of all inputs. written: the first clauses as people write them; any of them is unsafe. networks: the models of
    further networks of a query.
    """

    model: str
    model_sha256: str | None
    specification: str
    specification_sha256: str | None
    sentence: str | None
    text: str | None
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    element_type: str
    of_query: bool
    boxes: int
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    clauses: int
    written: tuple[str, ...]
    settings: dict[str, Any]
    versions: dict[str, str]
    machine: dict[str, str]
    moments: tuple[Moment, ...] = ()
    networks: dict[str, str] = field(default_factory=dict)
    networks_sha256: dict[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Result:
    """A verdict (`sat`, `unsat`, `unknown` or `timeout`), why, and what it took.

    `witness` is set for `sat` alone. `statistics`: clauses; `snapped`, how many inputs of a box were extended to a number of
    their type; subproblems bounded, closed, and waiting at the end; the greatest depth; batches and the largest of them; seconds
    by phase, and of attacks beside branching (of all threads); by technique, its calls, subproblems, seconds, mean gain (the share
    of the distance from 0 that it closed) and how many it refuted; none where the time ran out before the search began.
    `certificate`: the file written, if one was asked for and proved. `warning`: why the property is vacuous, if it is.
    `notes`: how the property was read where it is not as the standard of VNN-LIB has it. `extensions`: code of other packages
    that this process had loaded, which may have taken part. `account`: what a report tells beside that. `export`: of a torch module with a
    certificate, the ONNX file that was proved (CERTIFICATE.onnx), and how it compares with the module.
    """

    verdict: str
    reason: str
    seconds: float
    witness: Witness | None = field(default=None, repr=False)
    statistics: dict[str, Any] = field(default_factory=dict, repr=False)
    certificate: Path | None = None
    warning: str | None = None
    notes: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    account: Account | None = field(default=None, repr=False)
    export: Export | None = None

    def __str__(self) -> str:
        return f"{self.verdict}: {self.reason} ({self.seconds:.2f} s)"

    def _repr_html_(self) -> str:
        """For notebooks."""
        said = "; ".join((self.reason, *self.warnings))
        return f"<p><b>{escape(self.verdict)}</b> ({self.seconds:.2f} s): {escape(said)}</p>"

    @property
    def warnings(self) -> tuple[str, ...]:
        """All that whoever wrote the property should know."""
        return (*self.notes, *([] if self.warning is None else [self.warning]))

    @property
    def vacuous(self) -> bool:
        """Whether the property holds as it is written, whatever the model."""
        return self.warning is not None


def late(started: float, reason: str = "time ran out while model and property were loaded") -> Result:
    """What is said where the time ran out without a word from the search."""
    return Result("timeout", reason, time.monotonic() - started)
