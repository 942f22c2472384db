"""Reductions: sums, products and logarithms of sums of some axes' entries, and sums up to each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from verify.loading.builder import Builder, Value
from verify.loading.calls import Call, Rule, Unsupported, axes_of, integer, integers
from verify.loading.integers import bounded, multipliable, summable
from verify.loading.operators.matrices import along
from verify.loading.operators.maxima import reduce_maximum
from verify.loading.operators.softmax import log_sum_exp
from verify.loading.registry import onnx, torch_call
from verify.network.activations.convex import Log, Sqrt
from verify.network.activations.piecewise import Abs
from verify.network.activations.relu import Relu
from verify.network.activations.square import Square

Fold = Callable[[Builder, Value], Value]  # of the last axis, to one entry
Reduction = Callable[[Builder, Value, tuple[int, ...], bool], Value]  # over axes, which are kept or not


def reduction(name: str, idle: bool = True, **known: Any) -> Callable[[Reduction], Reduction]:
    """Registers a reduction of ONNX; `idle`: over no axes it does nothing."""

    def register(over: Reduction) -> Reduction:
        onnx(name, wraps=False, **known)(lambda call: _reduce(call, over, idle))
        return over

    return register


def _reduce(call: Call, over: Reduction, idle: bool) -> Value:
    """The axes are an attribute in old versions, an operand in new ones."""
    attributes = call.attributes
    (axes,) = call.constants("b")
    axes = attributes.get("axes") if axes is None else integers(axes)
    if not axes and attributes.get("noop_with_empty_axes", 0):
        if not idle:
            raise Unsupported("no axes to reduce")
        return call.x
    places = axes_of(axes or None, len(call.x.shape))
    return over(call.builder, call.x, places, bool(attributes.get("keepdims", 1)))


@reduction("ReduceSum", guard=summable, check=bounded(torch.sum))
def total(builder: Builder, x: Value, axes: tuple[int, ...], keepdim: bool) -> Value:
    return builder.sum(x, axes, keepdim)


@reduction("ReduceMean", truncates=True)
def mean(builder: Builder, x: Value, axes: tuple[int, ...], keepdim: bool) -> Value:
    return builder.sum(x, axes, keepdim, mean=True)


@reduction("ReduceMax", chooses=True)
def maximum(builder: Builder, x: Value, axes: tuple[int, ...], keepdim: bool) -> Value:
    return reduce_maximum(builder, x, axes, keepdim)


@reduction("ReduceMin", chooses=True)
def minimum(builder: Builder, x: Value, axes: tuple[int, ...], keepdim: bool) -> Value:
    return reduce_maximum(builder, x, axes, keepdim, -1)


@reduction("ReduceL1", idle=False, check=bounded(torch.sum))
def sizes(builder: Builder, x: Value, axes: tuple[int, ...], keepdim: bool) -> Value:
    return builder.sum(builder.activation(Abs(), x), axes, keepdim)


@reduction("ReduceSumSquare", idle=False, check=bounded(lambda x: x.square().sum()))
def squares(builder: Builder, x: Value, axes: tuple[int, ...], keepdim: bool) -> Value:
    return builder.sum(builder.activation(Square(), x), axes, keepdim)


@reduction("ReduceL2", idle=False, truncates=True)
def length(builder: Builder, x: Value, axes: tuple[int, ...], keepdim: bool) -> Value:
    """The ReLU takes what rounding leaves below 0 out of the root's interval."""
    return builder.activation(Sqrt(), builder.activation(Relu(), squares(builder, x, axes, keepdim)))


@reduction("ReduceLogSum", truncates=True)
def logarithm(builder: Builder, x: Value, axes: tuple[int, ...], keepdim: bool) -> Value:
    return builder.activation(Log(), builder.sum(x, axes, keepdim))


@reduction("ReduceLogSumExp", truncates=True)
def log_of_exponentials(builder: Builder, x: Value, axes: tuple[int, ...], keepdim: bool) -> Value:
    return reduced(builder, x, axes, keepdim, log_sum_exp)


@reduction("ReduceProd", guard=multipliable, check=bounded(lambda x: x.clamp(min=1).prod()))
def product(builder: Builder, x: Value, axes: tuple[int, ...], keepdim: bool) -> Value:
    return reduced(builder, x, axes, keepdim, product_along)


def reduced(builder: Builder, x: Value, axes: tuple[int, ...], keepdim: bool, fold: Fold) -> Value:
    """What `fold` makes of some axes, put together as the last one, of which it leaves one entry."""
    kept = [axis for axis in range(len(x.shape)) if axis not in axes]
    last = builder.permute(x, (*kept, *axes))
    rows = builder.reshape(
        last, (*(x.shape[axis] for axis in kept), math.prod(x.shape[axis] for axis in axes))
    )
    shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape) if keepdim or i not in axes)
    return builder.reshape(fold(builder, rows), shape)


def product_along(builder: Builder, x: Value) -> Value:
    """The product over the last axis (kept), as a balanced tree."""
    axis = len(x.shape) - 1
    while (size := x.shape[axis]) > 1:
        half, odd = divmod(size, 2)
        product = builder.product(builder.slice(x, axis, 0, half), builder.slice(x, axis, half, 2 * half))
        x = builder.concatenate([product, builder.slice(x, axis, 2 * half, size)], axis) if odd else product
    return x


def torch_reduced(fold: Fold) -> Rule:
    """The rule of a torch function that makes one entry of each row along `dim`."""

    def rule(call: Call) -> Value:
        axes = axes_of(call.constant(1, "dim"), len(call.x.shape))
        return reduced(call.builder, call.x, axes, bool(call.constant(2, "keepdim", default=False)), fold)

    return rule


torch_call(torch.logsumexp, "logsumexp")(torch_reduced(log_sum_exp))
torch_call(torch.prod, "prod")(torch_reduced(product_along))


@torch_call(torch.sum, "sum")
def torch_sum(call: Call) -> Value:
    """torch.sum."""
    return _summed(call, mean=False)


@torch_call(torch.mean, "mean")
def torch_mean(call: Call) -> Value:
    """torch.mean."""
    return _summed(call, mean=True)


def _summed(call: Call, mean: bool) -> Value:
    axes = axes_of(call.constant(1, "dim", "axis"), len(call.x.shape))
    keepdim = bool(call.constant(2, "keepdim", "keepdims", default=False))
    return call.builder.sum(call.x, axes, keepdim, mean)


def cumulative_sum(
    builder: Builder, x: Value, axis: int, exclusive: bool = False, reverse: bool = False
) -> Value:
    """The sums of all entries up to each one along an axis, itself included unless `exclusive`."""
    axis %= len(x.shape)
    matrix = torch.ones(x.shape[axis], x.shape[axis], dtype=torch.float64).tril(-1 if exclusive else 0)
    return along(builder, x, axis, matrix.mT if reverse else matrix)


@torch_call(torch.cumsum, "cumsum")
def torch_cumulative_sum(call: Call) -> Value:
    """torch.cumsum."""
    return cumulative_sum(call.builder, call.x, call.constant(1, "dim"))


@onnx("CumSum")
def onnx_cumulative_sum(call: Call) -> Value:
    """CumSum."""
    attributes = call.attributes
    return cumulative_sum(
        call.builder,
        call.x,
        integer(call.constant(1, "b")),
        bool(attributes.get("exclusive", 0)),
        bool(attributes.get("reverse", 0)),
    )


@onnx("GlobalAveragePool")
def global_average_pool(call: Call) -> Value:
    """The mean over all spatial axes."""
    return call.builder.sum(call.x, tuple(range(2, len(call.x.shape))), keepdim=True, mean=True)
