"""Quotients across 0 are unbounded: nothing behind one may ever count as fixed, known or refuted."""

from __future__ import annotations

import pytest
import torch

from verify.bounders.ibp import interval, magnitudes
from verify.bounders.intermediate import IntermediateBounds
from verify.deadline import Deadline
from verify.lagrangian.dual import DualProblem
from verify.network.activations.product import Product
from verify.network.activations.reciprocal import Reciprocal
from verify.network.activations.relu import Relu
from verify.network.affine import Combine, Dense
from verify.network.graph import Network, Node
from verify.state import Objective


def quotient() -> Network:
    """x / y by a product of x and 1 / y, with a dense map (the identity) before and after."""
    pick_x, pick_y = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[0.0, 1.0]]).double()
    to_first, to_second = pick_x.T.contiguous(), pick_y.T.contiguous()
    nodes = (
        Node(None, (), (2,), "input"), Node(Dense(pick_y), (0,), (1,)), Node(Reciprocal(), (1,), (1,)),
        Node(Dense(to_second), (2,), (2,)), Node(Dense(to_first @ pick_x), (0,), (2,)), Node(Combine((1, 1)), (3, 4), (2,)),
        Node(Product(), (5,), (1,)), Node(Dense(torch.ones(1, 1).double()), (6,), (1,)),
    )  # fmt: skip
    return Network(nodes)


def test_a_fixed_numerator_over_an_interval_across_zero() -> None:
    network = quotient()
    lower, upper = torch.tensor([[1.0, -1.0]]).double(), torch.tensor([[1.0, 1.0]]).double()
    bounds, (low, high) = interval(network, lower, upper)
    assert bool(low.isneginf().all()) and bool(high.isposinf().all())
    rows = Objective(
        torch.ones(1, 1, 1, 1).double(),
        torch.full((1, 1, 1), -5.0).double(),
        torch.zeros(1, 1, 1, 0).double(),
    )
    for box in (bounds, IntermediateBounds().tighten(network, bounds, Deadline())):
        assert not bool(box.empty.any())
        problem = DualProblem(network, box, rows)
        bound = problem.evaluate(problem.initial(), magnitudes(network, box)).bound
        assert not bool(
            ((bound > 0) & bound.isfinite()).any()
        )  # x / y = -10 at y = -0.1, so Y <= -5 is possible


def test_unknown_factors_stay_unknown() -> None:
    nan = torch.tensor([[1.0, torch.nan]]).double()
    low, high = Product().interval(nan, nan)
    assert bool(low.isnan().all()) and bool(high.isnan().all())


@pytest.mark.parametrize("columns", [2, 200])
def test_an_overflow_below_a_fixed_layer_counts_where_the_network_is_deployed(columns: int) -> None:
    """A float32 library makes 0 * infinity of a value that nothing needs; over the reals the output is 0."""
    below = torch.zeros(columns, 1, dtype=torch.float64)
    below[0] = 1e30
    unused = torch.zeros(100, columns, dtype=torch.float64)
    unused[:, 1] = 1.0
    nodes = (
        Node(None, (), (1,), "input"), Node(Dense(below), (0,), (columns,)),
        Node(Dense(unused), (1,), (100,)), Node(Relu(), (2,), (100,)),
        Node(Dense(torch.ones(1, 100, dtype=torch.float64)), (3,), (1,)),
    )  # fmt: skip
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    rows = Objective(one, -one[..., 0], one[..., :0])
    for deployed in (False, True):
        network = Network(nodes, deployed)
        bounds, _ = interval(network, one[:, 0, 0] * 1e10, one[:, 0, 0] * 2e10)
        problem = DualProblem(network, bounds, rows)
        bound = problem.evaluate(problem.initial(), magnitudes(network, bounds)).bound
        assert bool(((bound > 0) & bound.isfinite()).all()) != deployed
