"""What is known of several nodes together: a maximum is as large as the largest of its entries, and no larger."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from verify.bounders.ibp import interval
from verify.loading import load
from verify.network.graph import Network
from verify.problem import prepare
from verify.request import Request
from verify.run import run

DOUBLE = torch.float64


class Extrema(torch.nn.Module):
    """The greatest and the least of all inputs, and what pools and pairs make of them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        image = x.reshape(-1, 1, 3, 3)
        pooled = torch.nn.functional.max_pool2d(image, 2, 1).flatten(1)
        pair = torch.maximum(x[:, :4], x[:, 5:]), torch.minimum(x[:, :4], x[:, 5:])
        return torch.cat([x.amax(1, keepdim=True), x.amin(1, keepdim=True), pooled, *pair], 1)


def network() -> Network:
    return load(Extrema().double(), torch.zeros(1, 9).double()).network


@given(seed=st.integers(0, 10**6))
def test_intervals_of_extrema_are_those_of_their_entries(seed: int) -> None:
    made = network()
    generator = torch.Generator().manual_seed(seed)
    lower = torch.randn(3, 9, generator=generator, dtype=DOUBLE)
    upper = lower + 2 * torch.rand(3, 9, generator=generator, dtype=DOUBLE)
    _, found = interval(made, lower, upper)
    for end, of in zip(found, (lower, upper), strict=True):
        assert torch.allclose(end, made.forward(of), rtol=0, atol=1e-12)
    truth = Extrema()(lower), Extrema()(upper)
    assert bool((found[0] <= truth[0]).all()) and bool((found[1] >= truth[1]).all())
    _, plain = interval(replace(made, plain=True), lower, upper)
    assert bool((plain[0] <= found[0]).all()) and bool((plain[1] >= found[1]).all())
    assert bool((plain[0] < found[0] - 1e-6).any()) or bool((plain[1] > found[1] + 1e-6).any())


def test_what_only_looks_like_a_maximum_is_none() -> None:
    class Other(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b = x[:, :1], x[:, 1:]
            return torch.cat(
                [a + (a - b).relu(), b - (a - b).relu(), b + (b - a).relu(), a - (b - a).relu()], 1
            )

    made = load(Other().double(), torch.zeros(1, 2).double()).network
    assert not made.extrema
    lower, upper = -torch.ones(1, 2, dtype=DOUBLE), torch.ones(1, 2, dtype=DOUBLE)
    _, (low, high) = interval(made, lower, upper)
    x = torch.rand(500, 2, dtype=DOUBLE) * 2 - 1
    values = made.forward(x)
    assert bool((values >= low).all()) and bool((values <= high).all())


class Gram(torch.nn.Module):
    """Scalar products of all rows with one another, and of one vector with itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, 3, 2)
        return torch.cat(
            [
                (rows @ rows.transpose(1, 2)).flatten(1),
                (rows[:, :1] @ rows[:, :1].transpose(1, 2)).flatten(1),
            ],
            1,
        )


def test_a_vector_times_itself_is_not_negative() -> None:
    """Products of matrices know the squares among their products, whatever has moved the entries."""
    made = load(Gram().double(), torch.zeros(1, 6).double()).network
    x = 2 * torch.rand(200, 6, dtype=DOUBLE) - 1
    assert torch.allclose(made.forward(x), Gram()(x))
    lower, upper = -torch.ones(1, 6, dtype=DOUBLE), torch.ones(1, 6, dtype=DOUBLE)
    _, (low, high) = interval(made, lower, upper)
    assert torch.allclose(high, torch.full_like(high, 2.0))
    least = torch.full((3, 3), -2.0, dtype=DOUBLE).fill_diagonal_(0.0)
    assert torch.allclose(low[0], torch.cat([least.flatten(), torch.zeros(1, dtype=DOUBLE)]), atol=1e-9)


def pooled(seed: int) -> tuple[onnx.ModelProto, np.ndarray]:
    """The greatest entries of two 4 x 4 images, 12 of them fixed, and a small network of the two."""
    random = np.random.default_rng(seed)
    fixed = -random.random(32).round(3)
    v, u = random.normal(size=(2, 4)).astype(np.float32), random.normal(size=(4, 1)).astype(np.float32)
    nodes = [
        helper.make_node("GlobalMaxPool", ["x"], ["c"]), helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("MatMul", ["f", "v"], ["h"]), helper.make_node("Relu", ["h"], ["g"]),
        helper.make_node("MatMul", ["g", "u"], ["y"]),
    ]  # fmt: skip
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, [1, 2, 4, 4])],
        [value("y", TensorProto.FLOAT, [1, 1])],
        [numpy_helper.from_array(v, "v"), numpy_helper.from_array(u, "u")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), fixed


def most(model: onnx.ModelProto, fixed: np.ndarray) -> float:
    """The greatest output, by a fine grid of the two maxima, which range from their greatest fixed entry to 1."""
    v, u = (numpy_helper.to_array(one).astype(np.float64) for one in model.graph.initializer)
    least = [
        fixed[:16][[i for i in range(16) if i not in FREE]].max(),
        fixed[16:][[i for i in range(16) if i not in FREE]].max(),
    ]
    grid = np.stack(np.meshgrid(*(np.linspace(low, 1, 801) for low in least)), -1).reshape(-1, 2)
    return float((np.maximum(grid @ v, 0) @ u).max())


FREE = (3, 9)


@pytest.mark.parametrize("seed", range(3))
def test_verdicts_of_pooled_networks(seed: int) -> None:
    """The maxima's own ranges decide, though each of their entries may be anything below them."""
    model, fixed = pooled(seed)
    greatest = most(model, fixed)
    text = "".join(f"(declare-const X_{i} Real)" for i in range(32)) + "(declare-const Y_0 Real)\n"
    for i, number in enumerate(fixed):
        low, high = (-2.0, 1.0) if i % 16 in FREE else (number, number)
        text += f"(assert (>= X_{i} {low}))(assert (<= X_{i} {high}))\n"
    for margin, expected in ((0.02, "unsat"), (-0.02, "sat")):
        problem = prepare(model, text + f"(assert (>= Y_0 {greatest + margin:.6f}))")
        found = run(Request(problem.model, problem.specification, timeout=100.0))
        assert found.verdict == expected, found.reason
