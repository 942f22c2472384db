"""The checker's linear maps and activations: transposes, absolute values, exactness."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

from verify.checker.activations import apply
from verify.checker.errors import Refused
from verify.checker.maps import Convolution, Dense, Gather, Identity, Map, Scale
from verify.checker.network import Activation, Affine, Input, Network
from verify.checker.rationals import rational, rationals

RANDOM = np.random.default_rng(0)


def small(*shape: int) -> np.ndarray:
    return RANDOM.integers(-4, 5, shape).astype(np.float64)


def convolutions() -> list[Map]:
    made = []
    for groups, stride, dilation, begin, transposed in itertools.product(
        (1, 2), (1, 2), (1, 2), (0, 1), (False, True)
    ):
        large = (2, 4, 3)
        places = [(n + 2 * begin - dilation * (k - 1) - 1) // stride + 1 for n, k in ((4, 2), (3, 2))]
        weight = small(2, 2 // groups, 2, 2)
        geometry = ((stride, stride), (dilation, dilation), (begin, begin))
        made.append(Convolution(weight, 2, large, (2, *places), groups, *geometry, transposed))
    return made


def sparse(rows: int, columns: int, share: float) -> np.ndarray:
    """A matrix most of whose entries are 0; some columns have none that is not."""
    return small(1, rows, columns) * (RANDOM.uniform(size=(1, rows, columns)) < share)


MAPS: list[Map] = [
    Identity(4),
    Scale(small(5), 5),
    Scale(np.array(-2.0), 3),
    Scale(np.array([0.1, 0.5]), 2, rationals(np.array([Fraction(1, 10), Fraction(1, 2)], dtype=object)), 2),
    Dense(small(1, 3, 4), 2),
    Dense(small(2, 3, 4), 5),
    Dense(sparse(90, 70, 0.01), 1),
    Dense(sparse(90, 3, 0.02), 2),
    Dense(np.zeros((1, 9, 2)), 1),
    Gather(np.array([[2], [0], [1]]), 3),
    Gather(np.array([[2], [-1], [1]]), 4),
    Gather(np.array([[2, 0], [-1, 2], [2, 2], [-1, -1]]), 4),
    Convolution(small(3, 2, 3), 1, (2, 7), (3, 7), 1, (1,), (1,), (1,)),
    Convolution(small(1, 1, 2, 1, 2), 1, (1, 3, 2, 3), (1, 2, 2, 2), 1, (1, 1, 1), (1, 1, 1), (0, 0, 0)),
    *convolutions(),
]


@pytest.mark.parametrize("index", range(len(MAPS)))
def test_exact_transpose_and_absolute(index: int) -> None:
    mapping = MAPS[index].exact()
    x, c = rationals(small(3, mapping.sources)), rationals(small(3, mapping.size))
    ahead, back = mapping.forward(x), mapping.transpose(c)
    assert ahead.shape == c.shape and back.shape == x.shape
    assert ((c * ahead).sum(1) == (x * back).sum(1)).all()
    unit = rationals(np.eye(mapping.sources))
    matrix = mapping.forward(unit)
    assert (mapping.transpose(rationals(np.eye(mapping.size))) == matrix.T).all()
    assert (mapping.absolute().forward(unit) == np.abs(matrix)).all()
    assert max((matrix != 0).sum(0).max(), (matrix != 0).sum(1).max()) <= mapping.terms


@pytest.mark.parametrize("index", range(len(MAPS)))
def test_floats_agree_with_rationals(index: int) -> None:
    mapping = MAPS[index]
    x, c = small(3, mapping.sources), small(3, mapping.size)
    exact = mapping.exact()
    np.testing.assert_allclose(mapping.forward(x), exact.forward(rationals(x)).astype(float), rtol=1e-15)
    np.testing.assert_allclose(mapping.transpose(c), exact.transpose(rationals(c)).astype(float), rtol=1e-15)
    assert mapping.absolute().forward(np.abs(x)).shape == (3, mapping.size)


def test_few_entries_are_the_whole_product() -> None:
    """Those that are not 0 alone are multiplied with, either way, where they are few."""
    ways = [mapping._few for mapping in MAPS if isinstance(mapping, Dense)]
    assert {(forth is None, back is None) for forth, back in ways} >= {(True, True), (False, False)}
    for mapping in MAPS:
        if isinstance(mapping, Dense) and len(mapping.weight) == 1:
            x = small(3, mapping.sources)
            whole = x.reshape(-1, mapping.weight.shape[1]) @ mapping.weight[0]
            np.testing.assert_array_equal(mapping.forward(x), whole.reshape(3, -1))


def test_few_entries_and_what_is_not_known() -> None:
    """An overflow times 0 is not 0, however a product is made."""
    mapping = Dense(sparse(90, 70, 0.01), 1)
    x = small(3, mapping.sources)
    x[1, 0] = np.inf
    with np.errstate(all="ignore"):
        found = mapping.forward(x)
    assert np.isfinite(found[[0, 2]]).all() and not np.isfinite(found[1]).any()


def test_activations() -> None:
    z = np.array([[-3.0, -0.5, 0.25, 2.0]])
    half, limits = (Fraction(1, 2),), (Fraction(-1), Fraction(1))
    expected = {
        ("relu", ()): [0, 0, 0.25, 2], ("leaky", half): [-1.5, -0.25, 0.25, 2], ("clip", limits): [-1, -0.5, 0.25, 1],
        ("clip", (-np.inf, Fraction(0))): [-3, -0.5, 0, 0], ("abs", ()): [3, 0.5, 0.25, 2],
        ("square", ()): [9, 0.25, 0.0625, 4], ("reciprocal", ()): [-1 / 3, -2, 4, 0.5],
        ("power", (Fraction(3),)): [-27, -0.125, 1 / 64, 8], ("power", (Fraction(4),)): [81, 1 / 16, 1 / 256, 16],
        ("product", ()): [-0.75, -1],
    }  # fmt: skip
    for (kind, parameters), values in expected.items():
        np.testing.assert_allclose(apply(kind, parameters, z), [values])
        np.testing.assert_allclose(apply(kind, parameters, rationals(z)).astype(float), [values])
    np.testing.assert_allclose(apply("sigmoid", (), z), 1 / (1 + np.exp(-z)))
    np.testing.assert_allclose(apply("tanh", (), z), np.tanh(z))
    assert apply("sigmoid", (), np.array([[-1e4, 1e4]])).tolist() == [[0.0, 1.0]]
    for kind, parameters, values in [
        ("tanh", (), rationals(z)), ("softmax", (), z), ("relu", (1,), z), ("leaky", (), z),
    ]:  # fmt: skip
        with pytest.raises(Refused):
            apply(kind, parameters, values)


def test_network_checks_its_nodes() -> None:
    given = Input(2, (1, 2))
    relu = Activation("relu", (), 0, (2,))
    network = Network((given, relu, Affine(((Dense(small(1, 2, 3), 1), 1),), np.zeros(3), (3,))))
    assert (network.inputs, network.outputs, network.variables) == (2, 3, 4)
    assert [layer[:3] for layer in network.layers] == [(1, 0, slice(2, 4))]
    assert network.values(np.ones((5, 2)))[-1].shape == (5, 3)
    wrong: list[tuple] = [
        (relu,), (given, given), (given, Activation("relu", (), 1, (2,))), (given, Activation("relu", (), 0, (3,))),
        (given, Affine(((Identity(2), 0),), np.zeros(3), (2,))), (given, Affine((), np.zeros(2), (2,))),
        (given, Affine(((Identity(3), 0),), np.zeros(3), (3,))), (Input(2, (3,)),),
        (given, Activation("product", (), 0, (2,))),
    ]  # fmt: skip
    for nodes in wrong:
        with pytest.raises(Refused):
            Network(nodes)
    with pytest.raises(Refused):
        network.values(np.ones((1, 3)))


def test_exact_values_keep_what_floats_lose() -> None:
    tiny = 2.0**-60
    network = Network((Input(1, (1,)), Affine(((Identity(1), 0),), np.array([-1.0]), (1,))))
    x = np.array([[Fraction(1) + Fraction(tiny)]], dtype=object)
    assert network.values(x)[-1][0, 0] == rational(tiny)
    assert network.values(x.astype(float))[-1][0, 0] == 0
