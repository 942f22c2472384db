"""ONNX Runtime for measurements and checks: models that we made ourselves, in this process."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before it is imported

import onnxruntime

Array = NDArray[Any]


class Session:
    """One model of one input, on one thread. Raises ValueError where ONNX Runtime does not load or run it."""

    def __init__(self, model: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class
            raise ValueError(f"ONNX Runtime: {error}") from error
        self._input = self._session.get_inputs()[0]

    def run(self, points: Array) -> list[Array]:
        """The first output at each of some points, [points, ..] in the input's shape."""
        shape = [size if isinstance(size, int) else 1 for size in self._input.shape]
        kind = np.float64 if self._input.type == "tensor(double)" else np.float32
        try:
            return [
                np.asarray(self._session.run(None, {self._input.name: x.astype(kind).reshape(shape)})[0])
                for x in points
            ]
        except Exception as error:
            raise ValueError(f"ONNX Runtime: {error}") from error
