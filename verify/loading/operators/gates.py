"""Gates: an activation times its own operand, also where a graph spells it out as a product."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from verify.loading.builder import Builder, Value
from verify.loading.calls import Call, Unsupported, tensor
from verify.loading.registry import onnx, torch_call
from verify.network.activations.base import Activation
from verify.network.activations.convex import Softplus
from verify.network.activations.gated import Gelu, Swish
from verify.network.activations.power import Power
from verify.network.activations.s_shaped import Erf, Sigmoid, Tanh
from verify.network.affine import Scale


def scaled_argument(builder: Builder, activation: Activation, x: Value, scale: float) -> Value:
    """sigma(scale x) / scale."""
    if scale == 0:
        raise Unsupported("its scale is 0")
    return builder.scale(
        builder.activation(activation, builder.scale(x, tensor(scale))), tensor(1.0) / tensor(scale)
    )


@onnx("Swish")
def swish(call: Call) -> Value:
    """Swish: x sigmoid(alpha x)."""
    alpha = float(call.attributes.get("alpha", 1.0))
    return scaled_argument(call.builder, Swish(), call.x, alpha)


@onnx("Gelu")
def onnx_gelu(call: Call) -> Value:
    """Gelu, exact or approximate."""
    kind = call.attributes.get("approximate", "none")
    return gelu(call.builder, call.x, kind.decode() if isinstance(kind, bytes) else kind)


@torch_call(nn.GELU, F.gelu)
def torch_gelu(call: Call) -> Value:
    """torch.nn.GELU and its functional form."""
    return gelu(call.builder, call.x, call.setting(1, "approximate", "none"))


def gelu(builder: Builder, x: Value, approximate: str) -> Value:
    """GELU; its approximation is `x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3))`."""
    if approximate == "none":
        return builder.activation(Gelu(), x)
    if approximate != "tanh":
        raise Unsupported(f"approximation {approximate!r}")
    cube = builder.activation(Power(3), x)
    inner = builder.combine((1, 1), x, builder.scale(cube, tensor(0.044715)))
    gate = builder.activation(Sigmoid(), builder.scale(inner, tensor(2 * math.sqrt(2 / math.pi))))
    return builder.product(x, gate)


@onnx("Mish")
@torch_call(nn.Mish, F.mish)
def mish(call: Call) -> Value:
    """x tanh(softplus(x))."""
    gate = call.builder.activation(Tanh(), call.builder.activation(Softplus(), call.x))
    return call.builder.product(call.x, gate)


def gated(builder: Builder, a: Value, b: Value) -> Value | None:
    """`a b` where that is swish or GELU as graphs spell them, else None.

    `b` is `f sigma(k x) + c` for a multiple `x` of `a`, `c` being 0 for the sigmoid and `f` for erf.
    """
    source, share = _multiple_of(builder, a)
    behind, factor, shift = _straight(builder, b)
    operator = builder.nodes[behind].operator
    if not isinstance(operator, Sigmoid | Erf) or shift != (0.0 if isinstance(operator, Sigmoid) else factor):
        return None
    inner = builder.nodes[behind].operands[0]
    place, scale = _multiple_of(builder, Value(inner, builder.nodes[inner].shape))
    if (
        place != source
        or not scale * factor * share
        or builder.nodes[place].shape != a.stored
        or a.shape != b.shape
    ):
        return None
    x = Value(source, a.shape)
    if isinstance(operator, Sigmoid):
        found = builder.activation(Swish(), builder.scale(x, tensor(scale)))
        return builder.scale(found, tensor(share * factor / scale))
    wide = scale * math.sqrt(2)
    found = builder.activation(Gelu(), builder.scale(x, tensor(wide)))
    return builder.scale(found, tensor(2 * share * factor / wide))


def _straight(builder: Builder, x: Value) -> tuple[int, float, float]:
    """The node that x is `factor * node + shift` of, with one factor and one shift; x itself if there is none."""
    node = builder.nodes[x.node]
    if not isinstance(node.operator, Scale) or builder.nodes[node.operands[0]].shape != node.shape:
        return x.node, 1.0, 0.0
    factor, shift = node.operator.factor, node.operator.bias
    shift = torch.zeros(()) if shift is None else shift
    if bool((factor != factor.flatten()[0]).any()) or bool((shift != shift.flatten()[0]).any()):
        return x.node, 1.0, 0.0
    deeper, inner_factor, inner_shift = _straight(builder, Value(node.operands[0], node.shape))
    outer = float(factor.flatten()[0])
    return deeper, outer * inner_factor, outer * inner_shift + float(shift.flatten()[0])


def _multiple_of(builder: Builder, x: Value) -> tuple[int, float]:
    """The node that x is a multiple of, and the factor; x itself if there is none."""
    behind, factor, shift = _straight(builder, x)
    return (x.node, 1.0) if shift else (behind, factor)
