"""Outputs that add up to 1: bounds that only their sum tells, sound, and primal points that obey it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from verify.bounders.ibp import interval, magnitudes
from verify.bounders.restricted import Restricted
from verify.deadline import Deadline
from verify.lagrangian.dual import DualProblem
from verify.lagrangian.unit_sums import _last
from verify.loading import calls, load
from verify.network.activations.mixing import Mixing
from verify.network.activations.reciprocal import Share
from verify.network.graph import Network
from verify.state import Objective

DOUBLE = torch.float64


class Model(torch.nn.Module):
    """Softmax of `rows` rows of linear functions, and linear functions of what comes out."""

    def __init__(self, rows: int, size: int, outputs: int, scale: float) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Linear(3, rows * size), torch.nn.Linear(rows * size, outputs)
        self.shape = rows, size
        with torch.no_grad():
            self.first.weight.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.first(x).reshape(-1, *self.shape).softmax(-1).flatten(1))
        return found


def network(seed: int, rows: int, size: int, scale: float, mixes: bool, outputs: int = 2) -> Network:
    """With softmax as one activation, or made of exponentials."""
    torch.manual_seed(seed)
    known = calls.MOST_BOUNDED
    calls.MOST_BOUNDED = 0 if mixes else known
    try:
        found = load(Model(rows, size, outputs, scale).double(), torch.zeros(1, 3).double()).network
    finally:
        calls.MOST_BOUNDED = known
    kinds = [type(layer.activation) for layer in found.layers]
    assert any(issubclass(kind, Mixing) for kind in kinds) == mixes and (Share in kinds) != mixes
    return found


def objective(coefficients: Tensor) -> Objective:
    """Of one box: [objectives, outputs]."""
    made = coefficients[None, :, None]
    return Objective(made, made.new_zeros(made.shape[:3]), made[..., :0])


@given(seed=st.integers(0, 10**6), size=st.integers(1, 6))
def test_the_multiplier_is_the_best_of_all(seed: int, size: int) -> None:
    """`c + sum min((t - c) x)` over the outputs' intervals is concave in c, and greatest at one of the t."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.randn(1, 1, 2, size, generator=generator, dtype=DOUBLE)
    point = torch.rand(1, 1, 2, size, generator=generator, dtype=DOUBLE)
    point = point / point.sum(-1, keepdim=True)
    low = point * torch.rand(point.shape, generator=generator)
    high = point + (1 - point) * torch.rand(point.shape, generator=generator)

    def value(c: Tensor) -> Tensor:
        left = t - c
        return c[..., 0] + (left.clamp(min=0) * low + left.clamp(max=0) * high).sum(-1)

    best = torch.stack([value(t[..., i : i + 1]) for i in range(size)]).amax(0)
    assert torch.allclose(value(t.gather(-1, _last(t, low, high))), best, atol=1e-12)
    assert bool((best <= (t * point).sum(-1) + 1e-12).all())


@pytest.mark.parametrize("mixes", [False, True])
@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_sums_are_known(mixes: bool, scale: float) -> None:
    """All outputs of a row together are 1, some of them no more than that, and all are not negative, whatever the box."""
    made = network(3, 2, 4, scale, mixes, outputs=1)
    nodes = made.nodes[: max(layer.node for layer in made.layers) + 1]
    made = Network(nodes)
    size = made.outputs
    assert size == 8
    lower, upper = -torch.ones(1, 3, dtype=DOUBLE), torch.ones(1, 3, dtype=DOUBLE)
    bounds, _ = interval(made, lower, upper)
    ones = torch.zeros(5, size, dtype=DOUBLE)
    ones[0, :4], ones[1, :4], ones[2, 4:6], ones[3], ones[4, :4] = 1, -1, -1, 1, torch.arange(4) + 1.0
    problem = DualProblem(made, bounds, objective(ones))
    found = problem.evaluate(problem.initial(), magnitudes(made, bounds)).bound[0]
    assert found[0] == pytest.approx(1, abs=1e-8) and found[1] == pytest.approx(-1, abs=1e-8)
    assert found[2] >= -1 - 1e-8 and found[3] == pytest.approx(2, abs=1e-8) and found[4] >= 1 - 1e-8


@given(seed=st.integers(0, 10**6), mixes=st.booleans(), scale=st.sampled_from([0.3, 3.0, 30.0]))
def test_bounds_are_sound(seed: int, mixes: bool, scale: float) -> None:
    """At any dual point, with slopes alone and with free multipliers, and the primal point's bound is q itself."""
    made = network(seed, 1 + seed % 2, 3 + seed % 3, scale, mixes)
    generator = torch.Generator().manual_seed(seed)
    lower = torch.randn(1, 3, generator=generator, dtype=DOUBLE)
    upper = lower + torch.rand(1, 3, generator=generator, dtype=DOUBLE)
    bounds, _ = interval(made, lower, upper)
    coefficients = torch.randn(4, made.outputs, generator=generator, dtype=DOUBLE)
    problem = DualProblem(made, bounds, objective(coefficients))
    x = lower + (upper - lower) * torch.rand(300, 3, generator=generator, dtype=DOUBLE)
    least = (made.forward(x) @ coefficients.T).amin(0)
    state = problem.initial()
    alpha = state["alpha"]
    moved = problem.clamp(
        state | {"alpha": alpha + torch.randn(alpha.shape, generator=generator, dtype=DOUBLE)}
    )
    rho = torch.randn(1, 4, made.variables - 3, generator=generator, dtype=DOUBLE)
    sizes = magnitudes(made, bounds)
    for point in (
        state,
        moved,
        moved | {"rho": rho},
        problem.decoupled(state),
        problem.decoupled(state, posts=True),
    ):
        found = problem.evaluate(point, sizes).bound[0]
        assert bool((found <= least + 1e-9 * (1 + least.abs())).all())
        primal = problem.supergradient(point, problem.backward(point)).bound[0]
        plain = problem.evaluate(point).bound[0]
        known = plain.isfinite() & primal.isfinite()
        assert torch.allclose(
            primal[known], plain[known], rtol=1e-6, atol=1e-6 * float(1 + rho.abs().amax() * 100)
        )
    ascended = Restricted(20).ascend(problem, state, deadline=Deadline()).bound[0]
    assert bool((ascended >= problem.evaluate(state).bound[0] - 1e-9).all())
    assert bool((ascended <= least + 1e-6 * (1 + least.abs())).all())
