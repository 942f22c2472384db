"""Comparisons, logic and choices: values that are 0 or 1."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from verify.loading.builder import Builder, Value
from verify.loading.calls import Call, Rule, Unsupported, tensor
from verify.loading.operators.arithmetic import add
from verify.loading.registry import converted, onnx, torch_call
from verify.network.activations.relu import Relu
from verify.network.activations.steps import Positive, Step
from verify.network.affine import Combine, Constant, Reshape, Scale
from verify.network.moves import NonNegative, Permute

_MOVES = ("concatenate", "expand", "gather", "slice", "sum")
_COMPARED = {
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
}
_LOGIC = {"And": torch.logical_and, "Or": torch.logical_or}


def is_whole(builder: Builder, x: Any) -> bool:
    """Whether all values are sure to be whole numbers."""
    if not isinstance(x, Value):
        return bool((tensor(x) == tensor(x).round()).all())
    node = builder.nodes[x.node]
    if x.node in builder.whole or isinstance(node.operator, Step):
        return True
    if isinstance(node.operator, Constant):
        return is_whole(builder, node.operator.value)
    moves = isinstance(node.operator, NonNegative) and node.operator.label in _MOVES
    if isinstance(node.operator, Scale):
        numbers = (node.operator.factor, node.operator.bias)
        moves = all(number is None or is_whole(builder, number) for number in numbers)
        if moves and not bool(node.operator.factor.any()):
            return True
    if not moves and not isinstance(node.operator, Combine | Permute | Relu | Reshape):
        return False
    return all(is_whole(builder, Value(index, builder.nodes[index].shape)) for index in node.operands)


def at_least(builder: Builder, a: Any, b: Any, or_equal: bool) -> Value:
    """1 where a > b, or with `or_equal` where a >= b, else 0; whole numbers are compared half way between."""
    above = add(builder, a, b, -1)
    if is_whole(builder, a) and is_whole(builder, b):
        above = builder.scale(above, None, tensor(0.5 if or_equal else -0.5))
    return builder.activation(Positive(or_equal), above)


def compare(builder: Builder, operator: str, a: Any, b: Any) -> Value:
    """Equal, Greater, GreaterOrEqual, Less, LessOrEqual."""
    if operator == "Equal":
        return add(builder, at_least(builder, a, b, True), at_least(builder, a, b, False), -1)
    if operator.startswith("Less"):
        a, b = b, a
    return at_least(builder, a, b, operator.endswith("OrEqual"))


@onnx(*_COMPARED, computed=lambda module, a, b, *_: _COMPARED[module.operator](a, b))
def onnx_compare(call: Call) -> Value:
    """Equal, Greater, GreaterOrEqual, Less, LessOrEqual."""
    return compare(call.builder, call.module.operator, *call.operands("ab"))


def torch_compare(name: str) -> Rule:
    """The rule of a comparison in torch."""
    return lambda call: compare(call.builder, name, call.argument(0, "input"), call.argument(1, "other"))


for _name, _functions in {
    "Greater": (torch.gt, operator.gt),
    "GreaterOrEqual": (torch.ge, operator.ge),
    "Less": (torch.lt, operator.lt),
    "LessOrEqual": (torch.le, operator.le),
}.items():
    torch_call(*_functions)(torch_compare(_name))


def logical(builder: Builder, operator: str, a: Any, b: Any) -> Value:
    """And: max(a + b - 1, 0); Or: min(a + b, 1), by the same of the negations."""
    a, b = (part if isinstance(part, Value) else builder.constant(tensor(part)) for part in (a, b))
    total = builder.combine((1, 1), a, b)
    if operator == "And":
        return builder.activation(Relu(), builder.scale(total, None, tensor(-1.0)))
    neither = builder.activation(Relu(), builder.scale(total, tensor(-1.0), tensor(1.0)))
    return builder.scale(neither, tensor(-1.0), tensor(1.0))


@onnx(*_LOGIC, computed=lambda module, a, b, *_: _LOGIC[module.operator](a, b))
def onnx_logical(call: Call) -> Value:
    """And, Or."""
    return logical(call.builder, call.module.operator, *call.operands("ab"))


@onnx("Not", computed=lambda module, x, *_: torch.logical_not(x))
def logical_not(call: Call) -> Value:
    """1 - x."""
    return call.builder.scale(call.x, tensor(-1.0), tensor(1.0))


@converted("OnnxWhere", "Where", chooses=True)
@torch_call(torch.where)
def where(call: Call) -> Value:
    """Where; with a constant condition a mask on each side."""
    condition, a, b = (
        call.argument(place, name) for place, name in enumerate(("condition", "input", "other"))
    )
    if isinstance(condition, Value):
        return choose(call.builder, condition, a, b)
    mask, builder = condition.bool(), call.builder

    def side(part: Any, keep: Tensor) -> Any:
        return (
            builder.scale(part, keep.double())
            if isinstance(part, Value)
            else torch.where(keep, tensor(part), 0.0)
        )

    return add(builder, side(a, mask), side(b, ~mask))


def choose(builder: Builder, condition: Value, a: Any, b: Any) -> Value:
    """Where with a condition of zeros and ones: `b + condition (a - b)`."""
    for part in (a, b):
        if not isinstance(part, Value) and not bool(tensor(part).isfinite().all()):
            raise Unsupported("it chooses between a value and infinity or NaN")
    if not isinstance(a, Value) and not isinstance(b, Value):
        return builder.scale(condition, tensor(a) - tensor(b), tensor(b))
    chosen = builder.product(condition, add(builder, a, b, -1))
    if isinstance(b, Value):
        return builder.combine((1, 1), chosen, b)
    return builder.scale(chosen, None, tensor(b))
