"""The ground truth, a model run as its users do: for replaying counterexamples and checking every load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from verify.errors import ModelError

if TYPE_CHECKING:
    from torch import nn


class Runner(Protocol):
    """Runs one sample."""

    def __call__(self, sample: NDArray[Any]) -> NDArray[Any]:
        """The flattened outputs at one flattened sample."""
        ...


class OnnxRunner:
    """ONNX Runtime on the CPU on the unmodified file, graph optimisations as by default: what is deployed."""

    def __init__(self, model: bytes, input_name: str, shape: tuple[int, ...], element_type: str) -> None:
        import onnxruntime  # a third of a second; not needed for a torch module

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class
            raise ModelError(f"ONNX Runtime cannot load the model ({error})") from error
        self._input_name, self._shape, self._element_type = input_name, shape, np.dtype(element_type)

    def __call__(self, sample: NDArray[Any]) -> NDArray[Any]:
        fed = np.asarray(sample, dtype=self._element_type).reshape(self._shape)
        try:
            result = self._session.run(None, {self._input_name: fed})[0]
        except Exception as error:
            raise ModelError(
                f"ONNX Runtime cannot run the model on an input of shape {self._shape} ({error})"
            ) from error
        return np.asarray(result).ravel()


class ModuleRunner:
    """A torch.nn.Module itself, in its own element type."""

    def __init__(self, module: nn.Module, shape: tuple[int, ...], element_type: str) -> None:
        self._module, self._shape, self._element_type = module, shape, np.dtype(element_type)

    def __call__(self, sample: NDArray[Any]) -> NDArray[Any]:
        import torch

        fed = torch.from_numpy(np.array(sample, dtype=self._element_type).reshape(self._shape))
        with torch.no_grad():
            result = self._module(fed)
        found: NDArray[Any] = result.numpy().ravel()
        return found
