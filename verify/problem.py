"""A problem: a loaded model and a property of it, ready to be decided.

The property's clauses ("unsafe where x in box and C y + E x <= d") become `Objective` tensors on demand, so a
property with many thousand clauses costs memory only for the ones at hand. A witness is *replayed*: rounded to the
network's own element type inside the exact decimal box, run in ONNX Runtime, and judged by exact arithmetic on what came out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verify.errors import InputError
from verify.formats.vnnlib import Property
from verify.loading import LoadedModel
from verify.state import Objective


@dataclass(frozen=True)
class Witness:
    """An input that violates the property, and the outputs that the replay gave."""

    inputs: NDArray[np.floating]  # of the model's element type, in its input shape
    outputs: NDArray[np.floating]
    snapped: int = (
        0  # inputs whose decimal interval holds no value of the element type: the nearest one was taken
    )


@dataclass(frozen=True)
class Problem:
    """A model and a property that fit together."""

    model: LoadedModel
    specification: Property

    def __post_init__(self) -> None:
        network, spec = self.model.network, self.specification
        if (spec.inputs, spec.outputs) != (network.inputs, network.outputs):
            raise InputError(
                f"{spec.source}: the property speaks of {spec.inputs} inputs and {spec.outputs} outputs, but the network "
                f"has {network.inputs} and {network.outputs} (input {self.model.input_name} "
                f"{list(self.model.input_shape)}, output {self.model.output_name} {list(self.model.output_shape)}). "
                "Check that model and property belong together."
            )

    @property
    def clauses(self) -> int:
        return len(self.specification.clauses)

    @cached_property
    def box_of(self) -> NDArray[np.int64]:
        """The number of each clause's box."""
        return np.asarray(self.specification.box_ids, dtype=np.int64)

    def boxes(self, clauses: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Lower and upper ends of the clauses' boxes, float64 [len, inputs], rounded outward."""
        lower, upper = self.specification.bounds(clauses)
        return torch.from_numpy(np.array(lower)), torch.from_numpy(np.array(upper))

    @cached_property
    def free_inputs(self) -> int:
        """How many inputs have some freedom, in the box that has the most."""
        _, first = np.unique(self.box_of, return_index=True)
        most = 0
        for start in range(0, len(first), 1024):
            lower, upper = self.boxes([int(clause) for clause in first[start : start + 1024]])
            most = max(most, int((upper > lower).sum(1).max()))
        return most

    @property
    def rows(self) -> int:
        """The most rows that a clause has, at least 1."""
        return max(1, self.specification.rows)

    @cached_property
    def _mentions_inputs(self) -> bool:
        """Whether any clause's rows speak of inputs: then all objectives have columns for them."""
        return any(clause.input_coefficients is not None for clause in self.specification.clauses)

    def objective(self, clauses: Sequence[int]) -> Objective:
        """The clauses' rows, [len, 1, rows, ..], in float64; shorter conjunctions repeat their first row."""
        chosen = [self.specification.clauses[clause] for clause in clauses]
        rows = self.rows
        mentions = self._mentions_inputs
        spec = self.specification
        coefficients = np.zeros((len(chosen), 1, rows, spec.outputs))
        inputs = np.zeros((len(chosen), 1, rows, spec.inputs if mentions else 0))
        thresholds = np.zeros((len(chosen), 1, rows))
        for index, clause in enumerate(chosen):
            if not len(clause.thresholds):
                continue  # unsafe on its whole box: 0 <= 0
            source = np.minimum(np.arange(rows), np.where(np.arange(rows) < len(clause.thresholds), rows, 0))
            coefficients[index, 0] = clause.output_coefficients[source]
            thresholds[index, 0] = clause.thresholds[source]
            if clause.input_coefficients is not None:
                inputs[index, 0] = clause.input_coefficients[source]
        return Objective(
            torch.from_numpy(coefficients), torch.from_numpy(thresholds), torch.from_numpy(inputs)
        )

    def replay(self, clause: int, x: Tensor) -> Witness | None:
        """The witness that `x` ([inputs]) rounds to, or None where ONNX Runtime's outputs do not violate the property.

        Outputs are judged strictly. Inputs lie strictly inside the decimal box, save those whose interval holds no value
        of the element type at all (a point such as 0.1): they are its nearest value, and are judged at the box's end.
        """
        dtype = np.dtype(self.model.element_type)
        lower, upper = self.specification.inner_bounds(clause, dtype)
        inputs = np.clip(x.detach().cpu().double().numpy().astype(dtype), lower, upper)
        outputs = self.model.evaluate(inputs).reshape(-1)
        if not np.isfinite(outputs).all():
            return None
        exact: list[Fraction | float] = [float(value) for value in inputs]
        snapped = 0
        points = np.flatnonzero(lower == upper)
        low, high = self.specification.exact_bounds(clause) if len(points) else ([], [])
        for i in points:
            value = Fraction(float(inputs[i]))
            exact[i] = min(max(value, low[i]), high[i])
            snapped += exact[i] != value
        if not self.specification.violated(exact, outputs):
            return None
        return Witness(
            inputs.reshape(self.model.input_shape), outputs.reshape(self.model.output_shape), snapped
        )
