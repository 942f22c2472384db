"""Products of matrices and softmax as single activations: their lines, and every bound that rests on them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import DOUBLE, Draft, joined, random_box
from test_bounders import METHODS, check, starts
from test_dual_soundness import assert_below, assert_keepers_above, dual_problem, weighted
from torch import Tensor

from verify.bounders.ascent import Iterative
from verify.bounders.ibp import interval, magnitudes
from verify.bounders.intermediate import IntermediateBounds
from verify.bounders.linear_program import LinearProgram
from verify.bounders.restricted import Restricted
from verify.branching.fsb import FilteredSmartBranching
from verify.deadline import Deadline
from verify.errors import ResourceError
from verify.lagrangian.dual import DualProblem
from verify.network.activations import Hull, Relu
from verify.network.activations.matrix_product import MatrixProduct
from verify.network.activations.mixing import Mixing
from verify.network.activations.product import Product
from verify.network.activations.softmax import Softmax, SoftmaxHull
from verify.network.graph import Network
from verify.network.moves import NonNegative
from verify.state import DualState

SIZES = {
    MatrixProduct(2, 3, 2, 4): 2 * (3 * 2 + 2 * 4),
    MatrixProduct(1, 1, 5, 1): 10,
    Softmax(3): 12,
    Softmax(1): 2,
}
every_activation = pytest.mark.parametrize(("activation", "size"), SIZES.items(), ids=repr)
seeds = st.integers(0, 10_000)


def boxes(size: int, seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Boxes [60, 1, size] of all widths and heights, some of them points in part or as a whole."""
    generator = torch.Generator().manual_seed(seed)
    scale = 10 ** (3 * torch.rand(60, 1, 1, generator=generator, dtype=DOUBLE) - 2)
    centre = scale * torch.randn(60, 1, size, generator=generator, dtype=DOUBLE)
    radius = scale * torch.rand(60, 1, size, generator=generator, dtype=DOUBLE)
    radius[::5] = 0
    radius[1::5, :, ::2] = 0
    radius[2::5] *= 1e-6
    return (centre - radius).to(dtype), (centre + radius).to(dtype)


def points(lower: Tensor, upper: Tensor, seed: int, count: int = 400) -> Tensor:
    """Points of the boxes [60, count, size]: corners, the middle, and what is between."""
    generator = torch.Generator().manual_seed(seed + 1)
    shares = torch.rand(len(lower), count, lower.shape[-1], generator=generator, dtype=lower.dtype)
    shares[:, ::2] = shares[:, ::2].round()
    shares[:, 1] = 0.5
    return torch.minimum(torch.maximum(lower + (upper - lower) * shares, lower), upper)


def signs(activation: Mixing, size: int, seed: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 2)
    t = torch.randn(60, 400, activation.post_size(size), generator=generator, dtype=DOUBLE)
    t[:, ::7] = 0
    return t.to(dtype)


def every_parameter(hull: Hull, t: Tensor, seed: int) -> list[Tensor]:
    """The first ones, the ends of their range, and others for each objective."""
    generator = torch.Generator().manual_seed(seed + 3)
    low, high = hull.alpha_range
    size = (t.shape[0], t.shape[1], low.shape[-1])
    shares = torch.rand(size, generator=generator, dtype=DOUBLE).to(low)
    return [hull.initial(), low, high, low + (high - low) * shares, low + (high - low) * shares.round()]


@every_activation
@pytest.mark.parametrize("seed", range(4))
def test_lines_support_the_activation(activation: Mixing, size: int, seed: int) -> None:
    """Output by output `t sigma(z) >= t line(z)` with no more than the slack that the sweep charges."""
    lower, upper = boxes(size, seed, DOUBLE)
    hull, z, t = (
        activation.hull(lower, upper),
        points(lower, upper, seed),
        signs(activation, size, seed, DOUBLE),
    )
    largest = hull.size(t)
    assert largest is not None
    for alpha in every_parameter(hull, t, seed):
        gap = t * (activation.forward(z) - hull.line(t, alpha).apply(z))
        assert bool((gap >= -1e-15 * 50 * largest.unsqueeze(-1)).all())


@every_activation
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32], ids=str)
def test_intervals_hold_the_values(activation: Mixing, size: int, seed: int, dtype: torch.dtype) -> None:
    lower, upper = boxes(size, seed, dtype)
    low, high = activation.interval(lower.double(), upper.double())
    values = activation.forward(points(lower, upper, seed).double())
    room = 1e-12 * (1 + values.abs())
    assert bool(((low <= values + room) & (values <= high + room)).all())
    narrow = activation.interval(lower, upper)
    room = 1e-5 * (1 + values.abs().amax(1, keepdim=True)) if isinstance(activation, MatrixProduct) else 1e-6
    assert bool(((narrow[0] <= values + room) & (values <= narrow[1] + room)).all())


def test_products_that_underflow() -> None:
    """The interval holds what float64 makes 0; of a factor that is 0 throughout it stays 0."""
    for activation, tiny, nothing in (
        (MatrixProduct(1, 1, 2, 1), [1e-200, 0.0, 1e-200, 1.0], [0.0, 0.0, 5.0, 1.0]),
        (Product(), [1e-200, 1e-200], [0.0, 5.0]),
    ):
        lower = torch.tensor(tiny, dtype=DOUBLE)
        low, high = activation.interval(lower, lower)
        assert float(high) > 0 > float(low)
        zero = torch.tensor(nothing, dtype=DOUBLE)
        assert [float(end) for end in activation.interval(zero, zero)] == [0.0, 0.0]


@pytest.mark.parametrize("width", [30.0, 100.0, 190.0, 400.0, 1e4, 1e200, torch.inf])
def test_softmax_of_wide_boxes(width: float) -> None:
    """Where exponentials overflow and their reciprocals' squares underflow, lines are loose but hold."""
    activation, centre = Softmax(3), boxes(12, 11, DOUBLE)[0]
    centre = centre / centre.abs().amax()
    lower, upper = centre - width, centre + width / 3
    hull = SoftmaxHull(activation, lower, upper)
    z = points(lower.clamp(min=-1e9), upper.clamp(max=1e9), 11)
    for sign in (1.0, -1.0):
        t = torch.full((60, 400, 12), sign, dtype=DOUBLE)
        line = hull.line(t, hull.initial())
        terms = (hull.below if sign > 0 else hull.above).terms(activation.table(z).abs()).flatten(-2)
        gap = sign * (activation.forward(z) - line.apply(z))
        assert bool((gap >= -1e-13 * terms).all())
        assert bool((line.intercept.isfinite() & line.vjp(t).isfinite()).all())


@every_activation
def test_pull_is_the_adjoint_of_along(activation: Mixing, size: int) -> None:
    lower, upper = boxes(size, 3, DOUBLE)
    hull, z, t = activation.hull(lower, upper), points(lower, upper, 3), signs(activation, size, 3, DOUBLE)
    for alpha in every_parameter(hull, t, 3):
        line = hull.line(t, alpha)
        there, back = (t * line.along(z)).sum(-1), (line.vjp(t) * z).sum(-1)
        torch.testing.assert_close(there, back, rtol=1e-9, atol=1e-9 * float(there.abs().max()))
        torch.testing.assert_close(line.apply(z), line.intercept + line.along(z))
        first = line.first()
        torch.testing.assert_close(first.apply(z[:, 0]), line.apply(z)[:, 0])
        torch.testing.assert_close(first.vjp(t[:, 0]), line.vjp(t)[:, 0])


@every_activation
def test_parameters_have_their_supergradient(activation: Mixing, size: int) -> None:
    """What `gradient` writes is how fast `t line(z)` grows with each parameter: the lines are linear in them."""
    lower, upper = boxes(size, 9, DOUBLE)
    hull, z, t = activation.hull(lower, upper), points(lower, upper, 9), signs(activation, size, 9, DOUBLE)
    before, after = every_parameter(hull, t, 9)[3], every_parameter(hull, t, 10)[3]
    values = [(t * hull.line(t, alpha).apply(z)).sum(-1) for alpha in (before, after)]
    found = torch.empty_like(before)
    hull.gradient(t, z, found)
    predicted = ((after - before) * found).sum(-1)
    torch.testing.assert_close(values[1] - values[0], predicted, rtol=1e-6, atol=1e-9)


@every_activation
def test_boxes_that_are_alike_share_their_hull(activation: Mixing, size: int) -> None:
    lower, upper = (end[:1].expand(60, -1, -1) for end in boxes(size, 6, DOUBLE))
    z, t = points(lower, upper, 6), signs(activation, size, 6, DOUBLE)
    whole, shared = activation.hull(lower, upper), activation.hull(lower[:1], upper[:1])
    for alpha in every_parameter(whole, t, 6):
        one, other = whole.line(t, alpha), shared.line(t, alpha)
        torch.testing.assert_close(other.apply(z), one.apply(z))
        torch.testing.assert_close(other.vjp(t), one.vjp(t))
        torch.testing.assert_close(other.first().apply(z[:, 0]), one.first().apply(z[:, 0]))
        torch.testing.assert_close(shared.value(t, other), whole.value(t, one))
        torch.testing.assert_close(shared.size(t), whole.size(t))


@every_activation
def test_lines_are_exact_at_points(activation: Mixing, size: int) -> None:
    """Where nothing is open, both lines are the activation, and no split helps."""
    lower, _ = boxes(size, 5, DOUBLE)
    hull = activation.hull(lower, lower)
    assert bool(activation.split_point(lower, lower).isnan().all())
    for sign in (1.0, -1.0):
        t = torch.full((60, 1, activation.post_size(size)), sign, dtype=DOUBLE)
        line = hull.line(t, hull.initial())
        size_of = hull.size(t)
        assert size_of is not None
        gap = (line.apply(lower) - activation.forward(lower)).abs()
        assert bool((gap <= 1e-12 * size_of.unsqueeze(-1)).all())


@every_activation
def test_relaxation_losses_add_up(activation: Mixing, size: int) -> None:
    """What the variables lose is what the outputs lose: for softmax once, for products once by either factor."""
    lower, upper = boxes(size, 7, DOUBLE)
    lower, upper = lower[3::5], upper[3::5]
    hull = activation.hull(lower, upper)
    z, t = points(lower, upper, 7)[:, 1:], signs(activation, size, 7, DOUBLE)[3::5, 1:]
    line = hull.line(t, hull.initial()).first()
    losses = activation.relaxation_loss(t[:, 0], line, z[:, 0], lower[:, 0], upper[:, 0])
    total = (t[:, 0] * (activation.forward(z[:, 0]) - line.apply(z[:, 0]))).sum(-1)
    parts = losses.clamp(min=0).sum(-1) / (2 if isinstance(activation, MatrixProduct) else 1)
    torch.testing.assert_close(parts, total, rtol=1e-6, atol=1e-9)


def attention(seed: int, tokens: int = 3, width: int = 2) -> Network:
    """Queries, keys and values of a small input, softmax of their products, a residual ReLU behind it."""
    draft = Draft(torch.Generator().manual_seed(seed), (4,))
    queries, keys, values = (draft.dense(0, tokens * width) for _ in range(3))

    def side_by_side(*parts: int) -> int:
        shapes = tuple(draft.nodes[part].shape for part in parts)
        size = sum(draft.nodes[part].size for part in parts)
        return draft.add(NonNegative(joined, shapes, 1, "concatenate"), parts, (size,))

    scores = draft.add(
        MatrixProduct(1, tokens, width, tokens), (side_by_side(queries, keys),), (tokens * tokens,)
    )
    shares = draft.add(Softmax(tokens), (draft.dense(scores, tokens * tokens),), (tokens * tokens,))
    mixed = draft.add(
        MatrixProduct(1, tokens, tokens, width), (side_by_side(shares, values),), (tokens * width,)
    )
    hidden = draft.activation(draft.dense(mixed, 5), Relu())
    draft.dense(side_by_side(hidden, mixed), 3)
    return draft.network()


@pytest.mark.parametrize("seed", range(14))
def test_every_method_on_attention(seed: int) -> None:
    network = attention(seed)
    problem, keeper = dual_problem(network, random_box(network, 2, seed, 0.3), seed, 3)
    points = starts(problem, seed)
    for index in range(2):
        method, start = METHODS[(seed + 3 * index) % len(METHODS)], points[(seed + index) % len(points)]
        check(method, problem, _own(method, problem, start), keeper)


def _own(method: Iterative, problem: DualProblem, start: DualState) -> DualState:
    """The point as the method's own domain has it: parameters of mixing activations are lost on the way there."""
    return start if isinstance(method, Restricted) else problem.decoupled(start)


@given(seeds, st.integers(0, 4))
def test_any_dual_point_bounds_from_below(seed: int, depth: int) -> None:
    network = attention(seed)
    problem, keeper = dual_problem(network, random_box(network, 2, seed), seed, depth)
    sizes = magnitudes(network, problem.bounds)
    for state in starts(problem, seed):
        certified = problem.evaluate(problem.clamp(state), sizes).bound
        assert_below(problem, problem.clamp(state), certified, network, 1e-12)
        assert_keepers_above(problem, problem.clamp(state), certified, keeper, 1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_intermediate_bounds_hold_all_samples(seed: int) -> None:
    network = attention(seed)
    box = random_box(network, 2, seed, 0.3)
    plain, _ = interval(network, box.lower[:, :4], box.upper[:, :4])
    tight = IntermediateBounds().tighten(network, plain, Deadline())
    assert bool((tight.lower >= plain.lower).all() and (tight.upper <= plain.upper).all())
    x = points(box.lower[:, None, :4], box.upper[:, None, :4], seed)
    for row in range(2):
        values = network.values(x[row])
        for layer in network.layers:
            z = values[layer.pre_node].flatten(1)
            assert bool((z >= tight.lower[row, layer.variables] - 1e-12).all())
            assert bool((z <= tight.upper[row, layer.variables] + 1e-12).all())


def alone(seed: int) -> Network:
    """Nothing but softmax: a network without a slope to choose."""
    draft = Draft(torch.Generator().manual_seed(seed), (4,))
    shares = draft.add(Softmax(2), (draft.dense(0, 6),), (6,))
    draft.dense(shares, 3)
    return draft.network()


@pytest.mark.parametrize("seed", range(8))
def test_networks_without_slopes(seed: int) -> None:
    """Lines are used there as elsewhere: on a narrow box the bounds are close to the samples, by every method, split or not."""
    network = alone(seed)
    problem, keeper = dual_problem(network, random_box(network, 2, seed, 0.05), seed, seed % 3)
    for method, start in zip(METHODS, starts(problem, seed), strict=False):
        check(method, problem, _own(method, problem, start), keeper)
    problem, _ = dual_problem(network, random_box(network, 2, seed, 0.01), seed, 0)
    plain = problem.evaluate(problem.initial()).bound
    x = points(problem.bounds.lower[:, None, :4], problem.bounds.upper[:, None, :4], seed)
    for row in range(2):
        least = weighted(problem.objective, problem.initial(), row, x[row], network.forward(x[row])).amin(1)
        assert bool((plain[row] >= least - 0.01 * (1 + least.abs())).all())
    split = FilteredSmartBranching().choose(*_single(problem))
    assert bool((split.variable >= 0).all())


def _single(problem: DualProblem) -> tuple[DualProblem, DualState]:
    """The same with its first objective alone, as a search has it."""
    objective = problem.objective.map(lambda part: part[:, :1])
    one = DualProblem(problem.network, problem.bounds, objective, problem.splits)
    return one, one.initial()


def test_linear_programs_refuse_them() -> None:
    with pytest.raises(ResourceError, match="linear programs do not know MatMul"):
        LinearProgram().admit(attention(0))
