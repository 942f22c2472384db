"""Activations, and what is one between scales."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from verify.checker.builder import Builder, Value, real
from verify.checker.errors import Refused
from verify.checker.onnx_call import Call, Result, Rule
from verify.checker.onnx_register import of_constants, rule
from verify.checker.onnx_schema import FLOATS


def plain(kind: str) -> Rule:
    """The rule of an activation without parameters."""
    return lambda call: call.builder.activation(kind, call.x)


for _operator, _kind in {
    "Abs": "abs",
    "Cos": "cos",
    "Reciprocal": "reciprocal",
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Sin": "sin",
    "Tanh": "tanh",
}.items():
    rule(_operator)(plain(_kind))


@of_constants("Relu", takes_fractions=True)
def relu_of_constants(call: Call) -> Result:
    return np.where(call.needed(0) > 0, real(call.needed(0)), 0)


def limit(call: Call, place: int, name: str, default: float) -> float:
    """A limit of Clip: an operand, or an attribute of old versions."""
    found = call.scalar(place)
    number = float(call.attribute(name, default) if found is None else found)
    if math.isnan(number):
        raise Refused("a limit is NaN")
    return number


@rule("Clip")
def clip(call: Call) -> Result:
    # without limits old versions cut at float32's largest numbers, which only float64 goes beyond
    most = float(np.finfo(np.float32).max) if call.since < 11 and call.types[0] == FLOATS[1] else math.inf
    low, high = limit(call, 1, "min", -most), limit(call, 2, "max", most)
    return clipped(call.builder, call.x, low, high)


def clipped(builder: Builder, x: Value, low: float, high: float) -> Value:
    """min(max(x, low), high)."""
    if not low < high:
        raise Refused(f"the limits {low} and {high} are not in order")
    if (low, high) == (-math.inf, math.inf):
        return x
    if (low, high) == (0, math.inf):
        return builder.activation("relu", x)
    limits = tuple(end if math.isinf(end) else Fraction(end) for end in (low, high))
    return builder.activation("clip", x, limits)


@rule("LeakyRelu")
def leaky(call: Call) -> Result:
    slope = call.attribute("alpha", float(np.float32(0.01)))
    return call.builder.activation("leaky", call.x, (Fraction(slope),))


@rule("PRelu")
def parametric(call: Call) -> Result:
    given = real(call.needed(1))
    slopes = set(given.ravel().tolist())
    if len(slopes) != 1 or np.broadcast_shapes(given.shape, call.x.shape) != call.x.shape:
        raise Refused("several slopes, or more slopes than entries")
    return call.builder.activation("leaky", call.x, (Fraction(slopes.pop()),))


@rule("HardSigmoid")
def hard_sigmoid(call: Call) -> Result:
    alpha = call.attribute("alpha", float(np.float32(0.2)))
    moved = call.builder.scale(call.x, np.array(alpha), np.array(call.attribute("beta", 0.5)))
    return clipped(call.builder, moved, 0.0, 1.0)
