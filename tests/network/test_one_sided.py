"""Ends that are infinite or undefined: the other end stays, bounds hold, and nothing is ever NaN."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import EXAMPLES, label
from torch import Tensor

from verify.bounders.ibp import affine_interval, interval, interval_bound, magnitudes
from verify.lagrangian.dual import DualProblem
from verify.network.activations import Activation, Exp, Log, Product, Reciprocal, Rsqrt, Sqrt, Square
from verify.network.activations.one_sided import OneSidedHull
from verify.network.affine import Combine, Constant, Dense, Scale
from verify.network.convolution import Convolution
from verify.network.graph import Network, Node
from verify.network.moves import NonNegative
from verify.state import Bounds, Objective, Splits

DOUBLE = torch.float64
every_activation = pytest.mark.parametrize("activation", EXAMPLES, ids=label)
ENDS = st.sampled_from(
    [-math.inf, -1e300, -1e200, -1e155, -800.0, -41.0, -1.0, -1e-300, 0.0, 5e-324, 1e-200, 0.5, 3.0, 700.0, 720.0, 1e100,
     1e160, 1.7e308, math.inf]
)  # fmt: skip


def between(low: float, high: float) -> list[float]:
    """Numbers of an interval, of all sizes."""
    numbers = [low, high, -1e300, -1e200, -1e3, -50.0, -2.0, -1.0, -1e-5, -1e-200, 0.0, 1e-320, 1e-5, 0.3, 1.0, 2.0, 50.0, 709.0, 1e3,
               1e200, 1e300]  # fmt: skip
    return [number for number in numbers if low <= number <= high and math.isfinite(number)]


def operands(activation: Activation) -> int:
    return 2 if isinstance(activation, Product) else 1


def sampled(activation: Activation, boxes: list[tuple[float, float]]) -> Tensor:
    """Points of a box, [points, pre], at which the activation is defined."""
    points = torch.cartesian_prod(*(torch.tensor(between(*box), dtype=DOUBLE) for box in boxes))
    points = points.reshape(-1, len(boxes))
    least, _ = activation.domain
    inside = points[:, 0] >= least
    if activation.sided and not isinstance(activation, Sqrt):
        inside &= points[:, 0] != 0
    return points[inside]


def boxes_of(data: st.DataObject, activation: Activation) -> list[tuple[float, float]]:
    found = []
    for _ in range(operands(activation)):
        low, high = sorted((data.draw(ENDS), data.draw(ENDS)))
        found.append((low if low < math.inf else 1e300, high if high > -math.inf else -1e300))
    return found


@every_activation
@given(data=st.data())
def test_intervals_hold_all_values(activation: Activation, data: st.DataObject) -> None:
    boxes = boxes_of(data, activation)
    lower, upper = (torch.tensor([end], dtype=DOUBLE) for end in zip(*boxes, strict=True))
    low, high = activation.interval(lower, upper)
    assert not bool((low.isnan() | high.isnan()).any())
    points = sampled(activation, boxes)
    values = activation.forward(points)[:, 0] if len(points) else points.new_zeros(0)
    # what overflows here is a number all the same: the interval holds one that is as large
    finite = values[~values.isnan()]
    held = (low[0, 0] <= finite.clamp(max=torch.finfo(DOUBLE).max)) & (
        finite.clamp(min=torch.finfo(DOUBLE).min) <= high[0, 0]
    )
    assert bool(held.all()), (boxes, low, high)
    assert bool((finite[finite.isposinf()] <= high[0, 0]).all()) and bool(
        (finite[finite.isneginf()] >= low[0, 0]).all()
    )


@every_activation
@given(data=st.data())
def test_hulls_on_any_box(activation: Activation, data: st.DataObject) -> None:
    """Lines lie on the right side at every point, or are infinite there; minima are no more than at any point."""
    boxes = boxes_of(data, activation)
    lower, upper = (torch.tensor([[end]], dtype=DOUBLE) for end in zip(*boxes, strict=True))
    hull = OneSidedHull(activation, lower, upper)
    points = sampled(activation, boxes)
    if not len(points):
        return
    values = activation.forward(points)
    known = values.isfinite().all(1)
    points, values = points[known], values[known]
    if not len(points):
        return
    share = data.draw(st.floats(0, 1))
    low, high = hull.alpha_range
    alpha = low + (high - low) * share
    for t in (-2.0, 0.0, 3.0):
        cotangent = torch.full((1, 1, 1), t, dtype=DOUBLE)
        line = hull.line(cotangent, alpha)
        least = hull.value(cotangent, line)
        assert not bool(least.isnan().any()) and bool(line.slope.isfinite().all())
        along = (points * line.slope[0]).sum(1)
        size = points.abs().amax() * (1 + line.slope.abs().amax()) + values.abs().amax()
        slack = 1e-11 * (1 + size)
        if bool((along + slack).isfinite().all()):
            assert bool((t * (values[:, 0] - along) >= least - abs(t) * slack).all()), (boxes, t)
    rho = torch.tensor([data.draw(st.sampled_from([-1.0, 0.0, 0.5])) for _ in boxes], dtype=DOUBLE)
    if bool(hull.constant.all()):
        for t in (-2.0, 0.0, 3.0):
            z, x = hull.minimum(torch.full((1, 1, 1), t, dtype=DOUBLE), rho[None, None], None)
            least = t * x.sum() - (rho * z[0]).sum()
            found = t * values[:, 0] - (points * rho).sum(1)
            assert not bool(least < math.inf) or bool((found >= least - 1e-11 * (1 + found.abs())).all())


# -- networks


def through(
    activation: Activation, weight: list[list[float]], bias: list[float], last: list[list[float]]
) -> Network:
    """`last . activation(weight x + bias)`."""
    dense = Dense(torch.tensor(weight, dtype=DOUBLE), torch.tensor(bias, dtype=DOUBLE))
    out = Dense(torch.tensor(last, dtype=DOUBLE))
    inputs, neurons = len(weight[0]), len(weight)
    nodes = (
        Node(None, (), (inputs,), "input"), Node(dense, (0,), (neurons,)), Node(activation, (1,), (neurons,)),
        Node(out, (2,), (len(last),)),
    )  # fmt: skip
    return Network(nodes)


def rows(coefficients: list[float], threshold: float) -> Objective:
    made = torch.tensor(coefficients, dtype=DOUBLE)[None, None, None]
    return Objective(made, torch.full((1, 1, 1), threshold, dtype=DOUBLE), made[..., :0])


def bound(
    network: Network, lower: list[float], upper: list[float], objective: Objective
) -> tuple[float, float]:
    """The objective's bound by the dual at CROWN's slopes, and by intervals."""
    ends = torch.tensor([lower], dtype=DOUBLE), torch.tensor([upper], dtype=DOUBLE)
    bounds, outputs = interval(network, *ends)
    problem = DualProblem(network, bounds, objective, Splits.none(1, "cpu"))
    found = problem.evaluate(problem.initial(), magnitudes(network, bounds)).bound
    return float(found), float(interval_bound(network, objective, ends, outputs))


def test_a_bound_that_rests_on_the_finite_end() -> None:
    """exp overflows beyond 709; what is asked of the lower end is proved, and what is asked of the other is not."""
    network = through(Exp(), [[1.0], [1.0]], [0.0, 1.0], [[1.0, 0.5]])
    for way in bound(network, [0.0], [720.0], rows([1.0], 0.0)):
        assert way == pytest.approx(1 + math.e / 2, rel=1e-9)
    assert bound(network, [0.0], [720.0], rows([-1.0], 0.0)) == (-math.inf, -math.inf)
    mixed = through(Exp(), [[1.0], [-1.0]], [0.0, 0.0], [[1.0, -2.0]])
    for way in bound(mixed, [0.0], [720.0], rows([1.0], 0.0)):
        assert way == pytest.approx(1 - 2, rel=1e-9)
    assert bound(mixed, [0.0], [720.0], rows([0.0], 1.0)) == pytest.approx((-1, -1))


def test_poles() -> None:
    for activation, box, coefficient, value in (
        (Log(), (0.0, 1.0), -1.0, 0.0), (Reciprocal(), (0.0, 2.0), 1.0, 0.5), (Reciprocal(), (-2.0, 0.0), -1.0, 0.5),
        (Rsqrt(), (0.0, 4.0), 1.0, 0.5),
    ):  # fmt: skip
        network = through(activation, [[1.0]], [0.0], [[1.0]])
        found = bound(network, [box[0]], [box[1]], rows([coefficient], 0.0))
        assert found == pytest.approx((value, value), abs=1e-9), activation.name
        assert bound(network, [box[0]], [box[1]], rows([-coefficient], 0.0)) == (-math.inf, -math.inf)


def test_a_cotangent_of_doubtful_sign_refutes_nothing() -> None:
    """(0.1 + 0.2 - 0.3) exp(x) is 0 of the weights' real values or not: rounding must not decide over infinity."""
    nodes = (
        Node(None, (), (1,), "input"), Node(Exp(), (0,), (1,)),
        Node(Dense(torch.tensor([[0.1], [0.2], [-0.3]], dtype=DOUBLE)), (1,), (3,)),
        Node(Dense(torch.ones(1, 3, dtype=DOUBLE)), (2,), (1,)),
    )  # fmt: skip
    network = Network(nodes)
    for sign in (1.0, -1.0):
        found, _ = bound(network, [0.0], [720.0], rows([sign], -1.0))
        assert found == -math.inf


def test_what_does_not_matter_does_no_harm() -> None:
    """A constraint of another output than the infinite one."""
    network = through(Exp(), [[1.0], [0.001]], [0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])
    found = bound(network, [0.0], [720.0], rows([0.0, -1.0], -3.0))
    assert found[0] > 0 and found[1] > 0


@given(seed=st.integers(0, 10**6), count=st.integers(1, 4))
def test_duals_hold_with_infinite_ends(seed: int, count: int) -> None:
    """Random two-layer networks, whose pre-activations have infinite ends here and there: no bound is above a sample."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=DOUBLE)

    activation = EXAMPLES[seed % len(EXAMPLES)]
    pre = count * operands(activation)
    nodes = (
        Node(None, (), (2,), "input"), Node(Dense(300 * random(pre, 2), random(pre)), (0,), (pre,)),
        Node(Exp(), (1,), (pre,)), Node(Scale(1 + random(pre).abs()), (2,), (pre,)),
        Node(activation, (3,), (count,)), Node(Dense(random(1, count)), (4,), (1,)),
    )  # fmt: skip
    network = Network(nodes)
    lower = random(1, 2)
    upper = lower + 3 * random(1, 2).abs()
    bounds, outputs = interval(network, lower, upper)
    assert not bool(bounds.lower.isnan().any()) and not bool(bounds.upper.isnan().any())
    x = lower + (upper - lower) * torch.rand(500, 2, generator=generator, dtype=DOUBLE)
    values = network.forward(x)[:, 0]
    values = values[values.isfinite()]
    for sign in (1.0, -1.0):
        objective = rows([sign], 0.0)
        problem = DualProblem(network, bounds, objective)
        state = problem.initial()
        low, high = problem.terms[1].range if hasattr(problem.terms[1], "range") else (0.0, 0.0)
        alpha = state["alpha"]
        moved = problem.clamp(
            state | {"alpha": alpha + (high - low) * torch.rand(alpha.shape, generator=generator)}
        )
        rho = {"rho": random(1, 1, network.variables - 2)}
        for point in (state, moved, state | rho, problem.decoupled(state)):
            found = problem.evaluate(point, magnitudes(network, bounds)).bound
            assert not bool(found.isnan().any())
            assert bool((found[0, 0] <= sign * values + 1e-9 * values.abs()).all())
            gradient = problem.supergradient(point, problem.backward(point))
            assert not bool(gradient.bound.isnan().any()) or not bool(found.isfinite().all())
        ways = interval_bound(network, objective, (lower, upper), outputs)
        assert not bool(ways.isnan().any()) and bool((ways <= sign * values + 1e-9 * values.abs()).all())


# -- signs


def test_sums_of_what_is_not_negative_are_not() -> None:
    """Of a sum of squares no rounding makes a negative number, so its root is defined; of a difference it might be one."""
    for weight, known in (([[1.0, 0.1, 3.0]], True), ([[1.0, -1.0, 3.0]], False)):
        nodes = (
            Node(None, (), (3,), "input"), Node(Square(), (0,), (3,)), Node(Dense(torch.tensor(weight, dtype=DOUBLE)), (1,), (1,)),
            Node(Sqrt(), (2,), (1,)),
        )  # fmt: skip
        network = Network(nodes)
        one = torch.ones(1, 3, dtype=DOUBLE)
        bounds, (low, high) = interval(network, -one, one)
        assert (float(bounds.lower[0, 6]) == 0.0) == known
        assert bool(low.isfinite().all() & high.isfinite().all()) == known
        if known:
            assert float(low) >= 0 and float(high) == pytest.approx(4.1**0.5)


MAPS = [
    Dense(torch.tensor([[1.0, -2.0], [0.5, 0.0], [0.0, 0.0]], dtype=DOUBLE), torch.tensor([0.0, 1.0, -1.0], dtype=DOUBLE)),
    Scale(torch.tensor([-1.0, 2.0], dtype=DOUBLE), torch.tensor([0.5, 0.0], dtype=DOUBLE)),
    Combine((1, -1)),
    Constant(torch.tensor([1.0, -1.0], dtype=DOUBLE), (2,)),
    NonNegative(lambda x: x.sum(1, keepdim=True), ((2,),), 2),
    Convolution(torch.tensor([[[1.0, -1.0]]], dtype=DOUBLE), None, (1,), (1,), (1,), 1, (1, 2)),
]  # fmt: skip


@pytest.mark.parametrize("operator", MAPS, ids=lambda one: type(one).__name__)
@given(data=st.data())
def test_affine_maps_of_infinite_ends(operator: object, data: st.DataObject) -> None:
    shape = (1, 2) if isinstance(operator, Convolution) else (2,)
    operands_ = 2 if isinstance(operator, Combine) else 1
    zero = torch.zeros(1, *shape, dtype=DOUBLE)
    out = operator.forward(*[zero] * operands_)  # type: ignore[attr-defined]
    exps = tuple(Node(Exp(), (0,), shape) for _ in range(operands_))
    nodes = (
        Node(None, (), shape, "input"),
        *exps,
        Node(operator, tuple(range(1, 1 + operands_)), tuple(out.shape[1:])),
    )  # type: ignore[arg-type]
    network = Network(nodes)
    drawn = [sorted((data.draw(ENDS), data.draw(ENDS))) for _ in range(2)]
    ends = [torch.tensor(end, dtype=DOUBLE).reshape(1, *shape) for end in zip(*drawn, strict=True)]
    low, high = affine_interval(network, len(nodes) - 1, [(ends[0], ends[1])] * operands_)
    assert not bool((low.isnan() | high.isnan()).any())
    choices = torch.cartesian_prod(*(torch.tensor(between(*pair) or [0.0], dtype=DOUBLE) for pair in drawn))
    for other in choices if operands_ == 2 else choices[:1]:
        given_ = [choices.reshape(-1, *shape)] + [other.expand_as(choices).reshape(-1, *shape)] * (
            operands_ - 1
        )
        values = operator.forward(*given_)  # type: ignore[attr-defined]
        inside = ((low <= values) | values.isneginf() | values.isnan()) & (
            (values <= high) | values.isposinf() | values.isnan()
        )
        empty = any(not between(*pair) for pair in drawn)
        assert empty or bool(inside.all())


def test_splits_make_bounds_finite_again() -> None:
    network = through(Exp(), [[1.0]], [0.0], [[1.0]])
    bounds, _ = interval(network, torch.zeros(1, 1, dtype=DOUBLE), torch.full((1, 1), 720.0, dtype=DOUBLE))
    assert bool(bounds.upper.isfinite().all()) and isinstance(bounds, Bounds)
    assert bound(network, [0.0], [1.0], rows([-1.0], -3.0))[0] > 0


def test_networks_of_proofs_do_without() -> None:
    """Where bounds are to be those of each node alone, nothing is charged by finite ends."""
    network = replace(through(Exp(), [[1.0]], [0.0], [[1.0]]), plain=True)
    bounds, _ = interval(network, torch.zeros(1, 1, dtype=DOUBLE), torch.full((1, 1), 720.0, dtype=DOUBLE))
    assert magnitudes(network, bounds).finite is None
    assert bound(network, [0.0], [720.0], rows([1.0], 0.0))[0] == -math.inf
    assert 0.8 < bound(network, [0.0], [1.0], rows([1.0], 0.0))[0] <= 1
