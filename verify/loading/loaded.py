"""What loading gives: the network IR, the model's own names and types, and the ground truth to replay
against."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from verify.loading.runner import Runner

if TYPE_CHECKING:
    from verify.network.graph import Network


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to verify."""

    network: Network  # float64, on the CPU
    runner: Runner
    input_name: str
    output_name: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    element_type: str  # of the model: float32 or float64
    operators: Counter[str]  # ONNX operators of the file as it is
    opset: int | None  # None for a torch.nn.Module

    def evaluate(self, x: NDArray[Any]) -> NDArray[Any]:
        """The model's own outputs at `x` ([inputs] or [batch, inputs]), one sample at a time."""
        samples = np.asarray(x)
        if samples.ndim == 1:
            return self.runner(samples)
        return np.stack([self.runner(sample) for sample in samples.reshape(samples.shape[0], -1)])
