"""Pre-activations that a certificate leaves out: the checker makes an equal network by itself, or refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from kits import CONSTRAINED, Kit
from make_data import Files, Parts, placed, searched
from nets import property_text, relu_model
from onnx import numpy_helper
from small.checking import check as small_check
from small.sums import Refused as SmallRefused
from test_live_check import followed, follower, pieces, take_all

from verify.api import verify
from verify.bab.activations import SplitActivations
from verify.bab.progress import Silent
from verify.checker.checking import REAL, check
from verify.checker.errors import NotProved, Refused
from verify.checker.following import Finished
from verify.checker.maps import Dense, Gather, Identity, Scale
from verify.checker.multipliers import Arithmetic
from verify.checker.network import Activation, Affine, Input, Network, Node
from verify.checker.onnx_reader import read_model
from verify.checker.opposites import merged
from verify.checker.question import digest
from verify.checker.rationals import rationals
from verify.network.opposites import without_opposites
from verify.problem import prepare
from verify.proof.merging import merge
from verify.proof.trimming import trim
from verify.proof.writer import CertificateWriter
from verify.settings import build_search

Array = np.ndarray
# the minimum of two values as comparing lattices have it: (a + b - |a - b|) / 2
PAIR = np.array([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]])
LESS = np.array([[0.5, -0.5, -0.5, -0.5]])
NONE = np.zeros(4)


def affine(weight: Array, bias: Array | None = None, of: int = 0) -> Affine:
    """Rows of weights, of one earlier node."""
    bias = np.zeros(len(weight)) if bias is None else bias
    return Affine(((Dense(weight.T[None], 1), of),), bias, (len(weight),))


def relu(of: int, size: int, kind: str = "relu") -> Activation:
    return Activation(kind, (), of, (size,))


def network(*nodes: Node, inputs: int = 2) -> Network:
    return Network((Input(inputs, (inputs,)), *nodes))


def chain(first: Array, second: Array, bias: Array | None = None, last: Array | None = None) -> Network:
    """Two maps with ReLUs between."""
    return network(affine(first, bias), relu(1, len(first)), affine(second, last, 2), inputs=first.shape[1])


def without(network: Network, *places: int) -> Network:
    """With these pre-activations left out, counted from the first."""
    return merged(network, network.inputs + np.array(places, dtype=np.int32))


def same(one: Network, other: Network, seed: int = 0) -> bool:
    """At points some of which are special, in rational numbers."""
    x = np.random.default_rng(seed).integers(-9, 10, (40, one.inputs)) / 4
    x[0] = 0
    exact = rationals(x)
    return bool((one.values(exact)[-1] == other.values(exact)[-1]).all())


def short(random: np.random.Generator, *shape: int) -> Array:
    """Numbers of few bits."""
    return random.integers(-8, 9, shape) / 4


def planted(random: np.random.Generator, inputs: int, unread: Array) -> tuple[Array, Array, Array]:
    """Ten rows of four kinds with either sign, of which the first kind is 0; their biases and their kinds. Some columns are 0."""
    of = np.concatenate([np.arange(4), random.integers(4, size=6)])
    rows, bias = short(random, 4, inputs), short(random, 4)
    rows[0], bias[0] = 0, 0
    rows[:, unread] = 0
    sign = random.choice([-1.0, 1.0], 10)
    return sign[:, None] * rows[of], sign * bias[of], of


@pytest.mark.parametrize("seed", range(10))
def test_it_is_the_same_function(seed: int) -> None:
    """Of two layers; what nothing reads goes for good."""
    random = np.random.default_rng(seed)
    first, bias, of = planted(random, 3, np.zeros(3, dtype=bool))
    second, shift, behind = planted(random, 10, of == 1)
    last = short(random, 2, 10)
    last[:, behind == 1] = 0
    whole = network(
        affine(first, bias),
        relu(1, 10),
        affine(second, shift, 2),
        relu(3, 10),
        affine(last, short(random, 2), 4),
        inputs=3,
    )
    less = without(whole, *(10 * layer + j for layer in range(2) for j in (1, *range(4, 10))))
    assert less.variables == 3 + 6
    assert same(whole, less, seed)


def test_a_minimum_is_one_neuron() -> None:
    """The sum's ReLUs have gone; what is left of them is the sum."""
    less = without(chain(PAIR, LESS), 0, 1, 3)
    assert less.variables == 2 + 1
    x = np.random.default_rng(0).normal(size=(50, 2))
    assert np.allclose(less.values(x)[-1][:, 0], x.min(1))
    with pytest.raises(Refused, match="nothing is left"):
        without(chain(PAIR, LESS), 0, 1, 2, 3)
    with pytest.raises(Refused, match="is read"):
        without(chain(PAIR, LESS), 0, 2, 3)
    with pytest.raises(Refused, match="is read"):
        without(chain(PAIR, np.array([[0.5, -0.25, -0.5, -0.5]])), 0, 1, 3)


def test_zeros_with_signs_are_one_number() -> None:
    rows = np.array([[0.0, 1.0], [-0.0, 1.0], [0.0, -1.0], [-0.0, -1.0], [-0.0, 0.0]])
    bias = np.array([0.0, -0.0, -0.0, 0.0, -0.0])
    whole = chain(rows, np.array([[1.0, 2.0, 4.0, 8.0, 16.0]]), bias)
    assert same(whole, without(whole, 1, 2, 3))


TINY = 2.0**-52


@pytest.mark.parametrize(
    ("rows", "bias"),
    [
        ([[1.0, 1.0], [-1.0, -1.0 - TINY]], [0.0, 0.0]),
        ([[1.0, 1.0], [1.0, 1.0 + TINY]], [0.0, 0.0]),
        ([[1.0, 1.0], [-1.0, -1.0]], [1.0, 1.0]),
        ([[1.0, 1.0], [-1.0, -1.0]], [0.0, 5e-324]),
        ([[1.0, 1.0], [1.0, 1.0]], [1.0, 1.0 + TINY]),
        ([[1.0, 1.0], [-1.0, 1.0]], [0.0, 0.0]),
        ([[0.0, 1.0], [1.0, 0.0]], [0.0, 0.0]),
        ([[1.0, 1.0], [0.0, 0.0]], [0.0, 0.0]),
        ([[1.0, 1.0], [2.0, 2.0]], [0.0, 0.0]),
    ],
    ids=str,
)
def test_what_is_not_alike_to_the_last_bit_is_refused(rows: list[list[float]], bias: list[float]) -> None:
    for order in ([0, 1], [1, 0]):
        with pytest.raises(Refused, match="is read"):
            without(chain(np.array(rows)[order], np.array([[1.0, 1.0]]), np.array(bias)[order]), 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(bad: float) -> None:
    pair = PAIR[:2]
    for network in (
        chain(np.array([[bad, 1.0], [-bad, -1.0]]), LESS[:, :2]),
        chain(pair, LESS[:, :2], np.array([bad, -bad])),
        chain(pair, np.array([[bad, 1.0]])),
        chain(pair, LESS[:, :2], None, np.array([bad])),
    ):
        with pytest.raises(Refused, match="not finite"):
            without(network, 1)


@pytest.mark.parametrize(
    ("rows", "reader", "bias", "last"),
    [
        ([1.0, 2.0], [1.0, 2.0**-60], None, None),
        ([1.0, 2.0], [1e300, 2e-300], None, None),
        ([1e-200, 2e-200], [0.0, 1e-200], None, None),
        ([1e200, 1e200], [0.0, 1e200], None, None),
        ([1.0, 1 / 3], [0.0, 1 / 3], None, None),
        ([1.0, 1.0], [1.0, 1.0], 1.0, 2.0**-60),
    ],
    ids=str,
)
def test_what_takes_rounding_is_refused(
    rows: list[float], reader: list[float], bias: float | None, last: float | None
) -> None:
    """Also where a product is too small or too large for float64: it would be nothing, or infinite."""
    own, behind = (None if one is None else np.array([one]) for one in (bias, last))
    with pytest.raises(Refused, match="no float64 number"):
        without(
            chain(
                np.array([rows, np.negative(rows)]),
                np.array([reader]),
                None if own is None else np.concatenate([own, -own]),
                behind,
            ),
            1,
        )


def test_each_sum_may_have_a_unit_of_its_own() -> None:
    """Split values with factors of float32, large and small, are exact; sums of them would not be."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(4, 3)).astype(np.float32).astype(np.float64)
    factors = (random.normal(size=4) * [1e-9, 1.0, 1e3, 1e9]).astype(np.float32).astype(np.float64)
    reader = np.concatenate([np.diag(factors), -np.diag(factors) / 2], 1)
    whole = chain(np.concatenate([rows, -rows]), reader)
    assert same(whole, without(whole, 4, 5, 6, 7))
    with pytest.raises(Refused, match="no float64 number"):
        without(chain(np.concatenate([rows, -rows]), reader.sum(0)[None]), 4, 5, 6, 7)


def test_only_relus_that_nothing_but_maps_reads() -> None:
    pre, layer, read = affine(PAIR), relu(1, 4), affine(LESS, None, 2)
    both = Affine((*read.operands, *affine(LESS, None, 1).operands), read.bias, read.shape)
    halves = Scale(np.array(0.5), 2)
    for nodes, why in (
        ((pre, relu(1, 4, "tanh"), read), "not of ReLUs"),
        ((pre, layer, both), "something else reads"),
        ((pre, layer, relu(1, 4), affine(LESS, None, 3)), "something else reads"),
        ((pre, layer, read, affine(LESS, None, 1)), "something else reads"),
        ((pre, layer), "the output"),
        ((pre, layer, affine(LESS, None, 2), relu(2, 4)), "an activation reads it"),
        ((pre, layer, Affine(((Identity(4), 2),), NONE, (4,))), "no single matrix"),
        ((pre, layer, Affine(((Gather(np.array([[1]]), 4), 2),), NONE[:1], (1,))), "no single matrix"),
        ((affine(np.eye(2)), Affine(((halves, 1),), NONE[:2], (2,)), relu(2, 2), affine(LESS[:, :2], None, 3)), "no single matrix"),
        ((Affine((*affine(PAIR).operands, *affine(PAIR).operands), NONE, (4,)), layer, read), "not one map"),
        ((Affine(((Dense(np.ones((1, 1, 1)), 2), 0),), NONE[:2], (2,)), relu(1, 2), affine(LESS[:, :2], None, 2)), "no single matrix"),
        ((Affine(pre.operands, rationals(NONE), (4,)), layer, read), "no float64"),
        ((pre, layer, Affine(read.operands, rationals(NONE[:1]), (1,))), "no float64"),
    ):  # fmt: skip
        whole = network(*nodes)  # type: ignore[arg-type]
        with pytest.raises(Refused, match=why):
            without(whole, *range(1, whole.layers[0].variables.stop - 2, 2))


@pytest.mark.parametrize("places", [[-1], [-2], [4], [1, 1], [3, 1], [2**31 - 3]], ids=str)
def test_only_pre_activations_once_and_in_order(places: list[int]) -> None:
    with pytest.raises(Refused, match="increasing order"):
        without(chain(PAIR, LESS), *places)


def test_no_two_that_stay_are_alike() -> None:
    rows = np.concatenate([PAIR, PAIR])
    reader = np.concatenate([LESS, LESS], 1)
    with pytest.raises(Refused, match="two neurons that stay"):
        without(chain(rows, reader), 1, 3)


def test_several_readers_and_several_maps_of_one() -> None:
    """Each has its own share of what is left; any neuron of a kind may be the one that stays."""
    random = np.random.default_rng(0)
    read = [affine(short(random, 1, 4), short(random, 1), 2) for _ in range(3)]
    twice = Affine((*read[1].operands, *read[2].operands), read[1].bias, (1,))
    joined = affine(np.ones((1, 1)), None, 3)
    last = Affine((*joined.operands, (Identity(1), 4)), NONE[:1], (1,))
    whole = network(affine(PAIR, np.array([1.0, -1.0, 2.0, -2.0])), relu(1, 4), read[0], twice, last)
    for places in ((1, 3), (0, 2), (1, 2)):
        assert same(whole, without(whole, *places))


# -- certificates


def forged(one: Kit, left_out: Sequence[int]) -> Parts:
    parts = one.parts.copy()
    parts.tensors["merged.variable"] = np.array(left_out, "<i4")
    return parts


def test_other_neurons_are_left_out(kits: dict[str, Kit]) -> None:
    """One more, one less, another; the small checker agrees."""
    one = kits["opposites"]
    own = one.parts.tensors["merged.variable"].tolist()
    changes = [[*own[:i], *own[i + 1 :]] for i in range(len(own))]
    changes += [sorted({*own, more}) for more in range(24) if more not in own]
    changes += [[*own[:i], own[i] + step, *own[i + 1 :]] for i in range(len(own)) for step in (-1, 1)]
    changes += [own[::-1], [], list(range(3, 24)), [-1, *own], [*own, 24]]
    for changed in changes:
        if changed != own:
            assert not one.attempt(forged(one, changed), changed), changed
            with pytest.raises(SmallRefused):
                small_check(*one.files)


@pytest.mark.parametrize("name", [0, 1, 2, 3])
def test_models_whose_neurons_differ_a_little(name: int, kits: dict[str, Kit], tmp_path: Path) -> None:
    """In the last bit of a weight or bias before a layer; the certificate has the new file's digest."""
    one = kits["opposites"]
    model = onnx.load(one.files.model)
    tensor = model.graph.initializer[name]
    numbers = numpy_helper.to_array(tensor).copy()
    numbers.flat[0] = np.nextafter(numbers.flat[0], np.float32(2))
    tensor.CopyFrom(numpy_helper.from_array(numbers, tensor.name))
    files = placed(tmp_path, model, one.files.property.read_text())
    parts = one.parts.copy()
    parts.metadata["onnx_sha256"] = digest(files.model.read_bytes())
    parts.write(files.certificate)
    assert "cannot be merged" in files.check().sentence
    with pytest.raises(SmallRefused):
        small_check(*files)


def test_not_of_what_float32_makes_of_it(kits: dict[str, Kit], tmp_path: Path) -> None:
    one = kits["opposites"]
    parts = one.parts.copy()
    parts.metadata["semantics"] = "ieee32-any-order"
    assert not one.attempt(parts)
    one.attempt(one.parts)
    for semantics, left_out in (("real", True), ("ieee32-any-order", False)):
        target = tmp_path / semantics
        found = verify(one.files.model, one.files.property, certificate=target, semantics=semantics)
        assert found.verdict == "unsat" and found.certificate == target
        assert ("merged.variable" in Parts.read(target).tensors) == left_out
        assert check(target, *one.files[1:], semantics=semantics).proved


def test_thinner_and_of_parts(kits: dict[str, Kit], tmp_path: Path) -> None:
    """Whoever writes a certificate anew leaves out the same, and parts have to agree."""
    one = kits["opposites"]
    one.attempt(one.parts)
    trim(*one.files, tmp_path / "thinner")
    merge([one.files.certificate] * 2, *one.files[1:], tmp_path / "whole")
    for target in ("thinner", "whole"):
        own = Parts.read(tmp_path / target).tensors["merged.variable"]
        assert np.array_equal(own, one.parts.tensors["merged.variable"])
    fewer = one.parts.tensors["merged.variable"][:9]
    forged(one, fewer).write(tmp_path / "other")
    with pytest.raises(Refused, match="do not agree"):
        merge([one.files.certificate, tmp_path / "other"], *one.files[1:], tmp_path / "none")


def test_while_it_is_written(kits: dict[str, Kit]) -> None:
    """The first piece says what is left out, of real numbers alone, and no later one does."""
    one = kits["opposites"]
    one.attempt(one.parts)
    own = followed(one.files, one.parts)
    assert own.finished(Finished.read(one.files.certificate, REAL)).leaves == 2
    with pytest.raises(Refused, match="behind the first piece"):
        own.take({"merged.variable": one.parts.tensors["merged.variable"].tobytes()})
    fewer = forged(one, one.parts.tensors["merged.variable"][:9])
    with pytest.raises((Refused, NotProved)):
        followed(one.files, fewer)
    fewer.write(one.files.certificate)
    with pytest.raises(Refused, match="variable is not what was proved"):
        followed(one.files, one.parts).finished(Finished.read(one.files.certificate, REAL))
    with pytest.raises(Refused, match="real numbers alone"):
        take_all(follower(one.files, Arithmetic(deployed=True)), pieces(one.parts, np.random.default_rng(0)))


def scaled(folder: Path) -> Files:
    """The least of two values, whose first map is `Gemm` with a factor: one map for the search, two for the checker."""
    layers = [(2 * PAIR.astype(np.float32), np.zeros(4, np.float32)), (LESS.astype(np.float32), np.zeros(1, np.float32))]  # fmt: skip
    model = relu_model(layers)
    first = next(node for node in model.graph.node if node.op_type == "Gemm")
    del first.input[2:]
    first.attribute.append(onnx.helper.make_attribute("alpha", 0.5))
    return placed(folder, model, property_text([0.0, 0.0], [1.0, 1.0], 1, "(>= Y_0 1.5)"))


def test_what_the_checker_cannot_leave_out_the_search_keeps(tmp_path: Path) -> None:
    files = scaled(tmp_path)
    problem = prepare(files.model, files.property)
    assert without_opposites(problem.model.network).layers[0].size == 1
    assert searched(files, "activations", CONSTRAINED) == ("unsat", None)
    assert "merged.variable" not in Parts.read(files.certificate).tensors
    assert files.accepted()


def test_of_a_layer_of_values_one_neuron_stays(tmp_path: Path) -> None:
    """`relu(p) - relu(-p)` is p; without a proof the layer goes for good."""
    values, none = np.concatenate([np.eye(2), -np.eye(2)]).astype(np.float32), np.zeros(4, np.float32)
    model = relu_model([(values, none), (np.array([[1, 1, -1, -1]], np.float32), none[:1])])
    files = placed(tmp_path, model, property_text([0.0, 0.0], [1.0, 1.0], 1, "(>= Y_0 2.5)"))
    assert without_opposites(prepare(files.model, files.property).model.network).layers == ()
    assert searched(files, "activations", CONSTRAINED) == ("unsat", None)
    assert Parts.read(files.certificate).tensors["merged.variable"].tolist() == [3, 4, 5]
    small_check(*files)


def test_a_writer_that_knows_no_checker_leaves_nothing_out(kits: dict[str, Kit], tmp_path: Path) -> None:
    one = kits["opposites"]
    problem, settings = (
        prepare(one.files.model, one.files.property),
        replace(CONSTRAINED, splittable_inputs=0),
    )
    with CertificateWriter(tmp_path / "certificate") as writer:
        for known, sizes in ((writer, [12, 9]), (None, [3, 3])):
            search = build_search(problem, settings, torch.device("cpu"), 0, Silent(), known)
            assert isinstance(search.strategy, SplitActivations)
            assert [layer.size for layer in search.strategy.start.network.layers] == sizes


def test_of_a_model_in_a_file(kits: dict[str, Kit]) -> None:
    one = kits["opposites"]
    whole = read_model(one.files.model.read_bytes())
    less = merged(whole, one.parts.tensors["merged.variable"])
    assert [layer.variables.stop - layer.variables.start for layer in less.layers] == [3, 3]
    assert same(whole, less)
