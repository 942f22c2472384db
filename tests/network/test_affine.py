"""Affine maps: the adjoint is the adjoint, `absolute` dominates, and intervals enclose, for every map there is."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from nets import DOUBLE, joined, networks
from torch import Tensor

from verify.bounders.ibp import affine_interval
from verify.network import affine, convolution, moves
from verify.network.affine import Affine, Combine, Constant, Dense, Reshape, Scale, Shape
from verify.network.convolution import Convolution
from verify.network.graph import Network, Node
from verify.network.moves import NonNegative, Permute

Case = tuple[Affine, tuple[Shape, ...]]
GENERATOR = torch.Generator().manual_seed(11)


def normal(*shape: int) -> Tensor:
    """Normal numbers, one generator for all cases."""
    return torch.randn(shape, generator=GENERATOR, dtype=DOUBLE)


def convolutions() -> Iterator[Case]:
    """Few and many channels, strides that divide the input and that do not, padding, dilation, groups, 1 to 3 axes."""
    for channels in (1, 3, 8, 9):
        for stride, padding, kernel, sizes in (
            ((1, 1), (0, 0), (3, 3), (5, 6)),
            ((2, 2), (1, 1), (3, 3), (6, 7)),
            ((2, 2), (0, 0), (2, 3), (7, 6)),
            ((3, 3), (2, 1), (4, 2), (8, 7)),
            ((3, 3), (0, 0), (2, 2), (8, 9)),
            ((2, 2), (0, 0), (1, 1), (5, 5)),
            ((1, 2), (1, 0), (3, 2), (5, 5)),
            ((4, 4), (3, 3), (7, 7), (9, 9)),
        ):
            shape = (1, channels, *sizes)
            weight, bias = normal(4, channels, *kernel), normal(4)
            yield Convolution(weight, bias, stride, padding, (1, 1), 1, shape), (shape,)
    yield Convolution(normal(4, 2, 3, 3), None, (2, 2), (1, 1), (1, 1), 2, (1, 4, 6, 6)), ((1, 4, 6, 6),)
    yield Convolution(normal(2, 2, 3, 3), None, (2, 2), (2, 2), (2, 2), 1, (1, 2, 7, 8)), ((1, 2, 7, 8),)
    yield Convolution(normal(2, 3, 3, 3), normal(2), (2, 2), (1, 1), (1, 1), 1, (3, 6, 5)), ((3, 6, 5),)
    yield Convolution(normal(2, 3, 4), normal(2), (2,), (1,), (1,), 1, (1, 3, 9)), ((1, 3, 9),)
    yield (
        Convolution(normal(2, 3, 2, 2, 2), None, (2, 1, 1), (1, 0, 1), (1, 1, 1), 1, (1, 3, 4, 4, 3)),
        ((1, 3, 4, 4, 3),),
    )
    for padding, extra in (((0, 0), (0, 0)), ((1, 1), (1, 1)), ((0, 1), (0, 1))):
        deconvolution = Convolution(
            normal(3, 2, 3, 3),
            normal(2),
            (2, 2),
            padding,
            (1, 1),
            1,
            (1, 3, 4, 5),
            transposed=True,
            output_padding=extra,
        )
        yield deconvolution, ((1, 3, 4, 5),)


def few(outputs: int, inputs: int, count: int) -> Dense:
    """A matrix large enough, and with so few numbers a row, that its zeros are left out."""
    weight = torch.zeros(outputs, inputs, dtype=DOUBLE)
    for row in range(1, outputs):  # and one row without any
        weight[row, torch.randperm(inputs)[:count]] = normal(count)
    found = Dense(weight, normal(outputs) if count else None)
    assert found._rows is not None
    return found


def cases() -> Iterator[Case]:
    """At least one of every class of affine maps."""
    yield Dense(normal(4, 3), normal(4)), ((3,),)
    yield Dense(normal(1, 3)), ((2, 3),)
    yield few(300, 200, 3), ((2, 200),)
    yield few(100, 900, 0), ((900,),)
    yield Dense(torch.zeros(2, 3, dtype=DOUBLE), normal(2)), ((1, 3),)
    yield Scale(normal(3), normal(3)), ((3,),)
    yield Scale(normal(3, 1, 1)), ((1, 3, 2, 2),)
    yield Combine((1, -1, 1)), ((2, 3),) * 3
    yield Combine((-1, -1)), ((4,),) * 2
    yield Reshape((2, 3), (6,)), ((2, 3),)
    yield Constant(normal(2, 2), (3,)), ((3,),)
    yield Permute((2, 0, 1)), ((2, 3, 4),)
    yield NonNegative(joined, ((2,), (3,)), label="concatenate"), ((2,), (3,))
    yield NonNegative(lambda x: x[:, [0, 0, 2]], ((3,),), summed=2), ((3,),)
    yield NonNegative(lambda x: x.mean((2, 3)), ((2, 3, 4),), summed=12), ((2, 3, 4),)
    yield from convolutions()


CASES = list(cases())
every_map = pytest.mark.parametrize(
    "case", CASES, ids=[f"{type(m).__name__}-{i}" for i, (m, _) in enumerate(CASES)]
)


def dot(left: Tensor, right: Tensor) -> Tensor:
    """The inner product, row by row."""
    return (left * right).flatten(1).sum(1)


def linear(operator: Affine, operands: list[Tensor]) -> Tensor:
    """The linear part alone."""
    return operator.forward(*operands) - operator.forward(*(torch.zeros_like(x) for x in operands))


def test_every_class_has_a_case() -> None:
    known = [
        found
        for module in (affine, convolution, moves)
        for found in inspect.getmembers(module, lambda one: type(one) is type(Affine))
    ]
    classes = {c for _, c in known if issubclass(c, Affine) and c is not Affine}
    assert classes == {type(operator) for operator, _ in CASES}


@every_map
def test_adjoint_identity(case: Case) -> None:
    """<W x, y> = <x, W^T y>, with the operands' own shapes."""
    operator, shapes = case
    operands = [normal(3, *shape) for shape in shapes]
    image = linear(operator, operands)
    cotangent = normal(*image.shape)
    parts = operator.transpose(cotangent)
    assert [part.shape for part in parts] == [x.shape for x in operands]
    right = torch.stack([dot(x, part) for x, part in zip(operands, parts, strict=True)]).sum(0)
    torch.testing.assert_close(dot(image, cotangent), right, rtol=1e-11, atol=1e-11)


@every_map
def test_a_batch_may_be_empty(case: Case) -> None:
    operator, shapes = case
    operands = [normal(0, *shape).requires_grad_() for shape in shapes]
    image = operator.forward(*operands)
    assert [part.shape for part in operator.transpose(image)] == [x.shape for x in operands]
    if image.requires_grad:
        gradients = torch.autograd.grad(image.sum(), operands)
        assert [part.shape for part in gradients] == [x.shape for x in operands]


@every_map
def test_absolute_dominates(case: Case) -> None:
    """|W x| <= |W| |x|, and |W| is monotone and without bias; so is its adjoint against W's."""
    operator, shapes = case
    absolute = operator.absolute()
    operands = [normal(3, *shape) for shape in shapes]
    bound = absolute.forward(*(x.abs() for x in operands))
    assert bool((linear(operator, operands).abs() <= bound + 1e-12).all())
    assert float(absolute.forward(*(torch.zeros_like(x) for x in operands)).abs().sum()) == 0
    cotangent = normal(*bound.shape)
    for part, size in zip(operator.transpose(cotangent), absolute.transpose(cotangent.abs()), strict=True):
        assert bool((part.abs() <= size + 1e-12).all())


@every_map
def test_absolute_is_no_larger_than_it_must_be(case: Case) -> None:
    """Column by column, |W| e_i = |W e_i|: intervals through it are exact."""
    operator, shapes = case
    absolute = operator.absolute()
    sizes = [int(torch.tensor(shape).prod()) for shape in shapes]
    basis = torch.eye(sum(sizes), dtype=DOUBLE).split(sizes, 1)
    operands = [part.reshape(-1, *shape) for part, shape in zip(basis, shapes, strict=True)]
    torch.testing.assert_close(
        absolute.forward(*operands), linear(operator, operands).abs(), rtol=1e-11, atol=1e-11
    )


@every_map
def test_terms_count_the_products(case: Case) -> None:
    """No sum, in either direction, has more non-zero terms than `terms` says."""
    operator, shapes = case
    sizes = [int(torch.tensor(shape).prod()) for shape in shapes]
    basis = torch.eye(sum(sizes), dtype=DOUBLE).split(sizes, 1)
    operands = [part.reshape(-1, *shape) for part, shape in zip(basis, shapes, strict=True)]
    matrix = linear(operator, operands).flatten(1) != 0
    assert int(matrix.sum(0).max()) <= operator.terms
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    for start, stop in pairwise(offsets.tolist()):
        assert int(matrix[start:stop].sum(1).max()) <= operator.terms


@every_map
def test_interval_encloses_samples(case: Case) -> None:
    """The interval of one affine node holds the images of all points of its operands' boxes."""
    operator, shapes = case
    nodes = [Node(None, (), shapes[0])]
    for shape in shapes[1:]:
        nodes.append(Node(Constant(torch.zeros(shape, dtype=DOUBLE), shapes[0]), (0,), shape))
    out = operator.forward(*(torch.zeros(1, *shape, dtype=DOUBLE) for shape in shapes)).shape[1:]
    network = Network((*nodes, Node(operator, tuple(range(len(shapes))), tuple(out))))
    centres, radii = [normal(1, *s) for s in shapes], [normal(1, *s).abs() for s in shapes]
    pairs = [(c - r, c + r) for c, r in zip(centres, radii, strict=True)]
    low, high = affine_interval(network, len(shapes), pairs)
    corners = [c + r * normal(200, *c.shape[1:]).sign() for c, r in zip(centres, radii, strict=True)]
    image = operator.forward(*corners)
    assert bool(((image >= low) & (image <= high)).all())


@every_map
def test_other_precision(case: Case) -> None:
    """`to` changes the element type and nothing else, cached forms of the kernel included."""
    operator, shapes = case
    single = operator.to(torch.device("cpu"), torch.float32)
    operands = [normal(2, *shape).float() for shape in shapes]
    expected = operator.forward(*(x.double() for x in operands))
    torch.testing.assert_close(single.forward(*operands).double(), expected, rtol=1e-4, atol=1e-4)
    cotangent = normal(*expected.shape)
    for found, part in zip(single.transpose(cotangent.float()), operator.transpose(cotangent), strict=True):
        torch.testing.assert_close(found.double(), part, rtol=1e-4, atol=1e-4)


@given(networks())
def test_networks_of_the_tests_are_well_formed(network: Network) -> None:
    """Declared shapes are the values' shapes, and the flat axes are without gaps."""
    values = network.values(torch.zeros(2, network.inputs, dtype=DOUBLE) + 0.3)
    assert [tuple(value.shape[1:]) for value in values] == [node.shape for node in network.nodes]
    stops = [network.inputs, *(layer.variables.stop for layer in network.layers)]
    assert [layer.variables.start for layer in network.layers] == stops[:-1]
    assert stops[-1] == network.variables


@every_map
def test_convolutions_know_their_shape_and_their_gradient(case: Case) -> None:
    """The shape in closed form is the value's, and torch's gradient is the adjoint."""
    operator, shapes = case
    if not isinstance(operator, Convolution):
        return
    x = normal(2, *shapes[0]).requires_grad_()
    value = operator.forward(x)
    assert value.shape[1:] == operator.output_shape
    cotangent = normal(*value.shape)
    (gradient,) = torch.autograd.grad(value, x, cotangent)
    torch.testing.assert_close(gradient, operator.transpose(cotangent)[0], rtol=1e-11, atol=1e-11)
