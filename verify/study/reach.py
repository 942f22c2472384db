"""Where a closed loop can get to: a model that takes a state and gives the next one, from a box of states, step by step.

Each step's box is bounded from the box some steps before, through as many copies of the model in a row, and from the one just before; both hold. The longer
the row, the less is lost by boxes (wrapping), and the more each bound costs. The first box may be cut into pieces that are followed one by one, in a batch.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from verify.deadline import Deadline
from verify.errors import memory_kept
from verify.loading import LoadedModel, load
from verify.loading.composed import in_a_row
from verify.network.graph import Network
from verify.neutral import neutral
from verify.settings import choose_device, placed
from verify.specification.base import box_of, fitted
from verify.study.ranges import METHODS, bounded
from verify.validation import array, axes, choice, integer, output_name, refuse, seconds

if TYPE_CHECKING:
    from verify.problem import Model

_MOST_PIECES = 100_000
_TRAJECTORIES = 200


@dataclass(frozen=True, eq=False)
class Tube:
    """Boxes that hold every state after each step. lower, upper: float64, [steps + 1, *state]; the first is the box that was given.

    trajectories: some real ones, [steps + 1, trajectories, state], as the model runs, from random states of the first box. finished: False where the
    time ran out; the boxes end there.
    """

    lower: Tensor
    upper: Tensor
    trajectories: Tensor
    finished: bool
    seconds: float

    def __len__(self) -> int:
        return len(self.lower) - 1

    def stays_within(self, lower: Any, upper: Any) -> bool:
        """Whether it is proved that all states of all steps lie between two ends, numbers or arrays of a state's shape."""
        low, high = (array(name, end, finite=False) for name, end in (("lower", lower), ("upper", upper)))
        try:
            inside = (self.lower.numpy() >= low).all() and (self.upper.numpy() <= high).all()
        except ValueError:
            shape = list(self.lower.shape[1:])
            refuse(
                "the ends",
                f"have shapes {list(low.shape)} and {list(high.shape)}",
                f"give numbers or arrays of shape {shape}",
            )
        return bool(inside)

    def plot(self, ax: Any = None) -> Any:
        """Every entry of the state over steps, with trajectories, on axes of matplotlib (new ones where None), which are returned.

        Raises InputError without matplotlib.
        """
        try:
            from matplotlib import pyplot
        except ImportError:
            refuse("plot", "needs matplotlib, which is not installed", "pip install 'nn-verify[plot]'")
        ax = pyplot.subplots()[1] if ax is None else ax
        steps, size = np.arange(len(self.lower)), self.trajectories.shape[2]
        lower, upper = (end.reshape(len(steps), size).numpy() for end in (self.lower, self.upper))
        for entry in range(size):
            area = ax.fill_between(steps, lower[:, entry], upper[:, entry], alpha=0.25, label=f"x[{entry}]")
            some = self.trajectories[: len(steps), :20, entry].numpy()
            ax.plot(steps, some, color=area.get_facecolor(), alpha=0.6, linewidth=0.5)
        ax.set_xlabel("step")
        ax.legend()
        return ax


@neutral()
def reach(
    step: Model,
    box: Any,
    steps: int,
    *,
    horizon: int = 3,
    pieces: int | Any = 1,
    method: str = "crown",
    iterations: int = 20,
    timeout: float | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    example_input: Tensor | None = None,
    output: str | None = None,
) -> Tube:
    """Boxes that hold all states that a closed loop can be in after each of so many steps.

    step: a model of states to next states, of one shape. box: (lower, upper) of the first states. horizon: of how many steps before bounds begin
    besides the last one. pieces: into how many the first box is cut along each axis of the state, one number or one for each. method, iterations: as for
    `output_range`. timeout: seconds, checked after each step. Raises InputError and ResourceError.
    """
    started = time.monotonic()
    choice("method", method, METHODS)
    count, back = integer("steps", steps, 1, 10_000), integer("horizon", horizon, 1, 100)
    climb, limit = integer("iterations", iterations, least=0), seconds("timeout", timeout)
    ends = box_of("reach", box)
    cut = _cut(pieces, ends[0].size)
    random = np.random.default_rng(integer("seed", seed, least=0))
    deadline = Deadline() if limit is None else Deadline(started + limit)
    with memory_kept("a closed loop was followed"):
        loaded = _loop(step, ends, example_input, output)
        device = choose_device(device)
        follow = _Following(loaded, device, method, climb, back)
        tubes = follow.all(*_pieces(*ends, cut), count, deadline)
    lower, upper = tubes[0].amin(1), tubes[1].amax(1)
    shape = (len(lower), *ends[0].shape)
    found = _trajectories(loaded, ends, len(lower) - 1, random)
    return Tube(
        lower.reshape(shape), upper.reshape(shape), found, len(lower) > count, time.monotonic() - started
    )


def _loop(step: Model, ends: Any, example_input: Tensor | None, output: str | None) -> LoadedModel:
    """The model, of one shape in and out. Raises InputError."""
    if isinstance(step, LoadedModel):
        if output_name(output) is not None or step.within is not None or step.of_query:
            refuse(
                "the model",
                "was loaded before, with an output of its own or for another property",
                "give its file",
            )
        loaded = step
    else:
        lower = ends[0]
        shape = lower.shape if lower.ndim > 1 and lower.shape[0] == 1 else (1, *lower.shape)
        loaded = load(
            step, example_input, (ends[0].reshape(-1), ends[1].reshape(-1)), output=output, hint=shape
        )
    fitted(ends, loaded.input_shape)
    if prod(loaded.input_shape) != prod(loaded.output_shape):
        found = f"takes {list(loaded.input_shape)} and gives {list(loaded.output_shape)}"
        refuse("the model", found, "give one of states to next states: of as many numbers")
    return loaded


def _cut(pieces: Any, size: int) -> list[int]:
    """How many pieces there are along each entry of the state."""
    one = isinstance(pieces, int) or getattr(pieces, "ndim", 1) == 0
    several = [integer("pieces", pieces, 1, _MOST_PIECES)] * size if one else axes("pieces", pieces)
    found = [integer("pieces", number, 1, _MOST_PIECES) for number in several]
    if len(found) != size:
        refuse(
            "pieces", f"are {len(found)}", f"give one number, or one for each of {size} entries of the state"
        )
    if prod(found) > _MOST_PIECES:
        refuse("pieces", f"are {prod(found)} together", f"give at most {_MOST_PIECES}")
    return found


def _pieces(lower: Any, upper: Any, cut: list[int]) -> tuple[Tensor, Tensor]:
    """The pieces of a box, [pieces, state] each: together they are all of it."""
    edges = [
        np.linspace(low, high, n + 1) for low, high, n in zip(lower.ravel(), upper.ravel(), cut, strict=True)
    ]
    for edge, low, high in zip(edges, lower.ravel(), upper.ravel(), strict=True):
        edge[0], edge[-1] = low, high
    starts, stops = (
        list(product(*(edge[part] for edge in edges))) for part in (slice(None, -1), slice(1, None))
    )
    return torch.tensor(starts, dtype=torch.float64), torch.tensor(stops, dtype=torch.float64)


@dataclass
class _Following:
    """Bounds of pieces, step by step."""

    model: LoadedModel
    device: torch.device
    method: str
    iterations: int
    horizon: int
    _rows: dict[int, Network] = field(default_factory=dict)

    def all(self, lower: Tensor, upper: Tensor, steps: int, deadline: Deadline) -> tuple[Tensor, Tensor]:
        """Both ends of all boxes, [steps + 1, pieces, state]."""
        lowers, uppers = [lower], [upper]
        for step in range(1, steps + 1):
            low, high = self._from(lowers[-1], uppers[-1], 1)
            length = min(step, self.horizon)
            if length > 1:
                closer = self._from(lowers[-length], uppers[-length], length)
                low, high = torch.maximum(low, closer[0]), torch.minimum(high, closer[1])
            if not bool((low.isfinite() & high.isfinite()).all()):
                refuse(
                    f"step {step}",
                    "has states without finite bounds",
                    "give a smaller box, more pieces, or fewer steps",
                )
            lowers.append(low)
            uppers.append(high)
            if deadline.remaining <= 0:
                break
        return torch.stack(lowers), torch.stack(uppers)

    def _from(self, lower: Tensor, upper: Tensor, length: int) -> tuple[Tensor, Tensor]:
        if length not in self._rows:
            row = in_a_row(self.model, length)
            self._rows[length] = placed(row, self.device)
        ends = bounded(self._rows[length], lower, upper, self.method, self.iterations).outputs
        return ends[0].cpu(), ends[1].cpu()


def _trajectories(model: LoadedModel, ends: Any, steps: int, random: np.random.Generator) -> Tensor:
    """Real trajectories, [steps + 1, trajectories, state], as the model runs: from corners and random states."""
    lower, upper = (end.ravel() for end in ends)
    share = random.random((_TRAJECTORIES, lower.size))
    share[::4] = share[::4].round()
    states = [model.rounded(lower + (upper - lower) * share)]
    for _ in range(steps):
        states.append(model.rounded(model.evaluate(states[-1]).reshape(_TRAJECTORIES, -1).astype(np.float64)))
    return torch.from_numpy(np.stack(states).astype(np.float64))
