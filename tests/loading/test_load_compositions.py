"""Operators lowered to several activations: against ONNX Runtime or torch, and bounds through them against samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import numpy as np
import onnx
import pytest
import torch
from nets import samples
from onnx import TensorProto, helper
from onnx_models import X, case, floats, model_of, scalar, weights
from test_load_modules import Function
from test_load_operators import agree
from torch import Tensor, nn
from torch.nn import functional as F

from verify.bounders.ibp import interval, magnitudes
from verify.bounders.intermediate import IntermediateBounds
from verify.bounders.restricted import Restricted
from verify.deadline import Deadline
from verify.errors import UnsupportedOperatorError
from verify.lagrangian.dual import DualProblem
from verify.loading import LoadedModel, calls, load
from verify.network.activations import Copy, Exp, Floor, Gelu, Positive, Product, Reciprocal, Rsqrt, Swish
from verify.network.activations.matrix_product import MatrixProduct
from verify.network.graph import Network
from verify.state import Bounds, Objective

DOUBLE = torch.float64


def kinds(loaded: LoadedModel) -> list[str]:
    """The activations' names in order."""
    return [layer.activation.name for layer in loaded.network.layers]


def chain(*steps: Any, shape: Sequence[int] = (1, 4), **constants: Any) -> onnx.ModelProto:
    """A model of (operator, operands, attributes); results are called "1", "2", ..., the last is the output."""
    nodes = [
        helper.make_node(operator, list(operands), [str(number)], **dict(*attributes))
        for number, (operator, operands, *attributes) in enumerate(steps, start=1)
    ]
    return model_of(nodes, shape, constants, str(len(steps)), 17)


FLOAT = {"to": TensorProto.FLOAT}
COMPARED: list[tuple[str, onnx.ModelProto]] = [
    *(
        (name, chain((name, [X, "c"]), ("Cast", ["1"], FLOAT), c=floats(0.3, -0.2, 0.0, 0.7)))
        for name in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")
    ),
    ("constant left", chain(("Greater", ["c", X]), ("Cast", ["1"], FLOAT), c=scalar(0.1))),
    (
        "where of values",
        chain(("Neg", [X]), ("Less", [X, "1"]), ("Exp", [X]), ("Where", ["2", "3", "1"])),
    ),
    ("where of constants", chain(("Less", [X, "c"]), ("Where", ["1", "c", "d"]), c=scalar(0.1), d=scalar(2.0))),
    ("where and a constant", chain(("Less", [X, "c"]), ("Where", ["1", X, "c"]), c=scalar(0.1))),
    (
        "logic",
        chain(
            ("Less", [X, "c"]), ("Greater", [X, "d"]), ("And", ["1", "2"]), ("Not", ["3"]), ("Or", ["4", "1"]),
            ("Cast", ["5"], FLOAT), c=scalar(0.5), d=scalar(-0.5),
        ),
    ),
    ("to integers", chain(("Mul", [X, "c"]), ("Cast", ["1"], {"to": 7}), ("Cast", ["2"], FLOAT), c=scalar(3.0))),
    (
        "counted",
        chain(
            ("Greater", [X, "c"]), ("Cast", ["1"], {"to": 6}), ("Equal", ["2", "d"]), ("Cast", ["3"], FLOAT),
            ("ReduceSum", ["4"], {"keepdims": 0}), c=scalar(0.0), d=np.array([[1, 0, 1, 0]], dtype=np.int32),
        ),
    ),
    ("to truth", chain(("Relu", [X]), ("Cast", ["1"], {"to": 9}), ("Cast", ["2"], FLOAT))),
]  # fmt: skip


@pytest.mark.parametrize("model", [model for _, model in COMPARED], ids=[name for name, _ in COMPARED])
def test_comparisons(model: onnx.ModelProto) -> None:
    loaded = load(model)
    assert {Positive.name, Floor.name} & {*kinds(loaded)}
    agree(loaded)


def test_whole_numbers_are_compared_half_way_between() -> None:
    """A count that equals its target does so with room to spare, whatever rounding widens its interval by."""
    loaded = load(COMPARED[-2][1])
    last = next(layer for layer in reversed(loaded.network.layers) if isinstance(layer.activation, Positive))
    x = torch.tensor([[1.0, -1.0, 1.0, -1.0]], dtype=DOUBLE)
    assert bool((loaded.network.values(x)[last.pre_node].abs() >= 0.5).all())
    _, (low, high) = interval(loaded.network, x - 0.1, x + 0.1)
    assert float(low) == pytest.approx(4) and float(high) == pytest.approx(4)


def test_infinity_is_not_chosen() -> None:
    with pytest.raises(UnsupportedOperatorError, match="infinity"):
        load(Function(lambda x: torch.where(x > 0.1, x, torch.inf)), torch.zeros(1, 3))


def test_gates_are_recognised() -> None:
    """x sigmoid(k x) and x (1 + erf(k x)) in the spellings of exporters are one curved layer each."""
    silu = chain(("Sigmoid", [X]), ("Mul", [X, "1"]))
    scaled = chain(("Mul", [X, "c"]), ("Sigmoid", ["1"]), ("Mul", ["2", X]), c=scalar(1.702))
    root, one, half = scalar(2**0.5), scalar(1.0), scalar(0.5)
    gelu = chain(
        ("Div", [X, "r"]), ("Erf", ["1"]), ("Add", ["2", "o"]), ("Mul", [X, "3"]), ("Mul", ["4", "h"]),
        r=root, o=one, h=half,
    )  # fmt: skip
    first = chain(
        ("Mul", [X, "h"]), ("Div", [X, "r"]), ("Erf", ["2"]), ("Add", ["3", "o"]), ("Mul", ["1", "4"]),
        r=root, o=one, h=half,
    )  # fmt: skip
    for model, name in ((silu, Swish), (scaled, Swish), (gelu, Gelu), (first, Gelu)):
        loaded = load(model)
        assert kinds(loaded) == [name.name]
        agree(loaded)
    other = chain(("Sigmoid", [X]), ("Neg", [X]), ("Relu", ["2"]), ("Mul", ["3", "1"]))
    biased = chain(("Add", [X, "c"]), ("Sigmoid", ["1"]), ("Mul", [X, "2"]), c=scalar(1.0))
    for model in (other, biased):
        assert "Mul" in kinds(load(model))
        agree(load(model))


def test_the_inverse_of_a_root_is_one_layer() -> None:
    box = np.full(4, 0.5), np.full(4, 2.0)
    model = chain(("Sqrt", [X]), ("Reciprocal", ["1"]))
    loaded = load(model, box=box)
    assert kinds(loaded) == [Rsqrt.name]
    agree(loaded, positive=True)


def test_shared_factors_are_variables() -> None:
    """The entries of a product of matrices are bounded once, not once for each product."""
    nodes = [
        helper.make_node("MatMul", [X, "a"], ["q"]), helper.make_node("MatMul", [X, "b"], ["k"]),
        helper.make_node("MatMul", ["q", "k"], ["y"]),
    ]  # fmt: skip
    loaded = load(model_of(nodes, (2, 3, 3), {"a": weights(3, 3), "b": weights(3, 3)}, "y"))
    sizes = [(type(layer.activation), layer.size) for layer in loaded.network.layers]
    assert sizes == [(Copy, 18), (Copy, 18), (Product, 108)]
    agree(loaded)


def test_large_ones_stay_whole() -> None:
    """Their entries, not all their products and exponentials, are the variables; batches broadcast as in ONNX."""
    loaded = large_attention_net()
    assert kinds(loaded)[:3] == ["MatMul", "Softmax", "MatMul"]
    assert "Exp" not in kinds(loaded)
    agree(loaded)
    with mock.patch.object(calls, "MOST_BOUNDED", 0):
        nodes = [
            helper.make_node("Slice", [X, "0", "1", "0"], ["q"]), helper.make_node("Transpose", [X], ["k"], perm=[0, 2, 1]),
            helper.make_node("MatMul", ["q", "k"], ["y"]),
        ]  # fmt: skip
        ends = {name: np.array([int(name)]) for name in ("0", "1")}
        loaded = load(model_of(nodes, (2, 3, 4), ends, "y"))
        assert loaded.network.layers[0].activation == MatrixProduct(2, 3, 4, 3)
        agree(loaded)


def test_too_large_compositions_are_refused() -> None:
    with pytest.raises(UnsupportedOperatorError, match="exponentials"):
        load(chain(("Softmax", [X]), shape=(1, 4000)))
    with pytest.raises(UnsupportedOperatorError, match="products"):
        load(chain(("Transpose", [X]), ("MatMul", ["1", X]), shape=(200, 200)))


FUNCTIONS: list[Callable[[Tensor], Tensor]] = [
    torch.sin, torch.cos, torch.exp, torch.floor, torch.round, torch.erf, torch.atan, F.gelu, F.silu, F.softplus,
    F.elu, F.hardswish, F.mish, lambda x: x.softmax(-1), lambda x: torch.log_softmax(x, 1),
    lambda x: F.layer_norm(x, (4,)), lambda x: torch.where(x > 0.2, x, -x), lambda x: (1 + x * x).rsqrt(),
    lambda x: (1 + x.abs()).log(), lambda x: 2.0**x, lambda x: x.square().sum(-1).sqrt(),
    lambda x: torch.einsum("ij,kj->ki", x, x), lambda x: torch.cumsum(x, 1), lambda x: x.cumsum(dim=0),
    lambda x: torch.logsumexp(x, dim=(0, 1)), lambda x: x.logsumexp(1, keepdim=True), lambda x: torch.prod(x, 0),
]  # fmt: skip
MODULES: list[nn.Module] = [
    nn.GELU(), nn.GELU(approximate="tanh"), nn.SiLU(), nn.ELU(0.7), nn.SELU(), nn.Softplus(2.0), nn.Mish(),
    nn.Softmax(dim=1), nn.LogSoftmax(dim=0), nn.LayerNorm(4), nn.LayerNorm((3, 4), elementwise_affine=False),
    nn.Softsign(), nn.Hardswish(), nn.InstanceNorm1d(3, affine=True), nn.RMSNorm(4, eps=0.01), nn.GroupNorm(2, 4),
]  # fmt: skip


def test_an_epsilon_that_depends_on_the_element_type_is_refused() -> None:
    with pytest.raises(UnsupportedOperatorError, match="eps"):
        load(nn.Sequential(nn.RMSNorm(4)), torch.zeros(3, 4))


@pytest.mark.parametrize("number", range(len(FUNCTIONS) + len(MODULES)))
def test_torch(number: int) -> None:
    module = [*map(Function, FUNCTIONS), *map(nn.Sequential, MODULES)][number]
    shape = (
        (2, 3, 4) if "InstanceNorm" in str(module) else (3, 4, 2) if "GroupNorm" in str(module) else (3, 4)
    )
    end = np.full(int(np.prod(shape)), 2.0)
    agree(load(module, torch.zeros(shape), box=(-end, end)), 1e-4)


# soundness


class Attention(nn.Module):
    """One head over four tokens of three features, with its norm and feed-forward part."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.query, self.key, self.value = (nn.Linear(3, 3) for _ in range(3))
        self.norm, self.inner, self.outer = nn.LayerNorm(3), nn.Linear(3, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores = torch.matmul(self.query(x), self.key(x).transpose(-1, -2)) / 3**0.5
        x = x + torch.matmul(scores.softmax(-1), self.value(x))
        return x + self.outer(F.gelu(self.inner(self.norm(x))))


def softmax_net() -> LoadedModel:
    """A dense layer and a softmax, over wide boxes."""
    torch.manual_seed(1)
    return load(nn.Sequential(nn.Linear(3, 4), nn.Softmax(dim=1), nn.Linear(4, 2)), torch.zeros(1, 3))


def norm_net() -> LoadedModel:
    """Layer normalisation between dense layers."""
    torch.manual_seed(1)
    return load(nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Linear(5, 2)), torch.zeros(1, 3))


def attention_net() -> LoadedModel:
    """See `Attention`."""
    return load(Attention(), torch.zeros(1, 4, 3))


def large_attention_net() -> LoadedModel:
    """The same as if it were large: products of matrices and softmax are activations as a whole."""
    with mock.patch.object(calls, "MOST_BOUNDED", 0):
        return attention_net()


class Counting(nn.Module):
    """Entries of one dense layer where they are above another's, else the other's without their fractions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second = nn.Linear(3, 6), nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.first(x), self.second(x)
        return torch.where(first > second, first, torch.floor(second))


def counting_net() -> LoadedModel:
    """See `Counting`."""
    return load(Counting(), torch.zeros(1, 3))


def recurrent_net() -> LoadedModel:
    """The last state of a layer of long short-term memory after three steps."""
    operands = [
        X,
        *(np.random.default_rng(4).standard_normal(shape) for shape in ((1, 12, 2), (1, 12, 3), (1, 24))),
    ]
    operands[1:] = [operand.astype(np.float32) for operand in operands[1:]]
    return load(case("LSTM", operands, (3, 1, 2), hidden_size=3, results=2, taken=1).model())


NETS = (recurrent_net, softmax_net, norm_net, attention_net, large_attention_net, counting_net)


def check_sound(network: Network, radius: float, seed: int) -> None:
    """Intervals, CROWN's intermediate bounds and climbed bounds of the outputs, against samples of the box."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(1, network.inputs, generator=generator, dtype=DOUBLE)
    lower, upper = centre - radius, centre + radius
    points = samples(lower, upper, 400, seed)[0]
    values = network.values(points)
    bounds, (low, high) = interval(network, lower, upper)
    assert bool(((values[-1].flatten(1) >= low) & (values[-1].flatten(1) <= high)).all())
    tight = IntermediateBounds().tighten(network, bounds, Deadline())
    for layer in network.layers:
        z = values[layer.pre_node].flatten(1)
        for box in (bounds, tight):
            assert bool(((z >= box.lower[:, layer.variables]) & (z <= box.upper[:, layer.variables])).all())
    rows = torch.eye(network.outputs, dtype=DOUBLE)
    rows = torch.cat([rows, -rows])[None, :, None]
    objective = Objective(
        rows, torch.zeros(rows.shape[:3], dtype=DOUBLE), torch.zeros(*rows.shape[:3], 0, dtype=DOUBLE)
    )
    problem = DualProblem(network, tight, objective)
    for state in (problem.initial(), Restricted(iterations=15).ascend(problem, problem.initial()).state):
        found = problem.evaluate(problem.clamp(state), magnitudes(network, tight)).bound
        least = (values[-1].flatten(1) @ rows[0, :, 0].T).amin(0)
        assert bool((found <= least).all())
        assert bool(found.isfinite().all()) or radius > 1


@pytest.mark.parametrize("radius", [1e-9, 0.01, 0.1, 0.5, 3.0])
@pytest.mark.parametrize("net", NETS, ids=lambda net: net.__name__)
def test_bounds_hold_at_samples(net: Callable[[], LoadedModel], radius: float) -> None:
    network = net().network
    for seed in range(3):
        check_sound(network, radius, seed)


def test_softmax_stays_within_its_range() -> None:
    """Whatever the scores may be: outputs lie in [0, 1], and behind the reciprocal nothing is unbounded."""
    loaded = load(nn.Softmax(dim=1), torch.zeros(1, 5))
    assert kinds(loaded) == [Exp.name, "Clip", Reciprocal.name]
    lower = torch.full((1, 5), -50.0, dtype=DOUBLE)
    bounds: Bounds
    bounds, (low, high) = interval(loaded.network, lower, -lower)
    assert float(low.min()) >= 0 and float(high.max()) <= 1 + 1e-12
    assert bool(bounds.lower.isfinite().all())
