"""The checker's dual bound: whatever the multipliers, it is below the objective; float64 pays for its roundings.

Truth is a forward pass in Fractions written here (sigmoid, tanh, sine and cosine to 60 digits), float32 passes in several orders of summation,
and ONNX Runtime.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.soundness import FAMILIES
from verify.checker.activations import EXACT, PIECEWISE, default_rho, interval, minimum
from verify.checker.activations.base import KINDS
from verify.checker.bounding import Bounder, Objective
from verify.checker.clauses import Rows
from verify.checker.dual import Dual, Linear
from verify.checker.errors import Refused
from verify.checker.maps import Convolution, Dense, Gather, Identity, Map, Scale
from verify.checker.multipliers import Arithmetic, Multipliers
from verify.checker.network import Activation, Affine, Input, Network
from verify.checker.onnx_reader import read_model
from verify.checker.rationals import rationals
from verify.network.activations.relu import Relu

Array = np.ndarray[Any, Any]
ACTIVATIONS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("relu", ()),
    ("leaky", (Fraction(1, 10),)),
    ("leaky", (Fraction(-2, 5),)),
    ("leaky", (Fraction(7, 4),)),
    ("clip", (Fraction(-1, 2), Fraction(3, 4))),
    ("clip", (-math.inf, Fraction(1, 4))),
    ("clip", (Fraction(0), Fraction(6))),
    ("abs", ()),
    ("sigmoid", ()),
    ("tanh", ()),
    ("product", ()),
    ("square", ()),
    ("power", (Fraction(3),)),
    ("power", (Fraction(4),)),
    ("reciprocal", ()),
    ("sin", ()),
    ("cos", ()),
)
IDS = [f"{kind}{'_'.join(map(str, parameters))}" for kind, parameters in ACTIVATIONS]
every_activation = pytest.mark.parametrize(("kind", "parameters"), ACTIVATIONS, ids=IDS)
STRAIGHT = [one for one in ACTIVATIONS if one[0] in PIECEWISE]


def test_every_activation_is_tried() -> None:
    assert {kind for kind, _ in ACTIVATIONS} == set(KINDS)


# -- truth


def fraction(value: Any) -> Fraction:
    """Any number exactly (python-flint's too)."""
    return (
        Fraction(value) if isinstance(value, float | int | Fraction) else Fraction(int(value.p), int(value.q))
    )


def exponential(z: Fraction) -> Decimal:
    with localcontext(Context(prec=60)):
        return (Decimal(z.numerator) / Decimal(z.denominator)).exp()


def pi() -> Fraction:
    """To 90 digits, by Machin's formula."""

    def arctangent(inverse: int) -> Fraction:
        return sum(
            (Fraction((-1) ** k, (2 * k + 1) * inverse ** (2 * k + 1)) for k in range(70)), Fraction(0)
        ).limit_denominator(10**95)

    return 16 * arctangent(5) - 4 * arctangent(239)


PI = pi()


def sine(z: Fraction) -> Fraction:
    """By its series, near 0."""
    rest = z - 2 * PI * round(z / (2 * PI))
    with localcontext(Context(prec=60)):
        term = Decimal(rest.numerator) / Decimal(rest.denominator)
        square, found, k = term * term, term, 1
        while abs(term) > Decimal(10) ** -60 * abs(found):
            k += 2
            term = -term * square / (k * (k - 1))
            found += term
        return Fraction(found)


def activated(kind: str, parameters: tuple[Any, ...], z: list[Fraction]) -> list[Fraction]:
    """An activation by its definition."""
    if kind == "product":
        half = len(z) // 2
        return [a * b for a, b in zip(z[:half], z[half:], strict=True)]
    with localcontext(Context(prec=60)):
        function: Callable[[Fraction], Any] = {
            "relu": lambda v: max(v, Fraction(0)),
            "leaky": lambda v: v if v >= 0 else v * parameters[0],
            "clip": lambda v: min(max(v, parameters[0]), parameters[1]),
            "abs": abs,
            "sigmoid": lambda v: Fraction(1 / (1 + exponential(-v))),
            "tanh": lambda v: (
                Fraction(1 - 2 / (exponential(min(2 * v, Fraction(10**6))) + 1))
                if abs(v) > Fraction(1, 10**12)
                else v - v**3 / 3
            ),
            "square": lambda v: v * v,
            "power": lambda v: v ** int(parameters[0]),
            "reciprocal": lambda v: 1 / v,
            "sin": sine,
            "cos": lambda v: sine(v + PI / 2),
        }[kind]
        return [Fraction(function(v)) for v in z]


def matrix(mapping: Map) -> list[list[Fraction]]:
    """A map's matrix, [sources][size], column by column."""
    columns = mapping.exact().forward(rationals(np.eye(mapping.sources)))
    return [[fraction(value) for value in row] for row in columns.tolist()]


class Truth:
    """A network's exact values."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.matrices = {
            i: [(matrix(m), k) for m, k in node.operands]
            for i, node in enumerate(network.nodes)
            if isinstance(node, Affine)
        }

    def values(self, x: Sequence[Any]) -> list[list[Fraction]]:
        """The values of all nodes at one input."""
        found = [[Fraction(value) for value in x]]
        for i, node in enumerate(self.network.nodes):
            if isinstance(node, Activation):
                found.append(activated(node.kind, node.parameters, found[node.operand]))
            elif isinstance(node, Affine):
                total = [Fraction(value) for value in node.bias.tolist()]
                for rows, operand in self.matrices[i]:
                    for value, row in zip(found[operand], rows, strict=True):
                        if value:
                            total = [t + value * w for t, w in zip(total, row, strict=True)]
                found.append(total)
        return found

    def variables(self, values: list[list[Fraction]]) -> list[Fraction]:
        """The values of all variables."""
        return [*values[0], *(v for layer in self.network.layers for v in values[layer.operand])]


def rounded_values(network: Network, truth: Truth, x: Array, random: np.random.Generator) -> list[Array]:
    """The values of all nodes in float32: sums in a random order, in one go, in blocks, or with fused products."""
    found = [x.astype(np.float32)]
    for i, node in enumerate(network.nodes):
        if isinstance(node, Activation):
            z, numbers = found[node.operand], [np.float32(float(p)) for p in node.parameters]
            if node.kind == "leaky":
                found.append(np.where(z < 0, z * numbers[0], z))
            elif node.kind == "clip":
                found.append(np.minimum(np.maximum(z, numbers[0]), numbers[1]))
            else:
                found.append(np.abs(z) if node.kind == "abs" else np.maximum(z, np.float32(0)))
        elif isinstance(node, Affine):
            rows = [
                [(np.float32(v), np.float32(float(row[j]))) for m, k in truth.matrices[i]
                 for v, row in zip(found[k], m, strict=True) if row[j]] for j in range(node.size)
            ]  # fmt: skip
            biases = node.bias.astype(np.float32).tolist()
            values = [
                summed(terms, np.float32(bias), random) for terms, bias in zip(rows, biases, strict=True)
            ]
            found.append(np.array(values, dtype=np.float32))
    return found


def summed(
    terms: list[tuple[np.float32, np.float32]], bias: np.float32, random: np.random.Generator
) -> np.float32:
    """A sum of products and a bias in float32, in some order."""
    order = random.permutation(len(terms))
    way = random.integers(4)
    if way == 0 or not terms:  # fused, the bias first
        total = bias
        for place in order:
            total = np.float32(np.float64(terms[place][0]) * np.float64(terms[place][1]) + np.float64(total))
        return total
    products = np.array([terms[place][0] * terms[place][1] for place in order], dtype=np.float32)
    if way == 1:
        return np.float32(np.float32(np.cumsum(products, dtype=np.float32)[-1]) + bias)
    if way == 2:
        blocks = [np.sum(part, dtype=np.float32) for part in np.array_split(products, 3)]
        return np.float32(np.sum(np.array([bias, *blocks], dtype=np.float32), dtype=np.float32))
    return np.float32(np.sum(products, dtype=np.float32) + bias)


# -- random graphs


class Draft:
    """A random network under construction."""

    def __init__(self, seed: int, size: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = [Input(size, (size,))]

    def numbers(self, *shape: int) -> Array:
        """Random float32 numbers, some of them zero."""
        found = self.random.standard_normal(shape) * (self.random.random(shape) > 0.1)
        return np.asarray(found.astype(np.float32).astype(np.float64))

    def affine(self, *operands: tuple[Map, int]) -> int:
        """A sum of maps, with a bias every other time."""
        size = operands[0][0].size
        bias = self.numbers(size) * 0.5 if self.random.integers(2) else np.zeros(size)
        self.nodes.append(Affine(operands, bias, (size,)))
        return len(self.nodes) - 1

    def dense(self, source: int, size: int) -> tuple[Map, int]:
        """A dense map of a node."""
        before = self.nodes[source].size
        return Dense((self.numbers(1, before, size) / math.sqrt(before)).astype(np.float32).astype(float), 1), source  # fmt: skip

    def activation(self, source: int, kind: str, parameters: tuple[Any, ...]) -> int:
        """An activation of a map of a node, away from 0 for a reciprocal."""
        size = self.nodes[source].size
        if kind == "product":
            source = self.affine(self.dense(source, 2 * size))
        if kind == "reciprocal":
            self.nodes.append(Activation("clip", (Fraction(1, 2), Fraction(3)), source, (size,)))
            source = len(self.nodes) - 1
            if self.random.integers(2):
                source = self.affine((Scale(np.array(-1.0), size), source))
                self.nodes[source] = Affine(self.nodes[source].operands, np.zeros(size), (size,))
        self.nodes.append(Activation(kind, parameters, source, (size,)))
        return len(self.nodes) - 1


def random_network(seed: int, chosen: Sequence[tuple[str, tuple[Any, ...]]]) -> Network:
    """A convolution or a dense layer, then blocks with residual connections of several forms."""
    image = seed % 3 == 0
    draft = Draft(seed, 8 if image else 1 + seed % 3)
    if image:
        weight = draft.numbers(2, 2, 2)
        place = draft.affine(
            (Convolution(weight, 1, (2, 4), (2, 3 + 2 * (seed % 2)), 1, (1,), (1,), (seed % 2,)), 0)
        )
    else:
        place = draft.affine(draft.dense(0, 2 + seed % 2))
    for kind, parameters in chosen:
        size = draft.nodes[place].size
        branch = draft.activation(place, kind, parameters)
        form = draft.random.integers(4)
        if form == 0:
            place = draft.affine(draft.dense(branch, 3))
        elif form == 1:
            place = draft.affine(draft.dense(branch, size), (Identity(size), place))
        elif form == 2:
            index = draft.random.integers(-1, size, (size, 2))
            place = draft.affine((Gather(index, size), branch), (Scale(draft.numbers(size), size), place))
        else:
            place = draft.affine(draft.dense(branch, 3), draft.dense(0, 3))
    draft.affine(draft.dense(draft.activation(place, *chosen[0]), 2), draft.dense(place, 2))
    return Network(tuple(draft.nodes))


def random_box(network: Network, random: np.random.Generator) -> tuple[Array, Array]:
    """A box [1, inputs], some of whose sides are points."""
    centre, radius = random.standard_normal((2, 1, network.inputs))
    radius = np.abs(radius) * 0.6 * (random.random(radius.shape) > 0.15)
    return (centre - radius).astype(np.float32).astype(float), (centre + radius).astype(np.float32).astype(
        float
    )


def points(lower: Array, upper: Array, random: np.random.Generator, count: int) -> list[Array]:
    """Corners and points inside, float32 numbers."""
    share = random.random((count, lower.shape[1]))
    share[: count // 2] = share[: count // 2].round()
    found = (lower + (upper - lower) * share).astype(np.float32).astype(float)
    return list(np.clip(found, lower, upper))


def multipliers(random: np.random.Generator, powers: float) -> Callable[[int, Array], dict[int, Array]]:
    """Arbitrary numbers of all sizes and signs; and a table of what was drawn."""
    table: dict[int, Array] = {}

    def rho_of(number: int, shape: Array) -> dict[int, Array]:
        sizes = 10.0 ** random.uniform(-powers, powers, shape.shape)
        table[number] = sizes * random.choice([-1.0, 0.0, 1.0], shape.shape)
        return table

    return rho_of


class Draw:
    """A network, a subproblem of it with splits, an objective, and declared multipliers."""

    def __init__(
        self, seed: int, chosen: Sequence[tuple[str, tuple[Any, ...]]], deployed: bool = False
    ) -> None:
        self.random = np.random.default_rng(seed + 10**6)
        self.network = random_network(seed, chosen)
        self.truth, self.dual = Truth(self.network), Dual(self.network, Arithmetic(deployed=deployed))
        self.box = random_box(self.network, self.random)
        self.known = self.dual.intervals(*self.box)
        self.sizes = self.dual.sizes(*self.known)
        self.lower, self.upper = self.known[0].copy(), self.known[1].copy()
        self.cut = int(self.random.integers(self.network.variables))
        middle = (self.lower[0, self.cut] + self.upper[0, self.cut]) / 2
        self.side = int(self.random.integers(3)) - 1
        if self.side > 0:
            self.lower[0, self.cut] = middle
        elif self.side < 0:
            self.upper[0, self.cut] = middle
        last, outputs = len(self.network.nodes) - 1, self.network.outputs
        self.start = {last: self.random.standard_normal((1, 3, outputs))}
        self.start[0] = self.random.standard_normal((1, 3, self.network.inputs)) * (seed % 2)
        self.constant = self.random.standard_normal((1, 3))
        self.declared: dict[int, Array] = {}

    def rho(self, number: int, t: Array) -> Array:
        """CROWN's, near it, or arbitrary ones of any size."""
        layer = self.network.layers[number]
        low, high = (end[:, None, layer.variables] for end in (self.lower, self.upper))
        found = default_rho(layer.kind, layer.parameters, t, low, np.maximum(low, high))
        found[:, 1] += self.random.standard_normal(found[:, 1].shape)
        wild = 10.0 ** self.random.uniform(-30, 30, found[:, 2].shape)
        found[:, 2] = wild * self.random.choice([-1.0, 0.0, 1.0], wild.shape)
        self.declared[number] = found
        return found

    def sweep(self, dual: Dual, again: bool = False) -> tuple[Linear, Array]:
        """The linear bound and its least value; `again` with the multipliers declared before."""
        number = dual.arithmetic.array
        exact = dual.arithmetic.exact
        start = {node: number(value) for node, value in self.start.items()}
        constant = number(self.constant)
        lower, upper = number(self.lower), number(self.upper)
        sizes = {node: number(value) for node, value in self.sizes.items()}

        def declared(layer: int, t: Array) -> Multipliers:
            return Multipliers(number(self.declared[layer]) if again else self.rho(layer, t))

        assert not exact or again
        with np.errstate(all="ignore"):
            linear = dual.sweep(lower, upper, start, constant, 0 * constant, declared, sizes)
            inputs = slice(0, self.network.inputs)
            return linear, linear.bound(lower[:, None, inputs], upper[:, None, inputs])

    def inside(self, variables: Sequence[Any]) -> bool:
        """Whether a point is on the subproblem's side of the split."""
        value = variables[self.cut]
        return bool(self.lower[0, self.cut] <= value <= self.upper[0, self.cut])

    def objective(self, values: Sequence[Sequence[Any]]) -> list[Fraction]:
        """The objectives' exact values at the values of all nodes."""
        found = [Fraction(value) for value in self.constant[0].tolist()]
        for node, rows in self.start.items():
            for i, row in enumerate(rows[0].tolist()):
                found[i] += sum(Fraction(c) * Fraction(v) for c, v in zip(row, values[node], strict=True))
        return found


def check_contained(draw: Draw, values: Sequence[Sequence[Any]], variables: Sequence[Any]) -> None:
    """Intervals and sizes hold what was computed."""
    for place, value in enumerate(variables):
        assert draw.known[0][0, place] <= value <= draw.known[1][0, place], place
    for node, own in enumerate(values):
        assert all(abs(value) <= size for value, size in zip(own, draw.sizes[node].tolist(), strict=True)), (
            node
        )


seeds = st.integers(0, 10**6)
activation_lists = st.lists(st.sampled_from(ACTIVATIONS), min_size=1, max_size=2)


@settings(max_examples=100)
@given(seeds, activation_lists)
def test_bound_is_below_the_objective(seed: int, chosen: list[tuple[str, tuple[Any, ...]]]) -> None:
    draw = Draw(seed, chosen)
    _, bound = draw.sweep(draw.dual)
    for x in points(*draw.box, draw.random, 8):
        values = draw.truth.values(x.tolist())
        variables = draw.truth.variables(values)
        check_contained(draw, values, variables)
        if draw.inside(variables):
            for low, value in zip(bound[0].tolist(), draw.objective(values), strict=True):
                assert not low > value, (low, float(value))


@every_activation
@pytest.mark.parametrize("seed", range(3))
def test_bound_of_every_activation(kind: str, parameters: tuple[Any, ...], seed: int) -> None:
    test_bound_is_below_the_objective.hypothesis.inner_test(seed, [(kind, parameters)])  # type: ignore[attr-defined]


@settings(max_examples=40)
@given(seeds, st.lists(st.sampled_from([one for one in ACTIVATIONS if one[0] in EXACT]), min_size=1, max_size=2))  # fmt: skip
def test_float64_is_below_the_rationals_by_what_it_charges(
    seed: int, chosen: list[tuple[str, tuple[Any, ...]]]
) -> None:
    """With the same multipliers; a reciprocal's or a power's minimum may be irrational."""
    draw = Draw(seed, chosen)
    linear, bound = draw.sweep(draw.dual)
    exact = Dual(draw.network, Arithmetic(exact=True))
    if any(kind in ("reciprocal", "power") for kind, _ in chosen):
        with pytest.raises(ArithmeticError):
            draw.sweep(exact, again=True)
        return
    _, precise = draw.sweep(exact, again=True)
    charged = [Fraction(value) for value in linear.error[0].tolist()]
    for low, best, error in zip(bound[0].tolist(), precise[0].tolist(), charged, strict=True):
        assert Fraction(low) <= fraction(best)
        assert fraction(best) - Fraction(low) <= Fraction(21, 10) * error
    for x in points(*draw.box, draw.random, 4):
        values = draw.truth.values(x.tolist())
        if draw.inside(draw.truth.variables(values)):
            assert all(
                fraction(b) <= v for b, v in zip(precise[0].tolist(), draw.objective(values), strict=True)
            )


def test_rationals_equal_a_calculation_by_hand() -> None:
    """Two ReLUs and a skip connection; everything written out."""
    weight, other = np.array([[[0.1, -2.0], [3.0, 0.7]]]), np.array([[[1.5], [-0.3]]])
    network = Network((
        Input(2, (2,)), Affine(((Dense(weight, 1), 0),), np.array([0.2, -0.4]), (2,)), Activation("relu", (), 1, (2,)),
        Affine(((Dense(other, 1), 2), (Gather(np.array([[1]]), 2), 0)), np.array([0.05]), (1,)),
    ))  # fmt: skip
    dual = Dual(network, Arithmetic(exact=True))
    low, high = [-1.0, -0.5, -2.0, -3.0], [1.0, 0.25, 1.0, 2.0]
    rho, c, d = [0.3, -0.2], 2.0, 0.1
    number = dual.arithmetic.array
    lower, upper = (number(np.array([end])) for end in (low, high))
    linear = dual.sweep(
        lower,
        upper,
        {3: number([[[c]]])},
        number([[d]]),
        number([[0.0]]),
        lambda *_: Multipliers(number([[rho]])),
        {},
    )
    found = fraction(linear.bound(lower[:, None, :2], upper[:, None, :2])[0, 0])

    exact = [[Fraction(v) for v in values] for values in (low, high, rho)]
    pull = [Fraction(c) * Fraction(1.5), Fraction(c) * Fraction(-0.3)]
    wanted = Fraction(d) + Fraction(c) * Fraction(0.05)
    wanted += exact[2][0] * Fraction(0.2) + exact[2][1] * Fraction(-0.4)
    for i in range(2):
        ends = [exact[0][2 + i], exact[1][2 + i], Fraction(0)]
        wanted += min(pull[i] * max(z, Fraction(0)) - exact[2][i] * z for z in ends)
    for j in range(2):
        slope = sum((Fraction(float(weight[0, j, i])) * exact[2][i] for i in range(2)), Fraction(0))
        slope += Fraction(c) * (j == 1)
        wanted += min(slope * exact[0][j], slope * exact[1][j])
    assert found == wanted


# -- float32


@settings(max_examples=40)
@given(seeds, st.lists(st.sampled_from(STRAIGHT), min_size=1, max_size=2))
def test_bound_holds_in_float32_in_any_order(seed: int, chosen: list[tuple[str, tuple[Any, ...]]]) -> None:
    draw = Draw(seed, [(k, tuple(p if math.isinf(p) else Fraction(float(np.float32(float(p)))) for p in ps)) for k, ps in chosen], True)  # fmt: skip
    _, bound = draw.sweep(draw.dual)
    for x in points(*draw.box, draw.random, 8):
        values = [own.tolist() for own in rounded_values(draw.network, draw.truth, x, draw.random)]
        variables = [*values[0], *(v for layer in draw.network.layers for v in values[layer.operand])]
        check_contained(draw, values, variables)
        if draw.inside(variables):
            for low, value in zip(bound[0].tolist(), draw.objective(values), strict=True):
                assert not low > value, (low, float(value))


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_bound_holds_in_onnx_runtime(family: str, exact: bool) -> None:
    """At points where the bound is nearly reached, too: the box is tiny."""
    from verify.loading import load

    for seed in range(3):
        random = np.random.default_rng(seed)
        model = FAMILIES[family](random, 2)
        loaded, network = load(model), read_model(model.SerializeToString())
        dual = Dual(network, Arithmetic(exact, deployed=True))
        centre = random.uniform(-1, 1, network.inputs).astype(np.float32).astype(float)
        lower, upper = centre[None], (centre + 1e-7).astype(np.float32).astype(float)[None]
        rows = Rows(random.standard_normal((2, 2)), None, [Fraction(0)] * 2, np.zeros(2))
        objective = Objective(np.eye(2)[None], [rows])
        number = dual.arithmetic.array
        low, high = dual.intervals(number(lower), number(upper))
        sizes = dual.sizes(low, high)
        plain = low.astype(float), high.astype(float)

        def rho(
            layer: int, t: Array, own: Network = network, ends: Any = plain, cast: Any = number
        ) -> Multipliers:
            one = own.layers[layer]
            return Multipliers(cast(default_rho(one.kind, one.parameters, t.astype(float), *(end[:, None, one.variables] for end in ends))))  # fmt: skip

        linear = dual.sweep(low, high, *objective.start(dual, sizes), rho, sizes)
        inputs = slice(0, network.inputs)
        bound = linear.bound(low[:, None, inputs], high[:, None, inputs])[0]
        for share in random.integers(0, 2, (20, network.inputs)):
            x = (lower + (upper - lower) * share).astype(np.float32)
            y = loaded.evaluate(x.reshape(loaded.input_shape)).ravel().tolist()
            for row, least in zip(rows.outputs.tolist(), bound.tolist(), strict=True):
                value = sum(Fraction(c) * Fraction(v) for c, v in zip(row, y, strict=True))
                assert fraction(least) <= value


def test_curved_activations_have_no_float32_semantics() -> None:
    for activation in ACTIVATIONS:
        if activation in STRAIGHT:
            continue
        network = random_network(1, [activation])
        with pytest.raises(Refused, match="not standardised"):
            Dual(network, Arithmetic(deployed=True))


def test_float32_overflow_is_not_proved() -> None:
    """Bug found: in float32 1e30 * 1e30 is infinite, so no error of rounding bounds what comes of it."""
    huge = float(np.float32(1e30))
    network = Network((
        Input(1, (1,)), Affine(((Scale(np.array(huge), 1), 0),), np.zeros(1), (1,)), Activation("relu", (), 1, (1,)),
        Affine(((Scale(np.array(huge), 1), 2),), np.zeros(1), (1,)), Activation("relu", (), 3, (1,)),
        Affine(((Scale(np.array(1e-30), 1), 4),), np.zeros(1), (1,)),
    ))  # fmt: skip
    dual = Dual(network, Arithmetic(deployed=True))
    _, values = dual.node_intervals(np.array([[1.0]]), np.array([[2.0]]))
    assert values[-1][1][0, 0] == np.inf, "float32 computes infinity"


# -- activations alone


@every_activation
def test_minimum_is_that_of_a_fine_grid(kind: str, parameters: tuple[Any, ...]) -> None:
    random = np.random.default_rng(7)
    count, steps = 400, 2001
    width = 2 if kind == "product" else 1
    centre = random.standard_normal((count, width)) * random.choice([0.1, 1.0, 4.0], (count, width))
    radius = np.abs(random.standard_normal((count, width))) * (random.random((count, width)) > 0.1)
    lower, upper = centre - radius, centre + radius
    if kind == "reciprocal":
        lower = np.where(centre > 0, np.maximum(lower, 0.05), lower)
        upper = np.where(centre > 0, np.maximum(upper, lower), np.minimum(upper, -0.05))
        lower = np.minimum(lower, upper)
    scale = 10.0 ** random.uniform(-6, 6, count)
    t = random.standard_normal((count, 1)) * scale[:, None] * (random.random((count, 1)) > 0.1)
    rho = (
        random.standard_normal((count, width)) * scale[:, None] * random.choice([0.0, 0.05, 1.0], (count, 1))
    )
    with np.errstate(all="ignore"):
        found = minimum(kind, parameters, t, rho, lower, upper)[:, 0]
    share = np.linspace(0, 1, steps)
    grid = lower[:, None] + (upper - lower)[:, None] * share[None, :, None]
    grid = np.clip(grid, lower[:, None], upper[:, None])
    if kind == "product":
        corners = np.stack(np.meshgrid(share[::40], share[::40]), -1).reshape(-1, 2)
        grid = lower[:, None] + (upper - lower)[:, None] * corners[None]
    functions: dict[str, Callable[[Array], Array]] = {
        "relu": lambda z: np.maximum(z, 0), "leaky": lambda z: np.where(z < 0, z * float(parameters[0]), z),
        "clip": lambda z: np.clip(z, *map(float, parameters)), "abs": np.abs, "tanh": np.tanh,
        "sigmoid": lambda z: 1 / (1 + np.exp(-z)), "square": np.square, "reciprocal": np.reciprocal,
        "power": lambda z: z ** int(parameters[0]),
        "product": lambda z: z[..., :1] * z[..., 1:], "sin": np.sin, "cos": np.cos,
    }  # fmt: skip
    values = t[:, None, 0] * functions[kind](grid)[..., 0] - (rho[:, None] * grid).sum(-1)
    terms = np.abs(t[:, 0]) * np.abs(functions[kind](grid)).max((1, 2)) + (np.abs(rho) * np.abs(grid).max(1)).sum(1)  # fmt: skip
    assert (found <= values.min(1) + 1e-14 * terms).all()
    coarse = terms * 4e-3 * (1 + radius.max(1) ** 2) * (20 if kind == "reciprocal" else 1)
    assert (found >= values.min(1) - coarse).all(), "it is the minimum, not any bound"


@every_activation
def test_minimum_of_intervals_far_out(kind: str, parameters: tuple[Any, ...]) -> None:
    """Where functions saturate; judged by Fractions, with what the sweep charges for roundings."""
    if kind in ("product", "reciprocal"):
        return
    random = np.random.default_rng(3)
    for low, high in (
        (-400.0, -150.0),
        (-200.0, -71.0),
        (-60.0, -30.0),
        (30.0, 90.0),
        (-1e-160, 1e-150),
        (1e9, 1e12),
    ):
        for slope in (0.0, 1e-40, 1e-20, 1e-9, 0.3, -1e-40):
            t, rho = np.array([[1.0]]), np.array([[slope]])
            with np.errstate(all="ignore"):
                found = minimum(kind, parameters, t, rho, np.array([[low]]), np.array([[high]]))[0, 0]
            ends = [low, high, *random.uniform(low, high, 20).tolist()]
            if kind == "sigmoid" and 0 < slope < 1e-10:
                ends.append(min(max(math.log(slope), low), high))
            heights = [activated(kind, parameters, [Fraction(z)])[0] for z in ends]
            values = [height - Fraction(slope) * Fraction(z) for height, z in zip(heights, ends, strict=True)]
            size = max(map(abs, heights)) + Fraction(abs(slope)) * Fraction(max(abs(low), abs(high)))
            charged = size * 256 * Fraction(1, 2**53) + Fraction(1, 2**1000)
            # Bug found: slopes below 1e-30 are taken for 1e-30, so a sigmoid's tail has its minimum elsewhere
            assert Fraction(float(found)) <= min(values) + charged, (low, high, slope)


@every_activation
def test_intervals_of_activations(kind: str, parameters: tuple[Any, ...]) -> None:
    """Judged by Fractions, at tiny and at huge numbers as well."""
    random = np.random.default_rng(5)
    width = 2 if kind == "product" else 1
    for scale in (1e-3, 1.0, 30.0):
        for _ in range(20):
            low, high = np.sort(random.standard_normal((2, 1, width)) * scale, 0)
            if kind == "reciprocal":
                low, high = np.abs(low) + 1e-3, np.abs(low) + np.abs(high) + 1e-3
            with np.errstate(all="ignore"):
                least, most = interval(kind, parameters, low, high)
            for z in points(low, high, random, 6):
                (value,) = activated(kind, parameters, [Fraction(v) for v in z.tolist()])
                assert least[0, 0] <= value <= most[0, 0]


def test_intervals_that_underflow() -> None:
    """Bug found: what is below the smallest float64 number is taken for 0, and then multiplied by something huge."""
    tiny = Network((Input(1, (1,)), Affine(((Scale(np.array(1e-225), 1), 0),), np.zeros(1), (1,)), Activation("relu", (), 1, (1,))))  # fmt: skip
    (_, upper), _ = Dual(tiny, Arithmetic()).node_intervals(np.array([[0.0]]), np.array([[1e-100]]))
    assert Fraction(float(upper[0, 1])) >= Fraction(1e-225) * Fraction(1e-100)
    for kind, ends in (
        ("square", (0.0, 1e-170)),
        ("product", ((0.0, 0.0), (1e-170, 1e-170))),
        ("sigmoid", (-900.0, -800.0)),
    ):
        low, high = (np.atleast_2d(np.array(end)) for end in ends)
        _, most = interval(kind, (), low, high)
        (value,) = activated(kind, (), [Fraction(v) for v in high[0].tolist()])
        assert Fraction(float(most[0, 0])) >= value, kind


# -- objectives


def test_joined_rows_charge_for_their_number() -> None:
    """Bug found: sums over a clause's rows have as many terms as there are rows, which the charge does not know of.

    The point x = 1 satisfies every row `0.7 y <= 0.7` of the clause, so no weights may refute it.
    """
    network = Network((Input(1, (1,)), Affine(((Identity(1), 0),), np.zeros(1), (1,)), Activation("relu", (), 1, (1,)),
                       Affine(((Gather(np.array([[0], [0]]), 1), 2),), np.zeros(2), (2,))))  # fmt: skip
    for count, coefficient in ((10_000, 0.1), (100_000, 0.7)):
        outputs = np.zeros((count, 2))
        outputs[:, 0] = coefficient
        rows = Rows(outputs, None, [Fraction(coefficient)] * count, np.full(count, coefficient))
        bounder = Bounder(network, Arithmetic())
        bounder._can_be_exact = False
        point = np.ones((1, 2))
        sizes = bounder.dual.sizes(point, point)
        objective = Objective(np.ones((1, 1, count)), [rows])
        bound, reached = bounder.reach((point, point), objective, bounder.default((point, point)), sizes, np.zeros((1, 1)), True)  # fmt: skip
        assert not reached.any(), (count, bound)


@settings(max_examples=30)
@given(seeds)
def test_objectives_of_clauses(seed: int) -> None:
    """Weighted rows over outputs and inputs, and a pre-activation beside them, against Fractions."""
    random = np.random.default_rng(seed)
    network = random_network(seed, [ACTIVATIONS[seed % len(STRAIGHT)]])
    truth, (lower, upper) = Truth(network), random_box(network, random)
    count = 1 + seed % 4
    mentioned = {(j, 0): float(random.standard_normal()) for j in range(count) if seed % 2}
    exact = [Fraction(int(v), 997) for v in random.integers(-997, 997, count)]
    up = np.array([np.nextafter(float(value), np.inf) for value in exact])
    rows = Rows(random.standard_normal((count, network.outputs)), mentioned or None, exact, up)
    layer = network.layers[int(random.integers(len(network.layers)))]
    size = network.nodes[layer.operand].size
    beside = np.zeros((2, size))
    beside[:, random.integers(size)] = (1.0, -1.0)
    weights = np.abs(random.standard_normal((1, 2, count)))
    objective = Objective(weights, [rows], (layer.operand, beside[None]))
    for all_exact in (False, True):
        bounder = Bounder(network, Arithmetic(exact=all_exact))
        bounds = bounder.dual.intervals(lower, upper)
        sizes = bounder.dual.sizes(*bounds)
        with np.errstate(all="ignore"):
            bound, _ = bounder.reach(
                bounds, objective, bounder.default(bounds), sizes, np.zeros((1, 2)), False
            )
        for x in points(lower, upper, random, 6):
            values = truth.values(x.tolist())
            for i in range(2):
                total = sum((Fraction(c) * v for c, v in zip(beside[i].tolist(), values[layer.operand], strict=True)), Fraction(0))  # fmt: skip
                for j in range(count):
                    row = sum((Fraction(c) * v for c, v in zip(rows.outputs[j].tolist(), values[-1], strict=True)), -exact[j])  # fmt: skip
                    row += sum((Fraction(c) * values[0][k] for (own, k), c in mentioned.items() if own == j), Fraction(0))  # fmt: skip
                    total += Fraction(float(weights[0, i, j])) * row
                down = np.nextafter(bound[0, i], -np.inf)  # rationals are told as the nearest float64
                assert down <= total


# -- several subproblems


@settings(max_examples=60)
@given(seeds)
def test_neurons_that_are_linear_in_all_subproblems_are_left_out(seed: int) -> None:
    """What is left out is 0: each subproblem alone, with every neuron's minimum taken, has the same bounds as all together."""
    random = np.random.default_rng(seed)
    network = random_network(seed, [("relu", ())])
    lower, upper = random_box(network, random)
    bounder, count = Bounder(network, Arithmetic()), 1 + seed % 3
    low, high = (end.repeat(count, 0) for end in bounder.dual.intervals(lower, upper))
    for end in (low, high):  # some at the kink, some split there, in one subproblem or in all
        end[:, network.inputs :][random.random(end[:, network.inputs :].shape) < 0.2] = 0.0
        end[:, network.inputs :][:, random.random(network.variables - network.inputs) < 0.2] = 0.0
    high = np.maximum(low, high)
    sizes = bounder.dual.sizes(low, high)
    alphas = {
        number: np.where((low[:, None, one.variables] < 0) & (high[:, None, one.variables] > 0), random.random((count, 1, one.variables.stop - one.variables.start)), 0.0)
        for number, one in enumerate(network.layers)
    }  # fmt: skip
    cut = random.integers(network.inputs, network.variables, (count, 2))
    multipliers = random.standard_normal((count, 3, 2))
    weights = np.abs(random.standard_normal((count, 3, 2)))
    rows = Rows(random.standard_normal((2, network.outputs)), None, [Fraction(0)] * 2, np.zeros(2))

    def found(some: slice, whole: bool) -> tuple[Linear, np.ndarray]:
        bounds, inputs = (low[some], high[some]), slice(0, network.inputs)
        own = {number: alpha[some] for number, alpha in alphas.items()}
        rho = bounder.sloped(bounds, own, (cut[some], multipliers[some]))
        start = Objective(weights[some], [rows]).start(bounder.dual, sizes)
        every = (lambda number, t: Multipliers(rho(number, t).values)) if whole else rho
        linear = bounder.dual.sweep(*bounds, *start, every, sizes)
        return linear, linear.bound(bounds[0][:, None, inputs], bounds[1][:, None, inputs])

    together, bound = found(slice(0, count), False)
    for subproblem in range(count):
        alone, least = found(slice(subproblem, subproblem + 1), True)
        assert np.allclose(alone.cotangent[0], together.cotangent[subproblem], rtol=1e-12, atol=1e-300)
        assert np.allclose(least[0], bound[subproblem], rtol=1e-9, atol=1e-9)
        assert np.allclose(alone.error[0], together.error[subproblem], rtol=1e-6)


def test_rounding_does_not_decide_crowns_slopes() -> None:
    """Ends as far from 0 as each other, but for the last digits: search and checker take the same line."""
    generator = np.random.default_rng(5)
    upper = 10.0 ** generator.uniform(-3, 3, 2000)
    lower = -upper * (1 + generator.uniform(-1e-9, 1e-9, upper.size))
    searched = Relu().hull(torch.from_numpy(lower), torch.from_numpy(upper)).initial().numpy()
    checked = default_rho("relu", (), np.ones_like(upper), lower, upper)
    assert (searched == 0).all() and (checked == 0).all()


def test_a_bound_that_is_no_number_is_not_left_out() -> None:
    """NaN is neither above nor below 0, so that nothing is known of what it bounds."""
    network = Network((Input(1, (1,)), Affine(((Identity(1), 0),), np.zeros(1), (1,)), Activation("relu", (), 1, (1,)),
                       Affine(((Identity(1), 2),), np.zeros(1), (1,))))  # fmt: skip
    bounder = Bounder(network, Arithmetic())
    rows = Rows(np.array([[-1.0]]), None, [Fraction(-1)], np.array([-1.0]))  # y >= 1, which x = 2 gives
    sizes = {index: np.array([5.0]) for index in range(4)}
    for ends in ((np.nan, 1.0), (-1.0, np.nan), (np.nan, np.nan)):
        bounds = np.array([[1.0, ends[0]]]), np.array([[2.0, ends[1]]])
        rho = bounder.sloped(bounds, {0: np.zeros((1, 1, 1))})
        with np.errstate(all="ignore"):
            _, reached = bounder.reach(
                bounds, Objective(np.ones((1, 1, 1)), [rows]), rho, sizes, np.zeros((1, 1)), True
            )
        assert not reached.any(), ends
