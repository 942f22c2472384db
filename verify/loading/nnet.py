"""Stanford's .nnet files, as ACAS Xu's networks come in, made into ONNX models.

A file is text: lines of comments (`//`), then numbers between commas, a line for each of: how many layers, inputs, outputs and the largest layer; the
layers' sizes; an unused flag; the inputs' least values, greatest values, means and ranges, the last two with one more for all outputs; and, layer by
layer, the rows of the weights and then the biases, one a line. A network takes an input in the units of its file, clips it to its limits, subtracts the
mean and divides by the range; between layers stand ReLUs; what comes out is multiplied by the outputs' range, and their mean is added. So do the
programs that belong to the format. The network between the two is what others have converted to ONNX: `normalised`.

The numbers are those of the file in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, NoReturn

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from verify.deadline import tick
from verify.errors import ModelError

Floats = NDArray[np.float64]
Limits = tuple[float, float]
UNITS = (
    "inputs and outputs are in the units of the file: inputs are clipped to its limits and normalised, outputs are scaled back "
    "(`verify convert --normalised` writes the network between)"
)
_OPSET, _IR = 13, 8


@dataclass(frozen=True)
class NNet:
    """A network as its file has it. means, ranges: of the inputs and, last, of all outputs. weights: [outputs, inputs] of each layer."""

    lower: Floats
    upper: Floats
    means: Floats
    ranges: Floats
    weights: tuple[Floats, ...]
    biases: tuple[Floats, ...]

    def model(self, normalised: bool = False) -> onnx.ModelProto:
        """From raw inputs to raw outputs; normalised: the layers alone."""
        draft = _Draft()
        value = "X" if normalised else self._normalised(draft)
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True), start=1):
            operands = draft.constant(weight, f"W{number}"), draft.constant(bias, f"B{number}")
            value = draft.node("Gemm", f"layer_{number}", value, *operands, transB=1)
            if number < len(self.weights):
                value = draft.node("Relu", f"relu_{number}", value)
        if not normalised:
            value = draft.node("Mul", "scaled", value, draft.constant(self.ranges[-1:], "output_range"))
            value = draft.node("Add", "shifted", value, draft.constant(self.means[-1:], "output_mean"))
        draft.node("Identity", "Y", value)
        return draft.model(len(self.lower), len(self.biases[-1]), "normalised" if normalised else UNITS)

    def _normalised(self, draft: _Draft) -> str:
        """The input, clipped where limits are the same in one go, and normalised."""
        limits = list(zip(self.lower.tolist(), self.upper.tolist(), strict=True))
        runs = [(ends, len(list(run))) for ends, run in groupby(limits)]
        parts = ["X"]
        if len(runs) > 1:
            parts = [f"X_{number}" for number in range(len(runs))]
            draft.split("X", [size for _, size in runs], parts)
        clipped = [
            draft.node(
                "Clip",
                f"clipped_{number}",
                part,
                *(
                    draft.constant(np.array(end), f"{kind}_{number}")
                    for kind, end in zip(("least", "greatest"), ends, strict=True)
                ),
            )
            for number, (part, (ends, _)) in enumerate(zip(parts, runs, strict=True))
        ]
        value = draft.node("Concat", "clipped", *clipped, axis=1) if len(clipped) > 1 else clipped[0]
        value = draft.node("Sub", "centred", value, draft.constant(self.means[:-1], "means"))
        return draft.node("Div", "normalised", value, draft.constant(self.ranges[:-1], "ranges"))


class _Draft:
    """An ONNX model in the making, in float64."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []

    def constant(self, values: NDArray[np.generic], name: str) -> str:
        """The name of some numbers."""
        self.stored.append(numpy_helper.from_array(values, name))
        return name

    def node(self, operator: str, name: str, *operands: str, **attributes: Any) -> str:
        """The name of its result, which is the node's too."""
        self.nodes.append(helper.make_node(operator, operands, [name], name, **attributes))
        return name

    def split(self, value: str, sizes: list[int], parts: list[str]) -> None:
        """Parts of so many entries each."""
        self.constant(np.array(sizes), "sizes")
        self.nodes.append(helper.make_node("Split", [value, "sizes"], parts, "parts", axis=1))

    def model(self, inputs: int, outputs: int, words: str) -> onnx.ModelProto:
        """The model from X to Y."""
        ends = [
            helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, [1, size])
            for name, size in (("X", inputs), ("Y", outputs))
        ]
        graph = helper.make_graph(self.nodes, "nnet", ends[:1], ends[1:], self.stored)
        return helper.make_model(
            graph,
            doc_string=words,
            producer_name="verify",
            opset_imports=[helper.make_opsetid("", _OPSET)],
            ir_version=_IR,
        )


def parsed(data: bytes, name: str) -> NNet:
    """The network of a file's bytes. Raises ModelError with the place of what is wrong."""
    lines = _Lines(data, name)
    layers, inputs, outputs, _ = lines.sizes(
        4, "how many layers, inputs and outputs there are, and the largest layer's size"
    )
    sizes = lines.sizes(layers + 1, "the size of the input and of each layer")
    if (sizes[0], sizes[-1]) != (inputs, outputs):
        lines.refuse(
            f"the sizes go from {sizes[0]} to {sizes[-1]}, and above there are {inputs} inputs and {outputs} outputs"
        )
    numbers = sum(rows * (columns + 1) for columns, rows in pairwise(sizes))
    if numbers > len(data):
        lines.refuse(
            f"the layers have {numbers} weights and biases, and the whole file has {len(data)} bytes"
        )
    lines.skip("the flag that is not used")
    lower, upper = (
        lines.numbers(inputs, "the least value of each input"),
        lines.numbers(inputs, "the greatest value of each input"),
    )
    if bool((lower > upper).any()):
        lines.refuse("an input's least value is above its greatest")
    means = lines.numbers(inputs + 1, "the mean of each input, and one for the outputs")
    ranges = lines.numbers(inputs + 1, "the range of each input, and one for the outputs")
    if not bool((ranges > 0).all()):
        lines.refuse("a range is not above 0")
    weights, biases = [], []
    for number, (columns, rows) in enumerate(pairwise(sizes), start=1):
        words = f"row of the weights of layer {number}"
        weights.append(np.stack([lines.numbers(columns, f"a {words}") for _ in range(rows)]))
        biases.append(np.concatenate([lines.numbers(1, f"a bias of layer {number}") for _ in range(rows)]))
    lines.end()
    return NNet(lower, upper, means, ranges, tuple(weights), tuple(biases))


class _Lines:
    """A file's lines that hold numbers, one after the other."""

    def __init__(self, data: bytes, name: str) -> None:
        self.name, self.place = name, 0
        try:
            self._left = self._filled(data.decode("ascii"))
        except UnicodeDecodeError as error:
            raise ModelError(f"{name}: not an .nnet file: byte {error.start} is no ASCII") from None

    def _filled(self, text: str) -> Iterator[str]:
        began = False
        for self.place, line in enumerate(text.splitlines(), start=1):
            tick()
            if line.strip() and (began or not line.lstrip().startswith("//")):
                began = True
                yield line

    def refuse(self, words: str) -> NoReturn:
        """Raises ModelError about the line at hand."""
        raise ModelError(
            f"{self.name}: line {self.place}: {words}; this is no .nnet file as its format has it"
        )

    def numbers(self, count: int, what: str) -> Floats:
        """The next line's numbers."""
        words = self._words(what)
        if len(words) != count:
            self.refuse(f"{what}: {count} numbers belong here, there are {len(words)}")
        try:
            found = [
                float(word.replace("_", "x")) for word in words
            ]  # Python's 1_000 is none of the format's
        except ValueError:
            self.refuse(f"{what}: not all of them are numbers")
        if not all(map(math.isfinite, found)):
            self.refuse(f"{what}: not all of them are finite")
        return np.array(found)

    def sizes(self, count: int, what: str) -> list[int]:
        """The next line's numbers, which count something."""
        found = self.numbers(count, what)
        if not bool(((found >= 1) & (found < 2**31) & (found == np.floor(found))).all()):
            self.refuse(f"{what}: not all of them are whole numbers from 1 on")
        return [int(number) for number in found]

    def skip(self, what: str) -> None:
        """A line that says nothing."""
        self._words(what)

    def end(self) -> None:
        """Refuses what is left."""
        if next(self._left, None) is not None:
            self.refuse("there is more behind the last bias")

    def _words(self, what: str) -> list[str]:
        line = next(self._left, None)
        if line is None:
            self.refuse(f"the file ends where {what} belongs")
        return [word.strip() for word in line.strip().removesuffix(",").split(",")]
