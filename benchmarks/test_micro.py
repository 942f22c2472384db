"""What the parts of bounding and branching cost, on shipped networks at a batch of 64. Run ``make bench-micro``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from benchmarks.common import ROOT, cases, root
from verify.bounders.restricted import Restricted
from verify.branching.fsb import probed
from verify.lagrangian.dual import DualProblem
from verify.state import DualState

BATCH = 64
CANDIDATES = 6  # as many as filtered smart branching bounds by default


@pytest.fixture(scope="module", params=["digits_conv", "digits_fc", "digits_resnet"])
def problem(request: pytest.FixtureRequest) -> DualProblem:
    """The hardest clause of a family's first problem, in float32."""
    return root(cases([str(ROOT / "properties" / request.param)], 1)[0]).quick(BATCH)


@pytest.fixture
def state(problem: DualProblem) -> DualState:
    """CROWN's point; the hulls are there after it."""
    return problem.initial()


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """No autograd, one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


def open_variables(problem: DualProblem, count: int) -> tuple[Tensor, Tensor]:
    """The first variables that a split would help, and where to split them, [batch, count] each."""
    points = torch.full_like(problem.bounds.lower, torch.nan)
    for layer in problem.layers:
        columns = layer.variables
        points[:, columns] = layer.activation.split_point(
            problem.bounds.lower[:, columns], problem.bounds.upper[:, columns]
        )
    variable = (~points.isnan()).to(torch.int8).topk(count).indices
    return variable, points.gather(1, variable).nan_to_num(nan=0.0)


def test_hulls(benchmark: BenchmarkFixture, problem: DualProblem) -> None:
    """The activations' hulls on new boxes."""
    benchmark(lambda: DualProblem(problem.network, problem.bounds, problem.objective).domain.hulls)


def test_value(benchmark: BenchmarkFixture, problem: DualProblem, state: DualState) -> None:
    """One evaluation of q."""
    found = benchmark(problem.evaluate, state)
    assert found.bound.isfinite().all()


def test_supergradient(benchmark: BenchmarkFixture, problem: DualProblem, state: DualState) -> None:
    """One sweep back and one forward: q and all derivatives."""
    found = benchmark(lambda: problem.supergradient(state, problem.backward(state)))
    assert found.bound.isfinite().all()


def test_restricted_step(benchmark: BenchmarkFixture, problem: DualProblem, state: DualState) -> None:
    """One iteration of the restricted ascent: both sweeps and Adam's step."""
    optimiser = Restricted().start(problem, state)

    def step() -> None:
        optimiser.evaluate()
        optimiser.step(1)

    benchmark(step)


def test_probes(benchmark: BenchmarkFixture, problem: DualProblem, state: DualState) -> None:
    """Both children of all candidate splits by one sweep, as filtered smart branching does."""
    upper, lower = benchmark(probed, problem, state, *open_variables(problem, CANDIDATES))
    assert upper.shape == lower.shape == (BATCH, CANDIDATES)
