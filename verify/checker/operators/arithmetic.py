"""Sums, products and quotients of operands, powers, and choices between operands."""

from __future__ import annotations

import math
import operator
from fractions import Fraction
from typing import Any

import numpy as np

from verify.checker.builder import Builder, Tensor, Value, computed_exactly, fractions, real, reciprocals
from verify.checker.errors import Refused
from verify.checker.onnx_call import Call, Result
from verify.checker.onnx_register import of_constants, rule
from verify.checker.onnx_schema import FLOATS

MOST_POWER = 64  # the largest exponent


def several(call: Call) -> list[Tensor]:
    """The operands of Sum, Mean, Max and Min; old versions do not broadcast them."""
    operands = call.given()
    if call.since < 8 and len({operand.shape for operand in operands}) > 1:
        raise Refused("operands of several shapes, in a version that has them equal")
    return operands


@rule("Add")
def add(call: Call) -> Result:
    return call.builder.add(call.two(), [1, 1])


@rule("Sub")
def subtract(call: Call) -> Result:
    return call.builder.add(call.two(), [1, -1])


@rule("Sum")
def total(call: Call) -> Result:
    return call.builder.add(several(call), [1] * len(call.operands))


@rule("Mean")
def average_of_operands(call: Call) -> Result:
    together = call.builder.add(several(call), [1] * len(call.operands))
    return call.builder.scale(together, np.array(Fraction(1, len(call.operands)), dtype=object))


@rule("Neg")
def negate(call: Call) -> Result:
    return call.builder.scale(call.x, np.array(-1.0))


@rule("Mul")
def multiply(call: Call) -> Result:
    return times(call.builder, *call.two())


def times(builder: Builder, a: Tensor, b: Tensor) -> Value:
    """a b, one of them a value."""
    if isinstance(a, Value):
        return builder.product(a, b) if isinstance(b, Value) else builder.scale(a, b)
    assert isinstance(b, Value)
    return builder.scale(b, a)


@rule("Div")
def divide(call: Call) -> Result:
    a, b = call.two()
    if isinstance(b, Value):
        return times(call.builder, a, call.builder.activation("reciprocal", b))
    assert isinstance(a, Value)
    return call.builder.scale(a, reciprocals(real(b)))


@rule("Pow", mixes_floats=True)
def power(call: Call) -> Result:
    given = call.needed(1)
    exponents = set(given.ravel().tolist())
    if len(exponents) != 1 or not exponents <= set(range(1, MOST_POWER + 1)):
        raise Refused(f"an exponent other than one of 1, 2, .., {MOST_POWER} for all")
    x = call.builder.expand(call.x, np.broadcast_shapes(call.x.shape, given.shape))
    exponent = int(exponents.pop())
    if exponent == 1:
        return x
    if exponent == 2:
        return call.builder.activation("square", x)
    return call.builder.activation("power", x, (Fraction(exponent),))


@rule("Where")
def where(call: Call) -> Result:
    condition, *sides = call.given()
    if isinstance(condition, Value) or condition.dtype != np.bool_:
        raise Refused("the condition depends on the input, or is no truth value")
    kept: list[Tensor] = []
    for side, mask in zip(sides, (condition, ~condition), strict=True):
        if isinstance(side, Value):
            kept.append(call.builder.scale(side, mask.astype(np.float64)))
        else:
            kept.append(np.where(mask, real(side), 0.0))
    return call.builder.add(kept, [1, 1])


def quotient(a: Any, b: Any) -> Any:
    return a / b


ARITHMETIC = {
    "Add": operator.add,
    "Div": quotient,
    "Mul": operator.mul,
    "Neg": operator.neg,
    "Sub": operator.sub,
}


@of_constants(*ARITHMETIC, takes_fractions=True)
def computed(call: Call) -> Result:
    """Add, Sub, Mul, Div, Neg: exact, of integers as ONNX has them (a quotient loses its fraction)."""
    function: Any = ARITHMETIC[call.proto.op_type]
    result = np.asarray(function(*map(fractions, call.constants())), dtype=object)
    if call.types[0] in FLOATS:
        call.builder.folded = True
        return computed_exactly(result)
    return np.array([math.trunc(number) for number in result.ravel()], dtype=np.int64).reshape(result.shape)


@of_constants("Equal")
def equal(call: Call) -> Result:
    call.literal_numbers()
    return np.asarray(np.equal(*call.constants()))


@of_constants("Where")
def where_constant(call: Call) -> Result:
    return np.where(*call.constants())
