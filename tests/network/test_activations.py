"""The operator oracle's contract, for every registered activation: nothing that bounding builds on may be taken on trust."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from nets import DOUBLE, EXAMPLES, KINDS, examples, label
from torch import Tensor

from verify.network.activations import ACTIVATIONS, Activation, Product, Reciprocal
from verify.state import Bounds, Splits

GRID = 401
LEAST = {"Log": 0.05, "Reciprocal": 0.05, "Rsqrt": 0.05, "Sqrt": 0.0}  # where boxes begin
DTYPES = (torch.float64, torch.float32)
every_activation = pytest.mark.parametrize("activation", EXAMPLES, ids=label)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def boxes(
    activation: Activation, count: int, seed: int, dtype: torch.dtype = DOUBLE
) -> tuple[Tensor, Tensor]:
    """Boxes [count, pre] of all sizes: points, slivers, wide ones, ones that end at 0."""
    generator = torch.Generator().manual_seed(seed)
    pre = 2 if isinstance(activation, Product) else 1
    scale = 10 ** (3 * torch.rand(count, pre, generator=generator, dtype=DOUBLE) - 2)
    centre = scale * torch.randn(count, pre, generator=generator, dtype=DOUBLE)
    radius = scale * torch.rand(count, pre, generator=generator, dtype=DOUBLE)
    radius[::7] = 0
    radius[1::7] *= 1e-4
    lower, upper = centre - radius, centre + radius
    lower[2::7] = 0
    upper[3::7] = 0
    lower, upper = torch.minimum(lower, upper), torch.maximum(lower, upper)
    if activation.name in LEAST:
        shift = LEAST[activation.name] - lower.amin()
        lower, upper = lower + shift, upper + shift
    if isinstance(activation, Reciprocal):
        mirrored = torch.arange(count)[:, None] % 2 == 0
        lower, upper = torch.where(mirrored, -upper, lower), torch.where(mirrored, -lower, upper)
    return lower.to(dtype), upper.to(dtype)


def grid(lower: Tensor, upper: Tensor) -> Tensor:
    """Points of the boxes [count, pre]: [points, count, pre]; both ends and, where inside, 0 and the breakpoints are there."""
    steps = torch.linspace(0, 1, GRID if lower.shape[-1] == 1 else 21, dtype=lower.dtype)
    shares = torch.cartesian_prod(*([steps] * lower.shape[-1])).reshape(-1, 1, lower.shape[-1])
    points = lower + (upper - lower) * shares
    extra = torch.tensor([0.0, -0.5, 0.8, 6.0, 0.3, 0.25], dtype=lower.dtype)[:, None, None].expand(
        -1, *lower.shape
    )
    points = torch.cat([points, extra])
    return torch.minimum(torch.maximum(points, lower), upper)


def tolerance(dtype: torch.dtype, *sizes: Tensor) -> Tensor:
    """A few roundings of the largest of the terms."""
    largest = torch.stack([size.abs().broadcast_to(sizes[0].shape) for size in sizes]).amax(0)
    return 40 * torch.finfo(dtype).eps * (1 + largest)


def signs(count: int, seed: int, dtype: torch.dtype) -> Tensor:
    """Cotangents of both signs, of all sizes, some zero: [count, 1]."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.randn(count, 1, generator=generator, dtype=DOUBLE)
    t = t * 10 ** torch.randint(-3, 4, t.shape, generator=generator)
    t[::11] = 0
    return t.to(dtype)


def test_every_registered_activation_has_an_example() -> None:
    assert {a.name for a in EXAMPLES} == set(ACTIVATIONS) == set(KINDS)
    assert all(examples(kind) for kind in KINDS)


@every_dtype
@every_activation
def test_lines_support_the_activation(activation: Activation, dtype: torch.dtype) -> None:
    """t sigma(z) >= t (slope z + intercept) on the whole box, for any slopes within reach and the initial ones."""
    lower, upper = boxes(activation, 210, 1, dtype)
    hull = activation.hull(lower, upper)
    points = grid(lower, upper)
    generator = torch.Generator().manual_seed(5)
    initial = hull.initial()
    for trial in range(12):
        noise = torch.randn(initial.shape, generator=generator, dtype=DOUBLE).to(dtype)
        chosen = initial if trial == 0 else hull.clamp(initial * noise + 3 * noise)
        t = signs(len(lower), trial, dtype)
        line = hull.line(t, chosen)
        product = (line.slope * points).sum(-1, keepdim=True)
        value = activation.forward(points)
        excess = torch.sign(t) * (value - product - line.intercept)
        allowed = tolerance(
            dtype, value, (line.slope * points).abs().sum(-1, keepdim=True), line.intercept[None]
        )
        worst = (excess + allowed).amin()
        assert worst >= 0, (trial, float(worst))


@every_activation
def test_lines_touch_the_activation(activation: Activation) -> None:
    """A supporting line meets the activation somewhere on the box: else bounds are weaker than they need be."""
    lower, upper = boxes(activation, 70, 2)
    hull = activation.hull(lower, upper)
    for sign in (1.0, -1.0):
        t = torch.full((len(lower), 1), sign, dtype=DOUBLE)
        line = hull.line(t, hull.initial())
        points = grid(lower, upper)
        gap = sign * (
            activation.forward(points) - (line.slope * points).sum(-1, keepdim=True) - line.intercept
        )
        width = (upper - lower).amax(1, keepdim=True)
        assert bool((gap.amin(0) <= 1e-9 + 0.02 * width * (1 + line.slope.abs().amax(1, keepdim=True))).all())


@every_activation
def test_value_is_the_weighted_intercept(activation: Activation) -> None:
    """`value` is sum t * intercept, also where an activation writes it out by hand."""
    lower, upper = boxes(activation, 60, 3)
    lower, upper = lower.T.reshape(1, 1, -1), upper.T.reshape(1, 1, -1)
    hull = activation.hull(lower, upper)
    t = torch.randn(
        1, 3, activation.post_size(lower.shape[-1]), dtype=DOUBLE, generator=torch.Generator().manual_seed(0)
    )
    line = hull.line(t, hull.initial())
    torch.testing.assert_close(hull.value(t, line), (t * line.intercept).sum(-1))


@every_dtype
@every_activation
def test_minimise_beats_the_grid(activation: Activation, dtype: torch.dtype) -> None:
    """No grid point lies below the minimiser that the oracle gives, and the minimiser lies in the box."""
    lower, upper = boxes(activation, 210, 4, dtype)
    points = grid(lower, upper)
    for trial in range(8):
        t = signs(len(lower), trial, dtype)
        rho = signs(lower.numel(), 100 + trial, dtype).reshape(lower.shape)
        best = activation.minimise(t, rho, lower, upper)
        assert bool(((best >= lower) & (best <= upper)).all())
        least = t * activation.forward(best) - (rho * best).sum(-1, keepdim=True)
        value = t * activation.forward(points) - (rho * points).sum(-1, keepdim=True)
        terms = t * activation.forward(points), (rho * points).abs().sum(-1, keepdim=True)
        worst = (value - least + tolerance(dtype, *terms)).amin()
        assert worst >= 0, (trial, float(worst))


@every_dtype
@every_activation
def test_interval_encloses_samples(activation: Activation, dtype: torch.dtype) -> None:
    """Even float64 values at points of a float32 box lie in its interval."""
    lower, upper = boxes(activation, 700, 6, dtype)
    low, high = activation.interval(lower, upper)
    value = activation.forward(grid(lower.double(), upper.double()))
    assert bool((value >= low.double() - 1e-16).all())
    assert bool((value <= high.double() + 1e-16).all())


@every_activation
def test_initial_slopes_are_valid(activation: Activation) -> None:
    """`clamp` keeps the initial parameters, and clamping twice is clamping once."""
    lower, upper = boxes(activation, 210, 7)
    hull = activation.hull(lower, upper)
    initial = hull.initial()
    assert initial.shape[-1] == lower.shape[-1] * activation.alphas_per_neuron
    torch.testing.assert_close(hull.clamp(initial), initial, rtol=1e-12, atol=1e-12)
    wild = hull.clamp(initial * 1e6 - 1e5)
    torch.testing.assert_close(hull.clamp(wild), wild)


@every_activation
def test_split_point_is_inside_or_nan(activation: Activation) -> None:
    """A split must leave both sides smaller, else the search never ends."""
    lower, upper = boxes(activation, 700, 8)
    point = activation.split_point(lower, upper)
    below, above = activation.split_ends(point)
    inside = (above > lower) & (below < upper) & (below >= lower) & (above <= upper)
    assert bool((point.isnan() | inside).all())
    assert bool(point[lower == upper].isnan().all())


def _inward(lower: Tensor, upper: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A box that splits have left, as another type has it."""
    variables, sides = torch.tensor([[0, 0]]), torch.tensor([[1, -1]])
    splits = Splits(variables, torch.cat([lower, upper], 1), sides)
    box = splits.apply(Bounds(lower.to(dtype) - 9, upper.to(dtype) + 9))
    return box.lower, box.upper


@pytest.mark.parametrize("activation", [a for a in EXAMPLES if a.flat], ids=label)
@every_dtype
def test_splits_of_steps_part_their_values(activation: Activation, dtype: torch.dtype) -> None:
    """After enough splits a step is constant on every part, no number is lost between parts, and every value is on one of them."""
    for low, high in ((-2.0, 2.0), (-0.5, 0.5), (0.0, 1.0), (-1.0, 0.0), (0.5, 1.5), (-1.7, 2.3), (0.0, 0.0)):
        parts, done = [(low, high)], []
        while parts:
            lower, upper = parts.pop()
            ends = tuple(torch.tensor([[end]], dtype=DOUBLE) for end in (lower, upper))
            point = activation.split_point(*_inward(*ends, dtype)).double()
            if bool(point.isnan()):
                done.append((lower, upper))
                continue
            below, above = (float(end) for end in activation.split_ends(point))
            assert above == math.nextafter(below, math.inf)
            assert lower <= below and above <= upper
            parts += [(lower, below), (above, upper)]
        done.sort()
        assert (done[0][0], done[-1][1]) == (low, high)
        assert all(b == math.nextafter(a, math.inf) for (_, a), (b, _) in pairwise(done))
        ends = tuple(torch.tensor(end, dtype=DOUBLE)[:, None] for end in zip(*done, strict=True))
        first, last = activation.interval(*ends)
        assert bool((first == last).all())
        grid = torch.linspace(low, high, 801, dtype=DOUBLE)
        assert set(activation.forward(grid).tolist()) <= set(first.flatten().tolist())


@every_activation
def test_no_split_means_an_exact_line(activation: Activation) -> None:
    """Where no split is offered, lower and upper line are one up to a sliver: a search may rely on that at a leaf."""
    lower, upper = boxes(activation, 700, 9)
    point = activation.split_point(lower, upper)
    hull = activation.hull(lower, upper)
    ones = torch.ones(len(lower), 1, dtype=DOUBLE)
    below, above = hull.line(ones, hull.initial()), hull.line(-ones, hull.initial())
    points = grid(lower, upper)
    gap = ((above.slope - below.slope) * points).sum(-1, keepdim=True) + above.intercept - below.intercept
    gap = torch.where(point.isnan().any(-1, keepdim=True), gap, 0.0)
    assert float((gap / (1 + points.abs().amax(-1, keepdim=True))).amax()) < 1e-4


@pytest.mark.parametrize("lower", [-1.0, -1e-300, 0.0])
def test_reciprocal_across_zero_is_unbounded(lower: float) -> None:
    low, high = Reciprocal().interval(torch.tensor([lower]), torch.tensor([1.0]))
    assert float(high) == math.inf
    assert float(low) <= 1.0
