"""Random small networks, boxes, objectives and splits, as the IR (float64) or as ONNX.

Everything is made from a seed, so a failing example is one line. The families are the shapes that networks come in:
chains, convolutions (few and many channels, since their adjoints take different forms), residual blocks, and tangles:
random DAGs in which values are shared, concatenated, subtracted, dead, or constant.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import onnx
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor

from verify.lagrangian.cuts import Cuts
from verify.loading import LoadedModel
from verify.network.activations import (
    ACTIVATIONS,
    Activation,
    Clip,
    Elu,
    LeakyRelu,
    Positive,
    Power,
    Product,
    Reciprocal,
)
from verify.network.affine import Affine, Combine, Dense, Reshape, Scale, Shape
from verify.network.convolution import Convolution
from verify.network.graph import Network, Node
from verify.network.moves import NonNegative
from verify.state import Bounds, DualState, Objective, Splits

DOUBLE = torch.float64
WITH_ARGUMENTS: dict[str, tuple[Activation, ...]] = {
    "LeakyRelu": (LeakyRelu(0.1), LeakyRelu(1.7), LeakyRelu(-0.4)),
    "Clip": (Clip(-0.5, 0.8), Clip(0.0, 6.0), Clip(-math.inf, 0.3), Clip(0.25, 0.25)),
    "Elu": (Elu(1.0), Elu(1.7), Elu(-0.3)),
    "Positive": (Positive(or_zero=False), Positive(or_zero=True)),
    "Power": (Power(3), Power(4)),
}
# Where a network keeps the arguments: inside the domain, and where chains of two neither overflow nor are all but flat.
SAFE = {
    "Erf": (-2.0, 2.0),
    "Exp": (-3.0, 2.0),
    "Log": (0.1, 3.0),
    "Power": (-1.5, 1.5),
    "Reciprocal": (0.4, 3.0),
    "Rsqrt": (0.1, 3.0),
    "Sqrt": (0.05, 3.0),
}


def examples(kind: str) -> tuple[Activation, ...]:
    """Instances of a registered activation; one without arguments needs no entry above."""
    return WITH_ARGUMENTS[kind] if kind in WITH_ARGUMENTS else (ACTIVATIONS[kind](),)


EXAMPLES: tuple[Activation, ...] = tuple(a for kind in sorted(ACTIVATIONS) for a in examples(kind))
KINDS: tuple[str, ...] = tuple(sorted(ACTIVATIONS))
FAMILIES = ("chain", "convolution", "wide_convolution", "residual", "tangle")


def fields_of(activation: Activation) -> dict[str, object]:
    """The arguments an activation was made with."""
    return dict(vars(activation))


def label(value: object) -> str:
    """A readable test id."""
    if isinstance(value, Activation):
        return repr(value) if fields_of(value) else value.name
    return str(value)


@dataclass
class Draft:
    """A network under construction, with its own random numbers."""

    generator: torch.Generator
    shape: Shape
    nodes: list[Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.nodes.append(Node(None, (), self.shape, "x"))

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(shape, generator=self.generator, dtype=DOUBLE)

    def pick(self, high: int) -> int:
        """A number in [0, high)."""
        return int(torch.randint(high, (1,), generator=self.generator))

    def add(self, operator: Affine | Activation, operands: Sequence[int], shape: Shape) -> int:
        """One more node."""
        self.nodes.append(Node(operator, tuple(operands), shape, f"n{len(self.nodes)}"))
        return len(self.nodes) - 1

    def dense(self, source: int, size: int) -> int:
        """A dense map of a flat value; some of its weights are exactly zero."""
        width = self.nodes[source].size
        weight = self.normal(size, width) * (2 / width) ** 0.5
        weight = torch.where(torch.rand(weight.shape, generator=self.generator) < 0.1, 0.0, weight)
        bias = self.normal(size) * 0.5 if self.pick(4) else None
        return self.add(Dense(weight, bias), (source,), (size,))

    def flat(self, source: int) -> int:
        """The value as a vector."""
        node = self.nodes[source]
        return source if len(node.shape) == 1 else self.add(
            Reshape(node.shape, (node.size,)), (source,), (node.size,)
        )  # fmt: skip

    def scale(self, source: int, factor: float, shift: float) -> int:
        """`factor x + shift`."""
        shape = self.nodes[source].shape
        scale = Scale(torch.full(shape, factor, dtype=DOUBLE), torch.full(shape, shift, dtype=DOUBLE))
        return self.add(scale, (source,), shape)

    def activation(self, source: int, activation: Activation) -> int:
        """The activation, with what it needs before it: a safe domain, or pairs of factors."""
        if isinstance(activation, Product):
            size = self.nodes[source].size
            return self.add(activation, (self.dense(self.flat(source), 2 * size),), (size,))
        if activation.name in SAFE:
            source = self.add(Clip(*SAFE[activation.name]), (source,), self.nodes[source].shape)
        if isinstance(activation, Reciprocal):
            source = self.scale(source, 1.0 if self.pick(2) else -1.0, 0.0)
        return self.add(activation, (source,), self.nodes[source].shape)

    def convolution(self, source: int, channels: int) -> int:
        """A random convolution of a value [1, channels, height, width]."""
        _, depth, *sizes = self.nodes[source].shape
        kernel = tuple(min(size, 1 + self.pick(3)) for size in sizes)
        both = 1 + self.pick(3)
        stride = (both, both) if self.pick(4) else (1, 2)
        padding = tuple(min(self.pick(3), k - 1) for k in kernel)
        groups = 2 if depth % 2 == 0 and channels % 2 == 0 and self.pick(4) == 0 else 1
        weight = self.normal(channels, depth // groups, *kernel) / (depth * math.prod(kernel)) ** 0.5
        bias = self.normal(channels) * 0.3 if self.pick(3) else None
        shape = self.nodes[source].shape
        operator = Convolution(weight, bias, stride, padding, (1, 1), groups, shape)
        out = operator.forward(torch.zeros(1, *shape, dtype=DOUBLE)).shape[1:]
        return self.add(operator, (source,), tuple(out))

    def network(self) -> Network:
        """What has been made."""
        return Network(tuple(self.nodes))


def _chain(draft: Draft, activations: Sequence[Activation]) -> None:
    value = 0
    for activation in activations:
        value = draft.activation(draft.dense(value, 1 + draft.pick(6)), activation)
    if draft.pick(4):
        draft.dense(value, 1 + draft.pick(3))


def _image(draft: Draft, activations: Sequence[Activation], wide: bool) -> None:
    value = 0
    for activation in activations:
        if len(draft.nodes[value].shape) == 4:
            value = draft.convolution(value, 9 + draft.pick(2) if wide else 1 + draft.pick(3))
        else:  # a product has made it flat
            value = draft.dense(value, 3)
        value = draft.activation(value, activation)
    draft.dense(draft.flat(value), 1 + draft.pick(3))


def _residual(draft: Draft, activations: Sequence[Activation]) -> None:
    size = 2 + draft.pick(3)
    value = draft.dense(0, size)
    for activation in activations:
        branch = draft.activation(draft.dense(value, size), activation)
        branch = draft.dense(branch, size)
        value = draft.add(Combine((1, 1) if draft.pick(3) else (1, -1)), (value, branch), (size,))
    draft.dense(draft.activation(value, activations[0]), 1 + draft.pick(3))


def joined(*parts: Tensor) -> Tensor:
    """Concatenation behind the batch axis."""
    return torch.cat(parts, 1)


def _tangle(draft: Draft, activations: Sequence[Activation]) -> None:
    values = [0]
    for activation in [*activations, *activations]:
        first = values[draft.pick(len(values))]
        values.append(draft.activation(first, activation) if draft.pick(4) == 0 else draft.activation(
            draft.dense(first, 1 + draft.pick(4)), activation))  # fmt: skip
        second = values[draft.pick(len(values))]
        if draft.nodes[second].size == draft.nodes[values[-1]].size and second != values[-1]:
            sizes = draft.nodes[second].shape
            values.append(draft.add(Combine((-1, 1)), (second, values[-1]), sizes))
    chosen = tuple(sorted({0, *(draft.pick(len(values)) for _ in range(3)), len(values) - 1}))
    sources = tuple(values[i] for i in chosen)
    shapes = tuple(draft.nodes[source].shape for source in sources)
    total = sum(shape[0] for shape in shapes)
    everything = draft.add(NonNegative(joined, shapes), sources, (total,))
    draft.dense(everything, 1 + draft.pick(3))


def random_network(seed: int, family: str, activations: Sequence[Activation]) -> Network:
    """A network of the family with these activations in order."""
    generator = torch.Generator().manual_seed(seed)
    if family == "convolution":
        draft = Draft(generator, (1, 1 + seed % 2, 4 + seed % 2, 5))
        _image(draft, activations, wide=False)
    elif family == "wide_convolution":
        draft = Draft(generator, (1, 9, 4, 3 + seed % 2))
        _image(draft, activations, wide=True)
    else:
        draft = Draft(generator, (1 + seed % 3,))
        {"chain": _chain, "residual": _residual, "tangle": _tangle}[family](draft, activations)
    return draft.network()


def random_box(network: Network, batch: int, seed: int, radius: float = 0.7) -> Bounds:
    """Input boxes around random centres, often far from 0; some inputs are single points. Other variables: unbounded."""
    generator = torch.Generator().manual_seed(seed)
    centre = 1.5 * torch.randn(batch, network.inputs, generator=generator, dtype=DOUBLE)
    spread = radius * torch.rand(batch, network.inputs, generator=generator, dtype=DOUBLE)
    spread = torch.where(torch.rand(spread.shape, generator=generator) < 0.1, 0.0, spread)
    unknown = torch.full((batch, network.variables - network.inputs), math.inf, dtype=DOUBLE)
    return Bounds(torch.cat([centre - spread, -unknown], 1), torch.cat([centre + spread, unknown], 1))


def samples(lower: Tensor, upper: Tensor, count: int, seed: int = 0) -> Tensor:
    """Points of the boxes [batch, inputs]: corners, the middle, and uniform ones; [batch, count, inputs]."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(lower.shape[0], count, lower.shape[1], generator=generator, dtype=DOUBLE)
    share[:, : count // 4] = share[:, : count // 4].round()
    share[:, -1] = 0.5
    points = lower[:, None] + (upper - lower)[:, None] * share
    return torch.minimum(torch.maximum(points, lower[:, None]), upper[:, None])


def variables(network: Network, x: Tensor) -> Tensor:
    """The values of all variables at inputs [count, inputs]: [count, variables]."""
    values = network.values(x)
    return torch.cat([x, *(values[layer.pre_node].flatten(1) for layer in network.layers)], 1)


def random_objective(network: Network, batch: int, objectives: int, rows: int, seed: int) -> Objective:
    """Objectives on the outputs, every other time on the inputs as well."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=DOUBLE)

    inputs = network.inputs if seed % 2 else 0
    return Objective(
        normal(batch, objectives, rows, network.outputs), normal(batch, objectives, rows),
        normal(batch, objectives, rows, inputs),
    )  # fmt: skip


def random_splits(network: Network, bounds: Bounds, depth: int, seed: int) -> tuple[Splits, Tensor]:
    """Splits, some of them padding, some of inputs, some of one variable twice; and a point of each box that keeps them."""
    generator = torch.Generator().manual_seed(seed)
    batch, inputs = len(bounds), network.inputs
    share = torch.rand(batch, inputs, generator=generator, dtype=DOUBLE)
    keeper = bounds.lower[:, :inputs] + share * (bounds.upper - bounds.lower)[:, :inputs]
    values = variables(network, keeper)
    variable = torch.randint(network.variables, (batch, depth), generator=generator)
    side = torch.randint(2, (batch, depth), generator=generator) * 2 - 1
    here = values.gather(1, variable)
    end = torch.where(side > 0, bounds.lower.gather(1, variable), bounds.upper.gather(1, variable))
    value = here + torch.rand(batch, depth, generator=generator, dtype=DOUBLE) * (end - here)
    padding = torch.rand(batch, depth, generator=generator) < 0.2
    return Splits(torch.where(padding, -1, variable), value, side), keeper


def kept(splits: Splits, row: int, values: Tensor) -> Tensor:
    """Which of the values of all variables [count, variables] satisfy one row's splits."""
    inside = torch.ones(values.shape[0], dtype=torch.bool)
    for variable, value, side in zip(splits.variable[row], splits.value[row], splits.side[row], strict=True):
        if variable >= 0:
            inside &= (values[:, variable] - value) * side >= 0
    return inside


def random_state(like: DualState, seed: int) -> DualState:
    """A dual point far from the initial one; not yet clamped."""
    generator = torch.Generator().manual_seed(seed)
    found = {name: torch.randn(part.shape, generator=generator, dtype=DOUBLE) for name, part in like.items()}
    for name, noise in found.items():
        found[name] = {"alpha": like[name] + noise, "constraint_weights": noise.exp()}.get(name, 2 * noise)
    return DualState(found)


def above(cuts: Cuts, network: Network, x: Tensor) -> Tensor:
    """How far each cut is above its output at inputs, [points, cuts]."""
    values = {node: value.flatten(1) for node, value in enumerate(network.values(x))}
    found = x.new_full((len(x), len(cuts)), torch.nan)
    for layer in network.layers:
        part = cuts.on(layer)
        if part is not None:
            heights = part.heights(values[layer.pre_node][:, None], values)
            found[:, part.own] = heights - values[layer.node][:, part.place]
    return found


activation_lists: st.SearchStrategy[list[Activation]] = st.lists(
    st.sampled_from(EXAMPLES), min_size=1, max_size=3
)
seeds: st.SearchStrategy[int] = st.integers(0, 10**6)


@st.composite
def networks(draw: st.DrawFn, families: Sequence[str] = FAMILIES) -> Network:
    """Networks of any family with any mixture of activations."""
    return random_network(draw(seeds), draw(st.sampled_from(families)), draw(activation_lists))


class NetworkRunner:
    """A network as its own ground truth, so that a search can run where there is no ONNX file."""

    def __init__(self, network: Network) -> None:
        self.network = network

    def __call__(self, samples: NDArray[np.floating]) -> NDArray[np.floating]:
        """The outputs at inputs, [batch, ...] both, each sample as if alone."""
        with torch.no_grad():
            found = [self.network.forward(torch.tensor(sample, dtype=DOUBLE)[None]) for sample in samples]
        outputs: NDArray[np.floating] = torch.cat(found).numpy()
        return outputs


def loaded(network: Network) -> LoadedModel:
    """The network as if it had been loaded, its own ground truth in float64."""
    return LoadedModel(
        network,
        NetworkRunner(network),
        "X",
        "Y",
        network.nodes[0].shape,
        (network.outputs,),
        "float64",
        Counter(),
        None,
    )


Layers = Sequence[tuple[NDArray[np.floating], NDArray[np.floating]]]


def relu_model(layers: Layers, name: str = "net") -> onnx.ModelProto:
    """Dense layers with ReLUs between them, in the element type of the weights."""
    dtype = layers[0][0].dtype
    element = helper.np_dtype_to_tensor_dtype(dtype)
    nodes, constants, value = [], [], "X"
    for i, (weight, bias) in enumerate(layers):
        constants += [
            numpy_helper.from_array(weight, f"W{i}"), numpy_helper.from_array(bias.astype(dtype), f"b{i}"),
        ]  # fmt: skip
        last = i == len(layers) - 1
        nodes.append(
            helper.make_node("Gemm", [value, f"W{i}", f"b{i}"], ["Y" if last else f"z{i}"], transB=1)
        )
        if not last:
            nodes.append(helper.make_node("Relu", [f"z{i}"], [f"h{i}"]))
        value = f"h{i}"
    ends = [("X", layers[0][0].shape[1]), ("Y", layers[-1][0].shape[0])]
    tensors = [helper.make_tensor_value_info(end, element, [1, size]) for end, size in ends]
    graph = helper.make_graph(nodes, name, tensors[:1], tensors[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def random_layers(seed: int, sizes: Sequence[int]) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Random float32 weights and biases."""
    random = np.random.default_rng(seed)
    return [
        (
            (random.standard_normal((after, before)) * (2 / before) ** 0.5).astype(np.float32),
            (0.3 * random.standard_normal(after)).astype(np.float32),
        )
        for before, after in pairwise(sizes)
    ]


def property_text(lower: Sequence[float], upper: Sequence[float], outputs: int, unsafe: str) -> str:
    """VNN-LIB: a box and an unsafe condition given as an s-expression."""
    lines = [f"(declare-const X_{i} Real)" for i in range(len(lower))]
    lines += [f"(declare-const Y_{i} Real)" for i in range(outputs)]
    for i, (low, high) in enumerate(zip(lower, upper, strict=True)):
        lines += [f"(assert (>= X_{i} {float(low)!r}))", f"(assert (<= X_{i} {float(high)!r}))"]
    return "\n".join([*lines, f"(assert {unsafe})", ""])


def row_text(coefficients: Sequence[float], threshold: float) -> str:
    """`coefficients . Y <= threshold` as an s-expression."""
    terms = " ".join(f"(* {float(c)!r} Y_{i})" for i, c in enumerate(coefficients))
    return f"(<= (+ {terms} 0.0) {float(threshold)!r})"
