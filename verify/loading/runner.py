"""The ground truth, a model run as its users do: for replaying counterexamples and checking every load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from verify.checker.runtime import LOAD_SECONDS, RUN_SECONDS, Late, NoMemory, Session, Trouble
from verify.deadline import patience, tick
from verify.errors import ModelError, ResourceError, is_out_of_memory

if TYPE_CHECKING:
    from torch import Tensor, nn


# ONNX Runtime's names of element types
_TYPES = {
    f"tensor({told})": name
    for told, name in (
        ("float", "float32"),
        ("double", "float64"),
        ("int32", "int32"),
        ("int64", "int64"),
        ("bool", "bool"),
    )
}


class Runner(Protocol):
    """Runs samples one by one."""

    def __call__(self, samples: NDArray[Any]) -> NDArray[Any]:
        """The flattened outputs, [batch, outputs], at flattened samples, [batch, inputs]."""
        ...


class OnnxSession:
    """A model in ONNX Runtime, with inputs of fixed shapes (see checker/runtime.py).

    inputs: name, shape and element type of each. outputs: the tensors wanted. as_written: as the file says, quantised or not.
    """

    def __init__(
        self,
        model: bytes,
        inputs: Sequence[tuple[str, tuple[int, ...], str]],
        outputs: Sequence[str],
        as_written: bool = False,
    ) -> None:
        """Raises ModelError or ResourceError."""
        with _explained("ONNX Runtime cannot load the model"):
            self._session = Session(model, patience(LOAD_SECONDS), as_written)
        self.inputs, self._outputs = tuple(inputs), list(outputs)

    def check_types(self, declared: Mapping[str, str]) -> None:
        """Raises ModelError where an output's element type is not the declared one: ONNX Runtime says what it is."""
        for name, told in self._session.outputs:
            found = _TYPES.get(told, told)
            if declared.get(name, found) != found:
                raise ModelError(f"its output {name!r} is declared {declared[name]}, but it is {found}")

    def __call__(self, samples: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs at flattened inputs, each [batch, ..], in their own shapes, [batch, ..], and types."""
        fed = {
            name: np.asarray(sample, dtype=np.dtype(kind)).reshape(-1, *shape)
            for (name, shape, kind), sample in zip(self.inputs, samples, strict=True)
        }
        shapes = ", ".join(str(list(shape)) for _, shape, _ in self.inputs)
        with _explained(f"ONNX Runtime cannot run the model on inputs of shape {shapes}"):
            return self._session.run(self._outputs, fed, patience(RUN_SECONDS))


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """What goes wrong in ONNX Runtime is the model's fault, or memory's."""
    try:
        yield
    except NoMemory as trouble:
        raise ResourceError(f"{what}: memory ran out ({trouble})") from trouble
    except Trouble as trouble:
        if isinstance(trouble, Late):
            tick()
        raise ModelError(f"{what} ({trouble})") from trouble


class OnnxRunner:
    """A session on the unmodified file, of one input and one output."""

    def __init__(self, session: OnnxSession) -> None:
        self._session = session

    def __call__(self, samples: NDArray[Any]) -> NDArray[Any]:
        return self._session([samples])[0].reshape(len(samples), -1)


class ModuleRunner:
    """A torch.nn.Module itself, in its own element type."""

    def __init__(self, module: nn.Module, shape: tuple[int, ...], element_type: str) -> None:
        self._module, self._shape, self._element_type = module, shape, np.dtype(element_type)

    def __call__(self, samples: NDArray[Any]) -> NDArray[Any]:
        import torch

        given = torch.from_numpy(np.array(samples, dtype=self._element_type))
        return np.stack([self._run(sample.reshape(self._shape)) for sample in given])

    def _run(self, sample: Tensor) -> NDArray[Any]:
        import torch

        try:
            with torch.no_grad():
                result = self._module(sample)
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
