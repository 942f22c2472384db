"""A device whose float64 products are not sums of products is refused, map by map; and no library is asked for such."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from nets import DOUBLE
from pretend import DEVICE, pretended
from torch import Tensor

from verify.errors import InputError
from verify.network import rounding_model
from verify.network.activations import Relu
from verify.network.affine import Affine, Dense, Reshape
from verify.network.convolution import Convolution
from verify.network.graph import Network, Node
from verify.network.rounding_model import Geometry, check, excess, excess_of_rows

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a true device")


def convolution(kernel: tuple[int, ...], sizes: tuple[int, ...], **changes: Any) -> Convolution:
    """Of 3 channels, or of as many as `changes` say."""
    rank = len(kernel)
    weight = torch.ones(changes.pop("shape", (4, 3)) + kernel, dtype=DOUBLE)
    channels = weight.shape[0] if changes.get("transposed") else weight.shape[1] * changes.get("groups", 1)
    plain = Convolution(weight, None, (1,) * rank, (0,) * rank, (1,) * rank, 1, (1, channels, *sizes))
    return replace(plain, **changes)


OPERATORS: dict[str, Affine] = {
    "dense": Dense(torch.ones(20, 30, dtype=DOUBLE)),
    "dense, one input": Dense(torch.ones(5, 1, dtype=DOUBLE)),
    "1d": convolution((5,), (40,), padding=(2,)),
    "2d": convolution((3, 3), (12, 12), padding=(1, 1)),
    "2d, a dimension of 1": convolution((1, 9), (8, 64)),
    "2d, strides": convolution((4, 3), (13, 11), stride=(2, 3), padding=(1, 0)),
    "2d, one channel": convolution((3, 3), (8, 8), shape=(2, 1)),
    "2d, groups": convolution((3, 3), (8, 8), groups=2, shape=(4, 2)),
    "2d, dilation": convolution((3, 3), (9, 9), dilation=(2, 2)),
    "3d": convolution((2, 2, 2), (4, 5, 6)),
    "transposed": convolution((3, 3), (6, 6), stride=(2, 2), transposed=True, output_padding=(1, 1)),
}


@pytest.fixture(autouse=True)
def _nothing_is_known() -> Iterator[None]:
    """Geometries are tried anew, here and after this."""
    excess.cache_clear()
    excess_of_rows.cache_clear()
    yield
    excess.cache_clear()
    excess_of_rows.cache_clear()


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("device", [CPU, DEVICE], ids=str)
def test_sums_of_products_pass(name: str, device: torch.device) -> None:
    """On the CPU in whatever form a map has there, and in the one that it has elsewhere."""
    geometry = Geometry.of(OPERATORS[name])
    assert geometry is not None
    with pretended():
        assert excess(geometry, device) <= 1


def test_other_maps_have_no_geometry() -> None:
    assert Geometry.of(Reshape((4,), (2, 2))) is None
    assert Geometry.of(None) is None


def network(operator: Affine) -> Network:
    """The map and a ReLU behind it."""
    x = torch.zeros(1, *Geometry.of(operator).shapes()[0], dtype=DOUBLE)  # type: ignore[union-attr]
    shape = tuple(operator.forward(x).shape[1:])
    return Network(
        (Node(None, (), tuple(x.shape[1:])), Node(operator, (0,), shape, "map"), Node(Relu(), (1,), shape))
    )


def by_fourier(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """Convolutions of stride 1 as libraries may compute them."""
    if operation._schema.name != "aten::_convolution" or args[0].dtype != DOUBLE or args[6]:
        return operation(*args, **kwargs)
    x, weight, padding = args[0], args[1], args[4]
    x = torch.nn.functional.pad(x, [side for size in reversed(padding) for side in (size, size)])
    sizes, axes = x.shape[2:], tuple(range(2, x.dim()))
    product = torch.einsum(
        "bi...,oi...->bo...",
        torch.fft.rfftn(x, dim=axes),
        torch.fft.rfftn(weight, s=sizes, dim=axes).conj().resolve_conj(),
    )
    whole = torch.fft.irfftn(product, s=sizes, dim=axes)
    return whole[
        (..., *(slice(0, size - k + 1) for size, k in zip(sizes, weight.shape[2:], strict=True)))
    ].contiguous()


def by_winograd(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """Convolutions by 3x3 kernels without padding, two outputs by two at a time (Lavin and Gray 2016)."""
    if operation._schema.name != "aten::_convolution" or args[1].shape[2:] != (3, 3) or args[6]:
        return operation(*args, **kwargs)
    x, weight = torch.nn.functional.pad(args[0], (args[4][1], args[4][1], args[4][0], args[4][0])), args[1]
    of_x = torch.tensor([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], dtype=x.dtype)
    of_weight = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], dtype=x.dtype)
    back = torch.tensor([[1, 1, 1, 0], [0, 1, -1, -1]], dtype=x.dtype)
    tiles = x.unfold(2, 4, 2).unfold(3, 4, 2)
    inner = torch.einsum("pr,bihwrs,qs->bihwpq", of_x, tiles, of_x)
    outer = torch.einsum("pr,oirs,qs->oipq", of_weight, weight, of_weight)
    found = torch.einsum(
        "up,bohwpq,vq->bohuwv", back, torch.einsum("bihwpq,oipq->bohwpq", inner, outer), back
    )
    return found.flatten(4, 5).flatten(2, 3).contiguous()


def by_fixed_point(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """Matrix products of numbers that are cut off relative to the largest of their row or column."""
    if operation._schema.name.split("::")[1] not in ("mm", "addmm", "bmm", "mv", "matmul", "linear"):
        return operation(*args, **kwargs)
    *first, a, b = args
    return operation(*first, _cut(a, -1), _cut(b, -2 if b.dim() > 1 else -1), **kwargs)


def _cut(matrix: Tensor, axis: int) -> Tensor:
    grid = matrix.abs().amax(axis, keepdim=True) * 2.0**-53
    return (matrix / grid).round() * grid


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (by_fourier, "1d"), (by_fourier, "2d"), (by_fourier, "2d, a dimension of 1"), (by_fourier, "2d, one channel"),
        (by_winograd, "2d"), (by_winograd, "2d, one channel"), (by_fixed_point, "dense"),
    ],
    ids=lambda part: getattr(part, "__name__", part),
)  # fmt: skip
def test_others_are_refused(wrong: Callable[..., Any], name: str) -> None:
    """They err by little beside the largest entry, and are found out; the map is named."""
    here = network(OPERATORS[name])
    there = Geometry.of(OPERATORS[name])
    assert there is not None
    with pretended(wrong):
        weight = torch.randn(there.weight, dtype=DOUBLE)
        x = torch.randn(2, *there.shapes()[0], dtype=DOUBLE)
        own, other = (
            there.operator(weight).forward(x),
            there.operator(weight.to(DEVICE)).forward(x.to(DEVICE)).cpu(),
        )
        torch.testing.assert_close(other, own, rtol=1e-12, atol=1e-12)  # a good one otherwise
        assert not torch.equal(other, own)
        with pytest.raises(InputError, match=re.escape("--device cuda:0: node 'map': an entry")):
            check(here.to(DEVICE, DOUBLE))
    check(here)


def test_products_of_rows_are_tried_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding_model, "excess", lambda *_: 0.0)
    with pretended(by_fixed_point), pytest.raises(InputError, match="products of rows"):
        check(network(OPERATORS["dense"]).to(DEVICE, DOUBLE))


def test_no_number_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding_model, "excess", lambda *_: float("nan"))
    with pretended(), pytest.raises(InputError, match="is off by nan times"):
        check(network(OPERATORS["dense"]).to(DEVICE, DOUBLE))


def test_geometries_are_tried_once() -> None:
    with pretended() as journal:
        there = network(OPERATORS["2d"]).to(DEVICE, DOUBLE)
        with journal.during() as first:
            check(there)
        with journal.during() as second:
            check(there)
    assert first.operations
    assert not second.operations


@pytest.mark.parametrize("kind", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["1d", "2d", "3d", "transposed", "2d, groups"])
def test_what_libraries_are_asked_for(name: str, kind: torch.dtype) -> None:
    """Elsewhere no convolution of doubles goes to cuDNN and none is in TF32, forward or back; the results are the CPU's."""
    operator = OPERATORS[name]
    assert isinstance(operator, Convolution)
    weight = torch.randn(operator.weight.shape, dtype=kind)
    x = torch.randn(2, *operator.input_shape, dtype=kind)
    asked: list[tuple[bool, bool]] = []

    def listening(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if operation._schema.name == "aten::_convolution":
            asked.append(tuple(args[-2:]))
        return operation(*args, **kwargs)

    here = replace(operator, weight=weight)
    with pretended(listening):
        there = here.to(DEVICE, kind)
        found = there.forward(x.to(DEVICE))
        back = there.transpose(found)[0]
        torch.testing.assert_close(found.cpu(), here.forward(x))
        torch.testing.assert_close(back.cpu(), here.transpose(here.forward(x))[0])
    assert asked == [(kind == torch.float32, False)] * 2
