"""The ground truth, a model run as its users do: for replaying counterexamples and checking every load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from verify.errors import ModelError, is_out_of_memory

if TYPE_CHECKING:
    from torch import nn


class Runner(Protocol):
    """Runs one sample."""

    def __call__(self, sample: NDArray[Any]) -> NDArray[Any]:
        """The flattened outputs at one flattened sample."""
        ...


class OnnxSession:
    """ONNX Runtime on the CPU, graph optimisations as by default: what is deployed.

    inputs: name, shape and element type of each. outputs: the tensors wanted.
    """

    def __init__(
        self, model: bytes, inputs: Sequence[tuple[str, tuple[int, ...], str]], outputs: Sequence[str]
    ) -> None:
        import onnxruntime  # a third of a second; not needed for a torch module

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class
            raise ModelError(f"ONNX Runtime cannot load the model ({error})") from error
        self.inputs, self._outputs = tuple(inputs), list(outputs)

    def __call__(self, samples: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs at flattened inputs, in their own shapes and types."""
        fed = {
            name: np.asarray(sample, dtype=np.dtype(kind)).reshape(shape)
            for (name, shape, kind), sample in zip(self.inputs, samples, strict=True)
        }
        try:
            results = self._session.run(self._outputs, fed)
        except Exception as error:
            shapes = ", ".join(str(list(shape)) for _, shape, _ in self.inputs)
            raise ModelError(
                f"ONNX Runtime cannot run the model on inputs of shape {shapes} ({error})"
            ) from error
        return [np.asarray(result) for result in results]


class OnnxRunner:
    """A session on the unmodified file, of one input and one output."""

    def __init__(self, session: OnnxSession) -> None:
        self._session = session

    def __call__(self, sample: NDArray[Any]) -> NDArray[Any]:
        return self._session([sample])[0].ravel()


class ModuleRunner:
    """A torch.nn.Module itself, in its own element type."""

    def __init__(self, module: nn.Module, shape: tuple[int, ...], element_type: str) -> None:
        self._module, self._shape, self._element_type = module, shape, np.dtype(element_type)

    def __call__(self, sample: NDArray[Any]) -> NDArray[Any]:
        import torch

        fed = torch.from_numpy(np.array(sample, dtype=self._element_type).reshape(self._shape))
        try:
            with torch.no_grad():
                result = self._module(fed)
        except Exception as error:  # the module's own code may raise anything
            if is_out_of_memory(error):
                raise
            raise ModelError(
                f"the module cannot be run on an input of shape {list(self._shape)} ({type(error).__name__}: {error}); "
                "check the shape of example_input"
            ) from error
        if not isinstance(result, torch.Tensor):
            raise ModelError(
                f"the module returns a {type(result).__name__}, not one tensor; wrap it in a module that returns the one "
                "that the property speaks of"
            )
        if result.dtype not in (torch.float32, torch.float64, torch.int32, torch.int64):
            raise ModelError(
                f"the module returns {result.dtype}; only float32, float64, int32 and int64 are supported"
            )
        found: NDArray[Any] = result.numpy().ravel()
        return found
