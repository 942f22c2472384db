"""How tight a bound each method gives at the root, and how long it takes.

Every method bounds the same clauses from the same intermediate bounds, one at a time: it climbs in float32 and its bound is
evaluated again in float64 with rounding errors charged, as `verify.bounds` does. The share of the gap that a bound closes
counts from CROWN's bound (0) to the best bound known (1): the best of all runs, two long ones of the restricted method
included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import click
import torch

from benchmarks.common import RESULTS, Case, Root, Row, cases, clock, machine, root, table, write
from verify.bounders.ascent import Iterative
from verify.bounders.decoupled import Dvijotham, SupergradientAscent
from verify.bounders.ibp import interval, interval_bound, magnitudes
from verify.bounders.proximal import Proximal
from verify.bounders.restricted import Restricted
from verify.lagrangian.dual import DualProblem
from verify.state import DualState

INTERVAL, CROWN, RESTRICTED = "interval", "CROWN", "restricted"
_LONG = 1000  # iterations of the runs for reference, whose step falls to a thousandth
_FLAT = 1e-6  # relative to the bounds' size: a smaller gap is none


@dataclass(frozen=True)
class Run:
    """A method with a number of iterations; no bounder where there is nothing to climb."""

    method: str
    iterations: int = 0
    bounder: Iterative | None = None


def runs(budgets: Sequence[int], restricted: Sequence[int]) -> list[Run]:
    """All runs, in the order of the table."""
    decoupled: dict[str, Callable[[int], Iterative]] = {
        "DSG+ (Dvijotham et al.)": Dvijotham,
        "decomposition, supergradient": SupergradientAscent,
        "decomposition, proximal": Proximal,
    }
    return [
        Run(INTERVAL),
        Run(CROWN),
        *(Run(name, count, make(count)) for name, make in decoupled.items() for count in budgets),
        *(Run(RESTRICTED, count, Restricted(count)) for count in restricted),
        *references(),
    ]


def references() -> Iterator[Run]:
    """Long runs that approach the relaxation's optimum: slopes alone, and slopes with multipliers everywhere."""
    decay = 1e-3 ** (1 / _LONG)
    yield Run(f"{RESTRICTED}, slow decay", _LONG, Restricted(_LONG, decay=decay))
    yield Run(f"{RESTRICTED}, multipliers everywhere", _LONG, Restricted(_LONG, decay=decay, everywhere=True))


def is_reference(method: str) -> bool:
    """Whether a method is there only to find the best bound."""
    return method in {run.method for run in references()}


def by_interval(place: Root) -> float:
    """The bound of interval arithmetic through the last layers."""
    inputs = slice(0, place.network.inputs)
    box = (place.bounds.lower[:, inputs], place.bounds.upper[:, inputs])
    _, outputs = interval(place.network, *box, known=place.bounds)
    return float(interval_bound(place.network, place.objective, box, outputs))


def certain(place: Root, climbed: DualState | None) -> float:
    """q at a dual point (CROWN's where there is none), in float64, less what rounding may have cost."""
    dual = DualProblem(place.network, place.bounds, place.objective)
    state = dual.initial() if climbed is None else dual.clamp(climbed.to(torch.device("cpu"), torch.float64))
    return float(dual.evaluate(state, magnitudes(place.network, place.bounds)).bound)


def climb(place: Root, bounder: Iterative) -> DualState:
    """The dual point that a bounder finds in float32."""
    dual = place.quick()
    return bounder.ascend(dual, dual.initial()).state


def measure(place: Root, run: Run) -> Row:
    """Bound and seconds of one run."""
    now = clock()
    started = now()
    climbed = climb(place, run.bounder) if run.bounder else None
    middle = now()
    bound = by_interval(place) if run.method == INTERVAL else certain(place, climbed)
    return {
        "method": run.method, "iterations": run.iterations, "bound": bound,
        "climb_seconds": round(middle - started, 6), "final_seconds": round(now() - middle, 6),
    }  # fmt: skip


def measure_case(case: Case, chosen: Sequence[Run]) -> Iterator[Row]:
    """All runs on one case, after a warm-up of the same code."""
    place = root(case)
    for one in {run.method: run for run in runs([2], [2])}.values():
        measure(place, one)
    rows = [measure(place, run) for run in chosen]
    crown = next(row["bound"] for row in rows if row["method"] == CROWN)
    best = max(row["bound"] for row in rows)
    about = {"network": case.network, "property": case.property, "clause": place.clause}
    for row in rows:
        yield about | row | {"closed": closed(row["bound"], crown, best)}


def closed(bound: float, crown: float, best: float) -> float | None:
    """The share of the gap closed; None where CROWN leaves no gap."""
    if best - crown <= _FLAT * max(abs(best), abs(crown)):
        return None
    return (bound - crown) / (best - crown)


@dataclass(frozen=True)
class Summary:
    """Means over problems of one run: the share closed and seconds."""

    closed: float
    seconds: float

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Summary:
        """The means of rows, of which some may have no gap to close."""
        shares = [row["closed"] for row in rows if row["closed"] is not None]
        return cls(
            mean(shares) if shares else float("nan"),
            mean(row["climb_seconds"] + row["final_seconds"] for row in rows),
        )

    def cells(self) -> list[str]:
        """Percent and milliseconds."""
        percent = round(100 * self.closed, 1) + 0.0  # no -0.0
        digits = 0 if abs(percent) > 1000 else 1
        return [f"{percent:,.{digits}f} %", f"{1000 * self.seconds:,.0f}"]


def grouped(rows: Sequence[Row]) -> dict[tuple[str, int], list[Row]]:
    """Rows by method and iterations, in order."""
    found: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        found.setdefault((row["method"], row["iterations"]), []).append(row)
    return found


def report(rows: Sequence[Row]) -> str:
    """The table: mean share of the gap closed and mean milliseconds, by method, iterations and network."""
    networks = list(dict.fromkeys(row["network"] for row in rows))
    header = ["method", "iterations"]
    header += [f"{name}: {what}" for name in (*networks, "all") for what in ("closed", "ms")]
    lines = []
    for (method, iterations), group in grouped(rows).items():
        line = [method, str(iterations or "-")]
        for name in networks:
            line += Summary.of([row for row in group if row["network"] == name]).cells()
        lines.append(line + Summary.of(group).cells())
    return table(header, lines)


def numbers(text: str) -> list[int]:
    """The integers of `25,100`."""
    return [int(part) for part in text.split(",") if part]


@click.command()
@click.option("--instances", required=True, multiple=True, help="DIR or DIR:REGEX of networks; repeatable.")
@click.option("--count", default=5, show_default=True, help="Instances of each network.")
@click.option("--budgets", default="25,100,400,1000", show_default=True, help="Iterations.")
@click.option(
    "--restricted", default="5,20,100", show_default=True, help="Iterations of the restricted method."
)
@click.option("--threads", default=1, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS / "tightness.json")
def main(
    instances: tuple[str, ...], count: int, budgets: str, restricted: str, threads: int, output: Path
) -> None:
    """Bound the hardest clause of each instance by every method."""
    torch.set_num_threads(threads)
    about, chosen = machine(), runs(numbers(budgets), numbers(restricted))
    rows: list[Row] = []
    with torch.no_grad():
        for case in cases(instances, count):
            click.echo(f"{case.network} {case.property}", err=True)
            rows += measure_case(case, chosen)
    write(output, {"machine": about, "rows": rows})
    click.echo(report(rows))


if __name__ == "__main__":
    main()
