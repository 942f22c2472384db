"""What the measurements share: problems from folders of instances, the machine's description, tables, JSON files.

A folder of instances is laid out as VNN-COMP's are: an `instances.csv` whose first two columns name an ONNX and a VNN-LIB
file, each there as it is or gzipped (`.gz`).
"""

from __future__ import annotations

import csv
import datetime
import json
import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from verify.bounders.ibp import interval
from verify.deadline import Deadline
from verify.lagrangian.dual import DualProblem
from verify.network.graph import Network
from verify.output import write_whole
from verify.problem import Problem, prepare
from verify.settings import preset
from verify.state import Bounds, Objective

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A row of an instances.csv."""

    model: Path
    specification: Path

    @property
    def network(self) -> str:
        """The model's name without endings."""
        return _stem(self.model, ".onnx")

    @property
    def property(self) -> str:
        """The property's name without endings."""
        return _stem(self.specification, ".vnnlib")


def cases(selections: Iterable[str], count: int) -> list[Case]:
    """The first `count` rows of every network of every `DIR` or `DIR:REGEX` (searched for in the network's name)."""
    chosen: dict[Path, list[Case]] = {}
    for selection in selections:
        folder, _, pattern = selection.partition(":")
        for case in _rows(Path(folder)):
            if re.search(pattern, case.network):
                chosen.setdefault(case.model, []).append(case)
    return [case for rows in chosen.values() for case in rows[:count]]


def _rows(folder: Path) -> list[Case]:
    with (folder / "instances.csv").open(newline="") as file:
        files = [row[:2] for row in csv.reader(file) if row and row[0] != "onnx"]
    return [Case(_present(folder / model), _present(folder / spec)) for model, spec in files]


def _present(path: Path) -> Path:
    """The file itself or its gzipped form."""
    return path if path.exists() else path.with_name(path.name + ".gz")


def _stem(path: Path, ending: str) -> str:
    return path.name.removesuffix(".gz").removesuffix(ending)


@dataclass(frozen=True)
class Root:
    """The hardest clause (lowest CROWN bound) of a property on its whole box, ready to be bounded. In float64."""

    network: Network
    bounds: Bounds  # one row
    objective: Objective  # one row
    clause: int

    @cached_property
    def fast(self) -> Network:
        """The network in float32."""
        return self.network.to("cpu", torch.float32)

    def quick(self, batch: int = 1) -> DualProblem:
        """The clause, `batch` times, in float32."""
        rows, kind = torch.zeros(batch, dtype=torch.long), (torch.device("cpu"), torch.float32)
        bounds, objective = self.bounds.select(rows).to(*kind), self.objective.select(rows).to(*kind)
        return DualProblem(self.fast, bounds, objective)


def root(case: Case) -> Root:
    """The hardest clause of a case, with the default preset's intermediate bounds."""
    problem = prepare(case.model, case.specification)
    network = problem.model.network.to("cpu", torch.float64)
    bounds = _bounds(problem, network)
    objective = problem.objective(range(problem.clauses))
    dual = DualProblem(network, bounds, objective)
    clause = dual.evaluate(dual.initial()).bound[:, 0].argmin()[None]
    return Root(network, bounds.select(clause), objective.select(clause), int(clause))


def _bounds(problem: Problem, network: Network) -> Bounds:
    """Every clause's intermediate bounds, found once for each box."""
    _, first, box = np.unique(problem.box_of, return_index=True, return_inverse=True)
    start, _ = interval(network, *problem.boxes(first.tolist()))
    found = preset("default").intermediate.tighten(network, start, Deadline())
    return found.select(torch.from_numpy(box.reshape(-1)))


def clock() -> Callable[[], float]:
    """The clock to measure by: the process's own CPU time if it has one thread, so that other programs count less."""
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def machine() -> Row:
    """What was measured on, and when; `load` is the machine's load average before the measurement began."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "threads": torch.get_num_threads(),
        "clock": "CPU time" if clock() is time.process_time else "wall clock",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    """The processor's name, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE) if info.exists() else []
    return names[0] if names else platform.processor() or "unknown"


def machine_line(found: Row) -> str:
    """A machine in words."""
    threads = "one thread" if found["threads"] == 1 else f"{found['threads']} threads"
    return (
        f"Measured on {found['date']}: {found['processor']}, {found['cores']} cores with a load average of {found['load']} "
        f"at the start; {threads}, {found['clock']}; torch {found['torch']}, Python {found['python']}."
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right of the first column."""
    rulers = ["---"] + ["--:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rulers, *rows))


def write(path: Path, data: Row) -> None:
    """Writes a JSON file, one measurement a line."""
    parts = []
    for key, value in data.items():
        if isinstance(value, list):
            lines = ",\n".join("    " + json.dumps(row) for row in value)
            parts.append(f'  "{key}": [\n{lines}\n  ]')
        else:
            parts.append(f'  "{key}": {json.dumps(value)}')
    write_whole(str(path), path, ("{\n" + ",\n".join(parts) + "\n}\n").encode())


def read(path: Path) -> Row:
    """Reads it again."""
    found: Row = json.loads(path.read_text())
    return found
