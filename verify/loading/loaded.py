"""What loading gives: the network IR, the model's own names and types, and the ground truth to replay
against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from verify.loading.runner import Runner
from verify.validation import plain, refuse, shown

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    from torch import Tensor

    from verify.network.graph import Network

    Source = str | Path | bytes | onnx.ModelProto  # of an ONNX model


TRAINING = "the module is in training mode; it is verified in evaluation mode, as module.eval() makes it"


@dataclass(frozen=True)
class Export:
    """A torch.nn.Module as an ONNX file, which a proof is of. `str` says how it was made and compared with the module.

    module: the class. data: the file's content. inputs: at how many the function that the file defines, in float64, was compared with the
    module as torch runs it. difference: the largest of any output there.
    """

    module: str
    data: bytes = field(repr=False)
    inputs: int
    difference: float

    def __str__(self) -> str:
        return (
            f"ONNX file exported from a torch module ({self.module}); its outputs differ from the module's by at most "
            f"{self.difference:.3g} at the {self.inputs} inputs that were compared"
        )


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
    # the model as its file says, where ONNX Runtime may compute otherwise: it quantises more than is written
    as_written: Runner | None = field(default=None, kw_only=True)
    # what its user should know of how it was read
    notes: tuple[str, ...] = field(default=(), kw_only=True)
    # the box of inputs outside of which the network is not the model's; None where there is none (see tables.py)
    within: tuple[Tensor, Tensor] | None = field(default=None, kw_only=True)
    # the file that the network was read from, where the model is a torch.nn.Module that runs itself
    export: Export | None = field(default=None, kw_only=True)

    @property
    def runtime(self) -> str:
        """What runs the model itself."""
        of_torch = self.export is not None or (self.opset is None and not self.operators)
        return "torch" if of_torch else "ONNX Runtime"

    @property
    def of_query(self) -> bool:
        """Whether this is the joint network of a VNN-LIB 2.0 query (see joint.py)."""
        return False

    @property
    def input_kinds(self) -> list[tuple[np.dtype[Any], NDArray[np.bool_]]]:
        """The element types there are among the inputs, and whose they are."""
        return [(np.dtype(self.element_type), np.ones(self.network.inputs, dtype=bool))]

    def rounded(self, x: NDArray[Any]) -> NDArray[Any]:
        """The nearest inputs of the model's own element types to `x` ([inputs])."""
        kinds = self.input_kinds
        if len(kinds) == 1:
            return x.astype(kinds[0][0])
        return np.select(
            [mine for _, mine in kinds], [x.astype(kind).astype(np.float64) for kind, _ in kinds]
        )

    def judged(
        self, inputs: Sequence[Fraction | float], outputs: NDArray[Any]
    ) -> Sequence[Fraction | float] | NDArray[Any]:
        """What a property of the network's outputs is judged by, where the model's own outputs are these."""
        return outputs

    def variables(self, inputs: NDArray[Any], outputs: NDArray[Any]) -> dict[str, tuple[str, NDArray[Any]]]:
        """The property's tensors with their element types, in order of declaration, at flat inputs and outputs."""
        tensors = {"X": inputs.reshape(self.input_shape), "Y": outputs.reshape(self.output_shape)}
        return {name: (tensor.dtype.name, tensor) for name, tensor in tensors.items()}

    def evaluate(self, x: NDArray[Any], as_written: bool = False) -> NDArray[Any]:
        """The model's own outputs at `x` ([inputs] or [batch, inputs]), one sample at a time. Raises InputError.

        as_written: as the file says, also where ONNX Runtime computes otherwise.
        """
        samples, count = plain("the inputs", x), self.network.inputs
        batch = samples[None] if samples.ndim < 2 else samples.reshape(len(samples), -1)
        if samples.dtype.kind not in "iuf" or batch.shape[1:] != (count,):
            refuse("the inputs", f"are {shown(x)}", f"give numbers of shape [{count}] or [batch, {count}]")
        runner = self.as_written if as_written and self.as_written is not None else self.runner
        outputs = runner(batch)
        return outputs[0] if samples.ndim == 1 else outputs
