"""All that is to be known of verify on a GPU, in one command that ends by itself in eight minutes. Run ``make gpu``.

Is it right: are float64's products what is charged for, are verdicts the CPU's and the exact ones, are certificates proved? Does it wait? How
fast is it: bare maps, iterations, choices, proofs and whole steps at batches from 1 to 16,384, memory, the store of open subproblems, and whole
problems beside the CPU of the same machine.

Every part has a share of the time and goes through its rows as far as that lasts; one that fails stops no other. The data are in
gpu.json after every part, and gpu.md shows them. The exit status is 1 where anything is wrong or failed.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import cycle
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

import verify
from benchmarks.common import Case, Row, cases, machine, machine_line, table, write
from benchmarks.demo import Instance, instances
from benchmarks.throughput import bare
from verify.bab.activations import SplitActivations
from verify.bab.frontier import Frontier
from verify.bab.loop import BranchAndBound
from verify.bab.progress import Silent
from verify.bab.steps import Steps
from verify.bab.strategy import Knowledge
from verify.bounders.intermediate import IntermediateBounds
from verify.bounders.restricted import Restricted
from verify.checker.checking import check
from verify.deadline import Deadline
from verify.errors import InputError, is_out_of_memory
from verify.network.affine import Dense
from verify.network.convolution import Convolution
from verify.network.rounding_model import Geometry, excess, excess_of_rows
from verify.output import write_whole
from verify.problem import Problem, prepare
from verify.settings import build_search, choose_device, preset
from verify.state import Subproblems

SECONDS = 480.0
BATCHES = (1, 16, 64, 256, 1024, 4096, 16384)
DEPTH = 3  # splits of the subproblems that are timed
# a search whose techniques bound children alone
_PLAIN = replace(
    preset("default"), output_constrained=(), branched=None, root=Restricted(5), optimised=IntermediateBounds(),
    splittable_inputs=0, triable_inputs=0,
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """What is measured, and how long; tiny: as little of everything as shows that it works."""

    device: torch.device
    tiny: bool = False
    seconds: float = SECONDS
    selections: tuple[str, ...] = ()

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def synchronise(self) -> None:
        """Waits for the device."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    @property
    def name(self) -> str:
        """As `--device` has it."""
        return str(self.device)

    def some(self, things: Sequence[Any], few: int) -> Sequence[Any]:
        """All of them, or a few, from end to end."""
        return things[:: max(1, len(things) // few)][:few] if self.tiny else things


Rows = Iterator[Row]


# is it right?


def maps() -> dict[str, Dense | Convolution]:
    """Maps of many geometries."""

    def convolution(
        shape: tuple[int, ...],
        sizes: tuple[int, ...],
        stride: int = 1,
        padding: tuple[int, ...] | None = None,
        groups: int = 1,
    ) -> Convolution:
        rank = len(sizes)
        weight = torch.zeros(shape, dtype=torch.float64)
        around = tuple(size // 2 for size in shape[2:]) if padding is None else padding
        return Convolution(
            weight, None, (stride,) * rank, around, (1,) * rank, groups, (shape[1] * groups, *sizes)
        )

    found: dict[str, Dense | Convolution] = {
        f"dense {rows}x{columns}": Dense(torch.zeros(rows, columns, dtype=torch.float64))
        for rows, columns in ((10, 100), (100, 1024), (256, 256), (1000, 1000), (4096, 512))
    }
    for kernel in (1, 3, 5, 7, 11):
        found[f"2d, kernel {kernel}"] = convolution((16, 8, kernel, kernel), (24, 24))
    found |= {
        "1d, kernel 3": convolution((16, 8, 3), (64,)), "1d, kernel 31": convolution((4, 2, 31), (256,)),
        "2d, kernel 1x9": convolution((8, 3, 1, 9), (8, 64), padding=(0, 0)),
        "2d, kernel 9x1": convolution((8, 3, 9, 1), (64, 8), padding=(0, 0)),
        "2d, kernel 4, stride 2": convolution((16, 8, 4, 4), (32, 32), 2, (1, 1)),
        "2d, one channel each": convolution((16, 1, 3, 3), (16, 16), groups=16),
        "2d, many channels": convolution((64, 64, 3, 3), (16, 16)), "3d, kernel 3": convolution((8, 4, 3, 3, 3), (8, 8, 8)),
    }  # fmt: skip
    return found


def rounding(task: Task) -> Rows:
    """How far float64's products are off, as a share of what may be: at most 1."""
    every = maps()
    for name in task.some(list(every), 3):
        geometry = Geometry.of(every[name])
        assert geometry is not None
        off = excess(geometry, task.device)
        yield {"map": name, "error": round(off, 5), "wrong": not off <= 1}
    off = excess_of_rows(3172, task.device)
    yield {"map": "rows and vectors", "error": round(off, 5), "wrong": not off <= 1}


def agreement(task: Task) -> Rows:
    """Verdicts of the shipped problems, there and on the CPU, which take turns at being first."""
    limit = 5.0 if task.tiny else 20.0
    order = cycle([(task.name, "cpu"), ("cpu", task.name)])
    for one, devices in zip(task.some(list(instances(())), 3), order, strict=False):
        found = {
            device: verify.verify(one.model, one.specification, timeout=limit, device=device)
            for device in devices
        }
        there, here = found[task.name], found["cpu"]
        yield {
            "problem": label(one), "expected": one.expected, "verdict": there.verdict, "seconds": round(there.seconds, 3),
            "cpu": here.verdict, "cpu_seconds": round(here.seconds, 3),
            "wrong": {there.verdict, one.expected} == {"sat", "unsat"},
        }  # fmt: skip


def label(one: Instance) -> str:
    return f"{one.family} {one.specification.stem}"


def certificates(task: Task) -> Rows:
    """Proofs of what is found there, checked here."""
    provable = [one for one in instances(()) if one.expected == "unsat"]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "proof.cert"
        for one in task.some(provable[::3], 1):
            found = verify.verify(
                one.model, one.specification, timeout=20.0, device=task.name, certificate=target
            )
            proved = found.certificate is not None and check(target, one.model, one.specification).proved
            yield {
                "problem": label(one), "verdict": found.verdict, "proved": proved, "seconds": round(found.seconds, 3),
                "wrong": found.verdict == "sat" or (found.verdict == "unsat" and not proved),
            }  # fmt: skip


def soundness(task: Task) -> Rows:
    """Random networks whose exact optima are known (as `make soundness`)."""
    from benchmarks.soundness import ask, example  # with SciPy, which others do not need

    for seed in range(1 if task.tiny else 200):
        one = example(seed)
        for question in one.questions:
            found = ask(one, question, 10.0, task.name)
            yield {
                "network": seed, "kind": found.kind, "expected": found.expected, "judgement": found.judgement,
                "seconds": round(found.seconds, 3), "wrong": found.wrong,
            }  # fmt: skip


# how fast is it?


def network(widths: tuple[int, int, int], size: int = 32) -> nn.Module:
    """Two convolutions of an image and two dense layers, with random weights: 8, 16, 100 is the shape of oval21's `base`."""
    torch.manual_seed(0)
    first, second, dense = widths
    return nn.Sequential(
        nn.Conv2d(3, first, 4, 2, 1), nn.ReLU(), nn.Conv2d(first, second, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(second * (size // 4) ** 2, dense), nn.ReLU(), nn.Linear(dense, 10),
    ).eval()  # fmt: skip


def open_problem(model: nn.Module, size: int) -> Problem:
    """The first output falls as far below those of random images as bounds are far from telling that it does not."""
    images = torch.rand(256, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        values = model(images)[:, 0]
    least = float(values.min() - 0.2 * (values.max() - values.min()))
    box = torch.zeros_like(images[:1]), torch.ones_like(images[:1])
    return prepare(model, verify.Never(verify.y[0] <= least, box), images[:1])


@dataclass(frozen=True)
class Step:
    """Subproblems of a search after some splits, all alike, at its next step."""

    search: BranchAndBound
    knowledge: Knowledge
    one: Subproblems

    @classmethod
    def of(cls, problem: Problem, device: torch.device) -> Step:
        """Of the first clause that is left open at the root, or of the first."""
        search = build_search(problem, _PLAIN, device, 0, Silent())
        strategy = search.strategy
        assert isinstance(strategy, SplitActivations)
        knowledge, left = strategy.begin(), [0]
        for result in strategy.roots(knowledge, search.batch, Deadline()):
            knowledge = knowledge.learned(*result.seen)
            left = result.bounded.subproblems.clause[result.bounded.open].tolist() or left
        shared = knowledge.shared
        roots = shared.roots(left[:1])
        start = shared.dual(roots, shared.working).initial()
        one = roots.with_state(torch.full_like(roots.lower_bound, -1.0), start)
        for _ in range(DEPTH):
            split = strategy.choose(one, knowledge, Deadline())
            above = split.value if split.above is None else split.above
            one = one.split(split.variable, (split.value, above), split.beta).select(slice(0, 1))
        return cls(search, knowledge, one)

    def many(self, batch: int) -> Subproblems:
        """So many of them."""
        return self.one.select(torch.zeros(batch, dtype=torch.int64, device=self.one.clause.device))

    def works(self, batch: int) -> dict[str, tuple[float, Callable[[], object]]]:
        """What a step is made of, and what one call of each counts for."""
        some, shared, strategy = self.many(batch), self.knowledge.shared, self.search.strategy
        steps = Steps(self.search.problem, self.search.network, strategy, self.search.tracer)
        assert isinstance(strategy, SplitActivations)
        dual = shared.dual(some, shared.working)
        state = dual.initial()
        climb = replace(strategy.child, iterations=8)
        return {
            "maps": (1, bare(shared.working, batch)),
            "iteration": (8, lambda: climb.ascend(dual, state)),
            "choose": (1, lambda: strategy.choose(some, self.knowledge, Deadline())),
            "prove": (1, lambda: shared.refuted(some)),
            "step": (1, lambda: steps.step(some, self.knowledge, Deadline())),
        }


@dataclass(frozen=True)
class Measured:
    """Networks that are made here, and their steps, once for all parts."""

    task: Task
    steps: dict[str, Step] = field(default_factory=dict)

    @cached_property
    def problems(self) -> dict[str, Problem]:
        widths = {"tiny": (2, 2, 8)} if self.task.tiny else {"base": (8, 16, 100), "wide": (16, 32, 100)}
        size = 8 if self.task.tiny else 32
        return {name: open_problem(network(width, size), size) for name, width in widths.items()}

    def step(self, name: str) -> Step:
        if name not in self.steps:
            self.steps[name] = Step.of(self.problems[name], self.task.device)
        return self.steps[name]


def timed(task: Task, work: Callable[[], object], seconds: float) -> tuple[float, float]:
    """Seconds of a call until it is done, and until the program may go on: the mean of several, after one to warm up."""
    work()
    task.synchronise()
    count, began = 0, time.perf_counter()
    while not count or time.perf_counter() - began < seconds:
        work()
        count += 1
    handed = time.perf_counter() - began
    task.synchronise()
    return (time.perf_counter() - began) / count, handed / count


def throughput(task: Task, measured: Measured) -> Rows:
    """Microseconds a subproblem of each part of a step, by batch; and how much of an iteration the program itself is busy."""
    for name in measured.problems:
        for batch in (2,) if task.tiny else BATCHES:
            try:
                yield {"network": name, "batch": batch} | _at(task, measured.step(name), batch)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                yield {"network": name, "batch": batch, "note": "does not fit into memory"}
                break


def _at(task: Task, step: Step, batch: int) -> Row:
    if task.on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(task.device)
    row: Row = {}
    with torch.no_grad():
        for name, (count, work) in step.works(batch).items():
            done, handed = timed(task, work, 0.0 if task.tiny else 0.4)
            row[f"{name}_us"] = round(done / count / batch * 1e6, 3)
            if name == "iteration":
                row["program"] = round(handed / done, 3)
    row["ratio"] = round(row["iteration_us"] / row["maps_us"], 2)
    row["children_a_second"] = round(2e6 / row["step_us"])
    if task.on_gpu:
        row["bytes"] = round(torch.cuda.max_memory_allocated(task.device) / batch)
    return row


def store(task: Task, measured: Measured) -> Rows:
    """Microseconds a subproblem that the store of open ones takes to let them wait, and to hand them out again."""
    for name in measured.problems:
        step = measured.step(name)
        for batch in (2,) if task.tiny else (64, 1024):
            some, frontier = step.many(batch), Frontier()
            here = some.to(torch.device("cpu"), torch.float32)
            pushed, _ = timed(task, partial(Frontier.push, Frontier(), here), 0.0)
            frontier.push(here)
            began = time.perf_counter()
            frontier.pop(batch, task.device, torch.float32)
            task.synchronise()
            popped = time.perf_counter() - began
            yield {
                "network": name,
                "batch": batch,
                "push_us": round(pushed / batch * 1e6, 2),
                "pop_us": round(popped / batch * 1e6, 2),
            }


def waits(task: Task, measured: Measured) -> Rows:
    """How often torch says that parts of a step wait for the device (docs/gpu.md has how often they may)."""
    for name in measured.problems:
        row: Row = {"network": name}
        with torch.no_grad():
            for part, (_, work) in measured.step(name).works(4).items():
                work()
                row[part] = _waits(work) if task.on_gpu else None
        yield row


def _waits(work: Callable[[], object]) -> int:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(one.message) for one in found)


def problems(task: Task) -> Rows:
    """Whole problems of folders of instances, there and on the CPU of the same machine."""
    for case in cases(task.selections, 2 if task.tiny else 30):
        yield _beside(task, case, 5.0 if task.tiny else 30.0)


def _beside(task: Task, case: Case, limit: float) -> Row:
    there, here = (
        verify.verify(case.model, case.specification, timeout=limit, device=device)
        for device in (task.name, "cpu")
    )
    return {
        "problem": f"{case.network} {case.property}", "verdict": there.verdict, "seconds": round(there.seconds, 2),
        "cpu": here.verdict, "cpu_seconds": round(here.seconds, 2), "wrong": {there.verdict, here.verdict} == {"sat", "unsat"},
    }  # fmt: skip


# the parts together


def parts(task: Task) -> dict[str, tuple[float, Callable[[], Rows]]]:
    """Each one's share of the time, in the order in which they are wanted most, and its rows."""
    measured = Measured(task)
    found: dict[str, tuple[float, Callable[[], Rows]]] = {
        "rounding": (0.06, partial(rounding, task)),
        "waits": (0.05, partial(waits, task, measured)),
        "throughput": (0.34, partial(throughput, task, measured)),
        "store": (0.05, partial(store, task, measured)),
        "agreement": (0.25, partial(agreement, task)),
        "certificates": (0.1, partial(certificates, task)),
        "soundness": (0.15, partial(soundness, task)),
    }
    if task.selections:
        found["problems"] = (0.3, partial(problems, task))
    return found


@dataclass
class Report:
    """All that was found so far, and its two files."""

    task: Task
    folder: Path
    data: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Every part, in its share of what time is left."""
        self.data["machine"] = machine() | {"device": self.task.name, "GPU": self._gpu()}
        chosen, began = parts(self.task), time.monotonic()
        shares = sum(share for share, _ in chosen.values())
        for name, (share, rows) in chosen.items():
            left = self.task.seconds - (time.monotonic() - began)
            self._part(name, rows, time.monotonic() + left * share / shares)
            shares -= share
            self.write()

    def _gpu(self) -> str:
        return torch.cuda.get_device_name(self.task.device) if self.task.on_gpu else "none"

    def _part(self, name: str, rows: Callable[[], Rows], stop: float) -> None:
        """As many rows as there is time for, at least one."""
        found, began = self.data.setdefault(name, []), time.monotonic()
        try:
            for row in rows():
                found.append(row)
                if row.get("wrong"):
                    self.failures.append(f"{name}: {row}")
                if time.monotonic() > stop:
                    break
        except Exception as error:
            self.failures.append(f"{name}: {type(error).__name__}: {error}")
        self.data["seconds"] = self.data.get("seconds", {}) | {name: round(time.monotonic() - began, 1)}
        click.echo(f"{name}: {len(found)} rows in {time.monotonic() - began:.0f} s", err=True)

    def write(self) -> None:
        """Both files, as far as there is something in them."""
        self.data["failures"] = self.failures
        write(self.folder / "gpu.json", self.data)
        write_whole("gpu.md", self.folder / "gpu.md", self.page().encode())

    def page(self) -> str:
        """What a reader wants to see."""
        lines = [
            f"# verify on {self.task.name} ({self.data['machine']['GPU']})",
            "",
            machine_line(self.data["machine"]),
            "",
        ]
        lines += [f"**{failure}**\n" for failure in self.failures] or [
            "Nothing was wrong, and nothing failed.",
            "",
        ]
        for name, rows in self.data.items():
            if isinstance(rows, list) and rows and isinstance(rows[0], dict):
                columns = list(dict.fromkeys(key for row in rows for key in row if key != "wrong"))
                cells = [[_cell(row.get(column)) for column in columns] for row in rows]
                lines += [
                    f"## {name}",
                    "",
                    table([column.replace("_", " ") for column in columns], cells),
                    "",
                ]
        return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


@click.command()
@click.option("--device", default="cuda", show_default=True, help="cuda, cuda:N, or cpu to try this script.")
@click.option("--tiny", is_flag=True, help="As little of everything as shows that it works.")
@click.option(
    "--seconds",
    default=SECONDS,
    show_default=True,
    help="For everything; it ends then, whatever it is doing.",
)
@click.option(
    "--instances",
    "selections",
    multiple=True,
    help="DIR or DIR:REGEX of networks to decide, too; repeatable.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("build/gpu"),
    show_default=True,
    help="The folder.",
)
def main(device: str, tiny: bool, seconds: float, selections: tuple[str, ...], output: Path) -> None:
    """Measure verify on a GPU."""
    try:
        task = Task(choose_device(device), tiny, 0.9 * seconds, selections)
    except InputError as error:
        raise click.UsageError(str(error)) from None
    output.mkdir(parents=True, exist_ok=True)
    report = Report(task, output)
    late = threading.Timer(seconds, _late, (report,))
    late.daemon = True
    late.start()
    report.run()
    late.cancel()
    click.echo(report.page())
    if report.failures:
        raise SystemExit(1)


def _late(report: Report) -> None:
    """The time is over in the midst of something."""
    report.failures.append("time ran out before everything was done")
    report.write()
    os._exit(1)


if __name__ == "__main__":
    main()
