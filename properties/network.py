"""An ONNX file as sparse affine maps and activations, read with `onnx` alone: nothing shared with `verify`.

Idea: call *variables* the inputs and then every activation's output, on one flat axis. In a network built
of linear operators and scalar activations every tensor is an affine expression ``M v + b`` of the variables
known so far. Linear operators (Gemm, Conv, BatchNormalization, Add, ...) multiply ``M`` by one sparse
matrix; an activation takes its expression as pre-activation and appends one variable for each entry.
Residual branches need no care: both sides are expressions of the same variables.

All arithmetic is float64 on the file's float32 weights, so what is described is the network over the reals.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from scipy import sparse

Array = NDArray[np.float64]
Attributes = Mapping[str, Any]


class Expression(NamedTuple):
    """``matrix @ variables + bias``, laid out in `shape` (batch first, batch of one)."""

    matrix: Any
    bias: Array
    shape: tuple[int, ...]

    def evaluate(self, variables: Array) -> Array:
        """The expression's value; `variables` may hold later variables too."""
        return cast(Array, self.matrix @ variables[: self.matrix.shape[1]] + self.bias)

    def interval(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Interval bounds for variables within `lower` and `upper`."""
        width = self.matrix.shape[1]
        positive, negative = self.matrix.maximum(0), self.matrix.minimum(0)
        return (
            positive @ lower[:width] + negative @ upper[:width] + self.bias,
            positive @ upper[:width] + negative @ lower[:width] + self.bias,
        )

    def mapped(self, matrix: Any, bias: Array, shape: tuple[int, ...]) -> "Expression":
        """The affine map ``matrix @ . + bias`` after this expression."""
        return Expression(sparse.csr_array(matrix @ self.matrix), matrix @ self.bias + bias, shape)


class Activation(NamedTuple):
    """A layer of scalar activations: kind "Relu" or "Sigmoid", applied to each entry of `pre`."""

    kind: str
    pre: Expression


@dataclass
class Network:
    """The whole network: variables are `inputs` inputs, then the outputs of `activations` in order."""

    inputs: int
    activations: list[Activation] = field(default_factory=list)
    output: Expression = field(init=False)

    @property
    def variables(self) -> int:
        """How many variables have been declared so far."""
        return self.inputs + sum(len(layer.pre.bias) for layer in self.activations)

    def forward(self, x: Array) -> Array:
        """The network's outputs at one input, in float64."""
        values = x
        for kind, pre in self.activations:
            values = np.concatenate([values, FUNCTIONS[kind](pre.evaluate(values))])
        return self.output.evaluate(values)

    def gradient(self, x: Array, weights: Array) -> Array:
        """The gradient of ``weights @ outputs`` with respect to the inputs."""
        values = x
        for kind, pre in self.activations:
            values = np.concatenate([values, FUNCTIONS[kind](pre.evaluate(values))])
        slopes = np.zeros(self.variables)
        slopes[: self.output.matrix.shape[1]] = self.output.matrix.T @ weights
        end = self.variables
        for kind, pre in reversed(self.activations):
            start = end - len(pre.bias)
            after = values[start:end]
            local = after > 0 if kind == "Relu" else after * (1 - after)
            slopes[: pre.matrix.shape[1]] += pre.matrix.T @ (local * slopes[start:end])
            end = start
        return slopes[: self.inputs]

    def activate(self, kind: str, pre: Expression) -> Expression:
        """Append an activation layer and return the expression that reads its outputs."""
        size, offset = len(pre.bias), self.variables
        self.activations.append(Activation(kind, pre))
        selection = sparse.csr_array(
            (np.ones(size), (np.arange(size), offset + np.arange(size))), shape=(size, offset + size)
        )
        return Expression(selection, np.zeros(size), pre.shape)


def sigmoid(z: Array) -> Array:
    """The logistic function."""
    return 1.0 / (1.0 + np.exp(-z))


def relu(z: Array) -> Array:
    """max(z, 0)."""
    return cast(Array, np.maximum(z, 0.0))


FUNCTIONS: dict[str, Callable[[Array], Array]] = {"Relu": relu, "Sigmoid": sigmoid}


def convolution_matrix(
    weight: Array, image: tuple[int, ...], attributes: Attributes
) -> tuple[Any, tuple[int, ...]]:
    """A convolution of `image` [channels, height, width] as one sparse matrix, with its output's shape."""
    if "auto_pad" in attributes and attributes["auto_pad"] not in (b"NOTSET", b""):
        raise NotImplementedError("Conv with auto_pad; write explicit pads")
    outputs, per_group, *kernel = weight.shape
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    pixels = np.arange(np.prod(image)).reshape(image)
    pixels = np.pad(pixels, ((0, 0), (top, bottom), (left, right)), constant_values=-1)
    height, width = (
        (pixels.shape[1 + axis] - dilations[axis] * (kernel[axis] - 1) - 1) // strides[axis] + 1
        for axis in (0, 1)
    )
    group = np.arange(outputs) // (outputs // attributes.get("group", 1))
    channels = group[:, None] * per_group + np.arange(per_group)
    rows = np.arange(outputs * height * width).reshape(outputs, 1, height, width)
    matrix = sparse.csr_array((outputs * height * width, int(np.prod(image))))
    for y, x in np.ndindex(*kernel):
        patch = pixels[:, y * dilations[0] :: strides[0], x * dilations[1] :: strides[1]][:, :height, :width]
        columns = patch[channels]
        inside = columns >= 0
        data = np.broadcast_to(weight[:, :, y, x, None, None], columns.shape)[inside]
        row = np.broadcast_to(rows, columns.shape)[inside]
        matrix = matrix + sparse.csr_array((data, (row, columns[inside])), shape=matrix.shape)
    return matrix, (1, outputs, height, width)


class _Reader:
    """Walks the graph in its (topological) order; `values` are expressions, `constants` are arrays."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.constants = {item.name: np.asarray(numpy_helper.to_array(item)) for item in graph.initializer}
        (entry,) = (item for item in graph.input if item.name not in self.constants)
        shape = tuple(max(1, axis.dim_value) for axis in entry.type.tensor_type.shape.dim)
        size = int(np.prod(shape))
        self.network = Network(size)
        self.values = {entry.name: Expression(sparse.eye_array(size, format="csr"), np.zeros(size), shape)}
        for node in graph.node:
            self.read(node)
        self.network.output = self.values[graph.output[0].name]

    def read(self, node: onnx.NodeProto) -> None:
        """Translate one node."""
        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        if node.op_type == "Constant":
            self.constants[node.output[0]] = np.asarray(numpy_helper.to_array(attributes["value"]))
        elif node.op_type in FUNCTIONS:
            self.values[node.output[0]] = self.network.activate(node.op_type, self.values[node.input[0]])
        elif node.op_type in OPERATORS:
            self.values[node.output[0]] = OPERATORS[node.op_type](self, node, attributes)
        else:
            raise NotImplementedError(f"operator {node.op_type} of node {node.name!r}")

    def constant(self, node: onnx.NodeProto, index: int) -> Array:
        """A constant operand as float64; an absent optional one is zero."""
        if index >= len(node.input) or not node.input[index]:
            return np.zeros(1)
        return cast(Array, self.constants[node.input[index]].astype(np.float64))

    def gemm(self, node: onnx.NodeProto, attributes: Attributes) -> Expression:
        """alpha x W + beta b, with W perhaps transposed."""
        weight = self.constant(node, 1) * attributes.get("alpha", 1.0)
        weight = weight if attributes.get("transB", 0) else weight.T
        bias = self.constant(node, 2).ravel() * attributes.get("beta", 1.0)
        return self.values[node.input[0]].mapped(sparse.csr_array(weight), bias, (1, len(weight)))

    def convolution(self, node: onnx.NodeProto, attributes: Attributes) -> Expression:
        """A two-dimensional convolution with zero padding."""
        value, weight = self.values[node.input[0]], self.constant(node, 1)
        matrix, shape = convolution_matrix(weight, value.shape[1:], attributes)
        bias = np.broadcast_to(self.constant(node, 2), len(weight))
        return value.mapped(matrix, np.repeat(bias, shape[2] * shape[3]), shape)

    def normalisation(self, node: onnx.NodeProto, attributes: Attributes) -> Expression:
        """scale (x - mean) / sqrt(variance + epsilon) + shift, a diagonal map."""
        value = self.values[node.input[0]]
        scale, shift, mean, variance = (self.constant(node, index) for index in (1, 2, 3, 4))
        factor = scale / np.sqrt(variance + attributes.get("epsilon", 1e-5))
        repeats = int(np.prod(value.shape[2:]))
        diagonal = sparse.diags_array(np.repeat(factor, repeats), format="csr")
        return value.mapped(diagonal, np.repeat(shift - factor * mean, repeats), value.shape)

    def operand(self, node: onnx.NodeProto, index: int, shape: tuple[int, ...]) -> Expression:
        """A summand, constant or not, laid out in `shape` over all variables known so far."""
        name = node.input[index]
        if name in self.constants:
            bias = np.broadcast_to(self.constant(node, index), shape).ravel()
            matrix = sparse.csr_array((len(bias), self.network.variables))
        else:
            matrix, bias, own_shape = self.values[name]
            if own_shape != shape:
                raise NotImplementedError(f"broadcasting in node {node.name!r}")
            matrix = matrix.copy()
            matrix.resize((len(bias), self.network.variables))
        return Expression(matrix, bias, shape)

    def addition(self, node: onnx.NodeProto, attributes: Attributes) -> Expression:
        """A sum of two operands, or a difference."""
        shape = next(self.values[name].shape for name in node.input if name in self.values)
        left, right = (self.operand(node, index, shape) for index in (0, 1))
        sign = -1.0 if node.op_type == "Sub" else 1.0
        return Expression(left.matrix + sign * right.matrix, left.bias + sign * right.bias, shape)

    def reshape(self, node: onnx.NodeProto, attributes: Attributes) -> Expression:
        """Flatten, Reshape, Identity: the flat axis stays as it is."""
        value = self.values[node.input[0]]
        shape = value.shape
        if node.op_type == "Flatten":
            shape = (1, len(value.bias))
        elif node.op_type == "Reshape":
            target = self.constants[node.input[1]].tolist()
            target = [shape[axis] if size == 0 else size for axis, size in enumerate(target)]
            shape = np.empty(shape, dtype=np.uint8).reshape(target).shape
        return value._replace(shape=shape)


OPERATORS: dict[str, Callable[[_Reader, onnx.NodeProto, Attributes], Expression]] = {
    "Add": _Reader.addition,
    "BatchNormalization": _Reader.normalisation,
    "Conv": _Reader.convolution,
    "Flatten": _Reader.reshape,
    "Gemm": _Reader.gemm,
    "Identity": _Reader.reshape,
    "MatMul": _Reader.gemm,
    "Reshape": _Reader.reshape,
    "Sub": _Reader.addition,
}


def read_network(path: str | Path) -> Network:
    """Read an ONNX file with one input, batch of one."""
    return _Reader(onnx.load(str(path)).graph).network
