"""ONNX's Shrink and torch's softshrink, made of two ReLUs: importing this file registers the rules."""

from torch import nn
from torch.nn import functional as F

from verify.loading.builder import Value
from verify.loading.calls import Call, Unsupported, tensor
from verify.loading.registry import onnx, torch_call
from verify.network.activations.relu import Relu


def shrunk(call: Call, size: float) -> Value:
    """max(x - size, 0) - max(-x - size, 0)."""
    if size < 0:
        raise Unsupported(f"its limit is {size}, below 0")
    build, one, shift = call.builder, tensor(1.0), tensor(-size)
    above = build.activation(Relu(), build.scale(call.x, one, shift))
    below = build.activation(Relu(), build.scale(call.x, -one, shift))
    return build.combine((1, -1), above, below)


@onnx("Shrink")
def shrink(call: Call) -> Value:
    """Shrink, which jumps unless its bias is its limit."""
    limit, bias = call.attributes.get("lambd", 0.5), call.attributes.get("bias", 0.0)
    if limit != bias:
        raise Unsupported(f"its bias is {bias} and its limit {limit}; only equal ones are supported")
    return shrunk(call, limit)


@torch_call(nn.Softshrink, F.softshrink)
def softshrink(call: Call) -> Value:
    """torch's."""
    return shrunk(call, call.setting(1, "lambd", 0.5))
