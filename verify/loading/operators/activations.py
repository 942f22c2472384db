"""Activations, and what is one of them between scales."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verify.loading.builder import Builder, Value, broadcast_shape
from verify.loading.calls import Call, Rule, Unsupported, tensor
from verify.loading.operators.gates import scaled_argument
from verify.loading.registry import converted, known, onnx, torch_call
from verify.network.activations import ACTIVATIONS
from verify.network.activations.base import Activation
from verify.network.activations.convex import Softplus
from verify.network.activations.elu import Elu
from verify.network.activations.piecewise import Abs, Clip, LeakyRelu
from verify.network.activations.relu import Relu
from verify.network.activations.s_shaped import Sigmoid, Tanh


def plain(activation: Activation) -> Rule:
    """The rule of an activation without settings."""
    return lambda call: call.builder.activation(activation, call.x)


def _by_their_spellings() -> None:
    """Activations without settings say themselves how models spell them."""
    for kind in ACTIVATIONS.values():
        names = [spelling for spelling in kind.spellings if isinstance(spelling, str)]
        called: list[Any] = [spelling for spelling in kind.spellings if not isinstance(spelling, str)]
        functions = list(filter(_is_a_method_too, called))
        if kind.spellings:
            rule = plain(kind())
            torch_call(*called, *(function.__name__ for function in functions))(rule)
            onnx(*names, computed=_applied(functions[0]) if functions else None)(rule)


def _is_a_method_too(spelling: Any) -> bool:
    return getattr(torch, spelling.__name__, None) is spelling


def _applied(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda module, x, *_: function(x)


_by_their_spellings()


@converted("OnnxFunction", "Abs", "Tanh")
def function(call: Call) -> Value:
    """onnx2torch's module for Abs, Tanh and functions that have no rule yet."""
    rules = {torch.abs: Abs, torch.tanh: Tanh}
    if call.module.function not in rules:
        raise Unsupported("no relaxation of it is known here yet")
    return call.builder.activation(rules[call.module.function](), call.x)


known("Relu", module="ReLU", rule=plain(Relu()), chooses=True)
known("Sigmoid", module="Sigmoid", rule=plain(Sigmoid()))


# limits


def clipped(builder: Builder, x: Value, low: Any, high: Any) -> Value:
    """min(max(x, low), high); None stands for no limit."""
    minimum = -float("inf") if low is None or _is_end(low, "min") else float(tensor(low))
    maximum = float("inf") if high is None or _is_end(high, "max") else float(tensor(high))
    if minimum == -float("inf") and maximum == float("inf"):
        return x
    if not minimum < maximum:
        # the upper limit counts where they cross
        return builder.constant(torch.full(x.shape, maximum, dtype=torch.float64))
    if (minimum, maximum) == (0.0, float("inf")):
        return builder.activation(Relu(), x)
    return builder.activation(Clip(minimum, maximum), x)


def _is_end(limit: Any, end: str) -> bool:
    """Whether a limit of integers is the end of its type, which is none."""
    whole = isinstance(limit, Tensor) and not limit.is_floating_point() and limit.dtype != torch.bool
    return whole and bool((limit == getattr(torch.iinfo(limit.dtype), end)).all())


@onnx("Clip", infinite=True, chooses=True)
def clip(call: Call) -> Value:
    """Clip: the limits are attributes up to opset 10, then operands."""
    low, high = call.constants("bc")
    attributes = call.attributes
    low = attributes.get("min") if low is None else low
    return clipped(call.builder, call.x, low, attributes.get("max") if high is None else high)


@torch_call(torch.clamp, torch.clip, "clamp", "clip", "clamp_")
def clamp(call: Call) -> Value:
    """torch.clamp and clip."""
    return clipped(call.builder, call.x, call.constant(1, "min"), call.constant(2, "max"))


@torch_call(nn.ReLU6, F.relu6)
def relu6(call: Call) -> Value:
    """min(max(x, 0), 6)."""
    return clipped(call.builder, call.x, 0.0, 6.0)


@torch_call(nn.Hardtanh, F.hardtanh)
def hardtanh(call: Call) -> Value:
    """torch.nn.Hardtanh."""
    return clipped(call.builder, call.x, call.setting(1, "min_val", -1.0), call.setting(2, "max_val", 1.0))


@converted("OnnxHardSigmoid", "HardSigmoid", alike=6)
def onnx_hard_sigmoid(call: Call) -> Value:
    """Clip(alpha x + beta, 0, 1)."""
    moved = call.builder.scale(call.x, tensor(call.module.alpha), tensor(call.module.beta))
    return clipped(call.builder, moved, 0.0, 1.0)


@torch_call(nn.Hardsigmoid)
def hard_sigmoid(call: Call) -> Value:
    """torch's: Clip(x / 6 + 1 / 2, 0, 1)."""
    return clipped(call.builder, call.builder.scale(call.x, tensor(1 / 6), tensor(0.5)), 0.0, 1.0)


# slopes


@torch_call(nn.LeakyReLU, F.leaky_relu)
def leaky_relu(call: Call) -> Value:
    """torch.nn.LeakyReLU."""
    return call.builder.activation(LeakyRelu(float(call.setting(1, "negative_slope", 0.01))), call.x)


known("LeakyRelu", module="LeakyReLU", rule=leaky_relu)


@torch_call(nn.PReLU)
def prelu(call: Call) -> Value:
    """Torch's PReLU: slopes are one for all, or one for each channel, on axis 1."""
    slope = tensor(call.setting(1, "weight"))
    if len(slope) > 1:
        slope = slope.reshape(-1, *(1,) * (len(call.x.shape) - 2))
    return _sloped(call, slope)


@converted("OnnxPReLU", "PRelu")
def onnx_prelu(call: Call) -> Value:
    """ONNX's PRelu: slopes are an operand that broadcasts to the other one, from the last axis on."""
    slope = tensor(call.constant(1, "slope"))
    if broadcast_shape(call.x.shape, tuple(slope.shape)) != call.x.shape:
        raise Unsupported(
            f"slopes of shape {list(slope.shape)} are more than its operand {list(call.x.shape)} has"
        )
    return _sloped(call, slope)


def _sloped(call: Call, slope: Tensor) -> Value:
    """One slope for all is LeakyReLU, else `s x + (1 - s) relu(x)`."""
    if bool((slope == slope.flatten()[0]).all()):
        return call.builder.activation(LeakyRelu(float(slope.flatten()[0])), call.x)
    builder, active = call.builder, call.builder.activation(Relu(), call.x)
    return builder.combine((1, 1), builder.scale(call.x, slope), builder.scale(active, 1 - slope))


# exponentials


@torch_call(nn.Softplus, F.softplus)
def torch_softplus(call: Call) -> Value:
    """torch's, whose value beyond the threshold is x, less than 3e-9 off."""
    beta, threshold = call.setting(1, "beta", 1.0), call.setting(2, "threshold", 20.0)
    if threshold < 20:
        raise Unsupported(f"threshold {threshold}")
    return scaled_argument(call.builder, Softplus(), call.x, float(beta))


@onnx("Elu")
def elu(call: Call) -> Value:
    """Elu."""
    return call.builder.activation(Elu(float(call.attributes.get("alpha", 1.0))), call.x)


@torch_call(nn.ELU, F.elu)
def torch_elu(call: Call) -> Value:
    """torch.nn.ELU and its functional form."""
    return call.builder.activation(Elu(float(call.setting(1, "alpha", 1.0))), call.x)


@onnx("Celu")
def celu(call: Call) -> Value:
    """x for x >= 0, `alpha (exp(x / alpha) - 1)` below."""
    builder, alpha = call.builder, float(call.attributes.get("alpha", 1.0))
    inner = builder.scale(call.x, tensor(1.0) / tensor(alpha))
    return builder.scale(builder.activation(Elu(1.0), inner), tensor(alpha))


@onnx("Selu")
def onnx_selu(call: Call) -> Value:
    """Selu; its attributes have been written out (onnx/convert.py)."""
    attributes = call.attributes
    return selu(call.builder, call.x, float(attributes["alpha"]), float(attributes["gamma"]))


@torch_call(nn.SELU, F.selu, torch.selu)
def torch_selu(call: Call) -> Value:
    """torch.nn.SELU."""
    return selu(call.builder, call.x, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


def selu(builder: Builder, x: Value, alpha: float, gamma: float) -> Value:
    """gamma times ELU."""
    return builder.scale(builder.activation(Elu(alpha), x), tensor(gamma))
