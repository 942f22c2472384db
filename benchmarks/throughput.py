"""What an iteration of the restricted method costs, against the least it could cost.

An iteration needs every affine map of the network once forward and once transposed. Those bare maps and whole climbs are run
in turn, at the same batch, in the same process and precision (float32), and the least time of each counts: other programs
on the machine only ever add.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import torch

from benchmarks.common import RESULTS, Case, Root, Row, cases, clock, machine, root, table, write
from verify.lagrangian.dual import DualProblem
from verify.network.affine import Affine
from verify.network.graph import Network
from verify.settings import preset

_LIVE = 32  # tensors of all variables that a climb holds at once, about
_SLOW = 10.0  # seconds of one climb beyond which larger batches are left out
_ROUNDS = (4, 100)  # at least and at most


def bare(network: Network, batch: int) -> Callable[[], None]:
    """Every affine map once forward and once transposed, on random values."""
    values = [
        torch.randn(batch, *node.shape, dtype=network.dtype, device=network.device) for node in network.nodes
    ]

    def run() -> None:
        for index, node in enumerate(network.nodes):
            if isinstance(node.operator, Affine):
                node.operator.forward(*(values[operand] for operand in node.operands))
                node.operator.transpose(values[index])

    return run


def interleaved(tasks: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """The least time of each task, all run in turn for about `seconds`, after one run to warm up."""
    least = [float("inf")] * len(tasks)
    for task in tasks:
        task()
    now, rounds, (few, many), started = clock(), 0, _ROUNDS, time.perf_counter()
    while rounds < few or (rounds < many and time.perf_counter() - started < seconds):
        rounds += 1
        for index, task in enumerate(tasks):
            begun = now()
            task()
            least[index] = min(least[index], now() - begun)
    return least


def measure(place: Root, batch: int, seconds: float) -> Row:
    """Microseconds a subproblem, of the bare maps, an iteration and the hulls."""
    dual, method = place.quick(batch), preset("default").child
    state = dual.initial()  # and the hulls with it

    def hulls() -> object:
        return DualProblem(dual.network, dual.bounds, dual.objective).domain.hulls

    maps, climb, hull = interleaved(
        [bare(dual.network, batch), lambda: method.ascend(dual, state), hulls], seconds
    )
    micro = 1e6 / batch
    return {
        "batch": batch, "maps_us": round(maps * micro, 2), "iteration_us": round(climb / method.iterations * micro, 2),
        "ratio": round(climb / method.iterations / maps, 3), "hulls_us": round(hull * micro, 2),
        "climb_seconds": round(climb, 6),
    }  # fmt: skip


def measure_case(case: Case, batches: Sequence[int], seconds: float, gigabytes: float) -> list[Row]:
    """All batches of one case that fit."""
    place, rows = root(case), list[Row]()
    size = place.network.variables
    for batch in batches:
        if batch * size * 4 * _LIVE > gigabytes * 2**30:
            break
        if rows and rows[-1]["climb_seconds"] * batch / rows[-1]["batch"] > _SLOW:
            break
        rows.append({"network": case.network, "variables": size} | measure(place, batch, seconds))
    return rows


def report(rows: Sequence[Row]) -> str:
    """The table, a line for each network and batch."""
    header = (
        "network | variables | batch | maps, µs | iteration, µs | ratio | iterations a second | hulls, µs"
    )
    lines = [
        [
            row["network"], f"{row['variables']:,}", str(row["batch"]), f"{row['maps_us']:,.1f}",
            f"{row['iteration_us']:,.1f}", f"{row['ratio']:.2f}", f"{1e6 / row['iteration_us']:,.0f}",
            f"{row['hulls_us']:,.1f}",
        ]
        for row in rows
    ]  # fmt: skip
    return table(header.split(" | "), lines)


@click.command()
@click.option("--instances", required=True, multiple=True, help="DIR or DIR:REGEX of networks; repeatable.")
@click.option("--batches", default="1,4,16,64,256,1024", show_default=True)
@click.option("--seconds", default=4.0, show_default=True, help="Spent on each batch, about.")
@click.option("--gigabytes", default=4.0, show_default=True, help="Larger batches are left out.")
@click.option("--threads", default=1, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS / "throughput.json")
def main(
    instances: tuple[str, ...], batches: str, seconds: float, gigabytes: float, threads: int, output: Path
) -> None:
    """Time an iteration on the first instance of each network."""
    torch.set_num_threads(threads)
    about, sizes = machine(), sorted(int(part) for part in batches.split(","))
    rows: list[Row] = []
    with torch.no_grad():
        for case in cases(instances, 1):
            click.echo(f"{case.network} {case.property}", err=True)
            rows += measure_case(case, sizes, seconds, gigabytes)
    write(output, {"machine": about, "rows": rows})
    click.echo(report(rows))


if __name__ == "__main__":
    main()
