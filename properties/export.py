"""A torch module as an ONNX graph, node by node with `onnx.helper`: opset 13, batch of one, no folding."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from properties.models import Residual


class _Graph:
    """Nodes and weights so far; each `emit` takes the name of a value and returns the name of the next."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(
        self, operator: str, inputs: list[str], weights: Mapping[str, Tensor | None], **attributes: Any
    ) -> str:
        """Append a node with its weights; it and its one output share a name."""
        name = f"{operator.lower()}_{len(self.nodes)}"
        for role, tensor in weights.items():
            if tensor is not None:
                self.weights.append(numpy_helper.from_array(tensor.detach().numpy(), f"{name}_{role}"))
                inputs = [*inputs, f"{name}_{role}"]
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def emit(self, module: nn.Module, value: str) -> str:
        """Translate one module."""
        match module:
            case nn.Sequential():
                for layer in module:
                    value = self.emit(layer, value)
                return value
            case Residual():
                return self.node("Add", [self.emit(module.main, value), self.emit(module.skip, value)], {})
            case nn.Linear():
                return self.node("Gemm", [value], {"weight": module.weight, "bias": module.bias}, transB=1)
            case nn.Conv2d():
                return self.convolution(module, value)
            case nn.BatchNorm2d():
                affine = {"weight": module.weight, "bias": module.bias}
                roles = {**affine, "mean": module.running_mean, "variance": module.running_var}
                return self.node("BatchNormalization", [value], roles, epsilon=module.eps)
            case nn.Flatten() | nn.ReLU() | nn.Sigmoid():
                operator = {nn.Flatten: "Flatten", nn.ReLU: "Relu", nn.Sigmoid: "Sigmoid"}[type(module)]
                return self.node(operator, [value], {})
        raise NotImplementedError(type(module).__name__)

    def convolution(self, module: nn.Conv2d, value: str) -> str:
        """A convolution with symmetric zero padding."""
        padding = [int(size) for size in module.padding]
        weights = {"weight": module.weight, "bias": module.bias}
        kernel, strides = list(module.kernel_size), list(module.stride)
        return self.node("Conv", [value], weights, kernel_shape=kernel, strides=strides, pads=padding * 2)


def export(module: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """Write `module` for inputs of `shape` (with batch) and check the file against torch."""
    graph = _Graph()
    last = graph.emit(module, "input")
    with torch.no_grad():
        outputs = module(torch.zeros(shape)).shape[1]
    entry = helper.make_tensor_value_info("input", TensorProto.FLOAT, list(shape))
    leave = helper.make_tensor_value_info(last, TensorProto.FLOAT, [1, outputs])
    made = helper.make_graph(graph.nodes, path.stem, [entry], [leave], graph.weights)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    _compare(module, shape, path)


def _compare(module: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    points = torch.rand((100, *shape), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = torch.stack([module(point)[0] for point in points]).numpy()
    session = open_session(path)
    found = np.stack([run_session(session, point.numpy()) for point in points])
    np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=1e-5)


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """A network in ONNX Runtime, on one CPU thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_session(session: onnxruntime.InferenceSession, x: np.ndarray) -> np.ndarray:
    """The float32 outputs at one flat or shaped input."""
    (entry,) = session.get_inputs()
    (outputs,) = session.run(None, {entry.name: x.astype(np.float32).reshape(entry.shape)})
    return np.asarray(outputs).ravel()
