"""Powers with constant exponents or a constant base."""

from __future__ import annotations

import operator

import torch
from torch import Tensor

from verify.loading.builder import Builder, Value, broadcast_shape
from verify.loading.calls import Call, Unsupported, tensor
from verify.loading.integers import limits_of
from verify.loading.registry import converted, torch_call
from verify.network.activations.convex import Exp, Rsqrt, Sqrt
from verify.network.activations.integer import LARGEST_EXACT
from verify.network.activations.power import Power
from verify.network.activations.square import Square


def _check_power(operands: list[Tensor]) -> None:
    """Raises Unsupported for a power of constant integers that its type does not hold."""
    if len(operands) == 2 and not operands[0].is_floating_point():
        size = operands[0].double().abs().pow(operands[1].double())
        most = min(limits_of(operands[0].dtype)[1], LARGEST_EXACT)
        if not bool(((size <= most) & (operands[1].double() >= 0)).all()):
            raise Unsupported("a power that its type does not hold, or of a negative exponent")


@converted("OnnxPow", "Pow", truncates=True, check=_check_power)
@torch_call(torch.pow, operator.pow, "pow")
def pow_(call: Call) -> Value:
    """Pow with constant exponents or a constant base."""
    base, exponents = call.argument(0, "input", "self"), call.argument(1, "exponent")
    if not isinstance(base, Value):
        return exponential(call.builder, tensor(base), exponents)
    exponents = tensor(call.constant(1, "exponent"))
    shape = broadcast_shape(base.shape, exponents.shape)
    return powers(call.builder, call.builder.expand(base, shape), exponents.expand(shape))


def powers(builder: Builder, x: Value, exponents: Tensor) -> Value:
    """x to exponents of its own shape; those that are alike are one activation."""
    different, group = exponents.flatten().unique(return_inverse=True)
    if len(different) == 1:
        return power(builder, x, float(different[0]))
    members = [(group == i).nonzero()[:, 0] for i in range(len(different))]
    parts = [
        power(builder, builder.gather(x, places), float(exponent))
        for places, exponent in zip(members, different, strict=True)
    ]
    back = torch.cat(members).argsort()
    return builder.reshape(builder.gather(builder.concatenate(parts, 0), back), x.shape)


def power(builder: Builder, x: Value, exponent: float) -> Value:
    """x to a whole number, or to 1/2 or -1/2; 0 to the 0 is 1, as ONNX and torch have it."""
    if exponent == 0:
        return builder.scale(x, tensor(0.0), tensor(1.0))
    if abs(exponent) == 0.5:
        return builder.activation(Sqrt() if exponent > 0 else Rsqrt(), x)
    if exponent != int(exponent):
        raise Unsupported("of constant exponents only whole numbers, 1/2 and -1/2 are supported")
    whole = abs(int(exponent))
    found = x
    if whole > 1:
        found = builder.activation(Square() if whole == 2 else Power(whole), x)
    return found if exponent > 0 else builder.reciprocal(found)


def exponential(builder: Builder, base: Tensor, x: Value) -> Value:
    """base^x; the base's logarithm rounds in float64."""
    if not bool((base > 0).all()):
        raise Unsupported("a base that is not positive")
    return builder.activation(Exp(), builder.scale(x, base.log()))


@converted("OnnxReciprocal", "Reciprocal")
@torch_call(torch.reciprocal, "reciprocal")
def reciprocal(call: Call) -> Value:
    """1 / x."""
    return call.builder.reciprocal(call.x)
