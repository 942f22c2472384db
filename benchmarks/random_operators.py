"""Random small models of all operators, as ONNX written by hand, and as torch modules for both of torch's exporters.

A model is drawn step by step: a step appends one operator (or a few) to a value and is kept where ONNX Runtime computes finite
numbers with it at some points, so steps need not know which shapes and ranges suit them. To add an operator, add a line to
`STEPS` (or to `LAYERS`, of torch).
"""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from numpy.random import Generator
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from benchmarks.runtime import Session

MOST_ENTRIES = 48  # of a value
LARGEST = 1e3  # magnitude of a value, so that float32 computes it well
OPSETS = (13, 17, 18, 20)


class Value(NamedTuple):
    """A tensor of a model under construction."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass
class Draft:
    """An ONNX model under construction."""

    random: Generator
    opset: int
    shape: tuple[int, ...]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.values = [Value("x", self.shape)]

    def constant(self, values: Any, kind: Any = np.float32) -> str:
        """A constant's name."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype=kind), name))
        return name

    def normal(self, *shape: int) -> str:
        """Random weights, scaled by the number of entries that they sum."""
        scale = (2 / max(1, math.prod(shape[1:]))) ** 0.5
        return self.constant(scale * self.random.standard_normal(shape))

    def integers(self, *numbers: int) -> str:
        """A vector of int64."""
        return self.constant(numbers, np.int64)

    def add(self, kind: str, *operands: str, results: int = 1, **attributes: Any) -> str:
        """One more node; the name of its first result."""
        names = [f"{kind}{len(self.nodes)}_{k}" for k in range(results)]
        self.nodes.append(helper.make_node(kind, list(operands), names, **attributes))
        return names[0]

    def pick(self, *choices: Any) -> Any:
        """One of some choices."""
        return choices[self.random.integers(len(choices))]

    def axis(self, x: Value) -> int:
        """An axis, counted from the front or the back."""
        return int(self.random.integers(-len(x.shape), len(x.shape)))

    def partner(self, x: Value) -> str:
        """Another value of the same shape, or random constants that broadcast to it."""
        alike = [value.name for value in self.values if value.shape == x.shape]
        if len(alike) > 1 and self.random.integers(3):
            return str(self.random.choice(alike))
        return self.normal(*(size if self.random.integers(2) else 1 for size in x.shape))

    def reduced(self, kind: str, x: str, axis: int, keep: int) -> str:
        """A reduction, whose axes are an operand or an attribute, by its version."""
        if self.opset >= 18 or (kind == "ReduceSum" and self.opset >= 13):
            return self.add(kind, x, self.integers(axis), keepdims=keep)
        return self.add(kind, x, axes=[axis], keepdims=keep)

    def positive(self, x: Value, least: float = 0.2) -> str:
        """|x| + least."""
        return self.add("Add", self.add("Abs", x.name), self.constant(least))

    def model(self, output: Value) -> onnx.ModelProto:
        """What leads to a value."""
        ends = (("x", self.shape), (output.name, output.shape))
        tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends]
        graph = helper.make_graph(self.nodes, "random", tensors[:1], tensors[1:], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


Step = Callable[[Draft, Value], str]


def _unary(kind: str, **attributes: Any) -> Step:
    return lambda d, x: d.add(kind, x.name, **attributes)


def _reduction(kind: str) -> Step:
    return lambda d, x: d.reduced(kind, x.name, d.axis(x), 1)


def _binary(kind: str) -> Step:
    return lambda d, x: d.add(
        kind, *([x.name, d.partner(x)] if d.random.integers(2) else [d.partner(x), x.name])
    )


def _dense(d: Draft, x: Value) -> str:
    return d.add(
        "MatMul",
        x.name,
        d.constant(d.random.standard_normal((x.shape[-1], d.pick(2, 3, 5))) * x.shape[-1] ** -0.5),
    )


def _gemm(d: Draft, x: Value) -> str:
    size = d.pick(2, 4)
    return d.add(
        "Gemm", x.name, d.normal(size, x.shape[-1]), d.normal(size), transB=1, alpha=d.pick(1.0, 0.5)
    )


def _convolution(kind: str) -> Step:
    def step(d: Draft, x: Value) -> str:
        channels, kernel = x.shape[1], [min(2, size) for size in x.shape[2:]]
        ends = (2, channels) if kind == "Conv" else (channels, 2)
        stride, pad = d.pick(1, 2), d.pick(0, 1)
        return d.add(
            kind, x.name, d.normal(*ends, *kernel), d.normal(2), strides=[stride] * len(kernel),
            pads=[pad * (size > 1) for size in kernel] * 2, kernel_shape=kernel,
        )  # fmt: skip

    return step


def _pool(kind: str) -> Step:
    def step(d: Draft, x: Value) -> str:
        rest = {"count_include_pad": d.pick(0, 1)} if kind == "AveragePool" else {}
        return d.add(
            kind,
            x.name,
            kernel_shape=[2, 2],
            strides=[1, d.pick(1, 2)],
            pads=d.pick([0] * 4, [1, 0, 0, 1]),
            ceil_mode=d.pick(0, 1),
            **rest,
        )

    return step


def _normalised(d: Draft, x: Value) -> str:
    channels = x.shape[1]
    spread = d.constant(d.random.uniform(0.3, 2, channels))
    return d.add(
        "BatchNormalization", x.name, d.normal(channels), d.normal(channels), d.normal(channels), spread
    )


def _recurrent(kind: str, gates: int) -> Step:
    def step(d: Draft, x: Value) -> str:
        sequence = d.add("Reshape", x.name, d.integers(-1, 1, x.shape[-1]))
        weights = d.normal(1, 2 * gates, x.shape[-1]), d.normal(1, 2 * gates, 2), d.normal(1, 4 * gates)
        rest = {"linear_before_reset": d.pick(0, 1)} if kind == "GRU" else {}
        return d.add(kind, sequence, *weights, hidden_size=2, **rest)

    return step


def _compared(d: Draft, x: Value) -> str:
    above = d.add(d.pick("Greater", "Less", "GreaterOrEqual", "LessOrEqual"), x.name, d.partner(x))
    if d.random.integers(2):
        return d.add("Where", above, x.name, d.partner(x))
    return d.add("Cast", d.add("Not", above) if d.random.integers(2) else above, to=TensorProto.FLOAT)


def _integers(d: Draft, x: Value) -> str:
    """Through integers of some type, large enough to leave its range now and then."""
    kind, kind_of = d.pick((TensorProto.INT32, np.int32), (TensorProto.INT64, np.int64))
    large = d.add("Mul", x.name, d.constant(d.pick(3.0, 30.0, 3e4)))
    cut = d.add("Cast", large, to=kind)
    other = d.constant(d.random.integers(-5, 6, size=x.shape[-1:]), kind_of)
    result = d.add(d.pick("Add", "Sub", "Mul"), cut, d.pick(other, cut))
    return d.add("Mul", d.add("Cast", result, to=TensorProto.FLOAT), d.constant(0.01))


def _chosen(d: Draft, x: Value) -> str:
    place = d.add(d.pick("ArgMax", "ArgMin"), x.name, axis=-1, keepdims=1)
    return d.add("Cast", place, to=TensorProto.FLOAT)


def _one_hot(d: Draft, x: Value) -> str:
    place = d.add("ArgMax", x.name, axis=-1, keepdims=0)
    return d.add("OneHot", place, d.integers(x.shape[-1]), d.constant([-0.5, 1.5]), axis=-1)


def _sliced(d: Draft, x: Value) -> str:
    axis = d.axis(x)
    starts, ends, step = d.pick((0, 2, 1), (1, 2**31, 1), (-1, -(2**31), -1), (0, 2**31, 2))
    return d.add("Slice", x.name, *(d.integers(number) for number in (starts, ends, axis, step)))


def _split(d: Draft, x: Value) -> str:
    axis = d.axis(x)
    first = d.add("Split", x.name, d.integers(1, x.shape[axis] - 1), results=2, axis=axis)
    return d.add("Concat", first.removesuffix("0") + "1", first, axis=axis)


def _attended(d: Draft, x: Value) -> str:
    """Products of two matrices of variables around a softmax."""
    turned = d.add("Transpose", x.name, perm=[*range(len(x.shape) - 2), len(x.shape) - 1, len(x.shape) - 2])
    return d.add("MatMul", d.add("Softmax", d.add("MatMul", x.name, turned), axis=-1), x.name)


def _padded(d: Draft, x: Value) -> str:
    widths = d.random.integers(0, 2, 2 * len(x.shape)).tolist()
    return d.add("Pad", x.name, d.integers(*widths), d.constant(d.pick(0.0, -1.5)), mode="constant")


def _scattered(d: Draft, x: Value) -> str:
    flat = d.add("Reshape", x.name, d.integers(-1))
    where = d.constant([[0], [x.size - 1]], np.int64)
    return d.add("ScatterND", flat, where, d.normal(2))


def _scaled_exponential(d: Draft, x: Value) -> str:
    return d.add("Exp", d.add("Mul", x.name, d.constant(0.3)))


STEPS: dict[str, Step] = {
    **{kind: _unary(kind) for kind in (
        "Abs", "Atan", "Ceil", "Celu", "Cos", "Elu", "Erf", "Floor", "Gelu", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid",
        "HardSwish", "Identity", "LogSoftmax", "Mish", "Neg", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softmax",
        "Softplus", "Softsign", "Tanh", "Transpose", "Flatten",
    )},
    **{kind: _binary(kind) for kind in ("Add", "Max", "Mean", "Min", "Mul", "Sub", "Sum")},
    **{kind: _reduction(kind) for kind in (
        "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
    )},
    "LeakyRelu": _unary("LeakyRelu", alpha=0.2),
    "Elu, alpha": _unary("Elu", alpha=1.7),
    "ConvTranspose": _convolution("ConvTranspose"), "Conv": _convolution("Conv"),
    "MaxPool": _pool("MaxPool"), "AveragePool": _pool("AveragePool"),
    "MatMul": _dense, "Gemm": _gemm, "BatchNormalization": _normalised, "comparisons": _compared, "integers": _integers,
    "ArgMax": _chosen, "OneHot": _one_hot, "Slice": _sliced, "Split": _split, "attention": _attended, "Pad": _padded,
    "ScatterND": _scattered, "Exp": _scaled_exponential,
    "LSTM": _recurrent("LSTM", 4), "GRU": _recurrent("GRU", 3), "RNN": _recurrent("RNN", 1),
    "Clip": lambda d, x: d.add("Clip", x.name, d.constant(d.pick(-0.5, 0.0)), d.constant(d.pick(0.3, 6.0))),
    "PRelu": lambda d, x: d.add("PRelu", x.name, d.constant(d.random.uniform(-0.3, 1.3, x.shape[-1]))),
    "Log": lambda d, x: d.add("Log", d.positive(x)),
    "Sqrt": lambda d, x: d.add("Sqrt", d.positive(x, 0.05)),
    "Reciprocal": lambda d, x: d.add("Reciprocal", d.positive(x, 0.4)),
    "Div": lambda d, x: d.add("Div", d.partner(x), d.positive(x, 0.5)),
    "Pow": lambda d, x: d.add("Pow", x.name, d.constant(d.pick(2.0, 3.0))),
    "square": lambda d, x: d.add("Mul", x.name, x.name),
    "CumSum": lambda d, x: d.add("CumSum", x.name, d.constant(d.axis(x), np.int64), reverse=d.pick(0, 1)),
    "Gather": lambda d, x: d.add("Gather", x.name, d.integers(-1, 0), axis=d.axis(x)),
    "Tile": lambda d, x: d.add("Tile", x.name, d.integers(*(1,) * (len(x.shape) - 1), 2)),
    "Unsqueeze": lambda d, x: d.add("Unsqueeze", x.name, d.integers(d.axis(x))),
    "Reshape": lambda d, x: d.add("Reshape", x.name, d.integers(*d.pick((1, -1), (1, 2, -1), (1, -1, 2, 2)))),
    "Concat": lambda d, x: d.add("Concat", x.name, d.partner(x), axis=d.axis(x)),
    "Einsum": lambda d, x: d.add("Einsum", x.name, d.normal(x.shape[-1], 2), equation="...i,ij->...j"),
    "LayerNormalization": lambda d, x: d.add("LayerNormalization", x.name, d.normal(x.shape[-1]), epsilon=0.1),
    "Resize": lambda d, x: d.add("Resize", x.name, "", d.constant([1.0] * (len(x.shape) - 1) + [2.0]), mode=d.pick("nearest", "linear")),
}  # fmt: skip


def by_hand(
    random: Generator, outputs: int, kinds: Sequence[str] = tuple(STEPS)
) -> tuple[onnx.ModelProto, list[str]]:
    """A random chain of steps of some kinds, with values used again, and the steps' names."""
    shape = [(1, int(random.integers(1, 7))), (1, 2, 3, 3), (1, 1, 4, 4), (1, 3, 4)][
        random.choice(4, p=[0.5, 0.2, 0.1, 0.2])
    ]
    draft, names = Draft(random, int(random.choice(OPSETS)), shape), []
    value, wanted = draft.values[0], int(random.integers(2, 6))
    for _ in range(8 * wanted):
        name = str(random.choice(kinds))
        following = _tried(draft, value, STEPS[name])
        if following is not None:
            names.append(name)
            draft.values.append(following)
            value = following
        if len(names) >= wanted:
            break
    flat = draft.add("Reshape", value.name, draft.integers(1, -1))
    result = draft.add("Gemm", flat, draft.normal(outputs, value.size), draft.normal(outputs), transB=1)
    return draft.model(Value(result, (1, outputs))), names


def _tried(draft: Draft, value: Value, step: Step) -> Value | None:
    """The value behind a step; None, and nothing changed, where the step does not suit."""
    nodes, constants = len(draft.nodes), len(draft.constants)
    try:
        name = step(draft, value)
        model = draft.model(Value(name, ()))
        del model.graph.output[0].type.tensor_type.shape.dim[:]
        model.graph.output[0].type.tensor_type.ClearField("shape")
        results = Session(model.SerializeToString()).run(draft.random.uniform(-1, 1, (4, *draft.shape)))
        shape = results[0].shape
        fits = results[0].dtype == np.float32 and 0 < math.prod(shape) <= MOST_ENTRIES and 0 < len(shape) <= 4
        if (
            fits
            and shape[0] == 1
            and all(np.isfinite(y).all() and np.abs(y).max() < LARGEST for y in results)
        ):
            return Value(name, shape)
    except (ValueError, IndexError, TypeError):
        pass
    del draft.nodes[nodes:], draft.constants[constants:]
    return None


# -- torch


class Lambda(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """The function."""
        return self.function(x)


Layer = Callable[[int], nn.Module]  # of a vector with so many entries


def _layers() -> dict[str, Layer]:
    plain: Sequence[type[nn.Module]] = (
        nn.CELU, nn.ELU, nn.GELU, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU, nn.LogSigmoid, nn.Mish, nn.PReLU, nn.ReLU,
        nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.Hardshrink, nn.Softshrink,
    )  # fmt: skip
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "maximum": lambda x: torch.maximum(x, 0.5 * x.flip(-1)), "where": lambda x: torch.where(x > 0.2, x, -x),
        "chunk": lambda x: torch.cat(x.split([1, x.shape[-1] - 1], -1)[::-1], -1), "clamp": lambda x: x.clamp(-0.4, 0.7),
        "norm": lambda x: x / (1 + x.pow(2).sum(-1, keepdim=True)).sqrt(), "sin": lambda x: torch.sin(x) + x.cos(),
        "logsumexp": lambda x: torch.cat([x, torch.logsumexp(x, -1, keepdim=True)], -1), "abs": torch.abs,
        "outer": lambda x: (x.unsqueeze(-1) @ x.unsqueeze(-2)).flatten(1)[:, : MOST_ENTRIES],
        "matmul": lambda x: (x.reshape(1, 1, -1) @ x.reshape(1, -1, 1)).reshape(1, 1) + x, "round": torch.round,
    }  # fmt: skip
    found: dict[str, Layer] = {kind.__name__: partial(_of_any_size, kind) for kind in plain}
    found |= {name: partial(_of_any_size, partial(Lambda, function)) for name, function in functions.items()}
    return found | {
        "Softmax": lambda _: nn.Softmax(-1),
        "LayerNorm": nn.LayerNorm,
        "BatchNorm1d": nn.BatchNorm1d,
    }


def _of_any_size(kind: Callable[[], nn.Module], size: int) -> nn.Module:
    return kind()


LAYERS = _layers()


def module(random: Generator, outputs: int) -> tuple[nn.Module, tuple[int, ...], list[str]]:
    """A random torch module, in evaluation mode, its input's shape, and the names of its layers."""
    torch.manual_seed(int(random.integers(2**31)))
    image = not random.integers(3)
    shape, size = ((1, 1, 4, 4), 8) if image else ((1, int(random.integers(2, 7))), 0)
    layers: list[nn.Module] = (
        [nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten()] if image else []
    )
    names = ["Conv2d"] if image else []
    size = size or shape[1]
    for _ in range(int(random.integers(1, 4))):
        width = int(random.integers(2, 7))
        name = str(random.choice(list(LAYERS)))
        layers += [nn.Linear(size, width), LAYERS[name](width)]
        names.append(name)
        with torch.no_grad():
            size = nn.Sequential(*layers).eval()(torch.zeros(shape)).shape[-1]
    return nn.Sequential(*layers, nn.Linear(size, outputs)).eval(), shape, names


def exported(network: nn.Module, shape: tuple[int, ...], dynamo: bool) -> bytes:
    """A module as one of torch's exporters writes it."""
    example = torch.zeros(shape)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        target = Path(folder) / "model.onnx"
        if dynamo:
            torch.onnx.export(network, (example,), target, dynamo=True, verbose=False, external_data=False)
        else:
            torch.onnx.export(network, (example,), target, dynamo=False, opset_version=17)
        return target.read_bytes()
