"""Strict rows that the outputs' intervals exclude, and rows that they do not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from verify.bab.excluded import without_excluded
from verify.formats.vnnlib import parse
from verify.problem import prepare

_BOX = (
    "(declare-const X_0 Real)(declare-const Y_0 Real)(declare-const Y_1 Real)"
    "(assert (>= X_0 -900))(assert (<= X_0 900))"
)


@pytest.mark.parametrize(
    ("row", "left"),
    [
        ("(< Y_0 0)", 0), ("(> Y_0 1)", 0), ("(<= Y_0 0)", 1), ("(>= Y_0 1)", 1), ("(< Y_0 0.1)", 1), ("(< Y_1 0)", 1),
        ("(and (< Y_0 0) (<= Y_1 0))", 0), ("(or (< Y_0 0) (> Y_0 1) (<= Y_1 0))", 1), ("(< Y_0 X_0)", 1),
        ("(< Y_0 Y_1)", 1),
    ],
)  # fmt: skip
def test_clauses_left(row: str, left: int) -> None:
    """Y_0 is a sigmoid's value, within [0, 1] in every arithmetic; Y_1 is the input."""

    class Both(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x.sigmoid(), x], 1)

    problem = prepare(Both(), parse(f"{_BOX}(assert {row})", "p"), torch.zeros(1, 1))
    network = problem.model.network.to(torch.device("cpu"), torch.float64)
    assert without_excluded(problem, network).clauses == left
