"""How many starts an attack has: those asked for, more where a step takes no longer with them, all in the box."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from nets import property_text, random_layers, relu_model, row_text
from torch import Tensor

from verify.attack import Attack, free_points
from verify.deadline import Deadline
from verify.network.graph import Network
from verify.problem import Problem, Witness, prepare


@dataclass(frozen=True)
class Watched(Attack):
    """Writes down where descents begin, and finds nothing."""

    seen: list[tuple[list[int], Tensor]] = field(default_factory=list)

    def descend(
        self, problem: Problem, network: Network, owners: list[int], x: Tensor, limit: Deadline
    ) -> Witness | None:
        """Nothing."""
        self.seen.append((owners, x))
        return None


@pytest.mark.parametrize(("hidden", "expected"), [(4, 16 * 4), (15_000, 6), (100_000, 4)])
def test_small_networks_have_more_starts(hidden: int, expected: int) -> None:
    model = relu_model(random_layers(0, [2, hidden, 3]))
    problem = prepare(model, property_text([-1.0, 0.5], [1.0, 2.0], 3, row_text([1.0, 0.0, 0.0], -9.0)))
    attack = Watched(restarts=4, steps=3, seconds=60.0)
    network = problem.model.network
    assert attack.run(problem, network, [0], np.random.default_rng(0), Deadline()) is None
    ((owners, x),) = attack.seen
    assert free_points(network) == 200_000 // sum(node.size for node in network.nodes)
    assert len(owners) == len(x) == expected
    assert bool(((x[:, 0].abs() <= 1) & (x[:, 1] >= 0.5) & (x[:, 1] <= 2)).all())
    assert len(x.unique(dim=0)) > expected // 4  # in two dimensions there are few corners
