"""The largest radius of a ball in which a sample keeps its label, from both sides: one that is proved, and one with a counterexample.

Many radii are bounded at once first. A counterexample says how far away it is, which is mostly less than the radius that it was looked for in; between both
ends balls are searched, halving what is left.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from verify.deadline import Deadline
from verify.errors import memory_kept
from verify.neutral import neutral
from verify.problem import Witness
from verify.request import Request
from verify.run import run
from verify.settings import placed
from verify.study.data import Data
from verify.study.question import Balls, Search, loaded, nested, predictions
from verify.study.screening import Screening
from verify.validation import array, integer, real, refuse, seconds, shown

if TYPE_CHECKING:
    from verify.loading import LoadedModel
    from verify.problem import Model

_SCREENED = 24  # radii that are bounded at once


@dataclass(frozen=True)
class Radius:
    """certified: the label holds everywhere within that radius (0: at the sample itself; -1 where not even there). falsified: within that one
    there is the `witness`; None where none was found up to the largest radius asked for. reason: why it ended. balls: so many were searched.
    """

    certified: float
    falsified: float | None
    witness: Witness | None = field(repr=False)
    reason: str
    balls: int
    seconds: float

    def __str__(self) -> str:
        other = "none found" if self.falsified is None else f"{self.falsified:.6g}"
        return f"certified {self.certified:.6g}, counterexample {other}: {self.reason} ({self.balls} balls, {self.seconds:.2f} s)"


@neutral()
def radius(
    model: Model,
    x: Any,
    label: int | None = None,
    *,
    tolerance: float = 1e-3,
    largest: float | None = None,
    norm: str = "inf",
    clip: Any = (0.0, 1.0),
    mean: Any = None,
    std: Any = None,
    timeout: float | None = None,
    search_timeout: float | None = 10.0,
    device: str = "auto",
    preset_name: str = "default",
    seed: int = 0,
    output: str | None = None,
    observe: Callable[[float, float | None], None] | None = None,
) -> Radius:
    """Certified and falsified radii of a sample that are no more than `tolerance` apart, if there is time for it.

    x: one sample. label: what it is to be given; what the model gives it where None. largest: where to begin; with a clip the width of the
    widest range by default. timeout: seconds, of the whole call; search_timeout: of each ball. observe: told both ends whenever one moves. The other
    arguments are those of `certify`. Raises InputError and ResourceError as `verify` does.
    """
    started = time.monotonic()
    search, balls = Search(search_timeout, device, preset_name, seed), Balls(norm, clip, mean, std)
    gap, whole = real("tolerance", tolerance), seconds("timeout", timeout)
    if gap <= 0:
        refuse("tolerance", f"is {gap}", "give a number above 0")
    if observe is not None and not callable(observe):
        refuse("observe", f"is {shown(observe)}", "give a function of two arguments: certified, falsified")
    sample = array("x", x)
    data = Data(sample[None], np.array([0 if label is None else integer("label", label, 0, 2**31)]))
    size = _largest(balls, data, largest)
    deadline = Deadline() if whole is None else Deadline(started + whole)
    with memory_kept("a radius was searched"):
        found = loaded(model, balls, data, size, output)
        bracket = _Bracket(found, data, balls, search, observe or (lambda *_: None), deadline)
        reason = bracket.narrowed(label, size, gap)
    return Radius(
        bracket.certified,
        bracket.falsified,
        bracket.witness,
        reason,
        bracket.searched,
        time.monotonic() - started,
    )


def _largest(balls: Balls, data: Data, largest: float | None) -> float:
    """The largest radius that is looked at."""
    if largest is not None:
        size = real("largest", largest)
        if size <= 0:
            refuse("largest", f"is {size}", "give a radius above 0")
        return size
    clip = balls.at(data.x[0], 0.0, 0).clip
    widths = np.array([math.inf]) if clip is None else np.asarray(clip[1]) - np.asarray(clip[0])
    if not np.isfinite(widths).all():
        refuse("largest", "is not given, and clip has no ends", "give the largest radius to look at")
    width, entries = float(np.max(widths)), data.x[0].size
    return width * {"inf": 1.0, "2": math.sqrt(entries), "1": float(entries)}[balls.norm] or 1.0


@dataclass
class _Bracket:
    """What is known of a sample's radius: two ends that come nearer."""

    model: LoadedModel
    data: Data
    balls: Balls
    search: Search
    observe: Callable[[float, float | None], None]
    deadline: Deadline
    certified: float = -1.0
    falsified: float | None = None
    witness: Witness | None = None
    searched: int = 0
    label: int = 0

    def narrowed(self, label: int | None, largest: float, tolerance: float) -> str:
        """Moves both ends; why it stops."""
        predicted = int(predictions(self.model, self.balls.given(self.data.x))[0])
        self.label = predicted if label is None else int(self.data.labels[0])
        if predicted < 0 or predicted != self.label:
            told = f"label {predicted}" if predicted >= 0 else "no label of its own"
            return f"the sample itself is given {told}"
        self.certified = 0.0
        self._screen(largest, tolerance)
        ended = self._searched(largest)
        while ended is None and self.falsified is not None and self.falsified - self.certified > tolerance:
            middle = (self.certified + self.falsified) / 2
            if not self.certified < middle < self.falsified:
                break
            ended = self._searched(middle)
        if ended is not None:
            return ended
        if self.falsified is None:
            return f"no counterexample is within the largest radius asked for, {largest:g}"
        return f"both ends are at most {tolerance:g} apart"

    def _screen(self, largest: float, tolerance: float) -> None:
        """Bounds of many radii at once."""
        steps = np.geomspace(min(tolerance, largest), largest, _SCREENED).tolist()
        grid = sorted({*(min(size, largest) for size in steps), largest})
        ends = [self.balls.ends(self.data.x, size) for size in grid]
        lower, upper = (torch.from_numpy(np.concatenate([end[side] for end in ends])) for side in (0, 1))
        good = np.concatenate([nested(*end, self.model.element_type) for end in ends])
        network = placed(self.model.network, self.search.device)
        labels = torch.full((len(grid),), self.label)
        for index, _ in Screening(network).refuted(lower, upper, labels, self.deadline):
            for size in (grid[i] for i in index.tolist() if good[i]):
                self._proved(size)

    def _searched(self, size: float) -> str | None:
        """Searches one ball; why nothing more can be found, if so."""
        if size <= self.certified:
            return None
        left = self.deadline.remaining
        if left <= 0:
            return "time ran out"
        asked, limit = self.search, self.search.timeout
        limit = min(limit or math.inf, left)
        ball = self.balls.at(self.data.x[0], size, self.label)
        result = run(Request(self.model, ball, limit, asked.device, asked.preset, asked.seed))
        self.searched += 1
        if result.verdict == "unsat":
            self._proved(size)
        elif result.witness is not None:
            self.witness = result.witness
            self.falsified = min(size, self._distance(result.witness))
            self.observe(self.certified, self.falsified)
        else:
            return f"the ball of radius {size:g} is not decided: {result.reason}"
        return None

    def _proved(self, size: float) -> None:
        if size > self.certified:
            self.certified = size
            self.observe(self.certified, self.falsified)

    def _distance(self, witness: Witness) -> float:
        """How far away a counterexample is at most, in the data's units."""
        sample = self.balls.at(self.data.x[0], 0.0, self.label).sample
        inputs, centre = witness.inputs.astype(np.float64).ravel(), sample.given(sample.x).ravel()
        stds = np.broadcast_to(np.asarray(sample.std, dtype=np.float64), sample.x.shape).ravel()
        each = [
            abs(Fraction(a) - Fraction(b)) * Fraction(s) for a, b, s in zip(inputs, centre, stds, strict=True)
        ]
        if self.balls.norm == "2":
            return math.nextafter(math.sqrt(sum(one * one for one in each)) * (1 + 1e-12), math.inf)
        total = max(each) if self.balls.norm == "inf" else sum(each, Fraction(0))
        return math.nextafter(float(total) * (1 + 1e-12), math.inf)
