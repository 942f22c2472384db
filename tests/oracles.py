"""Oracles that share no code with the bounders: linear programs (HiGHS) of the hull relaxation, and exact minima (MILP).

The Planet relaxation of a ReLU network at given bounds of its pre-activations: y >= 0, y >= z, y below the chord, and
l <= z <= u. Affine maps are read off column by column from their `forward` alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog

from properties.milp import minimise_margin
from verify.network.activations import Relu
from verify.network.affine import Affine
from verify.network.graph import Network
from verify.state import Bounds, Objective

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Form:
    """`matrix @ variables + constant`, one row for each entry of a value."""

    matrix: Array
    constant: Array


def _image(operator: Affine, shapes: Sequence[tuple[int, ...]], operands: Sequence[Form]) -> Form:
    """An affine map of affine forms: its linear part on every column, its bias on the constants."""
    columns = operands[0].matrix.shape[1]
    batches = [
        torch.from_numpy(
            np.concatenate([form.matrix.T, form.constant[None], 0 * form.constant[None]])
        ).reshape(-1, *shape)
        for form, shape in zip(operands, shapes, strict=True)
    ]
    image = operator.forward(*batches).flatten(1).numpy()
    return Form((image[:columns] - image[-1]).T, image[-2])


class Planet:
    """The linear program of one box; `minimise` bounds a conjunction's worst row, which is the best of all weights."""

    def __init__(self, network: Network, bounds: Bounds, row: int = 0) -> None:
        self.network = network
        lower, upper = bounds.lower[row].numpy(), bounds.upper[row].numpy()
        total = network.variables
        self.ranges = [*zip(lower[: network.inputs], upper[: network.inputs], strict=True)]
        self.ranges += [(max(low, 0.0), max(high, 0.0)) for low, high in zip(
            lower[network.inputs :], upper[network.inputs :], strict=True)]  # fmt: skip
        self.rows: list[Array] = []
        self.limits: list[float] = []
        eye = np.eye(total)
        forms = [Form(eye[: network.inputs], np.zeros(network.inputs))]
        for index, node in enumerate(network.nodes[1:], start=1):
            operands = [forms[operand] for operand in node.operands]
            if isinstance(node.operator, Affine):
                shapes = [network.nodes[operand].shape for operand in node.operands]
                forms.append(_image(node.operator, shapes, operands))
                continue
            assert isinstance(node.operator, Relu)
            columns = network.layer_of_node[index].variables
            self._relu(operands[0], eye[columns], lower[columns], upper[columns])
            forms.append(Form(eye[columns], np.zeros(node.size)))
        self.output = forms[-1]

    def _at_most(self, row: Array, limit: float) -> None:
        self.rows.append(row)
        self.limits.append(float(limit))

    def _relu(self, pre: Form, post: Array, lower: Array, upper: Array) -> None:
        for i, (low, high) in enumerate(zip(lower, upper, strict=True)):
            z, c, y = pre.matrix[i], pre.constant[i], post[i]
            self._at_most(z, high - c)
            self._at_most(-z, c - low)
            if low >= 0:
                self._at_most(y - z, c)
            self._at_most(z - y, -c)
            if low < 0 < high:
                slope = high / (high - low)
                self._at_most(y - slope * z, slope * (c - low))

    def minimise(self, objective: Objective, row: int = 0, which: int = 0) -> float:
        """min of max_j (C_j y + E_j x - d_j); infinity where the relaxation is empty."""
        coefficients = objective.coefficients[row, which].numpy()
        matrix = coefficients @ self.output.matrix
        if objective.input_coefficients.shape[3]:
            matrix[:, : self.network.inputs] += objective.input_coefficients[row, which].numpy()
        constant = coefficients @ self.output.constant - objective.thresholds[row, which].numpy()
        wide = [np.append(entry, 0.0) for entry in self.rows] + [np.append(entry, -1.0) for entry in matrix]
        cost = np.zeros(self.network.variables + 1)
        cost[-1] = 1.0
        found = linprog(
            cost, A_ub=np.array(wide), b_ub=np.array([*self.limits, *-constant]),
            bounds=[*self.ranges, (None, None)], method="highs",
        )  # fmt: skip
        if found.status == 2:
            return float("inf")
        assert found.status == 0, found.message
        return float(found.fun)


def exact_minimum(
    model: onnx.ModelProto,
    lower: Sequence[float],
    upper: Sequence[float],
    coefficients: Array,
    thresholds: Array,
) -> float:
    """min over the box of max_j (C_j y - d_j) of a ReLU model, by a mixed-integer program."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        onnx.save(model, path)
        bound, gap, _ = minimise_margin(path, lower, upper, coefficients, thresholds)
    assert gap <= 1e-5
    return bound
