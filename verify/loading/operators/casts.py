"""Casts to other element types."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from verify.loading.builder import Builder, Value
from verify.loading.calls import Call, Unsupported, tensor
from verify.loading.integers import converted as of_type
from verify.loading.integers import is_integer
from verify.loading.operators.comparisons import compare, is_whole
from verify.loading.registry import known, onnx, torch_call
from verify.network.activations.relu import Relu
from verify.network.activations.steps import Floor, Positive


def _cast(module: Any, x: Tensor, *_: Any) -> Tensor:
    if module.target is None:
        raise Unsupported(f"a cast to ONNX's element type {module.attributes.get('to')}")
    return of_type(x, module.target)


@onnx("Cast", computed=_cast, casts=True)
@torch_call("to")
def cast(call: Call) -> Value:
    """Casts: the float types that keep real numbers, bool, and integers, whose ranges are looked at behind (integers.py)."""
    target = getattr(call.module, "target", None)
    if target is None:
        target = next(
            (a for a in (*call.args, *call.kwargs.values()) if isinstance(a, torch.dtype)), torch.float64
        )
    if target == torch.bool:
        return truth(call.builder, call.x)
    if is_integer(target):
        whole = whole_part(call.builder, call.x)
        call.builder.casts[whole.node] = call.x.node
        return whole
    if target not in (torch.float32, torch.float64):
        raise Unsupported(f"a cast to {target} rounds; only float32 and float64 keep real numbers")
    return call.x


known("CastLike", casts=True)
known("to", casts=True)


def whole_part(builder: Builder, x: Value) -> Value:
    """x without what is behind the point, as casts cut it."""
    if is_whole(builder, x):
        return x
    up, down = builder.activation(Relu(), x), builder.activation(Relu(), builder.scale(x, tensor(-1.0)))
    return builder.combine((1, -1), builder.activation(Floor(), up), builder.activation(Floor(), down))


def truth(builder: Builder, x: Value) -> Value:
    """1 where x is not 0; comparisons stay as they are."""
    operator = builder.nodes[x.node].operator
    if isinstance(operator, Positive):
        return x
    return builder.scale(compare(builder, "Equal", x, 0.0), tensor(-1.0), tensor(1.0))
