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
    random_objective,
    samples,
    seeds,
    variables,
)
from test_dual_unbounded import quotient
from test_mixing import attention
from torch import Tensor

from verify.bounders.forward import forward
from verify.bounders.ibp import interval
from verify.deadline import Deadline
from verify.lagrangian.dual import DualProblem
from verify.network.activations import Activation, Relu
from verify.network.affine import Combine, Constant, Dense
from verify.network.graph import Network, Node
from verify.network.moves import NonNegative
from verify.state import Bounds, Objective


def both(network: Network, box: Bounds) -> tuple[Bounds, Bounds]:
    """Intervals, and forward bounds from them."""
    inputs = slice(0, network.inputs)
    plain, _ = interval(network, box.lower[:, inputs], box.upper[:, inputs])
    return plain, forward(network, plain, Deadline()).bounds


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


def assert_rows_hold(network: Network, box: Bounds, objective: Objective) -> None:
    """The objectives' bounds, and their linear functions, at samples."""
    plain, _ = interval(network, box.lower[:, : network.inputs], box.upper[:, : network.inputs])
    bound, slopes = forward(network, plain, Deadline()).crown(objective)
    lower, upper = plain.lower[:, : network.inputs], plain.upper[:, : network.inputs]
    for row, points in enumerate(samples(lower, upper, 200)):
        at = network.forward(points) @ objective.coefficients[row, :, 0].mT - objective.thresholds[row, :, 0]
        if objective.input_coefficients.shape[3]:
            at = at + points @ objective.input_coefficients[row, :, 0].mT
        distance = torch.where(slopes[row] > 0, points[:, None] - lower[row], upper[row] - points[:, None])
        least = bound[row] + (slopes[row].abs() * distance).sum(2)
        assert bool((least <= at + 1e-9 * (1 + at.abs())).all() or not bound[row].isfinite().all())


@given(networks(), seeds)
def test_functions_of_the_outputs(network: Network, seed: int) -> None:
    assert_rows_hold(network, random_box(network, 2, seed), random_objective(network, 2, 3, 1, seed))


@pytest.mark.parametrize("activation", EXAMPLES, ids=label)
def test_functions_of_outputs_behind_every_activation(activation: Activation) -> None:
    """Of small boxes they are about as tight as CROWN on the same intermediate bounds."""
    for seed, family in enumerate(FAMILIES):
        network = random_network(seed, family, [activation, Relu()])
        objective = random_objective(network, 2, 3, 1, seed)
        assert_rows_hold(network, random_box(network, 2, seed, 0.3), objective)


def test_functions_of_outputs_lose_little() -> None:
    """Against CROWN from the same intermediate bounds, and nothing where the network is affine."""
    network = random_network(1, "chain", [Relu(), Relu()])
    for radius, near in ((0.3, 0.3), (1e-6, 1e-9)):
        box, objective = random_box(network, 4, 0, radius), random_objective(network, 4, 3, 1, 0)
        plain, _ = interval(network, box.lower[:, : network.inputs], box.upper[:, : network.inputs])
        reached = forward(network, plain, Deadline())
        problem = DualProblem(network, reached.bounds, objective)
        crown = problem.evaluate(problem.initial()).bound
        assert bool((reached.crown(objective)[0] >= crown - near * (1 + crown.abs())).all())


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
    bounds = forward(network, box, Deadline()).bounds
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


@pytest.mark.parametrize("seed", range(12))
def test_rounding_of_functions_of_the_outputs(seed: int) -> None:
    """Large terms that cancel, behind an activation that is a straight line here; every other input counts as a point."""
    generator = torch.Generator().manual_seed(seed)
    first, second = (1e3 * torch.randn(4, 4, generator=generator, dtype=DOUBLE) for _ in range(2))
    shift = torch.full((4,), 1e6, dtype=DOUBLE)  # keeps all ReLUs open
    draft = Draft(generator, (4,))
    draft.activation(draft.add(Dense(first, shift), (0,), (4,)), Relu())
    network = (draft.add(Dense(second, -second @ shift), (2,), (4,)), draft.network())[1]
    low = torch.randn(1, 4, generator=generator, dtype=DOUBLE)
    high = torch.where(torch.arange(4) % 2 == 0, low + 1e-3, low + 9e-13 * low.abs())
    plain, _ = interval(network, low, high)
    objective = Objective(
        torch.randn(1, 3, 1, 4, generator=generator, dtype=DOUBLE), torch.zeros(1, 3, 1, dtype=DOUBLE),
        torch.zeros(1, 3, 1, 0, dtype=DOUBLE),
    )  # fmt: skip
    bound, _ = forward(network, plain, Deadline()).crown(objective)

    def mapped(weight: Tensor, bias: Tensor, values: list[Fraction]) -> list[Fraction]:
        rows = zip(weight.tolist(), bias.tolist(), strict=True)
        return [
            sum((Fraction(w) * v for w, v in zip(row, values, strict=True)), Fraction(b)) for row, b in rows
        ]

    least = [Fraction(10**30)] * 3
    for corner in product(*zip(low[0].tolist(), high[0].tolist(), strict=True)):
        outputs = mapped(second, -second @ shift, mapped(first, shift, [Fraction(x) for x in corner]))
        reached = mapped(objective.coefficients[0, :, 0], torch.zeros(3), outputs)
        least = [min(a, b) for a, b in zip(least, reached, strict=True)]
    assert all(Fraction(own) <= exact for own, exact in zip(bound[0].tolist(), least, strict=True))
    assert all(float(exact) - own < 1.0 for own, exact in zip(bound[0].tolist(), least, strict=True))


def test_points_keep_their_width() -> None:
    """Inputs just narrow enough to count as points have no column, and still reach from end to end."""
    network = Network(
        (Node(None, (), (2,), "x"), Node(Dense(torch.tensor([[3.0, -5.0]], dtype=DOUBLE)), (0,), (1,)))
    )
    low = torch.tensor([[1.0, 2.0]], dtype=DOUBLE)
    plain, _ = interval(network, low, low * (1 + 9e-13))
    one, zero = torch.ones(1, 1, 1, 1, dtype=DOUBLE), torch.zeros(1, 1, 1, dtype=DOUBLE)
    bound, slopes = forward(network, plain, Deadline()).crown(Objective(one, zero, one[..., :0]))
    least = 3 * Fraction(float(plain.lower[0, 0])) - 5 * Fraction(float(plain.upper[0, 1]))
    assert Fraction(float(bound)) <= least
    assert not bool(slopes.any())


def test_maps_whose_values_share_memory() -> None:
    """Constants and repeated entries are views of fewer numbers."""
    draft = Draft(torch.Generator(), (1,))
    fixed = draft.add(Constant(torch.full((3,), 2.0, dtype=DOUBLE), (1,)), (0,), (3,))
    again = draft.add(NonNegative(lambda x: x.expand(-1, 3), ((1,),), label="expand"), (0,), (3,))
    both_of = draft.add(Combine((1, -1)), (fixed, again), (3,))
    draft.add(Relu(), (both_of,), (3,))
    box = Bounds(torch.tensor([[-1.0] * 4], dtype=DOUBLE), torch.tensor([[4.0] * 4], dtype=DOUBLE))
    box.lower[:, 1:], box.upper[:, 1:] = -torch.inf, torch.inf
    bounds = forward(draft.network(), box, Deadline()).bounds
    assert bounds.lower[0, 1:].tolist() == pytest.approx([-2.0] * 3)
    assert bounds.upper[0, 1:].tolist() == pytest.approx([3.0] * 3)


def test_what_is_unbounded_stays_unknown() -> None:
    """A quotient across 0 and an infinite box: no NaN, and nothing claimed that does not hold."""
    network = quotient()
    lower, upper = torch.tensor([[1.0, -1.0]], dtype=DOUBLE), torch.tensor([[1.0, 1.0]], dtype=DOUBLE)
    plain, _ = interval(network, lower, upper)
    bounds = forward(network, plain, Deadline()).bounds
    assert not bool((bounds.lower.isnan() | bounds.upper.isnan()).any())
    assert bool((bounds.upper[plain.upper.isposinf()].isposinf()).all())
    endless, _ = interval(network, lower - torch.inf, upper + torch.inf)
    bounds = forward(network, endless, Deadline()).bounds
    assert not bool((bounds.lower.isnan() | bounds.upper.isnan()).any())
