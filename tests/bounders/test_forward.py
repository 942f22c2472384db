"""Forward bounds: no sample outside, no rounding error uncharged, exact where nothing bends, and tighter than intervals."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import pytest
import torch
from hypothesis import given
from nets import (
    DOUBLE,
    EXAMPLES,
    FAMILIES,
    Draft,
    label,
    networks,
    random_box,
    random_network,
    samples,
    seeds,
    variables,
)
from test_dual_unbounded import quotient
from test_mixing import attention
from torch import Tensor

from verify.bounders.forward import forward
from verify.bounders.interval import interval
from verify.deadline import Deadline
from verify.network.activations import Activation, Relu
from verify.network.affine import Combine, Constant, Dense, NonNegative
from verify.network.graph import Network, Node
from verify.state import Bounds


def both(network: Network, box: Bounds) -> tuple[Bounds, Bounds]:
    """Intervals, and forward bounds from them."""
    inputs = slice(0, network.inputs)
    plain, _ = interval(network, box.lower[:, inputs], box.upper[:, inputs])
    return plain, forward(network, plain, Deadline())


def assert_holds(network: Network, bounds: Bounds, room: float = 1e-12) -> None:
    inputs = slice(0, network.inputs)
    points = samples(bounds.lower[:, inputs], bounds.upper[:, inputs], 200)
    for row in range(len(bounds)):
        values = variables(network, points[row])
        allowed = room * (1 + values.abs())
        assert bool((values >= bounds.lower[row] - allowed).all())
        assert bool((values <= bounds.upper[row] + allowed).all())


@pytest.mark.parametrize("activation", EXAMPLES, ids=label)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_sample_is_outside(family: str, activation: Activation) -> None:
    seed = EXAMPLES.index(activation) + len(EXAMPLES) * FAMILIES.index(family)
    network = random_network(seed, family, [activation, Relu()])
    for radius in (0.7, 0.05):
        plain, bounds = both(network, random_box(network, 3, seed, radius))
        assert_holds(network, bounds)
        assert bool((bounds.lower >= plain.lower).all() and (bounds.upper <= plain.upper).all())
        assert torch.equal(bounds.lower[:, : network.inputs], plain.lower[:, : network.inputs])


@given(networks(), seeds)
def test_any_network(network: Network, seed: int) -> None:
    _, bounds = both(network, random_box(network, 3, seed))
    assert_holds(network, bounds)


@pytest.mark.parametrize("seed", range(6))
def test_attention(seed: int) -> None:
    network = attention(seed)
    _, bounds = both(network, random_box(network, 2, seed, 0.3))
    assert_holds(network, bounds)


def test_affine_maps_are_exact_where_intervals_are_not() -> None:
    """x and 1 - x meet again: their sum is 1."""
    apart = Dense(torch.tensor([[1.0], [-1.0]], dtype=DOUBLE), torch.tensor([0.0, 1.0], dtype=DOUBLE))
    draft = Draft(torch.Generator(), (1,))
    first = draft.add(apart, (0,), (2,))
    together = draft.add(Dense(torch.ones(1, 2, dtype=DOUBLE)), (first,), (1,))
    draft.add(Relu(), (together,), (1,))
    network = draft.network()
    box = Bounds(torch.tensor([[-3.0, -9.0]], dtype=DOUBLE), torch.tensor([[5.0, 9.0]], dtype=DOUBLE))
    plain, bounds = both(network, box)
    assert float(plain.upper[0, 1]) == pytest.approx(9) and float(plain.lower[0, 1]) == pytest.approx(-7)
    assert float(bounds.lower[0, 1]) == pytest.approx(1) and float(bounds.upper[0, 1]) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(8))
def test_rounding_is_charged(seed: int) -> None:
    """Sums that cancel to next to nothing: the bounds hold the exact values at all corners, as rationals."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=DOUBLE)

    wide = normal(6, 3) * 1e8
    back = torch.cat([torch.linalg.pinv(wide), normal(2, 6) * 1e-3])
    maps = [Dense(wide, normal(6) * 1e8), Dense(back, normal(5) * 1e6), Dense(normal(3, 5) * 1e7, normal(3))]
    nodes: list[Node] = [Node(None, (), (3,), "input")]
    for i, one in enumerate(maps):
        nodes.append(Node(one, (i,), (len(one.weight),)))
    nodes.append(Node(Relu(), (3,), (3,)))
    network = Network(tuple(nodes))
    centre, radius = normal(1, 3), 1e-9 * normal(1, 3).abs()
    unknown = torch.full((1, 3), torch.inf, dtype=DOUBLE)
    box = Bounds(torch.cat([centre - radius, -unknown], 1), torch.cat([centre + radius, unknown], 1))
    bounds = forward(network, box, Deadline())
    low, high = (end[0, 3:].tolist() for end in (bounds.lower, bounds.upper))
    for corner in product(*zip(*(end[0, :3].tolist() for end in (box.lower, box.upper)), strict=True)):
        values = [Fraction(x) for x in corner]
        for one in maps:
            assert one.bias is not None
            values = [
                sum((Fraction(w) * v for w, v in zip(row, values, strict=True)), Fraction(b))
                for row, b in zip(one.weight.tolist(), one.bias.tolist(), strict=True)
            ]
        for value, least, most in zip(values, low, high, strict=True):
            assert Fraction(least) <= value <= Fraction(most)


def test_maps_whose_values_share_memory() -> None:
    """Constants and repeated entries are views of fewer numbers."""
    draft = Draft(torch.Generator(), (1,))
    fixed = draft.add(Constant(torch.full((3,), 2.0, dtype=DOUBLE), (1,)), (0,), (3,))
    again = draft.add(NonNegative(lambda x: x.expand(-1, 3), ((1,),), label="expand"), (0,), (3,))
    both_of = draft.add(Combine((1, -1)), (fixed, again), (3,))
    draft.add(Relu(), (both_of,), (3,))
    box = Bounds(torch.tensor([[-1.0] * 4], dtype=DOUBLE), torch.tensor([[4.0] * 4], dtype=DOUBLE))
    box.lower[:, 1:], box.upper[:, 1:] = -torch.inf, torch.inf
    bounds = forward(draft.network(), box, Deadline())
    assert bounds.lower[0, 1:].tolist() == pytest.approx([-2.0] * 3)
    assert bounds.upper[0, 1:].tolist() == pytest.approx([3.0] * 3)


def test_what_is_unbounded_stays_unknown() -> None:
    """A quotient across 0 and an infinite box: no NaN, and nothing claimed that does not hold."""
    network = quotient()
    lower, upper = torch.tensor([[1.0, -1.0]], dtype=DOUBLE), torch.tensor([[1.0, 1.0]], dtype=DOUBLE)
    plain, _ = interval(network, lower, upper)
    bounds = forward(network, plain, Deadline())
    assert not bool((bounds.lower.isnan() | bounds.upper.isnan()).any())
    assert bool((bounds.upper[plain.upper.isposinf()].isposinf()).all())
    endless, _ = interval(network, lower - torch.inf, upper + torch.inf)
    bounds = forward(network, endless, Deadline())
    assert not bool((bounds.lower.isnan() | bounds.upper.isnan()).any())
