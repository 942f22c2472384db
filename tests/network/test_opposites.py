"""One ReLU for all that have equal or opposite pre-activations: the same function of fewer neurons, or else nothing is changed."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from nets import property_text, relu_model
from torch import Tensor

from verify import verify
from verify.bounders.ibp import interval
from verify.lagrangian.dual import DualProblem
from verify.network import opposites
from verify.network.activations import Activation, Relu, Sigmoid
from verify.network.affine import Dense
from verify.network.convolution import Convolution
from verify.network.graph import Network, Node
from verify.network.opposites import without_opposites
from verify.state import Objective

DOUBLE = torch.float64
# the minimum of two values as comparing lattices have it: (a + b - |a - b|) / 2
PAIR = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]], dtype=DOUBLE)
LESS = torch.tensor([[0.5, -0.5, -0.5, -0.5]], dtype=DOUBLE)


def chain(*maps: Dense, activation: Activation | None = None) -> Network:
    """Dense maps with activations between."""
    nodes = [Node(None, (), (maps[0].weight.shape[1],))]
    for dense in maps:
        if len(nodes) > 1:
            nodes.append(Node(activation or Relu(), (len(nodes) - 1,), nodes[-1].shape))
        nodes.append(Node(dense, (len(nodes) - 1,), (len(dense.weight),)))
    return Network(tuple(nodes))


def short(generator: torch.Generator, *shape: int) -> Tensor:
    """Numbers of few bits, so that their sums are exact."""
    return torch.randint(-8, 9, shape, generator=generator).to(DOUBLE) / 4


def planted(generator: torch.Generator, kinds: int, rows: int, inputs: int, bias: bool) -> Dense:
    """Rows of some kinds, with either sign; the first kind is 0."""
    weight, constant = short(generator, kinds, inputs), short(generator, kinds)
    weight[0] = 0
    of = torch.cat([torch.arange(kinds), torch.randint(kinds, (rows - kinds,), generator=generator)])
    of = of[torch.randperm(rows, generator=generator)]
    sign = torch.randint(2, (rows,), generator=generator) * 2.0 - 1
    return Dense(sign[:, None] * weight[of], sign * constant[of] if bias else None)


def network_of(seed: int, layers: int = 2) -> Network:
    """Layers of which ten neurons are of four kinds, one behind the other, with and without biases."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (3, *[10] * layers)
    maps = [
        planted(generator, 4, rows, inputs, bool((seed + number) % 2))
        for number, (inputs, rows) in enumerate(itertools.pairwise(sizes))
    ]
    return chain(*maps, Dense(short(generator, 2, 10), short(generator, 2) if seed % 3 else None))


@pytest.mark.parametrize("seed", range(12))
def test_it_is_the_same_function_of_fewer_neurons(seed: int) -> None:
    network = network_of(seed)
    without = without_opposites(network)
    assert max(layer.size for layer in without.layers) <= 4
    x = short(torch.Generator().manual_seed(seed), 200, network.inputs)
    assert torch.equal(network.forward(x), without.forward(x))
    assert without_opposites(without) is without


def test_a_minimum_is_one_neuron() -> None:
    network = without_opposites(chain(Dense(PAIR), Dense(LESS)))
    assert [layer.size for layer in network.layers] == [1]
    x = short(torch.Generator().manual_seed(0), 50, 2)
    assert torch.equal(network.forward(x)[:, 0], x.amin(1))


@pytest.mark.parametrize("seed", range(8))
def test_bounds_are_no_looser(seed: int) -> None:
    """CROWN's, of one layer."""
    network = network_of(seed, layers=1)
    centre = short(torch.Generator().manual_seed(seed), 5, network.inputs)
    found = []
    for one in (network, without_opposites(network)):
        bounds, _ = interval(one, centre - 0.7, centre + 0.6)
        rows = torch.eye(2, dtype=DOUBLE)[None, :, None].expand(5, 2, 1, 2)
        ends, none = torch.cat([rows, -rows], 1), torch.zeros(5, 4, 1, dtype=DOUBLE)
        problem = DualProblem(one, bounds, Objective(ends, none, none[..., None][..., :0]))
        found.append(problem.evaluate(problem.initial()).bound)
    assert bool((found[1] >= found[0] - 1e-9).all())


def test_a_value_is_no_interval() -> None:
    """`relu(p) - relu(-p)` is p; each relaxed alone, it may be half an interval off."""
    network = chain(
        Dense(torch.tensor([[1.0], [-1.0]], dtype=DOUBLE)), Dense(torch.tensor([[1.0, -1.0]], dtype=DOUBLE))
    )
    without = without_opposites(network)
    end = torch.ones(1, 1, dtype=DOUBLE)
    _, outputs = interval(without, -end, end)
    assert float(outputs[0].abs().max()) <= 1 + 1e-9


@pytest.mark.parametrize(
    "reader",
    [[[1.0, 2.0**-60]], [[torch.nan, 1.0]], [[torch.inf, -torch.inf]], [[1e300, 2e-300]]],
    ids=str,
)
def test_what_takes_rounding_is_left(reader: list[list[float]]) -> None:
    same = Dense(torch.tensor([[1.0, 2.0], [-1.0, -2.0]], dtype=DOUBLE))
    network = chain(same, Dense(torch.tensor(reader, dtype=DOUBLE)))
    assert without_opposites(network) is network


def test_only_what_is_agreed_on() -> None:
    """Of a layer of which nothing need stay, one neuron does."""
    asked: list[tuple[int, list[int]]] = []

    def agreed(number: int, kept: Tensor) -> bool:
        asked.append((number, kept.tolist()))
        return number == 1

    values = torch.eye(2, dtype=DOUBLE)
    split = Dense(torch.cat([values, -values]))
    joined = torch.cat([values, -values], 1)
    network = chain(split, Dense(split.weight @ joined), Dense(joined))
    without = without_opposites(network, agreed)
    assert asked == [(1, [0]), (0, [0])]
    assert [layer.size for layer in without.layers] == [4, 1]
    x = short(torch.Generator().manual_seed(0), 50, 2)
    assert torch.equal(network.forward(x), without.forward(x))


def test_what_is_too_small_is_not_nothing() -> None:
    """Of products that float64 has as 0 alone nothing would be left."""
    same = Dense(torch.tensor([[1e-200], [-1e-200]], dtype=DOUBLE))
    network = chain(same, Dense(torch.tensor([[0.0, 1e-200]], dtype=DOUBLE)))
    assert without_opposites(network) is network


def test_biases_that_take_rounding_are_left() -> None:
    same = Dense(PAIR[:2], torch.tensor([1.0, -1.0], dtype=DOUBLE))
    network = chain(same, Dense(LESS[:, :2], torch.tensor([2.0**-60], dtype=DOUBLE)))
    assert without_opposites(network) is network
    folded = Dense(LESS[:, :2], LESS[0, :1], 2 * LESS[0, :1].abs())  # of terms that cancelled in part
    network = chain(same, folded)
    assert without_opposites(network) is network


@pytest.mark.parametrize("place", [0, 1])
def test_biases_of_one_term_are_not_rounded(place: int) -> None:
    """A product of matrices with a bias added behind it is one map of such."""
    maps = [Dense(PAIR[:2], torch.tensor([1.0, -1.0], dtype=DOUBLE)), Dense(LESS[:, :2], LESS[0, :1])]
    bias = maps[place].bias
    assert bias is not None
    maps[place] = replace(maps[place], bias_size=bias.abs())
    network = chain(*maps)
    without = without_opposites(network)
    assert without.variables < network.variables
    x = short(torch.Generator().manual_seed(0), 50, 2)
    assert torch.equal(network.forward(x), without.forward(x))
    assert all(getattr(node.operator, "bias_size", None) is None for node in without.nodes)


@pytest.mark.parametrize("rows", [[[1.0, 2.0], [-1.0, 2.0]], [[1.0, torch.nan], [-1.0, torch.nan]]], ids=str)
def test_what_is_not_alike_is_left(rows: list[list[float]]) -> None:
    network = chain(Dense(torch.tensor(rows, dtype=DOUBLE)), Dense(LESS[:, :2]))
    assert without_opposites(network) is network
    biased = chain(Dense(PAIR[:2], torch.ones(2, dtype=DOUBLE)), Dense(LESS[:, :2]))
    assert without_opposites(biased) is biased


def test_only_relus_that_nothing_else_reads() -> None:
    curved = chain(Dense(PAIR), Dense(LESS), activation=Sigmoid())
    assert without_opposites(curved) is curved
    plain = chain(Dense(PAIR), Dense(LESS))
    both = replace(plain, nodes=(*plain.nodes, Node(Dense(LESS), (1,), (1,))))
    assert without_opposites(both) is both


def test_equal_digests_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of the same numbers in another order have one digest here."""
    monkeypatch.setattr(opposites, "_SPREAD", 0)
    rows = torch.tensor([[1.0, 2.0], [2.0, 1.0], [-1.0, -2.0], [-2.0, -1.0]], dtype=DOUBLE)
    network = chain(Dense(rows), Dense(LESS))
    without = without_opposites(network)
    x = short(torch.Generator().manual_seed(0), 50, 2)
    assert torch.equal(network.forward(x), without.forward(x))


def test_at_every_place() -> None:
    """Rows are a layer's whatever axes are before them."""
    generator = torch.Generator().manual_seed(0)
    maps = planted(generator, 4, 10, 3, True), Dense(short(generator, 2, 10))
    shapes = (1, 5, 3), (1, 5, 10), (1, 5, 10), (1, 5, 2)
    operators = None, maps[0], Relu(), maps[1]
    network = Network(
        tuple(
            Node(one, (i - 1,) if i else (), shape)
            for i, (one, shape) in enumerate(zip(operators, shapes, strict=True))
        )
    )
    without = without_opposites(network)
    assert [layer.size for layer in without.layers] == [5 * 4]
    x = short(generator, 20, 15)
    assert torch.equal(network.forward(x), without.forward(x))


def convolved(first: Tensor, second: Tensor, groups: int = 1, transposed: bool = False) -> Network:
    """Two convolutions of images of 7 by 7, the first of stride 2, and a ReLU between."""
    ones, twos = (1, 1), (2, 2)
    shape = (1, first.shape[1] * groups, 7, 7)
    own = Convolution(first, first.sum((1, 2, 3)), twos, ones, ones, groups, shape)
    pad = (second.shape[2] // 2,) * 2
    read = Convolution(second, None, ones, pad, ones, 1, own.output_shape, transposed)
    shapes = shape, own.output_shape, own.output_shape, read.output_shape
    operators = None, own, Relu(), read
    return Network(
        tuple(
            Node(one, (i - 1,) if i else (), shape)
            for i, (one, shape) in enumerate(zip(operators, shapes, strict=True))
        )
    )


def test_channels_that_were_split() -> None:
    """`p = relu(p) - relu(-p)` for one channel of two, put together by a convolution of single places."""
    generator = torch.Generator().manual_seed(1)
    kernels = short(generator, 2, 3, 3, 3)
    network = convolved(
        kernels[[0, 0, 1]] * torch.tensor([1.0, -1.0, 1.0])[:, None, None, None],
        torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 1.0]], dtype=DOUBLE)[..., None, None],
    )
    without = without_opposites(network)
    assert [layer.size for layer in without.layers] == [4 * 4]
    x = short(generator, 20, network.inputs)
    assert torch.equal(network.forward(x), without.forward(x))


@pytest.mark.parametrize("kind", ["wide reader", "groups", "transposed reader"])
def test_other_convolutions_are_left(kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    groups = 2 if kind == "groups" else 1
    one = short(generator, 1, 2, 3, 3)
    size = 3 if kind == "wide reader" else 1
    network = convolved(
        torch.cat([one, -one]), short(generator, 2, 2, size, size), groups, kind == "transposed reader"
    )
    assert without_opposites(network) is network


def test_equal_rows_alone() -> None:
    """Nothing goes round the ReLU."""
    network = without_opposites(chain(Dense(PAIR[[0, 0, 2]]), Dense(LESS[:, :3])))
    assert [layer.size for layer in network.layers] == [1]  # half of `a + b` less half of itself
    assert len(network.nodes) == 4


def test_of_numbers_of_all_sizes() -> None:
    """Where only sums of a few numbers are exact."""
    generator = torch.Generator().manual_seed(2)
    rows = (
        (torch.randn(6, 40, generator=generator, dtype=DOUBLE) * 2.0 ** (torch.arange(40) - 30))
        .float()
        .double()
    )
    merge = torch.cat([torch.eye(6, dtype=DOUBLE), -torch.eye(6, dtype=DOUBLE)[:, :3]], 1)
    network = chain(Dense(torch.cat([rows, -rows[:3]])), Dense(merge))
    without = without_opposites(network)
    assert [layer.size for layer in without.layers] == [3]
    x = torch.randn(50, 40, generator=generator, dtype=DOUBLE)
    assert torch.allclose(network.forward(x), without.forward(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("split", [(0,), (0, 1)])
def test_a_layer_of_split_relus_is_gone(split: tuple[int, ...]) -> None:
    """What was not split passes two ReLUs, of which the second does for both; where it is scaled by less than 0, or shifted, it does not."""
    generator = torch.Generator().manual_seed(1)
    own = Dense(short(generator, 2, 3), short(generator, 2))
    assert own.bias is not None
    halves = Dense(torch.cat([own.weight, -own.weight[[*split]]]), torch.cat([own.bias, -own.bias[[*split]]]))
    merge = torch.cat([torch.eye(2, dtype=DOUBLE) * 2, -torch.eye(2, dtype=DOUBLE)[:, [*split]] * 2], 1)
    x = short(generator, 50, 3)
    for turned, bias, layers in ((1.0, None, 1), (-1.0, None, 2), (1.0, torch.ones(2, dtype=DOUBLE), 2)):
        network = chain(halves, Dense(turned * merge, bias), Dense(short(generator, 2, 2)))
        without = without_opposites(network)
        assert len(without.layers) == (1 if len(split) == 2 else layers)
        assert torch.equal(network.forward(x), without.forward(x))


def test_several_readers() -> None:
    """Each has its own share of what is left."""
    first = chain(Dense(PAIR), Dense(LESS))
    nodes = (*first.nodes, Node(Dense(LESS.flip(1)), (2,), (1,)))
    joined = Network((*nodes, Node(Dense(torch.ones(1, 1, dtype=DOUBLE)), (4,), (1,))))
    x = short(torch.Generator().manual_seed(0), 50, 2)
    assert torch.equal(joined.forward(x), without_opposites(joined).forward(x))


@pytest.mark.parametrize(("threshold", "verdict"), [(1.5, "unsat"), (0.5, "sat")])
def test_searches_on_it(threshold: float, verdict: str) -> None:
    """The minimum of four inputs in [0, 1]."""
    pairs = np.kron(np.eye(2), PAIR.numpy()).astype(np.float32), np.zeros(8, np.float32)
    least = (PAIR.numpy() @ np.kron(np.eye(2), LESS.numpy())).astype(np.float32), np.zeros(4, np.float32)
    last = LESS.numpy().astype(np.float32), np.zeros(1, np.float32)
    text = property_text([0.0] * 4, [1.0] * 4, 1, f"(>= Y_0 {threshold})")
    result = verify(relu_model([pairs, least, last]), text)
    assert result.verdict == verdict
