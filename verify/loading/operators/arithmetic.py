"""Sums, products and quotients of two operands."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from verify.loading.builder import Builder, Value
from verify.loading.calls import Call, Unsupported, tensor
from verify.loading.integers import limits_of
from verify.loading.operators.gates import gated
from verify.loading.registry import converted, known, torch_call
from verify.network.activations.square import Square


def add(builder: Builder, a: Any, b: Any, sign: int = 1) -> Value:
    """a + sign * b, either of them constant."""
    if isinstance(a, Value) and isinstance(b, Value):
        return builder.combine((1, sign), a, b)
    if isinstance(a, Value):
        return builder.scale(a, None, sign * tensor(b))
    return builder.scale(b, tensor(sign), tensor(a))


def multiply(builder: Builder, a: Any, b: Any) -> Value:
    """a * b, either of them constant."""
    if isinstance(a, Value) and isinstance(b, Value):
        if a == b:
            return builder.activation(Square(), a)
        found = gated(builder, a, b) or gated(builder, b, a)
        return builder.product(a, b) if found is None else found
    return builder.scale(a, tensor(b)) if isinstance(a, Value) else builder.scale(b, tensor(a))


def divide(builder: Builder, a: Any, b: Any) -> Value:
    """a / b. A constant divisor becomes a factor: 1 / b rounds in float64 unless b is a power of two."""
    if not isinstance(b, Value):
        divisor = tensor(b)
        if bool((divisor == 0).any()):
            raise Unsupported("division by a constant 0")
        return builder.scale(a, divisor.reciprocal())
    return multiply(builder, a, builder.reciprocal(b))


@converted("OnnxBinaryMathOperation", "Add", "Sub", "Mul")
def binary(call: Call) -> Value:
    """ONNX Add, Sub, Mul, Div."""
    kind = {torch.add: "Add", torch.sub: "Sub", torch.mul: "Mul"}.get(call.module.math_op_function, "Div")
    a, b = call.args
    if call.module.broadcast == 1 and call.module.axis is not None:
        raise Unsupported("the broadcasting rules of opset 6 and older")
    if kind in ("Add", "Sub"):
        return add(call.builder, a, b, 1 if kind == "Add" else -1)
    return multiply(call.builder, a, b) if kind == "Mul" else divide(call.builder, a, b)


def _check_division(operands: list[Tensor]) -> None:
    """Raises Unsupported for a quotient of constant integers that there is none of."""
    if len(operands) == 2 and not operands[1].is_floating_point():
        by_zero = bool((operands[1] == 0).any())
        least = limits_of(operands[0].dtype)[0]
        if by_zero or (least < 0 and bool((operands[0] == least).any()) and bool((operands[1] == -1).any())):
            raise Unsupported("it divides by 0, or the least number by -1")


known("Div", module="OnnxBinaryMathOperation", rule=binary, truncates=True, check=_check_division)
known("Mod", check=_check_division)


def _both(call: Call) -> tuple[Any, Any]:
    return call.argument(0, "input"), call.argument(1, "other")


@torch_call(torch.add, operator.add, operator.iadd, "add", "add_")
def torch_add(call: Call) -> Value:
    """torch.add and `+`."""
    a, b = _both(call)
    alpha = call.constant(2, "alpha", default=1)
    return add(call.builder, a, b if alpha == 1 else scaled(call.builder, b, alpha))


@torch_call(torch.sub, operator.sub, operator.isub, "sub", "sub_")
def torch_subtract(call: Call) -> Value:
    """torch.sub and `-`."""
    a, b = _both(call)
    alpha = call.constant(2, "alpha", default=1)
    return add(call.builder, a, b if alpha == 1 else scaled(call.builder, b, alpha), -1)


def scaled(builder: Builder, x: Any, factor: float) -> Any:
    return builder.scale(x, tensor(factor)) if isinstance(x, Value) else tensor(x) * factor


@torch_call(torch.mul, operator.mul, operator.imul, "mul", "mul_")
def torch_multiply(call: Call) -> Value:
    """torch.mul and `*`."""
    return multiply(call.builder, *_both(call))


@torch_call(torch.div, torch.true_divide, operator.truediv, operator.itruediv, "div", "div_")
def torch_divide(call: Call) -> Value:
    """torch.div and `/`."""
    if call.kwargs.get("rounding_mode") is not None:
        raise Unsupported("division that rounds")
    return divide(call.builder, *_both(call))


@converted("OnnxNeg", "Neg")
@torch_call(torch.neg, operator.neg, "neg")
def negate(call: Call) -> Value:
    """-x."""
    return call.builder.scale(call.x, tensor(-1.0))


def total(builder: Builder, operands: Any) -> Value:
    """The sum of any number of values and constants."""
    result = operands[0]
    for operand in operands[1:]:
        both_constant = not isinstance(result, Value) and not isinstance(operand, Value)
        result = tensor(result) + tensor(operand) if both_constant else add(builder, result, operand)
    assert isinstance(result, Value)
    return result


@converted("OnnxSum", "Sum")
def onnx_sum(call: Call) -> Value:
    """ONNX Sum."""
    return total(call.builder, call.args)


@converted("OnnxMean", "Mean")
def onnx_mean(call: Call) -> Value:
    """ONNX Mean (of several operands)."""
    return call.builder.scale(total(call.builder, call.args), tensor(1 / len(call.args)))
