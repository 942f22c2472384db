"""Folding: fewer nodes, the same function, and nothing that another node still looks at."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from onnx_models import X, floats, model_of, weights
from test_load_operators import check_adjoints

from verify.loading import load
from verify.network.affine import Dense

_BN = {
    f"n{i}": value
    for i, value in enumerate([weights(4), weights(4), weights(4), np.abs(weights(4)) + floats(0.1)])
}


def kinds(model: onnx.ModelProto, fold: bool = True) -> list[str]:
    return [type(node.operator).__name__ for node in load(model, fold=fold).network.nodes[1:]]


def node(operator: str, operands: str, result: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, operands.split(), [result], **attributes)


CHAINS = {
    "bias": (
        [node("MatMul", "x w", "h"), node("Add", "h b", "y")],
        (1, 4), {"w": weights(4, 3), "b": weights(3)}, ["Dense"],
    ),
    "batch norm behind a convolution": (
        [node("Conv", "x w", "h", group=2), node("BatchNormalization", "h n0 n1 n2 n3", "y")],
        (1, 2, 4, 4), {"w": weights(4, 1, 3, 3), **_BN}, ["Convolution"],
    ),
    "batch norm behind a deconvolution": (
        [node("ConvTranspose", "x w", "h", group=2), node("BatchNormalization", "h n0 n1 n2 n3", "y")],
        (1, 2, 4, 4), {"w": weights(2, 2, 3, 3), **_BN}, ["Convolution"],
    ),
    "normalised input": (
        [
            node("Sub", "x m", "a"), node("Div", "a s", "b"),
            node("Flatten", "b", "c"), node("Gemm", "c w", "y"),
        ],
        (1, 2, 2, 2), {"m": weights(2, 1, 1), "s": floats(0.5, 3).reshape(2, 1, 1), "w": weights(8, 3)},
        ["Reshape", "Dense"],
    ),
    "normalised input of an unpadded convolution": (
        [node("Sub", "x m", "a"), node("Conv", "a w", "y")],
        (1, 2, 4, 4), {"m": weights(2, 1, 1), "w": weights(3, 2, 2, 2)}, ["Convolution"],
    ),
    "a shift before padding stays": (
        [node("Sub", "x m", "a"), node("Conv", "a w", "y", pads=[1, 1, 1, 1])],
        (1, 2, 4, 4), {"m": weights(2, 1, 1), "w": weights(3, 2, 2, 2)}, ["Scale", "Convolution"],
    ),
    "two matrices stay: the product's weights would be rounded sums": (
        [node("MatMul", "x v", "h"), node("Add", "h b", "k"), node("MatMul", "k w", "y")],
        (1, 4), {"v": weights(4, 5), "b": weights(5), "w": weights(5, 3)}, ["Dense", "Dense"],
    ),
    "a bottleneck stays": (
        [node("MatMul", "x v", "h"), node("MatMul", "h w", "y")],
        (1, 6), {"v": weights(6, 1), "w": weights(1, 6)}, ["Dense", "Dense"],
    ),
    "transposes cancel": (
        [node("Transpose", "x", "h", perm=[1, 2, 0]), node("Transpose", "h", "y", perm=[2, 0, 1])],
        (2, 3, 4), {}, ["Reshape"],
    ),
    "a bias for each position stays": (
        [node("Conv", "x w", "h"), node("Add", "h b", "y")],
        (1, 2, 3, 3), {"w": weights(4, 2, 2, 2), "b": weights(4, 2, 2)}, ["Convolution", "Scale"],
    ),
    "a value used twice stays": (
        [node("MatMul", "x w", "h"), node("Mul", "h b", "k"), node("Add", "h k", "y")],
        (1, 4), {"w": weights(4, 3), "b": weights(3)}, ["Dense", "Scale", "Combine"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_chain(name: str) -> None:
    nodes, shape, constants, expected = CHAINS[name]
    model = model_of(nodes, shape, constants, "y")
    assert kinds(model) == expected
    folded, plain = load(model).network, load(model, fold=False).network
    x = torch.randn(3, *shape, dtype=torch.float64)
    torch.testing.assert_close(folded.forward(x), plain.forward(x), rtol=1e-12, atol=1e-12)
    assert folded.nodes[-1].name == "y"
    check_adjoints(load(model))


def test_an_added_bias_is_exact() -> None:
    nodes, shape, constants, _ = CHAINS["bias"]
    network = load(model_of(nodes, shape, constants, "y")).network
    (_, dense) = network.nodes
    assert isinstance(dense.operator, Dense) and dense.operator.bias is not None
    np.testing.assert_array_equal(dense.operator.weight.numpy(), constants["w"].T.astype(np.float64))
    np.testing.assert_array_equal(dense.operator.bias.numpy(), constants["b"].astype(np.float64))


def test_batch_normalisation_is_folded_in_double_precision() -> None:
    nodes, shape, constants, _ = CHAINS["batch norm behind a convolution"]
    network = load(model_of(nodes, shape, constants, "y")).network
    scale, _, _, variance = (constants[f"n{i}"].astype(np.float64) for i in range(4))
    factor = scale / np.sqrt(variance + np.float64(np.float32(1e-5)))
    expected: Any = constants["w"].astype(np.float64) * factor[:, None, None, None]
    operator: Any = network.nodes[1].operator
    np.testing.assert_allclose(operator.weight.numpy(), expected, rtol=1e-15)


def test_relu_between_keeps_matrices_apart() -> None:
    nodes = [helper.make_node("MatMul", [X, "w"], ["h"]), node("Relu", "h", "r"), node("MatMul", "r w", "y")]
    assert kinds(model_of(nodes, (1, 4), {"w": weights(4, 4)}, "y")) == ["Dense", "Relu", "Dense"]
