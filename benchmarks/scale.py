"""How far one owner carries: a search on many workers, with the clock simulated. Run ``python -m benchmarks.scale``.

The owner is the real one: its loop, frontier and leases run as they do, what it hands out is packed as for another process, and what it
takes back is unpacked, and all of that takes the time that it takes here. Workers are simulated: a lease costs so many seconds a
subproblem, plus what packing its answer took, plus the network's delay, and brings children from a random tree of a size that is known
(each split divides what is left of a subtree unevenly). So efficiency, messages, bytes and the time to the first full use are those of the
owner's code; a worker's speed is an assumption.
"""

from __future__ import annotations

import gc
import heapq
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from benchmarks.common import table
from verify.attack import Attack
from verify.bab.effort import SPLITTING, Observation
from verify.bab.frontier import Frontier
from verify.bab.loop import BranchAndBound
from verify.bab.progress import Silent
from verify.bab.steps import Done, Held
from verify.bab.strategy import Bounded, Knowledge, Objectives, Result, root_subproblems
from verify.deadline import Deadline
from verify.problem import Problem, prepare
from verify.settings import build_search, preset
from verify.state import Subproblems
from verify.workers.crew import TOGETHER
from verify.workers.parcels import Catalogue, Receiver, Sender
from verify.workers.worker import under

ROOT = Path(__file__).parents[1]
_MODEL = ROOT / "properties/digits_fc/onnx/digits_fc.onnx"
_PROPERTY = ROOT / "properties/digits_fc/vnnlib/image_1401_radius_0.06.vnnlib"
_NO_ATTACK = Attack(restarts=1, steps=0, seconds=0.0, rounds=0)
_NO_LIMIT = Deadline()
_DELAY, _BANDWIDTH = 5e-4, 1e9  # of a message, seconds and bytes a second: ten gigabits


@dataclass(frozen=True, eq=False)
class Tree:
    """In the place of a strategy: one root, over a tree of so many subproblems. Slopes make subproblems as large as those of real searches."""

    real: Any
    size: int
    slopes: int

    @property
    def objectives(self) -> Objectives:
        """Those of a real problem."""
        found: Objectives = self.real.objectives
        return found

    def begin(self) -> Knowledge:
        """Nothing is known."""
        return self.real.begin()  # type: ignore[no-any-return]

    def clauses_of(self, clauses: Tensor, knowledge: Knowledge) -> list[int]:
        """The one there is."""
        return [0]

    def roots(self, knowledge: Knowledge, batch: int, deadline: Deadline) -> Iterator[Result]:
        """The root: what is left of its tree stands in the place of what else subproblems carry."""
        self.objectives.prepare([0])
        root = root_subproblems(1, [0], self.slopes, torch.device("cpu"), steps=1)
        root = replace(
            root, tightened_at=torch.full((1, 1), float(self.size)), lower_bound=torch.tensor([-1.0])
        )
        inputs = self.real.start.network.inputs
        yield Result(Bounded(root, torch.tensor([False]), torch.zeros(1, inputs)))

    def at_once(self, knowledge: Knowledge) -> int | None:
        """As many as there is room for."""
        return None

    def due(self, seconds: float, knowledge: Knowledge, deadline: Deadline) -> bool:
        """Never."""
        return False


def split(subproblems: Subproblems, random: np.random.Generator) -> Bounded:
    """Both children of each, with what is left of its tree divided between them; those with nothing are refuted."""
    count, left = len(subproblems), subproblems.tightened_at[:, 0].numpy() - 1
    share = np.round(left * random.beta(2.0, 2.0, count))
    sizes = torch.from_numpy(np.concatenate([share, left - share])).float()
    variable = torch.from_numpy(random.integers(0, 100, count))
    value = torch.zeros(count, dtype=torch.float64)
    children = subproblems.split(variable, (value, value), torch.zeros(count, 2))
    refuted = sizes < 1
    children = replace(children, tightened_at=sizes[:, None], lower_bound=-sizes.clamp(min=1).log() - 1e-3)
    return Bounded(children, refuted, torch.zeros(2 * count, 25))


@dataclass
class Working:
    """A simulated worker at its lease: as `Steps.lease` has it, but for the clock."""

    worker: int
    future: Future[Any]
    held: Held
    batch: int
    until: float
    now: float = 0.0
    recalled: float = math.inf  # when it hears of it
    _doing: Subproblems | None = None

    def begin(self, seconds: float) -> float:
        """The next step, of so many seconds a subproblem: when it ends."""
        self._doing = self.held.next(self.batch, torch.device("cpu"), torch.float32)
        self.now += seconds * len(self._doing)
        return self.now

    def end(self, seconds: float, random: np.random.Generator) -> Done | None:
        """The step is over: what the lease brings, if it is over too."""
        assert self._doing is not None
        before, bounded = self._doing.lower_bound, split(self._doing, random)
        after, refuted = bounded.subproblems.lower_bound, bounded.refuted
        took = seconds * len(before)
        seen = Observation(SPLITTING, took, before.repeat(2), after, refuted)
        self.held.learn(Done((Result(bounded, (seen,)),), seconds=seconds))
        over = self.now >= min(self.until, self.recalled) or not len(self.held)
        return self.held.done() if over else None


class Link:
    """One way of the owner's connection: what is sent goes one after the other."""

    def __init__(self) -> None:
        self._free = 0.0

    def arrival(self, now: float, size: int) -> float:
        """When so many bytes that are sent now are there."""
        self._free = max(self._free, now) + size / _BANDWIDTH
        return self._free + _DELAY


@dataclass
class Simulated:
    """An executor whose workers' clock is simulated, and whose owner's is real."""

    workers: int
    seconds: float  # a subproblem
    random: np.random.Generator
    now: float = 0.0
    busy: float = 0.0
    messages: int = 0
    size: int = 0  # bytes, of all messages
    full: float | None = None  # when all worked for the first time
    _since: float = field(default_factory=time.thread_time)
    # what happens next, by the time: a step is over, or an answer is there
    _coming: list[tuple[float, int, Working, list[bytes] | None]] = field(default_factory=list)
    _count: Iterator[int] = field(default_factory=itertools.count)
    _parcels: list[tuple[float, int, Future[Any], list[bytes]]] = field(default_factory=list)
    _at: dict[Future[Any], Working] = field(default_factory=dict)

    def __post_init__(self) -> None:
        catalogue = Catalogue()
        self._idle = list(range(self.workers))
        self._senders = [Sender(catalogue) for _ in range(self.workers)]
        self._receivers = [Receiver() for _ in range(self.workers)]
        self._out, self._in = Link(), Link()

    def submit(self, job: Callable[[], Any]) -> Future[Any]:
        """A lease."""
        worker = self._idle.pop()
        parcel = [bytes(piece) for piece in self._senders[worker].packed(partial(under, _NO_LIMIT, job))]
        self._owner()
        future: Future[Any] = Future()
        self._parcels.append((self._sent(self._out, parcel, self.now), worker, future, parcel))
        if not self._idle and self.full is None:
            self.full = self.now
        self._since = time.thread_time()
        return future

    def recall(self, job: Future[Any]) -> None:
        """A message that carries nothing; whoever works on the lease hears it after a step."""
        self._owner()
        self._take_up()
        if (working := self._at.get(job)) is not None:
            working.recalled = self._sent(self._out, [], self.now)
        self._since = time.thread_time()

    def map(self, function: Callable[[Any], Any], things: Iterable[Any], /) -> Iterable[Any]:
        """There is nothing to map."""
        raise NotImplementedError

    def wait(self, jobs: Iterable[Future[Any]], deadline: Deadline) -> set[Future[Any]]:
        """Some that have ended by the time at which the first has."""
        self._owner()
        self._take_up()
        done: set[Future[Any]] = set()
        while self._coming and (not done or (self._coming[0][0] <= self.now and len(done) < TOGETHER)):
            when, _, working, answer = heapq.heappop(self._coming)
            if answer is None:
                self._go_on(working)
                continue
            self.now = max(self.now, when)
            self._since = time.thread_time()
            working.future.set_result(self._senders[working.worker].unpacked(answer))
            self._idle.append(working.worker)
            done.add(working.future)
            self._owner()
        self._since = time.thread_time()
        return done

    def _sent(self, link: Link, parcel: list[bytes], now: float) -> float:
        """When a message arrives that is sent at that time."""
        size = sum(map(len, parcel))
        self.messages, self.size = self.messages + 1, self.size + size
        return link.arrival(now, size)

    def _take_up(self) -> None:
        """Workers unpack what they were sent, and begin."""
        for arrival, worker, future, parcel in self._parcels:
            began = time.thread_time()
            job: Any = self._receivers[worker].unpacked(parcel)
            given = job.args[1].args[0]
            bundles, _, _, _, lasting, batch = given.args
            held = Held(bundles, given.func.__self__.storage)
            start = arrival + time.thread_time() - began
            self._at[future] = working = Working(worker, future, held, batch, start + lasting, start)
            self._step(working)
        self._parcels.clear()

    def _step(self, working: Working) -> None:
        before = working.now
        end = working.begin(self.seconds)
        self.busy += end - before
        heapq.heappush(self._coming, (end, next(self._count), working, None))

    def _go_on(self, working: Working) -> None:
        """After a step: another one, or the answer."""
        done = working.end(self.seconds, self.random)
        if done is None:
            self._step(working)
            return
        del self._at[working.future]
        began = time.thread_time()
        answer = [bytes(piece) for piece in self._receivers[working.worker].packed(done)]
        packed = working.now + time.thread_time() - began
        heapq.heappush(
            self._coming, (self._sent(self._in, answer, packed), next(self._count), working, answer)
        )

    def _owner(self) -> None:
        """What the owner did since took its time."""
        here = time.thread_time()
        self.now, self._since = self.now + here - self._since, here


@dataclass(frozen=True)
class Row:
    """What a simulation showed. efficiency: of all workers' time, the share in which they worked."""

    workers: int
    makespan: float
    efficiency: float
    messages: int
    bytes: int
    full: float | None


@dataclass(frozen=True)
class Asked:
    """What is simulated, but for the workers. lease: seconds that they go on for, at least. seconds: of a subproblem."""

    size: int
    seconds: float
    slopes: int
    batch: int
    lease: float
    seed: int


def simulated(problem: Problem, workers: int, asked: Asked) -> Row:
    """One search."""
    search: BranchAndBound = build_search(problem, preset("default"), torch.device("cpu"), 0, Silent())
    search.strategy = Tree(search.strategy, asked.size, asked.slopes)  # type: ignore[assignment]
    search.__post_init__()
    search.first_attack = search.second_attack = _NO_ATTACK
    search.frontier, search.other, search.batch = Frontier(2**32), None, asked.batch
    search.workers, search.lease, search._seconds = workers, asked.lease, asked.seconds
    search.progress.attack_seconds = 1e12  # none
    executor = Simulated(workers, asked.seconds, np.random.default_rng(asked.seed))

    @contextmanager
    def executors(*_: Any) -> Iterator[Simulated]:
        executor._since = time.thread_time()
        yield executor

    search.executors = executors
    gc.disable()  # or the owner would be charged for looking through what all workers hold
    try:
        outcome = search.run(Deadline())
    finally:
        gc.enable()
    assert outcome.verdict == "unsat", outcome.reason
    return Row(
        workers,
        executor.now,
        executor.busy / (workers * executor.now),
        executor.messages,
        executor.size,
        executor.full,
    )


def drawn(curves: Sequence[tuple[str, Sequence[Row]]], path: Path) -> None:
    """Efficiency against workers, a line for each kind of tree."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from benchmarks.figures import COLOURS, MARKERS, STYLE

    with mpl.rc_context(STYLE):  # type: ignore[arg-type, unused-ignore]
        figure = Figure(figsize=(7.2, 4.0), layout="constrained")
        axes = figure.add_subplot()
        for index, (label, rows) in enumerate(curves):
            axes.plot(
                [row.workers for row in rows], [100 * row.efficiency for row in rows],
                label=label, color=COLOURS[index], marker=MARKERS[index], linewidth=1.8,
            )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks := [row.workers for row in curves[0][1]], list(map(str, ticks)))
        axes.set_xlabel("workers (simulated)")
        axes.set_ylabel("time in which they work, %")
        axes.set_ylim(0, 105)
        axes.grid(True)
        axes.legend(frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})


@click.command()
@click.option("--subproblems", default=100_000, show_default=True)
@click.option(
    "--seconds", multiple=True, default=(0.01, 0.1), show_default=True, help="Of a worker, for a subproblem."
)
@click.option("--slopes", default=3000, show_default=True, help="Numbers that each carries.")
@click.option("--batch", default=64, show_default=True, help="That a lease begins with, at most.")
@click.option("--lease", default=0.5, show_default=True, help="Seconds that a worker goes on for, at least.")
@click.option("--workers", "counts", default="1,4,16,64,256,512,1024", show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of the tree.")
@click.option("--plot", type=click.Path(path_type=Path), help="A file for the plot.")
def main(
    subproblems: int,
    seconds: Sequence[float],
    slopes: int,
    batch: int,
    lease: float,
    counts: str,
    seed: int,
    plot: Path | None,
) -> None:
    """A table of searches with so many workers each."""
    problem = prepare(_MODEL, _PROPERTY)
    torch.set_num_threads(1)
    curves = []
    for each in seconds:
        asked = Asked(subproblems, each, slopes, batch, lease, seed)
        rows = [simulated(problem, count, asked) for count in map(int, counts.split(","))]
        curves.append((f"{subproblems:,} subproblems of {1000 * each:g} ms", rows))
        print(f"\n{curves[-1][0]}\n")
        print(table(_HEAD, map(_cells, rows)), flush=True)
    if plot is not None:
        drawn(curves, plot)


_HEAD = ["workers", "seconds", "efficiency", "messages", "MB", "first full use (s)"]


def _cells(row: Row) -> list[str]:
    return [
        f"{row.workers:,}",
        f"{row.makespan:.1f}",
        f"{100 * row.efficiency:.0f} %",
        f"{row.messages:,}",
        f"{row.bytes / 1e6:,.0f}",
        "never" if row.full is None else f"{row.full:.2f}",
    ]


if __name__ == "__main__":
    main()
